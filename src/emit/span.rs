//! A span of this crate: a `tracing` span that tracing-opentelemetry exports. If no such layer sees it, it is an
//! OpenTelemetry span through the tracer at hand. It is never both.

use std::{
    borrow::Cow,
    mem::ManuallyDrop,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context as OtelContext, ContextGuard, KeyValue, SpanId, TraceId,
    trace::{Link, SpanBuilder, SpanContext, Status, TraceContextExt},
};
use tracing::{
    Span,
    span::{Entered, Id},
};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    exemplars::identity_if_exported,
    handoff::{self, Handed},
    installed,
    layer::tracer_in,
    tracer::{AnyTracer, Started},
};
use crate::emit::handoff::SpanPath;

/// The parent of a span.
#[derive(Debug, Default)]
pub(crate) enum SpanParent {
    /// A new trace.
    #[default]
    Root,
    /// The span current where the span is made.
    Current,
    /// A span that was known before, whatever is current where the span is made.
    Known(Box<KnownParent>),
}

impl SpanParent {
    /// The span that is current here, also where a layer leaves OpenTelemetry's current context alone.
    pub(crate) fn current() -> Self {
        if OtelContext::map_current(OtelContext::has_active_span) {
            return Self::Current;
        }
        let known = KnownParent::current();
        if known.context.has_active_span() { Self::Known(Box::new(known)) } else { Self::Current }
    }

    /// Returns true if the span begins a new trace if it is made here.
    pub(crate) fn is_root(&self) -> bool {
        !self.with_context(OtelContext::has_active_span)
    }

    /// The context whose span is the parent; without a span for a new trace.
    fn context(&self) -> OtelContext {
        self.with_context(Clone::clone)
    }

    fn with_context<R>(&self, f: impl FnOnce(&OtelContext) -> R) -> R {
        match self {
            Self::Root => f(&OtelContext::new()),
            Self::Current => OtelContext::map_current(f),
            Self::Known(parent) => f(&parent.context),
        }
    }

    /// The parent's `tracing` span, if that is not the current one.
    pub(crate) fn tracing_id(&self) -> Option<Id> {
        match self {
            Self::Root | Self::Current => None,
            Self::Known(parent) => parent.span.id(),
        }
    }

    /// Sets the parent of `span` in a tracing-opentelemetry layer, if it is not the current span.
    fn set_on(&self, span: &Span) {
        if let Self::Known(parent) = self {
            // Without such a layer the span is exported by us, or by nobody.
            let _ = span.set_parent(parent.context.clone());
        }
    }
}

/// A parent that is known before the span is made, which may be on another thread.
#[derive(Debug)]
pub(crate) struct KnownParent {
    /// None for a parent in another process.
    span: Span,
    context: OtelContext,
}

impl KnownParent {
    /// The span of that context, which may be of another process.
    pub(crate) fn of(context: OtelContext) -> Self {
        Self { span: Span::none(), context }
    }

    /// The span that is current here.
    pub(crate) fn current() -> Self {
        let (span, context) = (Span::current(), OtelContext::current());
        // A tracing-opentelemetry layer of the user's may leave OpenTelemetry's current context alone.
        let of_span = if context.has_active_span() { None } else { otel_context_of(&span) };
        Self { span, context: of_span.unwrap_or(context) }
    }
}

/// A span of ours. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct ManagedSpan {
    span: Span,
    path: Path,
}

/// The exporter of a span.
#[derive(Debug)]
enum Path {
    /// None: there is neither a layer that receives the span nor a tracer.
    None,
    /// A tracing-opentelemetry layer, on its own.
    Layer,
    /// Our layer; what is cheaper outside of it is done here, through the span's context.
    Handed(OtelContext),
    /// We do, through a tracer: no tracing-opentelemetry layer sees it.
    Direct(OtelContext),
    /// None: the tracer does not record the span. Spans inside it continue its trace.
    Unrecorded(OtelContext),
    /// None. Spans inside it continue the parent's trace.
    Parent(OtelContext),
}

