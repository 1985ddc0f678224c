//! A span of ours: a `tracing` span that tracing-opentelemetry exports, or, where no such layer sees it, an
//! OpenTelemetry span through the tracer at hand. Never both.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use opentelemetry::{
    Context as OtelContext, ContextGuard, KeyValue,
    global::BoxedTracer,
    trace::{Link, SpanBuilder, SpanContext, Status, TraceContextExt, Tracer},
};
use tracing::{
    Span,
    span::{Entered, Id},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    handoff::{self, Handed},
    installed,
};
use crate::emit::handoff::SpanPath;

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
    path: Path,
}

/// Who exports a span.
#[derive(Debug)]
enum Path {
    /// Nobody: there is neither a layer that sees it nor a tracer.
    None,
    /// A tracing-opentelemetry layer, on its own.
    Layer,
    /// Our layer; what is cheaper outside of it is done here, through the span's context.
    Handed(OtelContext),
    /// We do, through a tracer: no tracing-opentelemetry layer sees it.
    Direct(OtelContext),
}

/// Makes a [`ManagedSpan`]: `$name` and the fields as in `tracing::span!`, the parent as a [`SpanParent`].
///
/// A macro, because a span's callsite must name its fields.
macro_rules! managed_span {
    ($parent:expr, $name:expr, { $($fields:tt)* }) => {
        match $parent {
            $crate::emit::SpanParent::Root => tracing::span!(
                target: $crate::contract::SCOPE, parent: None, tracing::Level::INFO, $name, $($fields)*
            ),
            $crate::emit::SpanParent::Current => tracing::span!(
                target: $crate::contract::SCOPE, tracing::Level::INFO, $name, $($fields)*
            ),
        }
    };
}
pub(crate) use managed_span;

/// What a [`ManagedSpan`] begins with, wherever it is exported.
pub(crate) struct SpanStart<'a, A> {
    pub(crate) parent: &'a SpanParent,
    pub(crate) links: Vec<SpanContext>,
    /// The tracer that is asked before the layer's, where no tracing-opentelemetry layer sees the span.
    pub(crate) own_tracer: Option<&'a Arc<BoxedTracer>>,
    pub(crate) name: Cow<'static, str>,
    /// When it began, where that is not now.
    pub(crate) began: Option<SystemTime>,
    /// Asked where the span's own fields are not exported.
    pub(crate) attributes: A,
}

impl<A: FnOnce() -> Vec<KeyValue>> SpanStart<'_, A> {
    /// Starts `span`; or, where no tracing-opentelemetry layer sees it, one through the tracer at hand, if there is one.
    pub(crate) fn start(self, span: Span) -> ManagedSpan {
        self.links.iter().for_each(|link| span.add_link(link.clone()));
        if otel_context_of(&span).is_some() {
            return ManagedSpan { span, path: Path::Layer };
        }
        self.start_directly(span)
    }

    /// Starts a span that [`offer`](super::offer) has made for this path.
    pub(crate) fn start_offered(mut self, (span, taken): (Span, bool), path: SpanPath) -> ManagedSpan {
        if !taken {
            return self.start(span);
        }
        if path == SpanPath::Direct {
            // By the tracer of the layer that took it, as on the full path.
            self.own_tracer = None;
            return self.start_directly(span);
        }
        let links = links(self.links);
        let handed = Handed { attributes: (self.attributes)(), links, began: self.began };
        // Asked for its context, the layer builds the span now.
        let context = handoff::hand(handed, || otel_context_of(&span));
        let path = context.map_or(Path::None, Path::Handed);
        ManagedSpan { span, path }
    }

    fn start_directly(self, span: Span) -> ManagedSpan {
        let tracer = self.own_tracer.cloned().or_else(|| installed().map(|installed| installed.tracer));
        let Some(tracer) = tracer else { return ManagedSpan { span, path: Path::None } };
        let parent = match self.parent {
            SpanParent::Root => OtelContext::new(),
            SpanParent::Current => OtelContext::current(),
        };
        let mut builder = SpanBuilder::from_name(self.name)
            .with_attributes((self.attributes)())
            .with_links(links(self.links));
        builder.start_time = self.began;
        // The tracer is the user's code: a panic in it must not become the task's.
        let started = std::panic::AssertUnwindSafe(|| tracer.build_with_context(builder, &parent));
        let context = std::panic::catch_unwind(started).map_or(parent.clone(), |span| parent.with_span(span));
        ManagedSpan { span, path: Path::Direct(context) }
    }
}

