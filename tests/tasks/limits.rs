//! Bounded work: names of which only so many runs exist at once.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, TaskCategory, TaskContext, TaskError, TaskManager, TaskPriority, policy::NameRule,
    shutdown::ShutdownOutcome, task::LimitedTask,
};
use tokio::{
    sync::oneshot,
    task::LocalSet,
    time::{Instant, sleep, timeout},
};

use crate::support::{eventually, metrics::Metrics, millis, secs, settle};

/// A run that ends when it is told to.
fn held(work: &LimitedTask) -> oneshot::Sender<()> {
    let (end, ended) = oneshot::channel();
    let room = work.try_reserve().expect("room");
    drop(room.spawn(async move { drop(ended.await) }));
    end
}

/// Whether the future is still waiting after others had their turn.
async fn waits<F: Future + Unpin>(future: &mut F) -> bool {
    for _ in 0..10 {
        let polled =
            std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending()));
        if !polled.await {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_than_the_limit_exist_at_once_and_each_begins_in_its_turn() {
    let tasks = TaskManager::new();
    let index = tasks.task("index").limit(8);
    let (active, most, order) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let began = Instant::now();
    let waiters = (0..80).map(|number| {
        let (index, active, most, order) = (index.clone(), active.clone(), most.clone(), order.clone());
        tokio::spawn(async move {
            let room = index.reserve().await;
            order.lock().unwrap().push(number);
            let run = room.spawn(async move {
                most.fetch_max(active.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(secs(1)).await;
                active.fetch_sub(1, SeqCst);
            });
            run.await.unwrap();
        })
    });
    for waiter in waiters.collect::<Vec<_>>() {
        waiter.await.unwrap();
    }
    assert_eq!((most.load(SeqCst), index.available()), (8, 8));
    assert_eq!(began.elapsed(), secs(10), "no room was left unused");
    assert!(order.lock().unwrap().is_sorted(), "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_never_exceed_the_limit_and_lose_no_room() {
    let tasks = TaskManager::new();
    let (active, most, done) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = tasks.task("work").limit(3);
    let callers = (0..16).map(|caller| {
        let (work, active, most, done) = (work.clone(), active.clone(), most.clone(), done.clone());
        tokio::spawn(async move {
            for round in 0..500 {
                // Some give up while they wait.
                let patience = if (caller + round) % 5 == 0 { Duration::from_micros(20) } else { secs(60) };
                let Ok(room) = timeout(patience, work.reserve()).await else { continue };
                let (active, most, done) = (active.clone(), most.clone(), done.clone());
                drop(room.spawn(async move {
                    most.fetch_max(active.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::task::yield_now().await;
                    active.fetch_sub(1, SeqCst);
                    done.fetch_add(1, SeqCst);
                }));
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    eventually("all ended", || work.available() == 3).await;
    assert!(most.load(SeqCst) <= 3, "{most:?}");
    assert!(done.load(SeqCst) >= 16 * 400);
}

/// Seen to fail where the room is dropped with the future, before the run has ended.
#[tokio::test(start_paused = true)]
async fn any_end_of_a_run_frees_its_room() {
    let tasks = TaskManager::new();
    let work = tasks.task("work").timeout(secs(5)).limit(1);
    let room = || work.try_reserve().expect("the room came back");

    drop(room());
    let _ = room().spawn(async {}).await;
    let _ = room().spawn(async { Err::<(), _>("no") }).await;
    let _ = room().spawn(async { panic!("no") }).await;
    let timed_out = room().spawn(std::future::pending::<()>()).await;
    assert_eq!(timed_out, Err(TaskError::TimedOut(secs(5))));
    let aborted = room().spawn(std::future::pending::<()>());
    tokio::task::yield_now().await;
    assert_eq!(work.available(), 0);
    aborted.abort();
    let _ = aborted.await;
    let never_polled = room().spawn(async {});
    never_polled.abort();
    let _ = never_polled.await;
    room().spawn_with(|ctx| async move { drop(ctx) }).await.unwrap();
    LocalSet::new().run_until(async { room().spawn_local(async {}).await }).await.unwrap();
    room().spawn_blocking(|_| ()).await.unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(room().spawn_with(|_| -> std::future::Ready<()> { panic!("in the closure") }));
    }));
    assert!(panicked.is_err());
    drop(room().limit(1));
    assert_eq!(work.available(), 1);

    let builder = room();
    tasks.shutdown().await;
    assert_eq!(builder.spawn(async {}).await, Err(TaskError::ShuttingDown));
    assert_eq!(work.available(), 1, "it was refused");
}

#[test]
fn room_comes_back_when_a_runtime_goes_away() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (tasks, work) = runtime.block_on(async {
        let tasks = TaskManager::new();
        let work = tasks.task("work").limit(1);
        drop(work.reserve().await.spawn(std::future::pending::<()>()));
        (tasks, work)
    });
    assert_eq!(work.available(), 0);
    drop(runtime);
    assert_eq!(work.available(), 1);
    drop(tasks);
}

#[tokio::test(start_paused = true)]
async fn the_newest_limit_of_a_name_holds() {
    let tasks = TaskManager::new();
    let work = tasks.task("work").limit(1);
    let first = held(&work);
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(work.reserve())).collect();
    for reservation in &mut waiting {
        assert!(waits(reservation).await);
    }
    // Three at once: two waiters get room, in their order. Names are compared as their figures are kept.
    let same = tasks.task("work_17").limit(3);
    let mut third = waiting.pop().unwrap();
    let rooms = [waiting.remove(0).await, waiting.remove(0).await];
    assert!(waits(&mut third).await);
    assert!(same.try_reserve().is_none() && same.available() == 0);

    // One at once: what has room keeps it.
    drop(tasks.task("work").limit(1));
    drop(first);
    settle().await;
    drop(rooms);
    let room = third.await;
    assert_eq!((work.available(), same.available()), (0, 0));
    drop(room);
    assert_eq!((work.available(), same.available()), (1, 1));

    assert_eq!(tasks.task("other").limit(4).available(), 4, "another name has its own");
    assert_eq!(TaskManager::new().task("work").limit(4).available(), 4, "another manager, too");
    assert_eq!(work.available(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lowered_limit_holds_at_once() {
    let tasks = TaskManager::new();
    let work = tasks.task("work").limit(3);
    let mut held: Vec<_> = (0..3).map(|_| held(&work)).collect();
    drop(tasks.task("work").limit(2));
    let mut waiting = Box::pin(work.reserve());
    drop(held.pop());
    settle().await;
    assert!(waits(&mut waiting).await, "two are still there");
    drop(held.pop());
    drop(timeout(secs(1), waiting).await.expect("room"));
}

#[tokio::test(start_paused = true)]
async fn waiters_get_room_in_order_and_leaving_blocks_nobody() {
    let tasks = TaskManager::new();
    let work = tasks.task("work").limit(1);
    let first = held(&work);
    let mut gives_up = Box::pin(work.reserve());
    let mut second = Box::pin(work.reserve());
    assert!(waits(&mut gives_up).await && waits(&mut second).await);
    drop(first);
    settle().await;
    assert!(work.try_reserve().is_none(), "somebody waits for it");
    drop(gives_up);
    drop(timeout(secs(1), second).await.expect("room"));
    assert!(work.try_reserve().is_some());
}

#[tokio::test(start_paused = true)]
async fn settings_before_the_limit_apply_to_each_run() {
    let tasks = TaskManager::new();
    let task = tasks.task("work").category(TaskCategory::System).priority(TaskPriority::High);
    let work = task.component("shop").timeout(secs(3)).limit(2);
    for _ in 0..2 {
        let run = work.reserve().await.spawn(std::future::pending::<()>());
        assert_eq!(run.await, Err(TaskError::TimedOut(secs(3))));
    }
    let shorter = work.reserve().await.timeout(secs(1)).spawn(std::future::pending::<()>());
    assert_eq!(shorter.await, Err(TaskError::TimedOut(secs(1))));
    let snapshot = tasks.snapshot("work").unwrap();
    assert_eq!((snapshot.category, snapshot.priority), (TaskCategory::System, TaskPriority::High));
    assert_eq!((snapshot.component.as_deref(), snapshot.total_runs()), (Some("shop"), 3));
}

#[test]
fn a_limit_of_zero_panics_where_it_is_said() {
    let location = Arc::new(Mutex::new(None));
    let noted = location.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|text| text.contains("the limit of `work` is 0"))
        {
            *noted.lock().unwrap() = info.location().map(|location| location.file().to_owned());
        }
    }));
    let tasks = TaskManager::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tasks.task("work").limit(0)));
    std::panic::set_hook(before);
    assert!(panicked.is_err());
    assert_eq!(location.lock().unwrap().as_deref(), Some(file!()));
}

/// Seen to fail where waiters are not told that admission is closed: the room never comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_refuses_all_waiting_reservations() {
    let tasks = TaskManager::builder().shutdown_deadline(millis(500)).build().unwrap();
    let work = tasks.task("work").limit(1);
    let (leave, left) = std::sync::mpsc::channel::<()>();
    // It hears nothing and cannot be dropped.
    let leaked = work.reserve().await.spawn_blocking(move |_| left.recv().unwrap());
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let work = work.clone();
            tokio::spawn(async move { work.reserve().await.spawn(async {}).await })
        })
        .collect();
    eventually("they wait", || tasks.snapshot("work").unwrap().pending_reservations == Some(3)).await;
    let report = tasks.shutdown().await;
    assert_eq!(report.tasks[0].outcome, ShutdownOutcome::Leaked, "{report}");
    for waiter in waiters {
        assert_eq!(timeout(secs(10), waiter).await.unwrap().unwrap(), Err(TaskError::ShuttingDown));
    }
    assert_eq!(work.available(), 0);
    let after = timeout(secs(10), work.reserve()).await.expect("it does not wait");
    assert_eq!(after.spawn(async {}).await, Err(TaskError::ShuttingDown));
    let after = work.try_reserve().expect("a builder").spawn(async {}).await;
    assert_eq!(after, Err(TaskError::ShuttingDown));
    leave.send(()).unwrap();
    leaked.await.unwrap();
    drop(tasks);
    let gone = timeout(secs(10), work.reserve()).await.expect("it does not wait");
    assert_eq!(gone.spawn(async {}).await, Err(TaskError::ShuttingDown));
}

