//! The methods of a manager, for a service.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use crate::{
    cell::{self, TaskSnapshot, TaskState},
    config::{
        self, Components, CriticalTaskConfig, CriticalTasksProvider, Discovery, FamilyHandle, FamilyKey,
        TaskFamily, TaskGroup, discover,
    },
    emit::{self, RunExemplar},
    engine::{
        self, Listener, LoopBody, LoopHandle, Order, PinnedTraces, RuntimeFigures, Shared, ShutdownReport,
        SpawnOptions, Spawner, StopToken, Supervised, TaskBuilder, TaskChange, TaskDecision, TaskEvents,
        TaskSettings,
    },
    error::{LoopControlError, RegisterError, RestartError, TaskControlError, UnknownComponent, UnknownTask},
    instrumentation::InstrumentationCheck,
    manager::settings::ManagerSettings,
    policy::TaskOutput,
    read::{self, ManagerHealth, TaskHealth, TaskMetrics, TaskStatistics},
    run::{Recorder, TaskHandle},
};

/// Owns the tasks of a service: names, meters, traces, restarts and stops them.
///
/// Clones are handles of the same manager. If the last handle is dropped without a shutdown, an ordered shutdown with the builder's
/// deadline begins in the background. Await [`shutdown`](Self::shutdown) to be sure that it ends.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, TaskManager};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tasks = TaskManager::new();
/// tasks.register(CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await }))?;
/// tasks.start();
/// let pong = tasks.spawn("command_ping", async { Ok::<_, std::io::Error>("pong") });
/// assert_eq!(pong.await??, "pong");
/// let report = tasks.shutdown().await;
/// assert!(report.is_clean());
/// # Ok(()) }
/// ```
#[must_use = "dropping the last handle of a manager stops its tasks"]
#[derive(Clone)]
pub struct TaskManager {
    pub(super) handle: Arc<LastHandle>,
}

pub(super) struct LastHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) components: Components,
}

/// A reference to a manager that does not keep it alive: dropping the last [`TaskManager`] still stops the tasks.
///
/// ```
/// use otel_tasks::TaskManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tasks = TaskManager::new();
/// let weak = tasks.downgrade();
/// assert!(weak.upgrade().is_some());
/// drop(tasks);
/// assert!(weak.upgrade().is_none());
/// # }
/// ```
#[derive(Clone)]
pub struct WeakTaskManager(std::sync::Weak<LastHandle>);

impl WeakTaskManager {
    /// Returns the manager, unless its last handle was dropped.
    pub fn upgrade(&self) -> Option<TaskManager> {
        self.0.upgrade().map(|handle| TaskManager { handle })
    }
}

impl std::fmt::Debug for WeakTaskManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WeakTaskManager").field(&self.upgrade()).finish()
    }
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        // Without a runtime nothing ever ran; if nothing is alive, nothing is lost.
        // A drain continues without its caller, and the ordered shutdown follows.
        if self.shared.existing_runtime().is_some()
            && !self.shared.drain.is_under_way()
            && !self.shared.close_if_idle()
        {
            if self.shared.sequence.get().is_none() {
                let registered = self.shared.all_registered();
                let names: Vec<_> = registered.iter().map(|task| &**task.name()).collect();
                engine::last_handle_dropped(&names);
            }
            engine::begin_shutdown(&self.shared, None);
        }
    }
}

impl std::fmt::Debug for TaskManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskManager").field("tasks", &self.task_names()).finish_non_exhaustive()
    }
}

impl Default for TaskManager {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskManager {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Returns a reference that does not keep the manager alive.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let weak = tasks.downgrade();
    /// drop(tasks);
    /// assert!(weak.upgrade().is_none());
    /// # Ok(()) }
    /// ```
    pub fn downgrade(&self) -> WeakTaskManager {
        WeakTaskManager(Arc::downgrade(&self.handle))
    }

    /// Starts the registered tasks and the monitor. Tasks that are registered later start at once.
    ///
    /// First, the tasks of the components that were not discovered yet are registered; a refused task is logged. A second call only starts a
    /// monitor that was stopped. During a shutdown the call does nothing.
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message names what is missing.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// assert!(tasks.is_monitoring());
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn start(&self) {
        if self.shared().tracker.is_closed() {
            return;
        }
        self.shared().need_runtime();
        let new = |_: &str, called: bool| !called;
        discover(self.shared(), self.handle.components.to_ask(new));
        self.shared().start_tasks();
        // A component that came in between has not seen that the manager is started.
        discover(self.shared(), self.handle.components.to_ask(new));
        engine::start_monitor(self.shared());
    }

    /// Stops the monitor. The tasks continue. A second call changes nothing.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.start();
    /// tasks.stop_monitor();
    /// assert!(!tasks.is_monitoring());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "stop")]
    pub fn stop_monitor(&self) {
        self.shared().stop_monitor();
    }

    /// Returns true if the monitor is running: from [`start`](Self::start) until [`stop_monitor`](Self::stop_monitor).
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// assert!(!tasks.is_monitoring());
    /// tasks.start();
    /// assert!(tasks.is_monitoring());
    /// # Ok(()) }
    /// ```
    pub fn is_monitoring(&self) -> bool {
        engine::monitor_is_running(self.shared())
    }

    /// Spawns a short task: one run, one span, counted under `name`. If the name is empty, the type of the future is the name
    /// (`module::function`).
    ///
    /// The task runs on the tokio runtime of the caller; outside a runtime, on the runtime of the manager. The run begins a new trace, which is
    /// linked to the current span. [`task`](Self::task) sets more than the name.
    ///
    /// During a shutdown, spawned tasks are refused as soon as the [`intake`](CriticalTaskConfig::intake) tasks have stopped: the future is
    /// dropped and the handle returns [`TaskError::ShuttingDown`](crate::TaskError).
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message names what is missing.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let parsed = tasks.spawn("parse", async { "42".parse::<u32>() });
    /// assert_eq!(parsed.await??, 42);
    /// assert_eq!(tasks.snapshot("parse").unwrap().total_runs(), 1);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        self.shared().spawn(SpawnOptions::new(name), |_| future)
    }

