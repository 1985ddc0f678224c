//! What a user says of a critical task, and components that bring their own.

use std::{
    any::Any,
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    cell::Identity,
    engine::{
        Body, ErrorRules, Factory, Group, Links, LoopBody, LoopHandle, Membership, Registration, Shared,
        TaskContext, TaskLoop, TaskSpec, erase, error_type_of,
    },
    error::RegisterError,
    policy::{
        Backoff, DEFAULT_MAX_RESTARTS, DEFAULT_RESTART_WINDOW, DependencyLoss, ErrorClass, Escalation,
        PolicyError, RestartIntensity, RestartPolicy, RestartStrategy, StallAction, TaskCategory, TaskOutput,
        TaskPriority, check_reachable, type_path,
    },
    run::catch,
    telemetry::{
        contract::{SCOPE, key, record},
        with_trace,
    },
};

/// How often a task's health is checked by default, as in the seed.
pub const DEFAULT_HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);

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
    name: String,
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
    dependencies: Vec<Arc<str>>,
    loss: DependencyLoss,
    what: What,
    error_type: Option<(std::any::TypeId, &'static str)>,
    rules: ErrorRules,
    /// The types that classifications were given for.
    classified: Vec<(std::any::TypeId, &'static str)>,
}

enum What {
    Closure(Arc<dyn Factory>),
    /// Boxed: a config is moved about, and most are closures.
    Loop(Box<TaskLoop>),
}

impl CriticalTaskConfig {
    /// A task that runs `factory`'s future; each restart calls `factory` again.
    ///
    /// Defaults, as in the seed: priority High, category Scheduled, at most [`DEFAULT_MAX_RESTARTS`] restarts in
    /// [`DEFAULT_RESTART_WINDOW`], the first after 30 s (see [`Backoff::default`]), health checked every
    /// [`DEFAULT_HEALTH_CHECK_INTERVAL`]; restarted after failures ([`RestartPolicy::OnFailure`]).
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
            max_restarts: DEFAULT_MAX_RESTARTS,
            restart_window: DEFAULT_RESTART_WINDOW,
            backoff: Backoff::default(),
            health_check_interval: DEFAULT_HEALTH_CHECK_INTERVAL,
            heartbeat_timeout: None,
            run_timeout: None,
            shutdown_grace: None,
            start_timeout: None,
            poll_timeout: None,
            on_stall: StallAction::default(),
            escalation: Escalation::default(),
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
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
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

    /// How often the monitor checks the task's health ([`DEFAULT_HEALTH_CHECK_INTERVAL`]); never more often than it sweeps.
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
    /// with it. Off by default; polls longer than [`slow_poll`](crate::TaskManagerBuilder::slow_poll) are told anyway.
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
    /// another. Registered [together](crate::TaskManager::register_critical_tasks) or before.
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
    pub fn escalate(mut self, escalation: Escalation) -> Self {
        self.escalation = escalation;
        self
    }

    /// How long one run, or one iteration of a loop, may take before it is dropped. Unlimited by default.
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.run_timeout = Some(timeout);
        self
    }

    /// How long the task may go on after it was asked to stop, before it is dropped. By default 10 s for a stop or restart
    /// by hand, and at shutdown as long as the deadline allows.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = Some(grace);
        self
    }

    /// Tells errors for which trying again can help from those for which it cannot.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, ErrorClass};
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
    /// [`MAX_ERROR_TYPES`](crate::MAX_ERROR_TYPES) they count as `_OTHER`.
    pub fn error_type<E: 'static>(
        mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        self.classified.push((std::any::TypeId::of::<E>(), std::any::type_name::<E>()));
        let name = move |error: &dyn Any| error.downcast_ref::<E>().map_or(std::any::type_name::<E>(), &name);
        self.rules.error_type = Some(Arc::new(name));
        self
    }

    /// Lets a test make the task fail.
    #[cfg(feature = "testing")]
    pub fn faults(mut self, faults: &crate::testing::Faults) -> Self {
        let wrap = |factory| faults.around(factory);
        self.what = match self.what {
            What::Closure(factory) => What::Closure(wrap(factory)),
            What::Loop(mut task_loop) => {
                task_loop.parts.factory = wrap(task_loop.parts.factory);
                What::Loop(task_loop)
            }
        };
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
    fn registration(
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
        let body = match self.what {
            What::Closure(factory) => Body::Closure(factory),
            What::Loop(task_loop) => Body::Loop(LoopBody::new(*task_loop)),
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
        });
        let links = Links::new(self.dependencies, self.loss, membership);
        Registration { identity, spec, body, rules, links }
    }
}

