//! Short tasks: their options, and the cheap path that spawns them.

use std::{
    future::Future,
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, TraceContextExt},
};
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    emit::{KnownParent, SpanParent, subscriber_is_of_process},
    engine::{
        ContextParts, KeptManager, Origin, Shared, StopToken, Supervised, TaskContext,
        shutdown::tracker::{Owner, Place, RunExtras, Tracker, stage_of},
        spawn::{
            limit::Room,
            polled::{Handled, Polled},
        },
        stop::Stop,
    },
    gate::{Fenced, Pass},
    policy::{
        ErrorRules, Failure, OutputError, ShutdownOutcome, TaskCategory, TaskOutput, TaskPriority,
        error_text, type_path,
    },
    run::{
        Begin, Outcome, PollTime, Refusal, Rules, Run, SpanDetails, SpanMade, Task, TaskError, TaskHandle,
        catch, exit_of_run,
    },
    shards,
    watchdog::{MemberId, block_for},
};

/// A short task with options. Made by [`TaskManager::task`](crate::TaskManager::task) and
/// [`TaskContext::task`].
#[must_use = "nothing runs until `spawn`"]
pub struct TaskBuilder<'a> {
    /// `None` if the manager is gone: then the task is refused.
    pub(super) shared: Option<Spawner<'a>>,
    pub(super) options: SpawnOptions<'a>,
}

/// The manager that a task is spawned in. All threads share the number of its references, so most builders do not change it.
pub(crate) enum Spawner<'a> {
    /// By the manager itself.
    Borrowed(&'a Arc<Shared>),
    /// By the task that owns the run.
    Kept(KeptManager),
    /// By a reference of its own.
    Counted(Arc<Shared>),
}

impl Deref for Spawner<'_> {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        match self {
            Self::Borrowed(shared) => shared,
            Self::Kept(shared) => shared,
            Self::Counted(shared) => shared,
        }
    }
}

impl std::fmt::Debug for TaskBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskBuilder").field("name", &self.options.name).finish_non_exhaustive()
    }
}

impl<'a> TaskBuilder<'a> {
    pub(crate) fn new(shared: Option<Spawner<'a>>, name: &'a str) -> Self {
        Self { shared, options: SpawnOptions::new(name) }
    }

    /// Returns a builder of a task that `owner` owns.
    pub(crate) fn owned(name: &'a str, owner: Arc<Supervised>) -> Self {
        let shared = owner.kept_manager().map(Spawner::Kept);
        let options = SpawnOptions { owner: Some(Owner::Task(owner)), ..SpawnOptions::new(name) };
        Self { shared, options }
    }

    /// Sets the category. Default: the manager's [`CategoryRules`](crate::policy::CategoryRules) derive it from the name.
    ///
    /// ```
    /// use otel_tasks::TaskCategory;
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// tasks.task("ping").category(TaskCategory::Command).spawn(async {});
    /// # }
    /// ```
    pub fn category(mut self, category: TaskCategory) -> Self {
        self.options.category = Some(category);
        self
    }

    /// Sets the priority. Default: Normal. In its category, a shutdown stops runs of a lower priority first.
    ///
    /// ```
    /// use otel_tasks::TaskPriority;
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// tasks.task("thumbnail").priority(TaskPriority::Low).spawn(async {});
    /// # }
    /// ```
    pub fn priority(mut self, priority: TaskPriority) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Sets the component that owns the task.
    ///
    /// ```
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// tasks.task("play").component("music").spawn(async {});
    /// # }
    /// ```
    #[doc(alias = "cog")]
    pub fn component(mut self, component: impl Into<Arc<str>>) -> Self {
        self.options.component = Some(component.into());
        self
    }

