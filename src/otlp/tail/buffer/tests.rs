use std::borrow::Cow;

use opentelemetry::{
    InstrumentationScope, KeyValue, TraceFlags,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use proptest::prelude::*;

use super::*;

const WIDE: Bounds =
    Bounds { spans_of_trace: 100, spans: 1_000, bytes: 1 << 30, age: Duration::from_secs(60) };

/// A buffer with a clock of its own, and what left it.
struct World {
    buffer: Buffer,
    now: Instant,
    exported: Vec<(u128, u64)>,
    lost: u64,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        Self { buffer: Buffer::new(bounds), now: Instant::now(), exported: Vec::new(), lost: 0 }
    }

    fn begin(&mut self, trace: u128, span: u64, continues: bool) {
        self.buffer.began(TraceId::from(trace), SpanId::from(span), continues);
    }

    fn end(&mut self, trace: u128, span: u64, parent: u64, is_reason: bool) {
        let settled = self.buffer.ended(span_data(trace, span, parent, 0), self.now, |_| is_reason);
        self.take(settled);
    }

    fn take(&mut self, settled: Settled) {
        self.lost += settled.lost;
        let ids = |span: SpanData| {
            let id = |bytes: [u8; 8]| u64::from_be_bytes(bytes);
            let trace = u128::from_be_bytes(span.span_context.trace_id().to_bytes());
            (trace, id(span.span_context.span_id().to_bytes()))
        };
        self.exported.extend(settled.exported().map(ids));
        self.assert_bounded();
    }

    fn assert_bounded(&self) {
        let Buffer { bounds, traces, order, spans, bytes, .. } = &self.buffer;
        let held = || traces.values().flat_map(|trace| &trace.held);
        assert_eq!((held().count(), held().map(|held| held.bytes).sum::<usize>()), (*spans, *bytes));
        assert!(*spans <= bounds.spans && *bytes <= bounds.bytes, "{spans} spans, {bytes} bytes");
        assert!(traces.values().all(|trace| trace.held.len() <= bounds.spans_of_trace && trace.open > 0));
        assert!(order.len() <= 2 * spans + 1_024, "{} entries for {spans} spans", order.len());
    }

    /// The spans of a trace that were exported, in their order.
    fn exported_of(&self, trace: u128) -> Vec<u64> {
        self.exported.iter().filter(|(of, _)| *of == trace).map(|(_, span)| *span).collect()
    }
}

/// A span; without a parent if that is 0.
fn span_data(trace: u128, span: u64, parent: u64, text: usize) -> SpanData {
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace),
            SpanId::from(span),
            TraceFlags::NOT_SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: Cow::Borrowed("span"),
        start_time: std::time::SystemTime::UNIX_EPOCH,
        end_time: std::time::SystemTime::UNIX_EPOCH,
        attributes: vec![KeyValue::new("text", "x".repeat(text))],
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

#[test]
fn a_trace_without_a_reason_is_dropped_when_its_last_span_ends() {
    let mut world = World::new(WIDE);
    world.begin(1, 1, false);
    world.begin(1, 2, true);
    world.end(1, 1, 0, false);
    assert_eq!(world.buffer.spans, 1, "a span of it is open");
    world.end(1, 2, 1, false);
    assert_eq!((world.buffer.spans, world.buffer.traces.len(), world.exported.len()), (0, 0, 0));
}

#[test]
fn trace_with_a_reason_exports_earlier_and_later_spans() {
    let mut world = World::new(WIDE);
    for span in 1..=4 {
        world.begin(1, span, span > 1);
    }
    world.end(1, 4, 1, false);
    world.end(1, 3, 1, true);
    assert_eq!(world.exported_of(1), [4, 3], "at once");
    world.end(1, 1, 0, false);
    // It outlives the outermost one.
    world.end(1, 2, 1, false);
    assert_eq!(world.exported_of(1), [4, 3, 1, 2]);
    // This one begins after all others have ended, and another trace in between.
    world.begin(2, 1, false);
    world.end(2, 1, 0, false);
    world.begin(1, 5, true);
    world.end(1, 5, 1, false);
    assert_eq!(world.exported_of(1), [4, 3, 1, 2, 5]);
    assert_eq!((world.exported_of(2).len(), world.lost), (0, 0));
}

#[test]
fn only_the_span_that_a_trace_begins_with_is_outermost() {
    let mut world = World::new(WIDE);
    let outermost = |world: &mut World, span, parent| {
        let mut told = None;
        let settled = world.buffer.ended(span_data(1, span, parent, 0), world.now, |is_outermost| {
            told = Some(is_outermost);
            false
        });
        world.take(settled);
        told
    };
    // Its parent, 9, is sampled or has ended: it is not held.
    world.begin(1, 1, true);
    world.begin(1, 2, true);
    world.begin(1, 3, false);
    assert_eq!(outermost(&mut world, 2, 1), Some(false));
    assert_eq!(outermost(&mut world, 3, 0), Some(true));
    assert_eq!(outermost(&mut world, 1, 9), Some(true));
}

