//! What decides: one driver per supervised task, the monitor, the ordered shutdown. It knows of no exporter and no page.
//!
//! There is no central loop to block or to wait in. Each supervised task has a driver, a tokio task of its own that owns
//! the task's state and is its only writer; commands are left in the driver's order slot and wake it. What must be seen
//! in one order (registration, admission, shutdown) happens under short locks in [`Shared`].

mod order;

mod blocking;
mod context;
mod courier;
mod events;
mod links;
mod orders;
mod report;
mod signals;
mod spec;
mod supervised;
mod tracker;

mod driver;
mod loops;
mod monitor;
mod polled;
mod shutdown;
mod signal;
mod spawn;
mod watch;

mod shared;

/// `at + by`; far away where the clock cannot tell that far: no duration that a user gives makes us panic.
fn later(at: tokio::time::Instant, by: std::time::Duration) -> tokio::time::Instant {
    const FAR_AWAY: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 86_400);
    at + by.min(FAR_AWAY)
}

pub use blocking::StopToken;
pub(crate) use context::ContextParts;
pub use context::TaskContext;
pub use events::{EVENT_CAPACITY, TaskEvent, TaskEventKind, TaskEvents};
pub(crate) use links::{Group, Links, Membership};
pub(crate) use loops::LoopBody;
pub use loops::{LoopControlError, LoopError, LoopHandle, LoopOutcome, OnError, TaskLoop};
#[cfg(feature = "page")]
pub(crate) use monitor::manager_span;
pub(crate) use monitor::{is_running as monitor_is_running, start as start_monitor, stop as stop_monitor};
pub(crate) use orders::{Order, Signal};
pub use report::{LastResort, ShutdownCause, ShutdownOutcome, ShutdownReport, TaskShutdown};
pub use shared::{DEFAULT_SPAN_PREFIX, DEFAULT_WALL_CLOCK_STEP};
pub(crate) use shared::{Registration, Settings, Shared, WallClock, each_name};
pub(crate) use shutdown::{Awaited, abort as abort_shutdown, begin as begin_shutdown, shutdown};
pub use signal::{ShutdownSignal, shutdown_signal};
pub(crate) use spawn::SpawnOptions;
pub use spawn::TaskBuilder;
pub(crate) use spec::{ErrorRules, Factory, TaskSpec, Work, erase, error_type_of};
pub(crate) use supervised::{Body, Life, LifeEnd, Supervised};
