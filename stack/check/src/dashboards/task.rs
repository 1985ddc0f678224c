//! The page about one task.

use otel_tasks::telemetry::contract as c;
use serde_json::Value;

use super::{
    TASK,
    page::{self, Row},
    panel::{Panel, Shape, m},
};

const CHOSEN: &str = "job=\"$service\", instance=~\"$instance\", task_component=~\"$component\", task_category=~\"$category\", task_name=\"$task\"";

pub(crate) fn page() -> Value {
    page::page(
        "otel-tasks-task",
        "otel-tasks / Task",
        "One task, in every instance that has it.",
        page::chosen_task(),
        vec![now(), runs(), supervision(), schedule(), polls()],
    )
}

fn now() -> Row {
    let age = |title, says, instrument: c::Instrument, steps| {
        Panel::new(title, Shape::Stat(steps), "s", says, &[instrument])
            .query(format!("time() - max by ({TASK}) ({}{{{CHOSEN}}})", m(instrument)), "{{instance}}")
    };
    let panels = vec![
        Panel::new("Active", Shape::Stat(None), "none", "Runs under way.", &[c::RUN_ACTIVE])
            .query(format!("sum({}{{{CHOSEN}}})", m(c::RUN_ACTIVE)), ""),
        age("Since success", "How long ago a run last succeeded.", c::LAST_SUCCESS_TIME, None),
        age("Since error", "How long ago a run last failed.", c::LAST_ERROR_TIME, None),
        age("Since restart", "How long ago it was last restarted.", c::LAST_RESTART_TIME, None),
        age("Since a sign of life", "A heartbeat, the begin or the end of a run.", c::HEARTBEAT_TIME, None),
        Panel::new("Longest run", Shape::Stat(None), "s", "Since the process began.", &[c::RUN_DURATION_MAX])
            .query(format!("max({}{{{CHOSEN}}})", m(c::RUN_DURATION_MAX)), ""),
        Panel::new(
            "Longest poll",
            Shape::Stat(Some([0.1, 1.0])),
            "s",
            "Since the process began.",
            &[c::POLL_DURATION_MAX],
        )
        .query(format!("max({}{{{CHOSEN}}})", m(c::POLL_DURATION_MAX)), ""),
        Panel::new(
            "Share of the time",
            Shape::Stat(None),
            "percentunit",
            "How much of the time runs of it were under way; more than one at once is more than 100 %.",
            &[c::RUN_TIME],
        )
        .query(format!("sum(rate({}{{{CHOSEN}}}[$__rate_interval]))", m(c::RUN_TIME)), ""),
        Panel::new(
            "State",
            Shape::States,
            "none",
            "The state of the registered task; a spawned one has none.",
            &[c::STATUS],
        )
        .query(
            format!("max by (instance, task_state) ({}{{{CHOSEN}}}) > 0", m(c::STATUS)),
            "{{instance}} {{task_state}}",
        )
        .size(24, 6),
    ];
    Row { title: "Now", panels: chosen(panels) }
}

fn runs() -> Row {
    let buckets = format!("{}_bucket{{{CHOSEN}}}", m(c::RUN_DURATION));
    let mut percentiles =
        Panel::new("Run duration", Shape::Lines, "s", "Percentiles, and the mean.", &[c::RUN_DURATION]);
    for (q, legend) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")] {
        percentiles = percentiles.query(
            format!("histogram_quantile({q}, sum by (le) (rate({buckets}[$__rate_interval])))"),
            legend,
        );
    }
    percentiles = percentiles.query(
        format!(
            "sum(rate({0}_sum{{{CHOSEN}}}[$__rate_interval])) / sum(rate({0}_count{{{CHOSEN}}}[$__rate_interval]))",
            m(c::RUN_DURATION)
        ),
        "mean",
    );
    let panels = vec![
        Panel::new("Runs by result", Shape::Stacked, "ops", "Runs that ended, a second.", &[c::RUNS]).query(
            format!("sum by (task_run_result) (rate({}{{{CHOSEN}}}[$__rate_interval]))", m(c::RUNS)),
            "{{task_run_result}}",
        ),
        Panel::new(
            "Errors by class",
            Shape::Stacked,
            "ops",
            "Runs that failed, panicked or timed out, a second.",
            &[c::RUN_ERRORS],
        )
        .query(
            format!("sum by (error_type) (rate({}{{{CHOSEN}}}[$__rate_interval]))", m(c::RUN_ERRORS)),
            "{{error_type}}",
        ),
        Panel::new(
            "Run duration, distribution",
            Shape::Heatmap,
            "s",
            "How many runs took how long.",
            &[c::RUN_DURATION],
        )
        .query(format!("sum by (le) (increase({buckets}[$__rate_interval]))"), "{{le}}"),
        percentiles,
    ];
    Row { title: "Runs", panels: chosen(panels) }
}

