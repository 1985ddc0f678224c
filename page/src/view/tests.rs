use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, TaskCategory, TaskContext, TaskLoop, TaskPriority,
    health::HealthThresholds,
    policy::{ErrorClass, Exit, Failure},
    schedule::OnError,
    snapshot::SkipReason,
};
use serde_json::{Value, json};

use super::*;

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn waits(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await })
}

fn gives_up(name: &str, message: String) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, move |_| std::future::ready(Err::<(), _>(message.clone())))
        .restart_policy(RestartPolicy::Never)
}

#[test]
fn each_kind_of_event_has_its_detail() {
    let failure =
        |text: &str| Failure { error_type: "io", message: text.to_owned(), class: ErrorClass::Transient };
    let exited = |exit, iteration| TaskEventKind::Exited { exit, duration: millis(1_500), iteration };
    let details = [
        (TaskEventKind::Registered, "registered", ""),
        (TaskEventKind::Waiting { waits_for: vec!["a".into(), "b".into()] }, "waiting", "a, b"),
        (TaskEventKind::Started { restart: None }, "started", ""),
        (TaskEventKind::Started { restart: Some(RestartReason::Panic) }, "started", "panic"),
        (TaskEventKind::Ready, "ready", ""),
        (exited(Exit::Success, None), "exited", "success after 1.5s"),
        (exited(Exit::Cancellation, Some(7)), "exited", "cancellation after 1.5s, iteration 7"),
        (exited(Exit::Failure(failure("lost")), Some(8)), "exited", "failure after 1.5s, iteration 8: lost"),
        (TaskEventKind::Skipped { reason: SkipReason::Overlapped, iterations: 3 }, "skipped", "3 overlapped"),
        (
            TaskEventKind::Retrying { iteration: 9, failure: failure("lost"), delay: millis(250) },
            "retrying",
            "iteration 9, after 250.0ms: lost",
        ),
        (
            TaskEventKind::BackingOff { reason: RestartReason::Timeout, delay: millis(2_000) },
            "backing_off",
            "timeout, for 2.0s",
        ),
        (TaskEventKind::Yielding { reason: RestartReason::Group }, "yielding", "group"),
        (TaskEventKind::Finished, "finished", ""),
        (TaskEventKind::Stopped, "stopped", ""),
        (TaskEventKind::Paused, "paused", ""),
        (TaskEventKind::GaveUp { reason: "too many" }, "gave_up", "too many"),
        (TaskEventKind::Stalled { silent_for: millis(3_000) }, "stalled", "silent for 3.0s"),
        (
            TaskEventKind::SlowPoll { polling_for: millis(4_000), thread: "worker".into() },
            "slow_poll",
            "worker, for 4.0s",
        ),
        (TaskEventKind::Unregistered, "unregistered", ""),
        (TaskEventKind::HealthChanged { is_healthy: true }, "health_changed", "well"),
        (TaskEventKind::HealthChanged { is_healthy: false }, "health_changed", "not well"),
        (
            TaskEventKind::RuntimeStalled {
                stalled_for: millis(5_000),
                polling: vec!["a".into(), "b".into()],
            },
            "runtime_stalled",
            "for 5.0s, by a, b",
        ),
        (
            TaskEventKind::ProcessResumed { stood_still_for: millis(6_000) },
            "process_resumed",
            "stood still for 6.0s",
        ),
        (TaskEventKind::ShutdownBegan, "shutdown_began", ""),
    ];
    for (kind, name, detail) in details {
        assert_eq!((kind.as_str(), &*detail_of(&kind)), (name, detail));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_has_its_time_task_and_generation() {
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    tasks.register(gives_up("broken", "x".repeat(2 * SHORT_TEXT))).expect("registered");
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    let report = tasks.shutdown().await;
    let mut seen = Vec::new();
    while let Some(event) = events.recv().await {
        let view = EventView::from(&event);
        assert_eq!((view.at, view.kind), (unix(event.at), event.kind.as_str()));
        if view.kind == "exited" {
            assert_eq!(view.detail.len(), SHORT_TEXT);
            assert!(
                view.detail.starts_with("failure after ") && view.detail.ends_with("xxx"),
                "{}",
                view.detail
            );
        }
        seen.push((view.task.unwrap_or_default().to_string(), view.generation, view.kind, view.detail));
    }
    let short: Vec<_> =
        seen.iter().map(|(task, generation, kind, _)| (&**task, *generation, *kind)).collect();
    let expected = [
        ("broken", 0, "registered"),
        ("broken", 1, "started"),
        ("broken", 1, "ready"),
        ("broken", 1, "exited"),
        ("broken", 1, "gave_up"),
        ("", 0, "shutdown_began"),
        ("", 0, "shutdown_ended"),
    ];
    assert_eq!(short, expected);
    let first_line = report.to_string().lines().next().map(str::to_owned);
    assert_eq!(seen.last().map(|(.., detail)| detail.clone()), first_line);
}

#[tokio::test(start_paused = true)]
async fn a_row_is_the_snapshot_in_seconds() {
    let thresholds = HealthThresholds::default().errors_per_hour(1);
    let tasks = TaskManager::builder().health_thresholds(thresholds).build().expect("valid");
    // Each iteration takes 2 s; the second, fourth and sixth fail.
    let poll = TaskLoop::every(Duration::from_secs(5), |ctx: TaskContext| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let is_even = ctx.iteration().is_some_and(|number| number % 2 == 0);
        if is_even { Err("x".repeat(2 * SHORT_TEXT)) } else { Ok(()) }
    });
    let poller = CriticalTaskConfig::from_loop("poller", poll.on_error(|_| async { OnError::Continue }))
        .category(TaskCategory::Scheduled)
        .priority(TaskPriority::High)
        .component("demo")
        .depends_on("gateway");
    tasks.register_all([poller, waits("gateway")]).expect("registered");
    let row = |name: &str| {
        let rows = overview(&tasks, false, false).1;
        json!(rows.iter().find(|row| &**row.name() == name).expect("a row"))
    };
    assert_eq!(
        row("poller"),
        json!({
            "name": "poller", "category": "scheduled", "priority": "high", "component": "demo",
            "state": "waiting", "is_healthy": true, "reasons": ["not_started"],
            "depends_on": ["gateway"], "active_runs": 0, "runs": 0, "errors": 0, "restarts": 0,
            "p50_seconds": null, "p95_seconds": null, "max_seconds": null,
            "interval_seconds": null, "next_run": null,
            "last_error": null, "last_error_time": null,
        })
    );
    tasks.start();
    let runs = || tasks.snapshot("poller").map_or(0, |snapshot| snapshot.total_runs());
    while runs() < 7 {
        tokio::time::sleep(millis(100)).await;
    }
    tasks.spawn("command", async {}).await.expect("it runs");
    let snapshot = tasks.snapshot("poller").expect("known");
    assert!(snapshot.next_run.is_some() && snapshot.last_error_time.is_some());
    assert_eq!(
        row("poller"),
        json!({
            "name": "poller", "category": "scheduled", "priority": "high", "component": "demo",
            "state": "running", "is_healthy": false, "reasons": ["error_rate"],
            "depends_on": ["gateway"], "active_runs": 0, "runs": 7, "errors": 3, "restarts": 0,
            "p50_seconds": 1.5, "p95_seconds": 1.95, "max_seconds": 2.0,
            "interval_seconds": 5.0, "next_run": snapshot.next_run.map(unix),
            "last_error": "x".repeat(SHORT_TEXT), "last_error_time": snapshot.last_error_time.map(unix),
        })
    );
    let command = row("command");
    assert_eq!(
        (&command["state"], &command["depends_on"], &command["runs"]),
        (&Value::Null, &json!([]), &json!(1))
    );
    tasks.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_summary_counts_registered_tasks_and_shows_the_shutdown() {
    let tasks = TaskManager::new();
    tasks.register_all([waits("a"), waits("b"), gives_up("c", "lost".into())]).expect("registered");
    let is = |expected: Value| assert_eq!(json!(overview(&tasks, true, false).0), expected);
    is(json!({
        "is_live": true, "is_ready": false, "has_started": false, "runtime_stalled": false, "blocked": [],
        "registered": 3, "unhealthy": 0, "shutting_down": false, "report": null,
        "control": true, "traces": false,
    }));
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    is(json!({
        "is_live": false, "is_ready": false, "has_started": true, "runtime_stalled": false, "blocked": [],
        "registered": 3, "unhealthy": 1, "shutting_down": false, "report": null,
        "control": true, "traces": false,
    }));
    let report = tasks.shutdown().await.to_string();
    let summary = json!(overview(&tasks, false, true).0);
    assert_eq!(
        (&summary["shutting_down"], &summary["control"], &summary["traces"]),
        (&json!(true), &json!(false), &json!(true))
    );
    assert_eq!(summary["report"], json!(report.lines().collect::<Vec<_>>()));
}

#[test]
fn the_time_of_a_blocked_thread_is_in_whole_tenths() {
    assert_eq!([0, 99, 100, 1_290].map(|milliseconds| tenths(millis(milliseconds))), [0.0, 0.0, 0.1, 1.2]);
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(shortened("grüße", 3), "gr");
    assert_eq!(shortened("grüße", 4), "grü");
    assert_eq!(shortened("kurz", 4), "kurz");
    assert_eq!(shortened("🦀", 3), "");
}

#[test]
fn time_before_the_epoch_is_negative() {
    assert_eq!(unix(UNIX_EPOCH - Duration::from_secs(2)), -2.0);
}
