//! Parts of durations, which no duration makes overflow.

use std::time::Duration;

/// The part `share` (0 to 1) of a duration; never more than the duration itself.
pub(crate) fn fraction(duration: Duration, share: f64) -> Duration {
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    // Rounding may exceed the longest duration, which `mul_f64` panics at.
    Duration::try_from_secs_f64(duration.as_secs_f64() * share).map_or(duration, |part| part.min(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_exceeds_the_whole() {
        for whole in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(5), Duration::MAX] {
            for share in [0.0, 0.3, 1.0, 2.0, -1.0, f64::NAN, f64::INFINITY] {
                assert!(fraction(whole, share) <= whole, "{whole:?} {share}");
            }
            assert_eq!(fraction(whole, 0.0), Duration::ZERO);
            assert_eq!(fraction(whole, 1.0), whole);
        }
        assert_eq!(fraction(Duration::from_secs(4), 0.5), Duration::from_secs(2));
    }
}
