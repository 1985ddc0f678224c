//! The spans of runs and of the manager's own work: roots, links, statuses, whatever way a run ends.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Value,
    logs::AnyValue,
    trace::{SpanId, Status},
};
use opentelemetry_sdk::logs::{InMemoryLogExporter, SdkLoggerProvider};
use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskCategory, TaskContext, TaskFamily, TaskLoop, TaskManager,
    TaskPriority, schedule::OnError, snapshot::TaskState, task::TaskManagerBuilder,
};
use tracing::{Dispatch, info_span};
use tracing_subscriber::prelude::*;

use crate::{
    alone,
    support::{
        Door, secs, settle,
        spans::{Spans, attribute, is_error, never_dropped, text},
    },
};

/// Runs `main` in virtual time with our layer, on a subscriber of its own; one test at a time.
fn with_layer<F: Future>(spans: &Spans, main: impl FnOnce() -> F) -> F::Output {
    with_dispatch(
        &tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into(),
        main,
    )
}

fn with_dispatch<F: Future>(dispatch: &Dispatch, main: impl FnOnce() -> F) -> F::Output {
    let _alone = alone();
    let _default = tracing::dispatcher::set_default(dispatch);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(main())
}

fn description(status: &Status) -> &str {
    match status {
        Status::Error { description } => description,
        _ => "",
    }
}

#[test]
fn span_records_every_run_result() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let _ = tasks.spawn("succeeds", async {}).await;
        let _ = tasks.spawn("fails", async { Err::<(), _>(std::io::Error::other("no such luck")) }).await;
        let _ = tasks.spawn("panics", async { panic!("dear me") }).await;
        let _ =
            tasks.task("times_out").timeout(Duration::from_secs(3)).spawn(std::future::pending::<()>()).await;
        let aborted = tasks.spawn("aborted", std::future::pending::<()>());
        tokio::task::yield_now().await;
        aborted.abort();
        let _ = aborted.await;
        let never_polled = tasks.spawn("never_polled", async {});
        never_polled.abort();
        let _ = never_polled.await;
        drop(tasks.spawn("outlived", std::future::pending::<()>()));
        tokio::task::yield_now().await;
        tasks.shutdown().await;
    });
    let expect = |task: &str, result: &str, error_type: Option<&str>, message: &str| {
        let run = spans.run_of(task);
        assert_eq!(text(&run, "task.run.result").as_deref(), Some(result), "{task}");
        assert_eq!(text(&run, "error.type").as_deref(), error_type, "{task}");
        assert_eq!(is_error(&run), result != "success", "{task}: {:?}", run.status);
        assert!(description(&run.status).contains(message), "{task}: {:?}", run.status);
        assert_eq!(run.parent_span_id, SpanId::INVALID, "{task} is a root");
    };
    expect("succeeds", "success", None, "");
    expect("fails", "failure", Some("std::io::error::Error"), "no such luck");
    expect("panics", "panic", Some("panic"), "dear me");
    expect("times_out", "timeout", Some("timeout"), "3s");
    expect("aborted", "cancellation", None, "dropped before it finished");
    expect("never_polled", "cancellation", None, "dropped before it finished");
    expect("outlived", "cancellation", None, "dropped before it finished");
    assert_eq!(spans.run_of("succeeds").status, Status::Unset, "success leaves the status unset");
    assert!(
        description(&spans.run_of("panics").status).contains("tests/spans/runs.rs:"),
        "the location is kept"
    );
}

#[test]
fn a_runtime_that_goes_away_ends_its_spans() {
    let spans = Spans::new();
    let dispatch: Dispatch =
        tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
    with_dispatch(&dispatch, || async {
        let tasks = TaskManager::new();
        drop(tasks.spawn("left_behind", std::future::pending::<()>()));
        tasks
            .register(CriticalTaskConfig::new("also", |_| std::future::pending::<()>()))
            .expect("registered");
        tasks.start();
        tokio::task::yield_now().await;
    });
    for task in ["left_behind", "also"] {
        assert_eq!(text(&spans.run_of(task), "task.run.result").as_deref(), Some("cancellation"));
    }
}

