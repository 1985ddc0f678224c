//! What a supervised panic leaves on stderr. Each test runs itself again as a child whose stderr is read.

use otel_tasks::{TaskError, TaskManager};
use tracing_subscriber::prelude::*;

use crate::support::process::{child, is_child};

/// What the test's child writes to stderr.
fn stderr_of(test: &str) -> String {
    let output = child(&format!("panics::{test}")).output().expect("a child");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{stderr}");
    stderr
}

async fn panic_once(tasks: &TaskManager) {
    let panics = tasks.spawn("panics", async { panic!("dear me") });
    assert!(matches!(panics.await, Err(TaskError::Panicked(_))));
}

#[tokio::test]
async fn panic_seen_by_a_subscriber_is_not_printed() {
    if is_child() {
        tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
            .init();
        return panic_once(&TaskManager::new()).await;
    }
    let stderr = stderr_of("panic_seen_by_a_subscriber_is_not_printed");
    assert!(!stderr.lines().any(|line| line.starts_with("thread '")), "{stderr}");
    assert!(stderr.contains("run of task panics failed: panicked at tests/tasks/panics.rs:"), "{stderr}");
}

#[tokio::test]
async fn panic_without_a_subscriber_is_printed() {
    if is_child() {
        return panic_once(&TaskManager::new()).await;
    }
    let stderr = stderr_of("panic_without_a_subscriber_is_printed");
    assert!(stderr.contains("dear me") && stderr.contains(" panicked at"), "{stderr}");
}

#[tokio::test]
async fn without_the_hook_every_panic_is_printed() {
    if is_child() {
        tracing_subscriber::registry()
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::sink))
            .init();
        // The hook of another manager is not for this one's tasks.
        let _other = TaskManager::new();
        return panic_once(&TaskManager::builder().panic_hook(false).build().unwrap()).await;
    }
    let stderr = stderr_of("without_the_hook_every_panic_is_printed");
    assert!(stderr.contains("dear me") && stderr.contains(" panicked at"), "{stderr}");
}

#[cfg(feature = "macros")]
#[tokio::test]
async fn a_panic_keeps_its_location_through_an_instrumented_function() {
    #[otel_tasks::instrumented_task]
    async fn inner() {
        panic!("inside")
    }
    let tasks = TaskManager::new();
    let Err(TaskError::Panicked(panic)) = tasks.spawn("outer", inner()).await else { panic!("it panicked") };
    assert_eq!(panic.text, "inside");
    assert!(panic.location.is_some_and(|location| location.starts_with("tests/tasks/panics.rs:")));
    assert_eq!(tasks.snapshot("inner").expect("a child run").total_errors(), 1);
}
