//! The figures of the pipelines of spans and log records, in the instruments of OpenTelemetry's semantic conventions for SDKs.
//!
//! All of it is read from the balance. So the batch that is being exported counts as queued, and data points of metrics, which
//! the balance does not count, have no instrument.

use opentelemetry::{KeyValue, metrics::Meter};

use super::{
    ledger::{Balance, Signal, SignalBalance},
    settings::{Protocol, SignalSettings},
};
use crate::contract::{ERROR_TYPE_OTHER, Instrument, key, sdk};

/// A pipeline of spans or log records.
pub(super) struct Pipeline {
    signal: Signal,
    capacity: usize,
    exporter: &'static str,
}

/// Reads a number of the balance.
type Count = fn(&SignalBalance) -> u64;

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
        let counter = |instrument: Instrument, kind, counts: &[(Option<&'static str>, Count)]| {
            let sets: Vec<_> =
                counts.iter().map(|&(error_type, count)| (component(kind, error_type), count)).collect();
            let balance = balance.clone();
            meter
                .u64_observable_counter(instrument.name)
                .with_unit(instrument.unit)
                .with_description(instrument.description)
                .with_callback(move |observer| {
                    let counts = balance.snapshot().of(signal);
                    sets.iter().for_each(|(set, count)| observer.observe(count(&counts), set));
                })
                .build();
        };
        let handled: [(_, Count); 4] = [
            (None, |counts| counts.exported + counts.lost_in_export()),
            (Some("queue_full"), |counts| counts.queue_full),
            (Some("already_shutdown"), |counts| counts.after_shutdown),
            (Some("buffer_full"), |counts| counts.buffer_full),
        ];
        // Log records are held for nothing.
        counter(processed, processor, if signal == Signal::Traces { &handled } else { &handled[..3] });
        let sent: [(_, Count); 3] = [
            (None, |counts| counts.exported),
            (Some(ERROR_TYPE_OTHER), |counts| counts.export_failed + counts.too_large),
            (Some("rejected"), |counts| counts.rejected),
        ];
        counter(exported, exporter, &sent);

        let pending = balance.clone();
        let size = move || i64::try_from(pending.snapshot().of(signal).pending).unwrap_or(i64::MAX);
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
