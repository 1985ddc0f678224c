//! What a task loop promises: its rhythm, its hooks, its handle, and how its lives end.

#[cfg(feature = "calendar")]
mod account;
#[cfg(feature = "calendar")]
mod calendars;
mod control;
mod gate;
mod hooks;
mod last_run;
#[cfg(feature = "calendar")]
mod ledger;
mod manual;
#[cfg(feature = "calendar")]
mod migration;
mod policies;
mod retries;
#[cfg(feature = "calendar")]
mod schedule;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "macros")]
mod task_loop;

use std::{
    error::Error as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, LoopHandle, RestartPolicy, Schedule, TaskContext, TaskLoop,
    TaskManager,
    policy::{Exit, ExitKind, RestartReason},
    schedule::{LoopControlError, LoopOutcome, OnError, ScheduleError},
    snapshot::{SkipReason, TaskState},
};
use support::{
    Alive, Events, millis, secs, settle, shown,
    tasks::{deaf_loop, looping, started, state},
};
use tokio::time::{Instant, sleep};

/// The seconds, since the first of them, at which something happened.
#[derive(Clone, Default)]
struct Moments(Arc<Mutex<Vec<Instant>>>);

impl Moments {
    fn note(&self) {
        self.0.lock().unwrap().push(Instant::now());
    }

