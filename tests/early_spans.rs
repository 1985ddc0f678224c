//! Where no layer of ours takes the spans, a spawned run's span cannot be made later than the run begins.

mod support;

use std::{thread::sleep, time::Duration};

use otel_tasks::TaskManager;
use support::spans::Spans;
use tracing_subscriber::prelude::*;

/// One test, since a process has one subscriber. Seen to fail where a run's span waits for its first poll whoever takes it: it then
/// begins when it is polled.
#[tokio::test]
async fn a_span_that_a_plain_layer_takes_begins_with_its_run() {
    let spans = Spans::new();
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(spans.tracer())).init();
    let tasks = TaskManager::new();
    tasks.spawn("the_first_tells_what_the_subscriber_takes", async {}).await.expect("it ends well");
    let handle = tasks.spawn("begins", async {});
    sleep(Duration::from_millis(100));
    handle.await.expect("it ends well");
    let run = spans.run_of("begins");
    let length = run.end_time.duration_since(run.start_time).expect("it ends after it began");
    assert!(length >= Duration::from_millis(100), "{length:?}");
}
