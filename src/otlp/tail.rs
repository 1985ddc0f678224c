//! Keeps whole traces of what a sampler left out, for a reason that shows at the end: a run failed, or was slow.
//!
//! ```text
//! sampler says drop ── RecordOnly ── on_start: the trace is open ── on_end: held by trace ─┬─ a reason ─► queue
//! sampler says keep ────────────────────────────────────────────── on_end ─► queue         └─ over ─► dropped
//! ```
//!
//! The decision is this process's alone. It comes with the reason and not at the end of the trace. The outermost span of a
//! gateway lasts for days, and a trace that waited for it would have lost the spans of the failure.

mod buffer;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue, TraceId,
    trace::{Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanProcessor},
};

use self::buffer::{Bounds, Buffer, Settled, is_outermost};
use super::ledger::{Ledger, SignalBalance};
use crate::contract::{SPAN_RUN, key};

/// The reason why a trace is kept that is not sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) failed: bool,
    pub(super) slow: Option<Duration>,
}

pub(super) const HELD_SPANS_OF_TRACE: usize = 1_000;
pub(super) const HELD_SPANS: usize = 32_768;
pub(super) const HELD_BYTES: usize = 32 << 20;
pub(super) const HELD_AGE: Duration = Duration::from_secs(300);

const BOUNDS: Bounds =
    Bounds { spans_of_trace: HELD_SPANS_OF_TRACE, spans: HELD_SPANS, bytes: HELD_BYTES, age: HELD_AGE };

impl Keep {
    /// The sampler that also records what `sampler` drops.
    pub(super) fn sampler(sampler: impl Into<Box<dyn ShouldSample>>) -> Box<dyn ShouldSample> {
        Box::new(Recording(sampler.into()))
    }

    /// Puts a processor that holds what is not sampled before `queue`, and its losses into the queue's balance.
    pub(super) fn before<P: SpanProcessor>(
        self,
        queue: P,
        balance: Arc<dyn Ledger>,
    ) -> (KeepingSpanProcessor<P>, Arc<dyn Ledger>) {
        let lost = Arc::new(AtomicU64::new(0));
        let buffer = Mutex::new(Buffer::new(BOUNDS));
        let ledger = KeepingLedger { queue: balance, lost: Arc::clone(&lost) };
        (KeepingSpanProcessor { queue, keep: self, buffer, lost }, Arc::new(ledger))
    }

    /// Returns true if a trace is kept for a span that has ended in it.
    fn is_reason(self, span: &SpanData, is_outermost: bool) -> bool {
        let is_run = span.name == SPAN_RUN;
        if !is_run && !is_outermost {
            return false;
        }
        let has = |key: &str| span.attributes.iter().any(|attribute| attribute.key.as_str() == key);
        let has_failed = || match is_run {
            // A cancelled run has the status `Error` too.
            true => has(key::ERROR_TYPE),
            false => matches!(span.status, Status::Error { .. }),
        };
        let is_slow = |threshold| {
            let took = span.end_time.duration_since(span.start_time).unwrap_or_default();
            took >= threshold && !(is_run && has(key::GENERATION) && !has(key::ITERATION))
        };
        self.failed && has_failed() || self.slow.is_some_and(is_slow)
    }
}

/// Records what the user's sampler drops.
#[derive(Debug, Clone)]
struct Recording(Box<dyn ShouldSample>);

impl ShouldSample for Recording {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

/// Passes sampled spans on, and the others if their trace is kept.
#[derive(Debug)]
pub(super) struct KeepingSpanProcessor<P> {
    queue: P,
    keep: Keep,
    /// Held for a search and a push: spans are exported and dropped outside.
    buffer: Mutex<Buffer>,
    /// Statistics only, pairs with nothing.
    lost: Arc<AtomicU64>,
}

impl<P: SpanProcessor> KeepingSpanProcessor<P> {
    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn export(&self, settled: Settled) {
        if settled.lost > 0 {
            self.lost.fetch_add(settled.lost, Relaxed);
        }
        settled.exported().for_each(|span| self.queue.on_end(sampled(span)));
    }
}

impl<P: SpanProcessor> SpanProcessor for KeepingSpanProcessor<P> {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        let context = span.span_context();
        if context.is_sampled() {
            return self.queue.on_start(span, parent);
        }
        let continues = parent.span().span_context().is_valid();
        self.buffer().began(context.trace_id(), context.span_id(), continues);
    }

    fn on_end(&self, span: SpanData) {
        let keep = self.keep;
        if !span.span_context.is_sampled() {
            let now = Instant::now();
            // Judged before the lock, both ways: only the buffer knows whether the span is outermost.
            let (inner, outermost) = (keep.is_reason(&span, false), keep.is_reason(&span, true));
            let settled =
                self.buffer().ended(span, now, |is_outermost| if is_outermost { outermost } else { inner });
            return self.export(settled);
        }
        // A sampler may take single spans of a trace that it leaves out.
        if keep.is_reason(&span, is_outermost(&span)) {
            let settled = self.buffer().keep(span.span_context.trace_id(), Instant::now());
            self.export(settled);
        }
        self.queue.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }
}

/// Sets the flag of sampled spans: the queue's export, and receivers, may leave out a span without it.
fn sampled(mut span: SpanData) -> SpanData {
    let context = &span.span_context;
    span.span_context = SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags().with_sampled(true),
        context.is_remote(),
        context.trace_state().clone(),
    );
    span
}

/// The balance of the queue, with the spans that were lost before it.
struct KeepingLedger {
    queue: Arc<dyn Ledger>,
    lost: Arc<AtomicU64>,
}

impl Ledger for KeepingLedger {
    fn read(&self) -> SignalBalance {
        let lost = self.lost.load(Relaxed);
        let mut counts = self.queue.read();
        counts.ended += lost;
        counts.buffer_full += lost;
        counts
    }

    fn failure(&self) -> Option<String> {
        self.queue.failure()
    }

    fn loss(&self) -> Option<String> {
        self.queue.loss()
    }
}
