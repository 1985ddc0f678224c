//! Runs and errors of the last hour by minute: 480 bytes, made with the first run that ends after somebody has asked for them.
//!
//! Invariant: a bucket holds `minute << 40 | errors << 24 | runs`, so that a bucket is emptied and counted in one compare-exchange.

use std::time::Duration;

use super::window::minute;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

const BUCKETS: usize = RunMinutes::MINUTES;
const RUN_BITS: u32 = 24;
const ERROR_BITS: u32 = 16;
const MINUTE_SHIFT: u32 = RUN_BITS + ERROR_BITS;
const MOST_RUNS: u64 = (1 << RUN_BITS) - 1;
const MOST_ERRORS: u64 = (1 << ERROR_BITS) - 1;

/// The ended runs and the errors of a task in each minute of the last hour.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RunMinutes {
    /// The ended runs of each minute, the oldest first. The last minute is not over. At most 16,777,215.
    pub runs: Vec<u32>,
    /// The runs of each minute that failed, panicked or timed out. At most 65,535.
    pub errors: Vec<u32>,
}

impl RunMinutes {
    /// The number of minutes.
    pub const MINUTES: usize = 60;

    /// Adds those of another cell of the same name.
    pub(super) fn absorb(&mut self, other: &Self) {
        let add = |mine: &mut [u32], theirs: &[u32]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
        };
        add(&mut self.runs, &other.runs);
        add(&mut self.errors, &other.errors);
    }
}

/// The counts. Relaxed throughout: statistics only, pairs with nothing.
#[derive(Debug)]
pub(super) struct Minutes([AtomicU64; BUCKETS]);

impl Default for Minutes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Minutes {
    pub(super) fn count(&self, now: Duration, is_error: bool) {
        let minute = minute(now);
        let index = usize::try_from(minute % BUCKETS as u64).unwrap_or_default();
        let _ = self.0[index].fetch_update(Relaxed, Relaxed, |held| {
            let held = match held >> MINUTE_SHIFT {
                same if same == minute => held,
                older if older < minute => minute << MINUTE_SHIFT,
                // A writer held up for an hour: its run has left the window.
                _ => return None,
            };
            let (runs, errors) = (held & MOST_RUNS, held >> RUN_BITS & MOST_ERRORS);
            let more_errors = if is_error && errors < MOST_ERRORS { 1 << RUN_BITS } else { 0 };
            Some(held + u64::from(runs < MOST_RUNS) + more_errors)
        });
    }

    pub(super) fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }

    pub(super) fn read(&self, now: Duration) -> RunMinutes {
        let now = minute(now);
        let (mut runs, mut errors) = (vec![0; BUCKETS], vec![0; BUCKETS]);
        for bucket in &self.0 {
            let held = bucket.load(Relaxed);
            // Of a later minute the age wraps around; an empty bucket has no runs.
            let age = usize::try_from(now.wrapping_sub(held >> MINUTE_SHIFT)).unwrap_or(usize::MAX);
            if let Some(index) = (BUCKETS - 1).checked_sub(age) {
                runs[index] = u32::try_from(held & MOST_RUNS).unwrap_or(u32::MAX);
                errors[index] = u32::try_from(held >> RUN_BITS & MOST_ERRORS).unwrap_or(u32::MAX);
            }
        }
        RunMinutes { runs, errors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Duration {
        Duration::from_secs(minute * 60 + 5)
    }

    #[test]
    fn minutes_move_on_and_leave_after_an_hour() {
        let minutes = Minutes::default();
        assert_eq!(minutes.read(at(0)).runs, [0; BUCKETS]);
        minutes.count(at(0), false);
        minutes.count(at(0), true);
        minutes.count(at(59), false);
        let read = minutes.read(at(59));
        assert_eq!((read.runs[0], read.errors[0], read.runs[59], read.errors[59]), (2, 1, 1, 0));
        let read = minutes.read(at(60));
        assert_eq!((read.runs.iter().sum::<u32>(), read.runs[58]), (1, 1));
        minutes.count(at(60), false);
        minutes.count(at(0), true);
        assert_eq!(minutes.read(at(60)).runs[59], 1, "a late writer's run has left the window");
        assert_eq!(minutes.read(at(500)).runs, [0; BUCKETS]);
    }

    #[test]
    fn a_full_minute_stays_full() {
        let minutes = Minutes::default();
        let index = usize::try_from(minute(at(3))).expect("small");
        minutes.0[index].store(minute(at(3)) << MINUTE_SHIFT | MOST_ERRORS << RUN_BITS | MOST_RUNS, Relaxed);
        minutes.count(at(3), true);
        let read = minutes.read(at(3));
        assert_eq!((read.runs[59], read.errors[59]), (16_777_215, 65_535));
    }

    #[test]
    fn the_counts_of_a_task_take_at_most_half_a_kilobyte() {
        assert!(size_of::<Minutes>() <= 512);
    }
}
