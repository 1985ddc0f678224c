//! The settings of a manager, and its builder.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{metrics::Meter, trace::Tracer};

#[cfg(all(feature = "systemd", unix))]
use crate::systemd;
use crate::{
    cell,
    config::Components,
    emit,
    emit::SpanPath,
    engine,
    engine::{LastResort, Settings, Shared, WallClock},
    error::BuildError,
    manager::task_manager::{LastHandle, TaskManager},
    policy::{CategoryRules, ErrorClass, ErrorRules, NameRule, OutputError},
    read::HealthThresholds,
    run,
    run::{PollTime, Recorder, RecorderOptions},
};

/// Builds a [`TaskManager`]. Every setting has a default.
#[must_use = "a builder does nothing until `build`"]
pub struct TaskManagerBuilder {
    recorder: RecorderOptions,
    settings: Settings,
    meter: Option<Meter>,
    error_rules: ErrorRules,
    panic_hook: bool,
    #[cfg(all(feature = "systemd", unix))]
    systemd: bool,
}

impl std::fmt::Debug for TaskManagerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskManagerBuilder").finish_non_exhaustive()
    }
}

impl TaskManagerBuilder {
    /// The first part of the names of the manager's own spans. Default of [`span_prefix`](Self::span_prefix).
    pub const DEFAULT_SPAN_PREFIX: &str = engine::DEFAULT_SPAN_PREFIX;

    /// The interval at which a sleeping calendar loop reads the wall clock: 30 s. Default of [`wall_clock_step`](Self::wall_clock_step).
    pub const DEFAULT_WALL_CLOCK_STEP: Duration = engine::DEFAULT_WALL_CLOCK_STEP;

    /// The number of task names with figures of their own: 200. If telemetry was installed before, the default is the number of names for which
    /// its metrics have room.
    pub const DEFAULT_MAX_NAMES: usize = cell::DEFAULT_MAX_NAMES;

    /// The time without progress after which the runtime counts as stalled: 2 s. Default of [`runtime_stall`](Self::runtime_stall).
    pub const DEFAULT_RUNTIME_STALL: Duration = Duration::from_secs(2);

    /// The time that a spawned plain future has to end at shutdown: 5 s. Such a future cannot receive the stop request. Default of
    /// [`spawn_grace`](Self::spawn_grace).
    pub const DEFAULT_SPAWN_GRACE: Duration = Duration::from_secs(5);

    /// The longest time of a shutdown: 25 s, less than the 30 s after which Kubernetes kills a pod. Default of
    /// [`shutdown_deadline`](Self::shutdown_deadline).
    pub const DEFAULT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(25);

    /// The interval of the monitor's sweeps: 60 s. Default of [`monitor_interval`](Self::monitor_interval).
    pub const DEFAULT_MONITOR_INTERVAL: Duration = Duration::from_secs(60);

    /// Distinguishes the figures of this manager from those of another on the same meter, with the attribute `task.manager`.
    ///
    /// Managers without a meter of their own share one, and their figures are summed per name, so they need no instance. Managers with the same
    /// [`meter`](Self::meter) need one each: OpenTelemetry would keep the figures of the last one only.
    pub fn instance(mut self, name: impl Into<Arc<str>>) -> Self {
        self.recorder.instance = Some(name.into());
        self
    }

    /// Exports figures through this meter instead of the global provider's.
    ///
    /// A meter serves one manager. A second manager on the same meter, at the same time or later, needs an [`instance`](Self::instance) of its
    /// own. The limits on names of both add up in the streams of the meter.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Exports spans through this tracer if no tracing-opentelemetry layer exports them.
    ///
    /// A layer that is wrapped in `tracing_subscriber::reload` cannot be detected: with such a layer, set no tracer here. The tracer of
    /// [`layer`](crate::telemetry::layer) or [`task_layer`](crate::telemetry::task_layer) is used automatically.
    ///
    /// A span that [is not recording](opentelemetry::trace::Span::is_recording) at its start is dropped then, and the run keeps its identity.
    pub fn tracer<T>(mut self, tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        self.recorder.tracer = Some(Arc::new(tracer));
        self
    }

