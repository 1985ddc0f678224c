//! The state of the exports, for the check of the instrumentation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{
    ledger::{Balance, Ledger, Signal},
    settings::{SignalSettings, Warning, redacted},
};
use crate::emit::{ExportStatus, SignalExport, TelemetryExport, TelemetryState};

/// The setup of a signal.
pub(super) struct SignalPlan {
    targets: Vec<String>,
    off: Option<&'static str>,
}

impl SignalPlan {
    pub(super) fn of(signal: Signal, settings: &SignalSettings, enabled: bool) -> Self {
        let mut targets = Vec::new();
        if settings.targets.otlp {
            targets.push(redacted(&settings.otlp.endpoint));
        }
        if settings.targets.console {
            targets.push("the console".to_owned());
        }
        let off = match signal {
            _ if !enabled => Some("OTEL_SDK_DISABLED is true"),
            _ if !targets.is_empty() => None,
            _ if settings.unconfigured => Some("no endpoint is configured"),
            Signal::Traces => Some("OTEL_TRACES_EXPORTER is none"),
            Signal::Metrics => Some("OTEL_METRICS_EXPORTER is none"),
            Signal::Logs => Some("OTEL_LOGS_EXPORTER is none"),
        };
        if off.is_some() {
            targets.clear();
        }
        Self { targets, off }
    }

    fn with(&self, ledger: &Option<Arc<dyn Ledger>>) -> SignalExport {
        let mut export =
            SignalExport { targets: self.targets.clone(), off: self.off, ..SignalExport::default() };
        if let Some(ledger) = ledger {
            let counts = ledger.read();
            (export.ended, export.delivered, export.pending) =
                (counts.ended, counts.exported, counts.pending);
            export.lost = counts.ended - counts.exported - counts.pending;
            export.rejected_points = counts.rejected_points;
            (export.failure, export.loss) = (ledger.failure(), ledger.loss());
        }
        export
    }
}

/// The set-up of telemetry, and its counts.
pub(super) struct Status {
    pub(super) sampler: String,
    pub(super) traces: SignalPlan,
    pub(super) metrics: SignalPlan,
    pub(super) logs: SignalPlan,
    pub(super) metric_interval: Duration,
    pub(super) balance: Balance,
    pub(super) warnings: Vec<String>,
    pub(super) shut_down: AtomicBool,
    pub(super) dropped: AtomicBool,
}

impl Status {
    pub(super) fn shown(warnings: &[Warning]) -> Vec<String> {
        warnings.iter().map(ToString::to_string).collect()
    }
}

impl ExportStatus for Status {
    fn read(&self) -> TelemetryExport {
        let state = match (self.dropped.load(SeqCst), self.shut_down.load(SeqCst)) {
            (true, _) => TelemetryState::Dropped,
            (false, true) => TelemetryState::ShutDown,
            (false, false) => TelemetryState::Alive,
        };
        TelemetryExport {
            state,
            sampler: self.sampler.clone(),
            traces: self.traces.with(&self.balance.traces),
            metrics: self.metrics.with(&self.balance.metrics),
            logs: self.logs.with(&self.balance.logs),
            metric_interval: self.metric_interval,
            warnings: self.warnings.clone(),
        }
    }
}
