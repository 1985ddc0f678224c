//! The engine: one driver per supervised task, the monitor, the ordered shutdown. It does not know exporters or the page.
//!
//! There is no central loop to block or to wait in. Each supervised task has a driver, a tokio task of its own that owns
//! the task's state and is its only writer. A command goes into the driver's order slot and wakes the driver. Registration,
//! admission and shutdown must have one order, so they happen under short locks in [`Shared`].

mod announce;
mod context;
mod families;
mod home;
mod moving;
mod roster;
mod settings;
mod shared;
mod stop;

mod loops;
mod observe;
mod shutdown;
mod spawn;
mod supervision;

#[cfg(all(feature = "systemd", unix))]
pub(crate) use announce::service_variable_ignored;
#[cfg(feature = "otlp-http")]
pub(crate) use announce::telemetry_dropped;
pub(crate) use announce::{callback_panicked, component_failed, last_handle_dropped, replacement_failed};
pub use context::TaskContext;
pub(crate) use context::{ContextParts, Origin};
pub(crate) use families::{Changed, Wanted};
pub(crate) use loops::LoopBody;
pub use loops::{LoopHandle, LoopOutcome, ManualRun, OnError, TaskLoop};
#[cfg(all(feature = "systemd", unix))]
pub(crate) use observe::Service;
pub use observe::{
    PinnedTrace, PinnedTraces, RuntimeFigures, TaskChange, TaskChangeKind, TaskDecision, TaskEvent,
    TaskEventKind, TaskEvents,
};
pub(crate) use observe::{monitor_is_running, start_monitor};
pub(crate) use roster::{Registration, each_name};
pub(crate) use settings::{DEFAULT_SPAN_PREFIX, DEFAULT_WALL_CLOCK_STEP, Settings, WallClock, or_else};
pub(crate) use shared::{Reserved, Shared};
pub(crate) use shutdown::{
    Awaited, Guard, Listener, WaitEnded, abort_shutdown, begin_shutdown, run_shutdown, shutdown_in_steps,
    until_released,
};
#[cfg(feature = "otlp-http")]
pub(crate) use shutdown::{FurtherSignals, listened_signals};
pub use shutdown::{
    LastResort, ShutdownCause, ShutdownEntry, ShutdownReport, ShutdownSignal, shutdown_signal,
};
pub use spawn::{LimitedTask, StopToken, TaskBuilder};
pub(crate) use spawn::{SpawnOptions, Spawner};
#[cfg(feature = "testing")]
pub(crate) use supervision::live_by_factory;
pub(crate) use supervision::{
    Body, Factory, Family, GatedBody, Group, KeptManager, Life, LifeEnd, Links, MemberBody, Membership,
    NewLife, Order, Supervised, TaskSpec, Work, erase, erase_lending, is_current, until_gone,
};
pub use supervision::{Lent, TaskSettings};

/// The longest duration that is added to a time: about thirty years.
const FAR_AWAY: std::time::Duration = std::time::Duration::from_secs(30 * 365 * 86_400);

/// Returns `at + by`, or a far instant if the clock cannot represent the sum: no duration of a user causes a panic.
fn later(at: tokio::time::Instant, by: std::time::Duration) -> tokio::time::Instant {
    at + by.min(FAR_AWAY)
}
