//! An OpenTelemetry-native task manager for tokio: each run of a task is a span, each figure an instrument, and health
//! checks, automatic restarts and the ordered shutdown read those same figures.
//!
//! Begin at [`TaskManager`]. A [`CriticalTaskConfig`] describes a long-lived task, a [`TaskLoop`] work that runs by a [`Schedule`],
//! and [`instrumented_task`](macro@instrumented_task) makes any async function a run. [`Telemetry`] exports all of it over OTLP;
//! [`telemetry::layer`] and [`telemetry::task_layer`] are for a subscriber of your own. [`telemetry::contract`] lists every name that
//! leaves the process.
//!
//! ```
//! use otel_tasks::{CriticalTaskConfig, TaskManager};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tasks = TaskManager::new();
//! tasks.register(CriticalTaskConfig::new("gateway", |ctx| async move {
//!     ctx.cancelled().await; // connect, read, return an error to be restarted
//! }))?;
//! tasks.start();
//! println!("{}", tasks.statistics().critical_tasks);
//! println!("{}", tasks.shutdown().await);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! `otlp-http` (default): [`Telemetry`] over http/protobuf; `tls` (default): `https` endpoints; `env-filter` (default): spans and
//! fields in `RUST_LOG`; `otlp-grpc`, `gzip`, `console`: gRPC, compression, the terminal; `otlp`: all six. `macros` (default): [`instrumented_task`](macro@instrumented_task),
//! [`task_loop`](macro@task_loop). `calendar` (default): times of day and cron expressions for a [`Schedule`]. `serde`:
//! `Serialize` for statistics, health, snapshots and reports, and both ways for values of configuration files. `systemd`:
//! reports to systemd. `testing`: helpers for your own tests. A live page is in the crate `otel-tasks-page`.

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod contract;

mod timetable;

mod sync;

mod cell;

mod watchdog;

#[cfg(all(feature = "systemd", unix))]
mod systemd;

mod emit;

mod run;

mod engine;
mod read;

mod config;
mod error;
pub mod gate;
mod instrumentation;
mod manager;
#[cfg(feature = "otlp-http")]
mod otlp;
pub mod policy;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::{CriticalTaskConfig, CriticalTasksProvider, FamilyHandle, TaskFamily, TaskGroup};
pub use engine::{Lent, LoopHandle, ShutdownReport, TaskContext, TaskLoop, shutdown_signal};
pub use manager::TaskManager;

/// The version of OpenTelemetry's API that this crate is built on; its types stand in this crate's signatures.
pub use opentelemetry;
#[cfg(feature = "otlp-http")]
pub use otlp::Telemetry;
pub use policy::{Backoff, GiveUp, HealthRole, RestartPolicy, TaskCategory, TaskPriority, Value};
pub use read::{TaskHealth, TaskMetrics};
pub use run::{TaskError, TaskHandle};
pub use timetable::Schedule;

/// Builders and handles of tasks, and the errors of a manager's methods.
pub mod task {
    pub use crate::{
        config::{Discovery, FamilyKey},
        engine::{LimitedTask, StopToken, TaskBuilder, TaskSettings},
        error::{
            BuildError, KeyProblem, MAX_KEY_LENGTH, RegisterError, RestartError, TaskControlError,
            UnknownComponent, UnknownTask,
        },
        instrumentation::InstrumentationCheck,
        manager::{ManagerSettings, TaskManagerBuilder, WeakTaskManager},
    };
}

/// Policies, outcomes and control errors of loops.
pub mod schedule {
    #[cfg(feature = "calendar")]
    pub use crate::timetable::LocalTime;
    pub use crate::{
        engine::{LoopOutcome, ManualRun, OnError},
        error::{LoopControlError, LoopError},
        timetable::{MissedPolicy, OverlapPolicy, Schedule, ScheduleError, Trigger, Upcoming},
    };
}

/// Events of registered tasks and of the manager; what changed about a task lately, and why it was restarted.
pub mod events {
    pub use crate::{
        engine::{
            PinnedTrace, PinnedTraces, TaskChange, TaskChangeKind, TaskDecision, TaskEvent, TaskEventKind,
            TaskEvents,
        },
        policy::{DecisionCause, RestartQuestion, RestartVerdict},
    };
}

