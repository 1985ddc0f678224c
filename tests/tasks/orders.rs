//! What an order means to a task that is in the midst of something else, or of nothing.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskLoop, TaskManager,
    events::TaskEventKind,
    policy::{DependencyLoss, RestartReason},
    schedule::OnError,
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
    task::RestartError,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, eventually, millis, secs, settle, shown,
    tasks::{all_started, deaf, deaf_loop, state, takes},
};

#[tokio::test(start_paused = true)]
async fn stop_leaves_ended_tasks_unchanged() {
    let tasks = all_started([
        CriticalTaskConfig::one_shot("finished", |_| async {}),
        CriticalTaskConfig::new("failed", |_| async { Err::<(), _>("down") })
            .restart_policy(RestartPolicy::Never),
    ]);
    settle().await;
    let mut events = tasks.subscribe();
    for name in ["finished", "failed"] {
        tasks.stop(name).expect("registered");
    }
    settle().await;
    // Seen to fail where a stop is heard by a task at rest, whatever it rests for.
    assert!(events.try_recv().is_none(), "nothing happened");
    assert_eq!(state(&tasks, "finished"), Some(TaskState::Finished));
    assert_eq!(state(&tasks, "failed"), Some(TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_two_graces_applies() {
    let alive = Alive::default();
    let body = deaf_loop(10, &alive);
    let handle = body.handle();
    let tasks = all_started([CriticalTaskConfig::from_loop("deaf", body).shutdown_grace(secs(60))]);
    sleep(secs(1)).await;
    handle.restart().expect("registered");
    sleep(secs(1)).await;
    assert_eq!((state(&tasks, "deaf"), alive.now()), (Some(TaskState::Stopping), 1));
    // Seen to fail where a stop under way keeps the grace it began with.
    handle.cancel().expect("registered");
    settle().await;
    assert_eq!((state(&tasks, "deaf"), alive.now()), (Some(TaskState::Stopped), 0));
}

#[tokio::test(start_paused = true)]
async fn pause_is_reported_for_a_task_and_a_loop() {
    let tasks = all_started([
        CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await }),
        CriticalTaskConfig::from_loop("l", TaskLoop::every(secs(10), |_| async {})),
    ]);
    settle().await;
    let mut events = tasks.subscribe();
    for name in ["t", "l"] {
        tasks.pause(name).expect("registered");
    }
    settle().await;
    let mut told: Vec<_> = std::iter::from_fn(|| events.try_recv())
        .filter(|event| matches!(event.kind, TaskEventKind::Paused))
        .map(|event| event.task.expect("it is of a task").to_string())
        .collect();
    told.sort();
    assert_eq!(told, ["l", "t"]);
}

#[tokio::test(start_paused = true)]
async fn resume_restores_running_and_ignores_an_unpaused_loop() {
    let body = TaskLoop::every(secs(3_600), |_| async { sleep(secs(1_000)).await });
    let tasks = all_started([CriticalTaskConfig::from_loop("l", body).heartbeat_timeout(secs(30))]);
    sleep(secs(1)).await;
    tasks.pause("l").expect("registered");
    settle().await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Paused));
    tasks.resume("l").expect("registered");
    settle().await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Running));
    // A sign of life is the task's to give: seen to fail where any resumption counts as one.
    sleep(secs(20)).await;
    tasks.resume("l").expect("registered");
    sleep(secs(15)).await;
    assert_eq!(tasks.snapshot("l").expect("registered").stalls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_loop_whose_iteration_fails_stays_paused() {
    let begun = Arc::new(AtomicU32::new(0));
    let count = begun.clone();
    let body = TaskLoop::every(secs(10), move |_| {
        count.fetch_add(1, SeqCst);
        async {
            sleep(secs(5)).await;
            Err::<(), _>("down")
        }
    })
    .on_error(|_| async { OnError::End });
    let config = CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(1)));
    let tasks = all_started([config]);
    sleep(secs(1)).await;
    tasks.pause("l").expect("registered");
    sleep(secs(60)).await;
    assert_eq!((begun.load(SeqCst), state(&tasks, "l")), (1, Some(TaskState::Paused)));
    tasks.resume("l").expect("registered");
    sleep(secs(3)).await;
    assert_eq!((begun.load(SeqCst), state(&tasks, "l")), (2, Some(TaskState::Running)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stall_during_a_stop_does_not_restart_the_task() {
    let lives = Alive::default();
    let guards = lives.clone();
    let config = CriticalTaskConfig::new("t", move |ctx| {
        guards.during(async move {
            ctx.cancelled().await;
            // In one poll, and longer than it may; then it still has something to do.
            std::thread::sleep(millis(600));
            sleep(millis(100)).await;
        })
    });
    let tasks = all_started([config.poll_timeout(millis(100))]);
    eventually("it runs", || state(&tasks, "t") == Some(TaskState::Running)).await;
    tasks.stop("t").expect("registered");
    eventually("the stall is seen", || tasks.snapshot("t").is_some_and(|task| task.stalls == 1)).await;
    eventually("it rests", || state(&tasks, "t") == Some(TaskState::Stopped)).await;
    sleep(millis(100)).await;
    // Seen to fail where a stall is heard by a life that is being stopped: it is begun anew then.
    assert_eq!((lives.total(), state(&tasks, "t")), (1, Some(TaskState::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn a_restart_waits_at_most_half_a_minute_for_its_dependents() {
    let asked = Arc::new(Mutex::new(None));
    let note = asked.clone();
    let database = CriticalTaskConfig::new("database", move |ctx| {
        let note = note.clone();
        async move {
            ctx.cancelled().await;
            note.lock().unwrap().get_or_insert(Instant::now());
        }
    });
    let deaf = CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>())
        .depends_on("database")
        .on_dependency_loss(DependencyLoss::Restart)
        .shutdown_grace(secs(600));
    let tasks = all_started([database.shutdown_grace(secs(600)), deaf]);
    sleep(secs(1)).await;
    let began = Instant::now();
    tasks.restart("database").expect("registered");
    sleep(secs(29)).await;
    assert_eq!(*asked.lock().unwrap(), None, "what rests on it goes down first");
    sleep(secs(2)).await;
    let asked = asked.lock().unwrap().expect("it was asked");
    assert_eq!((asked - began).as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_its_dependents_stops_when_shutdown_reaches_its_stage() {
    let database = CriticalTaskConfig::new("database", |ctx| async move { ctx.cancelled().await });
    let deaf = CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>())
        .depends_on("database")
        .on_dependency_loss(DependencyLoss::Restart)
        .shutdown_grace(secs(600));
    let tasks = TaskManager::builder().shutdown_deadline(secs(20)).build().unwrap();
    tasks.register_all([database, deaf]).expect("valid configs");
    tasks.start();
    sleep(secs(1)).await;
    tasks.restart("database").expect("registered");
    sleep(secs(1)).await;
    let report = tasks.shutdown().await;
    let outcome = |name| report.tasks.iter().find(|task| &*task.name == name).map(|task| task.outcome);
    // Seen to fail where the shutdown leaves one that is held up to those that hold it up.
    assert_eq!(outcome("database"), Some(ShutdownOutcome::Clean), "{report}");
    assert_eq!(outcome("deaf"), Some(ShutdownOutcome::Aborted), "{report}");
}

#[tokio::test(start_paused = true)]
async fn restart_replaces_a_stop_and_keeps_its_grace() {
    let alive = Alive::default();
    let tasks = all_started([deaf("deaf", &alive).shutdown_grace(secs(60))]);
    sleep(secs(1)).await;
    tasks.stop("deaf").expect("registered");
    sleep(secs(30)).await;
    tasks.restart("deaf").expect("registered");
    sleep(secs(29)).await;
    assert_eq!((alive.total(), state(&tasks, "deaf")), (1, Some(TaskState::Stopping)));
    sleep(secs(2)).await;
    // Seen to fail where a restart asks a life to stop that was asked before.
    assert_eq!((alive.total(), state(&tasks, "deaf")), (2, Some(TaskState::Running)));
    let restarts = tasks.snapshot("deaf").expect("registered");
    assert_eq!(restarts.restarts(RestartReason::Requested), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_task_refuses_orders_that_would_keep_it() {
    let tasks = all_started([takes("t", 10)]);
    sleep(secs(1)).await;
    let leaving = tasks.clone();
    let gone = tokio::spawn(async move { leaving.unregister("t").await });
    sleep(secs(1)).await;
    assert_eq!(shown(&tasks.restart("t")), r#"Err(Leaving { name: "t" })"#);
    sleep(secs(1)).await;
    assert_eq!(shown(&tasks.pause("t")), r#"Err(Leaving { name: "t" })"#);
    sleep(secs(8)).await;
    assert_eq!(gone.await.expect("no panic"), Ok(()));
    assert_eq!((tasks.statistics().critical_tasks, state(&tasks, "t")), (0, None));
    assert_eq!(tasks.snapshot("t").expect("its figures stay").total_runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_resume_takes_back_a_pause_that_is_still_stopping_and_nothing_else() {
    let tasks = all_started([takes("paused", 5), takes("stopped", 5)]);
    sleep(secs(1)).await;
    tasks.pause("paused").expect("registered");
    tasks.stop("stopped").expect("registered");
    sleep(secs(1)).await;
    for name in ["paused", "stopped"] {
        assert_eq!(state(&tasks, name), Some(TaskState::Stopping));
        tasks.resume(name).expect("registered");
    }
    sleep(secs(10)).await;
    assert_eq!(state(&tasks, "paused"), Some(TaskState::Running));
    assert_eq!(tasks.snapshot("paused").expect("registered").total_restarts(), 1);
    assert_eq!(state(&tasks, "stopped"), Some(TaskState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_restart_begins_a_task_that_never_ran_and_does_not_count() {
    let tasks = TaskManager::new();
    tasks.register(takes("t", 0)).expect("a valid config");
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Waiting));
    tasks.restart("t").expect("registered");
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    // Seen to fail where it is begun like one that was given up.
    assert_eq!(tasks.snapshot("t").expect("registered").total_restarts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_life_that_had_to_be_dropped_is_not_held_against_the_next_at_shutdown() {
    let config = CriticalTaskConfig::new("t", |ctx| async move {
        if ctx.generation() == 1 {
            std::future::pending::<()>().await;
        }
        ctx.cancelled().await;
    });
    let tasks = all_started([config.shutdown_grace(secs(1))]);
    settle().await;
    tasks.restart("t").expect("registered");
    sleep(secs(2)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    let report = tasks.shutdown().await;
    // Seen to fail where each life that is dropped is noted for the report, and not only that of one that leaves.
    assert_eq!(report.count(ShutdownOutcome::Clean), 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_keeps_nobody_from_restarting_a_task_by_hand() {
    let obeys = CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await });
    let tasks = all_started([obeys.max_restarts(0, secs(60))]);
    settle().await;
    tasks.restart("t").expect("it runs");
    settle().await;
    assert_eq!(tasks.snapshot("t").expect("registered").total_restarts(), 1);
    let refused = tasks.restart("u").expect_err("nobody");
    assert!(matches!(refused, RestartError::Unknown(_)), "{refused}");
}
