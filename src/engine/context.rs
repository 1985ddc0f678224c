//! What a task is given of its run.

use std::{
    future::Future,
    num::NonZeroU64,
    pin::pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::SeqCst, fence},
    },
    time::SystemTime,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{Shared, Supervised, TaskBuilder, TaskEventKind},
    gate::Pass,
    policy::TaskOutput,
    run::{Task, TaskHandle},
};

/// A run's view of itself: its name and number, whether it should stop, its heartbeat, and a way to spawn.
///
/// Cheap to clone; clones speak of the same run. It outlives the run without keeping anything alive.
#[derive(Clone)]
pub struct TaskContext {
    parts: Arc<ContextParts>,
    iteration: Option<NonZeroU64>,
}

/// What the runs of one life share: a closure's one, or a loop's iterations.
pub(crate) struct ContextParts {
    pub(crate) task: Arc<Task>,
    /// The generation of the life; `None` for a spawned run, which has no heartbeat timeout.
    pub(crate) generation: Option<NonZeroU64>,
    pub(crate) stop: Stop,
    /// Of a life behind a gate.
    pub(crate) pass: Option<Pass>,
    /// The owner of what is spawned through the context: the task itself, or the owner of the spawned run.
    pub(crate) owner: Option<Weak<Supervised>>,
    pub(crate) manager: Weak<Shared>,
}

/// How a life hears that it should stop. The token is made for whoever asks for one: most only wait.
#[derive(Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    heard: Notify,
    token: OnceLock<CancellationToken>,
}

impl Stop {
    /// One that is asked through a token.
    pub(crate) fn of(token: CancellationToken) -> Self {
        Self { token: token.into(), ..Self::default() }
    }

