//! What readers cost beside a million live tasks under a thousand names, and beside a hundredth of those tasks.
//!
//! The tasks wait for ever. Under each name five runs have ended before, one of them in an error, so that histograms and
//! error counters have something to show.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use opentelemetry_sdk::metrics::data::ResourceMetrics;
use otel_tasks::TaskManager;
use tokio::sync::Semaphore;

use crate::{
    cell::{BY_HAND, Limit, Measured, OURS, Workload, median},
    telemetry::{ByHand, Metrics, Sampling, telling_tracer},
};

const NAMES: usize = 1_000;
const TASKS: usize = 1_000_000;
const FEW: usize = 10_000;
/// The cell with few tasks under as many names.
const FEW_TASKS: &str = "10,000 tasks";
/// That it does not grow with the tasks, which is measured on a shared machine.
const ALIKE: f64 = 1.25;
const LOOKS: usize = 9;
const MILLISECOND: f64 = 1e6;

pub fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("million-sweep", "ns per sweep", "a monitor's sweep and the health of all names")
            .cell(OURS, |scale| sweep(scale.of(TASKS)))
            .cell(FEW_TASKS, |_| sweep(FEW))
            .goal(Limit::AtMost(10.0 * MILLISECOND))
            .goal(Limit::OfSystem(ALIKE, FEW_TASKS))
            .at_most_rounds(3),
        Workload::new("million-collect", "ns per collection", "a collection of all metrics")
            .cell(BY_HAND, |_| collect_by_hand())
            .cell(OURS, |scale| collect(scale.of(TASKS)))
            .cell(FEW_TASKS, |_| collect(FEW))
            .goal(Limit::AtMost(5.0 * MILLISECOND))
            .goal(Limit::OfSystem(ALIKE, FEW_TASKS))
            .at_most_rounds(3),
    ]
}

/// A manager with live tasks, and what it reports to.
pub struct Loaded {
    pub tasks: TaskManager,
    metrics: &'static Metrics,
    names: Vec<String>,
    swept: Mutex<mpsc::Receiver<Instant>>,
}

impl Loaded {
    pub async fn with(tasks: usize, names: usize) -> Self {
        let (tell, swept) = mpsc::channel();
        let tracer = telling_tracer(Sampling::On, move |span| {
            if span.name == "bot.monitor_tasks" {
                // Nobody listens once the measurement is over.
                let _ = tell.send(Instant::now());
            }
        });
        let metrics = Metrics::with_room_for(names);
        let manager = TaskManager::builder()
            .meter(metrics.meter())
            .tracer(tracer)
            .max_names(names)
            .monitor_interval(Duration::from_secs(3_600))
            .build()
            .unwrap();
        let names: Vec<_> = (0..names).map(|number| format!("worker_{}", letters(number))).collect();
        for name in &names {
            for run in 0..5 {
                let _ =
                    manager.spawn(name, async move { if run == 0 { Err("unlucky") } else { Ok(()) } }).await;
            }
        }
        let live = Arc::new(Semaphore::new(0));
        for task in 0..tasks {
            let live = live.clone();
            drop(manager.spawn(&names[task % names.len()], async move {
                live.add_permits(1);
                std::future::pending::<()>().await;
            }));
        }
        for _ in 0..tasks {
            live.acquire().await.expect("open").forget();
        }
        assert_eq!(manager.snapshots().len(), names.len(), "each name is kept apart");
        Self { tasks: manager, metrics, names, swept: Mutex::new(swept) }
    }

    /// One sweep, from its order until its span has ended.
    pub async fn sweep(&self) -> Duration {
        let began = Instant::now();
        self.tasks.start();
        loop {
            match self.swept.lock().unwrap_or_else(PoisonError::into_inner).try_recv() {
                Ok(ended) => {
                    self.tasks.stop_monitor();
                    return ended - began;
                }
                Err(mpsc::TryRecvError::Empty) => {}
                Err(error) => panic!("the tracer is gone: {error}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// The health of every name, asked one by one.
    fn health(&self) -> Duration {
        let began = Instant::now();
        for name in &self.names {
            std::hint::black_box(self.tasks.task_health(name).expect("known"));
        }
        began.elapsed()
    }

    pub fn collect(&self, into: &mut ResourceMetrics) {
        self.metrics.collect(into);
    }
}

/// A name without a number, which the default rule would cut off.
fn letters(mut number: usize) -> String {
    let mut letters = String::new();
    for _ in 0..4 {
        letters.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    letters
}

async fn sweep(tasks: usize) -> Measured {
    let loaded = Loaded::with(tasks, NAMES).await;
    let mut nanos = Vec::new();
    for _ in 0..LOOKS {
        nanos.push((loaded.sweep().await + loaded.health()).as_nanos() as f64);
    }
    // Dropped, it would begin to stop a million tasks.
    std::mem::forget(loaded);
    Measured::Nanos(median(&mut nanos))
}

async fn collect(tasks: usize) -> Measured {
    let loaded = Loaded::with(tasks, NAMES).await;
    let measured = collections(|into| loaded.collect(into));
    std::mem::forget(loaded);
    measured
}

/// A counter, an up-down counter and a histogram of as many names: what there is to collect by hand.
async fn collect_by_hand() -> Measured {
    let metrics = Metrics::with_room_for(NAMES);
    let by_hand = ByHand::leaked(&metrics.meter());
    for number in 0..NAMES {
        let name: &'static str = letters(number).leak();
        for _ in 0..5 {
            by_hand.metered(name, async {}).await;
        }
    }
    collections(|into| metrics.collect(into))
}

fn collections(collect: impl Fn(&mut ResourceMetrics)) -> Measured {
    let mut metrics = ResourceMetrics::default();
    let mut nanos = Vec::new();
    for _ in 0..LOOKS {
        let began = Instant::now();
        collect(&mut metrics);
        nanos.push(began.elapsed().as_nanos() as f64);
    }
    Measured::Nanos(median(&mut nanos))
}