    fn seconds(&self) -> Vec<u64> {
        let moments = self.0.lock().unwrap();
        moments.iter().map(|moment| (*moment - moments[0]).as_secs_f64().round() as u64).collect()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn ends_at_once(tasks: &TaskManager) {
    let report = tasks.shutdown().await;
    assert!(report.is_clean() && report.duration < secs(1), "{report}");
}

/// A loop that notes when its iterations begin, and takes `takes` each.
fn noting(every: u64, takes: u64) -> (TaskLoop, LoopHandle, Moments) {
    noting_on(Schedule::every(secs(every)), takes)
}

fn noting_on(schedule: Schedule, takes: u64) -> (TaskLoop, LoopHandle, Moments) {
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::on(schedule, move |_| {
        log.note();
        async move { sleep(secs(takes)).await }
    });
    let handle = body.handle();
    (body, handle, moments)
}

/// A loop whose iterations fail as `exit` says of their number.
fn failing(exit: impl Fn(u64) -> Result<(), &'static str> + Send + Sync + 'static) -> TaskLoop {
    let exit = Arc::new(exit);
    TaskLoop::every(secs(10), move |ctx: TaskContext| {
        let exit = exit.clone();
        async move { exit(ctx.iteration().expect("a loop's context counts")) }
    })
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_iteration_runs_at_once_and_the_others_at_the_interval() {
    let (body, handle, moments) = noting(10, 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    settle().await;
    assert_eq!(moments.count(), 1);
    assert_eq!(handle.interval(), Some(secs(10)));
    sleep(secs(35)).await;
    assert_eq!(moments.seconds(), [0, 10, 20, 30]);
}

#[tokio::test(start_paused = true)]
async fn each_iteration_is_a_run_with_its_number() {
    let seen = Log::default();
    let log = seen.clone();
    let body = TaskLoop::every(secs(10), move |ctx: TaskContext| {
        log.push(format!("{} {} {:?}", ctx.name(), ctx.generation(), ctx.iteration()));
        async {}
    });
    let (tasks, handle) = looping(body);
    sleep(secs(15)).await;
    handle.restart().unwrap();
    settle().await;
    assert_eq!(seen.lines(), ["l 1 Some(1)", "l 1 Some(2)", "l 2 Some(1)"]);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.total_runs(), snapshot.interval), (3, Some(secs(10))));
}

#[tokio::test(start_paused = true)]
async fn a_reached_count_is_finished_and_never_restarted() {
    let (body, handle, moments) = noting(10, 0);
    let config = CriticalTaskConfig::from_loop("l", body.count(3)).restart_policy(RestartPolicy::Always);
    let tasks = started(config);
    sleep(secs(3_600)).await;
    assert_eq!(moments.seconds(), [0, 10, 20]);
    assert_eq!(state(&tasks, "l"), Some(TaskState::Finished));
    assert!(!handle.is_running() && !handle.failed());
    assert_eq!((handle.current_iteration(), handle.next_run()), (3, None));
    assert_eq!(tasks.snapshot("l").unwrap().total_restarts(), 0);
    assert!(tasks.task_health("l").unwrap().is_healthy(), "finished is well");
}

#[tokio::test(start_paused = true)]
async fn finished_loop_runs_again_after_a_manual_restart() {
    let (body, handle, moments) = noting(10, 0);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.count(2)));
    sleep(secs(60)).await;
    handle.restart().unwrap();
    sleep(secs(60)).await;
    assert_eq!((moments.count(), state(&tasks, "l")), (4, Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn hooks_are_called_in_their_order() {
    let log = Log::default();
    let (before, after, each, body) = (log.clone(), log.clone(), log.clone(), log.clone());
    let body = TaskLoop::every(secs(10), move |ctx: TaskContext| {
        body.push(format!("body {}", ctx.iteration().unwrap()));
        async {}
    })
    .count(2)
    .before_loop(move |_| {
        let before = before.clone();
        async move {
            sleep(secs(5)).await;
            before.push("before");
        }
    })
    .after_iteration(move |outcome: LoopOutcome| {
        let each = each.clone();
        async move { each.push(format!("after {} {}", outcome.iteration, outcome.exit.kind().as_str())) }
    })
    .after_loop(move |_| {
        let after = after.clone();
        async move { after.push("end") }
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(1)).await;
    assert!(log.lines().is_empty(), "the loop waits for its first hook");
    sleep(secs(60)).await;
    assert_eq!(log.lines(), ["before", "body 1", "after 1 success", "body 2", "after 2 success", "end"]);
    assert_eq!(state(&tasks, "l"), Some(TaskState::Finished));
}

#[tokio::test(start_paused = true)]
async fn error_hook_decides_whether_the_loop_continues() {
    let log = Log::default();
    let (each, errors) = (log.clone(), log.clone());
    let body = failing(|iteration| if iteration % 2 == 0 { Err("even") } else { Ok(()) })
        .after_iteration(move |outcome| {
            each.push(format!("after {}", outcome.iteration));
            async {}
        })
        .on_error(move |outcome: LoopOutcome| {
            errors.push(format!("error {}: {}", outcome.iteration, outcome.exit.message()));
            async move { if outcome.iteration < 4 { OnError::Continue } else { OnError::End } }
        });
    let handle = body.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
    sleep(secs(100)).await;
    assert_eq!(
        log.lines(),
        ["after 1", "after 2", "error 2: even", "after 3", "after 4", "error 4: even"],
        "and no iteration after the end"
    );
    assert!(handle.failed() && !handle.is_running());
    assert_eq!(state(&tasks, "l"), Some(TaskState::Failed));
    assert_eq!(tasks.snapshot("l").unwrap().total_errors(), 2, "an error that is gone on after is an error");
}

#[tokio::test(start_paused = true)]
async fn on_error_ends_the_life_and_the_policy_decides() {
    let lives = Arc::new(AtomicUsize::new(0));
    let (count, ends) = (lives.clone(), Arc::new(AtomicUsize::new(0)));
    let ended = ends.clone();
    let body = failing(|iteration| if iteration == 2 { Err("second") } else { Ok(()) })
        .before_loop(move |_| {
            count.fetch_add(1, SeqCst);
            async {}
        })
        .after_loop(move |_| {
            ended.fetch_add(1, SeqCst);
            async {}
        })
        .on_error(|_| async { OnError::End });
    let handle = body.handle();
    let config = CriticalTaskConfig::from_loop("l", body).give_up(GiveUp::ForGood);
    let tasks = started(config.backoff(Backoff::constant(secs(100))).max_restarts(2, secs(3_600)));
    sleep(secs(50)).await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Backoff));
    assert!(handle.failed() && !handle.is_running());
    assert_eq!((handle.current_iteration(), ends.load(SeqCst)), (2, 1));
    assert!(matches!(handle.last_result(), Some(Exit::Failure(failure)) if failure.message == "second"));
    sleep(secs(61)).await;
    assert!(handle.is_running() && !handle.failed(), "a new life, not failed yet");
    assert_eq!((handle.current_iteration(), lives.load(SeqCst)), (1, 2));
    sleep(secs(600)).await;
    assert_eq!((state(&tasks, "l"), lives.load(SeqCst)), (Some(TaskState::Failed), 3));
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(snapshot.total_restarts(), 2, "restarts are between lives, not iterations");
    assert_eq!(snapshot.total_runs(), 6, "iterations are the runs");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_body_is_a_failed_iteration() {
    for how in ["before its first await", "in its future"] {
        let body = TaskLoop::every(secs(10), move |_| {
            assert!(how != "before its first await", "at once");
            async { panic!("later") }
        });
        let (handle, errors) = (body.handle(), Arc::new(AtomicU64::new(0)));
        let count = errors.clone();
        let body = body.on_error(move |outcome| {
            count.fetch_add(u64::from(outcome.exit.kind() == ExitKind::Panic), SeqCst);
            async { OnError::Continue }
        });
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(25)).await;
        assert_eq!(errors.load(SeqCst), 3, "{how}");
        assert!(handle.is_running(), "{how}");
        assert!(matches!(handle.last_result(), Some(Exit::Panic(_))), "{how}");
        assert_eq!(tasks.snapshot("l").unwrap().runs(ExitKind::Panic), 3, "{how}");
    }
}

/// Hooks that panic: when they are called, or in their future.
fn broken<T: Send + 'static>(at_once: bool) -> impl Future<Output = T> + Send + 'static {
    assert!(!at_once, "a hook, at once");
    async { panic!("a hook, later") }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_hook_is_logged_and_ignored() {
    for at_once in [true, false] {
        let (events, _guard) = Events::record();
        let (body, handle, moments) = noting(10, 0);
        let body = body
            .count(2)
            .before_loop(move |_| broken::<()>(at_once))
            .after_iteration(move |_| broken(at_once))
            .after_loop(move |_| broken(at_once));
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(60)).await;
        assert_eq!((moments.count(), state(&tasks, "l")), (2, Some(TaskState::Finished)), "{at_once}");
        assert!(!handle.failed(), "{at_once}");
        let records = events.named("task.hook.panicked");
        let hooks: Vec<_> = records
            .iter()
            .map(|record| record.message().split_whitespace().nth(1).unwrap_or_default().to_owned())
            .collect();
        assert_eq!(hooks, ["before_loop", "after_iteration", "after_iteration", "after_loop"]);
        assert!(records.iter().all(|record| record.field("task.name") == "l"), "{records:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_error_hook_is_logged_and_ignored() {
    for at_once in [true, false] {
        let (events, _guard) = Events::record();
        let body = failing(|_| Err("always")).on_error(move |_| broken(at_once));
        let tasks = started(CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Never));
        sleep(secs(15)).await;
        assert_eq!(state(&tasks, "l"), Some(TaskState::Running), "{at_once}");
        assert_eq!(tasks.snapshot("l").unwrap().total_runs(), 2, "{at_once}");
        assert_eq!(events.count("task.hook.panicked", "l"), 2, "{at_once}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_whose_destructor_panics_is_contained() {
    struct Bomb;
    impl Future for Bomb {
        type Output = ();
        fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
            std::task::Poll::Ready(())
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a hook's destructor");
        }
    }
    let (body, _, moments) = noting(10, 0);
    let tasks = started(CriticalTaskConfig::from_loop("l", body.before_loop(|_| Bomb)));
    sleep(secs(15)).await;
    assert_eq!((moments.count(), state(&tasks, "l")), (2, Some(TaskState::Running)));
}

#[tokio::test(start_paused = true)]
async fn a_changed_interval_moves_a_sleeper() {
    let (body, handle, moments) = noting(100, 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(20)).await;
    handle.change_interval(secs(30)).unwrap();
    sleep(secs(50)).await;
    assert_eq!(moments.seconds(), [0, 30, 60], "counted from the iteration before");
    handle.change_interval(secs(5)).unwrap();
    settle().await;
    assert_eq!(moments.seconds(), [0, 30, 60, 70], "at once, where that is past");
    assert_eq!(handle.interval(), Some(secs(5)));
}

#[tokio::test(start_paused = true)]
async fn an_interval_changed_while_an_iteration_runs_counts_from_that_iteration() {
    let (body, handle, moments) = noting(100, 10);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(5)).await;
    handle.change_interval(secs(20)).unwrap();
    sleep(secs(50)).await;
    assert_eq!(moments.seconds(), [0, 20, 40]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_changed_before_the_first_run_holds_from_the_first_iteration() {
    let (body, handle, moments) = noting(100, 0);
    let tasks = TaskManager::new();
    handle.change_interval(secs(50)).expect("even before it is registered");
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    handle.change_interval(secs(7)).unwrap();
    tasks.start();
    sleep(secs(15)).await;
    assert_eq!(moments.seconds(), [0, 7, 14]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_is_refused_and_the_old_one_stays() {
    let (body, handle, moments) = noting(10, 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    let error = handle.change_interval(Duration::ZERO).expect_err("no interval");
    assert_eq!(error, LoopControlError::Schedule(ScheduleError::ZeroInterval));
    assert_eq!(error.source().map(ToString::to_string), Some(ScheduleError::ZeroInterval.to_string()));
    sleep(secs(15)).await;
    assert_eq!((moments.seconds(), handle.interval()), (vec![0, 10], Some(secs(10))));
}

#[tokio::test(start_paused = true)]
async fn a_changed_interval_survives_a_restart() {
    let (body, handle, moments) = noting(100, 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(3)).await;
    handle.change_interval(secs(10)).unwrap();
    handle.restart().unwrap();
    sleep(secs(15)).await;
    assert_eq!(moments.seconds(), [0, 3, 13]);
}

#[tokio::test(start_paused = true)]
async fn stop_wakes_a_sleeper_at_once() {
    let ended = Moments::default();
    let log = ended.clone();
    let (body, handle, moments) = noting(3_600, 0);
    let body = body.after_loop(move |_| {
        log.note();
        async {}
    });
    let config = CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Always);
    let tasks = started(config);
    sleep(secs(10)).await;
    assert!(handle.is_running() && handle.next_run().is_some());
    handle.stop();
    settle().await;
    assert_eq!(state(&tasks, "l"), Some(TaskState::Finished));
    assert!(!handle.is_running() && handle.next_run().is_none());
    assert_eq!(ended.count(), 1);
    sleep(secs(7_200)).await;
    assert_eq!(moments.count(), 1, "never restarted by itself, whatever the policy");
}

#[tokio::test(start_paused = true)]
async fn stop_lets_the_iteration_under_way_finish() {
    let alive = Alive::default();
    let guards = alive.clone();
    let body = TaskLoop::every(secs(100), move |ctx: TaskContext| {
        guards.during(async move {
            sleep(secs(50)).await;
            assert!(!ctx.is_cancelled(), "a stopped loop's iteration is not asked to hurry");
        })
    });
    let (tasks, handle) = looping(body);
    sleep(secs(10)).await;
    handle.stop();
    sleep(secs(30)).await;
    assert_eq!((alive.now(), handle.is_running()), (1, true));
    sleep(secs(20)).await;
    assert_eq!((alive.now(), state(&tasks, "l")), (0, Some(TaskState::Finished)));
    assert_eq!(tasks.snapshot("l").unwrap().runs(ExitKind::Success), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_start_has_no_effect() {
    let (body, handle, moments) = noting(10, 0);
    handle.stop();
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(15)).await;
    assert_eq!(moments.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn cancel_drops_the_iteration_under_way() {
    let alive = Alive::default();
    let guards = alive.clone();
    let body = TaskLoop::every(secs(100), move |_| {
        guards.during(async move {
            sleep(secs(50)).await;
        })
    });
    let handle = body.handle();
    let config = CriticalTaskConfig::from_loop("l", body).restart_policy(RestartPolicy::Always);
    let tasks = started(config);
    sleep(secs(10)).await;
    handle.cancel().unwrap();
    settle().await;
    assert_eq!((alive.now(), state(&tasks, "l")), (0, Some(TaskState::Stopped)));
    assert!(!handle.is_running() && !handle.failed());
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.runs(ExitKind::Cancellation), snapshot.total_errors()), (1, 0));
    sleep(secs(3_600)).await;
    assert_eq!(alive.total(), 1, "not restarted by itself");
}

#[tokio::test(start_paused = true)]
async fn restart_ends_this_life_and_begins_with_iteration_one() {
    let alive = Alive::default();
    let guards = alive.clone();
    let body = TaskLoop::every(secs(10), move |ctx: TaskContext| {
        guards.during(async move {
            tokio::select! {
                () = ctx.cancelled() => sleep(secs(2)).await,
                () = sleep(secs(8)) => {}
            }
        })
    });
    let (tasks, handle) = looping(body);
    sleep(secs(25)).await;
    assert_eq!(handle.current_iteration(), 3);
    handle.restart().unwrap();
    sleep(secs(1)).await;
    assert_eq!(alive.total(), 3, "the iteration under way has its grace");
    sleep(secs(2)).await;
    assert_eq!((handle.current_iteration(), alive.total(), alive.most()), (1, 4, 1));
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(snapshot.restarts(RestartReason::Requested), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handle_shows_the_loop_as_it_is() {
    let (body, handle, _) = noting(100, 10);
    assert!(!handle.is_running() && !handle.failed());
    assert_eq!((handle.current_iteration(), handle.next_run()), (0, None));
    assert!(handle.last_result().is_none());
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(5)).await;
    assert!(handle.is_running());
    assert_eq!(handle.current_iteration(), 1, "one is under way");
    assert!(handle.next_run().is_some(), "and the next one is known");
    assert!(handle.last_result().is_none());
    sleep(secs(10)).await;
    assert_eq!(handle.last_result(), Some(Exit::Success));
    let before = SystemTime::now();
    let next = handle.next_run().expect("asleep");
    let ahead = next.duration_since(before).expect("it lies ahead");
    // Planned when the iteration had ended, 90 s before it is due; the wall clock stands still in paused time.
    assert!(ahead > secs(88) && ahead <= secs(91), "{ahead:?}");
    assert_eq!(tasks.snapshot("l").unwrap().next_run, Some(next));
}

#[tokio::test(start_paused = true)]
async fn handle_of_an_unregistered_loop_returns_not_registered() {
    let (body, handle, _) = noting(10, 0);
    assert_eq!(handle.cancel(), Err(LoopControlError::NotRegistered));
    assert_eq!(handle.restart(), Err(LoopControlError::NotRegistered));
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    settle().await;
    tasks.unregister("l").await.unwrap();
    assert_eq!(handle.cancel(), Err(LoopControlError::NotRegistered));
    assert_eq!(handle.restart(), Err(LoopControlError::NotRegistered));
    assert!(!handle.is_running());
    assert_eq!(LoopControlError::NotRegistered.to_string(), "the loop is not registered with a manager");
}

#[tokio::test(start_paused = true)]
async fn a_body_as_long_as_its_interval_misses_nothing_and_never_overlaps() {
    let alive = Alive::default();
    let guards = alive.clone();
    let body = TaskLoop::every(secs(10), move |_| {
        guards.during(async move {
            sleep(secs(10)).await;
        })
    });
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(95)).await;
    assert_eq!(alive.most(), 1);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(snapshot.total_runs() + snapshot.skipped(SkipReason::Overlapped), 9, "{snapshot:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sleeper_is_healthy_while_its_next_iteration_lies_ahead() {
    let (body, _, moments) = noting(7_200, 0);
    let config = CriticalTaskConfig::from_loop("l", body).heartbeat_timeout(secs(60));
    let tasks = started(config);
    sleep(secs(7_000)).await;
    let health = tasks.task_health("l").unwrap();
    assert!(health.is_healthy() && health.is_ready && health.reasons.is_empty(), "{health:?}");
    assert_eq!((moments.count(), tasks.snapshot("l").unwrap().stalls), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_stalls_is_restarted() {
    let body = TaskLoop::every(secs(10), |_| std::future::pending::<()>());
    let config = CriticalTaskConfig::from_loop("l", body).heartbeat_timeout(secs(60));
    let tasks = started(config.shutdown_grace(secs(1)).health_check_interval(secs(60)));
    sleep(secs(100)).await;
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(snapshot.restarts(RestartReason::Stalled), 1, "at 60 s, and the next at 121 s");
}

#[tokio::test(start_paused = true)]
async fn an_iteration_that_passes_the_run_timeout_is_dropped() {
    let (body, handle, moments) = noting(10, 60);
    let body = body.on_error(|_| async { OnError::Continue });
    let tasks = started(CriticalTaskConfig::from_loop("l", body).run_timeout(secs(4)));
    sleep(secs(25)).await;
    assert_eq!(moments.seconds(), [0, 10, 20]);
    assert_eq!(handle.last_result(), Some(Exit::Timeout(secs(4))));
    assert_eq!(tasks.snapshot("l").unwrap().runs(ExitKind::Timeout), 3);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_handle_control_the_same_loop() {
    let (body, handle, moments) = noting(10, 0);
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    let other = handle.clone();
    settle().await;
    drop(handle);
    other.stop();
    sleep(millis(20_000)).await;
    assert_eq!(moments.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_on_a_loop_that_waits_for_its_start_or_restart_keeps_it_from_beginning() {
    let (body, handle, moments) = noting(10, 0);
    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::from_loop("waiting", body)).unwrap();
    handle.stop();
    settle().await;
    tasks.start();
    sleep(secs(60)).await;
    assert_eq!(moments.count(), 0);
    assert_eq!(tasks.snapshot("waiting").unwrap().state, Some(TaskState::Stopped));

    let failing =
        TaskLoop::every(secs(10), |_| async { Err::<(), _>("broken") }).on_error(|_| async { OnError::End });
    let handle = failing.handle();
    let slowly = CriticalTaskConfig::from_loop("failing", failing).backoff(Backoff::constant(secs(30)));
    tasks.register(slowly).unwrap();
    sleep(secs(1)).await;
    assert_eq!(tasks.snapshot("failing").unwrap().state, Some(TaskState::Backoff));
    handle.stop();
    sleep(secs(600)).await;
    let snapshot = tasks.snapshot("failing").unwrap();
    assert_eq!((snapshot.state, snapshot.total_runs()), (Some(TaskState::Stopped), 1));
    handle.restart().unwrap();
    sleep(secs(1)).await;
    assert_eq!(tasks.snapshot("failing").unwrap().total_runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn endless_before_loop_hook_does_not_delay_a_stop() {
    let (body, _, moments) = noting(10, 0);
    let waiting = body.before_loop(|_| std::future::pending::<()>());
    let tasks = started(CriticalTaskConfig::from_loop("waiting", waiting));
    sleep(secs(1)).await;
    ends_at_once(&tasks).await;
    assert_eq!(moments.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_holds_though_the_iteration_under_way_fails() {
    let fails = TaskLoop::every(secs(60), |_| async {
        sleep(secs(5)).await;
        Err::<(), _>("down")
    });
    let (tasks, handle) = looping(fails);
    sleep(secs(1)).await;
    handle.stop();
    sleep(secs(200)).await;
    let task = tasks.snapshot("l").expect("known");
    assert_eq!((task.state, task.total_restarts()), (Some(TaskState::Finished), 0));
    assert!(!handle.failed(), "the iteration failed, not the loop");
}

#[tokio::test(start_paused = true)]
async fn an_interval_longer_than_any_clock_is_a_loop_that_runs_once() {
    let once = TaskLoop::every(Duration::MAX, |_| async {});
    let (tasks, handle) = looping(once);
    sleep(secs(1)).await;
    assert_eq!((state(&tasks, "l"), handle.current_iteration()), (Some(TaskState::Running), 1));
    handle.change_interval(secs(10)).unwrap();
    sleep(secs(10)).await;
    handle.change_interval(Duration::MAX).unwrap();
    sleep(secs(10)).await;
    assert_eq!((state(&tasks, "l"), handle.current_iteration()), (Some(TaskState::Running), 2));
}

#[tokio::test(start_paused = true)]
async fn handle_returns_the_last_result_until_the_next_one() {
    let body = TaskLoop::every(secs(60), |ctx| async move {
        sleep(secs(5)).await;
        if ctx.generation() == 1 { Err("down") } else { Ok(()) }
    })
    .on_error(|_| async { OnError::End });
    let handle = body.handle();
    let config = CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(1)));
    let _tasks = started(config);
    sleep(secs(3)).await;
    assert_eq!(handle.last_result(), None);
    // Seen to fail where a new life forgets it.
    sleep(secs(5)).await;
    assert_eq!(handle.current_iteration(), 1);
    assert_eq!(handle.last_result().map(|exit| exit.kind()), Some(ExitKind::Failure));
    sleep(secs(5)).await;
    assert_eq!(handle.last_result(), Some(Exit::Success));
}

#[tokio::test(start_paused = true)]
async fn hooks_after_an_iteration_find_its_result_and_its_due_time_on_the_handle() {
    let body = TaskLoop::every(secs(60), |_| async { Err::<(), _>("down") });
    let handle = body.handle();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = || {
        let (handle, seen) = (handle.clone(), seen.clone());
        move |outcome: LoopOutcome| {
            let kind = handle.last_result().map(|exit| exit.kind());
            seen.lock().unwrap().push((kind, handle.last_run() == outcome.due));
        }
    };
    let (after, on_error) = (see(), see());
    let body = body.after_iteration(move |outcome| {
        after(outcome);
        async {}
    });
    let body = body.on_error(move |outcome| {
        on_error(outcome);
        async { OnError::Continue }
    });
    let _tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(1)).await;
    assert_eq!(*seen.lock().unwrap(), [(Some(ExitKind::Failure), true); 2]);
}