/// A task that hands out a limited task of its own and waits to be asked.
fn owner(work: &Arc<Mutex<Option<LimitedTask>>>) -> CriticalTaskConfig {
    let work = work.clone();
    CriticalTaskConfig::new("owner", move |ctx: TaskContext| {
        *work.lock().unwrap() = Some(ctx.task("work").limit(1));
        async move { ctx.cancelled().await }
    })
    .shutdown_grace(secs(20))
}

/// A started manager with that task, and the limited task that it has made.
async fn with_owner() -> (TaskManager, LimitedTask) {
    let tasks = TaskManager::new();
    let work = Arc::default();
    tasks.register(owner(&work)).unwrap();
    tasks.start();
    settle().await;
    let work = work.lock().unwrap().clone().unwrap();
    (tasks, work)
}

#[tokio::test(start_paused = true)]
async fn limited_runs_of_a_task_are_owned_and_waited_for() {
    let (tasks, work) = with_owner().await;
    drop(work.reserve().await.spawn(sleep(secs(7))));
    let waiting = tokio::spawn({
        let work = work.clone();
        async move { work.reserve().await.spawn(sleep(secs(1))).await }
    });
    settle().await;
    let began = Instant::now();
    let report = tasks.shutdown().await;
    assert_eq!(began.elapsed().as_millis().div_ceil(1_000), 7, "{report}");
    let line = report.tasks.iter().find(|line| &*line.name == "work").unwrap();
    assert_eq!((line.owner.as_deref(), line.outcome), (Some("owner"), ShutdownOutcome::Clean), "{report}");
    assert_eq!(
        waiting.await.unwrap(),
        Err(TaskError::ShuttingDown),
        "its owner had ended, and nothing more was admitted"
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_task_still_reserves_room_for_remaining_work() {
    let tasks = TaskManager::new();
    let body = |ctx: TaskContext| async move {
        let work = ctx.task("work").limit(1);
        ctx.cancelled().await;
        for _ in 0..3 {
            drop(work.reserve().await.spawn(sleep(secs(2))));
        }
    };
    tasks.register(CriticalTaskConfig::new("owner", body).shutdown_grace(secs(20))).unwrap();
    tasks.start();
    settle().await;
    let report = tasks.shutdown().await;
    assert!(report.tasks.iter().all(|line| line.outcome == ShutdownOutcome::Clean), "{report}");
    assert_eq!(tasks.snapshot("work").unwrap().total_runs(), 3);
}

#[tokio::test(start_paused = true)]
async fn waiter_is_refused_when_its_owner_is_unregistered() {
    let (tasks, work) = with_owner().await;
    drop(work.reserve().await.spawn(sleep(secs(3_600))));
    let waiting = tokio::spawn({
        let work = work.clone();
        async move { work.reserve().await.spawn(async {}).await }
    });
    settle().await;
    let unregistered = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.unregister("owner").await }
    });
    assert_eq!(timeout(secs(1), waiting).await.unwrap().unwrap(), Err(TaskError::ShuttingDown));
    unregistered.await.unwrap().unwrap();
    assert_eq!(work.try_reserve().unwrap().spawn(async {}).await, Err(TaskError::ShuttingDown));
}

