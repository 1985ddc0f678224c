//! State of a task: a clone for each run, or one state that is lent to the runs one after the other.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, Lent, Schedule, TaskContext, TaskLoop, TaskManager,
    policy::{ERROR_TYPE_STATE_HELD, ExitKind},
    schedule::{LoopError, OverlapPolicy},
    snapshot::TaskState,
    task::RegisterError,
};
use tokio::time::sleep;

use crate::support::{
    eventually, millis, secs, settle, shown,
    tasks::{started, state},
};

/// What runs have seen of their state, in order.
type Seen = Arc<Mutex<Vec<u32>>>;

/// A task that adds one to its state in each run, and then does `then`.
fn adds<Fut>(
    seen: &Seen,
    then: impl Fn(TaskContext, Lent<u32>) -> Fut + Copy + Send + Sync + 'static,
) -> CriticalTaskConfig
where
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let seen = seen.clone();
    let config = CriticalTaskConfig::lend("t", 0, move |ctx, mut lent: Lent<u32>| {
        *lent += 1;
        seen.lock().unwrap().push(*lent);
        then(ctx, lent)
    });
    config.backoff(Backoff::constant(secs(1))).unlimited_restarts()
}

#[tokio::test(start_paused = true)]
async fn each_run_has_a_clone_of_the_state() {
    let seen = Seen::default();
    let kept = seen.clone();
    let run = |_: TaskContext, (seen, mut number): (Seen, u32)| async move {
        number += 1;
        seen.lock().unwrap().push(number);
        Err::<(), _>("again")
    };
    let config = CriticalTaskConfig::with("t", (kept.clone(), 1), run).backoff(Backoff::constant(secs(1)));
    let tasks = started(config);
    sleep(millis(2_500)).await;
    assert_eq!(*seen.lock().unwrap(), [2, 2, 2]);
    tasks.replace(CriticalTaskConfig::from_loop("t", TaskLoop::with(secs(1), (kept, 7), run))).await.unwrap();
    sleep(millis(1_500)).await;
    assert_eq!(seen.lock().unwrap()[3..], [8, 8]);
}

#[tokio::test(start_paused = true)]
async fn lent_state_outlives_errors_panics_time_limits_and_orders() {
    let seen = Seen::default();
    let config = adds(&seen, |ctx, lent| async move {
        match *lent {
            1 => return Err(io::Error::other("down")),
            2 => panic!("with the state in hand"),
            3 => std::future::pending::<()>().await,
            _ => ctx.cancelled().await,
        }
        drop(lent);
        Ok(())
    });
    let tasks = started(config.run_timeout(secs(20)));
    sleep(secs(30)).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3, 4]);
    tasks.restart("t").unwrap();
    settle().await;
    tasks.pause("t").unwrap();
    settle().await;
    tasks.resume("t").unwrap();
    settle().await;
    tasks.stop("t").unwrap();
    settle().await;
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3, 4, 5, 6, 7]);
    let task = tasks.snapshot("t").unwrap();
    assert_eq!(
        [ExitKind::Failure, ExitKind::Panic, ExitKind::Timeout].map(|kind| task.runs(kind)),
        [1, 1, 1]
    );
    assert!(tasks.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_gives_the_state_back() {
    let seen = Seen::default();
    let tasks = started(adds(&seen, |_, lent| -> std::future::Pending<io::Result<()>> {
        assert!(*lent > 1, "before there is a future");
        drop(lent);
        std::future::pending()
    }));
    sleep(secs(3)).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
}

/// A run that begins while an earlier one's state is elsewhere fails with an error that passes.
#[tokio::test(start_paused = true)]
async fn a_run_that_finds_its_state_given_away_fails_and_a_later_one_has_it() {
    let seen = Seen::default();
    let tasks = started(adds(&seen, |ctx, lent| async move {
        if *lent == 1 {
            tokio::spawn(async move {
                sleep(millis(2_500)).await;
                drop(lent);
            });
            return Err(io::Error::other("it goes on without its state"));
        }
        ctx.cancelled().await;
        drop(lent);
        Ok(())
    }));
    sleep(millis(2_200)).await;
    let task = tasks.snapshot("t").unwrap();
    let held = task.errors.iter().find(|error| error.error_type == ERROR_TYPE_STATE_HELD).expect("counted");
    assert_eq!(held.count, 2);
    let error = task.last_error.as_ref().expect("it failed");
    assert!(error.message.contains("gave it away"), "{}", error.message);
    sleep(secs(2)).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
}

/// The thread that was given the state cannot be dropped with its run.
#[tokio::test]
async fn state_that_a_blocked_thread_holds_comes_back_with_it() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let (wait, runs) = (Arc::new(Mutex::new(wait)), Arc::new(AtomicU32::new(0)));
    let counted = runs.clone();
    let config = CriticalTaskConfig::lend("t", (), move |ctx: TaskContext, lent: Lent<()>| {
        let (wait, first) = (wait.clone(), counted.fetch_add(1, SeqCst) == 0);
        async move {
            if first {
                let work = move || {
                    let _lent = lent;
                    wait.lock().unwrap().recv()
                };
                let _ = tokio::task::spawn_blocking(work).await;
            } else {
                ctx.cancelled().await;
            }
        }
    });
    let tasks =
        started(config.run_timeout(millis(50)).backoff(Backoff::constant(millis(50))).unlimited_restarts());
    let held = || {
        let task = tasks.snapshot("t").unwrap();
        task.errors
            .iter()
            .find(|error| error.error_type == ERROR_TYPE_STATE_HELD)
            .map_or(0, |error| error.count)
    };
    eventually("a run without the state", || held() > 0).await;
    assert_eq!(runs.load(SeqCst), 1);
    release.send(()).expect("the thread waits");
    eventually("a run with the state", || runs.load(SeqCst) > 1).await;
}

