//! Exported metrics, flattened to points that can be looked up.

use std::{collections::BTreeMap, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, PeriodicReader, SdkMeterProvider, Temporality,
    data::{AggregatedMetrics, MetricData},
};

/// A meter whose exports can be read.
pub struct Metrics {
    pub provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// One exported point.
#[derive(Debug, Clone)]
pub struct Point {
    pub instrument: String,
    pub kind: &'static str,
    pub unit: String,
    pub description: String,
    pub attributes: BTreeMap<String, String>,
    /// The value; a histogram's sum.
    pub value: f64,
    /// A histogram's count, and its count per bucket.
    pub count: u64,
    pub buckets: Vec<u64>,
}

impl Metrics {
    pub fn new() -> Self {
        Self::with_temporality(Temporality::Cumulative)
    }

    pub fn with_temporality(temporality: Temporality) -> Self {
        let exporter = InMemoryMetricExporterBuilder::new().with_temporality(temporality).build();
        // Collected by hand.
        let reader =
            PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(86_400)).build();
        Self { provider: SdkMeterProvider::builder().with_reader(reader).build(), exporter }
    }

    pub fn meter(&self) -> Meter {
        self.provider.meter("test")
    }

    /// Collects now: what one export carries.
    pub fn collect(&self) -> Points {
        self.exporter.reset();
        self.provider.force_flush().expect("the exporter is in memory");
        let finished = self.exporter.get_finished_metrics().expect("in memory");
        let metrics =
            finished.iter().flat_map(|resource| resource.scope_metrics()).flat_map(|scope| scope.metrics());
        let mut points = Vec::new();
        for metric in metrics {
            let point = |kind, attributes: Vec<KeyValue>, value, count, buckets| Point {
                instrument: metric.name().to_owned(),
                kind,
                unit: metric.unit().to_owned(),
                description: metric.description().to_owned(),
                attributes: attributes
                    .iter()
                    .map(|held| (held.key.to_string(), held.value.to_string()))
                    .collect(),
                value,
                count,
                buckets,
            };
            macro_rules! flatten {
                ($data:expr) => {
                    match $data {
                        MetricData::Gauge(gauge) => points.extend(gauge.data_points().map(|held| {
                            point(
                                "gauge",
                                held.attributes().cloned().collect(),
                                held.value() as f64,
                                0,
                                Vec::new(),
                            )
                        })),
                        MetricData::Sum(sum) => {
                            let kind = if sum.is_monotonic() { "counter" } else { "up-down counter" };
                            points.extend(sum.data_points().map(|held| {
                                point(
                                    kind,
                                    held.attributes().cloned().collect(),
                                    held.value() as f64,
                                    0,
                                    Vec::new(),
                                )
                            }));
                        }
                        MetricData::Histogram(histogram) => {
                            points.extend(histogram.data_points().map(|held| {
                                let attributes = held.attributes().cloned().collect();
                                point(
                                    "histogram",
                                    attributes,
                                    held.sum() as f64,
                                    held.count(),
                                    held.bucket_counts().collect(),
                                )
                            }))
                        }
                        MetricData::ExponentialHistogram(_) => unreachable!("nobody asked for one"),
                    }
                };
            }
            match metric.data() {
                AggregatedMetrics::F64(data) => flatten!(data),
                AggregatedMetrics::U64(data) => flatten!(data),
                AggregatedMetrics::I64(data) => flatten!(data),
            }
        }
        Points(points)
    }
}

#[derive(Debug)]
pub struct Points(pub Vec<Point>);

impl Points {
    /// The points of an instrument that carry all these attributes.
    pub fn of(&self, instrument: &str, attributes: &[(&str, &str)]) -> Vec<&Point> {
        let carries = |point: &&Point| {
            point.instrument == instrument
                && attributes
                    .iter()
                    .all(|(key, value)| point.attributes.get(*key).is_some_and(|held| held == value))
        };
        self.0.iter().filter(carries).collect()
    }

    /// Their sum.
    pub fn sum(&self, instrument: &str, attributes: &[(&str, &str)]) -> f64 {
        self.of(instrument, attributes).iter().map(|point| point.value).sum()
    }

    /// The number of values in their histograms.
    pub fn count(&self, instrument: &str, attributes: &[(&str, &str)]) -> u64 {
        self.of(instrument, attributes).iter().map(|point| point.count).sum()
    }
}
