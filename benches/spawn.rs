//! What a run costs beside a bare `tokio::spawn`, and beside what a careful user writes by hand.
//!
//! `cargo bench --bench spawn`: 50,000 tasks of one yield per round, each mode in a process of its own with a global
//! subscriber, the processes interleaved; medians of all rounds, and ratios. `--quick` for a look that it still runs.

use std::{
    future::Future,
    process::Command,
    time::{Duration, Instant},
};

use opentelemetry::{Context, KeyValue, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{InMemoryMetricExporter, SdkMeterProvider},
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use otel_tasks::TaskManager;
use tracing::Instrument as _;
use tracing_subscriber::prelude::*;

const MODES: [&str; 8] = [
    "bare",
    "metrics by hand",
    "otel-tasks, no subscriber",
    "tracing-opentelemetry alone, sampled",
    "by hand, sampled",
    "otel-tasks, sampled",
    "by hand, not sampled",
    "otel-tasks, not sampled",
];

/// Ends nowhere: what is measured is the way to the processor.
#[derive(Debug)]
struct Discard;

impl SpanProcessor for Discard {
    fn on_start(&self, _: &mut Span, _: &Context) {}
    fn on_end(&self, span: SpanData) {
        std::hint::black_box(span);
    }
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn tracer(sampled: bool) -> SdkTracer {
    let sampler = if sampled { Sampler::AlwaysOn } else { Sampler::AlwaysOff };
    SdkTracerProvider::builder().with_sampler(sampler).with_span_processor(Discard).build().tracer("bench")
}

async fn round<F: Future>(tasks: usize, spawn: impl Fn() -> F) -> f64 {
    let mut handles = Vec::with_capacity(tasks);
    let began = Instant::now();
    for _ in 0..tasks {
        handles.push(spawn());
    }
    for handle in handles {
        handle.await;
    }
    began.elapsed().as_nanos() as f64 / tasks as f64
}

/// What a careful user writes: a span, a counter, an up-down counter, a histogram.
struct ByHand {
    runs: opentelemetry::metrics::Counter<u64>,
    active: opentelemetry::metrics::UpDownCounter<i64>,
    duration: opentelemetry::metrics::Histogram<f64>,
}

impl ByHand {
    async fn run(&'static self) {
        let name = [KeyValue::new("task.name", "bench")];
        self.active.add(1, &name);
        let began = Instant::now();
        tokio::task::yield_now().await;
        self.active.add(-1, &name);
        let ended = [KeyValue::new("task.name", "bench"), KeyValue::new("task.run.result", "success")];
        self.duration.record(began.elapsed().as_secs_f64(), &ended);
        self.runs.add(1, &ended);
    }
}

fn child(mode: &str, tasks: usize, rounds: usize) {
    let metrics =
        SdkMeterProvider::builder().with_periodic_exporter(InMemoryMetricExporter::default()).build();
    let meter = metrics.meter("bench");
    let sampled = !mode.contains("not sampled");
    if mode.starts_with("by hand") || mode.starts_with("tracing-opentelemetry") {
        tracing_subscriber::registry()
            .with(tracing_opentelemetry::layer().with_tracer(tracer(sampled)))
            .init();
    } else if mode.starts_with("otel-tasks") && !mode.contains("no subscriber") {
        tracing_subscriber::registry().with(otel_tasks::layer(tracer(sampled))).init();
    }
    let by_hand: &'static ByHand = Box::leak(Box::new(ByHand {
        runs: meter.u64_counter("runs").build(),
        active: meter.i64_up_down_counter("active").build(),
        duration: meter.f64_histogram("duration").build(),
    }));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one");
    runtime.block_on(async {
        let manager = TaskManager::builder().meter(metrics.meter("otel_tasks")).build();
        for _ in 0..rounds {
            let span = || tracing::info_span!(parent: None, "task.run", task.name = "bench");
            let nanos = match mode {
                "bare" => round(tasks, || tokio::spawn(tokio::task::yield_now())).await,
                "metrics by hand" => round(tasks, || tokio::spawn(by_hand.run())).await,
                mode if mode.starts_with("tracing-opentelemetry") => {
                    round(tasks, || tokio::spawn(tokio::task::yield_now().instrument(span()))).await
                }
                mode if mode.starts_with("by hand") => {
                    round(tasks, || tokio::spawn(by_hand.run().instrument(span()))).await
                }
                _ => round(tasks, || manager.spawn("bench", tokio::task::yield_now())).await,
            };
            println!("{nanos}");
        }
    });
    // The process ends here: no shutdown is measured.
    std::process::exit(0);
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let (tasks, rounds, turns) = if quick { (2_000, 2, 1) } else { (50_000, 5, 4) };
    if let Ok(mode) = std::env::var("SPAWN_BENCH_MODE") {
        child(&mode, tasks, rounds);
    }
    let mut nanos = vec![Vec::<f64>::new(); MODES.len()];
    for _ in 0..turns {
        for (mode, nanos) in MODES.iter().zip(&mut nanos) {
            let program = std::env::current_exe().expect("this program");
            let mut command = Command::new(program);
            if quick {
                command.arg("--quick");
            }
            let output = command.env("SPAWN_BENCH_MODE", mode).output().expect("runs");
            assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).expect("numbers");
            nanos.extend(text.lines().map(|line| line.parse::<f64>().expect("a number")));
        }
    }
    let bare = median(&mut nanos[0]);
    println!("{:<40} {:>10} {:>10} {:>10} {:>8}", "", "median ns", "from", "to", "ratio");
    for (mode, nanos) in MODES.iter().zip(&mut nanos) {
        let median = median(nanos);
        println!(
            "{mode:<40} {median:>10.0} {:>10.0} {:>10.0} {:>7.2}x",
            nanos[0],
            nanos[nanos.len() - 1],
            median / bare
        );
    }
}

fn median(nanos: &mut [f64]) -> f64 {
    nanos.sort_unstable_by(f64::total_cmp);
    nanos[nanos.len() / 2]
}
