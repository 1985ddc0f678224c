//! What a short task costs: 50,000 tasks of one yield, from the first spawn until the last was awaited.
//!
//! Ours is admitted, can be cancelled, is caught where it panics, and its name is looked up at each spawn; by hand there is
//! none of that. `spawn-direct-*` is the same with a run's span on the direct path.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Span as _, SpanBuilder, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::SdkTracer;
use otel_tasks::{TaskManager, task::TaskManagerBuilder, telemetry::SpanPath};
use tokio::task::yield_now;
use tokio_metrics::TaskMonitor;
use tracing::Instrument as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{
    cell::{BARE, BY_HAND, BY_HAND_GUARDED, Limit, Measured, OURS, Scale, Workload, median},
    telemetry::{ByHand, Metrics, Sampling, subscribe_by_hand, subscribe_ours, tracer},
    workloads::guarded::Guarded,
};

const TASKS: usize = 50_000;
/// Within a process, after one that nobody counts.
const ROUNDS: usize = 3;
pub const NAME: &str = "bench";
/// The keys of the attributes of a run's span.
const RESULT: &str = "task.run.result";
const NAME_KEY: &str = "task.name";
const CATEGORY: &str = "task.category";
const PRIORITY: &str = "task.priority";

pub fn workloads() -> Vec<Workload> {
    let (what, not) = ("what does a task with span and metrics cost", "the same where the sampler says no");
    vec![
        metered(),
        beside_by_hand(traced("spawn-sampled", what, Sampling::On, as_built), Sampling::On)
            .goal(Limit::OfSystem(0.3, BY_HAND)),
        beside_by_hand(traced("spawn-unsampled", not, Sampling::Off, as_built), Sampling::Off)
            .goal(Limit::OfSystem(0.28, BY_HAND)),
        beside_the_least(traced("spawn-direct-sampled", what, Sampling::On, direct), Sampling::On)
            .goal(Limit::OfSystem(2.3, BARE)),
        beside_the_least(traced("spawn-direct-unsampled", not, Sampling::Off, direct), Sampling::Off)
            .goal(Limit::OfSystem(2.0, BARE)),
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
    .cell(BY_HAND_GUARDED, |scale| guarded(scale, yield_now))
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

async fn guarded<F>(scale: Scale, work: impl Fn() -> F + Send + Sync) -> Measured
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let guarded = Guarded::leaked(ByHand::leaked(&Metrics::leaked().meter()));
    let measured = rounds(scale, || guarded.spawn(NAME, work()).expect("it is open")).await;
    assert_eq!(guarded.shut_down(), 0, "all have left");
    measured
}

/// With the least that the direct path does. It is not compared with a version by hand: so it has short rounds, and many.
fn beside_the_least(workload: Workload, sampling: Sampling) -> Workload {
    workload
        .cell("span alone", move |scale| {
            tracing_subscriber::registry().init();
            let tracer = tracer(sampling);
            rounds(scale, move || tokio::spawn(in_a_span(&tracer, yield_now())))
        })
        .cell(BY_HAND_GUARDED, move |scale| {
            tracing_subscriber::registry().init();
            let tracer = tracer(sampling);
            guarded(scale, move || in_a_span(&tracer, yield_now()))
        })
}

/// The least that a run in a span does: a span of the registry and one of the SDK, both made at the first poll with the attributes of a
/// run and entered in each poll, and both with the result. It has no figures, no name to find, no admission and no panic safety.
pub fn in_a_span<F: Future>(tracer: &SdkTracer, future: F) -> impl Future<Output = F::Output> + use<F> {
    let (tracer, began) = (tracer.clone(), SystemTime::now());
    async move {
        let (mut future, mut made) = (pin!(future), None);
        let output = poll_fn(|cx| {
            let (span, context) = made.get_or_insert_with(|| both_spans(&tracer, began));
            let _attached = context.clone().attach();
            let _entered = span.enter();
            future.as_mut().poll(cx)
        })
        .await;
        if let Some((span, context)) = &made {
            span.record(RESULT, "success");
            let recorded = context.span();
            recorded.set_attribute(KeyValue::new(RESULT, "success"));
            recorded.end();
        }
        output
    }
}

fn both_spans(tracer: &SdkTracer, began: SystemTime) -> (tracing::Span, Context) {
    let span = tracing::info_span!(
        parent: None,
        "task.run",
        { RESULT } = tracing::field::Empty,
        { NAME_KEY } = NAME,
        { CATEGORY } = "background",
        { PRIORITY } = "normal",
    );
    let mut attributes = Vec::with_capacity(4);
    attributes.push(KeyValue::new(CATEGORY, "background"));
    attributes.push(KeyValue::new(NAME_KEY, NAME));
    attributes.push(KeyValue::new(PRIORITY, "normal"));
    let builder = SpanBuilder {
        start_time: Some(began),
        attributes: Some(attributes),
        ..SpanBuilder::from_name("task.run")
    };
    let parent = Context::new();
    let started = tracer.build_with_context(builder, &parent);
    let context = if started.is_recording() {
        parent.with_span(started)
    } else {
        parent.with_remote_span_context(started.span_context().clone())
    };
    (span, context)
}

/// With what is compared on the default path.
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
