//! Cardinality limits of the metric streams.

use opentelemetry_sdk::metrics::{Instrument, Stream};

/// Attribute sets per name: the worst instrument has one per state of a task, or one per error type.
pub(super) const SETS_PER_NAME: usize = 10;

/// The SDK reserves room for all attribute sets of a stream when it is made: address space, some 33 bytes a set.
pub(super) const MAX_SETS: usize = 200_000;

/// Returns the number of the requested names that fit below the limit of the instruments.
pub(super) fn names_with_room(max_names: usize) -> usize {
    max_names.min(MAX_SETS / SETS_PER_NAME)
}

pub(super) fn cardinality_limit(max_names: usize) -> usize {
    max_names.saturating_mul(SETS_PER_NAME).clamp(2_000, MAX_SETS)
}

pub(super) fn cardinality_view(
    max_names: usize,
) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
    let limit = cardinality_limit(max_names);
    move |instrument| {
        let ours = instrument.name().starts_with("task.");
        ours.then(|| Stream::builder().with_cardinality_limit(limit).build().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::TelemetryBuilder;

    #[test]
    fn every_name_that_is_kept_apart_has_room() {
        for (asked, names, limit) in [
            (3, 3, 2_000),
            (TelemetryBuilder::DEFAULT_NAME_CAPACITY, 2_000, 20_000),
            (19_999, 19_999, 199_990),
            (20_001, 20_000, 200_000),
            (usize::MAX, 20_000, 200_000),
        ] {
            assert_eq!((names_with_room(asked), cardinality_limit(asked)), (names, limit), "{asked}");
            assert!(names_with_room(asked) * SETS_PER_NAME <= cardinality_limit(asked), "{asked}");
        }
    }
}
