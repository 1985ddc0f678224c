//! Builds the three pipelines from the environment and a few lines of code, and installs them.
//!
//! Defaults that may be disputed:
//! - What the code says beats the environment, for every setting that can be given in both.
//! - The protocol is `http/protobuf`, as the specification recommends, also where the port is gRPC's: that is warned of.
//! - Log lines go to standard error unless [`fmt(false)`](TelemetryBuilder::fmt): a service whose collector is away
//!   must still say something, and standard output belongs to the program.
//! - `service.instance.id` is a random UUID: without one, two replicas would write one series.
//!
//! Every variable of the specification is read in `env.rs`, and what the SDK would read itself is set here.

use std::{
    fmt,
    io::IsTerminal,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value, metrics::MeterProvider as _, trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    Resource,
    logs::{LogProcessor, LoggerProviderBuilder, SdkLoggerProvider},
    metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider, Temporality},
    resource::ResourceBuilder,
    trace::{
        IdGenerator as _, RandomIdGenerator, Sampler, SdkTracerProvider, ShouldSample, SpanProcessor,
        TracerProviderBuilder,
    },
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Identity, SubscriberExt},
};

use super::{
    batch::{Batcher, Persistence},
    check::Endpoint,
    delivery::Delivery,
    env,
    filter::{self, Unreadable},
    handle::{Parts, Telemetry},
    ledger::{Balance, Signal},
    processors::{QueueingLogProcessor, QueueingMetricExporter, QueueingSpanProcessor},
    runtime::ExportRuntime,
    sdk_metrics::Pipeline,
    settings::{self, Overrides, Part, Protocol, Settings, SignalSettings, Warning, WarningKind},
    sinks::{MetricPress, MetricSink, Sink},
    status::{SignalPlan, Status},
    tail::Keep,
    terminal::PlainFields,
    transport::Transports,
};
use crate::{
    contract, emit,
    otlp::{closing::Closers, error::InstallError, views::cardinality_view},
};

/// Adds something of a user's to a provider.
type Hook<B> = Box<dyn FnOnce(B) -> B + Send>;

type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Something that joins the telemetry with processors and readers of its own; the feed of a page is one.
///
/// # Examples
///
/// A part that counts the spans that end, for a page of your own:
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
///
/// use opentelemetry_sdk::{error::OTelSdkResult, trace::{Span, SpanData, SpanProcessor}};
/// use otel_tasks::{Telemetry, telemetry::{TelemetryBuilder, TelemetryPart}};
///
/// #[derive(Debug, Clone, Default)]
/// struct Ended(Arc<AtomicU64>);
///
/// impl SpanProcessor for Ended {
///     fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
///     fn on_end(&self, _: SpanData) {
///         self.0.fetch_add(1, Relaxed);
///     }
///     fn force_flush(&self) -> OTelSdkResult {
///         Ok(())
///     }
///     fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
///         Ok(())
///     }
/// }
///
/// impl TelemetryPart for &Ended {
///     fn add_to(self, telemetry: TelemetryBuilder) -> TelemetryBuilder {
///         telemetry.span_processor(self.clone())
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ended = Ended::default();
/// let telemetry = Telemetry::builder().service("shop").export_if_configured().with(&ended).build()?;
/// # drop(telemetry);
/// # Ok(()) }
/// ```
pub trait TelemetryPart {
    /// Adds the processors and readers to `telemetry`.
    fn add_to(self, telemetry: TelemetryBuilder) -> TelemetryBuilder;
}

/// Traces, metrics and logs over OTLP, from the standard `OTEL_*` variables and what is said here.
///
/// A value of the environment that cannot be read is never an error: it is named in [`Telemetry::warnings`].
///
/// # Examples
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let telemetry = otel_tasks::Telemetry::builder().service("tux").install()?;
/// tracing::info!("at work");
/// println!("{}", telemetry.shutdown().await);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before `build` or `install`"]
pub struct TelemetryBuilder {
    service: Option<String>,
    instance_id: Option<String>,
    attributes: Vec<(String, Value)>,
    resource: Resource,
    sampler: Option<Box<dyn ShouldSample>>,
    filter: Option<String>,
    fmt: bool,
    overrides: Overrides,
    metric_interval: Option<Duration>,
    span_queue: Option<usize>,
    queue_bytes: Option<usize>,
    pub(super) keep: Option<Keep>,
    pub(super) sdk_metrics: bool,
    shutdown_timeout: Duration,
    name_capacity: usize,
    environment: Option<Environment>,
    tracer_provider: Vec<Hook<TracerProviderBuilder>>,
    meter_provider: Vec<Hook<MeterProviderBuilder>>,
    logger_provider: Vec<Hook<LoggerProviderBuilder>>,
    layer: Box<dyn Layer<Registry> + Send + Sync>,
}

