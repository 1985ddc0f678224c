//! The state of the exports: the pipelines provide it, and the check of the instrumentation reads it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// The state of the telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TelemetryState {
    /// It exports.
    Alive,
    /// It was shut down, and exports nothing any more.
    ShutDown,
    /// It was dropped without its shutdown, and exports nothing any more.
    Dropped,
}

/// The export of one signal, and its figures so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalExport {
    /// The destinations: the endpoint, with `***` for a user and a password, and `the console`. Empty if the signal is off.
    pub targets: Vec<String>,
    /// The reason why the signal is off, if it is.
    pub off: Option<&'static str>,
    /// Sampled spans that ended, log records that were emitted, collections that were made.
    pub ended: u64,
    /// Items that were delivered.
    pub delivered: u64,
    /// Items that wait, or are on their way.
    pub pending: u64,
    /// Items that were lost: refused by a full queue or by the receiver, or given up.
    pub lost: u64,
    /// Data points that the receiver rejected; they are no items.
    pub rejected_points: u64,
    /// The reason why nothing of the last request was taken; `None` if something was.
    pub failure: Option<String>,
    /// The reason why a part of the last request was lost; `None` if all of it was taken.
    pub loss: Option<String>,
}

impl SignalExport {
    /// Returns true if the signal leaves the process: it is on, exporting does not fail, and not everything was lost.
    pub fn is_exported(&self) -> bool {
        let all_lost = self.lost > 0 && self.delivered == 0;
        self.off.is_none() && self.failure.is_none() && !all_lost
    }
}

/// The state of the telemetry's exports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetryExport {
    /// The state of the telemetry.
    pub state: TelemetryState,
    /// The sampler of spans.
    pub sampler: String,
    /// Spans.
    pub traces: SignalExport,
    /// Collections of metrics.
    pub metrics: SignalExport,
    /// Log records.
    pub logs: SignalExport,
    /// The interval of the collections of metrics.
    pub metric_interval: Duration,
    /// The variables with a problem, each with the value that was used instead.
    pub warnings: Vec<String>,
}

impl TelemetryExport {
    /// Returns true if the sampler leaves out each trace that begins in this process.
    pub fn samples_nothing(&self) -> bool {
        let root = self.sampler.strip_prefix("ParentBased(").and_then(|rest| rest.strip_suffix(')'));
        matches!(root.unwrap_or(&self.sampler), "AlwaysOff" | "TraceIdRatioBased(0.0)")
    }
}

/// Telemetry that can be asked.
pub(crate) trait ExportStatus: Send + Sync {
    fn read(&self) -> TelemetryExport;
}

static OF_PROCESS: RwLock<Option<Arc<dyn ExportStatus>>> = RwLock::new(None);

/// Registers the telemetry that is the process's.
#[cfg(feature = "otlp-http")]
pub(crate) fn ask(status: Arc<dyn ExportStatus>) {
    *OF_PROCESS.write().unwrap_or_else(PoisonError::into_inner) = Some(status);
}

/// The telemetry that is the process's.
pub(crate) fn status_of_process() -> Option<Arc<dyn ExportStatus>> {
    OF_PROCESS.read().unwrap_or_else(PoisonError::into_inner).clone()
}
