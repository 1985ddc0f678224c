//! The report of a telemetry shutdown, signal by signal.

use std::{fmt, time::Duration};

use crate::{
    otlp::ledger::{BalanceSnapshot, Signal},
    policy::Plain,
};

/// The outcome of the last export of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalOutcome {
    /// The remaining items were delivered.
    Delivered,
    /// The deadline passed before the remaining items were delivered.
    TimedOut,
    /// The exporter gave up some of the remaining items.
    Failed(String),
    /// The signal is not exported.
    Off,
}

/// The balance of one signal's items over the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalReport {
    /// The signal.
    pub signal: Signal,
    /// Sampled spans that ended and spans of traces that were kept, log records that were emitted, collections that were made.
    pub ended: u64,
    /// Items that the receiver took.
    pub exported: u64,
    /// Items that the queue refused, being full.
    pub queue_full: u64,
    /// Items of requests that the receiver refused for good, or that were given up.
    pub export_failed: u64,
    /// Items that are larger than a batch, or that the receiver refused as too large when they were alone in a request.
    pub too_large: u64,
    /// Items that the receiver rejected in a request that it took otherwise; for metrics data points, which are no items.
    pub rejected: u64,
    /// Lost before their trace was kept.
    pub buffer_full: u64,
    /// Neither delivered nor given up when the report was made, or ended after the shutdown began.
    pub undelivered: u64,
    /// The outcome of the last export.
    pub outcome: SignalOutcome,
    /// The duration of this signal's shutdown.
    pub took: Duration,
}

/// The result of a shutdown of telemetry, signal by signal. Its `Display` is one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetryReport {
    /// Spans.
    pub traces: SignalReport,
    /// Collections of metrics.
    pub metrics: SignalReport,
    /// Log records.
    pub logs: SignalReport,
    /// The duration of the shutdown.
    pub took: Duration,
}

impl TelemetryReport {
    pub(super) fn new(
        balance: BalanceSnapshot,
        outcomes: [(SignalOutcome, Duration); 3],
        took: Duration,
    ) -> Self {
        let [traces, metrics, logs] = outcomes;
        let report = |signal: Signal, (outcome, took): (SignalOutcome, Duration)| {
            let counts = balance.of(signal);
            SignalReport {
                signal,
                ended: counts.ended,
                exported: counts.exported,
                queue_full: counts.queue_full,
                export_failed: counts.export_failed,
                too_large: counts.too_large,
                rejected: counts.rejected.max(counts.rejected_points),
                buffer_full: counts.buffer_full,
                undelivered: counts.pending + counts.after_shutdown,
                outcome,
                took,
            }
        };
        Self {
            traces: report(Signal::Traces, traces),
            metrics: report(Signal::Metrics, metrics),
            logs: report(Signal::Logs, logs),
            took,
        }
    }

    pub(super) fn without_thread(balance: BalanceSnapshot) -> Self {
        let text = "no thread could be started to export on";
        let outcomes = std::array::from_fn(|_| (SignalOutcome::Failed(text.to_owned()), Duration::ZERO));
        Self::new(balance, outcomes, Duration::ZERO)
    }

    /// The three signals.
    pub fn signals(&self) -> impl Iterator<Item = &SignalReport> {
        [&self.traces, &self.metrics, &self.logs].into_iter()
    }

    /// True where nothing was lost, over the whole life of the process.
    pub fn is_complete(&self) -> bool {
        self.signals().all(|signal| signal.ended == signal.exported && signal.rejected == 0)
    }
}

impl fmt::Display for SignalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, rejected) = match self.signal {
            Signal::Traces => ("spans", "rejected by the receiver"),
            Signal::Metrics => ("collections", "data points rejected by the receiver"),
            Signal::Logs => ("records", "rejected by the receiver"),
        };
        write!(f, "{:<8}", self.signal.as_str())?;
        if self.outcome == SignalOutcome::Off {
            return f.write_str("off");
        }
        write!(f, "{} of {} {unit} delivered", self.exported, self.ended)?;
        let losses = [
            (self.queue_full, "refused by a full queue"),
            (self.export_failed, "failed"),
            (self.too_large, "too large"),
            (self.rejected, rejected),
            (self.buffer_full, "lost before their trace was kept"),
            (self.undelivered, "undelivered"),
        ];
        for (count, what) in losses {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        match &self.outcome {
            SignalOutcome::Delivered | SignalOutcome::Off => Ok(()),
            SignalOutcome::TimedOut => write!(f, "; timed out after {:.1} s", self.took.as_secs_f64()),
            SignalOutcome::Failed(text) => write!(f, "; {}", Plain(text)),
        }
    }
}

impl fmt::Display for TelemetryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "telemetry ended after {:.1} s", self.took.as_secs_f64())?;
        writeln!(f, "  {}", self.traces)?;
        writeln!(f, "  {}", self.metrics)?;
        write!(f, "  {}", self.logs)
    }
}
