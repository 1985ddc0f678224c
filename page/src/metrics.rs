//! `/metrics`: what a meter provider collects, as Prometheus' text or OpenMetrics.
//!
//! Both are written here, straight from a collection of the SDK, and for the tasks' instruments from the tasks' own figures.
//! opentelemetry-prometheus makes a family of each series and a map of its labels, which takes longer than the collection; and
//! it has no exemplars. The tests compare the output with its own.

mod exposition;
mod names;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        InstrumentKind, ManualReader, Pipeline, Temporality, data::ResourceMetrics, reader::MetricReader,
    },
};
use otel_tasks::telemetry::{Deferred, RunExemplar};

pub(crate) use self::exposition::Format;
use self::exposition::{Assigned, Exemplars};

/// A reader of a meter provider, which collects whenever it is asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reader(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    reader: ManualReader,
    /// True once deferred observations were not found in a collection, because of a View or of twins: the SDK collects all.
    collects_all: AtomicBool,
    /// The length of the last text, in bytes.
    length: AtomicUsize,
}

impl Reader {
    /// Returns the figures, in OpenMetrics with the exemplars in the buckets of runs.
    pub(crate) fn read(&self, format: Format, exemplars: &[RunExemplar]) -> Result<String, String> {
        let exemplars = exposition::by_series(exemplars);
        if !self.0.collects_all.load(Relaxed) {
            let (metrics, deferred) = Deferred::during(|| self.collected());
            let metrics = metrics?;
            if let Some(assigned) = exposition::assigned(&metrics, &deferred) {
                return Ok(self.written(&metrics, assigned, format, &exemplars));
            }
            self.0.collects_all.store(true, Relaxed);
        }
        Ok(self.written(&self.collected()?, Assigned::default(), format, &exemplars))
    }

    fn written(
        &self,
        metrics: &ResourceMetrics,
        assigned: Assigned<'_>,
        format: Format,
        exemplars: &Exemplars,
    ) -> String {
        // A text that grows is moved, and may take twice its length. Mostly, the next one is little longer.
        let last = self.0.length.load(Relaxed);
        let text = exposition::written(metrics, assigned, format, exemplars, last + last / 16);
        self.0.length.store(text.len(), Relaxed);
        text
    }

    fn collected(&self) -> Result<ResourceMetrics, String> {
        let mut metrics = ResourceMetrics::default();
        self.0.reader.collect(&mut metrics).map_err(|error| error.to_string())?;
        Ok(metrics)
    }
}

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.reader.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.reader.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.reader.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.reader.shutdown_with_timeout(timeout)
    }

    /// Prometheus knows sums since the start alone.
    fn temporality(&self, _: InstrumentKind) -> Temporality {
        Temporality::Cumulative
    }
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
