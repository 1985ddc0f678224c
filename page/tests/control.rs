//! Control requests: which are refused, and the span and the record of each that had the token.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry::{
    logs::AnyValue,
    metrics::MeterProvider,
    trace::{Status, TracerProvider},
};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::{
    logs::{InMemoryLogExporter, SdkLogRecord, SdkLoggerProvider},
    metrics::SdkMeterProvider,
    trace::{InMemorySpanExporter, SdkTracerProvider, SpanData},
};
use otel_tasks::{CriticalTaskConfig, Schedule, TaskLoop, TaskManager, schedule::Trigger};
use otel_tasks_page::{Feed, Page, PageServer};
use support::{ANY, TOKEN, ask, eventually, get, secs, waits};
use tokio::sync::Notify;
use tracing_subscriber::layer::SubscriberExt;

/// The telemetry of the process: the page's thread has no subscriber of its own.
struct Recorded {
    spans: InMemorySpanExporter,
    records: InMemoryLogExporter,
}

impl Recorded {
    fn install() -> Self {
        let (spans, records) = (InMemorySpanExporter::default(), InMemoryLogExporter::default());
        let traces = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let logs = SdkLoggerProvider::builder().with_simple_exporter(records.clone()).build();
        let subscriber = tracing_subscriber::registry()
            .with(otel_tasks::telemetry::layer(traces.tracer("test")))
            .with(OpenTelemetryTracingBridge::new(&logs));
        tracing::subscriber::set_global_default(subscriber).expect("the only test of this process");
        Self { spans, records }
    }

    fn spans(&self, name: &str) -> Vec<SpanData> {
        let spans = self.spans.get_finished_spans().expect("the exporter is in memory");
        spans.into_iter().filter(|span| span.name == name).collect()
    }

    fn records(&self) -> Vec<SdkLogRecord> {
        let records = self.records.get_emitted_logs().expect("the exporter is in memory");
        let records = records.into_iter().map(|record| record.record);
        records.filter(|record| record.event_name() == Some("task.controlled")).collect()
    }
}

fn of_span(span: &SpanData, key: &str) -> Option<String> {
    let pair = span.attributes.iter().find(|pair| pair.key.as_str() == key);
    pair.map(|pair| pair.value.to_string())
}

