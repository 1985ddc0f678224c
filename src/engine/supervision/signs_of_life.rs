//! The signs of life that a run gives: heartbeats, and that it is ready.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tokio::time::Instant;

/// The signs of one task. A sign from an older generation is refused, so a run's stray clone cannot speak for the next.
pub(crate) struct Signals {
    /// Written by the task's driver alone.
    generation: AtomicU64,
    /// The generation that is ready; 0 for none.
    ready: AtomicU64,
    /// Whether a loop waits for its next iteration. Written by the loop alone.
    sleeping: AtomicBool,
    beat: Mutex<Beat>,
}

struct Beat {
    last: Instant,
    /// Made with the first stall: few tasks ever do.
    told: Option<Box<Told>>,
}

/// The stalls that have been told, so that each is told once.
#[derive(Default)]
struct Told {
    silence: Option<Instant>,
    poll: Option<u64>,
}

/// Which stall: a sign of life that no other followed, or a poll that does not return.
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
        // Under the lock: a stall that is told belongs to the generation whose sign of life it is about.
        let generation = self.generation.fetch_add(1, SeqCst) + 1;
        self.sleeping.store(false, SeqCst);
        beat.last = now;
        generation
    }

    /// Answers whether the sign counts.
    pub(crate) fn heartbeat(&self, generation: u64, now: Instant) -> bool {
        let counts = generation == self.generation();
        if counts {
            self.beat().last = now;
        }
        counts
    }

    /// Answers whether it is news; `None` where the sign does not count.
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
        self.sleeping.store(sleeping, SeqCst);
    }

    pub(crate) fn is_sleeping(&self) -> bool {
        self.sleeping.load(SeqCst)
    }

    pub(crate) fn last_beat(&self) -> Instant {
        self.beat().last
    }

    /// Whether the silence since that sign of life has been told.
    pub(crate) fn is_told(&self, since: Instant) -> bool {
        self.beat().told.as_ref().is_some_and(|told| told.silence == Some(since))
    }

    /// As if the task had given a sign now: the process stood still, which is not the task's fault.
    pub(crate) fn rearm(&self, now: Instant) {
        let mut beat = self.beat();
        beat.last = beat.last.max(now);
    }

    /// Answers whose stall it is, where it is news. The driver's timer and the watchdog both come here: one decision only. A sign of
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
