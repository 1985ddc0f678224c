//! An OTLP receiver inside the test: real gRPC and real HTTP on one loopback port, on a thread and a runtime of its own.
//!
//! ```ignore
//! mod support;
//! use support::otlp::{Behaviour, Receiver, wait_for};
//!
//! let receiver = Receiver::start(Protocol::Grpc);              // or HttpProtobuf: it speaks both
//! let telemetry = receiver.telemetry("my-service").build()?;   // a builder pointed at it, its environment empty
//! // ... spans, metrics, events ...
//! let report = telemetry.shutdown_blocking();
//!
//! let span = receiver.span("task.run");                        // the only span of that name, or a panic that lists them
//! assert_eq!(span.string("task.name"), Some("reminders"));     // attribute(), string(), int(), bool(), double()
//! assert_eq!(span.resource.string("service.name"), Some("my-service"));
//! assert_eq!(receiver.log("task.exception").trace_id, span.trace_id);
//! assert_eq!(receiver.sum("task.runs", &[("task.name", "reminders")]), Some(3.0));   // newest collection only
//! receiver.set_behaviour(Behaviour::Hang);                      // from the next request on
//! assert!(wait_for(Duration::from_secs(5), || receiver.requests().traces == 1));
//! ```
//!
//! Requests are recorded when they are answered with success; [`Receiver::requests`] counts all as they arrive.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{metric, number_data_point},
};
use otel_tasks::telemetry::{Protocol, TelemetryBuilder};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, rustls};

/// A protocol that was compiled, for a test to which it does not matter.
pub const ANY: Protocol = if cfg!(feature = "otlp-grpc") { Protocol::Grpc } else { Protocol::HttpProtobuf };

/// What the receiver does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers with success.
    Ok,
    /// Answers with success, so much later.
    Delay(Duration),
    /// Refuses for good: gRPC `INVALID_ARGUMENT`, HTTP 400. Exporters do not try again.
    Refuse,
    /// Refuses for now: gRPC `UNAVAILABLE`, HTTP 503. Exporters try again.
    Unavailable,
    /// Never answers.
    Hang,
    /// Takes a request but for the first so many of its items: a partial success.
    Reject(i64),
    /// Refuses requests of more bytes: gRPC `RESOURCE_EXHAUSTED`, HTTP 413.
    AtMost(usize),
    /// Asks for a pause: gRPC `RESOURCE_EXHAUSTED` with `RetryInfo`, HTTP 429 with `Retry-After`. Whole seconds.
    Throttle(Duration),
    /// Answers so, over HTTP alone.
    Raw(Raw),
}

/// An answer of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    pub status: u16,
    pub headers: &'static [(&'static str, &'static str)],
    pub body: &'static str,
}

/// How many requests arrived, whatever became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    pub traces: usize,
    pub metrics: usize,
    pub logs: usize,
}

/// Attributes by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(pub BTreeMap<String, AnyValue>);

impl Attributes {
    fn new(pairs: Vec<KeyValue>) -> Self {
        Self(pairs.into_iter().filter_map(|pair| Some((pair.key, pair.value?))).collect())
    }

    fn value(&self, key: &str) -> Option<&any_value::Value> {
        self.0.get(key)?.value.as_ref()
    }

    /// The value as text, whatever its type: for assertions that do not care.
    pub fn text(&self, key: &str) -> Option<String> {
        Some(match self.value(key)? {
            any_value::Value::StringValue(value) => value.clone(),
            any_value::Value::IntValue(value) => value.to_string(),
            any_value::Value::BoolValue(value) => value.to_string(),
            any_value::Value::DoubleValue(value) => value.to_string(),
            other => format!("{other:?}"),
        })
    }

    pub fn string(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            any_value::Value::StringValue(value) => Some(value),
            _ => None,
        }
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        match self.value(key)? {
            any_value::Value::IntValue(value) => Some(*value),
            _ => None,
        }
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            any_value::Value::BoolValue(value) => Some(*value),
            _ => None,
        }
    }

    pub fn double(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            any_value::Value::DoubleValue(value) => Some(*value),
            _ => None,
        }
    }

    /// True where every pair is there, compared as text.
    pub fn contain(&self, pairs: &[(&str, &str)]) -> bool {
        pairs.iter().all(|(key, value)| self.text(key).as_deref() == Some(*value))
    }
}

