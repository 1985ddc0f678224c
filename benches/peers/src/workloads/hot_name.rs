//! What a run costs where everybody runs the same: 16 threads, each spawning runs of one name, 64 at a time.
//!
//! Beside a counter of the OpenTelemetry SDK that each run adds to, which all threads share in the same way.

use std::{future::Future, time::Instant};

use opentelemetry::KeyValue;

use super::spawn::{NAME, as_built, manager};
use crate::{
    cell::{BARE, BY_HAND, Limit, Measured, OURS, Runtime, Scale, Workload},
    telemetry::{ByHand, Metrics},
};

const THREADS: usize = 16;
const RUNS: usize = 20_000;
const AT_A_TIME: usize = 64;
const COUNTER: &str = "otel-counter";

pub fn workload() -> Workload {
    Workload::new("hot-name", "ns per run", "what does a run cost where 16 threads run one name")
        .on(Runtime::Workers(THREADS))
        .cell(BARE, |scale| threads(scale, || tokio::spawn(async {})))
        .cell(COUNTER, |scale| {
            let runs = Metrics::leaked().meter().u64_counter("runs").build();
            threads(scale, move || {
                let runs = runs.clone();
                tokio::spawn(async move { runs.add(1, &[KeyValue::new("task.name", NAME)]) })
            })
        })
        .cell(BY_HAND, |scale| {
            let by_hand = ByHand::leaked(&Metrics::leaked().meter());
            threads(scale, || tokio::spawn(by_hand.metered(NAME, async {})))
        })
        .cell(OURS, |scale| {
            let tasks = manager(as_built);
            threads(scale, move || tasks.spawn(NAME, async {}))
        })
        .goal(Limit::OfSystem(1.0, COUNTER))
}

/// The same on each thread, at once.
async fn threads<F>(scale: Scale, spawn: impl Fn() -> F + Clone + Send + Sync + 'static) -> Measured
where
    F: Future + Send + 'static,
{
    let runs = scale.of(RUNS);
    let began = Instant::now();
    let spawners: Vec<_> = (0..THREADS)
        .map(|_| {
            let spawn = spawn.clone();
            tokio::spawn(async move {
                for _ in 0..runs / AT_A_TIME {
                    super::spawn::round(AT_A_TIME, &spawn).await;
                }
            })
        })
        .collect();
    for spawner in spawners {
        spawner.await.expect("no panic");
    }
    let spawned = runs / AT_A_TIME * AT_A_TIME * THREADS;
    Measured::Nanos(began.elapsed().as_nanos() as f64 / spawned as f64)
}
