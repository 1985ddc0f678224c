//! Names and members that come and go, in virtual time: nothing grows with those that have gone.
//!
//! A binary of its own, for its allocator.

use std::{
    alloc::System,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};
use otel_tasks::{CriticalTaskConfig, TaskContext, TaskFamily, TaskManager, snapshot::TaskState};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{sync::Mutex, time::sleep};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The tests take turns: each looks at the memory of the whole process.
static TURN: Mutex<()> = Mutex::const_new(());

/// What is allocated and not freed.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Keeps how many names the last export carried, and the widest instrument of all exports.
#[derive(Debug, Default, Clone)]
struct Exported {
    widest: Arc<AtomicUsize>,
    overflowed: Arc<AtomicUsize>,
    names: Arc<std::sync::Mutex<std::collections::BTreeSet<String>>>,
}

impl Exported {
    fn add<'a>(&self, sets: impl Iterator<Item = Vec<&'a KeyValue>>) {
        let mut count = 0;
        for set in sets {
            count += 1;
            for attribute in set {
                match attribute.key.as_str() {
                    "otel.metric.overflow" => _ = self.overflowed.fetch_add(1, Relaxed),
                    "task.name" => _ = self.names.lock().unwrap().insert(attribute.value.to_string()),
                    _ => {}
                }
            }
        }
        self.widest.fetch_max(count, Relaxed);
    }

    fn add_data<T>(&self, data: &MetricData<T>) {
        match data {
            MetricData::Gauge(data) => self.add(data.data_points().map(|point| point.attributes().collect())),
            MetricData::Sum(data) => self.add(data.data_points().map(|point| point.attributes().collect())),
            MetricData::Histogram(data) => {
                self.add(data.data_points().map(|point| point.attributes().collect()));
            }
            MetricData::ExponentialHistogram(_) => unreachable!("nobody asked for one"),
        }
    }
}

impl PushMetricExporter for Exported {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.names.lock().unwrap().clear();
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            match metric.data() {
                AggregatedMetrics::F64(data) => self.add_data(data),
                AggregatedMetrics::U64(data) => self.add_data(data),
                AggregatedMetrics::I64(data) => self.add_data(data),
            }
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

/// A meter provider with the SDK's own limit of attribute sets.
fn provider(exported: &Exported) -> SdkMeterProvider {
    let reader = PeriodicReader::builder(exported.clone()).with_interval(Duration::from_secs(86_400)).build();
    SdkMeterProvider::builder().with_reader(reader).build()
}

/// Seen to fail when names were never removed: the 201st was refused.
#[tokio::test(start_paused = true)]
async fn ten_thousand_names_come_and_go() {
    const NAMES: usize = 10_000;
    let _turn = TURN.lock().await;
    let exported = Exported::default();
    let provider = provider(&exported);
    let tasks = TaskManager::builder().meter(provider.meter("churn")).build().unwrap();
    tasks.start();
    let mut after = Vec::new();
    for number in 0..NAMES {
        let name = format!("guild-{number:05}");
        let config = CriticalTaskConfig::new(&name, |ctx| async move {
            sleep(Duration::from_millis(200)).await;
            ctx.cancelled().await;
        });
        tasks.register(config).unwrap_or_else(|refused| panic!("the {number}th: {refused}"));
        sleep(Duration::from_millis(500)).await;
        tasks.unregister(&name).await.unwrap();
        if number % 500 == 499 {
            provider.force_flush().unwrap();
        }
        if number % (NAMES / 10) == NAMES / 10 - 1 {
            after.push(held());
        }
    }
    println!("held after each tenth: {after:?}");
    // Four thousand names are remembered for a while, and were gone by then.
    let growth = after[9].saturating_sub(after[4]);
    assert!(growth < 64 * 1024, "{growth} bytes more: {after:?}");
    assert_eq!(exported.overflowed.load(Relaxed), 0);
    assert!(exported.widest.load(Relaxed) <= 2_000, "{}", exported.widest.load(Relaxed));
    assert_eq!(tasks.statistics().total_runs, NAMES as u64);
    // Half an hour later nothing of them is exported but in the histograms.
    sleep(Duration::from_secs(1_800)).await;
    provider.force_flush().unwrap();
    sleep(Duration::from_secs(1_800)).await;
    provider.force_flush().unwrap();
    assert!(tasks.snapshots().is_empty(), "{}", tasks.snapshots().len());
    assert!(exported.names.lock().unwrap().len() <= TaskManager::new().settings().max_names + 1);
}

/// Ten thousand members, half of which are replaced each second for a minute.
#[tokio::test(start_paused = true)]
async fn half_of_ten_thousand_members_are_replaced_each_second() {
    const MEMBERS: u64 = 10_000;
    let _turn = TURN.lock().await;
    let exported = Exported::default();
    let provider = provider(&exported);
    let tasks = TaskManager::builder().meter(provider.meter("churn")).build().unwrap();
    tasks.start();
    let family = TaskFamily::new("guild", |ctx: TaskContext, _: u64| async move { ctx.cancelled().await });
    let guilds = tasks.register_family(family).unwrap();
    guilds.set(0..MEMBERS).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut after = Vec::new();
    for second in 1..=60 {
        let first = second * MEMBERS / 2;
        guilds.set(first..first + MEMBERS).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        if second % 10 == 0 {
            provider.force_flush().unwrap();
            assert_eq!(*exported.names.lock().unwrap(), ["guild".to_owned()].into());
            after.push(held());
        }
    }
    println!("held after each ten seconds: {after:?}");
    let growth = after[5].saturating_sub(after[0]);
    assert!(growth < 64 * 1024, "{growth} bytes more: {after:?}");
    // A set per state, result or reason.
    assert!(exported.widest.load(Relaxed) <= 10, "{}", exported.widest.load(Relaxed));
    assert_eq!(guilds.keys().len() as u64, MEMBERS);
    let snapshot = tasks.snapshot("guild").unwrap();
    assert_eq!((snapshot.members(TaskState::Running), snapshot.active), (MEMBERS, MEMBERS));
    assert_eq!(snapshot.total_runs(), 60 * MEMBERS / 2);
    assert!(tasks.shutdown().await.is_clean());
}
