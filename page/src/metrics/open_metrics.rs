//! Writes metric families as OpenMetrics 1.0.

use std::{
    collections::HashMap,
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use opentelemetry::{SpanId, TraceId};
use otel_tasks::telemetry::RunExemplar;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The family whose buckets have exemplars: `task.run.duration`, as opentelemetry-prometheus names it.
const RUN_DURATION: &str = "task_run_duration_seconds";
/// The labels that opentelemetry-prometheus adds to the attributes.
const SCOPE_LABELS: &str = "otel_scope_";
/// The units that opentelemetry-prometheus appends to names, without rates.
const UNITS: &[&str] = &[
    "days",
    "hours",
    "minutes",
    "seconds",
    "milliseconds",
    "microseconds",
    "nanoseconds",
    "bytes",
    "kibibytes",
    "mebibytes",
    "gibibytes",
    "tibibytes",
    "kilobytes",
    "megabytes",
    "gigabytes",
    "terabytes",
    "meters",
    "volts",
    "amperes",
    "joules",
    "watts",
    "grams",
    "celsius",
    "hertz",
    "ratio",
    "percent",
];

/// The labels of a series, sorted.
pub(super) type Labels = Vec<(String, String)>;

/// A run, as an example of the bucket that counts it.
pub(super) struct Exemplar {
    pub(super) seconds: f64,
    /// Unix time.
    pub(super) ended: Duration,
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
}

/// The exemplars by the series of their runs.
pub(super) type Exemplars = HashMap<Labels, Vec<Exemplar>>;

pub(super) fn by_series(exemplars: &[RunExemplar]) -> Exemplars {
    let mut by_series = Exemplars::new();
    for RunExemplar { attributes, duration, ended, trace_id, span_id, .. } in exemplars {
        let labels =
            attributes.iter().map(|pair| (pair.key.as_str().replace('.', "_"), pair.value.to_string()));
        by_series.entry(sorted(labels)).or_default().push(Exemplar {
            seconds: duration.as_secs_f64(),
            ended: ended.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            trace_id: *trace_id,
            span_id: *span_id,
        });
    }
    by_series
}

/// The families in OpenMetrics' text format.
pub(super) fn written(families: &[MetricFamily], exemplars: &Exemplars) -> String {
    let mut text = String::new();
    for family in families {
        // A `String` takes whatever is written into it.
        let _ = write_family(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily, exemplars: &Exemplars) -> std::fmt::Result {
    let name = family.name();
    let (name, kind, suffix) = match family.get_field_type() {
        MetricType::COUNTER => (name.strip_suffix("_total").unwrap_or(name), "counter", "_total"),
        MetricType::HISTOGRAM => (name, "histogram", ""),
        MetricType::GAUGE => match name {
            "target_info" => ("target", "info", "_info"),
            _ => (name, "gauge", ""),
        },
        // opentelemetry-prometheus makes no other.
        MetricType::SUMMARY | MetricType::UNTYPED => return Ok(()),
    };
    writeln!(text, "# TYPE {name} {kind}")?;
    let is_unit = |unit: &&&str| name.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_'));
    if let Some(unit) = UNITS.iter().find(is_unit) {
        writeln!(text, "# UNIT {name} {unit}")?;
    }
    if !family.help().is_empty() {
        writeln!(text, "# HELP {name} {}", escaped(family.help()))?;
    }
    for metric in family.get_metric() {
        if family.get_field_type() == MetricType::HISTOGRAM {
            let of_series = (name == RUN_DURATION).then(|| exemplars.get(&labels_of_run(metric)));
            write_histogram(text, name, metric, of_series.flatten().map_or(&[], Vec::as_slice))?;
            continue;
        }
        let value = match kind {
            "counter" => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        };
        write_sample(text, (name, suffix), metric.get_label(), None)?;
        writeln!(text, " {}", number(value))?;
    }
    Ok(())
}

fn write_histogram(
    text: &mut String,
    name: &str,
    metric: &Metric,
    exemplars: &[Exemplar],
) -> std::fmt::Result {
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    let bounds =
        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let bounds = bounds.filter(|(bound, _)| bound.is_finite()).chain([(f64::INFINITY, count)]);
    let mut below = (f64::NEG_INFINITY, 0);
    for (bound, cumulative) in bounds {
        write_sample(text, (name, "_bucket"), metric.get_label(), Some(bound))?;
        write!(text, " {cumulative}")?;
        let inside = |exemplar: &&Exemplar| below.0 < exemplar.seconds && exemplar.seconds <= bound;
        // A bucket of the output may hold several: exemplars are kept by the boundaries of the cell, which may differ.
        let last = exemplars.iter().filter(inside).max_by_key(|exemplar| exemplar.ended);
        // A run that has just ended may not be in the count yet.
        if let Some(Exemplar { seconds, ended, trace_id, span_id }) = last.filter(|_| cumulative > below.1) {
            let (seconds, ended) = (number(*seconds), ended.as_secs_f64());
            write!(text, " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {seconds} {ended:.3}")?;
        }
        text.push('\n');
        below = (bound, cumulative);
    }
    write_sample(text, (name, "_sum"), metric.get_label(), None)?;
    writeln!(text, " {}", number(histogram.get_sample_sum()))?;
    write_sample(text, (name, "_count"), metric.get_label(), None)?;
    writeln!(text, " {count}")
}

/// The name and the labels of a sample.
fn write_sample(
    text: &mut String,
    (name, suffix): (&str, &str),
    labels: &[LabelPair],
    bound: Option<f64>,
) -> std::fmt::Result {
    write!(text, "{name}{suffix}")?;
    let mut separator = '{';
    for label in labels {
        write!(text, "{separator}{}=\"{}\"", label.name(), escaped(label.value()))?;
        separator = ',';
    }
    if let Some(bound) = bound {
        write!(text, "{separator}le=\"{}\"", number(bound))?;
        separator = ',';
    }
    if separator == ',' { text.write_char('}') } else { Ok(()) }
}

/// A number as OpenMetrics wants it, integers with a point: `1.0`, `+Inf`.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        finite => format!("{finite:?}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"")
}

/// The labels that say which runs a series counts.
fn labels_of_run(metric: &Metric) -> Labels {
    let labels = metric.get_label().iter().filter(|label| !label.name().starts_with(SCOPE_LABELS));
    sorted(labels.map(|label| (label.name().to_owned(), label.value().to_owned())))
}

pub(super) fn sorted(labels: impl Iterator<Item = (String, String)>) -> Labels {
    let mut labels: Labels = labels.collect();
    labels.sort();
    labels
}
