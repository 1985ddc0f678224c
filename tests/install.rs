//! Installing makes telemetry the process's: one test, as there is one process.
#![cfg(all(feature = "otlp-http", feature = "macros"))]

mod support;

use std::sync::{Arc, Mutex};

use opentelemetry::{
    global,
    trace::{Span as _, TraceContextExt as _, Tracer as _},
};
use otel_tasks::telemetry::{InstallError, Protocol};
use support::otlp::Receiver;

/// A layer of the user's: the targets and traces of the events it is shown.
struct Seen(Arc<Mutex<Vec<(String, bool)>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let in_a_trace = opentelemetry::Context::current().span().span_context().is_valid();
        self.0.lock().expect("whole").push((event.metadata().target().to_owned(), in_a_trace));
    }
}

/// An instrumented function, run before there is any telemetry or manager, and again with it.
fn early() {
    #[otel_tasks::instrumented_task(name = "early_bird")]
    async fn early_bird() {}
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(early_bird());
}

fn run_tasks() -> otel_tasks::TaskManager {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks = otel_tasks::TaskManager::new();
        for name in ["reminders", "second", "third", "beyond"] {
            let _ = tasks.spawn(name, async {}).await;
        }
        tasks
    })
}

#[test]
fn installing_sets_everything_once_and_a_second_time_changes_nothing() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let bad = |name: &str| match name {
        "OTEL_METRIC_EXPORT_INTERVAL" => Some("soon".to_owned()),
        "RUST_LOG" => Some("info,quiet=off".to_owned()),
        _ => None,
    };
    early();
    let telemetry = receiver
        .telemetry("installed")
        .name_capacity(3)
        .env(bad)
        .fmt(false)
        .layer(Seen(seen.clone()))
        .install();
    let telemetry = telemetry.expect("the first");

    let other = Receiver::start(Protocol::HttpProtobuf);
    let second = other.telemetry("second").install();
    let second = second.expect_err("there is one already");
    assert!(matches!(second, InstallError::SubscriberAlreadySet));
    assert_eq!(second.to_string(), "install the tracing subscriber: the process has one already");

    tracing::info_span!("by_tracing").in_scope(|| tracing::info!("record"));
    tracing::debug!("below the filter");
    tracing::info!(target: "hyper::proto", "kept from export, not from others");
    tracing::info!(target: "quiet", "filtered");
    global::tracer("mine").start("by_api").end();
    global::meter("mine").u64_counter("by_api").build().add(1, &[]);
    let fields = global::get_text_map_propagator(|propagator| propagator.fields().count());
    assert!(fields >= 2, "tracecontext and baggage");

    // Its figures are shown while it lives.
    let _tasks = run_tasks();
    early();

    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert!(receiver.span("by_tracing").is_root());
    assert_eq!(receiver.span("by_api").scope.name, "mine");
    assert_eq!(receiver.sum("by_api", &[]), Some(1.0));
    let runs = receiver.spans_named("task.run");
    assert_eq!(runs.iter().filter(|run| run.string("task.name") == Some("reminders")).count(), 1);
    assert_eq!(receiver.sum("task.runs", &[("task.name", "reminders")]), Some(1.0));
    assert_eq!(receiver.sum("task.runs", &[("task.name", "third")]), Some(1.0));
    assert_eq!(receiver.sum("task.runs", &[("task.name", "beyond")]), None, "three names were asked for");
    // OTLP groups records by scope, so their order says nothing.
    let mut bodies: Vec<_> = receiver.logs().into_iter().filter_map(|log| log.body).collect();
    bodies.sort();
    assert_eq!(bodies.len(), 2, "{bodies:?}");
    assert!(bodies[0].contains("OTEL_METRIC_EXPORT_INTERVAL"), "the warning: {bodies:?}");
    assert_eq!(bodies[1], "record");
    assert_eq!(other.requests(), Default::default(), "what was refused sends nothing");
    let early_bird = [("task.name", "early_bird")];
    assert_eq!(receiver.sum("task.runs", &early_bird), Some(2.0), "counted before, too");
    assert_eq!(receiver.count("task.run.duration", &early_bird), Some(2), "before and after");
    let seen = seen.lock().expect("whole");
    assert!(seen.contains(&("install".into(), true)), "inside its span: {seen:?}");
    assert!(seen.contains(&("hyper::proto".into(), false)), "{seen:?}");
    assert!(!seen.iter().any(|(target, _)| target == "quiet"), "under the same filter: {seen:?}");
}