#[test]
fn integers_are_exported_as_integers_and_names_as_given() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let _ = tasks
            .task("command_ping_8841")
            .category(TaskCategory::Command)
            .priority(TaskPriority::Low)
            .component("chat")
            .spawn(async {})
            .await;
        let ticks = TaskLoop::every(Duration::from_secs(1), |_| async {}).count(2);
        tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let ping = spans.run_of("command_ping");
    assert_eq!(text(&ping, "task.given_name").as_deref(), Some("command_ping_8841"));
    assert_eq!(text(&ping, "task.category").as_deref(), Some("command"));
    assert_eq!(text(&ping, "task.priority").as_deref(), Some("low"));
    assert_eq!(text(&ping, "task.component").as_deref(), Some("chat"));
    let ticks = spans.runs_of("ticks");
    let iterations: Vec<_> = ticks.iter().map(|run| attribute(run, "task.iteration")).collect();
    assert_eq!(iterations, [Some(Value::I64(1)), Some(Value::I64(2))]);
    assert_eq!(attribute(&ticks[0], "task.run.generation"), Some(Value::I64(1)));
}

#[test]
fn a_spawned_run_is_a_root_linked_to_its_spawner_or_its_child_when_asked() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let request = info_span!("request");
        let (own, kept) = request.in_scope(|| {
            (tasks.spawn("own_trace", async {}), tasks.task("kept_trace").in_current_trace().spawn(async {}))
        });
        let _ = (own.await, kept.await);
    });
    let request = spans.one("request");
    let own = spans.run_of("own_trace");
    assert_ne!(own.span_context.trace_id(), request.span_context.trace_id());
    assert_eq!(own.links.iter().map(|link| &link.span_context).collect::<Vec<_>>(), [&request.span_context]);
    let kept = spans.run_of("kept_trace");
    assert_eq!(kept.parent_span_id, request.span_context.span_id());
    assert!(kept.links.is_empty());
}

#[test]
fn a_restart_is_a_new_trace_linked_to_the_run_that_failed() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let runs = AtomicU32::new(0);
        let config = CriticalTaskConfig::new("phoenix", move |ctx| {
            let first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                assert!(!first, "burnt");
                ctx.cancelled().await;
            }
        });
        tasks.register(config.backoff(Backoff::constant(Duration::from_secs(1)))).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(tasks.snapshot("phoenix").expect("known").state, Some(TaskState::Running));
        tasks.shutdown().await;
    });
    let runs = spans.runs_of("phoenix");
    assert_eq!(runs.len(), 2);
    assert!(is_error(&runs[0]) && !is_error(&runs[1]));
    assert_ne!(runs[0].span_context.trace_id(), runs[1].span_context.trace_id());
    assert_eq!(runs[1].links[0].span_context, runs[0].span_context);
    assert_eq!(attribute(&runs[1], "task.run.generation"), Some(Value::I64(2)));
}

#[test]
fn first_iteration_after_a_restart_links_to_the_failed_one() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let body = TaskLoop::every(Duration::from_secs(10), |ctx| async move {
            if ctx.generation() == 1 { Err("down") } else { Ok(()) }
        })
        .on_error(|_| async { OnError::End });
        let config = CriticalTaskConfig::from_loop("ticker", body);
        tasks.register(config.backoff(Backoff::constant(Duration::from_secs(1)))).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(15)).await;
        tasks.shutdown().await;
    });
    let runs = spans.runs_of("ticker");
    assert_eq!(runs.len(), 3);
    assert_eq!(runs[1].links[0].span_context, runs[0].span_context);
    assert!(runs[2].links.is_empty(), "the second one follows a success");
}

fn strings(span: &opentelemetry_sdk::trace::SpanData, key: &str) -> Vec<String> {
    match attribute(span, key) {
        Some(Value::Array(opentelemetry::Array::String(strings))) => {
            strings.iter().map(ToString::to_string).collect()
        }
        other => panic!("{key} is {other:?}"),
    }
}

