//! An OpenTelemetry-native task manager for tokio services. Each run of a task is a span, each figure an instrument; health checks,
//! automatic restarts and the ordered shutdown use the same figures.
//!
//! | To | see |
//! |---|---|
//! | run a service until SIGTERM | [A first task](#a-first-task) |
//! | restart a task after a failure, and give up | [Restarts](#restarts) |
//! | start, stop and restart tasks together | [Dependencies and groups](#dependencies-and-groups) |
//! | run work at intervals or times of day | [Loops](#loops) |
//! | run a request, a command, blocking work | [Short tasks](#short-tasks) |
//! | run one task for each guild, tenant or connection | [Families](#families) |
//! | export to Jaeger, Prometheus or a Collector | [Telemetry](#telemetry) |
//! | answer the probes of Kubernetes | [Health](#health) |
//! | watch tasks from the program | [Figures and events](#figures-and-events) |
//! | drain, and stop in order | [Shutdown](#shutdown) |
//! | test a service | [Testing](#testing) |
//! | choose Cargo features | [Features](#features) |
//!
//! The crate `otel-tasks-page` adds a live page. The module [`guide`] has guides, and migration from other crates. The module [`runbooks`]
//! explains the alerts.
//!
//! # A first task
//!
//! [`TaskManager`] owns the tasks. A [`CriticalTaskConfig`] describes a long-lived task, which receives a [`TaskContext`].
//!
//! ```no_run
//! use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, shutdown_signal};
//!
//! async fn gateway(ctx: TaskContext) -> std::io::Result<()> {
//!     ctx.cancelled().await; // connect and read; return an error to be restarted
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//!     let tasks = TaskManager::new();
//!     tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
//!     let report = tasks.run_until(shutdown_signal()).await;
//!     println!("{report}");
//!     report.exit()
//! }
//! ```
//!
//! # Restarts
//!
//! A [`RestartPolicy`] decides when a task is restarted, a [`Backoff`] how long that takes, and [`GiveUp`] what follows too many failures.
//! [`classify`](CriticalTaskConfig::classify) marks errors that no restart can repair.
//!
//! ```
//! use otel_tasks::{Backoff, CriticalTaskConfig, GiveUp};
//! use std::time::Duration;
//! let sync = CriticalTaskConfig::new("sync", |ctx| async move { ctx.cancelled().await })
//!     .max_restarts(5, Duration::from_secs(600))
//!     .backoff(Backoff::growing(Duration::from_secs(1), Duration::from_secs(60)))
//!     .give_up(GiveUp::RetryEvery(Duration::from_secs(3_600)))
//!     .heartbeat_timeout(Duration::from_secs(30));
//! # drop(sync);
//! ```
//!
//! # Dependencies and groups
//!
//! A task that [`depends_on`](CriticalTaskConfig::depends_on) another starts after it and stops before it. The members of a [`TaskGroup`]
//! are restarted together, by a [`RestartStrategy`](policy::RestartStrategy) of OTP.
//!
//! ```
//! use otel_tasks::{CriticalTaskConfig, TaskContext, TaskGroup, TaskManager, policy::RestartStrategy};
//! # async fn run(ctx: TaskContext) { ctx.cancelled().await }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//! let tasks = TaskManager::new();
//! tasks.register(CriticalTaskConfig::new("database", run))?;
//! tasks.register(CriticalTaskConfig::new("http", run).depends_on("database"))?;
//! let voice = TaskGroup::new("voice", RestartStrategy::OneForAll)
//!     .task(CriticalTaskConfig::new("session", run))
//!     .task(CriticalTaskConfig::new("sender", run));
//! tasks.register_group(voice)?;
//! # Ok(()) }
//! ```
//!
//! # Loops
//!
//! A [`TaskLoop`] runs by a [`Schedule`]: an interval, times of day, a cron expression. [`task_loop`](macro@task_loop) makes a loop of an
//! async function. The module [`schedule`] has the policies for missed and overlapping iterations.
//!
//! ```
//! # #[cfg(feature = "calendar")] {
//! use otel_tasks::{Backoff, CriticalTaskConfig, Schedule, TaskLoop};
//! use std::time::Duration;
//! let report = TaskLoop::on(Schedule::cron("0 9 * * MON-FRI", "Europe/Berlin"), |_| async { /* send */ })
//!     .retry(3, Backoff::constant(Duration::from_secs(10)));
//! let config = CriticalTaskConfig::from_loop("report", report);
//! # drop(config);
//! # }
//! ```
//!
//! # Short tasks
//!
//! [`TaskManager::spawn`] and [`TaskContext::spawn`] return a [`TaskHandle`]; [`TaskManager::task`] has options.
//! [`instrumented_task`](macro@instrumented_task) makes each call of an async function a run.
//!
//! ```
//! # use otel_tasks::TaskManager;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! let tasks = TaskManager::new();
//! let pong = tasks.spawn("command_ping", async { Ok::<_, std::io::Error>("pong") });
//! assert_eq!(pong.await??, "pong");
//! let hash = tasks.task("hash").in_current_trace().spawn_blocking(|_stop| 42_u32);
//! assert_eq!(hash.await?, 42);
//! let fetching = tasks.task("fetch").timeout(Duration::from_secs(5)).limit(16);
//! fetching.reserve().await.spawn(async { /* at most 16 at once */ });
//! # Ok(()) }
//! ```
//!
//! # Families
//!
//! A [`TaskFamily`] has one task per key. A [`FamilyHandle`] adds and removes members.
//!
//! ```
//! use otel_tasks::{TaskContext, TaskFamily, TaskManager};
//! async fn sync(ctx: TaskContext, tenant: u64) {
//!     println!("{} syncs {tenant}", ctx.name());
//!     ctx.cancelled().await;
//! }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//! let tasks = TaskManager::new();
//! let tenants = tasks.register_family(TaskFamily::new("tenant_sync", sync))?;
//! tenants.ensure(7)?;
//! # Ok(()) }
//! ```
//!
//! # Telemetry
//!
//! [`Telemetry`] exports traces, metrics and logs over OTLP, with the variables of the OpenTelemetry specification. For a
//! subscriber of your own there are [`telemetry::layer`] and [`telemetry::task_layer`]. [`telemetry::contract`] lists every exported name.
//!
//! ```no_run
//! # #[cfg(feature = "otlp-http")]
//! # async fn example(tasks: otel_tasks::TaskManager) -> Result<(), Box<dyn std::error::Error>> {
//! let telemetry = otel_tasks::Telemetry::builder().service("shop").install()?;
//! // run the service; then export the rest:
//! println!("{}", telemetry.shutdown().await);
//! // If Jaeger shows nothing:
//! println!("{}", tasks.check_instrumentation());
//! # Ok(()) }
//! ```
//!
//! # Health
//!
//! [`TaskManager::health`] returns live, ready and started for the service, and the health of each task with its reasons. The module
//! [`health`] has the rules; a [`HealthRole`] decides what a task means for the service.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let tasks = otel_tasks::TaskManager::new();
//! let health = tasks.health();
//! let readiness = if health.is_ready { 200 } else { 503 };
//! for (name, task) in &health.tasks {
//!     println!("{name}: {task}");
//! }
//! # let _ = readiness;
//! # }
//! ```
//!
//! # Figures and events
//!
//! [`TaskManager::snapshot`] returns the figures of a task, [`statistics`](TaskManager::statistics) the totals. The module
//! [`events`] has the stream of events and the reasons of restarts.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let tasks = otel_tasks::TaskManager::new();
//! let mut events = tasks.subscribe();
//! tokio::spawn(async move {
//!     while let Some(event) = events.recv().await {
//!         println!("{:?}", event.kind);
//!     }
//! });
//! println!("{}", tasks.statistics());
//! # }
//! ```
//!
//! # Shutdown
//!
//! [`TaskManager::run_until`] drains after SIGTERM, then stops [`intake`](CriticalTaskConfig::intake) tasks, loops and the other tasks, in
//! order and within a deadline. The [`ShutdownReport`] has an exit code and a line for each task.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::BuildError> {
//! use otel_tasks::{TaskManager, shutdown_signal};
//! use std::time::Duration;
//! let tasks = TaskManager::builder().drain(Duration::from_secs(8)).build()?;
//! let report = tasks.run_until(shutdown_signal()).await;
//! report.exit()
//! # }
//! ```
//!
//! # Testing
//!
//! With tokio's paused time, a test runs days of restarts and schedules at once. The feature `testing` has a wall clock for calendars, an
//! event log and injected failures.
//!
//! ```
//! use otel_tasks::{CriticalTaskConfig, TaskManager};
//! use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//! let tasks = TaskManager::new(); // in a `#[tokio::test(start_paused = true)]`
//! tasks.register(CriticalTaskConfig::new("sync", |_| async { Err::<(), _>("refused") }))?;
//! tasks.start();
//! tokio::time::sleep(Duration::from_secs(3_600)).await;
//! assert!(!tasks.health().is_ready);
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! | Feature | Default | Adds |
//! |---|---|---|
//! | `otlp-http` | yes | [`Telemetry`] over OTLP, http/protobuf |
//! | `tls` | yes | `https` endpoints, on rustls and ring |
//! | `env-filter` | yes | spans and fields in the directives of `RUST_LOG` |
//! | `macros` | yes | [`instrumented_task`](macro@instrumented_task) and [`task_loop`](macro@task_loop) |
//! | `calendar` | yes | times of day, cron expressions and time zones for a [`Schedule`] |
//! | `otlp-grpc` | | OTLP over gRPC |
//! | `gzip` | | compressed exports |
//! | `console` | | telemetry on the terminal |
//! | `otlp` | | the six features of `Telemetry`: `otlp-http`, `otlp-grpc`, `tls`, `env-filter`, `gzip` and `console` |
//! | `serde` | | `Serialize` for figures, health and reports, and both directions for values of configuration files |
//! | `systemd` | | reports to systemd: readiness, status, watchdog pings, shutdown |
//! | `testing` | | helpers for tests of a service |
//! | `bound-instruments` | | a lower cost per run, through instruments that OpenTelemetry calls experimental |

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod contract;

