//! Where telemetry goes: over OTLP if the environment says so, and always to the terminal.
//!
//! A service without a screen of its own writes one line instead of this module:
//! `otel_tasks::telemetry().service("bot").install()?`.

use std::sync::Arc;

use otel_tasks::telemetry::{InstallError, Telemetry};
use tracing_subscriber::{EnvFilter, Layer, prelude::*, registry::Registry};

use crate::{run_lines::RunLines, terminal::Terminal};

pub(crate) fn install(terminal: &Arc<Terminal>) -> Result<Telemetry, InstallError> {
    let telemetry = otel_tasks::telemetry().service("bot").export_if_configured().build()?;
    let exported = is_exported(&telemetry);
    // Exported nowhere, runs still get trace ids, so that the lines of one trace can be told from those of another.
    let spans: Box<dyn Layer<Registry> + Send + Sync> =
        if exported { telemetry.layer().boxed() } else { otel_tasks::layer(telemetry.tracer()).boxed() };
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,opentelemetry=warn"));
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
    let mut endpoints: Vec<String> = telemetry
        .endpoints()
        .map(|(signal, endpoint)| format!("{} to {endpoint}", signal.as_str()))
        .collect();
    endpoints.dedup();
    if endpoints.is_empty() {
        "telemetry is exported nowhere; OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 sends it to a collector".into()
    } else {
        format!("telemetry is exported: {}", endpoints.join(", "))
    }
}

fn is_exported(telemetry: &Telemetry) -> bool {
    telemetry.endpoints().next().is_some()
}