/// Health of the service and of each task.
///
/// A task has three facts and one status. The facts answer the probes of Kubernetes: *live*, *ready*, *started*. The status says whether
/// anybody needs to look: [`HealthStatus`](health::HealthStatus). No rule rests on a lifetime counter: a task that was restarted three
/// times in a year is healthy.
///
/// The service's answers come from the tasks of role [`Required`](HealthRole::Required):
///
/// | a required task is | live | ready | started | status |
/// |---|---|---|---|---|
/// | not begun, or waits for others | yes | no | once ready | healthy |
/// | running, not ready yet | yes | no | once ready | healthy |
/// | running and ready | yes | yes | yes | healthy; degraded for a time after a restart |
/// | running, silent for longer than its heartbeat timeout | **no** | no | once ready | unhealthy |
/// | waiting for its restart (`Backoff`) | yes | no | once ready | degraded |
/// | failed, with a next try | yes | no | once ready | unhealthy |
/// | failed for good | **no** | no | once ready | unhealthy |
/// | dropped with its tokio runtime | **no** | no | once ready | unhealthy |
/// | paused | yes | yes | yes | healthy |
/// | standing by, behind its gate | yes | yes | yes | healthy |
/// | finished | yes | yes | yes | healthy |
/// | being stopped, or stopped on request | yes | no | once ready | healthy |
///
/// Too many errors, failures in a row or restarts make any of these unhealthy, and change nothing else.
///
/// A task of role [`Degrades`](HealthRole::Degrades) never makes the service not live, not ready or not started. If it is unhealthy, the
/// service is degraded. A task of role [`Ignored`](HealthRole::Ignored) changes nothing. A stalled runtime makes the service not live,
/// not ready and unhealthy; a shutdown makes it not ready.
///
/// Liveness is false only if a restart of the process can help. So a pause, a restart and a later try never make it false.
pub mod health {
    pub use crate::{
        policy::HealthRole,
        read::{
            BlockedTask, HealthReason, HealthStatus, HealthThresholds, ManagerHealth, TaskHealth, TaskWord,
        },
    };
}

/// Figures of tasks at one moment.
pub mod snapshot {
    pub use crate::{
        cell::{ErrorCount, LastError, RunMinutes, RunRecord, SkipReason, TaskSnapshot, TaskState},
        engine::RuntimeFigures,
        read::{TaskMetrics, TaskStatistics},
    };
}

/// The ordered shutdown: its signal, its report and its last resort.
pub mod shutdown {
    pub use crate::{
        engine::{LastResort, ShutdownCause, ShutdownEntry, ShutdownReport, ShutdownSignal, shutdown_signal},
        policy::ShutdownOutcome,
    };
}

/// Layers for a subscriber of your own, telemetry in one call (feature `otlp-http`), and every name that leaves the process.
pub mod telemetry {
    pub use crate::emit::{
        LayerConflict, RunExemplar, SignalExport, SpanPath, TelemetryExport, TelemetryState, layer,
        remote_context, task_layer,
    };

    /// Every name that leaves the process: spans, log records, instruments and their attributes.
    ///
    /// No other file spells one. A change here is a change of the public contract: dashboards, alerts and the list of
    /// instruments in the documentation are generated from it or checked against it.
    pub mod contract {
        pub use crate::contract::*;
    }

    #[cfg(feature = "otlp-http")]
    pub use crate::otlp::{
        Balance, BalanceSnapshot, CollectorUnreachable, InstallError, Protocol, Signal, SignalBalance,
        SignalOutcome, SignalReport, Telemetry, TelemetryBuilder, TelemetryPart, TelemetryReport, Warning,
        WarningKind,
    };
}

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
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
/// let tasks = TaskManager::new();
/// tasks.register(sweep("/var/cache".into()))?;
/// # Ok(()) }
/// ```
#[cfg(feature = "macros")]
pub use otel_tasks_macros::task_loop;

/// The code of the page on loops compiles.
#[cfg(all(doctest, feature = "calendar", feature = "macros"))]
#[doc = include_str!("../docs/loops.md")]
struct LoopsPage;

/// The code of the page on systemd compiles.
#[cfg(all(doctest, feature = "systemd"))]
#[doc = include_str!("../docs/systemd.md")]
struct SystemdPage;

/// The code of the page on telemetry compiles.
#[cfg(all(doctest, feature = "otlp-http"))]
#[doc = include_str!("../docs/telemetry.md")]
struct TelemetryPage;

/// The README's code compiles.
#[cfg(all(doctest, feature = "otlp-http", feature = "macros"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// A caller of edition 2021 compiles.
#[cfg(doctest)]
#[doc = include_str!("../tests/tasks/edition_2021.md")]
struct Edition2021;

#[cfg(doc)]
pub mod guide;

/// What each alert of the repository's `stack/rules` means, and what to do; the alerts link to this page.
///
#[cfg(doc)]
#[doc = include_str!("../docs/runbooks.md")]
pub mod runbooks {}

#[doc(hidden)]
pub mod __private {
    /// The delays that `backoff = "1s..60s"` stands for.
    pub fn growing(from: std::time::Duration, to: std::time::Duration) -> crate::Backoff {
        crate::Backoff::growing(from, to)
    }

    pub use crate::run::{BorrowingProbe, Instrumented, Probe, Rules, instrument, via};
}
