//! The `OTEL_*` variables: read once, through a function, into plain settings.
//!
//! A variable that is empty counts as unset, and names of a closed set are known in any case. A value that cannot be read
//! is replaced by its default and named in a [`Warning`]; it is never an error, as the specification asks. Nothing here
//! touches the network or the process.

use std::{path::PathBuf, time::Duration};

use opentelemetry_sdk::{metrics::Temporality, trace::Sampler};

use super::ledger::Signal;
use crate::otlp::settings::{
    BadEndpoint, BatchSettings, DEFAULT_BATCH, DEFAULT_BATCH_BYTES, DEFAULT_EXPORT_TIMEOUT,
    DEFAULT_LOG_DELAY, DEFAULT_METRIC_INTERVAL, DEFAULT_OTLP_TIMEOUT, DEFAULT_QUEUE, DEFAULT_QUEUE_BYTES,
    DEFAULT_SPAN_DELAY, OtlpSettings, Overrides, Propagator, Protocol, Settings, SignalSettings, Targets,
    Warning, WarningKind, capped, warn_once,
};

/// Reads the environment `get` gives.
pub(super) fn read(
    get: &dyn Fn(&str) -> Option<String>,
    overrides: &Overrides,
) -> Result<Settings, BadEndpoint> {
    let mut r = Reader { get, warnings: Vec::new() };
    let traces = r.signal(Signal::Traces, overrides)?;
    let metrics = r.signal(Signal::Metrics, overrides)?;
    let logs = r.signal(Signal::Logs, overrides)?;
    Ok(Settings {
        disabled: r.flag("OTEL_SDK_DISABLED"),
        traces,
        metrics,
        logs,
        service_name: r.text("OTEL_SERVICE_NAME"),
        resource: r.resource(),
        sampler: r.sampler(),
        spans: r.batch(
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_EXPORT_TIMEOUT",
            DEFAULT_SPAN_DELAY,
        ),
        records: r.batch(
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_BLRP_SCHEDULE_DELAY",
            "OTEL_BLRP_EXPORT_TIMEOUT",
            DEFAULT_LOG_DELAY,
        ),
        collections: BatchSettings::COLLECTIONS,
        metric_interval: r.millis("OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_METRIC_INTERVAL),
        metric_timeout: r.millis("OTEL_METRIC_EXPORT_TIMEOUT", DEFAULT_EXPORT_TIMEOUT),
        temporality: r.temporality(),
        propagators: r.propagators(),
        rust_log: r.text("RUST_LOG"),
        warnings: r.warnings,
    })
}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.get)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn warn(
        &mut self,
        variable: impl Into<String>,
        value: impl Into<String>,
        kind: WarningKind,
        used: impl Into<String>,
    ) {
        let (variable, value, used) = (variable.into(), value.into(), used.into());
        warn_once(&mut self.warnings, Warning { variable, value, kind, used });
    }

    /// `true` in any case is true, everything else false: what the specification says of its booleans.
    fn flag(&mut self, name: &'static str) -> bool {
        match self.text(name) {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("true") => true,
            Some(value) => {
                if !value.eq_ignore_ascii_case("false") {
                    self.warn(name, value, WarningKind::Malformed, "false is used");
                }
                false
            }
        }
    }

    fn count(&mut self, name: &'static str, default: usize) -> usize {
        let Some(value) = self.text(name) else { return default };
        match value.parse() {
            Ok(count) if count > 0 => count,
            _ => {
                self.warn(name, value, WarningKind::Malformed, format!("{default} is used"));
                default
            }
        }
    }

    fn millis(&mut self, name: impl Into<String>, default: Duration) -> Duration {
        let name = name.into();
        let Some(value) = self.text(&name) else { return default };
        match value.parse() {
            Ok(millis) if millis > 0 => capped(Duration::from_millis(millis)),
            _ => {
                self.warn(
                    name,
                    value,
                    WarningKind::Malformed,
                    format!("{} ms are used", default.as_millis()),
                );
                default
            }
        }
    }

    fn batch(
        &mut self,
        queue: &'static str,
        batch: &'static str,
        delay: &'static str,
        timeout: &'static str,
        default_delay: Duration,
    ) -> BatchSettings {
        let capacity = self.count(queue, DEFAULT_QUEUE);
        let mut size = self.count(batch, DEFAULT_BATCH.min(capacity));
        if size > capacity {
            self.warn(
                batch,
                size.to_string(),
                WarningKind::Malformed,
                format!("the queue's {capacity} is used"),
            );
            size = capacity;
        }
        BatchSettings {
            queue: capacity,
            batch: size,
            bytes: DEFAULT_QUEUE_BYTES,
            batch_bytes: DEFAULT_BATCH_BYTES,
            delay: self.millis(delay, default_delay),
            timeout: self.millis(timeout, DEFAULT_EXPORT_TIMEOUT),
        }
    }

    fn signal(&mut self, signal: Signal, overrides: &Overrides) -> Result<SignalSettings, BadEndpoint> {
        let exporter = self.text(exporter_variable(signal));
        let configured = exporter.is_some()
            || overrides.endpoint.is_some()
            || self.text(&own(signal, "ENDPOINT")).is_some()
            || self.text(GENERAL_ENDPOINT).is_some();
        let targets = match exporter {
            Some(list) => self.targets(exporter_variable(signal), &list),
            None if configured || !overrides.only_if_configured => Targets { otlp: true, console: false },
            None => Targets::NONE,
        };
        Ok(SignalSettings { targets, otlp: self.otlp(signal, overrides)? })
    }

    fn targets(&mut self, variable: &'static str, list: &str) -> Targets {
        let mut targets = Targets::NONE;
        let mut none = false;
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name.to_ascii_lowercase().as_str() {
                "otlp" => targets.otlp = true,
                "console" => targets.console = true,
                "none" => none = true,
                _ => self.warn(variable, name, WarningKind::Unknown, "otlp, console and none are known"),
            }
        }
        if !targets.any() && !none {
            targets.otlp = true;
        }
        targets
    }

    fn otlp(&mut self, signal: Signal, overrides: &Overrides) -> Result<OtlpSettings, BadEndpoint> {
        let protocol = match overrides.protocol {
            Some(protocol) => protocol,
            None => self.protocol(signal),
        };
        let endpoint = match &overrides.endpoint {
            Some(given) => self
                .endpoint(signal, protocol, "endpoint", given, true)
                .ok_or_else(|| BadEndpoint(given.clone()))?,
            None => self.endpoint_from_env(signal, protocol),
        };
        Ok(OtlpSettings {
            protocol,
            endpoint,
            headers: self.headers(signal),
            timeout: self.otlp_timeout(signal),
            gzip: self.gzip(signal),
            certificate: self.either(signal, "CERTIFICATE").map(|(name, path)| (name, path.into())),
            identity: self.identity(signal),
        })
    }

    /// The signal's own variable, else the general one.
    fn either(&self, signal: Signal, what: &str) -> Option<(String, String)> {
        let own = own(signal, what);
        if let Some(value) = self.text(&own) {
            return Some((own, value));
        }
        let general = format!("OTEL_EXPORTER_OTLP_{what}");
        self.text(&general).map(|value| (general, value))
    }

    fn protocol(&mut self, signal: Signal) -> Protocol {
        for name in [own(signal, "PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()] {
            let Some(value) = self.text(&name) else { continue };
            let kind = match value.to_ascii_lowercase().as_str() {
                "grpc" => return Protocol::Grpc,
                "http/protobuf" => return Protocol::HttpProtobuf,
                "http/json" => WarningKind::Unsupported,
                _ => WarningKind::Unknown,
            };
            self.warn(name, value, kind, "http/protobuf is used");
            return Protocol::HttpProtobuf;
        }
        Protocol::HttpProtobuf
    }

    fn endpoint_from_env(&mut self, signal: Signal, protocol: Protocol) -> String {
        let own = own(signal, "ENDPOINT");
        let (name, value, general) = match (self.text(&own), self.text(GENERAL_ENDPOINT)) {
            (Some(value), _) => (own, value, false),
            (None, Some(value)) => (GENERAL_ENDPOINT.to_owned(), value, true),
            (None, None) => return default_endpoint(signal, protocol),
        };
        match self.endpoint(signal, protocol, &name, &value, general) {
            Some(endpoint) => endpoint,
            None => {
                let default = default_endpoint(signal, protocol);
                self.warn(name, value, WarningKind::Malformed, format!("{default} is used"));
                default
            }
        }
    }

    /// The complete address, or `None` where `given` is none.
    ///
    /// A gRPC endpoint may lack its scheme: then `OTEL_EXPORTER_OTLP_INSECURE` decides, and TLS is its default, for
    /// loopback addresses too. An HTTP endpoint of one signal is used as it is; a general one gets the signal's path.
    fn endpoint(
        &mut self,
        signal: Signal,
        protocol: Protocol,
        name: &str,
        given: &str,
        general: bool,
    ) -> Option<String> {
        let mut text = given.to_owned();
        if !text.contains("://") {
            if protocol == Protocol::HttpProtobuf {
                return None;
            }
            let insecure =
                self.either(signal, "INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
            text = format!("{}://{text}", if insecure { "http" } else { "https" });
            if !insecure {
                self.warn(
                    name.to_owned(),
                    given,
                    WarningKind::Suspicious,
                    "TLS is used, as there is no scheme; write http:// or set OTEL_EXPORTER_OTLP_INSECURE=true \
                     for plain text",
                );
            }
        }
        let url: hyper::Uri = text.parse().ok()?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
            return None;
        }
        let other = match (protocol, url.port_u16()) {
            (Protocol::HttpProtobuf, Some(4317)) => Some("grpc"),
            (Protocol::Grpc, Some(4318)) => Some("http/protobuf"),
            _ => None,
        };
        if let Some(other) = other {
            self.warn(
                name.to_owned(),
                given,
                WarningKind::Suspicious,
                format!("{} is spoken to a port that is {other}'s by convention", protocol.as_str()),
            );
        }
        let (base, query) =
            text.split_once('?').map_or((text.as_str(), None), |(base, query)| (base, Some(query)));
        let base = match protocol == Protocol::HttpProtobuf && general {
            true => format!("{}{}", base.trim_end_matches('/'), http_path(signal)),
            false => base.to_owned(),
        };
        Some(query.map_or(base.clone(), |query| format!("{base}?{query}")))
    }

    fn headers(&mut self, signal: Signal) -> Vec<(String, String)> {
        let Some((name, list)) = self.either(signal, "HEADERS") else { return Vec::new() };
        let mut headers = Vec::new();
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => match percent_decoded(value.trim()) {
                    Some(value) => headers.push((key.trim().to_ascii_lowercase(), value)),
                    None => {
                        self.warn(name.clone(), key.trim(), WarningKind::Malformed, "the header is left out")
                    }
                },
                _ => self.warn(name.clone(), "(hidden)", WarningKind::Malformed, "the header is left out"),
            }
        }
        headers
    }

    fn otlp_timeout(&mut self, signal: Signal) -> Duration {
        let general = self.millis("OTEL_EXPORTER_OTLP_TIMEOUT", DEFAULT_OTLP_TIMEOUT);
        self.millis(own(signal, "TIMEOUT"), general)
    }

    fn gzip(&mut self, signal: Signal) -> bool {
        let Some((name, value)) = self.either(signal, "COMPRESSION") else { return false };
        match value.to_ascii_lowercase().as_str() {
            "gzip" => return true,
            "none" => {}
            "zstd" => self.warn(name, value, WarningKind::Unsupported, "no compression is used"),
            _ => self.warn(name, value, WarningKind::Unknown, "no compression is used"),
        }
        false
    }

    fn identity(&mut self, signal: Signal) -> Option<(String, PathBuf, PathBuf)> {
        let certificate = self.either(signal, "CLIENT_CERTIFICATE");
        let key = self.either(signal, "CLIENT_KEY");
        match (certificate, key) {
            (Some((name, certificate)), Some((_, key))) => Some((name, certificate.into(), key.into())),
            (Some((name, value)), None) | (None, Some((name, value))) => {
                self.warn(
                    name,
                    value,
                    WarningKind::Malformed,
                    "no client certificate is used, its other half is missing",
                );
                None
            }
            (None, None) => None,
        }
    }

    /// One bad pair spoils the whole list, as the specification says.
    fn resource(&mut self) -> Vec<(String, String)> {
        const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
        let Some(list) = self.text(NAME) else { return Vec::new() };
        let pairs = list.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let key = percent_decoded(key.trim()).filter(|key| !key.is_empty())?;
            Some((key, percent_decoded(value.trim())?))
        });
        match pairs.collect() {
            Some(pairs) => pairs,
            None => {
                self.warn(NAME, list, WarningKind::Malformed, "none of it is used");
                Vec::new()
            }
        }
    }

    fn sampler(&mut self) -> Sampler {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        let default = parent_based(Sampler::AlwaysOn);
        let Some(value) = self.text(NAME) else { return default };
        match value.to_ascii_lowercase().as_str() {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(self.ratio()),
            "parentbased_always_on" => default,
            "parentbased_always_off" => parent_based(Sampler::AlwaysOff),
            "parentbased_traceidratio" => parent_based(Sampler::TraceIdRatioBased(self.ratio())),
            "parentbased_jaeger_remote" | "jaeger_remote" | "xray" => {
                self.warn(NAME, value, WarningKind::Unsupported, "parentbased_always_on is used");
                default
            }
            _ => {
                self.warn(NAME, value, WarningKind::Unknown, "parentbased_always_on is used");
                default
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        const NAME: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.text(NAME) else { return 1.0 };
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.warn(NAME, value, WarningKind::Malformed, "1.0 is used");
                1.0
            }
        }
    }

    fn temporality(&mut self) -> Temporality {
        const NAME: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        let Some(value) = self.text(NAME) else { return Temporality::Cumulative };
        match value.to_ascii_lowercase().as_str() {
            "cumulative" => Temporality::Cumulative,
            "delta" => Temporality::Delta,
            "lowmemory" => Temporality::LowMemory,
            _ => {
                self.warn(NAME, value, WarningKind::Unknown, "cumulative is used");
                Temporality::Cumulative
            }
        }
    }

    fn propagators(&mut self) -> Vec<Propagator> {
        const NAME: &str = "OTEL_PROPAGATORS";
        let Some(list) = self.text(NAME) else { return vec![Propagator::TraceContext, Propagator::Baggage] };
        let mut propagators = Vec::new();
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let propagator = match name.to_ascii_lowercase().as_str() {
                "tracecontext" => Propagator::TraceContext,
                "baggage" => Propagator::Baggage,
                "none" => continue,
                "b3" | "b3multi" | "jaeger" | "xray" | "ottrace" => {
                    self.warn(NAME, name, WarningKind::Unsupported, "it is left out");
                    continue;
                }
                _ => {
                    self.warn(NAME, name, WarningKind::Unknown, "it is left out");
                    continue;
                }
            };
            if !propagators.contains(&propagator) {
                propagators.push(propagator);
            }
        }
        propagators
    }
}

const GENERAL_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

fn own(signal: Signal, what: &str) -> String {
    let signal = match signal {
        Signal::Traces => "TRACES",
        Signal::Metrics => "METRICS",
        Signal::Logs => "LOGS",
    };
    format!("OTEL_EXPORTER_OTLP_{signal}_{what}")
}

fn exporter_variable(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "OTEL_TRACES_EXPORTER",
        Signal::Metrics => "OTEL_METRICS_EXPORTER",
        Signal::Logs => "OTEL_LOGS_EXPORTER",
    }
}

fn http_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

fn default_endpoint(signal: Signal, protocol: Protocol) -> String {
    match protocol {
        Protocol::Grpc => "http://localhost:4317/".to_owned(),
        Protocol::HttpProtobuf => format!("http://localhost:4318{}", http_path(signal)),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(*rest.next()?).to_digit(16)?;
        let low = char::from(*rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
