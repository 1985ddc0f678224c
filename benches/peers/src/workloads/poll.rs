//! What one poll costs: 100 tasks at once, each of 1,000 yields, so that being spawned is a thousandth of it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Instant,
};

use opentelemetry::{
    Context,
    trace::{TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::SdkTracer;
use otel_tasks::task::TaskManagerBuilder;
use tokio::task::yield_now;
use tokio_metrics::TaskMonitor;
use tracing::Instrument as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::spawn::{NAME, as_built, manager};
use crate::{
    cell::{BARE, BY_HAND, Limit, Measured, OURS, Scale, Workload, median},
    telemetry::{ByHand, Metrics, Sampling, subscribe_by_hand, subscribe_ours, tracer},
};

const TASKS: usize = 100;
pub const YIELDS: usize = 1_000;
/// Within a process, after one that nobody counts.
const ROUNDS: usize = 5;

pub fn workloads() -> Vec<Workload> {
    vec![
        Workload::new("poll", "ns per poll", "what does a poll of a metered task cost without a subscriber")
            .cell(BARE, |scale| rounds(scale, || tokio::spawn(yields())))
            .cell("tokio-metrics", |scale| {
                let monitor = TaskMonitor::new();
                rounds(scale, move || tokio::spawn(TaskMonitor::instrument(&monitor, yields())))
            })
            .cell(OURS, |scale| ours(scale, as_built))
            .goal(Limit::OfSystem(1.2, BARE)),
        Workload::new("poll-exact", "ns per poll", "the same where each poll is timed")
            .cell(BARE, |scale| rounds(scale, || tokio::spawn(yields())))
            .cell(OURS, |scale| ours(scale, TaskManagerBuilder::exact_poll_time))
            .goal(Limit::OfSystem(2.2, BARE)),
        traced("poll-sampled", "what does a poll in a span cost", Sampling::On),
        traced("poll-unsampled", "the same where the sampler says no", Sampling::Off),
    ]
}

fn traced(name: &'static str, question: &'static str, sampling: Sampling) -> Workload {
    Workload::new(name, "ns per poll", question)
        .cell(BARE, |scale| rounds(scale, || tokio::spawn(yields())))
        .cell("both stacks", move |scale| {
            tracing_subscriber::registry().init();
            let tracer = tracer(sampling);
            rounds(scale, move || tokio::spawn(on_both_stacks(&tracer, yields())))
        })
        .cell("tracing-opentelemetry", move |scale| {
            subscribe_by_hand(sampling);
            let span = || tracing::info_span!(parent: None, "task.run", task.name = NAME);
            rounds(scale, move || tokio::spawn(yields().instrument(span())))
        })
        .cell(BY_HAND, move |scale| {
            subscribe_by_hand(sampling);
            let by_hand = ByHand::leaked(&Metrics::leaked().meter());
            rounds(scale, || tokio::spawn(by_hand.traced(NAME, yields())))
        })
        .cell(OURS, move |scale| {
            subscribe_ours(sampling);
            ours(scale, as_built)
        })
        .goal(Limit::OfSystem(0.33, BY_HAND))
}

async fn ours(scale: Scale, built: fn(TaskManagerBuilder) -> TaskManagerBuilder) -> Measured {
    let tasks = manager(built);
    rounds(scale, move || tasks.spawn(NAME, yields())).await
}

/// The least that a poll in a span does: the span is on the registry's stack and its context on OpenTelemetry's, for code inside. It has
/// no figures, no layer and no panic safety.
pub fn on_both_stacks<F: Future>(tracer: &SdkTracer, future: F) -> impl Future<Output = F::Output> + use<F> {
    let span = tracing::info_span!(parent: None, "task.run", task.name = NAME);
    assert!(!span.is_disabled(), "a subscriber takes it");
    let context = Context::new().with_span(tracer.start("task.run"));
    async move {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _attached = context.clone().attach();
            let _entered = span.enter();
            future.as_mut().poll(cx)
        })
        .await
    }
}

pub async fn yields() {
    for _ in 0..YIELDS {
        yield_now().await;
    }
}

/// The median of several rounds.
async fn rounds<F: Future + Send>(scale: Scale, spawn: impl Fn() -> F + Send + Sync) -> Measured {
    let tasks = scale.of(TASKS);
    super::spawn::round(tasks, &spawn).await;
    let mut nanos = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        super::spawn::round(tasks, &spawn).await;
        nanos.push(began.elapsed().as_nanos() as f64 / (tasks * YIELDS) as f64);
    }
    Measured::Nanos(median(&mut nanos))
}
