//! The registry of workloads: a new one is a file here and a line in [`all`].

mod restart;

use crate::cell::Workload;

pub fn all() -> Vec<Workload> {
    vec![restart::workload()]
}
