//! A user's tracer, of any type.

use opentelemetry::{
    Context,
    trace::{Span, SpanBuilder, TraceContextExt, Tracer},
};

/// A tracer that puts the spans it starts into a context. Unlike OpenTelemetry's `BoxedTracer` it boxes a span once, and a span that
/// is not recorded not at all.
pub(crate) trait AnyTracer: Send + Sync {
    /// Starts a span below `parent`.
    fn start_in(&self, parent: &Context, builder: SpanBuilder) -> Started;
}

/// A span that was started.
pub(crate) struct Started {
    /// The parent's context with the span in it. Of a span that is not recorded it has the identity alone.
    pub(crate) context: Context,
    pub(crate) is_recorded: bool,
}

impl<T> AnyTracer for T
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start_in(&self, parent: &Context, builder: SpanBuilder) -> Started {
        let span = self.build_with_context(builder, parent);
        let is_recorded = span.is_recording();
        let context = if is_recorded {
            parent.with_span(span)
        } else {
            parent.with_remote_span_context(span.span_context().clone())
        };
        Started { context, is_recorded }
    }
}