/// Registers tasks together: all, or none where one is refused.
#[track_caller]
pub(crate) fn register(
    configs: Vec<CriticalTaskConfig>,
    group: Option<&Arc<Group>>,
    shared: &Arc<Shared>,
) -> Result<(), RegisterError> {
    let mut intensities = Vec::with_capacity(configs.len());
    for config in &configs {
        intensities.push(config.check()?);
    }
    if shared.tracker.is_closed() {
        return Err(RegisterError::ShuttingDown);
    }
    let membership = |index| group.map(|group| Membership { group: group.clone(), index });
    let registrations = configs
        .into_iter()
        .zip(intensities)
        .enumerate()
        .map(|(index, (config, intensity))| config.registration(intensity, membership(index), shared))
        .collect();
    shared.register(registrations, group)
}

/// Tasks that begin in order, each when the one before is ready; end in reverse; and are restarted by one strategy.
///
/// A member that is restarted takes the others along as the [`RestartStrategy`] says: they are stopped first, the last
/// first, and all begin anew in order, those that had finished by themselves too. Members that were stopped by hand stay
/// so, and one with [`RestartPolicy::Never`] is stopped with the others and not begun again. It is one restart, counted
/// against the limit of the member that failed, and against the group's where it has one. A second member that fails
/// meanwhile is part of the same restart.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, RestartStrategy, TaskGroup, TaskManager};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::RegisterError> {
/// let tasks = TaskManager::builder().build();
/// let group = TaskGroup::new("ingest", RestartStrategy::RestForOne)
///     .task(CriticalTaskConfig::new("connection", |ctx| async move { ctx.cancelled().await }))
///     .task(CriticalTaskConfig::new("reader", |ctx| async move { ctx.cancelled().await }));
/// tasks.register_group(group)?;
/// # Ok(()) }
/// ```
#[must_use = "a group does nothing until it is registered"]
#[derive(Debug)]
pub struct TaskGroup {
    name: String,
    strategy: RestartStrategy,
    intensity: Option<(u32, Duration)>,
    tasks: Vec<CriticalTaskConfig>,
}

impl TaskGroup {
    /// A group without members.
    pub fn new(name: impl Into<String>, strategy: RestartStrategy) -> Self {
        Self { name: name.into(), strategy, intensity: None, tasks: Vec::new() }
    }

    /// Adds a member, after those that are there.
    pub fn task(mut self, task: CriticalTaskConfig) -> Self {
        self.tasks.push(task);
        self
    }

    /// How many restarts of its members together are allowed within `within`, as OTP counts them; one more, and the member
    /// that failed is given up. By default each member has its own limit only.
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        self.intensity = Some((max_restarts, within));
        self
    }

    /// The group's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[track_caller]
    pub(crate) fn register(self, shared: &Arc<Shared>) -> Result<(), RegisterError> {
        let Self { name, strategy, intensity, tasks } = self;
        if tasks.is_empty() {
            return Err(RegisterError::EmptyGroup { group: name });
        }
        let intensity = intensity
            .map(|(max_restarts, within)| RestartIntensity::new(max_restarts, within))
            .transpose()
            .map_err(|source| RegisterError::GroupPolicy { group: name, source })?;
        let group = Group::new(strategy, intensity, tasks.len());
        register(tasks, Some(&group), shared)
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

/// A component that brings critical tasks of its own.
///
/// Implemented for closures too. It is asked once, when its component is discovered; a panic in it is caught, reported, and
/// the other components are asked all the same.
#[diagnostic::on_unimplemented(note = "a closure `|| vec![CriticalTaskConfig::new(..)]` is a provider, too")]
pub trait CriticalTasksProvider: Send + Sync + 'static {
    /// The tasks of this component.
    fn get_critical_tasks(&self) -> Vec<CriticalTaskConfig>;
}

impl<F: Fn() -> Vec<CriticalTaskConfig> + Send + Sync + 'static> CriticalTasksProvider for F {
    fn get_critical_tasks(&self) -> Vec<CriticalTaskConfig> {
        self()
    }
}

