//! Wrong input gets a typed error that names it, reads like a sentence, and changes nothing.

use std::{
    error::Error,
    fmt, io,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, TaskContext, TaskError, TaskLoop, TaskManager,
    policy::{ErrorClass, RestartIntensity},
    task::{RegisterError, RestartError, TaskControlError},
};
use tokio::{runtime::Handle, time::sleep};

use crate::support::{
    Alive, secs, settle, shown,
    tasks::{obeys, started},
};

/// What a user sees of a manager: figures, names, and what is known of each name.
fn fingerprint(tasks: &TaskManager) -> String {
    let known: Vec<_> = tasks
        .snapshots()
        .into_iter()
        .map(|task| {
            (task.name.to_string(), task.state, task.priority, task.total_runs(), task.total_restarts())
        })
        .collect();
    format!("{:?} {:?} {known:?}", tasks.statistics(), tasks.task_names())
}

/// A manager whose task of that name runs, and its fingerprint.
async fn running(name: &str) -> (TaskManager, String) {
    let tasks = started(obeys(name));
    settle().await;
    let fingerprint = fingerprint(&tasks);
    (tasks, fingerprint)
}

/// Registers what is wrong, and checks the error, its words, and that nothing was changed.
#[track_caller]
fn refuses(tasks: &TaskManager, wrong: CriticalTaskConfig, expected: &str, text: &str) -> RegisterError {
    let before = fingerprint(tasks);
    let error = tasks.register(wrong).expect_err(expected);
    assert_eq!(shown(&error), expected);
    assert_eq!(error.to_string(), text);
    assert_eq!(fingerprint(tasks), before);
    error
}

/// The same before and after the start. Answers the error.
#[track_caller]
fn refused(wrong: impl Fn() -> CriticalTaskConfig, expected: &str, text: &str) -> RegisterError {
    let tasks = TaskManager::builder().max_names(4).build().unwrap();
    tasks.register(obeys("good")).unwrap();
    refuses(&tasks, wrong(), expected, text);
    tasks.start();
    refuses(&tasks, wrong(), expected, text)
}

/// What an error says of its cause.
#[track_caller]
fn cause(error: &RegisterError) -> String {
    error.source().expect("it says why").to_string()
}

#[tokio::test(start_paused = true)]
async fn an_empty_name_is_refused() {
    refused(|| obeys(""), "EmptyName", "the task has an empty name");
}

#[tokio::test(start_paused = true)]
async fn a_long_name_is_refused_and_a_spawned_one_is_cut() {
    let long = "n".repeat(300);
    let kept = "n".repeat(256);
    refused(
        || obeys(&long),
        &format!("NameTooLong {{ name: {kept:?}, bytes: 300 }}"),
        &format!("the name of a task has at most 256 bytes, and that of task {kept:?}.. has 300"),
    );
    let tasks = TaskManager::new();
    tasks.spawn(&long, async {}).await.unwrap();
    tasks.task(&long).timeout(secs(1)).priority(otel_tasks::TaskPriority::Low).spawn(async {}).await.unwrap();
    assert_eq!(tasks.snapshot(&kept).map(|task| task.total_runs()), Some(2));
    assert!(tasks.snapshot(&long).is_none());
}

