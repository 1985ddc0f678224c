//! A task that blocks its thread sees that it is to stop.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager,
    policy::{DependencyLoss, StallAction},
    snapshot::TaskState,
};

use crate::support::{millis, secs};

/// A run that does not await ends within this time, or for ever is how long it takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn manager() -> TaskManager {
    TaskManager::builder().shutdown_deadline(secs(30)).build().expect("valid")
}

/// Blocks the thread until that is true. Fails where it never is.
fn until(what: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !what() {
        assert!(began.elapsed() < PATIENCE, "it never saw the stop");
        std::thread::sleep(millis(2));
    }
}

async fn eventually(what: impl Fn() -> bool) {
    let all = async {
        while !what() {
            tokio::time::sleep(millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("in time");
}

/// A task whose poll lasts until it sees that it is to stop: by its flag, or by its token. Counts its runs and the ends that it has seen.
fn busy(by_token: bool, begun: &Arc<AtomicUsize>, seen: &Arc<AtomicUsize>) -> CriticalTaskConfig {
    let (begun, seen) = (begun.clone(), seen.clone());
    CriticalTaskConfig::new("busy", move |ctx: TaskContext| {
        let (begun, seen) = (begun.clone(), seen.clone());
        async move {
            let token = by_token.then(|| ctx.cancellation_token().clone());
            begun.fetch_add(1, SeqCst);
            until(|| token.as_ref().map_or_else(|| ctx.is_cancelled(), |token| token.is_cancelled()));
            assert!(ctx.is_cancelled());
            // Completes at once, too.
            ctx.cancelled().await;
            seen.fetch_add(1, SeqCst);
        }
    })
    .poll_timeout(secs(600))
}

/// Fails if only the driver makes the request, which waits for the poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_poll_that_does_not_return_sees_each_kind_of_stop() {
    for by_token in [false, true] {
        let (begun, seen) = (Arc::default(), Arc::default());
        let tasks = manager();
        tasks.register(busy(by_token, &begun, &seen)).unwrap();
        tasks.start();
        let state = || tasks.snapshot("busy").and_then(|busy| busy.state);
        let runs = |count| {
            eventually({
                let begun = begun.clone();
                move || begun.load(SeqCst) == count
            })
        };
        runs(1).await;
        assert_eq!(tasks.restart("busy").unwrap(), Duration::ZERO);
        runs(2).await;
        assert_eq!(seen.load(SeqCst), 1);
        tasks.stop("busy").unwrap();
        eventually(|| state() == Some(TaskState::Stopped)).await;
        assert_eq!(tasks.snapshot("busy").unwrap().total_restarts(), 1, "a stop is no end by itself");
        tasks.restart("busy").unwrap();
        runs(3).await;
        tasks.pause("busy").unwrap();
        eventually(|| state() == Some(TaskState::Paused)).await;
        tasks.resume("busy").unwrap();
        runs(4).await;
        tasks.unregister("busy").await.unwrap();
        assert_eq!(seen.load(SeqCst), 4);
        tasks.register(busy(by_token, &begun, &seen)).unwrap();
        runs(5).await;
        let report = tasks.shutdown().await;
        assert!(report.is_clean() && report.duration < PATIENCE, "{report}");
        assert_eq!(seen.load(SeqCst), 5);
    }
}

/// Fails if only the driver requests a stop after a stall.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_poll_that_does_not_return_sees_that_it_stalled() {
    let (begun, seen) = (Arc::default(), Arc::default());
    let tasks = manager();
    let stalls = busy(false, &begun, &seen).poll_timeout(millis(200)).on_stall(StallAction::Restart);
    tasks.register(stalls).unwrap();
    tasks.start();
    eventually(|| begun.load(SeqCst) == 2).await;
    assert_eq!(seen.load(SeqCst), 1);
    assert!(tasks.shutdown().await.is_clean());
}

/// Fails if the runs that a task owns are requested to stop by its driver alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owned_work_is_asked_though_its_owner_does_not_return() {
    let ended = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicBool::new(false));
    let tasks = manager();
    let owner = {
        let (ended, begun) = (ended.clone(), begun.clone());
        CriticalTaskConfig::new("owner", move |ctx: TaskContext| {
            let (ended, begun) = (ended.clone(), begun.clone());
            async move {
                let polled = ended.clone();
                ctx.task("child").spawn_with(move |child: TaskContext| async move {
                    child.cancelled().await;
                    polled.fetch_add(1, SeqCst);
                });
                let blocking = ended.clone();
                ctx.task("blocking").spawn_blocking(move |stop| {
                    until(|| stop.is_stopped());
                    blocking.fetch_add(1, SeqCst);
                });
                // A task that was spawned last is not taken from a worker that blocks.
                tokio::time::sleep(millis(50)).await;
                begun.store(true, SeqCst);
                // It waits for its work, and does not look at its own flag.
                until(|| ended.load(SeqCst) == 2);
            }
        })
    };
    tasks.register(owner).unwrap();
    tasks.start();
    eventually(|| begun.load(SeqCst)).await;
    tasks.stop("owner").unwrap();
    eventually(|| ended.load(SeqCst) == 2).await;
    assert!(tasks.shutdown().await.is_clean());
}

