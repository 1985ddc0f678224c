//! The settings of a critical task.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    cell::Identity,
    contract::OVERFLOW_NAME,
    engine::{
        Body, Factory, GatedBody, Lent, Links, LoopBody, LoopHandle, Membership, Registration, Shared,
        TaskContext, TaskLoop, TaskSpec, erase, erase_lending,
    },
    error::RegisterError,
    gate::Gate,
    policy::{
        Backoff, DependencyLoss, ErrorClass, ErrorRules, Escalation, GiveUp, HealthRole, NameRule,
        OutputError, OverrunAction, PolicyError, RestartIntensity, RestartPolicy, ReturnedError, StallAction,
        TaskCategory, TaskOutput, TaskPriority, check_reachable, error_text, returned_error_of, type_path,
    },
};

/// The settings of a critical task: its work, its name, its restarts.
///
/// The values are checked when the task is registered, so the calls chain.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, TaskPriority};
/// use std::time::Duration;
/// let config = CriticalTaskConfig::new("reminders", |ctx| async move {
///     ctx.cancelled().await;
/// })
/// .priority(TaskPriority::High)
/// .max_restarts(3, Duration::from_secs(300))
/// .restart_delay(Duration::from_secs(5));
/// assert_eq!(config.name(), "reminders");
/// ```
#[must_use = "a config does nothing until it is registered"]
pub struct CriticalTaskConfig {
    pub(super) name: String,
    category: TaskCategory,
    priority: TaskPriority,
    component: Option<Arc<str>>,
    policy: RestartPolicy,
    /// `None` for the default.
    limit: Option<Limit>,
    backoff: Backoff,
    /// `None` for the default, which depends on the escalation.
    give_up: Option<GiveUp>,
    health_check_interval: Duration,
    heartbeat_timeout: Option<Duration>,
    run_timeout: Option<Duration>,
    shutdown_grace: Option<Duration>,
    start_timeout: Option<Duration>,
    poll_timeout: Option<Duration>,
    on_stall: StallAction,
    escalation: Escalation,
    /// `None` for the default, which follows from the kind of the task and its final priority.
    health_role: Option<HealthRole>,
    intake: bool,
    one_shot: bool,
    gate: Option<Arc<dyn Gate>>,
    on_overrun: OverrunAction,
    pub(super) dependencies: Vec<Arc<str>>,
    loss: DependencyLoss,
    pub(crate) what: What,
    returned_error: Option<ReturnedError>,
    rules: ErrorRules,
}

/// The limit on restarts, which may still have to be checked.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Given { max_restarts: u32, within: Duration },
    Checked(RestartIntensity),
}

pub(crate) enum What {
    Closure(Arc<dyn Factory>),
    /// Boxed: a config is moved about, and most are closures.
    Loop(Box<TaskLoop>),
}

