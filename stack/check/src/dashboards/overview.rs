//! The first page: what is unhealthy, and what the tasks of a service do.

use otel_tasks::telemetry::contract::{self as c, lease};
use serde_json::Value;

use super::{
    FLEET, TASK,
    page::{self, Row},
    panel::{Panel, Shape, m},
};

const FAILED: &str = "task_run_result=~\"failure|panic|timeout\"";

pub(crate) fn page() -> Value {
    page::page(
        "otel-tasks-overview",
        "otel-tasks / Overview",
        "The tasks of a service: what is unhealthy, how they run, what restarts them, which instance holds which lease, how they stop.",
        Vec::new(),
        vec![now(), tasks(), runs(), supervision(), leases(), shutdown()],
    )
}

fn now() -> Row {
    let status = m(c::STATUS);
    let runs = m(c::RUNS);
    let last = [
        Panel::new("Instances", Shape::Stat(None), "none", "How many instances reported within the last two minutes.", &[c::RUN_ACTIVE])
            .query(format!("count(count by (instance) (present_over_time({}{{{FLEET}}}[2m])))", m(c::RUN_ACTIVE)), ""),
        Panel::new("Given up", Shape::Stat(Some([1.0, 1.0])), "none", "Tasks that nothing but a person begins again.", &[c::STATUS])
            .query(format!("sum({status}{{{FLEET}, task_state=\"failed\"}})"), ""),
        Panel::new("Waiting to restart", Shape::Stat(Some([1.0, 5.0])), "none", "Tasks that wait for their delay.", &[c::STATUS])
            .query(format!("sum({status}{{{FLEET}, task_state=\"backoff\"}})"), ""),
        Panel::new("Error ratio", Shape::Stat(Some([0.01, 0.05])), "percentunit", "Of the runs that ended, cancelled ones aside, how many failed, panicked or timed out.", &[c::RUNS])
            .query(
                format!(
                    "sum(rate({runs}{{{FLEET}, {FAILED}}}[$__rate_interval])) / sum(rate({runs}{{{FLEET}, task_run_result!=\"cancellation\"}}[$__rate_interval]))"
                ),
                "",
            ),
        Panel::new("Restarts", Shape::Stat(Some([1.0, 10.0])), "none", "Within the last hour.", &[c::RESTARTS])
            .query(format!("sum(increase({}{{{FLEET}}}[1h]))", m(c::RESTARTS)), ""),
        Panel::new("Runs a second", Shape::Stat(None), "ops", "Runs that ended.", &[c::RUNS])
            .query(format!("sum(rate({runs}{{{FLEET}}}[$__rate_interval]))"), ""),
        Panel::new("Active", Shape::Stat(None), "none", "Runs under way.", &[c::RUN_ACTIVE])
            .query(format!("sum({}{{{FLEET}}})", m(c::RUN_ACTIVE)), ""),
        Panel::new("Alerts", Shape::Stat(Some([1.0, 3.0])), "none", "Alerts of stack/rules that fire for this service.", &[])
            .query("count(ALERTS{job=\"$service\", alertstate=\"firing\", alertname=~\"Task.*\"}) or vector(0)", ""),
    ];
    let unhealthy = Panel::new(
        "Not running as they should",
        Shape::States,
        "none",
        "Tasks that were given up, or wait for their restart.",
        &[c::STATUS],
    )
    .query(
        format!("max by ({TASK}, task_state) ({status}{{{FLEET}, task_state=~\"failed|backoff\"}}) > 0"),
        "{{task_name}} {{task_state}}",
    )
    .size(18, 7)
    .by_task();
    let lost = [
        Panel::new("Stalls", Shape::Stat(Some([1.0, 3.0])), "none", "Within the last hour.", &[c::STALLS])
            .query(format!("sum(increase({}{{{FLEET}}}[1h]))", m(c::STALLS)), "")
            .size(3, 7),
        Panel::new(
            "Telemetry lost",
            Shape::Stat(Some([1.0, 1000.0])),
            "none",
            "Within the last hour.",
            &[c::TELEMETRY_DROPPED],
        )
        .query(format!("sum(increase({}{{{FLEET}}}[1h]))", m(c::TELEMETRY_DROPPED)), "")
        .size(3, 7),
    ];
    Row { title: "Now", panels: last.into_iter().chain([unhealthy]).chain(lost).collect() }
}

