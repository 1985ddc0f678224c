//! `/metrics`: what a meter provider collects, as Prometheus text or OpenMetrics.
//!
//! opentelemetry-prometheus collects and names; the crate `prometheus` writes Prometheus' text. OpenMetrics is written here:
//! `prometheus` does not write it, and no crate writes exemplars that it has not recorded itself.

mod open_metrics;

use opentelemetry_sdk::metrics::reader::MetricReader;
use otel_tasks::telemetry::RunExemplar;
use prometheus::{Encoder, TextEncoder};

pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A reader that collects into `registry` whenever that is gathered.
pub(crate) fn reader(
    registry: &prometheus::Registry,
) -> Result<impl MetricReader + use<>, opentelemetry_sdk::error::OTelSdkError> {
    opentelemetry_prometheus::exporter().with_registry(registry.clone()).build()
}

/// Returns the figures as Prometheus' text.
pub(crate) fn text(registry: &prometheus::Registry) -> Result<String, String> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

/// Returns the figures as OpenMetrics, with the exemplars in the buckets of runs.
pub(crate) fn open_metrics(registry: &prometheus::Registry, exemplars: &[RunExemplar]) -> String {
    open_metrics::written(&registry.gather(), &open_metrics::by_series(exemplars))
}

/// Returns true if the response to this `Accept` is OpenMetrics: it is named, and its weight is not less than that of plain text.
pub(crate) fn wants_open_metrics(accept: &str) -> bool {
    let (mut open, mut plain) = (0.0_f32, 0.0_f32);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut version) = (1.0, "1.0.0");
        for parameter in parts {
            match parameter.split_once('=') {
                Some((name, value)) if name.eq_ignore_ascii_case("q") => {
                    quality = value.parse().unwrap_or(0.0)
                }
                Some((name, value)) if name.eq_ignore_ascii_case("version") => {
                    version = value.trim_matches('"')
                }
                _ => {}
            }
        }
        match media.as_str() {
            "application/openmetrics-text" if version == "1.0.0" => open = open.max(quality),
            "text/plain" => plain = plain.max(quality),
            _ => {}
        }
    }
    open > 0.0 && open >= plain
}

#[cfg(test)]
mod tests;
