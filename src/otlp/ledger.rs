//! The balance of each signal: items that ended, were exported, or were dropped, and why.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::transport::{Cause, Failure};
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

/// The balance of one signal's items so far: spans, log records, or collections of metrics.
///
/// `ended` is always the sum of the others, exactly, but for [`rejected_points`](Self::rejected_points), which are parts of
/// collections. Exported is what the receiver said that it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalBalance {
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
    /// Spans and records that the receiver rejected in a request that it took otherwise: OTLP's *partial success*. Also
    /// collections of which it rejected every data point.
    pub rejected: u64,
    /// Items that ended after the shutdown.
    pub after_shutdown: u64,
    /// Spans that were lost before their trace was kept, to the bounds of what is held; see
    /// [`keep_failed_traces`](crate::telemetry::TelemetryBuilder::keep_failed_traces).
    pub buffer_full: u64,
    /// Items that are queued or on their way.
    pub pending: u64,
    /// Data points that the receiver rejected. They are no items of the balance.
    pub rejected_points: u64,
}

impl SignalBalance {
    pub(super) fn with_pending(mut self) -> Self {
        self.pending = self.ended
            - self.exported
            - self.queue_full
            - self.lost_in_export()
            - self.after_shutdown
            - self.buffer_full;
        self
    }

    /// Returns the number of items that were lost in an export, or were too large for one.
    pub(super) fn lost_in_export(&self) -> u64 {
        self.export_failed + self.too_large + self.rejected
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

    /// Returns why nothing of the last request was taken; `None` if something was.
    fn failure(&self) -> Option<String>;

    /// Returns why a part of the last request was lost; `None` if all of it was taken.
    fn loss(&self) -> Option<String>;
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
        type Count = fn(SignalBalance) -> u64;
        let reasons: [(&'static str, Count); 6] = [
            ("queue_full", |counts| counts.queue_full),
            ("export_failed", |counts| counts.export_failed),
            ("too_large", |counts| counts.too_large),
            // Of metrics it is data points, of which a rejected collection has one at least.
            ("rejected", |counts| counts.rejected.max(counts.rejected_points)),
            ("after_shutdown", |counts| counts.after_shutdown),
            ("buffer_full", |counts| counts.buffer_full),
        ];
        let sets: Vec<_> = Signal::ALL
            .iter()
            .flat_map(|&signal| reasons.map(|(reason, count)| (signal, reason, count)))
            // Traces alone are held before they are kept.
            .filter(|(signal, reason, _)| *reason != "buffer_full" || *signal == Signal::Traces)
            .map(|(signal, reason, count)| {
                let pairs = [
                    KeyValue::new(contract::key::SIGNAL, signal.as_str()),
                    KeyValue::new(contract::key::REASON, reason),
                ];
                (signal, pairs, count)
            })
            .collect();
        meter
            .u64_observable_counter(instrument.name)
            .with_unit(instrument.unit)
            .with_description(instrument.description)
            .with_callback(move |observer| {
                let snapshot = balance.snapshot();
                for (signal, pairs, count) in &sets {
                    observer.observe(count(snapshot.of(*signal)), pairs);
                }
            })
            .build();
    }
}

/// Notices when exporting begins to fail, why, and when it works again: one line for each change, not for each batch.
#[derive(Debug)]
pub(super) struct Trend {
    items: &'static str,
    is_failing: bool,
    /// Items that had been lost when the outage began.
    lost: u64,
    /// The causes since the last success that have a line.
    causes: Vec<Cause>,
    /// The time at which the last line of a failure was written, and its cause.
    last: Option<(Instant, Cause)>,
}

/// A receiver that fails and recovers all the time has a line this often.
const QUIET: Duration = Duration::from_secs(30);

/// A change of a [`Trend`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Fails { items: &'static str, failure: Failure },
    WorksAgain { items: &'static str, lost: u64 },
}

impl Trend {
    pub(super) fn new(items: &'static str) -> Self {
        Self { items, is_failing: false, lost: 0, causes: Vec::new(), last: None }
    }

    pub(super) fn fails(&mut self, failure: &Failure, lost: u64) -> Option<Change> {
        /// Of one outage.
        const MOST_CAUSES: usize = 8;
        let cause = &failure.cause;
        if !std::mem::replace(&mut self.is_failing, true) {
            self.lost = lost;
        }
        let recent = self.last.as_ref().is_some_and(|(at, last)| last == cause && at.elapsed() < QUIET);
        if self.causes.contains(cause)
            || self.causes.len() >= MOST_CAUSES
            || (self.causes.is_empty() && recent)
        {
            return None;
        }
        self.causes.push(cause.clone());
        self.last = Some((Instant::now(), cause.clone()));
        Some(Change::Fails { items: self.items, failure: failure.clone() })
    }

    pub(super) fn works(&mut self, lost: u64) -> Option<Change> {
        self.is_failing = false;
        if self.causes.is_empty() {
            return None;
        }
        self.causes.clear();
        Some(Change::WorksAgain { items: self.items, lost: lost - self.lost })
    }
}

impl Change {
    /// Writes the line. On an export thread it reaches the terminal and is not exported, as telemetry is suppressed there.
    pub(super) fn report(&self) {
        match self {
            Self::Fails { items, failure } => {
                tracing::warn!(target: contract::SCOPE, "export of {items} fails: {failure}");
            }
            Self::WorksAgain { items, lost } => {
                tracing::info!(target: contract::SCOPE, "export of {items} works again, {lost} were lost");
            }
        }
    }
}

#[cfg(test)]
mod tests;