fn tasks() -> Row {
    let runs = m(c::RUNS);
    let per = |aggregation: &str, inner: String| format!("{aggregation} by ({TASK}) ({inner})");
    let duration = |q: f64| {
        format!(
            "histogram_quantile({q}, sum by ({TASK}, le) (rate({}_bucket{{{FLEET}}}[$__range])))",
            m(c::RUN_DURATION)
        )
    };
    let table = Panel::new(
        "Tasks",
        Shape::Table,
        "short",
        "One line for each task of each instance, over the time that is shown. A click on a name leads to its traces or its page.",
        &[c::RUNS, c::RESTARTS, c::LAST_SUCCESS_TIME, c::RUN_DURATION, c::RUN_ACTIVE],
    )
    .column("Restarts", "none", per("sum", format!("increase({}{{{FLEET}}}[$__range])", m(c::RESTARTS))))
    .column(
        "Error ratio",
        "percentunit",
        format!(
            "{} / {}",
            per("sum", format!("rate({runs}{{{FLEET}, {FAILED}}}[$__range])")),
            per("sum", format!("rate({runs}{{{FLEET}, task_run_result!=\"cancellation\"}}[$__range])"))
        ),
    )
    .column("Runs a minute", "none", format!("60 * {}", per("sum", format!("rate({runs}{{{FLEET}}}[$__range])"))))
    .column("Active", "none", per("sum", format!("{}{{{FLEET}}}", m(c::RUN_ACTIVE))))
    .column("p50", "s", duration(0.5))
    .column("p95", "s", duration(0.95))
    .column("Since success", "s", format!("time() - {}", per("max", format!("{}{{{FLEET}}}", m(c::LAST_SUCCESS_TIME)))))
    .by_task();
    Row { title: "Tasks", panels: vec![table] }
}

fn runs() -> Row {
    let runs = m(c::RUNS);
    let buckets = format!("{}_bucket{{{FLEET}}}", m(c::RUN_DURATION));
    let delay = format!("{}_bucket{{{FLEET}}}", m(c::SCHEDULE_DELAY));
    let mut percentiles =
        Panel::new("Run duration", Shape::Lines, "s", "Of all runs together.", &[c::RUN_DURATION]);
    for (q, legend) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")] {
        percentiles = percentiles.query(
            format!("histogram_quantile({q}, sum by (le) (rate({buckets}[$__rate_interval])))"),
            legend,
        );
    }
    let panels = vec![
        Panel::new("Runs by result", Shape::Stacked, "ops", "Runs that ended, a second.", &[c::RUNS])
            .query(format!("sum by (task_run_result) (rate({runs}{{{FLEET}}}[$__rate_interval]))"), "{{task_run_result}}"),
        Panel::new("Errors by class", Shape::Stacked, "ops", "Runs that failed, panicked or timed out, a second.", &[c::RUN_ERRORS])
            .query(
                format!("sum by (error_type) (rate({}{{{FLEET}}}[$__rate_interval]))", m(c::RUN_ERRORS)),
                "{{error_type}}",
            ),
        Panel::new("Run duration, distribution", Shape::Heatmap, "s", "How many runs took how long.", &[c::RUN_DURATION])
            .query(format!("sum by (le) (increase({buckets}[$__rate_interval]))"), "{{le}}"),
        percentiles,
        Panel::new("Error ratio by task", Shape::Lines, "percentunit", "The ten tasks that fail most.", &[c::RUNS])
            .query(
                format!(
                    "topk(10, sum by ({TASK}) (rate({runs}{{{FLEET}, {FAILED}}}[$__rate_interval])) / sum by ({TASK}) (rate({runs}{{{FLEET}, task_run_result!=\"cancellation\"}}[$__rate_interval])) > 0)"
                ),
                "{{task_name}}",
            )
            .by_task(),
        Panel::new("Slowest tasks", Shape::Lines, "s", "The 95th percentile of the ten slowest.", &[c::RUN_DURATION])
            .query(
                format!("topk(10, histogram_quantile(0.95, sum by ({TASK}, le) (rate({buckets}[$__rate_interval]))))"),
                "{{task_name}}",
            )
            .by_task(),
        Panel::new("Active runs", Shape::Stacked, "none", "Runs under way, by task.", &[c::RUN_ACTIVE])
            .query(format!("sum by ({TASK}) ({}{{{FLEET}}}) > 0", m(c::RUN_ACTIVE)), "{{task_name}}")
            .by_task(),
        Panel::new("Schedule delay", Shape::Lines, "s", "The 95th percentile, by loop.", &[c::SCHEDULE_DELAY])
            .query(
                format!("histogram_quantile(0.95, sum by ({TASK}, le) (rate({delay}[$__rate_interval])))"),
                "{{task_name}}",
            )
            .by_task(),
    ];
    Row { title: "Runs", panels }
}

