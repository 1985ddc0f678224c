//! Replacing and unregistering: checked first, finished by the manager, and possible from inside the task itself.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskLoop, TaskManager,
    schedule::LoopControlError,
    snapshot::TaskState,
    task::{RegisterError, WeakTaskManager},
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Alive, eventually, secs, settle, shown, tasks::state};

/// A task that takes `stops_after` seconds to stop.
fn obedient(name: &str, alive: &Alive, stops_after: u64) -> CriticalTaskConfig {
    let alive = alive.clone();
    CriticalTaskConfig::new(name, move |ctx| {
        let guard = alive.guard();
        async move {
            ctx.cancelled().await;
            sleep(secs(stops_after)).await;
            drop(guard);
        }
    })
}

/// Seen to fail when `replace` was the caller's own future: the task was gone and nothing stood in its place.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_lose_the_task() {
    for gives_up_after in [0, 1, 5] {
        let (old, new) = (Alive::default(), Alive::default());
        let tasks = TaskManager::new();
        tasks.register(obedient("t", &old, 3)).unwrap();
        tasks.start();
        settle().await;
        let replacing = tasks.replace(obedient("t", &new, 0));
        let _ = timeout(secs(gives_up_after), replacing).await;
        sleep(secs(10)).await;
        assert_eq!((old.now(), new.now()), (0, 1), "given up after {gives_up_after} s");
        assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
        assert!(tasks.shutdown().await.is_clean());
    }
}

/// Seen to fail when the old task was stopped first: nothing was left of it.
#[tokio::test(start_paused = true)]
async fn a_refused_replacement_leaves_the_task_as_it_is() {
    let (old, new) = (Alive::default(), Alive::default());
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &old, 0)).unwrap();
    tasks.register(obedient("u", &old, 0).depends_on("t")).unwrap();
    tasks.start();
    settle().await;
    for (config, is_expected) in [
        (obedient("t", &new, 0).depends_on("nobody"), "UnknownDependency"),
        (obedient("t", &new, 0).depends_on("t"), "DependencyCycle"),
        (obedient("t", &new, 0).depends_on("u"), "DependencyCycle"),
        (obedient("t", &new, 0).run_timeout(secs(0)), "ZeroDuration"),
        (obedient("", &new, 0), "EmptyName"),
    ] {
        let error = tasks.replace(config).await.expect_err(is_expected);
        assert!(format!("{error:?}").starts_with(is_expected), "{error:?}");
        settle().await;
        assert_eq!((old.now(), old.total(), new.total()), (2, 2, 0), "{is_expected}");
    }
    // One whose name is free is registered.
    tasks.replace(obedient("v", &new, 0).depends_on("t")).await.unwrap();
    settle().await;
    assert_eq!(new.now(), 1);
    tasks.shutdown().await;
    assert!(matches!(tasks.replace(obedient("t", &new, 0)).await, Err(RegisterError::ShuttingDown)));
}

/// What a task does to itself while it runs.
fn acts_on_itself<F, Fut>(name: &str, manager: Arc<OnceLock<WeakTaskManager>>, act: F) -> CriticalTaskConfig
where
    F: Fn(TaskManager) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    CriticalTaskConfig::new(name, move |ctx| {
        let manager = manager.get().and_then(WeakTaskManager::upgrade).expect("the manager lives");
        let act = act.clone();
        async move {
            act(manager).await;
            ctx.cancelled().await;
        }
    })
}

/// Seen to fail by waiting until the task's own grace was over.
#[tokio::test(start_paused = true)]
async fn a_task_may_replace_and_unregister_itself() {
    let (manager, next, ended) = (Arc::new(OnceLock::new()), Alive::default(), Arc::new(AtomicU64::new(0)));
    let tasks = TaskManager::new();
    manager.set(tasks.downgrade()).expect("set once");
    let began = Instant::now();
    let (alive, count) = (next.clone(), ended.clone());
    let replaces = acts_on_itself("replaces", manager.clone(), move |tasks| {
        let (alive, count) = (alive.clone(), count.clone());
        async move {
            tasks.replace(obedient("replaces", &alive, 0)).await.expect("it replaces itself");
            count.fetch_add(1, SeqCst);
        }
    });
    let count = ended.clone();
    let unregisters = acts_on_itself("unregisters", manager.clone(), move |tasks| {
        let count = count.clone();
        async move {
            tasks.unregister("unregisters").await.expect("it is registered");
            count.fetch_add(1, SeqCst);
        }
    });
    let count = ended.clone();
    let unloads = acts_on_itself("unloads", manager, move |tasks| {
        let count = count.clone();
        async move {
            let mut names = tasks.unregister_component("plugin").await.expect("it is known");
            names.sort_unstable();
            assert_eq!(names, ["sibling", "unloads"]);
            count.fetch_add(1, SeqCst);
        }
    });
    let sibling = Alive::default();
    tasks
        .register_all([
            replaces,
            unregisters,
            unloads.component("plugin"),
            obedient("sibling", &sibling, 2).component("plugin"),
        ])
        .unwrap();
    tasks.start();
    eventually("each has acted", || ended.load(SeqCst) == 3).await;
    eventually("the replacement runs", || next.now() == 1).await;
    eventually("the others are gone", || tasks.task_names() == ["replaces"]).await;
    // The sibling takes two seconds; nobody waited for a grace of ten.
    assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
    assert_eq!((next.most(), sibling.now()), (1, 0), "no two at once");
    assert!(tasks.shutdown().await.is_clean());
}

