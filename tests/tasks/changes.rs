//! What has changed about a task: the ring that it keeps itself.

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, TaskGroup, TaskLoop, TaskManager,
    events::{TaskChange, TaskChangeKind},
    policy::{RestartStrategy, StallAction},
};
use tokio::time::sleep;

use crate::support::{
    secs,
    spans::Spans,
    tasks::{looping, obeys, started},
};

/// A task that fails in each run.
fn failing(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>("refused") })
        .backoff(Backoff::constant(secs(1)))
        .max_restarts(3, secs(600))
        .give_up(GiveUp::ForGood)
}

fn told(changes: &[TaskChange]) -> Vec<(u64, String)> {
    changes.iter().map(|change| (change.count, change.kind.to_string())).collect()
}

fn changes(tasks: &TaskManager, name: &str) -> Vec<(u64, String)> {
    told(&tasks.changes(name).expect("registered"))
}

#[tokio::test(start_paused = true)]
async fn equal_failures_and_restarts_are_one_change_each_with_a_count() {
    let tasks = started(failing("t"));
    sleep(secs(60)).await;
    let changes = tasks.changes("t").unwrap();
    assert_eq!(
        told(&changes)[..3],
        [
            (4, "failed: refused".to_owned()),
            (3, "restarted after a failure".to_owned()),
            (1, "given up for good: restarted too often".to_owned()),
        ]
    );
    assert_eq!(changes.iter().map(|change| change.number).collect::<Vec<_>>()[..3], [1, 2, 3]);
    assert_eq!(changes[0].generation, 4, "of the last of them");
    assert!(changes[0].at < changes[0].until);
    assert!(tasks.changes("nobody").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_works_well_has_no_changes() {
    let (tasks, _handle) = looping(TaskLoop::every(secs(1), |_| async {}));
    sleep(secs(60)).await;
    assert!(tasks.snapshot("l").unwrap().total_runs() > 50);
    assert_eq!(changes(&tasks, "l"), []);
    assert_eq!(tasks.decisions("l"), Some(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_fails_is_a_change_and_the_next_that_fails_alike_is_counted() {
    let (tasks, _handle) = looping(TaskLoop::every(secs(1), |ctx| async move {
        match ctx.iteration() {
            Some(3..=5) => Err("refused"),
            _ => Ok(()),
        }
    }));
    sleep(secs(20)).await;
    let changes = tasks.changes("l").unwrap();
    let failed = changes.iter().find(|change| matches!(change.kind, TaskChangeKind::Failed { .. }));
    assert_eq!(failed.map(|change| change.count), Some(3), "{:?}", told(&changes));
}

#[tokio::test(start_paused = true)]
async fn stop_pause_and_resume_are_recorded_as_requested() {
    let tasks = started(obeys("t"));
    sleep(secs(1)).await;
    let next = async |order: &dyn Fn()| {
        order();
        sleep(secs(1)).await;
    };
    next(&|| tasks.pause("t").unwrap()).await;
    next(&|| tasks.resume("t").unwrap()).await;
    next(&|| tasks.stop("t").unwrap()).await;
    let lines: Vec<_> = changes(&tasks, "t").into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["paused by request", "resumed", "restarted on request", "stopped by request"]);
}

/// A task whose first run fails, tried again every ten seconds after it was given up.
fn failing_once(name: &str) -> CriticalTaskConfig {
    let runs = std::sync::atomic::AtomicU64::new(0);
    let config = CriticalTaskConfig::new(name, move |ctx| {
        let is_first = runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        async move {
            if is_first {
                return Err("refused");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    config.max_restarts(0, secs(60)).give_up(GiveUp::RetryEvery(secs(10)))
}

#[tokio::test(start_paused = true)]
async fn recovered_task_records_its_recovery() {
    let tasks = started(failing_once("t"));
    sleep(secs(7_200)).await;
    let lines: Vec<_> = changes(&tasks, "t").into_iter().map(|(_, line)| line).collect();
    let expected =
        ["failed: refused", "given up: restarted too often, next try in 10s", "tried again", "recovered"];
    let without_health: Vec<_> = lines.iter().filter(|line| !line.starts_with("became ")).collect();
    assert_eq!(without_health, expected, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_a_health_check_finds_is_a_change_until_it_finds_another() {
    let tasks = started(failing_once("t"));
    sleep(secs(7_200)).await;
    let status = |change: &TaskChange| match change.kind {
        TaskChangeKind::Health { status, .. } => Some(status.as_str()),
        _ => None,
    };
    let found = tasks.changes("t").unwrap().iter().filter_map(status).collect::<Vec<_>>();
    assert_eq!(found.last(), Some(&"healthy"), "{found:?}");
    assert!(found.len() > 1 && found.windows(2).all(|pair| pair[0] != pair[1]), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stall_is_a_change_with_the_length_of_the_silence() {
    let config = CriticalTaskConfig::new("t", |_| std::future::pending::<()>());
    let tasks = started(config.heartbeat_timeout(secs(20)).on_stall(StallAction::Restart));
    sleep(secs(60)).await;
    let changes = tasks.changes("t").unwrap();
    let silences: Vec<_> = changes
        .iter()
        .filter_map(|change| match change.kind {
            TaskChangeKind::Stalled { silent_for, .. } => Some(silent_for),
            _ => None,
        })
        .collect();
    assert!(!silences.is_empty() && silences.iter().all(|silence| *silence >= secs(20)), "{changes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_is_tried_again_and_a_task_that_finishes_are_changes() {
    let (tasks, _handle) = looping(
        TaskLoop::every(secs(60), |_| async { Err::<(), _>("refused") }).retry(2, Backoff::constant(secs(5))),
    );
    tasks.register(CriticalTaskConfig::one_shot("once", |_| async {})).unwrap();
    sleep(secs(30)).await;
    assert_eq!(
        changes(&tasks, "l")[..2],
        [(2, "tries an iteration again: refused".to_owned()), (1, "failed: refused".to_owned())]
    );
    assert_eq!(changes(&tasks, "once"), [(1, "finished".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn task_stopped_by_its_group_records_the_cause() {
    let tasks = TaskManager::new();
    let group = TaskGroup::new("g", RestartStrategy::OneForAll)
        .task(obeys("kept"))
        .task(failing("failing").max_restarts(0, secs(60)).escalation(otel_tasks::policy::Escalation::Group));
    tasks.register_group(group).unwrap();
    tasks.start();
    sleep(secs(10)).await;
    let lines: Vec<_> = changes(&tasks, "kept").into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["stopped by group"]);
}

#[tokio::test(start_paused = true)]
async fn the_ring_is_small_and_keeps_the_newest() {
    let (tasks, _handle) =
        looping(TaskLoop::every(
            secs(1),
            |ctx| async move { Err::<(), _>(format!("{:?}", ctx.iteration())) },
        ));
    sleep(secs(600)).await;
    let kept = tasks.changes("l").unwrap();
    assert_eq!(kept.len(), TaskChange::KEPT);
    assert!(kept.windows(2).all(|pair| pair[1].number == pair[0].number + 1));
    assert!(kept.last().unwrap().number > 500, "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn the_traces_of_the_last_error_give_up_and_restart_outlive_their_changes() {
    let spans = Spans::new();
    let tasks = TaskManager::builder().tracer(spans.tracer()).build().unwrap();
    let fails_at_first = std::sync::atomic::AtomicU64::new(0);
    let config = CriticalTaskConfig::new("t", move |ctx| {
        let run = fails_at_first.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            if run < 4 {
                return Err("refused");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    let config =
        config.backoff(Backoff::constant(secs(1))).max_restarts(3, secs(600)).give_up(GiveUp::ForGood);
    tasks.register(config).unwrap();
    tasks.start();
    sleep(secs(60)).await;
    let runs: Vec<_> = spans.runs_of("t").iter().map(|run| run.span_context.span_id()).collect();
    assert_eq!(runs.len(), 4);
    let pinned = tasks.pinned_traces("t").unwrap();
    assert_eq!(pinned.last_error.map(|pinned| pinned.span_id), Some(runs[3]));
    assert_eq!(pinned.give_up.map(|pinned| pinned.span_id), Some(runs[3]));
    assert_eq!(pinned.restart.map(|pinned| pinned.span_id), Some(runs[2]), "the run before the last restart");
    tasks.restart("t").unwrap();
    for _ in 0..TaskChange::KEPT {
        sleep(secs(1)).await;
        tasks.pause("t").unwrap();
        sleep(secs(1)).await;
        tasks.resume("t").unwrap();
    }
    sleep(secs(1)).await;
    let changes = tasks.changes("t").unwrap();
    assert!(
        !changes.iter().any(|change| change.kind.as_str() == "failed"),
        "pushed out: {:?}",
        told(&changes)
    );
    let later = tasks.pinned_traces("t").unwrap();
    assert_eq!((later.last_error, later.give_up), (pinned.last_error, pinned.give_up));
    assert_ne!(later.restart, pinned.restart, "that of the last restart");
}