#[test]
fn full_trace_holds_the_latest_spans_and_counts_losses() {
    let mut world = World::new(Bounds { spans_of_trace: 3, ..WIDE });
    for trace in [1, 2] {
        for span in 1..=7 {
            world.begin(trace, span, span > 1);
        }
        for span in 2..=6 {
            world.end(trace, span, 1, false);
        }
        world.end(trace, 7, 1, trace == 1);
        world.end(trace, 1, 0, false);
    }
    assert_eq!(world.exported_of(1), [4, 5, 6, 7, 1]);
    assert!(world.exported_of(2).is_empty());
    assert_eq!(world.lost, 2, "of the trace that is kept");
}

#[test]
fn long_trace_is_exported_around_each_reason() {
    let mut world = World::new(Bounds { spans_of_trace: 3, ..WIDE });
    world.begin(1, 1, false);
    for span in 2..=21 {
        world.begin(1, span, true);
        world.end(1, span, 1, [2, 12].contains(&span));
    }
    // Three after the first reason, three before the second, three after it.
    assert_eq!(world.exported_of(1), [2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(world.lost, 3 + 3, "6 to 8, and 16 to 18");
    world.end(1, 1, 0, false);
    assert_eq!(world.exported_of(1).split_off(11), [19, 20, 21, 1], "the end is exported");
}

#[test]
fn held_spans_expire_and_sampled_span_exports_the_rest() {
    let mut world = World::new(WIDE);
    world.begin(1, 1, false);
    for span in [2, 3] {
        world.begin(1, span, true);
        world.end(1, span, 1, false);
        world.now += Duration::from_secs(40);
    }
    let settled = world.buffer.keep(TraceId::from(1), world.now);
    world.take(settled);
    assert_eq!((world.exported_of(1), world.lost), (vec![3], 1));
    let settled = world.buffer.keep(TraceId::from(7), world.now);
    assert_eq!(settled.exported().count(), 0, "nothing is held of it");
}

#[test]
fn held_bytes_are_bounded() {
    let mut world = World::new(Bounds { bytes: 100_000, ..WIDE });
    for (trace, text) in (1..).zip([10, 40_000, 90_000, 200_000, 10, 50_000]) {
        world.begin(trace, 1, false);
        world.begin(trace, 2, true);
        let settled = world.buffer.ended(span_data(trace, 2, 1, text), world.now, |_| false);
        world.take(settled);
    }
    // The span that is larger than the limit has driven out the others, and is not held either.
    let held: Vec<u128> =
        (1..=6).filter(|trace| !world.buffer.traces[&TraceId::from(*trace)].held.is_empty()).collect();
    assert_eq!(held, [5, 6]);
}

#[test]
fn bookkeeping_does_not_grow_behind_an_old_held_span() {
    let mut world = World::new(WIDE);
    world.begin(1, 1, false);
    world.begin(1, 2, true);
    world.end(1, 2, 1, false);
    for trace in 2..10_000 {
        world.begin(trace, 1, false);
        world.begin(trace, 2, true);
        world.end(trace, 2, 1, false);
        world.end(trace, 1, 0, false);
    }
    world.end(1, 1, 0, true);
    assert_eq!(world.exported_of(1), [2, 1]);
}

proptest! {
    /// Within the bounds each trace is exported as a whole or not at all; past them nothing is lost uncounted.
    #[test]
    fn a_kept_trace_is_exported_or_counted(
        tight in any::<bool>(),
        steps in prop::collection::vec((0_u128..6, any::<bool>(), 0_u8..12), 1..400),
    ) {
        let bounds = if tight { Bounds { spans_of_trace: 5, spans: 12, ..WIDE } } else { WIDE };
        let mut world = World::new(bounds);
        // Per trace: its open spans, the number that ended since it opened, and true if it is kept.
        let mut open: HashMap<u128, (Vec<u64>, u64, bool)> = HashMap::new();
        let (mut span, mut kept_ended) = (0, 0);
        for (slot, begins, kind) in steps.into_iter().chain((0..400).map(|step| (step % 6, false, 9))) {
            // A trace that is over is never the same again.
            let (all, ended, is_kept) = open.entry(slot).or_default();
            let trace = slot + 1;
            if begins {
                span += 1;
                world.begin(trace, span, false);
                all.push(span);
            } else if !all.is_empty() {
                let ending = all.remove(usize::from(kind) % all.len());
                *ended += 1;
                *is_kept |= kind == 0;
                world.end(trace, ending, 99, kind == 0);
                if all.is_empty() {
                    kept_ended += if *is_kept { *ended } else { 0 };
                    open.remove(&slot);
                }
            }
        }
        prop_assert!(open.is_empty() || open.values().all(|(all, ..)| all.is_empty()));
        prop_assert_eq!(world.exported.len() as u64 + world.lost, kept_ended);
        prop_assert!(tight || world.lost == 0);
        prop_assert_eq!((world.buffer.spans, world.buffer.bytes, world.buffer.traces.len()), (0, 0, 0));
    }
}
