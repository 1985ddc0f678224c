//! The reason why Jaeger or Prometheus shows nothing.

use std::{fmt, time::Duration};

use crate::{
    emit::{LayerConflict, SignalExport, TelemetryExport, TelemetryState},
    policy::Plain,
};

/// The result of [`TaskManager::check_instrumentation`](crate::TaskManager::check_instrumentation). Its `Display` is advice for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstrumentationCheck {
    /// True if the current subscriber has [`layer`](crate::telemetry::layer) or [`task_layer`](crate::telemetry::task_layer).
    pub layer_installed: bool,
    /// The problem of the layers, if any.
    pub layer_conflict: Option<LayerConflict>,
    /// True if spans of level INFO and target `otel_tasks` are enabled. If not, runs are exported through the tracer alone,
    /// and other layers do not see them.
    pub info_enabled: bool,
    /// True if a run's span reaches a tracer: through a tracing-opentelemetry layer, a tracer of the manager or of a layer.
    pub spans_traced: bool,
    /// The exports of the [`Telemetry`](https://docs.rs/otel-tasks/latest/otel_tasks/struct.Telemetry.html) behind the layer, or else of the
    /// process. `None` if there is no `Telemetry`: the exports of another SDK are unknown here.
    pub export: Option<TelemetryExport>,
    /// The time since the last collection of the meter; `None` for never.
    pub last_collection: Option<Duration>,
    /// Components that own registered tasks without being registered themselves.
    pub missing_components: Vec<String>,
}

impl InstrumentationCheck {
    /// Returns true if spans and figures leave the process, as far as is known.
    ///
    /// With [`export`](Self::export) that is: the telemetry is alive, traces and metrics are on, the sampler takes some traces, and neither
    /// export fails. A first collection that is still to come is no fault. Without it: a run's span reaches a tracer, and the meter was
    /// collected.
    pub fn is_complete(&self) -> bool {
        let traced = self.spans_traced && self.layer_conflict.is_none();
        traced
            && match &self.export {
                None => self.last_collection.is_some(),
                Some(export) => {
                    export.state == TelemetryState::Alive
                        && export.traces.is_exported()
                        && !export.samples_nothing()
                        && (export.metrics.is_exported() || self.own_reader(export))
                }
            }
    }
}

const KEEP: &str = "keep what `install` returned until the program ends, then await `shutdown`";

impl fmt::Display for InstrumentationCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = self.export.as_ref();
        match export.map(|export| export.state) {
            Some(TelemetryState::Dropped) => {
                writeln!(f, "telemetry: DROPPED, nothing is exported any more: {KEEP}")?;
            }
            Some(TelemetryState::ShutDown) => {
                writeln!(f, "telemetry: SHUT DOWN, nothing is exported any more")?;
            }
            Some(TelemetryState::Alive) | None => {}
        }
        self.traces(f)?;
        if let Some(conflict) = self.layer_conflict {
            writeln!(f, "layers: {conflict}")?;
        }
        if !self.info_enabled {
            writeln!(
                f,
                "level: INFO of target otel_tasks is filtered out; other layers do not see the runs"
            )?;
        }
        self.metrics(f)?;
        if let Some(export) = export {
            writeln!(f)?;
            f.write_str("logs: ")?;
            signal(f, &export.logs, "records", "no record was emitted yet")?;
            for warning in &export.warnings {
                write!(f, "\nwarning: {}", Plain(warning))?;
            }
        }
        for component in &self.missing_components {
            write!(f, "\ncomponent {}: owns tasks, but is not registered", Plain(component))?;
        }
        Ok(())
    }
}

impl InstrumentationCheck {
    /// Returns true if a reader of the user's collects where the export is off.
    fn own_reader(&self, export: &TelemetryExport) -> bool {
        export.metrics.off.is_some() && self.last_collection.is_some()
    }

    fn traces(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.spans_traced {
            return writeln!(
                f,
                "traces: NOT exported: install otel_tasks::telemetry::layer(tracer) in the tracing subscriber, or call \
                 otel_tasks::Telemetry::builder().install()"
            );
        }
        f.write_str("traces: ")?;
        match &self.export {
            Some(export) if export.traces.off.is_none() && export.samples_nothing() => {
                let sampler = Plain(&export.sampler);
                write!(f, "NOT sampled: the sampler {sampler} leaves out each trace that begins here")?;
            }
            Some(export) => {
                signal(f, &export.traces, "spans", "no sampled span has ended yet")?;
                if export.traces.off.is_none()
                    && ["TraceIdRatioBased", "AlwaysOff"].iter().any(|part| export.sampler.contains(part))
                {
                    write!(f, "; the sampler {} leaves out the other traces", Plain(&export.sampler))?;
                }
            }
            None if self.layer_installed => {
                f.write_str(
                    "handed to a tracer by otel_tasks::telemetry::layer; what it exports is not known here",
                )?;
            }
            None => f.write_str("handed to a tracer; what it exports is not known here")?,
        }
        writeln!(f)
    }

    fn metrics(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metrics: ")?;
        match (&self.export, self.last_collection) {
            (Some(export), Some(age)) if self.own_reader(export) => {
                write!(f, "last collected {age:.1?} ago, by a reader of yours")
            }
            (Some(export), _) if !export.metrics.is_exported() => {
                signal(f, &export.metrics, "collections", "none was made yet")
            }
            (Some(export), None) => {
                let every = export.metric_interval;
                write!(
                    f,
                    "not yet: collected every {every:?}, for the first time {every:?} after the installation"
                )
            }
            (Some(export), Some(age)) => {
                signal(f, &export.metrics, "collections", "none was made for it yet")?;
                write!(f, ", the last {age:.1?} ago")
            }
            (None, Some(age)) => write!(f, "last collected {age:.1?} ago"),
            (None, None) => f.write_str(
                "NEVER collected: set the global meter provider before the manager is built, or give the \
                 builder a meter; a periodic reader first collects after its interval",
            ),
        }
    }
}

/// Writes the exports of one signal.
fn signal(f: &mut fmt::Formatter<'_>, export: &SignalExport, items: &str, none: &str) -> fmt::Result {
    let SignalExport { targets, off, ended, delivered, pending, lost, rejected_points, failure, loss } =
        export;
    if let Some(off) = off {
        return write!(f, "OFF: {off}");
    }
    let targets = Plain(targets.join(" and "));
    match (failure.as_ref().map(Plain), loss.as_ref().map(Plain)) {
        (Some(failure), _) => write!(f, "NOT delivered to {targets}: {failure}")?,
        (None, Some(loss)) => write!(f, "exported to {targets}, NOT in full: {loss}")?,
        (None, None) if export.is_exported() => write!(f, "exported to {targets}")?,
        (None, None) => write!(f, "NOT taken by {targets}")?,
    }
    if *ended == 0 {
        return write!(f, ": {none}");
    }
    let mark = if failure.is_some() || loss.is_some() { ';' } else { ':' };
    write!(f, "{mark} {delivered} of {ended} {items} delivered")?;
    for (count, what) in [(pending, "pending"), (lost, "lost"), (rejected_points, "data points rejected")] {
        if *count > 0 {
            write!(f, ", {count} {what}")?;
        }
    }
    Ok(())
}
