//! What health says of a task, beyond its figures.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskLoop, TaskManager, events::TaskEventKind, health::HealthReason,
    policy::StallAction, schedule::OnError, snapshot::TaskState,
};
use tokio::time::sleep;

use crate::support::{eventually, millis, secs, settle, tasks::started};

fn startup(tasks: &TaskManager) -> bool {
    tasks.task_health("t").expect("registered").has_started
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_ready_once_has_started_for_good() {
    let tasks = started(
        CriticalTaskConfig::new("t", |ctx| async move {
            sleep(secs(2)).await;
            if ctx.generation() == 1 {
                ctx.ready();
                sleep(secs(3)).await;
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        })
        .backoff(Backoff::constant(secs(10)))
        .start_timeout(secs(60)),
    );
    sleep(secs(1)).await;
    assert!(!startup(&tasks), "it is not ready yet");
    sleep(secs(2)).await;
    assert!(startup(&tasks));
    // Seen to fail with `Signals::has_been_ready` false: waiting for its delay, and not ready in its second life.
    for _ in 0..2 {
        sleep(secs(10)).await;
        let health = tasks.task_health("t").expect("registered");
        assert!(health.has_started && !health.is_ready, "{health:?}");
    }
    assert_eq!(tasks.snapshot("t").and_then(|task| task.state), Some(TaskState::Running));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_finished_before_it_was_ready_has_started() {
    let tasks = started(CriticalTaskConfig::one_shot("t", |_| async {}).start_timeout(secs(60)));
    assert!(!startup(&tasks));
    settle().await;
    // Seen to fail where it must have been ready as well.
    assert!(startup(&tasks));
}

#[tokio::test(start_paused = true)]
async fn a_task_already_counts_as_stalled_when_its_stall_event_arrives() {
    let tasks = started(
        CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await })
            .heartbeat_timeout(secs(10))
            .on_stall(StallAction::Report),
    );
    let mut events = tasks.subscribe();
    while !matches!(events.recv().await.expect("the manager lives").kind, TaskEventKind::Stalled { .. }) {}
    let health = tasks.task_health("t").expect("registered");
    assert!(
        !health.is_live && health.reasons.iter().any(|reason| matches!(reason, HealthReason::Stalled { .. })),
        "{health:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_pause_is_no_silence() {
    // One iteration that gives no sign of life, half of it under a pause.
    let body = TaskLoop::every(secs(3_600), |_| async { sleep(secs(1_000)).await });
    let tasks = started(CriticalTaskConfig::from_loop("t", body).heartbeat_timeout(secs(30)));
    sleep(secs(10)).await;
    tasks.pause("t").expect("it runs");
    sleep(secs(50)).await;
    tasks.resume("t").expect("it is paused");
    // Seen to fail with `Signals::rearm` left out: it has been silent for 60 s then.
    sleep(secs(29)).await;
    let stalls = || tasks.snapshot("t").expect("registered").stalls;
    assert_eq!(stalls(), 0);
    sleep(secs(2)).await;
    assert_eq!(stalls(), 1);
}

#[tokio::test(start_paused = true)]
async fn loop_is_ready_after_its_first_success_by_default() {
    let body = TaskLoop::every(secs(10), |ctx| async move {
        if ctx.iteration() == Some(1) { Err("not yet") } else { Ok(()) }
    })
    .on_error(|_| async { OnError::Continue });
    let tasks = started(CriticalTaskConfig::from_loop("t", body).start_timeout(secs(60)));
    sleep(secs(5)).await;
    // Seen to fail where a failed iteration makes a loop ready, or a successful one does not.
    assert!(!startup(&tasks));
    sleep(secs(10)).await;
    assert!(startup(&tasks));
}

#[tokio::test(start_paused = true)]
async fn a_task_is_stalled_until_the_stop_for_it_has_ended() {
    let tasks = started(
        CriticalTaskConfig::new("t", |_| std::future::pending::<()>())
            .heartbeat_timeout(secs(10))
            .shutdown_grace(secs(5)),
    );
    sleep(secs(12)).await;
    let health = tasks.task_health("t").expect("registered");
    assert_eq!(health.state, Some(TaskState::Stopping));
    assert!(matches!(health.reasons[..], [HealthReason::Stalled { .. }]), "{health:?}");
    assert!(!health.is_healthy() && !health.is_ready);
    // Seen to fail where the process would be restarted beside the task.
    assert!(health.is_live && tasks.health().is_live);
    sleep(secs(4)).await;
    let health = tasks.task_health("t").expect("registered");
    assert_eq!(
        (health.state, &health.reasons[..]),
        (Some(TaskState::Running), &[HealthReason::Recovering][..])
    );
}

#[test]
fn a_runtime_that_is_gone_is_not_stalled() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let tasks = {
        let _inside = runtime.enter();
        TaskManager::builder().runtime_stall(millis(100)).build().unwrap()
    };
    drop(runtime);
    // Seen to fail where the probe must have run, and not only be done with: it is tried once a second.
    for _ in 0..25 {
        std::thread::sleep(millis(100));
        assert!(!tasks.health().runtime_stalled);
    }
}

#[test]
fn a_runtime_with_more_work_than_time_is_not_stalled() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tasks = {
        let _inside = runtime.enter();
        TaskManager::builder().runtime_stall(millis(500)).build().unwrap()
    };
    let mut events = tasks.subscribe();
    let left = Arc::new(AtomicUsize::new(5_000));
    for _ in 0..left.load(SeqCst) {
        let left = left.clone();
        let _inside = runtime.enter();
        tasks.spawn("crunch", async move {
            let began = Instant::now();
            while began.elapsed() < millis(1) {}
            left.fetch_sub(1, SeqCst);
        });
    }
    // A probe that is sent meanwhile waits behind them. Seen to fail where the probe alone is asked.
    while left.load(SeqCst) > 0 {
        std::thread::sleep(millis(20));
        let health = tasks.health();
        assert!(health.is_live && !health.runtime_stalled, "{health}");
    }
    while let Some(event) = events.try_recv() {
        assert!(!matches!(event.kind, TaskEventKind::RuntimeStalled { .. }));
    }
}

#[tokio::test]
async fn runtime_that_stalls_twice_is_reported_twice() {
    let tasks = TaskManager::builder().runtime_stall(millis(100)).build().unwrap();
    let mut events = tasks.subscribe();
    let mut stalls = 0;
    for round in 1..=2 {
        // Longer than the second after which the runtime is tried again. Seen to fail where it is tried within it only.
        let (began, end) = (Instant::now(), Instant::now() + secs(20));
        while Instant::now() < end && (stalls < round || began.elapsed() < millis(1_500)) {
            std::thread::sleep(millis(10));
            while let Some(event) = events.try_recv() {
                stalls += usize::from(matches!(event.kind, TaskEventKind::RuntimeStalled { .. }));
            }
        }
        assert_eq!(stalls, round);
        eventually("it runs again", || !tasks.health().runtime_stalled).await;
    }
}
