use std::time::UNIX_EPOCH;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceState, Tracer, TracerProvider,
};
use opentelemetry_sdk::trace::{
    SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};
use serde_json::json;

use super::*;

fn provider(ring: &Arc<SpanRing>) -> SdkTracerProvider {
    SdkTracerProvider::builder().with_span_processor(RingProcessor(ring.clone())).build()
}

fn run(tracer: &SdkTracer, name: &str, note: &str) -> Context {
    let attributes = [KeyValue::new(key::NAME, name.to_owned()), KeyValue::new("note", note.to_owned())];
    let builder = tracer.span_builder(SPAN_RUN).with_attributes(attributes);
    Context::new().with_span(tracer.build_with_context(builder, &Context::new()))
}

#[test]
fn a_trace_has_its_children_and_is_shown_while_it_runs() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    let outer = run(&tracer, "gateway", "");
    let mut child = tracer.build_with_context(tracer.span_builder("connect"), &outer);
    child.end();
    run(&tracer, "other", "").span().end();

    let traces = ring.traces_of("gateway");
    assert_eq!(traces.len(), 1);
    assert_eq!(traces[0].seconds, None, "it runs");
    let names: Vec<_> = traces[0].spans.iter().map(|span| (&*span.name, span.seconds.is_some())).collect();
    assert_eq!(names, [(SPAN_RUN, false), ("connect", true)]);

    outer.span().set_status(Status::error("lost"));
    outer.span().end();
    let traces = ring.traces_of("gateway");
    assert!(traces[0].is_error && traces[0].seconds.is_some());
    assert_eq!(traces[0].spans[0].status, "lost");
    assert!(ring.spans().running.is_empty());
}

fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds)
}

/// A span that begins this number of milliseconds after the epoch, in the trace of `parent`.
fn begin(tracer: &SdkTracer, name: &'static str, parent: &Context, milliseconds: u64) -> Context {
    let attributes = [KeyValue::new(key::NAME, "gateway"), KeyValue::new("attempt", 2)];
    let builder = tracer.span_builder(name).with_start_time(at(milliseconds)).with_attributes(attributes);
    parent.with_span(tracer.build_with_context(builder, parent))
}

#[test]
fn trace_is_shown_as_recorded() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    let request = begin(&tracer, "request", &Context::new(), 1_000);
    let outer = begin(&tracer, SPAN_RUN, &request, 1_250);
    let nested = begin(&tracer, SPAN_RUN, &outer, 1_500);
    nested.span().set_status(Status::Ok);
    nested.span().end_with_timestamp(at(2_000));
    assert_eq!(ring.traces_of("gateway")[0].seconds, None, "the outer run continues");
    outer.span().add_event_with_timestamp("resumed", at(2_500), Vec::new());
    outer.span().set_status(Status::error("lost"));
    outer.span().end_with_timestamp(at(4_250));

    let id = |context: &Context| context.span().span_context().span_id().to_string();
    let attributes = json!([[key::NAME, "gateway"], ["attempt", "2"]]);
    let expected = json!([{
        "trace_id": request.span().span_context().trace_id().to_string(),
        "at": 1.0, "seconds": 3.0, "is_error": true, "more": 0,
        "spans": [
            {
                "span_id": id(&request), "parent_id": null, "name": "request",
                "offset_seconds": 0.0, "seconds": null, "is_error": false, "status": "",
                "attributes": attributes, "events": [],
            },
            {
                "span_id": id(&outer), "parent_id": id(&request), "name": "task.run",
                "offset_seconds": 0.25, "seconds": 3.0, "is_error": true, "status": "lost",
                "attributes": attributes, "events": [{ "offset_seconds": 1.5, "name": "resumed" }],
            },
            {
                "span_id": id(&nested), "parent_id": id(&outer), "name": "task.run",
                "offset_seconds": 0.5, "seconds": 0.5, "is_error": false, "status": "",
                "attributes": attributes, "events": [],
            },
        ],
    }]);
    assert_eq!(json!(ring.traces_of("gateway")), expected);
}

#[test]
fn the_newest_trace_comes_first_and_each_run_of_it_may_have_failed() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    let old = begin(&tracer, "request", &Context::new(), 1_000);
    let new = begin(&tracer, "request", &Context::new(), 2_000);
    for (parent, began, status) in
        [(&old, 1_000, Status::Ok), (&new, 2_000, Status::Unset), (&old, 3_000, Status::error(""))]
    {
        let run = begin(&tracer, SPAN_RUN, parent, began);
        run.span().set_status(status);
        run.span().end_with_timestamp(at(began + began / 2));
    }
    let traces = ring.traces_of("gateway");
    let traces: Vec<_> =
        traces.iter().map(|trace| (trace.at, trace.seconds, trace.is_error, trace.spans.len())).collect();
    assert_eq!(traces, [(2.0, Some(1.0), false, 2), (1.0, Some(0.5), true, 3)]);
}

#[test]
fn number_and_size_are_bounded() {
    let ring = Arc::new(SpanRing::new(3, 100_000));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    for _ in 0..10 {
        run(&tracer, "gateway", "").span().end();
    }
    assert_eq!(ring.traces_of("gateway").len(), 3);
    run(&tracer, "gateway", &"x".repeat(90_000)).span().end();
    assert!(ring.traces_of("gateway").len() > 1);
    run(&tracer, "gateway", &"x".repeat(200_000)).span().end();
    let spans = ring.spans();
    assert_eq!((spans.ended.len(), spans.bytes), (0, 0), "it alone is too much");
}