#[tokio::test(start_paused = true)]
async fn duplicate_name_is_refused_and_the_first_task_continues() {
    let alive = Alive::default();
    let task = |alive: &Alive| {
        let alive = alive.clone();
        CriticalTaskConfig::new("t", move |ctx: TaskContext| {
            alive.during(async move { ctx.cancelled().await })
        })
    };
    let tasks = TaskManager::new();
    tasks.register(task(&alive)).unwrap();
    tasks.start();
    settle().await;
    let before = fingerprint(&tasks);
    let refused = tasks.register(task(&alive)).expect_err("its name is taken");
    assert_eq!(shown(&refused), r#"Duplicate { name: "t" }"#);
    assert_eq!(refused.to_string(), "a task named \"t\" is registered already");
    settle().await;
    assert_eq!((alive.now(), alive.total()), (1, 1));
    assert_eq!(fingerprint(&tasks), before);
}

#[tokio::test(start_paused = true)]
async fn a_loop_with_an_interval_of_zero_is_refused() {
    let wrong = || CriticalTaskConfig::from_loop("l", TaskLoop::every(Duration::ZERO, |_| async {}));
    let expected = r#"Loop { name: "l", source: Schedule(ZeroInterval) }"#;
    let error = refused(wrong, expected, "the loop of task \"l\" is not usable");
    assert_eq!(cause(&error), "the interval of a loop must be longer than zero");
}

#[tokio::test(start_paused = true)]
async fn a_loop_with_a_count_of_zero_is_refused() {
    let wrong = || CriticalTaskConfig::from_loop("l", TaskLoop::every(secs(1), |_| async {}).count(0));
    let expected = r#"Loop { name: "l", source: Schedule(ZeroCount) }"#;
    let error = refused(wrong, expected, "the loop of task \"l\" is not usable");
    assert_eq!(cause(&error), "the count of a loop must be at least 1");
}

#[tokio::test(start_paused = true)]
async fn a_restart_limit_without_a_window_is_refused() {
    let error = refused(
        || obeys("t").max_restarts(3, Duration::ZERO),
        r#"Policy { name: "t", source: ZeroWindow { max_restarts: 3 } }"#,
        "the restart policy of task \"t\" is not usable",
    );
    let text = "a limit of 3 restarts needs a window longer than zero";
    assert_eq!(cause(&error), text);
    let source = RestartIntensity::new(3, Duration::ZERO).expect_err("no window");
    assert_eq!(shown(&source), "ZeroWindow { max_restarts: 3 }");
    assert_eq!(source.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_restart_limit_that_its_own_delays_never_reach_is_refused() {
    // 60 + 120 + 240 + 480 s lie between five restarts, more than the ten minutes.
    let backoff = Backoff::new(secs(30), 2.0, secs(86_400)).unwrap();
    let source = "LimitUnreachable { max_restarts: 5, within: 600s, needed: 900s }";
    let error = refused(
        || obeys("t").backoff(backoff).max_restarts(5, secs(600)),
        &format!(r#"Policy {{ name: "t", source: {source} }}"#),
        "the restart policy of task \"t\" is not usable",
    );
    assert_eq!(
        cause(&error),
        "a limit of 5 restarts in 600s can never be reached: with this backoff they take 900s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_refused_exactly_from_where_a_task_that_fails_at_once_is_never_given_up() {
    for (window, accepted) in [(20, false), (21, true)] {
        let begun = std::sync::Arc::new(AtomicUsize::new(0));
        let count = begun.clone();
        let failing = CriticalTaskConfig::new("t", move |_| {
            count.fetch_add(1, SeqCst);
            async { Err::<(), _>("down") }
        });
        let tasks = TaskManager::new();
        // Three restarts, so two delays between the first and the third.
        let limited = failing
            .backoff(Backoff::constant(secs(10)))
            .max_restarts(3, secs(window))
            .give_up(GiveUp::ForGood);
        assert_eq!(tasks.register(limited).is_ok(), accepted, "{window} s");
        tasks.start();
        sleep(secs(3_600)).await;
        assert_eq!(begun.load(SeqCst), if accepted { 4 } else { 0 }, "{window} s");
    }
}

#[tokio::test(start_paused = true)]
async fn more_restarts_than_are_kept_are_refused() {
    let max_restarts = RestartIntensity::MAX_RESTARTS + 1;
    let backoff = Backoff::constant(Duration::from_millis(1));
    let error = refused(
        || obeys("t").backoff(backoff).max_restarts(max_restarts, secs(600)),
        r#"Policy { name: "t", source: TooManyRestarts { max_restarts: 1001, most: 1000 } }"#,
        "the restart policy of task \"t\" is not usable",
    );
    assert_eq!(cause(&error), "a limit of 1001 restarts is above the 1000 that are kept");
    let tasks = TaskManager::new();
    let most = obeys("t").backoff(backoff).max_restarts(RestartIntensity::MAX_RESTARTS, secs(600));
    assert_eq!(tasks.register(most), Ok(()));
}

#[test]
fn a_backoff_that_makes_no_sense_is_refused() {
    for (factor, cap, text) in [
        (0.5, 10, "the backoff is not usable: the factor must be a finite number of at least 1"),
        (f64::NAN, 10, "the backoff is not usable: the factor must be a finite number of at least 1"),
        (f64::INFINITY, 10, "the backoff is not usable: the factor must be a finite number of at least 1"),
        (2.0, 0, "the backoff is not usable: the cap must not be below the first delay"),
    ] {
        let error = Backoff::new(secs(1), factor, secs(cap)).expect_err("nonsense");
        assert_eq!(error.to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn zero_durations_that_would_never_let_a_task_live_are_refused() {
    type Set = fn(CriticalTaskConfig) -> CriticalTaskConfig;
    let table: [(Set, &str); 3] = [
        (|config| config.run_timeout(Duration::ZERO), "run timeout"),
        (|config| config.heartbeat_timeout(Duration::ZERO), "heartbeat timeout"),
        (|config| config.health_check_interval(Duration::ZERO), "health check interval"),
    ];
    for (set, field) in table {
        refused(
            || set(obeys("t")),
            &format!(r#"ZeroDuration {{ name: "t", field: {field:?} }}"#),
            &format!("the {field} of task \"t\" must be longer than zero"),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_classification_for_another_error_type_is_refused() {
    let other = || {
        CriticalTaskConfig::new("t", |_| async { Err::<(), _>(io::Error::other("down")) })
            .classify(|_: &fmt::Error| ErrorClass::Permanent)
    };
    refused(
        other,
        r#"ErrorType { name: "t", returned: Some("std::io::error::Error"), classified: "core::fmt::Error" }"#,
        "task \"t\" returns errors of type std::io::error::Error: a rule for core::fmt::Error never matches",
    );
    refused(
        || obeys("t").error_type(|_: &fmt::Error| "format"),
        r#"ErrorType { name: "t", returned: None, classified: "core::fmt::Error" }"#,
        "task \"t\" returns no errors: a rule for core::fmt::Error never matches",
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_past_the_limit_is_refused_and_spawned_ones_share_the_overflow() {
    let tasks = TaskManager::builder().max_names(2).build().unwrap();
    tasks.register(obeys("a")).unwrap();
    tasks.register(obeys("b")).unwrap();
    refuses(
        &tasks,
        obeys("c"),
        r#"NameLimit { name: "c", max_names: 2 }"#,
        "there is no room for task \"c\": the manager tracks at most 2 names, raise max_names",
    );
    tasks.spawn("d", async {}).await.unwrap();
    tasks.spawn("e", async {}).await.unwrap();
    assert_eq!(tasks.snapshot("_OTHER").unwrap().total_runs(), 2, "nothing is lost");
    assert!(tasks.snapshot("d").is_none());
    tasks.unregister("a").await.unwrap();
    assert_eq!(tasks.register(obeys("a")), Ok(()), "a known name has its place");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_task_is_named_by_every_method() {
    let (tasks, before) = running("good").await;
    let refused = tasks.stop("gone").expect_err("it is not registered");
    let TaskControlError::Unknown(unknown) = refused else { panic!("{refused}") };
    assert_eq!(shown(&unknown), r#"UnknownTask { name: "gone" }"#);
    assert_eq!(unknown.to_string(), "no task named \"gone\" is registered");
    assert_eq!(tasks.task_health("gone"), None);
    assert_eq!(tasks.task_metrics("gone"), None);
    assert!(tasks.snapshot("gone").is_none());
    let refused = RestartError::Unknown(unknown.clone());
    assert_eq!(refused.to_string(), unknown.to_string());
    assert_eq!(tasks.restart("gone"), Err(refused));
    assert_eq!(tasks.detach("gone"), Err(unknown.clone()));
    assert_eq!(tasks.unregister("gone").await, Err(unknown));
    assert_eq!(fingerprint(&tasks), before);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_only_spawned_is_not_registered() {
    let tasks = TaskManager::new();
    drop(tasks.spawn("s", std::future::pending::<()>()));
    settle().await;
    assert!(tasks.task_health("s").is_some(), "its figures are known");
    let refused = tasks.stop("s").expect_err("it is not registered");
    let TaskControlError::Unknown(unknown) = refused else { panic!("{refused}") };
    assert_eq!(shown(&unknown), r#"UnknownTask { name: "s" }"#);
    assert_eq!(tasks.restart("s"), Err(RestartError::Unknown(unknown)));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_component_is_named() {
    let (tasks, before) = running("good").await;
    let unknown = tasks.unregister_component("levels").await.expect_err("it is not registered");
    assert_eq!(shown(&unknown), r#"UnknownComponent { name: "levels" }"#);
    assert_eq!(unknown.to_string(), "no component named \"levels\" is registered");
    assert_eq!(fingerprint(&tasks), before);
}

#[tokio::test(start_paused = true)]
async fn replacing_by_something_malformed_leaves_the_old_task_alone() {
    let (tasks, before) = running("t").await;
    let refused = tasks.replace(obeys("t").run_timeout(Duration::ZERO)).await;
    assert_eq!(shown(&refused), r#"Err(ZeroDuration { name: "t", field: "run timeout" })"#);
    settle().await;
    assert_eq!(fingerprint(&tasks), before);
    assert!(tasks.task_health("t").unwrap().is_ready);
}

/// Tries everything that a shutdown refuses.
async fn everything_is_refused(tasks: &TaskManager) {
    let before = tasks.statistics();
    let alive = Alive::default();
    let run = |guard| async move { drop::<crate::support::AliveGuard>(guard) };
    assert_eq!(tasks.register(obeys("new")), Err(RegisterError::ShuttingDown));
    assert_eq!(tasks.spawn("s", run(alive.guard())).await, Err(TaskError::ShuttingDown));
    assert_eq!(tasks.restart("t"), Err(RestartError::ShuttingDown));
    assert_eq!(tasks.restart("gone"), Err(RestartError::ShuttingDown));
    let component = tasks.register_component("late", || vec![obeys("new")]);
    let refused = vec![("late".to_owned(), RegisterError::ShuttingDown)];
    assert_eq!((component.registered, component.refused), (vec![], refused));
    assert_eq!(alive.now(), 0, "refused futures are dropped");
    assert_eq!(tasks.task_names(), ["t"]);
    settle().await;
    assert_eq!(tasks.statistics().total_runs, before.total_runs);
}

#[tokio::test(start_paused = true)]
async fn everything_new_is_refused_during_and_after_a_shutdown() {
    let context = std::sync::Arc::new(std::sync::OnceLock::<TaskContext>::new());
    let slot = context.clone();
    let tasks = TaskManager::new();
    let slow = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let _ = slot.set(ctx.clone());
        async move {
            ctx.cancelled().await;
            sleep(secs(10)).await;
        }
    });
    tasks.register(slow).unwrap();
    tasks.start();
    settle().await;
    let context = context.get().expect("it runs");
    let shutdown = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown().await }
    });
    settle().await;
    everything_is_refused(&tasks).await;
    assert_eq!(context.spawn("owned", async {}).await, Ok(()), "its task has not ended");
    let report = shutdown.await.unwrap();
    assert!(report.is_clean(), "{report}");
    everything_is_refused(&tasks).await;
    assert_eq!(context.spawn("owned", async {}).await, Err(TaskError::ShuttingDown));
    assert_eq!(RegisterError::ShuttingDown.to_string(), "the manager is shutting down");
    assert_eq!(RestartError::ShuttingDown.to_string(), "the manager is shutting down");
    assert_eq!(TaskError::ShuttingDown.to_string(), "the manager is shutting down, so the task was not run");
    assert_eq!(tasks.stop("t"), Ok(()), "what is stopped may be stopped");
    assert_eq!(tasks.unregister("t").await, Ok(()), "and forgotten");
}

/// Fails if a shutdown that begins in the middle of a registration admits a part of it, or names in its report what was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_are_registered_together_are_all_admitted_or_refused() {
    const TOGETHER: usize = 1_000;
    let names: Vec<_> = (0..TOGETHER).map(|number| format!("t-{number}")).collect();
    for round in 0..100 {
        let tasks = TaskManager::builder().max_names(TOGETHER).build().unwrap();
        let configs: Vec<_> = names.iter().map(|name| obeys(name)).collect();
        let (both, runtime) = (Arc::new(Barrier::new(2)), Handle::current());
        let registering = thread::spawn({
            let (tasks, both) = (tasks.clone(), both.clone());
            move || {
                let _inside = runtime.enter();
                both.wait();
                tasks.register_all(configs)
            }
        });
        both.wait();
        // At another moment of the registration in each round.
        thread::sleep(Duration::from_micros(20 * round));
        let report = tasks.shutdown().await;
        let admitted = registering.join().unwrap();
        let expected = if admitted.is_ok() { TOGETHER } else { 0 };
        assert!(matches!(admitted, Ok(()) | Err(RegisterError::ShuttingDown)), "{admitted:?}");
        assert_eq!((report.tasks.len(), tasks.task_names().len()), (expected, expected), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_is_refused_in_a_shutdown_before_the_old_task_is_touched() {
    let tasks = TaskManager::new();
    tasks.register(obeys("t")).unwrap();
    tasks.start();
    settle().await;
    tasks.shutdown().await;
    let refused = tasks.replace(obeys("t")).await;
    assert_eq!(refused, Err(RegisterError::ShuttingDown));
    assert_eq!(tasks.task_names(), ["t"]);
}

#[tokio::test(start_paused = true)]
async fn the_errors_of_a_handle_read_like_sentences() {
    let tasks = TaskManager::new();
    let panicked = tasks.spawn("p", async { panic!("no route") }).await.expect_err("it panicked");
    let text = panicked.to_string();
    assert!(text.starts_with("the task panicked at ") && text.ends_with(": no route"), "{text}");
    let late = tasks.task("l").timeout(secs(2)).spawn(std::future::pending::<()>()).await;
    assert_eq!(late.expect_err("too late").to_string(), "the task passed its time limit of 2s");
    let runs = AtomicUsize::new(0);
    let recovers = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let fails = runs.fetch_add(1, SeqCst) < 5;
        async move {
            if fails {
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    tasks.register(recovers.backoff(Backoff::constant(secs(1))).max_restarts(5, secs(600))).unwrap();
    tasks.start();
    sleep(secs(10)).await;
    let limit = tasks.restart("t").expect_err("it was restarted as often as it may be");
    assert_eq!(shown(&limit), r#"LimitReached { name: "t", max_restarts: 5, within: 600s }"#);
    assert_eq!(limit.to_string(), "task \"t\" has been restarted 5 times within 600s, which is its limit");
}

#[tokio::test]
async fn panic_is_reported_with_its_own_location() {
    let tasks = TaskManager::new();
    let caught = async { drop(std::panic::catch_unwind(|| panic!("the user's own matter"))) };
    tasks.spawn("catches", caught).await.expect("it caught the panic");
    let place = |ended| match ended {
        Err(TaskError::Panicked(panic)) => panic.location,
        _ => unreachable!("it panicked"),
    };
    let resumed =
        tasks.spawn("resumes", async { std::panic::resume_unwind(Box::new("from elsewhere")) }).await;
    assert_eq!(place(resumed), None, "not that of a panic before");
    let raised = tasks.spawn("panics", async { panic!("here") }).await;
    assert!(place(raised).is_some_and(|place| place.contains("errors.rs")));
}

/// Runs a test in virtual time, with a subscriber of its own.
fn under(subscriber: impl tracing::Subscriber + Send + Sync + 'static, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    tracing::subscriber::with_default(subscriber, || runtime.block_on(test));
}

#[test]
fn a_subscriber_that_panics_costs_neither_figures_nor_supervision() {
    use tracing_subscriber::{Layer, layer::Context, prelude::*};
    struct Panics;
    impl<S: tracing::Subscriber> Layer<S> for Panics {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            assert!(event.metadata().name() != "task.exception", "the subscriber's");
        }
    }
    under(tracing_subscriber::registry().with(Panics), async {
        let tasks = TaskManager::new();
        let fails = CriticalTaskConfig::new("t", |_| async { Err::<(), _>("down") });
        tasks.register(fails.max_restarts(2, secs(600)).restart_delay(secs(1))).unwrap();
        tasks.start();
        sleep(secs(30)).await;
        let task = tasks.snapshot("t").expect("known");
        assert_eq!((task.active, task.total_errors(), task.total_restarts()), (0, 3, 2));
    });
}

#[test]
fn a_subscriber_that_panics_twice_at_the_end_of_a_run_costs_nothing() {
    use tracing_subscriber::{Layer, layer::Context, prelude::*, registry::LookupSpan};
    struct Panics;
    impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Panics {
        fn on_record(&self, id: &tracing::span::Id, _: &tracing::span::Record<'_>, context: Context<'_, S>) {
            assert!(context.metadata(id).is_none_or(|of| of.name() != "task.run"), "at the result");
        }

        fn on_close(&self, id: tracing::span::Id, context: Context<'_, S>) {
            assert!(context.metadata(&id).is_none_or(|of| of.name() != "task.run"), "at the close");
        }
    }
    under(tracing_subscriber::registry().with(Panics), async {
        let tasks = TaskManager::new();
        let ticks = TaskLoop::every(secs(1), |_| async {}).count(3);
        tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).unwrap();
        tasks.start();
        assert_eq!(tasks.spawn("work", async { 7 }).await, Ok(7));
        sleep(secs(10)).await;
        for (name, runs) in [("ticks", 3), ("work", 1)] {
            let task = tasks.snapshot(name).expect("known");
            assert_eq!((task.active, task.total_runs(), task.total_errors()), (0, runs, 0), "{name}");
        }
        assert_eq!(tasks.snapshot("ticks").expect("known").total_restarts(), 0);
    });
}
