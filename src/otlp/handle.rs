//! The handle on installed telemetry: its parts, and its end.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use opentelemetry::{global, metrics::Meter, propagation::TextMapCompositePropagator};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::SdkMeterProvider,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::sync::oneshot;
use tracing::Subscriber;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::{
    check::{CollectorUnreachable, Endpoint},
    filter::Filter,
    ledger::{Balance, Signal},
    propagation,
    settings::{Propagator, Warning, capped},
};
use crate::{
    contract,
    emit::{self, layer_of},
    engine::telemetry_dropped,
    otlp::{
        closing::{Closers, Closing, flush_all},
        hurry::Hurry,
        report::{SignalOutcome, TelemetryReport},
        runtime::start_suppressed,
        status::Status,
        views::names_with_room,
    },
    run::{Recorder, catch},
    threads::Workers,
};

/// Takes the report of a shutdown.
type Tell = Box<dyn FnOnce(TelemetryReport) + Send>;

pub(super) struct Parts {
    pub(super) tracer_provider: SdkTracerProvider,
    pub(super) meter_provider: SdkMeterProvider,
    pub(super) logger_provider: SdkLoggerProvider,
    pub(super) tracer: SdkTracer,
    pub(super) meter: Meter,
    pub(super) closers: Closers,
    /// True if the providers of spans, metrics and log records have parts of the user's.
    pub(super) own: [bool; 3],
    pub(super) balance: Balance,
    pub(super) resource: Resource,
    pub(super) propagators: Vec<Propagator>,
    pub(super) warnings: Vec<Warning>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) enabled: bool,
    pub(super) exports_traces: bool,
    pub(super) exports_logs: bool,
    pub(super) shutdown_timeout: Duration,
    pub(super) status: Arc<Status>,
}

/// Telemetry that was built or installed. Keep it until the program ends, then [`shutdown`](Self::shutdown).
///
/// If it is dropped without a shutdown, it emits a WARN record, flushes for at most [`Telemetry::DROP_TIMEOUT`], and blocks the dropping
/// thread meanwhile. `let _ = ..` drops it at once; [`check_instrumentation`](crate::TaskManager::check_instrumentation) reports that.
///
/// # Fork
///
/// Install it after a fork, not before. A child that is forked without `exec` has no exporting threads: its records stay in the queues, and
/// its shutdown ends at its deadline. A child that calls `exec`, as `std::process::Command` does, is a process of its own.
#[must_use = "dropping it ends the export of telemetry: keep it until the program ends, then await `shutdown`"]
pub struct Telemetry {
    parts: Parts,
    filter: String,
    name_capacity: usize,
    ended: bool,
    installed: AtomicBool,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry")
            .field("endpoints", &self.endpoints().collect::<Vec<_>>())
            .field("balance", &self.parts.balance)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// The longest time of a drop without a shutdown: 0.5 s.
    pub const DROP_TIMEOUT: Duration = Duration::from_millis(500);

    /// The longest time of a shutdown after a signal, in a process that has listened for signals before: 1 s.
    pub const SIGNAL_TIMEOUT: Duration = Duration::from_secs(1);

    pub(super) fn new(parts: Parts, filter: String, name_capacity: usize) -> Self {
        Self { parts, filter, name_capacity, ended: false, installed: AtomicBool::new(false) }
    }

