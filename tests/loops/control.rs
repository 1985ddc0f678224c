//! What a handle does to a loop beside stopping it, and what its schedule's bounds do.

use otel_tasks::schedule::OverlapPolicy;

use super::*;

use crate::support::WallClock;

#[tokio::test(start_paused = true)]
async fn shorter_interval_counts_only_its_own_overlaps() {
    let (body, handle, moments) = noting(100, 10);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.count(2)));
    sleep(secs(5)).await;
    handle.change_interval(secs(1)).unwrap();
    sleep(secs(6)).await;
    assert_eq!(moments.seconds(), [0, 10]);
    // 6, 7, 8 and 9; up to 5 nothing was due before 100.
    assert_eq!(tasks.snapshot("l").unwrap().skipped(SkipReason::Overlapped), 4);
}

#[tokio::test(start_paused = true)]
async fn a_changed_schedule_holds_with_its_count() {
    let (body, handle, moments) = noting(100, 0);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(20)).await;
    handle.change_schedule(Schedule::every(secs(30)).count(3)).unwrap();
    assert_eq!(handle.schedule().to_string(), "every 30s count 3");
    sleep(secs(200)).await;
    assert_eq!((moments.seconds(), state(&tasks, "l")), (vec![0, 30, 60], Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_changed_during_an_iteration_or_before_the_first_holds_from_then_on() {
    let (body, handle, moments) = noting(100, 10);
    let tasks = TaskManager::new();
    handle.change_schedule(Schedule::every(secs(50))).unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(55)).await;
    handle.change_schedule(Schedule::delay(secs(20))).unwrap();
    sleep(secs(60)).await;
    assert_eq!(moments.seconds(), [0, 50, 80, 110]);
}

#[tokio::test(start_paused = true)]
async fn change_before_the_first_iteration_restarts_the_interval() {
    let (body, handle, moments) = noting_on(Schedule::every(secs(1_000)).immediate(false), 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(10)).await;
    assert_eq!(moments.count(), 0);
    handle.change_schedule(Schedule::every(secs(40)).immediate(false)).unwrap();
    sleep(secs(85)).await;
    assert_eq!(moments.seconds(), [0, 40], "at 50 and 90");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_begins_later_is_waited_for_also_after_another() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH);
    let (body, handle, moments) = noting(10, 4);
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    let from = |seconds| Schedule::every(secs(10)).starts(SystemTime::UNIX_EPOCH + secs(seconds));
    sleep(secs(12)).await;
    handle.change_schedule(from(55)).unwrap();
    sleep(secs(20)).await;
    assert_eq!(moments.seconds(), [0, 10]);
    handle.change_schedule(from(45)).unwrap();
    sleep(secs(36)).await;
    assert_eq!(moments.seconds(), [0, 10, 45, 55, 65], "changed during an iteration, and while it waited");
    assert_eq!(tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn new_schedule_runs_beside_iterations_of_an_ended_one() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH);
    let until = Schedule::every(secs(10)).ends(SystemTime::UNIX_EPOCH + secs(5));
    let (body, handle, moments) = noting_on(until, 100);
    let body = body.overlap(OverlapPolicy::Allow(2));
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(20)).await;
    assert_eq!(handle.next_run(), None);
    handle.change_schedule(Schedule::every(secs(50))).unwrap();
    sleep(secs(40)).await;
    assert_eq!(moments.seconds(), [0, 50]);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_iteration_there_is_no_next_one() {
    let (body, handle, _) = noting(10, 4);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.count(2)));
    let next_run = || tasks.snapshot("l").unwrap().next_run;
    sleep(secs(2)).await;
    assert!(next_run().is_some(), "the first runs, and may be longer than until the second");
    assert_eq!(handle.next_run(), next_run(), "which a handle shows, too");
    sleep(secs(10)).await;
    assert_eq!((handle.current_iteration(), next_run()), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_token_taken_while_the_loop_sleeps_ends_the_life() {
    let kept = Arc::new(Mutex::new(None));
    let keeps = kept.clone();
    let body = TaskLoop::every(secs(3_600), move |ctx: TaskContext| {
        *keeps.lock().unwrap() = Some(ctx);
        async {}
    });
    let handle = body.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    settle().await;
    let context = kept.lock().unwrap().take().unwrap();
    let token = context.cancellation_token().clone();
    settle().await;
    assert!(handle.is_running());
    token.cancel();
    settle().await;
    assert!(!handle.is_running());
    drop(tasks);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stops_itself_is_finished_if_it_was_to_finish() {
    // With others beside it, the stop is seen while the iteration still runs.
    for overlap in [OverlapPolicy::Skip, OverlapPolicy::Allow(2)] {
        for (count, stops, restarts) in [(1, false, 0), (2, true, 0), (2, false, 1)] {
            let body = TaskLoop::every(secs(10), move |ctx: TaskContext| async move {
                ctx.cancellation_token().cancel();
                sleep(secs(1)).await;
            });
            let (handle, body) = (body.handle(), body.count(count).overlap(overlap));
            let tasks =
                started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Always));
            settle().await;
            if stops {
                handle.stop();
            }
            sleep(secs(60)).await;
            let restarted = tasks.snapshot("l").unwrap().total_restarts();
            assert_eq!(restarted.min(1), restarts, "{overlap:?} {count} {stops}");
            let is_finished = state(&tasks, "l") == Some(TaskState::Finished);
            assert_eq!(is_finished, restarts == 0, "{overlap:?} {count} {stops}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_delay_is_still_a_delay() {
    let (body, handle, moments) = noting_on(Schedule::delay(secs(10)), 4);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(1)).await;
    handle.change_interval(secs(20)).unwrap();
    sleep(secs(50)).await;
    assert_eq!(moments.seconds(), [0, 24, 48], "from the end of each");
}

/// A loop with an interval of ten seconds that was paused after fifteen.
async fn paused() -> (TaskManager, LoopHandle, Moments) {
    let (body, handle, moments) = noting(10, 0);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(15)).await;
    handle.pause().unwrap();
    settle().await;
    (tasks, handle, moments)
}

#[tokio::test(start_paused = true)]
async fn paused_loop_shows_its_state_and_skips_due_times() {
    let (tasks, handle, moments) = paused().await;
    assert_eq!((state(&tasks, "l"), handle.next_run()), (Some(TaskState::Paused), None));
    assert!(handle.is_running());
    sleep(secs(30)).await;
    handle.resume().unwrap();
    sleep(secs(10)).await;
    assert_eq!(moments.seconds(), [0, 10, 50]);
    assert_eq!(tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_paused_loop_finishes_when_it_is_stopped() {
    let (tasks, handle, _) = paused().await;
    handle.stop();
    settle().await;
    assert_eq!((state(&tasks, "l"), handle.is_running()), (Some(TaskState::Finished), false));
}

#[tokio::test(start_paused = true)]
async fn pause_and_resume_need_a_registered_loop() {
    let (_, handle, _) = noting(10, 0);
    assert_eq!(handle.pause(), Err(LoopControlError::NotRegistered));
    assert_eq!(handle.resume(), Err(LoopControlError::NotRegistered));
}

#[tokio::test(start_paused = true)]
async fn a_loop_is_found_by_its_name() {
    let (body, _, moments) = noting(10, 0);
    let config = CriticalTaskConfig::from_loop("l", body);
    assert_eq!(config.loop_handle().map(|handle| handle.interval()), Some(Some(secs(10))));
    let plain = CriticalTaskConfig::one_shot("plain", |_| async {});
    assert!(plain.loop_handle().is_none());
    let tasks = started(config);
    tasks.register(plain).unwrap();
    sleep(secs(5)).await;
    tasks.loop_handle("l").unwrap().stop();
    sleep(secs(60)).await;
    assert_eq!(moments.count(), 1);
    assert_eq!(tasks.loop_handle("plain").map(drop), Err(LoopControlError::NotALoop));
    assert!(tasks.loop_handle("nobody").is_err());
}

#[tokio::test(start_paused = true)]
async fn bounds_begin_and_finish_a_rhythm() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH);
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let moments = Moments::default();
    let log = moments.clone();
    let bounded = Schedule::every(secs(10))
        .starts(SystemTime::UNIX_EPOCH + secs(100))
        .ends(SystemTime::UNIX_EPOCH + secs(120));
    let body = TaskLoop::on(bounded, move |_| {
        log.note();
        async {}
    });
    let handle = body.handle();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(99)).await;
    assert_eq!(moments.count(), 0);
    assert_eq!(handle.next_run(), Some(SystemTime::UNIX_EPOCH + secs(100)));
    sleep(secs(100)).await;
    assert_eq!((moments.seconds(), state(&tasks, "l")), (vec![0, 10, 20], Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn once_is_due_at_its_instant_and_finished_then() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH);
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let moments = Moments::default();
    for (name, at) in [("future", 100), ("past", 0)] {
        let log = moments.clone();
        let body = TaskLoop::on(Schedule::once(SystemTime::UNIX_EPOCH + secs(at)), move |_| {
            log.note();
            async {}
        });
        tasks.register(CriticalTaskConfig::from_loop(name, body)).unwrap();
    }
    sleep(secs(10)).await;
    tasks.start();
    sleep(secs(200)).await;
    // What is past is missed, and takes place at once by default.
    assert_eq!(moments.seconds(), [0, 90]);
    assert_eq!(state(&tasks, "future"), Some(TaskState::Finished));
    assert_eq!(state(&tasks, "past"), Some(TaskState::Finished));
}

#[tokio::test(start_paused = true)]
async fn cancel_drops_all_that_overlap() {
    let alive = Alive::default();
    let body = deaf_loop(10, &alive);
    let (tasks, handle) = looping(body.overlap(OverlapPolicy::Allow(3)));
    sleep(secs(25)).await;
    assert_eq!(alive.now(), 3);
    handle.cancel().unwrap();
    settle().await;
    assert_eq!((alive.now(), state(&tasks, "l")), (0, Some(TaskState::Stopped)));
    assert_eq!(tasks.snapshot("l").unwrap().runs(ExitKind::Cancellation), 3);
}

#[tokio::test(start_paused = true)]
async fn overlapping_schedule_replaces_a_nonoverlapping_one() {
    let (body, handle, moments) = noting_on(Schedule::delay(secs(30)), 15);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.overlap(OverlapPolicy::Allow(2))));
    sleep(secs(5)).await;
    handle.change_schedule(Schedule::every(secs(10)).count(4)).unwrap();
    sleep(secs(100)).await;
    assert_eq!(moments.seconds(), [0, 10, 20, 30], "two may run at once");
    assert_eq!(state(&tasks, "l"), Some(TaskState::Finished));
}