/// Seen to fail when a task whose driver had left was forgotten only after the wait for the tasks before it.
#[tokio::test(start_paused = true)]
async fn a_component_is_unregistered_whole_though_its_caller_goes_away() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    tasks
        .register_all([
            obedient("a_slow", &alive, 3).component("plugin"),
            CriticalTaskConfig::one_shot("b_once", |_| async {}).component("plugin"),
            obedient("c_slow", &alive, 3).component("plugin"),
        ])
        .unwrap();
    tasks.start();
    sleep(secs(1)).await;
    let _ = timeout(secs(1), tasks.unregister_component("plugin")).await;
    sleep(secs(5)).await;
    assert_eq!((tasks.task_names(), alive.now()), (Vec::new(), 0));
    assert!(tasks.unregister_component("plugin").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn two_replacements_at_once_leave_one_task() {
    let (old, new) = (Alive::default(), Alive::default());
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &old, 1)).unwrap();
    tasks.start();
    settle().await;
    let (first, second) =
        tokio::join!(tasks.replace(obedient("t", &new, 0)), tasks.replace(obedient("t", &new, 0)));
    settle().await;
    assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
    assert_eq!((old.now(), new.now(), new.most()), (0, 1, 1));
    assert_eq!(tasks.task_names(), ["t"]);
}

/// Fails if an order to the task that is going is accepted, which nobody carries out.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_being_replaced_refuses_orders_and_further_replacements() {
    let (old, new) = (Alive::default(), Alive::default());
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &old, 3)).unwrap();
    let schedule = TaskLoop::every(secs(1), |ctx: TaskContext| async move {
        ctx.cancelled().await;
        sleep(secs(3)).await;
    });
    let handle = schedule.handle();
    tasks.register(CriticalTaskConfig::from_loop("l", schedule)).unwrap();
    tasks.start();
    sleep(secs(2)).await;
    let during = async {
        sleep(secs(1)).await;
        let leaving = r#"Err(Leaving { name: "t" })"#;
        for refused in [tasks.stop("t"), tasks.pause("t"), tasks.resume("t")] {
            assert_eq!(shown(&refused), leaving);
        }
        assert_eq!(shown(&tasks.restart("t")), leaving);
        for refused in [handle.cancel(), handle.restart(), handle.pause(), handle.resume()] {
            assert_eq!(refused, Err(LoopControlError::NotRegistered));
        }
        let again = tasks.replace(obedient("t", &new, 0)).await;
        assert_eq!(shown(&again), r#"Err(BeingReplaced { name: "t" })"#);
    };
    let replacing = async { tokio::join!(tasks.replace(obedient("t", &new, 0)), tasks.unregister("l")) };
    let ((replaced, unregistered), ()) = tokio::join!(replacing, during);
    assert_eq!((replaced, unregistered), (Ok(()), Ok(())));
    settle().await;
    assert_eq!((old.now(), new.now()), (0, 1));
    tasks.stop("t").expect("the new one obeys");
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Stopped));
}

/// Several callers wait for the end of a task. Fails if one of them unregisters the next task of the name.
#[tokio::test(start_paused = true)]
async fn several_that_unregister_a_task_leave_the_next_of_its_name() {
    let (old, new, is_first) = (Alive::default(), Alive::default(), AtomicBool::new(true));
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &old, 1)).unwrap();
    tasks.start();
    settle().await;
    let unregister = async || {
        tasks.unregister("t").await.expect("it is registered");
        if is_first.swap(false, SeqCst) {
            tasks.register(obedient("t", &new, 0)).expect("the old task is gone");
        }
    };
    tokio::join!(unregister(), unregister(), unregister());
    settle().await;
    assert_eq!((old.now(), new.now()), (0, 1));
    assert_eq!(tasks.task_names(), ["t"]);
}
