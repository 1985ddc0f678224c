//! The page about what the tasks run on: threads and polls, the manager's own work, and the way of the telemetry itself.

use otel_tasks::telemetry::contract as c;
use serde_json::Value;

use super::{
    FLEET, TASK,
    page::{self, Row},
    panel::{Panel, Shape, m},
};

pub(crate) fn page() -> Value {
    page::page(
        "otel-tasks-runtime",
        "otel-tasks / Runtime",
        "What the tasks run on: tokio's threads, polls that block them, the manager's own work, and what became of the telemetry.",
        Vec::new(),
        vec![tokio(), polls(), limits(), manager(), telemetry(), collector()],
    )
}

fn tokio() -> Row {
    let panels = vec![
        Panel::new("Worker threads", Shape::Stat(None), "none", "`tokio.workers`, of opentelemetry-instrumentation-tokio.", &[])
            .query(format!("sum by (instance) (tokio_workers{{{FLEET}}})"), "{{instance}}")
            .size(4, 8),
        Panel::new("Tasks alive", Shape::Lines, "none", "`tokio.alive_tasks`: of the whole runtime, ours among them.", &[])
            .query(format!("sum by (instance) (tokio_alive_tasks{{{FLEET}}})"), "{{instance}}")
            .size(10, 8),
        Panel::new("Global queue", Shape::Lines, "none", "`tokio.global_queue_depth`: tasks that no worker has taken yet.", &[])
            .query(format!("sum by (instance) (tokio_global_queue_depth{{{FLEET}}})"), "{{instance}}")
            .size(10, 8),
        Panel::new("Workers' busy time", Shape::Lines, "percentunit", "`tokio.worker.busy_duration`: how much of the time each worker polled.", &[])
            .query(
                format!("sum by (instance, tokio_worker_index) (rate(tokio_worker_busy_duration_milliseconds_total{{{FLEET}}}[$__rate_interval])) / 1000"),
                "{{instance}} {{tokio_worker_index}}",
            ),
        Panel::new("Workers going to sleep", Shape::Lines, "ops", "`tokio.worker.park_count`, a second.", &[])
            .query(
                format!("sum by (instance) (rate(tokio_worker_park_count_total{{{FLEET}}}[$__rate_interval]))"),
                "{{instance}}",
            ),
    ];
    Row { title: "tokio", panels }
}

fn polls() -> Row {
    let panels = vec![
        Panel::new(
            "Slow polls",
            Shape::Lines,
            "none",
            "Within each interval: these tasks keep others from running.",
            &[c::POLLS_SLOW],
        )
        .query(
            format!("sum by ({TASK}) (increase({}{{{FLEET}}}[$__rate_interval])) > 0", m(c::POLLS_SLOW)),
            "{{task_name}}",
        )
        .by_task(),
        Panel::new(
            "Longest poll",
            Shape::Lines,
            "s",
            "The ten longest, since the process began.",
            &[c::POLL_DURATION_MAX],
        )
        .query(format!("topk(10, max by ({TASK}) ({}{{{FLEET}}}))", m(c::POLL_DURATION_MAX)), "{{task_name}}")
        .by_task(),
        Panel::new(
            "Time in runs",
            Shape::Stacked,
            "percentunit",
            "The ten tasks whose runs take most of the time, waiting included.",
            &[c::RUN_TIME],
        )
        .query(
            format!("topk(10, sum by ({TASK}) (rate({}{{{FLEET}}}[$__rate_interval])) > 0)", m(c::RUN_TIME)),
            "{{task_name}}",
        )
        .by_task(),
        Panel::new(
            "Names kept apart",
            Shape::Lines,
            "none",
            "Task names by instance; `_OTHER` is what came past the bound.",
            &[c::RUN_ACTIVE],
        )
        .query(
            format!("count by (instance) (count by (instance, task_name) ({}{{{FLEET}}}))", m(c::RUN_ACTIVE)),
            "{{instance}}",
        )
        .query(
            format!(
                "sum by (instance) (rate({}{{{FLEET}, task_name=\"{}\"}}[$__rate_interval]))",
                m(c::RUNS),
                c::OVERFLOW_NAME
            ),
            "{{instance}}: runs of _OTHER a second",
        ),
    ];
    Row { title: "Polls and names", panels }
}

