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

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider};

    use super::*;

    #[test]
    fn a_span_that_is_not_recorded_leaves_its_identity_for_its_children() {
        for (sampler, is_kept) in [(Sampler::AlwaysOn, true), (Sampler::AlwaysOff, false)] {
            let exporter = InMemorySpanExporter::default();
            let provider = SdkTracerProvider::builder()
                .with_sampler(Sampler::ParentBased(Box::new(sampler)))
                .with_simple_exporter(exporter.clone())
                .build();
            let tracer = provider.tracer("test");
            let started = tracer.start_in(&Context::new(), SpanBuilder::from_name("run"));
            let run = started.context.span().span_context().clone();
            let child = tracer.build_with_context(SpanBuilder::from_name("child"), &started.context);
            assert_eq!(started.is_recorded, is_kept);
            assert!(run.is_valid() && !run.is_remote() && run.is_sampled() == is_kept);
            assert_eq!(child.span_context().trace_id(), run.trace_id());
            assert_eq!(child.is_recording(), is_kept);
            drop((child, started));
            assert_eq!(exporter.get_finished_spans().unwrap_or_default().len(), if is_kept { 2 } else { 0 });
        }
    }
}
