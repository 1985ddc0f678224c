//! The drain: the time between the signal and the ordered shutdown. Readiness is false, and everything goes on.
//!
//! It runs in the manager: a task on the runtime waits for its end, and the watchdog's thread begins the shutdown if the
//! runtime does not.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant as StdInstant, SystemTime},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::engine::{
    Shared, announce, later,
    shutdown::sequence::{self, RUNTIMES_TURN},
};

/// The part of the deadline that a drain leaves to the ordered shutdown.
const ORDERED_SHARE: u32 = 10;

/// The drain of a manager.
#[derive(Default)]
pub(crate) struct Drain {
    state: Mutex<State>,
    /// Told if the end is moved.
    moved: Notify,
}

#[derive(Default)]
enum State {
    #[default]
    NotBegun,
    Draining(Draining),
    /// The ordered shutdown has begun.
    Over,
}

struct Draining {
    began: Instant,
    until: Instant,
    shared: Weak<Shared>,
    /// The time since which the end has been due, as the watchdog has seen it. Real time.
    due_since: Option<StdInstant>,
}

impl Drain {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        matches!(*self.state(), State::Draining(_))
    }

    /// Ends the drain for ever: the ordered shutdown begins. Returns when it began, if it did.
    pub(super) fn end(&self) -> Option<Instant> {
        match std::mem::replace(&mut *self.state(), State::Over) {
            State::Draining(draining) => {
                // Wakes the task that waits for the end.
                self.moved.notify_one();
                Some(draining.began)
            }
            State::NotBegun | State::Over => None,
        }
    }

    fn until(&self) -> Option<Instant> {
        match &*self.state() {
            State::Draining(draining) => Some(draining.until),
            State::NotBegun | State::Over => None,
        }
    }

    /// The watchdog's part: begins the shutdown if the runtime has left it undone for a while.
    pub(crate) fn watch(&self, now: Instant, tick: StdInstant) {
        let shared = {
            let mut state = self.state();
            let State::Draining(draining) = &mut *state else { return };
            if now < draining.until {
                draining.due_since = None;
                return;
            }
            let due_since = *draining.due_since.get_or_insert(tick);
            if tick.saturating_duration_since(due_since) < RUNTIMES_TURN {
                return;
            }
            draining.shared.upgrade()
        };
        if let Some(shared) = shared {
            sequence::begin(&shared, None);
        }
    }
}

/// Drains for so long, then begins the ordered shutdown. A drain that is under way only becomes shorter; a shutdown that has begun
/// is left as it is.
pub(crate) fn drain(shared: &Arc<Shared>, drain: Duration) {
    let deadline = shared.settings.shutdown_deadline;
    let drain = drain.min(deadline - deadline / ORDERED_SHARE);
    if drain.is_zero() {
        sequence::begin(shared, None);
        return;
    }
    let runtime = shared.runtime();
    // For the clock.
    let _inside = runtime.handle.enter();
    let began = Instant::now();
    let until = later(began, drain);
    let first = match &mut *shared.drain.state() {
        State::Over => return,
        State::Draining(draining) if draining.until <= until => return,
        State::Draining(draining) => {
            draining.until = until;
            false
        }
        state @ State::NotBegun => {
            *state =
                State::Draining(Draining { began, until, shared: Arc::downgrade(shared), due_since: None });
            true
        }
    };
    shared.drain.moved.notify_one();
    let wall = SystemTime::now();
    announce::draining(&shared.events, drain, wall.checked_add(drain).unwrap_or(wall));
    if first {
        #[cfg(all(feature = "systemd", unix))]
        shared.stopping();
        let shared = shared.clone();
        runtime.handle.spawn(async move {
            while let Some(until) = shared.drain.until() {
                if until <= Instant::now() {
                    break;
                }
                tokio::select! {
                    () = sleep_until(until) => {}
                    // Also if the ordered shutdown has begun meanwhile.
                    () = shared.drain.moved.notified() => {}
                }
            }
            sequence::begin(&shared, None);
        });
    }
}
