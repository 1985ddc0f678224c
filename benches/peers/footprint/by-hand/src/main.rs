//! The three pipelines over OTLP, a terminal layer, and one task with a span, a counter and a histogram.

use std::{process::ExitCode, time::Instant};

use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource, logs::SdkLoggerProvider, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use tracing::Instrument as _;
use tracing_subscriber::{EnvFilter, Layer as _, prelude::*};

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Telemetry {
    spans: SdkTracerProvider,
    metrics: SdkMeterProvider,
    logs: SdkLoggerProvider,
}

impl Telemetry {
    fn install() -> Result<Self, Failure> {
        let (spans, metrics, logs) = exporters()?;
        let resource = Resource::builder().with_service_name("footprint").build();
        let spans =
            SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build();
        let metrics = SdkMeterProvider::builder()
            .with_periodic_exporter(metrics)
            .with_resource(resource.clone())
            .build();
        let logs = SdkLoggerProvider::builder().with_batch_exporter(logs).with_resource(resource).build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        global::set_tracer_provider(spans.clone());
        global::set_meter_provider(metrics.clone());
        // What the exporters do themselves is not exported.
        let quiet = || EnvFilter::new("info,hyper=off,h2=off,tonic=off,reqwest=off,opentelemetry=off");
        tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(quiet()))
            .with(tracing_opentelemetry::layer().with_tracer(spans.tracer("footprint")).with_filter(quiet()))
            .with(OpenTelemetryTracingBridge::new(&logs).with_filter(quiet()))
            .try_init()?;
        Ok(Self { spans, metrics, logs })
    }

    fn shutdown(&self) {
        let _ = self.spans.shutdown();
        let _ = self.metrics.shutdown();
        let _ = self.logs.shutdown();
    }
}

#[cfg(feature = "transports")]
fn exporters() -> Result<(SpanExporter, MetricExporter, LogExporter), Failure> {
    use opentelemetry_otlp::{Compression, Protocol, WithHttpConfig as _, WithTonicConfig as _};

    let _ = rustls::crypto::ring::default_provider().install_default();
    if std::env::var("OTEL_EXPORTER_OTLP_PROTOCOL").is_ok_and(|protocol| protocol == "grpc") {
        return Ok((
            SpanExporter::builder().with_tonic().with_compression(Compression::Gzip).build()?,
            MetricExporter::builder().with_tonic().with_compression(Compression::Gzip).build()?,
            LogExporter::builder().with_tonic().with_compression(Compression::Gzip).build()?,
        ));
    }
    // A blocking client may not be made on a thread of the runtime.
    let client = std::thread::spawn(|| reqwest::blocking::Client::builder().build());
    let client = client.join().map_err(|_| "the client's maker panicked")??;
    let http = Protocol::HttpBinary;
    Ok((
        SpanExporter::builder().with_http().with_protocol(http).with_http_client(client.clone()).build()?,
        MetricExporter::builder().with_http().with_protocol(http).with_http_client(client.clone()).build()?,
        LogExporter::builder().with_http().with_protocol(http).with_http_client(client).build()?,
    ))
}

#[cfg(not(feature = "transports"))]
fn exporters() -> Result<(SpanExporter, MetricExporter, LogExporter), Failure> {
    use opentelemetry_otlp::Protocol;

    let http = Protocol::HttpBinary;
    Ok((
        SpanExporter::builder().with_http().with_protocol(http).build()?,
        MetricExporter::builder().with_http().with_protocol(http).build()?,
        LogExporter::builder().with_http().with_protocol(http).build()?,
    ))
}

async fn run(began: Instant) -> Result<(), Failure> {
    let telemetry = Telemetry::install()?;
    let meter = global::meter("footprint");
    let (runs, duration) = (meter.u64_counter("runs").build(), meter.f64_histogram("duration").build());
    let task = async move {
        let started = Instant::now();
        tokio::task::yield_now().await;
        let name = [KeyValue::new("task.name", "first")];
        duration.record(started.elapsed().as_secs_f64(), &name);
        runs.add(1, &name);
    };
    tokio::spawn(task.instrument(tracing::info_span!(parent: None, "task.run", task.name = "first"))).await?;
    println!("{}", began.elapsed().as_micros());
    if std::env::var_os("FOOTPRINT_SERVES").is_some() {
        tokio::signal::ctrl_c().await?;
        telemetry.shutdown();
    }
    Ok(())
}

fn main() -> ExitCode {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(run(began)) {
        // Nobody receives anything: no shutdown is waited for.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