    /// Sets the longest time of the run, after which it is dropped. Default: unlimited.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let tasks = TaskManager::new();
    /// let slow = tasks.task("fetch").timeout(Duration::from_secs(5)).spawn(std::future::pending::<()>());
    /// assert!(slow.await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sets the time that the run has to end after a stop request at shutdown, before it is dropped.
    ///
    /// Work that a registered task [owns](TaskContext::task) has this time after the end of that task, and no longer than the grace of its owner.
    ///
    /// ```
    /// use std::time::Duration;
    /// # async fn example(tasks: otel_tasks::TaskManager) {
    /// tasks.task("upload").shutdown_grace(Duration::from_secs(20)).spawn(async {});
    /// # }
    /// ```
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.options.grace = Some(grace);
        self
    }

    /// Makes the current span the parent of the run's span, in place of a new trace. Replaces an earlier [`parent`](Self::parent).
    ///
    /// ```
    /// # async fn example(tasks: otel_tasks::TaskManager) -> Result<(), otel_tasks::TaskError> {
    /// let thumbnail = tasks.task("thumbnail").in_current_trace().spawn(async { "120x80" });
    /// println!("{}", thumbnail.await?);
    /// # Ok(()) }
    /// ```
    pub fn in_current_trace(mut self) -> Self {
        self.options.extras().parent = Parent::Current;
        self
    }

    /// Makes the run's span a child of the span of `parent`, which may be in another process. A context without a valid span changes nothing.
    ///
    /// [`remote_context`](crate::telemetry::remote_context) reads such a context from the headers of a message. This call replaces an earlier
    /// `parent` and [`in_current_trace`](Self::in_current_trace).
    ///
    /// Inside the run the trace continues even if a filter hides the run's own span (`RUST_LOG=warn`). Then spans that are opened in the run are
    /// children of the parent's span, and headers that are injected there carry its trace. The baggage of `parent` is current inside the
    /// run. A sampler that is based on the parent keeps the parent's decision.
    ///
    /// ```
    /// use otel_tasks::telemetry::remote_context;
    /// # struct Message;
    /// # impl Message { fn header(&self, _: &str) -> Option<&str> { None } }
    /// # async fn handle(_: Message) {}
    /// # async fn example(tasks: otel_tasks::TaskManager, message: Message) {
    /// let producer = remote_context(|name| message.header(name));
    /// tasks.task("handle_order").parent(producer).spawn(handle(message));
    /// # }
    /// ```
    pub fn parent(mut self, parent: OtelContext) -> Self {
        if parent.span().span_context().is_valid() {
            self.options.extras().parent = Parent::Of(parent);
        }
        self
    }

    /// Links the run's span to another span, for example to each message of a batch. Several calls add several links; an invalid span
    /// context is ignored.
    ///
    /// A run that begins a new trace is also linked to the span in which it is spawned.
    ///
    /// ```
    /// use otel_tasks::{opentelemetry::trace::TraceContextExt, telemetry::remote_context};
    /// # struct Message;
    /// # impl Message { fn header(&self, _: &str) -> Option<&str> { None } }
    /// # async fn store(_: Vec<Message>) {}
    /// # async fn example(tasks: otel_tasks::TaskManager, batch: Vec<Message>) {
    /// let mut task = tasks.task("store_batch");
    /// for message in &batch {
    ///     task = task.link(remote_context(|name| message.header(name)).span().span_context().clone());
    /// }
    /// task.spawn(store(batch));
    /// # }
    /// ```
    pub fn link(mut self, span: SpanContext) -> Self {
        if span.is_valid() {
            self.options.extras().links.push(span);
        }
        self
    }

    /// Names errors of type `E` for the attribute `error.type`. Without a name, the attribute is the Rust type of the error.
    ///
    /// The rule receives the returned error, or the outermost of its sources that is an `E`. Errors without a rule are left to
    /// [the manager's rules](crate::task::TaskManagerBuilder::error_type). A second rule for the same type replaces the first. Use few names:
    /// beyond [`MAX_ERROR_TYPES`](crate::snapshot::TaskSnapshot::MAX_ERROR_TYPES) they count as `_OTHER`.
    ///
    /// ```
    /// # use otel_tasks::TaskManager;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::io;
    /// let tasks = TaskManager::new();
    /// let _ = tasks
    ///     .task("load")
    ///     .error_type(|error: &io::Error| match error.kind() {
    ///         io::ErrorKind::NotFound => "not_found",
    ///         _ => "io",
    ///     })
    ///     .spawn(async { Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)) })
    ///     .await;
    /// let error = tasks.snapshot("load").unwrap().last_error.unwrap();
    /// assert_eq!(error.error_type, "not_found");
    /// # }
    /// ```
    pub fn error_type<E: OutputError<Via>, Via>(
        mut self,
        name: impl Fn(&E) -> &'static str + Send + Sync + 'static,
    ) -> Self {
        self.options.extras().error_rules.get_or_insert_default().name(name);
        self
    }

    /// Spawns the future. See [`TaskManager::spawn`](crate::TaskManager::spawn).
    ///
    /// # Panics
    /// As [`TaskManager::spawn`](crate::TaskManager::spawn). With a [`timeout`](Self::timeout), also if the caller is on a runtime without a
    /// timer.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// assert_eq!(tasks.task("add").component("math").spawn(async { 1 + 1 }).await?, 2);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn<F, Via>(self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        match self.shared {
            Some(shared) => shared.spawn(self.options, |_| future),
            None => TaskHandle::refused(Refusal::ShuttingDown),
        }
    }

    /// Spawns the future that `task` makes of its context, through which it receives the stop request. `task` itself is called in this call, so
    /// a panic in it is a panic of the caller.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let import = tasks.task("import").spawn_with(|ctx| async move {
    ///     ctx.cancelled().await;
    ///     "stopped in time"
    /// });
    /// tasks.shutdown().await;
    /// assert_eq!(import.await?, "stopped in time");
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_with<F, Via>(mut self, task: impl FnOnce(TaskContext) -> F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        self.options.with_context = true;
        match self.shared {
            Some(shared) => {
                shared.spawn(self.options, |context| task(context.expect("a context was asked for")))
            }
            None => TaskHandle::refused(Refusal::ShuttingDown),
        }
    }
}

