//! `/metrics`: what a meter provider collects, as Prometheus text or OpenMetrics.
//!
//! opentelemetry-prometheus collects and names; the crate `prometheus` writes Prometheus' text. It does not write OpenMetrics:
//! what was gathered is handed to prometheus-client for that.

use opentelemetry_sdk::metrics::reader::MetricReader;
use prometheus::{
    Encoder, TextEncoder,
    proto::{Metric, MetricFamily, MetricType},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType as OpenMetricType,
    registry::Registry,
};

pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A reader that collects into `registry` whenever that is gathered.
pub(crate) fn reader(
    registry: &prometheus::Registry,
) -> Result<impl MetricReader + use<>, opentelemetry_sdk::error::OTelSdkError> {
    opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()
}

/// What is gathered, as Prometheus' text.
pub(crate) fn text(registry: &prometheus::Registry) -> Result<String, String> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

/// What is gathered, as OpenMetrics.
pub(crate) fn open_metrics(registry: &prometheus::Registry) -> Result<String, String> {
    let mut gathered = Registry::default();
    gathered.register_collector(Box::new(Gathered(registry.gather())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &gathered).map_err(|error| error.to_string())?;
    Ok(text)
}

/// What was gathered.
#[derive(Debug)]
struct Gathered(Vec<MetricFamily>);

impl Collector for Gathered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for family in &self.0 {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => OpenMetricType::Counter,
                MetricType::HISTOGRAM => OpenMetricType::Histogram,
                MetricType::GAUGE => OpenMetricType::Gauge,
                // opentelemetry-prometheus makes no other.
                MetricType::SUMMARY | MetricType::UNTYPED => continue,
            };
            // The encoder puts the suffix of counters there itself.
            let name = family.name();
            let name = match kind {
                OpenMetricType::Counter => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            let mut metrics = encoder.encode_descriptor(name, family.help(), None, kind)?;
            for metric in family.get_metric() {
                let labels: Vec<_> =
                    metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
                encode_metric(metric, kind, metrics.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_metric(
    metric: &Metric,
    kind: OpenMetricType,
    mut encoder: MetricEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    match kind {
        OpenMetricType::Counter => {
            encoder.encode_counter::<NoLabelSet, _, f64>(&metric.get_counter().get_value(), None)
        }
        OpenMetricType::Histogram => {
            let histogram = metric.get_histogram();
            let mut below = 0;
            let mut buckets: Vec<(f64, u64)> = Vec::new();
            for bucket in histogram.get_bucket() {
                // What was gathered is cumulative, what is encoded is not.
                buckets.push((bucket.upper_bound(), bucket.cumulative_count().saturating_sub(below)));
                below = bucket.cumulative_count();
            }
            let count = histogram.get_sample_count();
            if buckets.last().is_none_or(|(bound, _)| bound.is_finite()) {
                buckets.push((f64::INFINITY, count.saturating_sub(below)));
            }
            encoder.encode_histogram::<NoLabelSet>(histogram.get_sample_sum(), count, &buckets, None)
        }
        _ => encoder.encode_gauge(&metric.get_gauge().get_value()),
    }
}
