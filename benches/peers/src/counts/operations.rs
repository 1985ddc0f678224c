//! What is counted, each on one thread, so that it is the same each time.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_sdk::metrics::data::ResourceMetrics;
use otel_tasks::{
    CriticalTaskConfig,
    gate::{BootClock, BootInstant, BoxFuture, Gate, Grant},
    task::TaskManagerBuilder,
};
use tokio::{sync::Notify, task::yield_now};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{
    cell::Runtime,
    telemetry::{ByHand, Metrics, Sampling, subscribe_by_hand, subscribe_ours, tracer},
    workloads::{
        iteration::{self, Counted},
        million::Loaded,
        poll::{on_both_stacks, yields},
        spawn::{self, NAME, as_built, direct, in_a_span},
        supervised,
    },
};

/// So many are spawned before the first is awaited.
const BATCH: usize = 500;
/// Of the readers' operations.
const NAMES: usize = 100;
const LIVE: usize = 1_000;

type Times = Pin<Box<dyn Future<Output = ()>>>;

pub struct Operation {
    pub name: &'static str,
    /// How often it is done in the first and in the second process. What differs between them is what it costs.
    pub times: (usize, usize),
    pub runtime: Runtime,
    /// Whether it is ours, and may not become dearer.
    pub ours: bool,
    pub run: fn(usize) -> Times,
}

impl Operation {
    const fn ours(name: &'static str, times: (usize, usize), run: fn(usize) -> Times) -> Self {
        Self { name, times, runtime: Runtime::Workers(0), ours: true, run }
    }

    const fn theirs(name: &'static str, times: (usize, usize), run: fn(usize) -> Times) -> Self {
        Self { ours: false, ..Self::ours(name, times, run) }
    }

    const fn in_virtual_time(self) -> Self {
        Self { runtime: Runtime::Virtual, ..self }
    }
}

const SPAWNS: (usize, usize) = (1_000, 3_000);
const POLLS: (usize, usize) = (10_000, 30_000);
const ITERATIONS: (usize, usize) = (1_000, 3_000);
const REGISTERED: (usize, usize) = (1_000, 3_000);
/// So many that what differs in the loading before, by the keys of hash maps, is nothing beside them.
const SWEEPS: (usize, usize) = (10, 210);
const COLLECTIONS: (usize, usize) = (4, 12);

pub const ALL: &[Operation] = &[
    Operation::theirs("spawn bare", SPAWNS, |times| Box::pin(batches(times, || tokio::spawn(yield_now())))),
    Operation::theirs("spawn by hand, sampled", SPAWNS, |times| spawn_by_hand(Sampling::On, times)),
    Operation::theirs("spawn by hand, unsampled", SPAWNS, |times| spawn_by_hand(Sampling::Off, times)),
    Operation::theirs("spawn in a span alone, sampled", SPAWNS, |times| spawn_in_a_span(Sampling::On, times)),
    Operation::theirs("spawn in a span alone, unsampled", SPAWNS, |times| {
        spawn_in_a_span(Sampling::Off, times)
    }),
    Operation::ours("spawn metered", SPAWNS, |times| spawn_ours(times, as_built)),
    Operation::ours("spawn sampled", SPAWNS, |times| spawn_traced(Sampling::On, times, as_built)),
    Operation::ours("spawn unsampled", SPAWNS, |times| spawn_traced(Sampling::Off, times, as_built)),
    Operation::ours("spawn direct, sampled", SPAWNS, |times| spawn_traced(Sampling::On, times, direct)),
    Operation::ours("spawn direct, unsampled", SPAWNS, |times| spawn_traced(Sampling::Off, times, direct)),
    Operation::theirs("poll bare", POLLS, |times| {
        Box::pin(batches(times / poll_yields(), || tokio::spawn(yields())))
    }),
    Operation::theirs("poll on both stacks", POLLS, |times| {
        tracing_subscriber::registry().init();
        let tracer = tracer(Sampling::On);
        Box::pin(batches(times / poll_yields(), move || tokio::spawn(on_both_stacks(&tracer, yields()))))
    }),
    Operation::theirs("poll by hand, sampled", POLLS, |times| {
        subscribe_by_hand(Sampling::On);
        let by_hand = ByHand::leaked(&Metrics::leaked().meter());
        Box::pin(batches(times / poll_yields(), || tokio::spawn(by_hand.traced(NAME, yields()))))
    }),
    Operation::ours("poll metered", POLLS, poll_ours),
    Operation::ours("poll sampled", POLLS, |times| {
        subscribe_ours(Sampling::On);
        poll_ours(times)
    }),
    Operation::ours("wake-up of a registered task", POLLS, |times| wake_ups(times, None)),
    Operation::ours("wake-up of a task with a gate", POLLS, |times| wake_ups(times, Some(Open))),
    Operation::ours("start of a registered task", REGISTERED, |times| {
        Box::pin(async move { std::mem::forget(supervised::started(times).await) })
    }),
    Operation::ours("stop of a registered task", REGISTERED, |times| {
        Box::pin(async move {
            // Both processes start as many tasks in total.
            let stopped = supervised::started(times).await;
            let others = supervised::started(REGISTERED.0 + REGISTERED.1 - times).await;
            supervised::stopped(stopped).await;
            std::mem::forget(others);
        })
    }),
    Operation::theirs("iteration bare", ITERATIONS, |times| {
        Box::pin(async move {
            let _ = iteration::bare(Counted::new(times)).await;
        })
    })
    .in_virtual_time(),
    Operation::theirs("iteration by hand", ITERATIONS, |times| {
        subscribe_by_hand(Sampling::On);
        Box::pin(async move {
            let _ = iteration::by_hand(Counted::new(times)).await;
        })
    })
    .in_virtual_time(),
    Operation::ours("iteration", ITERATIONS, |times| {
        subscribe_ours(Sampling::On);
        Box::pin(async move {
            let _ = iteration::ours(Counted::new(times)).await;
        })
    })
    .in_virtual_time(),
    Operation::ours("sweep of 1,000 tasks under 100 names", SWEEPS, |times| {
        Box::pin(async move {
            let loaded = Loaded::with(LIVE, NAMES).await;
            for _ in 0..times {
                loaded.sweep().await;
            }
            std::mem::forget(loaded);
        })
    }),
    Operation::ours("collection of 100 names", COLLECTIONS, |times| {
        Box::pin(async move {
            let loaded = Loaded::with(LIVE, NAMES).await;
            let mut metrics = ResourceMetrics::default();
            for _ in 0..times {
                loaded.collect(&mut metrics);
            }
            std::mem::forget(loaded);
        })
    }),
];