/// Makes a [`ManagedSpan`]: `$name` and the fields as in `tracing::span!`, the parent as a [`SpanParent`].
///
/// A macro, because a span's callsite must name its fields.
macro_rules! managed_span {
    ($parent:expr, $name:expr, { $($fields:tt)* }) => {
        match $parent {
            $crate::emit::SpanParent::Current => tracing::span!(
                target: $crate::contract::SCOPE, tracing::Level::INFO, $name, $($fields)*
            ),
            ref parent => tracing::span!(
                target: $crate::contract::SCOPE, parent: parent.tracing_id(), tracing::Level::INFO, $name, $($fields)*
            ),
        }
    };
}
pub(crate) use managed_span;

/// The initial values of a [`ManagedSpan`], for any exporter.
pub(crate) struct SpanStart<'a, A> {
    pub(crate) parent: &'a SpanParent,
    pub(crate) links: Vec<SpanContext>,
    /// The tracer that is asked before the layer's, where no tracing-opentelemetry layer sees the span.
    pub(crate) own_tracer: Option<&'a Arc<dyn AnyTracer>>,
    pub(crate) name: Cow<'static, str>,
    /// The time at which it began, where that is not now.
    pub(crate) began: Option<SystemTime>,
    /// Asked where the span's own fields are not exported.
    pub(crate) attributes: A,
}

impl<A: FnOnce() -> Vec<KeyValue>> SpanStart<'_, A> {
    /// Starts `span`; or, where no tracing-opentelemetry layer sees it, one through the tracer at hand, if there is one.
    pub(crate) fn start(self, span: Span) -> ManagedSpan {
        self.parent.set_on(&span);
        self.links.iter().for_each(|link| span.add_link(link.clone()));
        if otel_context_of(&span).is_some() {
            return ManagedSpan { span, path: Path::Layer };
        }
        self.start_directly(span)
    }

    /// Starts a span that [`offer`](super::offer) has made for this path.
    pub(crate) fn start_offered(self, (span, taken): (Span, bool), path: SpanPath) -> ManagedSpan {
        if !taken {
            return self.start(span);
        }
        if path == SpanPath::Direct {
            // By the tracer of the layer that took it, as on the full path.
            let path = span.with_subscriber(|(_, dispatch)| self.start_through(tracer_in(dispatch)));
            return ManagedSpan { span, path: path.unwrap_or(Path::None) };
        }
        self.parent.set_on(&span);
        let links = links(self.links);
        let handed = Handed { attributes: (self.attributes)(), links, began: self.began };
        // Asked for its context, the layer builds the span now.
        let context = handoff::hand(handed, || otel_context_of(&span));
        let path = context.map_or_else(|| Path::unseen(self.parent.context()), Path::Handed);
        ManagedSpan { span, path }
    }

    fn start_directly(self, span: Span) -> ManagedSpan {
        let tracer = self.own_tracer.cloned().or_else(|| installed().map(|installed| installed.tracer));
        ManagedSpan { span, path: self.start_through(tracer.as_ref()) }
    }

    fn start_through(self, tracer: Option<&Arc<dyn AnyTracer>>) -> Path {
        let parent = self.parent.context();
        let Some(tracer) = tracer else { return Path::unseen(parent) };
        let links = links(self.links);
        let builder = SpanBuilder {
            start_time: self.began,
            attributes: Some((self.attributes)()),
            links: (!links.is_empty()).then_some(links),
            ..SpanBuilder::from_name(self.name)
        };
        // The tracer is the user's code: a panic in it must not become the task's.
        let started = std::panic::AssertUnwindSafe(|| tracer.start_in(&parent, builder));
        match std::panic::catch_unwind(started) {
            Ok(Started { context, is_recorded: true }) => Path::Direct(context),
            Ok(Started { context, is_recorded: false }) => Path::Unrecorded(context),
            Err(_) => Path::unseen(parent),
        }
    }
}

fn links(contexts: Vec<SpanContext>) -> Vec<Link> {
    // Nearly all have none, and to collect nothing in place of nothing takes its time.
    if contexts.is_empty() {
        return Vec::new();
    }
    contexts.into_iter().map(Link::with_context).collect()
}