fn supervision() -> Row {
    let panels = vec![
        Panel::new("Restarts by reason", Shape::Stacked, "none", "Within each interval.", &[c::RESTARTS])
            .query(
                format!(
                    "sum by (task_restart_reason) (increase({}{{{CHOSEN}}}[$__rate_interval]))",
                    m(c::RESTARTS)
                ),
                "{{task_restart_reason}}",
            ),
        Panel::new(
            "Next try",
            Shape::Stat(None),
            "s",
            "The time until a task that failed is tried again; absent if it was given up for good.",
            &[c::NEXT_RETRY_TIME],
        )
        .query(format!("max by ({TASK}) ({}{{{CHOSEN}}}) - time()", m(c::NEXT_RETRY_TIME)), "{{instance}}"),
        Panel::new("Stalls", Shape::Lines, "none", "Within each interval, by instance.", &[c::STALLS]).query(
            format!("sum by ({TASK}) (increase({}{{{CHOSEN}}}[$__rate_interval]))", m(c::STALLS)),
            "{{instance}}",
        ),
    ];
    Row { title: "Supervision", panels: chosen(panels) }
}

fn schedule() -> Row {
    let delay = format!("{}_bucket{{{CHOSEN}}}", m(c::SCHEDULE_DELAY));
    let mut delays = Panel::new("Schedule delay", Shape::Lines, "s", "Percentiles.", &[c::SCHEDULE_DELAY]);
    for (q, legend) in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")] {
        delays = delays
            .query(format!("histogram_quantile({q}, sum by (le) (rate({delay}[$__rate_interval])))"), legend);
    }
    let panels = vec![
        Panel::new("Interval", Shape::Stat(None), "s", "Of a loop.", &[c::INTERVAL])
            .query(format!("max by ({TASK}) ({}{{{CHOSEN}}})", m(c::INTERVAL)), "{{instance}}")
            .size(4, 8),
        Panel::new(
            "Next iteration in",
            Shape::Stat(None),
            "s",
            "Less than nothing while one is overdue or under way.",
            &[c::NEXT_RUN_TIME],
        )
        .query(format!("max by ({TASK}) ({}{{{CHOSEN}}}) - time()", m(c::NEXT_RUN_TIME)), "{{instance}}")
        .size(4, 8),
        delays.size(8, 8),
        Panel::new(
            "Iterations left out and tried again",
            Shape::Lines,
            "none",
            "Within each interval.",
            &[c::ITERATIONS_SKIPPED, c::ITERATIONS_RETRIED],
        )
        .query(
            format!(
                "sum by (instance, reason) (increase({}{{{CHOSEN}}}[$__rate_interval]))",
                m(c::ITERATIONS_SKIPPED)
            ),
            "{{instance}} {{reason}}",
        )
        .query(
            format!(
                "sum by (instance) (increase({}{{{CHOSEN}}}[$__rate_interval]))",
                m(c::ITERATIONS_RETRIED)
            ),
            "{{instance}} tried again",
        )
        .size(8, 8),
    ];
    Row { title: "Schedule (loops)", panels: chosen(panels) }
}

fn polls() -> Row {
    let panels = vec![
        Panel::new(
            "Slow polls",
            Shape::Lines,
            "none",
            "Within each interval, by instance.",
            &[c::POLLS_SLOW],
        )
        .query(
            format!("sum by ({TASK}) (increase({}{{{CHOSEN}}}[$__rate_interval]))", m(c::POLLS_SLOW)),
            "{{instance}}",
        ),
        Panel::new(
            "Time in runs",
            Shape::Lines,
            "percentunit",
            "How much of the time runs were under way, by instance.",
            &[c::RUN_TIME],
        )
        .query(
            format!("sum by ({TASK}) (rate({}{{{CHOSEN}}}[$__rate_interval]))", m(c::RUN_TIME)),
            "{{instance}}",
        ),
    ];
    Row { title: "Polls", panels: chosen(panels) }
}

fn chosen(panels: Vec<Panel>) -> Vec<Panel> {
    panels.into_iter().map(Panel::of_the_chosen_task).collect()
}