impl Default for TelemetryBuilder {
    fn default() -> Self {
        Self {
            service: None,
            instance_id: None,
            attributes: Vec::new(),
            resource: Resource::builder_empty().build(),
            sampler: None,
            filter: None,
            fmt: true,
            overrides: Overrides::default(),
            metric_interval: None,
            span_queue: None,
            queue_bytes: None,
            keep: None,
            sdk_metrics: false,
            shutdown_timeout: Self::DEFAULT_SHUTDOWN_TIMEOUT,
            name_capacity: Self::DEFAULT_NAME_CAPACITY,
            environment: None,
            tracer_provider: Vec::new(),
            meter_provider: Vec::new(),
            logger_provider: Vec::new(),
            layer: Box::new(Identity::new()),
        }
    }
}

impl fmt::Debug for TelemetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelemetryBuilder").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Creates a builder with every default.
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::default()
    }
}

impl TelemetryBuilder {
    /// The queue bound of spans and of log records: 65,536. Default of [`span_queue`](TelemetryBuilder::span_queue), and without
    /// `OTEL_BLRP_MAX_QUEUE_SIZE`. A burst of 10,000 loses none while a collector takes a second or two per batch.
    ///
    /// The queue grows as it fills and frees its memory. A waiting span takes about 0.4 KiB plus its attributes, so a full queue takes
    /// 30 to 60 MB and an idle queue nothing. The specification's default is 2,048.
    pub const DEFAULT_QUEUE: usize = settings::DEFAULT_QUEUE;

    /// The memory for each signal's waiting items: 32 MiB. Default of [`queue_bytes`](TelemetryBuilder::queue_bytes).
    pub const DEFAULT_QUEUE_BYTES: usize = settings::DEFAULT_QUEUE_BYTES;

    /// The longest time of each signal at shutdown. Default of [`shutdown_timeout`](TelemetryBuilder::shutdown_timeout).
    pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

    /// The number of task names for which metrics have room. Default of [`name_capacity`](TelemetryBuilder::name_capacity).
    pub const DEFAULT_NAME_CAPACITY: usize = 2_000;

