//! Traces that go on in a run: from another process, from the spawner, through filters that hide the run's own span.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    baggage::BaggageExt,
    global,
    propagation::{TextMapCompositePropagator, TextMapPropagator},
    trace::{Span as _, SpanContext, TraceContextExt, TraceState, Tracer},
};
use opentelemetry_sdk::{
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{Sampler, SdkTracer, SpanData},
};
use otel_tasks::{
    CriticalTaskConfig, TaskManager,
    task::TaskBuilder,
    telemetry::{SpanPath, remote_context},
};
use tokio::task::LocalSet;
use tracing::{Dispatch, Instrument as _, level_filters::LevelFilter, warn_span};
use tracing_subscriber::{EnvFilter, Layer, fmt, prelude::*};

use crate::{
    alone,
    support::{
        idioms::plain,
        process::{child, is_child},
        spans::Spans,
    },
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn headers(pairs: &[(&str, &str)]) -> Context {
    let headers: HashMap<_, _> = pairs.iter().copied().collect();
    remote_context(|name| headers.get(name).copied())
}

/// The producer's context, as the consumer's process reads it from a message.
fn producer() -> Context {
    headers(&[("traceparent", &traceparent("01")), ("tracestate", "shop=1"), ("baggage", "tenant=7")])
}

fn span_context(span: u8) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes([9; 16]), SpanId::from_bytes([span; 8]));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default())
}

/// What a run saw of its trace.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// The header that it would send.
    traceparent: Option<String>,
    tracestate: Option<String>,
    tenant: Option<String>,
}