mod timetable;

mod sync;

mod shards;

mod threads;

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

/// The version of the OpenTelemetry API on which this crate is built. Its types are in the signatures of this crate.
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

/// Events of registered tasks and of the manager, the last changes of a task, and the reasons of its restarts.
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
/// A task has three facts and one status. The facts answer the probes of Kubernetes: *live*, *ready*, *started*. The status shows an operator
/// if the task needs attention: [`HealthStatus`](health::HealthStatus). No rule uses a lifetime counter: a task that was restarted three
/// times in a year is healthy.
///
/// The facts of the service come from the tasks of role [`Required`](HealthRole::Required):
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
/// | being stopped because it was silent | yes | no | once ready | unhealthy |
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
        cell::{
            ErrorCount, GateSnapshot, LastError, RunMinutes, RunRecord, SkipReason, TaskSnapshot, TaskState,
        },
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

/// Layers for a subscriber of your own, telemetry in one call (feature `otlp-http`), and every exported name.
pub mod telemetry {
    pub use crate::emit::{
        Deferred, DeferredObservations, LayerConflict, Observed, RunExemplar, SignalExport, SpanPath,
        TelemetryExport, TelemetryState, layer, remote_context, task_layer,
    };

    /// Every exported name: spans, log records, instruments and their attributes.
    ///
    /// No other file contains such a name. A change here is a change of the public contract. Dashboards, alerts and the list of
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
/// - Inside a run of the same name, a call adds no second run.
/// - Inside another run, a call is a child run, counted by the manager of that run.
/// - Outside of any run, the process counts the call, and the first manager or telemetry exports it.
///
/// A panic is recorded and continues.
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

/// Makes a loop of an async function, which then returns the [`CriticalTaskConfig`] of the loop.
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

/// The meaning of each alert of `stack/rules` in the repository, and the steps to take. The alerts link to this page.
///
#[cfg(doc)]
#[doc = include_str!("../docs/runbooks.md")]
pub mod runbooks {}

#[doc(hidden)]
pub mod __private {
    /// Returns the delays of `backoff = "1s..60s"`.
    pub fn growing(from: std::time::Duration, to: std::time::Duration) -> crate::Backoff {
        crate::Backoff::growing(from, to)
    }

    pub use crate::run::{BorrowingProbe, Instrumented, Probe, Rules, instrument, via};
}
