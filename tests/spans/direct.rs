//! The idioms that the direct path costs, each with the form that works on both paths.
//!
//! [`SpanPath::Direct`] has the same list.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use opentelemetry::{
    Context, KeyValue,
    baggage::BaggageExt,
    context::FutureExt as _,
    trace::{Status, TraceContextExt},
};
use otel_tasks::{TaskManager, telemetry::SpanPath};
use tracing::{Dispatch, Instrument, Span, error, info, info_span};
use tracing_opentelemetry::{OpenTelemetrySpanExt, get_otel_context};
use tracing_subscriber::{fmt, prelude::*};

use crate::{
    alone,
    support::{
        idioms::Idiom,
        spans::{Spans, text},
    },
};

/// The exported spans of one run of this future, as trees.
fn trees(path: SpanPath, future: Form) -> Vec<String> {
    let spans = Spans::new();
    on(path, &spans, async |tasks| tasks.spawn("run", future()).await.expect("it ends well"));
    spans.trees()
}

fn on<R>(path: SpanPath, spans: &Spans, main: impl AsyncFnOnce(TaskManager) -> R) -> R {
    let layer = otel_tasks::telemetry::layer(spans.tracer());
    with_dispatch(path, &tracing_subscriber::registry().with(layer).into(), main)
}

fn with_dispatch<R>(path: SpanPath, dispatch: &Dispatch, main: impl AsyncFnOnce(TaskManager) -> R) -> R {
    let _default = tracing::dispatcher::set_default(dispatch);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks = TaskManager::builder().span_path(path).build().expect("the settings are valid");
        main(tasks).await
    })
}

/// Makes the future of a run.
type Form = fn() -> Idiom;

/// A form of an idiom, as the future of a run.
macro_rules! form {
    ($($body:tt)*) => { || -> Idiom { Box::pin(async move { $($body)* }) } };
}

struct Lost {
    idiom: &'static str,
    /// The form that needs the full path.
    full: Form,
    /// The form that works on both paths.
    both: Form,
}

/// A span of the user's with this parent.
fn child_of(context: Context) {
    let user = info_span!(parent: None, "user");
    user.set_parent(context).expect("it is not started");
    user.in_scope(|| ());
}

/// Runs `work` on a blocking thread with this thread's subscriber.
async fn on_blocking_thread(work: impl FnOnce() + Send + 'static) {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let work = move || tracing::dispatcher::with_default(&dispatch, work);
    tokio::task::spawn_blocking(work).await.expect("it does not panic");
}

async fn user_span() {
    info_span!("user").in_scope(tokio::task::yield_now).await;
}

fn lost() -> Vec<Lost> {
    vec![
        Lost {
            idiom: "context",
            full: form! { child_of(Span::current().context()) },
            both: form! { child_of(Context::current()) },
        },
        Lost {
            idiom: "get_otel_context",
            full: form! {
                let context = Span::current().with_subscriber(|(id, dispatch)| get_otel_context(id, dispatch));
                child_of(context.flatten().unwrap_or_default());
            },
            both: form! { child_of(Context::current()) },
        },
        Lost {
            idiom: "set_attribute",
            full: form! { Span::current().set_attribute("user.id", 7) },
            both: form! { Context::current().span().set_attribute(KeyValue::new("user.id", 7)) },
        },
        Lost {
            idiom: "set_status",
            full: form! { Span::current().set_status(Status::error("the user's")) },
            both: form! { Context::current().span().set_status(Status::error("the user's")) },
        },
        Lost {
            idiom: "add_event",
            full: form! { Span::current().add_event("added", Vec::new()) },
            both: form! { Context::current().span().add_event("added", Vec::new()) },
        },
        Lost {
            idiom: "add_link",
            full: form! {
                let other = info_span!(parent: None, "other").context().span().span_context().clone();
                Span::current().add_link(other);
            },
            both: form! {
                let other = info_span!(parent: None, "other").context().span().span_context().clone();
                Context::current().span().add_link(other, Vec::new());
            },
        },
        Lost {
            idiom: "info!",
            full: form! { info!(answer = 42, "direct") },
            both: form! { Context::current().span().add_event("direct", vec![KeyValue::new("answer", 42)]) },
        },
        Lost {
            idiom: "error!",
            full: form! { error!("direct") },
            both: form! {
                let run = Context::current();
                run.span().add_event("direct", Vec::new());
                run.span().set_status(Status::error(""));
            },
        },
        Lost {
            idiom: "follows_from",
            full: form! {
                let cause = info_span!(parent: None, "cause");
                Span::current().follows_from(&cause);
            },
            both: form! {
                let cause = info_span!(parent: None, "cause");
                let cause = cause.context().span().span_context().clone();
                Context::current().span().add_link(cause, Vec::new());
            },
        },
        Lost {
            idiom: "follows_from the run",
            full: form! {
                info_span!(parent: None, "effect").follows_from(Span::current());
            },
            both: form! {
                info_span!(parent: None, "effect").add_link(Context::current().span().span_context().clone());
            },
        },
        Lost {
            idiom: "parent: &span",
            full: form! {
                let run = Span::current();
                info_span!("around").in_scope(|| info_span!(parent: &run, "user").in_scope(|| ()));
            },
            both: form! {
                let run = Context::current();
                info_span!("around").in_scope(|| {
                    let _attached = run.attach();
                    info_span!("user").in_scope(|| ());
                });
            },
        },
        Lost {
            idiom: "in_current_span",
            full: form! { tokio::spawn(user_span().in_current_span()).await.expect("it does not panic") },
            both: form! {
                let user_span = user_span().in_current_span().with_current_context();
                tokio::spawn(user_span).await.expect("it does not panic");
            },
        },
        Lost {
            idiom: "in_scope",
            full: form! {
                let run = Span::current();
                on_blocking_thread(move || run.in_scope(|| info_span!("user").in_scope(|| ()))).await;
            },
            both: form! {
                let (run, context) = (Span::current(), Context::current());
                on_blocking_thread(move || {
                    let _attached = context.attach();
                    run.in_scope(|| info_span!("user").in_scope(|| ()));
                })
                .await;
            },
        },
    ]
}

