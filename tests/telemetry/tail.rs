//! Traces that are not sampled and are kept for what happened in them, over real OTLP.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, Status, TraceContextExt, TraceState},
};
use otel_tasks::{
    CriticalTaskConfig, TaskManager,
    telemetry::{InstallError, Protocol, SpanPath, Telemetry, TelemetryBuilder},
};
use tracing::{Instrument, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    BOTH,
    support::otlp::{Receiver, Span},
    under,
};

/// Sampled by that ratio, where the trace does not come from elsewhere.
fn at(ratio: &'static str, receiver: &Receiver) -> TelemetryBuilder {
    receiver.telemetry("kept").env(move |name| match name {
        "OTEL_TRACES_SAMPLER" => Some("parentbased_traceidratio".to_owned()),
        "OTEL_TRACES_SAMPLER_ARG" => Some(ratio.to_owned()),
        _ => None,
    })
}

fn manager(telemetry: &Telemetry) -> TaskManager {
    TaskManager::builder().meter(telemetry.meter()).tracer(telemetry.tracer()).build().expect("valid")
}

/// Runs `main` with the telemetry's layers, on one thread.
fn run<F: Future>(telemetry: &Telemetry, main: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    under(telemetry, || runtime.block_on(main))
}

fn by_trace(receiver: &Receiver) -> HashMap<Vec<u8>, Vec<Span>> {
    let mut traces = HashMap::<_, Vec<_>>::new();
    for span in receiver.spans() {
        traces.entry(span.trace_id.clone()).or_default().push(span);
    }
    traces
}

/// The names of the spans that arrived, each with its number.
fn names(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for span in receiver.spans() {
        *names.entry(span.name).or_default() += 1;
    }
    names
}

/// A run with two spans of the user's, one in the other.
async fn work(fails: bool) -> Result<(), &'static str> {
    let outer = info_span!("outer", answer = 42);
    async { info_span!("inner").in_scope(|| tracing::info!("at work")) }.instrument(outer).await;
    if fails { Err("unlucky") } else { Ok(()) }
}

#[test]
fn of_ten_thousand_runs_at_one_percent_the_hundred_that_fail_arrive_whole() {
    for (protocol, path) in BOTH.into_iter().zip([SpanPath::Full, SpanPath::Direct]) {
        let receiver = Receiver::start(protocol);
        let telemetry = at("0.01", &receiver).keep_failed_traces().build().expect("built");
        let tasks = TaskManager::builder()
            .meter(telemetry.meter())
            .tracer(telemetry.tracer())
            .span_path(path)
            .build()
            .expect("valid");
        run(&telemetry, async {
            for batch in 0..100 {
                let runs: Vec<_> =
                    (0..100).map(|run| tasks.spawn("command", work(run == batch % 100))).collect();
                for run in runs {
                    let _ = run.await;
                }
            }
        });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");

        let traces = by_trace(&receiver);
        let is_failed = |spans: &&Vec<Span>| {
            spans.iter().any(|span| span.name == "task.run" && span.string("error.type").is_some())
        };
        let failed: Vec<_> = traces.values().filter(is_failed).collect();
        assert_eq!(failed.len(), 100, "each run that failed");
        for trace in traces.values() {
            assert_eq!(trace.len(), 3, "{trace:?}");
            let of = |name| trace.iter().find(|span| span.name == name).expect("a whole trace");
            let (run, outer, inner) = (of("task.run"), of("outer"), of("inner"));
            assert!(run.is_root() && outer.is_child_of(run) && inner.is_child_of(outer), "{trace:?}");
            assert_eq!(outer.int("answer"), Some(42));
            assert_eq!(inner.raw.events.len(), 1);
            assert!(trace.iter().all(|span| span.raw.flags & 1 == 1), "marked as sampled: {trace:?}");
        }
        for run in failed.iter().flat_map(|trace| trace.iter().filter(|span| span.name == "task.run")) {
            assert_eq!((run.status_code(), run.status_message()), (2, "unlucky"));
            assert_eq!(run.string("task.run.result"), Some("failure"));
        }
        // One in a hundred of the others: 99, with a deviation of 10.
        let sampled = traces.len() - failed.len();
        assert!((20..200).contains(&sampled), "{sampled} of 9,900");
        let spans = traces.len() as u64 * 3;
        assert_eq!((report.traces.ended, report.traces.exported), (spans, spans), "{report}");
    }
}

#[test]
fn unsampled_runs_are_not_recorded_without_the_setting() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).build().expect("built");
    let tasks = manager(&telemetry);
    let recorded = run(&telemetry, async {
        let recorded = tasks.spawn("command", async { Context::current().span().is_recording() });
        let _ = tasks.spawn("command", work(true)).await;
        recorded.await.expect("ran")
    });
    assert!(!recorded);
    assert_eq!(telemetry.shutdown_blocking().traces.ended, 0);
    assert_eq!(receiver.spans().len(), 0);
}