    /// Runs blocking work on the blocking pool of the runtime: one run, one span, counted under `name`.
    ///
    /// The work receives a [`StopToken`], which it has to check: nothing can interrupt a thread. A shutdown cancels the token and waits for the
    /// work. Work that continues past the deadline is reported as [leaked](crate::shutdown::ShutdownOutcome::Leaked).
    /// [`TaskHandle::abort`] only keeps work from beginning.
    ///
    /// The process can exit in spite of leaked work, but a runtime that is dropped waits for it. End with
    /// [`ShutdownReport::exit`](crate::shutdown::ShutdownReport::exit) or [`shutdown_background`](tokio::runtime::Runtime::shutdown_background).
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message names what is missing.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let sum = tasks.spawn_blocking("sum", |stop| {
    ///     (1..=1_000_u64).take_while(|_| !stop.is_stopped()).sum::<u64>()
    /// });
    /// assert_eq!(sum.await?, 500_500);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<T, Via>(
        &self,
        name: &str,
        work: impl FnOnce(StopToken) -> T + Send + 'static,
    ) -> TaskHandle<T>
    where
        T: TaskOutput<Via> + Send + 'static,
    {
        self.task(name).spawn_blocking(work)
    }

    /// Spawns a short task whose future is not `Send` on the [`LocalSet`](tokio::task::LocalSet) of this thread.
    ///
    /// Apart from that it does what [`spawn`](Self::spawn) does. The task runs, and can be stopped, only while that set is polled.
    ///
    /// # Panics
    /// Outside a `LocalSet` and a `LocalRuntime`, and if [`spawn`](Self::spawn) panics.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::rc::Rc;
    /// let tasks = TaskManager::new();
    /// let local = tokio::task::LocalSet::new();
    /// let shared = Rc::new(7);
    /// let copy = shared.clone();
    /// let run = local.run_until(async { tasks.spawn_local("render", async move { *copy }).await });
    /// assert_eq!(run.await?, 7);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_local<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: TaskOutput<Via> + 'static,
    {
        self.task(name).spawn_local(future)
    }

    /// Returns a builder for a short task: category, priority, time limit, parent span and more.
    ///
    /// ```
    /// use otel_tasks::{TaskCategory, TaskManager, TaskPriority};
    /// use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let tasks = TaskManager::new();
    /// let import = tasks
    ///     .task("import")
    ///     .category(TaskCategory::Command)
    ///     .priority(TaskPriority::Low)
    ///     .timeout(Duration::from_secs(30))
    ///     .spawn_with(|ctx| async move { ctx.cancelled().await });
    /// # drop(import);
    /// # }
    /// ```
    pub fn task<'a>(&'a self, name: &'a str) -> TaskBuilder<'a> {
        TaskBuilder::new(Some(Spawner::Borrowed(self.shared())), name)
    }

    /// Registers a critical task. It starts with [`start`](Self::start), or at once after it, and is restarted by its policy.
    ///
    /// # Errors
    /// [`RegisterError`] names the problem; nothing was changed.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// assert_eq!(tasks.task_names(), ["gateway"]);
    /// assert!(tasks.register(CriticalTaskConfig::new("gateway", gateway)).is_err(), "the name is taken");
    /// # Ok(()) }
    /// ```
    #[doc(alias = "register_critical_task")]
    #[track_caller]
    pub fn register(&self, config: CriticalTaskConfig) -> Result<(), RegisterError> {
        config::register_one(config, self.shared())
    }

    /// Registers several tasks, which may depend on each other in any order. If one of them is refused, none is registered.
    ///
    /// # Errors
    /// [`RegisterError`] names the problem, and a dependency cycle by its path; nothing was changed.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register_all([
    ///     CriticalTaskConfig::new("commands", gateway).depends_on("gateway"),
    ///     CriticalTaskConfig::new("gateway", gateway),
    /// ])?;
    /// assert_eq!(tasks.task_names().len(), 2);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn register_all(
        &self,
        configs: impl IntoIterator<Item = CriticalTaskConfig>,
    ) -> Result<(), RegisterError> {
        config::register(configs.into_iter().collect(), None, self.shared())
    }

