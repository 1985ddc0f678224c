//! What a run costs where several threads spawn runs at once, 64 at a time: all of one name, or each thread of a name of its own. What the two
//! differ by is what the threads share for the name; what the second grows by with the threads is what all runs share.
//!
//! The contention is the processor time of a run on all threads, divided by that on a runtime with one thread. Cycles would
//! say the same, and few virtual machines let a program count them.
//!
//! Beside a counter of the OpenTelemetry SDK that each run adds to, which all threads share in the same way.

use std::{future::Future, sync::Arc, time::Instant};

use opentelemetry::KeyValue;
use otel_tasks::{CriticalTaskConfig, TaskCategory, TaskContext, TaskManager};
use tokio::sync::mpsc;

use super::spawn::{NAME, as_built, manager};
use crate::{
    cell::{BARE, BY_HAND, Limit, Measured, OURS, Runtime, Scale, Workload, processor_nanos},
    telemetry::{ByHand, Metrics},
};

const THREADS: [usize; 4] = [2, 4, 8, 16];
/// Of all threads together.
const RUNS: usize = 320_000;
const AT_A_TIME: usize = 64;
const COUNTER: &str = "otel-counter";
const OWN_NAMES: &str = "otel-tasks, own names";
/// With own names, too.
const BY_BUILDER: &str = "otel-tasks, by builder";
/// With own names, too: each thread spawns through the context of a registered task of its own.
const BY_OWNER: &str = "otel-tasks, by owner";
/// One for each thread. Without digits, which the rule for names would cut.
const NAMES: [&str; 16] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];

pub fn workloads() -> Vec<Workload> {
    let names = ["hot-name-2", "hot-name-4", "hot-name-8", "hot-name-16"];
    names.into_iter().zip(THREADS).map(|(name, threads)| workload(name, threads)).collect()
}

fn workload(name: &'static str, threads: usize) -> Workload {
    Workload::new(name, "ns per run", "what does a run cost where so many threads run one name")
        .on(Runtime::Workers(threads))
        .cell(BARE, move |scale| run(scale, threads, |_| tokio::spawn(async {})))
        .cell(COUNTER, move |scale| {
            let runs = Metrics::leaked().meter().u64_counter("runs").build();
            run(scale, threads, move |_| {
                let runs = runs.clone();
                tokio::spawn(async move { runs.add(1, &[KeyValue::new("task.name", NAME)]) })
            })
        })
        .cell(BY_HAND, move |scale| {
            let by_hand = ByHand::leaked(&Metrics::leaked().meter());
            run(scale, threads, |_| tokio::spawn(by_hand.metered(NAME, async {})))
        })
        .cell(OURS, move |scale| {
            let tasks = manager(as_built);
            run(scale, threads, move |_| tasks.spawn(NAME, async {}))
        })
        .cell(OWN_NAMES, move |scale| {
            let tasks = manager(as_built);
            run(scale, threads, move |thread| tasks.spawn(NAMES[thread], async {}))
        })
        .cell(BY_BUILDER, move |scale| {
            let tasks = manager(as_built);
            run(scale, threads, move |thread| {
                let builder = tasks.task(NAMES[thread]).category(TaskCategory::Command);
                builder.spawn_with(|_| async {})
            })
        })
        .cell(BY_OWNER, move |scale| async move {
            let tasks = manager(as_built);
            let owners = owners(&tasks, threads).await;
            run(scale, threads, move |thread| {
                // It is dropped with the last run.
                let _manager = &tasks;
                owners[thread].task(NAMES[thread]).spawn(async {})
            })
            .await
        })
        .goal(Limit::OfSystem(1.0, BY_HAND))
}

/// The contexts of so many registered tasks, which live as long as the manager.
async fn owners(tasks: &TaskManager, owners: usize) -> Arc<[TaskContext]> {
    let (begun, mut contexts) = mpsc::unbounded_channel();
    for number in 0..owners {
        let begun = begun.clone();
        let config = CriticalTaskConfig::new(format!("owner-{number}"), move |ctx| {
            let begun = begun.clone();
            async move {
                begun.send(ctx.clone()).expect("it is received");
                ctx.cancelled().await;
            }
        });
        tasks.register(config).expect("a sound config");
    }
    tasks.start();
    let mut received = Vec::new();
    while received.len() < owners {
        received.push(contexts.recv().await.expect("each begins"));
    }
    received.into()
}

/// Measures `spawn` on all threads at once, and then on one. `spawn` is given the number of the thread.
async fn run<F>(
    scale: Scale,
    threads: usize,
    spawn: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> Measured
where
    F: Future + Send + 'static,
{
    let (nanos, processor) = run_on(scale, threads, spawn.clone()).await;
    let on_one = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let measuring = runtime.spawn(run_on(scale, 1, spawn));
        runtime.block_on(measuring).expect("no panic")
    };
    let (_, alone) = tokio::task::spawn_blocking(on_one).await.expect("no panic");
    Measured::Threads { nanos, processor, alone }
}

/// Returns the time and the processor time of a run, in nanoseconds.
async fn run_on<F>(
    scale: Scale,
    threads: usize,
    spawn: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> (f64, f64)
where
    F: Future + Send + 'static,
{
    let rounds = (scale.of(RUNS) / threads / AT_A_TIME).max(1);
    let (began, before) = (Instant::now(), processor_nanos());
    let spawners: Vec<_> = (0..threads)
        .map(|thread| {
            let spawn = spawn.clone();
            tokio::spawn(async move {
                for _ in 0..rounds {
                    super::spawn::round(AT_A_TIME, &|| spawn(thread)).await;
                }
            })
        })
        .collect();
    for spawner in spawners {
        spawner.await.expect("no panic");
    }
    let took = began.elapsed().as_nanos() as f64;
    let spawned = (rounds * AT_A_TIME * threads) as f64;
    (took / spawned, (processor_nanos() - before) as f64 / spawned)
}