    /// Sets `service.name`. Default: `OTEL_SERVICE_NAME`, else the name in `OTEL_RESOURCE_ATTRIBUTES`, else the program's name.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Sets `service.instance.id`. Default: the id in `OTEL_RESOURCE_ATTRIBUTES`, else a random UUID.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Adds an attribute of the resource, which is part of everything that this process exports.
    pub fn resource_attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }

    /// Adds the attributes of a resource of your own, for example from detectors. Several calls add several resources.
    ///
    /// They override `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`. The builder's [`resource_attribute`](Self::resource_attribute),
    /// [`service`](Self::service) and [`instance_id`](Self::instance_id) override them. The `unknown_service` of the SDK's
    /// `Resource::builder()` is left out.
    pub fn resource(mut self, resource: Resource) -> Self {
        let schema = self.resource.schema_url().or(resource.schema_url()).map(str::to_owned);
        let pairs = self.resource.iter().chain(resource.iter());
        let pairs: Vec<_> = pairs.map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        self.resource = with_schema(Resource::builder_empty().with_attributes(pairs), schema.as_deref());
        self
    }

    /// Sets the sampler of spans. Default: `OTEL_TRACES_SAMPLER`, else all traces that begin here, and those with a sampled parent.
    ///
    /// ```no_run
    /// use opentelemetry_sdk::trace::Sampler;
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let tenth = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.1)));
    /// let telemetry = otel_tasks::Telemetry::builder().sampler(tenth).install()?;
    /// # drop(telemetry);
    /// # Ok(()) }
    /// ```
    pub fn sampler(mut self, sampler: impl ShouldSample + 'static) -> Self {
        self.sampler = Some(Box::new(sampler));
        self
    }

    /// Sets the recorded levels, as directives of [`EnvFilter`](https://docs.rs/tracing-subscriber/0.3/tracing_subscriber/filter/struct.EnvFilter.html).
    /// Default: `RUST_LOG`, else `info`. For [`install`](Self::install).
    ///
    /// Directives of spans and fields need the default feature `env-filter`. Without it, `build` returns [`InstallError::NotCompiled`].
    pub fn filter(mut self, directives: &str) -> Self {
        self.filter = Some(directives.to_owned());
        self
    }

    /// Sets if [`install`](Self::install) also writes log lines to standard error. Default: true.
    pub fn fmt(mut self, enabled: bool) -> Self {
        self.fmt = enabled;
        self
    }

    /// Sets the endpoint of all three signals, in place of the environment's. `http://host:4318` is for HTTP, with the path of each signal
    /// added; `http://host:4317` is for gRPC.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.overrides.endpoint = Some(url.into());
        self
    }

    /// Sets the protocol of all three signals, in place of the environment's.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.overrides.protocol = Some(protocol);
        self
    }

    /// Exports a signal only if it is configured: by an endpoint (here, its own variable or the general one) or its
    /// `OTEL_*_EXPORTER`. Without this call, each signal is exported to `localhost`, as the specification requires.
    ///
    /// For programs that also run without a collector: then nothing is queued, tried or warned of.
    pub fn export_if_configured(mut self) -> Self {
        self.overrides.only_if_configured = true;
        self
    }

    /// Sets the interval at which metrics are collected and exported. Default: `OTEL_METRIC_EXPORT_INTERVAL`, else 60 s.
    pub fn metric_interval(mut self, interval: Duration) -> Self {
        self.metric_interval = Some(settings::capped(interval));
        self
    }

    /// Sets the largest number of waiting spans, at least 1. Default: `OTEL_BSP_MAX_QUEUE_SIZE`, else
    /// [`DEFAULT_QUEUE`](Self::DEFAULT_QUEUE).
    pub fn span_queue(mut self, spans: usize) -> Self {
        self.span_queue = Some(spans);
        self
    }

    /// Sets the memory for each signal's waiting items, in bytes. Default: [`DEFAULT_QUEUE_BYTES`](Self::DEFAULT_QUEUE_BYTES).
    ///
    /// Further items are refused and counted as `queue_full`. A batch has at most 4 MiB of it, and a larger item
    /// is counted as `too_large`. The encoded batch that is being sent needs memory beside it.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = Some(bytes);
        self
    }

    /// Sets the longest time of each signal at shutdown; all three end at once. Default: [`TelemetryBuilder::DEFAULT_SHUTDOWN_TIMEOUT`].
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = settings::capped(timeout);
        self
    }

    /// Sets the number of task names for which metrics have room. Default: [`TelemetryBuilder::DEFAULT_NAME_CAPACITY`].
    ///
    /// The limit of every instrument `task.*` becomes ten times as many attribute sets, between the SDK's own 2,000 and
    /// 200,000. Beyond its limit an instrument shows `otel.metric.overflow` instead of names.
    pub fn name_capacity(mut self, names: usize) -> Self {
        self.name_capacity = names;
        self
    }

    /// Reads variables through `get` instead of from the process, for tests and for programs with settings of their own.
    ///
    /// The process's own variables are not read then, nor those of proxies (`https_proxy`, `no_proxy` and the like).
    pub fn env(mut self, get: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.environment = Some(Box::new(get));
        self
    }

    /// Builds the pipelines without a global effect. For tests, and for programs with a subscriber of their own, which
    /// add [`Telemetry::layer`] to it and call [`Telemetry::set_global`].
    ///
    /// # Errors
    ///
    /// An endpoint or a filter given in code that cannot be read, an exporter that cannot be built, a thread that cannot
    /// be started. A collector that is away is not an error.
    pub fn build(mut self) -> Result<Telemetry, InstallError> {
        for (setting, is_zero) in [
            ("name_capacity", self.name_capacity == 0),
            ("span_queue", self.span_queue == Some(0)),
            ("queue_bytes", self.queue_bytes == Some(0)),
            ("metric_interval", self.metric_interval.is_some_and(|interval| interval.is_zero())),
            ("shutdown_timeout", self.shutdown_timeout.is_zero()),
            ("keep_slow_traces", self.keep.and_then(|keep| keep.slow).is_some_and(|slow| slow.is_zero())),
        ] {
            if is_zero {
                return Err(InstallError::Zero { setting });
            }
        }
        let get: &dyn Fn(&str) -> Option<String> = match &self.environment {
            Some(get) => get,
            None => &env::of_process,
        };
        let mut settings = env::read(get, &self.overrides)?;
        if let Some(queue) = self.span_queue {
            settings.spans.queue = queue;
            settings.spans.batch = settings.spans.batch.min(queue);
        }
        if let Some(bytes) = self.queue_bytes {
            for queue in [&mut settings.spans, &mut settings.records, &mut settings.collections] {
                queue.bytes = bytes;
                queue.batch_bytes = queue.batch_bytes.min(bytes);
            }
        }
        if let Some(interval) = self.metric_interval {
            settings.metric_interval = interval;
        }
        let filter = self.directives(&mut settings)?;
        let resource = self.whole_resource(&settings);
        let parts = self.assemble(settings, resource)?;
        Ok(Telemetry::new(parts, filter, self.name_capacity))
    }

    /// Adds a layer of your own to the subscriber that [`install`](Self::install) makes; under the same filter. Called again,
    /// it adds another. [`build`](Self::build) leaves it out: there the subscriber is yours.
    ///
    /// ```no_run
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let json = tracing_subscriber::fmt::layer().pretty();
    /// let telemetry = otel_tasks::Telemetry::builder().service("tux").fmt(false).layer(json).install()?;
    /// # drop(telemetry);
    /// # Ok(()) }
    /// ```
    pub fn layer(mut self, layer: impl Layer<Registry> + Send + Sync) -> Self {
        self.layer = Box::new(self.layer.and_then(layer));
        self
    }

    /// Adds a span processor of your own. It sees every span that is recorded, also those of signals that are not exported.
    pub fn span_processor(mut self, processor: impl SpanProcessor + 'static) -> Self {
        self.tracer_provider.push(Box::new(|provider| provider.with_span_processor(processor)));
        self
    }

    /// Adds a log processor of your own. It sees every log record, also if log records are not exported.
    pub fn log_processor(mut self, processor: impl LogProcessor + 'static) -> Self {
        self.logger_provider.push(Box::new(|provider| provider.with_log_processor(processor)));
        self
    }

    /// Adds readers and views of your own to the meter provider.
    ///
    /// ```
    /// use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let collected = InMemoryMetricExporter::default();
    /// let reader = PeriodicReader::builder(collected.clone()).build();
    /// let telemetry = otel_tasks::Telemetry::builder()
    ///     .export_if_configured()
    ///     .meter_provider(move |provider| provider.with_reader(reader))
    ///     .build()?;
    /// # drop(telemetry);
    /// # Ok(()) }
    /// ```
    pub fn meter_provider(
        mut self,
        add: impl FnOnce(MeterProviderBuilder) -> MeterProviderBuilder + Send + 'static,
    ) -> Self {
        self.meter_provider.push(Box::new(add));
        self
    }

    /// Adds a part that brings processors and readers of its own.
    pub fn with(self, part: impl TelemetryPart) -> Self {
        part.add_to(self)
    }

    /// [`build`](Self::build), then makes it the process's: tracing subscriber (filter, [`Telemetry::layer`], log lines),
    /// tracer provider, meter provider and the propagators of `OTEL_PROPAGATORS`. Warnings are written once.
    ///
    /// Records of the crate `log` reach the subscriber too, unless the process has another logger already.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and [`SubscriberAlreadySet`](InstallError::SubscriberAlreadySet), which changes nothing.
    pub fn install(mut self) -> Result<Telemetry, InstallError> {
        let fmt = self.fmt;
        let layer = std::mem::replace(&mut self.layer, Box::new(Identity::new()));
        let telemetry = self.build()?;
        let terminal = std::io::stderr().is_terminal();
        let lines = fmt.then(|| {
            tracing_subscriber::fmt::layer()
                .fmt_fields(PlainFields)
                .with_writer(std::io::stderr)
                .with_ansi(terminal)
        });
        let subscriber = tracing_subscriber::registry()
            // Ours first: within the user's layer a span's trace is the current one already.
            .with(telemetry.layer().and_then(layer))
            .with(telemetry.filter())
            .with(lines);
        // First, because it is the only step that can fail.
        if tracing::subscriber::set_global_default(subscriber).is_err() {
            telemetry.discard();
            return Err(InstallError::SubscriberAlreadySet);
        }
        if tracing_log::LogTracer::init().is_err() {
            tracing::info!(target: contract::SCOPE, "the process has a logger already: it takes the records of `log`");
        }
        telemetry.set_global();
        Ok(telemetry)
    }

    /// The directives of the filter, which can be read.
    fn directives(&self, settings: &mut Settings) -> Result<String, InstallError> {
        if let Some(directives) = &self.filter {
            return match filter::checked(directives) {
                Ok(()) => Ok(directives.clone()),
                Err(Unreadable::NotCompiled) => Err(InstallError::NotCompiled {
                    setting: format!("the filter {directives:?}"),
                    feature: Part::EnvFilter.feature(),
                }),
                Err(Unreadable::Malformed(source)) => {
                    Err(InstallError::Filter { directives: directives.clone(), source: Box::new(source) })
                }
            };
        }
        let Some(directives) = settings.rust_log.take() else { return Ok(DEFAULT_FILTER.to_owned()) };
        let used = format!("{DEFAULT_FILTER} is used");
        let (kind, used) = match filter::checked(&directives) {
            Ok(()) => return Ok(directives),
            Err(Unreadable::Malformed(_)) => (WarningKind::Malformed, used),
            Err(Unreadable::NotCompiled) => {
                let feature = Part::EnvFilter.feature();
                (WarningKind::Unsupported, format!("{used}: the feature `{feature}` is not compiled"))
            }
        };
        settings.warnings.push(Warning { variable: "RUST_LOG".to_owned(), value: directives, kind, used });
        Ok(DEFAULT_FILTER.to_owned())
    }

    /// Least to most: the SDK's, the environment's, the code's.
    fn whole_resource(&self, settings: &Settings) -> Resource {
        const NAME: &str = "service.name";
        const INSTANCE: &str = "service.instance.id";
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        let unknown =
            program.map_or("unknown_service".to_owned(), |program| format!("unknown_service:{program}"));
        let pair = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
        let own = self
            .resource
            .iter()
            .filter(|(key, value)| key.as_str() != NAME || !value.as_str().starts_with("unknown_service"));
        let own: Vec<_> = own.map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        let builder = Resource::builder_empty()
            .with_detector(Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector))
            .with_attribute(pair(NAME, &unknown))
            .with_attribute(pair(INSTANCE, &random_uuid()))
            .with_attributes(settings.resource.iter().map(|(key, value)| pair(key, value)))
            .with_attributes(settings.service_name.iter().map(|name| pair(NAME, name)))
            .with_attributes(own)
            .with_attributes(
                self.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
            )
            .with_attributes(self.service.iter().map(|name| pair(NAME, name)))
            .with_attributes(self.instance_id.iter().map(|id| pair(INSTANCE, id)));
        with_schema(builder, self.resource.schema_url())
    }

    fn assemble(&mut self, mut settings: Settings, resource: Resource) -> Result<Parts, InstallError> {
        let mut traces = SdkTracerProvider::builder().with_resource(resource.clone());
        let mut logs = SdkLoggerProvider::builder().with_resource(resource.clone());
        let mut metrics = SdkMeterProvider::builder().with_resource(resource.clone());
        let mut balance = Balance::default();
        let mut closers = Closers::default();
        let mut endpoints = Vec::new();
        let mut warnings = std::mem::take(&mut settings.warnings);
        let enabled = !settings.disabled;
        let exports = [&settings.traces, &settings.metrics, &settings.logs].iter().any(|s| s.targets.any());
        // Where traces are not exported, nothing is recorded for it.
        let keep = self.keep.filter(|_| enabled && settings.traces.targets.any());
        let sampler: Box<dyn ShouldSample> = match self.sampler.take() {
            _ if !enabled => Box::new(Sampler::AlwaysOff),
            Some(own) => own,
            None => Box::new(settings.sampler.clone()),
        };
        let kept = if keep.is_some() { " (failed or slow traces are kept)" } else { "" };
        let sampler_text = format!("{sampler:?}{kept}");
        traces = traces.with_sampler(match keep {
            Some(_) => Keep::sampler(sampler),
            None => sampler,
        });
        // Said here, or the SDK takes those of the process.
        traces = traces.with_span_limits(settings.limits);
        if enabled && exports {
            let runtime = ExportRuntime::start().map_err(InstallError::Thread)?;
            let mut transports = Transports::new(&runtime, &mut warnings);
            let mut open = |signal, settings: &SignalSettings, limit| -> Result<_, InstallError> {
                if !settings.targets.otlp {
                    return Ok(None);
                }
                let transport = transports.open(signal, &settings.otlp, limit);
                let transport =
                    Arc::new(transport.map_err(|source| InstallError::Exporter { signal, source })?);
                endpoints.push(Endpoint { signal, transport: Arc::clone(&transport) });
                Ok(Some(Delivery::new(transport)))
            };
            // What can fail for a reason of the user's comes before the first thread.
            let spans = open(Signal::Traces, &settings.traces, settings.spans.timeout)?;
            let collections = open(Signal::Metrics, &settings.metrics, settings.metric_timeout)?;
            let records = open(Signal::Logs, &settings.logs, settings.records.timeout)?;
            let encoder = |signal| move |source| InstallError::Exporter { signal, source: Box::new(source) };
            if settings.traces.targets.any() {
                let mut sink = Sink::of_spans(&resource, spans, settings.traces.targets)
                    .map_err(encoder(Signal::Traces))?;
                let persistence = Persistence::WhileThereIsRoom;
                let queue = Batcher::start("spans", settings.spans, persistence, move |batch, waiting| {
                    sink.export(batch, waiting)
                })
                .map_err(InstallError::Thread)?;
                let (processor, ledger) = (QueueingSpanProcessor(queue.clone()), Arc::new(queue.clone()));
                traces = match keep {
                    None => {
                        balance.traces = Some(ledger);
                        traces.with_span_processor(processor)
                    }
                    Some(keep) => {
                        emit::keeps_traces(keep.failed, keep.slow);
                        let (processor, ledger) = keep.before(processor, ledger);
                        balance.traces = Some(ledger);
                        traces.with_span_processor(processor)
                    }
                };
                closers.spans = Some(queue);
            }
            if settings.logs.targets.any() {
                let mut sink = Sink::of_records(&resource, records, settings.logs.targets)
                    .map_err(encoder(Signal::Logs))?;
                let queue = Batcher::start(
                    "records",
                    settings.records,
                    Persistence::WhileThereIsRoom,
                    move |batch, waiting| sink.export(batch, waiting),
                )
                .map_err(InstallError::Thread)?;
                balance.logs = Some(Arc::new(queue.clone()));
                logs = logs.with_log_processor(QueueingLogProcessor(queue.clone()));
                closers.records = Some(queue);
            }
            if settings.metrics.targets.any() {
                let temporality = settings.temporality;
                let press = MetricPress::new(temporality, settings.metrics.targets)
                    .map_err(encoder(Signal::Metrics))?;
                let mut sink = MetricSink(collections);
                // What a cumulative collection says the next one says again; a delta is said once.
                let persistence = match temporality {
                    Temporality::Cumulative => Persistence::UntilTheNext,
                    _ => Persistence::WhileThereIsRoom,
                };
                let queue =
                    Batcher::start("metrics", settings.collections, persistence, move |batch, waiting| {
                        sink.export(batch, waiting)
                    })
                    .map_err(InstallError::Thread)?;
                let timeout = settings.metric_timeout;
                let exporter = QueueingMetricExporter { press, queue: queue.clone(), temporality, timeout };
                let reader =
                    PeriodicReader::builder(exporter).with_interval(settings.metric_interval).build();
                metrics = metrics.with_reader(reader);
                balance.metrics = Some(Arc::new(queue.clone()));
                closers.metrics = Some(queue);
            }
        }
        let mut has_reader = false;
        let own = [
            enabled && !self.tracer_provider.is_empty(),
            enabled && !self.meter_provider.is_empty(),
            enabled && !self.logger_provider.is_empty(),
        ];
        if enabled {
            if closers.metrics.is_some() || !self.meter_provider.is_empty() {
                metrics = metrics.with_view(cardinality_view(self.name_capacity));
            }
            has_reader = closers.metrics.is_some() || !self.meter_provider.is_empty();
            traces = std::mem::take(&mut self.tracer_provider)
                .into_iter()
                .fold(traces, |provider, add| add(provider));
            metrics = std::mem::take(&mut self.meter_provider)
                .into_iter()
                .fold(metrics, |provider, add| add(provider));
            logs = std::mem::take(&mut self.logger_provider)
                .into_iter()
                .fold(logs, |provider, add| add(provider));
        }
        let tracer_provider = traces.build();
        let meter_provider = metrics.build();
        if !has_reader {
            // Its meters do nothing from now on. The SDK calls each observable instrument of a provider without readers an error.
            let _ = meter_provider.shutdown();
        }
        let scope =
            || InstrumentationScope::builder(contract::SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
        let meter = meter_provider.meter_with_scope(scope());
        if closers.metrics.is_some() {
            balance.observe(&meter);
        }
        if enabled && self.sdk_metrics {
            let spans = Pipeline::of(Signal::Traces, &settings.traces, settings.spans.queue);
            let records = Pipeline::of(Signal::Logs, &settings.logs, settings.records.queue);
            spans.iter().chain(&records).for_each(|pipeline| pipeline.observe(&meter, &balance));
        }
        let status = Arc::new(Status {
            sampler: sampler_text,
            traces: SignalPlan::of(Signal::Traces, &settings.traces, enabled),
            metrics: SignalPlan::of(Signal::Metrics, &settings.metrics, enabled),
            logs: SignalPlan::of(Signal::Logs, &settings.logs, enabled),
            metric_interval: settings.metric_interval,
            balance: balance.clone(),
            warnings: Status::shown(&warnings),
            shut_down: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        });
        Ok(Parts {
            status,
            tracer: tracer_provider.tracer_with_scope(scope()),
            meter,
            tracer_provider,
            meter_provider,
            logger_provider: logs.build(),
            closers,
            own,
            balance,
            resource,
            propagators: settings.propagators,
            warnings,
            endpoints,
            enabled,
            exports_logs: enabled && settings.logs.targets.any(),
            exports_traces: enabled && settings.traces.targets.any(),
            shutdown_timeout: self.shutdown_timeout,
        })
    }
}

