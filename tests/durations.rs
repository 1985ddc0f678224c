//! No duration of a user's takes the manager or the watchdog's thread down: the longest and the shortest, in every setting.
//!
//! In a binary of its own, since it counts the panics of the whole process.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, Schedule, TaskGroup, TaskLoop, TaskManager, Telemetry,
    events::TaskEventKind,
    health::HealthThresholds,
    policy::{Jitter, RestartStrategy},
    snapshot::TaskState,
};

const LONGEST: Duration = Duration::MAX;

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, SeqCst);
            before(panic);
        }));
    });
}

fn pending(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await })
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not so after 10 s: {what}");
}

/// Seen to fail with `timeout + DRIVERS_TURN`, at which the watchdog's thread panicked twenty times a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn longest_durations_do_not_blind_the_watchdog() {
    count_panics();
    let tasks = TaskManager::builder()
        .monitor_interval(LONGEST)
        .shutdown_deadline(LONGEST)
        .spawn_grace(LONGEST)
        .runtime_stall(LONGEST)
        .slow_poll(LONGEST)
        .wall_clock_step(LONGEST)
        .health_thresholds(HealthThresholds::default().recovering_for(LONGEST))
        .build()
        .unwrap();
    let longest = |name: &str| {
        pending(name)
            .max_restarts(5, LONGEST)
            .backoff(Backoff::new(Duration::ZERO, 2.0, Duration::ZERO).unwrap().stable_after(LONGEST))
            .health_check_interval(LONGEST)
            .heartbeat_timeout(LONGEST)
            .poll_timeout(LONGEST)
            .start_timeout(LONGEST)
            .run_timeout(LONGEST)
            .shutdown_grace(LONGEST)
    };
    let mut events = tasks.subscribe();
    tasks.register(longest("longest")).unwrap();
    tasks.register(pending("silent").heartbeat_timeout(Duration::from_millis(100))).unwrap();
    let group = TaskGroup::new("group", RestartStrategy::OneForAll).max_restarts(5, LONGEST);
    tasks.register_group(group.task(longest("member"))).unwrap();
    let body = |_| async {};
    for (name, schedule) in [
        ("every", Schedule::every(LONGEST).jitter(LONGEST)),
        ("delay", Schedule::delay(LONGEST).jitter(LONGEST)),
        ("once", Schedule::once(UNIX_EPOCH + Duration::from_secs(1 << 40)).jitter(LONGEST)),
        ("late", Schedule::every(LONGEST).starts(SystemTime::now() + Duration::from_secs(1 << 40))),
    ] {
        let retried = TaskLoop::on(schedule, body).retry(3, Backoff::constant(LONGEST));
        tasks.register(CriticalTaskConfig::from_loop(name, retried).heartbeat_timeout(LONGEST)).unwrap();
    }
    tasks.start();
    let short = tasks.task("short").timeout(LONGEST).shutdown_grace(LONGEST).spawn(async {});
    short.await.expect("it ends well");
    let stalls = async {
        loop {
            let event = events.recv().await.expect("the manager lives");
            if matches!(event.kind, TaskEventKind::Stalled { .. }) {
                return event.task;
            }
        }
    };
    let stalled =
        tokio::time::timeout(Duration::from_secs(10), stalls).await.expect("the watchdog still looks");
    assert_eq!(stalled.as_deref(), Some("silent"));
    assert!(tasks.shutdown().await.is_clean());
    assert_eq!(PANICS.load(SeqCst), 0, "a duration made something panic");
}

/// A restart delay that never passes leaves the task waiting, and a person restarts it.
#[tokio::test(start_paused = true)]
async fn the_longest_delay_waits_and_can_be_overruled() {
    count_panics();
    for jitter in [Jitter::None, Jitter::Equal, Jitter::Full, Jitter::Decorrelated] {
        for random in [0.0, 0.5, 1.0] {
            let tasks = TaskManager::builder().random(move || random).build().unwrap();
            let fails = CriticalTaskConfig::new("fails", |_| async { Err::<(), _>("out of order") })
                .max_restarts(1, LONGEST)
                .backoff(Backoff::growing(LONGEST, LONGEST).jitter(jitter));
            tasks.register(fails).unwrap();
            tasks.start();
            let state = || tasks.snapshot("fails").and_then(|snapshot| snapshot.state);
            eventually("it failed", || {
                matches!(state(), Some(TaskState::Backoff | TaskState::Failed | TaskState::Running))
            })
            .await;
            tasks.shutdown().await;
        }
    }
    assert_eq!(PANICS.load(SeqCst), 0, "a duration made something panic");
}

#[tokio::test]
async fn telemetry_takes_the_longest_durations() {
    count_panics();
    let telemetry = Telemetry::builder()
        .env(|name| (name == "OTEL_TRACES_EXPORTER").then(|| "none".to_owned()))
        .export_if_configured()
        .metric_interval(LONGEST)
        .shutdown_timeout(LONGEST)
        .build()
        .unwrap();
    let _ = telemetry.check(LONGEST).await;
    telemetry.shutdown().await;
    assert_eq!(PANICS.load(SeqCst), 0, "a duration made something panic");
}
