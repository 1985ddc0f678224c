//! The `OTEL_*` variables: read once, through a function, into plain settings.
//!
//! A variable that is empty counts as unset, and names of a closed set are known in any case. A value that cannot be read
//! is replaced by its default and named in a [`Warning`]; it is never an error, as the specification asks. Nothing here
//! touches the network or the process.

mod endpoint;
mod headers;
mod proxy;
mod reader;
mod unsupported;

use std::{path::PathBuf, time::Duration};

use opentelemetry_sdk::{
    metrics::Temporality,
    trace::{Sampler, SpanLimits},
};

use super::ledger::Signal;
use crate::otlp::{
    env::{
        endpoint::GENERAL as GENERAL_ENDPOINT,
        headers::percent_decoded,
        reader::{Reader, own},
    },
    settings::{
        BadOverride, BatchSettings, DEFAULT_BATCH, DEFAULT_BATCH_BYTES, DEFAULT_EXPORT_TIMEOUT,
        DEFAULT_LOG_DELAY, DEFAULT_METRIC_INTERVAL, DEFAULT_OTLP_TIMEOUT, DEFAULT_QUEUE, DEFAULT_QUEUE_BYTES,
        DEFAULT_SPAN_DELAY, OtlpSettings, Overrides, Part, Propagator, Protocol, Settings, SignalSettings,
        Targets, WarningKind, compiled, shown_path,
    },
};

