//! The context of a run, which its task receives.

use std::{
    future::Future,
    num::NonZeroU64,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::SystemTime,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{
        Shared, Spawner, Supervised, TaskBuilder, TaskEventKind,
        stop::{Stop, Wait},
    },
    gate::{Pass, Standing},
    policy::TaskOutput,
    run::{Task, TaskHandle},
    shards::LocalArc,
};

/// The view of a run on itself: its name and number, the stop request, its heartbeat, and a way to spawn.
///
/// Cheap to clone; clones belong to the same run. A context that outlives its run keeps nothing alive.
#[derive(Clone)]
pub struct TaskContext {
    parts: Arc<ContextParts>,
    iteration: Option<NonZeroU64>,
}

/// The state that the runs of one life share: one run of a closure, or the iterations of a loop.
pub(crate) struct ContextParts {
    pub(crate) task: Arc<Task>,
    /// The generation of the life; `None` for a spawned run, which has no heartbeat timeout.
    pub(crate) generation: Option<NonZeroU64>,
    pub(crate) stop: Stop,
    pub(crate) origin: Origin,
}

/// The owner of the work that is spawned through a context, or its manager without one.
pub(crate) enum Origin {
    /// The manager of a run without an owner.
    Manager(LocalArc<Weak<Shared>>),
    /// The task itself, or the owner of the spawned run.
    Owner(Weak<Supervised>),
    /// The same for a task with a gate. Behind a pointer, because few tasks have one.
    Gated(Box<(Weak<Supervised>, Pass)>),
}

impl Origin {
    pub(crate) fn of_owner(owner: Weak<Supervised>, pass: Option<Pass>) -> Self {
        match pass {
            None => Self::Owner(owner),
            Some(pass) => Self::Gated(Box::new((owner, pass))),
        }
    }

    fn owner(&self) -> Option<&Weak<Supervised>> {
        match self {
            Self::Manager(_) => None,
            Self::Owner(owner) => Some(owner),
            Self::Gated(gated) => Some(&gated.0),
        }
    }
}

impl ContextParts {
    /// Returns the registered task and its generation; `None` for a spawned run.
    fn life(&self) -> Option<(&Weak<Supervised>, u64)> {
        Some((self.origin.owner()?, self.generation?.get()))
    }

    /// Returns true if the run was requested to stop, or is about to be. Its driver makes the request between two polls, so a poll that does not
    /// return sees the order itself.
    fn is_to_stop(&self) -> bool {
        if self.stop.is_asked() {
            return true;
        }
        let Some((supervised, generation)) = self.life() else { return false };
        let is_ordered = || supervised.upgrade().is_some_and(|task| task.is_to_stop(generation));
        let ends = match &self.origin {
            Origin::Gated(gated) => !matches!(gated.1.standing(), Standing::Open(_)),
            Origin::Manager(_) | Origin::Owner(_) => false,
        };
        let is_to_stop = ends || is_ordered();
        if is_to_stop {
            self.stop.is_seen();
        }
        is_to_stop
    }

    /// Returns the token of the life. Its holder sees a stop as early as [`is_to_stop`](Self::is_to_stop) does.
    fn token(&self) -> &CancellationToken {
        let is_new = self.stop.held_token().is_none();
        let token = self.stop.token();
        if let Some((supervised, generation)) = self.life().filter(|_| is_new) {
            if let Some(supervised) = supervised.upgrade() {
                supervised.lend_token(generation, token.clone());
            }
        }
        token
    }
}

/// The wait for the stop request of a run. Not an `async` block, because nearly every task's future holds one.
#[must_use = "futures do nothing unless polled"]
struct Cancelled<'a> {
    parts: &'a ContextParts,
    wait: Wait<'a>,
}

impl Future for Cancelled<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let parts = self.parts;
        if matches!(self.wait, Wait::New) && parts.is_to_stop() {
            return Poll::Ready(());
        }
        self.wait.poll(&parts.stop, cx)
    }
}

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        self.wait.leave(&self.parts.stop);
    }
}

