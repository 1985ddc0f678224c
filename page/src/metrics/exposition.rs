//! Writes what a collection has as Prometheus' text or OpenMetrics 1.0.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use opentelemetry::{InstrumentationScope, KeyValue, SpanId, TraceId, Value};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, HistogramDataPoint, Metric, MetricData, ResourceMetrics,
};
use otel_tasks::telemetry::{Deferred, DeferredObservations, Observed, RunExemplar, contract};

use super::names;

/// The format of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text.
    Text,
    OpenMetrics,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A run, as an example of the bucket that counts it.
pub(super) struct Exemplar {
    pub(super) seconds: f64,
    /// Unix time.
    pub(super) ended: Duration,
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
}

/// The exemplars by the labels of the series of their runs.
pub(super) type Exemplars = HashMap<String, Vec<Exemplar>>;

pub(super) fn by_series(exemplars: &[RunExemplar]) -> Exemplars {
    let mut by_series = Exemplars::new();
    let mut labels = Labels::default();
    for RunExemplar { attributes, duration, ended, trace_id, span_id, .. } in exemplars {
        labels.write(attributes, &Scope::default());
        by_series.entry(labels.text.clone()).or_default().push(Exemplar {
            seconds: duration.as_secs_f64(),
            ended: ended.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            trace_id: *trace_id,
            span_id: *span_id,
        });
    }
    by_series
}

/// Returns the families in the order of their names, in a text with this capacity to begin with.
pub(super) fn written(
    metrics: &ResourceMetrics,
    mut assigned: Assigned<'_>,
    format: Format,
    exemplars: &Exemplars,
    capacity: usize,
) -> String {
    let scopes: Vec<_> = metrics.scope_metrics().map(|scope| Scope::of(scope.scope())).collect();
    let mut families = BTreeMap::<String, Family<'_>>::new();
    for (in_scope, scope) in metrics.scope_metrics().zip(&scopes) {
        for metric in in_scope.metrics() {
            let deferred = assigned.remove(&std::ptr::from_ref(metric)).unwrap_or_default();
            let Some(kind) = Kind::of(metric) else { continue };
            let name = names::family(metric.name(), metric.unit());
            // Two kinds under one name are no family: the first stays. The SDK warns of such instruments.
            let family = families.entry(name).or_insert_with(|| Family {
                kind,
                help: metric.description(),
                unit: names::unit(metric.unit()),
                parts: Vec::new(),
            });
            if family.kind == kind {
                family.parts.push(Part { scope, metric, deferred });
            }
        }
    }
    let mut writer = Writer {
        text: String::with_capacity(capacity),
        labels: Labels::default(),
        numbers: Bounds::default(),
        format,
        exemplars,
    };
    let resource: Vec<_> =
        metrics.resource().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let mut target = (!resource.is_empty()).then_some(&resource[..]);
    for (name, family) in &families {
        if let Some(resource) = target.take_if(|_| &name[..] > "target") {
            writer.target(resource);
        }
        writer.family(name, family);
    }
    if let Some(resource) = target {
        writer.target(resource);
    }
    if format == Format::OpenMetrics {
        writer.text.push_str("# EOF\n");
    }
    writer.text
}

/// The deferred observations of metrics.
pub(super) type Assigned<'a> = HashMap<*const Metric, Vec<&'a DeferredObservations>>;

/// Returns the deferred observations of each metric; `None` if those of an instrument do not belong to exactly one metric.
///
/// Then a View has changed the instrument, or two scopes have a task of one name.
pub(super) fn assigned<'a>(metrics: &ResourceMetrics, deferred: &'a Deferred) -> Option<Assigned<'a>> {
    let mut assigned = Assigned::new();
    let all = || metrics.scope_metrics().flat_map(|scope| scope.metrics());
    for instrument in deferred.instruments().collect::<BTreeSet<_>>() {
        for observations in deferred.of(instrument) {
            let mut places =
                all().filter(|metric| metric.name() == instrument && has_point(metric, observations.first()));
            let (Some(metric), None) = (places.next(), places.next()) else { return None };
            assigned.entry(std::ptr::from_ref(metric)).or_default().push(observations);
        }
    }
    Some(assigned)
}

