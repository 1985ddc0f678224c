//! The registry of workloads: a new one is a file here and a line in [`all`].

pub mod guarded;
pub mod hot_name;
pub mod iteration;
pub mod loops;
pub mod million;
pub mod poll;
pub mod restart;
pub mod spawn;
pub mod supervised;

use crate::cell::Workload;

pub fn all() -> Vec<Workload> {
    let mut all = spawn::workloads();
    all.extend(poll::workloads());
    all.push(iteration::workload());
    all.extend(loops::workloads());
    all.extend(million::workloads());
    all.extend(hot_name::workloads());
    all.extend(supervised::workloads());
    all.push(restart::workload());
    all
}
