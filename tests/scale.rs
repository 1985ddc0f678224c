//! A day of a busy service, in virtual time: nothing grows with the tasks that were run.
//!
//! A million tasks under ten thousand names and a thousand more than there is room for; loops, a task that fails and is
//! restarted all day, and a collection of all metrics every hour. A debug build runs a hundredth of it, at the same length:
//! `cargo test --release --test scale` is the whole.

use std::{
    alloc::System,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Stream, Temporality,
        data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};
use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskLoop, TaskManager, TaskMetrics,
    policy::{ExitKind, NameRule},
    shutdown::ShutdownOutcome,
    telemetry::contract,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WHOLE: bool = !cfg!(debug_assertions);
const NAMES: usize = if WHOLE { 10_000 } else { 100 };
/// For these there is no room.
const NAMES_BEYOND: usize = NAMES / 10;
const TASKS: usize = 100 * NAMES;
const LOOPS: usize = 5;
const INTERVAL: Duration = Duration::from_secs(if WHOLE { 10 } else { 60 });
const HOURS: usize = 24;
const QUARTER: usize = HOURS / 4;
/// Between spawns; the last minute of each hour is quiet, so that nothing short is alive when memory is looked at.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 354;
const QUIET: Duration = Duration::from_secs(60);
/// What may be held more after three quarters of a day: for the whole run less than a tenth of a byte per task. Seen: 13 KiB,
/// among it the times of restarts, of which a task keeps so many as a limit may count.
const GROWTH: usize = 64 * 1024;

/// What is allocated and not freed.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Counts what is exported.
#[derive(Debug, Default, Clone)]
struct Exported {
    /// But for the longest polls: a name has one from when the watchdog, in real time, first sees a poll of it.
    points: Arc<AtomicUsize>,
    /// Of the instrument that has the most.
    most: Arc<AtomicUsize>,
    overflowed: Arc<AtomicUsize>,
}

impl PushMetricExporter for Exported {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let metrics = || metrics.scope_metrics().flat_map(|scope| scope.metrics());
        let settled = metrics().filter(|metric| metric.name() != contract::POLL_DURATION_MAX.name);
        self.points.store(settled.map(|metric| count(metric).0).sum(), Relaxed);
        self.most.fetch_max(metrics().map(|metric| count(metric).0).max().unwrap_or(0), Relaxed);
        self.overflowed.fetch_add(metrics().filter(|metric| count(metric).1).count(), Relaxed);
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

/// The points of an instrument, and whether one of them stands for those that found no room.
fn count(metric: &Metric) -> (usize, bool) {
    fn of<'a>(sets: impl Iterator<Item = Vec<&'a opentelemetry::KeyValue>>) -> (usize, bool) {
        sets.fold((0, false), |(points, overflowed), set| {
            (points + 1, overflowed || set.iter().any(|pair| pair.key.as_str() == "otel.metric.overflow"))
        })
    }
    fn of_data<T>(data: &MetricData<T>) -> (usize, bool) {
        match data {
            MetricData::Gauge(data) => of(data.data_points().map(|point| point.attributes().collect())),
            MetricData::Sum(data) => of(data.data_points().map(|point| point.attributes().collect())),
            MetricData::Histogram(data) => of(data.data_points().map(|point| point.attributes().collect())),
            MetricData::ExponentialHistogram(_) => unreachable!("nobody asked for one"),
        }
    }
    match metric.data() {
        AggregatedMetrics::F64(data) => of_data(data),
        AggregatedMetrics::U64(data) => of_data(data),
        AggregatedMetrics::I64(data) => of_data(data),
    }
}

/// Spawns the tasks one after the other: each name in turn, those without room too.
struct Spawner {
    tasks: TaskManager,
    names: Vec<String>,
    spawned: usize,
}

