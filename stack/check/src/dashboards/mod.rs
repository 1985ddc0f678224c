//! The dashboards, made from the instrument contract: a metric is spelt nowhere, so none can be misspelt or forgotten.

mod overview;
mod page;
mod panel;
mod runtime;
mod task;

use serde_json::Value;

/// What is looked at: one service, some instances of it.
const FLEET: &str = "job=\"$service\", instance=~\"$instance\"";
/// What tells a task of one instance from all others.
const TASK: &str = "job, instance, task_name";

/// Each dashboard with the name of its file.
pub(crate) fn all() -> [(&'static str, Value); 3] {
    [("overview.json", overview::page()), ("task.json", task::page()), ("runtime.json", runtime::page())]
}