#[test]
fn each_idiom_that_the_direct_path_loses_has_a_form_for_both_paths() {
    let _alone = alone();
    for Lost { idiom, full, both } in lost() {
        let expected = trees(SpanPath::Full, full);
        assert_ne!(trees(SpanPath::Direct, full), expected, "{idiom} works on the direct path");
        assert_eq!(trees(SpanPath::Direct, both), expected, "{idiom}, direct");
        assert_eq!(trees(SpanPath::Full, both), expected, "{idiom}, full");
    }
}

#[test]
fn the_other_idioms_work_on_the_direct_path() {
    #[tracing::instrument]
    async fn attribute_of_tracing() {
        info!("in the user's span");
        tokio::task::yield_now().await;
    }

    let _alone = alone();
    let kept: [(&str, Form); 5] = [
        ("instrument", form! { user_span().instrument(info_span!("around")).await }),
        ("#[instrument]", form! { attribute_of_tracing().await }),
        (
            "on a user's span",
            form! {
                let user = info_span!("user");
                user.set_attribute("user.id", 7);
                user.in_scope(|| error!("in the user's span"));
                info_span!(parent: &user, "explicit").in_scope(|| ());
            },
        ),
        (
            "in_current_span of a user's span",
            form! {
                let joined = info_span!("around").in_scope(|| tokio::spawn(user_span().in_current_span()));
                joined.await.expect("it does not panic");
            },
        ),
        (
            "baggage",
            form! {
                let baggage = Context::current_with_baggage([KeyValue::new("tenant", "7")]);
                let user_span = async {
                    let tenant = Context::current().baggage().get("tenant").map(ToString::to_string);
                    let user = info_span!("user", tenant);
                    user.in_scope(|| ());
                };
                user_span.with_context(baggage).await;
            },
        ),
    ];
    for (idiom, future) in kept {
        let expected = trees(SpanPath::Full, future);
        assert!(expected.len() > 1, "{idiom}: {expected:#?}");
        assert_eq!(trees(SpanPath::Direct, future), expected, "{idiom}");
    }
}

/// The one loss without a form for both paths: the direct path ends and exports a run's span when the run ends, not with the last
/// reference to it.
#[test]
fn only_on_the_full_path_a_held_span_takes_attributes_after_its_run() {
    let _alone = alone();
    for (path, taken) in [(SpanPath::Full, Some("yes")), (SpanPath::Direct, None)] {
        let spans = Spans::new();
        on(path, &spans, async |tasks| {
            let held = async { Ok::<_, &str>((Span::current(), Context::current())) };
            let (span, context) =
                tasks.spawn("held", held).await.expect("it ends well").expect("a span and its context");
            assert_eq!(spans.runs_of("held").is_empty(), path == SpanPath::Full, "{path:?}");
            match path {
                SpanPath::Full => span.set_attribute("late", "yes"),
                _ => context.span().set_attribute(KeyValue::new("late", "yes")),
            }
        });
        assert_eq!(text(&spans.run_of("held"), "late").as_deref(), taken, "{path:?}");
    }
}

/// Lines of a layer that prints.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn other_layers_see_a_run_on_the_direct_path() {
    let _alone = alone();
    let printed = [SpanPath::Full, SpanPath::Direct].map(|path| {
        let (spans, lines) = (Spans::new(), Lines::default());
        let writer = lines.clone();
        let print = fmt::layer().without_time().with_ansi(false).with_writer(move || writer.clone());
        let layer = otel_tasks::telemetry::layer(spans.tracer());
        let dispatch = tracing_subscriber::registry().with(print).with(layer).into();
        with_dispatch(path, &dispatch, async |tasks| {
            tasks.spawn("prints", async { info!("a line") }).await.expect("it ends well");
        });
        let printed = lines.0.lock().unwrap().clone();
        String::from_utf8(printed).expect("text")
    });
    assert!(printed[0].contains(r#"task.run{task.name="prints""#), "{}", printed[0]);
    assert_eq!(printed[0], printed[1]);
}