impl TaskBuilder<'_> {
    /// Spawns a future that is not `Send` on the [`LocalSet`](tokio::task::LocalSet) of this thread.
    ///
    /// # Panics
    /// Outside a `LocalSet` and a `LocalRuntime`, and if [`TaskManager::spawn`](crate::TaskManager::spawn) panics.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{cell::Cell, rc::Rc, time::Duration};
    /// let tasks = TaskManager::new();
    /// let seen = Rc::new(Cell::new(0));
    /// let counter = seen.clone();
    /// let local = tokio::task::LocalSet::new();
    /// let task = tasks.task("count").timeout(Duration::from_secs(1));
    /// local.run_until(async { task.spawn_local(async move { counter.set(1) }).await }).await?;
    /// assert_eq!(seen.get(), 1);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_local<F, Via>(self, future: F) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: TaskOutput<Via> + 'static,
    {
        match self.shared {
            Some(shared) => shared.spawn_local(self.options, |_| future),
            None => TaskHandle::refused(Refusal::ShuttingDown),
        }
    }

    /// Runs blocking work on a thread of the runtime's blocking pool. See
    /// [`TaskManager::spawn_blocking`](crate::TaskManager::spawn_blocking). A [`timeout`](Self::timeout) has no effect, because
    /// blocking work cannot be dropped.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let hash = tasks.task("hash").component("files").spawn_blocking(|_stop| 42_u32);
    /// assert_eq!(hash.await?, 42);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn_blocking<T, Via>(
        mut self,
        work: impl FnOnce(StopToken) -> T + Send + 'static,
    ) -> TaskHandle<T>
    where
        T: TaskOutput<Via> + Send + 'static,
    {
        self.options.blocking = true;
        match self.shared {
            Some(shared) => shared.spawn_blocking(self.options, work),
            None => TaskHandle::refused(Refusal::ShuttingDown),
        }
    }
}

/// The options of a spawned task.
pub(crate) struct SpawnOptions<'a> {
    pub(crate) name: &'a str,
    pub(crate) category: Option<TaskCategory>,
    pub(crate) priority: Option<TaskPriority>,
    pub(crate) component: Option<Arc<str>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) with_context: bool,
    pub(crate) blocking: bool,
    /// The task that owns it.
    pub(crate) owner: Option<Owner>,
    extras: Option<Box<Extras>>,
}

/// The options that few spawns set, behind one pointer: options are moved on each spawn.
#[derive(Default)]
struct Extras {
    parent: Parent,
    links: Vec<SpanContext>,
    /// Of a limited task: one run's.
    room: Option<Room>,
    /// The rules that name its errors.
    error_rules: Option<ErrorRules>,
}

