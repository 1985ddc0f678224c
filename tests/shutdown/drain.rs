//! The drain before the ordered shutdown.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager, events::TaskEventKind, health::HealthReason,
    task::BuildError,
};
use tokio::time::{Instant, sleep};

use crate::{
    manager::manager,
    support::{millis, secs, settle, tasks::obeys},
};

fn draining(drain: u64, deadline: u64) -> Result<TaskManager, BuildError> {
    TaskManager::builder().drain(secs(drain)).shutdown_deadline(secs(deadline)).build()
}

async fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    let mut future = future;
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn draining_manager_is_not_ready_but_continues_to_work() {
    let tasks = manager([obeys("t")], 25);
    let mut events = tasks.subscribe();
    settle().await;
    assert!(tasks.health().is_ready);
    let mut report = pin!(tasks.shutdown_after(secs(8)));
    assert!(poll_once(report.as_mut()).await.is_pending());
    // Nothing of the runtime has run since.
    let health = tasks.health();
    assert!(!health.is_ready && health.is_live, "{health}");
    assert_eq!(health.tasks[0].1.reasons, [HealthReason::Draining]);
    assert!(health.tasks[0].1.is_healthy() && health.tasks[0].1.is_ready, "{health}");
    assert_eq!(tasks.task_health("t").unwrap().reasons, [HealthReason::Draining]);
    assert!(!tasks.is_shutting_down());
    let shutting_down = tasks.shutting_down();
    tokio::pin!(shutting_down);
    sleep(secs(7)).await;
    assert!(poll_once(shutting_down.as_mut()).await.is_pending());
    tasks.register(obeys("late")).expect("registered while it drains");
    assert_eq!(tasks.spawn("s", async { Ok::<_, String>(1) }).await, Ok(Ok(1)));
    let began = Instant::now();
    shutting_down.await;
    assert_eq!(began.elapsed(), secs(1));
    let report = report.await;
    assert_eq!((report.drained, report.duration, report.deadline), (secs(8), secs(8), secs(25)));
    assert!(report.to_string().contains(", drained for 8.0s"), "{report}");
    assert!(report.is_clean() && report.tasks.iter().any(|task| &*task.name == "late"), "{report}");
    let kinds: Vec<_> = std::iter::from_fn(|| events.try_recv()).map(|event| event.kind).collect();
    let at = |word: &str| kinds.iter().position(|kind| kind.as_str() == word);
    assert!(at("draining").is_some() && at("draining") < at("shutdown_began"), "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| matches!(kind, TaskEventKind::Draining { .. })).count(), 1);
    let health = tasks.health();
    assert!(!health.is_ready && !health.to_string().contains("draining"), "{health}");
}

#[tokio::test(start_paused = true)]
async fn the_drain_is_a_part_of_the_deadline() {
    let tasks = manager([CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>())], 10);
    settle().await;
    let began = Instant::now();
    let report = tasks.shutdown_after(secs(6)).await;
    assert!(began.elapsed() <= secs(10), "{:?}", began.elapsed());
    assert!(report.duration > secs(9) && report.duration <= secs(10), "{report}");
    assert_eq!((report.drained, report.deadline), (secs(6), secs(10)));
}

