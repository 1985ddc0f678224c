//! The final figures, as the manager and the pipelines tell them.

use std::io::Write;

use otel_tasks::{
    ShutdownReport, TaskManager,
    snapshot::TaskSnapshot,
    telemetry::{Balance, Signal, TelemetryReport},
};
use serde_json::{Map, Value, json};

/// Prints one value on a line of its own.
pub(crate) fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Whoever reads may have been stopped.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

pub(crate) fn balance(balance: &Balance) -> Value {
    let snapshot = balance.snapshot();
    let signals = Signal::ALL.iter().map(|&signal| {
        let counts = snapshot.of(signal);
        let counts = json!({
            "ended": counts.ended,
            "exported": counts.exported,
            "queue_full": counts.queue_full,
            "export_failed": counts.export_failed,
            "too_large": counts.too_large,
            "rejected": counts.rejected + counts.rejected_points,
            "buffer_full": counts.buffer_full,
            "after_shutdown": counts.after_shutdown,
            "pending": counts.pending,
        });
        (signal.as_str().to_owned(), counts)
    });
    Value::Object(Map::from_iter(signals))
}

/// The snapshot of a task, with the restarts of each reason for which it can be restarted.
fn figures(task: &TaskSnapshot) -> Value {
    let mut figures = json!(task);
    let reasons = task.restarts_by_reason().map(|(reason, count)| (reason.as_str().to_owned(), count.into()));
    figures["restarts_by_reason"] = Value::Object(Map::from_iter(reasons));
    figures
}

pub(crate) fn last(
    tasks: &TaskManager,
    report: &ShutdownReport,
    resource: &opentelemetry_sdk::Resource,
    counts: &Balance,
    telemetry: &TelemetryReport,
) -> Value {
    let attributes = resource.iter().map(|(key, value)| (key.to_string(), value.to_string().into()));
    json!({
        "resource": Map::from_iter(attributes),
        "tasks": tasks.snapshots().iter().map(figures).collect::<Vec<_>>(),
        "shutdown": report,
        "telemetry": balance(counts),
        "complete": telemetry.is_complete(),
        "said": telemetry.to_string(),
    })
}
