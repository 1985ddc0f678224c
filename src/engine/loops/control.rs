//! What a loop and its handles share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    engine::{Order, Supervised},
    error::LoopControlError,
    policy::Exit,
    timetable::Schedule,
};

pub(super) struct Control {
    state: Mutex<State>,
    /// Wakes the life under way: something of the state that it does not write itself has changed.
    pub(super) changed: Notify,
    supervised: Mutex<Weak<Supervised>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) schedule: Arc<Schedule>,
    /// Counted up with each schedule.
    pub(super) revision: u64,
    /// When the schedule came.
    pub(super) changed_at: Instant,
    pub(super) running: bool,
    pub(super) failed: bool,
    pub(super) stop_requested: bool,
    /// Whether no further iteration begins for the time being.
    pub(super) held: bool,
    pub(super) iteration: u64,
    pub(super) next: Option<SystemTime>,
    /// The last time of the schedule that an iteration took: the next life does not take it again.
    pub(super) last_used: Option<SystemTime>,
    pub(super) last_result: Option<Exit>,
}

impl Control {
    pub(super) fn new(schedule: Schedule) -> Arc<Self> {
        let state = State {
            schedule: Arc::new(schedule),
            revision: 0,
            changed_at: Instant::now(),
            running: false,
            failed: false,
            stop_requested: false,
            held: false,
            iteration: 0,
            next: None,
            last_used: None,
            last_result: None,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), supervised: Mutex::default() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn schedule(&self) -> Arc<Schedule> {
        self.state().schedule.clone()
    }

    /// Lets another schedule hold.
    pub(super) fn change(&self, other: impl FnOnce(&Schedule) -> Schedule) {
        let mut state = self.state();
        state.schedule = Arc::new(other(&state.schedule));
        state.revision += 1;
        state.changed_at = Instant::now();
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn order(&self, order: Order) -> Result<(), LoopControlError> {
        let supervised = self.supervised.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let supervised = supervised.filter(|supervised| supervised.owns_name());
        if supervised.as_ref().is_some_and(|supervised| supervised.is_runtime_gone()) {
            return Err(LoopControlError::RuntimeGone);
        }
        let supervised =
            supervised.filter(|supervised| !supervised.has_left() && !supervised.is_to_unregister());
        supervised.ok_or(LoopControlError::NotRegistered)?.order(order);
        Ok(())
    }

    pub(super) fn hold(&self, held: bool) -> bool {
        let mut state = self.state();
        if state.running {
            state.held = held;
        }
        let running = state.running;
        drop(state);
        self.changed.notify_one();
        running
    }

    pub(super) fn registered(&self, supervised: &Arc<Supervised>) {
        *self.supervised.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(supervised);
    }
}

/// Marks the loop as running, and as not when its life ends or is dropped.
pub(super) struct Alive {
    control: Arc<Control>,
    supervised: Arc<Supervised>,
}

impl Alive {
    pub(super) fn begin(control: &Arc<Control>, supervised: &Arc<Supervised>) -> Self {
        let mut state = control.state();
        state.running = true;
        (state.failed, state.stop_requested, state.held) = (false, false, false);
        (state.iteration, state.next) = (0, None);
        drop(state);
        Self { control: control.clone(), supervised: supervised.clone() }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut state = self.control.state();
        state.running = false;
        state.next = None;
        self.supervised.task.cell.set_schedule(state.schedule.interval(), None);
    }
}
