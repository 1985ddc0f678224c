//! Nothing stops in silence: a manager that is dropped, one that was never started, and one without a runtime.

use std::{
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, Location, PanicHookInfo, catch_unwind, set_hook, take_hook},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, TaskError, TaskLoop, TaskManager,
    health::HealthReason,
    schedule::LoopControlError,
    shutdown::{ShutdownOutcome, shutdown_signal},
    snapshot::TaskState,
    task::RegisterError,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::Level;

use crate::support::{
    Alive, Events, millis, settle, shown,
    tasks::{obedient, obeys},
};

/// Seen to fail when the last handle was dropped without a word.
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_of_living_tasks_is_a_warning_with_their_names() {
    let (events, _guard) = Events::record();
    let warned = || events.named("task.manager.dropped");
    let arrived = |at_least| events.arrived("task.manager.dropped", at_least);
    let tasks = TaskManager::new();
    tasks.register_all([obeys("gateway"), obeys("mailer")]).unwrap();
    tasks.start();
    settle().await;
    drop(tasks.clone());
    assert_eq!(warned().len(), 0, "another handle is there");
    drop(tasks);
    settle().await;
    let [warning] = &arrived(1)[..] else { panic!("one record: {:?}", warned()) };
    assert_eq!(warning.level, Level::WARN);
    assert!(warning.message().contains("gateway, mailer"), "{}", warning.message());

    // Of many, some.
    let many = TaskManager::new();
    many.register_all((100..200).map(|number| obeys(&format!("t-{number}")))).unwrap();
    many.start();
    settle().await;
    drop(many);
    settle().await;
    let [_, warning] = &arrived(2)[..] else { panic!("one record more: {:?}", warned()) };
    assert!(warning.message().contains("t-118, t-119 and 80 more begins"), "{}", warning.message());

    let spawned = TaskManager::new();
    spawned.spawn("pending", std::future::pending::<()>());
    settle().await;
    drop(spawned);
    assert_eq!(arrived(3).len(), 3, "{:?}", warned());

    // One that has ended, or never had anything to do, loses nothing.
    let ended = TaskManager::new();
    ended.register(obeys("gateway")).unwrap();
    ended.start();
    ended.shutdown().await;
    drop(ended);
    drop(TaskManager::new());
    settle().await;
    assert_eq!(warned().len(), 3, "{:?}", warned());
}

/// Seen to fail when `run_until` waited for its signal with every task still waiting.
#[tokio::test(start_paused = true)]
async fn run_until_starts_the_manager() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    tasks.register(obedient("t", &alive)).unwrap();
    let report = tasks.run_until(settle()).await;
    assert_eq!((alive.total(), report.count(ShutdownOutcome::Clean)), (1, 1), "{report}");
    assert!(tasks.is_shutting_down());
    assert_eq!(tasks.run_until(std::future::pending::<()>()).await, report, "a second call gets the same");
}

#[test]
fn registering_without_a_runtime_is_an_error_and_changes_nothing() {
    let tasks = TaskManager::new();
    assert_eq!(tasks.register(obeys("t")), Err(RegisterError::NoRuntime));
    assert_eq!(tasks.task_names(), Vec::<String>::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tasks.register(CriticalTaskConfig::one_shot("t", |_| async {})).unwrap();
        tasks.shutdown().await;
    });
}

fn gives<T>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// A runtime for work, with or without a timer.
fn runtime(time: bool) -> Runtime {
    let mut builder = Builder::new_current_thread();
    if time {
        builder.enable_all()
    } else {
        builder.enable_io()
    };
    builder.build().expect("a runtime")
}

