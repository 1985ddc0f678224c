//! The settings of a manager, and its builder.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    global::{BoxedTracer, ObjectSafeTracer},
    metrics::Meter,
    trace::Tracer,
};

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

/// Builds a [`TaskManager`]; every setting has a default.
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
    /// The first part of the names of the manager's own spans.
    pub const DEFAULT_SPAN_PREFIX: &str = engine::DEFAULT_SPAN_PREFIX;

    /// The time after which a loop that waits for a calendar time reads the wall clock again.
    pub const DEFAULT_WALL_CLOCK_STEP: Duration = engine::DEFAULT_WALL_CLOCK_STEP;

    /// The number of task names that are kept apart, unless telemetry was installed before: then it is the number of names that
    /// the metrics have room for.
    pub const DEFAULT_MAX_NAMES: usize = cell::DEFAULT_MAX_NAMES;

    /// How long the runtime may run nothing by default before it counts as stalled.
    pub const DEFAULT_RUNTIME_STALL: Duration = Duration::from_secs(2);

    /// How long a spawned plain future may go on at shutdown by default: it cannot hear that it should stop.
    pub const DEFAULT_SPAWN_GRACE: Duration = Duration::from_secs(5);

    /// How long an ordered shutdown may take by default: below the 30 s after which Kubernetes kills a pod.
    pub const DEFAULT_SHUTDOWN_DEADLINE: Duration = Duration::from_secs(25);

    /// The interval of the monitor's sweeps.
    pub const DEFAULT_MONITOR_INTERVAL: Duration = Duration::from_secs(60);

    /// Distinguishes this manager's figures from another's on the same meter, as the attribute `task.manager`.
    ///
    /// Managers without a meter of their own share one and are summed per name, so they need no instance. Managers that are
    /// given the same meter explicitly need one each: OpenTelemetry would keep the last one's figures only.
    pub fn instance(mut self, name: impl Into<Arc<str>>) -> Self {
        self.recorder.instance = Some(name.into());
        self
    }

    /// Exports figures through this meter instead of the global provider's.
    ///
    /// One meter, one manager: a second one on the same meter, at the same time or after it, needs an
    /// [`instance`](Self::instance) of its own, and their bounds on names add up in the meter's streams.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Exports those spans through this tracer that no tracing-opentelemetry layer exports. (One that is wrapped in
    /// `tracing_subscriber::reload` cannot be seen from outside: with it, give no tracer here.) The tracer given to
    /// [`layer`](crate::telemetry::layer) or [`task_layer`](crate::telemetry::task_layer) is used without being given here again.
    pub fn tracer<T>(mut self, tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        let tracer: Box<dyn ObjectSafeTracer + Send + Sync> = Box::new(tracer);
        self.recorder.tracer = Some(Arc::new(BoxedTracer::new(tracer)));
        self
    }

    /// Sets how a task's category follows from its name, if none was given ([`CategoryRules::default`], without prefixes). With
    /// prefixes, a name that they do not cover is a WARN record, once per name.
    pub fn categories(mut self, rules: CategoryRules) -> Self {
        self.recorder.categories = rules;
        self
    }

    /// Which name a spawned task is metered under ([`NameRule::strip_ids`]).
    pub fn names(mut self, rule: NameRule) -> Self {
        self.recorder.name_rule = rule;
        self
    }

    /// How many names are kept apart (200; 2,000 with this crate's installer): beyond that spawned tasks share the name
    /// `_OTHER` and registrations are refused. With a meter of your own, raise its streams' cardinality limit first.
    ///
    /// The names of registered tasks that are gone make room for new ones. Histograms cannot forget a name: only so many names, over the
    /// life of the manager, are recorded there, and later ones as `_OTHER`. A [family](crate::TaskFamily) is one name.
    pub fn max_names(mut self, names: usize) -> Self {
        self.recorder.max_names = names;
        self
    }

    /// Times every poll by the clock, for two reads of it a poll. Otherwise the watchdog does, from its first tick on that
    /// sees a poll: those shorter than a tick (50 ms) are not timed, and longer ones come out short by up to one.
    pub fn exact_poll_time(mut self) -> Self {
        self.recorder.polls = PollTime::Exact;
        self
    }

    /// From how long on a poll counts as slow (100 ms).
    pub fn slow_poll(mut self, threshold: Duration) -> Self {
        self.recorder.slow_poll = threshold;
        self
    }

    /// Which way the spans of runs take through [`layer`](crate::telemetry::layer) ([`SpanPath::Full`]).
    pub fn span_path(mut self, path: SpanPath) -> Self {
        self.recorder.span_path = path;
        self
    }

    /// Whether panics of supervised tasks are kept off stderr (true): they are reported as log records, spans and figures.
    /// Chains a panic hook, once per process; panics elsewhere go to the hook that was there before.
    pub fn panic_hook(mut self, install: bool) -> Self {
        self.panic_hook = install;
        self
    }

    /// The first part of the names of the manager's own spans ([`DEFAULT_SPAN_PREFIX`](crate::task::TaskManagerBuilder::DEFAULT_SPAN_PREFIX)).
    pub fn span_prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.settings.span_prefix = prefix.into();
        self
    }

    /// How often the monitor sweeps ([`TaskManagerBuilder::DEFAULT_MONITOR_INTERVAL`]).
    pub fn monitor_interval(mut self, interval: Duration) -> Self {
        self.settings.monitor_interval = interval;
        self
    }

    /// How long a shutdown may take, from the signal to the report ([`TaskManagerBuilder::DEFAULT_SHUTDOWN_DEADLINE`]). A
    /// [`drain`](Self::drain) is a part of it.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.settings.shutdown_deadline = deadline;
        self
    }

    /// How long the manager drains after SIGTERM, before the ordered shutdown begins (0). Ctrl-C begins it at once.
    ///
    /// While the manager drains, [`is_ready`](crate::health::ManagerHealth::is_ready) is false, so that a load balancer sends no
    /// more work, and everything else goes on. The drain is a part of [`shutdown_deadline`](Self::shutdown_deadline): the ordered
    /// shutdown has what the drain leaves, and at least a tenth of the deadline. It applies to
    /// [`run_until`](TaskManager::run_until) with [`shutdown_signal`](crate::shutdown_signal);
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

    /// How long a spawned plain future may go on at shutdown ([`TaskManagerBuilder::DEFAULT_SPAWN_GRACE`]).
    pub fn spawn_grace(mut self, grace: Duration) -> Self {
        self.settings.spawn_grace = grace;
        self
    }

    /// From when on the runtime counts as stalled: it has run nothing for so long ([`TaskManagerBuilder::DEFAULT_RUNTIME_STALL`]).
    pub fn runtime_stall(mut self, threshold: Duration) -> Self {
        self.settings.runtime_stall = threshold;
        self
    }

    /// What is done when the shutdown is over and nobody can receive its report ([`LastResort::Print`]).
    pub fn last_resort(mut self, last_resort: LastResort) -> Self {
        self.settings.last_resort = last_resort;
        self
    }

    /// Where jitter comes from: answers a number in `0.0..1.0`, uniformly. By default a fast generator, seeded by the
    /// operating system.
    pub fn random(mut self, random: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.settings.random = Arc::new(random);
        self
    }

    /// The wall clock that calendars run on, and by which loops say when they are due next (the system's). For tests, since in
    /// paused time the system's clock goes on as ever; the feature `testing` has one that does not.
    pub fn wall_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.settings.wall_clock.read = Arc::new(now);
        self
    }

    /// How long a loop that waits for a time of the wall clock goes without a look at it
    /// ([`DEFAULT_WALL_CLOCK_STEP`](crate::task::TaskManagerBuilder::DEFAULT_WALL_CLOCK_STEP)): so late at most it sees that the clock was set or the
    /// process suspended.
    pub fn wall_clock_step(mut self, step: Duration) -> Self {
        self.settings.wall_clock.step = step;
        self
    }

    /// Tells errors of type `E` for which trying again can help from those for which it cannot, in every run of the manager:
    /// registered tasks, iterations of loops, spawned and blocking work, and instrumented functions. Errors without a rule are
    /// transient.
    ///
    /// The rule is for the returned error, or for the outermost of its sources that is an `E`: `E` may be an error inside an
    /// `anyhow::Error`, an `eyre::Report` or a `Box<dyn Error>`. The context values of `anyhow` and `eyre` are no sources; a rule for
    /// `anyhow::Error` itself finds them. There may be a rule for each of several types; a second one for the same type replaces the
    /// first. A rule of [the task](crate::CriticalTaskConfig::classify) goes before the manager's. If a rule panics, the run counts as
    /// one that panicked.
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

    /// Names errors of type `E` for the attribute `error.type`, which otherwise carries the error's Rust type, in every run of the
    /// manager. `E` is found as [`classify`](Self::classify) finds it. Names are few: beyond
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

    /// Sets the limits from which a task counts as unhealthy.
    pub fn health_thresholds(mut self, thresholds: HealthThresholds) -> Self {
        self.settings.thresholds = thresholds;
        self
    }

    /// Reports to systemd (feature `systemd`; off by default): that the service is ready, that it stops, a status line, and the
    /// pings of `WatchdogSec=`. Has no effect if the service manager gave no socket (`NOTIFY_SOCKET`), or outside Unix.
    ///
    /// | Message | Sent |
    /// |---|---|
    /// | `READY=1` | once, when the manager is started, ready and every task has started |
    /// | `WATCHDOG=1` | every third of `WATCHDOG_USEC`, while the manager is live; blocked workers end it |
    /// | `STOPPING=1` | once, when the drain or the ordered shutdown begins |
    /// | `EXTEND_TIMEOUT_USEC=` | every second of a shutdown: the rest of its deadline and 2 s |
    /// | `STATUS=` | when it changes: healthy and unhealthy tasks, or the shutdown's progress |
    ///
    /// The messages are sent by the watchdog's thread, which never waits for the service manager. The variables are read at
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

    /// Builds the manager. Registered tasks run on the tokio runtime that this is called in, or else in which the manager is first
    /// used. If that runtime is shut down, they are dropped with it, and their health is
    /// [`RuntimeGone`](crate::health::HealthReason::RuntimeGone); tasks that are registered later, inside another runtime, run there.
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
    /// Creates a manager with every default. It cannot fail.
    pub fn new() -> Self {
        Self::builder().build_checked()
    }

    /// Creates a builder with every default.
    pub fn builder() -> TaskManagerBuilder {
        TaskManagerBuilder::default()
    }
}
