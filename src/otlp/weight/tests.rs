use std::time::UNIX_EPOCH;

use opentelemetry::{
    InstrumentationScope,
    logs::{LogRecord as _, Logger as _, LoggerProvider as _},
    trace::{Event, Link, SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::{
    logs::SdkLoggerProvider,
    trace::{SpanEvents, SpanLinks},
};

use super::*;

fn span() -> SpanData {
    SpanData {
        span_context: SpanContext::empty_context(),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "one".into(),
        start_time: UNIX_EPOCH,
        end_time: UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

/// A thousand bytes more, wherever they are, weigh as much, and little besides.
#[test]
fn each_text_of_a_span_counts() {
    let text = || "x".repeat(1_000);
    let pairs = || vec![KeyValue::new("key", text())];
    let strings = Value::Array(Array::String(vec![text().into()]));
    let numbers = Value::Array(Array::I64(vec![0; 125]));
    let mut heavier = vec![
        SpanData { name: text().into(), ..span() },
        SpanData { status: Status::error(text()), ..span() },
        SpanData { attributes: pairs(), ..span() },
        SpanData { attributes: vec![KeyValue::new(text(), true)], ..span() },
        SpanData { attributes: vec![KeyValue::new("key", strings)], ..span() },
        SpanData { attributes: vec![KeyValue::new("key", numbers)], ..span() },
    ];
    for event in [Event::new(text(), UNIX_EPOCH, Vec::new(), 0), Event::new("one", UNIX_EPOCH, pairs(), 0)] {
        let mut events = SpanEvents::default();
        events.events.push(event);
        heavier.push(SpanData { events, ..span() });
    }
    let mut links = SpanLinks::default();
    links.links.push(Link::new(SpanContext::empty_context(), pairs(), 0));
    heavier.push(SpanData { links, ..span() });
    // Another service's text, for each of its spans and links.
    let values = [0, 1, 2, 3].map(|n| (format!("key{n}"), "x".repeat(245)));
    let state = TraceState::from_key_value(values).expect("a state");
    let context =
        || SpanContext::new(TraceId::INVALID, SpanId::INVALID, TraceFlags::default(), true, state.clone());
    heavier.push(SpanData { span_context: context(), ..span() });
    let mut links = SpanLinks::default();
    links.links.push(Link::new(context(), Vec::new(), 0));
    heavier.push(SpanData { links, ..span() });
    let light = span().weight();
    for span in heavier {
        let more = span.weight() - light;
        assert!((990..1_300).contains(&more), "{more}: {span:?}");
    }
}

#[test]
fn each_text_of_a_record_counts() {
    let text = || "x".repeat(1_000);
    let provider = SdkLoggerProvider::builder().build();
    let logger = provider.logger("tests");
    let weigh = |fill: &dyn Fn(&mut opentelemetry_sdk::logs::SdkLogRecord)| {
        let mut record = logger.create_log_record();
        fill(&mut record);
        Box::new((record, InstrumentationScope::default())).weight()
    };
    let light = weigh(&|_| {});
    let map = || AnyValue::Map(Box::new([("key".into(), AnyValue::from(text()))].into_iter().collect()));
    let heavier = [
        weigh(&|record| record.set_body(AnyValue::from(text()))),
        weigh(&|record| record.set_body(AnyValue::Bytes(Box::new(vec![0; 1_000])))),
        weigh(&|record| record.add_attribute("key", AnyValue::from(text()))),
        weigh(&|record| {
            record.add_attribute("key", AnyValue::ListAny(Box::new(vec![AnyValue::from(text())])))
        }),
        weigh(&|record| record.add_attribute("key", map())),
    ];
    for heavy in heavier {
        assert!((990..1_200).contains(&(heavy - light)), "{}", heavy - light);
    }
}