/// What a call panics with, and in which file: the panic's own location.
fn panics_of(call: impl FnOnce()) -> (String, String) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Its hook is installed once, and stays below this one.
    drop(TaskManager::new());
    let own = std::thread::current().id();
    let told = Arc::new(Mutex::new(None));
    let tells = told.clone();
    // Tests of this process panic meanwhile.
    let before: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = take_hook().into();
    let passes = before.clone();
    set_hook(Box::new(move |info| {
        if std::thread::current().id() != own {
            return passes(info);
        }
        let file = info.location().expect("a location").file().to_owned();
        let payload = info.payload();
        let message = payload.downcast_ref::<&str>().map(ToString::to_string);
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        *tells.lock().expect("not poisoned") = Some((message, file));
    }));
    let panicked = catch_unwind(AssertUnwindSafe(call)).is_err();
    set_hook(Box::new(move |info| before(info)));
    assert!(panicked, "it did not panic");
    let (message, file) = told.lock().expect("not poisoned").take().expect("it panicked");
    (message, file)
}

#[track_caller]
fn panics_here(call: impl FnOnce(), expected: &str) {
    let caller = Location::caller();
    let (message, file) = panics_of(call);
    assert!(message.contains(expected), "{caller}: {message}");
    assert!(file == file!() || message.contains(&format!("(called at {}", file!())), "{caller}: {file}");
}

const NO_RUNTIME: &str = "there is no tokio runtime: the task manager was built outside one";
const NO_TIME: &str = "call `enable_time()` or `enable_all()` on its `Builder`";