const fn poll_yields() -> usize {
    crate::workloads::poll::YIELDS
}

fn spawn_by_hand(sampling: Sampling, times: usize) -> Times {
    subscribe_by_hand(sampling);
    let by_hand = ByHand::leaked(&Metrics::leaked().meter());
    Box::pin(batches(times, || tokio::spawn(by_hand.traced(NAME, yield_now()))))
}

fn spawn_in_a_span(sampling: Sampling, times: usize) -> Times {
    tracing_subscriber::registry().init();
    let tracer = tracer(sampling);
    Box::pin(batches(times, move || tokio::spawn(in_a_span(&tracer, yield_now()))))
}

fn spawn_ours(times: usize, path: fn(TaskManagerBuilder) -> TaskManagerBuilder) -> Times {
    Box::pin(async move {
        let tasks = spawn::manager(path);
        batches(times, || tasks.spawn(NAME, yield_now())).await;
        std::mem::forget(tasks);
    })
}

fn spawn_traced(
    sampling: Sampling,
    times: usize,
    path: fn(TaskManagerBuilder) -> TaskManagerBuilder,
) -> Times {
    subscribe_ours(sampling);
    spawn_ours(times, path)
}

fn poll_ours(times: usize) -> Times {
    Box::pin(async move {
        let tasks = spawn::manager(as_built);
        batches(times / poll_yields(), || tasks.spawn(NAME, yields())).await;
        std::mem::forget(tasks);
    })
}

/// A gate that lets in at once, for longer than anything here lasts. Its clock is the standard library's, as valgrind does not know the other.
struct Open;

impl Gate for Open {
    fn name(&self) -> &str {
        "open"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        let began = Instant::now();
        let clock = BootClock::from_fn(move || BootInstant::after_boot(began.elapsed()));
        let until = BootInstant::after_boot(Duration::from_secs(86_400));
        Box::pin(async move { Grant::on(clock, 1, until, Duration::from_secs(5)).0 })
    }
}

/// One registered task, which is woken so often: each time its driver polls it.
fn wake_ups(times: usize, gate: Option<Open>) -> Times {
    Box::pin(async move {
        let done = Arc::new(Notify::new());
        let told = done.clone();
        let task = CriticalTaskConfig::new(NAME, move |_| {
            let told = told.clone();
            async move {
                for _ in 0..times {
                    yield_now().await;
                }
                told.notify_one();
                std::future::pending::<()>().await;
            }
        });
        let tasks = spawn::manager(as_built);
        tasks
            .register(match gate {
                Some(gate) => task.gate(gate),
                None => task,
            })
            .expect("a sound config");
        tasks.start();
        done.notified().await;
        std::mem::forget(tasks);
    })
}

async fn batches<F: Future + Send>(times: usize, spawn: impl Fn() -> F + Send + Sync) {
    let mut left = times;
    while left > 0 {
        let batch = left.min(BATCH);
        spawn::round(batch, &spawn).await;
        left -= batch;
    }
}