/// Returns true if a metric has a point with these attributes.
fn has_point(metric: &Metric, wanted: &[KeyValue]) -> bool {
    fn is<'p>(point: impl Iterator<Item = &'p KeyValue>, wanted: &[KeyValue]) -> bool {
        let mut count = 0;
        let are_wanted = point.inspect(|_| count += 1).all(|attribute| wanted.contains(attribute));
        are_wanted && count == wanted.len()
    }
    fn has<T: Copy>(data: &MetricData<T>, wanted: &[KeyValue]) -> bool {
        match data {
            MetricData::Sum(sum) => sum.data_points().any(|point| is(point.attributes(), wanted)),
            MetricData::Gauge(gauge) => gauge.data_points().any(|point| is(point.attributes(), wanted)),
            MetricData::Histogram(_) | MetricData::ExponentialHistogram(_) => false,
        }
    }
    match metric.data() {
        AggregatedMetrics::F64(data) => has(data, wanted),
        AggregatedMetrics::U64(data) => has(data, wanted),
        AggregatedMetrics::I64(data) => has(data, wanted),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// Returns the kind in Prometheus; `None` for exponential histograms, which neither format has.
    fn of(metric: &Metric) -> Option<Self> {
        fn of<T>(data: &MetricData<T>) -> Option<Kind> {
            match data {
                MetricData::Sum(sum) if sum.is_monotonic() => Some(Kind::Counter),
                MetricData::Sum(_) | MetricData::Gauge(_) => Some(Kind::Gauge),
                MetricData::Histogram(_) => Some(Kind::Histogram),
                MetricData::ExponentialHistogram(_) => None,
            }
        }
        match metric.data() {
            AggregatedMetrics::F64(data) => of(data),
            AggregatedMetrics::U64(data) => of(data),
            AggregatedMetrics::I64(data) => of(data),
        }
    }
}

/// The instruments of one name in all scopes.
struct Family<'a> {
    kind: Kind,
    help: &'a str,
    unit: Option<&'static str>,
    parts: Vec<Part<'a>>,
}

/// An instrument of a scope.
struct Part<'a> {
    scope: &'a Scope,
    metric: &'a Metric,
    /// The observations that replace the metric's points, if there are any.
    deferred: Vec<&'a DeferredObservations>,
}

/// A value of an instrument.
trait Number: Copy {
    fn write(self, text: &mut String, format: Format);
}

macro_rules! integers {
    ($($integer:ty),*) => {
        $(impl Number for $integer {
            fn write(self, text: &mut String, _: Format) {
                push(text, format_args!("{self}"));
            }
        })*
    };
}
integers!(u64, i64);

impl Number for f64 {
    fn write(self, text: &mut String, format: Format) {
        match (self, format) {
            (Self::INFINITY, _) => text.push_str("+Inf"),
            (Self::NEG_INFINITY, _) => text.push_str("-Inf"),
            (_, Format::Text) => push(text, format_args!("{self}")),
            // With a point, as OpenMetrics has bounds.
            (_, Format::OpenMetrics) => push(text, format_args!("{self:?}")),
        }
    }
}

impl Number for Observed {
    fn write(self, text: &mut String, format: Format) {
        match self {
            Self::F64(value) => value.write(text, format),
            Self::U64(value) => value.write(text, format),
            Self::I64(value) => value.write(text, format),
        }
    }
}

/// Adds to a text. A `String` takes whatever is written into it.
fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}

struct Writer<'a> {
    text: String,
    labels: Labels,
    numbers: Bounds,
    format: Format,
    exemplars: &'a Exemplars,
}

