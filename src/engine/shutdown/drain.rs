//! The drain: the time between the signal and the ordered shutdown. Readiness is false, and all tasks continue.
//!
//! It runs in the manager: a task on the runtime waits for its end. The watchdog's thread begins the shutdown if the
//! runtime does not.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use tokio::{sync::Notify, time::Instant};

/// The time that the watchdog leaves to the runtime, which acts at once unless it is stuck. It is real time: in the
/// virtual time of a test, an hour may pass between two checks.
pub(super) const RUNTIMES_TURN: Duration = Duration::from_millis(20);

/// The drain of a manager.
#[derive(Default)]
pub(crate) struct Drain {
    state: Mutex<State>,
    /// Notified if the end is moved.
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
    /// Begins the ordered shutdown.
    finish: Arc<dyn Fn() + Send + Sync>,
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

    /// Ends the drain: the ordered shutdown begins, and no later drain can begin. Returns the time at which the drain began, if it did.
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

    /// Begins to drain until then, or makes the drain that is under way shorter. Returns whether it is the first call, or `None` if
    /// nothing has changed.
    pub(super) fn begin(
        &self,
        began: Instant,
        until: Instant,
        finish: impl Fn() + Send + Sync + 'static,
    ) -> Option<bool> {
        let first = match &mut *self.state() {
            State::Over => return None,
            State::Draining(draining) if draining.until <= until => return None,
            State::Draining(draining) => {
                draining.until = until;
                false
            }
            state @ State::NotBegun => {
                let finish = Arc::new(finish);
                *state = State::Draining(Draining { began, until, finish, due_since: None });
                true
            }
        };
        self.moved.notify_one();
        Some(first)
    }

    /// Completes when the end is moved, or the drain is over.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Returns the time at which the drain ends; `None` once it is over.
    pub(super) fn until(&self) -> Option<Instant> {
        match &*self.state() {
            State::Draining(draining) => Some(draining.until),
            State::NotBegun | State::Over => None,
        }
    }

    /// The watchdog's part: begins the shutdown if the runtime has left it undone for a while.
    pub(crate) fn watch(&self, now: Instant, tick: StdInstant) {
        let finish = {
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
            draining.finish.clone()
        };
        finish();
    }
}
