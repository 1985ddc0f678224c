//! Where telemetry goes: over OTLP if the environment says so, and always to the terminal.

use std::sync::Arc;

use otel_tasks::telemetry::{InstallError, Signal, Telemetry};
use otel_tasks_page::Feed;

use crate::{run_lines::RunLines, terminal::Terminal};

/// Exports to the page, too: `feed` collects its spans and metrics.
pub(crate) fn install(terminal: &Arc<Terminal>, feed: &Feed) -> Result<Telemetry, InstallError> {
    // A service without a screen of its own says no more than `.service("bot").install()`.
    let lines = RunLines::new(terminal.clone());
    let telemetry = otel_tasks::Telemetry::builder().service("bot").export_if_configured();
    telemetry.fmt(false).layer(lines).with(feed).install()
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
