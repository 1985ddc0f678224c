//! Every type and method of `tux.utils.task_manager`, driven through the public API; one test per row, named after it.
//!
//! Where the seed had a bug, a line says what it did, and the test would fail with that.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{KeyValue, Value, metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, InMemoryMetricExporterBuilder, PeriodicReader, SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
    },
    trace::{InMemorySpanExporter, SdkTracerProvider, SpanData},
};
use otel_tasks::{
    Backoff, CriticalTaskConfig, CriticalTasksProvider, GiveUp, RestartPolicy, TaskCategory, TaskContext,
    TaskLoop, TaskManager, TaskMetrics, TaskPriority,
    events::TaskEventKind,
    health::{HealthReason, HealthStatus, HealthThresholds},
    policy::{CategoryRules, ExitKind, RestartIntensity, StallAction},
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
    task::TaskManagerBuilder,
};
use tokio::time::{Instant, sleep};
use tracing::Level;
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt as _};

use crate::support::{
    Alive, Events, listen, secs, settle, shown,
    tasks::{all_started, obeys, state},
};

/// A task that fails after a second, so many times, and then runs until it is asked to stop.
fn failing(name: &str, times: usize) -> (CriticalTaskConfig, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let config = CriticalTaskConfig::new(name, move |ctx| {
        let run = count.fetch_add(1, SeqCst);
        async move {
            if run < times {
                sleep(secs(1)).await;
                return Err("connection lost");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    (config, begun)
}

/// A manager whose spans are collected.
fn traced() -> (TaskManager, InMemorySpanExporter) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    (TaskManager::builder().tracer(provider.tracer("test")).build().unwrap(), exporter)
}

fn spans(exporter: &InMemorySpanExporter, name: &str) -> Vec<SpanData> {
    exporter.get_finished_spans().unwrap().into_iter().filter(|span| span.name == name).collect()
}

/// A list of texts among a span's attributes.
fn texts(span: &SpanData, key: &str) -> Vec<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    match attribute.map(|attribute| &attribute.value) {
        Some(Value::Array(opentelemetry::Array::String(texts))) => {
            texts.iter().map(|text| text.as_str().to_owned()).collect()
        }
        other => panic!("{key} of {}: {other:?}", span.name),
    }
}

/// A meter whose collections are kept.
fn metered(temporality: Temporality) -> (SdkMeterProvider, InMemoryMetricExporter) {
    let exporter = InMemoryMetricExporterBuilder::new().with_temporality(temporality).build();
    let reader = PeriodicReader::builder(exporter.clone()).with_interval(secs(86_400)).build();
    (SdkMeterProvider::builder().with_reader(reader).build(), exporter)
}

/// The sum of an instrument's points in one collection, for the task of that name or for all.
fn sum(collection: &ResourceMetrics, instrument: &str, task: Option<&str>) -> u64 {
    let wanted = |mut attributes: Box<dyn Iterator<Item = &KeyValue> + '_>| {
        task.is_none_or(|task| {
            attributes
                .any(|attribute| attribute.key.as_str() == "task.name" && attribute.value.as_str() == task)
        })
    };
    let metrics = collection.scope_metrics().flat_map(|scope| scope.metrics());
    metrics
        .filter(|metric| metric.name() == instrument)
        .map(|metric| match metric.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                .data_points()
                .filter(|point| wanted(Box::new(point.attributes())))
                .map(|point| point.value())
                .sum::<u64>(),
            AggregatedMetrics::I64(MetricData::Sum(sum)) => sum
                .data_points()
                .filter(|point| wanted(Box::new(point.attributes())))
                .map(|point| point.value().try_into().unwrap_or(0_u64))
                .sum(),
            _ => panic!("{instrument} is no sum of integers"),
        })
        .sum()
}

// ---------------------------------------------------------------------------------------------------------------- types

#[test]
fn task_category() {
    let names: Vec<_> = TaskCategory::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["scheduled", "gateway", "system", "command", "unknown"]);
    assert_eq!(
        TaskCategory::SHUTDOWN_ORDER.iter().map(|category| category.as_str()).collect::<Vec<_>>(),
        ["unknown", "command", "system", "scheduled", "gateway"]
    );
}

// The seed stored a priority and never looked at it again.
#[tokio::test(start_paused = true)]
async fn task_priority() {
    let mut priorities =
        [TaskPriority::Critical, TaskPriority::Low, TaskPriority::High, TaskPriority::Normal];
    priorities.sort_unstable();
    assert_eq!(priorities, TaskPriority::ALL);
    let names: Vec<_> = TaskPriority::ALL.iter().map(|priority| priority.as_str()).collect();
    assert_eq!(names, ["low", "normal", "high", "critical"]);
    assert_eq!(TaskPriority::default(), TaskPriority::Normal);
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks = TaskManager::new();
    for priority in TaskPriority::ALL.iter().copied().rev() {
        let order = order.clone();
        let config = CriticalTaskConfig::new(priority.as_str(), move |ctx: TaskContext| {
            let order = order.clone();
            async move {
                ctx.cancelled().await;
                order.lock().unwrap().push(priority);
            }
        });
        tasks.register(config.priority(priority)).unwrap();
    }
    tasks.start();
    settle().await;
    tasks.shutdown().await;
    assert_eq!(*order.lock().unwrap(), TaskPriority::ALL);
}

