//! Telemetry on the terminal, for development. Without the feature `console` there is none, and the settings request none.

#[cfg(feature = "console")]
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
};

use opentelemetry_sdk::{
    Resource,
    metrics::{Temporality, data::ResourceMetrics},
    trace::SpanData,
};
#[cfg(feature = "console")]
use opentelemetry_sdk::{
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _},
    metrics::exporter::PushMetricExporter as _,
    trace::SpanExporter as _,
};

use super::parcel::QueuedRecord;
#[cfg(feature = "console")]
use super::parcel::at_once;

/// Prints what it is given, if anything is to be printed.
pub(super) struct Console<E> {
    #[cfg(feature = "console")]
    exporter: Option<E>,
    #[cfg(not(feature = "console"))]
    exporter: std::marker::PhantomData<E>,
}

#[cfg(feature = "console")]
mod exporters {
    pub(in crate::otlp) type Spans = opentelemetry_stdout::SpanExporter;
    pub(in crate::otlp) type Records = opentelemetry_stdout::LogExporter;
    pub(in crate::otlp) type Metrics = opentelemetry_stdout::MetricExporter;
}
#[cfg(not(feature = "console"))]
mod exporters {
    pub(in crate::otlp) enum Spans {}
    pub(in crate::otlp) enum Records {}
    pub(in crate::otlp) enum Metrics {}
}
pub(super) use exporters::{Metrics, Records, Spans};

#[cfg(feature = "console")]
impl Console<Spans> {
    pub(super) fn new(wanted: bool, resource: &Resource) -> Self {
        let exporter = wanted.then(|| {
            let mut exporter = Spans::default();
            exporter.set_resource(resource);
            exporter
        });
        Self { exporter }
    }

    pub(super) fn print(&self, batch: &[SpanData]) -> Result<(), String> {
        self.exporter.as_ref().map_or(Ok(()), |exporter| printed(exporter.export(batch.to_vec())))
    }
}

#[cfg(feature = "console")]
impl Console<Records> {
    pub(super) fn new(wanted: bool, resource: &Resource) -> Self {
        let exporter = wanted.then(|| {
            let mut exporter = Records::default();
            exporter.set_resource(resource);
            exporter
        });
        Self { exporter }
    }

    pub(super) fn print(&self, batch: &[QueuedRecord]) -> Result<(), String> {
        self.exporter.as_ref().map_or(Ok(()), |exporter| {
            let pairs: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
            printed(exporter.export(LogBatch::new(&pairs)))
        })
    }
}

#[cfg(feature = "console")]
impl Console<Metrics> {
    pub(super) fn new(wanted: bool, temporality: Temporality) -> Self {
        Self { exporter: wanted.then(|| Metrics::builder().with_temporality(temporality).build()) }
    }

    pub(super) fn print(&self, metrics: &ResourceMetrics) -> Result<(), String> {
        self.exporter.as_ref().map_or(Ok(()), |exporter| printed(exporter.export(metrics)))
    }
}

/// A panic becomes an error: `println!` panics once standard output is closed.
#[cfg(feature = "console")]
fn printed(export: impl Future<Output = OTelSdkResult>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| at_once(export))) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("standard output is closed".to_owned()),
    }
}

#[cfg(not(feature = "console"))]
macro_rules! no_console {
    ($exporter:ty, $setting:ty, $batch:ty) => {
        impl Console<$exporter> {
            pub(super) fn new(_wanted: bool, _: $setting) -> Self {
                Self { exporter: std::marker::PhantomData }
            }

            pub(super) fn print(&self, _: $batch) -> Result<(), String> {
                let _ = self.exporter;
                Ok(())
            }
        }
    };
}
#[cfg(not(feature = "console"))]
no_console!(Spans, &Resource, &[SpanData]);
#[cfg(not(feature = "console"))]
no_console!(Records, &Resource, &[QueuedRecord]);
#[cfg(not(feature = "console"))]
no_console!(Metrics, Temporality, &ResourceMetrics);
