//! The instruments: their contract, that every reader sees the same figures, and that labels stay bounded.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use opentelemetry_sdk::metrics::Temporality;
use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, Schedule, TaskLoop, TaskManager,
    events::{TaskEvent, TaskEventKind},
    policy::{DiscardExt as _, ExitKind, NameRule},
    schedule::OnError,
    telemetry::{
        contract,
        contract::{INSTRUMENTS, TASK_ATTRIBUTES},
    },
};
use support::metrics::{Metrics, Points};

#[tokio::test(start_paused = true)]
async fn tasks_at_shutdown_are_counted_by_outcome() {
    let metrics = Metrics::new();
    let tasks = TaskManager::builder().meter(metrics.meter()).build().unwrap();
    let obeys =
        |name: &'static str| CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await });
    let deaf = CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>());
    tasks
        .register_all([
            obeys("one"),
            obeys("another"),
            deaf.shutdown_grace(Duration::from_secs(1)),
            CriticalTaskConfig::one_shot("done", |_| async {}),
        ])
        .expect("registered");
    tasks.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    tasks.shutdown().await;
    let points = metrics.collect();
    let of = |outcome| points.sum(contract::SHUTDOWN_TASKS.name, &[("task.shutdown.outcome", outcome)]);
    let counted = ["clean", "late", "aborted", "leaked", "not_running"].map(of);
    assert_eq!(counted, [2.0, 0.0, 1.0, 0.0, 1.0]);
    assert_eq!(points.sum(contract::SHUTDOWN_TASKS.name, &[]), 4.0);
}