/// Each call that begins work, by name.
type Call = (&'static str, fn(&TaskManager));

const CALLS: &[Call] = &[
    ("start", |tasks| tasks.start()),
    ("spawn", |tasks| drop(tasks.spawn("t", async {}))),
    ("spawn_blocking", |tasks| drop(tasks.spawn_blocking("t", |_| ()))),
    ("spawn_local", |tasks| drop(tasks.spawn_local("t", async {}))),
    ("task().spawn", |tasks| drop(tasks.task("t").spawn(async {}))),
    ("task().spawn_with", |tasks| drop(tasks.task("t").spawn_with(|_| async {}))),
    ("task().spawn_local", |tasks| drop(tasks.task("t").spawn_local(async {}))),
    ("task().spawn_blocking", |tasks| drop(tasks.task("t").spawn_blocking(|_| ()))),
    ("shutdown", |tasks| drop(poll_once(tasks.shutdown()))),
    ("shutdown_now", |tasks| drop(poll_once(tasks.shutdown_now()))),
    ("run_until", |tasks| drop(poll_once(tasks.run_until(std::future::pending::<()>())))),
];

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Seen to fail with tokio's own panic, in this crate's or tokio's file.
#[test]
fn without_a_runtime_each_call_panics_with_the_callers_line() {
    for (name, call) in CALLS {
        let tasks = TaskManager::new();
        panics_here(|| call(&tasks), NO_RUNTIME);
        assert!(tasks.snapshots().is_empty(), "{name} leaves nothing behind");
    }
    panics_here(|| drop(shutdown_signal()), "`shutdown_signal` needs a tokio runtime");
}

/// Seen to fail with tokio's own panic, at the first timer.
#[test]
fn without_a_timer_each_call_panics_with_the_callers_line() {
    for (name, call) in CALLS {
        let runtime = runtime(false);
        let _inside = runtime.enter();
        let tasks = TaskManager::new();
        panics_here(|| call(&tasks), NO_TIME);
        assert!(tasks.snapshots().is_empty(), "{name} leaves nothing behind");
        assert_eq!(tasks.register(obeys("t")), Err(RegisterError::NoTime));
        assert_eq!(tasks.task_names(), Vec::<String>::new());
    }
    // Not the manager's runtime, which has one.
    let (good, bad) = (runtime(true), runtime(false));
    let tasks = good.block_on(async {
        let tasks = TaskManager::new();
        tasks.start();
        tasks
    });
    let _inside = bad.enter();
    let spawn = || drop(tasks.task("t").timeout(millis(1)).spawn(async {}));
    panics_here(spawn, NO_TIME);
    assert_eq!(
        bad.block_on(tasks.spawn("t", async { gives(1) })),
        Ok(Ok(1)),
        "one without a time limit needs no timer"
    );
}

#[test]
fn without_io_a_signal_panics_with_the_callers_line() {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _inside = runtime.enter();
    panics_here(|| drop(shutdown_signal()), "call `enable_io()` or `enable_all()` on its `Builder`");
}

#[test]
fn outside_of_a_local_set_spawn_local_panics_with_the_callers_line() {
    let runtime = runtime(true);
    let _inside = runtime.enter();
    let tasks = TaskManager::new();
    panics_here(
        || drop(tasks.spawn_local("t", async {})),
        "`spawn_local` needs a `LocalSet` or a `LocalRuntime`",
    );
}

/// A call may be made outside and polled inside.
#[test]
fn a_shutdown_is_checked_where_it_is_polled() {
    let tasks = TaskManager::new();
    let runtime = runtime(true);
    let shutdown = tasks.shutdown();
    assert!(runtime.block_on(shutdown).is_clean());
}

#[test]
fn components_without_a_runtime_are_refused() {
    let tasks = TaskManager::new();
    drop(tasks.register_component("c", || vec![obeys("t")]));
    let discovery = tasks.discover_components();
    assert_eq!(discovery.refused, [("c".to_owned(), RegisterError::NoRuntime)]);
    let replaced = poll_once(tasks.replace(obeys("t")));
    assert_eq!(replaced, Poll::Ready(Err(RegisterError::NoRuntime)));
}

/// Seen to fail: the spawn resolved to `Cancelled`, and the manager was live.
#[test]
fn static_manager_continues_on_a_second_runtime() {
    static TASKS: LazyLock<TaskManager> =
        LazyLock::new(|| TaskManager::builder().monitor_interval(millis(20)).build().expect("a manager"));
    let (events, _guard) = Events::record();
    let loops =
        || CriticalTaskConfig::from_loop("loop", TaskLoop::every(Duration::from_secs(60), |_| async {}));
    let first = runtime(true);
    let handle = first.block_on(async {
        TASKS.register_all([obeys("first"), loops()]).unwrap();
        let once = CriticalTaskConfig::new("once", |_| async {});
        TASKS.register(once.restart_policy(RestartPolicy::OnFailure)).unwrap();
        TASKS.start();
        settle().await;
        assert_eq!(TASKS.spawn("short", async { gives(1) }).await, Ok(Ok(1)));
        assert!(TASKS.health().is_live);
        TASKS.loop_handle("loop").unwrap()
    });
    drop(first);
    let health = TASKS.health();
    assert!(!health.is_live && !health.is_ready, "{health}");
    let of_first = TASKS.task_health("first").expect("registered");
    assert_eq!(of_first.reasons, [HealthReason::RuntimeGone], "{of_first}");
    assert!(TASKS.task_health("once").expect("registered").is_live, "it had done its work");
    assert_eq!(TASKS.register(obeys("t")), Err(RegisterError::RuntimeGone));
    panics_here(|| TASKS.start(), "the tokio runtime of the task manager was shut down");
    let gone = Poll::Ready(Err(TaskError::RuntimeGone));
    assert_eq!(poll_once(TASKS.spawn("late", async {})), gone);
    assert_eq!(poll_once(TASKS.task("late").timeout(Duration::from_secs(1)).spawn(async {})), gone);
    assert_eq!(poll_once(TASKS.spawn_blocking("late", |_| ())), gone);

    let second = runtime(true);
    second.block_on(async {
        assert_eq!(TASKS.spawn("short", async { gives(2) }).await, Ok(Ok(2)));
        assert_eq!(TASKS.spawn_blocking("blocking", |_| gives(3)).await, Ok(Ok(3)));
        assert_eq!(shown(&TASKS.restart("first")), r#"Err(RuntimeGone { name: "first" })"#);
        for refused in [TASKS.stop("first"), TASKS.pause("first"), TASKS.resume("first")] {
            assert_eq!(shown(&refused), r#"Err(RuntimeGone { name: "first" })"#);
        }
        for refused in [handle.cancel(), handle.restart(), handle.pause(), handle.resume()] {
            assert_eq!(refused, Err(LoopControlError::RuntimeGone));
        }
        assert_eq!(shown(&TASKS.register(obeys("first"))), r#"Err(Duplicate { name: "first" })"#);

        TASKS.register(obeys("second")).unwrap();
        settle().await;
        assert_eq!(TASKS.snapshot("second").unwrap().state, Some(TaskState::Running));
        let sweeps = || TASKS.is_monitoring();
        assert!(sweeps(), "the monitor goes on");
        TASKS.replace(obeys("loop")).await.unwrap();
        settle().await;
        assert_eq!(TASKS.snapshot("loop").unwrap().state, Some(TaskState::Running));
        assert!(TASKS.task_health("loop").unwrap().is_live);

        let gone = events.arrived("task.runtime.gone", 1);
        let [gone] = &gone[..] else { panic!("one record: {gone:?}") };
        assert!(gone.message().contains(": first, loop"), "{}", gone.message());

        let report = TASKS.shutdown().await;
        let lines: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.outcome)).collect();
        let expected = [
            ("first", ShutdownOutcome::Aborted),
            ("loop", ShutdownOutcome::Clean),
            ("second", ShutdownOutcome::Clean),
        ];
        assert_eq!(lines, expected, "{report}");
        assert_eq!(*TASKS.report().unwrap(), *report);
    });
}

/// The caller's runtime, also where the manager's goes on.
#[test]
fn a_short_task_runs_on_the_runtime_of_its_caller() {
    let first = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let second = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let tasks = first.block_on(async { TaskManager::new() });
    let id_of = |runtime: &Runtime| runtime.handle().id();
    let spawned = || tasks.spawn("t", async { gives(Handle::current().id()) });
    assert_eq!(second.block_on(async { spawned().await }), Ok(Ok(id_of(&second))));
    assert_eq!(first.block_on(async { spawned().await }), Ok(Ok(id_of(&first))));
    // Outside of any it is the manager's.
    let outside = spawned();
    assert_eq!(first.block_on(outside), Ok(Ok(id_of(&first))));
    // A registered task lives where the manager does.
    let (tells, told) = std::sync::mpsc::channel();
    let registered = CriticalTaskConfig::new("registered", move |ctx| {
        tells.send(Handle::current().id()).expect("a test");
        async move { ctx.cancelled().await }
    });
    second.block_on(async {
        tasks.register(registered).unwrap();
        tasks.start();
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(id_of(&first)));
    assert!(second.block_on(tasks.shutdown()).is_clean());
}

/// Nobody calls the manager meanwhile, and the driver is stuck in a poll: the watchdog sees it.
#[test]
fn a_task_that_blocks_a_worker_of_a_runtime_that_is_gone_is_not_live() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (tells, told) = std::sync::mpsc::channel();
    let (lets_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let tasks = runtime.block_on(async { TaskManager::new() });
    let blocks = CriticalTaskConfig::new("blocks", move |_| {
        let (tells, held) = (tells.clone(), held.clone());
        async move {
            tells.send(()).expect("a test");
            let _ = held.lock().expect("not poisoned").recv();
            std::future::pending::<()>().await;
        }
    });
    runtime.block_on(async {
        tasks.register(blocks).unwrap();
        tasks.start();
    });
    told.recv_timeout(Duration::from_secs(10)).expect("it blocks");
    runtime.shutdown_background();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while tasks.health().is_live {
        assert!(std::time::Instant::now() < until, "{}", tasks.health());
        std::thread::sleep(millis(10));
    }
    assert!(tasks.task_health("blocks").unwrap().reasons.contains(&HealthReason::RuntimeGone));
    drop(lets_go);
}

#[test]
fn a_shutdown_outside_of_a_runtime_ends_if_the_managers_is_gone() {
    let runtime = runtime(true);
    let tasks = runtime.block_on(async {
        let tasks = TaskManager::new();
        tasks.register(obeys("t")).unwrap();
        tasks.start();
        settle().await;
        tasks
    });
    drop(runtime);
    assert!(!tasks.health().is_live);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    let mut report = std::pin::pin!(tasks.shutdown());
    loop {
        match report.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(report) => {
                assert_eq!(report.count(ShutdownOutcome::Aborted), 1, "{report}");
                break;
            }
            Poll::Pending => assert!(std::time::Instant::now() < until, "the watchdog has not ended it"),
        }
        std::thread::sleep(millis(5));
    }
}

/// Seen to fail: a signal that was awaited on one runtime made `run_until` panic on another.
#[test]
fn run_until_needs_no_io_though_the_process_asked_for_signals() {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        drop(shutdown_signal());
    });
    let no_io = Builder::new_current_thread().enable_time().build().expect("a runtime");
    no_io.block_on(async {
        let tasks = TaskManager::new();
        tasks.register(obeys("t")).unwrap();
        assert!(tasks.run_until(settle()).await.is_clean());
    });
}

