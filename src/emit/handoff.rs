//! The shortcut of a run's span past the most expensive parts of tracing-opentelemetry.
//!
//! All on one thread, between [`ManagedSpan`](super::ManagedSpan) and the exporting layer:
//!
//! ```text
//! offer ── span! ── on_new_span: take ─► inner layer, without the fields
//! hand  ── get_otel_context ── inner layer ── Handing::build_with_context: the attributes are put in
//! at    ── enter, exit, record ── on_enter ..: is_at, so the inner layer is not asked; whoever said `at` does it itself
//! ```
//!
//! On [`SpanPath::Direct`] the inner layer never receives the span: it is taken and not passed on.

use std::{cell::Cell, mem::ManuallyDrop, time::SystemTime};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanBuilder, Tracer},
};
use tracing::{Metadata, span::Id};

use crate::contract;

thread_local! {
    static OFFERED: Cell<Option<SpanPath>> = const { Cell::new(None) };
    /// `None` outside of [`hand`]. So nothing is left to drop, and a thread-local without a destructor is read without a check.
    static HANDED: Cell<Option<ManuallyDrop<Handed>>> = const { Cell::new(None) };
    /// 0 outside of [`at`], which is no span's id.
    static AT: Cell<u64> = const { Cell::new(0) };
}

/// The initial values of a span.
pub(super) struct Handed {
    pub(super) attributes: Vec<KeyValue>,
    pub(super) links: Vec<Link>,
    pub(super) began: Option<SystemTime>,
}

/// Makes a run's span. Returns true beside it if our exporting layer has taken it.
pub(crate) fn offer(path: SpanPath, make: impl FnOnce() -> tracing::Span) -> (tracing::Span, bool) {
    OFFERED.set(Some(path));
    let span = make();
    let taken = OFFERED.take().is_none();
    (span, taken)
}

/// Takes the span that is offered, if that is the one.
pub(super) fn take(metadata: &Metadata<'_>) -> Option<SpanPath> {
    let path = OFFERED.get()?;
    let is_run = metadata.name() == contract::SPAN_RUN && metadata.target() == contract::SCOPE;
    is_run.then(|| {
        OFFERED.set(None);
        path
    })
}

/// Lets the next span of this thread that is built within `build` begin so.
pub(super) fn hand<R>(handed: Handed, build: impl FnOnce() -> R) -> R {
    struct Leftover;
    impl Drop for Leftover {
        fn drop(&mut self) {
            drop(take_handed());
        }
    }
    let outer = HANDED.replace(Some(ManuallyDrop::new(handed)));
    let _leftover = Leftover;
    drop(outer.map(ManuallyDrop::into_inner));
    build()
}

fn take_handed() -> Option<Handed> {
    HANDED.take().map(ManuallyDrop::into_inner)
}

/// While `inside`, the exporting layer leaves the span of this id to its caller.
#[cfg_attr(not(debug_assertions), inline(always))]
pub(super) fn at<R>(id: Option<Id>, inside: impl FnOnce() -> R) -> R {
    struct Outer(u64);
    impl Drop for Outer {
        #[inline]
        fn drop(&mut self) {
            AT.set(self.0);
        }
    }
    let _outer = Outer(AT.replace(id.map_or(0, |id| id.into_u64())));
    inside()
}

#[inline]
pub(super) fn is_at(id: &Id) -> bool {
    AT.get() == id.into_u64()
}

/// The user's tracer, and what was handed over.
#[derive(Clone, Debug)]
pub(super) struct Handing<T>(pub(super) T);

impl<T: Tracer> Tracer for Handing<T> {
    type Span = T::Span;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> T::Span {
        if let Some(Handed { attributes, links, began }) = take_handed() {
            builder.attributes = Some(attributes);
            builder.start_time = began.or(builder.start_time);
            if !links.is_empty() {
                builder.links = Some(links);
            }
        }
        self.0.build_with_context(builder, parent)
    }
}