#[tokio::test(start_paused = true)]
async fn iterations_borrow_the_state_one_after_the_other_across_tries_panics_and_restarts() {
    let seen = Seen::default();
    let kept = seen.clone();
    let body = TaskLoop::lend(Schedule::every(secs(10)), 0, move |_, mut lent: Lent<u32>| {
        let seen = kept.clone();
        async move {
            *lent += 1;
            seen.lock().unwrap().push(*lent);
            assert_ne!(*lent, 4, "a panic is not tried again");
            if *lent < 3 { Err("again") } else { Ok(()) }
        }
    });
    let body = body.retry(2, Backoff::constant(secs(1))).overlap(OverlapPolicy::Queue);
    let tasks = started(CriticalTaskConfig::from_loop("l", body));
    sleep(secs(5)).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3], "each try has it");
    sleep(secs(20)).await;
    assert_eq!(seen.lock().unwrap()[3..], [4, 5]);
    tasks.restart("l").unwrap();
    settle().await;
    assert_eq!(seen.lock().unwrap()[5..], [6]);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_lends_may_not_overlap() {
    let tasks = TaskManager::new();
    for most in [1, 3] {
        let lends =
            TaskLoop::lend(secs(1), (), |_, _: Lent<()>| async {}).overlap(OverlapPolicy::Allow(most));
        let refused = tasks.register(CriticalTaskConfig::from_loop("l", lends));
        assert!(
            matches!(refused, Err(RegisterError::Loop { source: LoopError::LentOverlap, .. })),
            "{refused:?}"
        );
        assert!(tasks.snapshot("l").is_none());
        let clones = TaskLoop::with(secs(1), (), |_, ()| async {}).overlap(OverlapPolicy::Allow(most));
        tasks.register(CriticalTaskConfig::from_loop(format!("clones {most}"), clones)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_is_dropped_with_its_task() {
    let held = Arc::new(());
    let tasks = started(CriticalTaskConfig::lend(
        "t",
        held.clone(),
        |ctx: TaskContext, lent: Lent<Arc<()>>| async move {
            ctx.cancelled().await;
            drop(lent);
        },
    ));
    settle().await;
    assert_eq!(Arc::strong_count(&held), 2);
    tasks.unregister("t").await.unwrap();
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn lent_state_shows_itself() {
    let tasks = started(CriticalTaskConfig::lend("t", vec![1], |_, lent: Lent<Vec<i32>>| async move {
        Err::<(), _>(shown(&lent))
    }));
    eventually("an error", || tasks.snapshot("t").unwrap().last_error.is_some()).await;
    assert_eq!(tasks.snapshot("t").unwrap().last_error.unwrap().message, "Lent([1])");
}