impl Spawner {
    fn spawn(&mut self, how_many: usize) {
        for number in self.spawned..self.spawned + how_many {
            let name = &self.names[number % self.names.len()];
            // By rounds, so that each name sees each end.
            let round = number / self.names.len();
            let handle = self.tasks.spawn(name, async move {
                tokio::time::sleep(Duration::from_millis(number as u64 % 20_000)).await;
                match round % 10 {
                    3 => Err("unlucky"),
                    5 => std::future::pending().await,
                    7 if number % 8 == 0 => panic!("a bug"),
                    _ => Ok(()),
                }
            });
            if round % 10 == 5 {
                handle.abort();
            }
        }
        self.spawned += how_many;
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_million_tasks_leaves_nothing_behind() {
    // Panics are provoked here; without a subscriber each would be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let exported = Exported::default();
    let reader = PeriodicReader::builder(exported.clone()).with_interval(Duration::from_secs(86_400)).build();
    let metrics = SdkMeterProvider::builder()
        .with_reader(reader)
        // As our installer does.
        .with_view(|_: &_| Stream::builder().with_cardinality_limit(NAMES.max(200) * 10).build().ok())
        .build();
    let collect = || {
        metrics.force_flush().expect("exported");
        exported.points.load(Relaxed)
    };
    let tasks = TaskManager::builder()
        .meter(metrics.meter("scale"))
        .max_names(NAMES)
        .names(NameRule::keep())
        .build()
        .unwrap();

    let iterations = Arc::new(AtomicU64::new(0));
    for number in 0..LOOPS {
        let iterations = iterations.clone();
        let ticker = TaskLoop::every(INTERVAL, move |_| {
            let iterations = iterations.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                iterations.fetch_add(1, Relaxed);
            }
        });
        tasks.register(CriticalTaskConfig::from_loop(format!("loop-{number}"), ticker)).expect("room");
    }
    let fails = CriticalTaskConfig::new("fails-all-day", |_| async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        Err::<(), _>("the connection was lost")
    });
    tasks.register(fails.backoff(Backoff::constant(Duration::from_secs(1)))).expect("room");
    let registered = LOOPS + 1;
    tasks.start();

    // Histories are bounded per name, and are full before the day begins.
    let names = (0..NAMES + NAMES_BEYOND).map(|number| format!("job-{number}")).collect::<Vec<_>>();
    let mut spawner = Spawner { tasks: tasks.clone(), names, spawned: 0 };
    for _ in 0..TaskMetrics::HISTORY_LENGTH {
        spawner.spawn(NAMES + NAMES_BEYOND);
        tokio::time::sleep(QUIET).await;
    }

    let (mut quarters, mut points) = (Vec::new(), Vec::new());
    for hour in 1..=HOURS {
        for _ in 0..STEPS {
            spawner.spawn(TASKS / HOURS / STEPS);
            tokio::time::sleep(STEP).await;
        }
        spawner.spawn(TASKS / HOURS % STEPS);
        tokio::time::sleep(QUIET).await;
        points.push(collect());
        if hour % QUARTER == 0 {
            quarters.push(held());
        }
    }

    println!("{} tasks, {} iterations", spawner.spawned, iterations.load(Relaxed));
    println!("held after each quarter: {quarters:?} bytes; exported at each hour: {points:?} points");
    let growth = quarters[3].saturating_sub(quarters[0]);
    assert!(growth <= GROWTH, "{growth} bytes more are held at the end of the day: {quarters:?}");

    assert_eq!(exported.overflowed.load(Relaxed), 0);
    let sets = (NAMES + 1) * 10;
    assert!(exported.most.load(Relaxed) <= sets, "an instrument with {} sets", exported.most.load(Relaxed));
    assert!(points.iter().all(|held| *held == points[0]), "{points:?}");

    // Nothing was lost, and nothing is counted as alive that is not.
    let snapshots = tasks.snapshots();
    assert_eq!(snapshots.len(), NAMES + 1, "and the name of those without room");
    let short = || snapshots.iter().filter(|task| task.state.is_none());
    assert_eq!(short().map(|task| task.active).sum::<u64>(), 0);
    let runs = short().map(otel_tasks::snapshot::TaskSnapshot::total_runs).sum::<u64>();
    assert_eq!(runs, spawner.spawned as u64);
    let of_loops: u64 = snapshots
        .iter()
        .filter(|task| task.name.starts_with("loop-"))
        .map(|task| task.runs(ExitKind::Success))
        .sum();
    assert_eq!(of_loops, iterations.load(Relaxed));

    let report = tasks.shutdown().await;
    assert_eq!(report.tasks.len(), registered, "nobody else has a place: {report}");
    assert!(report.tasks.iter().all(|task| task.outcome != ShutdownOutcome::Leaked), "{report}");
}
