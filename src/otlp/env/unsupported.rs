//! The variables of the specification that have no effect here. Each that is set is warned of, with what is used instead.

use super::reader::Reader;
use crate::otlp::settings::WarningKind;

const NOT_CUT: &str = "values are not cut";
const NO_LOG_LIMIT: &str = "attributes of log records are not counted";
const NO_EXPORTER: &str = "there is no such exporter: otlp, console and none are known";

/// A variable without effect: its name, and what is used instead.
pub(super) const UNSUPPORTED: [(&str, &str); 20] = [
    ("OTEL_CONFIG_FILE", "the file is not read, and the other variables are used"),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "the file is not read, and the other variables are used"),
    ("OTEL_ENTITIES", "OTEL_RESOURCE_ATTRIBUTES is used"),
    ("OTEL_LOG_LEVEL", "RUST_LOG is used"),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", NOT_CUT),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", NOT_CUT),
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", NOT_CUT),
    ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", NO_LOG_LIMIT),
    ("OTEL_EXPORTER_OTLP_SPAN_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_INSECURE is used"),
    ("OTEL_EXPORTER_OTLP_METRIC_INSECURE", "OTEL_EXPORTER_OTLP_METRICS_INSECURE is used"),
    ("OTEL_EXPORTER_PROMETHEUS_HOST", NO_EXPORTER),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", NO_EXPORTER),
    ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", NO_EXPORTER),
    ("OTEL_EXPORTER_ZIPKIN_TIMEOUT", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_ENDPOINT", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_AGENT_HOST", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_AGENT_PORT", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_TIMEOUT", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_USER", NO_EXPORTER),
    ("OTEL_EXPORTER_JAEGER_PASSWORD", NO_EXPORTER),
];

/// Variables of which one value is what happens anyway: the name and that value.
pub(super) const ONE_VALUE: [(&str, &str); 2] = [
    ("OTEL_METRICS_EXEMPLAR_FILTER", "always_off"),
    ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "explicit_bucket_histogram"),
];

impl Reader<'_> {
    pub(super) fn unsupported(&mut self) {
        for (name, used) in UNSUPPORTED {
            if let Some(value) = self.shown(name) {
                self.warn(name, value, WarningKind::Unsupported, used);
            }
        }
        for (name, only) in ONE_VALUE {
            if let Some(value) = self.text(name).filter(|value| !value.eq_ignore_ascii_case(only)) {
                self.warn(name, value, WarningKind::Unsupported, format!("{only} is used"));
            }
        }
    }
}