    /// Sets how the category of a task follows from its name, if it has none. Default: [`CategoryRules::default`], without prefixes. With
    /// prefixes, a name that no prefix covers is a WARN record, once per name.
    pub fn categories(mut self, rules: CategoryRules) -> Self {
        self.recorder.categories = rules;
        self
    }

    /// Sets the name under which a spawned task is metered. Default: [`NameRule::strip_ids`].
    pub fn names(mut self, rule: NameRule) -> Self {
        self.recorder.name_rule = rule;
        self
    }

    /// Sets the number of task names with figures of their own. Default: 200, or 2,000 with the installer of this crate.
    ///
    /// Beyond that, spawned tasks share the name `_OTHER`, and registrations are refused. With a meter of your own, raise the cardinality limit
    /// of its streams first.
    ///
    /// The names of registered tasks that are gone make room for new ones. Histograms cannot drop a name: they record this number of names over
    /// the life of the manager, and later names as `_OTHER`. A [family](crate::TaskFamily) is one name.
    pub fn max_names(mut self, names: usize) -> Self {
        self.recorder.max_names = names;
        self
    }

    /// Times every poll with two reads of the clock.
    ///
    /// By default the watchdog times a poll from its first tick during the poll. So polls shorter than a tick (50 ms) are not timed, and the
    /// times of longer polls are short by up to a tick.
    pub fn exact_poll_time(mut self) -> Self {
        self.recorder.polls = PollTime::Exact;
        self
    }

    /// Sets the duration from which a poll counts as slow. Default: 100 ms.
    pub fn slow_poll(mut self, threshold: Duration) -> Self {
        self.recorder.slow_poll = threshold;
        self
    }

    /// Sets how run spans reach the exporter if [`layer`](crate::telemetry::layer) is installed. Default: [`SpanPath::Full`].
    pub fn span_path(mut self, path: SpanPath) -> Self {
        self.recorder.span_path = path;
        self
    }

    /// Sets if panics of supervised tasks are kept off stderr. Default: true. They are reported as log records, spans and figures.
    ///
    /// A panic hook is installed once per process. It passes panics of other code to the previous hook.
    pub fn panic_hook(mut self, install: bool) -> Self {
        self.panic_hook = install;
        self
    }