/// Reads a variable of the process. What is not UTF-8 holds a [`char::REPLACEMENT_CHARACTER`], which [`read`] warns of.
pub(super) fn of_process(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Reads the environment `get` gives.
pub(super) fn read(
    get: &dyn Fn(&str) -> Option<String>,
    overrides: &Overrides,
) -> Result<Settings, BadOverride> {
    read_for(get, overrides, compiled)
}

/// [`read`] in a program with these parts.
fn read_for(
    get: &dyn Fn(&str) -> Option<String>,
    overrides: &Overrides,
    compiled: fn(Part) -> bool,
) -> Result<Settings, BadOverride> {
    let mut r = Reader::new(get, compiled);
    r.unsupported();
    let traces = r.signal(Signal::Traces, overrides)?;
    let metrics = r.signal(Signal::Metrics, overrides)?;
    let logs = r.signal(Signal::Logs, overrides)?;
    Ok(Settings {
        disabled: r.flag("OTEL_SDK_DISABLED").unwrap_or(false),
        traces,
        metrics,
        logs,
        service_name: r.text("OTEL_SERVICE_NAME"),
        resource: r.resource(),
        sampler: r.sampler(),
        limits: r.limits(),
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

impl Reader<'_> {
    fn limits(&mut self) -> SpanLimits {
        const ATTRIBUTES: &str = "OTEL_ATTRIBUTE_COUNT_LIMIT";
        let default = SpanLimits::default();
        let attributes = self.limit(ATTRIBUTES, default.max_attributes_per_span);
        if let Some(value) = self.text(ATTRIBUTES) {
            self.warn(
                ATTRIBUTES,
                value,
                WarningKind::Suspicious,
                "it limits spans: log records have no limit",
            );
        }
        SpanLimits {
            max_attributes_per_span: self.limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
            max_events_per_span: self.limit("OTEL_SPAN_EVENT_COUNT_LIMIT", default.max_events_per_span),
            max_links_per_span: self.limit("OTEL_SPAN_LINK_COUNT_LIMIT", default.max_links_per_span),
            max_attributes_per_event: self
                .limit("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", default.max_attributes_per_event),
            max_attributes_per_link: self
                .limit("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", default.max_attributes_per_link),
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

    fn signal(&mut self, signal: Signal, overrides: &Overrides) -> Result<SignalSettings, BadOverride> {
        let variable = exporter_variable(signal);
        let names = self.list(variable);
        let unconfigured =
            names.is_none() && overrides.only_if_configured && !self.is_configured(signal, overrides);
        let targets = match names {
            Some(names) => self.targets(variable, names),
            None => Targets { otlp: !unconfigured, console: false },
        };
        let mut otlp = self.otlp(signal, overrides)?;
        // A signal that is not exported has no use for one, and no warning of one.
        otlp.proxy = if targets.otlp { self.proxy(&otlp) } else { None };
        Ok(SignalSettings { targets, unconfigured, otlp })
    }

    fn is_configured(&mut self, signal: Signal, overrides: &Overrides) -> bool {
        overrides.endpoint.is_some()
            || self.text(&own(signal, "ENDPOINT")).is_some()
            || self.text(GENERAL_ENDPOINT).is_some()
    }

    fn targets(&mut self, variable: &'static str, names: Vec<String>) -> Targets {
        let mut targets = Targets::NONE;
        let (mut none, mut refused) = (false, Vec::new());
        for name in names {
            let kind = match name.to_ascii_lowercase().as_str() {
                "otlp" => {
                    targets.otlp = true;
                    continue;
                }
                "console" if (self.compiled)(Part::Console) => {
                    targets.console = true;
                    continue;
                }
                "none" => {
                    none = true;
                    continue;
                }
                "console" | "logging" | "prometheus" | "zipkin" | "jaeger" | "otlp/stdout" => {
                    WarningKind::Unsupported
                }
                _ => WarningKind::Unknown,
            };
            refused.push((name, kind));
        }
        if !targets.any() && !none {
            targets.otlp = true;
        }
        let used = match (targets.otlp, targets.console) {
            (true, true) => "otlp and console are used",
            (true, false) => "otlp is used",
            (false, true) => "console is used",
            (false, false) => "none is used",
        };
        for (name, kind) in refused {
            let missing = name.eq_ignore_ascii_case("console");
            let used = match missing {
                true => {
                    format!("{used}: the feature `{}` is not compiled", Part::Console.feature())
                }
                false => format!("{used}; otlp, console and none are known"),
            };
            self.warn(variable, name, kind, used);
        }
        targets
    }

    fn otlp(&mut self, signal: Signal, overrides: &Overrides) -> Result<OtlpSettings, BadOverride> {
        let protocol = match overrides.protocol {
            Some(Protocol::Grpc) if !(self.compiled)(Part::Grpc) => {
                let shown = format!("protocol {}", Protocol::Grpc.as_str());
                return Err(BadOverride::NotCompiled(shown, Part::Grpc));
            }
            Some(protocol) => protocol,
            None => self.protocol(signal),
        };
        let (endpoint, variable) = self.endpoint(signal, protocol, overrides)?;
        Ok(OtlpSettings {
            protocol,
            endpoint,
            variable,
            headers: self.headers(signal),
            timeout: self.otlp_timeout(signal),
            gzip: self.gzip(signal),
            certificate: self.either(signal, "CERTIFICATE").map(|(name, path)| (name, path.into())),
            identity: self.identity(signal),
            proxy: None,
        })
    }

    fn protocol(&mut self, signal: Signal) -> Protocol {
        let Some((name, value)) = self.either(signal, "PROTOCOL") else { return Protocol::HttpProtobuf };
        let used = "http/protobuf is used";
        match value.to_ascii_lowercase().as_str() {
            "http/protobuf" => {}
            "grpc" if (self.compiled)(Part::Grpc) => return Protocol::Grpc,
            "grpc" => {
                let used = format!("{used}: the feature `{}` is not compiled", Part::Grpc.feature());
                self.warn(name, value, WarningKind::Unsupported, used);
            }
            "http/json" => self.warn(name, value, WarningKind::Unsupported, used),
            _ => self.warn(name, value, WarningKind::Unknown, used),
        }
        Protocol::HttpProtobuf
    }

    fn otlp_timeout(&mut self, signal: Signal) -> Duration {
        let general = self.millis("OTEL_EXPORTER_OTLP_TIMEOUT", DEFAULT_OTLP_TIMEOUT);
        self.millis(&own(signal, "TIMEOUT"), general)
    }

    fn gzip(&mut self, signal: Signal) -> bool {
        let Some((name, value)) = self.either(signal, "COMPRESSION") else { return false };
        let used = "no compression is used";
        match value.to_ascii_lowercase().as_str() {
            "gzip" if (self.compiled)(Part::Gzip) => return true,
            "gzip" => {
                let used = format!("{used}: the feature `{}` is not compiled", Part::Gzip.feature());
                self.warn(name, value, WarningKind::Unsupported, used);
            }
            "none" => {}
            "zstd" => self.warn(name, value, WarningKind::Unsupported, used),
            _ => self.warn(name, value, WarningKind::Unknown, used),
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
                    shown_path(&value),
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
        const DEFAULT: &str = "parentbased_always_on";
        let parent_based = |root| Sampler::ParentBased(Box::new(root));
        let value = self.text(NAME).unwrap_or_else(|| DEFAULT.to_owned());
        let sampler = match value.to_ascii_lowercase().as_str() {
            "traceidratio" => return Sampler::TraceIdRatioBased(self.ratio()),
            "parentbased_traceidratio" => return parent_based(Sampler::TraceIdRatioBased(self.ratio())),
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            DEFAULT => parent_based(Sampler::AlwaysOn),
            "parentbased_always_off" => parent_based(Sampler::AlwaysOff),
            known => {
                let kind = match known {
                    "parentbased_jaeger_remote" | "jaeger_remote" | "xray" => WarningKind::Unsupported,
                    _ => WarningKind::Unknown,
                };
                self.warn(NAME, value, kind, format!("{DEFAULT} is used"));
                return parent_based(Sampler::AlwaysOn);
            }
        };
        if let Some(argument) = self.text(RATIO) {
            self.warn(
                RATIO,
                argument,
                WarningKind::Suspicious,
                format!("{value} is used, which has no argument"),
            );
        }
        sampler
    }

    fn ratio(&mut self) -> f64 {
        let Some(value) = self.text(RATIO) else { return 1.0 };
        match value.parse() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.warn(RATIO, value, WarningKind::Malformed, "1.0 is used");
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
        let Some(names) = self.list(NAME) else { return vec![Propagator::TraceContext, Propagator::Baggage] };
        let mut propagators = Vec::new();
        for name in names {
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

const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

fn exporter_variable(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "OTEL_TRACES_EXPORTER",
        Signal::Metrics => "OTEL_METRICS_EXPORTER",
        Signal::Logs => "OTEL_LOGS_EXPORTER",
    }
}

#[cfg(test)]
mod tests;
