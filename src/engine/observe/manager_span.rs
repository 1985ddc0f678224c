//! The manager's own spans.

use std::sync::Arc;

use opentelemetry::{Array, KeyValue, StringValue, Value};

use crate::{
    contract::attribute,
    emit::{ManagedSpan, SpanParent, SpanStart, managed_span},
    policy::TaskCategory,
    run::Recorder,
};

/// Sets the names of each category as the attributes `tasks.<category>`.
pub(crate) fn set_names(span: &ManagedSpan, names: &Names) {
    for (category, names) in TaskCategory::ALL.iter().copied().zip(names) {
        span.set_attribute(KeyValue::new(attribute::names_of(category), strings(names)));
    }
}

pub(super) fn strings(strings: &[Arc<str>]) -> Value {
    Value::Array(Array::String(strings.iter().cloned().map(StringValue::from).collect()))
}

/// The source of the manager's own spans, also for a thread without the manager.
pub(crate) struct ManagerSpans {
    recorder: Arc<Recorder>,
    prefix: Arc<str>,
}

impl ManagerSpans {
    pub(crate) fn new(recorder: Arc<Recorder>, prefix: Arc<str>) -> Self {
        Self { recorder, prefix }
    }

    /// Begins a span, named `<prefix>.<work>`.
    pub(crate) fn span(&self, work: &'static str, parent: SpanParent) -> ManagedSpan {
        manager_span(&self.recorder, &self.prefix, work, parent)
    }
}

fn manager_span(recorder: &Recorder, prefix: &str, work: &'static str, parent: SpanParent) -> ManagedSpan {
    let name = format!("{prefix}.{work}");
    // A `tracing` span's name is fixed at compile time; another prefix reaches OpenTelemetry as `otel.name`.
    let other_name = (prefix != crate::engine::DEFAULT_SPAN_PREFIX).then_some(name.as_str());
    macro_rules! span {
        ($name:literal) => {
            managed_span!(parent, $name, { otel.name = other_name, })
        };
    }
    let span = match work {
        "monitor_tasks" => span!("bot.monitor_tasks"),
        "cleanup_tasks" => span!("bot.cleanup_tasks"),
        "stop_task_loops" => span!("bot.stop_task_loops"),
        _ => span!("bot.cancel_tasks"),
    };
    let start = SpanStart {
        parent: &parent,
        links: Vec::new(),
        own_tracer: recorder.tracer(),
        name: name.into(),
        began: None,
        attributes: Vec::new,
    };
    start.start(span)
}

/// The names of each category, in the order of [`TaskCategory::ALL`], each sorted.
pub(crate) type Names = [Vec<Arc<str>>; TaskCategory::ALL.len()];