async fn a_life(tasks: TaskManager) {
    let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await });
    tasks.register(gateway.category(TaskCategory::Gateway)).expect("registered");
    let tick = TaskLoop::every(Duration::from_secs(40), |_| async {});
    tasks.register(CriticalTaskConfig::from_loop("tick", tick)).expect("registered");
    tasks.start();
    drop(tasks.spawn("command_slow", std::future::pending::<()>()));
    tokio::time::sleep(Duration::from_secs(61)).await;
    tasks.shutdown().await;
}

#[test]
fn the_managers_own_spans_name_the_tasks_per_category() {
    let spans = Spans::new();
    with_layer(&spans, || a_life(TaskManager::new()));
    let sweeps = spans.named("bot.monitor_tasks");
    assert_eq!(sweeps.len(), 2, "one at start, one after 60 s");
    for sweep in &sweeps {
        assert_eq!(sweep.parent_span_id, SpanId::INVALID);
        assert_eq!(attribute(sweep, "tasks.registered"), Some(Value::I64(2)));
        assert_eq!(attribute(sweep, "tasks.healthy"), Some(Value::I64(2)));
        assert_eq!(strings(sweep, "tasks.unhealthy"), Vec::<String>::new());
        assert_eq!(strings(sweep, "tasks.gateway"), ["gateway"]);
    }
    let cleanup = spans.one("bot.cleanup_tasks");
    assert_eq!(cleanup.parent_span_id, SpanId::INVALID);
    assert_eq!(strings(&cleanup, "tasks.aborted"), ["command_slow"]);
    assert_eq!(strings(&cleanup, "tasks.clean"), ["tick", "gateway"]);
    assert!(is_error(&cleanup), "something had to be dropped");
    let stop = spans.one("bot.stop_task_loops");
    assert_eq!(stop.parent_span_id, cleanup.span_context.span_id());
    assert_eq!(attribute(&stop, "tasks.loops"), Some(Value::I64(1)));
    let cancel = spans.one("bot.cancel_tasks");
    assert_eq!(cancel.parent_span_id, cleanup.span_context.span_id());
    assert_eq!(strings(&cancel, "tasks.scheduled"), ["tick"]);
    assert_eq!(strings(&cancel, "tasks.gateway"), ["gateway"]);
    assert_eq!(strings(&cancel, "tasks.command"), ["command_slow"]);
}

#[test]
fn a_shutdown_in_which_everything_ended_by_itself_is_no_error() {
    let spans = Spans::new();
    with_layer(&spans, || async {
        let tasks = TaskManager::new();
        let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await });
        tasks.register(gateway).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tasks.shutdown().await;
    });
    let cleanup = spans.one("bot.cleanup_tasks");
    assert_eq!(strings(&cleanup, "tasks.clean"), ["gateway"]);
    assert!(!is_error(&cleanup), "{:?}", cleanup.status);
}

#[test]
fn the_prefix_of_the_managers_spans_is_the_users() {
    let spans = Spans::new();
    with_layer(&spans, || a_life(TaskManager::builder().span_prefix("tux").build().unwrap()));
    for name in ["tux.cleanup_tasks", "tux.stop_task_loops", "tux.cancel_tasks"] {
        spans.one(name);
    }
    assert!(spans.finished().iter().all(|span| !span.name.starts_with("bot.")));
}

#[test]
fn spans_without_a_layer_are_the_same() {
    let through_layer = Spans::new();
    with_layer(&through_layer, || a_life(TaskManager::new()));
    let direct = Spans::new();
    with_dispatch(&Dispatch::none(), || {
        a_life(TaskManager::builder().tracer(direct.tracer()).build().unwrap())
    });
    assert_eq!(direct.trees(), through_layer.trees());
}

