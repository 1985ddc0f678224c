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

use std::{
    any::TypeId,
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use opentelemetry::{
    Context as OtelContext,
    global::{BoxedTracer, ObjectSafeTracer},
    trace::Tracer,
};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    callsite::{Callsite, Identifier},
    field::FieldSet,
    metadata::Kind,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{
    SpanPath,
    handoff::{self, Handing},
    status::ExportStatus,
};
use crate::contract;

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
                "the subscriber has a tracing-opentelemetry layer beside otel_tasks::telemetry::layer; spans are exported by that \
                 one alone: use otel_tasks::telemetry::task_layer beside it"
            }
            Self::Twice => "the subscriber has otel_tasks::telemetry::layer twice; spans are exported by one of them alone",
        })
    }
}

impl std::error::Error for LayerConflict {}

/// A complete layer: exports every span of the subscriber, the tasks' and the user's, through `tracer`.
///
/// It is a tracing-opentelemetry layer without the attributes that cost most and tell least (thread, code location,
/// target, busy and idle time); spans, parents, links, `Span::current().context()`, `set_attribute`, `add_link` and
/// events behave exactly as with the plain layer. Install it once; beside a tracing-opentelemetry layer of your own
/// install [`task_layer`] instead. Both by mistake: ours stands back and [`check_instrumentation`] says so.
///
/// To notice the other one it opens, when the subscriber becomes a dispatcher, one span named `otel_tasks.probe` that is
/// never exported; a layer that prints every new span (`FmtSpan::NEW`) shows it, and a layer must not register a callsite of
/// its own while it handles it, since `tracing` holds a lock then. Another tracing-opentelemetry layer whose own filter hides
/// the target `otel_tasks` is not noticed: the two then panic at the first span that both see, as two such layers do.
///
/// ```
/// use tracing_subscriber::prelude::*;
/// # let tracer = opentelemetry::trace::noop::NoopTracer::new();
/// let subscriber = tracing_subscriber::registry().with(otel_tasks::telemetry::layer(tracer));
/// # drop(subscriber);
/// ```
///
/// [`check_instrumentation`]: crate::TaskManager::check_instrumentation
pub fn layer<S, T>(tracer: T) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: Tracer + Clone + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    layer_of(tracer, None)
}

/// [`layer`] for telemetry that can be asked what becomes of the spans.
pub(crate) fn layer_of<S, T>(
    tracer: T,
    status: Option<Arc<dyn ExportStatus>>,
) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: Tracer + Clone + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    let marker = Marker::<true>::new(tracer.clone(), status);
    let inner = OpenTelemetryLayer::new(Handing(tracer))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false);
    let exporter = Exporter { inner, state: marker.state.clone() };
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
    Marker::<false>::new(tracer, None)
}

/// What of this crate the current subscriber carries.
#[derive(Clone)]
pub(crate) struct Installed {
    pub(crate) tracer: Arc<BoxedTracer>,
    pub(crate) conflict: Option<LayerConflict>,
    /// The telemetry behind the layer, if it can be asked.
    pub(crate) status: Option<Arc<dyn ExportStatus>>,
}

/// Looks for [`layer`] or [`task_layer`] in the current subscriber.
pub(crate) fn installed() -> Option<Installed> {
    tracing::dispatcher::get_default(|dispatch| {
        let exporting = dispatch.downcast_ref::<Marker<true>>().map(|marker| &marker.state);
        let state =
            exporting.or_else(|| dispatch.downcast_ref::<Marker<false>>().map(|marker| &marker.state))?;
        Some(Installed {
            tracer: state.tracer.clone(),
            conflict: state.conflict.get().copied(),
            status: state.status.clone(),
        })
    })
}

/// Returns true if this thread's subscriber is the process's own, so that a span which is made later, on another thread, is its too.
///
/// `tracing` tells it in its debug text alone. Should that say something else one day, the answer is no.
pub(crate) fn subscriber_is_of_process() -> bool {
    struct Begins {
        like_that: bool,
    }
    impl std::fmt::Write for Begins {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.like_that = text == "Dispatch::Global";
            Err(std::fmt::Error)
        }
    }
    tracing::dispatcher::get_default(|dispatch| {
        let mut begins = Begins { like_that: false };
        let _ = std::fmt::write(&mut begins, format_args!("{dispatch:?}"));
        begins.like_that
    })
}

/// Keeps the tracer where the manager finds it. `EXPORTS`: whether our exporter stands behind it.
struct Marker<const EXPORTS: bool> {
    state: Arc<State>,
}

struct State {
    tracer: Arc<BoxedTracer>,
    status: Option<Arc<dyn ExportStatus>>,
    /// True if our exporter leaves the spans to another.
    stood_back: AtomicBool,
    conflict: OnceLock<LayerConflict>,
}

impl<const EXPORTS: bool> Marker<EXPORTS> {
    fn new<T>(tracer: T, status: Option<Arc<dyn ExportStatus>>) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        let tracer: Box<dyn ObjectSafeTracer + Send + Sync> = Box::new(tracer);
        let tracer = Arc::new(BoxedTracer::new(tracer));
        Self {
            state: Arc::new(State {
                tracer,
                status,
                stood_back: AtomicBool::new(false),
                conflict: OnceLock::new(),
            }),
        }
    }
}

