//! The state that a loop and its handles share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::SystemTime,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    cell::SkipReason,
    engine::{Order, Supervised, TaskEventKind, loops::outcome::LoopOutcome, shared::Shared},
    error::LoopControlError,
    policy::Exit,
    timetable::{Account, Schedule, ScheduleError},
};

pub(super) struct Control {
    state: Mutex<State>,
    /// True if the state has changed, not by the life under way.
    changed: AtomicBool,
    supervised: Mutex<Weak<Supervised>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) schedule: Arc<Schedule>,
    /// Counted up with each schedule, and when a life takes the account or gives it back.
    pub(super) revision: u64,
    /// Between the start of a life and its end, hooks included.
    pub(super) running: bool,
    /// True if a life has the account, and follows requests.
    pub(super) lives: bool,
    /// True if a requested iteration begins. False from the decision on that a life ends.
    pub(super) takes: bool,
    pub(super) failed: bool,
    /// Boxed: most loops are asked for nothing.
    pub(super) asked: Option<Box<Asked>>,
    pub(super) iteration: u64,
    pub(super) next: Option<SystemTime>,
    /// The account of the last life. The current life takes it, and gives it back at its end.
    pub(super) account: Account,
    /// The time that the last iteration was due at that has ended.
    pub(super) last_run: Option<SystemTime>,
    pub(super) last_result: Option<Exit>,
    /// The number of running iterations, including requested iterations that have not begun.
    pub(super) in_flight: u32,
    /// The largest number of iterations at once.
    pub(super) allowed: u32,
}

/// The requests to a life.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The time of the request to finish.
    stop: Option<Instant>,
    /// The callers of requested iterations that have not begun.
    manual: Vec<Awaits>,
    /// In their order. Each applies from its time on, also if the life receives it later.
    wishes: Vec<(Instant, Wish)>,
}

/// As many wishes are kept apart while an iteration runs that none may begin beside. Further ones replace the last of their kind:
/// somebody turns a loop on and off all the time.
const WISHES_AT_MOST: usize = 64;

/// A change of a running life.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    /// True if no further iteration begins for the time being.
    Hold(bool),
    /// Another schedule.
    Schedule(Arc<Schedule>),
}

/// The caller of a requested iteration.
pub(super) type Awaits = oneshot::Sender<LoopOutcome>;

/// The permission of a due iteration to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It has one, and is in flight.
    Taken,
    /// As many run as may.
    None,
    /// Something was asked for that comes first.
    Waits,
}

impl State {
    /// Returns the time of the request to finish.
    pub(super) fn stop_requested(&self) -> Option<Instant> {
        self.asked.as_ref()?.stop
    }

    pub(super) fn request_stop(&mut self) {
        self.takes = false;
        self.asked.get_or_insert_default().stop.get_or_insert_with(Instant::now);
    }

    /// Asks for an iteration, which has its place from now on.
    pub(super) fn ask_for_one(&mut self, awaits: Awaits) -> Result<(), LoopControlError> {
        if !self.takes {
            return Err(LoopControlError::NotRunning);
        }
        if self.in_flight >= self.allowed {
            return Err(LoopControlError::Overlapped);
        }
        self.in_flight += 1;
        self.asked.get_or_insert_default().manual.push(awaits);
        Ok(())
    }

    /// Takes a place for an iteration that is due; with `limited`, not more than may run.
    pub(super) fn take_place(&mut self, limited: bool) -> Place {
        if self.asked.as_ref().is_some_and(|asked| !asked.manual.is_empty()) {
            return Place::Waits;
        }
        if limited && self.in_flight >= self.allowed {
            return Place::None;
        }
        self.in_flight += 1;
        Place::Taken
    }