impl CriticalTaskConfig {
    /// The interval between health checks of a task: 5 minutes. Default of [`health_check_interval`](Self::health_check_interval).
    pub const DEFAULT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);

    /// Creates a task that runs the future of `factory` as long as the service runs; each restart calls `factory` again.
    ///
    /// If the future ends, also with `Ok(())`, the end is logged as a warning and the task is restarted
    /// ([`RestartPolicy::Always`]). For work that may end, see [`one_shot`](Self::one_shot).
    ///
    /// Defaults:
    ///
    /// - Priority High, category Scheduled.
    /// - The first restart follows within a second, later ones after up to a minute ([`Backoff::default`]).
    /// - After [`RestartIntensity::DEFAULT_MAX_RESTARTS`] restarts within [`RestartIntensity::DEFAULT_WITHIN`], a retry every 5 minutes
    ///   ([`GiveUp::default`]).
    /// - A health check every [`CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::TaskContext;
    /// async fn gateway(ctx: TaskContext) -> std::io::Result<()> {
    ///     ctx.cancelled().await; // connect and read; return an error to be restarted
    ///     Ok(())
    /// }
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// # Ok(()) }
    /// ```
    pub fn new<F, Fut, Via>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::of(name.into(), What::Closure(erase(factory)), returned_error_of::<Fut::Output, Via>())
    }

    /// Creates a task that may end: it is finished after a success, and restarted after a failure. It is
    /// [`new`](Self::new) with [`RestartPolicy::OnFailure`].
    ///
    /// Tasks that [depend on it](Self::depends_on) begin when it has succeeded. With a [`start_timeout`](Self::start_timeout) they begin when it
    /// calls [`TaskContext::ready`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use otel_tasks::snapshot::TaskState;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::one_shot("migrate", |_| async { Ok::<(), std::io::Error>(()) }))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert_eq!(tasks.snapshot("migrate").unwrap().state, Some(TaskState::Finished));
    /// # Ok(()) }
    /// ```
    pub fn one_shot<F, Fut, Via>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        let task = Self::new(name, factory).restart_policy(RestartPolicy::OnFailure);
        Self { one_shot: true, ..task }
    }

    /// Creates a task as [`new`](Self::new) does, and gives each run a clone of `state`.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskContext};
    /// use std::sync::Arc;
    /// # struct Pool;
    /// # impl Pool { async fn prune(&self) -> std::io::Result<()> { Ok(()) } }
    /// async fn prune(ctx: TaskContext, pool: Arc<Pool>) -> std::io::Result<()> {
    ///     pool.prune().await?;
    ///     ctx.cancelled().await;
    ///     Ok(())
    /// }
    /// let prune = CriticalTaskConfig::with("prune", Arc::new(Pool), prune);
    /// # drop(prune);
    /// ```
    pub fn with<S, F, Fut, Via>(name: impl Into<String>, state: S, factory: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(TaskContext, S) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::new(name, move |context| factory(context, state.clone()))
    }

    /// Creates a task as [`new`](Self::new) does, and lends `state` to its runs. Each run borrows the state until it ends, also with an
    /// error, a panic or an abort. The next run continues with the same state. Two runs of a task never overlap.
    ///
    /// A run may give its [`Lent`] away, for example to a thread. A run that begins before the state is back fails with the `error.type`
    /// [`state_held`](crate::policy::ERROR_TYPE_STATE_HELD), and is restarted as after any transient error.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, Lent, TaskContext, TaskManager};
    /// async fn count(_ctx: TaskContext, mut runs: Lent<u32>) -> Result<(), &'static str> {
    ///     *runs += 1;
    ///     if *runs < 3 { Err("not yet") } else { Ok(()) }
    /// }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::lend("count", 0, count).restart_policy(otel_tasks::RestartPolicy::OnFailure))?;
    /// tasks.start();
    /// tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    /// assert_eq!(tasks.snapshot("count").unwrap().total_runs(), 3);
    /// # Ok(()) }
    /// ```
    pub fn lend<S, F, Fut, Via>(name: impl Into<String>, state: S, factory: F) -> Self
    where
        S: Send + 'static,
        F: Fn(TaskContext, Lent<S>) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        let returned_error = returned_error_of::<Fut::Output, Via>();
        Self::of(name.into(), What::Closure(erase_lending(state, factory)), returned_error)
    }

    /// Creates a task that is named after the type of its closure or function: `module::function`.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskContext};
    /// async fn gateway(_ctx: TaskContext) {}
    /// assert!(CriticalTaskConfig::unnamed(gateway).name().ends_with("gateway"));
    /// ```
    pub fn unnamed<F, Fut, Via>(factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::new(type_path::<F>(), factory)
    }

    /// Creates a task that is a loop.
    ///
    /// If an iteration fails, panics or times out, its run has failed. The loop continues at its next time, without a restart and
    /// without a delay. A permanent error, or [`OnError::End`](crate::schedule::OnError::End), ends the loop. Then the restart policy
    /// decides ([`RestartPolicy::OnFailure`] by default).
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskLoop};
    /// use std::time::Duration;
    /// let sweep = TaskLoop::every(Duration::from_secs(60), |_| async { /* delete old files */ });
    /// let config = CriticalTaskConfig::from_loop("sweep", sweep);
    /// assert_eq!(config.name(), "sweep");
    /// ```
    pub fn from_loop(name: impl Into<String>, task_loop: TaskLoop) -> Self {
        let returned_error = task_loop.returned_error;
        Self::of(name.into(), What::Loop(Box::new(task_loop)), returned_error)
            .restart_policy(RestartPolicy::OnFailure)
    }

    fn of(name: String, what: What, returned_error: Option<ReturnedError>) -> Self {
        Self {
            name,
            category: TaskCategory::Scheduled,
            priority: TaskPriority::High,
            component: None,
            policy: RestartPolicy::default(),
            limit: None,
            backoff: Backoff::default(),
            give_up: None,
            health_check_interval: CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL,
            heartbeat_timeout: None,
            run_timeout: None,
            shutdown_grace: None,
            start_timeout: None,
            poll_timeout: None,
            on_stall: StallAction::default(),
            escalation: Escalation::default(),
            health_role: None,
            intake: false,
            one_shot: false,
            gate: None,
            on_overrun: OverrunAction::default(),
            dependencies: Vec::new(),
            loss: DependencyLoss::default(),
            what,
            returned_error,
            rules: ErrorRules::default(),
        }
    }

    /// Returns the name of the task.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let config = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await });
    /// assert_eq!(config.name(), "gateway");
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a handle to the loop; `None` if the task is no loop.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskLoop};
    /// # use std::time::Duration;
    /// let sweep = CriticalTaskConfig::from_loop("sweep", TaskLoop::every(Duration::from_secs(60), |_| async {}));
    /// assert!(sweep.loop_handle().is_some_and(|handle| !handle.is_running()));
    /// ```
    pub fn loop_handle(&self) -> Option<LoopHandle> {
        match &self.what {
            What::Loop(task_loop) => Some(task_loop.handle()),
            What::Closure(_) => None,
        }
    }

    /// Sets the category of the task. Default: Scheduled.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskCategory};
    /// let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await })
    ///     .category(TaskCategory::Gateway);
    /// # drop(gateway);
    /// ```
    pub fn category(mut self, category: TaskCategory) -> Self {
        self.category = category;
        self
    }

    /// Sets the priority of the task. Default: High. In its category, a shutdown stops tasks of a lower priority first.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskPriority};
    /// let database = CriticalTaskConfig::new("database", |ctx| async move { ctx.cancelled().await })
    ///     .priority(TaskPriority::Critical);
    /// # drop(database);
    /// ```
    pub fn priority(mut self, priority: TaskPriority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the component that owns the task. The manager sets it for the tasks that a component provides.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let player = CriticalTaskConfig::new("player", |ctx| async move { ctx.cancelled().await }).component("music");
    /// # drop(player);
    /// ```
    #[doc(alias = "cog")]
    #[doc(alias = "cog_name")]
    pub fn component(mut self, component: impl Into<Arc<str>>) -> Self {
        self.component = Some(component.into());
        self
    }

    /// Sets when the task is restarted. Default: [`RestartPolicy::Always`], or [`RestartPolicy::OnFailure`] for a loop.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, RestartPolicy};
    /// let import = CriticalTaskConfig::new("import", |_| async { Ok::<(), std::io::Error>(()) })
    ///     .restart_policy(RestartPolicy::Never);
    /// # drop(import);
    /// ```
    #[doc(alias = "restart")]
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the number of restarts that are allowed within `within`. After one more failure the task is in the state `Failed`, and
    /// [`give_up`](Self::give_up) decides what follows.
    ///
    /// Default: [`RestartIntensity::DEFAULT_MAX_RESTARTS`] within [`RestartIntensity::DEFAULT_WITHIN`].
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let sync = CriticalTaskConfig::new("sync", |ctx| async move { ctx.cancelled().await })
    ///     .max_restarts(3, Duration::from_secs(300));
    /// # drop(sync);
    /// ```
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        self.limit = Some(Limit::Given { max_restarts, within });
        self
    }

    /// Removes the limit on restarts: after each failure the task is restarted, with the delays of its [`Backoff`].
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let mirror = CriticalTaskConfig::new("mirror", |ctx| async move { ctx.cancelled().await }).unlimited_restarts();
    /// # drop(mirror);
    /// ```
    pub fn unlimited_restarts(mut self) -> Self {
        self.limit = Some(Limit::Checked(RestartIntensity::UNLIMITED));
        self
    }

    /// Sets the limit on restarts and the delays between them in one call. Both have a text form for configuration files.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let mirror = CriticalTaskConfig::new("mirror", |_| std::future::pending::<()>())
    ///     .restarts("5 in 10m".parse()?, "30s..1m".parse()?);
    /// # drop(mirror);
    /// # Ok::<(), otel_tasks::policy::PolicyError>(())
    /// ```
    pub fn restarts(mut self, intensity: RestartIntensity, backoff: Backoff) -> Self {
        self.limit = Some(Limit::Checked(intensity));
        self.backoff = backoff;
        self
    }

    /// Sets what happens after more restarts than the limit allows.
    ///
    /// Default: the task is retried every 5 minutes ([`GiveUp::default`]). If an [`escalation`](Self::escalation) is set, the task is given up
    /// for good by default, because the escalation follows only then.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, GiveUp};
    /// use std::time::Duration;
    /// let mirror = CriticalTaskConfig::new("mirror", |ctx| async move { ctx.cancelled().await })
    ///     .give_up(GiveUp::RetryEvery(Duration::from_secs(3_600)));
    /// # drop(mirror);
    /// ```
    pub fn give_up(mut self, give_up: GiveUp) -> Self {
        self.give_up = Some(give_up);
        self
    }

    /// Sets the delay before the first restart. Later delays follow the [`Backoff`]; its cap is raised to this delay if necessary.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let sync = CriticalTaskConfig::new("sync", |ctx| async move { ctx.cancelled().await })
    ///     .restart_delay(Duration::from_secs(5));
    /// # drop(sync);
    /// ```
    pub fn restart_delay(mut self, delay: Duration) -> Self {
        self.backoff = self.backoff.with_initial(delay);
        self
    }

    /// Sets the delays between restarts. Default: [`Backoff::default`].
    ///
    /// ```
    /// use otel_tasks::{Backoff, CriticalTaskConfig};
    /// use std::time::Duration;
    /// let sync = CriticalTaskConfig::new("sync", |ctx| async move { ctx.cancelled().await })
    ///     .backoff(Backoff::growing(Duration::from_secs(1), Duration::from_secs(60)));
    /// # drop(sync);
    /// ```
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets what the health of the task means for the health of the service.
    ///
    /// Default: [`Required`](HealthRole::Required) for a closure of priority Critical or High, [`Degrades`](HealthRole::Degrades) for a
    /// loop and for a closure of priority Normal or Low. The order of the calls does not matter.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, HealthRole};
    /// // The service works without it, so a failure neither ends the pod nor takes it out of the load balancer.
    /// let config = CriticalTaskConfig::new("recommendations", |ctx| async move { ctx.cancelled().await })
    ///     .health_role(HealthRole::Degrades);
    /// ```
    pub fn health_role(mut self, role: HealthRole) -> Self {
        self.health_role = Some(role);
        self
    }

    /// Sets the interval at which the monitor checks the health of the task. Default:
    /// [`CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL`], 5 minutes. The interval of the monitor's sweeps is the lower bound.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await })
    ///     .health_check_interval(Duration::from_secs(60));
    /// # drop(gateway);
    /// ```
    pub fn health_check_interval(mut self, interval: Duration) -> Self {
        self.health_check_interval = interval;
        self
    }

    /// Sets the longest time without a [heartbeat](TaskContext::heartbeat), after which the task counts as stalled. Off by default.
    ///
    /// The start of a run is its first heartbeat. A loop that sleeps needs none. A timer of the task detects the stall. If every thread of the
    /// runtime is blocked, the thread of the watchdog does.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::TaskContext;
    /// use std::time::Duration;
    /// async fn poll(ctx: TaskContext) {
    ///     while ctx.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
    ///         ctx.heartbeat();
    ///     }
    /// }
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("poll", poll).heartbeat_timeout(Duration::from_secs(30)))?;
    /// # Ok(()) }
    /// ```
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = Some(timeout);
        self
    }

    /// Sets the longest time of one poll, after which the task counts as stalled: it blocks a thread of the runtime. Off by default.
    ///
    /// Polls longer than [`slow_poll`](crate::task::TaskManagerBuilder::slow_poll) are always reported.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let render = CriticalTaskConfig::new("render", |ctx| async move { ctx.cancelled().await })
    ///     .poll_timeout(Duration::from_secs(2));
    /// # drop(render);
    /// ```
    pub fn poll_timeout(mut self, timeout: Duration) -> Self {
        self.poll_timeout = Some(timeout);
        self
    }

    /// Sets what happens when the task stalls. Default: [`StallAction::Restart`].
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, policy::StallAction};
    /// use std::time::Duration;
    /// let poll = CriticalTaskConfig::new("poll", |ctx| async move { ctx.cancelled().await })
    ///     .heartbeat_timeout(Duration::from_secs(30))
    ///     .on_stall(StallAction::Report);
    /// # drop(poll);
    /// ```
    pub fn on_stall(mut self, action: StallAction) -> Self {
        self.on_stall = action;
        self
    }

    /// Sets the longest time until the task calls [`ready`](TaskContext::ready). A run that is not ready in time fails as timed out. Tasks that
    /// depend on this one wait.
    ///
    /// Without this setting, a task is ready when it begins. A loop is also ready when its first iteration has succeeded.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::TaskContext;
    /// use std::time::Duration;
    /// async fn database(ctx: TaskContext) {
    ///     // open the connections, then:
    ///     ctx.ready();
    ///     ctx.cancelled().await;
    /// }
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("database", database).start_timeout(Duration::from_secs(10)))?;
    /// # Ok(()) }
    /// ```
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = Some(timeout);
        self
    }

    /// Adds a dependency: the task begins when that task is ready, and a shutdown stops it before that task. Several calls add several.
    ///
    /// A [`one_shot`](Self::one_shot) is ready for its dependents when it has succeeded. While the task waits, its health has the reason
    /// [`WaitsFor`](crate::health::HealthReason::WaitsFor).
    ///
    /// A dependency is registered [in the same call](crate::TaskManager::register_all) or before.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn run(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("database", run))?;
    /// tasks.register(CriticalTaskConfig::new("http", run).depends_on("database"))?;
    /// assert_eq!(tasks.snapshot("http").unwrap().depends_on, ["database".into()]);
    /// # Ok(()) }
    /// ```
    pub fn depends_on(mut self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        if !self.dependencies.contains(&name) {
            self.dependencies.push(name);
        }
        self
    }

    /// Sets what the task does when a dependency is lost. Default: [`DependencyLoss::Keep`].
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, policy::DependencyLoss};
    /// let commands = CriticalTaskConfig::new("commands", |ctx| async move { ctx.cancelled().await })
    ///     .depends_on("gateway")
    ///     .on_dependency_loss(DependencyLoss::Restart);
    /// # drop(commands);
    /// ```
    pub fn on_dependency_loss(mut self, loss: DependencyLoss) -> Self {
        self.loss = loss;
        self
    }

    /// Sets what else is stopped when the task is given up for good. Default: [`Escalation::None`]. With another value
    /// [`GiveUp::ForGood`] becomes the default of [`give_up`](Self::give_up).
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::policy::Escalation;
    /// let tasks = TaskManager::new();
    /// let gateway = CriticalTaskConfig::new("gateway", |_| async { Err::<(), _>("no token") });
    /// tasks.register(gateway.max_restarts(1, std::time::Duration::from_secs(60)).escalation(Escalation::Shutdown))?;
    /// // The shutdown begins when the gateway is given up.
    /// let report = tasks.run_until(std::future::pending::<()>()).await;
    /// assert_eq!(report.cause.as_ref().map(|cause| &*cause.task), Some("gateway"));
    /// # Ok(()) }
    /// ```
    #[doc(alias = "escalate")]
    pub fn escalation(mut self, escalation: Escalation) -> Self {
        self.escalation = escalation;
        self
    }

    /// Sets the longest time of a run, or of an iteration of a loop, after which it is dropped. Unlimited by default.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskLoop};
    /// use std::time::Duration;
    /// let backup = TaskLoop::every(Duration::from_secs(3_600), |_| async { /* save */ });
    /// let backup = CriticalTaskConfig::from_loop("backup", backup).run_timeout(Duration::from_secs(600));
    /// # drop(backup);
    /// ```
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.run_timeout = Some(timeout);
        self
    }

    /// Marks a task that takes work in, such as a server or a queue consumer. A shutdown stops intake tasks first.
    ///
    /// The other tasks continue until every intake task has ended with the work that it [owns](TaskContext::task), or its share of the
    /// deadline is over. Until then, runs without an owner are admitted too. If other tasks depend on an intake task, or follow it in its
    /// group, it still stops after them.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let consumer = CriticalTaskConfig::new("consumer", |ctx| async move { ctx.cancelled().await })
    ///     .intake()
    ///     .shutdown_grace(Duration::from_secs(20));
    /// # drop(consumer);
    /// ```
    pub fn intake(mut self) -> Self {
        self.intake = true;
        self
    }

    /// Runs the task only while `gate` lets it, such as a lease that one of several processes holds. See [`gate`](crate::gate).
    ///
    /// While it waits for the gate the task is in the state [`Standby`](crate::snapshot::TaskState::Standby). A pause stops a loop with a
    /// gate instead of holding it, so that another process can take over.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, gate::Gate};
    /// fn outbox(lease: impl Gate) -> CriticalTaskConfig {
    ///     CriticalTaskConfig::new("outbox", |ctx| async move { ctx.cancelled().await }).gate(lease)
    /// }
    /// ```
    pub fn gate(mut self, gate: impl Gate) -> Self {
        self.gate = Some(Arc::new(gate));
        self
    }

    /// Sets the action for a poll of the task that has not returned shortly before the permission of its [gate](Self::gate) ends.
    ///
    /// Default: [`OverrunAction::Exit`].
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, gate::Gate, policy::OverrunAction};
    /// fn outbox(lease: impl Gate) -> CriticalTaskConfig {
    ///     let outbox = CriticalTaskConfig::new("outbox", |ctx| async move { ctx.cancelled().await });
    ///     outbox.gate(lease).on_overrun(OverrunAction::Report)
    /// }
    /// ```
    pub fn on_overrun(mut self, action: OverrunAction) -> Self {
        self.on_overrun = action;
        self
    }

    /// Sets the time that the task has to end after a stop request, before it is dropped.
    ///
    /// Default: 10 s for a stop or restart by hand, and at shutdown the time that the deadline allows. The work that the task
    /// [owns](TaskContext::task) has the same time, except at a restart.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::time::Duration;
    /// let writer = CriticalTaskConfig::new("writer", |ctx| async move { ctx.cancelled().await })
    ///     .shutdown_grace(Duration::from_secs(3));
    /// # drop(writer);
    /// ```
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = Some(grace);
        self
    }

    /// Classifies errors of type `E`: transient if a retry can help, permanent if it cannot. Errors without a rule are transient.
    ///
    /// The rule receives the returned error, or the outermost of its sources that is an `E`. A second rule for the same type replaces the
    /// first. Errors without a rule of the task are left to [the manager's rules](crate::task::TaskManagerBuilder::classify).
    ///
    /// If the task returns a type of its own, `E` must be that type. A rule that cannot match is refused when the task is registered. If the
    /// task returns a report (`anyhow::Error`, `eyre::Report`, `Box<dyn Error>`), `E` may be any error in it. Then several types may have a
    /// rule.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, policy::ErrorClass};
    /// use std::io;
    /// let config = CriticalTaskConfig::new("mirror", |_| async {
    ///     let refused = io::Error::from(io::ErrorKind::PermissionDenied);
    ///     Err::<(), _>(anyhow::Error::from(refused).context("mirror the settings"))
    /// })
    /// .classify(|error: &io::Error| match error.kind() {
    ///     io::ErrorKind::PermissionDenied => ErrorClass::Permanent,
    ///     _ => ErrorClass::Transient,
    /// });
    /// # drop(config);
    /// ```
    pub fn classify<E: OutputError<Via>, Via>(
        mut self,
        class: impl Fn(&E) -> ErrorClass + Send + Sync + 'static,
    ) -> Self {
        self.rules.classify(class);
        self
    }

    /// Names errors of type `E` for the attribute `error.type`. Without a name, the attribute is the Rust type of the error.
    ///
    /// `E` is found as [`classify`](Self::classify) finds it. Use few names: beyond
    /// [`MAX_ERROR_TYPES`](crate::snapshot::TaskSnapshot::MAX_ERROR_TYPES) they count as `_OTHER`.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// use std::io;
    /// let config = CriticalTaskConfig::new("mirror", |_| async { Err::<(), _>(io::Error::other("down")) })
    ///     .error_type(|_: &io::Error| "mirror_down");
    /// # drop(config);
    /// ```
    pub fn error_type<E: OutputError<Via>, Via>(
        mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        self.rules.name(name);
        self
    }

    pub(crate) fn check(&self) -> Result<RestartIntensity, RegisterError> {
        let name = || self.name.clone();
        check_name(&self.name, 0)?;
        let policy = |source: PolicyError| RegisterError::Policy { name: name(), source };
        let given = match self.limit {
            None => None,
            Some(Limit::Given { max_restarts, within }) => Some(RestartIntensity::new(max_restarts, within)),
            Some(Limit::Checked(intensity)) => Some(Ok(intensity)),
        };
        let given = given.transpose().map_err(policy)?;
        // The default limit is no promise to give up: with delays above it, it is never reached.
        given.map_or(Ok(()), |given| check_reachable(given, &self.backoff)).map_err(policy)?;
        let intensity = given.unwrap_or_default();
        let retry_interval = match self.give_up_rule() {
            GiveUp::ForGood => None,
            GiveUp::RetryEvery(interval) => Some(interval),
        };
        for (field, duration) in [
            ("retry interval", retry_interval),
            ("health check interval", Some(self.health_check_interval)),
            ("heartbeat timeout", self.heartbeat_timeout),
            ("run timeout", self.run_timeout),
            ("start timeout", self.start_timeout),
            ("poll timeout", self.poll_timeout),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return Err(RegisterError::ZeroDuration { name: name(), field });
            }
        }
        if let What::Loop(task_loop) = &self.what {
            task_loop.check().map_err(|source| RegisterError::Loop { name: name(), source })?;
        }
        let returned = self.returned_error;
        match self.rules.types().find(|of| !returned.is_some_and(|returned| of.fits(returned))) {
            None => Ok(intensity),
            Some(of) => Err(RegisterError::ErrorType {
                name: name(),
                returned: returned.map(|returned| returned.name),
                classified: of.name,
            }),
        }
    }

    /// Makes a member of a family of it.
    pub(super) fn of_family(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self.health_role.get_or_insert(HealthRole::Degrades);
        self
    }

    /// Returns what happens after more restarts than the limit allows.
    fn give_up_rule(&self) -> GiveUp {
        self.give_up.unwrap_or(match self.escalation {
            Escalation::None => GiveUp::default(),
            _ => GiveUp::ForGood,
        })
    }

    /// Makes what the manager registers.
    pub(super) fn registration(
        self,
        intensity: RestartIntensity,
        membership: Option<Membership>,
        shared: &Arc<Shared>,
    ) -> Registration {
        let give_up = self.give_up_rule();
        let identity = Identity {
            name: self.name.as_str().into(),
            category: self.category,
            priority: self.priority,
            component: self.component,
        };
        let is_loop = matches!(self.what, What::Loop(_));
        let health_role = self.health_role.unwrap_or_else(|| HealthRole::of(is_loop, self.priority));
        let rules = shared.recorder.with_rules(self.rules);
        let body: Arc<dyn Body> = match self.what {
            What::Closure(factory) => factory.into_body(),
            What::Loop(task_loop) => Arc::new(LoopBody::new(*task_loop)),
        };
        let body: Arc<dyn Body> = match self.gate {
            Some(gate) => Arc::new(GatedBody::new(body, gate, self.on_overrun)),
            None => body,
        };
        let spec = shared.spec(TaskSpec {
            policy: self.policy,
            intensity,
            backoff: self.backoff,
            give_up,
            health_check_interval: self.health_check_interval,
            heartbeat_timeout: self.heartbeat_timeout,
            shutdown_grace: self.shutdown_grace,
            run_timeout: self.run_timeout,
            start_timeout: self.start_timeout,
            poll_timeout: self.poll_timeout,
            on_stall: self.on_stall,
            escalation: self.escalation,
            health_role,
            intake: self.intake,
            // Always restarted, it never ends for good.
            ends: self.one_shot && self.policy != RestartPolicy::Always,
        });
        let links = Links::new(self.dependencies, self.loss, membership);
        Registration { identity, spec, body, rules, links }
    }
}

/// Checks a name to which at least `more` bytes are added.
pub(super) fn check_name(name: &str, more: usize) -> Result<(), RegisterError> {
    let bytes = name.len() + more;
    if name.is_empty() {
        return Err(RegisterError::EmptyName);
    }
    if name == OVERFLOW_NAME {
        return Err(RegisterError::ReservedName { name: name.to_owned() });
    }
    if bytes > NameRule::MAX_NAME {
        let name = error_text::up_to(name, NameRule::MAX_NAME).to_owned();
        return Err(RegisterError::NameTooLong { name, bytes });
    }
    Ok(())
}

impl std::fmt::Debug for CriticalTaskConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CriticalTaskConfig")
            .field("name", &self.name)
            .field("category", &self.category)
            .field("priority", &self.priority)
            .field("component", &self.component)
            .field("restart", &self.policy)
            .field("limit", &self.limit)
            .field("backoff", &self.backoff)
            .field("give_up", &self.give_up)
            .field("health_check_interval", &self.health_check_interval)
            .finish_non_exhaustive()
    }
}