impl Extras {
    /// The same without the room.
    fn of_another_run(&self) -> Self {
        let Self { parent, links, room: _, error_rules } = self;
        Self { parent: parent.clone(), links: links.clone(), room: None, error_rules: error_rules.clone() }
    }
}

/// The parent of a run's span.
#[derive(Clone, Default)]
enum Parent {
    #[default]
    None,
    /// The span that is current where the run is spawned.
    Current,
    /// The span of this context, which is valid.
    Of(OtelContext),
}

impl<'a> SpawnOptions<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self {
            name,
            category: None,
            priority: None,
            component: None,
            timeout: None,
            grace: None,
            with_context: false,
            blocking: false,
            owner: None,
            extras: None,
        }
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Returns the options for each of many runs, and the name and the owner, which have owned types of their own.
    pub(super) fn for_each_run(self) -> (SpawnOptions<'static>, Box<str>, Option<Owner>) {
        let Self { name, owner, extras, .. } = self;
        let extras = extras.map(|extras| Box::new(Extras { room: None, ..*extras }));
        (SpawnOptions { name: "", owner: None, extras, ..self }, name.into(), owner)
    }

    /// The same for one run that has room.
    pub(super) fn of_one_run<'b>(&self, name: &'b str, owner: Option<Owner>, room: Room) -> SpawnOptions<'b> {
        let extras = self.extras.as_ref().map_or_else(Extras::default, |extras| extras.of_another_run());
        SpawnOptions {
            name,
            owner,
            component: self.component.clone(),
            extras: Some(Box::new(Extras { room: Some(room), ..extras })),
            ..*self
        }
    }
}

/// Spawns a run whose owner has a gate. Apart, because few have one: a spawn without a gate moves its future no more for it.
#[cold]
#[inline(never)]
fn spawn_fenced<F>(runtime: &Handle, id: MemberId, pass: Pass, run: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let run: Pin<Box<dyn Future<Output = F::Output> + Send>> = Box::pin(run);
    runtime.spawn(Polled::new(id, Fenced::new(pass, run)))
}

/// A short task that was admitted: its run may begin.
struct Admitted {
    begin: Begin<'static>,
    place: Place,
    token: Option<CancellationToken>,
    context: Option<TaskContext>,
    /// Of the task that owns it, if that has a gate.
    pass: Option<Pass>,
    runtime: Handle,
}

