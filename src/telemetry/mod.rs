//! What leaves the process: every name of it, the layer, and telemetry in one call.

mod attributes;
pub mod contract;
mod instruments;
mod layer;
mod span;

pub(crate) use attributes::TaskAttributes;
pub(crate) use instruments::{Exposition, Source, default_max_names, shared as shared_exposition};
pub(crate) use layer::installed;
pub use layer::{LayerConflict, layer, task_layer};
pub(crate) use span::{ManagedSpan, SpanParent, managed_span, probe_is_exported, with_trace};
