//! What a task is given of its run.

use std::{
    future::Future,
    sync::{Arc, Weak},
    time::SystemTime,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, Supervised, TaskBuilder, TaskEventKind, signals::Signals};
use crate::{
    policy::TaskOutput,
    run::{Task, TaskHandle},
};

/// A run's view of itself: its name and number, whether it should stop, its heartbeat, and a way to spawn.
///
/// Cheap to clone; clones speak of the same run. It outlives the run without keeping anything alive.
#[derive(Clone)]
pub struct TaskContext {
    parts: Arc<ContextParts>,
}

pub(crate) struct ContextParts {
    pub(crate) task: Arc<Task>,
    pub(crate) generation: u64,
    pub(crate) iteration: Option<u64>,
    pub(crate) token: CancellationToken,
    pub(crate) signals: Arc<Signals>,
    /// Not there for a spawned run.
    pub(crate) supervised: Weak<Supervised>,
    pub(crate) manager: Weak<Shared>,
}

impl TaskContext {
    pub(crate) fn new(parts: ContextParts) -> Self {
        Self { parts: Arc::new(parts) }
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        &self.parts.task.identity.name
    }

    /// The run's number: 1 for the first run of the task, counted up by each restart.
    pub fn generation(&self) -> u64 {
        self.parts.generation
    }

    /// The number of this iteration, from 1, inside a [`TaskLoop`](crate::TaskLoop).
    pub fn iteration(&self) -> Option<u64> {
        self.parts.iteration
    }

    /// Waits until the run is asked to stop. Then it has its grace to end by itself.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost by dropping it, and once it has completed it completes at once again.
    pub async fn cancelled(&self) {
        self.parts.token.cancelled().await;
    }

    /// Whether the run has been asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.parts.token.is_cancelled()
    }

    /// The token behind [`cancelled`](Self::cancelled), for libraries that take one.
    pub fn cancellation_token(&self) -> &CancellationToken {
        &self.parts.token
    }

    /// Says that the run is alive and well. A task registered with a
    /// [`heartbeat_timeout`](crate::CriticalTaskConfig::heartbeat_timeout) must do so more often than that.
    ///
    /// From a clone that outlives its run it is ignored, and counted in
    /// [`stale_signals`](crate::TaskSnapshot::stale_signals).
    pub fn heartbeat(&self) {
        if self.parts.signals.heartbeat(self.parts.generation, Instant::now()) {
            self.parts.task.cell.heartbeat(SystemTime::now());
        } else {
            self.parts.task.cell.stale_signal();
        }
    }

    /// Says that the run does its work now: those that depend on it may begin. A task registered with a
    /// [`start_timeout`](crate::CriticalTaskConfig::start_timeout) must say so in time; any other is ready when it begins.
    ///
    /// From a clone that outlives its run it is ignored, as a heartbeat is.
    pub fn ready(&self) {
        match self.parts.signals.ready(self.parts.generation) {
            None => self.parts.task.cell.stale_signal(),
            Some(false) => {}
            Some(true) => {
                if let (Some(shared), Some(supervised)) =
                    (self.parts.manager.upgrade(), self.parts.supervised.upgrade())
                {
                    shared.tell(&supervised, || TaskEventKind::Ready);
                    shared.changed(&supervised);
                }
            }
        }
    }

    /// Spawns a short task on the manager that owns this run, as
    /// [`TaskManager::spawn`](crate::TaskManager::spawn) does; refused once the shutdown has begun.
    #[track_caller]
    pub fn spawn<F>(&self, name: &str, future: F) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send + 'static,
    {
        self.task(name).spawn(future)
    }

    /// Says more about a short task before it is spawned, as [`TaskManager::task`](crate::TaskManager::task) does.
    ///
    /// Use this rather than a clone of the manager inside a task: that clone would keep the manager alive for ever.
    pub fn task<'a>(&self, name: &'a str) -> TaskBuilder<'a> {
        TaskBuilder::new(self.parts.manager.upgrade(), name)
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
