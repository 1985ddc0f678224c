//! Finished spans as trees that can be compared.

use std::collections::HashMap;

use opentelemetry::{
    Value,
    trace::{SpanId, Status, TraceId, TracerProvider as _},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracer, SdkTracerProvider, SpanData};

/// Keeps a provider for the rest of the process. A provider that is dropped logs; and `tracing` may drop the last of a subscriber
/// on another test's thread, under the lock that a new callsite needs.
pub fn never_dropped<T: Clone>(provider: &T) {
    std::mem::forget(provider.clone());
}

/// A tracer whose finished spans can be read.
pub struct Spans {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

impl Spans {
    pub fn new() -> Self {
        Self::sampled_by(Sampler::AlwaysOn)
    }

    pub fn sampled_by(sampler: Sampler) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider =
            SdkTracerProvider::builder().with_sampler(sampler).with_simple_exporter(exporter.clone()).build();
        never_dropped(&provider);
        Self { provider, exporter }
    }

    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("test")
    }

    pub fn finished(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().expect("the exporter is in memory")
    }

    pub fn named(&self, name: &str) -> Vec<SpanData> {
        self.finished().into_iter().filter(|span| span.name == name).collect()
    }

    /// The one span of that name.
    pub fn one(&self, name: &str) -> SpanData {
        let mut named = self.named(name);
        assert_eq!(named.len(), 1, "spans named {name}: {named:#?}");
        named.remove(0)
    }

    /// The one run of that task.
    pub fn run_of(&self, task: &str) -> SpanData {
        let mut runs = self.runs_of(task);
        assert_eq!(runs.len(), 1, "runs of {task}: {runs:#?}");
        runs.remove(0)
    }

    pub fn runs_of(&self, task: &str) -> Vec<SpanData> {
        let runs = self.named("task.run").into_iter();
        runs.filter(|span| attribute(span, "task.name") == Some(Value::from(task.to_owned()))).collect()
    }

    /// One line per span: its path from the root of its trace, its attributes, events, links and status; sorted.
    pub fn trees(&self) -> Vec<String> {
        let spans = self.finished();
        let names: HashMap<(TraceId, SpanId), &SpanData> = spans
            .iter()
            .map(|span| ((span.span_context.trace_id(), span.span_context.span_id()), span))
            .collect();
        let path = |span: &SpanData| {
            let mut path = vec![label(span)];
            let mut parent = span.parent_span_id;
            while parent != SpanId::INVALID {
                match names.get(&(span.span_context.trace_id(), parent)) {
                    Some(held) => {
                        path.push(label(held));
                        parent = held.parent_span_id;
                    }
                    None => {
                        path.push("LOST".into());
                        break;
                    }
                }
            }
            path.reverse();
            path.join(" > ")
        };
        let mut lines: Vec<_> = spans
            .iter()
            .map(|span| {
                let mut attributes: Vec<_> =
                    span.attributes.iter().map(|held| format!("{}={}", held.key, held.value)).collect();
                attributes.sort();
                let events: Vec<_> = span.events.iter().map(|event| event.name.clone()).collect();
                let links: Vec<_> = span
                    .links
                    .iter()
                    .map(|link| {
                        let key = (link.span_context.trace_id(), link.span_context.span_id());
                        names.get(&key).map_or("LOST".into(), |held| label(held))
                    })
                    .collect();
                format!("{}: {attributes:?} events {events:?} links {links:?} {:?}", path(span), span.status)
            })
            .collect();
        lines.sort();
        lines
    }
}

fn label(span: &SpanData) -> String {
    match attribute(span, "task.name") {
        Some(name) => format!("{}({name})", span.name),
        None => span.name.to_string(),
    }
}

pub fn attribute(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|held| held.key.as_str() == key).map(|held| held.value.clone())
}

pub fn text(span: &SpanData, key: &str) -> Option<String> {
    attribute(span, key).map(|value| value.to_string())
}

pub fn is_error(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}
