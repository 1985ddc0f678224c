//! What becomes of iterations that are missed or overlap.

use otel_tasks::{
    events::TaskEventKind,
    schedule::{MissedPolicy, OnError, OverlapPolicy},
};
use tokio::time::advance;

use super::*;

/// A loop that notes when its iterations begin; the second takes `takes` seconds, the others one.
fn second_takes(takes: u64, moments: &Moments) -> TaskLoop {
    let log = moments.clone();
    TaskLoop::every(secs(10), move |ctx: TaskContext| {
        log.note();
        let takes = if ctx.iteration() == Some(2) { takes } else { 1 };
        async move { sleep(secs(takes)).await }
    })
}

fn skipped(tasks: &TaskManager, reason: SkipReason) -> u64 {
    tasks.snapshot("l").expect("registered").skipped(reason)
}

#[tokio::test(start_paused = true)]
async fn an_overlapping_iteration_waits_if_it_may_queue() {
    let moments = Moments::default();
    let tasks =
        started(CriticalTaskConfig::from_loop("l", second_takes(35, &moments).overlap(OverlapPolicy::Queue)));
    sleep(secs(75)).await;
    // Of the times 20, 30 and 40 one waits until 45.
    assert_eq!(moments.seconds(), [0, 10, 45, 50, 60, 70]);
    assert_eq!(skipped(&tasks, SkipReason::Overlapped), 2);
    assert_eq!(skipped(&tasks, SkipReason::Missed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_overlapping_iteration_may_cancel_the_running_one() {
    let moments = Moments::default();
    let alive = Alive::default();
    let (log, guards) = (moments.clone(), alive.clone());
    let body = TaskLoop::every(secs(10), move |ctx: TaskContext| {
        log.note();
        let guard = guards.guard();
        let takes = if ctx.iteration() == Some(2) { 35 } else { 1 };
        async move {
            let _guard = guard;
            sleep(secs(takes)).await;
        }
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(OverlapPolicy::CancelRunning)));
    sleep(secs(45)).await;
    assert_eq!(moments.seconds(), [0, 10, 20, 30, 40]);
    assert_eq!((alive.most(), alive.now()), (1, 0));
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(snapshot.runs(ExitKind::Cancellation), 1);
    assert_eq!((snapshot.runs(ExitKind::Success), snapshot.total_errors()), (4, 0));
    assert_eq!(skipped(&tasks, SkipReason::Overlapped), 0, "each has begun: none is counted twice");
}

#[tokio::test(start_paused = true)]
async fn iterations_may_overlap_up_to_a_limit() {
    let moments = Moments::default();
    let alive = Alive::default();
    let (log, guards) = (moments.clone(), alive.clone());
    let body = TaskLoop::every(secs(10), move |_| {
        log.note();
        let guard = guards.guard();
        async move {
            let _guard = guard;
            sleep(secs(25)).await;
        }
    });
    let handle = body.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(OverlapPolicy::Allow(2))));
    sleep(secs(5)).await;
    assert!(handle.next_run().is_some(), "the next one does not wait for this one");
    sleep(secs(60)).await;
    // 20 and 50 come while two run.
    assert_eq!(moments.seconds(), [0, 10, 30, 40, 60]);
    assert_eq!((alive.most(), skipped(&tasks, SkipReason::Overlapped)), (2, 2));
    handle.stop();
    settle().await;
    assert!(handle.is_running(), "those under way finish");
    sleep(secs(30)).await;
    assert_eq!((state(&tasks, "l"), alive.now()), (Some(TaskState::Finished), 0));
    assert_eq!(tasks.snapshot("l").unwrap().runs(ExitKind::Success), 5);
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_ends_the_loop_waits_for_the_overlapping_ones() {
    let body = TaskLoop::every(secs(10), |ctx: TaskContext| async move {
        sleep(secs(25)).await;
        if ctx.iteration() == Some(1) { Err("first") } else { Ok(()) }
    });
    let handle = body.handle();
    let body = body.overlap(OverlapPolicy::Allow(3)).on_error(|_| async { OnError::End });
    let config = CriticalTaskConfig::from_loop("l", body);
    let tasks = started(config.restart_policy(RestartPolicy::Never));
    sleep(secs(26)).await;
    assert!(handle.failed() && handle.is_running());
    sleep(secs(30)).await;
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.state, snapshot.total_runs()), (Some(TaskState::Failed), 3), "none began after it");
    assert_eq!(snapshot.runs(ExitKind::Success), 2);
}

