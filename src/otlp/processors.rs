//! The counting ends of the three pipelines.

use std::time::Duration;

use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogProcessor, SdkLogRecord},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{Span, SpanData, SpanProcessor},
};

use super::{
    batch::Batcher,
    parcel::QueuedRecord,
    sinks::{Collection, MetricPress},
};

/// The longest time of the SDK's own `force_flush`, which has no argument.
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

/// Puts collections of metrics into the queue, encoded, and waits for one attempt.
pub(super) struct QueueingMetricExporter {
    pub(super) press: MetricPress,
    pub(super) queue: Batcher<Collection>,
    pub(super) temporality: Temporality,
    pub(super) timeout: Duration,
}

impl PushMetricExporter for QueueingMetricExporter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        // Blocks: it is the SDK's own thread, which does nothing else.
        self.queue.push_and_wait(self.press.press(metrics), self.timeout)
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
    fn a_reports_text_is_the_failures_own() {
        assert_eq!(failure_text(failed("refused")), "refused");
        assert_eq!(failure_text(OTelSdkError::AlreadyShutdown), OTelSdkError::AlreadyShutdown.to_string());
    }
}
