//! The events of the manager for subscribers: a bounded stream that drops and counts, and never makes the manager wait.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use crate::{
    cell::SkipReason,
    engine::ShutdownReport,
    policy::{Exit, Failure, RestartReason},
    read::HealthStatus,
};

/// Something that happened to a registered task, or to the manager.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskEvent {
    /// The time of the event.
    pub at: SystemTime,
    /// The task; `None` for what concerns the manager as a whole.
    pub task: Option<Arc<str>>,
    /// The task's generation: how often it has begun. 0 before the first time and for spawned tasks.
    pub generation: u64,
    /// The kind of the event.
    pub kind: TaskEventKind,
}

/// The kind of an event.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TaskEventKind {
    /// It was registered.
    Registered,
    /// It waits for these tasks before it begins.
    #[non_exhaustive]
    Waiting {
        /// Their names.
        waits_for: Vec<Arc<str>>,
    },
    /// Its gate is closed: it is in standby until it is granted a pass.
    Standby,
    /// Its gate was opened, and it is about to begin.
    #[non_exhaustive]
    PassGranted {
        /// The term: a number that grows with each hand-over.
        term: u64,
    },
    /// It is asked to stop, or dropped, because its pass ends.
    #[non_exhaustive]
    PassLost {
        /// The term of that pass.
        term: u64,
    },
    /// It began, for the first time or again.
    #[non_exhaustive]
    Started {
        /// The reason why it began again; `None` for the first time.
        restart: Option<RestartReason>,
    },
    /// It does its work: it said so, or it need not.
    Ready,
    /// A run of it ended; for a loop, an iteration. One per run, whatever happened.
    #[non_exhaustive]
    Exited {
        /// The exit of the run.
        exit: Exit,
        /// The duration of the run.
        duration: Duration,
        /// The iteration, for a loop.
        iteration: Option<u64>,
    },
    /// Iterations of a loop did not take place.
    #[non_exhaustive]
    Skipped {
        /// The reason.
        reason: SkipReason,
        /// The number of iterations.
        iterations: u64,
    },
    /// An iteration of a loop failed and is tried again.
    #[non_exhaustive]
    Retrying {
        /// The iteration.
        iteration: u64,
        /// The failure of the try.
        failure: Failure,
        /// The delay before the next try.
        delay: Duration,
    },
    /// It will begin again after this delay.
    #[non_exhaustive]
    BackingOff {
        /// The reason of the restart.
        reason: RestartReason,
        /// The delay before the restart.
        delay: Duration,
    },
    /// It is asked to stop because of others: of its group, or a task it depends on.
    #[non_exhaustive]
    Yielding {
        /// [`RestartReason::Group`] or [`RestartReason::Dependency`].
        reason: RestartReason,
    },
    /// It finished by itself, and its policy leaves it so.
    Finished,
    /// It was stopped on request, or because of others.
    Stopped,
    /// It is held until somebody resumes it.
    Paused,
    /// It failed more often than its limit allows, or with a permanent error.
    #[non_exhaustive]
    GaveUp {
        /// The cause.
        reason: &'static str,
        /// The time until it is tried again; `None` if it was given up for good.
        retry_after: Option<Duration>,
    },
    /// The task has recovered from a failure. A run has lasted for the
    /// [`stable_after`](crate::Backoff::stable_after) of its backoff, or an iteration of a loop has succeeded.
    Recovered,
    /// It gave no heartbeat in time, or one poll of it took too long. Once per stall.
    #[non_exhaustive]
    Stalled {
        /// For how long it has given no sign of life, or has been in one poll.
        silent_for: Duration,
    },
    /// One poll takes longer than the slow-poll threshold and blocks its thread. Sent once per poll, during the poll.
    #[non_exhaustive]
    SlowPoll {
        /// For how long at least.
        polling_for: Duration,
        /// The thread.
        thread: Arc<str>,
    },
    /// It was unregistered.
    Unregistered,
    /// The health check found another status than the one before.
    #[non_exhaustive]
    HealthChanged {
        /// The task's own status, whatever its role.
        status: HealthStatus,
    },
    /// The runtime makes no progress: all its threads are blocked.
    #[non_exhaustive]
    RuntimeStalled {
        /// The time without progress, at least.
        stalled_for: Duration,
        /// The tasks that were being polled, by name.
        polling: Vec<Arc<str>>,
    },
    /// The whole process was stopped, suspended or starved. That time does not count for any task.
    #[non_exhaustive]
    ProcessResumed {
        /// The time for which it was stopped.
        stood_still_for: Duration,
    },
    /// The manager drains: it is not ready any more, and all tasks continue. Sent again if the drain is shortened.
    #[non_exhaustive]
    Draining {
        /// The time at which the ordered shutdown begins at the latest.
        until: SystemTime,
    },
    /// The ordered shutdown has begun.
    ShutdownBegan,
    /// The shutdown is over. The last event.
    ShutdownEnded(Arc<ShutdownReport>),
}