/// Where an item came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    pub name: String,
    pub version: String,
}

/// A span as it arrived.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    /// Empty for a root.
    pub parent_id: Vec<u8>,
    pub attributes: Attributes,
    pub resource: Attributes,
    pub scope: Scope,
    /// Status, links, events, times.
    pub raw: opentelemetry_proto::tonic::trace::v1::Span,
}

impl Span {
    pub fn string(&self, key: &str) -> Option<&str> {
        self.attributes.string(key)
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        self.attributes.int(key)
    }

    pub fn is_root(&self) -> bool {
        self.parent_id.is_empty()
    }

    pub fn is_child_of(&self, parent: &Span) -> bool {
        self.parent_id == parent.span_id && self.trace_id == parent.trace_id
    }

    /// The code of the status: 0 unset, 1 ok, 2 error.
    pub fn status_code(&self) -> i32 {
        self.raw.status.as_ref().map_or(0, |status| status.code)
    }

    /// The description of the status.
    pub fn status_message(&self) -> &str {
        self.raw.status.as_ref().map_or("", |status| &status.message)
    }

    /// The ids of the spans it links to, trace first.
    pub fn links(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.raw.links.iter().map(|link| (link.trace_id.clone(), link.span_id.clone())).collect()
    }

    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.raw.end_time_unix_nano.saturating_sub(self.raw.start_time_unix_nano))
    }
}

/// A log record as it arrived.
#[derive(Debug, Clone)]
pub struct Log {
    /// Empty where the event had none.
    pub event_name: String,
    pub body: Option<String>,
    pub severity: String,
    pub trace_id: Vec<u8>,
    pub span_id: Vec<u8>,
    pub attributes: Attributes,
    pub resource: Attributes,
    pub scope: Scope,
}

impl Log {
    pub fn string(&self, key: &str) -> Option<&str> {
        self.attributes.string(key)
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        self.attributes.int(key)
    }
}

/// What an instrument measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    UpDownCounter,
    Gauge,
    Histogram,
}

/// A data point as it arrived.
#[derive(Debug, Clone)]
pub struct Point {
    pub attributes: Attributes,
    /// A sum's or gauge's value, a histogram's sum.
    pub value: f64,
    /// A histogram's.
    pub count: u64,
    pub bucket_counts: Vec<u64>,
    pub bounds: Vec<f64>,
}

/// An instrument in one collection.
#[derive(Debug, Clone)]
pub struct Metric {
    pub name: String,
    pub unit: String,
    pub description: String,
    pub kind: Kind,
    /// True where the points are since the process began, false where they are since the last collection.
    pub cumulative: bool,
    pub points: Vec<Point>,
    pub resource: Attributes,
    pub scope: Scope,
    /// The number of the request that brought it, from 0.
    pub collection: usize,
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    metrics: Vec<Metric>,
    logs: Vec<Log>,
    headers: Vec<BTreeMap<String, String>>,
    collections: usize,
}

#[derive(Debug)]
struct Inner {
    received: Mutex<Received>,
    requests: Mutex<Requests>,
    behaviour: tokio::sync::watch::Sender<Behaviour>,
}

impl Inner {
    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many items of a request of so many bytes are rejected.
    async fn behave(&self, bytes: usize, count: impl FnOnce(&mut Requests)) -> Result<usize, Failure> {
        count(&mut self.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let behaviour = *self.behaviour.borrow();
        match behaviour {
            Behaviour::Ok => Ok(0),
            Behaviour::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(0)
            }
            Behaviour::Refuse => Err(Failure::new(tonic::Code::InvalidArgument, StatusCode::BAD_REQUEST)),
            Behaviour::Unavailable => {
                Err(Failure::new(tonic::Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE))
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Reject(rejected) => Ok(usize::try_from(rejected).unwrap_or(0)),
            Behaviour::AtMost(most) if bytes <= most => Ok(0),
            Behaviour::AtMost(_) => {
                let (code, status) = (tonic::Code::ResourceExhausted, StatusCode::PAYLOAD_TOO_LARGE);
                Err(Failure { words: "received message larger than max", ..Failure::new(code, status) })
            }
            Behaviour::Throttle(pause) => {
                let (code, status) = (tonic::Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS);
                Err(Failure { pause: Some(pause), ..Failure::new(code, status) })
            }
            Behaviour::Raw(raw) => {
                let status = StatusCode::from_u16(raw.status).expect("a status");
                Err(Failure { raw: Some(raw), ..Failure::new(tonic::Code::Internal, status) })
            }
        }
    }

    fn note(&self, headers: &axum::http::HeaderMap) {
        let mut seen = BTreeMap::<String, String>::new();
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            let seen = seen.entry(name.as_str().to_owned()).or_default();
            *seen = if seen.is_empty() { value.into_owned() } else { format!("{seen}, {value}") };
        }
        self.received().headers.push(seen);
    }

