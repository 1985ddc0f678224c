//! What was sent and what was not: the counting ends of the three pipelines.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogProcessor, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{Span, SpanData, SpanProcessor},
};

use super::{
    batch::Batcher,
    transport::{ExportRuntime, MetricSinks},
};
use crate::otlp::{
    ledger::{Ledger, SignalBalance, Trend},
    transport::QueuedRecord,
};

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

    fn failure(&self) -> Option<String> {
        let tally = self.lock();
        tally.last_error.clone().filter(|_| tally.trend.is_failing())
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
    use crate::otlp::ledger::Change;

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
