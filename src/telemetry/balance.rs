//! What was sent and what was not: the counting ends of the three pipelines.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Meter;
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord};
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::batch::Batcher;
use super::contract;
use super::transport::{ExportRuntime, MetricSinks};

/// One of the three kinds of telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All of them, in the order of every report.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The signal as the attribute `signal` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
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
        let sets = Signal::ALL.map(|signal| {
            let set = |reason: &'static str| {
                [
                    KeyValue::new(contract::key::SIGNAL, signal.as_str()),
                    KeyValue::new(contract::key::REASON, reason),
                ]
            };
            (signal, set("queue_full"), set("export_failed"), set("after_shutdown"))
        });
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

/// How long the SDK's own `force_flush`, which has no argument, may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Puts sampled spans into the queue.
#[derive(Debug)]
pub(super) struct QueueingSpanProcessor(pub(super) Batcher<SpanData>);

impl SpanProcessor for QueueingSpanProcessor {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.push(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.flush(FLUSH_TIMEOUT)
    }

    /// Does nothing once [`Telemetry`](super::Telemetry) is closing the queue: a provider that is dropped then must not
    /// wait for it a second time.
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.0.refuse() { self.0.close(timeout) } else { Ok(()) }
    }
}

/// A log record with its scope, as the queue holds it.
pub(super) type QueuedRecord = Box<(SdkLogRecord, InstrumentationScope)>;

/// Puts log records into the queue.
#[derive(Debug)]
pub(super) struct QueueingLogProcessor(pub(super) Batcher<QueuedRecord>);

impl LogProcessor for QueueingLogProcessor {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.0.push(Box::new((record.clone(), scope.clone())));
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.flush(FLUSH_TIMEOUT)
    }

    /// Does nothing once [`Telemetry`](super::Telemetry) is closing the queue: a provider that is dropped then must not
    /// wait for it a second time.
    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        if self.0.refuse() { self.0.close(timeout) } else { Ok(()) }
    }
}

/// The counts of the metric pipeline, whose thread is the SDK's.
#[derive(Debug, Default)]
pub(super) struct MetricLedger {
    tally: Mutex<MetricTally>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct MetricTally {
    counts: SignalBalance,
    last_error: Option<String>,
    trend: Trend,
    discarded: bool,
}

impl MetricLedger {
    fn lock(&self) -> MutexGuard<'_, MetricTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where nothing is to be exported any more.
    fn begin(&self) -> bool {
        let mut tally = self.lock();
        if !tally.discarded {
            tally.counts.ended += 1;
        }
        !tally.discarded
    }

    /// Later collections are neither exported nor counted.
    pub(super) fn discard(&self) {
        self.lock().discarded = true;
    }

    fn end(&self, result: &OTelSdkResult) {
        let mut tally = self.lock();
        match result {
            Ok(()) => tally.counts.exported += 1,
            Err(error) => {
                tally.counts.export_failed += 1;
                tally.last_error = Some(error.to_string());
            }
        }
        let change = tally.trend.note(1, result);
        drop(tally);
        if let Some(change) = change {
            change.tell("metrics");
        }
        self.settled.notify_all();
    }

    /// Waits until no collection is on its way; false past the deadline.
    pub(super) fn wait_until_settled(&self, deadline: Instant) -> bool {
        let mut tally = self.lock();
        while tally.counts.with_pending().pending > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return false;
            };
            tally = self.settled.wait_timeout(tally, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(super) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }
}

impl Ledger for MetricLedger {
    fn read(&self) -> SignalBalance {
        self.lock().counts.with_pending()
    }
}

/// Exports collections of metrics, counts them, and ends an export that takes too long.
pub(super) struct CountingMetricExporter {
    pub(super) sinks: MetricSinks,
    pub(super) temporality: Temporality,
    pub(super) timeout: Duration,
    pub(super) runtime: Arc<ExportRuntime>,
    pub(super) ledger: Arc<MetricLedger>,
}

impl PushMetricExporter for CountingMetricExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        if !self.ledger.begin() {
            return Ok(());
        }
        let result = self.runtime.bounded(self.timeout, self.sinks.export(metrics)).await;
        self.ledger.end(&result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        self.temporality
    }
}

/// The text of a failure, for a report.
pub(super) fn failure_text(error: OTelSdkError) -> String {
    match error {
        OTelSdkError::InternalFailure(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> OTelSdkError {
        OTelSdkError::InternalFailure(text.to_owned())
    }

    #[test]
    fn a_trend_tells_the_first_failure_and_the_first_success_after_it() {
        let mut trend = Trend::default();
        let mut note = |count, result| trend.note(count, &result);
        assert_eq!(note(7, Ok(())), None, "it has always worked");
        for text in ["one", "two"] {
            assert_eq!(note(2, Err(failed(text))), Some(Change::Fails(failed(text).to_string())));
            assert_eq!(note(3, Err(failed("more"))), None);
            assert_eq!(note(4, Err(failed("more"))), None);
            assert_eq!(note(1, Ok(())), Some(Change::WorksAgain { lost: 9 }));
            assert_eq!(note(1, Ok(())), None);
        }
    }

    #[test]
    fn a_collection_on_its_way_is_waited_for_until_the_deadline() {
        let ledger = MetricLedger::default();
        let within = |millis| ledger.wait_until_settled(Instant::now() + Duration::from_millis(millis));
        assert!(within(0), "none is on its way");
        assert!(ledger.begin());
        assert!(!within(10));
        assert_eq!(ledger.last_error(), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                ledger.end(&Err(failed("no")));
            });
            assert!(within(60_000));
        });
        assert_eq!(ledger.last_error(), Some(failed("no").to_string()));
        ledger.discard();
        assert!(!ledger.begin());
        let counts = ledger.read();
        assert_eq!((counts.ended, counts.export_failed, counts.pending), (1, 1, 0));
    }

    #[test]
    fn a_reports_text_is_the_failures_own() {
        assert_eq!(failure_text(failed("refused")), "refused");
        assert_eq!(failure_text(OTelSdkError::AlreadyShutdown), OTelSdkError::AlreadyShutdown.to_string());
    }
}
