//! The spans of traces that are not sampled, held until their trace is kept or over. No clock, no lock, no exporter.
//!
//! Invariants:
//! 1. After each call, no bound of [`Bounds`] is exceeded: the oldest spans go first, whatever their trace.
//! 2. A trace has an entry as long as a span of it is open in this process, and no longer.
//! 3. `order` has each held span, oldest first. Entries of spans that are gone stay until they are passed or outnumber
//!    the others.
//! 4. Spans are held in the order in which they ended, so the held spans of a trace leave from its front.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::SpanData;

use crate::otlp::weight::Weighs as _;

/// The capacity of a [`Buffer`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Spans of one trace: the last that ended before it is kept, and as many after each reason to keep it.
    pub(super) spans_of_trace: usize,
    /// Spans of all traces.
    pub(super) spans: usize,
    /// Estimated bytes of all spans.
    pub(super) bytes: usize,
    /// The largest age of a held span, from its end.
    pub(super) age: Duration,
}

/// The traces that were kept last, for spans that begin in them later.
const RECENT: usize = 1_024;

/// Held spans by trace.
#[derive(Debug)]
pub(super) struct Buffer {
    bounds: Bounds,
    traces: HashMap<TraceId, Trace, foldhash::fast::RandomState>,
    order: VecDeque<(u64, Instant, TraceId)>,
    spans: usize,
    bytes: usize,
    next: u64,
    recent: Recent,
}

/// A trace with open spans.
#[derive(Debug)]
struct Trace {
    /// The span that it began with in this process.
    first: SpanId,
    open: usize,
    is_kept: bool,
    /// The number of further spans of a kept trace that are exported as they end.
    budget: usize,
    held: VecDeque<Held>,
    /// Spans that the bounds have dropped and that are not counted as lost, since the trace is not kept.
    evicted: u64,
}

#[derive(Debug)]
struct Held {
    number: u64,
    bytes: usize,
    span: Box<SpanData>,
}

/// The fate of spans.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// True if `held` and `span` are exported, in this order. Otherwise they are to be dropped.
    pub(super) is_kept: bool,
    held: VecDeque<Held>,
    span: Option<SpanData>,
    /// Spans of kept traces that the bounds dropped.
    pub(super) lost: u64,
    /// To be dropped where no lock is held.
    evicted: Vec<Held>,
}

impl Settled {
    /// The spans that are exported.
    pub(super) fn exported(self) -> impl Iterator<Item = SpanData> {
        let Self { is_kept, held, span, .. } = self;
        let all = held.into_iter().map(|held| *held.span).chain(span);
        all.filter(move |_| is_kept)
    }
}

