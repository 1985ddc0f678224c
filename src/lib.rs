//! An OpenTelemetry-native task manager for tokio: each run of a task is a span, each figure an instrument, and health
//! checks, automatic restarts and the ordered shutdown read those same figures.
//!
//! Begin at [`TaskManager`]; [`CriticalTaskConfig`] says what is kept alive, [`TaskLoop`] what runs by a [`Schedule`],
//! [`instrumented_task`](macro@instrumented_task) makes any async function a run. [`telemetry()`] exports all of it over
//! OTLP; [`layer`] and [`task_layer`] are for those who have a subscriber of their own. Every name that leaves the process
//! stands in [`telemetry::contract`].
//!
//! ```
//! use otel_tasks::{CriticalTaskConfig, TaskManager};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tasks = TaskManager::builder().build();
//! tasks.register_critical_task(CriticalTaskConfig::new("gateway", |ctx| async move {
//!     ctx.cancelled().await; // connect, read, return an error to be restarted
//! }))?;
//! tasks.start();
//! println!("{}", tasks.get_task_statistics().critical_tasks);
//! println!("{}", tasks.cancel_all_tasks().await);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! `otlp` (default): [`telemetry()`]. `macros` (default): [`instrumented_task`](macro@instrumented_task),
//! [`task_loop`](macro@task_loop). `calendar` (default): times of day and cron expressions for a [`Schedule`]. `serde`:
//! `Serialize` for statistics, health, snapshots and reports. `page`: a live page to look at the tasks with. `testing`: helpers
//! for your own tests.

#![warn(missing_docs, unreachable_pub)]

mod policy;
mod schedule;

mod sync;

mod cell;

mod watchdog;

mod run;

mod engine;
mod read;

mod config;
mod error;
mod instrumentation;
mod manager;
#[cfg(feature = "page")]
pub mod page;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use cell::{
    ErrorCount, HISTORY_LENGTH, LastError, MAX_ERROR_TYPES, RunRecord, SkipReason, TaskSnapshot, TaskState,
};
pub use config::{
    CriticalTaskConfig, CriticalTasksProvider, DEFAULT_HEALTH_CHECK_INTERVAL, Discovery, TaskGroup,
};
pub use engine::{
    DEFAULT_SPAN_PREFIX, DEFAULT_WALL_CLOCK_STEP, EVENT_CAPACITY, LastResort, LoopControlError, LoopError,
    LoopHandle, LoopOutcome, OnError, ShutdownCause, ShutdownOutcome, ShutdownReport, ShutdownSignal,
    StopToken, TaskBuilder, TaskContext, TaskEvent, TaskEventKind, TaskEvents, TaskLoop, TaskShutdown,
    shutdown_signal,
};
pub use error::{RegisterError, RestartError, UnknownComponent, UnknownTask};
pub use instrumentation::InstrumentationCheck;
pub use manager::{
    DEFAULT_MONITOR_INTERVAL, DEFAULT_RUNTIME_STALL, DEFAULT_SHUTDOWN_DEADLINE, DEFAULT_SPAWN_GRACE,
    TaskManager, TaskManagerBuilder,
};
pub use policy::{
    Backoff, CategoryRules, DEFAULT_BACKOFF_CAP, DEFAULT_BACKOFF_FACTOR, DEFAULT_MAX_RESTARTS,
    DEFAULT_RESTART_DELAY, DEFAULT_RESTART_WINDOW, DEFAULT_STABLE_AFTER, DependencyLoss, Discard, DiscardExt,
    ErrorClass, Escalation, Exit, ExitKind, Failure, Jitter, MAX_RESTARTS_LIMIT, NameRule, Panic,
    PolicyError, RestartIntensity, RestartPolicy, RestartReason, RestartStrategy, StallAction, TaskCategory,
    TaskOutput, TaskPriority,
};
pub use read::{
    BlockedTask, HealthReason, HealthThresholds, ManagerHealth, TaskHealth, TaskMetrics, TaskStatistics,
};
pub use run::{TaskError, TaskHandle};
pub use schedule::{
    MISSED_COUNTED_AT_MOST, Missed, Overlap, START_WITHIN, Schedule, ScheduleError, Upcoming,
};
#[cfg(feature = "otlp")]
pub use telemetry::builder as telemetry;
pub use telemetry::{LayerConflict, SpanPath, layer, task_layer};

/// Makes each call of an async function a run: a span, counted and timed under the function's name.
///
/// Inside a run of the same name it adds no second run; inside another run it is a child run, kept by that run's manager;
/// outside any it is kept process-wide, and exported with the first manager or telemetry there is. A panic is recorded and
/// goes on.
///
/// ```
/// use otel_tasks::instrumented_task;
///
/// #[instrumented_task(name = "command_ping", category = Command, priority = Low)]
/// async fn ping(latency: &str) -> std::io::Result<u32> {
///     latency.parse().map_err(std::io::Error::other)
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// assert_eq!(ping("12").await.ok(), Some(12));
/// # }
/// ```
#[cfg(feature = "macros")]
pub use otel_tasks_macros::instrumented_task;
/// Makes a loop of an async function, which then returns the loop's [`CriticalTaskConfig`].
///
/// ```
/// use otel_tasks::{TaskContext, TaskManager, task_loop};
/// use std::sync::Arc;
///
/// #[task_loop(every = "5m", jitter = "10s", retry = 3, backoff = "1s..30s", category = System)]
/// async fn sweep(ctx: TaskContext, folder: Arc<str>) -> std::io::Result<()> {
///     println!("sweep {folder} for the {:?}th time", ctx.iteration());
///     Ok(())
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::RegisterError> {
/// let tasks = TaskManager::builder().build();
/// tasks.register_critical_task(sweep("/var/cache".into()))?;
/// # Ok(()) }
/// ```
#[cfg(feature = "macros")]
pub use otel_tasks_macros::task_loop;

/// The code of the page on loops compiles.
#[cfg(all(doctest, feature = "calendar", feature = "macros"))]
#[doc = include_str!("../docs/loops.md")]
struct LoopsPage;

/// The README's code compiles.
#[cfg(all(doctest, feature = "otlp", feature = "macros"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// What each alert of the repository's `stack/rules` means, and what to do; the alerts link to this page.
///
#[cfg(doc)]
#[doc = include_str!("../docs/runbooks.md")]
pub mod runbooks {}

#[doc(hidden)]
pub mod __private {
    /// The delays that `backoff = "1s..60s"` stands for.
    pub fn growing(from: std::time::Duration, to: std::time::Duration) -> crate::Backoff {
        crate::Backoff::new(from, crate::DEFAULT_BACKOFF_FACTOR, to.max(from)).unwrap_or_default()
    }

    pub use crate::run::{
        Instrumented, InstrumentedFailure as Failure, Probe, ViaAny, ViaDisplay, ViaOpaque, instrument,
    };
}