impl Writer<'_> {
    fn target(&mut self, resource: &[KeyValue]) {
        match self.format {
            Format::Text => self.head("target_info", "gauge", None, "Target metadata"),
            Format::OpenMetrics => self.head("target", "info", None, "Target metadata"),
        }
        self.labels.write(resource, &Scope::default());
        self.sample("target_info", 1_u64);
    }

    fn head(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) {
        push(&mut self.text, format_args!("# TYPE {name} {kind}\n"));
        if let Some(unit) = unit.filter(|_| self.format == Format::OpenMetrics) {
            push(&mut self.text, format_args!("# UNIT {name} {unit}\n"));
        }
        if !help.is_empty() {
            push(&mut self.text, format_args!("# HELP {name} "));
            escape(&mut self.text, help, self.format == Format::OpenMetrics);
            self.text.push('\n');
        }
    }

    fn family(&mut self, name: &str, Family { kind, help, unit, parts }: &Family<'_>) {
        let counter = format!("{name}_total");
        let before = self.text.len();
        match (kind, self.format) {
            (Kind::Counter, Format::Text) => self.head(&counter, "counter", *unit, help),
            (Kind::Counter, Format::OpenMetrics) => self.head(name, "counter", *unit, help),
            (Kind::Gauge, _) => self.head(name, "gauge", *unit, help),
            (Kind::Histogram, _) => self.head(name, "histogram", *unit, help),
        }
        let head = self.text.len();
        let name = if *kind == Kind::Counter { &counter } else { name };
        for Part { scope, metric, deferred } in parts {
            if !deferred.is_empty() {
                self.deferred(name, deferred, scope);
                continue;
            }
            match metric.data() {
                AggregatedMetrics::F64(data) => self.data(name, metric, data, scope),
                AggregatedMetrics::U64(data) => self.data(name, metric, data, scope),
                AggregatedMetrics::I64(data) => self.data(name, metric, data, scope),
            }
        }
        // An instrument without series is left out.
        if self.text.len() == head {
            self.text.truncate(before);
        }
    }

    fn data<T: Number>(&mut self, name: &str, metric: &Metric, data: &MetricData<T>, scope: &Scope) {
        match data {
            MetricData::Sum(sum) => {
                for point in sum.data_points() {
                    self.labels.write(point.attributes(), scope);
                    self.sample(name, point.value());
                }
            }
            MetricData::Gauge(gauge) => {
                for point in gauge.data_points() {
                    self.labels.write(point.attributes(), scope);
                    self.sample(name, point.value());
                }
            }
            MetricData::Histogram(histogram) => {
                let of_runs =
                    self.format == Format::OpenMetrics && metric.name() == contract::RUN_DURATION.name;
                for point in histogram.data_points() {
                    self.labels.write(point.attributes(), scope);
                    let exemplars = of_runs.then(|| self.exemplars.get(self.labels.of_attributes()));
                    self.histogram(name, point, exemplars.flatten().map_or(&[], Vec::as_slice));
                }
            }
            MetricData::ExponentialHistogram(_) => {}
        }
    }

    fn deferred(&mut self, name: &str, deferred: &[&DeferredObservations], scope: &Scope) {
        if let [deferred] = deferred {
            return deferred.observe(&mut |value, attributes| {
                self.labels.write(attributes, scope);
                self.sample(name, value);
            });
        }
        let mut last = BTreeMap::new();
        for deferred in deferred {
            deferred.observe(&mut |value, attributes| {
                self.labels.write(attributes, scope);
                last.insert(self.labels.text.clone(), value);
            });
        }
        for (labels, value) in last {
            self.labels.text = labels;
            self.sample(name, value);
        }
    }

    fn sample(&mut self, name: &str, value: impl Number) {
        self.text.push_str(name);
        if !self.labels.text.is_empty() {
            self.text.push('{');
            self.text.push_str(&self.labels.text);
            self.text.push('}');
        }
        self.text.push(' ');
        value.write(&mut self.text, self.format);
        self.text.push('\n');
    }

    fn histogram<T: Number>(&mut self, name: &str, point: &HistogramDataPoint<T>, exemplars: &[Exemplar]) {
        let Self { text, labels, numbers, format, .. } = self;
        let comma = if labels.text.is_empty() { "" } else { "," };
        let start = format!("{name}_bucket{{{}{comma}le=\"", labels.text);
        let (mut cumulative, mut below) = (0, f64::NEG_INFINITY);
        numbers.set(point.bounds(), *format);
        for ((bound, written), count) in numbers.0.iter().zip(point.bucket_counts()) {
            cumulative += count;
            text.push_str(&start);
            text.push_str(written);
            text.push_str("\"} ");
            cumulative.write(text, *format);
            let inside = |exemplar: &&Exemplar| below < exemplar.seconds && exemplar.seconds <= *bound;
            // A bucket of the output may hold several: exemplars are kept by the boundaries of the cell, which may differ.
            let last = exemplars.iter().filter(inside).max_by_key(|exemplar| exemplar.ended);
            // A run that has just ended may not be in the count yet.
            if let Some(Exemplar { seconds, ended, trace_id, span_id }) = last.filter(|_| count > 0) {
                push(text, format_args!(" # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {seconds:?}"));
                push(text, format_args!(" {:.3}", ended.as_secs_f64()));
            }
            text.push('\n');
            below = *bound;
        }
        self.sample(&format!("{name}_sum"), point.sum());
        self.sample(&format!("{name}_count"), point.count());
    }
}

/// The bounds of buckets with their texts, the infinite one too.
#[derive(Default)]
struct Bounds(Vec<(f64, String)>);

impl Bounds {
    /// Mostly, all histograms of a family have the same.
    fn set(&mut self, bounds: impl Iterator<Item = f64>, format: Format) {
        let bounds = bounds.filter(|bound| bound.is_finite()).chain([f64::INFINITY]);
        let mut length = 0;
        for (place, bound) in bounds.enumerate() {
            length = place + 1;
            if self.0.get(place).is_some_and(|(held, _)| *held == bound) {
                continue;
            }
            self.0.truncate(place);
            let mut written = String::new();
            bound.write(&mut written, format);
            self.0.push((bound, written));
        }
        self.0.truncate(length);
    }
}

