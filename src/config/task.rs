//! What a user says of a critical task, and components that bring their own.

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use crate::{
    cell::Identity,
    engine::{
        Body, ErrorRules, Factory, Links, LoopBody, LoopHandle, Membership, Registration, Shared,
        TaskContext, TaskLoop, TaskSpec, erase, error_type_of,
    },
    error::RegisterError,
    policy::{
        Backoff, DependencyLoss, ErrorClass, Escalation, PolicyError, RestartIntensity, RestartPolicy,
        StallAction, TaskCategory, TaskOutput, TaskPriority, check_reachable, type_path,
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
    max_restarts: u32,
    restart_window: Duration,
    backoff: Backoff,
    health_check_interval: Duration,
    heartbeat_timeout: Option<Duration>,
    run_timeout: Option<Duration>,
    shutdown_grace: Option<Duration>,
    start_timeout: Option<Duration>,
    poll_timeout: Option<Duration>,
    on_stall: StallAction,
    escalation: Escalation,
    intake: bool,
    pub(super) dependencies: Vec<Arc<str>>,
    loss: DependencyLoss,
    pub(crate) what: What,
    error_type: Option<(std::any::TypeId, &'static str)>,
    rules: ErrorRules,
    /// The types that classifications were given for.
    classified: Vec<(std::any::TypeId, &'static str)>,
}

pub(crate) enum What {
    Closure(Arc<dyn Factory>),
    /// Boxed: a config is moved about, and most are closures.
    Loop(Box<TaskLoop>),
}

impl CriticalTaskConfig {
    /// How often a task's health is checked by default.
    pub const DEFAULT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);

    /// A task that runs `factory`'s future; each restart calls `factory` again.
    ///
    /// Defaults: priority High, category Scheduled, at most [`RestartIntensity::DEFAULT_MAX_RESTARTS`] restarts in
    /// [`RestartIntensity::DEFAULT_WITHIN`], the first after 30 s (see [`Backoff::default`]), health checked every
    /// [`CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL`]; restarted after failures ([`RestartPolicy::OnFailure`]).
    pub fn new<F, Fut>(name: impl Into<String>, factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput + 'static,
    {
        Self::of(name.into(), What::Closure(erase(factory)), error_type_of::<Fut::Output>())
    }

    /// A task named after its closure's or function's type: `module::function`.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskContext};
    /// async fn gateway(_ctx: TaskContext) {}
    /// assert!(CriticalTaskConfig::unnamed(gateway).name().ends_with("gateway"));
    /// ```
    pub fn unnamed<F, Fut>(factory: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput + 'static,
    {
        Self::new(type_path::<F>(), factory)
    }

    /// A task that is a loop.
    pub fn from_loop(name: impl Into<String>, task_loop: TaskLoop) -> Self {
        let error_type = task_loop.error_type;
        Self::of(name.into(), What::Loop(Box::new(task_loop)), error_type)
    }

    fn of(name: String, what: What, error_type: Option<(std::any::TypeId, &'static str)>) -> Self {
        Self {
            name,
            category: TaskCategory::Scheduled,
            priority: TaskPriority::High,
            component: None,
            policy: RestartPolicy::default(),
            max_restarts: RestartIntensity::DEFAULT_MAX_RESTARTS,
            restart_window: RestartIntensity::DEFAULT_WITHIN,
            backoff: Backoff::default(),
            health_check_interval: CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL,
            heartbeat_timeout: None,
            run_timeout: None,
            shutdown_grace: None,
            start_timeout: None,
            poll_timeout: None,
            on_stall: StallAction::default(),
            escalation: Escalation::default(),
            intake: false,
            dependencies: Vec::new(),
            loss: DependencyLoss::default(),
            what,
            error_type,
            rules: ErrorRules::default(),
            classified: Vec::new(),
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

    /// When it is restarted ([`RestartPolicy::OnFailure`] by default).
    #[doc(alias = "restart")]
    pub fn restart_policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How many restarts are allowed within `within`; one failure more and the task is given up.
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        (self.max_restarts, self.restart_window) = (max_restarts, within);
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

    /// How far it reaches when the task is given up ([`Escalation::None`] by default).
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

    /// How long the task may go on after it was asked to stop, before it is dropped. By default 10 s for a stop or restart
    /// by hand, and at shutdown as long as the deadline allows. The work that the task [owns](TaskContext::task) is waited for
    /// within the same time, except at a restart.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = Some(grace);
        self
    }

    /// Tells errors for which trying again can help from those for which it cannot.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, policy::ErrorClass};
    /// use std::io;
    /// let config = CriticalTaskConfig::new("mirror", |_| async { Err::<(), _>(io::Error::other("down")) })
    ///     .classify(|error: &io::Error| match error.kind() {
    ///         io::ErrorKind::PermissionDenied => ErrorClass::Permanent,
    ///         _ => ErrorClass::Transient,
    ///     });
    /// ```
    pub fn classify<E: 'static>(mut self, class: impl Fn(&E) -> ErrorClass + Send + Sync + 'static) -> Self {
        self.classified.push((std::any::TypeId::of::<E>(), std::any::type_name::<E>()));
        // The type is compared when the task is registered, so the fallback is never seen.
        let class = move |error: &dyn Any| error.downcast_ref::<E>().map_or(ErrorClass::default(), &class);
        self.rules.class = Some(Arc::new(class));
        self
    }

    /// Names errors for the attribute `error.type`, which otherwise carries the error's Rust type. Names are few: beyond
    /// [`MAX_ERROR_TYPES`](crate::snapshot::TaskSnapshot::MAX_ERROR_TYPES) they count as `_OTHER`.
    pub fn error_type<E: 'static>(
        mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        self.classified.push((std::any::TypeId::of::<E>(), std::any::type_name::<E>()));
        let name = move |error: &dyn Any| error.downcast_ref::<E>().map_or(std::any::type_name::<E>(), &name);
        self.rules.error_type = Some(Arc::new(name));
        self
    }

    pub(crate) fn check(&self) -> Result<RestartIntensity, RegisterError> {
        let name = || self.name.clone();
        if self.name.is_empty() {
            return Err(RegisterError::EmptyName);
        }
        let policy = |source: PolicyError| RegisterError::Policy { name: name(), source };
        let intensity = RestartIntensity::new(self.max_restarts, self.restart_window).map_err(policy)?;
        check_reachable(intensity, &self.backoff).map_err(policy)?;
        for (field, duration) in [
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
        let returned = self.error_type;
        match self.classified.iter().find(|(id, _)| returned.is_none_or(|(returned, _)| returned != *id)) {
            None => Ok(intensity),
            Some((_, classified)) => Err(RegisterError::ErrorType {
                name: name(),
                returned: returned.map(|(_, name)| name),
                classified,
            }),
        }
    }

    /// Makes what the manager registers.
    pub(super) fn registration(
        self,
        intensity: RestartIntensity,
        membership: Option<Membership>,
        shared: &Shared,
    ) -> Registration {
        let identity = Identity {
            name: self.name.as_str().into(),
            category: self.category,
            priority: self.priority,
            component: self.component,
        };
        let rules = (!self.rules.is_empty()).then(|| Arc::new(self.rules));
        let body: Arc<dyn Body> = match self.what {
            What::Closure(factory) => factory.into_body(),
            What::Loop(task_loop) => Arc::new(LoopBody::new(*task_loop)),
        };
        let spec = shared.spec(TaskSpec {
            policy: self.policy,
            intensity,
            backoff: self.backoff,
            health_check_interval: self.health_check_interval,
            heartbeat_timeout: self.heartbeat_timeout,
            shutdown_grace: self.shutdown_grace,
            run_timeout: self.run_timeout,
            start_timeout: self.start_timeout,
            poll_timeout: self.poll_timeout,
            on_stall: self.on_stall,
            escalation: self.escalation,
            intake: self.intake,
        });
        let links = Links::new(self.dependencies, self.loss, membership);
        Registration { identity, spec, body, rules, links }
    }
}

impl std::fmt::Debug for CriticalTaskConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CriticalTaskConfig")
            .field("name", &self.name)
            .field("category", &self.category)
            .field("priority", &self.priority)
            .field("component", &self.component)
            .field("restart", &self.policy)
            .field("max_restarts", &self.max_restarts)
            .field("restart_window", &self.restart_window)
            .field("backoff", &self.backoff)
            .field("health_check_interval", &self.health_check_interval)
            .finish_non_exhaustive()
    }
}