// The seed set neither the average nor the maximum, and took the age of the process for a run time.
#[tokio::test(start_paused = true)]
async fn task_metrics() {
    let tasks = TaskManager::new();
    assert_eq!(tasks.task_metrics("t"), None);
    let before = SystemTime::now();
    for seconds in [1, 2, 6] {
        let run = async move {
            sleep(secs(seconds)).await;
            if seconds == 2 { Err("no luck") } else { Ok(()) }
        };
        let _ = tasks.spawn("t", run).await.unwrap();
    }
    sleep(secs(3_600)).await;
    let metrics = tasks.task_metrics("t").expect("known");
    assert_eq!((metrics.name.as_str(), metrics.category), ("t", TaskCategory::Unknown));
    assert_eq!((metrics.priority, metrics.state), (TaskPriority::Normal, None));
    assert_eq!(metrics.total_runtime, secs(9));
    assert_eq!(metrics.avg_runtime, secs(3));
    assert_eq!(metrics.max_runtime, secs(6));
    assert_eq!((metrics.run_count, metrics.active_runs, metrics.error_count), (3, 0, 1));
    assert_eq!(metrics.last_error.as_deref(), Some("no luck"));
    assert!(metrics.last_error_time.unwrap() >= before && metrics.start_time.unwrap() >= before);
    assert_eq!((metrics.restart_count, metrics.last_restart), (0, None));

    let (config, _) = failing("restarted", 1);
    tasks.register(config.restart_delay(secs(5))).unwrap();
    tasks.start();
    sleep(secs(10)).await;
    let metrics = tasks.task_metrics("restarted").expect("known");
    assert_eq!((metrics.restart_count, metrics.state), (1, Some(TaskState::Running)));
    assert!(metrics.last_restart.unwrap() >= before);
    assert_eq!((metrics.run_count, metrics.active_runs), (1, 1));
}

// The seed's last_seen was the moment of asking, so a dead task was always seen just now.
#[tokio::test(start_paused = true)]
async fn task_health() {
    let tasks = all_started([CriticalTaskConfig::one_shot("t", |_| async { sleep(secs(5)).await })]);
    sleep(secs(10)).await;
    let health = tasks.task_health("t").expect("registered");
    let seen = health.last_seen.expect("it ran");
    assert!(health.is_healthy() && health.is_live && !health.is_ready, "{health:?}");
    assert_eq!((health.error_rate, health.restart_count), (0.0, 0));
    assert_eq!(health.uptime.as_secs(), 10, "since it first began");
    assert_eq!(health.reasons, []);
    sleep(secs(7_200)).await;
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(tasks.task_health("t").unwrap().last_seen, Some(seen), "nothing was seen since");
}

#[tokio::test(start_paused = true)]
async fn task_health_last_seen_moves_with_a_heartbeat() {
    let config = CriticalTaskConfig::new("t", |ctx: TaskContext| async move {
        loop {
            sleep(secs(60)).await;
            // The wall clock stands nearly still while time is paused.
            std::thread::sleep(Duration::from_millis(2));
            ctx.heartbeat();
        }
    });
    let tasks = all_started([config]);
    sleep(secs(30)).await;
    let first = tasks.task_health("t").unwrap().last_seen.unwrap();
    sleep(secs(60)).await;
    assert!(tasks.task_health("t").unwrap().last_seen.unwrap() > first);
}

// The seed never read health_check_interval: it checked every task each time.
#[tokio::test(start_paused = true)]
async fn critical_task_config() {
    assert_eq!((RestartIntensity::DEFAULT_MAX_RESTARTS, RestartIntensity::DEFAULT_WITHIN), (10, secs(600)));
    assert_eq!((Backoff::DEFAULT_INITIAL, Backoff::DEFAULT_CAP), (secs(1), secs(60)));
    assert_eq!((Backoff::DEFAULT_FACTOR, Backoff::DEFAULT_STABLE_AFTER), (2.0, secs(600)));
    assert_eq!(
        (CriticalTaskConfig::DEFAULT_HEALTH_CHECK_INTERVAL, TaskManagerBuilder::DEFAULT_MONITOR_INTERVAL),
        (secs(300), secs(60))
    );
    assert_eq!(Backoff::default().initial(), Backoff::DEFAULT_INITIAL);

    let stalling = |name: &str| {
        let config = CriticalTaskConfig::new(name, |_| std::future::pending::<()>());
        config.heartbeat_timeout(secs(10)).on_stall(StallAction::Report)
    };
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    let configs = [
        stalling("default"),
        stalling("often").health_check_interval(secs(60)),
        stalling("seldom").health_check_interval(secs(900)),
    ];
    tasks.register_all(configs).unwrap();
    tasks.start();
    let metrics = tasks.task_metrics("default").unwrap();
    assert_eq!((metrics.priority, metrics.category), (TaskPriority::High, TaskCategory::Scheduled));
    let mut told = |after| {
        let mut told = Vec::new();
        while let Some(event) = events.try_recv() {
            if let TaskEventKind::HealthChanged { status: HealthStatus::Unhealthy, .. } = event.kind {
                told.push(event.task.expect("of a task").to_string());
            }
        }
        (after, told)
    };
    sleep(secs(70)).await;
    assert_eq!(told(70), (70, vec!["often".to_owned()]));
    sleep(secs(240)).await;
    assert_eq!(told(310), (310, vec!["default".to_owned()]));
    sleep(secs(600)).await;
    assert_eq!(told(910), (910, vec!["seldom".to_owned()]), "each is told once");
}

// The seed's five restarts at 30 s, doubling, are never five in ten minutes: it never gave up.
#[tokio::test(start_paused = true)]
async fn critical_task_config_gives_up_with_the_seeds_values() {
    let (config, begun) = failing("t", usize::MAX);
    let seeds = config.restarts("5 in 10m".parse().unwrap(), "30s..1m".parse().unwrap());
    let tasks = all_started([seeds.give_up(GiveUp::ForGood)]);
    sleep(secs(3_600)).await;
    assert_eq!((state(&tasks, "t"), begun.load(SeqCst)), (Some(TaskState::Failed), 6));
}

#[tokio::test(start_paused = true)]
async fn critical_tasks_provider() {
    struct Reminders;
    impl CriticalTasksProvider for Reminders {
        fn critical_tasks(&self) -> Vec<CriticalTaskConfig> {
            vec![obeys("reminders.send"), obeys("reminders.clean")]
        }
    }
    let tasks = TaskManager::new();
    tasks.register_component("reminders", Reminders);
    tasks.register_component("levels", || vec![obeys("levels.decay")]);
    assert!(tasks.task_names().is_empty(), "asked at the start");
    tasks.start();
    settle().await;
    assert_eq!(tasks.task_names(), ["levels.decay", "reminders.clean", "reminders.send"]);
    let snapshot = tasks.snapshot("reminders.send").unwrap();
    assert_eq!(snapshot.component.as_deref(), Some("reminders"));
    assert_eq!(snapshot.state, Some(TaskState::Running));
}

