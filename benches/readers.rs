//! What it costs to read a manager of a thousand names, with few tasks alive and with a million.
//!
//! `cargo bench --bench readers`: 1,000 registered tasks, first alone, then with 1,000,000 spawned tasks alive under the
//! same names. Every reader is timed in both, interleaved with itself only, medians; the cost should grow with names and
//! not with tasks. Two rows are beside the collection: what OpenTelemetry's SDK takes for the same observations from
//! callbacks that have nothing to look up, as a floor. `--quick` for a look that it still runs.

use std::{
    fmt,
    future::pending,
    hint::black_box,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        Instrument, PeriodicReader, SdkMeterProvider, Stream, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};
use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager};

const NAMES: usize = 1_000;

/// What the last collection held: ends nowhere else.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    points: usize,
    /// Sweeps of the monitor so far, and the seconds they took.
    sweeps: (u64, f64),
}

impl PushMetricExporter for Last {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut held = self.0.lock().expect("no panic");
        held.points = 0;
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            held.points += match metric.data() {
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    if metric.name() == "task.monitor.duration" {
                        let point = histogram.data_points().next();
                        held.sweeps = point.map_or((0, 0.0), |point| (point.count(), point.sum()));
                    }
                    0
                }
                AggregatedMetrics::F64(data) => points(data),
                AggregatedMetrics::U64(data) => points(data),
                AggregatedMetrics::I64(data) => points(data),
            };
        }
        Ok(())
    }
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn points<T>(data: &MetricData<T>) -> usize {
    match data {
        MetricData::Gauge(gauge) => gauge.data_points().count(),
        MetricData::Sum(sum) => sum.data_points().count(),
        _ => 0,
    }
}

/// A provider that collects when it is told to.
fn provider(last: &Last) -> SdkMeterProvider {
    let roomy = |_: &Instrument| Stream::builder().with_cardinality_limit(NAMES * 20).build().ok();
    let reader = PeriodicReader::builder(last.clone()).with_interval(Duration::from_secs(86_400)).build();
    SdkMeterProvider::builder().with_reader(reader).with_view(roomy).build()
}

/// As many observations as `points`, spread over as many instruments as the manager's, of sets that are ready.
fn floor(points: usize) -> SdkMeterProvider {
    const INSTRUMENTS: usize = 16;
    let provider = provider(&Last::default());
    let meter = provider.meter("floor");
    let each = points / INSTRUMENTS / NAMES * NAMES;
    for instrument in 0..INSTRUMENTS {
        let observed = if instrument == 0 { points - each * (INSTRUMENTS - 1) } else { each };
        let sets: Vec<[KeyValue; 4]> = (0..observed)
            .map(|set| {
                [
                    KeyValue::new("task.category", "system"),
                    KeyValue::new("task.name", Arc::<str>::from(name(set % NAMES))),
                    KeyValue::new("task.priority", "normal"),
                    KeyValue::new("task.state", i64::try_from(set / NAMES).expect("few")),
                ]
            })
            .collect();
        meter
            .u64_observable_counter(format!("floor.{instrument}"))
            .with_callback(move |observer| sets.iter().for_each(|set| observer.observe(1, set)))
            .build();
    }
    provider
}

fn name(number: usize) -> String {
    format!("task-{number:04}")
}

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the other side has closed the connection")
    }
}

impl std::error::Error for Broken {}

/// Fails a few times, then stays.
fn config(name: String) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move {
        if ctx.generation() < 3 {
            return Err(Broken);
        }
        ctx.cancelled().await;
        Ok(())
    })
    .backoff(Backoff::constant(Duration::ZERO))
    .max_restarts(5, Duration::from_secs(60))
}

/// The median of some rounds of something.
fn median(rounds: usize, mut read: impl FnMut() -> Duration) -> Duration {
    let mut samples: Vec<_> = (0..rounds).map(|_| read()).collect();
    samples.sort_unstable();
    samples[rounds / 2]
}

