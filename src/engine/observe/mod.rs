//! Observation: the event bus, the monitor's sweeps, and the watchdog's work for a manager.

pub(in crate::engine) mod changes;
pub(in crate::engine) mod events;
pub(in crate::engine) mod manager_span;
pub(in crate::engine) mod monitor;
#[cfg(all(feature = "systemd", unix))]
pub(in crate::engine) mod notify;
pub(in crate::engine) mod on_tick;
pub(in crate::engine) mod overruns;
mod runtime;
#[cfg(all(feature = "systemd", unix))]
pub(in crate::engine) mod service;
pub(in crate::engine) mod watch;

pub use changes::{PinnedTrace, PinnedTraces, TaskChange, TaskChangeKind, TaskDecision};
pub use events::{TaskEvent, TaskEventKind, TaskEvents};
pub(crate) use monitor::{is_running as monitor_is_running, start as start_monitor};
pub use runtime::RuntimeFigures;
#[cfg(all(feature = "systemd", unix))]
pub(crate) use service::Service;