    /// Registers the tasks of a group. If one of them is refused, none is registered.
    ///
    /// # Errors
    /// [`RegisterError`] names the problem; nothing was changed.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::{TaskGroup, policy::RestartStrategy};
    /// let tasks = TaskManager::new();
    /// let voice = TaskGroup::new("voice", RestartStrategy::OneForAll)
    ///     .task(CriticalTaskConfig::new("session", gateway))
    ///     .task(CriticalTaskConfig::new("sender", gateway));
    /// tasks.register_group(voice)?;
    /// assert_eq!(tasks.task_names().len(), 2);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn register_group(&self, group: TaskGroup) -> Result<(), RegisterError> {
        group.register(self.shared())
    }

    /// Registers a family: any number of tasks of one kind, one per key. It has no members at first.
    ///
    /// ```
    /// use otel_tasks::{TaskContext, TaskFamily, TaskManager};
    /// async fn sync(ctx: TaskContext, tenant: u64) {
    ///     # let _ = tenant;
    ///     ctx.cancelled().await;
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
    /// let tasks = TaskManager::new();
    /// let tenants = tasks.register_family(TaskFamily::new("tenant_sync", sync))?;
    /// assert!(tenants.ensure(7)?);
    /// tenants.set([7, 8]).await?;
    /// assert!(tenants.remove(&7).await);
    /// assert_eq!(tenants.keys(), [8]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`RegisterError`]: the name is empty or taken, the family may have no members, or a shutdown has begun.
    pub fn register_family<K: FamilyKey>(
        &self,
        family: TaskFamily<K>,
    ) -> Result<FamilyHandle<K>, RegisterError> {
        family.register(self.shared())
    }

    /// Stops the registered task of the same name, if there is one, and registers the new task in its place. If the old task has a
    /// [gate](CriticalTaskConfig::gate), it is registered when the gate is free for other processes, or a second later.
    ///
    /// The new task is checked first: if it is refused, the old task is unchanged. After the check, the manager finishes the replacement even if
    /// the future is dropped. A task that replaces itself does not wait: the call returns once the task is requested to stop, and a later
    /// refusal is logged.
    ///
    /// # Errors
    /// [`RegisterError`]. After the check there are two reasons: a shutdown, and a dependency that was unregistered meanwhile.
    ///
    /// # Cancel safety
    /// Dropping the future stops the wait, not the replacement.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.replace(CriticalTaskConfig::new("gateway", |ctx| gateway(ctx)).unlimited_restarts()).await?;
    /// assert_eq!(tasks.task_names(), ["gateway"]);
    /// # Ok(()) }
    /// ```
    pub async fn replace(&self, config: CriticalTaskConfig) -> Result<(), RegisterError> {
        let shared = self.shared();
        let name = config.name().to_owned();
        let reserved = config::check_replacement(config, shared)?;
        let Some(old) = shared.find_leaving(&name) else { return reserved.register() };
        let replaces_itself = engine::is_current(shared, &old);
        shared.leave(&old);
        if old.has_left() {
            // Its driver may have left before it was to unregister the task.
            shared.remove(&old);
            return reserved.register();
        }
        let finish = shared.clone();
        let replaced = shared.runtime().handle.spawn(async move {
            old.gone().await;
            engine::until_released(&finish, std::slice::from_ref(&old)).await;
            finish.remove(&old);
            let refused = reserved.register();
            if let Err(error) = &refused {
                engine::replacement_failed(&name, error);
            }
            refused
        });
        if replaces_itself {
            return Ok(());
        }
        // The join fails only if the runtime ends: the replacement does not panic.
        replaced.await.unwrap_or(Err(RegisterError::ShuttingDown))
    }

    /// Stops a registered task, removes it, and waits until it has ended. If it has a [gate](CriticalTaskConfig::gate), the call also waits until
    /// the gate is free for other processes, for a second at most.
    ///
    /// Its figures stay until a collection has exported the last of them, at least five minutes after the last run. They go earlier if
    /// [`max_names`](super::TaskManagerBuilder::max_names) leaves no room for a new name. If a task is registered under the name before a
    /// collection without the figures, the figures continue. A later task begins at zero, and is exported from five minutes after the figures
    /// went.
    ///
    /// A task that unregisters itself does not wait: the call returns once the task is requested to stop.
    ///
    /// # Errors
    /// [`UnknownTask`] if no task of this name is registered.
    ///
    /// # Cancel safety
    /// Dropping the future stops the wait, not the stop.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.unregister("gateway").await?;
    /// assert!(tasks.task_names().is_empty());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "unregister_critical_task")]
    pub async fn unregister(&self, name: &str) -> Result<(), UnknownTask> {
        let shared = self.shared();
        let task = shared.find_leaving(name).ok_or_else(|| UnknownTask { name: name.into() })?;
        shared.leave(&task);
        engine::until_gone(shared, &task).await;
        engine::until_released(shared, std::slice::from_ref(&task)).await;
        Ok(())
    }

    /// Removes a registered task without stopping it. The task continues, is restarted by its policy, and is stopped at shutdown.
    ///
    /// From then on:
    ///
    /// - Its name is free, and it no longer counts as registered.
    /// - Its health is no longer checked.
    /// - The loss of a dependency no longer changes it.
    /// - The handle of its loop returns [`NotRegistered`](crate::schedule::LoopControlError::NotRegistered).
    ///
    /// # Errors
    /// [`UnknownTask`] if no task of this name is registered.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.detach("gateway")?;
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// # Ok(()) }
    /// ```
    pub fn detach(&self, name: &str) -> Result<(), UnknownTask> {
        let unknown = || UnknownTask { name: name.into() };
        let task = self.shared().supervised(name).ok_or_else(unknown)?;
        if !self.shared().detach(&task) {
            return Err(unknown());
        }
        self.shared().changed(&task);
        Ok(())
    }

    /// Registers a component, which provides tasks of its own. After [`start`](Self::start) its tasks are registered at once, and the result
    /// is about this component alone.
    ///
    /// A component of the same name is replaced. The tasks of the old one stay until
    /// [`unregister_component`](Self::unregister_component).
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.start();
    /// let found = tasks.register_component("music", || vec![CriticalTaskConfig::new("player", gateway)]);
    /// assert_eq!(found.registered, ["player"]);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "cog")]
    pub fn register_component(
        &self,
        name: impl Into<Arc<str>>,
        provider: impl CriticalTasksProvider,
    ) -> Discovery {
        let (name, provider) = (name.into(), Arc::new(provider));
        let components = &self.handle.components;
        // This call alone calls the provider. Otherwise the result might go to another thread that registers a component meanwhile.
        let started = self.shared().is_started();
        components.insert(name.clone(), provider.clone(), started);
        if started {
            discover(self.shared(), [(name, provider as _)])
        } else if self.shared().is_started() {
            // `start` came meanwhile, and may have called the providers before this one was there.
            discover(self.shared(), components.to_ask(|other, called| *other == *name && !called))
        } else {
            Discovery::default()
        }
    }

    /// Calls the provider of every component, and registers the tasks that are not registered yet. A panic in a provider is caught and
    /// logged; the other components are not affected.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register_component("music", || vec![CriticalTaskConfig::new("player", gateway)]);
    /// assert_eq!(tasks.discover_components().registered, ["player"]);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "discover_and_register_cog_tasks")]
    #[track_caller]
    pub fn discover_components(&self) -> Discovery {
        discover(self.shared(), self.handle.components.to_ask(|_, _| true))
    }

    /// Removes a component and stops all its tasks. Waits until they have ended, and returns their names.
    ///
    /// If a task of the component calls this, that task is requested to stop with the others, and is not waited for.
    ///
    /// # Errors
    /// [`UnknownComponent`] if neither a component nor a task's component has that name.
    ///
    /// # Cancel safety
    /// Dropping the future stops the wait, not the stop.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register_component("music", || vec![CriticalTaskConfig::new("player", gateway)]);
    /// tasks.start();
    /// assert_eq!(tasks.unregister_component("music").await?, ["player"]);
    /// # Ok(()) }
    /// ```
    #[doc(alias = "cleanup_cog_tasks")]
    pub async fn unregister_component(&self, component: &str) -> Result<Vec<String>, UnknownComponent> {
        let shared = self.shared();
        let known = self.handle.components.remove(component);
        let all = shared.all_registered();
        let of_component =
            |task: &&Arc<Supervised>| task.task.identity.component.as_deref() == Some(component);
        let tasks: Vec<_> = all.iter().filter(of_component).cloned().collect();
        if !known && tasks.is_empty() {
            return Err(UnknownComponent { name: component.into() });
        }
        // All are requested to stop before the first is waited for.
        for task in &tasks {
            shared.call_off(task);
            shared.leave(task);
        }
        for task in &tasks {
            engine::until_gone(shared, task).await;
        }
        engine::until_released(shared, &tasks).await;
        Ok(tasks.iter().map(|task| task.name().to_string()).collect())
    }

    /// Restarts a registered task. Returns the time until the restart.
    ///
    /// A running task is requested to stop, has its grace, and runs again. A task that was given up, has finished or was stopped starts again,
    /// and its earlier restarts no longer count. A task that waits for its restart begins at once. The time is not zero if the task runs, and
    /// its last restart was more recent than its restart delay. The task continues until then. The restart is counted when the new run begins.
    ///
    /// # Errors
    /// [`RestartError`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// let after = tasks.restart("gateway")?;
    /// assert!(after.is_zero());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "restart_critical_task")]
    pub fn restart(&self, name: &str) -> Result<Duration, RestartError> {
        let shared = self.shared();
        if shared.tracker.is_closed() {
            return Err(RestartError::ShuttingDown);
        }
        let task = shared
            .supervised(name)
            .ok_or_else(|| RestartError::Unknown(UnknownTask { name: name.into() }))?;
        if task.is_runtime_gone() {
            return Err(RestartError::RuntimeGone { name: name.into() });
        }
        if task.is_to_unregister() {
            return Err(RestartError::Leaving { name: name.into() });
        }
        let (max_restarts, within) = (task.spec.intensity.max_restarts(), task.spec.intensity.within());
        let alive = matches!(
            task.task.cell.state(),
            Some(TaskState::Running | TaskState::Backoff | TaskState::Stopping)
        );
        // A limit of zero forbids automatic restarts, not those by hand.
        if alive
            && max_restarts > 0
            && task.task.cell.restarts_within(shared.recorder.now(), within) >= max_restarts
        {
            return Err(RestartError::LimitReached { name: name.into(), max_restarts, within });
        }
        let after =
            if task.task.cell.state() == Some(TaskState::Running) { task.cooldown() } else { Duration::ZERO };
        task.command(Order::Restart { after });
        Ok(after)
    }

    /// Stops a registered task, which stays registered and can be restarted. Returns without waiting for its end.
    ///
    /// # Errors
    /// [`TaskControlError`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use otel_tasks::snapshot::TaskState;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.stop("gateway")?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert_eq!(tasks.snapshot("gateway").unwrap().state, Some(TaskState::Stopped));
    /// # Ok(()) }
    /// ```
    pub fn stop(&self, name: &str) -> Result<(), TaskControlError> {
        let task = self.controlled(name)?;
        task.command(Order::Stop { grace: task.spec.grace() });
        Ok(())
    }

    /// Pauses a task until it is [resumed](Self::resume). A loop finishes the current iteration and begins no other; any other task, and a loop with a
    /// [gate](crate::CriticalTaskConfig::gate), is stopped.
    ///
    /// The call has no effect on a task that has finished, has failed or was stopped.
    ///
    /// # Errors
    /// [`TaskControlError`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use otel_tasks::snapshot::TaskState;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.pause("gateway")?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert_eq!(tasks.snapshot("gateway").unwrap().state, Some(TaskState::Paused));
    /// # Ok(()) }
    /// ```
    pub fn pause(&self, name: &str) -> Result<(), TaskControlError> {
        self.order(name, Order::Pause)
    }

    /// Resumes a paused task. A loop continues with its next time, without the iterations that fell due meanwhile; any other task starts again.
    ///
    /// The call has no effect on a task that is not paused.
    ///
    /// # Errors
    /// [`TaskControlError`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use otel_tasks::snapshot::TaskState;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// tasks.pause("gateway")?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// tasks.resume("gateway")?;
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert_eq!(tasks.snapshot("gateway").unwrap().state, Some(TaskState::Running));
    /// # Ok(()) }
    /// ```
    pub fn resume(&self, name: &str) -> Result<(), TaskControlError> {
        self.order(name, Order::Resume)
    }

    /// Returns a handle to a registered loop.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`] if no task of this name is registered, [`LoopControlError::NotALoop`] if the task
    /// is no loop.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::TaskLoop;
    /// use std::time::Duration;
    /// let tasks = TaskManager::new();
    /// let backup = TaskLoop::every(Duration::from_secs(3_600), |_| async {});
    /// tasks.register(CriticalTaskConfig::from_loop("backup", backup))?;
    /// let handle = tasks.loop_handle("backup")?;
    /// assert_eq!(handle.interval(), Some(Duration::from_secs(3_600)));
    /// # Ok(()) }
    /// ```
    pub fn loop_handle(&self, name: &str) -> Result<LoopHandle, LoopControlError> {
        let task = self.shared().supervised(name).ok_or(LoopControlError::NotRegistered)?;
        task.body.as_any().downcast_ref().map(LoopBody::handle).ok_or(LoopControlError::NotALoop)
    }

    fn order(&self, name: &str, order: Order) -> Result<(), TaskControlError> {
        self.controlled(name)?.command(order);
        Ok(())
    }

    /// A registered task that obeys.
    fn controlled(&self, name: &str) -> Result<Arc<Supervised>, TaskControlError> {
        let unknown = || TaskControlError::Unknown(UnknownTask { name: name.into() });
        let task = self.shared().supervised(name).ok_or_else(unknown)?;
        if task.is_runtime_gone() {
            return Err(TaskControlError::RuntimeGone { name: name.into() });
        }
        if task.is_to_unregister() {
            return Err(TaskControlError::Leaving { name: name.into() });
        }
        Ok(task)
    }

    /// Returns the last changes of a registered task, the oldest first: failures, restarts, give-ups, recoveries, stalls, stops. Returns `None` if
    /// no task of this name is registered.
    ///
    /// The last [`KEPT`](crate::events::TaskChange::KEPT) changes are kept for each task. Successful runs and the first start are no changes.
    /// Equal failures and restarts in a row are one change with a count.
    ///
    /// ```
    /// use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let sync = CriticalTaskConfig::new("sync", |_| async { Err::<(), _>(std::io::Error::other("refused")) });
    /// tasks.register(sync.max_restarts(2, std::time::Duration::from_secs(600)))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    /// let changes = tasks.changes("sync").unwrap_or_default();
    /// let texts: Vec<_> = changes.iter().map(|change| (change.count, change.kind.to_string())).collect();
    /// assert_eq!(texts[0], (3, "failed: refused".to_owned()));
    /// assert_eq!(texts[1], (2, "restarted after a failure".to_owned()));
    /// # Ok(()) }
    /// ```
    pub fn changes(&self, name: &str) -> Option<Vec<TaskChange>> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.changes()).unwrap_or_default())
    }

    /// Returns the last decisions on a registered task, the oldest first: why it was restarted, given up or not restarted. Returns `None` if no
    /// task of this name is registered.
    ///
    /// The last [`KEPT`](crate::events::TaskDecision::KEPT) decisions are kept for each task. Each is also the log record `task.decision`.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("sync", |_| async { Err::<(), _>("refused") }))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    /// let decisions = tasks.decisions("sync").unwrap_or_default();
    /// assert!(!decisions.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn decisions(&self, name: &str) -> Option<Vec<TaskDecision>> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.decisions()).unwrap_or_default())
    }

    /// Returns the traces of the last error, give-up and restart of a registered task. Later runs do not replace them. Returns `None` if no
    /// task of this name is registered.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// let traces = tasks.pinned_traces("gateway").ok_or("not registered")?;
    /// assert!(traces.last_error.is_none());
    /// # Ok(()) }
    /// ```
    pub fn pinned_traces(&self, name: &str) -> Option<PinnedTraces> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.pinned()).unwrap_or_default())
    }

    /// Subscribes to the events of registered tasks and of the manager, from now on.
    ///
    /// The manager never waits for a subscriber. A subscriber that is behind by more than
    /// [`CAPACITY`](crate::events::TaskEvents::CAPACITY) events misses the oldest of them, and they are counted.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, TaskManager, events::TaskEventKind};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
    /// let tasks = TaskManager::new();
    /// let mut events = tasks.subscribe();
    /// tasks.register(CriticalTaskConfig::one_shot("once", |_| async {}))?;
    /// tasks.start();
    /// while let Some(event) = events.recv().await {
    ///     if matches!(event.kind, TaskEventKind::Finished) {
    ///         break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn subscribe(&self) -> TaskEvents {
        self.shared().events.subscribe()
    }

    /// Returns whether the service is healthy, live, ready and started, from the health of its registered tasks and their
    /// [roles](crate::HealthRole). The module [`health`](crate::health) has the rules.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// assert!(!tasks.health().is_ready, "the task has not started");
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert!(tasks.health().is_ready);
    /// # Ok(()) }
    /// ```
    pub fn health(&self) -> ManagerHealth {
        self.shared().health()
    }

    /// Returns the health of a task; `None` for an unknown name.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// let health = tasks.task_health("gateway").ok_or("unknown")?;
    /// assert!(health.is_healthy());
    /// # Ok(()) }
    /// ```
    #[doc(alias = "get_task_health")]
    pub fn task_health(&self, name: &str) -> Option<TaskHealth> {
        let shared = self.shared();
        let of_name = shared.recorder.registry().of_name(name);
        if of_name.is_empty() {
            return None;
        }
        let vitals = cell::vitals(&of_name, shared.recorder.now());
        Some(shared.health_of(shared.supervised(name).as_deref(), &vitals))
    }

    /// Returns the figures of a task with its last runs; `None` for an unknown name.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.spawn("parse", async { "x".parse::<u32>() }).await?.unwrap_err();
    /// let metrics = tasks.task_metrics("parse").ok_or("unknown")?;
    /// assert_eq!((metrics.run_count, metrics.error_count, metrics.history.len()), (1, 1, 1));
    /// # Ok(()) }
    /// ```
    #[doc(alias = "get_task_metrics")]
    pub fn task_metrics(&self, name: &str) -> Option<TaskMetrics> {
        let recorder = &self.shared().recorder;
        let of_name = recorder.registry().of_name(name);
        let snapshot = cell::snapshot(&of_name, recorder.now())?;
        let mut history: Vec<_> = of_name.iter().flat_map(|entry| entry.cell.history()).collect();
        history.sort_by_key(|run| run.started);
        history.drain(..history.len().saturating_sub(crate::TaskMetrics::HISTORY_LENGTH));
        Some(read::metrics(&snapshot, history))
    }

    /// Returns all figures of a task; `None` for an unknown name.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.spawn("parse", async { "x".parse::<u32>() }).await?.unwrap_err();
    /// let parse = tasks.snapshot("parse").ok_or("unknown")?;
    /// assert_eq!((parse.total_runs(), parse.total_errors()), (1, 1));
    /// # Ok(()) }
    /// ```
    pub fn snapshot(&self, name: &str) -> Option<TaskSnapshot> {
        let mut snapshot = self.shared().recorder.snapshot(name)?;
        if let Some(task) = self.shared().supervised(name) {
            task.complete(&mut snapshot);
        }
        Some(snapshot)
    }

    /// Returns all figures of every task, sorted by name.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.spawn("parse", async {}).await?;
    /// tasks.spawn("fetch", async {}).await?;
    /// let names: Vec<_> = tasks.snapshots().into_iter().map(|task| task.name).collect();
    /// assert_eq!(names, ["fetch".into(), "parse".into()]);
    /// # Ok(()) }
    /// ```
    pub fn snapshots(&self) -> Vec<TaskSnapshot> {
        let mut snapshots = self.shared().recorder.snapshots_by_name();
        for task in self.shared().registered_tasks().iter().filter(|task| task.completes()) {
            if let Ok(index) = snapshots.binary_search_by(|snapshot| snapshot.name.cmp(task.name())) {
                task.complete(&mut snapshots[index]);
            }
        }
        snapshots
    }

    /// Begins to count the runs and errors of each task by minute, for [`TaskSnapshot::minutes`].
    ///
    /// The counts cost 480 bytes for each task that has runs, and cannot be switched off. A live page needs them.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.record_minutes();
    /// tasks.spawn("parse", async {}).await?;
    /// assert!(tasks.snapshot("parse").unwrap().minutes.is_some());
    /// # Ok(()) }
    /// ```
    pub fn record_minutes(&self) {
        self.shared().recorder.record_minutes();
    }

    /// Returns the figures of the tokio runtime on which the manager does its own work; `None` before there is one.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let runtime = tasks.runtime_figures().ok_or("no runtime")?;
    /// assert_eq!(runtime.workers, 1);
    /// # Ok(()) }
    /// ```
    pub fn runtime_figures(&self) -> Option<RuntimeFigures> {
        Some(RuntimeFigures::of(&self.shared().existing_runtime()?.handle))
    }

    /// Returns traces of single runs as examples for the buckets of `task.run.duration`. For each bucket: the last run that failed, and the
    /// slowest other run of about the last minute.
    ///
    /// The first call returns none. From then on the manager records them, which costs about 90 bytes for each bucket that has runs.
    /// Only runs whose span is exported are recorded. Runs of `#[instrumented_task]` functions outside of any manager are included.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// assert!(tasks.exemplars().is_empty());
    /// # Ok(()) }
    /// ```
    pub fn exemplars(&self) -> Vec<RunExemplar> {
        let mut all = self.shared().recorder.exemplars();
        all.extend(Recorder::process().exemplars());
        all
    }

    /// Returns the figures of the manager: its tasks by category, priority and health, and totals.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// let statistics = tasks.statistics();
    /// assert_eq!((statistics.critical_tasks, statistics.healthy_tasks), (1, 1));
    /// println!("{statistics}");
    /// # Ok(()) }
    /// ```
    #[doc(alias = "get_task_statistics")]
    pub fn statistics(&self) -> TaskStatistics {
        let shared = self.shared();
        let now = shared.recorder.now();
        let mut tally = read::Tally::default();
        let (listing, past) = shared.recorder.registry().listing_and_past();
        tally.count(&past);
        engine::each_name(&listing, &shared.all_registered(), |of_name, task| {
            let vitals = cell::vitals(of_name, now);
            // The family counts the runs of its members too, and a family is no task.
            let is_member = of_name.iter().any(|entry| entry.family().is_some());
            if is_member {
                let counted = of_name.iter().filter(|entry| entry.family().is_none());
                tally.count(&cell::vitals(&counted.cloned().collect::<Vec<_>>(), now));
            } else {
                tally.count(&vitals);
            }
            if task.is_none() && of_name.iter().any(|entry| entry.is_family()) {
                return;
            }
            let registered = of_name.iter().find(|entry| entry.cell.state().is_some());
            let shown = registered.unwrap_or(&of_name[0]);
            tally.add(&shown.identity, &vitals, || {
                let live = task.map_or_else(read::Live::default, |task| task.live());
                read::status(&vitals, live, &shared.settings.thresholds)
            });
        });
        tally.statistics()
    }

    /// Returns the names of the registered tasks.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// assert_eq!(tasks.task_names(), ["gateway"]);
    /// # Ok(()) }
    /// ```
    pub fn task_names(&self) -> Vec<String> {
        self.shared().all_registered().iter().map(|task| task.name().to_string()).collect()
    }

    /// Stops everything in order, within the deadline of the manager. Returns the report.
    ///
    /// 1. [`intake`](CriticalTaskConfig::intake) tasks.
    /// 2. Admission of new runs, except for work that a registered task [owns](crate::TaskContext::task).
    /// 3. Loops.
    /// 4. The other tasks, category by category ([`SHUTDOWN_ORDER`](crate::TaskCategory::SHUTDOWN_ORDER)), and in each category the lowest
    ///    priority first.
    ///
    /// Several calls, also at the same time, share one shutdown and one report.
    ///
    /// If a task of this manager awaits the shutdown, that task is neither stopped nor waited for: the report names it in
    /// [`asked_by`](ShutdownReport::asked_by). Work that the task has spawned elsewhere, and waits for, must not await the shutdown. If it
    /// does, the shutdown waits until the grace of the task or the deadline is over.
    ///
    /// A thread of its own enforces the deadline, so the report is complete in time even if every thread of the runtime is blocked. If the thread
    /// that awaits the report is blocked too, the [last resort](super::TaskManagerBuilder::last_resort) receives the report.
    ///
    /// If [`shutdown_signal`](crate::shutdown_signal) was called in this process, a further signal ends the shutdown at once, as
    /// [`shutdown_now`](Self::shutdown_now) does.
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// Dropping the future stops the wait, not the shutdown.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// let report = tasks.shutdown().await;
    /// assert!(report.is_clean());
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    #[doc(alias = "cancel_all_tasks")]
    #[track_caller]
    pub fn shutdown(&self) -> impl Future<Output = Arc<ShutdownReport>> + Send {
        let call = self.shared().will_need_runtime();
        async move {
            call.check(self.shared());
            engine::shutdown_in_steps(self.shared(), Duration::ZERO, Listener::new(self.shared())).await
        }
    }

    /// Drains for the given time, then stops everything in order as [`shutdown`](Self::shutdown) does. Returns the report.
    ///
    /// This is what SIGTERM does to a manager with a [`drain`](super::TaskManagerBuilder::drain). Call it from a `preStop` hook or a test.
    ///
    /// While the manager drains it is not ready, and all tasks continue. The deadline counts from this call. The ordered shutdown gets the
    /// rest of the deadline, at least a tenth: a longer `drain` is cut to nine tenths.
    ///
    /// If a drain has begun already, there is no second drain, and the earlier end counts. [`shutdown`](Self::shutdown) ends the drain and begins
    /// the ordered shutdown at once. If the ordered shutdown has begun, this method only waits for the report.
    ///
    /// If the process calls [`shutdown_signal`](crate::shutdown_signal), before or after this call, each further signal begins the next step.
    /// The steps are the ordered shutdown and the end at once. If [`run_until`](Self::run_until) waits, it handles the signals instead.
    ///
    /// # Cancel safety
    /// Dropping the future after its first poll stops the wait; the drain and the shutdown continue in the manager.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// use std::time::Duration;
    /// let tasks = otel_tasks::TaskManager::new();
    /// let report = tasks.shutdown_after(Duration::from_secs(8)).await;
    /// assert_eq!(report.drained, Duration::from_secs(8));
    /// # }
    /// ```
    #[track_caller]
    pub fn shutdown_after(&self, drain: Duration) -> impl Future<Output = Arc<ShutdownReport>> + Send {
        let call = self.shared().will_need_runtime();
        async move {
            call.check(self.shared());
            engine::shutdown_in_steps(self.shared(), drain, Listener::new(self.shared())).await
        }
    }

    /// Ends a shutdown at once, or begins a shutdown that ends at once: tasks that still run are dropped. A second Ctrl-C does the same.
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// Dropping the future stops the wait, not the shutdown.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::shutdown::ShutdownOutcome;
    /// let tasks = TaskManager::new();
    /// let stubborn = tasks.spawn("stubborn", std::future::pending::<()>());
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// let report = tasks.shutdown_now().await;
    /// assert_eq!(report.count(ShutdownOutcome::Aborted), 1);
    /// # drop(stubborn);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn shutdown_now(&self) -> impl Future<Output = Arc<ShutdownReport>> + Send {
        let call = self.shared().will_need_runtime();
        async move {
            call.check(self.shared());
            engine::abort_shutdown(self.shared());
            engine::run_shutdown(self.shared()).await
        }
    }

    /// Starts the tasks that are not started, waits for `end`, then shuts down in order. Returns the report.
    ///
    /// The wait also ends when a shutdown begins for another reason: another caller requests it, or a task is given up with the escalation
    /// [`Shutdown`](crate::policy::Escalation::Shutdown).
    ///
    /// If [`shutdown_signal`](crate::shutdown_signal) is called in this process, this method listens for signals too. The first signal is left to
    /// `end`; a second one begins the ordered shutdown if `end` still waits. If `end` completed with a SIGTERM, the
    /// [`drain`](super::TaskManagerBuilder::drain) begins, if there is one. Each further signal begins the next step: the ordered shutdown, and
    /// then the end at once, as [`shutdown_now`](Self::shutdown_now) does.
    ///
    /// # Panics
    /// Outside a tokio runtime, if the manager was also built outside one; and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// If the future is dropped before `end` completes, nothing has happened. After that, the shutdown continues without its caller.
    ///
    /// ```no_run
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// let report = tasks.run_until(otel_tasks::shutdown_signal()).await;
    /// report.exit()
    /// # }
    /// ```
    #[track_caller]
    pub fn run_until(&self, end: impl Future) -> impl Future<Output = Arc<ShutdownReport>> {
        let call = self.shared().will_need_runtime();
        async move {
            if !self.shared().is_started() {
                call.check_start(self.shared());
            }
            call.check(self.shared());
            self.run_until_checked(end).await
        }
    }

    async fn run_until_checked(&self, end: impl Future) -> Arc<ShutdownReport> {
        if !self.shared().is_started() {
            self.start();
        }
        // Listens before the first signal, which may end the wait through a listener of the caller's.
        let mut listener = Listener::leading(self.shared());
        let ended = {
            let _awaited = engine::Awaited::new(self.shared());
            let mut begun = self.shared().begun.subscribe();
            let ends = async {
                tokio::select! {
                    ended = listener.signals.beside(end) => Some(ended),
                    _ = begun.wait_for(|begun| *begun) => None,
                }
            };
            engine::Guard::answering(listener.guard.as_ref(), ends).await
        };
        let seen = listener.signals.take_seen();
        let was_sigterm = seen.is_sigterm_alone();
        if seen.is_any() || matches!(ended, Some(engine::WaitEnded::BySignals)) {
            listener.acted();
        }
        let drain = match ended {
            Some(engine::WaitEnded::Itself) if was_sigterm => self.shared().settings.drain,
            _ => Duration::ZERO,
        };
        engine::shutdown_in_steps(self.shared(), drain, listener).await
    }

    /// Returns a future that completes when the ordered shutdown begins, after the drain. It does not keep the manager alive, and it completes if
    /// the manager is dropped.
    ///
    /// A server beside the manager can end with it. The manager does not know that server, so it does not wait for it and cannot drain it
    /// before the other tasks. For that, register the server as an [`intake`](CriticalTaskConfig::intake) task.
    ///
    /// ```
    /// # async fn example(tasks: otel_tasks::TaskManager, serve: impl Future<Output = ()>) {
    /// let ended = tasks.shutting_down();
    /// tokio::select! {
    ///     () = serve => {}
    ///     () = ended => {}
    /// }
    /// # }
    /// ```
    pub fn shutting_down(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut begun = self.shared().begun.subscribe();
        async move {
            // An error means that the manager is gone.
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    /// Returns true if the ordered shutdown has begun: no task can be registered any more. Returns false during a drain.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// assert!(!tasks.is_shutting_down());
    /// tasks.shutdown().await;
    /// assert!(tasks.is_shutting_down());
    /// # Ok(()) }
    /// ```
    pub fn is_shutting_down(&self) -> bool {
        self.shared().tracker.is_closed()
    }

    /// Returns true while the manager drains: it is not ready, everything else continues, and the ordered shutdown has not begun.
    ///
    /// ```
    /// # use otel_tasks::TaskManager;
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// let tasks = TaskManager::new();
    /// let ends = tokio::spawn({ let tasks = tasks.clone(); async move { tasks.shutdown_after(Duration::from_secs(5)).await } });
    /// tokio::time::sleep(Duration::from_secs(1)).await;
    /// assert!(tasks.is_draining());
    /// ends.await.expect("no panic");
    /// assert!(!tasks.is_draining());
    /// # }
    /// ```
    pub fn is_draining(&self) -> bool {
        self.shared().is_draining()
    }

    /// Returns the report of the shutdown; `None` until the shutdown has ended.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// assert!(tasks.report().is_none());
    /// tasks.shutdown().await;
    /// assert!(tasks.report().is_some());
    /// # Ok(()) }
    /// ```
    pub fn report(&self) -> Option<Arc<ShutdownReport>> {
        self.shared().sequence.get().and_then(|sequence| sequence.report())
    }

    /// Returns the settings with which the manager was built.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// println!("shutdown deadline: {:?}", tasks.settings().shutdown_deadline);
    /// # Ok(()) }
    /// ```
    pub fn settings(&self) -> ManagerSettings {
        let (settings, options) = (&self.shared().settings, &self.shared().recorder.options);
        ManagerSettings {
            started: self.shared().made,
            instance: options.instance.clone(),
            span_prefix: settings.span_prefix.clone(),
            max_names: options.max_names,
            monitor_interval: settings.monitor_interval,
            shutdown_deadline: settings.shutdown_deadline,
            drain: settings.drain,
            spawn_grace: settings.spawn_grace,
            runtime_stall: settings.runtime_stall,
            slow_poll: options.slow_poll,
            health_thresholds: settings.thresholds,
        }
    }

    /// Returns the settings of a registered task; `None` if no task of this name is registered.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # async fn gateway(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use otel_tasks::RestartPolicy;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", gateway))?;
    /// let settings = tasks.task_settings("gateway").ok_or("not registered")?;
    /// assert_eq!(settings.restart_policy, RestartPolicy::Always);
    /// # Ok(()) }
    /// ```
    pub fn task_settings(&self, name: &str) -> Option<TaskSettings> {
        self.shared().supervised(name).map(|task| TaskSettings::of(&task))
    }

    /// Explains why Jaeger or Prometheus shows nothing. Repeated calls change nothing.
    ///
    /// The result covers the subscriber, the level, the meter and the components. With [`Telemetry`](crate#features) it also covers the
    /// exporters, the sampler and the delivered items.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let check = tasks.check_instrumentation();
    /// assert!(!check.is_complete(), "this program has no telemetry");
    /// println!("{check}");
    /// # Ok(()) }
    /// ```
    #[doc(alias = "setup_task_instrumentation")]
    pub fn check_instrumentation(&self) -> InstrumentationCheck {
        let installed = emit::installed();
        let has_tracer = self.shared().recorder.tracer().is_some();
        let exposition = self.shared().recorder.exposition();
        let registered = self.shared().registered_tasks();
        let owners: BTreeSet<_> =
            registered.iter().filter_map(|task| task.task.identity.component.clone()).collect();
        let missing = owners.iter().filter(|component| !self.handle.components.contains(component));
        let missing_components = missing.map(ToString::to_string).collect();
        let status = installed.as_ref().and_then(|installed| installed.status.clone());
        InstrumentationCheck {
            layer_installed: installed.is_some(),
            layer_conflict: installed.as_ref().and_then(|installed| installed.conflict),
            info_enabled: tracing::enabled!(target: "otel_tasks", tracing::Level::INFO),
            spans_traced: emit::probe_is_exported() || has_tracer || installed.is_some(),
            export: status.or_else(emit::status_of_process).map(|status| status.read()),
            last_collection: exposition.as_ref().and_then(|exposition| exposition.last_collection()),
            missing_components,
        }
    }
}

#[cfg(all(test, not(otel_tasks_loom)))]
mod tests {
    use super::*;
    use crate::TaskPriority;

    #[tokio::test]
    async fn a_run_counts_no_reference_to_the_manager_which_all_threads_would_share() {
        let tasks = TaskManager::new();
        let references = || (Arc::strong_count(tasks.shared()), Arc::weak_count(tasks.shared()));
        let before = references();
        let plain = tasks.spawn("plain", std::future::pending::<()>());
        let with_context = tasks
            .task("import")
            .priority(TaskPriority::High)
            .spawn_with(|ctx| async move { ctx.cancelled().await });
        tokio::task::yield_now().await;
        assert_eq!(tasks.snapshot("import").map(|import| import.active), Some(1), "it is running");
        assert_eq!(references(), before);
        let _builder = tasks.task("kept");
        assert_eq!(references(), before);
        plain.abort();
        with_context.abort();
    }
}