/// A service in which every state and result occurs.
async fn provoke(tasks: &TaskManager) {
    let second = Duration::from_secs(1);
    let backoff = Backoff::constant(second);
    let gives_up =
        CriticalTaskConfig::new("gives_up", |_| async { Err::<(), _>(std::io::Error::other("down")) });
    tasks
        .register(gives_up.max_restarts(2, 60 * second).backoff(backoff).component("storage"))
        .expect("registered");
    let runs = AtomicU64::new(0);
    let recovers = CriticalTaskConfig::one_shot("recovers", move |ctx| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            assert!(run != 0, "first time");
            if run == 1 {
                ctx.cancelled().await;
            }
        }
    });
    tasks.register(recovers.run_timeout(5 * second).backoff(backoff)).expect("registered");
    let stalls = CriticalTaskConfig::new("stalls", |ctx| async move {
        if ctx.generation() == 1 {
            std::future::pending::<()>().await;
        }
        while !ctx.is_cancelled() {
            ctx.heartbeat();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
    let stalls =
        stalls.heartbeat_timeout(30 * second).health_check_interval(60 * second).shutdown_grace(second);
    tasks.register(stalls).expect("registered");
    let slow = TaskLoop::every(second, |ctx| async move {
        if ctx.iteration() == Some(2) {
            tokio::time::sleep(Duration::from_millis(3_500)).await;
        }
        if ctx.iteration() == Some(3) { Err("third") } else { Ok(()) }
    });
    let slow = slow.on_error(|_| async { OnError::Continue });
    tasks.register(CriticalTaskConfig::from_loop("slow_loop", slow)).expect("registered");
    let always = CriticalTaskConfig::new("always", |ctx| async move {
        if ctx.generation() < 3 {
            tokio::time::sleep(Duration::from_secs(2)).await
        } else {
            ctx.cancelled().await
        }
    });
    tasks.register(always.restart_policy(RestartPolicy::Always).backoff(backoff)).expect("registered");
    tasks.start();
    for id in 0..20 {
        let name = format!("command_ping_{id}");
        let handle = tasks.spawn(&name, async move {
            tokio::time::sleep(Duration::from_millis(id * 10)).await;
            if id % 5 == 0 { Err(std::fmt::Error) } else { Ok(()) }
        });
        drop(handle);
    }
    let limited = tasks.task("limited").limit(1);
    for _ in 0..2 {
        drop(limited.reserve().await.spawn(tokio::time::sleep(second)));
    }
    // Until its slow poll is reported: the watchdog sees a poll later than it begins, by a tick or by more on a busy machine.
    let mut events = tasks.subscribe();
    let blocks = tasks.spawn("blocks", async move {
        let began = Instant::now();
        let is_own = |event: TaskEvent| {
            matches!(event.kind, TaskEventKind::SlowPoll { .. }) && event.task.as_deref() == Some("blocks")
        };
        while !events.try_recv().is_some_and(is_own) {
            assert!(began.elapsed() < Duration::from_secs(20), "no slow poll was reported");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    blocks.await.expect("its poll is reported");
    let aborted = tasks.spawn("aborted", std::future::pending::<()>());
    tokio::time::sleep(130 * second).await;
    tasks.restart("gives_up").expect("a person may try again");
    tokio::time::sleep(10 * second).await;
    aborted.abort();
    let _ = aborted.await;
}

fn manager(metrics: &Metrics) -> TaskManager {
    TaskManager::builder().meter(metrics.meter()).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn exported_metrics_match_the_contract() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    provoke(&tasks).await;
    let before_shutdown = metrics.collect();
    tasks.shutdown().await;
    let mut points = metrics.collect();
    points.0.extend(before_shutdown.0);

    let exported: BTreeSet<_> = points.0.iter().map(|point| point.instrument.as_str()).collect();
    // Counted by the installer, which is not in play here.
    let expected: BTreeSet<_> = INSTRUMENTS
        .iter()
        .map(|instrument| instrument.name)
        .filter(|name| *name != contract::TELEMETRY_DROPPED.name)
        .collect();
    assert_eq!(exported, expected);
    let of_the_manager =
        [contract::SHUTDOWN_DURATION.name, contract::SHUTDOWN_TASKS.name, contract::MONITOR_DURATION.name];
    for point in &points.0 {
        let instrument =
            INSTRUMENTS.iter().find(|held| held.name == point.instrument).expect("compared above");
        assert_eq!(point.kind, instrument.kind.as_str(), "{}", point.instrument);
        assert_eq!(point.unit, instrument.unit, "{}", point.instrument);
        assert_eq!(point.description, instrument.description, "{}", point.instrument);
        let allowed: BTreeSet<_> = TASK_ATTRIBUTES.iter().chain(instrument.attributes).copied().collect();
        for key in point.attributes.keys() {
            assert!(allowed.contains(key.as_str()), "{} carries {key}", point.instrument);
        }
        let about_a_task = !of_the_manager.contains(&point.instrument.as_str());
        assert_eq!(about_a_task, point.attributes.contains_key("task.name"), "{point:?}");
    }
    for instrument in INSTRUMENTS {
        for key in instrument.attributes {
            let with_key =
                points.of(instrument.name, &[]).iter().any(|point| point.attributes.contains_key(*key));
            assert!(
                with_key || instrument.name == contract::TELEMETRY_DROPPED.name,
                "{} {key}",
                instrument.name
            );
        }
    }
}

/// What the meter says of one task, beside what everybody else says of it.
fn assert_agreement(tasks: &TaskManager, points: &Points, name: &str) {
    let of = [("task.name", name)];
    let snapshot = tasks.snapshot(name).expect("known");
    let metrics = tasks.task_metrics(name).expect("known");
    let health = tasks.task_health(name).expect("known");
    for &kind in ExitKind::ALL {
        let exported = points.sum("task.runs", &[of[0], ("task.run.result", kind.as_str())]);
        assert_eq!(exported, snapshot.runs(kind) as f64, "{name} {kind:?}");
        let timed = points.count("task.run.duration", &[of[0], ("task.run.result", kind.as_str())]);
        assert_eq!(timed, snapshot.runs(kind), "{name} {kind:?}: the histogram counts the runs");
    }
    assert_eq!(points.sum("task.runs", &of), metrics.run_count as f64, "{name}");
    assert_eq!(points.sum("task.run.errors", &of), metrics.error_count as f64, "{name}");
    assert_eq!(points.sum("task.restarts", &of), metrics.restart_count as f64, "{name}");
    assert_eq!(health.restart_count, metrics.restart_count, "{name}");
    assert_eq!(health.error_rate, metrics.error_count as f64, "{name}: all within the last hour");
    assert_eq!(points.sum("task.run.active", &of), metrics.active_runs as f64, "{name}");
    assert_eq!(points.sum("task.run.time", &of), metrics.total_runtime.as_secs_f64(), "{name}");
    let longest = points.sum("task.run.duration.max", &of);
    assert_eq!(longest, metrics.max_runtime.as_secs_f64(), "{name}");
    let histogram = points.of("task.run.duration", &of).into_iter().fold(
        vec![0; contract::DURATION_BOUNDARIES.len() + 1],
        |mut sum, point| {
            sum.iter_mut().zip(&point.buckets).for_each(|(sum, bucket)| *sum += bucket);
            sum
        },
    );
    assert_eq!(histogram, snapshot.durations, "{name}: percentiles come from the exported buckets");
    let timed = points.sum("task.run.duration", &of);
    assert!((timed - metrics.total_runtime.as_secs_f64()).abs() < 1e-6, "{name}");
    assert_eq!(metrics.avg_runtime, metrics.total_runtime.div_f64(metrics.run_count.max(1) as f64), "{name}");
    let states = points.of("task.status", &of);
    match snapshot.state {
        None => assert!(states.iter().all(|state| state.value == 0.0), "{name} is not registered"),
        Some(state) => {
            assert_eq!(points.sum("task.status", &of), 1.0, "{name} is in one state");
            assert_eq!(points.sum("task.status", &[of[0], ("task.state", state.as_str())]), 1.0, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn meter_statistics_metrics_and_health_show_the_same_figures() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    provoke(&tasks).await;
    tasks.unregister("slow_loop").await.expect("registered");
    let points = metrics.collect();
    let names: BTreeSet<_> =
        points.of("task.runs", &[]).iter().map(|point| point.attributes["task.name"].clone()).collect();
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        [
            "aborted",
            "always",
            "blocks",
            "command_ping",
            "gives_up",
            "limited",
            "recovers",
            "slow_loop",
            "stalls"
        ]
    );
    names.iter().for_each(|name| assert_agreement(&tasks, &points, name));

    let statistics = tasks.statistics();
    assert_eq!(points.sum("task.runs", &[]), statistics.total_runs as f64);
    assert_eq!(points.sum("task.run.errors", &[]), statistics.total_errors as f64);
    assert_eq!(points.sum("task.restarts", &[]), statistics.total_restarts as f64);
    assert_eq!(points.sum("task.run.active", &[]), statistics.active_runs as f64);
    let in_state = |state| points.sum("task.status", &[("task.state", state)]);
    assert_eq!((in_state("running"), in_state("finished"), in_state("failed")), (2.0, 1.0, 1.0));
    assert_eq!(points.sum("task.status", &[]), statistics.critical_tasks as f64);
    assert_eq!(statistics.total_tasks, 4, "registered, or with runs under way");
    assert_eq!(
        statistics.healthy_tasks + statistics.degraded_tasks + statistics.unhealthy_tasks,
        statistics.critical_tasks
    );

    // The figures themselves, so that agreement is not agreement on nothing.
    let runs = |name, result| points.sum("task.runs", &[("task.name", name), ("task.run.result", result)]);
    assert_eq!((runs("command_ping", "success"), runs("command_ping", "failure")), (16.0, 4.0));
    assert_eq!((runs("recovers", "panic"), runs("recovers", "timeout")), (1.0, 1.0));
    assert_eq!(runs("aborted", "cancellation"), 1.0);
    assert_eq!(runs("gives_up", "failure"), 6.0, "three, and three more after the restart by hand");
    let restarts =
        |name, reason| points.sum("task.restarts", &[("task.name", name), ("task.restart.reason", reason)]);
    assert_eq!((restarts("gives_up", "failure"), restarts("gives_up", "requested")), (4.0, 1.0));
    assert_eq!((restarts("recovers", "panic"), restarts("recovers", "timeout")), (1.0, 1.0));
    assert_eq!((restarts("always", "finished"), restarts("stalls", "stalled")), (2.0, 1.0));
    assert_eq!(points.sum("task.stalls", &[("task.name", "stalls")]), 1.0);
    assert_eq!(points.sum("task.polls.slow", &[("task.name", "blocks")]), 1.0);
    assert_eq!(points.sum("task.iterations.skipped", &[("task.name", "slow_loop")]), 3.0);
    let errors = points.of("task.run.errors", &[("task.name", "command_ping")]);
    assert_eq!(errors[0].attributes["error.type"], "core::fmt::Error");

    // After a task was unregistered its counters stay, and agree still.
    tasks.unregister("gives_up").await.expect("registered");
    let after = metrics.collect();
    assert_eq!(after.sum("task.runs", &[("task.name", "gives_up")]), 6.0);
    names.iter().for_each(|name| assert_agreement(&tasks, &after, name));
    assert_eq!(tasks.statistics().total_runs, statistics.total_runs);
    assert_eq!(tasks.statistics().critical_tasks, statistics.critical_tasks - 1);
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn counters_never_run_backwards_across_unregister_and_register() {
    for temporality in [Temporality::Cumulative, Temporality::Delta, Temporality::LowMemory] {
        let metrics = Metrics::with_temporality(temporality);
        let tasks = manager(&metrics);
        let mut total = 0.0;
        let mut seen = Vec::new();
        for round in 0..4 {
            let finite = TaskLoop::every(Duration::from_secs(1), |_| async {}).count(3);
            tasks.register(CriticalTaskConfig::from_loop("finite", finite)).expect("registered");
            tasks.start();
            tokio::time::sleep(Duration::from_secs(10)).await;
            for step in 0..2 {
                let runs = metrics.collect().sum("task.runs", &[("task.name", "finite")]);
                // An observable counter is a difference under delta alone.
                total = if temporality == Temporality::Delta { total + runs } else { runs };
                seen.push(total);
                assert_eq!(total, f64::from(3 * (round + 1)), "{temporality:?} {round} {step}");
                if step == 0 {
                    tasks.unregister("finite").await.expect("registered");
                }
            }
        }
        assert!(seen.is_sorted(), "{temporality:?} {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn labels_are_bounded_under_any_names_and_the_sums_stay_exact() {
    for names in [199, 200, 201, 1_000] {
        let metrics = Metrics::new();
        let tasks = TaskManager::builder().meter(metrics.meter()).names(NameRule::keep()).build().unwrap();
        for name in 0..names {
            let _ = tasks.spawn(&format!("name{name}"), async {}).await;
        }
        let points = metrics.collect();
        assert_eq!(points.sum("task.runs", &[]), f64::from(names));
        assert_eq!(points.count("task.run.duration", &[]), names as u64);
        let labels: BTreeSet<_> =
            points.of("task.runs", &[]).iter().map(|point| point.attributes["task.name"].clone()).collect();
        assert!(labels.len() <= 201, "{names}: {}", labels.len());
        assert_eq!(labels.contains("_OTHER"), names > 200, "{names}");
        assert_no_overflow(&points);
    }
}

#[tokio::test(start_paused = true)]
async fn identifiers_in_names_do_not_become_labels() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    for id in 0..500 {
        let _ = tasks.spawn(&format!("command_ping_{id}"), async {}).await;
    }
    let points = metrics.collect();
    assert_eq!(
        points.sum("task.runs", &[("task.name", "command_ping"), ("task.run.result", "success")]),
        500.0
    );
    assert_eq!(points.of("task.run.active", &[]).len(), 1);
}

fn assert_no_overflow(points: &Points) {
    let overflow = points.0.iter().find(|point| point.attributes.contains_key("otel.metric.overflow"));
    assert!(overflow.is_none(), "{overflow:?}");
    let mut sets = BTreeMap::<_, usize>::new();
    points.0.iter().for_each(|point| *sets.entry(&point.instrument).or_default() += 1);
    assert!(sets.values().all(|sets| *sets < 2_000), "{sets:?}");
}

/// An error of its own kind in each of twelve iterations.
#[derive(Debug)]
struct Iteration(u64);

impl std::fmt::Display for Iteration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "iteration {}", self.0)
    }
}

impl std::error::Error for Iteration {}

const ERROR_TYPES: [&str; 12] = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9", "e10", "e11"];

#[tokio::test(start_paused = true)]
async fn a_name_shows_eight_error_types_and_the_rest_as_other() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    let fails = TaskLoop::every(Duration::from_secs(1), |ctx| async move {
        Err::<(), _>(Iteration(ctx.iteration().expect("in a loop")))
    });
    let config =
        CriticalTaskConfig::from_loop("fails", fails.count(24).on_error(|_| async { OnError::Continue }));
    let config = config.error_type(|iteration: &Iteration| ERROR_TYPES[(iteration.0 % 12) as usize]);
    tasks.register(config).expect("registered");
    tasks.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let points = metrics.collect();
    let errors = points.of("task.run.errors", &[("task.name", "fails")]);
    assert_eq!(errors.len(), 9, "eight and the rest: {errors:#?}");
    assert_eq!(points.sum("task.run.errors", &[("error.type", "_OTHER")]), 8.0, "four types, twice each");
    assert_eq!(points.sum("task.run.errors", &[]), 24.0);
    assert_eq!(points.count("task.run.duration", &[("error.type", "_OTHER")]), 8);
}

#[tokio::test(start_paused = true)]
async fn every_name_with_every_error_type_stays_below_the_streams_bound() {
    let metrics = Metrics::new();
    let tasks = TaskManager::builder().meter(metrics.meter()).build().unwrap();
    for name in 0..200 {
        let fails = TaskLoop::every(Duration::from_secs(1), |ctx| async move {
            assert!(ctx.iteration() != Some(13), "a panic too");
            if ctx.iteration() == Some(14) {
                Ok(())
            } else {
                Err(Iteration(ctx.iteration().expect("in a loop")))
            }
        });
        let config = CriticalTaskConfig::from_loop(
            format!("n{name}"),
            fails.count(14).on_error(|_| async { OnError::Continue }),
        );
        let config = config.error_type(|iteration: &Iteration| ERROR_TYPES[(iteration.0 % 12) as usize]);
        tasks.register(config).expect("registered");
    }
    tasks.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let points = metrics.collect();
    assert_no_overflow(&points);
    assert_eq!(points.sum("task.run.errors", &[]), 200.0 * 13.0);
    assert_eq!(points.count("task.run.duration", &[]), 200 * 14);
}

#[tokio::test(start_paused = true)]
async fn managers_on_the_global_meter_are_summed_per_name() {
    // The one test of this file that uses the global provider.
    let metrics = Metrics::new();
    let early = TaskManager::new();
    for _ in 0..2 {
        let _ = early.spawn("shared_name", async {}).await;
    }
    let ticker = TaskLoop::every(Duration::from_secs(1), |_| async {});
    early.register(CriticalTaskConfig::from_loop("ticker", ticker)).expect("registered");
    early.start();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    opentelemetry::global::set_meter_provider(metrics.provider.clone());
    let late = TaskManager::new();
    let _ = late.spawn("shared_name", async { 1 }.discard()).await;
    let named = TaskManager::builder().instance("second").build().unwrap();
    let _ = named.spawn("shared_name", async {}).await;
    let points = metrics.collect();
    let of_name = points.of("task.runs", &[("task.name", "shared_name"), ("task.run.result", "success")]);
    let sums: BTreeMap<_, _> = of_name
        .iter()
        .map(|point| (point.attributes.get("task.manager").map(String::as_str), point.value))
        .collect();
    assert_eq!(sums, BTreeMap::from([(None, 3.0), (Some("second"), 1.0)]), "{points:#?}");
    drop(late);
    assert!(early.check_instrumentation().last_collection.is_some(), "the early manager moved along");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let _ = early.spawn("shared_name", async {}).await;
    let points = metrics.collect();
    assert_eq!(points.count("task.schedule.delay", &[("task.name", "ticker")]), 2, "and its loop");
    // The late one's, the second's, and of the early one what it ran since: its name's series is no longer the old meter's.
    assert_eq!(points.count("task.run.duration", &[("task.name", "shared_name")]), 3);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_gone_is_no_longer_observed_and_breaks_nothing() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    let _ = tasks.spawn("short", async {}).await;
    tasks.shutdown().await;
    assert_eq!(metrics.collect().sum("task.runs", &[]), 1.0);
    drop(tasks);
    tokio::task::yield_now().await;
    assert!(metrics.collect().of("task.runs", &[]).is_empty());
}

/// The attributes of a first run are not kept. Fails if they differ from those of the later runs.
#[tokio::test(start_paused = true)]
async fn the_first_run_of_a_name_and_the_later_ones_are_one_series() {
    for component in [None, Some("storage")] {
        let metrics = Metrics::new();
        let tasks = manager(&metrics);
        for _ in 0..3 {
            let mut task = tasks.task("refresh");
            if let Some(component) = component {
                task = task.component(component);
            }
            task.spawn(async {}).await.expect("no panic");
        }
        let points = metrics.collect();
        let series = points.of(contract::RUN_DURATION.name, &[("task.name", "refresh")]);
        assert_eq!(series.len(), 1, "{series:?}");
        assert_eq!(points.count(contract::RUN_DURATION.name, &[("task.name", "refresh")]), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn the_delays_of_all_lives_of_a_loop_are_one_series() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let metrics = Metrics::with_temporality(temporality);
        let tasks = manager(&metrics);
        let ticker = TaskLoop::every(Duration::from_secs(1), |_| async {});
        let handle = ticker.handle();
        tasks.register(CriticalTaskConfig::from_loop("ticker", ticker)).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        handle.restart().expect("registered");
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let delays = |points: &Points| {
            let of_ticker = points.of("task.schedule.delay", &[("task.name", "ticker")]);
            of_ticker.iter().map(|point| point.count).collect::<Vec<_>>()
        };
        assert_eq!(delays(&metrics.collect()), [4], "{temporality:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let more = if temporality == Temporality::Delta { 1 } else { 5 };
        assert_eq!(delays(&metrics.collect()), [more], "{temporality:?}");
    }
}

/// What an alert that serves every loop asks: how many seconds the next iteration is overdue, beyond two of its intervals and
/// a minute.
fn overdue(points: &Points, now: f64) -> BTreeMap<String, bool> {
    let next = points.of("task.next_run.time", &[]);
    let of = |point: &&support::metrics::Point| {
        let name = point.attributes["task.name"].clone();
        let interval = points.sum("task.interval", &[("task.name", &name)]);
        (name, now - point.value > 2.0 * interval + 60.0)
    };
    next.iter().map(of).collect()
}

#[cfg(feature = "calendar")]
#[tokio::test(start_paused = true)]
async fn one_alert_serves_every_loop() {
    let metrics = Metrics::new();
    let began = tokio::time::Instant::now();
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400);
    let clock = move || midnight + began.elapsed();
    let tasks = TaskManager::builder().meter(metrics.meter()).wall_clock(clock).build().unwrap();
    let second = Duration::from_secs(1);
    let daily = Schedule::daily(["09:00"], "UTC");
    let quarters = Schedule::cron("*/15 * * * *", "UTC");
    let register = |name: &str, body: TaskLoop| {
        tasks.register(CriticalTaskConfig::from_loop(name, body)).expect("registered");
    };
    register("interval", TaskLoop::every(30 * second, |_| async {}));
    register(
        "delay",
        TaskLoop::on(Schedule::delay(30 * second), |_| tokio::time::sleep(Duration::from_secs(2))),
    );
    register("daily", TaskLoop::on(daily, |_| async {}));
    register("cron", TaskLoop::on(quarters.clone(), |_| async {}));
    register(
        "stuck",
        TaskLoop::on(quarters, |ctx| async move {
            if ctx.iteration() == Some(3) {
                std::future::pending::<()>().await;
            }
        }),
    );
    register("counted", TaskLoop::every(30 * second, |_| async {}).count(3));
    register("paused", TaskLoop::every(30 * second, |_| async {}));
    tasks.start();
    tokio::time::sleep(5 * second).await;
    tasks.pause("paused").expect("registered");
    let mut alarms = BTreeSet::new();
    // Every five minutes of half a day.
    for _ in 0..144 {
        tokio::time::sleep(300 * second).await;
        let now = clock().duration_since(std::time::UNIX_EPOCH).expect("later").as_secs_f64();
        let overdue = overdue(&metrics.collect(), now);
        alarms.extend(overdue.into_iter().filter(|(_, overdue)| *overdue).map(|(name, _)| name));
    }
    assert_eq!(alarms, BTreeSet::from(["stuck".to_owned()]));
    let points = metrics.collect();
    let shown: BTreeSet<_> = points
        .of("task.next_run.time", &[])
        .iter()
        .map(|point| point.attributes["task.name"].clone())
        .collect();
    let expected = ["interval", "delay", "daily", "cron", "stuck"].map(str::to_owned);
    assert_eq!(shown, BTreeSet::from(expected), "what has finished or is held is due at no time");
    let interval = |name| points.sum("task.interval", &[("task.name", name)]);
    assert_eq!((interval("interval"), interval("cron"), interval("daily")), (30.0, 900.0, 86_400.0));
    assert_eq!(interval("stuck"), 900.0, "also while an iteration runs");
}

#[tokio::test(start_paused = true)]
async fn skipped_iterations_are_counted_by_reason() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics);
    let second = Duration::from_secs(1);
    let slow = TaskLoop::every(10 * second, |ctx| async move {
        let takes = if ctx.iteration() == Some(2) { 25 } else { 1 };
        tokio::time::sleep(Duration::from_secs(takes)).await;
    });
    tasks.register(CriticalTaskConfig::from_loop("slow", slow)).expect("registered");
    let flaky = TaskLoop::on(Schedule::every(1_000 * second), |_| async { Err::<(), _>("flaky") })
        .retry(3, Backoff::constant(second))
        .on_error(|_| async { OnError::Continue });
    tasks.register(CriticalTaskConfig::from_loop("flaky", flaky)).expect("registered");
    tasks.start();
    tokio::time::sleep(5 * second).await;
    let skipped = |points: &Points, reason| {
        let of = points.of("task.iterations.skipped", &[("task.name", "slow"), ("reason", reason)]);
        assert_eq!(of.len(), 1, "{reason}: zeros too");
        of[0].value
    };
    let points = metrics.collect();
    assert_eq!((skipped(&points, "overlapped"), skipped(&points, "missed")), (0.0, 0.0));
    assert_eq!(points.sum("task.iterations.retried", &[("task.name", "flaky")]), 3.0);
    assert_eq!(points.of("task.iterations.retried", &[("task.name", "slow")])[0].value, 0.0);
    tokio::time::sleep(40 * second).await;
    // Nothing could begin for 35 s: of 50, 60, 70 and 80 the last takes place.
    tokio::time::advance(35 * second).await;
    tokio::time::sleep(5 * second).await;
    let points = metrics.collect();
    assert_eq!((skipped(&points, "overlapped"), skipped(&points, "missed")), (2.0, 3.0));
    let iterations = points.sum("task.runs", &[("task.name", "slow")]);
    assert_eq!(points.count("task.schedule.delay", &[("task.name", "slow")]) as f64, iterations);
    let late = points.of("task.schedule.delay", &[("task.name", "slow")])[0].value;
    assert!((0.0..1.0).contains(&late), "it began right at 80: {late}");
}
