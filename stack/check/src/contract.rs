//! What Prometheus makes of the instrument contract: names, labels, and which of them exist at all.

use std::collections::{BTreeMap, BTreeSet};

use otel_tasks::telemetry::contract::{INSTRUMENTS, Instrument, Kind, TASK_ATTRIBUTES, key, lease};

/// The instruments that are not about one task, and so carry its attributes not.
const NOT_OF_A_TASK: [&str; 4] =
    ["task.shutdown.duration", "task.shutdown.tasks", "task.monitor.duration", "task.telemetry.dropped"];

/// Labels that a sample has from its resource: as `job` and `instance`, and promoted by prometheus.yml.
pub(crate) const RESOURCE_LABELS: [&str; 6] =
    ["job", "instance", "service_instance_id", "service_name", "service_namespace", "service_version"];

/// What the dashboards show beside the contract: of tokio, from opentelemetry-instrumentation-tokio; of the Collector, from itself;
/// and Prometheus's own series of alerts. With their labels.
const BESIDE: [(&str, &[&str]); 16] = [
    ("tokio_workers", &["tokio_runtime_id"]),
    ("tokio_alive_tasks", &["tokio_runtime_id"]),
    ("tokio_global_queue_depth", &["tokio_runtime_id"]),
    ("tokio_worker_busy_duration_milliseconds_total", &["tokio_runtime_id", "tokio_worker_index"]),
    ("tokio_worker_park_count_total", &["tokio_runtime_id", "tokio_worker_index"]),
    ("otelcol_exporter_queue_size", &["exporter", "data_type"]),
    ("otelcol_exporter_queue_capacity", &["exporter", "data_type"]),
    ("otelcol_exporter_sent_spans_total", &["exporter"]),
    ("otelcol_exporter_sent_metric_points_total", &["exporter"]),
    ("otelcol_receiver_accepted_spans_total", &["receiver", "transport"]),
    ("otelcol_receiver_accepted_metric_points_total", &["receiver", "transport"]),
    ("otelcol_receiver_accepted_log_records_total", &["receiver", "transport"]),
    ("otelcol_process_memory_rss_bytes", &[]),
    ("otelcol_process_uptime_seconds_total", &[]),
    ("ALERTS", &["alertname", "alertstate", "severity"]),
    ("target_info", &[]),
];

/// The instruments of tasks, and those of leases.
pub(crate) fn instruments() -> impl Iterator<Item = &'static Instrument> {
    INSTRUMENTS.iter().chain(lease::INSTRUMENTS)
}

/// A name or key of OpenTelemetry as Prometheus writes it.
pub(crate) fn escaped(name: &str) -> String {
    name.replace('.', "_")
}

/// The metric of an instrument; a histogram's are this with `_bucket`, `_sum` and `_count`.
pub(crate) fn metric(instrument: &Instrument) -> String {
    let unit = match instrument.unit {
        "s" => "_seconds",
        annotation if annotation.starts_with('{') => "",
        unit => unreachable!("the contract has no unit {unit}"),
    };
    let total =
        if matches!(instrument.kind, Kind::ObservableCounter | Kind::Counter) { "_total" } else { "" };
    format!("{}{unit}{total}", escaped(instrument.name))
}

/// The series names that an instrument appears under.
pub(crate) fn series(instrument: &Instrument) -> Vec<String> {
    let metric = metric(instrument);
    match instrument.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|part| format!("{metric}{part}")).into(),
        _ => vec![metric],
    }
}

/// The labels of an instrument, those of its resource left out.
pub(crate) fn labels(instrument: &Instrument) -> BTreeSet<String> {
    let is_of_a_task = !NOT_OF_A_TASK.contains(&instrument.name) && !lease::INSTRUMENTS.contains(instrument);
    let of_task: &[&str] = if is_of_a_task { TASK_ATTRIBUTES } else { &[] };
    let histogram: &[&str] = if instrument.kind == Kind::Histogram { &["le"] } else { &[] };
    let own = instrument.attributes.iter().chain(of_task).chain(histogram);
    // A manager that was given an instance name says so.
    own.chain([&key::MANAGER]).map(|key| escaped(key)).collect()
}

/// Every series name that a query may use, with its labels.
pub(crate) fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    let mut add = |name: String, labels: BTreeSet<String>| {
        let resource = RESOURCE_LABELS.map(str::to_owned);
        known.insert(name, labels.into_iter().chain(resource).collect());
    };
    for instrument in instruments() {
        series(instrument).into_iter().for_each(|name| add(name, labels(instrument)));
    }
    for (name, labels) in BESIDE {
        let mut labels: BTreeSet<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if name == "ALERTS" {
            // An alert has the labels of what it is about.
            labels.extend(instruments().flat_map(self::labels));
        }
        add(name.to_owned(), labels);
    }
    known
}