impl TaskEventKind {
    /// The kind's name, for logs and tests.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Waiting { .. } => "waiting",
            Self::Standby => "standby",
            Self::PassGranted { .. } => "pass_granted",
            Self::PassLost { .. } => "pass_lost",
            Self::Started { .. } => "started",
            Self::Ready => "ready",
            Self::Exited { .. } => "exited",
            Self::Skipped { .. } => "skipped",
            Self::Retrying { .. } => "retrying",
            Self::BackingOff { .. } => "backing_off",
            Self::Yielding { .. } => "yielding",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::GaveUp { .. } => "gave_up",
            Self::Recovered => "recovered",
            Self::Stalled { .. } => "stalled",
            Self::SlowPoll { .. } => "slow_poll",
            Self::Unregistered => "unregistered",
            Self::HealthChanged { .. } => "health_changed",
            Self::RuntimeStalled { .. } => "runtime_stalled",
            Self::ProcessResumed { .. } => "process_resumed",
            Self::Draining { .. } => "draining",
            Self::ShutdownBegan => "shutdown_began",
            Self::ShutdownEnded(_) => "shutdown_ended",
        }
    }
}

/// A subscription to a manager's events. Made by [`TaskManager::subscribe`](crate::TaskManager::subscribe).
///
/// Nobody waits for it: behind by more than [`TaskEvents::CAPACITY`] events it misses the oldest, and
/// [`missed`](Self::missed) counts them.
#[derive(Debug)]
pub struct TaskEvents {
    receiver: broadcast::Receiver<TaskEvent>,
    missed: u64,
    over: bool,
}

impl TaskEvents {
    /// The number of events that a subscriber may be behind before it misses the oldest: 4,096. A burst of a thousand failing tasks
    /// fits.
    pub const CAPACITY: usize = 4_096;

    /// The next event; `None` after [`TaskEventKind::ShutdownEnded`], or when the manager is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost by dropping the future.
    pub async fn recv(&mut self) -> Option<TaskEvent> {
        if self.over {
            return None;
        }
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(self.passed(event)),
                Err(broadcast::error::RecvError::Lagged(missed)) => self.missed += missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<TaskEvent> {
        if self.over {
            return None;
        }
        loop {
            match self.receiver.try_recv() {
                Ok(event) => return Some(self.passed(event)),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => self.missed += missed,
                Err(_) => return None,
            }
        }
    }

    /// Returns the number of events that were dropped because this subscriber was too slow.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn passed(&mut self, event: TaskEvent) -> TaskEvent {
        self.over = matches!(event.kind, TaskEventKind::ShutdownEnded(_));
        event
    }
}

/// The channel of events. It costs nothing without a subscriber.
#[derive(Default)]
pub(crate) struct EventBus(OnceLock<broadcast::Sender<TaskEvent>>);

impl EventBus {
    pub(crate) fn subscribe(&self) -> TaskEvents {
        let sender = self.0.get_or_init(|| broadcast::channel(TaskEvents::CAPACITY).0);
        TaskEvents { receiver: sender.subscribe(), missed: 0, over: false }
    }

    /// Sends the event that `kind` makes, if there is a subscriber.
    pub(crate) fn tell(
        &self,
        task: Option<&Arc<str>>,
        generation: u64,
        kind: impl FnOnce() -> TaskEventKind,
    ) {
        let Some(sender) = self.0.get().filter(|sender| sender.receiver_count() > 0) else { return };
        let event = TaskEvent { at: SystemTime::now(), task: task.cloned(), generation, kind: kind() };
        // Fails only where the last subscriber has just gone.
        let _ = sender.send(event);
    }
}
