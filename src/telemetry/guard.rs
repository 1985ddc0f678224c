//! The handle on installed telemetry: its parts, and its end.

use std::fmt;
use std::future::Future;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use opentelemetry::metrics::Meter;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::balance::{Balance, BalanceSnapshot, Ledger, MetricLedger, Signal, failure_text};
use super::env::{Propagator, Warning, capped};
use super::install::{self, Closers};

/// How long dropping a [`Telemetry`] that was not shut down may take.
pub const DROP_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the SDK waits for the last export of metrics.
const SDK_METRIC_WAIT: Duration = Duration::from_secs(5);

/// Beyond the deadline of the signals, for threads to start and to tell.
const SLACK: Duration = Duration::from_millis(50);

pub(super) struct Parts {
    pub(super) tracer_provider: SdkTracerProvider,
    pub(super) meter_provider: SdkMeterProvider,
    pub(super) logger_provider: SdkLoggerProvider,
    pub(super) tracer: SdkTracer,
    pub(super) meter: Meter,
    pub(super) closers: Closers,
    pub(super) balance: Balance,
    pub(super) resource: Resource,
    pub(super) propagators: Vec<Propagator>,
    pub(super) warnings: Vec<Warning>,
    pub(super) endpoints: Vec<(Signal, String)>,
    pub(super) enabled: bool,
    pub(super) exports_traces: bool,
    pub(super) exports_logs: bool,
    pub(super) shutdown_timeout: Duration,
}

/// Telemetry that was built or installed. Keep it until the program ends, then [`shutdown`](Self::shutdown).
///
/// Dropped without that, it flushes for at most [`DROP_TIMEOUT`], blocking the thread that drops it: the last spans of a
/// program that forgot are worth half a second, not a hung exit.
#[must_use = "dropping it ends the export of telemetry"]
pub struct Telemetry {
    parts: Parts,
    filter: String,
    ended: bool,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("endpoints", &self.parts.endpoints)
            .field("balance", &self.parts.balance)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    pub(super) fn new(parts: Parts, filter: String) -> Self {
        Self { parts, filter, ended: false }
    }

    /// The provider of tracers.
    ///
    /// Do not shut it down: it would lose spans that end later without counting them.
    pub fn tracer_provider(&self) -> &SdkTracerProvider {
        &self.parts.tracer_provider
    }

    /// The provider of meters.
    pub fn meter_provider(&self) -> &SdkMeterProvider {
        &self.parts.meter_provider
    }

    /// The provider of loggers; `tracing` events reach it through [`layer`](Self::layer).
    pub fn logger_provider(&self) -> &SdkLoggerProvider {
        &self.parts.logger_provider
    }

    /// The tracer of this crate's scope.
    pub fn tracer(&self) -> SdkTracer {
        self.parts.tracer.clone()
    }

    /// The meter of this crate's scope.
    pub fn meter(&self) -> Meter {
        self.parts.meter.clone()
    }

    /// What everything exported says of its origin.
    pub fn resource(&self) -> &Resource {
        &self.parts.resource
    }

    /// False where `OTEL_SDK_DISABLED=true`: then nothing is recorded or exported.
    pub fn is_enabled(&self) -> bool {
        self.parts.enabled
    }

    /// Whether a signal is exported: over OTLP, or to a terminal by `OTEL_*_EXPORTER=console`.
    pub fn exports(&self, signal: Signal) -> bool {
        match signal {
            Signal::Traces => self.parts.exports_traces,
            Signal::Metrics => self.parts.closers.metrics.is_some(),
            Signal::Logs => self.parts.exports_logs,
        }
    }

    /// The variables that were not used as they were written.
    pub fn warnings(&self) -> &[Warning] {
        &self.parts.warnings
    }

    /// The counts of what was sent and what was not.
    pub fn balance(&self) -> Balance {
        self.parts.balance.clone()
    }