fn links(contexts: Vec<SpanContext>) -> Vec<Link> {
    // Nearly all have none, and to collect nothing in place of nothing takes its time.
    if contexts.is_empty() {
        return Vec::new();
    }
    contexts.into_iter().map(Link::with_context).collect()
}

impl ManagedSpan {
    /// Enters the span on this thread, as `tracing` and as OpenTelemetry's current context.
    pub(crate) fn enter(&self) -> EnteredSpan<'_> {
        let context = self.context();
        let id = context.and_then(|_| self.span.id());
        let context = context.map(|context| context.clone().attach());
        let entered = handoff::at(id.as_ref(), || self.span.enter());
        EnteredSpan { entered: Some(entered), id, _context: context }
    }

    /// The OpenTelemetry context with this span in it, where it is at hand.
    fn context(&self) -> Option<&OtelContext> {
        match &self.path {
            Path::Handed(context) | Path::Direct(context) => Some(context),
            Path::Layer | Path::None => None,
        }
    }

    /// The OpenTelemetry context with this span in it, if it is exported.
    pub(crate) fn otel_context(&self) -> Option<OtelContext> {
        match &self.path {
            Path::Layer => otel_context_of(&self.span),
            _ => self.context().cloned(),
        }
    }

    /// The span's identity, for links and logs.
    pub(crate) fn span_context(&self) -> Option<SpanContext> {
        let context = self.otel_context()?;
        let span_context = context.span().span_context().clone();
        span_context.is_valid().then_some(span_context)
    }

    /// Records a text attribute; for a `tracing` span, into the field of that name where it has one.
    pub(crate) fn record(&self, key: &'static str, value: &'static str) {
        let Some(context) = self.context() else {
            self.span.record(key, value);
            return;
        };
        handoff::at(self.span.id().as_ref(), || self.span.record(key, value));
        context.span().set_attribute(KeyValue::new(key, value));
    }

    /// Sets an attribute that `tracing` fields cannot hold, such as a list. Seen by OpenTelemetry alone.
    pub(crate) fn set_attribute(&self, attribute: KeyValue) {
        match self.context() {
            Some(context) => context.span().set_attribute(attribute),
            None => self.span.set_attribute(attribute.key, attribute.value),
        }
    }

    /// Marks the span as failed.
    pub(crate) fn fail(&self, description: &str) {
        let status = Status::error(description.to_owned());
        match self.context() {
            Some(context) => context.span().set_status(status),
            None => self.span.set_status(status),
        }
    }

    /// Ends the span now. One that a layer exports ends with the last reference to it, as of when it was last left.
    pub(crate) fn end(self) {
        let Self { span, path } = self;
        if let Path::Direct(context) = &path {
            context.span().end();
            let id = span.id();
            handoff::at(id.as_ref(), || drop(span));
        }
    }
}

/// A `tracing` span's OpenTelemetry context, if a tracing-opentelemetry layer sees it.
fn otel_context_of(span: &Span) -> Option<OtelContext> {
    span.with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch)).flatten()
}

/// While it lives, its span is the current one of this thread.
#[must_use = "the span is left when this is dropped"]
pub(crate) struct EnteredSpan<'a> {
    entered: Option<Entered<'a>>,
    /// Where it is left to us to make it OpenTelemetry's current context.
    id: Option<Id>,
    _context: Option<ContextGuard>,
}

impl EnteredSpan<'_> {
    /// Leaves the span for the last time: that is when it ends.
    pub(crate) fn leave_last(mut self) {
        self.id = None;
    }
}

impl Drop for EnteredSpan<'_> {
    fn drop(&mut self) {
        // The `tracing` span is left before the OpenTelemetry context is detached.
        handoff::at(self.id.as_ref(), || drop(self.entered.take()));
    }
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
    let span = tracing::info_span!(target: crate::contract::SCOPE, "otel_tasks.probe");
    span.with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch).is_some())
        == Some(true)
}