/// One name for all of a family, and the member beside it.
#[test]
fn spans_and_records_of_a_member_carry_its_family_and_its_own_name() {
    let spans = Spans::new();
    let exporter = InMemoryLogExporter::default();
    let logs = SdkLoggerProvider::builder().with_simple_exporter(exporter.clone()).build();
    never_dropped(&logs);
    let dispatch = tracing_subscriber::registry()
        .with(otel_tasks::telemetry::layer(spans.tracer()))
        .with(opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(&logs))
        .into();
    with_dispatch(&dispatch, || async {
        let tasks = TaskManager::new();
        tasks.start();
        let family = TaskFamily::new("guild", |ctx: TaskContext, guild: u64| async move {
            assert_eq!(ctx.name(), format!("guild:{guild}"));
            Err::<(), _>("down")
        });
        let family = family.each(|config| config.restart_policy(RestartPolicy::Never));
        tasks.register_family(family).unwrap().set([1, 2]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tasks.shutdown().await;
    });
    let runs = spans.named("task.run");
    let mut members: Vec<_> = runs.iter().map(|run| text(run, "task.given_name").unwrap()).collect();
    members.sort();
    assert_eq!(members, ["guild:1", "guild:2"]);
    assert!(runs.iter().all(|run| text(run, "task.name").as_deref() == Some("guild")));
    let records = exporter.get_emitted_logs().expect("in memory");
    for name in ["task.started", "task.exception", "task.gave_up"] {
        let members = records.iter().filter(|log| log.record.event_name() == Some(name)).map(|log| {
            let attribute = |key: &str| {
                let mut attributes = log.record.attributes_iter();
                attributes.find(|(held, _)| held.as_str() == key).map(|(_, value)| value.clone())
            };
            assert_eq!(attribute("task.name"), Some(AnyValue::from("guild")), "{name}");
            format!("{:?}", attribute("task.given_name"))
        });
        let members: std::collections::BTreeSet<_> = members.collect();
        assert_eq!(members.len(), 2, "{name}: {members:?}");
    }
}

#[test]
fn log_records_are_named_and_carry_the_trace_of_their_run() {
    let spans = Spans::new();
    let exporter = InMemoryLogExporter::default();
    let logs = SdkLoggerProvider::builder().with_simple_exporter(exporter.clone()).build();
    never_dropped(&logs);
    let dispatch = tracing_subscriber::registry()
        .with(otel_tasks::telemetry::layer(spans.tracer()))
        .with(opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge::new(&logs))
        .into();
    with_dispatch(&dispatch, || async {
        let tasks = TaskManager::new();
        let config = CriticalTaskConfig::new("doomed", |_| async { Err::<(), _>("broken") });
        tasks
            .register(
                config
                    .max_restarts(1, Duration::from_secs(60))
                    .backoff(Backoff::constant(Duration::from_secs(1))),
            )
            .expect("registered");
        let finite = TaskLoop::every(Duration::from_secs(1), |_| async {}).count(1);
        tasks.register(CriticalTaskConfig::from_loop("finite", finite)).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(10)).await;
        tasks.shutdown().await;
    });
    let records = exporter.get_emitted_logs().expect("in memory");
    let of = |task: &str| -> Vec<_> {
        let named = AnyValue::from(task.to_owned());
        records
            .iter()
            .filter(|log| {
                log.record
                    .attributes_iter()
                    .any(|(key, value)| key.as_str() == "task.name" && *value == named)
            })
            .map(|log| {
                let trace = log.record.trace_context().map(|context| (context.trace_id, context.span_id));
                (log.record.event_name().expect("named"), trace)
            })
            .collect()
    };
    let runs: Vec<_> = spans
        .runs_of("doomed")
        .iter()
        .map(|run| Some((run.span_context.trace_id(), run.span_context.span_id())))
        .collect();
    assert_eq!(
        of("doomed"),
        [
            ("task.started", None),
            ("task.exception", runs[0]),
            ("task.decision", runs[0]),
            ("task.restarted", runs[0]),
            ("task.exception", runs[1]),
            ("task.decision", runs[1]),
            ("task.gave_up", runs[1]),
        ]
    );
    let finite: Vec<_> = of("finite").into_iter().map(|(name, _)| name).collect();
    assert_eq!(finite, ["task.started", "task.stopped"]);
}

