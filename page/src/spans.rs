//! The spans that were seen last, within a bound of their number and their size; and those under way.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, Key, KeyValue, Value,
    trace::{Event, Link, Span as _, SpanId, Status, TraceId},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use otel_tasks::telemetry::contract::{SPAN_RUN, key};
use serde::Serialize;
use utoipa::ToSchema;

use crate::format::{abridged, shortened, unix};

/// The maximum of open spans that are kept. Further ones appear when they end.
const RUNNING: usize = 1_024;
/// The number of tasks whose last failed traces are kept beside the ring.
const PINNED: usize = 256;
/// They take at most this part of the ring's bytes in addition.
const PINNED_PART: usize = 4;
/// The bytes of a text in a trace.
const TEXT: usize = 400;
/// The number of traces of a task that are shown.
const TRACES: usize = 12;
/// The number of spans of a trace that are shown.
const SPANS_OF_TRACE: usize = 200;

/// The names of a service, from the resource of its telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) service: Option<Arc<str>>,
    pub(crate) version: Option<Arc<str>>,
    pub(crate) instance: Option<Arc<str>>,
}

/// The last spans, and those under way.
#[derive(Debug)]
pub(crate) struct SpanRing {
    most_spans: usize,
    most_bytes: usize,
    spans: Mutex<Spans>,
    identity: Mutex<Identity>,
}

#[derive(Debug, Default)]
struct Spans {
    ended: VecDeque<(usize, SpanData)>,
    bytes: usize,
    running: HashMap<(TraceId, SpanId), SpanData>,
    /// The trace of the last failed run of each task.
    failed: HashMap<String, TraceId>,
    /// Spans of those traces that the ring has let go, with their sizes.
    pinned: HashMap<TraceId, Vec<(usize, SpanData)>>,
    pinned_bytes: usize,
}