impl Buffer {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            traces: HashMap::default(),
            order: VecDeque::new(),
            spans: 0,
            bytes: 0,
            next: 0,
            recent: Recent::default(),
        }
    }

    /// Notes that a span begins. `continues`: it has a parent, which may be in another process.
    pub(super) fn began(&mut self, trace: TraceId, span: SpanId, continues: bool) {
        let Self { traces, recent, bounds, .. } = self;
        let trace = traces.entry(trace).or_insert_with(|| Trace {
            first: span,
            open: 0,
            is_kept: continues && recent.contains(trace),
            budget: bounds.spans_of_trace,
            held: VecDeque::new(),
            evicted: 0,
        });
        trace.open += 1;
    }

    /// Takes a span that has ended. `is_reason` returns true if its trace is kept for it; its argument is true for an outermost span.
    pub(super) fn ended(
        &mut self,
        span: SpanData,
        now: Instant,
        is_reason: impl FnOnce(bool) -> bool,
    ) -> Settled {
        let mut settled = Settled::default();
        self.expire(now, &mut settled);
        let id = span.span_context.trace_id();
        // Each span that ends has begun.
        let Some(trace) = self.traces.get_mut(&id) else { return settled };
        trace.open = trace.open.saturating_sub(1);
        let is_outermost = is_outermost(&span) || trace.first == span.span_context.span_id();
        if is_reason(is_outermost) {
            trace.keep(&self.bounds, &mut settled);
        }
        let is_over = trace.open == 0;
        if is_over || settled.is_kept {
            // Together with what is held, or after it.
            settled.is_kept = trace.is_kept;
            settled.held = std::mem::take(&mut trace.held);
            settled.span = Some(span);
        } else if trace.is_kept && (trace.budget > 0 || is_outermost) {
            trace.budget = trace.budget.saturating_sub(1);
            settled.is_kept = true;
            settled.span = Some(span);
        } else {
            self.hold(id, span, now, &mut settled);
        }
        self.release(&settled.held);
        if is_over && self.traces.remove(&id).is_some_and(|trace| trace.is_kept) {
            self.recent.insert(id);
        }
        settled
    }

    /// Keeps a trace for a span that was not held, if spans of it are.
    pub(super) fn keep(&mut self, trace: TraceId, now: Instant) -> Settled {
        let mut settled = Settled::default();
        self.expire(now, &mut settled);
        if let Some(trace) = self.traces.get_mut(&trace) {
            trace.keep(&self.bounds, &mut settled);
            settled.held = std::mem::take(&mut trace.held);
            self.release(&settled.held);
        }
        settled
    }

    fn hold(&mut self, id: TraceId, span: SpanData, now: Instant, settled: &mut Settled) {
        let Some(trace) = self.traces.get_mut(&id) else { return };
        let (number, bytes) = (self.next, span.weight());
        self.next += 1;
        trace.held.push_back(Held { number, bytes, span: Box::new(span) });
        self.spans += 1;
        self.bytes += bytes;
        self.order.push_back((number, now, id));
        if trace.held.len() > self.bounds.spans_of_trace {
            self.evict(id, settled);
        }
        while self.spans > self.bounds.spans || self.bytes > self.bounds.bytes {
            let Some((_, id)) = self.oldest() else { break };
            self.evict(id, settled);
        }
        self.forget_gone();
    }

    /// Drops the spans that have been held for too long.
    fn expire(&mut self, now: Instant, settled: &mut Settled) {
        while let Some((since, id)) = self.oldest() {
            if now.saturating_duration_since(since) <= self.bounds.age {
                break;
            }
            self.evict(id, settled);
        }
    }

    /// Since when the oldest span has been held, and its trace.
    fn oldest(&mut self) -> Option<(Instant, TraceId)> {
        while let Some((number, since, id)) = self.order.front() {
            if self.traces.get(id).is_some_and(|trace| trace.holds(*number)) {
                return Some((*since, *id));
            }
            self.order.pop_front();
        }
        None
    }

    /// Drops the oldest span of a trace.
    fn evict(&mut self, id: TraceId, settled: &mut Settled) {
        let Some(trace) = self.traces.get_mut(&id) else { return };
        let Some(held) = trace.held.pop_front() else { return };
        self.spans -= 1;
        self.bytes -= held.bytes;
        *(if trace.is_kept { &mut settled.lost } else { &mut trace.evicted }) += 1;
        settled.evicted.push(held);
    }

    /// Takes spans out of the sums.
    fn release(&mut self, held: &VecDeque<Held>) {
        self.spans -= held.len();
        self.bytes -= held.iter().map(|held| held.bytes).sum::<usize>();
        self.forget_gone();
    }

    /// Lets go of the entries of spans that are gone, once most are.
    fn forget_gone(&mut self) {
        if self.order.len() > 2 * self.spans + 1_024 {
            let traces = &self.traces;
            self.order.retain(|(number, _, id)| traces.get(id).is_some_and(|trace| trace.holds(*number)));
        }
    }
}

impl Trace {
    fn keep(&mut self, bounds: &Bounds, settled: &mut Settled) {
        settled.is_kept = true;
        settled.lost += std::mem::take(&mut self.evicted);
        self.is_kept = true;
        self.budget = bounds.spans_of_trace;
    }

    fn holds(&self, number: u64) -> bool {
        self.held.front().is_some_and(|first| first.number <= number)
    }
}

/// Returns true if a span has no parent in this process.
pub(super) fn is_outermost(span: &SpanData) -> bool {
    span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID
}

/// The last traces that were kept.
#[derive(Debug, Default)]
struct Recent {
    ids: HashSet<TraceId, foldhash::fast::RandomState>,
    order: VecDeque<TraceId>,
}

impl Recent {
    fn contains(&self, id: TraceId) -> bool {
        self.ids.contains(&id)
    }

    fn insert(&mut self, id: TraceId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > RECENT {
            self.order.pop_front().inspect(|oldest| _ = self.ids.remove(oldest));
        }
    }
}

#[cfg(test)]
mod tests;