#[test]
fn iteration_span_records_its_lateness() {
    let plain = |spans: &Spans| tracing_opentelemetry::layer().with_tracer(spans.tracer());
    let spans = Spans::new();
    tells_how_late(
        &spans,
        &tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into(),
    );
    let spans = Spans::new();
    tells_how_late(&spans, &tracing_subscriber::registry().with(plain(&spans)).into());
}

fn tells_how_late(spans: &Spans, dispatch: &Dispatch) {
    with_dispatch(dispatch, || async {
        let tasks = TaskManager::new();
        let body = TaskLoop::every(Duration::from_secs(10), |_| async {}).count(2);
        tasks.register(CriticalTaskConfig::from_loop("late", body)).expect("registered");
        tasks.start();
        tokio::time::sleep(Duration::from_secs(5)).await;
        // As if the runtime had been blocked: the second is due after 10 s and begins after 12 s.
        tokio::time::advance(Duration::from_secs(7)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let _ = tasks.spawn("plain", async {}).await;
    });
    let lateness = |span: &opentelemetry_sdk::trace::SpanData| {
        assert_eq!(span.parent_span_id, SpanId::INVALID, "each iteration is a root");
        match attribute(span, "task.schedule.delay") {
            Some(Value::F64(late)) => late,
            other => panic!("{other:?}"),
        }
    };
    let late: Vec<_> = spans.runs_of("late").iter().map(lateness).collect();
    assert_eq!(late.len(), 2);
    assert!(late[0] < 0.1 && (2.0..2.1).contains(&late[1]), "{late:?}");
    assert_eq!(attribute(&spans.run_of("plain"), "task.schedule.delay"), None);
}

#[test]
fn a_run_behind_a_gate_has_the_term_of_its_pass_on_both_ways_to_the_exporter() {
    let main = async |builder: TaskManagerBuilder| {
        let door = Door::new();
        let tasks = builder.build().unwrap();
        let task = CriticalTaskConfig::new("gated", |ctx| async move { ctx.cancelled().await });
        let body = TaskLoop::every(secs(1), |_| async {});
        tasks.register(task.gate(door.clone())).unwrap();
        tasks.register(CriticalTaskConfig::from_loop("loop", body).gate(door.clone())).unwrap();
        tasks.register(CriticalTaskConfig::one_shot("open", |_| async {})).unwrap();
        tasks.start();
        settle().await;
        let _keepers = [7, 8].map(|term| door.admit(term, secs(60), secs(5)));
        tokio::time::sleep(secs(2)).await;
        tasks.shutdown().await;
    };
    let (by_layer, direct) = (Spans::new(), Spans::new());
    with_layer(&by_layer, || main(TaskManager::builder()));
    with_dispatch(&Dispatch::none(), || main(TaskManager::builder().tracer(direct.tracer())));
    for spans in [by_layer, direct] {
        let term = |task: &str| attribute(&spans.runs_of(task)[0], "task.lease.term");
        assert_eq!(term("gated"), Some(Value::I64(7)));
        assert_eq!(term("loop"), Some(Value::I64(8)));
        assert_eq!(term("open"), None);
    }
}

/// Fails if the span of a due iteration begins at the time of the user's clock: its parts and logs have the system's.
#[test]
fn an_iteration_begins_at_the_time_of_the_system_if_the_user_set_another_clock() {
    let (spans, before) = (Spans::new(), SystemTime::now());
    with_layer(&spans, || async {
        let manager = TaskManager::builder().wall_clock(|| SystemTime::UNIX_EPOCH + secs(86_400));
        let tasks = manager.build().unwrap();
        let ticker = TaskLoop::every(secs(1), |_| async {}).count(1);
        tasks.register(CriticalTaskConfig::from_loop("ticker", ticker)).unwrap();
        tasks.start();
        tokio::time::sleep(secs(2)).await;
        tasks.shutdown().await;
    });
    let begins = spans.run_of("ticker").start_time;
    assert!((before..=SystemTime::now()).contains(&begins), "{begins:?}");
}
