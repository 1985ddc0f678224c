//! A wall clock that goes with the runtime's, and can be set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct WallClock {
    began: Instant,
    start: SystemTime,
    shift_millis: Arc<AtomicI64>,
}

impl WallClock {
    /// One that shows `start` now.
    pub(crate) fn starting(start: SystemTime) -> Self {
        Self { began: Instant::now(), start, shift_millis: Arc::default() }
    }

    pub(crate) fn now(&self) -> SystemTime {
        let time = self.start + self.began.elapsed();
        let shift = self.shift_millis.load(SeqCst);
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift < 0 { time - by } else { time + by }
    }

    /// Sets it, forward or back.
    pub(crate) fn shift(&self, seconds: i64) {
        self.shift_millis.fetch_add(seconds * 1_000, SeqCst);
    }

    pub(crate) fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now()
    }
}