fn supervision() -> Row {
    let panels = vec![
        Panel::new("Tasks by state", Shape::Stacked, "none", "Registered tasks.", &[c::STATUS])
            .query(format!("sum by (task_state) ({}{{{FLEET}}})", m(c::STATUS)), "{{task_state}}"),
        Panel::new("Restarts by reason", Shape::Stacked, "none", "Within each interval.", &[c::RESTARTS])
            .query(
                format!(
                    "sum by (task_restart_reason) (increase({}{{{FLEET}}}[$__rate_interval]))",
                    m(c::RESTARTS)
                ),
                "{{task_restart_reason}}",
            ),
        Panel::new("Restarts by task", Shape::Stacked, "none", "Within each interval.", &[c::RESTARTS])
            .query(
                format!("sum by ({TASK}) (increase({}{{{FLEET}}}[$__rate_interval])) > 0", m(c::RESTARTS)),
                "{{task_name}}",
            )
            .by_task(),
        Panel::new(
            "Stalls and iterations left out",
            Shape::Lines,
            "none",
            "Within each interval, by task.",
            &[c::STALLS, c::ITERATIONS_SKIPPED],
        )
        .query(
            format!("sum by ({TASK}) (increase({}{{{FLEET}}}[$__rate_interval])) > 0", m(c::STALLS)),
            "{{task_name}} stalled",
        )
        .query(
            format!(
                "sum by ({TASK}, reason) (increase({}{{{FLEET}}}[$__rate_interval])) > 0",
                m(c::ITERATIONS_SKIPPED)
            ),
            "{{task_name}} {{reason}}",
        )
        .by_task(),
    ];
    Row { title: "Supervision", panels }
}

/// Of tasks that run on one of several instances; empty without leases.
fn leases() -> Row {
    let by_name = |inner: String| format!("sum by (task_lease_name) ({inner})");
    let held = format!("{}{{{FLEET}}}", m(lease::HELD));
    let buckets = format!("{}_bucket{{{FLEET}}}", m(lease::RENEW_DURATION));
    let panels = vec![
        Panel::new("Holders", Shape::States, "none", "Which instance holds which lease.", &[lease::HELD])
            .query(
                format!("max by (task_lease_name, instance) ({held}) > 0"),
                "{{task_lease_name}} {{instance}}",
            ),
        Panel::new(
            "Instances that hold a lease",
            Shape::Lines,
            "none",
            "One for each lease; none while its task runs nowhere.",
            &[lease::HELD],
        )
        .query(by_name(format!("last_over_time({held}[2m])")), "{{task_lease_name}}"),
        Panel::new("Leases acquired, lost and released", Shape::Stacked, "none", "Within each interval.", &[lease::TRANSITIONS])
            .query(
                format!(
                    "sum by (task_lease_name, task_lease_transition) (increase({}{{{FLEET}}}[$__rate_interval])) > 0",
                    m(lease::TRANSITIONS)
                ),
                "{{task_lease_name}} {{task_lease_transition}}",
            ),
        Panel::new("Failed requests to the store", Shape::Stacked, "none", "Within each interval.", &[lease::ERRORS])
            .query(
                format!(
                    "sum by (task_lease_operation, error_type) (increase({}{{{FLEET}}}[$__rate_interval]))",
                    m(lease::ERRORS)
                ),
                "{{task_lease_operation}} {{error_type}}",
            ),
        Panel::new("Renewal duration", Shape::Lines, "s", "Of all instances together.", &[lease::RENEW_DURATION])
            .query(
                format!("histogram_quantile(0.95, sum by (le) (rate({buckets}[$__rate_interval])))"),
                "p95",
            ),
        Panel::new("Time until the end of a lease", Shape::Lines, "s", "What is left at each export.", &[lease::REMAINING])
            .query(
                format!("min by (task_lease_name) ({}{{{FLEET}}})", m(lease::REMAINING)),
                "{{task_lease_name}}",
            ),
    ];
    Row { title: "Leases", panels }
}

fn shutdown() -> Row {
    let panels = vec![
        Panel::new("Shutdowns, by what became of the tasks", Shape::Stacked, "none", "Of instances that went down within the time that is shown.", &[c::SHUTDOWN_TASKS])
            .query(
                format!("sum by (instance, task_shutdown_outcome) (max_over_time({}{{{FLEET}}}[$__range]))", m(c::SHUTDOWN_TASKS)),
                "{{instance}} {{task_shutdown_outcome}}",
            ),
        Panel::new("Shutdown duration", Shape::Lines, "s", "Of instances that went down within the time that is shown.", &[c::SHUTDOWN_DURATION])
            .query(
                format!(
                    "sum by (instance) (max_over_time({0}_sum{{{FLEET}}}[$__range])) / sum by (instance) (max_over_time({0}_count{{{FLEET}}}[$__range]))",
                    m(c::SHUTDOWN_DURATION)
                ),
                "{{instance}}",
            ),
    ];
    Row { title: "Shutdown", panels }
}