#[tokio::test(start_paused = true)]
async fn task_prefix_map() {
    let rules = CategoryRules::discord().prefix("kafka-", TaskCategory::Gateway);
    let tasks = TaskManager::builder().categories(rules).build().unwrap();
    tasks.register(obeys("Task-registered")).unwrap();
    let table = [
        ("Task-registered", TaskCategory::Scheduled),
        ("discord-ext-tasks:reminders", TaskCategory::Scheduled),
        ("discord.py:on_message", TaskCategory::Gateway),
        ("discord-voice-keepalive", TaskCategory::Gateway),
        ("discord-gateway-heartbeat", TaskCategory::Gateway),
        ("patch_asyncio", TaskCategory::System),
        ("Task-runner", TaskCategory::System),
        ("Task-command_x", TaskCategory::System),
        ("kafka-consumer", TaskCategory::Gateway),
        ("kafka-command_x", TaskCategory::Gateway),
        ("Run_COMMAND_ping", TaskCategory::Command),
        ("whatever", TaskCategory::Unknown),
    ];
    for (name, category) in &table[1..] {
        tasks.spawn(name, async {}).await.unwrap();
        assert_eq!(tasks.snapshot(name).unwrap().category, *category, "{name}");
    }
    assert_eq!(tasks.snapshot(table[0].0).unwrap().category, table[0].1);
    // Said explicitly, it is asked before any rule.
    let said = tasks.task("Task-said").category(TaskCategory::Command);
    said.spawn(async {}).await.unwrap();
    assert_eq!(tasks.snapshot("Task-said").unwrap().category, TaskCategory::Command);
}

// -------------------------------------------------------------------------------------------------------------- methods

// The seed wrapped each loop anew at every call, and warned of nothing but missing cogs.
#[tokio::test(start_paused = true)]
async fn check_instrumentation() {
    listen();
    let none = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let bare = TaskManager::new();
    bare.register(obeys("t").component("levels")).unwrap();
    let check = bare.check_instrumentation();
    assert!(!check.is_complete() && !check.spans_traced && !check.layer_installed, "{check:?}");
    assert_eq!((check.last_collection, check.info_enabled), (None, false));
    assert_eq!(check.missing_components, ["levels"]);
    let advice = check.to_string();
    assert!(advice.contains("NOT exported") && advice.contains("NEVER collected"), "{advice}");
    assert!(advice.contains("component levels: owns tasks, but is not registered"), "{advice}");
    bare.register_component("levels", Vec::new);
    assert!(bare.check_instrumentation().missing_components.is_empty());

    drop(none);
    let exporter = InMemorySpanExporter::default();
    let tracers = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let (meters, _) = metered(Temporality::Cumulative);
    use tracing_subscriber::layer::SubscriberExt as _;
    let subscriber =
        tracing_subscriber::registry().with(otel_tasks::telemetry::layer(tracers.tracer("test")));
    let guard = tracing::subscriber::set_default(subscriber);
    let tasks = TaskManager::builder().meter(meters.meter("test")).build().unwrap();
    assert!(!tasks.check_instrumentation().is_complete(), "nothing was collected yet");
    meters.force_flush().unwrap();
    let first = tasks.check_instrumentation();
    assert!(first.is_complete() && first.layer_installed && first.info_enabled, "{first}");
    assert_eq!(first.layer_conflict, None);
    assert!(!first.to_string().contains("level:"), "{first}");
    let second = tasks.check_instrumentation();
    assert!(second.is_complete(), "{second}");
    tasks.spawn("t", async {}).await.unwrap();
    assert_eq!(spans(&exporter, "task.run").len(), 1, "twice called, a run is still one span");
    assert_eq!(exporter.get_finished_spans().unwrap().len(), 1, "and the check itself leaves none");

    // Each way in which spans leave is enough, and neither stands for the figures.
    let elsewhere = TaskManager::new().check_instrumentation();
    assert!(elsewhere.spans_traced && !elsewhere.is_complete(), "{elsewhere}");
    drop(guard);
    let plain = tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(tracers.tracer("plain")));
    let checks = tracing::subscriber::with_default(plain, || TaskManager::new().check_instrumentation());
    assert!(checks.spans_traced && !checks.layer_installed, "{checks}");
    let _none = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let figures = TaskManager::builder().meter(meters.meter("figures")).build().unwrap();
    meters.force_flush().unwrap();
    let check = figures.check_instrumentation();
    assert!(check.last_collection.is_some() && !check.is_complete(), "{check}");
    let own =
        TaskManager::builder().tracer(tracers.tracer("own")).meter(meters.meter("own")).build().unwrap();
    meters.force_flush().unwrap();
    let check = own.check_instrumentation();
    assert!(check.is_complete() && !check.layer_installed, "{check}");
    assert!(check.to_string().contains("level: INFO of target otel_tasks is filtered out"), "{check}");
}

#[tokio::test(start_paused = true)]
async fn start_and_stop() {
    let (tasks, exporter) = traced();
    let sweeps = || spans(&exporter, "bot.monitor_tasks").len();
    tasks.register(obeys("t")).unwrap();
    assert!(!tasks.is_monitoring());
    assert_eq!(state(&tasks, "t"), Some(TaskState::Waiting));
    tasks.start();
    tasks.start();
    settle().await;
    assert!(tasks.is_monitoring());
    assert_eq!((sweeps(), state(&tasks, "t")), (1, Some(TaskState::Running)));
    sleep(secs(120)).await;
    assert_eq!(sweeps(), 3, "one monitor, at the seed's 60 s");
    tasks.stop_monitor();
    tasks.stop_monitor();
    settle().await;
    assert!(!tasks.is_monitoring());
    sleep(secs(600)).await;
    assert_eq!((sweeps(), state(&tasks, "t")), (3, Some(TaskState::Running)), "the tasks go on");
    tasks.start();
    settle().await;
    assert_eq!((sweeps(), tasks.is_monitoring()), (4, true));
    tasks.register(obeys("late")).unwrap();
    settle().await;
    assert_eq!(state(&tasks, "late"), Some(TaskState::Running), "registered later, it begins at once");
}

