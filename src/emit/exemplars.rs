//! The traces of single runs, one or two for each bucket of `task.run.duration` that has any.
//!
//! They are in a name's attribute sets and not in its cell, and only after the first request for them. Two for each of 23
//! buckets would be larger than the rest of a name's data.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, SpanId, TraceId, trace::SpanRef};

use crate::{contract::DURATION_BOUNDARIES, policy::ExitKind};

/// The time that a bucket holds its slowest run. After that any other run replaces it, so that the trace still exists.
const SLOWEST_FOR: Duration = Duration::from_secs(60);

/// A run whose trace is exported, as an example for a bucket of `task.run.duration`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunExemplar {
    /// The attributes of the series that counts the run.
    pub attributes: Vec<KeyValue>,
    /// The duration of the run.
    pub duration: Duration,
    /// The time at which the run ended.
    pub ended: SystemTime,
    /// The run's trace.
    pub trace_id: TraceId,
    /// The run's span.
    pub span_id: SpanId,
}

/// The exemplars of one name.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Vec<Kept>>);

#[derive(Debug, Clone, Copy)]
struct Kept {
    bucket: u8,
    kind: ExitKind,
    error_type: Option<&'static str>,
    duration: Duration,
    ended: SystemTime,
    trace_id: TraceId,
    span_id: SpanId,
}

impl Kept {
    /// A bucket has one of the runs that failed, and one of each other result.
    fn stands_for(&self, other: &Self) -> bool {
        let same_result = match self.error_type {
            Some(_) => other.error_type.is_some(),
            None => other.error_type.is_none() && other.kind == self.kind,
        };
        self.bucket == other.bucket && same_result
    }

    /// Returns true if it replaces `held`, an example for the same bucket.
    fn replaces(&self, held: &Self) -> bool {
        self.error_type.is_some()
            || self.duration >= held.duration
            || self.ended.duration_since(held.ended).is_ok_and(|age| age > SLOWEST_FOR)
    }
}

impl Exemplars {
    /// Notes a run that has just ended.
    pub(super) fn run_ended(
        &self,
        kind: ExitKind,
        error_type: Option<&'static str>,
        duration: Duration,
        (trace_id, span_id): (TraceId, SpanId),
    ) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDARIES.partition_point(|boundary| *boundary < seconds);
        let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
        let ended = SystemTime::now();
        self.note(Kept { bucket, kind, error_type, duration, ended, trace_id, span_id });
    }

    /// All runs that are kept, each with the attributes of its result and its error type.
    pub(super) fn all(
        &self,
        attributes: impl Fn(ExitKind, Option<&'static str>) -> Vec<KeyValue>,
    ) -> Vec<RunExemplar> {
        let exemplar = |Kept { kind, error_type, duration, ended, trace_id, span_id, .. }| RunExemplar {
            attributes: attributes(kind, error_type),
            duration,
            ended,
            trace_id,
            span_id,
        };
        self.kept().into_iter().map(exemplar).collect()
    }

    fn note(&self, run: Kept) {
        // Busy with another run of the name: one of the two is enough.
        let Ok(mut held) = self.0.try_lock() else { return };
        match held.iter_mut().find(|held| run.stands_for(held)) {
            Some(held) if run.replaces(held) => *held = run,
            Some(_) => {}
            None => held.push(run),
        }
    }

    fn kept(&self) -> Vec<Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// True if the process's telemetry exports spans of failed runs that are not sampled. The next is the duration in nanoseconds from
/// which it exports spans of slow runs. Relaxed: pairs with nothing.
static FAILED_KEPT: AtomicBool = AtomicBool::new(false);
static SLOW_KEPT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Notes that telemetry of this process keeps the traces of such runs.
#[cfg(feature = "otlp-http")]
pub(crate) fn keeps_traces(failed: bool, slow: Option<Duration>) {
    FAILED_KEPT.fetch_or(failed, Relaxed);
    if let Some(nanos) = slow.and_then(|slow| u64::try_from(slow.as_nanos()).ok()) {
        SLOW_KEPT.fetch_min(nanos, Relaxed);
    }
}

/// The identity of a run's span, if it is exported: sampled, or recorded and kept for how the run ended.
pub(super) fn identity_if_exported(
    span: &SpanRef<'_>,
    failed: bool,
    took: Option<Duration>,
) -> Option<(TraceId, SpanId)> {
    let context = span.span_context();
    let is_slow = || took.is_some_and(|took| took.as_nanos() >= u128::from(SLOW_KEPT.load(Relaxed)));
    let is_kept = || failed && FAILED_KEPT.load(Relaxed) || is_slow();
    let is_exported = context.is_sampled() || span.is_recording() && is_kept();
    (is_exported && context.is_valid()).then(|| (context.trace_id(), context.span_id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SystemTime = SystemTime::UNIX_EPOCH;

    fn run(bucket: u8, kind: ExitKind, millis: u64, seconds: u64) -> Kept {
        Kept {
            bucket,
            kind,
            error_type: (kind == ExitKind::Failure).then_some("io"),
            duration: Duration::from_millis(millis),
            ended: AT + Duration::from_secs(seconds),
            trace_id: TraceId::from(1),
            span_id: SpanId::from(1),
        }
    }

    #[test]
    fn a_bucket_has_the_last_failed_run_and_the_slowest_of_a_minute() {
        let held = Exemplars::default();
        let (success, failure) = (ExitKind::Success, ExitKind::Failure);
        let note = |run: Kept| {
            held.note(run);
            let millis = |held: &Kept| (held.bucket, held.kind, held.duration.as_millis());
            held.kept().iter().map(millis).collect::<Vec<_>>()
        };
        assert_eq!(note(run(3, success, 20, 0)), [(3, success, 20)]);
        assert_eq!(note(run(3, success, 19, 60)), [(3, success, 20)]);
        assert_eq!(note(run(3, success, 21, 61)), [(3, success, 21)]);
        assert_eq!(note(run(3, success, 10, 122)), [(3, success, 10)], "the other is too old");
        let both = [(3, success, 10), (3, failure, 30)];
        assert_eq!(note(run(3, failure, 30, 122)), both);
        let other = Kept { error_type: Some("dns"), ..run(3, failure, 5, 123) };
        assert_eq!(note(other), [(3, success, 10), (3, failure, 5)], "the last, however it failed");
        let elsewhere = [(3, success, 10), (3, failure, 5), (4, success, 40)];
        assert_eq!(note(run(4, success, 40, 123)), elsewhere);
    }
}
