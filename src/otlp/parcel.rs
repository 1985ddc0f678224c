//! Encoded requests: the encoding of a batch, and the split of a request that is too large.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use opentelemetry::InstrumentationScope;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    metrics::v1::{Metric, metric::Data},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
    trace::{SpanData, SpanExporter as _},
};
use prost::Message;

use super::ledger::Signal;

/// A log record with its scope, as the queue holds it.
pub(super) type QueuedRecord = Box<(SdkLogRecord, InstrumentationScope)>;

/// One encoded request.
#[derive(Clone)]
pub(super) struct Parcel {
    pub(super) signal: Signal,
    pub(super) body: Bytes,
    /// Spans, log records, or one collection of metrics.
    pub(super) items: u64,
    /// The `Content-Encoding` of a body that is compressed already. Only another crate that switches compression on in
    /// `opentelemetry-otlp` brings this about, together with a variable of the process.
    pub(super) encoding: Option<hyper::header::HeaderValue>,
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({} of {}, {} B)", self.items, self.signal.as_str(), self.body.len())
    }
}

impl Parcel {
    /// A request without items, which every receiver may take.
    pub(super) fn empty(signal: Signal) -> Self {
        Self { signal, body: Bytes::new(), items: 0, encoding: None }
    }

    /// The two halves, or `None` where it is a single item.
    pub(super) fn split(&self) -> Option<[Self; 2]> {
        if self.encoding.is_some() {
            return None;
        }
        match self.signal {
            Signal::Traces => self.halves::<ExportTraceServiceRequest>(),
            Signal::Logs => self.halves::<ExportLogsServiceRequest>(),
            Signal::Metrics => self.halves::<ExportMetricsServiceRequest>(),
        }
    }

    /// The number of data points of a collection; `None` where they cannot be counted.
    pub(super) fn points(&self) -> Option<u64> {
        let mut request = ExportMetricsServiceRequest::decode(self.body.clone()).ok()?;
        self.encoding.is_none().then(|| request.keep(&mut |_| true) as u64)
    }

    fn halves<R: Splits>(&self) -> Option<[Self; 2]> {
        let whole = R::decode(self.body.clone()).ok()?;
        let count = whole.clone().keep(&mut |_| true);
        if count < 2 {
            return None;
        }
        let half = |keep: &mut dyn FnMut(usize) -> bool| {
            let mut part = whole.clone();
            let leaves = part.keep(keep) as u64;
            let items = if self.signal == Signal::Metrics { self.items } else { leaves };
            Self { body: part.encode_to_vec().into(), items, ..self.clone() }
        };
        Some([half(&mut |index| index < count / 2), half(&mut |index| index >= count / 2)])
    }
}

/// A request of which a part can be kept.
trait Splits: Message + Default + Clone {
    /// Removes the spans, records or data points for whose position `keep` is false, and groups that are empty then.
    /// Returns how many are left.
    fn keep(&mut self, keep: &mut dyn FnMut(usize) -> bool) -> usize;
}

/// Counts positions, and what is kept.
struct Sieve<'a> {
    keep: &'a mut dyn FnMut(usize) -> bool,
    next: usize,
    kept: usize,
}

impl<'a> Sieve<'a> {
    fn new(keep: &'a mut dyn FnMut(usize) -> bool) -> Self {
        Self { keep, next: 0, kept: 0 }
    }

    /// False where nothing is left of `leaves`.
    fn retain<L>(&mut self, leaves: &mut Vec<L>) -> bool {
        leaves.retain(|_| {
            let kept = (self.keep)(self.next);
            self.next += 1;
            self.kept += usize::from(kept);
            kept
        });
        !leaves.is_empty()
    }
}

impl Splits for ExportTraceServiceRequest {
    fn keep(&mut self, keep: &mut dyn FnMut(usize) -> bool) -> usize {
        let mut sieve = Sieve::new(keep);
        self.resource_spans.retain_mut(|resource| {
            resource.scope_spans.retain_mut(|scope| sieve.retain(&mut scope.spans));
            !resource.scope_spans.is_empty()
        });
        sieve.kept
    }
}

impl Splits for ExportLogsServiceRequest {
    fn keep(&mut self, keep: &mut dyn FnMut(usize) -> bool) -> usize {
        let mut sieve = Sieve::new(keep);
        self.resource_logs.retain_mut(|resource| {
            resource.scope_logs.retain_mut(|scope| sieve.retain(&mut scope.log_records));
            !resource.scope_logs.is_empty()
        });
        sieve.kept
    }
}

