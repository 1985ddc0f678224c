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
    /// Runs one iteration now, beside the rhythm. It does not move the next time and does not count for a
    /// [`count`](crate::Schedule::count). Its trigger is [`Manual`](crate::schedule::Trigger::Manual). A paused loop stays paused.
    ///
    /// The iteration continues if its [`ManualRun`] is not awaited. A time that comes while it runs overlaps with it, as with any other
    /// iteration. During [`before_loop`](crate::TaskLoop::before_loop) it waits for the end of the hook.
    ///
    /// # Errors
    /// No iteration begins, and none is counted as left out:
    /// - [`LoopControlError::Overlapped`]: the [`OverlapPolicy`](crate::schedule::OverlapPolicy) allows no further iteration at once.
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

    /// Finishes the loop after the current iteration, which is not retried. Without effect on a loop that has ended.
    ///
    /// - A sleeping loop wakes and finishes at once.
    /// - A loop that waits for its start or restart is stopped and does not begin by itself.
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

    /// Begins no further iteration until the loop is [resumed](Self::resume). The current iteration continues.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn pause(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Pause)
    }

    /// Resumes a paused loop by its schedule. Times that came meanwhile are left out, and not counted.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn resume(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Resume)
    }

    /// Replaces the schedule, with its count and bounds. A new interval counts from these times:
    ///
    /// - for a sleeping loop, from the last iteration; if that makes the next time past, it is due at once
    /// - for a running loop, from the current iteration
    /// - for a loop that has not begun, from the first iteration
    ///
    /// A rhythm with a later start begins then. A calendar continues with its next time.
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

    /// Returns the schedule.
    pub fn schedule(&self) -> Arc<Schedule> {
        self.control.schedule()
    }

    /// Returns the interval; `None` if the schedule is no rhythm.
    pub fn interval(&self) -> Option<Duration> {
        self.control.schedule().interval()
    }

    /// Returns true if the loop is alive: between its start and its end, asleep or not.
    pub fn is_running(&self) -> bool {
        self.control.state().running
    }

    /// Returns true if the last life ended with an error.
    pub fn failed(&self) -> bool {
        self.control.state().failed
    }

    /// Returns the number of the current iteration, from 1; the latest of several. Between two iterations it is the number of the last one, and
    /// 0 before the first of this life.
    pub fn current_iteration(&self) -> u64 {
        self.control.state().iteration
    }

    /// Returns the due time of the next iteration, by the wall clock, also during an iteration.
    ///
    /// Returns `None` at the end of the schedule, while the loop is paused or does not run, and during an iteration of a
    /// [`delay`](crate::Schedule::delay).
    pub fn next_run(&self) -> Option<SystemTime> {
        self.control.state().next
    }

    /// Returns the due time of the last iteration that has ended, with or without success. Before the first it is the time that the loop was
    /// [given](crate::TaskLoop::last_run). A requested iteration has no due time.
    pub fn last_run(&self) -> Option<SystemTime> {
        self.control.state().last_run
    }

    /// Returns the exit of the last iteration.
    pub fn last_result(&self) -> Option<Exit> {
        self.control.state().last_result.clone()
    }
}

impl std::fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopHandle").field("state", &*self.control.state()).finish_non_exhaustive()
    }
}

/// An iteration that [`LoopHandle::run_now`] has begun. It continues if this is not awaited.
///
/// Returns the outcome after the hooks of the iteration. Returns [`LoopControlError::NotRunning`] if the loop ended before the iteration
/// could begin, or dropped it.
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
