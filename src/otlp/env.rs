//! The `OTEL_*` variables: read once, through a function, into plain settings.
//!
//! A variable that is empty counts as unset, and names of a closed set are known in any case. A value that cannot be read
//! is replaced by its default and named in a [`Warning`]; it is never an error, as the specification asks. Nothing here
//! touches the network or the process.

use std::{path::PathBuf, time::Duration};

use opentelemetry_sdk::{metrics::Temporality, trace::Sampler};

use super::ledger::Signal;
use crate::otlp::settings::{
    BadEndpoint, BatchSettings, DEFAULT_BATCH, DEFAULT_EXPORT_TIMEOUT, DEFAULT_LOG_DELAY,
    DEFAULT_METRIC_INTERVAL, DEFAULT_OTLP_TIMEOUT, DEFAULT_QUEUE, DEFAULT_SPAN_DELAY, OtlpSettings,
    Overrides, Propagator, Protocol, Settings, SignalSettings, Targets, Warning, WarningKind, capped,
    warn_once,
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
        let mut url = reqwest::Url::parse(&text).ok()?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return None;
        }
        let other = match (protocol, url.port()) {
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
        if protocol == Protocol::HttpProtobuf && general {
            let path = format!("{}{}", url.path().trim_end_matches('/'), http_path(signal));
            url.set_path(&path);
        }
        Some(url.into())
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
mod tests {
    use super::*;
    use crate::otlp::settings::LONGEST_WAIT;

    fn read_from(pairs: &[(&str, &str)], overrides: &Overrides) -> Settings {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        read(&get, overrides).unwrap_or_else(|BadEndpoint(given)| panic!("bad endpoint {given}"))
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        read_from(pairs, &Overrides::default())
    }

    #[test]
    fn an_empty_environment_gives_the_defaults_of_the_specification() {
        let s = settings(&[("OTEL_TRACES_SAMPLER", " "), ("OTEL_SDK_DISABLED", "")]);
        assert!(!s.disabled);
        assert_eq!(s.traces.targets, Targets { otlp: true, console: false });
        assert_eq!(s.traces.otlp.endpoint, "http://localhost:4318/v1/traces");
        assert_eq!(s.logs.otlp.endpoint, "http://localhost:4318/v1/logs");
        assert_eq!(s.metrics.otlp.protocol, Protocol::HttpProtobuf);
        assert_eq!(s.traces.otlp.timeout, Duration::from_secs(10));
        assert_eq!(s.metric_interval, Duration::from_secs(60));
        assert_eq!(s.spans.delay, Duration::from_secs(5));
        assert_eq!(s.records.delay, Duration::from_secs(1));
        assert_eq!(s.propagators, [Propagator::TraceContext, Propagator::Baggage]);
        assert_eq!(format!("{:?}", s.sampler), "ParentBased(AlwaysOn)");
        assert_eq!(s.warnings, []);
    }

    #[test]
    fn an_endpoint_of_one_signal_is_used_as_it_is_and_a_general_one_gets_the_path() {
        let s = settings(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otel/"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.example/ingest?x=1"),
        ]);
        assert_eq!(s.traces.otlp.endpoint, "http://collector:4318/otel/v1/traces");
        assert_eq!(s.metrics.otlp.endpoint, "http://collector:4318/otel/v1/metrics");
        assert_eq!(s.logs.otlp.endpoint, "https://logs.example/ingest?x=1");
        assert_eq!(s.warnings, []);
    }

    #[test]
    fn a_grpc_endpoint_without_scheme_means_tls_unless_insecure_says_otherwise() {
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317");
        let s = settings(&[grpc, endpoint]);
        assert_eq!(s.traces.otlp.endpoint, "https://localhost:4317/");
        assert_eq!(s.warnings[0].kind, WarningKind::Suspicious);
        let s = settings(&[grpc, endpoint, ("OTEL_EXPORTER_OTLP_INSECURE", "true")]);
        assert_eq!(s.traces.otlp.endpoint, "http://localhost:4317/");
        assert_eq!(s.warnings, []);
    }

    #[test]
    fn what_the_code_says_beats_the_environment() {
        let overrides = Overrides {
            endpoint: Some("http://code:1".to_owned()),
            protocol: Some(Protocol::Grpc),
            ..Overrides::default()
        };
        let env = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://env:2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ];
        let s = read_from(&env, &overrides);
        assert_eq!(
            (s.traces.otlp.endpoint.as_str(), s.traces.otlp.protocol),
            ("http://code:1/", Protocol::Grpc)
        );
        let bad = Overrides { endpoint: Some("not a url".to_owned()), ..Overrides::default() };
        assert_eq!(read(&|_| None, &bad).err(), Some(BadEndpoint("not a url".to_owned())));
    }

    #[test]
    fn malformed_values_warn_and_give_the_default() {
        let env = [
            ("OTEL_SDK_DISABLED", "maybe"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "prometheus,console"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_BLRP_MAX_QUEUE_SIZE", "10"),
            ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "11"),
            ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1s"),
            ("OTEL_PROPAGATORS", "b3,tracecontext,nonsense"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "both"),
        ];
        let s = settings(&env);
        for (name, _) in env {
            if name != "OTEL_TRACES_SAMPLER" && name != "OTEL_BLRP_MAX_QUEUE_SIZE" {
                assert!(s.warnings.iter().any(|w| w.variable == name), "no warning for {name}");
            }
        }
        assert!(!s.disabled);
        assert_eq!(s.traces.targets, Targets { otlp: true, console: false });
        assert_eq!(s.metrics.targets, Targets { otlp: false, console: true });
        assert_eq!(s.traces.otlp.endpoint, "http://localhost:4318/v1/traces");
        assert_eq!(s.traces.otlp.timeout, Duration::from_secs(10));
        assert_eq!(s.resource, []);
        assert_eq!(format!("{:?}", s.sampler), "TraceIdRatioBased(1.0)");
        assert_eq!((s.spans.queue, s.records.queue, s.records.batch), (DEFAULT_QUEUE, 10, 10));
        assert_eq!(s.propagators, [Propagator::TraceContext]);
        assert!(s.warnings.iter().all(|w| !w.to_string().contains("secret")), "headers hold credentials");
    }

    #[test]
    fn nothing_is_exported_without_configuration_where_that_was_asked() {
        let asked = Overrides { only_if_configured: true, ..Overrides::default() };
        let targets = |pairs: &[(&str, &str)], overrides| {
            let s = read_from(pairs, overrides);
            [s.traces.targets, s.metrics.targets, s.logs.targets]
        };
        let otlp = Targets { otlp: true, console: false };
        let none = Targets::NONE;
        assert_eq!(targets(&[], &asked), [none; 3]);
        let own = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:1/m")];
        assert_eq!(targets(&own, &asked), [none, otlp, none]);
        let general = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1")];
        assert_eq!(targets(&general, &asked), [otlp; 3]);
        let console = [("OTEL_TRACES_EXPORTER", "console")];
        assert_eq!(targets(&console, &asked), [Targets { otlp: false, console: true }, none, none]);
        let in_code = Overrides { endpoint: Some("http://c:1".to_owned()), ..asked };
        assert_eq!(targets(&[], &in_code), [otlp; 3]);
    }

    #[test]
    fn resource_attributes_are_percent_decoded() {
        let s = settings(&[("OTEL_RESOURCE_ATTRIBUTES", "a=b%2Cc, service.instance.id = 7,empty=")]);
        let expected = [("a", "b,c"), ("service.instance.id", "7"), ("empty", "")];
        assert_eq!(s.resource, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    fn warned(s: &Settings) -> Vec<(&str, &str, WarningKind)> {
        s.warnings.iter().map(|w| (&*w.variable, &*w.value, w.kind)).collect()
    }

    #[test]
    fn every_sampler_is_known_by_its_name_and_its_argument() {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
        for (name, arg, expected) in [
            ("always_on", "", "AlwaysOn"),
            ("always_off", "", "AlwaysOff"),
            ("traceidratio", "", "TraceIdRatioBased(1.0)"),
            ("traceidratio", "0", "TraceIdRatioBased(0.0)"),
            ("traceidratio", "0.25", "TraceIdRatioBased(0.25)"),
            ("traceidratio", "1", "TraceIdRatioBased(1.0)"),
            ("parentbased_always_on", "", "ParentBased(AlwaysOn)"),
            ("parentbased_always_off", "", "ParentBased(AlwaysOff)"),
            ("parentbased_traceidratio", "0.5", "ParentBased(TraceIdRatioBased(0.5))"),
            ("always_off", "an argument it does not have", "AlwaysOff"),
        ] {
            let s = settings(&[(NAME, name), (ARG, arg)]);
            assert_eq!(format!("{:?}", s.sampler), expected, "{name} {arg}");
            assert_eq!(warned(&s), [], "{name} {arg}");
        }
        for arg in ["-0.1", "1.1", "NaN", "inf", "half"] {
            let s = settings(&[(NAME, "traceidratio"), (ARG, arg)]);
            assert_eq!(format!("{:?}", s.sampler), "TraceIdRatioBased(1.0)");
            assert_eq!(warned(&s), [(ARG, arg, WarningKind::Malformed)]);
        }
        for (name, kind) in [
            ("jaeger_remote", WarningKind::Unsupported),
            ("parentbased_jaeger_remote", WarningKind::Unsupported),
            ("xray", WarningKind::Unsupported),
            ("sometimes", WarningKind::Unknown),
        ] {
            let s = settings(&[(NAME, name)]);
            assert_eq!(format!("{:?}", s.sampler), "ParentBased(AlwaysOn)");
            assert_eq!(warned(&s), [(NAME, name, kind)]);
        }
    }

    #[test]
    fn every_temporality_compression_propagator_and_exporter_is_known_by_its_name() {
        use WarningKind::{Unknown, Unsupported};
        const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        for (name, expected, warning) in [
            ("cumulative", Temporality::Cumulative, None),
            ("delta", Temporality::Delta, None),
            ("lowmemory", Temporality::LowMemory, None),
            ("both", Temporality::Cumulative, Some((TEMPORALITY, "both", Unknown))),
        ] {
            let s = settings(&[(TEMPORALITY, name)]);
            assert_eq!(s.temporality, expected);
            assert_eq!(warned(&s), Vec::from_iter(warning));
        }

        const COMPRESSION: &str = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION";
        for (name, gzip, warning) in [
            ("gzip", true, None),
            ("none", false, None),
            ("zstd", false, Some((COMPRESSION, "zstd", Unsupported))),
            ("lzma", false, Some((COMPRESSION, "lzma", Unknown))),
        ] {
            let s = settings(&[(COMPRESSION, name)]);
            assert_eq!((s.traces.otlp.gzip, s.logs.otlp.gzip), (gzip, false), "{name}");
            assert_eq!(warned(&s), Vec::from_iter(warning));
        }

        const PROPAGATORS: &str = "OTEL_PROPAGATORS";
        let (context, baggage) = (Propagator::TraceContext, Propagator::Baggage);
        for (list, expected) in [
            ("tracecontext", vec![context]),
            ("baggage", vec![baggage]),
            ("baggage, tracecontext ,,baggage", vec![baggage, context]),
            ("none", vec![]),
        ] {
            let s = settings(&[(PROPAGATORS, list)]);
            assert_eq!(s.propagators, expected, "{list}");
            assert_eq!(warned(&s), [], "{list}");
        }
        let s = settings(&[(PROPAGATORS, "b3,b3multi,jaeger,xray,ottrace,pigeon")]);
        assert_eq!(s.propagators, []);
        let unsupported =
            ["b3", "b3multi", "jaeger", "xray", "ottrace"].map(|name| (PROPAGATORS, name, Unsupported));
        assert_eq!(warned(&s), [&unsupported[..], &[(PROPAGATORS, "pigeon", Unknown)]].concat());

        const EXPORTER: &str = "OTEL_LOGS_EXPORTER";
        for (list, otlp, console, warning) in [
            ("otlp", true, false, None),
            ("console", false, true, None),
            ("console, otlp", true, true, None),
            ("none", false, false, None),
            ("none,console", false, true, None),
            (",", true, false, None),
            ("zipkin", true, false, Some((EXPORTER, "zipkin", Unknown))),
            ("zipkin,none", false, false, Some((EXPORTER, "zipkin", Unknown))),
        ] {
            let s = settings(&[(EXPORTER, list)]);
            assert_eq!(s.logs.targets, Targets { otlp, console }, "{list}");
            assert_eq!(s.traces.targets, Targets { otlp: true, console: false }, "{list}");
            assert_eq!(warned(&s), Vec::from_iter(warning));
        }
    }

    #[test]
    fn a_port_that_is_the_other_protocols_is_used_and_warned_of() {
        const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
        for (protocol, given, endpoint, said) in [
            ("grpc", "http://c:4317", "http://c:4317/", None),
            (
                "grpc",
                "http://c:4318",
                "http://c:4318/",
                Some("grpc is spoken to a port that is http/protobuf's"),
            ),
            ("http/protobuf", "http://c:4318/v1/logs", "http://c:4318/v1/logs", None),
            (
                "http/protobuf",
                "http://c:4317/x",
                "http://c:4317/x",
                Some("http/protobuf is spoken to a port that is grpc's"),
            ),
        ] {
            let s = settings(&[(ENDPOINT, given), ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol)]);
            assert_eq!((s.logs.otlp.protocol.as_str(), &*s.logs.otlp.endpoint), (protocol, endpoint));
            let expected = said.map(|_| (ENDPOINT, given, WarningKind::Suspicious));
            assert_eq!(warned(&s), Vec::from_iter(expected));
            assert!(
                s.warnings.iter().all(|w| w.used.starts_with(said.unwrap_or_default())),
                "{:?}",
                s.warnings
            );
        }
        for (protocol, kind) in [("http/json", WarningKind::Unsupported), ("udp", WarningKind::Unknown)] {
            let s = settings(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol)]);
            assert_eq!(s.metrics.otlp.protocol, Protocol::HttpProtobuf);
            assert_eq!(warned(&s), [("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", protocol, kind)]);
        }
    }

    #[test]
    fn headers_are_pairs_and_a_bad_one_is_left_out() {
        const HEADERS: &str = "OTEL_EXPORTER_OTLP_METRICS_HEADERS";
        let general = ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%3Db, x = 1=2 ,, empty=");
        let s = settings(&[general, (HEADERS, "own=%e2%82%ac")]);
        let pairs = |pairs: &[(&str, &str)]| -> Vec<_> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(s.traces.otlp.headers, pairs(&[("api-key", "a=b"), ("x", "1=2"), ("empty", "")]));
        assert_eq!(s.metrics.otlp.headers, pairs(&[("own", "€")]), "its own, none of the general ones");
        assert_eq!(warned(&s), []);
        for (bad, told) in [
            ("secret", "(hidden)"),
            ("=secret", "(hidden)"),
            (" =secret", "(hidden)"),
            ("key=secret%", "key"),
            ("key=secret%4", "key"),
            ("key=secret%zz", "key"),
            ("key=secret%ff", "key"),
        ] {
            let s = settings(&[(HEADERS, &format!("{bad},good=1"))]);
            assert_eq!(s.metrics.otlp.headers, pairs(&[("good", "1")]), "{bad}");
            assert_eq!(warned(&s), [(HEADERS, told, WarningKind::Malformed)], "{bad}");
        }
    }

    #[test]
    fn numbers_are_whole_and_at_least_one() {
        let millis = Duration::from_millis;
        type Read = fn(&Settings) -> Duration;
        let waits: [(&str, Read, Duration); 8] = [
            ("OTEL_BSP_SCHEDULE_DELAY", |s| s.spans.delay, millis(5_000)),
            ("OTEL_BSP_EXPORT_TIMEOUT", |s| s.spans.timeout, millis(30_000)),
            ("OTEL_BLRP_SCHEDULE_DELAY", |s| s.records.delay, millis(1_000)),
            ("OTEL_BLRP_EXPORT_TIMEOUT", |s| s.records.timeout, millis(30_000)),
            ("OTEL_METRIC_EXPORT_INTERVAL", |s| s.metric_interval, millis(60_000)),
            ("OTEL_METRIC_EXPORT_TIMEOUT", |s| s.metric_timeout, millis(30_000)),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", |s| s.logs.otlp.timeout, millis(10_000)),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", |s| s.traces.otlp.timeout, millis(10_000)),
        ];
        for (name, read, default) in waits {
            for (value, expected) in
                [("1", millis(1)), ("2500", millis(2_500)), ("18446744073709551615", LONGEST_WAIT)]
            {
                let s = settings(&[(name, value)]);
                assert_eq!(read(&s), expected, "{name}={value}");
                assert_eq!(warned(&s), [], "{name}={value}");
            }
            for bad in ["0", "-1", "1.5", "1s", "18446744073709551616"] {
                let s = settings(&[(name, bad)]);
                assert_eq!(read(&s), default, "{name}={bad}");
                assert!(warned(&s).contains(&(name, bad, WarningKind::Malformed)), "{name}={bad}");
            }
        }
        let s = settings(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "7"), ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "x")]);
        assert_eq!(s.logs.otlp.timeout, millis(7), "the general one where its own cannot be read");

        for (queue, batch, expected) in [
            ("", "", (DEFAULT_QUEUE, 512)),
            ("100", "", (100, 100)),
            ("100", "100", (100, 100)),
            ("100", "99", (100, 99)),
            ("1", "1", (1, 1)),
        ] {
            for (queue_name, batch_name, read) in [
                (
                    "OTEL_BSP_MAX_QUEUE_SIZE",
                    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                    (|s| (s.spans.queue, s.spans.batch)) as fn(&Settings) -> (usize, usize),
                ),
                ("OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", |s| {
                    (s.records.queue, s.records.batch)
                }),
            ] {
                let s = settings(&[(queue_name, queue), (batch_name, batch)]);
                assert_eq!(read(&s), expected, "{queue_name}={queue} {batch_name}={batch}");
                assert_eq!(warned(&s), []);
                for bad in ["0", "-5", "many"] {
                    let s = settings(&[(queue_name, bad), (batch_name, bad)]);
                    assert_eq!(read(&s), (DEFAULT_QUEUE, 512));
                    let malformed = |name| (name, bad, WarningKind::Malformed);
                    assert_eq!(warned(&s), [malformed(queue_name), malformed(batch_name)]);
                }
            }
        }
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
        const KEY: &str = "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY";
        let s =
            settings(&[(CERTIFICATE, "c.pem"), (KEY, "k.pem"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem")]);
        assert_eq!(s.traces.otlp.identity, Some((CERTIFICATE.to_owned(), "c.pem".into(), "k.pem".into())));
        assert_eq!(s.logs.otlp.identity, None, "only spans have a key");
        let authority = Some(("OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(), PathBuf::from("ca.pem")));
        assert_eq!(s.logs.otlp.certificate, authority);
        assert!(warned(&s).contains(&(CERTIFICATE, "c.pem", WarningKind::Malformed)), "{:?}", s.warnings);
        let s = settings(&[(KEY, "k.pem")]);
        assert_eq!(s.traces.otlp.identity, None);
        assert_eq!(warned(&s), [(KEY, "k.pem", WarningKind::Malformed)]);
    }
    #[test]
    fn names_are_known_in_any_case() {
        let s = settings(&[
            ("OTEL_TRACES_SAMPLER", "Always_Off"),
            ("OTEL_TRACES_EXPORTER", "NONE"),
            ("OTEL_LOGS_EXPORTER", "Console"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZip"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA"),
            ("OTEL_PROPAGATORS", "TraceContext"),
        ]);
        assert_eq!(warned(&s), []);
        assert_eq!(format!("{:?}", s.sampler), "AlwaysOff");
        assert_eq!(
            (s.traces.targets, s.logs.targets),
            (Targets::NONE, Targets { otlp: false, console: true })
        );
        assert_eq!((s.metrics.otlp.protocol, s.metrics.otlp.gzip), (Protocol::Grpc, true));
        assert_eq!((s.temporality, s.propagators), (Temporality::Delta, vec![Propagator::TraceContext]));
    }
    #[test]
    fn what_all_signals_share_is_warned_of_once() {
        let env = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "udp"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k.pem"),
        ];
        let s = settings(&env);
        let mut names: Vec<_> = s.warnings.iter().map(|w| &*w.variable).collect();
        names.sort_unstable();
        let mut expected = env.map(|(name, _)| name);
        expected.sort_unstable();
        assert_eq!(names, expected, "{:?}", s.warnings);
    }
}
