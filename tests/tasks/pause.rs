//! Holding a task, and letting it go on.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskLoop, TaskManager, health::HealthReason,
    policy::RestartReason, shutdown::ShutdownOutcome, snapshot::TaskState,
};
use tokio::time::sleep;

use crate::support::{
    Alive, secs, settle, shown,
    tasks::{obedient, started, state},
};

#[tokio::test(start_paused = true)]
async fn paused_task_stops_in_order_and_starts_again_on_resume() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive).restart_policy(RestartPolicy::Always));
    settle().await;
    tasks.pause("t").unwrap();
    sleep(secs(3_600)).await;
    assert_eq!((state(&tasks, "t"), alive.now()), (Some(TaskState::Paused), 0), "no policy restarts it");
    let health = tasks.task_health("t").unwrap();
    assert!(health.is_healthy() && health.is_live && !health.is_ready, "{health:?}");
    assert_eq!(health.reasons, [HealthReason::Paused]);
    assert!(tasks.health().is_ready, "a pause is no outage");
    tasks.resume("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), alive.now(), alive.total()), (Some(TaskState::Running), 1, 2));
    assert_eq!(tasks.snapshot("t").unwrap().restarts(RestartReason::Requested), 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_loop_keeps_its_count_and_its_rhythm() {
    let ran = Arc::new(AtomicU32::new(0));
    let counted = ran.clone();
    let ticker = TaskLoop::every(secs(10), move |_| {
        counted.fetch_add(1, SeqCst);
        async {}
    });
    let handle = ticker.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", ticker));
    sleep(secs(15)).await;
    assert_eq!(ran.load(SeqCst), 2);
    tasks.pause("l").unwrap();
    sleep(secs(100)).await;
    assert_eq!((ran.load(SeqCst), state(&tasks, "l")), (2, Some(TaskState::Paused)));
    assert_eq!(handle.next_run(), None);
    tasks.resume("l").unwrap();
    sleep(secs(4)).await;
    assert_eq!(ran.load(SeqCst), 2, "the next is due at 120 s");
    sleep(secs(2)).await;
    assert_eq!(
        (ran.load(SeqCst), handle.current_iteration()),
        (3, 3),
        "the same life, and none is caught up"
    );
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(
        (snapshot.total_restarts(), snapshot.total_skipped()),
        (0, 0),
        "what was not to take place was not missed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_iteration_under_way_is_finished_before_the_pause() {
    let done = Arc::new(AtomicU32::new(0));
    let finished = done.clone();
    let ticker = TaskLoop::every(secs(10), move |_| {
        let finished = finished.clone();
        async move {
            sleep(secs(3)).await;
            finished.fetch_add(1, SeqCst);
        }
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", ticker));
    sleep(secs(1)).await;
    tasks.pause("l").unwrap();
    sleep(secs(50)).await;
    assert_eq!(done.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_during_backoff_or_before_the_start_holds_the_task_back() {
    let failing = CriticalTaskConfig::new("failing", |_| async { Err::<(), _>("no") });
    let tasks = started(failing.backoff(Backoff::constant(secs(30))));
    let early = Alive::default();
    settle().await;
    assert_eq!(state(&tasks, "failing"), Some(TaskState::Backoff));
    tasks.pause("failing").unwrap();
    sleep(secs(100)).await;
    let failing = tasks.snapshot("failing").unwrap();
    assert_eq!((failing.state, failing.total_runs()), (Some(TaskState::Paused), 1));

    let tasks = TaskManager::new();
    tasks.register(obedient("early", &early)).unwrap();
    tasks.pause("early").unwrap();
    settle().await;
    tasks.start();
    sleep(secs(10)).await;
    assert_eq!((state(&tasks, "early"), early.total()), (Some(TaskState::Paused), 0));
    tasks.resume("early").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "early"), early.total()), (Some(TaskState::Running), 1));
    assert_eq!(tasks.snapshot("early").unwrap().total_restarts(), 0, "it begins for the first time");
}

#[tokio::test(start_paused = true)]
async fn paused_task_obeys_every_other_order() {
    let paused = async |alive: &Alive| {
        let tasks = started(obedient("t", alive));
        settle().await;
        tasks.pause("t").unwrap();
        settle().await;
        tasks
    };
    let alive = Alive::default();
    let tasks = paused(&alive).await;
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), alive.now()), (Some(TaskState::Running), 1));

    let tasks = paused(&alive).await;
    tasks.stop("t").unwrap();
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Stopped));
    tasks.resume("t").unwrap();
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Stopped), "it is no longer paused");

    let tasks = paused(&alive).await;
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::NotRunning), 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn pause_leaves_ended_tasks_alone_and_resume_leaves_running_ones() {
    let tasks = started(CriticalTaskConfig::one_shot("done", |_| async {}));
    settle().await;
    tasks.pause("done").unwrap();
    settle().await;
    assert_eq!(state(&tasks, "done"), Some(TaskState::Finished));
    let alive = Alive::default();
    tasks.register(obedient("t", &alive)).unwrap();
    settle().await;
    tasks.resume("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), alive.total()), (Some(TaskState::Running), 1));
    // A stop that the driver has not seen yet is not taken back by it.
    tasks.stop("t").unwrap();
    tasks.resume("t").unwrap();
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Stopped));
    assert_eq!(shown(&tasks.pause("nobody")), r#"Err(Unknown(UnknownTask { name: "nobody" }))"#);
}