// The seed checked health at once, before any task could have beaten.
#[tokio::test(start_paused = true)]
async fn start_waits_a_whole_interval_for_the_first_health_check() {
    let config = CriticalTaskConfig::new("t", |_| std::future::pending::<()>());
    let config = config.heartbeat_timeout(secs(1)).health_check_interval(secs(120));
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    tasks.register(config.on_stall(StallAction::Report)).unwrap();
    tasks.start();
    let mut told = || {
        let mut told = 0;
        while let Some(event) = events.try_recv() {
            told += u32::from(matches!(event.kind, TaskEventKind::HealthChanged { .. }));
        }
        told
    };
    sleep(secs(110)).await;
    assert_eq!(told(), 0);
    sleep(secs(15)).await;
    assert_eq!(told(), 1);
}

// The seed overwrote the task silently and set its figures to zero.
#[tokio::test(start_paused = true)]
async fn register() {
    let (config, begun) = failing("t", 1);
    let tasks = all_started([config.restart_delay(secs(5))]);
    sleep(secs(30)).await;
    let refused = tasks.register(obeys("t"));
    assert_eq!(shown(&refused), r#"Err(Duplicate { name: "t" })"#);
    let metrics = tasks.task_metrics("t").unwrap();
    assert_eq!((metrics.error_count, metrics.restart_count), (1, 1), "its figures are kept");
    assert_eq!(begun.load(SeqCst), 2);
    tasks.replace(obeys("t")).await.expect("replacing is said explicitly");
    settle().await;
    let metrics = tasks.task_metrics("t").unwrap();
    assert_eq!((metrics.state, metrics.error_count), (Some(TaskState::Running), 1));
}

// The seed asked once: a cog that was loaded later was forgotten.
#[tokio::test(start_paused = true)]
async fn discover_and_register_cog_tasks() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    tasks.register_component("a.broken", || -> Vec<CriticalTaskConfig> { panic!("no config file") });
    tasks.register_component("b.good", || vec![obeys("good")]);
    tasks.register_component("c.clashing", || vec![obeys("good"), obeys("other")]);
    let discovery = tasks.discover_components();
    assert_eq!(discovery.registered, ["good", "other"]);
    assert_eq!(discovery.panicked, [("a.broken".to_owned(), "no config file".to_owned())]);
    assert_eq!(shown(&discovery.refused), r#"[("c.clashing", Duplicate { name: "good" })]"#);
    let logged: Vec<_> = events.named("task.monitor.failed");
    assert_eq!(logged.len(), 2, "{logged:?}");
    assert_eq!((logged[0].field("task.component"), logged[0].level), ("a.broken", Level::ERROR));
    assert!(logged[0].message().contains("no config file"), "{logged:?}");

    let again = tasks.discover_components();
    assert_eq!(again.registered, Vec::<String>::new(), "what is registered is registered");
    tasks.start();
    sleep(secs(90)).await;
    let hot = tasks.register_component("d.hot", || vec![obeys("hot")]);
    assert_eq!(hot.registered, ["hot"]);
    settle().await;
    assert_eq!(state(&tasks, "hot"), Some(TaskState::Running), "loaded later, picked up at once");
}

// The seed forgot the task's figures and left the task itself running.
#[tokio::test(start_paused = true)]
async fn unregister() {
    for temporality in [Temporality::Cumulative, Temporality::Delta, Temporality::LowMemory] {
        let (meters, exporter) = metered(temporality);
        let tasks = TaskManager::builder().meter(meters.meter("test")).build().unwrap();
        let alive = Alive::default();
        let register = |tasks: &TaskManager| {
            let alive = alive.clone();
            let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
                alive.during(async move { ctx.cancelled().await })
            });
            tasks.register(config).unwrap();
        };
        let mut shown = Vec::new();
        let mut collect = || {
            exporter.reset();
            meters.force_flush().unwrap();
            let collections = exporter.get_finished_metrics().unwrap();
            shown.push(
                collections.iter().map(|collection| sum(collection, "task.runs", Some("t"))).sum::<u64>(),
            );
        };
        register(&tasks);
        tasks.start();
        settle().await;
        collect();
        tasks.unregister("t").await.unwrap();
        assert_eq!(alive.now(), 0, "it is stopped");
        assert_eq!((tasks.task_names().len(), state(&tasks, "t")), (0, None));
        let statistics = tasks.statistics();
        assert_eq!((statistics.total_tasks, statistics.critical_tasks), (0, 0));
        assert_eq!(statistics.total_runs, 1, "totals count every name there ever was");
        collect();
        collect();
        register(&tasks);
        settle().await;
        collect();
        tasks.unregister("t").await.unwrap();
        collect();
        // Low memory keeps observable counters cumulative.
        let expected: [u64; 5] =
            if temporality == Temporality::Delta { [0, 1, 0, 0, 1] } else { [0, 1, 1, 1, 2] };
        assert_eq!(shown, expected, "{temporality:?}");
        assert_eq!(tasks.statistics().total_runs, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn cleanup_cog_tasks() {
    let alive = Alive::default();
    let tasks = all_started([obeys("mine")]);
    let guards = alive.clone();
    tasks.register_component("levels", move || {
        ["levels.decay", "levels.sum"]
            .map(|name| {
                let guards = guards.clone();
                CriticalTaskConfig::new(name, move |ctx: TaskContext| {
                    guards.during(async move {
                        ctx.cancelled().await;
                        sleep(secs(4)).await;
                    })
                })
            })
            .into()
    });
    settle().await;
    assert_eq!(alive.now(), 2);
    let began = Instant::now();
    let cleaned = tasks.unregister_component("levels").await.unwrap();
    assert_eq!(cleaned, ["levels.decay", "levels.sum"]);
    assert_eq!((alive.now(), tasks.task_names()), (0, vec!["mine".to_owned()]));
    assert!(began.elapsed() < secs(5), "they stop at the same time: {:?}", began.elapsed());
    tasks.discover_components();
    assert_eq!(tasks.task_names(), ["mine"], "the component is forgotten, too");
}

// For the seed one error in the first minute was 60 an hour, and a third restart made a task ill for ever.
#[tokio::test(start_paused = true)]
async fn task_health_judges_by_rates_over_sliding_windows() {
    let (config, _) = failing("t", 1);
    let (thrice, _) = failing("thrice", 3);
    let backoff = Backoff::constant(secs(1));
    let tasks = all_started([config.backoff(backoff), thrice.backoff(backoff)]);
    assert_eq!(tasks.task_health("nobody"), None);
    sleep(secs(5)).await;
    let health = tasks.task_health("t").unwrap();
    assert_eq!((health.error_rate, health.restart_count), (1.0, 1), "one error is one an hour");
    assert!(
        health.status == HealthStatus::Degraded && health.is_ready,
        "fresh from a restart is not ill: {health:?}"
    );
    assert_eq!(health.reasons, [HealthReason::Recovering]);
    sleep(secs(305)).await;
    assert_eq!(tasks.task_health("t").unwrap().reasons, []);
    let ill = tasks.task_health("thrice").unwrap();
    assert!(!ill.is_healthy() && ill.is_live, "{ill:?}");
    assert_eq!(shown(&ill.reasons), "[Restarts { restarts_per_hour: 3, limit: 3 }]");
    sleep(secs(3_600)).await;
    let recovered = tasks.task_health("thrice").unwrap();
    assert!(recovered.is_healthy(), "what is over is over: {recovered:?}");
    assert_eq!(recovered.restart_count, 3, "the counter counts on");
}

#[tokio::test(start_paused = true)]
async fn get_task_health_by_thresholds_of_ones_own() {
    let mut thresholds = HealthThresholds::default();
    assert_eq!((thresholds.errors_per_hour, thresholds.restarts_per_hour), (10, 3));
    assert_eq!(thresholds.recovering_for, secs(300));
    thresholds = thresholds.errors_per_hour(2).restarts_per_hour(7).recovering_for(secs(30));
    assert_eq!((thresholds.errors_per_hour, thresholds.restarts_per_hour), (2, 7));
    assert_eq!(thresholds.recovering_for, secs(30));
    let tasks = TaskManager::builder().health_thresholds(thresholds).build().unwrap();
    for expected in [true, false] {
        let _ = tasks.spawn("t", async { Err::<(), _>("down") }).await;
        let health = tasks.task_health("t").unwrap();
        assert_eq!(health.is_healthy(), expected, "{health:?}");
    }
    sleep(secs(3_700)).await;
    assert!(tasks.task_health("t").unwrap().is_healthy());
}

#[tokio::test(start_paused = true)]
async fn statistics() {
    let (meters, exporter) = metered(Temporality::Cumulative);
    let tasks = TaskManager::builder().meter(meters.meter("test")).build().unwrap();
    let (failed, _) = failing("failed", usize::MAX);
    let (restarted, _) = failing("restarted", 2);
    let backoff = Backoff::constant(secs(1));
    for config in [
        obeys("fine").priority(TaskPriority::Critical),
        failed.backoff(backoff).max_restarts(1, secs(60)),
        restarted.backoff(backoff).category(TaskCategory::Gateway),
        obeys("gone"),
    ] {
        tasks.register(config).unwrap();
    }
    tasks.start();
    sleep(secs(30)).await;
    tasks.unregister("gone").await.unwrap();
    for number in 0..5 {
        let run = async move { if number < 2 { Err("no") } else { Ok(()) } };
        let _ = tasks.spawn("command_ping", run).await.unwrap();
    }
    drop(tasks.spawn("command_long", std::future::pending::<()>()));
    settle().await;
    let statistics = tasks.statistics();
    assert_eq!((statistics.total_tasks, statistics.critical_tasks), (4, 3));
    assert_eq!((statistics.healthy_tasks, statistics.degraded_tasks, statistics.unhealthy_tasks), (1, 1, 1));
    let categories = [
        (TaskCategory::Scheduled, 2),
        (TaskCategory::Gateway, 1),
        (TaskCategory::System, 0),
        (TaskCategory::Command, 1),
        (TaskCategory::Unknown, 0),
    ];
    assert_eq!(statistics.categories, BTreeMap::from(categories));
    let priorities = [
        (TaskPriority::Low, 0),
        (TaskPriority::Normal, 1),
        (TaskPriority::High, 2),
        (TaskPriority::Critical, 1),
    ];
    assert_eq!(statistics.priorities, BTreeMap::from(priorities));
    assert_eq!((statistics.total_restarts, statistics.total_errors), (3, 6));
    assert_eq!((statistics.active_runs, statistics.total_runs), (3, 10));

    meters.force_flush().unwrap();
    let collections = exporter.get_finished_metrics().unwrap();
    let exported = |instrument| sum(collections.last().unwrap(), instrument, None);
    assert_eq!(exported("task.runs"), statistics.total_runs);
    assert_eq!(exported("task.run.errors"), statistics.total_errors);
    assert_eq!(exported("task.restarts"), statistics.total_restarts);
    assert_eq!(exported("task.run.active"), statistics.active_runs);
    assert_eq!(exported("task.status"), statistics.critical_tasks as u64);
}

// The seed counted the restart before it had happened, whether or not it did, and dropped one that came too soon.
#[tokio::test(start_paused = true)]
async fn restart() {
    let config = CriticalTaskConfig::new("t", |ctx: TaskContext| async move {
        ctx.cancelled().await;
        sleep(secs(5)).await;
    });
    let tasks = all_started([config.restart_delay(secs(30))]);
    settle().await;
    let restarts = || tasks.task_metrics("t").unwrap().restart_count;
    assert_eq!(tasks.restart("t"), Ok(Duration::ZERO));
    sleep(secs(4)).await;
    assert_eq!((restarts(), state(&tasks, "t")), (0, Some(TaskState::Stopping)), "not yet");
    sleep(secs(2)).await;
    assert_eq!((restarts(), state(&tasks, "t")), (1, Some(TaskState::Running)));
    let after = tasks.restart("t").expect("in cooldown it is scheduled");
    assert!(after > secs(27) && after <= secs(30), "{after:?}");
    sleep(secs(40)).await;
    assert_eq!(restarts(), 2);
    assert_eq!(shown(&tasks.restart("nobody")), r#"Err(Unknown(UnknownTask { name: "nobody" }))"#);

    let (config, _) = failing("limited", 2);
    let config = config.backoff(Backoff::constant(secs(1))).max_restarts(2, secs(600));
    tasks.register(config).unwrap();
    sleep(secs(10)).await;
    let limit = r#"Err(LimitReached { name: "limited", max_restarts: 2, within: 600s })"#;
    assert_eq!(shown(&tasks.restart("limited")), limit);
}

// The seed waited for ever for a task that did not end.
#[tokio::test(start_paused = true)]
async fn shutdown() {
    let (tasks, exporter) = traced();
    let admitted = Arc::new(AtomicBool::new(false));
    let flag = admitted.clone();
    let spawning = CriticalTaskConfig::new("spawning", move |ctx: TaskContext| {
        let flag = flag.clone();
        async move {
            ctx.cancelled().await;
            flag.store(ctx.spawn("command_child", async {}).await.is_ok(), SeqCst);
        }
    });
    tasks.register(spawning).unwrap();
    tasks.register(CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>())).unwrap();
    tasks.start();
    settle().await;
    let began = Instant::now();
    let report = tasks.shutdown().await;
    assert!(began.elapsed() <= secs(25), "one total deadline: {:?}", began.elapsed());
    let outcomes: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.outcome)).collect();
    let clean = |name| (name, ShutdownOutcome::Clean);
    assert_eq!(outcomes, [("deaf", ShutdownOutcome::Aborted), clean("spawning"), clean("command_child")]);
    assert!(admitted.load(SeqCst), "the work of a task that has not ended is admitted");
    let [cleanup] = &spans(&exporter, "bot.cleanup_tasks")[..] else { panic!("one span") };
    for child in ["bot.stop_task_loops", "bot.cancel_tasks"] {
        let [child] = &spans(&exporter, child)[..] else { panic!("one span") };
        assert_eq!(child.parent_span_id, cleanup.span_context.span_id());
    }
    assert_eq!(texts(cleanup, "tasks.aborted"), ["deaf"]);
}

