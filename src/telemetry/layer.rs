//! The layer that a user installs in a `tracing` subscriber.
//!
//! `task.run` and the manager's own spans are ordinary `tracing` spans, exported by tracing-opentelemetry: so every
//! idiom that works on a user's span works on ours. This module adds what is missing around it:
//!
//! - [`layer`] is a tracing-opentelemetry layer, tuned, plus a marker that keeps the tracer at hand;
//! - [`task_layer`] is the marker alone, for those who have a tracing-opentelemetry layer of their own;
//! - through the marker the manager finds the tracer for spans that no tracing-opentelemetry layer sees (an `EnvFilter`
//!   of `warn`, say) and exports them itself;
//! - a second tracing-opentelemetry layer in one registry would panic at the first span; [`layer`] notices the other one
//!   when the subscriber is made, stands back, and says so as a [`LayerConflict`].

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use opentelemetry::{
    Context as OtelContext,
    global::{BoxedTracer, ObjectSafeTracer},
    trace::Tracer,
};
use tracing::{
    Dispatch, Level, Metadata, Subscriber, callsite::Identifier, field::FieldSet, metadata::Kind,
    span::Attributes, subscriber::Interest,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// What is wrong with the way the layers were put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerConflict {
    /// The subscriber has a tracing-opentelemetry layer of its own beside [`layer`]. Ours stood back; use
    /// [`task_layer`].
    OtherOpenTelemetryLayer,
    /// The subscriber has [`layer`] twice. One of them stood back.
    Twice,
}

impl std::fmt::Display for LayerConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherOpenTelemetryLayer => {
                "the subscriber has a tracing-opentelemetry layer beside otel_tasks::layer; spans are exported by that \
                 one alone: use otel_tasks::task_layer beside it"
            }
            Self::Twice => "the subscriber has otel_tasks::layer twice; spans are exported by one of them alone",
        })
    }
}

impl std::error::Error for LayerConflict {}

/// A complete layer: exports every span of the subscriber, the tasks' and the user's, through `tracer`.
///
/// It is a tracing-opentelemetry layer without the attributes that cost most and tell least (thread, code location,
/// target, busy and idle time); spans, parents, links, `Span::current().context()`, `set_attribute`, `add_link` and
/// events behave exactly as with the plain layer. Install it once; beside a tracing-opentelemetry layer of your own
/// install [`task_layer`] instead. Both by mistake: ours stands back and [`setup_task_instrumentation`] says so.
///
/// ```
/// use tracing_subscriber::prelude::*;
/// # let tracer = opentelemetry::trace::noop::NoopTracer::new();
/// let subscriber = tracing_subscriber::registry().with(otel_tasks::layer(tracer));
/// # drop(subscriber);
/// ```
///
/// [`setup_task_instrumentation`]: crate::TaskManager::setup_task_instrumentation
pub fn layer<S, T>(tracer: T) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: Tracer + Clone + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    let marker = Marker::new(tracer.clone(), true);
    let filter = UnlessStoodBack(marker.state.clone());
    let exporter = tracing_opentelemetry::OpenTelemetryLayer::new(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(filter);
    marker.and_then(exporter)
}

/// The part of [`layer`] to install beside a tracing-opentelemetry layer of your own.
///
/// Your layer exports the tasks' spans like any other; this one lends the manager `tracer` for those that your layer
/// does not see because a filter keeps them from it.
pub fn task_layer<S, T>(tracer: T) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    Marker::new(tracer, false)
}

/// What of this crate the current subscriber carries.
#[derive(Clone)]
pub(crate) struct Installed {
    pub(crate) tracer: Arc<BoxedTracer>,
    pub(crate) conflict: Option<LayerConflict>,
}

/// Looks for [`layer`] or [`task_layer`] in the current subscriber.
pub(crate) fn installed() -> Option<Installed> {
    tracing::dispatcher::get_default(|dispatch| {
        let marker = dispatch.downcast_ref::<Marker>()?;
        Some(Installed { tracer: marker.state.tracer.clone(), conflict: marker.state.conflict() })
    })
}

struct Marker {
    state: Arc<State>,
    exports: bool,
}

struct State {
    tracer: Arc<BoxedTracer>,
    stood_back: AtomicU8,
}

const ACTIVE: u8 = 0;
const OTHER: u8 = 1;
const TWICE: u8 = 2;

impl State {
    fn conflict(&self) -> Option<LayerConflict> {
        match self.stood_back.load(Relaxed) {
            OTHER => Some(LayerConflict::OtherOpenTelemetryLayer),
            TWICE => Some(LayerConflict::Twice),
            _ => None,
        }
    }
}

impl Marker {
    fn new<T>(tracer: T, exports: bool) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        let tracer: Box<dyn ObjectSafeTracer + Send + Sync> = Box::new(tracer);
        let tracer = Arc::new(BoxedTracer::new(tracer));
        Self { state: Arc::new(State { tracer, stood_back: AtomicU8::new(ACTIVE) }), exports }
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Marker {
    /// Called once, when the finished subscriber becomes a dispatcher and before it sees any span: the one moment at
    /// which a layer can see those above it.
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        if !self.exports {
            return;
        }
        // Closed for the probe: our own exporter must not be what the probe finds.
        self.state.stood_back.store(OTHER, Relaxed);
        let conflict = if has_open_telemetry_layer(dispatch) {
            OTHER
        } else if dispatch.downcast_ref::<Self>().is_some_and(|first| !Arc::ptr_eq(&first.state, &self.state))
        {
            TWICE
        } else {
            ACTIVE
        };
        self.state.stood_back.store(conflict, Relaxed);
    }
}

/// Lets everything through, unless our exporter stands back.
struct UnlessStoodBack(Arc<State>);

impl UnlessStoodBack {
    fn lets_through(&self) -> bool {
        self.0.stood_back.load(Relaxed) == ACTIVE
    }
}

impl<S> Filter<S> for UnlessStoodBack {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.lets_through()
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        // Interests are computed after `on_register_dispatch`, and the answer does not change afterwards.
        if self.lets_through() { Interest::always() } else { Interest::never() }
    }
}

/// Whether some tracing-opentelemetry layer other than ours takes part in this subscriber: opens a span through it and
/// looks whether it got an OpenTelemetry context. Telemetry is suppressed meanwhile, so nothing is exported.
///
/// The span's callsite is not registered: the registration's lock is held by whoever calls `on_register_dispatch`.
fn has_open_telemetry_layer(dispatch: &Dispatch) -> bool {
    let _suppressed = OtelContext::enter_telemetry_suppressed_scope();
    let metadata = probe_metadata();
    let values = metadata.fields().value_set(&[]);
    // `enabled` first, as the macros do: it is what tells per-layer filters, ours included, to look at this span.
    if !dispatch.enabled(metadata) {
        return false;
    }
    let id = dispatch.new_span(&Attributes::new(metadata, &values));
    let found = tracing_opentelemetry::get_otel_context(&id, dispatch).is_some();
    dispatch.try_close(id);
    found
}

fn probe_metadata() -> &'static Metadata<'static> {
    struct Callsite;
    impl tracing::callsite::Callsite for Callsite {
        fn set_interest(&self, _: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            probe_metadata()
        }
    }
    static CALLSITE: Callsite = Callsite;
    static METADATA: OnceLock<Metadata<'static>> = OnceLock::new();
    METADATA.get_or_init(|| {
        Metadata::new(
            "otel_tasks.probe",
            super::contract::SCOPE,
            Level::ERROR,
            None,
            None,
            None,
            FieldSet::new(&[], Identifier(&CALLSITE)),
            Kind::SPAN,
        )
    })
}