/// What a discovery found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Discovery {
    /// The names of the tasks that were registered now.
    pub registered: Vec<String>,
    /// The tasks that were refused, with their component and the reason. A task that is registered already is not one.
    pub refused: Vec<(String, RegisterError)>,
    /// The components whose provider panicked, with the panic's text.
    pub panicked: Vec<(String, String)>,
}

/// The components of a manager.
#[derive(Default)]
pub(crate) struct Components(Mutex<BTreeMap<Arc<str>, Component>>);

struct Component {
    provider: Arc<dyn CriticalTasksProvider>,
    /// Whether the provider has been asked.
    discovered: bool,
}

impl Components {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Component>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, name: Arc<str>, provider: Arc<dyn CriticalTasksProvider>) {
        // The one before is dropped when the lock is no longer held: its destructor is the user's code.
        let before = self.all().insert(name, Component { provider, discovered: false });
        drop(before);
    }

    /// Answers whether there was one.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let removed = self.all().remove(name);
        removed.is_some()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.all().contains_key(name)
    }

    /// The providers to ask, marked as asked.
    fn to_ask(&self, only_new: bool) -> Vec<(Arc<str>, Arc<dyn CriticalTasksProvider>)> {
        let mut all = self.all();
        let ask = all.iter_mut().filter(|(_, component)| !(only_new && component.discovered));
        ask.map(|(name, component)| {
            component.discovered = true;
            (name.clone(), component.provider.clone())
        })
        .collect()
    }
}

/// Asks the components' providers and registers what they hand over; with `only_new`, those that were not asked yet.
#[track_caller]
pub(crate) fn discover(shared: &Arc<Shared>, components: &Components, only_new: bool) -> Discovery {
    let mut discovery = Discovery::default();
    let mut waiting = Vec::new();
    for (component, provider) in components.to_ask(only_new) {
        match catch(shared.recorder.options.silence_panics, || provider.get_critical_tasks()) {
            Ok(configs) => waiting.extend(configs.into_iter().map(|config| (component.clone(), config))),
            Err(caught) => report_failure(&mut discovery, &component, Refusal::Provider(caught.panic.text)),
        }
    }
    // Components may depend on each other's tasks, in whatever order they come; what still waits when nothing moves any
    // more is refused.
    loop {
        let asked = waiting.len();
        for (component, config) in std::mem::take(&mut waiting) {
            if config.dependencies.iter().all(|name| shared.supervised(name).is_some()) {
                register_of(shared, &mut discovery, component, config);
            } else {
                waiting.push((component, config));
            }
        }
        if waiting.is_empty() {
            return discovery;
        }
        if waiting.len() == asked {
            break;
        }
    }
    for (component, config) in waiting {
        register_of(shared, &mut discovery, component, config);
    }
    discovery
}

#[track_caller]
fn register_of(
    shared: &Arc<Shared>,
    discovery: &mut Discovery,
    component: Arc<str>,
    config: CriticalTaskConfig,
) {
    let name = config.name.clone();
    match register(vec![config.component(component.clone())], None, shared) {
        Ok(()) => discovery.registered.push(name),
        // Asked again, a component hands over the same tasks again.
        Err(RegisterError::Duplicate { .. }) if owns(shared, &component, &name) => {}
        Err(error) => report_failure(discovery, &component, Refusal::Task(error)),
    }
}

fn owns(shared: &Shared, component: &str, name: &str) -> bool {
    shared.supervised(name).is_some_and(|task| task.task.identity.component.as_deref() == Some(component))
}

enum Refusal {
    Task(RegisterError),
    Provider(String),
}

fn report_failure(discovery: &mut Discovery, component: &str, refusal: Refusal) {
    let text = match &refusal {
        Refusal::Task(error) => error.to_string(),
        Refusal::Provider(text) => format!("its provider panicked: {text}"),
    };
    with_trace(None, || {
        tracing::event!(
            name: record::MONITOR_FAILED, target: SCOPE, parent: None, tracing::Level::ERROR,
            { key::COMPONENT } = component,
            "component {component}: {text}",
        );
    });
    match refusal {
        Refusal::Task(error) => discovery.refused.push((component.to_owned(), error)),
        Refusal::Provider(text) => discovery.panicked.push((component.to_owned(), text)),
    }
}