#[test]
fn panics_and_timeouts_are_failures_and_cancellations_are_not() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).keep_failed_traces().build().expect("built");
    let tasks = manager(&telemetry);
    run(&telemetry, async {
        let _ = tasks.spawn("panics", async { panic!("burnt") }).await;
        let limited = tasks.task("limited").timeout(Duration::from_millis(5)).spawn(pending::<()>());
        let _ = limited.await;
        let cancelled = tasks.spawn("cancelled", pending::<()>());
        tokio::task::yield_now().await;
        cancelled.abort();
        let _ = cancelled.await;
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let mut kept: Vec<_> =
        receiver.spans().iter().map(|span| span.string("task.name").map(str::to_owned)).collect();
    kept.sort();
    assert_eq!(kept, [Some("limited".to_owned()), Some("panics".to_owned())]);
}

#[test]
fn slow_runs_are_kept_and_a_registered_closure_is_never_slow() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).keep_slow_traces(Duration::from_secs(1)).build().expect("built");
    let tasks = manager(&telemetry);
    run(&telemetry, async {
        tasks
            .register(CriticalTaskConfig::new("lives", |ctx| async move { ctx.cancelled().await }))
            .expect("registered");
        tasks.start();
        // A busy machine does not hold the quick one up for a second.
        for (name, millis) in [("quick", 0), ("slow", 1_100)] {
            let sleep = async move {
                tokio::time::sleep(Duration::from_millis(millis)).instrument(info_span!("sleep")).await;
            };
            tasks.spawn(name, sleep).await.expect("ran");
        }
        // A failure alone is no reason, without the other setting.
        let _ = tasks.spawn("fails", work(true)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        tasks.shutdown().await;
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let run = receiver.span("task.run");
    assert_eq!(run.string("task.name"), Some("slow"));
    assert!(receiver.span("sleep").is_child_of(&run));
}

#[test]
fn spans_that_outlive_the_run_or_begin_after_it_are_part_of_its_trace() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).keep_failed_traces().build().expect("built");
    let tasks = manager(&telemetry);
    run(&telemetry, async {
        for fails in [true, false] {
            let (tell, told) = tokio::sync::oneshot::channel();
            let (hand, handed) = tokio::sync::oneshot::channel();
            let of_run = tasks.clone();
            let run = tasks.spawn("command", async move {
                let child = of_run.task("child").in_current_trace().spawn(async { _ = told.await });
                let _ = hand.send((child, tracing::Span::current().context()));
                if fails { Err("unlucky") } else { Ok(()) }
            });
            let _ = run.await;
            let (child, context) = handed.await.expect("handed over");
            let _ = tell.send(());
            child.await.expect("ran");
            let later = info_span!(parent: None, "later");
            let _ = later.set_parent(context);
            later.in_scope(|| {});
        }
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let traces = by_trace(&receiver);
    assert_eq!(traces.len(), 1, "{:?}", names(&receiver));
    assert_eq!(names(&receiver), BTreeMap::from([("task.run".to_owned(), 2), ("later".to_owned(), 1)]));
}

#[test]
fn a_failed_run_keeps_the_spans_around_it_and_an_outermost_span_its_own_failure() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).keep_failed_traces().build().expect("built");
    let tasks = manager(&telemetry);
    run(&telemetry, async {
        for (request, fails) in [("GET /fails", true), ("GET /works", false)] {
            let span = info_span!("request", otel.name = request);
            let job = async { _ = tasks.task("job").in_current_trace().spawn(work(fails)).await };
            job.instrument(span).await;
        }
        // Without a run: the outermost span's own status decides, and not that of one inside.
        let failed = || Status::error("500");
        let span = info_span!("http");
        span.in_scope(|| info_span!("handler").in_scope(|| {}));
        span.set_status(failed());
        drop(span);
        let span = info_span!("handled");
        span.in_scope(|| info_span!("attempt").set_status(failed()));
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let expected =
        [("GET /fails", 1), ("handler", 1), ("http", 1), ("inner", 1), ("outer", 1), ("task.run", 1)];
    let expected: BTreeMap<_, _> = expected.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(names(&receiver), expected);
}

#[test]
fn a_trace_from_elsewhere_is_exported_if_sampled_there_and_kept_if_it_fails_here() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("1", &receiver).keep_failed_traces().build().expect("built");
    let tasks = manager(&telemetry);
    let remote = |trace: u128, flags| {
        let span = SpanContext::new(TraceId::from(trace), SpanId::from(7), flags, true, TraceState::NONE);
        Context::new().with_remote_span_context(span)
    };
    let (sampled, not) = (TraceFlags::SAMPLED, TraceFlags::NOT_SAMPLED);
    run(&telemetry, async {
        for (trace, flags, fails) in [(1, sampled, false), (2, not, false), (3, not, true)] {
            let _ = tasks.task("order").parent(remote(trace, flags)).spawn(work(fails)).await;
        }
        // The third again: what this process does in a trace is kept as a whole.
        let _ = tasks.task("order").parent(remote(3, not)).spawn(work(false)).await;
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let traces = by_trace(&receiver);
    let of = |trace: u128| traces.get(trace.to_be_bytes().as_slice()).map_or(0, Vec::len);
    assert_eq!([of(1), of(2), of(3)], [3, 0, 6]);
    let runs = receiver.spans_named("task.run");
    assert!(runs.iter().all(|run| run.parent_id == 7_u64.to_be_bytes()), "{runs:?}");
}

#[test]
fn a_run_with_more_spans_than_are_held_keeps_the_last_and_counts_the_others() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = at("0", &receiver).keep_failed_traces().build().expect("built");
    let tasks = manager(&telemetry);
    let held = TelemetryBuilder::HELD_SPANS_OF_TRACE;
    run(&telemetry, async {
        for fails in [false, true] {
            let many = async move {
                for number in 0..held + 50 {
                    info_span!("step", number = number as i64).in_scope(|| {});
                }
                if fails { Err("unlucky") } else { Ok(()) }
            };
            let _ = tasks.spawn("many", many).await;
        }
    });
    let balance = telemetry.balance();
    let report = telemetry.shutdown_blocking();
    let traces = balance.snapshot().traces;
    let (held, spans) = (held as u64, receiver.spans().len() as u64);
    assert_eq!((traces.ended, traces.buffer_full, traces.exported), (held + 51, 50, held + 1), "{report}");
    assert_eq!((spans, report.traces.buffer_full), (held + 1, 50));
    assert!(report.to_string().contains("50 lost before their trace was kept"), "{report}");
    let first = receiver.spans_named("step").iter().filter_map(|step| step.int("number")).min();
    assert_eq!(first, Some(50), "the last are held");
    let dropped = [("signal", "traces"), ("reason", "buffer_full")];
    assert_eq!(receiver.sum("task.telemetry.dropped", &dropped), Some(50.0));
}

#[test]
fn exemplars_are_of_runs_whose_trace_is_exported() {
    for kept in [false, true] {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let builder = at("0", &receiver);
        let builder = if kept { builder.keep_failed_traces() } else { builder };
        let telemetry = builder.build().expect("built");
        let tasks = manager(&telemetry);
        run(&telemetry, async {
            assert_eq!(tasks.exemplars(), [], "nobody has asked before");
            for fails in [false, true, false] {
                let _ = tasks.spawn("command", work(fails)).await;
            }
            // Under a sampled parent, which makes the run a sampled one.
            let span = SpanContext::new(
                TraceId::from(5),
                SpanId::from(7),
                TraceFlags::SAMPLED,
                true,
                TraceState::NONE,
            );
            let parent = Context::new().with_remote_span_context(span);
            let _ = tasks.task("sampled").parent(parent).spawn(work(false)).await;
        });
        let exemplars = tasks.exemplars();
        assert!(telemetry.shutdown_blocking().is_complete());
        let of = |name: &str| -> Vec<_> {
            let is_of = |pair: &KeyValue| pair.key.as_str() == "task.name" && pair.value.as_str() == name;
            exemplars.iter().filter(|exemplar| exemplar.attributes.iter().any(is_of)).collect()
        };
        assert_eq!(exemplars.len(), 1 + usize::from(kept), "{exemplars:?}");
        assert_eq!(of("sampled")[0].trace_id, TraceId::from(5));
        for exemplar in of("command") {
            let run = receiver.spans_named("task.run");
            let run = run.iter().find(|run| run.string("task.name") == Some("command")).expect("kept");
            let ids = (exemplar.trace_id.to_bytes().to_vec(), exemplar.span_id.to_bytes().to_vec());
            assert_eq!(ids, (run.trace_id.clone(), run.span_id.clone()));
            assert!(exemplar.attributes.contains(&KeyValue::new("task.run.result", "failure")));
            assert!(exemplar.attributes.iter().any(|pair| pair.key.as_str() == "error.type"));
        }
    }
}

#[test]
fn a_threshold_of_zero_is_refused() {
    let refused = Telemetry::builder().keep_slow_traces(Duration::ZERO).build();
    assert!(matches!(refused, Err(InstallError::Zero { setting: "keep_slow_traces", .. })), "{refused:?}");
}
