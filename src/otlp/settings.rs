//! The settings of the exporters, and the warnings about variables that could not be used.

use std::{fmt, path::PathBuf, time::Duration};

use opentelemetry_sdk::{
    metrics::Temporality,
    trace::{Sampler, SpanLimits},
};

use super::ledger::Signal;
use crate::policy::Plain;

pub(super) const DEFAULT_QUEUE: usize = 65_536;
pub(super) const DEFAULT_BATCH: usize = 512;
pub(super) const DEFAULT_QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// The largest message that gRPC servers take by default.
pub(super) const DEFAULT_BATCH_BYTES: usize = 4 * 1024 * 1024;
pub(super) const DEFAULT_SPAN_DELAY: Duration = Duration::from_secs(5);
pub(super) const DEFAULT_LOG_DELAY: Duration = Duration::from_secs(1);
pub(super) const DEFAULT_EXPORT_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const DEFAULT_METRIC_INTERVAL: Duration = Duration::from_secs(60);
pub(super) const DEFAULT_OTLP_TIMEOUT: Duration = Duration::from_secs(10);

/// No wait is longer: beyond it lies the overflow of the clock, and nobody means it.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// `wait`, short enough to be added to any instant.
pub(super) fn capped(wait: Duration) -> Duration {
    wait.min(LONGEST_WAIT)
}

/// The wire protocol of an OTLP endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// gRPC, by convention on port 4317.
    Grpc,
    /// Protobuf over HTTP/1.1, by convention on port 4318: the default, as the specification recommends.
    HttpProtobuf,
}

impl Protocol {
    /// The protocol as `OTEL_EXPORTER_OTLP_PROTOCOL` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// A part that a feature of this crate brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Grpc,
    Tls,
    Gzip,
    Console,
    EnvFilter,
}

impl Part {
    pub(super) const fn feature(self) -> &'static str {
        match self {
            Self::Grpc => "otlp-grpc",
            Self::Tls => "tls",
            Self::Gzip => "gzip",
            Self::Console => "console",
            Self::EnvFilter => "env-filter",
        }
    }
}

/// Returns true if the part is compiled into this program.
pub(super) const fn compiled(part: Part) -> bool {
    match part {
        Part::Grpc => cfg!(feature = "otlp-grpc"),
        Part::Tls => cfg!(feature = "tls"),
        Part::Gzip => cfg!(feature = "gzip"),
        Part::Console => cfg!(feature = "console"),
        Part::EnvFilter => cfg!(feature = "env-filter"),
    }
}

/// A URL as it may be shown: with `***` for its user and password, and for its query. Of a text that is no address, all before its last `@` is
/// hidden.
pub(super) fn redacted(url: &str) -> String {
    const HIDDEN: &str = "***";
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    // In an address that can be read, what comes after the authority is no secret.
    let is_address =
        url.parse::<hyper::Uri>().is_ok_and(|uri| uri.scheme().is_some() && has_a_port_or_none(&uri));
    let secret = if is_address { rest.find(['/', '?', '#']).unwrap_or(rest.len()) } else { rest.len() };
    let shown =
        rest[..secret].rfind('@').map_or(url.to_owned(), |at| format!("{scheme}{HIDDEN}{}", &rest[at..]));
    // Some vendors take their key there.
    match shown.split_once('?') {
        Some((address, query)) if !query.is_empty() => format!("{address}?{HIDDEN}"),
        _ => shown,
    }
}

/// A path as it may be shown: a variable may have the text of a key where its path is wanted.
pub(super) fn shown_path(path: &str) -> String {
    if path.contains("-----BEGIN") || path.contains(['\n', '\r']) {
        "(hidden)".to_owned()
    } else {
        path.to_owned()
    }
}

/// Returns true if what follows the host is a port: the parser of addresses takes any text.
pub(super) fn has_a_port_or_none(uri: &hyper::Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit('@').next().unwrap_or_default();
    // The colons of an address of IPv6 are in brackets.
    match host_and_port.rsplit_once(':').filter(|_| !host_and_port.ends_with(']')) {
        Some((_, port)) => port.parse().is_ok_and(|port: u16| port > 0),
        None => !host_and_port.is_empty(),
    }
}

/// The problem of the value of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// The value cannot be read.
    Malformed,
    /// The value names something that is not known.
    Unknown,
    /// The value names something that is known but not supported here.
    Unsupported,
    /// The value is used, but is probably not what was meant.
    Suspicious,
}

/// A variable of the environment with a problem, and the value that was used instead.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The variable.
    pub variable: String,
    /// Its value. Headers have their name alone, and URLs `***` for their user and password.
    pub value: String,
    /// The problem.
    pub kind: WarningKind,
    /// The value or the behaviour that was used instead.
    pub used: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, value, kind, used } = self;
        let what = match kind {
            WarningKind::Malformed => "cannot be read",
            WarningKind::Unknown => "is not known",
            WarningKind::Unsupported => "is not supported",
            WarningKind::Suspicious => "is probably not what was meant",
        };
        write!(f, "{variable}={value:?} {what}: {}", Plain(used))
    }
}

