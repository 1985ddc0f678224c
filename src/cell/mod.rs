//! The one truth: what is known of each task name, in atomics and short locks. No tokio, no OpenTelemetry.
//!
//! Meter callbacks, health, restart decisions and statistics all read these cells, so there is one number and not four.
//! Times come in from outside: `now` is the time since the registry was made, wall times are [`SystemTime`]s.
//!
//! [`SystemTime`]: std::time::SystemTime

mod entry;
mod failures;
mod histogram;
mod identity;
mod minutes;
mod possible;
mod registry;
mod retired;
mod snapshot;
mod task_cell;
mod window;

pub(crate) use entry::Entry;
pub(crate) use failures::RunError;
pub(crate) use histogram::{exact_quantile, quantile};
pub(crate) use identity::Identity;
pub use minutes::RunMinutes;
pub(crate) use possible::Possible;
pub(crate) use registry::{Registry, by_name, include_members, snapshot, vitals};
pub(crate) use snapshot::Vitals;
pub use snapshot::{ErrorCount, GateSnapshot, LastError, RunRecord, SkipReason, TaskSnapshot, TaskState};
pub(crate) use task_cell::{EndedRun, TaskCell};

/// The number of ended runs that a name remembers.
pub(crate) const HISTORY_LENGTH: usize = 100;

/// The number of runs up to which quantiles come from the runs themselves, because the buckets are too coarse.
pub(crate) const FEW_RUNS: usize = 20;

/// The default number of names that a manager tracks. With the eight states of a task they stay below the 2,000 attribute
/// sets of an OpenTelemetry stream.
pub(crate) const DEFAULT_MAX_NAMES: usize = 200;
