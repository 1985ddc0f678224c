//! Control over a loop.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;

use crate::{
    cell::TaskState,
    engine::{
        Order,
        loops::{control::Control, outcome::LoopOutcome},
        supervision::spec,
    },
    error::LoopControlError,
    policy::Exit,
    timetable::Schedule,
};

/// Controls a [`TaskLoop`](crate::TaskLoop). Clones control the same loop.
#[derive(Clone)]
pub struct LoopHandle {
    pub(super) control: Arc<Control>,
}

impl LoopHandle {
    /// Runs one iteration now, beside the rhythm: it does not move the next time and is no part of a
    /// [`count`](crate::Schedule::count), and its trigger is [`Manual`](crate::schedule::Trigger::Manual). A paused loop stays paused.
    ///
    /// The iteration goes on whether or not its [`ManualRun`] is awaited. A time that comes while it runs overlaps with it, as with any other
    /// iteration. During [`before_loop`](crate::TaskLoop::before_loop) it waits for the end of the hook.
    ///
    /// # Errors
    /// No iteration begins, and none is counted as left out:
    /// - [`LoopControlError::Overlapped`]: as many iterations run as the [`OverlapPolicy`](crate::schedule::OverlapPolicy) allows at once.
    /// - [`LoopControlError::NotRunning`]: the loop waits for its start or restart, is about to end, or has ended. It is about to end
    ///   from a stop, a permanent error or its last iteration on, also during [`after_loop`](crate::TaskLoop::after_loop).
    /// - [`LoopControlError::Standby`]: the gate of the loop is closed.
    /// - [`LoopControlError::NotRegistered`], [`LoopControlError::RuntimeGone`].
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager, schedule::Trigger};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// let backup = TaskLoop::every(std::time::Duration::from_secs(86_400), |_| async { /* save */ });
    /// tasks.register(CriticalTaskConfig::from_loop("backup", backup))?;
    /// tasks.start();
    /// # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// let outcome = tasks.loop_handle("backup")?.run_now()?.await?;
    /// assert_eq!((outcome.trigger, outcome.due), (Trigger::Manual, None));
    /// # Ok(()) }
    /// ```
    pub fn run_now(&self) -> Result<ManualRun, LoopControlError> {
        let supervised = self.control.supervised()?;
        let (awaits, outcome) = oneshot::channel();
        let asked = self.control.state().ask_for_one(awaits);
        asked.map_err(|error| match error {
            LoopControlError::NotRunning if supervised.state() == TaskState::Standby => {
                LoopControlError::Standby
            }
            other => other,
        })?;
        self.control.notify();
        Ok(ManualRun { outcome })
    }

    /// Finishes the loop after the iteration under way, which is not tried again; one that sleeps wakes and finishes at once; one that
    /// waits for its start or restart is stopped and does not begin by itself. Without effect on a loop that has ended.
    pub fn stop(&self) {
        let running = {
            let mut state = self.control.state();
            if state.running {
                state.request_stop();
            }
            state.running
        };
        if running {
            self.control.notify();
        } else {
            // A loop that is not registered has nothing to stop.
            let _ = self.control.order(Order::Stop { grace: spec::DEFAULT_STOP_GRACE });
        }
    }

    /// Ends the loop now, dropping the iteration under way.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn cancel(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Stop { grace: Duration::ZERO })
    }

    /// Ends this life of the loop, after the iteration under way had its grace, and begins a new one with iteration 1.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn restart(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Restart { after: Duration::ZERO })
    }

    /// Begins no further iteration until the loop is [resumed](Self::resume); the one under way goes on.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn pause(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Pause)
    }

    /// Lets a paused loop go on by its schedule; what fell due meanwhile is left out, and not counted.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn resume(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Resume)
    }

    /// Lets another schedule hold, its count and bounds included. A sleeping loop counts a new interval from the iteration
    /// before (and runs at once where that is past); a running one from the present iteration, and one that has not yet begun
    /// from the first one on. A rhythm that starts later begins then; a calendar goes on with what it shows next.
    ///
    /// A time of the old schedule that had come and waits for its jitter or for an iteration still takes place. If there are several, the
    /// others are counted as left out.
    ///
    /// # Errors
    /// [`LoopControlError::Schedule`]; the old schedule stays.
    pub fn change_schedule(&self, schedule: impl Into<Schedule>) -> Result<(), LoopControlError> {
        let schedule = schedule.into();
        schedule.check().map_err(LoopControlError::Schedule)?;
        self.control.change(|_| Ok(schedule.clone())).map_err(LoopControlError::Schedule)
    }

    /// [`change_schedule`](Self::change_schedule) to an interval; count, bounds and jitter stay.
    ///
    /// # Errors
    /// [`LoopControlError::Schedule`]; the old schedule stays.
    pub fn change_interval(&self, interval: Duration) -> Result<(), LoopControlError> {
        let changed = self.control.change(|schedule| {
            let other = schedule.with_interval(interval);
            other.check().map(|()| other)
        });
        changed.map_err(LoopControlError::Schedule)
    }

    /// The schedule.
    pub fn schedule(&self) -> Arc<Schedule> {
        self.control.schedule()
    }

    /// The interval, where the schedule is a rhythm.
    pub fn interval(&self) -> Option<Duration> {
        self.control.schedule().interval()
    }

    /// Whether the loop is alive: between its start and its end, asleep or not.
    pub fn is_running(&self) -> bool {
        self.control.state().running
    }

    /// Whether the last life ended with an error.
    pub fn failed(&self) -> bool {
        self.control.state().failed
    }

    /// The number of the iteration under way, from 1 (the latest, where several are) or, between two, of the last one; 0 before the
    /// first of this life.
    pub fn current_iteration(&self) -> u64 {
        self.control.state().iteration
    }

    /// When the next iteration is due, by the wall clock, also during an iteration; `None` at the end of the schedule, while the loop is
    /// paused or does not run, and during an iteration of a [`delay`](crate::Schedule::delay).
    pub fn next_run(&self) -> Option<SystemTime> {
        self.control.state().next
    }

    /// The time that the last iteration was due at that has ended, whether it succeeded or not; or what the loop was
    /// [given](crate::TaskLoop::last_run). An iteration that was asked for has no such time.
    pub fn last_run(&self) -> Option<SystemTime> {
        self.control.state().last_run
    }

    /// How the last iteration ended.
    pub fn last_result(&self) -> Option<Exit> {
        self.control.state().last_result.clone()
    }
}

impl std::fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopHandle").field("state", &*self.control.state()).finish_non_exhaustive()
    }
}

/// An iteration that [`LoopHandle::run_now`] has begun. It goes on whether or not this is awaited.
///
/// Returns how it ended, once the hooks after it are through; or [`LoopControlError::NotRunning`] if the loop was ended before it could begin,
/// or dropped the iteration.
///
/// # Cancel safety
/// Cancel safe: dropping it loses the outcome, and nothing else.
#[derive(Debug)]
pub struct ManualRun {
    outcome: oneshot::Receiver<LoopOutcome>,
}

impl Future for ManualRun {
    type Output = Result<LoopOutcome, LoopControlError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        pin!(&mut self.outcome).poll(cx).map_err(|_| LoopControlError::NotRunning)
    }
}