impl Splits for ExportMetricsServiceRequest {
    fn keep(&mut self, keep: &mut dyn FnMut(usize) -> bool) -> usize {
        let mut sieve = Sieve::new(keep);
        self.resource_metrics.retain_mut(|resource| {
            resource.scope_metrics.retain_mut(|scope| {
                scope.metrics.retain_mut(|metric| keep_points(metric, &mut sieve));
                !scope.metrics.is_empty()
            });
            !resource.scope_metrics.is_empty()
        });
        sieve.kept
    }
}

fn keep_points(metric: &mut Metric, sieve: &mut Sieve<'_>) -> bool {
    match &mut metric.data {
        Some(Data::Gauge(gauge)) => sieve.retain(&mut gauge.data_points),
        Some(Data::Sum(sum)) => sieve.retain(&mut sum.data_points),
        Some(Data::Histogram(histogram)) => sieve.retain(&mut histogram.data_points),
        Some(Data::ExponentialHistogram(histogram)) => sieve.retain(&mut histogram.data_points),
        Some(Data::Summary(summary)) => sieve.retain(&mut summary.data_points),
        None => false,
    }
}

/// The output of an exporter's encoding: a client that sends nothing.
#[derive(Debug, Default)]
struct Outbox(Mutex<Option<Request<Bytes>>>);

impl HttpClient for Outbox {
    // Written out because the trait is an `async_trait`, and one method does not merit the macro.
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
        // An empty answer is a success without anything to say.
        Box::pin(std::future::ready(Ok(Response::new(Bytes::new()))))
    }
}

impl Outbox {
    fn parcel(&self, signal: Signal, items: u64, encoded: OTelSdkResult) -> Result<Parcel, String> {
        encoded.map_err(|error| error.to_string())?;
        let request = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (parts, body) = request.ok_or("the exporter encoded nothing")?.into_parts();
        let encoding = parts.headers.get("content-encoding").cloned();
        Ok(Parcel { signal, body, items, encoding })
    }
}

/// Runs a future that never waits.
pub(super) fn at_once(encode: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
    match pin!(encode).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("the outbox responds at once"),
    }
}

macro_rules! exporter {
    ($builder:expr) => {{
        let outbox = Arc::new(Outbox::default());
        let exporter = $builder
            .with_http()
            .with_shared_http_client(Arc::clone(&outbox) as _)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            // Where it really goes is the transport's business; said here so that no variable of the process is read.
            .with_endpoint("http://localhost")
            .with_timeout(Duration::from_secs(1))
            .with_max_request_body_size(usize::MAX)
            .build()?;
        (exporter, outbox)
    }};
}

pub(super) type Built<T> = Result<T, ExporterBuildError>;

/// Encodes spans.
#[derive(Debug)]
pub(super) struct SpanEncoder {
    exporter: opentelemetry_otlp::SpanExporter,
    outbox: Arc<Outbox>,
}

impl SpanEncoder {
    pub(super) fn new(resource: &Resource) -> Built<Self> {
        let (mut exporter, outbox) = exporter!(opentelemetry_otlp::SpanExporter::builder());
        exporter.set_resource(resource);
        Ok(Self { exporter, outbox })
    }

    pub(super) fn encode(&self, batch: Vec<SpanData>) -> Result<Parcel, String> {
        let items = batch.len() as u64;
        self.outbox.parcel(Signal::Traces, items, at_once(self.exporter.export(batch)))
    }
}

/// Encodes log records.
#[derive(Debug)]
pub(super) struct RecordEncoder {
    exporter: opentelemetry_otlp::LogExporter,
    outbox: Arc<Outbox>,
}

impl RecordEncoder {
    pub(super) fn new(resource: &Resource) -> Built<Self> {
        let (mut exporter, outbox) = exporter!(opentelemetry_otlp::LogExporter::builder());
        exporter.set_resource(resource);
        Ok(Self { exporter, outbox })
    }

    pub(super) fn encode(&self, batch: &[QueuedRecord]) -> Result<Parcel, String> {
        let pairs: Vec<_> = batch.iter().map(|record| (&record.0, &record.1)).collect();
        let encoded = at_once(self.exporter.export(LogBatch::new(&pairs)));
        self.outbox.parcel(Signal::Logs, batch.len() as u64, encoded)
    }
}

/// Encodes collections of metrics.
pub(super) struct MetricEncoder {
    exporter: opentelemetry_otlp::MetricExporter,
    outbox: Arc<Outbox>,
}

impl MetricEncoder {
    pub(super) fn new(temporality: Temporality) -> Built<Self> {
        let builder = opentelemetry_otlp::MetricExporter::builder().with_temporality(temporality);
        let (exporter, outbox) = exporter!(builder);
        Ok(Self { exporter, outbox })
    }

    pub(super) fn encode(&self, metrics: &ResourceMetrics) -> Result<Parcel, String> {
        self.outbox.parcel(Signal::Metrics, 1, at_once(self.exporter.export(metrics)))
    }
}

#[cfg(test)]
mod tests;
