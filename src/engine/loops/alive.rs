//! The life of a loop that is under way, as its handles see it.

use std::sync::Arc;

use super::{control::tell_skipped, iteration::Living};
use crate::{cell::SkipReason, timetable::Schedule};

/// Marks the loop as running, and as not when its life ends or is dropped.
pub(super) struct Alive<'a> {
    living: &'a Living,
    /// The schedule with which the life begins.
    pub(super) schedule: Arc<Schedule>,
}

impl<'a> Alive<'a> {
    pub(super) fn begin(living: &'a Living) -> Self {
        let mut state = living.parts.control.state();
        (state.running, state.lives, state.takes) = (true, true, true);
        state.revision += 1;
        (state.failed, state.asked, state.in_flight) = (false, None, 0);
        (state.iteration, state.next) = (0, None);
        let schedule = state.schedule.clone();
        drop(state);
        Self { living, schedule }
    }

    /// Gives the account back for a life that has not begun its work.
    fn give_back(&self) {
        let Living { parts, life } = self.living;
        let (account, stop) = {
            let state = parts.control.state();
            (state.account, state.stop_requested())
        };
        let now = life.supervised.wall_clock();
        let missed = parts.control.give_back(self.schedule.clone(), account, stop, now);
        tell_skipped(&life.shared, &life.supervised, SkipReason::Missed, missed);
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        let control = &self.living.parts.control;
        // The schedule may have the user's code in it, and that may be what panics.
        if control.state().lives && !std::thread::panicking() {
            self.give_back();
        }
        let mut state = control.state();
        (state.running, state.lives) = (false, false);
        state.revision += 1;
        state.next = None;
        let unheard = state.refuse();
        self.living.life.supervised.task.cell.set_schedule(state.schedule.interval(), None);
        drop(state);
        // Wakes the callers that await them.
        drop(unheard);
    }
}
