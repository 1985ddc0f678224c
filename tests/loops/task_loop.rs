//! What `#[task_loop]` makes does what it says, and components hand it over.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use otel_tasks::{
    CriticalTaskConfig, TaskCategory, TaskContext, TaskManager, TaskPriority, policy::Exit, task_loop,
};
use tokio::time::sleep;

use crate::support::{millis, secs, tasks::started};

#[task_loop(every = "10s", count = 3)]
async fn counted(ctx: TaskContext, seen: Arc<AtomicUsize>) {
    assert_eq!(ctx.name(), "counted");
    seen.fetch_add(ctx.iteration().map_or(0, |iteration| iteration as usize), SeqCst);
}

#[task_loop(every = "10s", overlap = Queue, timeout = "25s", name = "mail.sweep", category = System, priority = Low, component = "mail")]
async fn sweep(seen: Arc<AtomicUsize>) {
    seen.fetch_add(1, SeqCst);
    sleep(secs(60)).await;
}

#[task_loop(delay = "1h", retry = 3, backoff = "1s..4s")]
async fn flaky(seen: Arc<AtomicUsize>) -> Result<(), &'static str> {
    if seen.fetch_add(1, SeqCst) == 2 { Ok(()) } else { Err("not yet") }
}

#[cfg(feature = "calendar")]
#[task_loop(daily = ["09:00", "21:30"], zone = "Europe/Berlin", immediate = true)]
async fn digest() {}

#[cfg(feature = "calendar")]
#[task_loop(cron = "0 9 * * MON-FRI", jitter = "5m")]
async fn report() {}

fn seen() -> Arc<AtomicUsize> {
    Arc::default()
}

#[tokio::test(start_paused = true)]
async fn each_iteration_gets_its_context_and_a_clone_of_each_argument() {
    let seen = seen();
    let tasks = started(counted(seen.clone()));
    sleep(secs(60)).await;
    assert_eq!(seen.load(SeqCst), 1 + 2 + 3);
    assert_eq!(tasks.snapshot("counted").unwrap().total_runs(), 3);
}

#[tokio::test(start_paused = true)]
async fn options_reach_the_loop_and_its_task() {
    let seen = seen();
    let tasks = started(sweep(seen.clone()).restart_policy(otel_tasks::RestartPolicy::Never));
    sleep(secs(26)).await;
    let snapshot = tasks.snapshot("mail.sweep").unwrap();
    assert_eq!((snapshot.category, snapshot.priority), (TaskCategory::System, TaskPriority::Low));
    assert_eq!((snapshot.component.as_deref(), snapshot.interval), (Some("mail"), Some(secs(10))));
    let handle = tasks.loop_handle("mail.sweep").unwrap();
    assert_eq!(handle.last_result(), Some(Exit::Timeout(secs(25))));
}

#[tokio::test(start_paused = true)]
async fn an_iteration_is_tried_again() {
    let seen = seen();
    let tasks = started(flaky(seen.clone()));
    sleep(secs(60)).await;
    let snapshot = tasks.snapshot("flaky").unwrap();
    assert_eq!((seen.load(SeqCst), snapshot.total_runs(), snapshot.total_errors()), (3, 1, 0));
    // Jittered: half of each delay is left to chance.
    assert!(snapshot.longest_run >= millis(1_500) && snapshot.longest_run <= secs(3), "{snapshot:?}");
}

#[cfg(feature = "calendar")]
#[tokio::test]
async fn calendars_are_checked_when_they_are_registered() {
    let schedule = |config: CriticalTaskConfig| config.loop_handle().expect("a loop").schedule().to_string();
    assert_eq!(schedule(digest()), "daily 09:00,21:30 in Europe/Berlin immediate true");
    assert_eq!(schedule(report()), "cron 0 9 * * MON-FRI in UTC jitter 5m");
    let tasks = started(digest());
    tasks.register(report()).unwrap();

    #[task_loop(cron = "0 25 * * *")]
    async fn wrong() {}
    let error = tasks.register(wrong()).expect_err("no such hour");
    let source = std::error::Error::source(&error).expect("it says why").to_string();
    assert!(source.contains("wrong at position 2"), "{source}");
}

#[tokio::test(start_paused = true)]
async fn a_component_hands_loops_over() {
    let seen = seen();
    let tasks = TaskManager::new();
    let given = seen.clone();
    tasks.register_component("counting", move || vec![counted(given.clone()), flaky(Arc::default())]);
    tasks.start();
    let discovery = tasks.discover_components();
    assert!(discovery.refused.is_empty(), "{discovery:?}");
    sleep(secs(60)).await;
    assert_eq!(seen.load(SeqCst), 6);
    let snapshot = tasks.snapshot("counted").unwrap();
    assert_eq!(snapshot.component.as_deref(), Some("counting"));
    assert!(tasks.loop_handle("flaky").is_ok());
}
