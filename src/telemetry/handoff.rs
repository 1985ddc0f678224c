//! How a run's span gets past the parts of tracing-opentelemetry that cost most.
//!
//! All on one thread, between [`ManagedSpan`](super::ManagedSpan) and the exporting layer:
//!
//! ```text
//! offer ── span! ── on_new_span: take ─► inner layer, without the fields
//! hand  ── get_otel_context ── inner layer ── Handing::build_with_context: the attributes are put in
//! at    ── enter, exit, record ── on_enter ..: is_at, so the inner layer is not asked; whoever said `at` does it itself
//! ```
//!
//! On [`SpanPath::Direct`] the inner layer never hears of the span: it is taken and not handed on.

use std::{
    cell::{Cell, RefCell},
    num::NonZeroU64,
    time::SystemTime,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanBuilder, Tracer},
};
use tracing::{Metadata, span::Id};

use super::{SpanPath, contract};

thread_local! {
    static OFFERED: Cell<Option<SpanPath>> = const { Cell::new(None) };
    static HANDED: RefCell<Option<Handed>> = const { RefCell::new(None) };
    static AT: Cell<Option<NonZeroU64>> = const { Cell::new(None) };
}

/// What a span begins with.
pub(super) struct Handed {
    pub(super) attributes: Vec<KeyValue>,
    pub(super) links: Vec<Link>,
    pub(super) began: Option<SystemTime>,
}

/// Makes a run's span; answers beside it whether our exporting layer has taken it.
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
            HANDED.take();
        }
    }
    HANDED.set(Some(handed));
    let _leftover = Leftover;
    build()
}

/// While `inside`, the exporting layer leaves the span of this id to its caller.
pub(super) fn at<R>(id: Option<&Id>, inside: impl FnOnce() -> R) -> R {
    struct Outer(Option<NonZeroU64>);
    impl Drop for Outer {
        fn drop(&mut self) {
            AT.set(self.0);
        }
    }
    let _outer = Outer(AT.replace(id.map(Id::into_non_zero_u64)));
    inside()
}

pub(super) fn is_at(id: &Id) -> bool {
    AT.get() == Some(id.into_non_zero_u64())
}

/// The user's tracer, and what was handed over.
#[derive(Clone, Debug)]
pub(super) struct Handing<T>(pub(super) T);

impl<T: Tracer> Tracer for Handing<T> {
    type Span = T::Span;

    fn build_with_context(&self, mut builder: SpanBuilder, parent: &Context) -> T::Span {
        if let Some(Handed { attributes, links, began }) = HANDED.take() {
            builder.attributes = Some(attributes);
            builder.start_time = began.or(builder.start_time);
            if !links.is_empty() {
                builder.links = Some(links);
            }
        }
        self.0.build_with_context(builder, parent)
    }
}