/// The way in which run spans reach the exporter through [`layer`](crate::telemetry::layer).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpanPath {
    /// Through tracing-opentelemetry: a run's span supports everything that a span of your own supports. The default.
    #[default]
    Full,
    /// Directly to the tracer, for about a fifth less.
    ///
    /// On both paths, spans that are opened inside a run are its children, log records carry its trace, and OpenTelemetry's current context is
    /// the run's. Other layers see the run's own `tracing` span, but tracing-opentelemetry does not. So these idioms need another form,
    /// where `span` is the run's span. Each second form works on both paths:
    ///
    /// | idiom | here | for both paths |
    /// |---|---|---|
    /// | `span.context()`, `get_otel_context` | no context | [`Context::current()`] |
    /// | `span.set_attribute(..)`, `set_status`, `add_event`, `add_link` | lost | the same methods of `Context::current().span()` |
    /// | `info!(..)` directly in the run | not in the span | `Context::current().span().add_event(..)` |
    /// | `error!(..)` directly in the run | neither in the span nor in its status | `add_event` and `set_status` of `Context::current().span()` |
    /// | `span.follows_from(&cause)`, `effect.follows_from(&span)` | no link | `add_link` with the other span's `SpanContext` |
    /// | `info_span!(parent: &span, ..)` | begins a new trace | attach the run's `Context`, and leave `parent` out |
    /// | `tokio::spawn(future.in_current_span())` | its spans begin a new trace | `future.in_current_span().with_current_context()` |
    /// | `span.in_scope(..)` on another thread | its spans begin a new trace | attach the run's `Context` there before |
    /// | `span.set_attribute(..)` after the run, while you hold `span` | lost: the span ends with its run | none |
    ///
    /// [`Context::current()`]: opentelemetry::Context::current
    ///
    /// With a tracing-opentelemetry layer of your own ([`task_layer`](crate::telemetry::task_layer)) this path is the full path.
    Direct,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
    use tracing::{
        Level,
        callsite::{Callsite, Identifier},
        field::FieldSet,
        metadata::Kind,
        subscriber::Interest,
    };

    use super::*;

    struct Nowhere;

    static RUN: Metadata<'static> = metadata(contract::SPAN_RUN, contract::SCOPE);

    impl Callsite for Nowhere {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            &RUN
        }
    }

    const fn metadata(name: &'static str, target: &'static str) -> Metadata<'static> {
        let fields = FieldSet::new(&[], Identifier(&Nowhere));
        Metadata::new(name, target, Level::INFO, None, None, None, fields, Kind::SPAN)
    }

    #[test]
    fn a_run_that_is_offered_is_taken_once_and_nothing_else_is() {
        let (_, taken) = offer(SpanPath::Direct, || {
            assert_eq!(take(&metadata("other", contract::SCOPE)), None);
            assert_eq!(take(&metadata(contract::SPAN_RUN, "user")), None);
            assert_eq!(take(&RUN), Some(SpanPath::Direct));
            assert_eq!(take(&RUN), None);
            tracing::Span::none()
        });
        assert!(taken);
        let (_, taken) = offer(SpanPath::Full, tracing::Span::none);
        assert!(!taken);
        assert_eq!(take(&RUN), None, "it is offered no longer");
    }

    #[test]
    fn handed_data_goes_only_into_the_first_span_inside() {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let tracer = Handing(provider.tracer("test"));
        let handed = |from: i64| Handed {
            attributes: vec![KeyValue::new("from", from)],
            links: Vec::new(),
            began: Some(SystemTime::UNIX_EPOCH),
        };
        hand(handed(1), || {
            drop(tracer.start("first"));
            drop(tracer.start("second"));
        });
        hand(handed(2), || ());
        drop(tracer.start("after"));
        let spans = exporter.get_finished_spans().unwrap_or_default();
        let began: Vec<_> = spans
            .iter()
            .map(|span| (&*span.name, span.attributes.len(), span.start_time == SystemTime::UNIX_EPOCH))
            .collect();
        assert_eq!(began, [("first", 1, true), ("second", 0, false), ("after", 0, false)]);
    }

    #[test]
    fn whatever_is_handed_is_dropped() {
        let held: Arc<str> = "held".into();
        let handed = || Handed {
            attributes: vec![KeyValue::new("key", held.clone())],
            links: Vec::new(),
            began: None,
        };
        hand(handed(), || hand(handed(), || ()));
        hand(handed(), || drop(take_handed()));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