/// Runs a task in each form. Inside, it sends headers, and opens a span by the tracer and one by `tracing`.
async fn in_each_form<'a>(
    dispatch: &Dispatch,
    tracer: &SdkTracer,
    builder: impl Fn() -> TaskBuilder<'a>,
) -> [Seen; 4] {
    let (dispatch, tracer) = (dispatch.clone(), tracer.clone());
    let work = move || {
        let mut sent = HashMap::new();
        TraceContextPropagator::new().inject(&mut sent);
        tracer.start("by_tracer").end();
        tracing::dispatcher::with_default(&dispatch, || warn_span!("by_tracing").in_scope(|| ()));
        let tenant = Context::current().baggage().get("tenant").map(ToString::to_string);
        let tracestate = sent.remove("tracestate").filter(|state| !state.is_empty());
        Seen { traceparent: sent.remove("traceparent"), tracestate, tenant }
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let work = {
        let seen = seen.clone();
        move || seen.lock().unwrap().push(work())
    };
    let in_future = work.clone();
    builder().spawn(async move { in_future() }).await.unwrap();
    let in_future = work.clone();
    builder().spawn_with(|_| async move { in_future() }).await.unwrap();
    let in_future = work.clone();
    LocalSet::new()
        .run_until(async { builder().spawn_local(async move { in_future() }).await.unwrap() })
        .await;
    builder().spawn_blocking(move |_| work()).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    seen.try_into().expect("four forms")
}

/// The ways in which a subscriber sees runs: whether it exports them.
fn subscribers(spans: &Spans) -> Vec<(&'static str, bool, Dispatch)> {
    let registry = tracing_subscriber::registry;
    let ours = || otel_tasks::telemetry::layer(spans.tracer());
    let warn = || EnvFilter::new("warn");
    let lines = || fmt::layer().with_writer(std::io::sink);
    vec![
        ("our layer", true, registry().with(ours()).into()),
        ("our layer under RUST_LOG=warn", true, registry().with(ours()).with(warn()).into()),
        (
            "our layer, filtered",
            true,
            registry().with(ours().with_filter(LevelFilter::WARN).and_then(lines())).into(),
        ),
        ("a plain layer", true, registry().with(plain(spans)).into()),
        ("a plain layer under RUST_LOG=warn", false, registry().with(plain(spans)).with(warn()).into()),
        (
            "a plain layer, filtered",
            false,
            registry().with(plain(spans).with_filter(LevelFilter::WARN).and_then(lines())).into(),
        ),
        ("no layer for spans", false, registry().with(lines()).into()),
    ]
}

fn block_on<F: Future>(dispatch: &Dispatch, main: F) -> F::Output {
    let _default = tracing::dispatcher::set_default(dispatch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(main)
}

/// Each run below a span: the spans inside it are its children, or the parent's if it is not exported.
#[track_caller]
fn are_below(case: &str, exported: bool, spans: &[SpanData], parent: &SpanContext) {
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let runs = named("task.run");
    assert_eq!(runs.len(), if exported { 4 } else { 0 }, "{case}: {runs:#?}");
    for run in &runs {
        assert_eq!(run.span_context.trace_id(), parent.trace_id(), "{case}: {run:#?}");
        assert_eq!(run.parent_span_id, parent.span_id(), "{case}: {run:#?}");
        assert!(run.links.is_empty(), "{case}: {run:#?}");
    }
    let by_tracing = named("by_tracing");
    assert!(by_tracing.len() == 4 || case == "no layer for spans", "{case}: {by_tracing:#?}");
    let by_tracer = named("by_tracer");
    assert_eq!(by_tracer.len(), 4, "{case}");
    for inside in by_tracing.into_iter().chain(by_tracer) {
        assert_eq!(inside.span_context.trace_id(), parent.trace_id(), "{case}: {inside:#?}");
        let is_below_a_run = runs.iter().any(|run| run.span_context.span_id() == inside.parent_span_id);
        assert_eq!(is_below_a_run, exported, "{case}: {inside:#?}");
        assert!(exported || inside.parent_span_id == parent.span_id(), "{case}: {inside:#?}");
    }
}

/// Seen to fail where a run whose span is hidden attaches nothing.
#[test]
fn remote_parent_continues_in_each_spawn_form_and_filter() {
    let _alone = alone();
    for case in 0..7 {
        let spans = Spans::new();
        let (case, exported, dispatch) = subscribers(&spans).swap_remove(case);
        let parent = producer();
        let seen = block_on(&dispatch, async {
            let tasks = TaskManager::new();
            in_each_form(&dispatch, &spans.tracer(), || tasks.task("handle").parent(parent.clone())).await
        });
        are_below(case, exported, &spans.finished(), parent.span().span_context());
        for seen in seen {
            let traceparent = seen.traceparent.expect("a header");
            assert!(traceparent.contains(TRACE) && traceparent.ends_with("-01"), "{case}: {traceparent}");
            assert_eq!(traceparent.contains(SPAN), !exported, "{case}: {traceparent}");
            assert_eq!(seen.tracestate.as_deref(), Some("shop=1"), "{case}");
            assert_eq!(seen.tenant.as_deref(), Some("7"), "{case}: baggage");
        }
    }
}

/// Seen to fail for blocking work, whose span was made on a thread where nothing is current.
#[test]
fn current_trace_continues_in_each_spawn_form_and_filter() {
    let _alone = alone();
    for case in 0..7 {
        let spans = Spans::new();
        let (case, exported, dispatch) = subscribers(&spans).swap_remove(case);
        let outer = spans.tracer().start("outer");
        let parent = outer.span_context().clone();
        let context = Context::current_with_span(outer).with_baggage([KeyValue::new("tenant", "7")]);
        let seen = block_on(&dispatch, async {
            let _attached = context.attach();
            let tasks = TaskManager::new();
            in_each_form(&dispatch, &spans.tracer(), || tasks.task("handle").in_current_trace()).await
        });
        are_below(case, exported, &spans.finished(), &parent);
        let outer = spans.one("outer");
        assert!(outer.attributes.is_empty(), "{case}: what a run records is not its parent's: {outer:#?}");
        for seen in seen {
            assert_eq!(seen.tenant.as_deref(), Some("7"), "{case}: baggage");
        }
    }
}

/// Seen to fail where blocking work is given OpenTelemetry's current context and not the `tracing` span.
#[test]
fn blocking_work_is_below_the_tracing_span_of_its_spawner() {
    let _alone = alone();
    for activation in [true, false] {
        let spans = Spans::new();
        let layer =
            tracing_opentelemetry::layer().with_tracer(spans.tracer()).with_context_activation(activation);
        let dispatch = tracing_subscriber::registry().with(layer).into();
        block_on(&dispatch, async {
            let tasks = TaskManager::new();
            let outer = warn_span!("outer");
            let run = outer.in_scope(|| tasks.task("hash").in_current_trace().spawn_blocking(|_| ()));
            run.await.unwrap();
        });
        let (outer, run) = (spans.one("outer"), spans.run_of("hash"));
        assert_eq!(run.parent_span_id, outer.span_context.span_id(), "activation: {activation}");
    }
}

/// Returns the span that is current inside.
#[otel_tasks::instrumented_task]
async fn annotated() -> SpanContext {
    Context::current().span().span_context().clone()
}

/// Seen to fail where an instrumented function is given OpenTelemetry's current context and not the `tracing` span.
#[test]
fn instrumented_function_continues_the_enclosing_tracing_span() {
    let _alone = alone();
    for (activation, is_hidden) in [(true, true), (true, false), (false, true), (false, false)] {
        let spans = Spans::new();
        let layer =
            tracing_opentelemetry::layer().with_tracer(spans.tracer()).with_context_activation(activation);
        let filter = EnvFilter::new(if is_hidden { "warn" } else { "info" });
        let dispatch = tracing_subscriber::registry().with(layer).with(filter).into();
        let seen = block_on(&dispatch, async {
            let tasks = TaskManager::new();
            // Under no manager, and inside a run of one.
            let alone = annotated().instrument(warn_span!("outer")).await;
            let inside = async { otel_tasks::Value(annotated().instrument(warn_span!("inner")).await) };
            [alone, tasks.spawn("run", inside).await.unwrap().0]
        });
        let case = format!("activation: {activation}, hidden: {is_hidden}");
        let around = ["outer", "inner"].map(|name| spans.one(name).span_context);
        if is_hidden {
            assert_eq!(seen, around, "{case}");
        }
        let runs = spans.runs_of("annotated");
        assert_eq!(runs.len(), if is_hidden { 0 } else { 2 }, "{case}");
        for (run, around) in runs.iter().zip(around) {
            assert_eq!(run.parent_span_id, around.span_id(), "{case}");
        }
    }
}

/// Seen to fail where the manager's own tracer is asked before that of the layer.
#[test]
fn the_direct_path_exports_by_the_tracer_of_the_layer() {
    let _alone = alone();
    let (of_layer, of_manager) = (Spans::new(), Spans::new());
    let layer = otel_tasks::telemetry::layer(of_layer.tracer());
    let dispatch = tracing_subscriber::registry().with(layer).into();
    block_on(&dispatch, async {
        let tasks =
            TaskManager::builder().tracer(of_manager.tracer()).span_path(SpanPath::Direct).build().unwrap();
        tasks.spawn("t", async {}).await.unwrap();
    });
    assert_eq!((of_layer.runs_of("t").len(), of_manager.runs_of("t").len()), (1, 0));
}

#[test]
fn a_failing_run_whose_span_is_hidden_leaves_its_parent_alone() {
    let _alone = alone();
    let spans = Spans::new();
    let dispatch = tracing_subscriber::registry().with(plain(&spans)).with(EnvFilter::new("warn")).into();
    block_on(&dispatch, async {
        let tasks = TaskManager::new();
        let outer = Context::current_with_span(spans.tracer().start("outer")).attach();
        tasks
            .task("fails")
            .in_current_trace()
            .spawn(async { Err::<(), _>("no") })
            .await
            .unwrap()
            .unwrap_err();
        drop(outer);
    });
    let outer = spans.one("outer");
    assert_eq!((outer.attributes.len(), outer.status), (0, opentelemetry::trace::Status::Unset));
}

#[test]
fn the_direct_path_keeps_a_remote_parent() {
    let _alone = alone();
    let spans = Spans::new();
    let dispatch = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
    let parent = producer();
    block_on(&dispatch, async {
        let tasks = TaskManager::builder().span_path(SpanPath::Direct).build().unwrap();
        in_each_form(&dispatch, &spans.tracer(), || tasks.task("handle").parent(parent.clone())).await
    });
    are_below("direct", true, &spans.finished(), parent.span().span_context());
}

#[test]
fn a_context_without_a_valid_span_changes_nothing() {
    let _alone = alone();
    let spans = Spans::new();
    let dispatch = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
    block_on(&dispatch, async {
        let tasks = TaskManager::new();
        let _outer = Context::current_with_span(spans.tracer().start("outer")).attach();
        for invalid in [
            headers(&[]),
            headers(&[("baggage", "tenant=7")]),
            headers(&[("traceparent", "00-nonsense")]),
            headers(&[("traceparent", &traceparent("01").replace(SPAN, "0000000000000000"))]),
        ] {
            tasks.task("root").parent(invalid.clone()).spawn(async {}).await.unwrap();
            tasks.task("kept").parent(producer()).parent(invalid).spawn(async {}).await.unwrap();
        }
    });
    let outer = spans.one("outer").span_context;
    for run in spans.runs_of("root") {
        assert_eq!((run.parent_span_id, run.links.len()), (SpanId::INVALID, 1), "{run:#?}");
        assert_eq!(run.links[0].span_context.span_id(), outer.span_id());
    }
    for run in spans.runs_of("kept") {
        assert_eq!(run.parent_span_id.to_string(), SPAN, "{run:#?}");
    }
}

#[test]
fn the_last_parent_counts_and_every_valid_link() {
    let _alone = alone();
    let spans = Spans::new();
    let dispatch = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
    block_on(&dispatch, async {
        let tasks = TaskManager::new();
        let outer = spans.tracer().start("outer");
        let _outer = Context::current_with_span(outer).attach();
        let other = || Context::new().with_remote_span_context(span_context(1));
        let linked = |name| {
            let task = tasks.task(name).link(span_context(2)).link(SpanContext::empty_context());
            task.link(span_context(3))
        };
        linked("remote").parent(other()).parent(producer()).spawn(async {}).await.unwrap();
        linked("current").parent(other()).in_current_trace().spawn(async {}).await.unwrap();
        linked("last").in_current_trace().parent(producer()).spawn(async {}).await.unwrap();
        linked("root").spawn(async {}).await.unwrap();
        linked("blocking").spawn_blocking(|_| ()).await.unwrap();
    });
    let outer = spans.one("outer").span_context.span_id();
    let two = [SpanId::from_bytes([2; 8]), SpanId::from_bytes([3; 8])];
    let with_spawner = [two[0], two[1], outer];
    let remote = SpanId::from_hex(SPAN).unwrap();
    for (name, parent, links) in [
        ("remote", remote, &two[..]),
        ("current", outer, &two),
        ("last", remote, &two),
        ("root", SpanId::INVALID, &with_spawner),
        ("blocking", SpanId::INVALID, &with_spawner),
    ] {
        let run = spans.run_of(name);
        let linked: Vec<_> = run.links.iter().map(|link| link.span_context.span_id()).collect();
        assert_eq!((run.parent_span_id, &*linked), (parent, links), "{name}");
    }
}

#[test]
fn a_sampler_that_follows_the_parent_keeps_its_decision() {
    let _alone = alone();
    for (flags, sampled) in [("00", 0), ("01", 4)] {
        let spans = Spans::sampled_by(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)));
        let dispatch =
            tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
        let parent = headers(&[("traceparent", &traceparent(flags))]);
        let seen = block_on(&dispatch, async {
            let tasks = TaskManager::new();
            in_each_form(&dispatch, &spans.tracer(), || tasks.task("handle").parent(parent.clone())).await
        });
        assert_eq!(spans.runs_of("handle").len(), sampled, "{flags}");
        for seen in seen {
            let traceparent = seen.traceparent.expect("a header");
            assert!(traceparent.contains(TRACE) && traceparent.ends_with(flags), "{traceparent}");
        }
    }
}

