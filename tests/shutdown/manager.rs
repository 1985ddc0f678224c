//! What the ordered shutdown promises: its order, its stages, its one deadline, its report, and that nothing is left.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, ShutdownReport, TaskCategory, TaskContext, TaskError, TaskGroup, TaskLoop,
    TaskManager, TaskPriority,
    health::{HealthReason, HealthStatus},
    policy::RestartStrategy,
    shutdown::ShutdownOutcome,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    Alive, Events, eventually, millis, secs, settle,
    tasks::{deaf, deaf_loop},
};

/// What happened, and when since the log was made.
#[derive(Clone)]
pub(crate) struct Log {
    began: Instant,
    lines: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    pub(crate) fn push(&self, line: impl Into<String>) {
        let at = (Instant::now() - self.began).as_secs_f64().round() as u64;
        self.lines.lock().unwrap().push((line.into(), at));
    }

    fn names(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    pub(crate) fn lines(&self) -> Vec<(String, u64)> {
        self.lines.lock().unwrap().clone()
    }
}

/// Whole seconds: some milliseconds pass before a shutdown is asked for.
pub(crate) fn whole(duration: Duration) -> u64 {
    duration.as_secs_f64().round() as u64
}

/// A task that notes when it is asked to stop, and then takes so many seconds.
pub(crate) fn asked(name: &str, takes: u64, log: &Log) -> CriticalTaskConfig {
    let (name, log) = (name.to_owned(), log.clone());
    CriticalTaskConfig::new(name.clone(), move |ctx| {
        let (name, log) = (name.clone(), log.clone());
        async move {
            ctx.cancelled().await;
            log.push(name);
            sleep(secs(takes)).await;
        }
    })
}

pub(crate) fn manager(configs: impl IntoIterator<Item = CriticalTaskConfig>, deadline: u64) -> TaskManager {
    let tasks = TaskManager::builder().shutdown_deadline(secs(deadline)).build().unwrap();
    for config in configs {
        tasks.register(config).expect("a valid config");
    }
    tasks.start();
    tasks
}

pub(crate) fn outcome(report: &ShutdownReport, name: &str) -> ShutdownOutcome {
    let mut lines = report.tasks.iter().filter(|task| &*task.name == name);
    let line = lines.next().unwrap_or_else(|| panic!("{name} is missing: {report}"));
    assert!(lines.next().is_none(), "{name} is there twice: {report}");
    line.outcome
}

#[tokio::test(start_paused = true)]
async fn tasks_are_asked_category_by_category_and_the_lowest_priority_first() {
    let log = Log::new();
    let mut configs = Vec::new();
    let mut expected = Vec::new();
    for &category in TaskCategory::SHUTDOWN_ORDER {
        for &priority in TaskPriority::ALL {
            let name = format!("{category}/{priority}");
            configs.push(asked(&name, 0, &log).category(category).priority(priority));
            expected.push(name);
        }
    }
    assert_eq!(expected[0], "unknown/low");
    assert_eq!(expected[19], "gateway/critical");
    // Not in the order in which they are to stop.
    configs.reverse();
    let tasks = manager(configs, 25);
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(log.names(), expected);
    let reported: Vec<_> = report.tasks.iter().map(|task| task.name.to_string()).collect();
    assert_eq!(reported, expected, "the report tells the same order");
    assert!(report.is_clean() && report.duration < secs(1), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_uses_up_its_share_does_not_hold_the_later_ones_up() {
    let (log, alive) = (Log::new(), Alive::default());
    let tasks = manager(
        [
            asked("gateway", 0, &log).category(TaskCategory::Gateway),
            deaf("deaf", &alive).category(TaskCategory::Command),
            // It takes longer than the share of its stage, and less than the deadline.
            asked("late", 12, &log).category(TaskCategory::Command),
        ],
        20,
    );
    settle().await;
    let began = Instant::now();
    let report = tasks.shutdown().await;
    // 19 s without the reserve for dropping, shared by the stages (command, high) and (gateway, high).
    let asked_at = log.lines()[1].1;
    assert_eq!(log.lines()[1].0, "gateway");
    assert!((9..=10).contains(&asked_at), "{:?}", log.lines());
    assert_eq!(outcome(&report, "gateway"), ShutdownOutcome::Clean);
    assert_eq!(outcome(&report, "late"), ShutdownOutcome::Late);
    assert_eq!(outcome(&report, "deaf"), ShutdownOutcome::Aborted);
    assert!(began.elapsed() >= secs(19) && began.elapsed() <= secs(20), "{:?}", began.elapsed());
    assert_eq!((report.deadline, alive.now()), (secs(20), 0));
    assert!(!report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn total_deadline_holds_with_many_deaf_tasks() {
    let alive = Alive::default();
    let configs = TaskCategory::ALL.iter().copied().flat_map(|category| {
        let alive = alive.clone();
        TaskPriority::ALL.iter().copied().map(move |priority| {
            deaf(&format!("{category}/{priority}"), &alive).category(category).priority(priority)
        })
    });
    let tasks = manager(configs, 10);
    for _ in 0..50 {
        let guard = alive.guard();
        drop(tasks.spawn("spawned", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        }));
    }
    settle().await;
    assert_eq!(alive.now(), 70);
    let began = Instant::now();
    let report = tasks.shutdown().await;
    assert!(began.elapsed() <= secs(10), "{:?}", began.elapsed());
    assert_eq!(alive.now(), 0);
    assert_eq!(report.count(ShutdownOutcome::Aborted), 70, "{report}");
    assert!(report.duration <= secs(10));
}

#[tokio::test(start_paused = true)]
async fn loops_are_asked_before_anything_else_and_sleepers_end_at_once() {
    let log = Log::new();
    let sleeper = |name: &'static str, takes: u64| {
        let (body, end) = (log.clone(), log.clone());
        TaskLoop::every(secs(3_600), move |_| {
            body.push(format!("{name} began"));
            async move { sleep(secs(takes)).await }
        })
        .after_loop(move |_| {
            end.push(format!("{name} ended"));
            async {}
        })
    };
    let configs = [
        asked("unknown", 5, &log).category(TaskCategory::Unknown),
        CriticalTaskConfig::from_loop("asleep", sleeper("asleep", 0))
            .category(TaskCategory::Gateway)
            .priority(TaskPriority::Critical),
        CriticalTaskConfig::from_loop("busy", sleeper("busy", 12)).category(TaskCategory::Gateway),
    ];
    let tasks = manager(configs, 30);
    sleep(secs(10)).await;
    let report = tasks.shutdown().await;
    let expected = [
        ("asleep began", 0),
        ("busy began", 0),
        ("asleep ended", 10),
        ("unknown", 10),
        // Its iteration finished, while the stage before its own was still waited for.
        ("busy ended", 12),
    ];
    assert_eq!(log.lines(), expected.map(|(line, at)| (line.to_owned(), at)));
    assert_eq!(report.count(ShutdownOutcome::Clean), 3, "{report}");
    assert_eq!(report.duration.as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_loop_is_stopped_after_its_dependents() {
    let log = Log::new();
    let sleeper = |name: &'static str| {
        let log = log.clone();
        let body = TaskLoop::every(secs(3_600), |_| async {}).after_loop(move |_| {
            log.push(format!("{name} ended"));
            async {}
        });
        CriticalTaskConfig::from_loop(name, body)
    };
    // These two would be asked last, were they not loops that nobody rests on.
    let (alone, last) =
        (sleeper("alone").category(TaskCategory::Gateway), sleeper("last").category(TaskCategory::Gateway));
    let tasks = manager([alone, sleeper("clock"), asked("reader", 2, &log).depends_on("clock")], 25);
    let group = |name| TaskGroup::new(name, RestartStrategy::OneForAll);
    tasks.register_group(group("a").task(sleeper("first")).task(asked("second", 3, &log))).expect("valid");
    tasks.register_group(group("b").task(asked("before", 4, &log)).task(last)).expect("valid");
    sleep(secs(1)).await;
    let report = tasks.shutdown().await;
    let mut lines = log.lines();
    lines.sort_by_key(|(line, at)| (*at, line.clone()));
    // Seen to fail with `Shared::is_rested_on` always false, always true, or taking the last of a group for another.
    let expected = [
        ("alone ended", 1),
        ("last ended", 1),
        ("reader", 1),
        ("second", 1),
        // Once those that go before them have all ended.
        ("before", 4),
        ("clock ended", 4),
        ("first ended", 4),
    ];
    let mut expected = expected.map(|(line, at)| (line.to_owned(), at));
    expected.sort_by_key(|(line, at)| (*at, line.clone()));
    assert_eq!(lines, expected);
    assert_eq!(report.count(ShutdownOutcome::Clean), 7, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_outstays_its_own_grace_is_dropped() {
    let alive = Alive::default();
    let body = deaf_loop(1, &alive);
    let tasks = manager([CriticalTaskConfig::from_loop("l", body).shutdown_grace(secs(3))], 25);
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(outcome(&report, "l"), ShutdownOutcome::Aborted);
    assert_eq!((report.duration.as_secs(), alive.now()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_plain_future_has_its_grace_and_is_dropped_then() {
    let alive = Alive::default();
    let tasks = TaskManager::builder().spawn_grace(secs(4)).build().unwrap();
    let spawn = |name: &'static str, takes| {
        let guard = alive.guard();
        tasks.spawn(name, async move {
            let _guard = guard;
            sleep(secs(takes)).await;
        })
    };
    let (short, long) = (spawn("short", 3), spawn("long", 60));
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!((short.await, long.await), (Ok(()), Err(TaskError::Cancelled)));
    assert_eq!(outcome(&report, "short"), ShutdownOutcome::Clean);
    assert_eq!(outcome(&report, "long"), ShutdownOutcome::Aborted);
    assert_eq!((report.duration.as_secs(), alive.now()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn spawned_task_with_a_context_gets_more_grace() {
    let tasks = TaskManager::builder().spawn_grace(secs(4)).build().unwrap();
    let heard = tasks.task("heard").spawn_with(|ctx| async move {
        ctx.cancelled().await;
        sleep(secs(15)).await;
        Ok::<_, String>("saved")
    });
    let graced = tasks.task("graced").shutdown_grace(secs(6)).spawn_with(|ctx| async move {
        ctx.cancelled().await;
        std::future::pending::<()>().await;
    });
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(heard.await, Ok(Ok("saved")));
    assert_eq!(graced.await, Err(TaskError::Cancelled));
    assert_eq!(outcome(&report, "heard"), ShutdownOutcome::Clean);
    assert_eq!(outcome(&report, "graced"), ShutdownOutcome::Aborted);
    assert_eq!(report.tasks.iter().find(|task| &*task.name == "graced").unwrap().after.as_secs(), 6);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_run_take_no_time() {
    let log = Log::new();
    let backoff = CriticalTaskConfig::new("backoff", |_| async { Err::<(), _>("down") })
        .restart_delay(secs(3_600))
        .max_restarts(1, secs(7_200));
    let tasks = manager(
        [backoff, CriticalTaskConfig::one_shot("finished", |_| async {}), asked("stopped", 0, &log)],
        25,
    );
    settle().await;
    tasks.stop("stopped").unwrap();
    settle().await;
    let report = tasks.shutdown().await;
    assert!(report.is_clean() && report.duration < secs(1), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_was_never_started_shuts_down_at_once() {
    let log = Log::new();
    let tasks = TaskManager::new();
    tasks.register(asked("t", 0, &log)).unwrap();
    let report = tasks.shutdown().await;
    assert!(report.is_clean() && report.duration < secs(1), "{report}");
    tasks.start();
    sleep(secs(60)).await;
    assert!(log.names().is_empty() && !tasks.is_monitoring(), "no start after a shutdown");
    assert_eq!(tasks.statistics().total_runs, 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_is_the_first_one() {
    let (events, _guard) = Events::record();
    let log = Log::new();
    let tasks = manager([asked("t", 5, &log)], 25);
    settle().await;
    let first = tasks.shutdown().await;
    let second = tasks.shutdown().await;
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(log.names(), ["t"]);
    for span in ["bot.cleanup_tasks", "bot.stop_task_loops", "bot.cancel_tasks"] {
        assert_eq!(events.spans(span), 1, "{span}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_interrupts_no_shutdown_and_starts_no_second_one() {
    let (events, _guard) = Events::record();
    let (log, alive) = (Log::new(), Alive::default());
    let tasks = manager([asked("t", 8, &log), deaf("deaf", &alive)], 20);
    settle().await;
    let began = Instant::now();
    tokio::select! {
        _ = tasks.shutdown() => panic!("the task takes 8 s"),
        () = sleep(secs(2)) => {}
    }
    let report = tasks.shutdown().await;
    assert!(began.elapsed() <= secs(20), "one deadline, from the first call: {:?}", began.elapsed());
    assert_eq!(events.spans("bot.cleanup_tasks"), 1, "one shutdown");
    assert_eq!(report.tasks.len(), 2, "{report}");
    let after = report.tasks.iter().find(|task| &*task.name == "t").unwrap().after;
    assert_eq!(after.as_secs(), 8, "reckoned from the first call");
    assert_eq!(alive.now(), 0);
}

#[tokio::test(start_paused = true)]
async fn admission_is_closed_as_soon_as_the_shutdown_is_asked_for() {
    let (log, alive) = (Log::new(), Alive::default());
    let tasks = manager([asked("t", 5, &log)], 25);
    settle().await;
    {
        let mut shutdown = std::pin::pin!(tasks.shutdown());
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(shutdown.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    // Nothing of the runtime has run since.
    let guard = alive.guard();
    let refused = tasks.spawn("s", async move { drop(guard) });
    assert_eq!(alive.now(), 0, "the refused future is dropped at once");
    assert!(refused.is_finished());
    assert_eq!(refused.await, Err(TaskError::ShuttingDown));
    let health = tasks.task_health("t").unwrap();
    assert!(health.is_healthy() && !health.is_ready, "{health:?}");
    assert!(health.reasons.contains(&HealthReason::ShuttingDown), "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn a_child_spawned_by_a_stopping_task_is_admitted_and_waited_for() {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let log = outcomes.clone();
    let config = CriticalTaskConfig::new("parent", move |ctx: TaskContext| {
        let log = log.clone();
        async move {
            let before = ctx.spawn("child", async { Ok::<_, String>(1) }).await;
            log.lock().unwrap().push(before);
            ctx.cancelled().await;
            let after = ctx.spawn("child", async { Ok::<_, String>(2) }).await;
            log.lock().unwrap().push(after);
        }
    });
    let tasks = manager([config], 25);
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(*outcomes.lock().unwrap(), [Ok(Ok(1)), Ok(Ok(2))]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(tasks.snapshot("child").unwrap().total_runs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_spawned_while_the_shutdown_begins_are_refused_or_dropped() {
    for round in 0..20 {
        let alive = Alive::default();
        let tasks =
            TaskManager::builder().spawn_grace(Duration::ZERO).shutdown_deadline(secs(5)).build().unwrap();
        let spawners: Vec<_> = (0..4)
            .map(|_| {
                let (tasks, alive) = (tasks.clone(), alive.clone());
                tokio::task::spawn_blocking(move || {
                    let mut handles = Vec::new();
                    for _ in 0..250 {
                        let guard = alive.guard();
                        handles.push(tasks.spawn("s", async move {
                            let _guard = guard;
                            std::future::pending::<()>().await;
                        }));
                    }
                    handles
                })
            })
            .collect();
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let report = tasks.shutdown().await;
        let (mut refused, mut dropped) = (0, 0);
        for spawner in spawners {
            for handle in spawner.await.unwrap() {
                match handle.await {
                    Err(TaskError::ShuttingDown) => refused += 1,
                    Err(TaskError::Cancelled) => dropped += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((refused + dropped, alive.now()), (1_000, 0));
        assert_eq!(report.count(ShutdownOutcome::Aborted), dropped, "{report}");
        assert_eq!(tasks.statistics().active_runs, 0);
    }
}

/// Blocks the thread that polls it until `release` is dropped; at most 30 s, so that a failing test ends too.
async fn block(release: mpsc::Receiver<()>) {
    let _ = release.recv_timeout(secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_blocks_its_thread_is_reported_as_leaked_and_the_deadline_holds() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(1)).spawn_grace(millis(100)).build().unwrap();
    let (release, released) = mpsc::channel();
    let (began, begun) = mpsc::channel();
    drop(tasks.spawn("blocking", async move {
        began.send(()).unwrap();
        block(released).await;
    }));
    let fine = tasks.task("fine").spawn_with(|ctx| async move { ctx.cancelled().await });
    tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
    let real = std::time::Instant::now();
    let report = tasks.shutdown().await;
    assert!(real.elapsed() < secs(5), "{:?}", real.elapsed());
    assert_eq!(outcome(&report, "blocking"), ShutdownOutcome::Leaked);
    assert_eq!(outcome(&report, "fine"), ShutdownOutcome::Clean);
    assert_eq!((report.exit_code(), report.is_clean()), (2, false));
    assert_eq!(fine.await, Ok(()));
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn exit_code_and_display_show_the_outcome() {
    let alive = Alive::default();
    let log = Log::new();
    let clean = manager([asked("polite", 0, &log)], 10).shutdown().await;
    assert_eq!((clean.exit_code(), clean.is_clean()), (0, true));
    let tasks = manager([deaf("deaf", &alive), asked("polite", 0, &log)], 10);
    for _ in 0..3 {
        drop(tasks.spawn("command_ping", std::future::pending::<()>()));
    }
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!((report.exit_code(), report.is_clean()), (1, false));
    let text = report.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "shutdown took {:.1?} of 10.0s: 1 clean, 0 late, 4 aborted, 0 leaked, 0 not running",
            report.duration
        )
    );
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[1].contains("aborted") && lines[1].contains("command_ping") && lines[1].ends_with("(3 runs)"),
        "{text}"
    );
    assert!(lines[2].contains("aborted") && lines[2].contains("deaf"), "{text}");
    assert!(lines[3].contains("clean") && lines[3].contains("polite"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_did_not_stop_are_logged_by_name() {
    let (events, _guard) = Events::record();
    let (log, alive) = (Log::new(), Alive::default());
    let tasks = manager([deaf("deaf", &alive), asked("polite", 0, &log)], 10);
    settle().await;
    tasks.shutdown().await;
    assert_eq!(events.count("task.not_stopped", "deaf"), 1);
    assert_eq!(events.count("task.not_stopped", "polite"), 0);
}

#[tokio::test(start_paused = true)]
async fn run_until_waits_for_its_signal_and_shuts_down_then() {
    let log = Log::new();
    let tasks = manager([asked("t", 0, &log)], 25);
    let report = tasks
        .run_until(async {
            sleep(secs(60)).await;
            log.push("signal");
        })
        .await;
    assert_eq!(log.lines(), [("signal".into(), 60), ("t".into(), 60)]);
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn the_monitor_ends_with_the_shutdown() {
    let log = Log::new();
    let tasks = manager([asked("t", 0, &log)], 25);
    settle().await;
    assert!(tasks.is_monitoring());
    tasks.shutdown().await;
    settle().await;
    assert!(!tasks.is_monitoring());
    tasks.start();
    assert!(!tasks.is_monitoring());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_stops_everything_gracefully_and_frees_it() {
    let (runs, factories, log) = (Alive::default(), Alive::default(), Log::new());
    let (guards, factory) = (runs.clone(), factories.guard());
    let ended = log.clone();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let (guard, ended) = (guards.guard(), ended.clone());
        let _ = &factory;
        async move {
            let _guard = guard;
            ctx.cancelled().await;
            ended.push("ended");
        }
    });
    let factory = factories.guard();
    let body = TaskLoop::every(secs(60), move |_| {
        let _ = &factory;
        async {}
    });
    let tasks = manager([config, CriticalTaskConfig::from_loop("l", body)], 25);
    let other = tasks.clone();
    settle().await;
    drop(tasks);
    sleep(secs(5)).await;
    assert_eq!(runs.now(), 1, "a clone is the same manager");
    drop(other);
    sleep(secs(1)).await;
    assert_eq!(log.names(), ["ended"]);
    assert_eq!((runs.now(), factories.now()), (0, 0), "nothing is left, not even the factories");
}

#[tokio::test(start_paused = true)]
async fn a_manager_dropped_after_its_shutdown_frees_everything() {
    let factories = Alive::default();
    let factory = factories.guard();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let _ = &factory;
        async move { ctx.cancelled().await }
    });
    let tasks = manager([config], 25);
    settle().await;
    tasks.shutdown().await;
    drop(tasks);
    settle().await;
    assert_eq!(factories.now(), 0);
}

#[test]
fn a_runtime_dropped_under_the_manager_neither_panics_nor_hangs() {
    for threads in [0, 2] {
        let alive = Alive::default();
        let mut builder = if threads == 0 {
            tokio::runtime::Builder::new_current_thread()
        } else {
            tokio::runtime::Builder::new_multi_thread()
        };
        let runtime = builder.worker_threads(threads.max(1)).enable_all().build().unwrap();
        let body = TaskLoop::every(secs(60), |_| async {});
        let handle = body.handle();
        let configs = [deaf("deaf", &alive), CriticalTaskConfig::from_loop("l", body)];
        let (tasks, spawned) = runtime.block_on(async {
            let tasks = manager(configs, 1);
            let spawned =
                tasks.task("spawned").timeout(secs(60)).spawn(alive.during(std::future::pending::<()>()));
            eventually("both run", || alive.now() == 2 && handle.is_running()).await;
            (tasks, spawned)
        });
        drop(runtime);
        assert_eq!(alive.now(), 0, "{threads} threads");
        assert!(!handle.is_running());
        let guard = alive.guard();
        let refused = tasks.spawn("later", async move { drop(guard) });
        assert_eq!(alive.now(), 0, "{threads} threads");
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = other.block_on(async {
            assert_eq!(spawned.await, Err(TaskError::Cancelled));
            assert_eq!(refused.await, Err(TaskError::RuntimeGone));
            tokio::time::timeout(secs(10), tasks.shutdown()).await.expect("no hang")
        });
        assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
        other.block_on(async {
            tokio::time::timeout(secs(10), tasks.unregister("deaf")).await.expect("no hang").unwrap();
        });
        assert_eq!(tasks.statistics().active_runs, 0);
        drop(tasks);
    }
}

#[test]
fn the_last_handle_may_outlive_its_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = runtime.block_on(async { manager([], 1) });
    drop(runtime);
    drop(tasks);
    drop(TaskManager::new());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_asks_for_the_shutdown_is_not_waited_for_and_has_the_same_report() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(20)).build().unwrap();
    let (inner, alive) = (tasks.clone(), Alive::default());
    let other = tasks.spawn("command_other", async { sleep(secs(2)).await });
    let guard = alive.guard();
    let asking = tasks.spawn("command_shutdown", async move {
        let _guard = guard;
        let report = inner.shutdown().await;
        sleep(secs(30)).await;
        Ok::<_, std::convert::Infallible>(report)
    });
    let began = Instant::now();
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(began.elapsed(), secs(2), "the other is waited for");
    assert_eq!(report.asked_by.iter().map(|name| &**name).collect::<Vec<_>>(), ["command_shutdown"]);
    assert!(report.is_clean() && report.tasks.len() == 1, "{report}");
    assert!(Arc::ptr_eq(&asking.await.unwrap().unwrap(), &report));
    drop(other);
    assert_eq!(alive.now(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_no_longer_waits_for_the_shutdown_is_stopped_like_any_other() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(20)).build().unwrap();
    let inner = tasks.clone();
    let other = tasks.spawn("command_other", async { sleep(secs(3)).await });
    let asking = tasks.task("command_shutdown").spawn_with(|ctx| async move {
        let _ = tokio::time::timeout(secs(1), inner.shutdown()).await;
        ctx.cancelled().await;
    });
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(outcome(&report, "command_shutdown"), ShutdownOutcome::Clean);
    assert!(report.asked_by.is_empty(), "{report}");
    drop((other, asking));
}

#[tokio::test(start_paused = true)]
async fn no_future_is_alive_after_the_shutdown() {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    for number in 0..20 {
        let guards = alive.clone();
        let config = CriticalTaskConfig::new(format!("t{number}x"), move |ctx: TaskContext| {
            let guards = guards.clone();
            async move {
                let _guard = guards.guard();
                let child = guards.guard();
                drop(ctx.spawn("child", async move {
                    let _guard = child;
                    sleep(secs(3_600)).await;
                }));
                match number % 4 {
                    0 => Err("fails at once"),
                    1 => panic!("panics at once"),
                    2 => Ok(()),
                    _ => std::future::pending().await,
                }
            }
        });
        tasks.register(config.restart_delay(secs(1)).run_timeout(secs(60))).unwrap();
    }
    tasks.start();
    sleep(secs(30)).await;
    for number in 0..10 {
        let _ = tasks.restart(&format!("t{number}x"));
    }
    tasks.unregister("t3x").await.unwrap();
    tasks.detach("t7x").unwrap();
    sleep(secs(30)).await;
    assert!(alive.now() > 20, "{alive:?}");
    tasks.shutdown().await;
    assert_eq!(alive.now(), 0);
    let statistics = tasks.statistics();
    assert_eq!(statistics.active_runs, 0);
    assert_eq!(statistics.total_runs, alive.total() as u64, "each run ended once");
}

#[tokio::test(start_paused = true)]
async fn tasks_at_rest_are_reported_as_not_running_and_wait_for_no_timer() {
    let tasks = manager([], 10);
    let failing = || CriticalTaskConfig::new("backing_off", |_| async { Err::<(), _>("broken") });
    let hour = Backoff::constant(secs(3_600));
    tasks.register(failing().backoff(hour).max_restarts(1, secs(10_000))).unwrap();
    tasks.register(CriticalTaskConfig::one_shot("finished", |_| async {})).unwrap();
    sleep(secs(1)).await;
    let health = tasks.task_health("backing_off").unwrap();
    assert_eq!(health.reasons, [HealthReason::BackingOff]);
    assert!(
        health.status == HealthStatus::Degraded && health.is_live && !health.is_ready,
        "one failure is no alarm, but no work either"
    );
    let report = tasks.shutdown().await;
    assert_eq!(report.duration, Duration::ZERO);
    assert_eq!(report.count(ShutdownOutcome::NotRunning), 2);
    assert_eq!((report.tasks.len(), report.is_clean(), report.exit_code()), (2, true, 0));
}

#[tokio::test(start_paused = true)]
async fn a_plain_future_keeps_its_grace_when_its_stages_share_is_over() {
    let alive = Alive::default();
    let log = Log::new();
    // Two stages share 9 s; the first has 4.5 of them, but its future may go on for 6.
    let tasks = manager([asked("later", 0, &log)], 10);
    let slow = tasks.task("command_slow").shutdown_grace(secs(6)).spawn(async { sleep(millis(5_500)).await });
    let deaf =
        tasks.task("command_deaf").shutdown_grace(secs(6)).spawn(alive.during(std::future::pending::<()>()));
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(slow.await, Ok(()));
    assert_eq!(deaf.await, Err(TaskError::Cancelled));
    // When each ended, in tenths of a second.
    let outcome = |name: &str| {
        report
            .tasks
            .iter()
            .find(|task| &*task.name == name)
            .map(|task| (task.outcome, (task.after.as_secs_f64() * 10.0).round()))
    };
    assert_eq!(outcome("command_slow"), Some((ShutdownOutcome::Late, 55.0)));
    assert_eq!(outcome("command_deaf"), Some((ShutdownOutcome::Aborted, 60.0)));
    assert_eq!(outcome("later"), Some((ShutdownOutcome::Clean, 45.0)), "asked when the share was over");
    assert_eq!(report.duration.as_secs_f64().round(), 6.0);
}

#[tokio::test(start_paused = true)]
async fn no_duration_is_too_long_for_a_shutdown() {
    let tasks =
        TaskManager::builder().spawn_grace(Duration::MAX).shutdown_deadline(Duration::MAX).build().unwrap();
    drop(tasks.spawn("spawned", sleep(secs(2))));
    let registered = CriticalTaskConfig::new("registered", |ctx| async move {
        ctx.cancelled().await;
        sleep(secs(2)).await;
    });
    tasks.register(registered.shutdown_grace(Duration::MAX)).unwrap();
    tasks.start();
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::Clean), 2, "{report}");
}

#[tokio::test(start_paused = true)]
async fn zero_deadline_still_drops_all_droppable_tasks() {
    let alive = Alive::default();
    let tasks = manager([deaf("deaf", &alive)], 0);
    drop(tasks.spawn("command_ping", std::future::pending::<()>()));
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!(
        (report.count(ShutdownOutcome::Aborted), report.count(ShutdownOutcome::Leaked)),
        (2, 0),
        "{report}"
    );
    assert_eq!(alive.now(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_past_the_name_limit_is_stopped_by_its_own_category() {
    let log = Log::new();
    let tasks = TaskManager::builder().shutdown_deadline(secs(10)).max_names(1).build().unwrap();
    drop(tasks.spawn("takes_the_only_place", async {}));
    let spawn = |name: &'static str, category| {
        let log = log.clone();
        let told = |ctx: TaskContext| async move {
            ctx.cancelled().await;
            log.push(name);
        };
        drop(tasks.task(name).category(category).spawn_with(told));
    };
    spawn("gateway", TaskCategory::Gateway);
    spawn("command", TaskCategory::Command);
    settle().await;
    tasks.shutdown().await;
    assert_eq!(log.names(), ["command", "gateway"]);
    assert!(tasks.snapshot("gateway").is_none(), "metered as another");
}

#[tokio::test(start_paused = true)]
async fn stalled_task_continues_until_its_shutdown_stage() {
    let log = Log::new();
    let silent = asked("silent", 0, &log).category(TaskCategory::Gateway).heartbeat_timeout(secs(3));
    let tasks = manager([asked("slow", 8, &log).category(TaskCategory::Command), silent], 30);
    sleep(secs(1)).await;
    let report = tasks.shutdown().await;
    // Seen to fail where the restart that it would not have anyway stops it at once.
    assert_eq!(log.lines(), [("slow".into(), 1), ("silent".into(), 9)]);
    assert_eq!(tasks.snapshot("silent").expect("registered").stalls, 1);
    assert_eq!(report.count(ShutdownOutcome::Clean), 2, "{report}");
}