/// Seen to fail: who waited behind another owner's waiter heard nothing until that had its turn.
#[tokio::test(start_paused = true)]
async fn waiter_behind_others_is_refused_with_its_own_owner() {
    let tasks = TaskManager::new();
    let works = ["p", "q"].map(|name| {
        let kept = Arc::new(Mutex::new(None::<LimitedTask>));
        let keeps = kept.clone();
        let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            *keeps.lock().unwrap() = Some(ctx.task("work").limit(1));
            async move { ctx.cancelled().await }
        });
        tasks.register(config).unwrap();
        kept
    });
    tasks.start();
    settle().await;
    let [p, q] = works.map(|work| work.lock().unwrap().clone().unwrap());
    drop(p.reserve().await.spawn(sleep(secs(3_600))));
    let [first, behind] =
        [p, q].map(|work| tokio::spawn(async move { work.reserve().await.spawn(async {}).await }));
    settle().await;
    timeout(secs(1), tasks.unregister("q")).await.expect("it owns nothing").unwrap();
    assert_eq!(timeout(secs(1), behind).await.unwrap().unwrap(), Err(TaskError::ShuttingDown));
    assert!(!first.is_finished());
}

/// Seen to fail where the closing of admission wakes nobody.
#[tokio::test(start_paused = true)]
async fn waiter_is_refused_as_soon_as_admission_closes() {
    // Nothing is alive when the last handle goes: there is no shutdown that would wake anybody later.
    let tasks = TaskManager::new();
    let work = tasks.task("work").limit(1);
    let room = work.reserve().await;
    let mut waiting = Box::pin(work.reserve());
    assert!(waits(&mut waiting).await);
    drop(tasks);
    let refused = timeout(secs(1), waiting).await.expect("it is refused").spawn(async {}).await;
    assert_eq!(refused, Err(TaskError::ShuttingDown));
    drop(room);

    // The owner waits for the shutdown, and so for the run that has the room.
    let tasks = TaskManager::new();
    let (refused, heard) = oneshot::channel();
    let (kept, refused) = (tasks.downgrade(), Mutex::new(Some(refused)));
    let owner = CriticalTaskConfig::new("owner", move |ctx: TaskContext| {
        let (tasks, refused) = (kept.upgrade().unwrap(), refused.lock().unwrap().take());
        async move {
            let work = ctx.task("work").limit(1);
            drop(work.reserve().await.spawn(sleep(secs(3))));
            tokio::spawn(async move {
                let spawned = work.reserve().await.spawn(async {}).await;
                drop(refused.map(|refused| refused.send(spawned)));
            });
            tokio::task::yield_now().await;
            tasks.shutdown().await;
        }
    });
    tasks.register(owner).unwrap();
    tasks.start();
    let began = Instant::now();
    assert_eq!(heard.await.unwrap(), Err(TaskError::ShuttingDown));
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
}

