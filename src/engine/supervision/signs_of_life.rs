//! The signs of life that a run gives: heartbeats, and that it is ready.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Release, SeqCst},
    },
};

use tokio::time::Instant;

/// The signs of one task. A sign from an older generation is refused, so a run's stray clone cannot speak for the next.
pub(crate) struct Signals {
    /// Written by the task's driver alone.
    generation: AtomicU64,
    /// The generation that is ready; 0 for none.
    ready: AtomicU64,
    /// True if a loop waits for its next iteration. Written by the loop alone.
    sleeping: AtomicBool,
    beat: Mutex<Beat>,
}

struct Beat {
    last: Instant,
    /// Made with the first stall: few tasks ever do.
    told: Option<Box<Told>>,
}

/// The stalls that have been reported, so that each is reported once.
#[derive(Default)]
struct Told {
    silence: Option<Instant>,
    poll: Option<u64>,
}

/// The kind of a stall: a sign of life that no other followed, or a poll that does not return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    Silence(Instant),
    Poll(u64),
}

impl Signals {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            generation: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            beat: Mutex::new(Beat { last: now, told: None }),
        }
    }

    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.beat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Begins the next generation.
    pub(crate) fn begin(&self, now: Instant) -> u64 {
        let mut beat = self.beat();
        // Under the lock: a reported stall belongs to the generation of its sign of life.
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        self.sleeping.store(false, Release);
        beat.last = now;
        generation
    }

    /// Records a heartbeat. Returns true if it counts.
    pub(crate) fn heartbeat(&self, generation: u64, now: Instant) -> bool {
        let counts = generation == self.generation();
        if counts {
            self.beat().last = now;
        }
        counts
    }

    /// Records readiness. Returns true if it is new; `None` if it does not count.
    pub(crate) fn ready(&self, generation: u64) -> Option<bool> {
        (generation == self.generation()).then(|| self.ready.swap(generation, SeqCst) != generation)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(SeqCst) == self.generation()
    }

    pub(crate) fn has_been_ready(&self) -> bool {
        self.ready.load(SeqCst) > 0
    }

    pub(crate) fn set_sleeping(&self, sleeping: bool) {
        // Release: pairs with `is_sleeping`. A loop that is seen awake has its heartbeat of this iteration.
        self.sleeping.store(sleeping, Release);
    }

    pub(crate) fn is_sleeping(&self) -> bool {
        self.sleeping.load(Acquire)
    }

    pub(crate) fn last_beat(&self) -> Instant {
        self.beat().last
    }

    /// Returns true if the silence since that sign of life has been reported.
    pub(crate) fn is_told(&self, since: Instant) -> bool {
        self.beat().told.as_ref().is_some_and(|told| told.silence == Some(since))
    }

    /// Records a sign of life now: the whole process was stopped, which is no fault of the task.
    pub(crate) fn rearm(&self, now: Instant) {
        let mut beat = self.beat();
        beat.last = beat.last.max(now);
    }

    /// Returns the generation of a stall, if it is new. The driver's timer and the watchdog both call this: only one of them decides. A sign of
    /// life that came meanwhile wins.
    pub(crate) fn tell(&self, stall: Stall) -> Option<u64> {
        let mut beat = self.beat();
        let Beat { last, told } = &mut *beat;
        let told = told.get_or_insert_default();
        let news = match stall {
            Stall::Silence(since) => since == *last && told.silence.replace(since) != Some(since),
            Stall::Poll(poll) => told.poll.replace(poll) != Some(poll),
        };
        news.then(|| self.generation())
    }
}