#[tokio::test(start_paused = true)]
async fn monitor_tasks_loop() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let tasks = TaskManager::builder().tracer(provider.tracer("test")).span_prefix("worker").build().unwrap();
    let (failed, _) = failing("failed", usize::MAX);
    tasks.register(obeys("fine")).unwrap();
    tasks.register(failed.max_restarts(0, secs(60))).unwrap();
    drop(tasks.spawn("command_long", std::future::pending::<()>()));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tasks.register_component("broken", move || -> Vec<CriticalTaskConfig> {
        count.fetch_add(1, SeqCst);
        panic!("a provider")
    });
    tasks.start();
    sleep(secs(610)).await;
    assert!(tasks.is_monitoring(), "the loop does not die");
    assert_eq!(asked.load(SeqCst), 1);
    let sweeps = spans(&exporter, "worker.monitor_tasks");
    assert_eq!(sweeps.len(), 11, "at the start and then every 60 s");
    let last = sweeps.last().unwrap();
    assert_eq!(texts(last, "tasks.scheduled"), ["failed", "fine"]);
    assert_eq!(texts(last, "tasks.command"), ["command_long"]);
    assert_eq!(texts(last, "tasks.gateway"), Vec::<String>::new());
    assert_eq!(texts(last, "tasks.unhealthy"), ["failed"]);
    assert_eq!(texts(last, "tasks.degraded"), Vec::<String>::new());
    assert!(last.attributes.contains(&KeyValue::new("tasks.registered", 2_i64)), "{last:?}");
    assert!(last.attributes.contains(&KeyValue::new("tasks.healthy", 1_i64)), "{last:?}");
}

