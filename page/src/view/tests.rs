use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskCategory, TaskContext, TaskFamily, TaskGroup, TaskLoop,
    TaskPriority,
    gate::{BootInstant, BoxFuture, Gate, Grant},
    health::HealthThresholds,
    policy::{RestartStrategy, StallAction},
    schedule::OnError,
};
use serde_json::{Value, json};

use super::{service::tenths, *};
use crate::format::shortened;

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

/// A task whose first run does `first`, and whose later runs wait.
fn at_first<Fut>(name: &str, first: impl Fn() -> Fut + Send + Sync + 'static) -> CriticalTaskConfig
where
    Fut: Future<Output = Result<(), &'static str>> + Send + 'static,
{
    CriticalTaskConfig::new(name, move |ctx| {
        let first = (ctx.generation() == 1).then(&first);
        async move {
            match first {
                Some(first) => first.await,
                None => {
                    ctx.cancelled().await;
                    Ok(())
                }
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_event_has_its_detail() {
    let tasks = TaskManager::builder().monitor_interval(Duration::from_secs(1)).build().expect("valid");
    let mut events = tasks.subscribe();
    let lost_after = |milliseconds| async move {
        tokio::time::sleep(millis(milliseconds)).await;
        Err("lost")
    };
    let retries = TaskLoop::every(Duration::from_secs(60), |ctx: TaskContext| async move {
        static TRIES: AtomicU32 = AtomicU32::new(0);
        if TRIES.fetch_add(1, Relaxed) == 0 {
            Err(format!("lost in {}", ctx.iteration().unwrap_or_default()))
        } else {
            Ok(())
        }
    });
    let overlaps = TaskLoop::every(Duration::from_secs(10), |_| tokio::time::sleep(Duration::from_secs(15)));
    let group = TaskGroup::new("group", RestartStrategy::OneForAll)
        .task(at_first("member", move || lost_after(1_000)))
        .task(waits("sibling"));
    tasks
        .register_all([
            at_first("fails", move || lost_after(1_500)).backoff(Backoff::constant(Duration::from_secs(2))),
            at_first("panics", || async { panic!("out of order") })
                .backoff(Backoff::constant(Duration::ZERO)),
            waits("dependent").depends_on("never_ready"),
            waits("never_ready").start_timeout(Duration::from_secs(60)),
            waits("silent")
                .heartbeat_timeout(Duration::from_secs(3))
                .on_stall(StallAction::Report)
                .health_check_interval(Duration::from_secs(1)),
            gives_up("gives_up", "lost".into()),
            CriticalTaskConfig::from_loop("retries", retries.retry(1, Backoff::constant(millis(250)))),
            CriticalTaskConfig::from_loop("overlaps", overlaps),
        ])
        .expect("registered");
    tasks.register_group(group).expect("registered");
    tasks.start();
    tokio::time::sleep(Duration::from_secs(22)).await;
    tasks.pause("retries").expect("registered");
    tasks.unregister("silent").await.expect("registered");
    tasks.shutdown().await;
    let mut seen = BTreeSet::new();
    while let Some(event) = events.recv().await {
        let view = EventView::from(&event);
        seen.insert((view.task.unwrap_or_default().to_string(), view.kind, view.detail));
    }
    for (task, kind, detail) in [
        ("dependent", "registered", ""),
        ("dependent", "waiting", "never_ready"),
        ("fails", "started", ""),
        ("fails", "ready", ""),
        ("fails", "exited", "failure after 1.5s: lost"),
        ("fails", "backing_off", "failure, for 2.0s"),
        ("fails", "started", "failure"),
        ("panics", "started", "panic"),
        ("gives_up", "gave_up", "not to be restarted after this"),
        ("sibling", "yielding", "group"),
        ("sibling", "exited", "success after 1.0s"),
        ("silent", "stalled", "silent for 3.0s"),
        ("silent", "health_changed", "unhealthy"),
        ("silent", "unregistered", ""),
        ("retries", "retrying", "iteration 1, after 250.0ms: lost in 1"),
        ("retries", "exited", "success after 250.0ms, iteration 1"),
        ("retries", "paused", ""),
        ("overlaps", "skipped", "1 overlapped"),
        ("", "shutdown_began", ""),
    ] {
        assert!(
            seen.contains(&(task.to_owned(), kind, detail.to_owned())),
            "{task} {kind} {detail}: {seen:#?}"
        );
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
        let rows = overview(&tasks, &Shown::default()).1;
        json!(rows.iter().find(|row| &**row.name() == name).expect("a row"))
    };
    assert_eq!(
        row("poller"),
        json!({
            "name": "poller", "category": "scheduled", "priority": "high", "component": "demo",
            "family": null, "members": null,
            "word": "Standby", "word_until": null, "attention": 2,
            "state": "waiting", "state_since": row("poller")["state_since"], "unhealthy_since": null,
            "status": "healthy", "role": "degrades", "reasons": ["not_started"],
            "gate": null, "depends_on": ["gateway"], "active_runs": 0, "runs": 0, "errors": 0, "restarts": 0,
            "restarts_last_hour": 0,
            "p50_seconds": null, "p95_seconds": null, "max_seconds": null,
            "interval_seconds": null, "next_run": null, "next_retry": null, "schedule": null,
            "minutes": null,
            "last_error": null, "last_error_time": null, "last_error_trace": null,
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
            "family": null, "members": null,
            "word": "Unhealthy", "word_until": null, "attention": 0,
            "state": "running", "state_since": row("poller")["state_since"],
            "unhealthy_since": row("poller")["unhealthy_since"],
            "status": "unhealthy", "role": "degrades", "reasons": ["error_rate"],
            "gate": null, "depends_on": ["gateway"], "active_runs": 0, "runs": 7, "errors": 3, "restarts": 0,
            "restarts_last_hour": 0,
            "p50_seconds": 2.0, "p95_seconds": 2.0, "max_seconds": 2.0,
            "interval_seconds": 5.0, "next_run": snapshot.next_run.map(unix), "next_retry": null,
            "schedule": "every 5s", "minutes": null,
            "last_error": format!("{} … {}", "x".repeat(148), "x".repeat(147)), "last_error_time": snapshot.last_error_time.map(unix),
            "last_error_trace": null,
        })
    );
    let command = row("command");
    assert_eq!(
        (&command["state"], &command["depends_on"], &command["runs"]),
        (&Value::Null, &json!([]), &json!(1))
    );
    tasks.shutdown().await;
}

/// A gate that lets in at once, or that another process holds.
struct Lease {
    is_free: bool,
}

impl Gate for Lease {
    fn name(&self) -> &str {
        "orders"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        Box::pin(async {
            if !self.is_free {
                std::future::pending::<()>().await;
            }
            let until = BootInstant::now().saturating_add(Duration::from_secs(60));
            Grant::new(7, until, Duration::from_secs(5)).0
        })
    }

    fn holder(&self) -> Option<Arc<str>> {
        Some(if self.is_free { "web-1" } else { "web-2" }.into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_with_a_gate_shows_the_holder_the_term_and_the_end() {
    let tasks = TaskManager::new();
    let gated = |name: &str, is_free| waits(name).gate(Lease { is_free });
    tasks.register_all([gated("here", true), gated("there", false), waits("free")]).expect("registered");
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    let rows = json!(overview(&tasks, &Shown::default()).1);
    let [free, here, there] = [0, 1, 2].map(|index| &rows[index]);
    assert_eq!(free["gate"], Value::Null);
    assert_eq!(here["gate"], json!({ "name": "orders", "holder": "web-1", "term": 7 }));
    assert_eq!(there["gate"], json!({ "name": "orders", "holder": "web-2", "term": null }));
    assert_eq!((&there["state"], &there["word"]), (&"standby".into(), &"Standby".into()));
    let until = |name| json!(detail(&tasks, name, Vec::new(), None).expect("known"))["gate_until"].as_f64();
    assert_eq!((until("free"), until("there")), (None, None));
    let left = until("here").expect("it is held") - unix(SystemTime::now());
    assert!(left > 55.0 && left <= 60.0, "{left}");
}

fn controlled() -> Shown {
    Shown { control: true, ..Shown::default() }
}

#[tokio::test(start_paused = true)]
async fn the_summary_counts_registered_tasks_and_shows_the_shutdown() {
    let tasks = TaskManager::new();
    tasks.register_all([waits("a"), waits("b"), gives_up("c", "lost".into())]).expect("registered");
    let is = |expected: Value| {
        let mut summary = json!(overview(&tasks, &controlled()).0);
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&summary[key], value, "{key}");
        }
        summary["failing"].take()
    };
    let failing = is(json!({
        "status": "healthy", "is_live": true, "is_ready": false, "has_started": false, "runtime_stalled": false, "blocked": [],
        "registered": 3, "degraded": 0, "unhealthy": 0, "shutting_down": false, "report": null,
        "control": true, "traces": false, "trace_link": null, "shutdown_deadline_seconds": 25.0, "service": null, "version": null, "instance": null,
        "started": unix(tasks.settings().started),
    }));
    let probes: Vec<_> =
        failing.as_array().expect("a list").iter().map(|failing| &failing["probe"]).collect();
    assert_eq!(probes, ["readiness", "readiness", "readiness", "startup", "startup", "startup"]);
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    let failing = is(json!({
        "status": "unhealthy", "is_live": false, "is_ready": false, "has_started": true, "runtime_stalled": false, "blocked": [],
        "registered": 3, "degraded": 0, "unhealthy": 1, "shutting_down": false, "report": null,
        "control": true, "traces": false,
        "states": {
            "waiting": 0, "standby": 0, "running": 2, "backoff": 0, "stopping": 0, "finished": 0, "failed": 1, "stopped": 0, "paused": 0,
        },
    }));
    let since = &failing[0]["since"];
    assert!(since.is_f64());
    let of = |probe| json!({ "probe": probe, "since": since, "task": "c", "state": "failed", "reasons": ["failed"] });
    assert_eq!(failing, json!([of("liveness"), of("readiness")]));
    let sentence = json!(overview(&tasks, &controlled()).0)["sentence"].clone();
    let sentence = sentence.as_str().expect("text");
    assert!(sentence.starts_with("Liveness and readiness failing since "), "{sentence}");
    assert!(sentence.ends_with(" UTC: c is failed"), "{sentence}");
    let report = tasks.shutdown().await.to_string();
    let summary = json!(overview(&tasks, &Shown { traces: true, ..Shown::default() }).0);
    assert_eq!(
        (&summary["shutting_down"], &summary["control"], &summary["traces"]),
        (&json!(true), &json!(false), &json!(true))
    );
    assert_eq!(summary["report"], json!(report.lines().collect::<Vec<_>>()));
}

#[tokio::test(start_paused = true)]
async fn summary_of_a_healthy_service_reports_passing_probes() {
    let tasks = TaskManager::new();
    tasks.register_all([waits("a"), waits("b")]).expect("registered");
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    let summary = json!(overview(&tasks, &Shown::default()).0);
    assert_eq!(summary["sentence"], "All probes passing: 2 of 2 tasks healthy");
    assert_eq!(summary["failing"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn displayed_word_has_its_end_time() {
    let tasks = TaskManager::new();
    let failing = |name: &str| CriticalTaskConfig::new(name, |_| async { Err::<(), _>("lost") });
    let configs = [
        failing("restarting").backoff(Backoff::constant(Duration::from_secs(60))),
        failing("failed").max_restarts(0, Duration::from_secs(60)),
        gives_up("given_up", "lost".into()),
        waits("well"),
    ];
    tasks.register_all(configs).expect("registered");
    tasks.start();
    tokio::time::sleep(millis(10)).await;
    let now = unix(std::time::SystemTime::now());
    let rows = overview(&tasks, &Shown::default()).1;
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (&**row.name(), row.word, row.attention, row.word_until.map(|until| (until - now).round()))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("failed", "Failed", 0, Some(300.0)),
            ("given_up", "Failed", 0, None),
            ("restarting", "Restarting", 1, Some(60.0)),
            ("well", "Healthy", 2, None),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn detail_explains_restarts_and_lists_possible_actions() {
    let tasks = TaskManager::new();
    let config = CriticalTaskConfig::new("t", |_| async { Err::<(), _>("lost") });
    let config = config.max_restarts(1, Duration::from_secs(60)).backoff(Backoff::constant(millis(500)));
    tasks.register(config.give_up(otel_tasks::GiveUp::ForGood)).expect("registered");
    let sweep = TaskLoop::every(Duration::from_secs(3_600), |_| async {});
    tasks.register(CriticalTaskConfig::from_loop("sweep", sweep)).expect("registered");
    tasks.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let of = |name: &str| {
        let detail = detail(&tasks, name, Vec::new(), None).expect("known");
        json!(detail.explained(&tasks, None))
    };
    let task = of("t");
    let lines: Vec<_> =
        task["changes"].as_array().expect("a list").iter().map(|change| &change["detail"]).collect();
    assert_eq!(lines[..2], ["failed: lost", "restarted after a failure"]);
    assert_eq!(task["changes"][0]["count"], 2);
    let first = &task["decisions"][0];
    for (key, value) in [
        ("decision", json!("restart")),
        ("asked_by", json!("exit")),
        ("reason", json!("failure")),
        ("exit", json!("failure")),
        ("error", json!("lost")),
        ("count", json!(0)),
        ("limit", json!(1)),
        ("window_seconds", json!(60.0)),
        ("delay_seconds", json!(0.5)),
        ("generation", json!(1)),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(task["decisions"][1]["decision"], "give_up");
    assert_eq!(task["actions"], json!(["restart"]));
    let sweep = of("sweep");
    assert_eq!(sweep["actions"], json!(["restart", "pause", "stop", "run"]));
    assert_eq!(sweep["upcoming"].as_array().map(Vec::len), Some(24));
    let lanes = json!(lanes(&tasks));
    assert_eq!((&lanes[0]["name"], &lanes[0]["schedule"]), (&json!("sweep"), &json!("every 1h")));
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
fn an_abridged_text_keeps_its_beginning_and_its_end() {
    for (bytes, expected) in [
        (23, "open file: disk is gone"),
        (22, "open file …  is gone"),
        (9, "op … ne"),
        (5, " … "),
        (0, " … "),
    ] {
        assert_eq!(abridged("open file: disk is gone", bytes), expected, "{bytes}");
    }
    assert_eq!(abridged("🦀🦀🦀🦀", 15), "🦀 … 🦀");
}

#[test]
fn time_before_the_epoch_is_negative() {
    assert_eq!(unix(std::time::UNIX_EPOCH - Duration::from_secs(2)), -2.0);
}

#[tokio::test(start_paused = true)]
async fn a_family_is_a_row_and_so_is_each_member() {
    let tasks = TaskManager::new();
    tasks.start();
    let family = TaskFamily::new("guild", |_, guild: u64| async move {
        if guild == 1 { Err::<(), _>("down") } else { std::future::pending().await }
    });
    let family = family.each(|config| config.restart_policy(RestartPolicy::Never));
    let guilds = tasks.register_family(family).expect("registered");
    guilds.set([1, 2]).await.expect("registered");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rows = overview(&tasks, &Shown::default()).1;
    let told: Vec<_> = rows
        .iter()
        .map(|row| (&**row.name(), row.family.as_deref(), row.members, row.state, row.runs, row.errors))
        .collect();
    assert_eq!(
        told,
        [
            ("guild", None, Some(2), None, 1, 1),
            ("guild:1", Some("guild"), None, Some("failed"), 1, 1),
            ("guild:2", Some("guild"), None, Some("running"), 0, 0),
        ]
    );
    let detail = detail(&tasks, "guild:1", Vec::new(), None).expect("known");
    assert_eq!(detail.row.last_error.as_deref(), Some("down"));
}

#[test]
fn a_stall_of_the_runtime_names_only_the_tasks_that_block_it() {
    let stall = |polling: &[Arc<str>]| stall_of_runtime(millis(2_000), polling);
    assert_eq!(stall(&["a".into(), "b".into()]), "for 2.0s, by a, b");
    assert_eq!(stall(&[]), "for 2.0s");
}