fn limits() -> Row {
    let wait = m(c::RESERVATION_WAIT_TIME);
    let panels = vec![
        Panel::new("Waiting for room", Shape::Lines, "none", "By task; work that has a limit and waits comes faster than it is done.", &[c::RESERVATION_PENDING])
            .query(format!("sum by ({TASK}) ({}{{{FLEET}}})", m(c::RESERVATION_PENDING)), "{{task_name}}")
            .by_task(),
        Panel::new("Wait for room", Shape::Lines, "s", "The 95th percentile, by task.", &[c::RESERVATION_WAIT_TIME])
            .query(
                format!("histogram_quantile(0.95, sum by ({TASK}, le) (rate({wait}_bucket{{{FLEET}}}[$__rate_interval])))"),
                "{{task_name}}",
            )
            .by_task(),
    ];
    Row { title: "Names with a limit", panels }
}

fn manager() -> Row {
    let sweep = m(c::MONITOR_DURATION);
    let panels = vec![
        Panel::new("Monitor sweeps", Shape::Lines, "s", "How long they take.", &[c::MONITOR_DURATION])
            .query(
                format!("histogram_quantile(0.95, sum by (instance, le) (rate({sweep}_bucket{{{FLEET}}}[$__rate_interval])))"),
                "{{instance}} p95",
            )
            .query(
                format!("sum by (instance) (rate({sweep}_sum{{{FLEET}}}[$__rate_interval])) / sum by (instance) (rate({sweep}_count{{{FLEET}}}[$__rate_interval]))"),
                "{{instance}} mean",
            ),
        Panel::new("Stalls", Shape::Lines, "none", "Within each interval, by task.", &[c::STALLS])
            .query(format!("sum by ({TASK}) (increase({}{{{FLEET}}}[$__rate_interval])) > 0", m(c::STALLS)), "{{task_name}}")
            .by_task(),
    ];
    Row { title: "The manager", panels }
}

fn telemetry() -> Row {
    let dropped = m(c::TELEMETRY_DROPPED);
    let panels = vec![
        Panel::new("Telemetry not delivered", Shape::Stacked, "none", "Within each interval, by signal and reason; what cannot be delivered is counted and shown once delivery works again.", &[c::TELEMETRY_DROPPED])
            .query(format!("sum by (signal, reason) (increase({dropped}{{{FLEET}}}[$__rate_interval]))"), "{{signal}} {{reason}}"),
        Panel::new("Not delivered, since the processes began", Shape::Stacked, "none", "By instance.", &[c::TELEMETRY_DROPPED])
            .query(format!("sum by (instance) ({dropped}{{{FLEET}}})"), "{{instance}}"),
    ];
    Row { title: "Telemetry of the service", panels }
}

fn collector() -> Row {
    let panels = vec![
        Panel::new("Collector's queues", Shape::Lines, "percentunit", "How full each exporter's queue is: full, it refuses.", &[])
            .query("max by (exporter) (otelcol_exporter_queue_size) / max by (exporter) (otelcol_exporter_queue_capacity)", "{{exporter}}"),
        Panel::new("Taken by the Collector", Shape::Lines, "ops", "Spans, points and log records a second, of all services.", &[])
            .query("sum(rate(otelcol_receiver_accepted_spans_total[$__rate_interval]))", "spans")
            .query("sum(rate(otelcol_receiver_accepted_metric_points_total[$__rate_interval]))", "metric points")
            .query("sum(rate(otelcol_receiver_accepted_log_records_total[$__rate_interval]))", "log records"),
        Panel::new("Passed on by the Collector", Shape::Lines, "ops", "Spans and points a second, of all services.", &[])
            .query("sum(rate(otelcol_exporter_sent_spans_total[$__rate_interval]))", "spans")
            .query("sum(rate(otelcol_exporter_sent_metric_points_total[$__rate_interval]))", "metric points"),
        Panel::new("Collector's memory", Shape::Lines, "bytes", "Its limiter begins to refuse at 192 MiB of heap.", &[])
            .query("max(otelcol_process_memory_rss_bytes)", "resident"),
    ];
    Row { title: "Collector", panels }
}
