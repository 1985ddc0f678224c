//! What supervision promises: which exit leads where, after which delay, how often, and that runs never overlap.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, TaskContext, TaskError, TaskManager,
    health::HealthReason,
    policy::{ExitKind, RestartReason, StallAction},
    snapshot::TaskState,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Events, eventually, millis, secs, settle, shown,
    tasks::{deaf, obedient, restarts, started, state},
};

/// A task that fails at once, every time, and the moments at which it began.
fn failing(name: &str) -> (CriticalTaskConfig, Arc<Mutex<Vec<Instant>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let log = begun.clone();
    let config = CriticalTaskConfig::new(name, move |_| {
        log.lock().unwrap().push(Instant::now());
        async { Err::<(), _>("down") }
    });
    (config, begun)
}

fn distances(begun: &Mutex<Vec<Instant>>) -> Vec<u64> {
    begun.lock().unwrap().windows(2).map(|pair| (pair[1] - pair[0]).as_millis() as u64).collect()
}

#[tokio::test(start_paused = true)]
async fn a_constant_backoff_waits_the_same_every_time() {
    let (config, begun) = failing("t");
    let _tasks = started(config.backoff(Backoff::constant(secs(7))).max_restarts(3, secs(600)));
    sleep(secs(100)).await;
    assert_eq!(distances(&begun), [7_000, 7_000, 7_000]);
}

#[tokio::test(start_paused = true)]
async fn an_exponential_backoff_grows_to_its_cap() {
    let (config, begun) = failing("t");
    let backoff = Backoff::new(secs(1), 2.0, secs(5)).unwrap().jitter(otel_tasks::policy::Jitter::None);
    let _tasks = started(config.backoff(backoff).max_restarts(5, secs(600)));
    sleep(secs(100)).await;
    assert_eq!(distances(&begun), [1_000, 2_000, 4_000, 5_000, 5_000]);
}