fn of_record(record: &SdkLogRecord, key: &str) -> Option<String> {
    let value = record.attributes_iter().find(|(name, _)| name.as_str() == key).map(|(_, value)| value);
    value.map(|value| match value {
        AnyValue::String(text) => text.to_string(),
        other => format!("{other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_needs_a_token_and_each_request_is_a_span_and_a_record() {
    let telemetry = Recorded::install();
    let tasks = TaskManager::new();
    tasks.register(waits("gateway")).expect("registered");
    tasks.start();
    let post =
        |page: &PageServer, path: &str, headers: &[(&str, &str)]| ask(page.address(), "POST", path, headers);
    let bearer = format!("Bearer {TOKEN}");
    let with_token = [("Authorization", &*bearer)];

    let shown = format!("{:?}", Page::new(&tasks).token(TOKEN).streams(3));
    let expected = r#"Page { manager: WeakTaskManager(Some(TaskManager { tasks: ["gateway"], .. })), control: true, streams: 3, .. }"#;
    assert_eq!(shown, expected, "the token is not printed");
    let closed = Page::new(&tasks).token("").serve(ANY).expect("served");
    assert_eq!(post(&closed, "/tasks/gateway/restart", &with_token).status, 403, "an empty token is none");
    let feed = Feed::default();
    let metrics = feed.read_metrics(SdkMeterProvider::builder()).build();
    let page = Page::new(&tasks).token(TOKEN).feed(&feed).meter(metrics.meter("otel_tasks"));
    let page = page.serve(ANY).expect("served");
    let refused = post(&page, "/tasks/gateway/restart", &[]);
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for wrong in [
            "Bearer wrong",
            "Bearer wrong too",
            "Bearer ",
            "Basic correct horse battery staple",
            "correct horse battery staple",
        ] {
            let (post, page) = (&post, &page);
            scope.spawn(move || {
                let refused = post(page, "/tasks/gateway/restart", &[("Authorization", wrong)]);
                assert_eq!(refused.status, 401, "{wrong}");
            });
        }
    });
    assert!(began.elapsed() >= Duration::from_millis(1_900), "whoever guesses guesses slowly, also at once");
    let counted = get(&page, "/metrics").body;
    let counted = counted.lines().find(|line| line.starts_with("task_control_refusals_total{"));
    let counted = counted.expect("a counter");
    assert!(
        counted.contains(r#"task_control_outcome="no valid token""#) && counted.ends_with(" 6"),
        "{counted}"
    );
    assert_eq!(tasks.snapshot("gateway").expect("known").total_restarts(), 0);
    assert_eq!(get(&page, "/tasks/gateway/restart").status, 405, "reading changes nothing");
    let from_elsewhere = [("Authorization", &*bearer), ("Origin", "http://evil.example")];
    assert_eq!(post(&page, "/tasks/gateway/restart", &from_elsewhere).status, 403);
    for origin in ["null", "http://127.0.0.1:1"] {
        assert_eq!(
            post(&page, "/tasks/gateway/stop", &[("Authorization", &*bearer), ("Origin", origin)]).status,
            403
        );
    }

    let own = format!("http://{}", page.address());
    // The scheme's name has no case.
    let other_case = format!("bEARER  {TOKEN}");
    let accepted =
        post(&page, "/tasks/gateway/restart", &[("Authorization", &*other_case), ("Origin", &*own)]);
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    eventually("it shows", || tasks.snapshot("gateway").is_some_and(|task| task.total_restarts() == 1)).await;
    for (action, state) in [("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
        assert_eq!(post(&page, &format!("/tasks/gateway/{action}"), &with_token).status, 202);
        eventually("it shows", || get(&page, "/tasks/gateway").json()["state"] == state).await;
    }
    for action in ["pause", "resume", "stop", "run"] {
        let refused = post(&page, &format!("/tasks/gateway/{action}"), &with_token);
        let why = format!("{action} has no effect on task \"gateway\": it is stopped");
        assert_eq!((refused.status, &refused.json()["error"]), (409, &why.into()));
    }
    assert_eq!(post(&page, "/tasks/nobody/stop", &with_token).status, 404);
    assert_eq!(post(&page, "/tasks/gateway/explode", &with_token).status, 404);
    let long = "x".repeat(257);
    assert_eq!(
        post(&page, &format!("/tasks/{long}/stop"), &with_token).status,
        404,
        "no task has such a name"
    );
    tasks.shutdown().await;
    assert_eq!(post(&page, "/tasks/gateway/restart", &with_token).status, 409);

    let (spans, records) = (telemetry.spans("bot.control_task"), telemetry.records());
    let with_outcome = |outcome: &str| {
        spans.iter().filter(|span| of_span(span, "task.control.outcome").as_deref() == Some(outcome)).count()
    };
    assert_eq!(with_outcome("accepted"), 4);
    assert_eq!(with_outcome("unknown task"), 1);
    assert_eq!(with_outcome("conflict"), 5);
    // A refusal has no span, and one record for many.
    let (refusals, records): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.trace_context().is_none());
    let outcomes: Vec<_> =
        refusals.iter().filter_map(|record| of_record(record, "task.control.outcome")).collect();
    assert_eq!(outcomes, ["control is off", "no valid token"], "the first of each page");
    assert_eq!((spans.len(), records.len()), (10, 10));
    for (span, record) in spans.iter().zip(&records) {
        let keys = ["task.name", "task.control.action", "task.control.outcome"];
        for key in keys {
            let value = of_span(span, key);
            assert!(value.is_some(), "{key}: {span:?}");
            assert_eq!(value, of_record(record, key), "{key}");
        }
        assert_eq!(span.attributes.len(), keys.len(), "{:?}", span.attributes);
        let outcome = of_span(span, keys[2]).unwrap_or_default();
        let status = if outcome == "accepted" { Status::Unset } else { Status::error(outcome) };
        assert_eq!((&span.status, span.events.len()), (&status, 0));
        let trace = record.trace_context().expect("the trace of the span");
        assert_eq!(
            (trace.trace_id, trace.span_id),
            (span.span_context.trace_id(), span.span_context.span_id())
        );
    }
    let pause = spans.iter().find(|span| of_span(span, "task.control.action").as_deref() == Some("pause"));
    assert_eq!(pause.and_then(|span| of_span(span, "task.name")).as_deref(), Some("gateway"));

    let shop = TaskManager::builder().span_prefix("shop").build().expect("valid");
    let page = Page::new(&shop).token(TOKEN).serve(ANY).expect("served");
    assert_eq!(post(&page, "/tasks/gateway/stop", &with_token).status, 404);
    assert_eq!(telemetry.spans("shop.control_task").len(), 1, "named by the manager's prefix");

    // One iteration of a loop, now.
    let triggers: Arc<Mutex<Vec<Trigger>>> = Arc::default();
    let (log, running) = (triggers.clone(), Arc::new(Notify::new()));
    let ends = running.clone();
    let sweep = TaskLoop::on(Schedule::every(secs(1_000)).immediate(false), move |_| {
        let ends = ends.clone();
        async move { ends.notified().await }
    });
    let sweep = sweep.after_iteration(move |done| {
        log.lock().expect("nobody panics").push(done.trigger);
        async {}
    });
    shop.register(CriticalTaskConfig::from_loop("sweep", sweep)).expect("registered");
    shop.register(waits("gateway")).expect("registered");
    assert_eq!(post(&page, "/tasks/sweep/run", &with_token).status, 409, "not started");
    shop.start();
    eventually("it runs", || shop.loop_handle("sweep").is_ok_and(|handle| handle.is_running())).await;
    assert_eq!(post(&page, "/tasks/sweep/run", &[]).status, 401);
    assert_eq!(post(&page, "/tasks/sweep/run", &with_token).status, 202);
    assert_eq!(post(&page, "/tasks/sweep/run", &with_token).status, 409, "it runs already");
    running.notify_one();
    eventually("it has run", || *triggers.lock().expect("nobody panics") == [Trigger::Manual]).await;
    assert_eq!(post(&page, "/tasks/gateway/run", &with_token).status, 409, "no loop");
    assert_eq!(post(&page, "/tasks/nobody/run", &with_token).status, 404);
    shop.shutdown().await;
}