/// Runs the test in a process of its own with these variables, unless this is that process.
fn run_in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if is_child() {
        return false;
    }
    let output =
        child(&format!("parents::{test}")).envs(variables.iter().copied()).output().expect("a process");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// In a process of its own, since the propagator is the process's.
#[test]
fn a_global_propagator_reads_the_headers() {
    if run_in_child("a_global_propagator_reads_the_headers", &[]) {
        return;
    }
    let _attached = Context::new().with_remote_span_context(span_context(1)).attach();
    assert!(!headers(&[]).has_active_span(), "the current trace is not the message's");
    global::set_text_map_propagator(BaggagePropagator::new());
    assert!(!producer().has_active_span(), "the propagator reads no trace");
    assert_eq!(producer().baggage().get("tenant").map(ToString::to_string).as_deref(), Some("7"));
    global::set_text_map_propagator(TextMapCompositePropagator::new(Vec::new()));
    assert!(producer().has_active_span(), "one without fields is as good as none");
}

/// What a child process exports of its runs: links by the kind of run.
fn links_of_every_kind() -> Vec<(String, Vec<String>)> {
    let spans = Spans::new();
    let dispatch = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(spans.tracer())).into();
    block_on(&dispatch, async {
        let tasks = TaskManager::new();
        let inner = tasks.clone();
        let outer = async move { inner.task("child").in_current_trace().spawn(async {}).await.unwrap() };
        tasks.spawn("spawned", outer).await.unwrap();
        tasks.spawn_blocking("blocking", |_| ()).await.unwrap();
        tasks.task("remote").parent(producer()).spawn(async {}).await.unwrap();
        instrumented().await;
        tasks
            .register(CriticalTaskConfig::new("registered", |ctx| async move { ctx.cancelled().await }))
            .unwrap();
        tasks.start();
        tokio::task::yield_now().await;
        tasks.shutdown().await;
    });
    let of = |name: &str| {
        let links = spans.run_of(name).links;
        links.iter().map(|link| format!("{:?}", link.span_context)).collect()
    };
    ["spawned", "child", "blocking", "remote", "instrumented", "registered"]
        .map(|name| (name.to_owned(), of(name)))
        .into()
}

