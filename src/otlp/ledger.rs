//! The balance of each signal: items that ended, were exported, or were dropped, and why.

use std::{fmt, sync::Arc};

use opentelemetry::{KeyValue, metrics::Meter};
use opentelemetry_sdk::error::OTelSdkResult;

use crate::{contract, policy::labels};
labels! {
    /// One of the three kinds of telemetry.
    pub enum Signal {
        /// Spans.
        Traces = "traces",
        /// Metrics.
        Metrics = "metrics",
        /// Log records.
        Logs = "logs",
    }
}

/// What became of one signal's items so far: spans, log records, or collections of metrics.
///
/// `ended` is always the sum of the others, exactly. What an exporter accepted counts as exported: a collector's
/// *partial success* is logged by the exporter but not handed on, so items it refused inside an accepted request are
/// counted as exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalBalance {
    /// Sampled spans that ended, log records that were emitted, collections that were made.
    pub ended: u64,
    /// Delivered.
    pub exported: u64,
    /// Refused, the queue being full.
    pub queue_full: u64,
    /// Given up by the exporter, after its retries.
    pub export_failed: u64,
    /// Refused, coming after the shutdown.
    pub after_shutdown: u64,
    /// Queued or on their way.
    pub pending: u64,
}

impl SignalBalance {
    pub(super) fn with_pending(mut self) -> Self {
        self.pending =
            self.ended - self.exported - self.queue_full - self.export_failed - self.after_shutdown;
        self
    }
}

/// The balance of the three signals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BalanceSnapshot {
    /// Spans.
    pub traces: SignalBalance,
    /// Collections of metrics.
    pub metrics: SignalBalance,
    /// Log records.
    pub logs: SignalBalance,
}

impl BalanceSnapshot {
    /// One signal's part.
    pub const fn of(&self, signal: Signal) -> SignalBalance {
        match signal {
            Signal::Traces => self.traces,
            Signal::Metrics => self.metrics,
            Signal::Logs => self.logs,
        }
    }
}

/// Something that can say what became of its items.
pub(super) trait Ledger: Send + Sync {
    fn read(&self) -> SignalBalance;

    /// Why exporting fails, from the first failure until the next success.
    fn failure(&self) -> Option<String>;
}

/// A handle on the counts of what was sent and what was not; cheap to clone, and valid after the shutdown.
///
/// The instrument `task.telemetry.dropped` shows the same numbers.
#[derive(Clone, Default)]
pub struct Balance {
    pub(super) traces: Option<Arc<dyn Ledger>>,
    pub(super) metrics: Option<Arc<dyn Ledger>>,
    pub(super) logs: Option<Arc<dyn Ledger>>,
}

impl fmt::Debug for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Balance").field(&self.snapshot()).finish()
    }
}

impl Balance {
    /// The counts now. Each signal's are consistent in themselves; a signal that is not exported is all zeros.
    pub fn snapshot(&self) -> BalanceSnapshot {
        let read = |ledger: &Option<Arc<dyn Ledger>>| ledger.as_ref().map(|l| l.read()).unwrap_or_default();
        BalanceSnapshot { traces: read(&self.traces), metrics: read(&self.metrics), logs: read(&self.logs) }
    }

    /// Registers the instrument of drops. Zeros are observed too: a counter that appears late hides its first step.
    pub(super) fn observe(&self, meter: &Meter) {
        let balance = self.clone();
        let instrument = contract::TELEMETRY_DROPPED;
        let sets: Vec<_> = Signal::ALL
            .iter()
            .map(|&signal| {
                let set = |reason: &'static str| {
                    [
                        KeyValue::new(contract::key::SIGNAL, signal.as_str()),
                        KeyValue::new(contract::key::REASON, reason),
                    ]
                };
                (signal, set("queue_full"), set("export_failed"), set("after_shutdown"))
            })
            .collect();
        meter
            .u64_observable_counter(instrument.name)
            .with_unit(instrument.unit)
            .with_description(instrument.description)
            .with_callback(move |observer| {
                let snapshot = balance.snapshot();
                for (signal, queue_full, export_failed, after_shutdown) in &sets {
                    let counts = snapshot.of(*signal);
                    observer.observe(counts.queue_full, queue_full);
                    observer.observe(counts.export_failed, export_failed);
                    observer.observe(counts.after_shutdown, after_shutdown);
                }
            })
            .build();
    }
}

/// Notices when exporting begins to fail and when it works again: one line says so, not one per batch.
#[derive(Debug, Default)]
pub(super) struct Trend {
    lost: u64,
}

/// A change of a [`Trend`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Fails(String),
    WorksAgain { lost: u64 },
}

impl Trend {
    pub(super) fn is_failing(&self) -> bool {
        self.lost > 0
    }

    pub(super) fn note(&mut self, count: u64, result: &OTelSdkResult) -> Option<Change> {
        match result {
            Ok(()) if self.lost == 0 => None,
            Ok(()) => Some(Change::WorksAgain { lost: std::mem::take(&mut self.lost) }),
            Err(error) => {
                let first = self.lost == 0;
                self.lost += count;
                first.then(|| Change::Fails(error.to_string()))
            }
        }
    }
}

impl Change {
    /// Writes the line. On an export thread it reaches the terminal and is not exported, as telemetry is suppressed there.
    pub(super) fn tell(&self, items: &str) {
        match self {
            Self::Fails(error) => tracing::warn!(target: contract::SCOPE, "export of {items} fails: {error}"),
            Self::WorksAgain { lost } => {
                tracing::info!(target: contract::SCOPE, "export of {items} works again, {lost} were lost");
            }
        }
    }
}
