//! What a user says of a critical task, and components that bring their own.

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

/// A critical task: what runs, under which name, and how it is restarted.
///
/// What it is given is checked when it is registered, so that the calls chain.
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
    gate: Option<Arc<dyn Gate>>,
    on_overrun: OverrunAction,
    pub(super) dependencies: Vec<Arc<str>>,
    loss: DependencyLoss,
    pub(crate) what: What,
    returned_error: Option<ReturnedError>,
    rules: ErrorRules,
}

/// How often a task may be restarted, as it was given: it is checked when the task is registered.
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
    /// How often a task's health is checked by default.
    pub const DEFAULT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);

    /// Creates a task that runs the future of `factory` for as long as the service runs; each restart calls `factory` again.
    ///
    /// If the future ends, also with `Ok(())`, the end is logged as a warning and the task is restarted
    /// ([`RestartPolicy::Always`]). For work that may end, see [`one_shot`](Self::one_shot).
    ///
    /// Defaults: priority High, category Scheduled. The first restart follows within a second, later ones after up to a minute
    /// ([`Backoff::default`]). After [`RestartIntensity::DEFAULT_MAX_RESTARTS`] restarts within
    /// [`RestartIntensity::DEFAULT_WITHIN`] the task is tried again every 5 minutes ([`GiveUp::default`]). Health is checked every
    /// [`CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL`].
    pub fn new<F, Fut, Via>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::of(name.into(), What::Closure(erase(factory)), returned_error_of::<Fut::Output, Via>())
    }

    /// Creates a task that may end: it is finished once it has succeeded, and restarted after a failure. The same as
    /// [`new`](Self::new) with [`RestartPolicy::OnFailure`].
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let migrate = CriticalTaskConfig::one_shot("migrate", |_| async { Ok::<(), std::io::Error>(()) });
    /// # drop(migrate);
    /// ```
    pub fn one_shot<F, Fut, Via>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::new(name, factory).restart_policy(RestartPolicy::OnFailure)
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

    /// Creates a task as [`new`](Self::new) does, and lends `state` to its runs: each run borrows it until it ends, and the next one
    /// finds it as it was left, also after an error, a panic or an abort. Two runs of a task never overlap.
    ///
    /// A run may give its [`Lent`] away, for example to a thread. A run that begins before it is back fails with the `error.type`
    /// [`state_held`](crate::policy::ERROR_TYPE_STATE_HELD), and is restarted as after any error that can pass.
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

    /// A task named after its closure's or function's type: `module::function`.
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
    /// An iteration that fails, panics or times out is a failed run, and the loop goes on at its next time: without a restart, and
    /// without a delay. A permanent error, or [`OnError::End`](crate::schedule::OnError::End), ends the loop, and the restart policy
    /// decides ([`RestartPolicy::OnFailure`] by default).
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
            gate: None,
            on_overrun: OverrunAction::default(),
            dependencies: Vec::new(),
            loss: DependencyLoss::default(),
            what,
            returned_error,
            rules: ErrorRules::default(),
        }
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle to the loop, where the task is one.
    pub fn loop_handle(&self) -> Option<LoopHandle> {
        match &self.what {
            What::Loop(task_loop) => Some(task_loop.handle()),
            What::Closure(_) => None,
        }
    }

    /// What the task is (Scheduled by default, like every registered task).
    pub fn category(mut self, category: TaskCategory) -> Self {
        self.category = category;
        self
    }

    /// How late it is stopped (High by default).
    pub fn priority(mut self, priority: TaskPriority) -> Self {
        self.priority = priority;
        self
    }

    /// The component that owns the task. Set by the manager for tasks that a component hands over.
    #[doc(alias = "cog")]
    #[doc(alias = "cog_name")]
    pub fn component(mut self, component: impl Into<Arc<str>>) -> Self {
        self.component = Some(component.into());
        self
    }

    /// Sets when the task is restarted ([`RestartPolicy::Always`] by default, [`RestartPolicy::OnFailure`] for a loop).
    #[doc(alias = "restart")]
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how many restarts are allowed within `within`. After one failure more the task is in the state `Failed`, and
    /// [`give_up`](Self::give_up) says what follows.
    ///
    /// By default [`RestartIntensity::DEFAULT_MAX_RESTARTS`] within [`RestartIntensity::DEFAULT_WITHIN`].
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        self.limit = Some(Limit::Given { max_restarts, within });
        self
    }

    /// Removes the limit on restarts: the task is restarted for ever, with the delays of its [`Backoff`].
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
    /// By default the task is tried again every 5 minutes ([`GiveUp::default`]), or, if an [`escalation`](Self::escalation) is set,
    /// given up for good: an escalation follows only then.
    pub fn give_up(mut self, give_up: GiveUp) -> Self {
        self.give_up = Some(give_up);
        self
    }

    /// The delay before the first restart; later ones follow the [`Backoff`], whose cap is raised to it where needed.
    pub fn restart_delay(mut self, delay: Duration) -> Self {
        self.backoff = self.backoff.with_initial(delay);
        self
    }

    /// How the delays between restarts grow.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets what the task's health means for the health of the service.
    ///
    /// Default: [`Required`](HealthRole::Required) for a closure of priority Critical or High, [`Degrades`](HealthRole::Degrades) for a
    /// loop and for a closure of priority Normal or Low, whatever the order of the calls.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, HealthRole};
    /// // The service answers without it, so a failure neither ends the pod nor takes it out of the load balancer.
    /// let config = CriticalTaskConfig::new("recommendations", |ctx| async move { ctx.cancelled().await })
    ///     .health_role(HealthRole::Degrades);
    /// ```
    pub fn health_role(mut self, role: HealthRole) -> Self {
        self.health_role = Some(role);
        self
    }

    /// How often the monitor checks the task's health ([`CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL`]); never more often than it sweeps.
    pub fn health_check_interval(mut self, interval: Duration) -> Self {
        self.health_check_interval = interval;
        self
    }

    /// How long the task may go without a [heartbeat](TaskContext::heartbeat) before it counts as stalled; each run begins
    /// with one. A loop that sleeps needs none. Off by default.
    ///
    /// Seen by a timer of the task's own, and by the watchdog's thread where every thread of the runtime is blocked.
    pub fn heartbeat_timeout(mut self, timeout: Duration) -> Self {
        self.heartbeat_timeout = Some(timeout);
        self
    }

    /// How long one poll of the task may take before it counts as stalled: it blocks a thread of the runtime, and others
    /// with it. Off by default; polls longer than [`slow_poll`](crate::task::TaskManagerBuilder::slow_poll) are told anyway.
    pub fn poll_timeout(mut self, timeout: Duration) -> Self {
        self.poll_timeout = Some(timeout);
        self
    }

    /// What is done when the task stalls ([`StallAction::Restart`] by default).
    pub fn on_stall(mut self, action: StallAction) -> Self {
        self.on_stall = action;
        self
    }

    /// The task says when it is [ready](TaskContext::ready), and fails as timed out where it has not said so this long after
    /// it began. Those that depend on it wait. Without this a task is ready when it begins; a loop also when its first
    /// iteration has succeeded.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = Some(timeout);
        self
    }

    /// Begins the task only when that one is ready, and stops it before that one at shutdown. May be called again for
    /// another. Registered [together](crate::TaskManager::register_all) or before.
    pub fn depends_on(mut self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        if !self.dependencies.contains(&name) {
            self.dependencies.push(name);
        }
        self
    }

    /// What the task does when one it depends on is lost ([`DependencyLoss::Keep`] by default).
    pub fn on_dependency_loss(mut self, loss: DependencyLoss) -> Self {
        self.loss = loss;
        self
    }

    /// Sets what else is stopped when the task is given up for good ([`Escalation::None`] by default). With another value
    /// [`GiveUp::ForGood`] becomes the default of [`give_up`](Self::give_up).
    #[doc(alias = "escalate")]
    pub fn escalation(mut self, escalation: Escalation) -> Self {
        self.escalation = escalation;
        self
    }

    /// How long one run, or one iteration of a loop, may take before it is dropped. Unlimited by default.
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.run_timeout = Some(timeout);
        self
    }

    /// Stops the task before all others at shutdown: it takes work in, such as a server or the consumer of a queue.
    ///
    /// Other tasks are asked once every intake task, and the work that it [owns](TaskContext::task), has ended, or its share of the
    /// deadline is over. Until then runs that no task owns are admitted too. A task that others depend on, or that is followed in its
    /// group, still stops after those.
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
    pub fn gate(mut self, gate: impl Gate) -> Self {
        self.gate = Some(Arc::new(gate));
        self
    }

    /// Sets what is done when one poll of the task goes on until its [gate](Self::gate)'s permission is about to end
    /// ([`OverrunAction::Exit`] by default).
    pub fn on_overrun(mut self, action: OverrunAction) -> Self {
        self.on_overrun = action;
        self
    }

    /// How long the task may go on after it was asked to stop, before it is dropped. By default 10 s for a stop or restart
    /// by hand, and at shutdown as long as the deadline allows. The work that the task [owns](TaskContext::task) is waited for
    /// within the same time, except at a restart.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = Some(grace);
        self
    }

    /// Tells errors of type `E` for which trying again can help from those for which it cannot. Errors without a rule are transient.
    ///
    /// The rule is for the returned error, or for the outermost of its sources that is an `E`. If the task returns a type of its own, `E`
    /// must be that type: a rule that cannot match is refused when the task is registered. If the task returns a report
    /// (`anyhow::Error`, `eyre::Report`, `Box<dyn Error>`), `E` may be any error in it, and there may be a rule for each of several
    /// types. A second rule for the same type replaces the first. Errors that no rule of the task is for are left to
    /// [the manager's rules](crate::task::TaskManagerBuilder::classify).
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

    /// Names errors of type `E` for the attribute `error.type`, which otherwise carries the error's Rust type. `E` is found as
    /// [`classify`](Self::classify) finds it. Names are few: beyond
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
        shared: &Shared,
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
