//! What a loop and its handles share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::SystemTime,
};

use tokio::{
    sync::{Notify, futures::Notified, oneshot},
    time::Instant,
};

use crate::{
    engine::{Order, Supervised, loops::outcome::LoopOutcome},
    error::LoopControlError,
    policy::Exit,
    timetable::{Account, Schedule},
};

pub(super) struct Control {
    state: Mutex<State>,
    /// Wakes the life under way: something of the state that it does not write itself has changed.
    changed: Notify,
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
    /// Boxed: most loops are asked for nothing.
    asked: Option<Box<Asked>>,
    /// Whether no further iteration begins for the time being.
    pub(super) held: bool,
    pub(super) iteration: u64,
    pub(super) next: Option<SystemTime>,
    /// What the last life has left. The life under way has it, and gives it back when it ends.
    pub(super) account: Account,
    /// The time that the last iteration was due at that has ended.
    pub(super) last_run: Option<SystemTime>,
    pub(super) last_result: Option<Exit>,
    /// How many iterations run, those that were asked for and have not begun included.
    pub(super) in_flight: u32,
    /// How many may.
    pub(super) allowed: u32,
}

/// What a life was asked for.
#[derive(Debug, Default)]
struct Asked {
    /// When it was asked to finish.
    stop: Option<Instant>,
    /// Iterations that have not begun, by those who await them.
    manual: Vec<Awaits>,
}

/// Who awaits an iteration that was asked for.
pub(super) type Awaits = oneshot::Sender<LoopOutcome>;

impl State {
    /// When the loop was asked to finish.
    pub(super) fn stop_requested(&self) -> Option<Instant> {
        self.asked.as_ref()?.stop
    }

    pub(super) fn request_stop(&mut self) {
        self.asked.get_or_insert_default().stop.get_or_insert_with(Instant::now);
    }

    pub(super) fn ask_for_one(&mut self, awaits: Awaits) {
        self.in_flight += 1;
        self.asked.get_or_insert_default().manual.push(awaits);
    }

    /// Those who await an iteration that has not begun.
    pub(super) fn take_manual(&mut self) -> Vec<Awaits> {
        self.asked.as_mut().map(|asked| std::mem::take(&mut asked.manual)).unwrap_or_default()
    }
}

impl Control {
    pub(super) fn new(schedule: Schedule) -> Arc<Self> {
        let state = State {
            schedule: Arc::new(schedule),
            revision: 0,
            changed_at: Instant::now(),
            running: false,
            failed: false,
            asked: None,
            held: false,
            iteration: 0,
            next: None,
            account: Account::default(),
            last_run: None,
            last_result: None,
            in_flight: 0,
            allowed: 1,
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
        self.notify();
    }

    /// Wakes the life under way, and an iteration that waits for its next try.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
        // For a life that does not wait right now.
        self.changed.notify_one();
    }

    /// Waits until something has changed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn order(&self, order: Order) -> Result<(), LoopControlError> {
        self.supervised()?.order(order);
        Ok(())
    }

    /// The task, as long as it obeys.
    pub(super) fn supervised(&self) -> Result<Arc<Supervised>, LoopControlError> {
        let supervised = self.supervised.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let supervised = supervised.filter(|supervised| supervised.owns_name());
        if supervised.as_ref().is_some_and(|supervised| supervised.is_runtime_gone()) {
            return Err(LoopControlError::RuntimeGone);
        }
        let supervised =
            supervised.filter(|supervised| !supervised.has_left() && !supervised.is_to_unregister());
        supervised.ok_or(LoopControlError::NotRegistered)
    }

    pub(super) fn hold(&self, held: bool) -> bool {
        let mut state = self.state();
        if state.running {
            state.held = held;
        }
        let running = state.running;
        drop(state);
        self.notify();
        running
    }

    /// The loop rests until somebody restarts it. Returns the number of times that are left out.
    pub(super) fn rests(&self, now: SystemTime) -> u64 {
        let (schedule, mut account) = {
            let state = self.state();
            (state.schedule.clone(), state.account)
        };
        // Not under the lock: the schedule may have the user's code in it.
        let missed = account.rest(&schedule, now);
        self.state().account = account;
        missed
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
        (state.failed, state.held, state.asked) = (false, false, None);
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
        state.in_flight = 0;
        let unheard = state.take_manual();
        self.supervised.task.cell.set_schedule(state.schedule.interval(), None);
        drop(state);
        // Wakes those who await them.
        drop(unheard);
    }
}
