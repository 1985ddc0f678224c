//! Where the subscriber is the process's own, a spawned run's span is made when the run is first polled. Nobody can tell.

mod support;

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread::sleep,
    time::Duration,
};

use opentelemetry::trace::TraceContextExt;
use otel_tasks::TaskManager;
use support::idioms::{idioms, plain};
use support::spans::{Spans, is_error, text};
use tracing::{Dispatch, Subscriber, info_span, span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};

/// How many spans of runs were made.
static MADE: AtomicUsize = AtomicUsize::new(0);

struct Made;

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Made {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "task.run" {
            MADE.fetch_add(1, Relaxed);
        }
    }
}

fn block_on<F: Future>(workers: usize, main: F) -> F::Output {
    let mut builder = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(workers.max(1)).enable_all().build().expect("a runtime").block_on(main)
}

/// One test, since a process has one subscriber.
#[test]
fn a_span_that_is_made_late_is_the_span_that_would_have_been_made_at_once() {
    let plainly = Spans::new();
    let dispatch: Dispatch = tracing_subscriber::registry().with(plain(&plainly)).into();
    tracing::dispatcher::with_default(&dispatch, || block_on(0, idioms()));
    let expected = plainly.trees();
    assert!(expected.len() > 25, "{expected:#?}");

    let spans = Spans::new();
    tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).with(Made).init();
    for (times, workers) in [(1, 0), (2, 2)] {
        block_on(workers, idioms());
        let expected: Vec<_> = expected.iter().flat_map(|line| vec![line.clone(); times]).collect();
        assert_eq!(spans.trees(), expected, "with {workers} workers");
    }

    block_on(0, async {
        let tasks = TaskManager::new();
        tasks.spawn("the_first_tells_what_the_subscriber_takes", async {}).await.expect("it ends well");

        waits_and_begins_when_the_run_does(&tasks, &spans).await;
        is_linked_with_its_spawner(&tasks, &spans).await;
        a_span_is_made_for_a_task_that_is_never_polled(&tasks, &spans).await;
        is_made_at_once_below_a_current_span(&tasks, &spans).await;
        goes_to_the_subscriber_of_its_spawner(&tasks, &spans).await;
        a_span_reports_the_name_that_was_given(&tasks, &spans).await;
    });
}

/// Seen to fail where spans are made at once, and where a late one begins when it is made.
async fn waits_and_begins_when_the_run_does(tasks: &TaskManager, spans: &Spans) {
    let before = MADE.load(Relaxed);
    let handle = tasks.spawn("waits", async { sleep(Duration::from_millis(20)) });
    assert_eq!(MADE.load(Relaxed), before, "made when it was spawned");
    sleep(Duration::from_millis(100));
    handle.await.expect("it ends well");
    assert_eq!(MADE.load(Relaxed), before + 1);
    let run = spans.run_of("waits");
    let length = run.end_time.duration_since(run.start_time).expect("it ends after it began");
    assert!(length >= Duration::from_millis(120), "{length:?}");
}

/// Seen to fail where what a span tells is not kept until it is made.
async fn is_linked_with_its_spawner(tasks: &TaskManager, spans: &Spans) {
    let spawner = info_span!("spawner");
    let before = MADE.load(Relaxed);
    let handle = spawner.in_scope(|| tasks.spawn("linked", async { Err::<(), _>("broken") }));
    assert_eq!(MADE.load(Relaxed), before);
    let context = spawner.context().span().span_context().clone();
    drop(spawner);
    handle.await.expect("it ends").expect_err("it fails");
    let run = spans.run_of("linked");
    assert!(is_error(&run));
    assert_eq!(run.links.iter().map(|link| &link.span_context).collect::<Vec<_>>(), [&context]);
    assert_ne!(run.span_context.trace_id(), context.trace_id());
}

/// Seen to fail where nothing is kept of a run without links.
async fn a_span_reports_the_name_that_was_given(tasks: &TaskManager, spans: &Spans) {
    for name in ["job_1", "job_2"] {
        tasks.spawn(name, async {}).await.expect("it ends well");
    }
    let runs = spans.runs_of("job");
    let given: Vec<_> = runs.iter().filter_map(|run| text(run, "task.given_name")).collect();
    assert_eq!(given, ["job_1", "job_2"]);
    assert!(runs[1].links.is_empty());
}

/// Seen to fail where a run that is dropped unpolled drops its future outside a span.
async fn a_span_is_made_for_a_task_that_is_never_polled(tasks: &TaskManager, spans: &Spans) {
    let handle = tasks.spawn("aborted", async {});
    handle.abort();
    handle.await.expect_err("it never ran");
    let run = spans.run_of("aborted");
    assert_eq!(text(&run, "task.run.result").as_deref(), Some("cancellation"));
}

async fn is_made_at_once_below_a_current_span(tasks: &TaskManager, spans: &Spans) {
    let spawner = info_span!("caller");
    let before = MADE.load(Relaxed);
    let handle = spawner.in_scope(|| tasks.task("below").in_current_trace().spawn(async {}));
    assert_eq!(MADE.load(Relaxed), before + 1);
    drop(spawner);
    handle.await.expect("it ends well");
    assert_eq!(spans.run_of("below").parent_span_id, spans.one("caller").span_context.span_id());
}

/// Seen to fail where a span waits under a subscriber of its thread's own.
async fn goes_to_the_subscriber_of_its_spawner(tasks: &TaskManager, spans: &Spans) {
    let own = Spans::new();
    let dispatch: Dispatch =
        tracing_subscriber::registry().with(otel_tasks::telemetry::layer(own.tracer())).into();
    let handle = tracing::dispatcher::with_default(&dispatch, || tasks.spawn("elsewhere", async {}));
    handle.await.expect("it ends well");
    assert_eq!(own.runs_of("elsewhere").len(), 1);
    assert!(spans.runs_of("elsewhere").is_empty());
}