    /// The OTLP endpoints in use, complete with scheme and path.
    pub fn endpoints(&self) -> impl Iterator<Item = (Signal, &str)> {
        self.parts.endpoints.iter().map(|(signal, endpoint)| (*signal, endpoint.as_str()))
    }

    /// The propagators of `OTEL_PROPAGATORS`.
    pub fn propagator(&self) -> TextMapCompositePropagator {
        install::propagator(&self.parts.propagators)
    }

    /// A layer for any `tracing_subscriber` registry: spans become OpenTelemetry spans, events become log records with
    /// the name of the event and the ids of the trace.
    ///
    /// What exporters report of themselves (targets of `hyper`, `h2`, `tonic`, `tower`, `reqwest`, `rustls` and
    /// `opentelemetry*`) is left out, lest it feed itself; other layers still see it. Do not put it beside a second
    /// `tracing_opentelemetry` layer.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        // Spans are made even where they are not exported (`OTEL_TRACES_EXPORTER=none`): log records and the lines of other
        // layers still carry their trace, and it is still propagated.
        let (records, spans) = (self.parts.exports_logs, self.parts.enabled);
        // A filter that lets nothing pass and not an `Option`: beside a filtered layer, `None` switches off both.
        let bridge = OpenTelemetryTracingBridge::new(&self.parts.logger_provider);
        let bridge = bridge.with_filter(filter_fn(move |metadata| records && install::exportable(metadata)));
        super::layer(self.tracer())
            .with_filter(filter_fn(move |metadata| spans && install::exportable(metadata)))
            .and_then(bridge)
    }

    pub(super) fn env_filter(&self) -> EnvFilter {
        // The directives were parsed when they were read.
        EnvFilter::new(&self.filter)
    }

    /// Tries to connect to every OTLP endpoint at once, waiting no longer than `timeout`.
    ///
    /// It says that something listens there, not that it is a collector. [`TelemetryBuilder::export_if_configured`] is the
    /// better way to run without one.
    ///
    /// [`TelemetryBuilder::export_if_configured`]: super::TelemetryBuilder::export_if_configured
    ///
    /// # Errors
    ///
    /// The first signal whose endpoint took no connection.
    pub fn check(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), CollectorUnreachable>> + Send + use<> {
        let timeout = capped(timeout);
        let mut waiting = Vec::new();
        for (signal, endpoint) in self.endpoints() {
            let unreachable =
                CollectorUnreachable { signal, endpoint: endpoint.to_owned(), reason: String::new() };
            let (tell, told) = oneshot::channel();
            let target = endpoint.to_owned();
            let wait = move || {
                // Resolving a name cannot be bounded, so it is left behind on a thread of its own.
                let (found, finding) = mpsc::channel();
                let started = spawn("otel-tasks-check", move || {
                    let _ = found.send(connect(&target, timeout));
                });
                let reached = match started {
                    Ok(()) => {
                        finding.recv_timeout(timeout).unwrap_or_else(|_| Err("no answer in time".to_owned()))
                    }
                    Err(error) => Err(error.to_string()),
                };
                let _ = tell.send(reached);
            };
            // Without a thread, `told` says so.
            let _ = spawn("otel-tasks-check", wait);
            waiting.push((unreachable, told));
        }
        async move {
            for (unreachable, told) in waiting {
                match told.await {
                    Ok(Ok(())) => {}
                    Ok(Err(reason)) => return Err(CollectorUnreachable { reason, ..unreachable }),
                    Err(_) => {
                        return Err(CollectorUnreachable { reason: "no thread".to_owned(), ..unreachable });
                    }
                }
            }
            Ok(())
        }
    }

    /// Exports what is left, each signal on its own thread and under its own deadline, and says what became of it all.
    ///
    /// Call it last: what ends later is counted as `after_shutdown` and not exported. It begins at the call and needs
    /// nothing of the runtime, so it ends on time when the runtime is single-threaded, or every worker is blocked. An
    /// export that hangs is left behind on its thread.
    ///
    /// # Cancel safety
    ///
    /// The future only waits: dropping it loses the report, and the export goes on.
    pub fn shutdown(mut self) -> impl Future<Output = TelemetryReport> + Send + use<> {
        let balance = self.balance();
        let (tell, told) = oneshot::channel();
        self.begin_shutdown(self.parts.shutdown_timeout, move |report| {
            // Whoever asked may be gone.
            let _ = tell.send(report);
        });
        async move { told.await.unwrap_or_else(|_| TelemetryReport::without_thread(balance.snapshot())) }
    }

    /// [`shutdown`](Self::shutdown) for a thread that may block. It is safe on a worker of any tokio runtime, which it
    /// blocks until the deadline at the latest.
    pub fn shutdown_blocking(mut self) -> TelemetryReport {
        self.end(self.parts.shutdown_timeout)
    }

    fn end(&mut self, timeout: Duration) -> TelemetryReport {
        let balance = self.balance();
        let (tell, told) = mpsc::channel();
        self.begin_shutdown(timeout, move |report| {
            let _ = tell.send(report);
        });
        told.recv().unwrap_or_else(|_| TelemetryReport::without_thread(balance.snapshot()))
    }

    /// Ends it without exporting anything.
    pub(super) fn discard(self) {
        if let Some(ledger) = &self.parts.closers.metrics {
            ledger.discard();
        }
    }

    /// Without a thread to run on, `tell` is dropped uncalled.
    fn begin_shutdown(&mut self, timeout: Duration, tell: impl FnOnce(TelemetryReport) + Send + 'static) {
        self.ended = true;
        let closers = std::mem::take(&mut self.parts.closers);
        // Here and not on the thread: the providers are dropped when this returns, and would close and wait.
        if let Some(spans) = &closers.spans {
            spans.refuse();
        }
        if let Some(records) = &closers.records {
            records.refuse();
        }
        let closing = Closing {
            closers,
            meter_provider: self.parts.meter_provider.clone(),
            balance: self.parts.balance.clone(),
            timeout,
        };
        let _ = spawn("otel-tasks-flush", move || tell(closing.run()));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if !self.ended {
            self.end(DROP_TIMEOUT.min(self.parts.shutdown_timeout));
        }
    }
}

