//! A span of ours: a `tracing` span that tracing-opentelemetry exports, or, where no such layer sees it, an
//! OpenTelemetry span through the tracer at hand. Never both.

use std::borrow::Cow;

use opentelemetry::{
    Context as OtelContext, ContextGuard, KeyValue,
    global::BoxedTracer,
    trace::{Link, SpanBuilder, SpanContext, Status, TraceContextExt, Tracer},
};
use std::sync::Arc;
use tracing::{Span, span::Entered};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::installed;

/// Where a span hangs.
#[derive(Debug, Clone, Default)]
pub(crate) enum SpanParent {
    /// A new trace.
    #[default]
    Root,
    /// The span current where the span is made.
    Current,
}

/// A span of ours. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct ManagedSpan {
    span: Span,
    /// Set where tracing-opentelemetry does not export the span.
    direct: Option<OtelContext>,
}

/// Makes a [`ManagedSpan`]: `$name` and the fields as in `tracing::span!`, the parent as a [`SpanParent`].
///
/// A macro, because a span's callsite must name its fields.
macro_rules! managed_span {
    ($parent:expr, $name:expr, { $($fields:tt)* }) => {
        match $parent {
            $crate::telemetry::SpanParent::Root => tracing::span!(
                target: $crate::telemetry::contract::SCOPE, parent: None, tracing::Level::INFO, $name, $($fields)*
            ),
            $crate::telemetry::SpanParent::Current => tracing::span!(
                target: $crate::telemetry::contract::SCOPE, tracing::Level::INFO, $name, $($fields)*
            ),
        }
    };
}
pub(crate) use managed_span;

impl ManagedSpan {
    /// Starts `span`, with `links`; or, where no tracing-opentelemetry layer sees it, a span of `name` and `attributes`
    /// through the tracer at hand, if there is one.
    pub(crate) fn start(
        span: Span,
        parent: &SpanParent,
        links: Vec<SpanContext>,
        own_tracer: Option<&Arc<BoxedTracer>>,
        name: impl Into<Cow<'static, str>>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Self {
        links.iter().for_each(|link| span.add_link(link.clone()));
        let exported = span.with_subscriber(|(id, dispatch)| {
            tracing_opentelemetry::get_otel_context(id, dispatch).is_some()
        });
        if exported == Some(true) {
            return Self { span, direct: None };
        }
        let tracer = own_tracer.cloned().or_else(|| installed().map(|installed| installed.tracer));
        let direct = tracer.map(|tracer| {
            let parent = match parent {
                SpanParent::Root => OtelContext::new(),
                SpanParent::Current => OtelContext::current(),
            };
            let builder = SpanBuilder::from_name(name)
                .with_attributes(attributes())
                .with_links(links.into_iter().map(Link::with_context).collect());
            // The tracer is the user's code: a panic in it must not become the task's.
            let started = std::panic::AssertUnwindSafe(|| tracer.build_with_context(builder, &parent));
            std::panic::catch_unwind(started).map_or(parent.clone(), |span| parent.with_span(span))
        });
        Self { span, direct }
    }

    /// Enters the span on this thread, as `tracing` and as OpenTelemetry's current context.
    pub(crate) fn enter(&self) -> EnteredSpan<'_> {
        let context = self.direct.clone().map(OtelContext::attach);
        EnteredSpan { _context: context, _span: self.span.enter() }
    }

    /// The OpenTelemetry context with this span in it, if it is exported.
    pub(crate) fn otel_context(&self) -> Option<OtelContext> {
        self.direct.clone().or_else(|| {
            self.span
                .with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch))
                .flatten()
        })
    }

    /// The span's identity, for links and logs.
    pub(crate) fn span_context(&self) -> Option<SpanContext> {
        let context = self.otel_context()?;
        let span_context = context.span().span_context().clone();
        span_context.is_valid().then_some(span_context)
    }

    /// Records a text attribute; for a `tracing` span, into the field of that name where it has one.
    pub(crate) fn record(&self, key: &'static str, value: &str) {
        self.span.record(key, value);
        if let Some(direct) = &self.direct {
            direct.span().set_attribute(KeyValue::new(key, value.to_owned()));
        }
    }

    /// Sets an attribute that `tracing` fields cannot hold, such as a list. Seen by OpenTelemetry alone.
    pub(crate) fn set_attribute(&self, attribute: KeyValue) {
        match &self.direct {
            Some(direct) => direct.span().set_attribute(attribute),
            None => self.span.set_attribute(attribute.key, attribute.value),
        }
    }

    /// Marks the span as failed.
    pub(crate) fn fail(&self, description: &str) {
        match &self.direct {
            Some(direct) => direct.span().set_status(Status::error(description.to_owned())),
            None => self.span.set_status(Status::error(description.to_owned())),
        }
    }

    /// Ends the span now, whoever still holds a reference to its context.
    pub(crate) fn end(self) {
        if let Some(direct) = &self.direct {
            direct.span().end();
        }
    }
}

/// While it lives, its span is the current one of this thread.
#[must_use = "the span is left when this is dropped"]
pub(crate) struct EnteredSpan<'a> {
    // Dropped first to last: the `tracing` span is left before the OpenTelemetry context is detached.
    _span: Entered<'a>,
    _context: Option<ContextGuard>,
}

/// Runs `emit` with `context` as the current OpenTelemetry context, so that the log records it emits carry its trace.
///
/// The record itself is emitted without a `tracing` parent: inside the span, tracing-opentelemetry would turn it into a
/// span event as well, and an ERROR record would overwrite the span's status.
///
/// A subscriber that panics loses its record and nothing else.
pub(crate) fn with_trace(context: Option<OtelContext>, emit: impl FnOnce()) {
    let _attached = context.map(OtelContext::attach);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(emit));
}

/// Whether a span of this crate's target and level would be exported by a tracing-opentelemetry layer.
pub(crate) fn probe_is_exported() -> bool {
    // Suppressed: the probe itself must not be exported.
    let _suppressed = OtelContext::enter_telemetry_suppressed_scope();
    let span = tracing::info_span!(target: super::contract::SCOPE, "otel_tasks.probe");
    span.with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch).is_some())
        == Some(true)
}