    async fn traces(&self, request: ExportTraceServiceRequest) -> Result<usize, Failure> {
        let rejected = self.behave(request.encoded_len(), |requests| requests.traces += 1).await?;
        let mut received = self.received();
        for of_resource in request.resource_spans {
            let resource = Attributes::new(of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_spans {
                let scope = of_scope.scope.unwrap_or_default();
                let scope = Scope { name: scope.name, version: scope.version };
                let taken = of_scope.spans.into_iter().skip(rejected);
                received.spans.extend(taken.map(|span| Span {
                    name: span.name.clone(),
                    trace_id: span.trace_id.clone(),
                    span_id: span.span_id.clone(),
                    parent_id: span.parent_span_id.clone(),
                    attributes: Attributes::new(span.attributes.clone()),
                    resource: resource.clone(),
                    scope: scope.clone(),
                    raw: span,
                }));
            }
        }
        Ok(rejected)
    }

    async fn logs(&self, request: ExportLogsServiceRequest) -> Result<usize, Failure> {
        let rejected = self.behave(request.encoded_len(), |requests| requests.logs += 1).await?;
        let mut received = self.received();
        for of_resource in request.resource_logs {
            let resource = Attributes::new(of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_logs {
                let scope = of_scope.scope.unwrap_or_default();
                let scope = Scope { name: scope.name, version: scope.version };
                let taken = of_scope.log_records.into_iter().skip(rejected);
                received.logs.extend(taken.map(|record| Log {
                    event_name: record.event_name,
                    body: record.body.and_then(|body| match body.value? {
                        any_value::Value::StringValue(text) => Some(text),
                        other => Some(format!("{other:?}")),
                    }),
                    severity: record.severity_text,
                    trace_id: record.trace_id,
                    span_id: record.span_id,
                    attributes: Attributes::new(record.attributes),
                    resource: resource.clone(),
                    scope: scope.clone(),
                }));
            }
        }
        Ok(rejected)
    }

    async fn metrics(&self, request: ExportMetricsServiceRequest) -> Result<usize, Failure> {
        let rejected = self.behave(request.encoded_len(), |requests| requests.metrics += 1).await?;
        let mut received = self.received();
        let collection = received.collections;
        received.collections += 1;
        for of_resource in request.resource_metrics {
            let resource = Attributes::new(of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_metrics {
                let scope = of_scope.scope.unwrap_or_default();
                let scope = Scope { name: scope.name, version: scope.version };
                for metric in of_scope.metrics {
                    let Some(data) = metric.data else { continue };
                    let (kind, temporality, points) = points(data);
                    received.metrics.push(Metric {
                        name: metric.name,
                        unit: metric.unit,
                        description: metric.description,
                        kind,
                        cumulative: temporality == 2,
                        points,
                        resource: resource.clone(),
                        scope: scope.clone(),
                        collection,
                    });
                }
            }
        }
        Ok(rejected)
    }
}

fn points(data: metric::Data) -> (Kind, i32, Vec<Point>) {
    let number = |point: opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| Point {
        attributes: Attributes::new(point.attributes),
        value: match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            Some(number_data_point::Value::AsInt(value)) => value as f64,
            None => f64::NAN,
        },
        count: 0,
        bucket_counts: Vec::new(),
        bounds: Vec::new(),
    };
    match data {
        metric::Data::Gauge(gauge) => (Kind::Gauge, 2, gauge.data_points.into_iter().map(number).collect()),
        metric::Data::Sum(sum) => {
            let kind = if sum.is_monotonic { Kind::Counter } else { Kind::UpDownCounter };
            (kind, sum.aggregation_temporality, sum.data_points.into_iter().map(number).collect())
        }
        metric::Data::Histogram(histogram) => {
            let points = histogram.data_points.into_iter().map(|point| Point {
                attributes: Attributes::new(point.attributes),
                value: point.sum.unwrap_or(f64::NAN),
                count: point.count,
                bucket_counts: point.bucket_counts,
                bounds: point.explicit_bounds,
            });
            (Kind::Histogram, histogram.aggregation_temporality, points.collect())
        }
        other => panic!("no test expects {other:?}"),
    }
}

/// What a receiver says of items that it rejects.
const WORDS: &str = "as the test wants it";

#[derive(Debug)]
struct Failure {
    code: tonic::Code,
    status: StatusCode,
    words: &'static str,
    pause: Option<Duration>,
    raw: Option<Raw>,
}

impl Failure {
    fn new(code: tonic::Code, status: StatusCode) -> Self {
        Self { code, status, words: WORDS, pause: None, raw: None }
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        use tonic_types::StatusExt as _;
        let mut details = tonic_types::ErrorDetails::new();
        if let Some(pause) = failure.pause {
            details.set_retry_info(Some(pause));
        }
        Self::with_error_details(failure.code, failure.words, details)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if let Some(raw) = self.raw {
            let headers = raw.headers.iter().map(|(name, value)| (*name, *value));
            let mut response = (self.status, raw.body).into_response();
            response.headers_mut().remove("content-type");
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().expect("a header"));
            }
            return response;
        }
        let pause = self.pause.map(|pause| [("retry-after", pause.as_secs().to_string())]);
        (self.status, pause.map(axum::response::AppendHeaders), self.words).into_response()
    }
}

