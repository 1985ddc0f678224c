//! What a task's health means for the service: roles, statuses, and reasons with their values.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, HealthRole, TaskContext, TaskHealth, TaskLoop, TaskManager, TaskPriority,
    events::TaskEventKind,
    health::{HealthReason, HealthStatus, HealthThresholds, ManagerHealth},
    policy::{ErrorClass, StallAction},
    schedule::OnError,
    snapshot::TaskState,
    task::BuildError,
};
use tokio::time::sleep;

use crate::support::{
    WallClock, secs, settle, shown,
    tasks::{all_started, begun, obeys, started, state},
};

/// A task that is given up for good at its first run.
fn given_up(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>(io::Error::other("no such database")) })
        .classify(|_: &io::Error| ErrorClass::Permanent)
}

/// A task that gives no sign of life, and is left alone.
fn silent(name: &str) -> CriticalTaskConfig {
    obeys(name).heartbeat_timeout(secs(10)).on_stall(StallAction::Report)
}

/// A task that waits an hour for its restart.
fn backing_off(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>("down") })
        .backoff(Backoff::constant(secs(3_600)))
        .max_restarts(1, secs(10_000))
}

/// A loop that does nothing, each minute.
fn idle_loop(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::from_loop(name, TaskLoop::every(secs(60), |_| async {}))
}

fn health(tasks: &TaskManager, name: &str) -> TaskHealth {
    tasks.task_health(name).expect("registered")
}

/// Whether the service is live, ready and started, and its status.
fn service(health: &ManagerHealth) -> (bool, bool, bool, HealthStatus) {
    (health.is_live, health.is_ready, health.has_started, health.status)
}

fn texts(health: &TaskHealth) -> Vec<String> {
    health.reasons.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_of_low_priority_that_is_given_up_keeps_the_service_live_and_ready() {
    let tasks = all_started([given_up("t").priority(TaskPriority::Low), obeys("other")]);
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Degraded));
    let health = health(&tasks, "t");
    assert_eq!((health.status, health.role), (HealthStatus::Unhealthy, HealthRole::Degrades));
    assert!(!health.is_live && !health.is_ready, "of the task itself: {health:?}");
    assert_eq!(texts(&health), ["failed for good"]);
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_required_task_that_is_given_up_makes_the_service_not_live() {
    let tasks = all_started([given_up("t"), obeys("other")]);
    settle().await;
    assert_eq!(service(&tasks.health()), (false, false, true, HealthStatus::Unhealthy));
    assert!(health(&tasks, "t").fails_liveness() && !health(&tasks, "other").fails_liveness());
}

#[tokio::test(start_paused = true)]
async fn a_required_task_in_backoff_makes_the_service_not_ready_and_leaves_it_live() {
    let tasks = all_started([backing_off("t"), obeys("other")]);
    settle().await;
    assert_eq!(service(&tasks.health()), (true, false, true, HealthStatus::Degraded));
    let health = health(&tasks, "t");
    assert_eq!(
        (health.reasons.as_slice(), health.status),
        (&[HealthReason::BackingOff][..], HealthStatus::Degraded)
    );
    assert!(health.fails_readiness() && !health.fails_liveness(), "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_degrades_and_waits_for_its_restart_keeps_the_service_ready() {
    let tasks = all_started([backing_off("t").health_role(HealthRole::Degrades), obeys("other")]);
    settle().await;
    assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Degraded));
}

#[tokio::test(start_paused = true)]
async fn pausing_a_loop_or_a_required_task_keeps_the_service_ready() {
    let tasks = all_started([idle_loop("loop"), obeys("closure"), obeys("other")]);
    sleep(secs(90)).await;
    for name in ["loop", "closure"] {
        tasks.pause(name).expect("registered");
        settle().await;
        assert_eq!(state(&tasks, name), Some(TaskState::Paused));
        assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Healthy), "{name} is paused");
        assert!(!health(&tasks, name).is_ready && !health(&tasks, name).fails_readiness());
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_paused_before_it_was_ready_keeps_nobody_from_starting() {
    let tasks = TaskManager::new();
    tasks.register_all([obeys("t"), obeys("other")]).expect("valid configs");
    assert_eq!(service(&tasks.health()), (true, false, false, HealthStatus::Healthy));
    tasks.pause("t").expect("registered");
    tasks.start();
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Paused));
    assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Healthy));
}