impl Shared {
    /// Spawns a short task: the cheap path, which touches its cell and the tracker alone.
    #[track_caller]
    pub(crate) fn spawn<F, Via>(
        self: &Arc<Self>,
        options: SpawnOptions<'_>,
        future: impl FnOnce(Option<TaskContext>) -> F,
    ) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        let Admitted { begin, place, context, pass, runtime, .. } = match self.admit(type_path::<F>, options)
        {
            Ok(admitted) => admitted,
            Err(refusal) => return TaskHandle::refused(refusal),
        };
        let (key, id) = place.key();
        let _inside = begin.timeout.map(|_| runtime.enter());
        let run = Run::begun(
            begin,
            future(context),
            |output: &F::Output, rules: Rules<'_>| exit_of_run(output, rules),
            place,
        );
        let handle = match pass {
            None => runtime.spawn(Polled::new(id, Handled { run })),
            Some(pass) => spawn_fenced(&runtime, id, pass, Handled { run }),
        };
        self.tracker.set_abort((key, id), handle.abort_handle());
        TaskHandle::new(handle)
    }

    /// Spawns a short task that stays on this thread.
    #[track_caller]
    pub(crate) fn spawn_local<F, Via>(
        self: &Arc<Self>,
        options: SpawnOptions<'_>,
        future: impl FnOnce(Option<TaskContext>) -> F,
    ) -> TaskHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: TaskOutput<Via> + 'static,
    {
        let Admitted { begin, place, context, pass, .. } = match self.admit(type_path::<F>, options) {
            Ok(admitted) => admitted,
            Err(refusal) => return TaskHandle::refused(refusal),
        };
        let (key, id) = place.key();
        let run = Run::begun(
            begin,
            future(context),
            |output: &F::Output, rules: Rules<'_>| exit_of_run(output, rules),
            place,
        );
        // Tokio cannot report if there is a `LocalSet`; only a spawn can.
        let run = Handled { run };
        let spawn = || match pass {
            None => tokio::task::spawn_local(Polled::new(id, run)),
            Some(pass) => {
                let run: Pin<Box<dyn Future<Output = Outcome<F::Output>>>> = Box::pin(run);
                tokio::task::spawn_local(Polled::new(id, Fenced::new(pass, run)))
            }
        };
        let Ok(handle) = catch(true, spawn) else {
            panic!(
                "`spawn_local` needs a `LocalSet` or a `LocalRuntime`: call it inside `LocalSet::run_until` or \
                 `LocalSet::block_on`"
            );
        };
        self.tracker.set_abort((key, id), handle.abort_handle());
        TaskHandle::new(handle)
    }

    /// Spawns work that blocks its thread: one run, on a thread of the runtime's blocking pool.
    #[track_caller]
    pub(crate) fn spawn_blocking<T, Via>(
        self: &Arc<Self>,
        options: SpawnOptions<'_>,
        work: impl FnOnce(StopToken) -> T + Send + 'static,
    ) -> TaskHandle<T>
    where
        T: TaskOutput<Via> + Send + 'static,
    {
        let Admitted { begin, place, token, pass, runtime, .. } = match self.admit(type_path::<T>, options) {
            Ok(admitted) => admitted,
            Err(refusal) => return TaskHandle::refused(refusal),
        };
        let stop = StopToken::new(token.expect("blocking work is given a token"));
        let (key, id) = place.key();
        // In a place from which it can be taken back: tokio keeps work for which it has no thread, and panics.
        let waiting = Arc::new(Mutex::new(Some((begin, place, work))));
        let taken = waiting.clone();
        // The subscriber of this thread moves with the work: otherwise it would not see the run, and the span would keep its parent open.
        let subscriber =
            (!subscriber_is_of_process()).then(|| tracing::dispatcher::get_default(tracing::Dispatch::clone));
        let take = |waiting: &Mutex<Option<_>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Begun and ended on its own thread; the run is a future that is ready at its only poll.
        let spawn = || {
            runtime.spawn_blocking(move || {
                let Some((begin, place, work)) = take(&taken) else {
                    return Err(Box::new(TaskError::NoThread));
                };
                // Nothing can end it once it has begun, so it counts as a poll of its owner.
                let busy = pass.as_ref().map(Pass::begin_poll);
                if let Some(None) = busy {
                    place.note(ShutdownOutcome::Aborted);
                    return Err(Box::new(TaskError::Cancelled));
                }
                let _subscriber = subscriber.as_ref().map(tracing::dispatcher::set_default);
                let run = Run::begun(
                    begin,
                    async move { work(stop) },
                    |output: &T, rules: Rules<'_>| exit_of_run(output, rules),
                    place,
                );
                let polled = || std::pin::pin!(run).poll(&mut Context::from_waker(Waker::noop()));
                match block_for(id, polled) {
                    Poll::Ready(ended) => ended.into(),
                    Poll::Pending => {
                        unreachable!("work without a suspension point is done at its only poll")
                    }
                }
            })
        };
        let Ok(handle) = catch(true, spawn) else {
            drop(take(&waiting));
            return TaskHandle::new(runtime.spawn(async { Err(Box::new(TaskError::NoThread)) }));
        };
        self.tracker.set_abort((key, id), handle.abort_handle());
        TaskHandle::new(handle)
    }

    /// The task that figures of a run of this name are kept under, if a thread of this shard spawns it.
    fn task_here(
        &self,
        name: &str,
        category: Option<TaskCategory>,
        priority: Option<TaskPriority>,
        component: Option<Arc<str>>,
        shard: usize,
    ) -> Arc<Task> {
        if category.is_none() && priority.is_none() && component.is_none() {
            self.recorder.task_here(name, shard)
        } else {
            self.recorder.task_with_here(name, category, priority, component.as_deref(), shard)
        }
    }

    /// The task that figures of this name are kept under.
    pub(super) fn task_of(
        &self,
        name: &str,
        category: Option<TaskCategory>,
        priority: Option<TaskPriority>,
        component: Option<Arc<str>>,
    ) -> Arc<Task> {
        if category.is_none() && priority.is_none() && component.is_none() {
            self.recorder.task(name)
        } else {
            self.recorder.task_with(name, category, priority, component)
        }
    }

    /// Gives a task its runtime, its cell and its place, or refuses it: during a shutdown, or if there is no runtime left.
    #[track_caller]
    fn admit(
        self: &Arc<Self>,
        type_path: fn() -> String,
        options: SpawnOptions<'_>,
    ) -> Result<Admitted, Refusal> {
        // Checked before a cell is made for a name that never runs. The tracker makes the final decision.
        if !self.tracker.admits_run(options.owner.as_ref()) {
            return Err(Refusal::ShuttingDown);
        }
        let runtime = self.runtime_here()?;
        if options.timeout.is_some() && !options.blocking {
            self.check_time(&runtime);
        }
        let type_name;
        let name = match options.name {
            "" => {
                type_name = type_path();
                &type_name
            }
            name => name,
        };
        let shard = shards::here();
        let task = self.task_here(name, options.category, options.priority, options.component, shard);
        let mut extras = options.extras;
        let room = extras.as_mut().and_then(|extras| extras.room.take());
        let hears = options.with_context || options.blocking;
        let token = hears.then(CancellationToken::new);
        let grace = options.grace;
        let has_extras = hears || grace.is_some() || room.is_some();
        let of_run = has_extras.then(|| Box::new(RunExtras { token: token.clone(), grace, room }));
        // Past the bound on names a task is metered as `_OTHER`, and still stopped by the category of its caller.
        let stage = stage_of(
            options.category.unwrap_or(task.identity.category),
            options.priority.unwrap_or(task.identity.priority),
        );
        let owner = options.owner.as_ref().filter(|_| options.with_context).map(Owner::downgrade);
        // Not before: a builder that is kept must not delay the release of a lease.
        let its_owner = match options.owner.map(Owner::with_share) {
            Some(None) => return Err(Refusal::ShuttingDown),
            Some(Some(owner)) => Some(owner),
            None => None,
        };
        let pass = its_owner.as_ref().and_then(Owner::pass);
        let place = Tracker::enter(&self.tracker, shard, &task, stage, its_owner, of_run)
            .map_err(|_| Refusal::ShuttingDown)?;
        let context = token.clone().filter(|_| options.with_context).map(|token| {
            TaskContext::new(ContextParts {
                task: task.clone(),
                generation: None,
                stop: Stop::of(token),
                origin: match owner {
                    Some(owner) => Origin::of_owner(owner, pass.clone()),
                    None => Origin::Manager(self.own.of_shard(shard)),
                },
            })
        });
        let mut details: Option<Box<SpanDetails>> = None;
        if *name != *task.identity.name {
            details.get_or_insert_default().given_name =
                Some(error_text::bounded(name, Failure::MAX_MESSAGE));
        }
        let mut begins_trace = true;
        let mut error_rules = None;
        if let Some(extras) = extras {
            let Extras { parent, links, room: _, error_rules: own_rules } = *extras;
            error_rules = own_rules.and_then(|rules| self.recorder.with_rules(rules));
            let parent = match parent {
                // Its span is made on another thread.
                Parent::Current if options.blocking => SpanParent::Known(Box::new(KnownParent::current())),
                Parent::Current => SpanParent::current(),
                Parent::Of(context) => SpanParent::Known(Box::new(KnownParent::of(context))),
                Parent::None => SpanParent::Root,
            };
            begins_trace = matches!(parent, SpanParent::Root);
            if !begins_trace || !links.is_empty() {
                let details = details.get_or_insert_default();
                (details.parent, details.links) = (parent, links);
            }
        }
        if begins_trace {
            let spawner = OtelContext::map_current(|context| {
                context.has_active_span().then(|| context.span().span_context().clone())
            });
            if let Some(spawner) = spawner.filter(SpanContext::is_valid) {
                let links = &mut details.get_or_insert_default().links;
                links.reserve_exact(1);
                links.push(spawner);
            }
        }
        let begin = Begin {
            recorder: self.recorder.of_shard(shard),
            task,
            timeout: options.timeout.filter(|_| !options.blocking),
            error_rules,
            polls: if options.blocking { PollTime::Untimed } else { self.recorder.polls() },
            span: SpanMade::WhenPolled(details),
        };
        Ok(Admitted { begin, place, token, context, pass, runtime })
    }
}
