//! A manager: the calls of a service.

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
        SpawnOptions, StopToken, Supervised, TaskBuilder, TaskChange, TaskDecision, TaskEvents, TaskSettings,
    },
    error::{LoopControlError, RegisterError, RestartError, TaskControlError, UnknownComponent, UnknownTask},
    instrumentation::InstrumentationCheck,
    manager::settings::ManagerSettings,
    policy::TaskOutput,
    read::{self, ManagerHealth, TaskHealth, TaskMetrics, TaskStatistics},
    run::{Recorder, TaskHandle},
};

/// Owns a service's tasks: names, meters, traces, restarts and stops them.
///
/// Clones are the same manager. When the last one is dropped without a shutdown, an ordered shutdown with the builder's
/// deadline begins in the background; await [`shutdown`](Self::shutdown) to be sure that it ends.
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

/// A reference to a manager that does not keep it alive: dropping the last [`TaskManager`] stops the tasks all the same.
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
        // A drain goes on without its caller, and the ordered shutdown follows.
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
    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Returns a reference that does not keep the manager alive.
    pub fn downgrade(&self) -> WeakTaskManager {
        WeakTaskManager(Arc::downgrade(&self.handle))
    }

    /// Asks the components that were not asked yet for their tasks (refusals are logged), then begins the registered tasks and
    /// the monitor; later registrations begin at once. Calling it again only starts a monitor that was stopped. During a
    /// shutdown it does nothing.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message says what is
    /// missing.
    #[track_caller]
    pub fn start(&self) {
        if self.shared().tracker.is_closed() {
            return;
        }
        self.shared().need_runtime();
        discover(self.shared(), &self.handle.components, true);
        self.shared().start_tasks();
        engine::start_monitor(self.shared());
    }

    /// Stops the monitor; the tasks go on. Calling it again changes nothing.
    #[doc(alias = "stop")]
    pub fn stop_monitor(&self) {
        self.shared().stop_monitor();
    }

    /// Whether the monitor runs.
    pub fn is_monitoring(&self) -> bool {
        engine::monitor_is_running(self.shared())
    }

    /// Spawns a short task: one run, one span, counted under `name`, or under the future's type (`module::function`) if the name is empty.
    /// It runs on the tokio runtime of its caller; outside a runtime on the manager's.
    ///
    /// The run is a new trace, linked to the span it was spawned in. Use [`task`](Self::task) to say more about it.
    /// During a shutdown the future is dropped and the handle answers [`TaskError::ShuttingDown`](crate::TaskError), once the
    /// tasks that are marked as [`intake`](CriticalTaskConfig::intake) have stopped.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message says what is
    /// missing.
    #[track_caller]
    pub fn spawn<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        self.shared().spawn(SpawnOptions::new(name), |_| future)
    }

    /// Runs work that blocks its thread, on the runtime's blocking pool: one run, one span, counted under `name`.
    ///
    /// Nothing can interrupt it: at shutdown its token is cancelled and it is waited for; where it goes on past the deadline
    /// it is reported as [leaked](crate::shutdown::ShutdownOutcome::Leaked), and the process can still exit (a runtime that is dropped
    /// waits for it: end with [`shutdown_background`](tokio::runtime::Runtime::shutdown_background) or `process::exit`).
    /// [`TaskHandle::abort`] only keeps work from beginning.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message says what is
    /// missing.
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

    /// Spawns a short task whose future is not `Send`, on this thread's [`LocalSet`](tokio::task::LocalSet); otherwise as
    /// [`spawn`](Self::spawn). It runs, and can be stopped, only while that set is driven.
    ///
    /// # Panics
    /// Outside a `LocalSet` and a `LocalRuntime`, and if [`spawn`](Self::spawn) panics.
    #[track_caller]
    pub fn spawn_local<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: TaskOutput<Via> + 'static,
    {
        self.task(name).spawn_local(future)
    }

    /// Says more about a short task before it is spawned.
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
        TaskBuilder::new(Some(self.shared().clone()), name)
    }

    /// Registers a critical task: begun by [`start`](Self::start), or at once after it; restarted by its policy.
    ///
    /// # Errors
    /// [`RegisterError`] names what is wrong; nothing was changed.
    #[doc(alias = "register_critical_task")]
    #[track_caller]
    pub fn register(&self, config: CriticalTaskConfig) -> Result<(), RegisterError> {
        config::register(vec![config], None, self.shared())
    }

    /// Registers several tasks at once, which may depend on each other in any order: all, or none where one is refused.
    ///
    /// # Errors
    /// [`RegisterError`] names what is wrong, a circle by its path; nothing was changed.
    #[track_caller]
    pub fn register_all(
        &self,
        configs: impl IntoIterator<Item = CriticalTaskConfig>,
    ) -> Result<(), RegisterError> {
        config::register(configs.into_iter().collect(), None, self.shared())
    }

    /// Registers a group of tasks: all, or none where one is refused.
    ///
    /// # Errors
    /// [`RegisterError`] names what is wrong; nothing was changed.
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

    /// Stops the registered task of that name, if there is one, and registers this one in its place.
    ///
    /// The new task is checked first: a refused one leaves the old task as it is. From then on the manager finishes the replacement,
    /// whatever becomes of the caller. A task that replaces itself does not wait: the call returns once the task is asked to stop, and
    /// a later refusal is logged.
    ///
    /// # Errors
    /// [`RegisterError`]. After the check, only what happened meanwhile can refuse the task: a shutdown, or a dependency that was
    /// unregistered.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the replacement.
    pub async fn replace(&self, config: CriticalTaskConfig) -> Result<(), RegisterError> {
        let shared = self.shared();
        let name = config.name().to_owned();
        let Some(reserved) = config::check_replacement(config, shared)? else {
            return Err(RegisterError::ShuttingDown);
        };
        let Some(old) = shared.find_leaving(&name) else { return reserved.register() };
        let replaces_itself = engine::is_current(shared, &old);
        shared.leave(&old);
        if old.has_left() {
            return reserved.register();
        }
        let finish = shared.clone();
        let replaced = shared.runtime().handle.spawn(async move {
            old.gone().await;
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
        // It does not panic, and ends before its time with the runtime alone.
        replaced.await.unwrap_or(Err(RegisterError::ShuttingDown))
    }

    /// Stops a registered task and forgets it; waits until it is gone.
    ///
    /// Its figures stay for a while, so that each collection sees the last of them: at least five minutes after the last run, and
    /// until a collection has exported them. They go earlier if [`max_names`](super::TaskManagerBuilder::max_names) leaves no room for
    /// a new name. A task that is registered under the name before a collection has missed it goes on with the figures. A later task
    /// begins at zero, and is exported from five minutes after the figures went.
    ///
    /// A task that unregisters itself does not wait: the call returns once the task is asked to stop.
    ///
    /// # Errors
    /// [`UnknownTask`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the stop.
    #[doc(alias = "unregister_critical_task")]
    pub async fn unregister(&self, name: &str) -> Result<(), UnknownTask> {
        let shared = self.shared();
        let task = shared.find_leaving(name).ok_or_else(|| UnknownTask { name: name.into() })?;
        shared.leave(&task);
        engine::until_gone(shared, &task).await;
        Ok(())
    }

    /// Forgets a registered task without stopping it: it goes on, is restarted by its policy and stopped at shutdown, but
    /// its name is free, it no longer counts as registered, the loss of what it depends on no longer concerns it, its health
    /// is no longer checked, and the handle of its loop answers [`NotRegistered`](crate::schedule::LoopControlError::NotRegistered).
    ///
    /// # Errors
    /// [`UnknownTask`].
    pub fn detach(&self, name: &str) -> Result<(), UnknownTask> {
        let unknown = || UnknownTask { name: name.into() };
        // A member that was to come back does not.
        let task = self.shared().find_leaving(name).ok_or_else(unknown)?;
        if !self.shared().remove(&task) {
            return Err(unknown());
        }
        self.shared().changed(&task);
        Ok(())
    }

    /// Registers a component that brings its own tasks; after [`start`](Self::start) they are discovered at once (hot
    /// load). A component of the same name is replaced; its tasks stay until [`unregister_component`](Self::unregister_component).
    #[doc(alias = "cog")]
    pub fn register_component(
        &self,
        name: impl Into<Arc<str>>,
        provider: impl CriticalTasksProvider,
    ) -> Discovery {
        self.handle.components.insert(name.into(), Arc::new(provider));
        if self.shared().is_started() {
            discover(self.shared(), &self.handle.components, true)
        } else {
            Discovery::default()
        }
    }

    /// Asks every component for its tasks and registers those that are not registered yet. A provider that panics is caught,
    /// logged and skipped.
    #[doc(alias = "discover_and_register_cog_tasks")]
    #[track_caller]
    pub fn discover_components(&self) -> Discovery {
        discover(self.shared(), &self.handle.components, false)
    }

    /// Unregisters a component and all its tasks (hot unload); waits until they are gone. Returns their names.
    ///
    /// A task of the component that calls this is asked to stop with the others, and is not waited for.
    ///
    /// # Errors
    /// [`UnknownComponent`] if neither a component nor a task of one has that name.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the stop.
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
        // All are asked before the first is waited for.
        for task in &tasks {
            shared.call_off(task);
            shared.leave(task);
        }
        for task in &tasks {
            engine::until_gone(shared, task).await;
        }
        Ok(tasks.iter().map(|task| task.name().to_string()).collect())
    }

    /// Restarts a registered task: one that runs is asked to stop, has its grace, and runs anew; one that was given up,
    /// finished or stopped begins again, its restarts forgiven. Answers after how long; not zero where the last restart is
    /// more recent than its restart delay, and then it goes on until then.
    ///
    /// The restart is counted when the new run begins.
    ///
    /// # Errors
    /// [`RestartError`].
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
        // A limit of zero says "never by yourself"; a person may.
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

    /// Stops a registered task, which stays registered and can be restarted. Does not wait for its end.
    ///
    /// # Errors
    /// [`TaskControlError`].
    pub fn stop(&self, name: &str) -> Result<(), TaskControlError> {
        let task = self.controlled(name)?;
        task.command(Order::Stop { grace: task.spec.grace() });
        Ok(())
    }

    /// Holds a task until it is [resumed](Self::resume): a loop finishes the iteration under way and begins no
    /// other; any other task, and a loop with a [gate](crate::CriticalTaskConfig::gate), is stopped in order. Without effect on one that has
    /// finished, failed or was stopped.
    ///
    /// # Errors
    /// [`TaskControlError`].
    pub fn pause(&self, name: &str) -> Result<(), TaskControlError> {
        self.order(name, Order::Pause)
    }

    /// Lets a paused task go on: a loop in its rhythm, where iterations that fell due meanwhile are left out; any other task
    /// begins anew. Without effect on one that is not paused.
    ///
    /// # Errors
    /// [`TaskControlError`].
    pub fn resume(&self, name: &str) -> Result<(), TaskControlError> {
        self.order(name, Order::Resume)
    }

    /// Returns a handle to a registered loop.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`] if no task of this name is registered, [`LoopControlError::NotALoop`] if the task
    /// is no loop.
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

    /// Returns what has changed about a registered task lately, the oldest first: failures, restarts, give-ups, recoveries, stalls, stops. `None`
    /// if no task of the name is registered.
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
    /// let told: Vec<_> = changes.iter().map(|change| (change.count, change.kind.to_string())).collect();
    /// assert_eq!(told[0], (3, "failed: refused".to_owned()));
    /// assert_eq!(told[1], (2, "restarted after a failure".to_owned()));
    /// # Ok(()) }
    /// ```
    pub fn changes(&self, name: &str) -> Option<Vec<TaskChange>> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.changes()).unwrap_or_default())
    }

    /// Returns why a registered task was restarted, given up or left down, the oldest first. `None` if no task of the name is registered.
    ///
    /// The last [`KEPT`](crate::events::TaskDecision::KEPT) decisions are kept for each task. Each is also the log record `task.decision`.
    pub fn decisions(&self, name: &str) -> Option<Vec<TaskDecision>> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.decisions()).unwrap_or_default())
    }

    /// Returns the traces of the last error, give-up and restart of a registered task. They are kept however many runs follow. `None` if no
    /// task of the name is registered.
    pub fn pinned_traces(&self, name: &str) -> Option<PinnedTraces> {
        let task = self.shared().supervised(name)?;
        Some(task.seldom.rings().map(|rings| rings.pinned()).unwrap_or_default())
    }

    /// What happens to registered tasks and to the manager, from now on. Nobody waits for the subscriber: behind by more
    /// than [`CAPACITY`](crate::events::TaskEvents::CAPACITY) events it misses the oldest, and they are counted.
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
    pub fn health(&self) -> ManagerHealth {
        self.shared().health()
    }

    /// Returns the health of a task; `None` for a name that was never seen.
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

    /// Returns the figures of a task with its last runs; `None` for a name that was never seen.
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

    /// Everything that is known of a task; `None` for a name that was never seen.
    pub fn snapshot(&self, name: &str) -> Option<TaskSnapshot> {
        let snapshot = self.shared().recorder.snapshot(name)?;
        let task = self.shared().supervised(name);
        let depends_on = task.map(|task| task.links.dependencies().to_vec()).unwrap_or_default();
        Some(TaskSnapshot { depends_on, ..snapshot })
    }

    /// Everything that is known of every task, by name.
    pub fn snapshots(&self) -> Vec<TaskSnapshot> {
        let mut snapshots = self.shared().recorder.snapshots_by_name();
        for task in self.shared().all_registered().iter().filter(|task| !task.links.dependencies().is_empty())
        {
            if let Ok(index) = snapshots.binary_search_by(|snapshot| snapshot.name.cmp(task.name())) {
                snapshots[index].depends_on = task.links.dependencies().to_vec();
            }
        }
        snapshots
    }

    /// Counts the runs and errors of each task by minute from now on, for [`TaskSnapshot::minutes`].
    ///
    /// It costs 480 bytes for each task that has runs, and cannot be switched off again. A page needs it.
    pub fn record_minutes(&self) {
        self.shared().recorder.record_minutes();
    }

    /// Returns the figures of the tokio runtime of the manager's own work; `None` if there is none yet.
    pub fn runtime_figures(&self) -> Option<RuntimeFigures> {
        self.shared().runtime_figures()
    }

    /// Traces of single runs, as examples for the buckets of `task.run.duration`: of each bucket the last run that failed, and the
    /// slowest other run of about the last minute.
    ///
    /// The first call returns none. From then on the manager notes them, which costs about 90 bytes for each bucket that has runs.
    /// Only runs whose span is exported are noted. Runs of `#[instrumented_task]` functions outside of any manager are included.
    pub fn exemplars(&self) -> Vec<RunExemplar> {
        let mut all = self.shared().recorder.exemplars();
        all.extend(Recorder::process().exemplars());
        all
    }

    /// The manager in figures.
    #[doc(alias = "get_task_statistics")]
    pub fn statistics(&self) -> TaskStatistics {
        let shared = self.shared();
        let now = shared.recorder.now();
        let mut tally = read::Tally::default();
        let (listing, past) = shared.recorder.registry().listing_and_past();
        tally.count(&past);
        engine::each_name(&listing, &shared.all_registered(), |of_name, task| {
            let vitals = cell::vitals(of_name, now);
            // What a member counts, its family does too; and a family is no task.
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

    /// The names of the registered tasks.
    pub fn task_names(&self) -> Vec<String> {
        self.shared().all_registered().iter().map(|task| task.name().to_string()).collect()
    }

    /// Stops everything, in order, under the manager's deadline: tasks marked as [`intake`](CriticalTaskConfig::intake) first, then
    /// admission of what no task [owns](crate::TaskContext::task), then loops, then category by category
    /// ([`SHUTDOWN_ORDER`](crate::TaskCategory::SHUTDOWN_ORDER)) and inside one the lowest priority first. Called twice, or
    /// at once by several, there is one shutdown and one report.
    ///
    /// Awaited inside a task of this manager, the shutdown neither stops that task nor waits for it: it goes on with the
    /// report, which names it in [`asked_by`](ShutdownReport::asked_by). (Not so inside something that the task has spawned
    /// elsewhere and waits for: that waits until the task's grace or the deadline is over.)
    ///
    /// The deadline is kept by a thread of its own: also where every thread of the runtime is blocked, the report is there
    /// in time. Where the thread that awaits it is itself blocked, the [last resort](super::TaskManagerBuilder::last_resort) has it.
    ///
    /// If [`shutdown_signal`](crate::shutdown_signal) was called in this process, a further signal ends the shutdown at once, as
    /// [`shutdown_now`](Self::shutdown_now) does.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the shutdown.
    #[doc(alias = "cancel_all_tasks")]
    #[track_caller]
    pub fn shutdown(&self) -> impl Future<Output = Arc<ShutdownReport>> + Send {
        let call = self.shared().will_need_runtime();
        async move {
            call.check(self.shared());
            engine::shutdown_in_steps(self.shared(), Duration::ZERO, Listener::new(self.shared())).await
        }
    }

    /// Drains for so long, then stops everything in order, as [`shutdown`](Self::shutdown) does: what SIGTERM does to a manager with
    /// a [`drain`](super::TaskManagerBuilder::drain), for a `preStop` hook or a test. Returns the report.
    ///
    /// While the manager drains it is not ready, and all tasks continue. The deadline counts from this call. The ordered shutdown gets the
    /// rest of the deadline, at least a tenth: a longer `drain` is cut to nine tenths.
    ///
    /// If a drain is under way, there is no second drain, and the earlier end counts. [`shutdown`](Self::shutdown) ends the drain and begins
    /// the ordered shutdown at once. If the ordered shutdown has begun, this method only waits for the report.
    ///
    /// If the process calls [`shutdown_signal`](crate::shutdown_signal), before or after this call, each further signal begins the next step:
    /// the ordered shutdown, and then the end at once. If [`run_until`](Self::run_until) waits, it handles the signals instead.
    ///
    /// # Cancel safety
    /// Dropping the future, once it was polled, stops the waiting; the drain and the shutdown go on in the manager.
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

    /// Ends a shutdown at once, or begins one that ends at once: what has not ended is dropped. What a second Ctrl-C asks for.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// Dropping the future stops the waiting, not the shutdown.
    #[track_caller]
    pub fn shutdown_now(&self) -> impl Future<Output = Arc<ShutdownReport>> + Send {
        let call = self.shared().will_need_runtime();
        async move {
            call.check(self.shared());
            engine::abort_shutdown(self.shared());
            engine::run_shutdown(self.shared()).await
        }
    }

    /// Starts what is not started, waits for `end`, then shuts down in order.
    ///
    /// The wait also ends when a shutdown begins for another reason: somebody else asks for it, or a task was given up whose
    /// [`Escalation`](crate::policy::Escalation::Shutdown) says so.
    ///
    /// If [`shutdown_signal`](crate::shutdown_signal) is called in this process, this listens for signals too. The first signal is left to
    /// `end`; a second one begins the ordered shutdown if `end` still waits. If `end` completed with a SIGTERM, the
    /// [`drain`](super::TaskManagerBuilder::drain) begins, if there is one. Each further signal goes one step on: from the drain to the
    /// ordered shutdown, and from there to the end at once, as [`shutdown_now`](Self::shutdown_now) does.
    ///
    /// # Panics
    /// Outside a tokio runtime if the manager was built outside one too, and on a runtime without a timer. The message has the line
    /// of the call.
    ///
    /// # Cancel safety
    /// Dropped before the signal, nothing has happened; afterwards the shutdown goes on without its caller.
    ///
    /// ```no_run
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// let report = tasks.run_until(otel_tasks::shutdown_signal()).await;
    /// std::process::exit(report.exit_code().into());
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
            tokio::select! {
                ended = listener.signals.beside(end) => Some(ended),
                _ = begun.wait_for(|begun| *begun) => None,
            }
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
            // An error says that the manager is gone.
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    /// Returns whether the ordered shutdown has begun: no task is registered any more. False during a drain.
    pub fn is_shutting_down(&self) -> bool {
        self.shared().tracker.is_closed()
    }

    /// Returns the report of the shutdown, once the shutdown is over.
    pub fn report(&self) -> Option<Arc<ShutdownReport>> {
        self.shared().sequence.get().and_then(|sequence| sequence.report())
    }

    /// Returns the settings of the manager, as it was built.
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
    pub fn task_settings(&self, name: &str) -> Option<TaskSettings> {
        self.shared().supervised(name).map(|task| TaskSettings::of(&task))
    }

    /// Answers "why do I see nothing in Jaeger or Prometheus": checks the subscriber, the level, the meter and the
    /// components, and asks the telemetry for its exporters, its sampler and what was delivered. Changes nothing, however often it is
    /// called.
    #[doc(alias = "setup_task_instrumentation")]
    pub fn check_instrumentation(&self) -> InstrumentationCheck {
        let installed = emit::installed();
        let has_tracer = self.shared().recorder.tracer().is_some();
        let exposition = self.shared().recorder.exposition();
        let registered = self.shared().all_registered();
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
