//! `#[instrumented_task]`: what its options reach, whose child its run is, and what it makes of an error.

use otel_tasks::{TaskCategory, TaskManager, TaskPriority, instrumented_task};
use tracing_subscriber::prelude::*;

use crate::support::{listen, spans::Spans};

/// An error that nobody can print.
struct Silent;

#[instrumented_task(category = System)]
async fn of_a_category() {}

#[instrumented_task(priority = Critical)]
async fn of_a_priority() {}

#[instrumented_task(component = "levels")]
async fn of_a_component() {}

#[instrumented_task]
async fn of_nothing() {}

#[instrumented_task]
async fn fails_silently(fails: bool) -> Result<u32, Silent> {
    if fails { Err(Silent) } else { Ok(1) }
}

#[tokio::test]
async fn each_option_alone_reaches_the_task() {
    let tasks = TaskManager::new();
    let all = async {
        of_a_category().await;
        of_a_priority().await;
        of_a_component().await;
        of_nothing().await;
    };
    tasks.spawn("outer", all).await.expect("it ends well");
    let of = |name: &str| {
        let task = tasks.snapshot(name).expect("it ran");
        (task.category, task.priority, task.component.as_deref().map(str::to_owned))
    };
    use TaskCategory::*;
    use TaskPriority::*;
    assert_eq!(of("of_nothing"), (Unknown, Normal, None));
    assert_eq!(of("of_a_category"), (System, Normal, None));
    assert_eq!(of("of_a_priority"), (Unknown, Critical, None));
    assert_eq!(of("of_a_component"), (Unknown, Normal, Some("levels".to_owned())));
}

#[tokio::test]
async fn its_span_is_the_child_of_the_one_around_it() {
    listen();
    let spans = Spans::new();
    let subscriber = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer()));
    let _guard = tracing::subscriber::set_default(subscriber);
    let tasks = TaskManager::new();
    tasks.spawn("outer", of_nothing()).await.expect("it ends well");
    let (outer, inner) = (spans.run_of("outer"), spans.run_of("of_nothing"));
    assert_eq!(inner.parent_span_id, outer.span_context.span_id());
}

#[tokio::test]
async fn an_error_that_cannot_be_printed_fails_the_run_by_its_type() {
    let tasks = TaskManager::new();
    let both = async {
        assert_eq!(fails_silently(false).await.ok(), Some(1));
        assert!(fails_silently(true).await.is_err());
    };
    tasks.spawn("outer", both).await.expect("both are as they should be");
    let task = tasks.snapshot("fails_silently").expect("it ran");
    assert_eq!((task.total_runs(), task.total_errors()), (2, 1));
    let error = task.last_error.expect("it failed");
    assert!(error.error_type.ends_with("::Silent"), "{error:?}");
    assert!(
        error.message.starts_with("an error of type ") && error.message.ends_with("::Silent"),
        "{error:?}"
    );
}