impl TaskContext {
    pub(crate) fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts), iteration: None }
    }

    /// Returns the context of the same life for one iteration.
    pub(crate) fn of_iteration(&self, iteration: u64) -> Self {
        Self { parts: self.parts.clone(), iteration: NonZeroU64::new(iteration) }
    }

    /// Requests the life to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.parts.stop.ask();
    }

    /// Returns true if the life was requested to stop. Cheaper than [`is_cancelled`](Self::is_cancelled). It is the same for a task without a
    /// gate while no [signal](Supervised::has_signal) waits: the driver receives each signal before it polls the life.
    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.parts.stop.is_asked()
    }

    /// Returns the token of the life, if somebody holds it and may cancel it.
    pub(crate) fn held_token(&self) -> Option<&CancellationToken> {
        self.parts.stop.held_token()
    }

    /// Returns true if the life may have seen that it is to stop, before its driver has requested it.
    pub(crate) fn was_early(&self) -> bool {
        self.parts.stop.was_early()
    }

    /// Returns the name of the task.
    ///
    /// ```
    /// # use otel_tasks::CriticalTaskConfig;
    /// let gateway = CriticalTaskConfig::new("gateway", |ctx| async move {
    ///     println!("{} runs", ctx.name());
    ///     ctx.cancelled().await;
    /// });
    /// # drop(gateway);
    /// ```
    pub fn name(&self) -> &str {
        &self.parts.task.identity.name
    }

    /// Returns the number of the run: 1 for the first run of the task, one more after each restart.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::one_shot("connect", |ctx| async move {
    ///     if ctx.generation() == 1 { Err("refused") } else { Ok(()) }
    /// }))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    /// assert_eq!(tasks.snapshot("connect").unwrap().total_runs(), 2);
    /// # Ok(()) }
    /// ```
    pub fn generation(&self) -> u64 {
        self.parts.generation.map_or(1, NonZeroU64::get)
    }

    /// Returns the number of this iteration, from 1; `None` outside of a [`TaskLoop`](crate::TaskLoop).
    ///
    /// ```
    /// # use otel_tasks::TaskLoop;
    /// let sweep = TaskLoop::every(std::time::Duration::from_secs(60), |ctx| async move {
    ///     println!("iteration {:?}", ctx.iteration());
    /// });
    /// # drop(sweep);
    /// ```
    pub fn iteration(&self) -> Option<u64> {
        self.iteration.map(NonZeroU64::get)
    }

    /// Waits for the stop request. After it, the run has its grace to end.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("poll", |ctx| async move {
    ///     loop {
    ///         tokio::select! {
    ///             () = ctx.cancelled() => break,
    ///             () = tokio::time::sleep(Duration::from_secs(1)) => { /* poll */ }
    ///         }
    ///     }
    ///     // close the connection
    /// }))?;
    /// tasks.start();
    /// assert!(tasks.shutdown().await.is_clean());
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped future loses nothing, and after the request each call completes at once.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + Sync + Unpin {
        Cancelled { parts: &self.parts, wait: Wait::New }
    }

    /// Returns the future of [`cancelled`](Self::cancelled) without a borrow, for the graceful shutdown of a server.
    ///
    /// ```
    /// # async fn serve(_: impl Future<Output = ()> + Send + 'static) {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let http = otel_tasks::CriticalTaskConfig::new("http", |ctx| async move { serve(ctx.cancelled_owned()).await });
    /// # drop(http);
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Cancel safe, as [`cancelled`](Self::cancelled) is.
    pub fn cancelled_owned(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let parts = self.parts.clone();
        async move {
            let cancelled = Cancelled { parts: &parts, wait: Wait::New };
            cancelled.await
        }
    }

    /// Runs `future` until it ends or the run is requested to stop. Returns the output of `future`; `None` if the request came first.
    ///
    /// After the request, `future` is dropped and not polled again.
    ///
    /// ```
    /// # struct Queue;
    /// # impl Queue { async fn next(&mut self) -> Option<u32> { None } }
    /// # async fn consume(ctx: otel_tasks::TaskContext, mut queue: Queue) {
    /// while let Some(Some(message)) = ctx.run_until_cancelled(queue.next()).await {
    ///     println!("{message}");
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// As cancel safe as `future` is: a request to stop drops it, as dropping this call does.
    pub async fn run_until_cancelled<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.cancelled() => None,
            output = future => Some(output),
        }
    }

    /// Returns true if the run has been requested to stop.
    ///
    /// A poll that never awaits sees a stop, a restart and a shutdown too, from any thread. A task that others depend on sees it when
    /// its turn has come.
    ///
    /// ```
    /// # async fn sort(ctx: otel_tasks::TaskContext, parts: Vec<Vec<u32>>) {
    /// for mut part in parts {
    ///     if ctx.is_cancelled() {
    ///         break;
    ///     }
    ///     part.sort();
    ///     tokio::task::yield_now().await;
    /// }
    /// # }
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.parts.is_to_stop()
    }

    /// Returns the run's permission, if its task has a [gate](crate::CriticalTaskConfig::gate): its term is the fencing token.
    ///
    /// Work that the run spawned through its context has the same permission.
    ///
    /// ```
    /// # async fn send(ctx: otel_tasks::TaskContext) {
    /// if let Some(pass) = ctx.pass() {
    ///     println!("UPDATE outbox SET sent = true WHERE id = $1 AND term <= {}", pass.term());
    /// }
    /// # }
    /// ```
    pub fn pass(&self) -> Option<&Pass> {
        match &self.parts.origin {
            Origin::Gated(gated) => Some(&gated.1),
            Origin::Manager(_) | Origin::Owner(_) => None,
        }
    }

    /// Returns the token behind [`cancelled`](Self::cancelled), for libraries that take a token.
    ///
    /// ```
    /// # async fn listen(ctx: otel_tasks::TaskContext) {
    /// let listener = ctx.cancellation_token().child_token();
    /// listener.cancelled().await;
    /// # }
    /// ```
    pub fn cancellation_token(&self) -> &CancellationToken {
        self.parts.token()
    }

    /// Reports that the run makes progress. With a [`heartbeat_timeout`](crate::CriticalTaskConfig::heartbeat_timeout), a task must call this more
    /// often than the timeout.
    ///
    /// A call on a clone that outlives its run is ignored, and counted in
    /// [`stale_signals`](crate::snapshot::TaskSnapshot::stale_signals).
    ///
    /// ```
    /// # struct Queue;
    /// # impl Queue { async fn next(&mut self) -> Option<u32> { None } }
    /// # async fn consume(ctx: otel_tasks::TaskContext, mut queue: Queue) {
    /// while let Some(message) = queue.next().await {
    ///     ctx.heartbeat();
    ///     println!("{message}");
    /// }
    /// # }
    /// ```
    pub fn heartbeat(&self) {
        let counts = match self.parts.life() {
            None => true,
            Some((supervised, generation)) => supervised
                .upgrade()
                .is_some_and(|supervised| supervised.signals.heartbeat(generation, Instant::now)),
        };
        if counts {
            self.parts.task.heartbeat(SystemTime::now());
        } else {
            self.parts.task.stale_signal();
        }
    }

    /// Reports that the run does its work from now on: tasks that depend on it may begin.
    ///
    /// A task with a [`start_timeout`](crate::CriticalTaskConfig::start_timeout) must call this in time. Any other task is ready when it begins. A
    /// call on a clone that outlives its run is ignored, and counted as a stale heartbeat is.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn run(ctx: otel_tasks::TaskContext) { ctx.cancelled().await }
    /// use std::time::Duration;
    /// let tasks = TaskManager::new();
    /// tasks.register_all([
    ///     CriticalTaskConfig::new("database", |ctx| async move {
    ///         tokio::time::sleep(Duration::from_secs(3)).await; // connect
    ///         ctx.ready();
    ///         ctx.cancelled().await;
    ///     })
    ///     .start_timeout(Duration::from_secs(10)),
    ///     CriticalTaskConfig::new("http", run).depends_on("database"),
    /// ])?;
    /// tasks.start();
    /// # tokio::time::sleep(Duration::from_secs(4)).await;
    /// assert!(tasks.health().is_ready);
    /// # Ok(()) }
    /// ```
    pub fn ready(&self) {
        let Some((supervised, generation)) = self.parts.life() else { return };
        let supervised = supervised.upgrade();
        let news = supervised.as_ref().and_then(|supervised| supervised.signals.ready(generation));
        match (news, supervised) {
            (None, _) => self.parts.task.stale_signal(),
            (Some(true), Some(supervised)) => {
                let Some(shared) = supervised.manager() else { return };
                shared.tell(&supervised, || TaskEventKind::Ready);
                shared.changed(&supervised);
            }
            _ => {}
        }
    }

    /// Spawns a short task that this task owns: see [`task`](Self::task).
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("http", |ctx| async move {
    ///     ctx.spawn("confirmation_mail", async { Ok::<(), std::io::Error>(()) });
    ///     ctx.cancelled().await;
    /// }))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// assert_eq!(tasks.snapshot("confirmation_mail").unwrap().total_runs(), 1);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn spawn<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        self.task(name).spawn(future)
    }

    /// Returns a builder for a short task, as [`TaskManager::task`](crate::TaskManager::task) does. The registered task
    /// of this context owns the new task.
    ///
    /// - Owned work is admitted until its owner has ended after a stop request, or the grace of the owner is over. After that, the handle
    ///   returns [`TaskError::ShuttingDown`](crate::TaskError).
    /// - It receives the stop request together with its owner, so that the owner may wait for it. It has the owner's
    ///   [grace](crate::CriticalTaskConfig::shutdown_grace) to end, and is dropped after that.
    /// - A shutdown, a stop, an unregistration and a replacement of the owner wait for it. A restart or a pause does not change it.
    /// - Work that is spawned through its own context has the same owner.
    ///
    /// If no registered task owns the run of this context, the new task has no owner.
    ///
    /// Inside a task, prefer this to a clone of the manager, which would keep the manager alive.
    ///
    /// ```
    /// # async fn send_mail(_order: u64) {}
    /// # async fn orders(ctx: otel_tasks::TaskContext) {
    /// use std::time::Duration;
    /// ctx.task("confirmation_mail").timeout(Duration::from_secs(30)).spawn(send_mail(7));
    /// # }
    /// ```
    pub fn task<'a>(&self, name: &'a str) -> TaskBuilder<'a> {
        let owner = match &self.parts.origin {
            Origin::Manager(manager) => {
                return TaskBuilder::new(manager.upgrade().map(Spawner::Counted), name);
            }
            Origin::Owner(owner) => owner.upgrade(),
            Origin::Gated(gated) => gated.0.upgrade(),
        };
        match owner {
            Some(owner) => TaskBuilder::owned(name, owner),
            // The owner was unregistered and has ended: the run is refused.
            None => TaskBuilder::new(None, name),
        }
    }
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext")
            .field("name", &self.name())
            .field("generation", &self.generation())
            .field("iteration", &self.iteration())
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