/// Seen to fail: a task that waited for its next try was neither named nor in the report.
#[test]
fn a_task_that_waits_for_its_next_try_is_lost_with_its_runtime() {
    let (events, _guard) = Events::record();
    let first = runtime(true);
    let tasks = first.block_on(async {
        let tasks = TaskManager::new();
        let fails = CriticalTaskConfig::new("fails", |_| async { Err::<(), _>("down") });
        tasks.register(fails.max_restarts(0, Duration::from_secs(60))).unwrap();
        tasks.start();
        settle().await;
        assert_eq!(tasks.snapshot("fails").unwrap().state, Some(TaskState::Failed));
        assert!(tasks.snapshot("fails").unwrap().next_retry.is_some());
        tasks
    });
    drop(first);
    runtime(true).block_on(async {
        assert_eq!(tasks.snapshot("fails").unwrap().next_retry, None);
        assert!(!tasks.task_health("fails").unwrap().is_live);
        tasks.register(obeys("other")).unwrap();
        let gone = events.arrived("task.runtime.gone", 1);
        let [gone] = &gone[..] else { panic!("one record: {gone:?}") };
        assert!(gone.message().contains(": fails"), "{}", gone.message());
        let report = tasks.shutdown().await;
        assert_eq!(report.count(ShutdownOutcome::Aborted), 1, "{report}");
    });
}