// The seed warned of all unknown names at every sweep.
#[tokio::test(start_paused = true)]
async fn categorize_tasks() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::builder().categories(CategoryRules::discord()).build().unwrap();
    tasks.start();
    drop(tasks.spawn("mystery", std::future::pending::<()>()));
    drop(tasks.spawn("mystery", std::future::pending::<()>()));
    drop(tasks.spawn("command_known", std::future::pending::<()>()));
    sleep(secs(600)).await;
    drop(tasks.spawn("riddle", std::future::pending::<()>()));
    sleep(secs(600)).await;
    let warned: Vec<_> = events
        .named("task.category.unknown")
        .iter()
        .map(|event| (event.field("task.name").to_owned(), event.level))
        .collect();
    assert_eq!(warned, [("mystery".to_owned(), Level::WARN), ("riddle".to_owned(), Level::WARN)]);
}

/// Nothing sees the span of the sweep: the subscriber is interested in warnings alone.
#[tokio::test(start_paused = true)]
async fn unknown_names_are_warned_of_by_a_sweep_whose_span_nobody_sees() {
    let (events, _all) = Events::record();
    let subscriber = tracing_subscriber::registry().with(LevelFilter::WARN).with(events.clone());
    let _warnings = tracing::subscriber::set_default(subscriber);
    let tasks = TaskManager::builder().categories(CategoryRules::discord()).build().unwrap();
    tasks.start();
    drop(tasks.spawn("mystery", std::future::pending::<()>()));
    sleep(secs(600)).await;
    assert_eq!(events.spans("bot.monitor_tasks"), 0);
    assert_eq!(events.named("task.category.unknown").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn plain_names_are_not_warned_of_without_a_prefix_table() {
    let (events, _guard) = Events::record();
    let tasks = all_started([]);
    drop(tasks.spawn("order_mail", std::future::pending::<()>()));
    drop(tasks.spawn("discord-gateway-3", std::future::pending::<()>()));
    sleep(secs(600)).await;
    assert!(events.named("task.category.unknown").is_empty());
    for name in ["order_mail", "discord-gateway"] {
        assert_eq!(tasks.snapshot(name).unwrap().category, TaskCategory::Unknown, "{name}");
    }
}

// The seed filtered finished tasks out before it looked at them, and so never counted one error.
#[tokio::test(start_paused = true)]
async fn process_finished_tasks() {
    let (events, _guard) = Events::record();
    let (config, _) = failing("supervised", 3);
    let tasks = all_started([config.backoff(Backoff::constant(secs(10)))]);
    let _ = tasks.spawn("command_broken", async { Err::<(), _>("at once") }).await;
    // Processed when it happens: no sweep lies between.
    assert_eq!(tasks.task_metrics("command_broken").unwrap().error_count, 1);
    sleep(secs(2)).await;
    assert_eq!(tasks.task_metrics("supervised").unwrap().error_count, 1);
    sleep(secs(3_600)).await;
    assert_eq!(tasks.task_metrics("supervised").unwrap().error_count, 3);
    assert_eq!(events.count("task.exception", "supervised"), 3, "exactly once each");
    assert_eq!(events.count("task.exception", "command_broken"), 1);
}

// The seed appended to a history that nobody read, and called the age of the task its run time.
#[tokio::test(start_paused = true)]
async fn update_task_metrics() {
    let tasks = TaskManager::new();
    for number in 0..TaskMetrics::HISTORY_LENGTH as u64 + 20 {
        let run = async move {
            sleep(secs(number)).await;
            if number % 2 == 0 { Ok(()) } else { Err("odd") }
        };
        let _ = tasks.spawn("t", run).await.unwrap();
    }
    let metrics = tasks.task_metrics("t").unwrap();
    assert_eq!((metrics.history.len(), TaskMetrics::HISTORY_LENGTH), (TaskMetrics::HISTORY_LENGTH, 100));
    assert_eq!(metrics.run_count, 120);
    for (index, run) in metrics.history.iter().enumerate() {
        let number = index as u64 + 20;
        assert_eq!(run.duration, secs(number), "the last ones, the oldest first");
        let result = if number.is_multiple_of(2) { ExitKind::Success } else { ExitKind::Failure };
        assert_eq!(run.result, result);
    }
    assert_eq!(metrics.total_runtime, secs((0..120).sum()));
}

// The seed restarted whatever did not run or had been restarted three times: finished, stopped and well tasks too.
#[tokio::test(start_paused = true)]
async fn perform_health_checks() {
    let begun = Arc::new(Mutex::new(BTreeMap::<&'static str, usize>::new()));
    let task = |name: &'static str, ends: fn(usize, TaskContext) -> Ending| {
        let begun = begun.clone();
        let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            let run = {
                let mut begun = begun.lock().unwrap();
                let count = begun.entry(name).or_default();
                *count += 1;
                *count
            };
            let ending = ends(run, ctx.clone());
            async move {
                match ending {
                    Ending::Finish => Ok(()),
                    Ending::Fail => Err("down"),
                    Ending::Run => {
                        ctx.cancelled().await;
                        Ok(())
                    }
                }
            }
        });
        config.backoff(Backoff::constant(secs(1))).health_check_interval(secs(60))
    };
    enum Ending {
        Finish,
        Fail,
        Run,
    }
    let sleeper = TaskLoop::every(secs(86_400), |_| async {});
    let tasks = all_started([
        task("finished", |_, _| Ending::Finish).restart_policy(RestartPolicy::OnFailure),
        task("stopped", |_, _| Ending::Run),
        task("recovered", |run, _| if run <= 3 { Ending::Fail } else { Ending::Run }),
        task("given up", |_, _| Ending::Fail).max_restarts(2, secs(600)).give_up(GiveUp::ForGood),
        task("never", |_, _| Ending::Fail).restart_policy(RestartPolicy::Never),
        CriticalTaskConfig::from_loop("sleeper", sleeper).heartbeat_timeout(secs(10)),
    ]);
    settle().await;
    tasks.stop("stopped").unwrap();
    // Two hours of checks.
    sleep(secs(7_200)).await;
    let begun = begun.lock().unwrap().clone();
    let expected = [("finished", 1), ("given up", 3), ("never", 1), ("recovered", 4), ("stopped", 1)];
    assert_eq!(begun, BTreeMap::from(expected));
    assert_eq!(tasks.task_metrics("sleeper").unwrap().restart_count, 0);
    assert_eq!(state(&tasks, "finished"), Some(TaskState::Finished));
    assert_eq!(state(&tasks, "stopped"), Some(TaskState::Stopped));
    assert!(tasks.task_health("finished").unwrap().is_healthy());
    assert!(tasks.task_health("stopped").unwrap().is_healthy());
}

// The seed looked its errors up under another name than it kept them under, and so recorded none.
#[tokio::test(start_paused = true)]
async fn record_task_error() {
    let (events, _guard) = Events::record();
    let (config, _) = failing("t", 1);
    let before = SystemTime::now();
    let tasks = all_started([config.error_type(|_: &&str| "connection").restart_delay(secs(5))]);
    sleep(secs(2)).await;
    let metrics = tasks.task_metrics("t").unwrap();
    assert_eq!((metrics.error_count, metrics.last_error.as_deref()), (1, Some("connection lost")));
    assert!(metrics.last_error_time.unwrap() >= before);
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!((snapshot.errors[0].error_type, snapshot.errors[0].count), ("connection", 1));
    let [record] = &events.named("task.exception")[..] else { panic!("one record") };
    let fields = ["task.name", "exception.type", "exception.message", "task.run.result"];
    assert_eq!(fields.map(|field| record.field(field)), ["t", "connection", "connection lost", "failure"]);
}

#[tokio::test(start_paused = true)]
async fn stop_task_loops() {
    let (tasks, exporter) = traced();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let began = Instant::now();
    for (name, takes) in [("asleep", 0), ("busy", 15)] {
        let ended = ended.clone();
        let body = TaskLoop::every(secs(3_600), move |_| async move { sleep(secs(takes)).await });
        let body = body.after_loop(move |_| {
            ended.lock().unwrap().push((name, began.elapsed().as_secs()));
            async {}
        });
        tasks.register(CriticalTaskConfig::from_loop(name, body)).unwrap();
    }
    tasks.register(obeys("no loop")).unwrap();
    tasks.start();
    sleep(secs(10)).await;
    tasks.shutdown().await;
    assert_eq!(*ended.lock().unwrap(), [("asleep", 10), ("busy", 15)]);
    let runs = tasks.snapshot("busy").unwrap();
    assert_eq!((runs.runs(ExitKind::Success), runs.runs(ExitKind::Cancellation)), (1, 0));
    let [span] = &spans(&exporter, "bot.stop_task_loops")[..] else { panic!("one span") };
    assert!(span.attributes.contains(&KeyValue::new("tasks.loops", 2_i64)), "{span:?}");
}

async fn gateway_keepalive(ctx: TaskContext) {
    ctx.cancelled().await;
}

async fn refresh_cache() {}

#[tokio::test(start_paused = true)]
async fn get_task_name() {
    let tasks = all_started([CriticalTaskConfig::unnamed(gateway_keepalive)]);
    assert_eq!(tasks.task_names(), ["seed_map::gateway_keepalive"]);
    tasks.spawn("", refresh_cache()).await.unwrap();
    assert_eq!(tasks.snapshot("seed_map::refresh_cache").unwrap().total_runs(), 1);
    // An explicit name is kept; a request's number is not part of it.
    tasks.spawn("command_ping", async {}).await.unwrap();
    tasks.spawn("command_ping_8841", async {}).await.unwrap();
    assert_eq!(tasks.snapshot("command_ping").unwrap().total_runs(), 2);
}

// The seed waited for ever, in no order but that of the categories, and lost what was raised meanwhile.
#[tokio::test(start_paused = true)]
async fn cancel_tasks_by_priority() {
    let (tasks, exporter) = traced();
    let (events, _guard) = Events::record();
    let failing = CriticalTaskConfig::new("failing", |ctx: TaskContext| async move {
        ctx.cancelled().await;
        Err::<(), _>("could not save")
    });
    tasks.register(failing.category(TaskCategory::System)).unwrap();
    tasks.register(obeys("reminders")).unwrap();
    tasks.register(obeys("socket").category(TaskCategory::Gateway)).unwrap();
    tasks.start();
    drop(tasks.spawn("command_ping", std::future::pending::<()>()));
    drop(tasks.spawn("mystery", std::future::pending::<()>()));
    settle().await;
    let report = tasks.shutdown().await;
    let order: Vec<_> = report.tasks.iter().map(|task| &*task.name).collect();
    assert_eq!(order, ["mystery", "command_ping", "failing", "reminders", "socket"]);
    let [span] = &spans(&exporter, "bot.cancel_tasks")[..] else { panic!("one span") };
    for (category, names) in [
        ("unknown", ["mystery"]),
        ("command", ["command_ping"]),
        ("system", ["failing"]),
        ("scheduled", ["reminders"]),
        ("gateway", ["socket"]),
    ] {
        assert_eq!(texts(span, &format!("tasks.{category}")), names);
    }
    assert_eq!(tasks.task_metrics("failing").unwrap().last_error.as_deref(), Some("could not save"));
    assert_eq!(events.count("task.exception", "failing"), 1, "an error while stopping is reported");
}

#[cfg(feature = "macros")]
mod attribute {
    use otel_tasks::instrumented_task;

    use super::*;

    #[instrumented_task(name = "load_levels", category = System, priority = High)]
    async fn load_levels(fail: bool) -> std::io::Result<u32> {
        if fail { Err(std::io::Error::other("no table")) } else { Ok(7) }
    }

    #[instrumented_task(name = "command_ping")]
    async fn ping() -> u32 {
        load_levels(false).await.unwrap_or_default()
    }

    // The seed's decorator did nothing.
    #[tokio::test(start_paused = true)]
    async fn instrumented_task() {
        let tasks = TaskManager::new();
        let outer = async {
            let _ = load_levels(true).await;
            Ok::<_, String>(ping().await)
        };
        assert_eq!(tasks.spawn("outer", outer).await, Ok(Ok(7)));
        let metrics = tasks.task_metrics("load_levels").expect("a child run, kept by the manager");
        assert_eq!((metrics.run_count, metrics.error_count), (2, 1));
        assert_eq!((metrics.category, metrics.priority), (TaskCategory::System, TaskPriority::High));
        assert_eq!(metrics.last_error.as_deref(), Some("no table"));
        assert_eq!(tasks.task_metrics("command_ping").unwrap().category, TaskCategory::Command);

        let same = async { Ok::<_, String>(ping().await) };
        assert_eq!(tasks.spawn("command_ping", same).await, Ok(Ok(7)));
        assert_eq!(
            tasks.task_metrics("command_ping").unwrap().run_count,
            2,
            "no second run of the same name"
        );
        assert_eq!(tasks.statistics().active_runs, 0);
        assert_eq!(ping().await, 7, "under no manager it works as well");
        assert_eq!(tasks.task_metrics("command_ping").unwrap().run_count, 2);
    }
}
