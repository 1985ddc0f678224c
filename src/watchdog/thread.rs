//! The watchdog's thread: its ticks, its reports, its end.
//!
//! It runs user code only through [`Watched`]: the work of a manager in its tick, and its destructors if the last
//! reference is dropped here. So no lock is held then, and no panic spreads. A tick that blocks delays the ticks of all
//! managers; it must not wait for a task.
//!
//! The thread ends when it has had nothing to watch for [`LINGER`], and is started again on demand. It could
//! also sleep, but a process that no longer uses managers should have no thread of ours. Leak checkers, thread counts
//! and hosts that unload a library depend on that. With [`LINGER`], a process that makes one manager
//! after the other does not make as many threads.
//!
//! Invariants:
//! 1. `running` is set and cleared under the lock of [`Watchdog::state`], together with the check for watched managers. So a
//!    manager is never entered for a thread that has just decided to end, and there are never two threads.
//! 2. Neither a [`Watched`] nor a panic's payload is dropped, and no tick called, under that lock. A dead `Weak` may be: that
//!    frees memory and calls nobody.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::threads::start;

use super::{
    scan::{BlockedPoll, Look, Scan, Seen},
    slot::{self, MANAGERS},
};

/// The shortest distance of ticks: a manager whose deadlines come one after the other must not make the thread spin.
const MIN_DISTANCE: Duration = Duration::from_millis(1);
/// The longest distance of ticks: asking for a longer one saves nothing, and instants have an end.
const MAX_DISTANCE: Duration = Duration::from_secs(60 * 60);
/// For how long the thread stays after the last manager is gone.
const LINGER: Duration = Duration::from_secs(10);

/// A manager, as the watchdog sees it.
pub(crate) trait Watched: Send + Sync {
    /// Called on the watchdog's thread at each tick. May ask for the next one, and may panic; must not block.
    fn tick(&self, tick: &Tick<'_>);
}

/// The report of the watchdog to a manager.
#[derive(Debug)]
pub(crate) struct Tick<'a> {
    /// The time of the watchdog's pass.
    pub(crate) now: Instant,
    /// The time for which the whole process was stopped before this tick, at least: a stop signal, a suspended machine, a starved
    /// process. It does not count for any task, so every deadline begins again.
    pub(crate) resumed_after: Option<Duration>,
    /// The polls of this manager's members that have gone on since the tick before, or longer. Ticks may follow each other
    /// closely, so [`BlockedPoll::since`] says whether that is long.
    pub(crate) blocked: &'a [BlockedPoll],
}

struct Watchdog {
    state: Mutex<State>,
    changed: Condvar,
    linger: Duration,
}

struct State {
    running: bool,
    watched: Vec<Entry>,
    /// The time of the last tick, or of the start of watching. Written by the thread, and by the call that ends its idleness.
    ticked: Option<Instant>,
    /// The tick before, while the managers receive this one. Until they have, it is not known if the process
    /// was stopped.
    before: Option<Instant>,
}

struct Entry {
    number: u64,
    every: Duration,
    /// The tick that was asked for.
    at: Option<Instant>,
    watched: Weak<dyn Watched>,
}

/// The reason to wake the thread.
struct Wake {
    due: Instant,
    every: Duration,
    watched: Vec<(u64, Weak<dyn Watched>)>,
}

impl State {
    fn forget_dead(&mut self) {
        self.watched.retain(|entry| entry.watched.strong_count() > 0);
    }

    fn shortest(&self) -> Option<Duration> {
        self.watched.iter().map(|entry| entry.every).min()
    }

    /// Returns the time at which the next tick is due; `None` where nothing is watched.
    fn due(&self) -> Option<Instant> {
        let (every, ticked) = (self.shortest()?, self.ticked?);
        let asked = self.watched.iter().filter_map(|entry| entry.at).min();
        let regular = ticked + every;
        Some(asked.map_or(regular, |asked| asked.clamp(ticked + MIN_DISTANCE, regular)))
    }

    fn wake(&mut self, now: Instant, due: Instant) -> Wake {
        self.before = self.ticked.replace(now);
        for entry in &mut self.watched {
            entry.at = entry.at.filter(|at| *at > now);
        }
        let watched = self.watched.iter().map(|entry| (entry.number, entry.watched.clone())).collect();
        Wake { due, every: self.shortest().unwrap_or(MAX_DISTANCE), watched }
    }
}