    fn ask(&self) {
        self.asked.store(true, SeqCst);
        // Pairs with the fence in `token`: either we find the token, or whoever makes it finds that it was asked.
        fence(SeqCst);
        self.heard.notify_waiters();
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    fn is_asked(&self) -> bool {
        self.asked.load(SeqCst) || self.token.get().is_some_and(CancellationToken::is_cancelled)
    }

    async fn asked(&self) {
        loop {
            if let Some(token) = self.token.get() {
                // Seldom, and larger than the other wait: its room would be in every task's future.
                return Box::pin(token.cancelled()).await;
            }
            let mut heard = pin!(self.heard.notified());
            // Enabled before the look: what is asked, or made, in between still wakes us.
            heard.as_mut().enable();
            if self.is_asked() {
                return;
            }
            if self.token.get().is_none() {
                heard.await;
            }
        }
    }

    fn token(&self) -> &CancellationToken {
        self.token.get().unwrap_or_else(|| {
            let token = self.token.get_or_init(CancellationToken::new);
            fence(SeqCst);
            if self.asked.load(SeqCst) {
                token.cancel();
            }
            // Those that wait already wait for the token from now on: it can be cancelled by whoever holds it.
            self.heard.notify_waiters();
            token
        })
    }
}

impl ContextParts {
    /// The task that lives and its generation; `None` for a spawned run.
    fn life(&self) -> Option<(&Weak<Supervised>, u64)> {
        Some((self.owner.as_ref()?, self.generation?.get()))
    }
}

impl TaskContext {
    pub(crate) fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts), iteration: None }
    }

    /// The same life's, for one iteration.
    pub(crate) fn of_iteration(&self, iteration: u64) -> Self {
        Self { parts: self.parts.clone(), iteration: NonZeroU64::new(iteration) }
    }

    /// Asks the life to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.parts.stop.ask();
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.parts.task.identity.name
    }

    /// The run's number: 1 for the first run of the task, counted up by each restart.
    pub fn generation(&self) -> u64 {
        self.parts.generation.map_or(1, NonZeroU64::get)
    }

    /// The number of this iteration, from 1, inside a [`TaskLoop`](crate::TaskLoop).
    pub fn iteration(&self) -> Option<u64> {
        self.iteration.map(NonZeroU64::get)
    }

    /// Waits until the run is asked to stop. Then it has its grace to end by itself.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost by dropping it, and once it has completed it completes at once again.
    pub async fn cancelled(&self) {
        self.parts.stop.asked().await;
    }

    /// Returns what [`cancelled`](Self::cancelled) does, as a future that borrows nothing: for a server's graceful shutdown.
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
        async move { parts.stop.asked().await }
    }

    /// Runs `future` until it ends, or until the run is asked to stop. Returns its output, or `None` if the run was asked first.
    ///
    /// Once the run is asked to stop, `future` is dropped and not polled again.
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

    /// Whether the run has been asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.parts.stop.is_asked()
    }

    /// Returns the run's permission, if its task has a [gate](crate::CriticalTaskConfig::gate): its term is the fencing token.
    ///
    /// Also of work that the run spawned through its context.
    pub fn pass(&self) -> Option<&Pass> {
        self.parts.pass.as_ref()
    }

    /// The token behind [`cancelled`](Self::cancelled), for libraries that take one.
    pub fn cancellation_token(&self) -> &CancellationToken {
        self.parts.stop.token()
    }

    /// Says that the run is alive and well. A task registered with a
    /// [`heartbeat_timeout`](crate::CriticalTaskConfig::heartbeat_timeout) must do so more often than that.
    ///
    /// From a clone that outlives its run it is ignored, and counted in
    /// [`stale_signals`](crate::snapshot::TaskSnapshot::stale_signals).
    pub fn heartbeat(&self) {
        let counts = match self.parts.life() {
            None => true,
            Some((supervised, generation)) => supervised
                .upgrade()
                .is_some_and(|supervised| supervised.signals.heartbeat(generation, Instant::now())),
        };
        if counts {
            self.parts.task.heartbeat(SystemTime::now());
        } else {
            self.parts.task.stale_signal();
        }
    }

    /// Says that the run does its work now: those that depend on it may begin. A task registered with a
    /// [`start_timeout`](crate::CriticalTaskConfig::start_timeout) must say so in time; any other is ready when it begins.
    ///
    /// From a clone that outlives its run it is ignored, as a heartbeat is.
    pub fn ready(&self) {
        let Some((supervised, generation)) = self.parts.life() else { return };
        let supervised = supervised.upgrade();
        let news = supervised.as_ref().and_then(|supervised| supervised.signals.ready(generation));
        match (news, supervised, self.parts.manager.upgrade()) {
            (None, ..) => self.parts.task.stale_signal(),
            (Some(true), Some(supervised), Some(shared)) => {
                shared.tell(&supervised, || TaskEventKind::Ready);
                shared.changed(&supervised);
            }
            _ => {}
        }
    }

    /// Spawns a short task that this task owns: see [`task`](Self::task).
    #[track_caller]
    pub fn spawn<F, Via>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput<Via> + Send + 'static,
    {
        self.task(name).spawn(future)
    }

    /// Says more about a short task before it is spawned, as [`TaskManager::task`](crate::TaskManager::task) does. The registered task
    /// of this context owns it.
    ///
    /// Owned work is admitted until its owner was asked to stop and has ended, or its owner's grace is over; after that the handle
    /// returns [`TaskError::ShuttingDown`](crate::TaskError). It hears that it should stop when its owner does, so that the owner may wait
    /// for it, and has the owner's [grace](crate::CriticalTaskConfig::shutdown_grace); what is left is dropped then. A shutdown, a stop, an unregistration and a
    /// replacement wait for it; a restart or a pause leaves it alone. What it spawns through its own context has the same owner.
    ///
    /// Work that is spawned through the context of a run that no registered task owns has no owner.
    ///
    /// Use this rather than a clone of the manager inside a task: that clone would keep the manager alive for ever.
    pub fn task<'a>(&self, name: &'a str) -> TaskBuilder<'a> {
        let manager = self.parts.manager.upgrade();
        match &self.parts.owner {
            None => TaskBuilder::new(manager, name),
            Some(owner) => match owner.upgrade() {
                Some(owner) => TaskBuilder::owned(manager, name, owner),
                // It was unregistered and has ended: the run is refused.
                None => TaskBuilder::new(None, name),
            },
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
