//! What the pipelines of spans and log records do, in the instruments that OpenTelemetry's semantic conventions have for SDKs.
//!
//! All of it is read from the balance. So the batch that is being exported counts as queued, and data points of metrics, which
//! the balance does not count, have no instrument.

use opentelemetry::{KeyValue, metrics::Meter};

use super::{
    ledger::{Balance, Signal},
    settings::{Protocol, SignalSettings},
};
use crate::contract::{ERROR_TYPE_OTHER, Instrument, key, sdk};

/// A pipeline of spans or log records.
pub(super) struct Pipeline {
    signal: Signal,
    capacity: usize,
    exporter: &'static str,
}

/// The instruments of one signal.
struct Instruments {
    processor: &'static str,
    processed: Instrument,
    queue_size: Instrument,
    queue_capacity: Instrument,
    exported: Instrument,
}

const SPANS: Instruments = Instruments {
    processor: "batching_span_processor",
    processed: sdk::SPANS_PROCESSED,
    queue_size: sdk::SPAN_QUEUE_SIZE,
    queue_capacity: sdk::SPAN_QUEUE_CAPACITY,
    exported: sdk::SPANS_EXPORTED,
};

const LOGS: Instruments = Instruments {
    processor: "batching_log_processor",
    processed: sdk::LOGS_PROCESSED,
    queue_size: sdk::LOG_QUEUE_SIZE,
    queue_capacity: sdk::LOG_QUEUE_CAPACITY,
    exported: sdk::LOGS_EXPORTED,
};

impl Pipeline {
    /// The pipeline of a signal that is exported; none for metrics.
    pub(super) fn of(signal: Signal, settings: &SignalSettings, capacity: usize) -> Option<Self> {
        if !settings.targets.any() {
            return None;
        }
        let protocol = settings.targets.otlp.then_some(settings.otlp.protocol);
        let exporter = match (signal, protocol) {
            (Signal::Metrics, _) => return None,
            (Signal::Traces, Some(Protocol::Grpc)) => "otlp_grpc_span_exporter",
            (Signal::Traces, Some(Protocol::HttpProtobuf)) => "otlp_http_span_exporter",
            (Signal::Traces, None) => "console_span_exporter",
            (Signal::Logs, Some(Protocol::Grpc)) => "otlp_grpc_log_exporter",
            (Signal::Logs, Some(Protocol::HttpProtobuf)) => "otlp_http_log_exporter",
            (Signal::Logs, None) => "console_log_exporter",
        };
        Some(Self { signal, capacity, exporter })
    }

    /// Registers the pipeline's instruments.
    pub(super) fn observe(&self, meter: &Meter, balance: &Balance) {
        let Self { signal, capacity, exporter } = *self;
        let instruments = if signal == Signal::Traces { SPANS } else { LOGS };
        let Instruments { processor, processed, queue_size, queue_capacity, exported } = instruments;
        let read = |balance: &Balance| {
            let balance = balance.clone();
            move || balance.snapshot().of(signal)
        };

        let counts = read(balance);
        let [finished, queue_full, shut_down, lost] =
            [None, Some("queue_full"), Some("already_shutdown"), Some("buffer_full")]
                .map(|error_type| component(processor, error_type));
        meter
            .u64_observable_counter(processed.name)
            .with_unit(processed.unit)
            .with_description(processed.description)
            .with_callback(move |observer| {
                let counts = counts();
                observer.observe(counts.exported + counts.lost_in_export(), &finished);
                observer.observe(counts.queue_full, &queue_full);
                observer.observe(counts.after_shutdown, &shut_down);
                if signal == Signal::Traces {
                    observer.observe(counts.buffer_full, &lost);
                }
            })
            .build();

        let counts = read(balance);
        let [delivered, failed, rejected] = [None, Some(ERROR_TYPE_OTHER), Some("rejected")]
            .map(|error_type| component(exporter, error_type));
        meter
            .u64_observable_counter(exported.name)
            .with_unit(exported.unit)
            .with_description(exported.description)
            .with_callback(move |observer| {
                let counts = counts();
                observer.observe(counts.exported, &delivered);
                observer.observe(counts.export_failed + counts.too_large, &failed);
                observer.observe(counts.rejected, &rejected);
            })
            .build();

        let counts = read(balance);
        let size = move || i64::try_from(counts().pending).unwrap_or(i64::MAX);
        let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
        let gauge = |instrument: Instrument, read: Box<dyn Fn() -> i64 + Send + Sync>| {
            let queue = component(processor, None);
            meter
                .i64_observable_up_down_counter(instrument.name)
                .with_unit(instrument.unit)
                .with_description(instrument.description)
                .with_callback(move |observer| observer.observe(read(), &queue))
                .build();
        };
        gauge(queue_size, Box::new(size));
        gauge(queue_capacity, Box::new(move || capacity));
    }
}

/// The attributes of the only part of that type, in the order of their keys.
fn component(kind: &'static str, error_type: Option<&'static str>) -> Vec<KeyValue> {
    let error_type = error_type.map(|error_type| KeyValue::new(key::ERROR_TYPE, error_type));
    let name = KeyValue::new(key::COMPONENT_NAME, format!("{kind}/0"));
    error_type.into_iter().chain([name, KeyValue::new(key::COMPONENT_TYPE, kind)]).collect()
}