fn timed<T>(read: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(read());
    began.elapsed()
}

/// A reader's name, how many names one reading is about, and what it took.
type Row = (&'static str, usize, Duration);

fn measure(tasks: &TaskManager, meters: &SdkMeterProvider, last: &Last, rounds: usize) -> Vec<Row> {
    let names: Vec<_> = (0..NAMES).map(name).collect();
    let all = |read: &dyn Fn(&str)| median(rounds, || timed(|| names.iter().for_each(|name| read(name))));
    let collected = || meters.force_flush().expect("collects");
    let mut rows: Vec<Row> = vec![
        ("statistics", NAMES, median(rounds, || timed(|| tasks.statistics()))),
        ("health", NAMES, median(rounds, || timed(|| tasks.health()))),
        ("task_names", NAMES, median(rounds, || timed(|| tasks.task_names()))),
        ("snapshots", NAMES, median(rounds, || timed(|| tasks.snapshots()))),
        ("task_health of each name", NAMES, all(&|name| drop(black_box(tasks.task_health(name))))),
        ("snapshot of each name", NAMES, all(&|name| drop(black_box(tasks.snapshot(name))))),
        ("task_metrics", 1, median(rounds, || timed(|| tasks.task_metrics(&names[NAMES / 2])))),
        ("a collection", NAMES, median(rounds, || timed(collected))),
    ];
    let points = last.0.lock().expect("no panic").points;
    let floor = floor(points);
    let floored = || floor.force_flush().expect("collects");
    rows.push(("  the SDK alone, for as many observations", NAMES, median(rounds, || timed(floored))));
    // A sweep measures itself.
    let sweeps = || {
        collected();
        last.0.lock().expect("no panic").sweeps
    };
    let (before, took_before) = sweeps();
    tasks.stop_monitor();
    for _ in 0..rounds {
        tasks.start();
        std::thread::sleep(Duration::from_millis(10));
        tasks.stop_monitor();
    }
    std::thread::sleep(Duration::from_millis(200));
    let (after, took_after) = sweeps();
    let mean = (took_after - took_before) / (after - before).max(1) as f64;
    rows.push(("a sweep of the monitor (mean)", NAMES, Duration::from_secs_f64(mean)));
    println!("{points} observations per collection");
    rows
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let (rounds, per_name) = if quick { (3, 10) } else { (51, 1_000) };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let last = Last::default();
    let meters = provider(&last);
    let tasks = {
        let _entered = runtime.enter();
        TaskManager::builder().max_names(NAMES + 10).meter(meters.meter("otel_tasks")).build().unwrap()
    };
    let _entered = runtime.enter();
    tasks.register_all((0..NAMES).map(|number| config(name(number)))).expect("room");
    tasks.start();
    let settled = |tasks: &TaskManager, active: u64| {
        while tasks.statistics().active_runs < active {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    settled(&tasks, NAMES as u64);
    let few = measure(&tasks, &meters, &last, rounds);
    for number in 0..NAMES {
        let name = name(number);
        (0..per_name).for_each(|_| drop(tasks.spawn(&name, pending::<()>())));
    }
    settled(&tasks, (NAMES * (per_name + 1)) as u64);
    let many = measure(&tasks, &meters, &last, rounds);
    println!("{NAMES} names; tasks alive: {NAMES}, then {}", NAMES * (per_name + 1));
    println!("{:<44} {:>12} {:>12} {:>12}", "µs", "few", "many", "ns per name");
    for ((what, names, few), (_, _, many)) in few.iter().zip(&many) {
        println!(
            "{what:<44} {:>12.1} {:>12.1} {:>12.0}",
            few.as_nanos() as f64 / 1_000.0,
            many.as_nanos() as f64 / 1_000.0,
            many.as_nanos() as f64 / *names as f64,
        );
    }
    // A million tasks are not dropped one by one.
    std::process::exit(0);
}
