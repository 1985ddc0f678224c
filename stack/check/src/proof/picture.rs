//! The answers of the real APIs as text, for docs/stack.md.

use std::fmt::Write;

use anyhow::{Context, Result};

use crate::{
    jaeger::{Jaeger, Span},
    prometheus::Prometheus,
};

/// What is asked of Prometheus, and by which label its answers differ.
const QUERIES: [(&str, &str); 4] = [
    ("sum by (task_run_result) (task_runs_total{job=\"bot\"})", "task_run_result"),
    ("sum by (task_restart_reason) (task_restarts_total{job=\"bot\"}) > 0", "task_restart_reason"),
    ("sum by (task_state) (task_status{job=\"bot\"}) > 0", "task_state"),
    (
        "histogram_quantile(0.95, sum by (le, task_name) (rate(task_run_duration_seconds_bucket{job=\"bot\", task_category=\"command\"}[1m])))",
        "task_name",
    ),
];

pub(crate) fn take(prometheus: &Prometheus, jaeger: &Jaeger) -> Result<String> {
    // The example bot's instances have the same service name.
    let instances = prometheus.label_values("instance", "task_run_active{job=\"bot\"}")?;
    let instance = instances.first().context("no instance")?;
    let mut text = String::from("Jaeger, service bot\n");
    trees(jaeger, ("bot", instance), &mut text)?;

    text += "\nPrometheus\n";
    for (query, label) in QUERIES {
        writeln!(text, "  {query}")?;
        let mut series = prometheus.query(query)?;
        series.retain(|(_, value)| value.is_finite());
        series.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let figures: Vec<String> = series
            .iter()
            .map(|(labels, value)| {
                format!("{} {}", labels.get(label).map_or("", String::as_str), rounded(*value))
            })
            .collect();
        writeln!(text, "    {}", figures.join(", "))?;
    }

    text += "\nAlerts that fire\n";
    let mut alerts = prometheus.firing()?;
    alerts.retain(|(_, labels)| labels.get("job").is_some_and(|job| job == "bot"));
    alerts.sort();
    for (alert, labels) in alerts {
        let of = |label: &str| labels.get(label).map_or("", String::as_str);
        let line = format!("  {:<9} {alert:<19} {}", of("severity"), of("task_name"));
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(text)
}

/// A run with what the user opened in it; a failed run and the one that came after it; a sweep.
fn trees(jaeger: &Jaeger, of: (&str, &str), text: &mut String) -> Result<()> {
    let rolls = jaeger.spans(of, "task.run", &[("task.name", "command_roll")])?;
    let inner = rolls.iter().find(|span| span.operation == "shake_dice").context("no shake_dice")?;
    let run =
        rolls.iter().find(|span| Some(&span.id) == inner.parent.as_ref()).context("no run around it")?;
    writeln!(text, "  {}", line(run))?;
    writeln!(text, "    {}", line(inner))?;
    let fetchers = jaeger.runs(of, "fetcher")?;
    let next = fetchers
        .iter()
        .find(|run| !run.links.is_empty() && run.tag("task.run.generation").as_deref() == Some("2"));
    let next = next.context("no second generation")?;
    let failed = fetchers
        .iter()
        .find(|run| next.links.iter().any(|(_, id)| *id == run.id))
        .context("no failed run")?;
    writeln!(text, "  {}", line(failed))?;
    writeln!(text, "  {}", line(next))?;
    writeln!(text, "    follows from {}", &failed.id)?;
    let sweeps = jaeger.spans(of, "bot.monitor_tasks", &[])?;
    writeln!(text, "  {}", line(sweeps.first().context("no sweep")?))?;
    Ok(())
}

fn line(span: &Span) -> String {
    let duration = match span.duration {
        micros @ 0..1_000 => format!("{micros} us"),
        micros @ 1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros => format!("{:.1} s", micros as f64 / 1e6),
    };
    let mut line = format!("{:<18} {} {duration:>8}", span.operation, span.id);
    for key in ["task.name", "task.run.generation", "error.type", "tasks.unhealthy"] {
        if let Some(value) = span.tag(key) {
            line += &format!("  {key}={value}");
        }
    }
    line
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.4}") }
}
