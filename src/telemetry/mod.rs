//! What leaves the process: every name of it, the layer, and telemetry in one call.

mod attributes;
pub mod contract;
mod handoff;
mod instruments;
mod layer;
mod span;

#[cfg(feature = "otlp")]
mod balance;
#[cfg(feature = "otlp")]
mod batch;
#[cfg(feature = "otlp")]
mod env;
#[cfg(feature = "otlp")]
mod guard;
#[cfg(feature = "otlp")]
mod install;
#[cfg(feature = "otlp")]
mod transport;

pub(crate) use attributes::TaskAttributes;
pub(crate) use handoff::offer;
pub(crate) use instruments::{
    DelaySeries, Exposition, Figures, Source, default_max_names, shared as shared_exposition,
};
pub use layer::{LayerConflict, layer, task_layer};
pub(crate) use layer::{installed, subscriber_is_of_process};
pub use span::SpanPath;
pub(crate) use span::{ManagedSpan, SpanParent, SpanStart, managed_span, probe_is_exported, with_trace};

/// Lets the installed telemetry leave, where the process ends at once: a second at most.
pub(crate) fn flush_before_exit() {
    #[cfg(feature = "otlp")]
    guard::flush_before_exit();
}

#[cfg(feature = "otlp")]
pub use {
    balance::{Balance, BalanceSnapshot, Signal, SignalBalance},
    env::{DEFAULT_QUEUE, Protocol, Warning, WarningKind},
    guard::{CollectorUnreachable, DROP_TIMEOUT, Outcome, SignalReport, Telemetry, TelemetryReport},
    install::{DEFAULT_MAX_NAMES, DEFAULT_SHUTDOWN_TIMEOUT, InstallError, TelemetryBuilder, builder},
};
