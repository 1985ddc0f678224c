//! Nothing stops in silence: a manager that is dropped, one that was never started, and one without a runtime.

use otel_tasks::{CriticalTaskConfig, TaskManager, shutdown::ShutdownOutcome, task::RegisterError};
use tracing::Level;

use crate::support::{
    Alive, Events, settle,
    tasks::{obedient, obeys},
};

/// Seen to fail when the last handle was dropped without a word.
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_of_living_tasks_is_a_warning_with_their_names() {
    let (events, _guard) = Events::record();
    let warned = || events.named("task.manager.dropped");
    let tasks = TaskManager::new();
    tasks.register_all([obeys("gateway"), obeys("mailer")]).unwrap();
    tasks.start();
    settle().await;
    drop(tasks.clone());
    assert_eq!(warned().len(), 0, "another handle is there");
    drop(tasks);
    settle().await;
    let [warning] = &warned()[..] else { panic!("one record: {:?}", warned()) };
    assert_eq!(warning.level, Level::WARN);
    assert!(warning.message().contains("gateway, mailer"), "{}", warning.message());

    let spawned = TaskManager::new();
    spawned.spawn("pending", std::future::pending::<()>());
    settle().await;
    drop(spawned);
    assert_eq!(warned().len(), 2, "{:?}", warned());

    // One that has ended, or never had anything to do, loses nothing.
    let ended = TaskManager::new();
    ended.register(obeys("gateway")).unwrap();
    ended.start();
    ended.shutdown().await;
    drop(ended);
    drop(TaskManager::new());
    settle().await;
    assert_eq!(warned().len(), 2, "{:?}", warned());
}

/// Seen to fail when `run_until` waited for its signal with every task still waiting.
#[tokio::test(start_paused = true)]
async fn run_until_starts_what_nobody_started() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &alive)).unwrap();
    let report = tasks.run_until(settle()).await;
    assert_eq!((alive.total(), report.count(ShutdownOutcome::Clean)), (1, 1), "{report}");
    assert!(tasks.is_shutting_down());
    assert_eq!(tasks.run_until(std::future::pending::<()>()).await, report, "a second call gets the same");
}

#[test]
fn registering_without_a_runtime_is_an_error_and_changes_nothing() {
    let tasks = TaskManager::new();
    assert_eq!(tasks.register(obeys("t")), Err(RegisterError::NoRuntime));
    assert_eq!(tasks.task_names(), Vec::<String>::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tasks.register(CriticalTaskConfig::one_shot("t", |_| async {})).unwrap();
        tasks.shutdown().await;
    });
}