#[derive(Clone)]
struct Service(Arc<Inner>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let rejected = self.0.traces(request.into_inner()).await?;
        Ok(tonic::Response::new(traces_answer(rejected)))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let rejected = self.0.metrics(request.into_inner()).await?;
        Ok(tonic::Response::new(metrics_answer(rejected)))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        let rejected = self.0.logs(request.into_inner()).await?;
        Ok(tonic::Response::new(logs_answer(rejected)))
    }
}

macro_rules! answers {
    ($name:ident, $response:ident, $partial:ident, $rejected:ident) => {
        fn $name(rejected: usize) -> $response {
            let partial = $partial { $rejected: rejected as i64, error_message: WORDS.to_owned() };
            $response { partial_success: (rejected > 0).then_some(partial) }
        }
    };
}
answers!(traces_answer, ExportTraceServiceResponse, ExportTracePartialSuccess, rejected_spans);
answers!(metrics_answer, ExportMetricsServiceResponse, ExportMetricsPartialSuccess, rejected_data_points);
answers!(logs_answer, ExportLogsServiceResponse, ExportLogsPartialSuccess, rejected_log_records);

/// An answer in protobuf, as the specification has it.
fn protobuf(message: impl Message) -> Response {
    ([("content-type", "application/x-protobuf")], message.encode_to_vec()).into_response()
}

fn decoded<T: Message + Default>(body: Bytes) -> Result<T, Failure> {
    T::decode(body).map_err(|_| Failure::new(tonic::Code::InvalidArgument, StatusCode::BAD_REQUEST))
}