impl<const EXPORTS: bool, S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Marker<EXPORTS> {
    /// Called once, when the finished subscriber becomes a dispatcher and before it sees any span: the one moment at
    /// which a layer can see those above it.
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        if !EXPORTS {
            return;
        }
        let found = dispatch.downcast_ref::<Self>().map(|first| &first.state);
        let twin = found.filter(|first| !Arc::ptr_eq(first, &self.state));
        if has_other_layer(dispatch) {
            self.state.stand_back(LayerConflict::OtherOpenTelemetryLayer);
        } else if let Some(first) = twin {
            // The first one goes on exporting, and is the one that is asked.
            let _ = first.conflict.set(LayerConflict::Twice);
            self.state.stand_back(LayerConflict::Twice);
        }
    }
}

impl State {
    fn stand_back(&self, conflict: LayerConflict) {
        self.stood_back.store(true, Relaxed);
        let _ = self.conflict.set(conflict);
    }
}

thread_local! {
    /// True if this thread looks for other layers: ours must not be what it finds.
    static PROBING: Cell<bool> = const { Cell::new(false) };
}

/// tracing-opentelemetry, unless it stands back. Of a run's span it does what only it can (its data are private, and every
/// idiom on a span goes through them); what is cheaper outside is left to [`ManagedSpan`](super::ManagedSpan).
struct Exporter<S, T> {
    inner: OpenTelemetryLayer<S, Handing<T>>,
    state: Arc<State>,
}

impl<S, T> Exporter<S, T> {
    fn exports(&self) -> bool {
        !self.state.stood_back.load(Relaxed) && !PROBING.get()
    }
}

impl<S, T> Layer<S> for Exporter<S, T>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    T: Tracer + 'static,
    T::Span: Send + Sync,
    OpenTelemetryLayer<S, Handing<T>>: Layer<S>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !self.exports() {
            return;
        }
        match handoff::take(attributes.metadata()) {
            None => return self.inner.on_new_span(attributes, id, context),
            Some(SpanPath::Direct) => return,
            Some(SpanPath::Full) => {}
        }
        // The attributes come with the tracer's call, ready made: no room need be made for them here.
        let metadata = &BARE_RUN;
        let none = metadata.fields().value_set(&[]);
        let bare = match attributes.parent() {
            Some(parent) => Attributes::child_of(parent.clone(), metadata, &none),
            None if attributes.is_contextual() => Attributes::new(metadata, &none),
            None => Attributes::new_root(metadata, &none),
        };
        self.inner.on_new_span(&bare, id, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if self.exports() && !handoff::is_at(id) {
            self.inner.on_enter(id, context);
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if self.exports() && !handoff::is_at(id) {
            self.inner.on_exit(id, context);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if self.exports() && !handoff::is_at(id) {
            self.inner.on_record(id, values, context);
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        if self.exports() {
            self.inner.on_follows_from(id, follows, context);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if self.exports() {
            self.inner.on_event(event, context);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if self.exports() && !handoff::is_at(&id) {
            self.inner.on_close(id, context);
        }
    }

    #[expect(
        unsafe_code,
        reason = "the trait's method is unsafe; a per-layer filter in its place costs a look-up per call"
    )]
    // SAFETY: the inner layer's answer, which points to itself or into itself and so lives as long as `self`.
    unsafe fn downcast_raw(&self, id: TypeId) -> Option<*const ()> {
        if id == TypeId::of::<Self>() {
            return Some(std::ptr::from_ref(self).cast());
        }
        if !self.exports() {
            return None;
        }
        unsafe { self.inner.downcast_raw(id) }
    }
}

/// A run's span without its fields, as tracing-opentelemetry is told of it.
static BARE_RUN: Metadata<'static> = Metadata::new(
    contract::SPAN_RUN,
    contract::SCOPE,
    Level::INFO,
    None,
    None,
    None,
    FieldSet::new(&[], Identifier(&BareRun)),
    Kind::SPAN,
);

struct BareRun;

impl Callsite for BareRun {
    fn set_interest(&self, _: Interest) {}
    fn metadata(&self) -> &Metadata<'_> {
        &BARE_RUN
    }
}

/// Returns true if some tracing-opentelemetry layer other than ours takes part in this subscriber: opens a span through it and
/// looks whether it got an OpenTelemetry context. Telemetry is suppressed meanwhile, so nothing is exported.
///
/// The span's callsite is not registered: the registration's lock is held by whoever calls `on_register_dispatch`.
fn has_other_layer(dispatch: &Dispatch) -> bool {
    PROBING.set(true);
    let found = probe(dispatch);
    PROBING.set(false);
    found
}

fn probe(dispatch: &Dispatch) -> bool {
    let _suppressed = OtelContext::enter_telemetry_suppressed_scope();
    let metadata = &PROBE;
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

static PROBE: Metadata<'static> = Metadata::new(
    "otel_tasks.probe",
    contract::SCOPE,
    Level::ERROR,
    None,
    None,
    None,
    FieldSet::new(&[], Identifier(&Probe)),
    Kind::SPAN,
);

struct Probe;

impl Callsite for Probe {
    fn set_interest(&self, _: Interest) {}
    fn metadata(&self) -> &Metadata<'_> {
        &PROBE
    }
}