#[tokio::test(start_paused = true)]
async fn a_drain_as_long_as_the_deadline_leaves_a_tenth_of_it() {
    for drain in [secs(10), secs(60), Duration::MAX] {
        let tasks = manager([obeys("t")], 10);
        settle().await;
        let report = tasks.shutdown_after(drain).await;
        assert_eq!(report.drained, secs(9));
        assert!(report.is_clean(), "{report}");
    }
    let tasks = manager([obeys("t")], 10);
    settle().await;
    let report = tasks.shutdown_after(Duration::ZERO).await;
    assert_eq!((report.drained, report.is_clean()), (Duration::ZERO, true));
    let no_deadline = manager([], 0);
    assert_eq!(no_deadline.shutdown_after(secs(1)).await.drained, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn of_two_drains_at_once_the_earlier_end_counts() {
    for (first, second, expected) in [(8, 3, 4), (3, 8, 3), (8, 0, 1)] {
        let tasks = manager([obeys("t")], 25);
        settle().await;
        let (a, b) = tokio::join!(tasks.shutdown_after(secs(first)), async {
            sleep(secs(1)).await;
            tasks.shutdown_after(secs(second)).await
        });
        assert!(Arc::ptr_eq(&a, &b), "one report");
        assert_eq!(a.drained, secs(expected), "{first}, {second}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_a_drain_and_shutdown_now_ends_everything() {
    for now in [false, true] {
        let tasks = manager([obeys("t")], 25);
        settle().await;
        let (report, _) = tokio::join!(tasks.shutdown_after(secs(20)), async {
            sleep(secs(2)).await;
            if now { tasks.shutdown_now().await } else { tasks.shutdown().await }
        });
        assert_eq!((report.drained, report.duration), (secs(2), secs(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_stops_no_drain_and_neither_does_the_last_handle() {
    for drop_the_handle in [false, true] {
        let tasks = manager([obeys("t")], 25);
        settle().await;
        let ended = tasks.shutting_down();
        let began = Instant::now();
        {
            let mut report = pin!(tasks.shutdown_after(secs(5)));
            assert!(poll_once(report.as_mut()).await.is_pending());
        }
        let kept = (!drop_the_handle).then(|| tasks.clone());
        drop(tasks);
        ended.await;
        assert_eq!(began.elapsed(), secs(5));
        drop(kept);
    }
}

#[tokio::test(start_paused = true)]
async fn task_requesting_the_drain_receives_the_report() {
    let tasks = manager([], 25);
    let weak = tasks.downgrade();
    let drained = Arc::new(AtomicBool::new(false));
    let seen = drained.clone();
    tasks
        .register(CriticalTaskConfig::new("hook", move |_| {
            let (weak, seen) = (weak.clone(), seen.clone());
            async move {
                let tasks = weak.upgrade().expect("alive");
                let report = tasks.shutdown_after(secs(4)).await;
                seen.store(report.drained == secs(4), SeqCst);
            }
        }))
        .expect("valid");
    tasks.shutting_down().await;
    let report = tasks.shutdown().await;
    assert_eq!(report.asked_by.len(), 1, "{report}");
    settle().await;
    assert!(drained.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn another_end_than_sigterm_drains_nothing() {
    let tasks = draining(8, 25).expect("valid");
    tasks.register(obeys("t")).expect("valid");
    let report = tasks.run_until(sleep(secs(1))).await;
    assert_eq!(report.drained, Duration::ZERO);
    assert!(report.duration < secs(1), "{report}");
}

#[test]
fn a_drain_that_leaves_no_time_is_refused() {
    for (drain, deadline) in [(25, 25), (30, 25), (1, 0)] {
        let error = draining(drain, deadline).map(drop).expect_err("no time is left");
        assert!(matches!(error, BuildError::DrainTooLong { .. }), "{error:?}");
        assert!(error.to_string().starts_with("drain ("), "{error}");
    }
    let tasks = draining(8, 25).expect("valid");
    assert_eq!(tasks.settings().drain, secs(8));
    assert!(draining(0, 0).is_ok());
    assert_eq!(TaskManager::new().settings().drain, Duration::ZERO);
}

/// Seen to fail without `Drain::watch`.
#[test]
fn a_blocked_runtime_ends_the_drain_all_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks = TaskManager::builder().shutdown_deadline(secs(20)).build().unwrap();
        tasks
            .register(CriticalTaskConfig::new("t", |ctx: TaskContext| async move { ctx.cancelled().await }))
            .unwrap();
        tasks.start();
        settle().await;
        {
            let mut report = pin!(tasks.shutdown_after(millis(100)));
            assert!(poll_once(report.as_mut()).await.is_pending());
        }
        let until = std::time::Instant::now() + secs(10);
        while !tasks.is_shutting_down() && std::time::Instant::now() < until {
            std::thread::sleep(millis(10));
        }
        assert!(tasks.is_shutting_down(), "though nothing of the runtime has run");
    });
}

#[tokio::test(start_paused = true)]
async fn cancelled_owned_outlives_the_context_it_is_made_of() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    let tasks = manager(
        [CriticalTaskConfig::new("http", move |ctx: TaskContext| {
            let sender = sender.clone();
            async move {
                let cancelled = tokio::spawn(ctx.cancelled_owned());
                drop(ctx);
                cancelled.await.expect("no panic");
                sender.lock().unwrap().take().map(|sender| sender.send(()));
            }
        })],
        25,
    );
    settle().await;
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    receiver.await.expect("it heard");
}