fn router(inner: &Arc<Inner>) -> axum::Router {
    use tonic::codec::CompressionEncoding::Gzip;
    let service = Service(Arc::clone(inner));
    let (traces, metrics, logs) = (Arc::clone(inner), Arc::clone(inner), Arc::clone(inner));
    let http = axum::Router::new()
        .route(
            "/v1/traces",
            post(async move |body: Bytes| {
                Ok::<_, Failure>(protobuf(traces_answer(traces.traces(decoded(body)?).await?)))
            }),
        )
        .route(
            "/v1/metrics",
            post(async move |body: Bytes| {
                Ok::<_, Failure>(protobuf(metrics_answer(metrics.metrics(decoded(body)?).await?)))
            }),
        )
        .route(
            "/v1/logs",
            post(async move |body: Bytes| {
                Ok::<_, Failure>(protobuf(logs_answer(logs.logs(decoded(body)?).await?)))
            }),
        );
    let noted = Arc::clone(inner);
    tonic::service::Routes::new(TraceServiceServer::new(service.clone()).accept_compressed(Gzip))
        .add_service(MetricsServiceServer::new(service.clone()).accept_compressed(Gzip))
        .add_service(LogsServiceServer::new(service).accept_compressed(Gzip))
        .into_axum_router()
        .merge(http)
        .layer(axum::middleware::map_request(move |request: axum::extract::Request| {
            noted.note(request.headers());
            std::future::ready(request)
        }))
}

fn named<T: Clone>(all: &[T], name_of: impl Fn(&T) -> &String, name: &str) -> Vec<T> {
    all.iter().filter(|one| name_of(one) == name).cloned().collect()
}

#[track_caller]
fn only<T: Clone>(all: &[T], name_of: impl Fn(&T) -> &String, name: &str) -> T {
    let mut found = named(all, &name_of, name);
    let names: Vec<_> = all.iter().map(name_of).collect();
    assert_eq!(found.len(), 1, "those named {name:?} among {names:?}");
    found.remove(0)
}

/// A running receiver; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
    address: SocketAddr,
    protocol: Protocol,
    authority: Option<PathBuf>,
    _server: Server,
}