#[tokio::test(start_paused = true)]
async fn an_iteration_beside_which_others_may_begin_is_to_give_signs_of_life() {
    let body =
        TaskLoop::every(secs(1_000), |_| std::future::pending::<()>()).overlap(OverlapPolicy::Allow(2));
    let tasks = started(CriticalTaskConfig::from_loop("l", body).heartbeat_timeout(secs(60)));
    sleep(secs(100)).await;
    assert_eq!(tasks.snapshot("l").unwrap().stalls, 1);
}

/// Blocks the runtime's clock: everything that falls due meanwhile is late.
async fn stand_still(seconds: u64) {
    // `advance` moves the clock at once, past all timers.
    advance(secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_of_several_missed_iterations_runs_at_once() {
    let (body, _, moments) = noting(10, 0);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    let mut events = tasks.subscribe();
    sleep(secs(5)).await;
    stand_still(40).await;
    sleep(secs(20)).await;
    // At 45: for 40; those of 10, 20 and 30 are left out.
    assert_eq!(moments.seconds(), [0, 45, 50, 60]);
    assert_eq!(skipped(&tasks, SkipReason::Missed), 3);
    let told = std::iter::from_fn(|| events.try_recv()).find(|event| {
        matches!(event.kind, TaskEventKind::Skipped { reason: SkipReason::Missed, iterations: 3, .. })
    });
    assert!(told.is_some(), "and it is told");
}

#[tokio::test(start_paused = true)]
async fn missed_iterations_may_be_skipped() {
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::every(secs(100), move |_| {
        log.note();
        async {}
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", body.missed(MissedPolicy::Skip)));
    sleep(secs(50)).await;
    stand_still(390).await;
    sleep(secs(20)).await;
    assert_eq!(moments.seconds(), [0, 440], "the last of them, for 400, is late by no more than a minute");
    stand_still(620).await;
    sleep(secs(60)).await;
    assert_eq!(moments.seconds(), [0, 440, 1_100], "that for 1000 was late by more");
    assert_eq!(skipped(&tasks, SkipReason::Missed), 3 + 6);
}

#[tokio::test(start_paused = true)]
async fn missed_iterations_may_be_caught_up_with() {
    for (limit, expected, left_out) in
        [(2, vec![0, 45, 46, 50, 60], 2), (9, vec![0, 45, 46, 47, 48, 50, 60], 0)]
    {
        let (body, handle, moments) = noting(10, 1);
        let tasks = started(CriticalTaskConfig::from_loop("l", body.missed(MissedPolicy::CatchUp(limit))));
        sleep(secs(5)).await;
        stand_still(40).await;
        sleep(secs(20)).await;
        assert_eq!(moments.seconds(), expected, "{limit}");
        assert_eq!(skipped(&tasks, SkipReason::Missed), left_out, "{limit}");
        assert_eq!(handle.current_iteration(), expected.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_delay_is_counted_from_the_end() {
    let (body, _, moments) = noting_on(Schedule::delay(secs(10)), 7);
    // It never overlaps, whatever it is allowed.
    let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(OverlapPolicy::Allow(5))));
    sleep(secs(60)).await;
    assert_eq!(moments.seconds(), [0, 17, 34, 51]);
    assert_eq!(tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn jitter_moves_iterations_and_not_the_rhythm() {
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::on(Schedule::every(secs(10)).jitter(secs(8)), move |_| {
        log.note();
        async {}
    });
    let random = AtomicU64::new(0);
    let quarters = move || (random.fetch_add(1, SeqCst) % 4) as f64 / 4.0;
    let tasks = TaskManager::builder().random(quarters).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(59)).await;
    assert_eq!(moments.seconds(), [0, 12, 24, 36, 40, 52]);
    assert_eq!(tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn policies_that_allow_nothing_are_refused() {
    for (body, expected) in [
        (noting(1, 0).0.missed(MissedPolicy::CatchUp(0)), "ZeroCatchUp"),
        (noting(1, 0).0.overlap(OverlapPolicy::Allow(0)), "ZeroOverlap"),
    ] {
        let tasks = TaskManager::new();
        let refused = tasks.register(CriticalTaskConfig::from_loop("l", body));
        assert_eq!(shown(&refused), format!(r#"Err(Loop {{ name: "l", source: {expected} }})"#));
    }
}
