//! The layer that a user installs in a `tracing` subscriber.
//!
//! `task.run` and the manager's own spans are ordinary `tracing` spans, exported by tracing-opentelemetry. So every
//! idiom for a user's span works on them. This module adds the missing parts:
//!
//! - [`layer`] is a tracing-opentelemetry layer, tuned, plus a marker that keeps the tracer at hand;
//! - [`task_layer`] is the marker alone, for a subscriber with its own tracing-opentelemetry layer;
//! - through the marker the manager finds the tracer for spans that no tracing-opentelemetry layer sees (an `EnvFilter`
//!   of `warn`, say) and exports them itself;
//! - a second tracing-opentelemetry layer in one registry would panic at the first span. [`layer`] detects the other layer
//!   when the subscriber is made, disables itself, and reports a [`LayerConflict`].

use std::{
    any::TypeId,
    cell::Cell,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use opentelemetry::{Context as OtelContext, trace::Tracer};
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    callsite::{Callsite, Identifier},
    field::FieldSet,
    level_filters::LevelFilter,
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
    tracer::AnyTracer,
};
use crate::contract;

/// The problem of a combination of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerConflict {
    /// The subscriber has a tracing-opentelemetry layer of its own beside [`layer`], which has disabled itself. Use
    /// [`task_layer`].
    OtherOpenTelemetryLayer,
    /// The subscriber has [`layer`] twice. One of them has disabled itself.
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

/// A complete layer: exports every span of the subscriber, from tasks and from your code, through `tracer`.
///
/// It is a tracing-opentelemetry layer without the most expensive and least useful attributes: thread, code location,
/// target, busy and idle time. Spans, parents, links, `Span::current().context()`, `set_attribute`, `add_link` and
/// events behave exactly as with the plain layer.
///
/// Install it once. Beside a tracing-opentelemetry layer of your own, install [`task_layer`] instead. If both are present by mistake, this
/// layer disables itself, and [`check_instrumentation`] reports it.
///
/// To detect the other layer, it opens one span named `otel_tasks.probe` when the subscriber becomes a dispatcher. The span is
/// never exported. A layer that prints every new span (`FmtSpan::NEW`) shows it. A layer must not register a callsite while
/// it handles that span, because `tracing` holds a lock then.
///
/// Another tracing-opentelemetry layer whose own filter hides the target `otel_tasks` is not detected. Then the two panic at the first
/// span that both see, as any two such layers do.
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

/// Returns [`layer`] for telemetry that reports the state of its exports.
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
/// Your layer exports the tasks' spans like any other. This layer gives the manager `tracer`, for spans that a filter hides from your
/// layer.
pub fn task_layer<S, T>(tracer: T) -> impl Layer<S> + Send + Sync + 'static
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    Marker::<false>::new(tracer, None)
}

/// The layers of this crate in the current subscriber.
#[derive(Clone)]
pub(crate) struct Installed {
    pub(crate) tracer: Arc<dyn AnyTracer>,
    pub(crate) conflict: Option<LayerConflict>,
    /// The telemetry behind the layer, if it reports its state.
    pub(crate) status: Option<Arc<dyn ExportStatus>>,
}

/// True if [`layer`] or [`task_layer`] was ever made: in a process without one, a run does not search the subscriber for it.
static MADE: AtomicBool = AtomicBool::new(false);

/// Finds [`layer`] or [`task_layer`] in the current subscriber.
#[inline]
pub(crate) fn installed() -> Option<Installed> {
    // Relaxed: a thread that uses a subscriber has synchronised with the thread that made it.
    if MADE.load(Relaxed) { find() } else { None }
}

/// Returns true if no span would be made or exported: there is neither a subscriber that takes any record nor a layer of this crate.
#[inline]
pub(crate) fn nobody_listens() -> bool {
    LevelFilter::current() == LevelFilter::OFF && !MADE.load(Relaxed)
}