/// The installed providers, for a process that ends without shutting its telemetry down.
static INSTALLED: OnceLock<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider)> = OnceLock::new();

pub(super) fn keep_for_exit(telemetry: &Telemetry) {
    let parts = &telemetry.parts;
    // Installed once per process: the subscriber can be set once only.
    let _ = INSTALLED.set((
        parts.tracer_provider.clone(),
        parts.meter_provider.clone(),
        parts.logger_provider.clone(),
    ));
}

/// Flushes what is installed, for at most a second, on threads of its own: the exporters may hang.
pub(super) fn flush_before_exit() {
    const AT_MOST: Duration = Duration::from_secs(1);
    let Some((spans, metrics, records)) = INSTALLED.get() else { return };
    let (done, all_done) = mpsc::channel();
    let flushes: [Box<dyn FnOnce() + Send>; 3] = [
        Box::new(move || drop(spans.force_flush())),
        Box::new(move || drop(metrics.force_flush())),
        Box::new(move || drop(records.force_flush())),
    ];
    for flush in flushes {
        let done = done.clone();
        // Without a thread there is nothing to wait for: the sender is dropped.
        let _ = spawn("otel-tasks-flush", move || {
            flush();
            let _ = done.send(());
        });
    }
    drop(done);
    let until = Instant::now() + AT_MOST;
    while all_done.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let run = move || {
        let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
        run();
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

fn connect(endpoint: &str, timeout: Duration) -> Result<(), String> {
    let url = reqwest::Url::parse(endpoint).map_err(|error| error.to_string())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or_default();
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut last = "no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

/// An endpoint to which no connection could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectorUnreachable {
    /// Whose endpoint.
    pub signal: Signal,
    /// The endpoint.
    pub endpoint: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for CollectorUnreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reach the collector of {} at {}: {}", self.signal.as_str(), self.endpoint, self.reason)
    }
}

impl std::error::Error for CollectorUnreachable {}

/// What a shutdown has to do, away from the application's threads.
struct Closing {
    closers: Closers,
    meter_provider: SdkMeterProvider,
    balance: Balance,
    timeout: Duration,
}

impl Closing {
    fn run(self) -> TelemetryReport {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let timeout = self.timeout;
        let (tell, told) = mpsc::channel::<(Signal, OTelSdkResult, Duration)>();
        let mut outcomes: [(Outcome, Duration); 3] = std::array::from_fn(|_| (Outcome::Off, Duration::ZERO));
        let mut close = |signal: Signal, close: Box<dyn FnOnce() -> OTelSdkResult + Send>| {
            let tell = tell.clone();
            let run = move || {
                let result = close();
                let _ = tell.send((signal, result, began.elapsed()));
            };
            outcomes[signal as usize].0 = match spawn("otel-tasks-flush", run) {
                Ok(()) => Outcome::TimedOut,
                Err(error) => Outcome::Failed(error.to_string()),
            };
        };
        if let Some(spans) = self.closers.spans {
            close(Signal::Traces, Box::new(move || spans.close(timeout)));
        }
        if let Some(records) = self.closers.records {
            close(Signal::Logs, Box::new(move || records.close(timeout)));
        }
        if let Some(ledger) = self.closers.metrics {
            let provider = self.meter_provider;
            close(Signal::Metrics, Box::new(move || close_metrics(&provider, &ledger, deadline, timeout)));
        }
        drop(tell);
        // Until the last thread has told and is gone.
        let left = || (deadline + SLACK).saturating_duration_since(Instant::now());
        while let Ok((signal, result, took)) = told.recv_timeout(left()) {
            outcomes[signal as usize] = match result {
                Ok(()) => (Outcome::Delivered, took),
                Err(OTelSdkError::Timeout(_)) => (Outcome::TimedOut, took),
                Err(error) => (Outcome::Failed(failure_text(error)), took),
            };
        }
        let took = began.elapsed();
        for (outcome, of_signal) in &mut outcomes {
            if *outcome == Outcome::TimedOut {
                *of_signal = took;
            }
        }
        TelemetryReport::new(self.balance.snapshot(), outcomes, took)
    }
}

/// The SDK waits five seconds for the last export, whatever it is told, and so we go by our own counts.
fn close_metrics(
    provider: &SdkMeterProvider,
    ledger: &MetricLedger,
    deadline: Instant,
    timeout: Duration,
) -> OTelSdkResult {
    let began = Instant::now();
    let before = ledger.read();
    let result = provider.shutdown();
    if !ledger.wait_until_settled(deadline) {
        return Err(OTelSdkError::Timeout(timeout));
    }
    let after = ledger.read();
    if after.export_failed > before.export_failed {
        return Err(OTelSdkError::InternalFailure(ledger.last_error().unwrap_or_default()));
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

/// How the last export of a signal ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// All that was left was delivered.
    Delivered,
    /// The deadline passed; what was left is undelivered.
    TimedOut,
    /// The exporter gave up something of what was left.
    Failed(String),
    /// The signal is not exported.
    Off,
}

/// What became of one signal's items over the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalReport {
    /// Which signal.
    pub signal: Signal,
    /// Sampled spans that ended, log records that were emitted, collections that were made.
    pub ended: u64,
    /// Delivered.
    pub exported: u64,
    /// Refused, the queue being full.
    pub queue_full: u64,
    /// Given up by the exporter.
    pub export_failed: u64,
    /// Neither delivered nor given up when the report was made, or ended after the shutdown began.
    pub undelivered: u64,
    /// How the last export ended.
    pub outcome: Outcome,
    /// How long the shutdown of this signal took.
    pub took: Duration,
}

/// What a shutdown of telemetry did, signal by signal. Its `Display` is one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetryReport {
    /// Spans.
    pub traces: SignalReport,
    /// Collections of metrics.
    pub metrics: SignalReport,
    /// Log records.
    pub logs: SignalReport,
    /// How long the shutdown took.
    pub took: Duration,
}

