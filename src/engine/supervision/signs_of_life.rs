//! The signs of life that a run gives: heartbeats, and that it is ready.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use tokio::time::Instant;

/// Set in [`Signals::word`] while a loop waits for its next iteration.
const SLEEPING: u64 = 1;
/// Set once the generation is ready.
const READY: u64 = 2;
/// Set once any generation has been ready.
const BEEN_READY: u64 = 4;
/// The position of the generation.
const SHIFT: u32 = 3;

/// The signs of one task. A sign from an older generation is refused, so a run's stray clone cannot speak for the next.
pub(crate) struct Signals {
    /// The generation, above [`SHIFT`]; below it the marks. The driver alone begins a generation. The loop and its driver
    /// write [`SLEEPING`].
    word: AtomicU64,
    /// For a task with a limit on its silence or on its polls: few tasks have one.
    beat: Option<Box<Mutex<Beat>>>,
}

struct Beat {
    last: Instant,
    told: Told,
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
    /// The signs of a task; with a limit on its silence or on its polls, of those too. Their time begins at `limited_from`.
    pub(crate) fn new(limited_from: Option<Instant>) -> Self {
        let beat = limited_from.map(|last| Box::new(Mutex::new(Beat { last, told: Told::default() })));
        Self { word: AtomicU64::new(0), beat }
    }

    fn beat(&self) -> Option<MutexGuard<'_, Beat>> {
        self.beat.as_ref().map(|beat| beat.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.word.load(SeqCst) >> SHIFT
    }

    /// Begins the next generation.
    pub(crate) fn begin(&self, now: Instant) -> u64 {
        // Under the lock: a reported stall belongs to the generation of its sign of life.
        let beat = self.beat();
        let next = |word: u64| ((word >> SHIFT) + 1) << SHIFT | word & BEEN_READY;
        let before = self.word.fetch_update(SeqCst, SeqCst, |word| Some(next(word)));
        if let Some(mut beat) = beat {
            beat.last = now;
        }
        (before.unwrap_or_else(|word| word) >> SHIFT) + 1
    }

    /// Records a heartbeat at `now`. Returns true if it counts.
    pub(crate) fn heartbeat(&self, generation: u64, now: impl FnOnce() -> Instant) -> bool {
        let counts = generation == self.generation();
        if counts && self.beat.is_some() {
            let now = now();
            self.beat().into_iter().for_each(|mut beat| beat.last = now);
        }
        counts
    }

    /// Records readiness. Returns true if it is new; `None` if it does not count.
    pub(crate) fn ready(&self, generation: u64) -> Option<bool> {
        let mark = |word: u64| (word >> SHIFT == generation).then_some(word | READY | BEEN_READY);
        let before = self.word.fetch_update(SeqCst, SeqCst, mark).ok()?;
        Some(before & READY == 0)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.word.load(SeqCst) & READY != 0
    }

    pub(crate) fn has_been_ready(&self) -> bool {
        self.word.load(SeqCst) & BEEN_READY != 0
    }

    pub(crate) fn set_sleeping(&self, sleeping: bool) {
        if sleeping {
            self.word.fetch_or(SLEEPING, SeqCst);
        } else {
            self.word.fetch_and(!SLEEPING, SeqCst);
        }
    }

    pub(crate) fn is_sleeping(&self) -> bool {
        self.word.load(SeqCst) & SLEEPING != 0
    }

    /// Returns the time of the last sign of life; `None` for a task without a limit.
    pub(crate) fn last_beat(&self) -> Option<Instant> {
        self.beat().map(|beat| beat.last)
    }

    /// Returns true if the silence since that sign of life has been reported.
    pub(crate) fn is_told(&self, since: Instant) -> bool {
        self.beat().is_some_and(|beat| beat.told.silence == Some(since))
    }

    /// Records a sign of life now: the whole process was stopped, which is no fault of the task.
    pub(crate) fn rearm(&self, now: Instant) {
        if let Some(mut beat) = self.beat() {
            beat.last = beat.last.max(now);
        }
    }

    /// Returns the generation of a stall, if it is new. The driver's timer and the watchdog both call this: only one of them decides. A sign of
    /// life that came meanwhile wins.
    pub(crate) fn tell(&self, stall: Stall) -> Option<u64> {
        let mut beat = self.beat()?;
        let Beat { last, told } = &mut *beat;
        let news = match stall {
            Stall::Silence(since) => since == *last && told.silence.replace(since) != Some(since),
            Stall::Poll(poll) => told.poll.replace(poll) != Some(poll),
        };
        news.then(|| self.generation())
    }
}