    /// Installs it for the process, as [`install`](super::TelemetryBuilder::install) does, without the subscriber and the logger, which are
    /// yours. It installs the tracer provider, the meter provider, the propagators of `OTEL_PROPAGATORS`, and the meter of managers without
    /// one.
    ///
    /// Without it, metrics of managers and of `global::meter` are not collected, and [`remote_context`](crate::telemetry::remote_context)
    /// and other readers of headers do not know `OTEL_PROPAGATORS`. Call it when the subscriber is set, because it writes warnings about
    /// variables. It applies to earlier managers too. If the process had other telemetry, this replaces it.
    ///
    /// ```no_run
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use tracing_subscriber::prelude::*;
    /// let telemetry = otel_tasks::Telemetry::builder().service("tux").build()?;
    /// tracing_subscriber::registry().with(telemetry.layer()).with(tracing_subscriber::fmt::layer()).init();
    /// telemetry.set_global();
    /// # let _report = telemetry.shutdown_blocking();
    /// # Ok(()) }
    /// ```
    pub fn set_global(&self) {
        if self.parts.enabled {
            global::set_tracer_provider(self.parts.tracer_provider.clone());
            global::set_meter_provider(self.parts.meter_provider.clone());
            emit::installed_with(
                &self.parts.meter,
                names_with_room(self.name_capacity),
                Recorder::join_process,
            );
        }
        self.installed.store(true, SeqCst);
        emit::ask(Arc::clone(&self.parts.status) as _);
        emit::flush_with(flush_before_exit);
        *lock(&INSTALLED) = Some((
            self.parts.tracer_provider.clone(),
            self.parts.meter_provider.clone(),
            self.parts.logger_provider.clone(),
        ));
        global::set_text_map_propagator(self.propagator());
        emit::set_propagation(!self.parts.propagators.is_empty());
        for warning in self.warnings() {
            tracing::warn!(target: contract::SCOPE, variable = %warning.variable, "{warning}");
        }
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

    /// Returns the resource: the attributes of the origin of all exports.
    pub fn resource(&self) -> &Resource {
        &self.parts.resource
    }

    /// False where `OTEL_SDK_DISABLED=true`: then nothing is recorded or exported.
    pub fn is_enabled(&self) -> bool {
        self.parts.enabled
    }

    /// Returns true if a signal is exported: over OTLP, or to a terminal by `OTEL_*_EXPORTER=console`.
    pub fn exports(&self, signal: Signal) -> bool {
        match signal {
            Signal::Traces => self.parts.exports_traces,
            Signal::Metrics => self.parts.closers.metrics.is_some(),
            Signal::Logs => self.parts.exports_logs,
        }
    }

    /// Returns the variables with a problem, each with the value that was used instead.
    pub fn warnings(&self) -> &[Warning] {
        &self.parts.warnings
    }

    /// The counts of what was sent and what was not.
    pub fn balance(&self) -> Balance {
        self.parts.balance.clone()
    }

    /// The OTLP endpoints in use, complete with scheme and path. A user and a password are shown as `***`.
    pub fn endpoints(&self) -> impl Iterator<Item = (Signal, &str)> {
        self.parts.endpoints.iter().map(|endpoint| (endpoint.signal, endpoint.shown()))
    }

    /// The propagators of `OTEL_PROPAGATORS`.
    pub fn propagator(&self) -> TextMapCompositePropagator {
        propagation::propagator(&self.parts.propagators)
    }

    /// Returns a layer for any `tracing_subscriber` registry. Spans become OpenTelemetry spans. Events become log records with
    /// the name of the event and the ids of the trace.
    ///
    /// The records of exporters (targets of `hyper`, `h2`, `tonic`, `tower`, `reqwest`, `rustls` and
    /// `opentelemetry*`) are left out, because their export would cause further records. Other layers still see them. Do not add a second
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
        let bridge =
            bridge.with_filter(filter_fn(move |metadata| records && propagation::exportable(metadata)));
        layer_of(self.tracer(), Some(Arc::clone(&self.parts.status) as _))
            .with_filter(filter_fn(move |metadata| spans && propagation::exportable(metadata)))
            .and_then(bridge)
    }

    pub(super) fn filter(&self) -> Filter {
        // The directives were checked when they were read.
        self.filter.parse().unwrap_or_default()
    }

    /// Sends an empty request to every OTLP endpoint at once, waiting no longer than `timeout`.
    ///
    /// It goes the way that telemetry goes: with the same headers, TLS and proxy.
    /// [`TelemetryBuilder::export_if_configured`] is the better way to run without a collector.
    ///
    /// [`TelemetryBuilder::export_if_configured`]: super::TelemetryBuilder::export_if_configured
    ///
    /// # Errors
    ///
    /// The first signal whose endpoint did not take the request, with the reason that a failed export would have.
    pub fn check(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), CollectorUnreachable>> + Send + use<> {
        let timeout = capped(timeout);
        let mut waiting = Vec::new();
        for endpoint in &self.parts.endpoints {
            let (tell, told) = oneshot::channel();
            let no_thread = CollectorUnreachable {
                signal: endpoint.signal,
                endpoint: endpoint.shown().to_owned(),
                reason: "no thread could be started".to_owned(),
            };
            let endpoint = endpoint.clone();
            // Without a thread, `told` says so.
            let probe = move || {
                let _ = tell.send(endpoint.probe(timeout));
            };
            let _ = start_suppressed("otel-tasks-check", Box::new(probe));
            waiting.push((no_thread, told));
        }
        async move {
            for (no_thread, told) in waiting {
                told.await.unwrap_or(Err(no_thread))?;
            }
            Ok(())
        }
    }