impl TelemetryReport {
    fn new(balance: BalanceSnapshot, outcomes: [(Outcome, Duration); 3], took: Duration) -> Self {
        let [traces, metrics, logs] = outcomes;
        let report = |signal: Signal, (outcome, took): (Outcome, Duration)| {
            let counts = balance.of(signal);
            SignalReport {
                signal,
                ended: counts.ended,
                exported: counts.exported,
                queue_full: counts.queue_full,
                export_failed: counts.export_failed,
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

    fn without_thread(balance: BalanceSnapshot) -> Self {
        let text = "no thread could be started to export on";
        let outcomes = std::array::from_fn(|_| (Outcome::Failed(text.to_owned()), Duration::ZERO));
        Self::new(balance, outcomes, Duration::ZERO)
    }

    /// The three signals.
    pub fn signals(&self) -> [&SignalReport; 3] {
        [&self.traces, &self.metrics, &self.logs]
    }

    /// True where nothing was lost, over the whole life of the process.
    pub fn is_complete(&self) -> bool {
        self.signals().iter().all(|signal| signal.ended == signal.exported)
    }
}

impl fmt::Display for SignalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.signal {
            Signal::Traces => "spans",
            Signal::Metrics => "collections",
            Signal::Logs => "records",
        };
        write!(f, "{:<8}", self.signal.as_str())?;
        if self.outcome == Outcome::Off {
            return f.write_str("off");
        }
        write!(f, "{} of {} {unit} delivered", self.exported, self.ended)?;
        let losses = [
            (self.queue_full, "refused by a full queue"),
            (self.export_failed, "failed"),
            (self.undelivered, "undelivered"),
        ];
        for (count, what) in losses {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        match &self.outcome {
            Outcome::Delivered | Outcome::Off => Ok(()),
            Outcome::TimedOut => write!(f, "; timed out after {:.1} s", self.took.as_secs_f64()),
            Outcome::Failed(text) => write!(f, "; {text}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::SignalBalance;

    #[test]
    fn a_report_is_one_line_for_each_signal_with_its_losses() {
        let millis = Duration::from_millis;
        let traces = SignalBalance {
            ended: 15,
            exported: 5,
            queue_full: 4,
            export_failed: 3,
            after_shutdown: 2,
            pending: 1,
        };
        let metrics = SignalBalance { ended: 2, exported: 2, ..SignalBalance::default() };
        let logs = SignalBalance { ended: 1, export_failed: 1, ..SignalBalance::default() };
        let balance = BalanceSnapshot { traces, metrics, logs };
        let outcomes = [
            (Outcome::TimedOut, millis(1_300)),
            (Outcome::Off, Duration::ZERO),
            (Outcome::Failed("refused".to_owned()), millis(10)),
        ];
        let report = TelemetryReport::new(balance, outcomes, millis(1_320));
        let expected = "telemetry ended after 1.3 s\n  \
            traces  5 of 15 spans delivered, 4 refused by a full queue, 3 failed, 3 undelivered; \
            timed out after 1.3 s\n  \
            metrics off\n  \
            logs    0 of 1 records delivered, 1 failed; refused";
        assert_eq!(report.to_string(), expected);
        assert!(!report.is_complete());

        let delivered = std::array::from_fn(|_| (Outcome::Delivered, millis(10)));
        let report = TelemetryReport::new(balance, delivered, millis(10));
        assert_eq!(report.metrics.to_string(), "metrics 2 of 2 collections delivered");
    }
}