    /// Sets the first part of the names of the manager's own spans. Default:
    /// [`DEFAULT_SPAN_PREFIX`](crate::task::TaskManagerBuilder::DEFAULT_SPAN_PREFIX).
    pub fn span_prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.settings.span_prefix = prefix.into();
        self
    }

    /// Sets the interval of the monitor's sweeps. Default: [`DEFAULT_MONITOR_INTERVAL`](Self::DEFAULT_MONITOR_INTERVAL), 60 s.
    pub fn monitor_interval(mut self, interval: Duration) -> Self {
        self.settings.monitor_interval = interval;
        self
    }

    /// Sets the longest time of a shutdown, from the signal to the report. Default:
    /// [`DEFAULT_SHUTDOWN_DEADLINE`](Self::DEFAULT_SHUTDOWN_DEADLINE), 25 s. A [`drain`](Self::drain) is a part of it.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.settings.shutdown_deadline = deadline;
        self
    }

    /// Sets the time that the manager drains after SIGTERM, before the ordered shutdown begins. Default: 0. Ctrl-C begins the ordered shutdown
    /// at once.
    ///
    /// While the manager drains, [`is_ready`](crate::health::ManagerHealth::is_ready) is false, so that a load balancer sends no
    /// more work, and all tasks continue. The drain is a part of [`shutdown_deadline`](Self::shutdown_deadline): the ordered
    /// shutdown has the time that the drain leaves, and at least a tenth of the deadline.
    ///
    /// The drain applies to [`run_until`](TaskManager::run_until) with [`shutdown_signal`](crate::shutdown_signal).
    /// [`shutdown_after`](TaskManager::shutdown_after) drains without a signal.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::time::Duration;
    /// let tasks = otel_tasks::TaskManager::builder().drain(Duration::from_secs(8)).build();
    /// assert!(tasks.is_ok());
    /// # }
    /// ```
    pub fn drain(mut self, drain: Duration) -> Self {
        self.settings.drain = drain;
        self
    }

    /// Sets the time that a spawned plain future has to end at shutdown. Default: [`DEFAULT_SPAWN_GRACE`](Self::DEFAULT_SPAWN_GRACE), 5 s.
    pub fn spawn_grace(mut self, grace: Duration) -> Self {
        self.settings.spawn_grace = grace;
        self
    }

    /// Sets the time without progress after which the runtime counts as stalled. Default:
    /// [`DEFAULT_RUNTIME_STALL`](Self::DEFAULT_RUNTIME_STALL), 2 s.
    pub fn runtime_stall(mut self, threshold: Duration) -> Self {
        self.settings.runtime_stall = threshold;
        self
    }

    /// Sets what happens to the report of a shutdown that no caller can receive. Default: [`LastResort::Print`].
    pub fn last_resort(mut self, last_resort: LastResort) -> Self {
        self.settings.last_resort = last_resort;
        self
    }

    /// Sets the source of jitter, which returns uniform numbers in `0.0..1.0`. Default: a fast generator, seeded by the
    /// operating system, which also replaces a source that panics.
    pub fn random(mut self, random: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        let report = |panic| engine::callback_panicked("the random source", panic);
        self.settings.random = engine::or_else(random, fastrand::f64, report);
        self
    }

    /// Sets the wall clock, which calendars and the next times of loops follow. Default: the clock of the system, which also replaces a clock that
    /// panics.
    ///
    /// This is for tests: tokio's paused time does not pause the clock of the system. The feature `testing` has a clock that can be paused.
    pub fn wall_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let report = |panic| engine::callback_panicked("the wall clock", panic);
        self.settings.wall_clock.read = Some(engine::or_else(now, SystemTime::now, report));
        self
    }

    /// Sets the interval at which a sleeping calendar loop reads the wall clock. Default:
    /// [`DEFAULT_WALL_CLOCK_STEP`](Self::DEFAULT_WALL_CLOCK_STEP), 30 s. The loop notices a clock change or a suspended process at most this late.
    pub fn wall_clock_step(mut self, step: Duration) -> Self {
        self.settings.wall_clock.step = step;
        self
    }

    /// Classifies errors of type `E`: transient if a retry can help, permanent if it cannot. Errors without a rule are transient.
    ///
    /// The rule applies to every run of the manager: registered tasks, iterations of loops, spawned and blocking work, and instrumented
    /// functions. A rule of [the task](crate::CriticalTaskConfig::classify) precedes the manager's. A second rule for the same type replaces
    /// the first. If a rule panics, the run counts as panicked.
    ///
    /// The rule receives the returned error, or the outermost of its sources that is an `E`. So `E` may be an error inside an
    /// `anyhow::Error`, an `eyre::Report` or a `Box<dyn Error>`. The context values of `anyhow` and `eyre` are no sources; a rule for
    /// `anyhow::Error` itself finds them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::BuildError> {
    /// use otel_tasks::{TaskManager, policy::ErrorClass};
    /// use std::io;
    /// let tasks = TaskManager::builder()
    ///     .classify(|error: &io::Error| match error.kind() {
    ///         io::ErrorKind::PermissionDenied => ErrorClass::Permanent,
    ///         _ => ErrorClass::Transient,
    ///     })
    ///     .error_type(|_: &io::Error| "io")
    ///     .build()?;
    /// # drop(tasks);
    /// # Ok(()) }
    /// ```
    pub fn classify<E: OutputError<Via>, Via>(
        mut self,
        class: impl Fn(&E) -> ErrorClass + Send + Sync + 'static,
    ) -> Self {
        self.error_rules.classify(class);
        self
    }

    /// Names errors of type `E` for the attribute `error.type`, in every run of the manager. Without a name, the attribute is the Rust type of
    /// the error.
    ///
    /// `E` is found as [`classify`](Self::classify) finds it. Use few names: beyond
    /// [`MAX_ERROR_TYPES`](crate::snapshot::TaskSnapshot::MAX_ERROR_TYPES) they count as `_OTHER`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::BuildError> {
    /// use otel_tasks::TaskManager;
    /// use std::io;
    /// let tasks = TaskManager::builder().error_type(|_: &io::Error| "io").build()?;
    /// let failing = tasks.spawn("load", async { Err::<(), _>(anyhow::Error::from(io::Error::other("down"))) });
    /// let _ = failing.await;
    /// let error = tasks.snapshot("load").unwrap().last_error.unwrap();
    /// assert_eq!((error.error_type, &*error.message), ("io", "down"));
    /// # Ok(()) }
    /// ```
    pub fn error_type<E: OutputError<Via>, Via>(
        mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        self.error_rules.name(name);
        self
    }

    /// Sets the limits from which a task counts as unhealthy. Default: [`HealthThresholds::default`].
    pub fn health_thresholds(mut self, thresholds: HealthThresholds) -> Self {
        self.settings.thresholds = thresholds;
        self
    }

    /// Reports to systemd: readiness, stopping, a status line, and the pings of `WatchdogSec=`. Needs the feature `systemd`; off by default. It
    /// has no effect if the service manager gave no socket (`NOTIFY_SOCKET`), or outside Unix.
    ///
    /// | Message | Sent |
    /// |---|---|
    /// | `READY=1` | once, when the manager is started, ready and every task has started |
    /// | `WATCHDOG=1` | every third of `WATCHDOG_USEC`, while the manager is live; blocked workers end it |
    /// | `STOPPING=1` | once, when the drain or the ordered shutdown begins |
    /// | `EXTEND_TIMEOUT_USEC=` | every second of a shutdown: the rest of its deadline and 2 s |
    /// | `STATUS=` | when it changes: healthy and unhealthy tasks, or the shutdown's progress |
    ///
    /// The thread of the watchdog sends the messages, and never waits for the service manager. The variables are read at
    /// [`build`](Self::build) and stay in the environment. A variable that cannot be used is ignored with a WARN record.
    /// One manager of a process reports at a time.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::BuildError> {
    /// let tasks = otel_tasks::TaskManager::builder().systemd().build()?;
    /// tasks.start();
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "systemd")]
    pub fn systemd(self) -> Self {
        #[cfg(unix)]
        let this = Self { systemd: true, ..self };
        #[cfg(not(unix))]
        let this = self;
        this
    }

    /// Builds the manager. Registered tasks run on the tokio runtime in which this is called, or else in which the manager is first used.
    ///
    /// If that runtime is shut down, the tasks are dropped with it, and their health is
    /// [`RuntimeGone`](crate::health::HealthReason::RuntimeGone). Tasks that are registered later, inside another runtime, run there.
    ///
    /// # Errors
    /// [`BuildError`] names the setting that cannot be used; nothing was started.
    pub fn build(self) -> Result<TaskManager, BuildError> {
        if self.recorder.max_names == 0 {
            return Err(BuildError::ZeroNames);
        }
        if self.settings.span_prefix.is_empty() {
            return Err(BuildError::EmptySpanPrefix);
        }
        for (setting, duration) in [
            ("monitor_interval", self.settings.monitor_interval),
            ("runtime_stall", self.settings.runtime_stall),
            ("slow_poll", self.recorder.slow_poll),
            ("wall_clock_step", self.settings.wall_clock.step),
        ] {
            if duration.is_zero() {
                return Err(BuildError::ZeroDuration { setting });
            }
        }
        let (drain, deadline) = (self.settings.drain, self.settings.shutdown_deadline);
        if !drain.is_zero() && drain >= deadline {
            return Err(BuildError::DrainTooLong { drain, shutdown_deadline: deadline });
        }
        let HealthThresholds { errors_per_hour, failures_in_a_row, restarts_per_hour, .. } =
            self.settings.thresholds;
        if [errors_per_hour, failures_in_a_row, restarts_per_hour].contains(&0) {
            return Err(BuildError::ZeroThreshold);
        }
        #[cfg(all(feature = "systemd", unix))]
        if self.systemd {
            return self.build_for_systemd();
        }
        Ok(self.build_checked())
    }

    #[cfg(all(feature = "systemd", unix))]
    fn build_for_systemd(mut self) -> Result<TaskManager, BuildError> {
        let variables = systemd::Notifier::from_variables(|variable| std::env::var_os(variable));
        let (notifier, ignored) = variables.map_err(|_| BuildError::SystemdInUse)?;
        self.settings.service = notifier.map(engine::Service::new);
        let manager = self.build_checked();
        ignored.iter().for_each(engine::service_variable_ignored);
        Ok(manager)
    }

    fn build_checked(mut self) -> TaskManager {
        if self.panic_hook {
            run::install_hook();
            self.recorder.silence_panics = true;
        }
        self.recorder.error_rules = self.error_rules.before(None);
        let recorder = Recorder::new(self.recorder);
        match &self.meter {
            Some(meter) => recorder.attach(&emit::Exposition::new(meter)),
            None => emit::shared_exposition(None, |exposition| recorder.attach(exposition)),
        }
        let shared = Shared::new(recorder, self.settings);
        TaskManager { handle: Arc::new(LastHandle { shared, components: Components::default() }) }
    }
}

