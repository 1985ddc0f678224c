//! Propagators and which spans and events are exported.

use opentelemetry::propagation::{TextMapCompositePropagator, TextMapPropagator};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use tracing::Metadata;

use crate::otlp::settings::Propagator;

pub(super) fn propagator(propagators: &[Propagator]) -> TextMapCompositePropagator {
    let boxed = propagators.iter().map(|propagator| -> Box<dyn TextMapPropagator + Send + Sync> {
        match propagator {
            Propagator::TraceContext => Box::new(TraceContextPropagator::new()),
            Propagator::Baggage => Box::new(BaggagePropagator::new()),
        }
    });
    TextMapCompositePropagator::new(boxed.collect())
}

/// Crates that export telemetry or carry it: what they report of themselves would be exported, and reported again.
const CARRIERS: [&str; 8] =
    ["hyper", "hyper_util", "h2", "tonic", "tower", "reqwest", "rustls", "hyper_rustls"];

/// True for what may be exported. `tower_http` may, it is the application's; `opentelemetry-otlp` and its like may not,
/// and are still seen on the terminal.
pub(super) fn exportable(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if target.starts_with("opentelemetry") {
        return false;
    }
    let krate = target.split_once("::").map_or(target, |(krate, _)| krate);
    !CARRIERS.contains(&krate)
}