impl Watchdog {
    const fn new(linger: Duration) -> Self {
        let state = State { running: false, watched: Vec::new(), ticked: None, before: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), linger }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&'static self, number: u64, every: Duration, watched: Weak<dyn Watched>) -> io::Result<()> {
        let mut state = self.state();
        if !state.running {
            // Under the lock, so that there is one thread; what it does first is to wait for this lock.
            start("otel-tasks-watchdog", Box::new(|| self.run()))?;
            state.running = true;
        }
        state.forget_dead();
        if state.watched.is_empty() {
            state.ticked = Some(Instant::now());
        }
        let every = every.clamp(MIN_DISTANCE, MAX_DISTANCE);
        state.watched.push(Entry { number, every, at: None, watched });
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    fn tick_at(&self, number: u64, at: Instant) {
        let mut state = self.state();
        let before = state.due();
        if let Some(entry) = state.watched.iter_mut().find(|entry| entry.number == number) {
            entry.at = Some(entry.at.map_or(at, |asked| asked.min(at)));
        }
        let earlier = state.due() < before;
        drop(state);
        // The thread is woken only to sleep for less, as most deadlines come later than its next tick.
        if earlier {
            self.changed.notify_one();
        }
    }

    fn last_tick(&self) -> Option<Duration> {
        let state = self.state();
        let watching = state.running && state.watched.iter().any(|entry| entry.watched.strong_count() > 0);
        state.before.or(state.ticked).filter(|_| watching).map(|ticked| ticked.elapsed())
    }

    fn run(&self) {
        let mut scan = Scan::default();
        while let Some(Wake { due, every, watched }) = self.wait() {
            let began = Instant::now();
            let polled = slot::polled();
            let seen = scan.observe(Look { due, every, began, over: Instant::now(), polled });
            for (number, watched) in watched {
                tell(number, &watched, &seen);
            }
            self.state().before = None;
        }
    }

    /// Waits for the next tick. `None` where the thread shall end.
    fn wait(&self) -> Option<Wake> {
        let mut state = self.state();
        // What the wait was for. A tick that is due at once is not late: the time went by in the ticks before it, or
        // somebody has just asked for it. The process may stand still unnoticed during a tick, which is a thousandth of the
        // time at most; taking a slow tick for it would hide what is blocked from everybody.
        let mut asked: Option<Instant> = None;
        loop {
            state.forget_dead();
            let now = Instant::now();
            let Some(due) = state.due() else {
                // Nobody waits for it any more, so the time that goes by from here makes nothing late.
                asked = None;
                let (guard, waited) =
                    self.changed.wait_timeout(state, self.linger).unwrap_or_else(PoisonError::into_inner);
                state = guard;
                state.forget_dead();
                if waited.timed_out() && state.watched.is_empty() {
                    state.running = false;
                    return None;
                }
                continue;
            };
            // The second case: a request is obsolete because its manager is gone. The other managers must still learn if the process
            // was stopped.
            if due <= now || asked.is_some_and(|asked| asked <= now) {
                return Some(state.wake(now, asked.unwrap_or(now)));
            }
            asked = Some(due);
            let waited = self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
        }
    }
}

fn tell(number: u64, watched: &Weak<dyn Watched>, seen: &Seen) {
    let Some(watched) = watched.upgrade() else { return };
    let blocked = seen.blocked_of(number);
    contain(|| watched.tick(&Tick { now: seen.now, resumed_after: seen.resumed_after, blocked }));
    // This may be the last reference. Apart from the tick, for a destructor that panics while another panic unwinds ends the
    // process.
    contain(|| drop(watched));
}

/// Ends a panic here. The panic hook has reported it.
fn contain(inside: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(inside)) {
        // The payload is the user's value, and its destructor may panic; so may the payload of that, which is left alone.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(payload);
        }
    }
}

static WATCHDOG: Watchdog = Watchdog::new(LINGER);

/// A new manager number.
pub(crate) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: uniqueness only. It wraps as the ids do.
    NEXT.fetch_add(1, Ordering::Relaxed) % MANAGERS
}

/// Ticks `watched` at least once per `every` until it is dropped. The thread ticks all managers at once, at the shortest interval that
/// one of them requests. A manager that is watched twice is ticked twice. A value without a strong reference yet (inside
/// `Arc::new_cyclic`) counts as dropped.
///
/// # Errors
///
/// Where the thread is not running and the system refuses to start it; nothing is watched then.
pub(crate) fn watch(number: u64, every: Duration, watched: Weak<dyn Watched>) -> io::Result<()> {
    WATCHDOG.watch(number, every, watched)
}

/// Asks for a tick at this instant or soon after it, for a deadline. One such instant is kept per manager, the earliest; so a
/// manager whose tick has come asks again for the deadline that is next.
pub(crate) fn tick_at(number: u64, at: Instant) {
    WATCHDOG.tick_at(number, at);
}

/// Returns the time since the start of the last tick that all managers have received, or else of watching. `None` if nothing is watched.
pub(crate) fn last_tick() -> Option<Duration> {
    WATCHDOG.last_tick()
}

#[cfg(test)]
mod tests;
