//! Work that blocks its thread, and futures that are not `Send`.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskError, TaskManager, policy::ExitKind, shutdown::ShutdownOutcome,
};
use tokio::task::LocalSet;

use crate::support::{eventually, millis, secs};

fn manager() -> TaskManager {
    TaskManager::builder().shutdown_deadline(secs(1)).build().unwrap()
}

#[tokio::test]
async fn blocking_work_is_a_run_with_a_result() {
    let tasks = manager();
    let sum = tasks.spawn_blocking("sum", |_| Ok::<_, std::io::Error>((1..=10).sum::<u32>()));
    assert_eq!(sum.await.unwrap().unwrap(), 55);
    let failed = tasks.spawn_blocking("sum", |_| Err::<(), _>("overflow"));
    assert_eq!(failed.await, Ok(Err("overflow")));
    let panicked = tasks.spawn_blocking("sum", |_| -> () { panic!("out of paper") });
    assert!(matches!(panicked.await, Err(TaskError::Panicked(panic)) if panic.text == "out of paper"));
    let snapshot = tasks.snapshot("sum").unwrap();
    let runs = |kind: ExitKind| snapshot.runs(kind);
    assert_eq!((runs(ExitKind::Success), runs(ExitKind::Failure), runs(ExitKind::Panic)), (1, 1, 1));
    assert_eq!((snapshot.active, snapshot.last_error.unwrap().message.contains("out of paper")), (0, true));
}

#[tokio::test]
async fn blocking_work_blocks_no_worker_and_is_no_slow_poll() {
    let tasks = TaskManager::builder().slow_poll(millis(20)).build().unwrap();
    let mut events = tasks.subscribe();
    tasks.spawn_blocking("import", |_| std::thread::sleep(millis(300))).await.unwrap();
    let snapshot = tasks.snapshot("import").unwrap();
    assert_eq!((snapshot.slow_polls, snapshot.longest_poll), (0, Duration::ZERO));
    assert!(snapshot.longest_run >= millis(300));
    assert!(events.try_recv().is_none(), "no event of a slow poll");
}

#[tokio::test]
async fn shutdown_cancels_blocking_work_and_waits_for_it() {
    let tasks = manager();
    let (ended, waits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (says_ended, says_waits) = (ended.clone(), waits.clone());
    let work = tasks.spawn_blocking("poller", move |stop| {
        assert!(!stop.wait_timeout(millis(1)) && !stop.is_stopped());
        says_waits.store(true, SeqCst);
        assert!(stop.wait_timeout(secs(60)) && stop.is_stopped());
        says_ended.store(true, SeqCst);
    });
    eventually("it waits", || waits.load(SeqCst)).await;
    let began = Instant::now();
    let report = tasks.shutdown().await;
    assert!(began.elapsed() < secs(1), "it woke at once");
    assert!(ended.load(SeqCst) && report.is_clean(), "{report}");
    work.await.unwrap();
}

#[tokio::test]
async fn blocking_work_is_refused_during_a_shutdown() {
    let tasks = manager();
    tasks.shutdown().await;
    assert_eq!(tasks.spawn_blocking("late", |_| ()).await, Err(TaskError::ShuttingDown));
    let local = LocalSet::new();
    let refused = local.run_until(async { tasks.spawn_local("late", async {}).await });
    assert_eq!(refused.await, Err(TaskError::ShuttingDown));
}

#[tokio::test]
async fn a_future_that_is_not_send_runs_on_its_local_set() {
    let tasks = manager();
    let local = LocalSet::new();
    let inner = tasks.clone();
    let answer = local.run_until(async move {
        let shared = Rc::new(41);
        inner
            .spawn_local("local", async move {
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(*shared + 1)
            })
            .await
    });
    assert_eq!(answer.await.unwrap().unwrap(), 42);
    assert_eq!(tasks.snapshot("local").unwrap().runs(ExitKind::Success), 1);
}

#[tokio::test]
async fn a_local_task_that_is_deaf_is_dropped_at_shutdown() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(2)).spawn_grace(millis(50)).build().unwrap();
    let local = LocalSet::new();
    let inner = tasks.clone();
    let report = local.run_until(async move {
        let held = Rc::new(());
        drop(inner.spawn_local("deaf", async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        inner.shutdown().await
    });
    let report = report.await;
    assert_eq!(report.count(ShutdownOutcome::Aborted), 1, "{report}");
}

/// Fails if a thread that cannot be started is a panic, or leaves a run behind that the shutdown waits for.
#[test]
fn blocking_work_that_gets_no_thread_is_an_error_and_nothing_is_left_of_it() {
    // No address space has room for such a stack.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(1 << 46)
        .build()
        .expect("a runtime without further threads");
    runtime.block_on(async {
        let tasks = TaskManager::new();
        let refused = tasks.spawn_blocking("refused", |_| {});
        assert_eq!(refused.await, Err(TaskError::NoThread));
        let began = Instant::now();
        let report = tasks.shutdown().await;
        assert!(report.is_clean() && began.elapsed() < secs(10), "{report}");
        assert_eq!(tasks.snapshot("refused").map_or(0, |task| task.active), 0);
    });
}

/// Fails if blocking work is not recognised as the task that it belongs to: both would wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_may_be_replaced_and_unregistered_by_its_own_blocking_work() {
    for replaces in [true, false] {
        let tasks = TaskManager::new();
        let weak = tasks.downgrade();
        let config = CriticalTaskConfig::new("x", move |ctx: TaskContext| {
            let weak = weak.clone();
            async move {
                let first = ctx.generation() == 1;
                drop(ctx.task("own").spawn_blocking(move |_| {
                    let Some(tasks) = weak.upgrade().filter(|_| first) else { return };
                    let call = async {
                        if replaces {
                            let other = CriticalTaskConfig::new("x", |ctx: TaskContext| async move {
                                ctx.cancelled().await;
                            });
                            tasks.replace(other).await.expect("replaced");
                        } else {
                            tasks.unregister("x").await.expect("registered");
                        }
                    };
                    tokio::runtime::Handle::current().block_on(call);
                }));
                ctx.cancelled().await;
            }
        });
        let began = Instant::now();
        tasks.register(config.shutdown_grace(secs(30))).expect("valid");
        tasks.start();
        let is_done = || {
            tasks.task_names().is_empty() != replaces
                && tasks.snapshot("own").is_some_and(|own| own.total_runs() > 0)
        };
        while !is_done() {
            assert!(began.elapsed() < secs(20), "it waits for itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