    /// Frees the places of this number of iterations, which have ended or do not begin.
    pub(super) fn leave_places(&mut self, count: usize) {
        self.in_flight = self.in_flight.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Returns the callers of requested iterations that have not begun.
    pub(super) fn take_manual(&mut self) -> Vec<Awaits> {
        self.asked.as_mut().map(|asked| std::mem::take(&mut asked.manual)).unwrap_or_default()
    }

    /// Refuses all later requests for iterations. Returns the callers of requested iterations that have not begun.
    #[must_use = "dropping them informs their receivers, which must not happen under the lock"]
    pub(super) fn refuse(&mut self) -> Vec<Awaits> {
        self.takes = false;
        self.take_manual()
    }

    /// Refuses what is asked for from now on, unless something is asked for already.
    pub(super) fn refuses(&mut self) -> bool {
        let is_asked = |asked: &Asked| !asked.manual.is_empty() || !asked.wishes.is_empty();
        if self.asked.as_deref().is_some_and(is_asked) {
            return false;
        }
        self.takes = false;
        true
    }

    fn wish(&mut self, wish: Wish) {
        let wishes = &mut self.asked.get_or_insert_default().wishes;
        let same_kind = |(_, other): &&mut (Instant, Wish)| {
            std::mem::discriminant(other) == std::mem::discriminant(&wish)
        };
        let is_full = wishes.len() >= WISHES_AT_MOST;
        match wishes.iter_mut().rev().find(same_kind).filter(|_| is_full) {
            Some((_, last)) => *last = wish,
            None => wishes.push((Instant::now(), wish)),
        }
    }

    /// The wishes up to a moment.
    pub(super) fn take_wishes(&mut self, upto: Option<Instant>) -> Vec<(Instant, Wish)> {
        let Some(asked) = &mut self.asked else { return Vec::new() };
        let count = asked.wishes.partition_point(|(at, _)| upto.is_none_or(|upto| *at <= upto));
        asked.wishes.drain(..count).collect()
    }
}

impl Control {
    pub(super) fn new(schedule: Schedule) -> Arc<Self> {
        let state = State {
            schedule: Arc::new(schedule),
            revision: 0,
            running: false,
            lives: false,
            takes: false,
            failed: false,
            asked: None,
            iteration: 0,
            next: None,
            account: Account::default(),
            last_run: None,
            last_result: None,
            in_flight: 0,
            allowed: 1,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: AtomicBool::new(false),
            supervised: Mutex::default(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn schedule(&self) -> Arc<Schedule> {
        self.state().schedule.clone()
    }

    /// The schedule of a loop that is not registered yet.
    pub(super) fn begin_with(&self, schedule: Schedule) {
        let before = std::mem::replace(&mut self.state().schedule, Arc::new(schedule));
        // Not under the lock: it may have the user's code in it.
        drop(before);
    }

    /// Lets another schedule hold, found from the one before.
    pub(super) fn change(
        &self,
        other: impl Fn(&Schedule) -> Result<Schedule, ScheduleError>,
    ) -> Result<(), ScheduleError> {
        loop {
            let (before, revision, left) = {
                let state = self.state();
                (state.schedule.clone(), state.revision, (!state.lives).then_some(state.account))
            };
            // Not under the lock: a schedule may have the user's code in it. So this checks that nothing has changed meanwhile.
            let other = Arc::new(other(&before)?);
            let left = left.map(|mut account| {
                if let Some(supervised) = self.task() {
                    account.change(&before, supervised.wall_clock());
                }
                account
            });
            let mut state = self.state();
            if state.revision != revision {
                continue;
            }
            state.revision += 1;
            state.schedule = other.clone();
            match left {
                Some(account) => state.account = account,
                None => state.wish(Wish::Schedule(other)),
            }
            drop(state);
            self.notify();
            return Ok(());
        }
    }

    /// Wakes the driver, which polls the life under way and its iterations.
    pub(super) fn notify(&self) {
        // Before the wake-up: the driver leaves its waker before it polls the life, which reads this. Release: pairs with `take_changed`.
        self.changed.store(true, Release);
        if let Some(supervised) = self.task() {
            supervised.wake();
        }
    }

    /// Returns true if the state has changed since the last call. For the life under way, which its driver polls.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.load(Relaxed) && self.changed.swap(false, Acquire)
    }

    pub(super) fn order(&self, order: Order) -> Result<(), LoopControlError> {
        self.supervised()?.order(order);
        Ok(())
    }

    /// The task, as long as it obeys.
    pub(super) fn supervised(&self) -> Result<Arc<Supervised>, LoopControlError> {
        let supervised = self.task().filter(|supervised| supervised.owns_name());
        if supervised.as_ref().is_some_and(|supervised| supervised.is_runtime_gone()) {
            return Err(LoopControlError::RuntimeGone);
        }
        let supervised =
            supervised.filter(|supervised| !supervised.has_left() && !supervised.is_to_unregister());
        supervised.ok_or(LoopControlError::NotRegistered)
    }

    fn task(&self) -> Option<Arc<Supervised>> {
        self.supervised.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub(super) fn hold(&self, held: bool) -> bool {
        let mut state = self.state();
        if state.lives {
            state.wish(Wish::Hold(held));
        }
        let running = state.running;
        drop(state);
        self.notify();
        running
    }

    /// The loop rests until somebody restarts it. Returns the number of times that are left out.
    pub(super) fn rests(&self, now: SystemTime) -> u64 {
        loop {
            let (schedule, revision, mut account) = {
                let state = self.state();
                (state.schedule.clone(), state.revision, state.account)
            };
            // Not under the lock: the schedule may have the user's code in it.
            let missed = account.rest(&schedule, now);
            let mut state = self.state();
            if state.revision == revision {
                state.revision += 1;
                state.account = account;
                return missed;
            }
        }
    }

    /// A life gives the account back, and the schedule that it followed. What was asked for since holds from when it was; with `stop`, the
    /// loop rests from then on. Returns the number of times that are left out.
    pub(super) fn give_back(
        &self,
        mut schedule: Arc<Schedule>,
        mut account: Account,
        mut stop: Option<Instant>,
        now: SystemTime,
    ) -> u64 {
        let then = |at: Instant| now.checked_sub(at.elapsed()).unwrap_or(now);
        loop {
            let wishes = {
                let mut state = self.state();
                let wishes = state.take_wishes(stop);
                if wishes.is_empty() && stop.is_none() {
                    state.revision += 1;
                    (state.lives, state.takes) = (false, false);
                    let left = account.take_left();
                    state.account = account;
                    return left;
                }
                wishes
            };
            if let Some(at) = stop.take_if(|_| wishes.is_empty()) {
                account.come_to_rest(&schedule, then(at));
            }
            for (at, wish) in wishes {
                match wish {
                    Wish::Schedule(other) => {
                        account.change(&schedule, then(at));
                        schedule = other;
                    }
                    Wish::Hold(true) => account.come_to_rest(&schedule, then(at)),
                    Wish::Hold(false) => account.open(then(at)),
                }
            }
        }
    }

    pub(super) fn registered(&self, supervised: &Arc<Supervised>) {
        *self.supervised.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(supervised);
    }
}

/// Counts times that are left out.
pub(super) fn tell_skipped(
    shared: &Arc<Shared>,
    supervised: &Arc<Supervised>,
    reason: SkipReason,
    iterations: u64,
) {
    if iterations > 0 {
        supervised.task.skipped(reason, iterations);
        shared.tell(supervised, || TaskEventKind::Skipped { reason, iterations });
    }
}