/// The SDK prefers existing attributes to those of a schema, so the schema's are added first.
fn with_schema(builder: ResourceBuilder, schema: Option<&str>) -> Resource {
    match schema {
        Some(schema) => builder.with_schema_url([], schema.to_owned()).build(),
        None => builder.build(),
    }
}

/// A random UUID of version 4, from the SDK's source of random identifiers.
fn random_uuid() -> String {
    let id = u128::from_be_bytes(RandomIdGenerator::default().new_trace_id().to_bytes());
    let id = id & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    let part = |from: u32, bits: u32| id >> from & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 32),
        part(80, 16),
        part(64, 16),
        part(48, 16),
        part(0, 48)
    )
}

/// The SDK's records about each retry are left out: the queues report once that an export fails, and once that it works again.
const DEFAULT_FILTER: &str = "info,opentelemetry=off";

#[cfg(test)]
mod tests {
    use super::random_uuid;

    #[test]
    fn an_instance_has_a_uuid_of_version_4() {
        for _ in 0..100 {
            let uuid = random_uuid();
            let parts: Vec<_> = uuid.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{uuid}");
            assert!(uuid.chars().all(|c| matches!(c, '-' | '0'..='9' | 'a'..='f')), "{uuid}");
            assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{uuid}");
            assert_ne!(uuid, random_uuid());
        }
    }
}
