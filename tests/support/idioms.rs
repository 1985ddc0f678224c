//! What users do inside a run, to be compared with what plain tracing-opentelemetry makes of it.

use opentelemetry::trace::TraceContextExt;
use otel_tasks::TaskManager;
use tracing::{Instrument, Span, info, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, registry::Registry};

use super::spans::Spans;

#[tracing::instrument]
async fn attribute_of_tracing() {
    tokio::task::yield_now().await;
}

pub type Idiom = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Every everyday idiom, each in a run of its own.
pub async fn idioms() {
    let tasks = TaskManager::new();
    let spawner = info_span!("spawner");
    let run = |name: &str, future: Idiom| {
        let _entered = spawner.enter();
        tasks.spawn(name, future)
    };
    let dispatch = tracing::dispatcher::get_default(Clone::clone);

    let idioms: Vec<(&str, Idiom)> = vec![
        (
            "instrument",
            Box::pin(async {
                async { info_span!("inner").in_scope(|| {}) }.instrument(info_span!("user")).await;
            }),
        ),
        ("attribute_of_tracing", Box::pin(attribute_of_tracing())),
        (
            "in_current_span",
            Box::pin(async {
                tokio::spawn(async { info_span!("user").in_scope(|| {}) }.in_current_span())
                    .await
                    .expect("joined");
            }),
        ),
        (
            "spawn_blocking",
            Box::pin(async move {
                let span = Span::current();
                let blocking = move || {
                    tracing::dispatcher::with_default(&dispatch, || {
                        span.in_scope(|| info_span!("user").in_scope(|| {}))
                    });
                };
                tokio::task::spawn_blocking(blocking).await.expect("joined");
            }),
        ),
        (
            "explicit_parent",
            Box::pin(async {
                let parent = Span::current();
                tokio::task::yield_now().await;
                info_span!(parent: &parent, "user").in_scope(|| {});
            }),
        ),
        (
            "context",
            Box::pin(async {
                let context = Span::current().context();
                assert!(context.span().span_context().is_valid());
                let user = info_span!(parent: None, "user");
                user.set_parent(context).expect("not started yet");
                user.in_scope(|| {});
            }),
        ),
        (
            "current_opentelemetry_context",
            Box::pin(async {
                // What an HTTP client injects must be the run, or a span inside it.
                let current = opentelemetry::Context::current().span().span_context().clone();
                assert_eq!(&current, Span::current().context().span().span_context());
            }),
        ),
        ("set_attribute", Box::pin(async { Span::current().set_attribute("user.id", 7_i64) })),
        (
            "add_link",
            Box::pin(async {
                let other = info_span!(parent: None, "linked");
                Span::current().add_link(other.context().span().span_context().clone());
            }),
        ),
        ("add_event", Box::pin(async { Span::current().add_event("added", Vec::new()) })),
        (
            "set_status",
            Box::pin(async {
                Span::current().set_status(opentelemetry::trace::Status::error("the user's"));
            }),
        ),
        (
            "direct_event",
            Box::pin(async {
                info!(answer = 42, "direct");
                tokio::task::yield_now().await;
                tracing::error!("an error event");
            }),
        ),
        (
            "follows_from",
            Box::pin(async {
                let cause = info_span!(parent: None, "cause");
                Span::current().follows_from(&cause);
            }),
        ),
        (
            "nested_run",
            Box::pin(async {
                info_span!("around").in_scope(|| info_span!("inside").in_scope(|| {}));
            }),
        ),
    ];
    for (name, future) in idioms {
        run(name, future).await.expect("the idiom works");
    }
    drop(spawner);
    tasks.shutdown().await;
}

/// Plain tracing-opentelemetry, without the attributes that our layer leaves out.
pub fn plain(spans: &Spans) -> impl Layer<Registry> + Send + Sync + use<> {
    tracing_opentelemetry::layer()
        .with_tracer(spans.tracer())
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
}