#[tokio::test(start_paused = true)]
async fn times_after_the_end_of_a_schedule_do_not_count_as_skipped() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH);
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let bounded = Schedule::every(secs(10)).ends(SystemTime::UNIX_EPOCH + secs(35));
    let body = TaskLoop::on(bounded, |_| sleep(secs(300)));
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(400)).await;
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(
        (snapshot.state, snapshot.skipped(SkipReason::Overlapped)),
        (Some(TaskState::Finished), 3),
        "10, 20 and 30"
    );
}

#[tokio::test(start_paused = true)]
async fn a_missed_instant_may_be_skipped() {
    let clock = WallClock::starting(SystemTime::UNIX_EPOCH + secs(10_000));
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let moments = Moments::default();
    for (name, ago) in [("long ago", 61), ("just now", 59)] {
        let log = moments.clone();
        let body = TaskLoop::on(Schedule::once(clock.now() - secs(ago)), move |_| {
            log.note();
            async {}
        });
        let body = body.missed(otel_tasks::schedule::MissedPolicy::Skip);
        tasks.register(CriticalTaskConfig::from_loop(name, body)).unwrap();
    }
    tasks.start();
    sleep(secs(1)).await;
    assert_eq!(moments.count(), 1);
    let of = |name| {
        tasks
            .snapshot(name)
            .map(|task| (task.state, task.total_runs(), task.skipped(SkipReason::Missed)))
            .unwrap()
    };
    assert_eq!(of("long ago"), (Some(TaskState::Finished), 0, 1));
    assert_eq!(of("just now"), (Some(TaskState::Finished), 1, 0));
}