#[test]
fn a_spans_size_is_its_own_and_that_of_all_it_holds() {
    let ids = (TraceId::from_bytes([1; 16]), SpanId::from_bytes([1; 8]));
    let linked = SpanContext::new(ids.0, ids.1, TraceFlags::SAMPLED, false, TraceState::NONE);
    let ends = |ring: &Arc<SpanRing>| {
        let provider = provider(ring);
        let tracer = provider.tracer("test");
        let link = Link::new(linked.clone(), vec![KeyValue::new("a", "12")], 0);
        let builder = tracer.span_builder("name").with_links(vec![link.clone(), link]);
        let mut span = builder.with_attributes([KeyValue::new("long", "12345678")]).start(&tracer);
        (0..3).for_each(|_| span.add_event("an event", vec![KeyValue::new("b", true)]));
        span.set_status(Status::error("lost"));
        span.end();
    };
    let size =
        size_of::<SpanData>() + 6 * size_of::<KeyValue>() + 3 * size_of::<Event>() + 2 * size_of::<Link>();
    let texts =
        "name".len() + "long12345678".len() + 3 * "an eventbtrue".len() + 2 * "a12".len() + "lost".len();
    for (most_bytes, kept) in [(2 * (size + texts), 2), (2 * (size + texts) - 1, 1)] {
        let ring = Arc::new(SpanRing::new(10, most_bytes));
        (0..3).for_each(|_| ends(&ring));
        let spans = ring.spans();
        assert_eq!((spans.ended.len(), spans.bytes), (kept, kept * (size + texts)));
    }
}

#[test]
fn spans_under_way_are_bounded() {
    let ring = Arc::new(SpanRing::new(3, 100_000));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    let under_way: Vec<_> = (0..RUNNING + 10).map(|_| run(&tracer, "gateway", "")).collect();
    assert_eq!(ring.spans().running.len(), RUNNING);
    drop(under_way);
    assert!(ring.spans().running.is_empty());
}

#[test]
fn record_only_spans_are_not_kept() {
    #[derive(Debug, Clone)]
    struct RecordOnly;
    impl ShouldSample for RecordOnly {
        fn should_sample(
            &self,
            _: Option<&Context>,
            _: TraceId,
            _: &str,
            _: &SpanKind,
            _: &[KeyValue],
            _: &[Link],
        ) -> SamplingResult {
            SamplingResult {
                decision: SamplingDecision::RecordOnly,
                attributes: Vec::new(),
                trace_state: TraceState::NONE,
            }
        }
    }
    let ring = Arc::new(SpanRing::new(3, 100_000));
    let processor = RingProcessor(ring.clone());
    let provider =
        SdkTracerProvider::builder().with_sampler(RecordOnly).with_span_processor(processor).build();
    let under_way = run(&provider.tracer("test"), "gateway", "");
    assert!(under_way.span().is_recording() && ring.traces_of("gateway").is_empty());
    drop(under_way);
    assert!(ring.traces_of("gateway").is_empty(), "nor does it appear to continue");
}

#[test]
fn a_member_has_its_own_traces_and_its_family_all() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    for member in ["guild:1", "guild:2", "guild:1"] {
        let attributes = [KeyValue::new(key::NAME, "guild"), KeyValue::new(key::GIVEN_NAME, member)];
        let builder = tracer.span_builder(SPAN_RUN).with_attributes(attributes);
        tracer.build_with_context(builder, &Context::new()).end();
    }
    let traces = |task| ring.traces_of(task).len();
    assert_eq!((traces("guild:1"), traces("guild:2"), traces("guild"), traces("guild:3")), (2, 1, 3, 0));
}

#[test]
fn the_trace_of_the_last_error_of_a_task_outlives_the_ring() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    let fail = |note: &str| {
        let run = run(&tracer, "gateway", note);
        tracer.build_with_context(tracer.span_builder("connect"), &run).end();
        run.span().set_status(Status::error("lost"));
        run.span().end();
        run.span().span_context().trace_id()
    };
    let first = fail("first");
    let pass = || (0..20).for_each(|_| run(&tracer, "other", "").span().end());
    pass();
    assert!(ring.traces_of("gateway").is_empty(), "pushed out");
    let kept = ring.trace_of("gateway", first).expect("pinned");
    assert_eq!((kept.is_error, kept.spans.len()), (true, 2));
    let second = fail("second");
    assert!(ring.trace_of("gateway", first).is_none(), "another error took its place");
    pass();
    assert!(ring.trace_of("gateway", second).is_some());
    assert_eq!(ring.spans().pinned.len(), 1);
}

#[test]
fn pinned_traces_take_a_bounded_number_and_a_part_of_the_bytes() {
    let ring = Arc::new(SpanRing::new(10, 64 << 10));
    let provider = provider(&ring);
    let tracer = provider.tracer("test");
    for number in 0..2 * PINNED {
        let run = run(&tracer, &format!("task{number}"), &"x".repeat(1_000));
        run.span().set_status(Status::error("lost"));
        run.span().end();
    }
    let spans = ring.spans();
    assert_eq!(spans.failed.len(), PINNED);
    assert!(
        spans.pinned_bytes > 0 && spans.pinned_bytes <= (64 << 10) / PINNED_PART,
        "{}",
        spans.pinned_bytes
    );
}

#[test]
fn ring_reads_the_service_identity_from_the_resource() {
    let ring = Arc::new(SpanRing::new(10, 1 << 20));
    let resource = Resource::builder_empty()
        .with_attributes([KeyValue::new("service.name", "bot"), KeyValue::new("service.version", "1.8.2")])
        .build();
    let processor = RingProcessor(ring.clone());
    let provider =
        SdkTracerProvider::builder().with_resource(resource).with_span_processor(processor).build();
    let identity = ring.identity();
    assert_eq!((identity.service.as_deref(), identity.version.as_deref()), (Some("bot"), Some("1.8.2")));
    assert_eq!(identity.instance, None);
    drop(provider);
}
