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
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter as _},
    trace::{SpanData, SpanExporter as _},
};

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
        let count = self.leaves()?;
        if count < 2 {
            return None;
        }
        let half = |keep: &mut dyn FnMut(usize) -> bool| {
            let mut sieve = Sieve { keep, next: 0 };
            let mut body = Vec::new();
            let leaves = sieve.sift(&self.body, levels(self.signal), &mut body)? as u64;
            let items = if self.signal == Signal::Metrics { self.items } else { leaves };
            Some(Self { body: body.into(), items, ..self.clone() })
        };
        Some([half(&mut |index| index < count / 2)?, half(&mut |index| index >= count / 2)?])
    }

    /// The number of data points of a collection; `None` where they cannot be counted.
    pub(super) fn points(&self) -> Option<u64> {
        self.leaves().map(|points| points as u64)
    }

    /// The number of spans, records or data points; `None` where the body is compressed or invalid.
    fn leaves(&self) -> Option<usize> {
        let mut all = Sieve { keep: &mut |_| true, next: 0 };
        self.encoding.is_none().then(|| all.sift(&self.body, levels(self.signal), &mut Vec::new()))?
    }
}

/// The numbers of the fields that lead from a request to its spans, records or data points.
fn levels(signal: Signal) -> &'static [&'static [usize]] {
    match signal {
        // Resources, scopes, spans or records.
        Signal::Traces | Signal::Logs => &[&[1], &[2], &[2]],
        // Resources, scopes, metrics, one of five kinds, data points.
        Signal::Metrics => &[&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]],
    }
}

/// Keeps some of the leaves of a request, by their position. It works on the encoded form: a decoder of all messages of OTLP
/// is a twelfth of this crate's code. It also drops fields of a later version.
struct Sieve<'a> {
    keep: &'a mut dyn FnMut(usize) -> bool,
    next: usize,
}

impl Sieve<'_> {
    /// Copies a message without the leaves for whose position `keep` is false, and without groups that are empty then. Returns
    /// how many are left, or `None` if the message is invalid.
    fn sift(&mut self, mut message: &[u8], levels: &[&[usize]], kept: &mut Vec<u8>) -> Option<usize> {
        let Some((fields, deeper)) = levels.split_first() else {
            let keeps = (self.keep)(self.next);
            self.next += 1;
            kept.extend_from_slice(if keeps { message } else { &[] });
            return Some(usize::from(keeps));
        };
        let mut left = 0;
        while !message.is_empty() {
            let whole = message;
            let key = prost::decode_length_delimiter(&mut message).ok()?;
            // The value's bytes, by its type: a variable-length number, eight bytes, a text or a message, four bytes.
            let length = match key % 8 {
                0 => message.iter().position(|byte| *byte < 0x80)? + 1,
                1 => 8,
                2 => prost::decode_length_delimiter(&mut message).ok()?,
                5 => 4,
                _ => return None,
            };
            let value;
            (value, message) = message.split_at_checked(length)?;
            if key % 8 != 2 || !fields.contains(&(key / 8)) {
                kept.extend_from_slice(&whole[..whole.len() - message.len()]);
                continue;
            }
            let mut part = Vec::new();
            let of_part = self.sift(value, deeper, &mut part)?;
            if of_part > 0 {
                // Its key is below 128, one byte.
                kept.push(key as u8);
                prost::encode_length_delimiter(part.len(), kept).expect("a vector grows");
                kept.append(&mut part);
            }
            left += of_part;
        }
        Some(left)
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
