//! Counts of the last hour, in a ring of one-minute buckets.
//!
//! Invariant: a bucket holds `minute << 32 | count`, so that a bucket is emptied and counted in one compare-exchange.

use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};

const BUCKETS: u64 = 60;
const COUNT_BITS: u32 = 32;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// The number of events in the last 60 minutes. Error: up to one minute at the far end.
#[derive(Debug)]
pub(crate) struct HourWindow {
    buckets: [AtomicU64; BUCKETS as usize],
}

impl Default for HourWindow {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

/// Minutes are counted from 1, so that an empty bucket (0) belongs to no minute.
pub(super) fn minute(now: Duration) -> u64 {
    now.as_secs() / 60 + 1
}

impl HourWindow {
    pub(crate) fn count(&self, now: Duration) {
        let minute = minute(now);
        let bucket = &self.buckets[(minute % BUCKETS) as usize];
        // Relaxed throughout: statistics only, pairs with nothing; the compare-exchange alone keeps a bucket whole.
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| match held >> COUNT_BITS {
            same if same == minute => Some(if held & COUNT_MASK == COUNT_MASK { held } else { held + 1 }),
            older if older < minute => Some(minute << COUNT_BITS | 1),
            // A writer held up for an hour: its event has left the window.
            _ => None,
        });
    }

    pub(crate) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
    }

    pub(crate) fn sum(&self, now: Duration) -> u64 {
        let minute = minute(now);
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            // One comparison: of a later minute the age wraps around, of an empty bucket the count is nothing.
            .filter(|held| minute.wrapping_sub(held >> COUNT_BITS) < BUCKETS)
            .map(|held| held & COUNT_MASK)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_older_than_an_hour_are_dropped() {
        let window = HourWindow::default();
        let at = |minutes: u64| Duration::from_secs(minutes * 60 + 5);
        assert_eq!(window.sum(at(0)), 0);
        window.count(at(0));
        window.count(at(0));
        window.count(at(59));
        assert_eq!(window.sum(at(59)), 3);
        assert_eq!(window.sum(at(60)), 1);
        window.count(at(60));
        assert_eq!(window.sum(at(60)), 2);
        assert_eq!(window.sum(at(119)), 1);
        assert_eq!(window.sum(at(200)), 0);
    }

    #[test]
    fn threads_lose_no_event() {
        let window = HourWindow::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.count(Duration::from_secs(61))));
            }
        });
        assert_eq!(window.sum(Duration::from_secs(61)), 40_000);
    }

    #[test]
    fn a_writer_held_up_for_an_hour_does_not_empty_the_bucket_of_a_later_minute() {
        let window = HourWindow::default();
        window.count(Duration::from_secs(3_605));
        window.count(Duration::from_secs(5));
        assert_eq!(window.sum(Duration::from_secs(3_605)), 1);
    }

    #[test]
    fn a_full_bucket_stays_full() {
        let window = HourWindow::default();
        let now = Duration::from_secs(125);
        window.buckets[minute(now) as usize].store(minute(now) << COUNT_BITS | COUNT_MASK, Ordering::Relaxed);
        window.count(now);
        assert_eq!(window.sum(now), COUNT_MASK);
    }
}

/// Seen to fail where `count` is a load and a store.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::sync::Arc;

    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    fn count_at_once(minutes: [u64; 2], then: impl Fn(&HourWindow)) -> Arc<HourWindow> {
        let window = Arc::new(HourWindow::default());
        let threads = minutes.map(|minute| {
            let window = window.clone();
            thread::spawn(move || window.count(Duration::from_secs(minute * 60)))
        });
        then(&window);
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        window
    }

    #[test]
    fn no_event_is_lost_and_none_is_seen_before_it_happened() {
        model(3, || {
            let now = Duration::from_secs(60);
            let window = count_at_once([1, 1], |window| assert!(window.sum(now) <= 2));
            assert_eq!(window.sum(now), 2);
        });
    }

    #[test]
    fn a_bucket_never_holds_events_of_two_hours() {
        model(3, || {
            let now = Duration::from_secs(61 * 60);
            let window = count_at_once([1, 61], |window| assert!(window.sum(now) <= 1));
            assert_eq!(window.sum(now), 1, "the late writer's event has left the window");
        });
    }
}