/// A thread that answers on a socket; dropping it closes the socket and its connections.
#[derive(Debug)]
pub struct Server {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(listener: TcpListener, router: axum::Router, acceptor: Option<TlsAcceptor>) -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a runtime with io");
            let mut connections = tokio::task::JoinSet::new();
            let accept = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let (router, acceptor) = (router.clone(), acceptor.clone());
                    connections.spawn(async move {
                        match acceptor {
                            None => answer(stream, router).await,
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    answer(stream, router).await;
                                }
                            }
                        }
                    });
                }
            };
            tokio::select! { () = accept => {}, _ = stopped => {} }
        };
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve);
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// A server of `router`, in HTTP/1.1 and HTTP/2, and its address.
    pub fn of(router: axum::Router) -> (String, Self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that can be non-blocking");
        let address = listener.local_addr().expect("a bound socket");
        (format!("http://{address}"), Self::start(listener, router, None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Receiver {
    /// A receiver on a free loopback port. It speaks both protocols; `protocol` is what [`telemetry`](Self::telemetry)
    /// uses.
    pub fn start(protocol: Protocol) -> Self {
        Self::start_on(protocol, 0, None)
    }

    /// The same on a given port: for a collector that comes back.
    pub fn start_at(protocol: Protocol, address: SocketAddr) -> Self {
        Self::start_on(protocol, address.port(), None)
    }

    /// The same with TLS: [`authority`](Self::authority) is the file of the certificate authority to trust.
    pub fn start_tls(protocol: Protocol) -> Self {
        Self::start_on(protocol, 0, Some(Tls::new()))
    }

    fn start_on(protocol: Protocol, port: u16, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket that can be non-blocking");
        let address = listener.local_addr().expect("a bound socket");
        let inner = Arc::new(Inner {
            received: Mutex::default(),
            requests: Mutex::default(),
            behaviour: tokio::sync::watch::Sender::new(Behaviour::Ok),
        });
        let authority = tls.as_ref().map(|tls| tls.authority.clone());
        let server = Server::start(listener, router(&inner), tls.map(|tls| tls.acceptor));
        Self { inner, address, protocol, authority, _server: server }
    }

    /// The address to export to, without the path of a signal.
    pub fn endpoint(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate authority's file of a receiver with TLS.
    pub fn authority(&self) -> &PathBuf {
        self.authority.as_ref().expect("a receiver started with TLS")
    }

    /// A builder that exports here, its environment empty; change the environment with `.env()`.
    pub fn telemetry(&self, service: &str) -> TelemetryBuilder {
        otel_tasks::Telemetry::builder()
            .service(service)
            .endpoint(self.endpoint())
            .protocol(self.protocol)
            .env(|_| None)
    }

    /// What happens from the next request on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.inner.behaviour.send_replace(behaviour);
    }

    /// The requests that arrived so far.
    pub fn requests(&self) -> Requests {
        *self.inner.requests.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The headers of all requests so far; a header that came twice has both values, with a comma.
    pub fn headers(&self) -> Vec<BTreeMap<String, String>> {
        self.inner.received().headers.clone()
    }

    /// All spans in the order in which they arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.inner.received().spans.clone()
    }

    /// The spans of that name.
    pub fn spans_named(&self, name: &str) -> Vec<Span> {
        named(&self.inner.received().spans, |span| &span.name, name)
    }

    /// The only span of that name.
    #[track_caller]
    pub fn span(&self, name: &str) -> Span {
        only(&self.inner.received().spans, |span| &span.name, name)
    }

    /// All log records in the order in which they arrived.
    pub fn logs(&self) -> Vec<Log> {
        self.inner.received().logs.clone()
    }

    /// The log records with that event name.
    pub fn logs_named(&self, event_name: &str) -> Vec<Log> {
        named(&self.inner.received().logs, |log| &log.event_name, event_name)
    }

    /// The only log record with that event name.
    #[track_caller]
    pub fn log(&self, event_name: &str) -> Log {
        only(&self.inner.received().logs, |log| &log.event_name, event_name)
    }

    /// All instruments of all collections.
    pub fn metrics(&self) -> Vec<Metric> {
        self.inner.received().metrics.clone()
    }

    /// The instrument in the newest collection that has it.
    pub fn metric(&self, name: &str) -> Option<Metric> {
        self.inner.received().metrics.iter().rev().find(|metric| metric.name == name).cloned()
    }

    /// The points of the newest collection that carry all of `pairs`.
    pub fn points(&self, name: &str, pairs: &[(&str, &str)]) -> Vec<Point> {
        let points = self.metric(name).map(|metric| metric.points).unwrap_or_default();
        points.into_iter().filter(|point| point.attributes.contain(pairs)).collect()
    }

    /// The sum of those points' values; `None` where there are none.
    pub fn sum(&self, name: &str, pairs: &[(&str, &str)]) -> Option<f64> {
        let points = self.points(name, pairs);
        (!points.is_empty()).then(|| points.iter().map(|point| point.value).sum())
    }

    /// The sum of those points' counts, of a histogram; `None` where there are none.
    pub fn count(&self, name: &str, pairs: &[(&str, &str)]) -> Option<u64> {
        let points = self.points(name, pairs);
        (!points.is_empty()).then(|| points.iter().map(|point| point.count).sum())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(authority) = &self.authority {
            let _ = std::fs::remove_file(authority);
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: axum::Router) {
    let service = TowerToHyperService::new(router);
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// A name that is in the certificate of each [`Receiver`] with TLS, and no address: for a proxy to resolve.
pub const BEHIND_PROXY: &str = "collector.test";

/// An authority, and a certificate for that name that it signed, with its key.
pub fn certified(
    name: &str,
) -> (rcgen::CertifiedIssuer<'static, rcgen::KeyPair>, rcgen::Certificate, rcgen::KeyPair) {
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let issuer = rcgen::CertifiedIssuer::self_signed(ca, ca_key).expect("an authority");
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf =
        rcgen::CertificateParams::new(vec![name.to_owned(), BEHIND_PROXY.to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    (issuer, leaf, key)
}

struct Tls {
    acceptor: TlsAcceptor,
    authority: PathBuf,
}

impl Tls {
    fn new() -> Self {
        let (issuer, leaf, key) = certified("localhost");
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let authority =
            std::env::temp_dir().join(format!("otel-tasks-ca-{}-{number}.pem", std::process::id()));
        std::fs::write(&authority, issuer.pem()).expect("a writable temporary directory");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())
            .expect("a certificate and its key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), authority }
    }
}

/// Waits until `condition` holds, looking every 5 ms; false where it does not within `limit`.
pub fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address on which nothing listens. Only a listener that asks for its port gets it until the process ends: the tests of other threads get others.
pub fn closed_port() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a new socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = socket.local_addr().expect("a bound socket");
    std::mem::forget(socket);
    address
}