fn find() -> Option<Installed> {
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

/// The tracer of [`layer`] in this subscriber.
pub(super) fn tracer_in(dispatch: &Dispatch) -> Option<&Arc<dyn AnyTracer>> {
    dispatch.downcast_ref::<Marker<true>>().map(|marker| &marker.state.tracer)
}

/// Returns true if this thread's subscriber is the process's own. Then a span that another thread makes later has the same subscriber.
pub(crate) fn subscriber_is_of_process() -> bool {
    tracing::dispatcher::get_default(|dispatch| {
        let Some(marker) = dispatch.downcast_ref::<Marker<true>>() else { return is_of_process(dispatch) };
        // The subscriber of a process stays that.
        let known = &marker.state.of_process;
        known.load(Relaxed)
            || is_of_process(dispatch) && {
                known.store(true, Relaxed);
                true
            }
    })
}

/// Returns true if this dispatcher is the process's own.
///
/// `tracing` shows it in its debug text alone. If that text changes one day, the result is false.
#[cold]
fn is_of_process(dispatch: &Dispatch) -> bool {
    struct Begins {
        like_that: bool,
    }
    impl std::fmt::Write for Begins {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.like_that = text == "Dispatch::Global";
            Err(std::fmt::Error)
        }
    }
    let mut begins = Begins { like_that: false };
    let _ = std::fmt::write(&mut begins, format_args!("{dispatch:?}"));
    begins.like_that
}

/// Holds the tracer for the manager. `EXPORTS`: true if an exporter of this crate uses it.
struct Marker<const EXPORTS: bool> {
    state: Arc<State>,
}

struct State {
    tracer: Arc<dyn AnyTracer>,
    status: Option<Arc<dyn ExportStatus>>,
    /// True if the subscriber was found to be the process's own.
    of_process: AtomicBool,
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
        MADE.store(true, Relaxed);
        Self {
            state: Arc::new(State {
                tracer: Arc::new(tracer),
                status,
                of_process: AtomicBool::new(false),
                stood_back: AtomicBool::new(false),
                conflict: OnceLock::new(),
            }),
        }
    }
}

impl<const EXPORTS: bool, S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Marker<EXPORTS> {
    /// Called once, when the finished subscriber becomes a dispatcher, before it sees any span. Only then can a layer see the layers
    /// above it.
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        if !EXPORTS {
            return;
        }
        let found = dispatch.downcast_ref::<Self>().map(|first| &first.state);
        let twin = found.filter(|first| !Arc::ptr_eq(first, &self.state));
        if has_other_layer(dispatch) {
            self.state.stand_back(LayerConflict::OtherOpenTelemetryLayer);
        } else if let Some(first) = twin {
            // The first layer continues to export and reports the conflict.
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
    /// True while this thread searches for other layers, so that it does not find the layer of this crate.
    static PROBING: Cell<bool> = const { Cell::new(false) };
}

/// The tracing-opentelemetry layer, unless it is disabled. Of a run's span it does only its exclusive part: its data are private, and
/// every idiom on a span goes through them. [`ManagedSpan`](super::ManagedSpan) does the rest at a lower cost.
struct Exporter<S, T> {
    inner: OpenTelemetryLayer<S, Handing<T>>,
    state: Arc<State>,
}

impl<S, T> Exporter<S, T> {
    fn exports(&self) -> bool {
        !self.state.stood_back.load(Relaxed) && !PROBING.get()
    }
}

impl<S, T> Exporter<S, T>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    OpenTelemetryLayer<S, Handing<T>>: Layer<S>,
{
    // Not inlined, so that the calls for a run's span save no registers for these.
    #[inline(never)]
    fn enter_inner(&self, id: &Id, context: Context<'_, S>) {
        if self.exports() {
            self.inner.on_enter(id, context);
        }
    }

    #[inline(never)]
    fn exit_inner(&self, id: &Id, context: Context<'_, S>) {
        if self.exports() {
            self.inner.on_exit(id, context);
        }
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

    // Each poll of a run enters and leaves its span, which is at its caller.
    #[inline]
    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if !handoff::is_at(id) {
            self.enter_inner(id, context);
        }
    }

    #[inline]
    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if !handoff::is_at(id) {
            self.exit_inner(id, context);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if !handoff::is_at(id) && self.exports() {
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
        if !handoff::is_at(&id) && self.exports() {
            self.inner.on_close(id, context);
        }
    }

    #[expect(
        unsafe_code,
        reason = "the trait's method is unsafe; a per-layer filter in its place costs a search per call"
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

/// The metadata of a run's span without its fields, for tracing-opentelemetry.
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

/// Returns true if another tracing-opentelemetry layer is part of this subscriber. It opens a span through the subscriber and
/// checks if the span has an OpenTelemetry context. Telemetry is suppressed meanwhile, so nothing is exported.
///
/// The span's callsite is not registered: the caller of `on_register_dispatch` holds the lock of the registration.
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
    // `enabled` first, as the macros do: it makes per-layer filters, including ours, evaluate this span.
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
