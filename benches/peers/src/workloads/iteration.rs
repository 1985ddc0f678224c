//! What one iteration of an interval loop costs, all on: a sampled span, metrics, and ours with its history and health.
//!
//! In virtual time: an interval of a second passes as soon as nothing else is left to do, so what is measured is the work
//! of an iteration, the timer's included, and no waiting. The body yields once.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager};
use tokio::{sync::Notify, task::yield_now};

use crate::{
    cell::{BARE, BY_HAND, Limit, Measured, OURS, Runtime, Scale, Workload},
    telemetry::{ByHand, Metrics, Sampling, subscribe_by_hand, subscribe_ours},
};

const ITERATIONS: usize = 200_000;
/// Are not counted.
const FIRST: usize = 1_000;
const INTERVAL: Duration = Duration::from_secs(1);
const NAME: &str = "ticker";

pub fn workload() -> Workload {
    Workload::new("iteration", "ns per iteration", "what does an iteration of a loop cost, all on")
        .on(Runtime::Virtual)
        .cell(BARE, |scale| bare(Counted::new(scale.of(ITERATIONS))))
        .cell(BY_HAND, |scale| {
            subscribe_by_hand(Sampling::On);
            by_hand(Counted::new(scale.of(ITERATIONS)))
        })
        .cell(OURS, |scale: Scale| {
            subscribe_ours(Sampling::On);
            ours(Counted::new(scale.of(ITERATIONS)))
        })
        .goal(Limit::OfSystem(0.95, BY_HAND))
}

/// The body of every system's loop.
pub struct Counted {
    left: AtomicUsize,
    iterations: usize,
    began: OnceLock<Instant>,
    took: OnceLock<Duration>,
    over: Notify,
}

impl Counted {
    pub fn new(iterations: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(FIRST + iterations),
            iterations,
            began: OnceLock::new(),
            took: OnceLock::new(),
            over: Notify::new(),
        })
    }

    /// Answers how many are left. Relaxed: iterations never overlap; pairs with nothing.
    async fn iteration(&self) {
        match self.left.fetch_sub(1, Relaxed) - 1 {
            0 => {
                let began = self.began.get().expect("begun before");
                let _ = self.took.set(began.elapsed());
                self.over.notify_one();
                std::future::pending().await
            }
            left if left == self.iterations => drop(self.began.set(Instant::now())),
            _ => {}
        }
        yield_now().await;
    }

    pub async fn measured(&self) -> Measured {
        self.over.notified().await;
        let took = self.took.get().expect("set before it was told");
        Measured::Nanos(took.as_nanos() as f64 / self.iterations as f64)
    }
}

pub async fn bare(counted: Arc<Counted>) -> Measured {
    let body = counted.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            body.iteration().await;
        }
    });
    counted.measured().await
}

pub async fn by_hand(counted: Arc<Counted>) -> Measured {
    let by_hand = ByHand::leaked(&Metrics::leaked().meter());
    let body = counted.clone();
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            by_hand.traced(NAME, body.iteration()).await;
        }
    });
    counted.measured().await
}

pub async fn ours(counted: Arc<Counted>) -> Measured {
    let tasks = TaskManager::builder().meter(Metrics::leaked().meter()).build().unwrap();
    let body = counted.clone();
    let ticker = TaskLoop::every(INTERVAL, move |_| {
        let body = body.clone();
        async move { body.iteration().await }
    });
    tasks.register(CriticalTaskConfig::from_loop(NAME, ticker)).expect("a sound config");
    // Begins the monitor too, whose sweep comes once in sixty iterations.
    tasks.start();
    counted.measured().await
}
