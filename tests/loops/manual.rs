//! Iterations that somebody asks for, beside the rhythm.

use otel_tasks::schedule::{ManualRun, OverlapPolicy, Trigger};

use super::*;

/// A loop that takes `takes` seconds every 100, and what its hook heard of each iteration.
fn heard(takes: u64) -> (TaskLoop, LoopHandle, Moments, Arc<Mutex<Vec<LoopOutcome>>>) {
    let (body, handle, moments) = noting(100, takes);
    let outcomes: Arc<Mutex<Vec<LoopOutcome>>> = Arc::default();
    let log = outcomes.clone();
    let body = body.after_iteration(move |outcome| {
        log.lock().unwrap().push(outcome);
        async {}
    });
    (body, handle, moments, outcomes)
}

fn refused(run: Result<ManualRun, LoopControlError>) -> LoopControlError {
    run.expect_err("it cannot begin")
}

#[tokio::test(start_paused = true)]
async fn it_begins_at_once_and_leaves_the_rhythm_as_it_is() {
    let (body, handle, moments, outcomes) = heard(5);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.count(3)));
    sleep(secs(30)).await;
    let next = handle.next_run();
    let outcome = handle.run_now().unwrap().await.unwrap();
    assert_eq!((outcome.trigger, outcome.due, outcome.iteration), (Trigger::Manual, None, 2));
    assert_eq!((outcome.exit, outcome.duration), (Exit::Success, secs(5)));
    let moved = handle.next_run().unwrap().duration_since(next.unwrap()).unwrap_or_default();
    assert!(moved < millis(100), "the wall clock goes on by itself: {moved:?}");
    sleep(secs(300)).await;
    assert_eq!(moments.seconds(), [0, 30, 100, 200], "and it is not one of the three");
    let triggers: Vec<_> = outcomes.lock().unwrap().iter().map(|outcome| outcome.trigger).collect();
    assert_eq!(triggers, [Trigger::Immediate, Trigger::Manual, Trigger::Schedule, Trigger::Schedule]);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.total_runs(), snapshot.total_skipped()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_though_nobody_awaits_it() {
    let (body, handle, moments, _) = heard(5);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(30)).await;
    drop(handle.run_now().unwrap());
    sleep(secs(30)).await;
    assert_eq!((moments.seconds(), handle.current_iteration()), (vec![0, 30], 2));
}

#[tokio::test(start_paused = true)]
async fn a_paused_loop_runs_it_and_stays_paused() {
    let (body, handle, moments, _) = heard(5);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(30)).await;
    handle.pause().unwrap();
    sleep(secs(10)).await;
    handle.run_now().unwrap().await.unwrap();
    assert_eq!((state(&tasks, "l"), handle.next_run()), (Some(TaskState::Paused), None));
    sleep(secs(200)).await;
    handle.run_now().unwrap().await.unwrap();
    handle.resume().unwrap();
    sleep(secs(100)).await;
    assert_eq!(moments.seconds(), [0, 40, 245, 300]);
    assert_eq!(tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_would_overlap_is_refused_and_not_counted() {
    for overlap in [OverlapPolicy::Skip, OverlapPolicy::Queue, OverlapPolicy::CancelRunning] {
        let (body, handle, moments, _) = heard(30);
        let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(overlap)));
        sleep(secs(10)).await;
        assert_eq!(refused(handle.run_now()), LoopControlError::Overlapped, "{overlap:?}");
        sleep(secs(50)).await;
        let first = handle.run_now().unwrap();
        assert_eq!(refused(handle.run_now()), LoopControlError::Overlapped, "one is on its way");
        first.await.unwrap();
        assert_eq!(moments.count(), 2);
        drop(tasks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_that_comes_while_it_runs_overlaps() {
    for (overlap, begins, overlapped) in [
        (OverlapPolicy::Skip, vec![0, 80, 200], 1),
        (OverlapPolicy::Queue, vec![0, 80, 130, 200], 0),
        (OverlapPolicy::CancelRunning, vec![0, 80, 100, 200], 1),
        (OverlapPolicy::Allow(2), vec![0, 80, 100, 200], 0),
    ] {
        let (body, handle, moments, _) = heard(50);
        let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(overlap)));
        sleep(secs(80)).await;
        let manual = handle.run_now().unwrap();
        sleep(secs(130)).await;
        assert_eq!(moments.seconds(), begins, "{overlap:?}");
        assert_eq!(tasks.snapshot("l").unwrap().skipped(SkipReason::Overlapped), overlapped, "{overlap:?}");
        let outcome = manual.await;
        match overlap {
            OverlapPolicy::CancelRunning => assert_eq!(outcome, Err(LoopControlError::NotRunning)),
            _ => assert_eq!(outcome.map(|outcome| outcome.exit), Ok(Exit::Success), "{overlap:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_run_at_once_as_may() {
    let (body, handle, moments, _) = heard(50);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(OverlapPolicy::Allow(3))));
    sleep(secs(10)).await;
    let both = (handle.run_now().unwrap(), handle.run_now().unwrap());
    assert_eq!(refused(handle.run_now()), LoopControlError::Overlapped);
    both.0.await.unwrap();
    both.1.await.unwrap();
    assert_eq!((moments.seconds(), tasks.snapshot("l").unwrap().total_skipped()), (vec![0, 10, 10], 0));
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_run_refuses_it() {
    let (body, handle, _, _) = heard(5);
    assert_eq!(refused(handle.run_now()), LoopControlError::NotRegistered);
    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::from_loop("l", body.count(1))).unwrap();
    assert_eq!(refused(handle.run_now()), LoopControlError::NotRunning, "not started");
    tasks.start();
    sleep(secs(1)).await;
    handle.stop();
    assert_eq!(refused(handle.run_now()), LoopControlError::NotRunning, "about to end");
    sleep(secs(10)).await;
    assert_eq!(refused(handle.run_now()), LoopControlError::NotRunning, "it has ended");
    assert_eq!(LoopControlError::NotRunning.to_string(), "the loop is not running");
}

#[tokio::test(start_paused = true)]
async fn who_awaits_one_that_is_dropped_is_told() {
    let (body, handle, _, _) = heard(50);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(60)).await;
    let manual = handle.run_now().unwrap();
    sleep(secs(10)).await;
    handle.cancel().unwrap();
    assert_eq!(manual.await, Err(LoopControlError::NotRunning));
}

#[tokio::test(start_paused = true)]
async fn one_of_a_fixed_delay_does_not_move_it() {
    let (body, handle, moments) = noting_on(Schedule::delay(secs(100)), 5);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(30)).await;
    handle.run_now().unwrap().await.unwrap();
    sleep(secs(80)).await;
    assert_eq!(moments.seconds(), [0, 30, 105]);
}

#[tokio::test(start_paused = true)]
async fn a_manual_iteration_is_tried_again_and_ends_the_loop_as_any_other() {
    let body = TaskLoop::every(secs(100), |ctx: TaskContext| async move {
        if ctx.iteration() == Some(1) { Ok(()) } else { Err("down") }
    })
    .retry(1, Backoff::constant(secs(3)))
    .on_error(|_| async { OnError::End });
    let handle = body.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    sleep(secs(30)).await;
    let outcome = handle.run_now().unwrap().await.unwrap();
    assert_eq!((outcome.exit.kind(), outcome.duration), (ExitKind::Failure, secs(3)));
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Failed));
}