/// Fails if a task that is held for its dependents sees the stop before they are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dependency_sees_the_stop_after_its_dependents_have_ended() {
    for loss in [DependencyLoss::Keep, DependencyLoss::Stop, DependencyLoss::Restart] {
        let order = Arc::new(Mutex::new(Vec::new()));
        let begun = Arc::new(AtomicUsize::new(0));
        let tasks = manager();
        let (ends, begins) = (order.clone(), begun.clone());
        let database = CriticalTaskConfig::new("database", move |ctx: TaskContext| {
            let (ends, begins) = (ends.clone(), begins.clone());
            async move {
                // A task that was woken last is not taken from a worker that blocks.
                tokio::time::sleep(millis(50)).await;
                begins.fetch_add(1, SeqCst);
                until(|| ctx.is_cancelled());
                ends.lock().unwrap().push("database");
            }
        });
        let (ends, begins) = (order.clone(), begun.clone());
        let http = CriticalTaskConfig::new("http", move |ctx: TaskContext| {
            let (ends, begins) = (ends.clone(), begins.clone());
            async move {
                begins.fetch_add(1, SeqCst);
                ctx.cancelled().await;
                tokio::time::sleep(millis(300)).await;
                ends.lock().unwrap().push("http");
            }
        });
        tasks.register_all([database, http.depends_on("database").on_dependency_loss(loss)]).unwrap();
        tasks.start();
        eventually(|| begun.load(SeqCst) == 2).await;
        let report = tasks.shutdown().await;
        assert!(report.is_clean(), "{report}");
        assert_eq!(*order.lock().unwrap(), ["http", "database"]);
    }
}

/// Fails if only a life that its driver has requested to stop has the event.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_poll_that_ends_for_other_tasks_is_seen_to_yield() {
    let begun = Arc::new(AtomicUsize::new(0));
    let tasks = manager();
    let mut events = tasks.subscribe();
    let database = CriticalTaskConfig::new("database", |ctx: TaskContext| async move {
        ctx.cancelled().await;
    });
    let begins = begun.clone();
    let http = CriticalTaskConfig::new("http", move |ctx: TaskContext| {
        let begins = begins.clone();
        async move {
            // A task that was woken last is not taken from a worker that blocks.
            tokio::time::sleep(millis(50)).await;
            begins.fetch_add(1, SeqCst);
            until(|| ctx.is_cancelled());
        }
    });
    let http = http.depends_on("database").on_dependency_loss(DependencyLoss::Restart);
    tasks.register_all([database, http]).unwrap();
    tasks.start();
    eventually(|| begun.load(SeqCst) == 1).await;
    tasks.restart("database").unwrap();
    eventually(|| begun.load(SeqCst) == 2).await;
    let yields = std::iter::from_fn(|| events.try_recv())
        .filter(|event| event.task.as_deref() == Some("http") && event.kind.as_str() == "yielding");
    assert_eq!(yields.count(), 1);
    assert!(tasks.shutdown().await.is_clean());
}