/// Seen to fail: the name was reserved for ever.
#[test]
fn a_replacement_that_is_lost_with_its_runtime_gives_the_name_back() {
    let first = runtime(true);
    let tasks = first.block_on(async {
        let tasks = TaskManager::new();
        tasks.register(CriticalTaskConfig::new("t", |_| std::future::pending::<()>())).unwrap();
        tasks.start();
        settle().await;
        assert!(tokio::time::timeout(millis(1), tasks.replace(obeys("t"))).await.is_err());
        tasks
    });
    drop(first);
    runtime(true).block_on(async {
        tasks.replace(obeys("t")).await.expect("the name is free");
        settle().await;
        assert_eq!(tasks.snapshot("t").unwrap().state, Some(TaskState::Running));
        assert!(tasks.shutdown().await.is_clean());
    });
}

/// Seen to fail: the monitor was started with its lock held, and the manager moved under it.
#[test]
fn a_manager_whose_runtime_goes_while_it_starts_moves_to_that_of_its_caller() {
    let first = runtime(true);
    let tasks = first.block_on(async { TaskManager::new() });
    let first = Mutex::new(Some(first));
    drop(tasks.register_component("c", move || {
        if let Some(runtime) = first.lock().unwrap().take() {
            runtime.shutdown_background();
        }
        Vec::new()
    }));
    let (tells, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let second = runtime(true);
        second.block_on(async { tasks.start() });
        tells.send(tasks.is_monitoring()).expect("a test");
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(true));
}