#[otel_tasks::instrumented_task(name = "instrumented")]
async fn instrumented() {}

#[test]
fn the_trace_in_the_environment_is_linked_to_every_root() {
    if run_in_child(
        "the_trace_in_the_environment_is_linked_to_every_root",
        &[("TRACEPARENT", &*traceparent("00")), ("TRACESTATE", "ci=1")],
    ) {
        return;
    }
    for (name, links) in links_of_every_kind() {
        let is_root = !["child", "remote"].contains(&&*name);
        assert_eq!(links.len(), usize::from(is_root), "{name}: {links:?}");
        assert!(!is_root || links[0].contains(TRACE) && links[0].contains("ci"), "{name}: {links:?}");
    }
}

#[test]
fn an_invalid_trace_in_the_environment_is_ignored_with_a_warning() {
    if run_in_child(
        "an_invalid_trace_in_the_environment_is_ignored_with_a_warning",
        &[("TRACEPARENT", "00-of-no-use"), ("TRACESTATE", "ci=1")],
    ) {
        return;
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let written = lines.clone();
    let writer = move || Lines(written.clone());
    let layer = fmt::layer().with_writer(writer).with_ansi(false);
    let spans = Spans::new();
    let ours = otel_tasks::telemetry::layer(spans.tracer());
    let dispatch = tracing_subscriber::registry().with(ours).with(layer).into();
    block_on(&dispatch, async {
        let tasks = TaskManager::new();
        tasks.spawn("first", async {}).await.unwrap();
        tasks.spawn("second", async {}).await.unwrap();
    });
    assert!(spans.run_of("first").links.is_empty());
    let lines = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(lines.matches("TRACEPARENT is not used").count(), 1, "{lines}");
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