#[tokio::test(start_paused = true)]
async fn an_equal_jitter_spreads_the_restarts_of_tasks_that_fail_together() {
    let tasks = TaskManager::builder().max_names(1_000).build().unwrap();
    let begun: Vec<_> = (0..200)
        .map(|number| {
            let (config, begun) = failing(&format!("t{number}x"));
            let backoff = Backoff::new(secs(10), 1.0, secs(10)).unwrap();
            tasks.register(config.backoff(backoff).max_restarts(1, secs(600))).unwrap();
            begun
        })
        .collect();
    tasks.start();
    sleep(secs(30)).await;
    let mut delays: Vec<u64> = begun.iter().map(|begun| distances(begun)[0]).collect();
    delays.sort_unstable();
    assert!(delays[0] >= 5_000 && *delays.last().unwrap() <= 10_001, "{delays:?}");
    let lower_half = delays.iter().filter(|delay| **delay < 7_500).count();
    assert!((50..150).contains(&lower_half), "not spread: {lower_half} of 200 in the lower half");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_too_often_is_given_up_once() {
    let (events, _guard) = Events::record();
    let (config, begun) = failing("t");
    let config = config.backoff(Backoff::constant(secs(1))).max_restarts(3, secs(600));
    let tasks = started(config.give_up(GiveUp::ForGood));
    // Many monitor sweeps.
    sleep(secs(7_200)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    assert_eq!(begun.lock().unwrap().len(), 4, "the first run and three restarts");
    assert_eq!(events.count("task.gave_up", "t"), 1);
    assert_eq!(events.count("task.restarted", "t"), 3);
    assert_eq!(events.count("task.exception", "t"), 4);
    let health = tasks.task_health("t").unwrap();
    assert!(!health.is_healthy() && !health.is_live && !health.is_ready);
    assert!(health.reasons.iter().any(|reason| matches!(reason, HealthReason::Failed { .. })), "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_gives_up_on_the_first_failure() {
    let (config, begun) = failing("t");
    let tasks = started(config.max_restarts(0, secs(60)).give_up(GiveUp::ForGood));
    sleep(secs(600)).await;
    assert_eq!((state(&tasks, "t"), begun.lock().unwrap().len()), (Some(TaskState::Failed), 1));
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_is_refused_at_the_limit_of_a_living_task() {
    let runs = Arc::new(AtomicUsize::new(0));
    let config = CriticalTaskConfig::new("t", move |ctx| {
        let run = runs.fetch_add(1, SeqCst);
        async move {
            if run < 2 {
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    let tasks = started(config.backoff(Backoff::constant(secs(1))).max_restarts(2, secs(600)));
    sleep(secs(10)).await;
    let refused = r#"Err(LimitReached { name: "t", max_restarts: 2, within: 600s })"#;
    assert_eq!(shown(&tasks.restart("t")), refused);
    sleep(secs(600)).await;
    assert!(tasks.restart("t").is_ok(), "the window has slid on");
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_cooldown_is_scheduled_and_not_dropped() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive).restart_delay(secs(30)));
    settle().await;
    assert_eq!(tasks.restart("t"), Ok(Duration::ZERO), "there was no restart before");
    settle().await;
    assert_eq!(alive.total(), 2);
    sleep(secs(9)).await;
    let after = tasks.restart("t").unwrap();
    assert!(after > secs(20) && after <= secs(21), "{after:?}");
    sleep(secs(20)).await;
    assert_eq!((alive.total(), state(&tasks, "t")), (2, Some(TaskState::Running)), "not before its time");
    sleep(secs(2)).await;
    assert_eq!(alive.total(), 3);
    assert_eq!(restarts(&tasks, "t", RestartReason::Requested), 2);
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_restart_happens_even_if_the_run_ends_by_itself_before() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let config = CriticalTaskConfig::new("t", move |_| {
        let run = count.fetch_add(1, SeqCst);
        async move {
            // The first run waits to be restarted, the second ends within its cooldown.
            sleep(secs(if run == 0 { 3_600 } else { 5 })).await;
        }
    });
    let tasks = started(config.restart_delay(secs(30)).shutdown_grace(Duration::ZERO));
    settle().await;
    tasks.restart("t").unwrap();
    sleep(secs(1)).await;
    let after = tasks.restart("t").unwrap();
    assert!(after > secs(28), "{after:?}");
    sleep(secs(20)).await;
    assert_eq!(begun.load(SeqCst), 2, "it ended, and its restart is not due yet");
    sleep(secs(10)).await;
    assert_eq!(begun.load(SeqCst), 3, "the promised restart took place");
}

#[tokio::test(start_paused = true)]
async fn restart_during_backoff_starts_exactly_one_run() {
    let alive = Alive::default();
    let runs = Arc::new(AtomicUsize::new(0));
    let guards = alive.clone();
    let config = CriticalTaskConfig::new("t", move |ctx| {
        let (run, guards) = (runs.fetch_add(1, SeqCst), guards.clone());
        async move {
            let _guard = guards.guard();
            if run == 0 {
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    let tasks = started(config.backoff(Backoff::constant(secs(60))));
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Backoff));
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((alive.total(), alive.now()), (2, 1));
    // The timer of the backoff is gone.
    sleep(secs(600)).await;
    assert_eq!((alive.total(), alive.now()), (2, 1));
}

async fn hundred_restarts_and_a_stop(threads: bool) {
    let alive = Alive::default();
    let config =
        obedient("t", &alive).backoff(Backoff::constant(Duration::ZERO)).max_restarts(1_000, secs(60));
    let tasks = started(config);
    eventually("the first run", || alive.now() == 1).await;
    let mut calls = Vec::new();
    for number in 0..100 {
        let tasks = tasks.clone();
        let call = move || {
            if number % 10 == 5 {
                tasks.stop("t").unwrap();
            } else {
                tasks.restart("t").unwrap();
            }
        };
        if threads {
            calls.push(tokio::task::spawn_blocking(call));
        } else {
            calls.push(tokio::spawn(async move { call() }));
        }
    }
    for call in calls {
        call.await.unwrap();
    }
    tasks.stop("t").unwrap();
    eventually("the last order was a stop", || state(&tasks, "t") == Some(TaskState::Stopped)).await;
    assert_eq!((alive.now(), alive.most()), (0, 1), "runs overlapped");
    tasks.restart("t").unwrap();
    eventually("the last order was a restart", || alive.now() == 1).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    tasks.shutdown().await;
    assert_eq!((alive.now(), alive.most()), (0, 1), "runs overlapped");
}

#[tokio::test(start_paused = true)]
async fn runs_never_overlap_under_a_hundred_restarts_and_stops() {
    hundred_restarts_and_a_stop(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_never_overlap_under_a_hundred_restarts_and_stops_from_threads() {
    hundred_restarts_and_a_stop(true).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_start_takes_back_no_stop() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive));
    settle().await;
    tasks.stop("t").unwrap();
    tasks.start();
    sleep(secs(60)).await;
    assert_eq!((state(&tasks, "t"), alive.now()), (Some(TaskState::Stopped), 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_start_takes_back_no_restart() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive));
    settle().await;
    tasks.restart("t").unwrap();
    tasks.start();
    sleep(secs(60)).await;
    assert_eq!((alive.total(), alive.now()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn panic_of_any_payload_is_reported_with_its_text() {
    struct Odd;
    let payloads: [(fn(), &str); 3] = [
        (|| panic!("a literal"), "a literal"),
        (|| panic!("formatted {}", 42), "formatted 42"),
        (|| std::panic::panic_any(Odd), "non-string payload"),
    ];
    for (index, (panic, text)) in payloads.into_iter().enumerate() {
        let (events, _guard) = Events::record();
        let config = CriticalTaskConfig::new("t", move |_| async move { panic() });
        let tasks = started(config.restart_policy(RestartPolicy::Never));
        let spawned = tasks.spawn("s", async move { panic() });
        let Err(TaskError::Panicked(panic)) = spawned.await else { panic!("{index}: not a panic") };
        assert_eq!(panic.text, text);
        assert!(panic.location.as_ref().is_some_and(|at| at.contains("supervision.rs")), "{panic:?}");
        settle().await;
        assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
        let snapshot = tasks.snapshot("t").unwrap();
        assert_eq!((snapshot.total_runs(), snapshot.runs(ExitKind::Panic)), (1, 1));
        let record = events.named("task.exception").into_iter().find(|event| event.field("task.name") == "t");
        let record = record.expect("a record of the panic");
        assert_eq!((record.field("exception.type"), record.field("task.run.result")), ("panic", "panic"));
        assert!(record.field("exception.message").contains(text), "{record:?}");
    }
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("in a destructor");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_returns_is_a_task() {
    let tasks = started(CriticalTaskConfig::new("t", |ctx| async move {
        loop {
            sleep(secs(1)).await;
            ctx.heartbeat();
        }
    }));
    drop(tasks.spawn("s", async {
        loop {
            sleep(secs(1)).await;
        }
    }));
    sleep(secs(3)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    assert_eq!(tasks.statistics().active_runs, 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_destructor_on_abort_is_contained() {
    let config = CriticalTaskConfig::new("supervised", |_| async {
        let _bomb = PanicsOnDrop;
        std::future::pending::<()>().await;
    });
    let tasks = started(config.shutdown_grace(secs(1)));
    let spawned = tasks.spawn("spawned", async {
        let _bomb = PanicsOnDrop;
        std::future::pending::<()>().await;
    });
    settle().await;
    spawned.abort();
    assert_eq!(spawned.await, Err(TaskError::Cancelled));
    tasks.stop("supervised").unwrap();
    sleep(secs(2)).await;
    assert_eq!(state(&tasks, "supervised"), Some(TaskState::Stopped));
    for name in ["supervised", "spawned"] {
        let snapshot = tasks.snapshot(name).unwrap();
        assert_eq!((snapshot.active, snapshot.runs(ExitKind::Cancellation)), (0, 1), "{name}");
    }
    tasks.restart("supervised").unwrap();
    settle().await;
    assert_eq!(state(&tasks, "supervised"), Some(TaskState::Running));
    let report = tasks.shutdown().await;
    assert_eq!(report.tasks.len(), 1, "{report}");
    assert_eq!(report.tasks[0].outcome, otel_tasks::shutdown::ShutdownOutcome::Aborted);
}

#[tokio::test(start_paused = true)]
async fn an_output_is_returned_if_its_reading_and_the_destructor_panic() {
    /// Its text panics if it is true.
    #[derive(Debug, PartialEq)]
    struct Failed(bool);
    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            if self.0 { panic!("in a display") } else { f.write_str("failed") }
        }
    }
    impl std::error::Error for Failed {}
    /// Returns at once. Its destructor panics.
    struct Returns(Option<Result<(), Failed>>, PanicsOnDrop);
    impl Future for Returns {
        type Output = Result<(), Failed>;
        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            self.0.take().map_or(Poll::Pending, Poll::Ready)
        }
    }
    let tasks = TaskManager::new();
    for (name, output, kind) in [
        ("success", Ok(()), ExitKind::Success),
        ("error", Err(Failed(false)), ExitKind::Failure),
        ("display", Err(Failed(true)), ExitKind::Panic),
    ] {
        let expected = output.as_ref().map_err(|Failed(panics)| Failed(*panics)).copied();
        let returned = tasks.spawn(name, Returns(Some(output), PanicsOnDrop)).await;
        assert_eq!(returned, Ok(expected), "{name}");
        let snapshot = tasks.snapshot(name).unwrap();
        assert_eq!((snapshot.active, snapshot.total_runs(), snapshot.runs(kind)), (0, 1, 1), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_passes_its_time_limit_is_dropped_and_restarted() {
    let alive = Alive::default();
    let config = deaf("t", &alive);
    let tasks = started(config.run_timeout(secs(10)).backoff(Backoff::constant(secs(5))));
    sleep(secs(12)).await;
    assert_eq!((alive.now(), alive.total()), (0, 1));
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!(snapshot.runs(ExitKind::Timeout), 1);
    assert_eq!(snapshot.longest_run, secs(10));
    assert_eq!(snapshot.errors[0].error_type, "timeout");
    sleep(secs(4)).await;
    assert_eq!((alive.now(), alive.total(), alive.most()), (1, 2, 1));
    assert_eq!(restarts(&tasks, "t", RestartReason::Timeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ignores_a_stop_is_dropped_after_its_grace() {
    let alive = Alive::default();
    let config = deaf("deaf", &alive);
    let tasks = started(config.shutdown_grace(secs(4)));
    settle().await;
    tasks.stop("deaf").unwrap();
    sleep(secs(3)).await;
    assert_eq!((state(&tasks, "deaf"), alive.now()), (Some(TaskState::Stopping), 1));
    sleep(secs(2)).await;
    assert_eq!((state(&tasks, "deaf"), alive.now()), (Some(TaskState::Stopped), 0));
    assert_eq!(tasks.snapshot("deaf").unwrap().runs(ExitKind::Cancellation), 1);
    assert_eq!(tasks.snapshot("deaf").unwrap().total_errors(), 0, "a cancellation is no error");
}

#[tokio::test(start_paused = true)]
async fn a_task_counts_its_generations_and_sees_its_own_cancellation() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        log.lock().unwrap().push((
            ctx.name().to_owned(),
            ctx.generation(),
            ctx.iteration(),
            ctx.is_cancelled(),
        ));
        async move { ctx.cancelled().await }
    });
    let tasks = started(config);
    settle().await;
    tasks.restart("t").unwrap();
    settle().await;
    let expected = [("t".to_owned(), 1, None, false), ("t".to_owned(), 2, None, false)];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn detached_task_continues_without_its_name() {
    let (detached, replacement) = (Alive::default(), Alive::default());
    let tasks = started(obedient("t", &detached));
    settle().await;
    tasks.detach("t").unwrap();
    assert_eq!(tasks.task_names(), Vec::<String>::new());
    assert_eq!(tasks.statistics().critical_tasks, 0, "it no longer counts as registered");
    assert_eq!(state(&tasks, "t"), None);
    assert_eq!(detached.now(), 1, "it goes on");
    tasks.register(obedient("t", &replacement)).expect("the name is free");
    settle().await;
    assert_eq!((detached.now(), replacement.now()), (1, 1));
    assert_eq!(tasks.statistics().critical_tasks, 1);
    tasks.stop("t").unwrap();
    settle().await;
    assert_eq!((detached.now(), replacement.now()), (1, 0), "the name is the new task's");
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((detached.now(), replacement.now()), (0, 0), "the shutdown stops both");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_detached_task_is_not_the_state_of_its_namesake() {
    let config = CriticalTaskConfig::new("t", |_| async { sleep(secs(10)).await });
    let tasks = started(config);
    settle().await;
    tasks.detach("t").unwrap();
    let alive = Alive::default();
    tasks.register(obedient("t", &alive)).unwrap();
    sleep(secs(20)).await;
    assert_eq!((state(&tasks, "t"), alive.now()), (Some(TaskState::Running), 1));
}

#[tokio::test(start_paused = true)]
async fn a_detached_task_is_still_restarted_by_its_policy() {
    let (config, begun) = failing("t");
    let tasks = started(config.backoff(Backoff::constant(secs(10))).max_restarts(3, secs(600)));
    settle().await;
    tasks.detach("t").unwrap();
    sleep(secs(100)).await;
    assert_eq!(begun.lock().unwrap().len(), 4);
    assert_eq!(state(&tasks, "t"), None, "given up, but not registered");
}

#[tokio::test(start_paused = true)]
async fn unregistering_waits_until_the_task_is_gone() {
    let alive = Alive::default();
    let guards = alive.clone();
    let config = CriticalTaskConfig::new("t", move |ctx| {
        let guards = guards.clone();
        async move {
            let _guard = guards.guard();
            ctx.cancelled().await;
            sleep(secs(3)).await;
        }
    });
    let tasks = started(config);
    settle().await;
    let began = Instant::now();
    tasks.unregister("t").await.unwrap();
    assert_eq!(alive.now(), 0);
    assert!(began.elapsed() >= secs(3) && began.elapsed() < secs(4), "{:?}", began.elapsed());
    assert_eq!((tasks.task_names().len(), state(&tasks, "t")), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_unregistration_still_stops_the_task() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive));
    settle().await;
    {
        let unregister = std::pin::pin!(tasks.unregister("t"));
        assert!(futures_poll_once(unregister).await.is_none());
    }
    settle().await;
    assert_eq!(alive.now(), 0);
    assert_eq!((tasks.task_names().len(), state(&tasks, "t")), (0, None));
    tasks.register(obedient("t", &alive)).expect("its name is free");
}

async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn replacing_stops_the_old_task_before_the_new_one_begins() {
    let alive = Alive::default();
    let tasks = started(obedient("t", &alive));
    settle().await;
    tasks.replace(obedient("t", &alive)).await.unwrap();
    settle().await;
    assert_eq!((alive.now(), alive.total(), alive.most()), (1, 2, 1));
    tasks.replace(obedient("new", &alive)).await.expect("replacing nothing is registering");
    settle().await;
    assert_eq!(alive.now(), 2);
}

/// A task that beats until told to go silent.
fn silent_after(name: &str, beats: u32, alive: &Alive) -> CriticalTaskConfig {
    let (alive, runs) = (alive.clone(), Arc::new(AtomicU32::new(0)));
    CriticalTaskConfig::new(name, move |ctx| {
        let (guard, run) = (alive.guard(), runs.fetch_add(1, SeqCst));
        async move {
            let _guard = guard;
            for beat in 0.. {
                if run == 0 && beat == beats {
                    std::future::pending::<()>().await;
                }
                ctx.heartbeat();
                tokio::select! {
                    () = ctx.cancelled() => return,
                    () = sleep(secs(10)) => {}
                }
            }
        }
    })
    .heartbeat_timeout(secs(30))
    .health_check_interval(secs(60))
    .shutdown_grace(secs(1))
}

#[tokio::test(start_paused = true)]
async fn stalled_task_is_reported_and_restarted_once() {
    let alive = Alive::default();
    let tasks = started(silent_after("t", 3, &alive));
    // Silent since 20 s, so stalled from 50 s on; deaf too, so it has its grace of 1 s.
    sleep(millis(49_900)).await;
    assert_eq!((tasks.snapshot("t").unwrap().stalls, alive.total()), (0, 1));
    sleep(millis(600)).await;
    assert_eq!((tasks.snapshot("t").unwrap().stalls, alive.total()), (1, 1));
    sleep(millis(5_000)).await;
    assert_eq!((alive.total(), alive.now(), alive.most()), (2, 1, 1));
    assert_eq!(restarts(&tasks, "t", RestartReason::Stalled), 1);
    sleep(secs(3_600)).await;
    assert_eq!(alive.total(), 2, "it beats again and is left alone");
    assert_eq!(tasks.snapshot("t").unwrap().stalls, 1);
    assert!(tasks.task_health("t").unwrap().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn report_only_stall_leaves_the_task_unhealthy_and_running() {
    let alive = Alive::default();
    let tasks = started(silent_after("t", 3, &alive).on_stall(StallAction::Report));
    sleep(secs(3_600)).await;
    let health = tasks.task_health("t").unwrap();
    assert!(!health.is_healthy() && !health.is_live, "{health:?}");
    assert!(health.reasons.iter().any(|reason| matches!(reason, HealthReason::Stalled { .. })), "{health:?}");
    assert_eq!((alive.total(), tasks.snapshot("t").unwrap().stalls), (1, 1), "told once");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_stalls_too_often_is_given_up() {
    let (events, _guard) = Events::record();
    let config = CriticalTaskConfig::new("t", |_| std::future::pending::<()>())
        .heartbeat_timeout(secs(30))
        .health_check_interval(secs(60))
        .shutdown_grace(Duration::ZERO)
        .max_restarts(2, secs(3_600));
    let tasks = started(config);
    sleep(secs(3_600)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    assert_eq!(restarts(&tasks, "t", RestartReason::Stalled), 2);
    assert_eq!(events.count("task.gave_up", "t"), 1);
}

#[tokio::test(start_paused = true)]
async fn handle_returns_the_result_of_its_task() {
    let tasks = TaskManager::new();
    let fine = tasks.spawn("fine", async { Ok::<_, String>(7) });
    let failed = tasks.spawn("failed", async { Err::<(), _>("its own error".to_owned()) });
    let plain = tasks.spawn("plain", async {});
    assert_eq!(fine.await, Ok(Ok(7)));
    assert_eq!(failed.await, Ok(Err("its own error".to_owned())), "the task's error is the task's output");
    assert_eq!(plain.await, Ok(()));
    let late = tasks.task("late").timeout(secs(3)).spawn(std::future::pending::<()>());
    assert_eq!(late.await, Err(TaskError::TimedOut(secs(3))));
    for (name, kind) in [
        ("fine", ExitKind::Success),
        ("failed", ExitKind::Failure),
        ("plain", ExitKind::Success),
        ("late", ExitKind::Timeout),
    ] {
        let snapshot = tasks.snapshot(name).unwrap();
        assert_eq!((snapshot.total_runs(), snapshot.runs(kind)), (1, 1), "{name}");
        assert_eq!(snapshot.active, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_a_handle_keeps_the_task() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    let guard = alive.guard();
    drop(tasks.spawn("t", async move {
        let _guard = guard;
        sleep(secs(5)).await;
    }));
    sleep(secs(4)).await;
    assert_eq!(alive.now(), 1);
    sleep(secs(2)).await;
    assert_eq!(tasks.snapshot("t").unwrap().runs(ExitKind::Success), 1);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_task_ends_as_a_cancellation() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    let guard = alive.guard();
    let handle = tasks.spawn("t", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    settle().await;
    assert!(!handle.is_finished());
    handle.abort();
    settle().await;
    assert!(handle.is_finished());
    assert_eq!((handle.await, alive.now()), (Err(TaskError::Cancelled), 0));
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!((snapshot.runs(ExitKind::Cancellation), snapshot.total_errors()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_abort_before_the_first_poll_is_counted_too() {
    let tasks = TaskManager::new();
    let handle = tasks.spawn("t", async {});
    handle.abort();
    assert_eq!(handle.await, Err(TaskError::Cancelled));
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!((snapshot.active, snapshot.total_runs()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_does_not_take_back_a_stop_and_is_counted_once() {
    let tasks = TaskManager::builder().monitor_interval(millis(10)).build().unwrap();
    let blocks = |name: &str| {
        let config = CriticalTaskConfig::new(name, |ctx| async move {
            if ctx.generation() == 1 {
                std::thread::sleep(millis(400));
            }
            ctx.heartbeat();
            ctx.cancelled().await;
        });
        config.heartbeat_timeout(millis(200)).health_check_interval(millis(10))
    };
    tasks.register(blocks("stopped")).unwrap();
    tasks.start();
    sleep(millis(50)).await;
    tasks.stop("stopped").unwrap();
    eventually("it stopped", || state(&tasks, "stopped") == Some(TaskState::Stopped)).await;
    tasks.register(blocks("stalled")).unwrap();
    eventually("it restarted", || restarts(&tasks, "stalled", RestartReason::Stalled) > 0).await;
    assert_eq!(tasks.snapshot("stalled").expect("known").stalls, 1);
    assert_eq!(tasks.snapshot("stopped").expect("known").total_restarts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_never_restarted_is_given_up_when_it_stalls() {
    let tasks = TaskManager::builder().monitor_interval(secs(1)).build().unwrap();
    let config = obedient("t", &Alive::default()).restart_policy(RestartPolicy::Never);
    tasks.register(config.heartbeat_timeout(secs(5)).health_check_interval(secs(1))).unwrap();
    tasks.start();
    sleep(secs(20)).await;
    let task = tasks.snapshot("t").expect("known");
    assert_eq!((task.state, task.total_restarts(), task.stalls), (Some(TaskState::Failed), 0, 1));
}

#[tokio::test(start_paused = true)]
async fn replacement_does_not_inherit_restart_counts() {
    let config = || failing("t").0.max_restarts(2, secs(600)).restart_delay(secs(1));
    let tasks = started(config());
    sleep(secs(30)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    tasks.replace(config()).await.unwrap();
    sleep(secs(30)).await;
    assert_eq!(restarts(&tasks, "t", RestartReason::Failure), 4);
}

#[test]
fn a_destructor_of_a_detached_task_may_ask_the_manager() {
    struct Asks(TaskManager);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.0.task_names();
        }
    }
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let alive = Alive::default();
            let asks = Asks(TaskManager::new());
            let tasks = asks.0.clone();
            let config = CriticalTaskConfig::new("asks", move |ctx| {
                let _ = &asks;
                async move { ctx.cancelled().await }
            });
            tasks.register(config).unwrap();
            tasks.register(obedient("other", &alive)).unwrap();
            tasks.detach("asks").unwrap();
            tasks.shutdown().await;
            tasks.detach("other").unwrap();
        });
        done.send(()).expect("waited for");
    });
    ended.recv_timeout(secs(10)).expect("no deadlock");
}

#[tokio::test(start_paused = true)]
async fn a_delay_of_years_is_waited_for() {
    let years = secs(2 * 365 * 86_400);
    let (config, begun) = failing("patient");
    // Virtual time, but no sweep of each of its minutes.
    let tasks = TaskManager::builder().monitor_interval(years).build().unwrap();
    let config = config.backoff(Backoff::constant(years)).max_restarts(1, 9 * years);
    tasks.register(config).expect("a valid config");
    tasks.start();
    // Seen to fail where what counts as far away is a day, or a year.
    sleep(years - secs(1)).await;
    assert_eq!(state(&tasks, "patient"), Some(TaskState::Backoff));
    sleep(secs(2)).await;
    assert_eq!(begun.lock().unwrap().len(), 2);
}
