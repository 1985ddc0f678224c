//! The drain and the ordered shutdown: who is alive, in which order they stop, and the report.

pub(in crate::engine) mod drain;
pub(in crate::engine) mod guard;
pub(in crate::engine) mod lines;
pub(in crate::engine) mod os_signal;
pub(in crate::engine) mod report;
pub(in crate::engine) mod sequence;
pub(in crate::engine) mod steps;
pub(in crate::engine) mod topology;
pub(in crate::engine) mod tracker;

pub(crate) use guard::Guard;
pub(crate) use os_signal::Ended as WaitEnded;
#[cfg(feature = "otlp-http")]
pub(crate) use os_signal::{FurtherSignals, listened_signals};
pub use os_signal::{ShutdownSignal, shutdown_signal};
pub use report::{LastResort, ShutdownCause, ShutdownEntry, ShutdownReport};
pub(crate) use sequence::{
    Awaited, abort as abort_shutdown, begin as begin_shutdown, shutdown as run_shutdown, until_released,
};
pub(crate) use steps::{Listener, shutdown_in_steps};