impl Path {
    /// Returns the path of a span that nothing exports.
    fn unseen(parent: OtelContext) -> Self {
        if parent.has_active_span() { Self::Parent(parent) } else { Self::None }
    }
}

impl ManagedSpan {
    /// Returns true if a subscriber or an exporter sees the span.
    pub(crate) fn is_seen(&self) -> bool {
        !self.span.is_none() || matches!(self.path, Path::Layer | Path::Handed(_) | Path::Direct(_))
    }

    /// Enters the span on this thread, as `tracing` and as OpenTelemetry's current context.
    // Inlined with `leave`, so that the parts of the guard stay in registers.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn enter(&self) -> EnteredSpan<'_> {
        let context = self.inside().map(|context| context.clone().attach());
        let entered = handoff::at(self.handed_id(), || self.span.enter());
        EnteredSpan { span: self, entered: Some(entered), context }
    }

    /// The id of the span, if its OpenTelemetry context is made current here and not by a layer.
    #[inline]
    fn handed_id(&self) -> Option<Id> {
        self.context().and_then(|_| self.span.id())
    }

    /// The OpenTelemetry context with this span in it, where it is at hand.
    #[inline]
    fn context(&self) -> Option<&OtelContext> {
        match &self.path {
            Path::Handed(context) | Path::Direct(context) | Path::Unrecorded(context) => Some(context),
            Path::Layer | Path::None | Path::Parent(_) => None,
        }
    }

    /// The OpenTelemetry context that we make current inside: with this span in it, or its parent if it is not exported.
    #[inline]
    fn inside(&self) -> Option<&OtelContext> {
        match &self.path {
            Path::Parent(context) => Some(context),
            _ => self.context(),
        }
    }

    /// The OpenTelemetry context with this span in it, or with its parent if it is not exported.
    pub(crate) fn otel_context(&self) -> Option<OtelContext> {
        match &self.path {
            Path::Layer => otel_context_of(&self.span),
            _ => self.inside().cloned(),
        }
    }

    /// The span's identity, for links and logs.
    #[inline]
    pub(crate) fn span_context(&self) -> Option<SpanContext> {
        let of_layer = match &self.path {
            Path::Layer => otel_context_of(&self.span),
            _ => None,
        };
        let context = of_layer.as_ref().or_else(|| self.inside())?;
        let span_context = context.span().span_context().clone();
        span_context.is_valid().then_some(span_context)
    }

    /// Returns the span's identity, if the span is exported after a run of this duration, which may be a reason to export it.
    pub(crate) fn identity_if_exported(
        &self,
        failed: bool,
        took: Option<Duration>,
    ) -> Option<(TraceId, SpanId)> {
        let of_layer = match &self.path {
            Path::Layer => otel_context_of(&self.span),
            _ => None,
        };
        let context = of_layer.as_ref().or_else(|| self.context())?;
        identity_if_exported(&context.span(), failed, took)
    }

    /// Records a text attribute; for a `tracing` span, into the field of that name where it has one.
    pub(crate) fn record(&self, key: &'static str, value: &'static str) {
        if self.context().is_none() {
            self.span.record(key, value);
            return;
        }
        handoff::at(self.span.id(), || self.span.record(key, value));
        if let Path::Handed(context) | Path::Direct(context) = &self.path {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets an attribute that `tracing` fields cannot hold, such as a list. Seen by OpenTelemetry alone.
    pub(crate) fn set_attribute(&self, attribute: KeyValue) {
        match &self.path {
            Path::Handed(context) | Path::Direct(context) => context.span().set_attribute(attribute),
            Path::Unrecorded(_) => {}
            Path::Layer | Path::None | Path::Parent(_) => {
                self.span.set_attribute(attribute.key, attribute.value);
            }
        }
    }

    /// Marks the span as failed.
    pub(crate) fn fail(&self, description: &str) {
        let status = Status::error(description.to_owned());
        match &self.path {
            Path::Handed(context) | Path::Direct(context) => context.span().set_status(status),
            Path::Unrecorded(_) => {}
            Path::Layer | Path::None | Path::Parent(_) => self.span.set_status(status),
        }
    }

    /// Takes the span out of its room.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self { span: Span::none(), path: Path::None })
    }

    /// Ends the span now. A span that a layer exports ends with its last reference, with the time of its last exit.
    pub(crate) fn end(self) {
        let Self { span, path } = self;
        match &path {
            Path::Direct(context) => context.span().end(),
            Path::Unrecorded(_) => {}
            Path::None | Path::Layer | Path::Handed(_) | Path::Parent(_) => return,
        }
        let id = span.id();
        handoff::at(id, || drop(span));
    }
}

