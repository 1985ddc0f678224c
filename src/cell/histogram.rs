//! The run durations of one name, in the buckets that are exported: OpenTelemetry's histograms cannot be read back.

use std::time::Duration;

use crate::{
    contract::DURATION_BOUNDARIES,
    sync::atomic::{AtomicU64, Ordering},
};

const BUCKETS: usize = DURATION_BOUNDARIES.len() + 1;

#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Histogram {
    /// Under the lock of the name's records: it has one caller at a time.
    pub(crate) fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        // A bucket's upper boundary belongs to it, as in OpenTelemetry.
        let index = DURATION_BOUNDARIES.partition_point(|boundary| *boundary < seconds);
        let bucket = &self.buckets[index];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed); // Statistics only, pairs with nothing.
    }

    pub(crate) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed)); // Statistics only, pairs with nothing.
    }

    /// The counts where nothing was recorded.
    pub(crate) fn none() -> Vec<u64> {
        vec![0; BUCKETS]
    }

    pub(crate) fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect()
    }
}

/// The duration of the run that the fraction `q` of these runs did not exceed.
pub(crate) fn exact_quantile(runs: &[Duration], q: f64) -> Option<Duration> {
    let mut runs = runs.to_vec();
    runs.sort_unstable();
    let nth = (q * runs.len() as f64).ceil().max(1.0) as usize;
    runs.get(nth.min(runs.len()).checked_sub(1)?).copied()
}

/// The duration below which the fraction `q` of the counted runs lies, interpolated inside its bucket as Prometheus'
/// `histogram_quantile` does; `longest` bounds the last bucket.
pub(crate) fn quantile(counts: &[u64], longest: Duration, q: f64) -> Option<Duration> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q * total as f64;
    let mut below = 0_u64;
    for (index, count) in counts.iter().enumerate() {
        if *count > 0 && (below + count) as f64 >= rank {
            let lower = if index == 0 { 0.0 } else { DURATION_BOUNDARIES[index - 1] };
            let upper =
                DURATION_BOUNDARIES.get(index).copied().unwrap_or(f64::INFINITY).min(longest.as_secs_f64());
            let inside = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
            return Some(Duration::from_secs_f64(lower + (upper - lower).max(0.0) * inside));
        }
        below += count;
    }
    Some(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        histogram.record(Duration::from_micros(1_001));
        histogram.record(Duration::from_secs(10_000));
        let counts = histogram.counts();
        assert_eq!((counts[3], counts[4], counts[BUCKETS - 1]), (1, 1, 1));
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let histogram = Histogram::default();
        (0..99).for_each(|_| histogram.record(Duration::from_millis(7)));
        histogram.record(Duration::from_secs(3));
        let counts = histogram.counts();
        let longest = Duration::from_secs(3);
        let half = quantile(&counts, longest, 0.5).expect("counted");
        assert!(half > Duration::from_millis(5) && half <= Duration::from_millis(10), "{half:?}");
        assert_eq!(quantile(&counts, longest, 1.0), Some(longest));
        assert_eq!(quantile(&[0; BUCKETS], longest, 0.5), None);
    }

    #[test]
    fn the_quantile_of_few_runs_is_one_of_them() {
        let runs = [7, 1, 3].map(Duration::from_secs);
        let of = |q| exact_quantile(&runs, q).map(|run| run.as_secs());
        assert_eq!([0.0, 0.3, 0.5, 0.95, 1.0, 1.1].map(of), [1, 1, 3, 7, 7, 7].map(Some));
        assert_eq!(exact_quantile(&[], 0.5), None);
    }

    #[test]
    fn a_quantile_is_interpolated_between_the_boundaries_of_its_bucket() {
        let ms = Duration::from_millis;
        let near = |counts: &[u64], q, expected: Duration| {
            let found = quantile(counts, ms(2_500), q).expect("counted");
            assert!(found.abs_diff(expected) < Duration::from_nanos(10), "{q} of {counts:?}: {found:?}");
        };
        let mut counts = [0; BUCKETS];
        // Four runs of 5 to 10 ms, six of 10 to 25 ms.
        (counts[6], counts[7]) = (4, 6);
        near(&counts, 0.0, ms(5)); // An empty bucket has no quantile.
        near(&counts, 0.2, Duration::from_micros(7_500));
        near(&counts, 0.4, ms(10));
        near(&counts, 0.7, Duration::from_micros(17_500));
        near(&counts, 1.0, ms(25));
        assert_eq!(quantile(&counts, ms(2_500), 1.1), Some(ms(2_500)), "there is nothing beyond all of them");
        // The first bucket begins at nothing, the last ends with the longest run.
        let mut counts = [0; BUCKETS];
        counts[0] = 1;
        near(&counts, 0.5, Duration::from_micros(50));
        let mut counts = [0; BUCKETS];
        counts[BUCKETS - 1] = 2;
        let longest = Duration::from_secs(7_200);
        assert_eq!(quantile(&counts, longest, 0.5), Some(Duration::from_secs(5_400)));
    }
}
