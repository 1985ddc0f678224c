//! The one truth: what is known of each task name, in atomics and short locks. No tokio, no OpenTelemetry.
//!
//! Meter callbacks, health, restart decisions and statistics all read these cells, so there is one number and not four.
//! Times come in from outside: `now` is the time since the registry was made, wall times are [`SystemTime`]s.
//!
//! [`SystemTime`]: std::time::SystemTime

mod histogram;
mod registry;
mod snapshot;
mod task_cell;
mod window;

pub(crate) use histogram::quantile;
pub(crate) use registry::{Entry, Identity, Registry, by_name, snapshot, vitals};
pub(crate) use snapshot::Vitals;
pub use snapshot::{ErrorCount, LastError, RunRecord, SkipReason, TaskSnapshot, TaskState};
pub(crate) use task_cell::{EndedRun, RunError, TaskCell};

/// The number of ended runs that a name remembers.
pub(crate) const HISTORY_LENGTH: usize = 100;
