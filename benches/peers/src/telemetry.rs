//! Telemetry that ends nowhere, and the instrumentation that a careful user writes by hand.
//!
//! What is measured is the way to the processor and into the aggregation, not an exporter: those are the same for all.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider as _, UpDownCounter},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality, data::ResourceMetrics,
        reader::MetricReader,
    },
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tracing::Instrument as _;
use tracing_subscriber::prelude::*;

/// Whether the spans of a workload are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    On,
    Off,
}

/// Tells of each span that ends, and drops it.
struct Told<F>(F);

impl<F> fmt::Debug for Told<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl<F: Fn(SpanData) + Send + Sync> SpanProcessor for Told<F> {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

pub fn tracer(sampling: Sampling) -> SdkTracer {
    telling_tracer(sampling, |span| drop(std::hint::black_box(span)))
}

/// A tracer whose spans `on_end` is told of.
pub fn telling_tracer(sampling: Sampling, on_end: impl Fn(SpanData) + Send + Sync + 'static) -> SdkTracer {
    let sampler = match sampling {
        Sampling::On => Sampler::AlwaysOn,
        Sampling::Off => Sampler::AlwaysOff,
    };
    SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(Told(on_end))
        .build()
        .tracer("bench")
}

/// The subscriber of those who instrument by hand: tracing-opentelemetry as it comes.
pub fn subscribe_by_hand(sampling: Sampling) {
    let layer = tracing_opentelemetry::layer().with_tracer(tracer(sampling));
    tracing_subscriber::registry().with(layer).init();
}

/// The subscriber that our README recommends.
pub fn subscribe_ours(sampling: Sampling) {
    tracing_subscriber::registry().with(otel_tasks::telemetry::layer(tracer(sampling))).init();
}

/// Metrics with room for so many names, collected when somebody asks.
pub struct Metrics {
    provider: SdkMeterProvider,
    reader: Reader,
}

impl Metrics {
    /// Room for `names`: the widest instrument has ten attribute sets for each. For the rest of the process: a provider
    /// that is dropped shuts down.
    pub fn with_room_for(names: usize) -> &'static Self {
        let reader = Reader(Arc::new(ManualReader::builder().build()));
        let limit = (names * 10).max(2_000);
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.clone())
            .with_view(move |_: &_| Stream::builder().with_cardinality_limit(limit).build().ok())
            .build();
        Box::leak(Box::new(Self { provider, reader }))
    }

    pub fn leaked() -> &'static Self {
        Self::with_room_for(200)
    }

    pub fn meter(&self) -> Meter {
        self.provider.meter("bench")
    }

    /// One collection, kept where the last one was.
    pub fn collect(&self, into: &mut ResourceMetrics) {
        self.reader.collect(into).expect("it collects");
    }
}

/// A reader that the provider and the bench hold both.
#[derive(Debug, Clone)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// What a careful user writes: a counter, an up-down counter, a histogram, and a span where one is wanted.
pub struct ByHand {
    runs: Counter<u64>,
    active: UpDownCounter<i64>,
    duration: Histogram<f64>,
}

/// The attributes of a name, made once.
pub struct Figures {
    task: [KeyValue; 1],
    success: [KeyValue; 2],
    panic: [KeyValue; 2],
}

impl Figures {
    pub fn of(name: &str) -> Arc<Self> {
        let name = KeyValue::new("task.name", Arc::<str>::from(name));
        let ended = |result| [name.clone(), KeyValue::new("task.run.result", result)];
        Arc::new(Self { task: [name.clone()], success: ended("success"), panic: ended("panic") })
    }
}

impl ByHand {
    /// For the rest of the process, as such instruments are.
    pub fn leaked(meter: &Meter) -> &'static Self {
        Box::leak(Box::new(Self {
            runs: meter.u64_counter("runs").build(),
            active: meter.i64_up_down_counter("active").build(),
            duration: meter.f64_histogram("duration").build(),
        }))
    }

    /// `work`, metered under `name`.
    pub async fn metered(&self, name: &'static str, work: impl Future) {
        let task = [KeyValue::new("task.name", name)];
        self.active.add(1, &task);
        let began = Instant::now();
        work.await;
        self.active.add(-1, &task);
        let ended = [KeyValue::new("task.name", name), KeyValue::new("task.run.result", "success")];
        self.duration.record(began.elapsed().as_secs_f64(), &ended);
        self.runs.add(1, &ended);
    }

    /// Counts a run of a name that was found before. Returns its begin.
    pub fn begin(&self, figures: &Figures) -> Instant {
        self.active.add(1, &figures.task);
        Instant::now()
    }

    /// Counts the end of that run.
    pub fn end(&self, figures: &Figures, began: Instant, is_success: bool) {
        self.active.add(-1, &figures.task);
        let ended = if is_success { &figures.success } else { &figures.panic };
        self.duration.record(began.elapsed().as_secs_f64(), ended);
        self.runs.add(1, ended);
    }

    /// Records the time of a run whose other figures are kept elsewhere.
    pub fn ended(&self, name: &Arc<str>, ran: Duration, is_success: bool) {
        let result = if is_success { "success" } else { "panic" };
        let ended = [KeyValue::new("task.name", name.clone()), KeyValue::new("task.run.result", result)];
        self.duration.record(ran.as_secs_f64(), &ended);
    }

    /// `work`, metered under `name` and in a span.
    pub fn traced(&'static self, name: &'static str, work: impl Future) -> impl Future<Output = ()> {
        self.metered(name, work).instrument(tracing::info_span!(parent: None, "task.run", task.name = name))
    }
}