    /// Exports the remaining items, each signal on its own thread and with its own deadline. Returns the balance of all items.
    ///
    /// Call it last: items that end later are counted as `after_shutdown` and not exported. It begins at the call and does not depend on
    /// the runtime. So it ends on time even if the runtime is single-threaded, or every worker is blocked. An export that hangs stays on its
    /// thread.
    ///
    /// A signal (SIGTERM, Ctrl-C) shortens it to [`Telemetry::SIGNAL_TIMEOUT`] in a process that has called
    /// [`shutdown_signal`](crate::shutdown_signal); the remaining items are reported as timed out. In any other process the signal's default
    /// action ends the process at once.
    ///
    /// # Cancel safety
    ///
    /// The future only waits: dropping it loses the report, and the export continues.
    pub fn shutdown(mut self) -> impl Future<Output = TelemetryReport> + Send + use<> {
        let balance = self.balance();
        let (tell, told) = oneshot::channel();
        let tell = move |report| {
            // The caller may be gone.
            let _ = tell.send(report);
        };
        self.begin_shutdown(self.parts.shutdown_timeout, Box::new(tell));
        async move { told.await.unwrap_or_else(|_| TelemetryReport::without_thread(balance.snapshot())) }
    }

    /// [`shutdown`](Self::shutdown) for a thread that may block. It is safe on a worker of any tokio runtime, which it
    /// blocks until the deadline at the latest.
    pub fn shutdown_blocking(mut self) -> TelemetryReport {
        self.end(self.parts.shutdown_timeout)
    }

    fn end(&mut self, timeout: Duration) -> TelemetryReport {
        let balance = self.balance();
        let told = Arc::new(Mutex::new(None));
        let workers = Workers::default();
        let (tells, working) = (Arc::clone(&told), workers.add());
        let tell = move |report| {
            *tells.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
            drop(working);
        };
        self.begin_shutdown(timeout, Box::new(tell));
        workers.wait(None);
        let report = told.lock().unwrap_or_else(PoisonError::into_inner).take();
        report.unwrap_or_else(|| TelemetryReport::without_thread(balance.snapshot()))
    }

    /// Ends it without exporting anything.
    pub(super) fn discard(self) {
        if let Some(collections) = &self.parts.closers.metrics {
            collections.refuse();
        }
    }

    /// The flushes of what the user added: a processor may hold what ended last.
    fn own_flushes(&self) -> Vec<Box<dyn FnOnce() + Send>> {
        let mut flushes: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        let [traces, metrics, logs] = self.parts.own;
        if traces {
            let provider = self.parts.tracer_provider.clone();
            flushes.push(Box::new(move || drop(provider.force_flush())));
        }
        // With an export of ours, the provider is shut down with all of its readers.
        if metrics && !self.exports(Signal::Metrics) {
            let provider = self.parts.meter_provider.clone();
            flushes.push(Box::new(move || drop(provider.force_flush())));
        }
        if logs {
            let provider = self.parts.logger_provider.clone();
            flushes.push(Box::new(move || drop(provider.force_flush())));
        }
        flushes
    }

