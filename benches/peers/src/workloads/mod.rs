//! The registry of workloads: a new one is a file here and a line in [`all`].

mod restart;
mod supervised;

use crate::cell::Workload;

pub fn all() -> Vec<Workload> {
    let mut all = vec![restart::workload()];
    all.extend(supervised::workloads());
    all
}
