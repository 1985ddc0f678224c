//! What a short task costs: 50,000 tasks of one yield, from the first spawn until the last was awaited.
//!
//! Ours is admitted, can be cancelled, is caught where it panics, and its name is looked up at each spawn; by hand there is
//! none of that. `spawn-direct-*` is the same with a run's span on the direct path.

use std::{future::Future, time::Instant};

use otel_tasks::{TaskManager, task::TaskManagerBuilder, telemetry::SpanPath};
use tokio::task::yield_now;
use tokio_metrics::TaskMonitor;
use tracing::Instrument as _;

use crate::{
    cell::{BARE, BY_HAND, Limit, Measured, OURS, Scale, Workload, median},
    telemetry::{ByHand, Metrics, Sampling, subscribe_by_hand, subscribe_ours},
};

const TASKS: usize = 50_000;
/// Within a process, after one that nobody counts.
const ROUNDS: usize = 3;
pub const NAME: &str = "bench";

pub fn workloads() -> Vec<Workload> {
    let (what, not) = ("what does a task with span and metrics cost", "the same where the sampler says no");
    vec![
        metered(),
        beside_by_hand(traced("spawn-sampled", what, Sampling::On, as_built), Sampling::On)
            .goal(Limit::OfSystem(0.3, BY_HAND)),
        beside_by_hand(traced("spawn-unsampled", not, Sampling::Off, as_built), Sampling::Off)
            .goal(Limit::OfSystem(0.28, BY_HAND)),
        traced("spawn-direct-sampled", what, Sampling::On, direct).goal(Limit::OfSystem(2.3, BARE)),
        traced("spawn-direct-unsampled", not, Sampling::Off, direct).goal(Limit::OfSystem(2.0, BARE)),
    ]
}

/// The default path of a run's span.
pub fn as_built(builder: TaskManagerBuilder) -> TaskManagerBuilder {
    builder
}

/// Past tracing-opentelemetry.
pub fn direct(builder: TaskManagerBuilder) -> TaskManagerBuilder {
    builder.span_path(SpanPath::Direct)
}

fn metered() -> Workload {
    Workload::new(
        "spawn-metered",
        "ns per task",
        "what does a metered task cost where there is no subscriber",
    )
    .cell(BARE, |scale| rounds(scale, || tokio::spawn(yield_now())))
    .cell("tokio-metrics", |scale| {
        let monitor = TaskMonitor::new();
        rounds(scale, move || tokio::spawn(TaskMonitor::instrument(&monitor, yield_now())))
    })
    .cell(BY_HAND, |scale| {
        let by_hand = ByHand::leaked(&Metrics::leaked().meter());
        rounds(scale, || tokio::spawn(by_hand.metered(NAME, yield_now())))
    })
    .cell(OURS, |scale| ours(scale, as_built))
    .goal(Limit::OfSystem(1.0, "tokio-metrics"))
}

fn traced(
    name: &'static str,
    question: &'static str,
    sampling: Sampling,
    path: fn(TaskManagerBuilder) -> TaskManagerBuilder,
) -> Workload {
    Workload::new(name, "ns per task", question)
        .cell(BARE, |scale| rounds(scale, || tokio::spawn(yield_now())))
        .cell(OURS, move |scale| {
            subscribe_ours(sampling);
            ours(scale, path)
        })
}

/// With what is compared on the default path. The direct path is compared with bare alone: that has short rounds, and many.
fn beside_by_hand(workload: Workload, sampling: Sampling) -> Workload {
    workload
        .cell("tracing-opentelemetry", move |scale| {
            subscribe_by_hand(sampling);
            let span = || tracing::info_span!(parent: None, "task.run", task.name = NAME);
            rounds(scale, move || tokio::spawn(yield_now().instrument(span())))
        })
        .cell(BY_HAND, move |scale| {
            subscribe_by_hand(sampling);
            let by_hand = ByHand::leaked(&Metrics::leaked().meter());
            rounds(scale, || tokio::spawn(by_hand.traced(NAME, yield_now())))
        })
}

async fn ours(scale: Scale, path: fn(TaskManagerBuilder) -> TaskManagerBuilder) -> Measured {
    let tasks = manager(path);
    rounds(scale, move || tasks.spawn(NAME, yield_now())).await
}

pub fn manager(path: fn(TaskManagerBuilder) -> TaskManagerBuilder) -> TaskManager {
    path(TaskManager::builder().meter(Metrics::leaked().meter())).build().unwrap()
}

/// The median of several rounds.
async fn rounds<F: Future + Send>(scale: Scale, spawn: impl Fn() -> F + Send + Sync) -> Measured {
    let tasks = scale.of(TASKS);
    round(tasks, &spawn).await;
    let mut nanos = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        round(tasks, &spawn).await;
        nanos.push(began.elapsed().as_nanos() as f64 / tasks as f64);
    }
    Measured::Nanos(median(&mut nanos))
}

/// Spawns so many and awaits them all.
pub async fn round<F: Future + Send>(tasks: usize, spawn: &(impl Fn() -> F + Send + Sync)) {
    let mut handles = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        handles.push(spawn());
    }
    for handle in handles {
        handle.await;
    }
}