    /// Without a thread to run on, `tell` is dropped uncalled.
    fn begin_shutdown(&mut self, timeout: Duration, tell: Tell) {
        self.ended = true;
        self.parts.status.shut_down.store(true, SeqCst);
        let own = self.own_flushes();
        let closers = std::mem::take(&mut self.parts.closers);
        let balance = self.parts.balance.clone();
        let on = [closers.spans.is_some(), closers.metrics.is_some(), closers.records.is_some()];
        let closing =
            Closing::begin(closers, self.parts.meter_provider.clone(), own, balance.clone(), timeout);
        let began = Instant::now();
        let hurry = (timeout > Self::SIGNAL_TIMEOUT).then(Hurry::listen).flatten();
        let (done, ended) = oneshot::channel::<()>();
        // Sent by the first that ends.
        let tell = Arc::new(Mutex::new(Some(tell)));
        let first = |tell: &Mutex<Option<Tell>>| tell.lock().unwrap_or_else(PoisonError::into_inner).take();
        let in_order = Arc::clone(&tell);
        let close = move || {
            let report = closing.run();
            if let Some(tell) = first(&in_order) {
                tell(report);
            }
            drop(done);
        };
        let _ = start_suppressed("otel-tasks-flush", Box::new(close));
        let Some(hurry) = hurry else { return };
        let cut = move || {
            if hurry.was_cut(ended, Self::SIGNAL_TIMEOUT) {
                let took = began.elapsed();
                let outcome = |on| if on { SignalOutcome::TimedOut } else { SignalOutcome::Off };
                let report = TelemetryReport::new(balance.snapshot(), on.map(|on| (outcome(on), took)), took);
                if let Some(tell) = first(&tell) {
                    tell(report);
                }
            }
        };
        let _ = start_suppressed("otel-tasks-signals", Box::new(cut));
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if !self.ended {
            self.parts.status.dropped.store(true, SeqCst);
            if self.installed.load(SeqCst) {
                // Before the end, so that it is exported too. The subscriber may panic, and this may be an unwinding thread.
                let _ = catch(false, telemetry_dropped);
            }
            self.end(Telemetry::DROP_TIMEOUT.min(self.parts.shutdown_timeout));
        }
    }
}

type Providers = (SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider);

/// The process's providers, for a process that ends without a shutdown of its telemetry.
static INSTALLED: Mutex<Option<Providers>> = Mutex::new(None);

fn lock(providers: &Mutex<Option<Providers>>) -> MutexGuard<'_, Option<Providers>> {
    providers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Flushes what is installed, for at most a second, on threads of its own: the exporters may hang.
fn flush_before_exit() {
    const AT_MOST: Duration = Duration::from_secs(1);
    let Some((spans, metrics, records)) = lock(&INSTALLED).clone() else { return };
    let until = Instant::now() + AT_MOST;
    let workers = Workers::default();
    let flushes: [Box<dyn FnOnce() + Send>; 3] = [
        Box::new(move || drop(spans.force_flush())),
        Box::new(move || drop(metrics.force_flush())),
        Box::new(move || drop(records.force_flush())),
    ];
    flush_all(&workers, flushes);
    workers.wait(Some(until));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::ledger::{BalanceSnapshot, SignalBalance};

    #[test]
    fn a_report_is_one_line_for_each_signal_with_its_losses() {
        let millis = Duration::from_millis;
        let traces = SignalBalance {
            ended: 29,
            exported: 5,
            queue_full: 4,
            export_failed: 3,
            after_shutdown: 2,
            buffer_full: 1,
            pending: 1,
            too_large: 6,
            rejected: 7,
            rejected_points: 0,
        };
        let metrics = SignalBalance { ended: 2, exported: 2, ..SignalBalance::default() };
        let logs = SignalBalance { ended: 1, export_failed: 1, ..SignalBalance::default() };
        let balance = BalanceSnapshot { traces, metrics, logs };
        let outcomes = [
            (SignalOutcome::TimedOut, millis(1_300)),
            (SignalOutcome::Off, Duration::ZERO),
            (SignalOutcome::Failed("refused".to_owned()), millis(10)),
        ];
        let report = TelemetryReport::new(balance, outcomes, millis(1_320));
        let expected = "telemetry ended after 1.3 s\n  \
            traces  5 of 29 spans delivered, 4 refused by a full queue, 3 failed, 6 too large, 7 rejected by the receiver, \
            1 lost before their trace was kept, 3 undelivered; \
            timed out after 1.3 s\n  \
            metrics off\n  \
            logs    0 of 1 records delivered, 1 failed; refused";
        assert_eq!(report.to_string(), expected);
        assert!(!report.is_complete());

        let delivered = std::array::from_fn(|_| (SignalOutcome::Delivered, millis(10)));
        let report = TelemetryReport::new(balance, delivered, millis(10));
        assert_eq!(report.metrics.to_string(), "metrics 2 of 2 collections delivered");
    }
}
