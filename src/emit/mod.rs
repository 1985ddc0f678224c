//! The parts of a run's telemetry: attributes, instruments, the layer and the spans. No exporter is known here.

mod aside;
mod at_exit;
mod attributes;
mod deferred;
mod exemplars;
mod handoff;
mod instruments;
mod layer;
mod remote;
mod span;
mod status;
mod tracer;

pub(crate) use aside::{aside, record_aside};
pub(crate) use at_exit::flush_before_exit;
#[cfg(feature = "otlp-http")]
pub(crate) use at_exit::flush_with;
pub(crate) use attributes::TaskAttributes;
pub use deferred::{Deferred, DeferredObservations, Observed};
pub use exemplars::RunExemplar;
#[cfg(feature = "otlp-http")]
pub(crate) use exemplars::keeps_traces;
pub use handoff::SpanPath;
pub(crate) use handoff::offer;
#[cfg(feature = "otlp-http")]
pub(crate) use instruments::installed_with;
pub(crate) use instruments::{
    DelaySeries, Exposition, Figures, Row, RunDuration, Source, default_max_names,
    shared as shared_exposition,
};
#[cfg(feature = "otlp-http")]
pub(crate) use layer::layer_of;
pub use layer::{LayerConflict, layer, task_layer};
pub(crate) use layer::{installed, nobody_listens, subscriber_is_of_process};
pub(crate) use remote::environment;
pub use remote::remote_context;
#[cfg(feature = "otlp-http")]
pub(crate) use remote::set_propagation;
pub(crate) use span::{
    EnteredSpan, KnownParent, ManagedSpan, SpanParent, SpanStart, managed_span, probe_is_exported, with_trace,
};
pub(crate) use status::status_of_process;
#[cfg(feature = "otlp-http")]
pub(crate) use status::{ExportStatus, ask};
pub use status::{SignalExport, TelemetryExport, TelemetryState};
pub(crate) use tracer::AnyTracer;
