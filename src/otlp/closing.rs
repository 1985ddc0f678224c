//! The orderly end of the pipelines, each under its own deadline.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::SdkMeterProvider,
};

use crate::{
    otlp::{
        batch::Batcher,
        ledger::{Balance, Ledger as _, Signal, SignalBalance},
        parcel::QueuedRecord,
        processors::failure_text,
        report::{SignalOutcome, TelemetryReport},
        runtime::start_suppressed,
        sinks::Collection,
    },
    threads::Workers,
};

/// The time that the SDK waits for the last export of metrics.
pub(super) const SDK_METRIC_WAIT: Duration = Duration::from_secs(5);

/// The time beyond the deadline of the signals, for threads to start and to report.
pub(super) const SLACK: Duration = Duration::from_millis(50);

/// The result of the end of one signal, and the time that it took.
type End = (OTelSdkResult, Duration);

/// The work of a shutdown, away from the application's threads.
pub(super) struct Closing {
    closers: Closers,
    meter_provider: SdkMeterProvider,
    /// The balance of metrics when the shutdown began.
    metrics_before: SignalBalance,
    /// Flushes of providers with processors or readers of the user's.
    own: Vec<Box<dyn FnOnce() + Send>>,
    balance: Balance,
    timeout: Duration,
}

impl Closing {
    /// Begins a shutdown: spans and log records are refused, and what is lost from now on is in the report.
    ///
    /// Called before the work moves to its thread. Meanwhile the providers are dropped, and would close the queues and wait. The exports
    /// continue, and may lose something.
    pub(super) fn begin(
        closers: Closers,
        meter_provider: SdkMeterProvider,
        own: Vec<Box<dyn FnOnce() + Send>>,
        balance: Balance,
        timeout: Duration,
    ) -> Self {
        if let Some(spans) = &closers.spans {
            spans.refuse();
        }
        if let Some(records) = &closers.records {
            records.refuse();
        }
        let metrics_before = closers.metrics.as_ref().map(Batcher::read).unwrap_or_default();
        Self { closers, meter_provider, metrics_before, own, balance, timeout }
    }

    pub(super) fn run(self) -> TelemetryReport {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let timeout = self.timeout;
        let workers = Workers::default();
        let ends = Arc::<Mutex<[Option<End>; 3]>>::default();
        let mut outcomes: [(SignalOutcome, Duration); 3] =
            std::array::from_fn(|_| (SignalOutcome::Off, Duration::ZERO));
        let mut close = |signal: Signal, close: Box<dyn FnOnce() -> OTelSdkResult + Send>| {
            let (working, ends) = (workers.add(), Arc::clone(&ends));
            let run = move || {
                let result = close();
                let end = (result, began.elapsed());
                ends.lock().unwrap_or_else(PoisonError::into_inner)[signal as usize] = Some(end);
                drop(working);
            };
            outcomes[signal as usize].0 = match start_suppressed("otel-tasks-flush", Box::new(run)) {
                Ok(()) => SignalOutcome::TimedOut,
                Err(error) => SignalOutcome::Failed(error.to_string()),
            };
        };
        if let Some(spans) = self.closers.spans {
            close(Signal::Traces, Box::new(move || spans.close(timeout)));
        }
        if let Some(records) = self.closers.records {
            close(Signal::Logs, Box::new(move || records.close(timeout)));
        }
        if let Some(collections) = self.closers.metrics {
            let (provider, before) = (self.meter_provider, self.metrics_before);
            close(
                Signal::Metrics,
                Box::new(move || close_metrics(&provider, &collections, before, deadline, timeout)),
            );
        }
        flush_all(&workers, self.own);
        workers.wait(Some(deadline + SLACK));
        let ends = std::mem::take(&mut *ends.lock().unwrap_or_else(PoisonError::into_inner));
        for (outcome, end) in outcomes.iter_mut().zip(ends) {
            let Some((result, took)) = end else { continue };
            *outcome = match result {
                Ok(()) => (SignalOutcome::Delivered, took),
                Err(OTelSdkError::Timeout(_)) => (SignalOutcome::TimedOut, took),
                Err(error) => (SignalOutcome::Failed(failure_text(error)), took),
            };
        }
        let took = began.elapsed();
        for (outcome, of_signal) in &mut outcomes {
            if *outcome == SignalOutcome::TimedOut {
                *of_signal = took;
            }
        }
        TelemetryReport::new(self.balance.snapshot(), outcomes, took)
    }
}

/// The SDK waits five seconds for the last collection, whatever its timeout is, so this uses our own counts.
fn close_metrics(
    provider: &SdkMeterProvider,
    collections: &Batcher<Collection>,
    before: SignalBalance,
    deadline: Instant,
    timeout: Duration,
) -> OTelSdkResult {
    let began = Instant::now();
    collections.hurry();
    let result = provider.shutdown();
    let left = deadline.saturating_duration_since(Instant::now());
    match collections.close(left) {
        Ok(()) => {}
        Err(OTelSdkError::Timeout(_)) => return Err(OTelSdkError::Timeout(timeout)),
        failed => return failed,
    }
    let after = collections.read();
    if after.lost_in_export() > before.lost_in_export() {
        return Err(OTelSdkError::InternalFailure(collections.last_loss().unwrap_or_default()));
    }
    match result {
        Ok(()) | Err(OTelSdkError::AlreadyShutdown) => Ok(()),
        // It came after the SDK had given up.
        Err(_) if after.exported > before.exported => Ok(()),
        // Nothing was even collected: a callback of an instrument hangs. The SDK wraps its timeout in text.
        Err(_) if began.elapsed() >= SDK_METRIC_WAIT => Err(OTelSdkError::Timeout(timeout)),
        other => other,
    }
}

/// Runs each on a thread of its own. Without a thread there is nothing to wait for.
pub(super) fn flush_all(workers: &Workers, flushes: impl IntoIterator<Item = Box<dyn FnOnce() + Send>>) {
    for flush in flushes {
        let working = workers.add();
        let run = move || {
            flush();
            drop(working);
        };
        let _ = start_suppressed("otel-tasks-flush", Box::new(run));
    }
}

/// The ends of the pipelines that are closed at shutdown.
#[derive(Debug, Default)]
pub(super) struct Closers {
    pub(super) spans: Option<Batcher<opentelemetry_sdk::trace::SpanData>>,
    pub(super) records: Option<Batcher<QueuedRecord>>,
    pub(super) metrics: Option<Batcher<Collection>>,
}

#[cfg(test)]
mod tests;