impl Default for TaskManagerBuilder {
    fn default() -> Self {
        Self {
            recorder: RecorderOptions { max_names: emit::default_max_names(), ..RecorderOptions::default() },
            settings: Settings {
                span_prefix: Self::DEFAULT_SPAN_PREFIX.into(),
                monitor_interval: Self::DEFAULT_MONITOR_INTERVAL,
                shutdown_deadline: Self::DEFAULT_SHUTDOWN_DEADLINE,
                drain: Duration::ZERO,
                spawn_grace: Self::DEFAULT_SPAWN_GRACE,
                thresholds: HealthThresholds::default(),
                runtime_stall: Self::DEFAULT_RUNTIME_STALL,
                last_resort: LastResort::default(),
                random: Arc::new(fastrand::f64),
                wall_clock: WallClock::default(),
                #[cfg(all(feature = "systemd", unix))]
                service: None,
            },
            meter: None,
            error_rules: ErrorRules::default(),
            panic_hook: true,
            #[cfg(all(feature = "systemd", unix))]
            systemd: false,
        }
    }
}

impl TaskManager {
    /// Creates a manager with default settings. It cannot fail.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use otel_tasks::TaskManager;
    /// let tasks = TaskManager::new();
    /// assert_eq!(tasks.statistics().total_tasks, 0);
    /// # }
    /// ```
    pub fn new() -> Self {
        Self::builder().build_checked()
    }

    /// Creates a builder with default settings.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::BuildError> {
    /// use otel_tasks::TaskManager;
    /// use std::time::Duration;
    /// let tasks = TaskManager::builder().shutdown_deadline(Duration::from_secs(10)).build()?;
    /// # drop(tasks);
    /// # Ok(()) }
    /// ```
    pub fn builder() -> TaskManagerBuilder {
        TaskManagerBuilder::default()
    }
}