#[tokio::test(start_paused = true)]
async fn only_required_tasks_keep_the_service_from_starting() {
    let never_ready = |name: &str| obeys(name).start_timeout(secs(3_600));
    let with = |role| all_started([never_ready("t").health_role(role), obeys("other")]);
    for (role, started) in
        [(HealthRole::Required, false), (HealthRole::Degrades, true), (HealthRole::Ignored, true)]
    {
        let tasks = with(role);
        settle().await;
        assert_eq!(service(&tasks.health()), (true, started, started, HealthStatus::Healthy), "{role}");
        assert_eq!(health(&tasks, "t").fails_startup(), !started);
    }
}

#[tokio::test(start_paused = true)]
async fn role_decides_the_service_health_after_a_stall() {
    for (role, expected) in [
        (HealthRole::Required, (false, false, true, HealthStatus::Unhealthy)),
        (HealthRole::Degrades, (true, true, true, HealthStatus::Degraded)),
        (HealthRole::Ignored, (true, true, true, HealthStatus::Healthy)),
    ] {
        let tasks = all_started([silent("t").health_role(role), obeys("other")]);
        sleep(secs(15)).await;
        assert_eq!(service(&tasks.health()), expected, "{role}");
        let health = health(&tasks, "t");
        assert_eq!(
            (health.status, health.role),
            (HealthStatus::Unhealthy, role),
            "the task itself is what it is"
        );
        assert!(!health.is_live);
        assert_eq!(shown(&health.reasons), "[Stalled { silent_for: 15s, limit: 10s }]");
        assert_eq!(texts(&health), ["no sign of life for 15.0s, limit 10s"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_ignored_changes_nothing() {
    let tasks = all_started([
        given_up("lost").health_role(HealthRole::Ignored),
        backing_off("down").health_role(HealthRole::Ignored),
        obeys("other"),
    ]);
    settle().await;
    assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Healthy));
}

#[tokio::test(start_paused = true)]
async fn the_default_role_follows_the_kind_and_the_final_priority() {
    use HealthRole::{Degrades, Ignored, Required};
    use TaskPriority::{Critical, High, Low, Normal};
    let tasks = all_started([
        obeys("default"),
        obeys("critical").priority(Critical),
        obeys("high").priority(Low).priority(High),
        obeys("normal").priority(Normal),
        obeys("low").priority(High).priority(Low),
        idle_loop("loop"),
        idle_loop("critical loop").priority(Critical),
        obeys("said before").health_role(Ignored).priority(Critical),
        obeys("said after").priority(Low).health_role(Required),
        idle_loop("required loop").health_role(Required).priority(Low),
    ]);
    for (name, role) in [
        ("default", Required),
        ("critical", Required),
        ("high", Required),
        ("normal", Degrades),
        ("low", Degrades),
        ("loop", Degrades),
        ("critical loop", Degrades),
        ("said before", Ignored),
        ("said after", Required),
        ("required loop", Required),
    ] {
        assert_eq!(health(&tasks, name).role, role, "{name}");
        assert_eq!(tasks.task_settings(name).map(|settings| settings.health_role), Some(role));
    }
    tasks.spawn("spawned", async {}).await.expect("it runs");
    assert_eq!(health(&tasks, "spawned").role, Ignored);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_fails_once_an_hour_is_unhealthy_after_three_failures_in_a_row() {
    let body = TaskLoop::every(secs(3_600), |ctx: TaskContext| async move {
        if ctx.iteration() == Some(5) { Ok(()) } else { Err("down") }
    });
    let tasks = started(CriticalTaskConfig::from_loop("t", body.on_error(|_| async { OnError::Continue })));
    sleep(secs(60)).await;
    let first = tasks.snapshot("t").expect("registered").total_runs();
    sleep(secs((2 - first) * 3_600)).await;
    assert_eq!(health(&tasks, "t").reasons, [], "two are none too many");
    sleep(secs(3_600)).await;
    assert_eq!(texts(&health(&tasks, "t")), ["3 failures in a row, limit 3"]);
    sleep(secs(3_600)).await;
    let ill = health(&tasks, "t");
    assert_eq!(shown(&ill.reasons), "[FailuresInARow { failures: 4, limit: 3 }]");
    assert_eq!(ill.status, HealthStatus::Unhealthy);
    assert_eq!(service(&tasks.health()), (true, true, true, HealthStatus::Degraded));
    sleep(secs(3_600)).await;
    assert_eq!(tasks.snapshot("t").expect("registered").total_runs(), 5);
    assert!(health(&tasks, "t").is_healthy(), "the fifth succeeded");
    sleep(secs(3_600)).await;
    assert!(health(&tasks, "t").is_healthy(), "a row begins with the next failure");
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_runs_on_has_no_failures_in_a_row() {
    // Three short runs, one of an hour, and one that goes on: each of the first four fails.
    let config = CriticalTaskConfig::new("t", |ctx| async move {
        match ctx.generation() {
            1..=3 => sleep(secs(1)).await,
            4 => sleep(secs(3_600)).await,
            _ => ctx.cancelled().await,
        }
        Err::<(), _>("down")
    });
    let tasks = started(config.backoff(Backoff::constant(secs(1))));
    let in_a_row = || {
        let failures = |reason: &HealthReason| match reason {
            HealthReason::FailuresInARow { failures, .. } => Some(*failures),
            _ => None,
        };
        health(&tasks, "t").reasons.iter().find_map(failures)
    };
    sleep(secs(10)).await;
    assert_eq!((tasks.snapshot("t").map(|task| task.total_runs()), in_a_row()), (Some(3), Some(3)));
    sleep(secs(600)).await;
    assert_eq!(in_a_row(), None, "it has run for ten minutes");
    sleep(secs(3_010)).await;
    assert_eq!(tasks.snapshot("t").map(|task| task.total_runs()), Some(4));
    assert_eq!(in_a_row(), None, "the failure that ended an hour is the first of its row");
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_or_a_new_registration_forgives_failures_in_a_row() {
    let config = || {
        CriticalTaskConfig::new("t", |ctx| async move {
            if ctx.generation() > 3 {
                ctx.cancelled().await;
            }
            Err::<(), _>("down")
        })
        .backoff(Backoff::constant(secs(1)))
        .max_restarts(2, secs(60))
    };
    let tasks = started(config());
    sleep(secs(30)).await;
    let failures = || texts(&health(&tasks, "t")).contains(&"3 failures in a row, limit 3".to_owned());
    assert_eq!((state(&tasks, "t"), failures()), (Some(TaskState::Failed), false), "failed says it all");
    tasks.restart("t").expect("registered");
    sleep(secs(1)).await;
    assert!(!failures(), "{:?}", health(&tasks, "t"));
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn reasons_carry_the_value_and_the_limit() {
    let thresholds = HealthThresholds::default().errors_per_hour(2).restarts_per_hour(1).failures_in_a_row(9);
    let tasks = TaskManager::builder().health_thresholds(thresholds).build().expect("valid");
    let config = CriticalTaskConfig::new("t", |ctx| async move {
        if ctx.generation() < 3 {
            return Err("down");
        }
        ctx.cancelled().await;
        Ok(())
    });
    let tasks = begun(tasks, [config.backoff(Backoff::constant(secs(1)))]);
    sleep(secs(10)).await;
    let health = health(&tasks, "t");
    assert_eq!(
        health.to_string(),
        "unhealthy: 2 errors in the last hour, limit 2; 2 restarts in the last hour, limit 1; \
         restarted a short while ago"
    );
    let labels: Vec<_> = health.reasons.iter().map(HealthReason::as_str).collect();
    assert_eq!(labels, ["error_rate", "restarts", "recovering"]);
    assert_eq!(
        shown(&health.reasons.get(..2).expect("three")),
        "[ErrorRate { errors_per_hour: 2, limit: 2 }, Restarts { restarts_per_hour: 2, limit: 1 }]"
    );
    let text = tasks.health().to_string();
    assert!(
        text.starts_with("unhealthy, live: yes, ready: yes, started: yes\nt (required): unhealthy: "),
        "{text}"
    );
}

#[test]
fn a_threshold_of_zero_is_refused() {
    let default = HealthThresholds::default;
    assert_eq!(default().failures_in_a_row, 3);
    for thresholds in
        [default().errors_per_hour(0), default().restarts_per_hour(0), default().failures_in_a_row(0)]
    {
        let refused = TaskManager::builder().health_thresholds(thresholds).build().err();
        assert_eq!(refused, Some(BuildError::ZeroThreshold), "{thresholds:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_times_of_a_state_and_of_an_illness_are_of_the_wall_clock() {
    let clock = WallClock::starting(UNIX_EPOCH + secs(1_000_000));
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().expect("valid");
    let at = |seconds: u64| Some(UNIX_EPOCH + secs(1_000_000 + seconds));
    let whole = |time: Option<SystemTime>| {
        let since = time?.duration_since(UNIX_EPOCH).expect("after 1970");
        Some(UNIX_EPOCH + Duration::from_secs(since.as_secs()))
    };
    let config = CriticalTaskConfig::new("t", |ctx| async move {
        if ctx.generation() == 1 {
            sleep(secs(100)).await;
            return Err(io::Error::other("no such database"));
        }
        ctx.cancelled().await;
        Ok(())
    });
    let tasks = begun(tasks, [config.classify(|_: &io::Error| ErrorClass::Permanent), silent("silent")]);
    let times = |name| {
        let health = health(&tasks, name);
        (whole(health.state_since), whole(health.unhealthy_since))
    };
    sleep(secs(5)).await;
    assert_eq!((times("t"), times("silent")), ((at(0), None), (at(0), None)));
    // The watchdog and the monitor look at real and virtual times; nobody has asked for health in between.
    sleep(secs(295)).await;
    assert_eq!(times("t"), (at(100), at(100)), "the time of the failure, not of the question");
    assert_eq!(times("silent"), (at(0), at(10)), "the time at which the heartbeat was missed");
    sleep(secs(100)).await;
    assert_eq!(times("t"), (at(100), at(100)), "asking again changes nothing");
    clock.shift(1_000);
    tasks.restart("t").expect("registered");
    settle().await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    assert_eq!(times("t"), (at(1_400), None), "it runs, and the illness is over");
    tasks.pause("t").expect("registered");
    sleep(secs(20)).await;
    assert_eq!(times("t"), (at(1_400), None));
    let rests = health(&tasks, "t");
    assert_eq!((rests.state, rests.status), (Some(TaskState::Paused), HealthStatus::Healthy));
    tasks.unregister("t").await.expect("registered");
    let gone = health(&tasks, "t");
    assert_eq!((gone.state, gone.state_since, gone.unhealthy_since), (None, None, None));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_of_the_monitor_notices_an_illness_that_nobody_asks_about() {
    let clock = WallClock::starting(UNIX_EPOCH + secs(1_000_000));
    let thresholds = HealthThresholds::default().errors_per_hour(1);
    let builder = TaskManager::builder().wall_clock(clock.reader()).health_thresholds(thresholds);
    let body = TaskLoop::every(secs(10_000), |_| async { Err::<(), _>("down") })
        .on_error(|_| async { OnError::Continue });
    let config = CriticalTaskConfig::from_loop("t", body);
    let tasks = begun(builder.build().expect("valid"), [config]);
    sleep(secs(20)).await;
    if tasks.snapshot("t").expect("registered").total_runs() == 0 {
        sleep(secs(10_000)).await;
    }
    let failed = tasks.snapshot("t").and_then(|task| task.next_run).expect("a loop") - secs(10_000);
    // The next sweep comes within a minute of the failure, the question an hour after it.
    sleep(secs(3_000)).await;
    let since = health(&tasks, "t").unhealthy_since.expect("one error in the last hour");
    let after = since.duration_since(failed).expect("not before it failed");
    assert!(after <= secs(61), "{after:?}");
    sleep(secs(3_000)).await;
    assert_eq!(health(&tasks, "t").unhealthy_since, None, "the error is older than an hour");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_status_is_an_event() {
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    let config = CriticalTaskConfig::new("t", |ctx| async move {
        if ctx.generation() == 1 {
            sleep(secs(10)).await;
            return Err("down");
        }
        ctx.cancelled().await;
        Ok(())
    });
    let config = config.backoff(Backoff::constant(secs(1))).health_check_interval(secs(60));
    let tasks = begun(tasks, [config]);
    sleep(secs(1_000)).await;
    let mut told = Vec::new();
    while let Some(event) = events.try_recv() {
        if let TaskEventKind::HealthChanged { status, .. } = event.kind {
            told.push(status);
        }
    }
    assert_eq!(told, [HealthStatus::Degraded, HealthStatus::Healthy]);
    let statistics = tasks.statistics();
    assert_eq!((statistics.healthy_tasks, statistics.degraded_tasks, statistics.unhealthy_tasks), (1, 0, 0));
}

#[test]
fn roles_and_statuses_are_read_as_they_are_written() {
    for role in HealthRole::ALL {
        assert_eq!(role.to_string().parse(), Ok(*role));
    }
    for status in HealthStatus::ALL {
        assert_eq!(status.to_string().parse(), Ok(*status));
    }
    assert!("sometimes".parse::<HealthRole>().is_err());
    let words: Vec<_> = HealthRole::ALL.iter().map(|role| role.as_str()).collect();
    assert_eq!(words, ["required", "degrades", "ignored"]);
    let words: Vec<_> = HealthStatus::ALL.iter().map(|status| status.as_str()).collect();
    assert_eq!(words, ["healthy", "degraded", "unhealthy"], "from the best to the worst");
}

#[cfg(feature = "serde")]
#[tokio::test(start_paused = true)]
async fn health_is_serialized_with_labels_values_and_limits() {
    let tasks =
        all_started([silent("silent").priority(TaskPriority::Low), given_up("lost"), backing_off("down")]);
    sleep(secs(15)).await;
    let json = |name: &str| serde_json::to_value(health(&tasks, name)).expect("plain data");
    let silent = json("silent");
    assert_eq!(
        (&silent["status"], &silent["role"], &silent["state"]),
        (&"unhealthy".into(), &"degrades".into(), &"running".into())
    );
    assert_eq!(
        silent["reasons"],
        serde_json::json!([{
            "reason": "stalled", "silent_for": { "secs": 15, "nanos": 0 }, "limit": { "secs": 10, "nanos": 0 },
        }])
    );
    assert_eq!(json("lost")["reasons"], serde_json::json!([{ "reason": "failed", "next_retry": null }]));
    assert_eq!(json("down")["reasons"], serde_json::json!([{ "reason": "backing_off" }]));
    let service = serde_json::to_value(tasks.health()).expect("plain data");
    assert_eq!((&service["status"], &service["is_live"]), (&"unhealthy".into(), &false.into()));
    let role: HealthRole = serde_json::from_str("\"ignored\"").expect("a role");
    assert_eq!(role, HealthRole::Ignored);
}

/// Fails if the startup probe waits for a task that a person has paused: the process would be restarted for it.
#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_a_paused_one_has_started_and_is_not_ready() {
    let tasks = TaskManager::new();
    tasks
        .register_all([
            obeys("db").start_timeout(secs(60)),
            obeys("cache").depends_on("db"),
            obeys("worker").depends_on("cache"),
        ])
        .expect("valid");
    tasks.start();
    settle().await;
    assert!(!tasks.health().has_started, "the database is not ready");
    assert!(!health(&tasks, "worker").has_started);
    tasks.pause("db").expect("registered");
    settle().await;
    let now = tasks.health();
    assert_eq!((now.is_live, now.is_ready, now.has_started), (true, false, true), "{now}");
    assert!(["db", "cache", "worker"].iter().all(|name| health(&tasks, name).has_started));
    tasks.resume("db").expect("registered");
    settle().await;
    assert!(!tasks.health().has_started, "it waits for the database, and for no person");
    tasks.shutdown().await;
}

/// Fails if the first task that it waits for is named, and not the failed one.
#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_several_names_the_one_that_has_failed() {
    let worker =
        ["db", "lost", "cache"].iter().fold(obeys("worker"), |config, name| config.depends_on(*name));
    let starts = |name| obeys(name).start_timeout(secs(3_600));
    let tasks = all_started([starts("db"), given_up("lost"), starts("cache"), worker]);
    settle().await;
    assert_eq!(texts(&health(&tasks, "worker")), ["waits for lost (failed)"]);
    tasks.shutdown().await;
}