/// Seen to fail where a limited task holds what its manager is made of, or the task that owns its runs.
#[tokio::test(start_paused = true)]
async fn a_limited_task_keeps_nothing_of_its_manager_alive() {
    let (of_manager, of_task) = (Arc::new(()), Arc::new(()));
    let rule = {
        let held = of_manager.clone();
        NameRule::custom(move |name| {
            let _ = &held;
            name.into()
        })
    };
    let tasks = TaskManager::builder().names(rule).build().unwrap();
    let work = Arc::new(Mutex::new(None::<LimitedTask>));
    let (keeps, held) = (work.clone(), of_task.clone());
    let owner = CriticalTaskConfig::new("owner", move |ctx: TaskContext| {
        let _ = &held;
        *keeps.lock().unwrap() = Some(ctx.task("work").limit(1));
        async move { ctx.cancelled().await }
    });
    tasks.register(owner).unwrap();
    tasks.start();
    settle().await;
    tasks.unregister("owner").await.unwrap();
    settle().await;
    assert_eq!(Arc::strong_count(&of_task), 1, "the owner is gone");
    drop(tasks);
    settle().await;
    eventually("the manager is gone", || Arc::strong_count(&of_manager) == 1).await;
    let work = work.lock().unwrap().take().unwrap();
    assert_eq!(work.try_reserve().unwrap().spawn(async {}).await, Err(TaskError::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn a_limited_task_keeps_no_manager_alive() {
    let tasks = TaskManager::new();
    let weak = tasks.downgrade();
    let (dropped, ended) = oneshot::channel::<()>();
    tasks
        .register(CriticalTaskConfig::new("owner", {
            let dropped = Mutex::new(Some(dropped));
            move |ctx: TaskContext| {
                let dropped = dropped.lock().unwrap().take();
                let work = ctx.task("work").limit(1);
                async move {
                    let _room = work.reserve().await;
                    ctx.cancelled().await;
                    drop(dropped);
                }
            }
        }))
        .unwrap();
    tasks.start();
    settle().await;
    let work = tasks.task("work").limit(1);
    drop(tasks);
    assert!(timeout(secs(60), ended).await.is_ok(), "its task was asked to stop");
    assert!(weak.upgrade().is_none());
    drop(work);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_a_gauge_and_the_wait_a_histogram_under_bounded_names() {
    let metrics = Metrics::new();
    let tasks = TaskManager::builder().meter(metrics.meter()).max_names(2).build().unwrap();
    let pending = |name: &str| {
        let points = metrics.collect();
        points.of("task.reservation.pending", &[("task.name", name)]).first().map(|point| point.value)
    };
    let first = tasks.task("first").limit(1);
    tasks.spawn("unlimited", async {}).await.unwrap();
    let beyond = [tasks.task("third").limit(1), tasks.task("fourth").limit(1)];
    assert_eq!((pending("first"), pending("unlimited"), pending("_OTHER")), (Some(0.0), None, Some(0.0)));

    let rooms = [first.reserve().await, beyond[0].reserve().await, beyond[1].reserve().await];
    let mut waiting =
        [Box::pin(first.reserve()), Box::pin(beyond[0].reserve()), Box::pin(beyond[1].reserve())];
    let mut gives_up = Box::pin(first.reserve());
    for reservation in &mut waiting {
        assert!(waits(reservation).await);
    }
    assert!(waits(&mut gives_up).await);
    assert_eq!((pending("first"), pending("_OTHER")), (Some(2.0), Some(2.0)));
    sleep(secs(3)).await;
    drop(gives_up);
    drop(rooms);
    for reservation in waiting {
        drop(reservation.await);
    }
    assert!(first.try_reserve().is_some());
    assert_eq!((pending("first"), pending("_OTHER")), (Some(0.0), Some(0.0)));
    let points = metrics.collect();
    let waits = |name: &str| {
        let points = points.of("task.reservation.wait_time", &[("task.name", name)]);
        points.iter().map(|point| (point.count, point.value)).collect::<Vec<_>>()
    };
    assert_eq!((waits("first"), waits("_OTHER")), (vec![(2, 3.0)], vec![(4, 6.0)]));
    assert!(waits("third").is_empty());
}