/// The text of the labels of a series: `a="1",b="2"`.
#[derive(Default)]
struct Labels {
    text: String,
    /// The place in `text` at which the labels of the scope begin.
    scope: usize,
    /// Keys of attributes and their labels. A process has few keys.
    known: Vec<(String, String)>,
}

impl Labels {
    fn place_of(&mut self, key: &str) -> usize {
        self.known.iter().position(|(known, _)| known == key).unwrap_or_else(|| {
            self.known.push((key.to_owned(), names::label(key)));
            self.known.len() - 1
        })
    }

    /// Sorted by name, then the ones of the scope. The values of keys that become the same label are joined.
    fn write<'p>(&mut self, attributes: impl IntoIterator<Item = &'p KeyValue>, scope: &Scope) {
        let placed = attributes.into_iter().map(|pair| (self.place_of(pair.key.as_str()), &pair.value));
        let mut placed: Vec<_> = placed.collect();
        let Self { text, known, .. } = self;
        let of = |place: usize| {
            let (key, label): &(String, String) = &known[place];
            (label.as_str(), key.as_str())
        };
        placed.sort_unstable_by_key(|(place, _)| of(*place));
        text.clear();
        let (mut last, mut is_of_scope) = ("", false);
        for (place, value) in &placed {
            let (label, _) = of(*place);
            if label.starts_with(SCOPE) && scope.labels.iter().any(|(taken, _)| taken == label) {
                is_of_scope = true;
                continue;
            }
            if label == last {
                text.truncate(text.len() - 1);
                text.push(';');
            } else {
                open(text, label);
            }
            close(text, &written_value(value));
            last = label;
        }
        self.scope = text.len();
        if !is_of_scope {
            if !text.is_empty() && !scope.text.is_empty() {
                text.push(',');
            }
            text.push_str(&scope.text);
            return;
        }
        for (label, value) in &scope.labels {
            let taken = placed.iter().map(|(place, value)| (of(*place), value));
            let taken = taken.filter(|((other, _), _)| other == label);
            let mut values: Vec<_> = taken.map(|((_, key), value)| (key, written_value(value))).collect();
            values.push((label, value.into()));
            values.sort();
            let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
            open(text, label);
            close(text, &values.join(";"));
        }
    }

    fn of_attributes(&self) -> &str {
        &self.text[..self.scope]
    }
}

/// Begins a label after the ones before.
fn open(text: &mut String, label: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(label);
    text.push_str("=\"");
}

/// Ends a label with its value.
fn close(text: &mut String, value: &str) {
    escape(text, value, true);
    text.push('"');
}

fn written_value(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

fn escape(text: &mut String, raw: &str, quotes: bool) {
    let mut written = 0;
    // These bytes are never a part of a longer character.
    for (place, byte) in raw.bytes().enumerate() {
        let instead = match byte {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'"' if quotes => "\\\"",
            _ => continue,
        };
        text.push_str(&raw[written..place]);
        text.push_str(instead);
        written = place + 1;
    }
    text.push_str(&raw[written..]);
}

const SCOPE: &str = "otel_scope_";

/// The labels that say which library a series is of.
#[derive(Default)]
struct Scope {
    labels: Vec<(String, String)>,
    /// The same, as they follow the labels of a series that has none of their names.
    text: String,
}

impl Scope {
    fn of(scope: &InstrumentationScope) -> Self {
        let label = |name: &str| format!("{SCOPE}{name}");
        let mut labels = vec![(label("name"), scope.name().to_owned())];
        labels.extend(scope.version().map(|version| (label("version"), version.to_owned())));
        labels.extend(scope.schema_url().map(|url| (label("schema_url"), url.to_owned())));
        let mut attributes = BTreeMap::<String, String>::new();
        for KeyValue { key, value, .. } in scope.attributes() {
            let label = names::label(&label(key.as_str()));
            if ["name", "version", "schema_url"].iter().any(|reserved| label == format!("{SCOPE}{reserved}"))
            {
                continue;
            }
            attributes
                .entry(label)
                .and_modify(|values| push(values, format_args!(";{value}")))
                .or_insert_with(|| value.to_string());
        }
        labels.extend(attributes);
        let mut text = String::new();
        for (label, value) in &labels {
            open(&mut text, label);
            close(&mut text, value);
        }
        Self { labels, text }
    }
}
