//! Control over a loop.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    engine::{Order, loops::control::Control, supervision::spec},
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
    /// Finishes the loop after the iteration under way; one that sleeps wakes and finishes at once; one that waits for its
    /// start or restart is stopped and does not begin by itself. Without effect on a loop that has ended.
    pub fn stop(&self) {
        let running = {
            let mut state = self.control.state();
            state.stop_requested = state.running;
            state.running
        };
        if running {
            self.control.changed.notify_one();
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

    /// Lets a paused loop go on by its schedule; what fell due meanwhile is left out.
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
    /// # Errors
    /// [`LoopControlError::Schedule`]; the old schedule stays.
    pub fn change_schedule(&self, schedule: impl Into<Schedule>) -> Result<(), LoopControlError> {
        let schedule = schedule.into();
        schedule.check().map_err(LoopControlError::Schedule)?;
        self.control.change(|_| schedule);
        Ok(())
    }

    /// [`change_schedule`](Self::change_schedule) to an interval; count, bounds and jitter stay.
    ///
    /// # Errors
    /// [`LoopControlError::Schedule`]; the old schedule stays.
    pub fn change_interval(&self, interval: Duration) -> Result<(), LoopControlError> {
        self.control.schedule().with_interval(interval).check().map_err(LoopControlError::Schedule)?;
        self.control.change(|schedule| schedule.with_interval(interval));
        Ok(())
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

    /// The number of the iteration under way (the latest, where several are) or, between two, of the last one; 0 before the
    /// first.
    pub fn current_iteration(&self) -> u64 {
        self.control.state().iteration
    }

    /// When the next iteration is due, by the wall clock; `None` while one is under way that the next one waits for, while the
    /// loop is paused, and while it does not run.
    pub fn next_run(&self) -> Option<SystemTime> {
        self.control.state().next
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