/// A `tracing` span's OpenTelemetry context, if a tracing-opentelemetry layer sees it.
fn otel_context_of(span: &Span) -> Option<OtelContext> {
    span.with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch)).flatten()
}

/// While it lives, its span is the current one of this thread.
#[must_use = "the span is left when this is dropped"]
pub(crate) struct EnteredSpan<'a> {
    span: &'a ManagedSpan,
    entered: Option<Entered<'a>>,
    context: Option<ContextGuard>,
}

impl EnteredSpan<'_> {
    /// Leaves the span. `is_last`: true if it is not entered again. A layer that exports the span ends it with the time of its last exit.
    // Without the guard's destructor, which is a call.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn leave(self, is_last: bool) {
        ManuallyDrop::new(self).exit(is_last);
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn exit(&mut self, is_last: bool) {
        let (entered, _context) = (self.entered.take(), self.context.take());
        let id = match &self.span.path {
            // The layer notes the time itself.
            Path::Handed(_) if is_last => None,
            _ => self.span.handed_id(),
        };
        // The `tracing` span is left before the OpenTelemetry context is detached.
        handoff::at(id, || drop(entered));
    }
}

impl Drop for EnteredSpan<'_> {
    fn drop(&mut self) {
        self.exit(false);
    }
}

/// Runs `emit` with `context` as the current OpenTelemetry context, so that the log records it emits carry its trace.
///
/// The record itself has no `tracing` parent. Inside the span, tracing-opentelemetry would also make a span event of it, and an
/// ERROR record would overwrite the span's status.
///
/// A subscriber that panics loses its record and nothing else.
pub(crate) fn with_trace(context: Option<OtelContext>, emit: impl FnOnce()) {
    let _attached = context.map(OtelContext::attach);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(emit));
}

/// Returns true if a span of this crate's target and level would be exported by a tracing-opentelemetry layer.
pub(crate) fn probe_is_exported() -> bool {
    // Suppressed: the probe itself must not be exported.
    let _suppressed = OtelContext::enter_telemetry_suppressed_scope();
    let span = tracing::info_span!(target: crate::contract::SCOPE, "otel_tasks.probe");
    span.with_subscriber(|(id, dispatch)| tracing_opentelemetry::get_otel_context(id, dispatch).is_some())
        == Some(true)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    use super::*;

    fn managed(span: Span, sampler: Sampler) -> ManagedSpan {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let tracer: Arc<dyn AnyTracer> = Arc::new(provider.tracer("test"));
        let start = SpanStart {
            parent: &SpanParent::Root,
            links: Vec::new(),
            own_tracer: Some(&tracer),
            name: "span".into(),
            began: None,
            attributes: Vec::new,
        };
        start.start(span)
    }

    #[test]
    fn span_is_seen_by_a_subscriber_or_an_exporter() {
        let recorded = managed(Span::none(), Sampler::AlwaysOn);
        assert!(recorded.is_seen());
        let unrecorded = managed(Span::none(), Sampler::AlwaysOff);
        assert!(!unrecorded.is_seen());
        let inside = unrecorded.context().expect("it has an identity").clone();
        for path in [Path::None, Path::Parent(inside)] {
            assert!(!ManagedSpan { span: Span::none(), path }.is_seen());
        }
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            let span = managed(tracing::info_span!("span"), Sampler::AlwaysOff);
            assert!(span.is_seen(), "the subscriber sees it");
        });
    }
}
