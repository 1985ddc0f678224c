//! Where telemetry goes: over OTLP if the environment says so, and always to the terminal.
//!
//! A service without a screen of its own writes one line instead of this module:
//! `otel_tasks::telemetry().service("bot").install()?`.

use std::sync::Arc;

use otel_tasks::telemetry::{InstallError, Signal, Telemetry};
use tracing_subscriber::{EnvFilter, Layer, prelude::*, registry::Registry};

use crate::{run_lines::RunLines, terminal::Terminal};

pub(crate) fn install(terminal: &Arc<Terminal>) -> Result<Telemetry, InstallError> {
    let telemetry = otel_tasks::telemetry().service("bot").export_if_configured().build()?;
    let exported = exports_anything(&telemetry);
    // Exported nowhere, runs still get trace ids, so that the lines of one trace can be told from those of another.
    let spans: Box<dyn Layer<Registry> + Send + Sync> =
        if exported { telemetry.layer().boxed() } else { otel_tasks::layer(telemetry.tracer()).boxed() };
    // The exporters' own reports of each retry are left out: telemetry says once that it cannot be delivered.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,opentelemetry=off"));
    let subscriber =
        tracing_subscriber::registry().with(spans).with(RunLines::new(terminal.clone())).with(filter);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| InstallError::SubscriberAlreadySet)?;
    if exported {
        opentelemetry::global::set_meter_provider(telemetry.meter_provider().clone());
    }
    for warning in telemetry.warnings() {
        tracing::warn!("{warning}");
    }
    Ok(telemetry)
}

/// Where it is exported to, in one line.
pub(crate) fn destination(telemetry: &Telemetry) -> String {
    if !exports_anything(telemetry) {
        return "telemetry is exported nowhere; OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 sends it to a collector"
            .into();
    }
    let endpoints =
        telemetry.endpoints().map(|(signal, endpoint)| format!("{} to {endpoint}", signal.as_str()));
    let endpoints: Vec<String> = endpoints.collect();
    if endpoints.is_empty() {
        return "telemetry is written to standard output".into();
    }
    format!("telemetry is exported: {}", endpoints.join(", "))
}

fn exports_anything(telemetry: &Telemetry) -> bool {
    Signal::ALL.iter().any(|signal| telemetry.exports(*signal))
}