/// The path of a signal over HTTP.
pub(super) fn http_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

/// Returns the default destination of a signal.
pub(super) fn default_endpoint(signal: Signal, protocol: Protocol) -> String {
    match protocol {
        Protocol::Grpc => "http://localhost:4317/".to_owned(),
        Protocol::HttpProtobuf => format!("http://localhost:4318{}", http_path(signal)),
    }
}

/// Notes a warning, once where several signals have it.
pub(super) fn warn_once(warnings: &mut Vec<Warning>, warning: Warning) {
    if !warnings.contains(&warning) {
        warnings.push(warning);
    }
}

/// A setting of the code that this program cannot fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BadOverride {
    /// An endpoint that is not an `http` or `https` address, as it may be shown.
    Endpoint(String),
    /// A setting, as it may be shown, that needs a part which was not compiled.
    NotCompiled(String, Part),
}

/// The settings of the code, which override the environment.
#[derive(Debug, Clone, Default)]
pub(super) struct Overrides {
    pub(super) endpoint: Option<String>,
    pub(super) protocol: Option<Protocol>,
    pub(super) only_if_configured: bool,
}

/// The destination of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Targets {
    pub(super) otlp: bool,
    pub(super) console: bool,
}

impl Targets {
    pub(super) const NONE: Self = Self { otlp: false, console: false };

    pub(super) fn any(self) -> bool {
        self.otlp || self.console
    }
}

/// The settings of a signal's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchSettings {
    pub(super) queue: usize,
    pub(super) batch: usize,
    /// The most memory that items may take while they wait.
    pub(super) bytes: usize,
    /// The most memory of a batch's items, and so of a single one.
    pub(super) batch_bytes: usize,
    pub(super) delay: Duration,
    pub(super) timeout: Duration,
}

impl BatchSettings {
    /// Each collection of metrics is a request of its own, however large.
    pub(super) const COLLECTIONS: Self = Self {
        queue: DEFAULT_QUEUE,
        batch: 1,
        bytes: DEFAULT_QUEUE_BYTES,
        batch_bytes: DEFAULT_QUEUE_BYTES,
        delay: LONGEST_WAIT,
        timeout: DEFAULT_EXPORT_TIMEOUT,
    };
}

/// The settings of a signal's OTLP exporter.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct OtlpSettings {
    pub(super) protocol: Protocol,
    /// Complete: scheme, host, and for HTTP the path.
    pub(super) endpoint: String,
    /// The variable that the endpoint is of. None, if it is the code's or the default.
    pub(super) variable: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Duration,
    pub(super) gzip: bool,
    pub(super) certificate: Option<(String, PathBuf)>,
    pub(super) identity: Option<(String, PathBuf, PathBuf)>,
    /// The address of an HTTP proxy.
    pub(super) proxy: Option<String>,
}

/// Without credentials.
impl fmt::Debug for OtlpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, endpoint, variable, headers, timeout, gzip, certificate, identity, proxy } =
            self;
        let headers: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("OtlpSettings")
            .field("protocol", protocol)
            .field("endpoint", &redacted(endpoint))
            .field("variable", variable)
            .field("headers", &headers)
            .field("timeout", timeout)
            .field("gzip", gzip)
            .field("certificate", certificate)
            .field("identity", identity)
            .field("proxy", &proxy.as_deref().map(redacted))
            .finish()
    }
}

/// One signal's part of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignalSettings {
    pub(super) targets: Targets,
    /// Off because nothing is configured, and that was asked for.
    pub(super) unconfigured: bool,
    pub(super) otlp: OtlpSettings,
}

/// A propagator of `OTEL_PROPAGATORS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Propagator {
    TraceContext,
    Baggage,
}

/// Everything the environment says, defaults filled in.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) disabled: bool,
    pub(super) traces: SignalSettings,
    pub(super) metrics: SignalSettings,
    pub(super) logs: SignalSettings,
    pub(super) service_name: Option<String>,
    pub(super) resource: Vec<(String, String)>,
    pub(super) sampler: Sampler,
    pub(super) limits: SpanLimits,
    pub(super) spans: BatchSettings,
    pub(super) records: BatchSettings,
    pub(super) collections: BatchSettings,
    pub(super) metric_interval: Duration,
    pub(super) metric_timeout: Duration,
    pub(super) temporality: Temporality,
    pub(super) propagators: Vec<Propagator>,
    pub(super) rust_log: Option<String>,
    pub(super) warnings: Vec<Warning>,
}
