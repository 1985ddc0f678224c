//! Iterations that somebody asks for, beside the rhythm.

use otel_tasks::{
    policy::ErrorClass,
    schedule::{ManualRun, OverlapPolicy, Trigger},
};

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
async fn manual_iteration_begins_at_once_and_keeps_the_schedule() {
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
async fn manual_iteration_runs_without_being_awaited() {
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
async fn overlapping_manual_iteration_is_refused_and_not_counted() {
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
        (OverlapPolicy::CancelRunning, vec![0, 80, 100, 200], 0),
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
async fn awaiting_a_dropped_manual_iteration_returns_an_error() {
    let (body, handle, _, _) = heard(50);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(60)).await;
    let manual = handle.run_now().unwrap();
    sleep(secs(10)).await;
    handle.cancel().unwrap();
    assert_eq!(manual.await, Err(LoopControlError::NotRunning));
}

#[tokio::test(start_paused = true)]
async fn manual_iteration_does_not_move_a_fixed_delay() {
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

/// Asks for an iteration each time the manager reads the clock, as another thread might at any moment. Keeps those that were accepted.
fn asking(
    handle: &LoopHandle,
    from: Duration,
) -> (impl Fn() -> SystemTime + Send + Sync + use<>, Arc<Mutex<Vec<ManualRun>>>) {
    let accepted: Arc<Mutex<Vec<ManualRun>>> = Arc::default();
    let (log, handle, began) = (accepted.clone(), handle.clone(), Instant::now());
    let clock = move || {
        if began.elapsed() >= from {
            log.lock().unwrap().extend(handle.run_now());
        }
        SystemTime::UNIX_EPOCH + began.elapsed()
    };
    (clock, accepted)
}

#[tokio::test(start_paused = true)]
async fn accepted_manual_iteration_begins_even_if_the_loop_ends() {
    for how in ["count", "stop", "permanent", "end of the schedule"] {
        for overlap in [OverlapPolicy::Skip, OverlapPolicy::CancelRunning, OverlapPolicy::Allow(2)] {
            let begun = Arc::new(AtomicUsize::new(0));
            let count = begun.clone();
            let schedule = Schedule::every(secs(100));
            let schedule = match how {
                "count" => schedule.count(2),
                "end of the schedule" => schedule.ends(SystemTime::UNIX_EPOCH + secs(150)),
                _ => schedule,
            };
            let body = TaskLoop::on(schedule, move |ctx: TaskContext| {
                let iteration = count.fetch_add(1, SeqCst);
                async move {
                    sleep(secs(10)).await;
                    // Those that are asked for come without end.
                    if how == "permanent" && ctx.iteration() >= Some(3) || iteration > 15 {
                        return Err("gone");
                    }
                    Ok(())
                }
            });
            let handle = body.handle();
            let (clock, accepted) = asking(&handle, secs(95));
            let tasks = TaskManager::builder().wall_clock(clock).build().unwrap();
            let config = CriticalTaskConfig::from_loop("l", body.overlap(overlap));
            let config =
                config.classify(|_: &&str| ErrorClass::Permanent).restart_policy(RestartPolicy::Never);
            tasks.register(config).unwrap();
            tasks.start();
            sleep(secs(130)).await;
            if how == "stop" {
                handle.stop();
            }
            sleep(secs(1_000)).await;
            assert!(!handle.is_running(), "{how}");
            let accepted = std::mem::take(&mut *accepted.lock().unwrap());
            assert!(!accepted.is_empty());
            for manual in accepted {
                let outcome = manual.await;
                // A time that comes drops the one that runs.
                let is_dropped = overlap == OverlapPolicy::CancelRunning;
                assert!(outcome.is_ok() || is_dropped, "{how} {overlap:?}: {outcome:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_about_to_end_refuses_it() {
    for how in ["count", "stop", "permanent", "shutdown"] {
        let heard = Log::default();
        let slot: Arc<Mutex<Option<LoopHandle>>> = Arc::default();
        let (log, own) = (heard.clone(), slot.clone());
        let body = TaskLoop::every(secs(100), move |ctx: TaskContext| async move {
            if how == "permanent" && ctx.iteration() == Some(2) { Err("gone") } else { Ok(()) }
        });
        let body = body.after_loop(move |_| {
            let run = own.lock().unwrap().as_ref().unwrap().run_now();
            log.push(format!("{:?}", run.map(drop)));
            async {}
        });
        let body = if how == "count" { body.count(2) } else { body };
        let handle = body.handle();
        *slot.lock().unwrap() = Some(handle.clone());
        let config = CriticalTaskConfig::from_loop("l", body).classify(|_: &&str| ErrorClass::Permanent);
        let tasks = started(config.restart_policy(RestartPolicy::Never));
        sleep(secs(50)).await;
        match how {
            "stop" => handle.stop(),
            "shutdown" => drop(tasks.shutdown().await),
            _ => sleep(secs(100)).await,
        }
        settle().await;
        assert_eq!(heard.lines(), ["Err(NotRunning)"], "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn manual_iteration_is_refused_after_an_ending_error() {
    let body = TaskLoop::every(secs(10), |ctx: TaskContext| async move {
        sleep(secs(25)).await;
        if ctx.iteration() == Some(1) { Err("gone") } else { Ok(()) }
    });
    let handle = body.handle();
    let body = body.overlap(OverlapPolicy::Allow(3)).on_error(|_| async { OnError::End });
    let _tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    sleep(secs(26)).await;
    assert!(handle.is_running());
    assert_eq!(refused(handle.run_now()), LoopControlError::NotRunning);
}

#[tokio::test(start_paused = true)]
async fn manual_iteration_requested_before_a_stop_still_runs() {
    let (body, handle, moments, _) = heard(5);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(30)).await;
    let manual = handle.run_now().unwrap();
    handle.stop();
    assert_eq!(manual.await.map(|outcome| outcome.exit), Ok(Exit::Success));
    assert_eq!((moments.seconds(), state(&tasks, "l")), (vec![0, 30], Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn manual_iteration_waits_for_the_before_loop_hook() {
    let (body, handle, moments, _) = heard(5);
    let body = body.before_loop(|_| async { sleep(secs(60)).await });
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(10)).await;
    let manual = handle.run_now().unwrap();
    sleep(secs(10)).await;
    assert_eq!(moments.count(), 0);
    assert_eq!(manual.await.map(|outcome| outcome.iteration), Ok(1));
}

/// Asked for at the very moment at which a time comes, before the loop has seen it: no more begin than may, whatever the policy.
#[tokio::test(start_paused = true)]
async fn beside_a_time_that_comes_no_more_begin_than_may() {
    for (overlap, takes, begins, overlapped, most) in [
        (OverlapPolicy::Skip, 30, vec![0, 100, 200], 1, 1),
        (OverlapPolicy::Queue, 30, vec![0, 100, 130, 200], 0, 1),
        (OverlapPolicy::CancelRunning, 30, vec![0, 100, 100, 200], 0, 1),
        // One runs since the beginning, and there is room for one.
        (OverlapPolicy::Allow(2), 150, vec![0, 100, 200], 1, 2),
    ] {
        let (moments, alive) = (Moments::default(), Alive::default());
        let (log, guards) = (moments.clone(), alive.clone());
        let body = TaskLoop::every(secs(100), move |_| {
            log.note();
            guards.during(sleep(secs(takes)))
        });
        let handle = body.handle();
        let (own, asked, began) = (handle.clone(), AtomicUsize::new(0), Instant::now());
        let clock = move || {
            if began.elapsed() >= secs(100) && asked.fetch_add(1, SeqCst) == 0 {
                drop(own.run_now().expect("there is room"));
            }
            SystemTime::UNIX_EPOCH + began.elapsed()
        };
        let tasks = TaskManager::builder().wall_clock(clock).build().unwrap();
        tasks.register(CriticalTaskConfig::from_loop("l", body.overlap(overlap))).unwrap();
        tasks.start();
        sleep(secs(100)).await;
        settle().await;
        if overlap == OverlapPolicy::CancelRunning {
            assert_eq!(refused(handle.run_now()), LoopControlError::Overlapped, "one runs");
        }
        sleep(secs(120)).await;
        assert_eq!((moments.seconds(), alive.most()), (begins, most), "{overlap:?}");
        assert_eq!(tasks.snapshot("l").unwrap().skipped(SkipReason::Overlapped), overlapped, "{overlap:?}");
    }
}

#[test]
fn next_manual_iteration_is_accepted_after_awaiting_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let body = TaskLoop::on(Schedule::every(secs(1_000)).immediate(false), |_| async {});
        let handle = body.handle();
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        while !handle.is_running() {
            sleep(millis(1)).await;
        }
        for _ in 0..2_000 {
            handle.run_now().expect("none runs").await.expect("it ends");
        }
        drop(tasks);
    });
}