/// One trace of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TraceView {
    trace_id: String,
    /// The start of its first span, unix time in seconds.
    at: f64,
    /// The duration of its first run of the task, in seconds; `null` while it runs.
    seconds: Option<f64>,
    /// True if a run of the task failed in it.
    is_error: bool,
    /// In the order of their beginning.
    spans: Vec<SpanView>,
    /// Spans that are not shown.
    more: usize,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpanView {
    span_id: String,
    parent_id: Option<String>,
    name: String,
    /// After the beginning of the trace.
    offset_seconds: f64,
    /// `null` while it runs.
    seconds: Option<f64>,
    is_error: bool,
    status: String,
    attributes: Vec<(String, String)>,
    events: Vec<SpanEventView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SpanEventView {
    offset_seconds: f64,
    name: String,
}

impl SpanRing {
    pub(crate) fn new(most_spans: usize, most_bytes: usize) -> Self {
        Self { most_spans, most_bytes, spans: Mutex::default(), identity: Mutex::default() }
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the service.
    pub(crate) fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn began(&self, span: SpanData) {
        let key = key_of(&span);
        let mut spans = self.spans();
        if spans.running.len() < RUNNING {
            spans.running.insert(key, span);
        }
    }

    fn ended(&self, span: SpanData) {
        let bytes = size_of_span(&span);
        let mut gone = Vec::new();
        let mut spans = self.spans();
        gone.extend(spans.running.remove(&key_of(&span)));
        if let Some(task) = failed_run(&span) {
            gone.extend(spans.pin(task, span.span_context.trace_id()));
        }
        spans.bytes += bytes;
        spans.ended.push_back((bytes, span));
        while spans.ended.len() > self.most_spans || spans.bytes > self.most_bytes {
            let Some((bytes, span)) = spans.ended.pop_front() else { break };
            spans.bytes -= bytes;
            gone.extend(spans.keep(bytes, span, self.most_bytes / PINNED_PART));
        }
        // What is let go is given back when nothing is locked.
        drop(spans);
    }

    /// One trace of a task; `None` if its run is not there any more.
    pub(crate) fn trace_of(&self, task: &str, id: TraceId) -> Option<TraceView> {
        let spans = self.spans();
        let ended = spans.ended.iter().map(|(_, span)| (span, true));
        let pinned = spans.pinned.get(&id).into_iter().flatten().map(|(_, span)| (span, true));
        let running = spans.running.values().map(|span| (span, false));
        let all = pinned.chain(ended).chain(running);
        let of_trace: Vec<_> = all.filter(|(span, _)| span.span_context.trace_id() == id).collect();
        let (run, is_over) = *of_trace.iter().find(|(span, _)| is_run_of(span, task))?;
        Some(trace(task, run, is_over, of_trace))
    }

    /// The last traces of a task, the newest first.
    pub(crate) fn traces_of(&self, task: &str) -> Vec<TraceView> {
        let spans = self.spans();
        let ended = spans.ended.iter().map(|(_, span)| (span, true));
        let running = spans.running.values().map(|span| (span, false));
        let mut runs: Vec<_> =
            ended.clone().chain(running.clone()).filter(|(span, _)| is_run_of(span, task)).collect();
        runs.sort_by_key(|(span, _)| span.start_time);
        // A nested run of the same name, or a later one, is part of the first one's trace.
        let mut seen = std::collections::HashSet::new();
        runs.retain(|(span, _)| seen.insert(span.span_context.trace_id()));
        runs.reverse();
        runs.truncate(TRACES);
        let mut of_trace: HashMap<TraceId, Vec<(&SpanData, bool)>> = HashMap::new();
        for (span, is_over) in ended.chain(running) {
            let id = span.span_context.trace_id();
            if runs.iter().any(|(run, _)| run.span_context.trace_id() == id) {
                of_trace.entry(id).or_default().push((span, is_over));
            }
        }
        runs.iter()
            .map(|(run, is_over)| {
                let spans = of_trace.remove(&run.span_context.trace_id()).unwrap_or_default();
                trace(task, run, *is_over, spans)
            })
            .collect()
    }
}

impl Spans {
    /// Pins the trace of a failed run in place of the task's earlier one. Returns what is let go.
    fn pin(&mut self, task: &str, id: TraceId) -> Vec<SpanData> {
        let before = match self.failed.get_mut(task) {
            Some(before) => Some(std::mem::replace(before, id)),
            None => None,
        };
        if before.is_none() && self.failed.len() < PINNED {
            self.failed.insert(task.to_owned(), id);
        }
        let Some(before) = before.filter(|before| !self.is_pinned(*before)) else { return Vec::new() };
        let gone = self.pinned.remove(&before).unwrap_or_default();
        self.pinned_bytes -= gone.iter().map(|(bytes, _)| bytes).sum::<usize>();
        gone.into_iter().map(|(_, span)| span).collect()
    }

    fn is_pinned(&self, id: TraceId) -> bool {
        self.failed.values().any(|pinned| *pinned == id)
    }

    /// Keeps a span that leaves the ring if its trace is pinned and there is room. Returns the span if not.
    fn keep(&mut self, bytes: usize, span: SpanData, most_bytes: usize) -> Option<SpanData> {
        let id = span.span_context.trace_id();
        let is_full = self.pinned_bytes + bytes > most_bytes;
        if is_full || !self.is_pinned(id) {
            return Some(span);
        }
        self.pinned_bytes += bytes;
        self.pinned.entry(id).or_default().push((bytes, span));
        None
    }
}

/// The name of the task, of a run that failed.
fn failed_run(span: &SpanData) -> Option<&str> {
    if span.name != SPAN_RUN || !has_failed(span) {
        return None;
    }
    // Not the given name of a spawned task: there may be very many.
    match &span.attributes.iter().find(|pair| pair.key.as_str() == key::NAME)?.value {
        Value::String(name) => Some(name.as_str()),
        _ => None,
    }
}

fn trace(task: &str, run: &SpanData, is_over: bool, mut spans: Vec<(&SpanData, bool)>) -> TraceView {
    spans.sort_by_key(|(span, _)| span.start_time);
    let began = spans.first().map_or(run.start_time, |(first, _)| first.start_time);
    let is_error = spans.iter().any(|(span, _)| is_run_of(span, task) && has_failed(span));
    let more = spans.len().saturating_sub(SPANS_OF_TRACE);
    spans.truncate(SPANS_OF_TRACE);
    TraceView {
        trace_id: run.span_context.trace_id().to_string(),
        at: unix(began),
        seconds: is_over.then(|| between(run.start_time, run.end_time)),
        is_error,
        spans: spans.into_iter().map(|(span, is_over)| span_view(span, is_over, began)).collect(),
        more,
    }
}

fn span_view(span: &SpanData, is_over: bool, began: SystemTime) -> SpanView {
    let parent = span.parent_span_id;
    SpanView {
        span_id: span.span_context.span_id().to_string(),
        parent_id: (parent != SpanId::INVALID).then(|| parent.to_string()),
        name: shortened(&span.name, TEXT).to_owned(),
        offset_seconds: between(began, span.start_time),
        seconds: is_over.then(|| between(span.start_time, span.end_time)),
        is_error: has_failed(span),
        status: match &span.status {
            Status::Error { description } => abridged(description, TEXT).into_owned(),
            Status::Unset | Status::Ok => String::new(),
        },
        attributes: span.attributes.iter().map(pair).collect(),
        events: span
            .events
            .iter()
            .map(|event| SpanEventView {
                offset_seconds: between(began, event.timestamp),
                name: shortened(&event.name, TEXT).to_owned(),
            })
            .collect(),
    }
}

fn has_failed(span: &SpanData) -> bool {
    matches!(span.status, Status::Error { .. })
}

fn pair(pair: &KeyValue) -> (String, String) {
    (pair.key.to_string(), shortened(&pair.value.as_str(), TEXT).to_owned())
}

fn between(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or(Duration::ZERO).as_secs_f64()
}

fn key_of(span: &SpanData) -> (TraceId, SpanId) {
    (span.span_context.trace_id(), span.span_context.span_id())
}

/// Returns true if a span is a run of a task, of a member, or of any member of a family.
fn is_run_of(span: &SpanData, task: &str) -> bool {
    let is_name = |pair: &KeyValue| matches!(pair.key.as_str(), key::NAME | key::GIVEN_NAME);
    span.name == SPAN_RUN && span.attributes.iter().any(|pair| is_name(pair) && pair.value.as_str() == task)
}

/// The size of a span in bytes, approximately.
fn size_of_span(span: &SpanData) -> usize {
    let pairs = |pairs: &[KeyValue]| -> usize {
        pairs
            .iter()
            .map(|pair| size_of::<KeyValue>() + pair.key.as_str().len() + pair.value.as_str().len())
            .sum()
    };
    let events: usize = span
        .events
        .iter()
        .map(|event| size_of::<Event>() + event.name.len() + pairs(&event.attributes))
        .sum();
    let links: usize = span.links.iter().map(|link| size_of::<Link>() + pairs(&link.attributes)).sum();
    let status = match &span.status {
        Status::Error { description } => description.len(),
        Status::Unset | Status::Ok => 0,
    };
    size_of::<SpanData>() + span.name.len() + pairs(&span.attributes) + events + links + status
}

/// Fills a ring.
#[derive(Debug)]
pub(crate) struct RingProcessor(pub(crate) Arc<SpanRing>);

impl SpanProcessor for RingProcessor {
    fn on_start(&self, span: &mut Span, _: &Context) {
        // The end of a span that is only recorded is not kept, so the span must not stay here either.
        if let Some(span) = span.span_context().is_sampled().then(|| span.exported_data()).flatten() {
            self.0.began(span);
        }
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.ended(span);
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        let of = |key| resource.get(&Key::from_static_str(key)).map(|value| Arc::from(&*value.as_str()));
        let identity = Identity {
            service: of("service.name"),
            version: of("service.version"),
            instance: of("service.instance.id"),
        };
        *self.0.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
