//! What contexts, tokens and handles give their holder.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
    mpsc,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskContext, TaskLoop, TaskManager,
    policy::ExitKind,
    schedule::LoopControlError,
    shutdown::{LastResort, ShutdownOutcome},
};
use tokio::time::sleep;

use crate::support::{
    eventually, secs, settle,
    tasks::{looping, started, state},
};

#[tokio::test(start_paused = true)]
async fn context_token_is_cancelled_to_stop_its_run() {
    let tasks = TaskManager::new();
    tasks
        .register(CriticalTaskConfig::new("t", |ctx| {
            // For a library that takes a token and knows of no context.
            let token = ctx.cancellation_token().clone();
            async move { token.cancelled().await }
        }))
        .expect("a valid config");
    let spawned = tasks.task("s").spawn_with(|ctx| {
        let token = ctx.cancellation_token().clone();
        async move { token.cancelled().await }
    });
    tasks.start();
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::Clean), 2, "{report}");
    spawned.await.expect("it ended by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stop_token_is_cancelled_to_stop_its_work() {
    let tasks = TaskManager::new();
    let (give, given) = mpsc::channel();
    let work = tasks.spawn_blocking("w", move |stop| {
        give.send(stop.cancellation_token().clone()).expect("somebody waits");
        while !stop.wait_timeout(secs(1)) {}
    });
    let mut token = None;
    eventually("the work begins", || {
        token = given.try_recv().ok();
        token.is_some()
    })
    .await;
    let token = token.expect("it began");
    assert!(!token.is_cancelled());
    tasks.shutdown().await;
    assert!(token.is_cancelled());
    work.await.expect("it ended by itself");
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_a_detached_loop_no_longer_reaches_it_by_orders() {
    let (tasks, handle) = looping(TaskLoop::every(secs(10), |_| async {}));
    settle().await;
    tasks.detach("l").expect("registered");
    // Seen to fail where a task that gave its name up still takes orders in it.
    assert_eq!(handle.restart(), Err(LoopControlError::NotRegistered));
    assert_eq!(handle.cancel(), Err(LoopControlError::NotRegistered));
    sleep(secs(25)).await;
    assert_eq!((handle.is_running(), handle.current_iteration()), (true, 3), "it goes on");
    handle.stop();
    settle().await;
    assert!(!handle.is_running(), "and ends after an iteration, which takes no order");
    assert_eq!(state(&tasks, "l"), None);
}

#[tokio::test(start_paused = true)]
async fn debug_output_names_each_type_and_its_settings() {
    let tasks = TaskManager::new();
    let shows = |shown: String, parts: &[&str]| {
        for part in parts {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    };
    shows(format!("{:?}", tasks.task("ping")), &["TaskBuilder", "\"ping\""]);
    let shown = tasks.task("s").spawn_with(|ctx| async move { Ok::<_, String>(format!("{ctx:?}")) });
    let shown = shown.await.expect("it ran").expect("it succeeds");
    shows(shown, &["TaskContext", "\"s\"", "generation: 1", "cancelled: false"]);
    let body = TaskLoop::every(secs(10), |_| async {}).count(3);
    shows(format!("{body:?}"), &["TaskLoop", "10s", "Some(3)"]);
    let body = body.retry(2, Backoff::default());
    shows(format!("{body:?}"), &["Retry", "times: 2", "Backoff"]);
    shows(format!("{:?}", body.handle()), &["LoopHandle", "10s", "running: false"]);
    tasks.register(CriticalTaskConfig::from_loop("l", body)).expect("a valid loop");
    shows(format!("{tasks:?}"), &["TaskManager", "[\"l\"]"]);
    shows(format!("{:?}", TaskManager::builder()), &["TaskManagerBuilder"]);
    let spawned = tasks.spawn("s", std::future::pending::<()>());
    shows(format!("{spawned:?}"), &["TaskHandle", "finished: false"]);
    let call = LastResort::Call(Arc::new(|_| {}));
    let shown = [LastResort::Print, LastResort::Exit, call].map(|resort| format!("{resort:?}"));
    assert_eq!(shown, ["Print", "Exit", "Call(..)"]);
}

#[tokio::test(start_paused = true)]
async fn loop_handle_after_a_shutdown_returns_not_registered() {
    let (tasks, handle) = looping(TaskLoop::every(secs(10), |_| async {}));
    settle().await;
    assert_eq!(handle.restart(), Ok(()));
    settle().await;
    tasks.shutdown().await;
    // Seen to fail where one that has left still takes orders.
    assert_eq!(handle.restart(), Err(LoopControlError::NotRegistered));
}

/// Fails if work that is ready is begun by a run that was asked to stop.
#[tokio::test(start_paused = true)]
async fn run_until_cancelled_runs_only_until_the_stop_request() {
    let polled = Arc::new(AtomicUsize::new(0));
    let counted = polled.clone();
    let tasks = started(CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let polled = counted.clone();
        async move {
            let count = || async { polled.fetch_add(1, SeqCst) };
            assert_eq!(ctx.run_until_cancelled(count()).await, Some(0));
            assert_eq!(ctx.run_until_cancelled(std::future::pending::<()>()).await, None);
            assert_eq!(ctx.run_until_cancelled(count()).await, None);
        }
    }));
    settle().await;
    assert!(tasks.shutdown().await.is_clean());
    assert_eq!(polled.load(SeqCst), 1);
    assert_eq!(tasks.snapshot("t").unwrap().runs(ExitKind::Success), 1);
}
