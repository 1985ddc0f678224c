//! Short tasks with a limit on concurrent runs.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::{
    engine::{
        Shared, Supervised,
        shutdown::tracker::Owner,
        spawn::{
            builder::{SpawnOptions, Spawner, TaskBuilder},
            limit::{Limit, Limits, Room},
        },
    },
    run::Task,
};

/// A short task of which at most `n` runs exist at once. Made by [`TaskBuilder::limit`].
///
/// [`reserve`](Self::reserve) room first and take the work then. So no work waits in memory, and its sender waits instead (backpressure).
///
/// The [`TaskBuilder`] holds the room, and then its run. The room is free again when the builder is dropped or the run has ended:
/// finished, panicked, timed out, aborted, refused or never polled. When a handle returns its output, the room is free already.
///
/// Cheap to clone; clones share the limit. It keeps neither the manager nor a task alive.
///
/// ```
/// use otel_tasks::TaskManager;
/// # async fn index(_: u32) {}
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tasks = TaskManager::new();
/// let indexing = tasks.task("index").limit(8);
/// for document in 0..100 {
///     indexing.reserve().await.spawn(index(document));
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct LimitedTask {
    inner: Arc<Inner>,
}

struct Inner {
    name: Box<str>,
    /// The options of each run.
    options: SpawnOptions<'static>,
    owner: Option<Weak<Supervised>>,
    manager: Weak<Shared>,
    /// The task that counts the waiting reservations; `None` without a name, and if the manager is gone.
    task: Option<Arc<Task>>,
    limit: Arc<Limit>,
}

impl std::fmt::Debug for LimitedTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LimitedTask")
            .field("name", &self.inner.name)
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}

impl TaskBuilder<'_> {
    /// Limits the name to `n` concurrent runs. Options that were set before, such as a [`timeout`](Self::timeout), apply to each run.
    ///
    /// Each name of a manager has one limit, under the name of its figures; the newest `n` applies to all. A higher limit lets waiting
    /// reservations proceed at once. A lower limit does not stop runs, and applies to all later reservations. Runs without a reservation are
    /// neither counted nor limited. The limit ends when no `LimitedTask` and no run uses it.
    ///
    /// # Panics
    /// If `n` is 0: nothing could ever run.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let indexing = tasks.task("index").limit(8);
    /// let first = indexing.reserve().await.spawn(async {});
    /// first.await?;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn limit(self, n: usize) -> LimitedTask {
        assert!(n > 0, "the limit of `{}` is 0, so nothing could ever run", self.options.name);
        let Self { shared, options } = self;
        let (options, name, owner) = options.for_each_run();
        let inner = match shared {
            None => Inner {
                manager: Weak::new(),
                task: None,
                limit: Limits::alone(n),
                name,
                options,
                owner: owner.as_ref().map(Owner::downgrade),
            },
            Some(shared) => {
                let known_as = shared.recorder.options.name_rule.apply(&name);
                let limit = shared.tracker.limits.of(&known_as, n);
                // An unnamed run is metered under the type of its future.
                let task = Some(&name).filter(|name| !name.is_empty()).map(|name| {
                    let component = options.component.clone();
                    shared.task_of(name, options.category, options.priority, component)
                });
                task.iter().for_each(|task| task.cell.limited());
                Inner {
                    manager: Arc::downgrade(&shared),
                    task,
                    limit,
                    owner: owner.as_ref().map(Owner::downgrade),
                    options,
                    name,
                }
            }
        };
        LimitedTask { inner: Arc::new(inner) }
    }
}

impl LimitedTask {
    /// Waits for room, behind earlier reservations.
    ///
    /// During a shutdown it waits only as long as its runs are admitted. After that it returns a builder whose
    /// spawn is refused with [`TaskError::ShuttingDown`](crate::TaskError::ShuttingDown). The same happens once the task that
    /// would own the runs has ended, or the manager is gone. A loop that has to end then uses
    /// [`TaskContext::cancelled`](crate::TaskContext::cancelled) or [`TaskManager::shutting_down`](crate::TaskManager::shutting_down) beside it.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping it gives up the place in the order, and takes nothing from those behind. A future that is kept and not polled
    /// holds up those behind.
    pub async fn reserve(&self) -> TaskBuilder<'_> {
        let Some((shared, owner)) = self.spawner() else { return self.refused() };
        let limit = &self.inner.limit;
        let began = Instant::now();
        let room = match limit.try_room() {
            Some(room) => Some(room),
            None => {
                let _waiting = self.inner.task.as_ref().map(PendingReservation::of);
                limit.room(|| !shared.tracker.admits_run(owner.as_ref())).await
            }
        };
        let Some(room) = room else { return self.refused() };
        self.waited(&shared, began);
        self.builder(shared, owner, room)
    }

    /// Returns a builder if there is room now and nobody waits for it; `None` otherwise. A builder whose spawn is refused, as
    /// [`reserve`](Self::reserve) returns it, is returned here as well.
    pub fn try_reserve(&self) -> Option<TaskBuilder<'_>> {
        let Some((shared, owner)) = self.spawner() else { return Some(self.refused()) };
        let room = self.inner.limit.try_room()?;
        Some(self.builder(shared, owner, room))
    }

    /// Returns the number of runs for which there is room now. Concurrent reservations may take it at once.
    pub fn available(&self) -> usize {
        self.inner.limit.available()
    }

    /// The manager and the owner of runs; `None` if runs are refused.
    fn spawner(&self) -> Option<(Spawner<'static>, Option<Owner>)> {
        let (shared, owner) = match &self.inner.owner {
            Some(owner) => {
                let owner = owner.upgrade()?;
                (Spawner::Kept(owner.kept_manager()?), Some(Owner::Task(owner)))
            }
            None => (Spawner::Counted(self.inner.manager.upgrade()?), None),
        };
        shared.tracker.admits_run(owner.as_ref()).then_some((shared, owner))
    }

    fn builder(&self, shared: Spawner<'static>, owner: Option<Owner>, room: Room) -> TaskBuilder<'_> {
        let options = self.inner.options.of_one_run(&self.inner.name, owner, room);
        TaskBuilder { shared: Some(shared), options }
    }

    fn refused(&self) -> TaskBuilder<'_> {
        TaskBuilder::new(None, &self.inner.name)
    }

    fn waited(&self, shared: &Shared, began: Instant) {
        if let (Some(exposition), Some(task)) = (&*shared.recorder.exposition(), &self.inner.task) {
            let seconds = began.elapsed().as_secs_f64();
            exposition.instruments.reservation_waited(task, seconds);
        }
    }
}

/// A waiter, as the figures count it.
struct PendingReservation<'a>(&'a Task);

impl<'a> PendingReservation<'a> {
    fn of(task: &'a Arc<Task>) -> Self {
        task.cell.reservation_waits();
        Self(task)
    }
}

impl Drop for PendingReservation<'_> {
    fn drop(&mut self) {
        self.0.cell.reservation_ended();
    }
}
