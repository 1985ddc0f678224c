//! The answer to "why do I see nothing in Jaeger or Prometheus".

use std::time::Duration;

use crate::emit::LayerConflict;

/// What [`TaskManager::check_instrumentation`](crate::TaskManager::check_instrumentation) found. Its `Display` is advice for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstrumentationCheck {
    /// Whether the current subscriber has [`layer`](crate::telemetry::layer) or [`task_layer`](crate::telemetry::task_layer).
    pub layer_installed: bool,
    /// What is wrong with the layers, if anything.
    pub layer_conflict: Option<LayerConflict>,
    /// Whether spans of level INFO and target `otel_tasks` are enabled. If not, runs are exported through the tracer alone,
    /// and other layers do not see them.
    pub info_enabled: bool,
    /// Whether a run's span reaches a tracer: through a tracing-opentelemetry layer, a tracer of the manager or of a layer.
    pub spans_exported: bool,
    /// Whether the installed telemetry was dropped without its shutdown: then nothing is exported any more.
    pub telemetry_dropped: bool,
    /// How long ago the meter last collected; `None` for never.
    pub last_collection: Option<Duration>,
    /// Components that own registered tasks without being registered themselves.
    pub missing_components: Vec<String>,
}

impl InstrumentationCheck {
    /// Whether spans and figures leave the process.
    pub fn is_complete(&self) -> bool {
        !self.telemetry_dropped
            && self.spans_exported
            && self.layer_conflict.is_none()
            && self.last_collection.is_some()
    }
}

impl std::fmt::Display for InstrumentationCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.telemetry_dropped {
            writeln!(
                f,
                "telemetry: DROPPED, nothing is exported any more: keep what `install` returned until the program ends, then await \
                 `shutdown`"
            )?;
        }
        match (self.spans_exported, self.layer_installed) {
            (true, true) => writeln!(f, "traces: exported, through otel_tasks::telemetry::layer")?,
            (true, false) => writeln!(f, "traces: exported")?,
            (false, _) => writeln!(
                f,
                "traces: NOT exported: install otel_tasks::telemetry::layer(tracer) in the tracing subscriber, or call \
                 otel_tasks::Telemetry::builder().install()"
            )?,
        }
        if let Some(conflict) = self.layer_conflict {
            writeln!(f, "layers: {conflict}")?;
        }
        if !self.info_enabled {
            writeln!(
                f,
                "level: INFO of target otel_tasks is filtered out; other layers do not see the runs"
            )?;
        }
        match self.last_collection {
            Some(age) => write!(f, "metrics: last collected {age:.1?} ago")?,
            None => write!(
                f,
                "metrics: NEVER collected: set the global meter provider before the manager is built, or give the \
                 builder a meter; a periodic reader first collects after its interval"
            )?,
        }
        for component in &self.missing_components {
            write!(f, "\ncomponent {component}: owns tasks, but is not registered")?;
        }
        Ok(())
    }
}
