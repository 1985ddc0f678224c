//! What is proven, each against the real programs.

// The tests of leases and this proof start the same PostgreSQL.
#[path = "../../../../lease/tests/postgres/cluster.rs"]
#[expect(dead_code, reason = "the tests of leases use more of it")]
mod cluster;
mod faults;
mod figures;
mod leases;
mod pages;
mod picture;
mod provoked;
mod proxy;
mod traces;

use std::{path::Path, process::Command, thread, time::Duration};

use anyhow::Result;

use crate::{checks::Checks, process::Bot, stack::Places};

/// How long something may take until it has come through the whole stack, on a machine that is busy.
const THROUGH: Duration = Duration::from_secs(45);
/// How long a bot may take to end: its own deadline, and that of its telemetry.
const END: Duration = Duration::from_secs(60);

/// Everything, on two stacks at once: one where the services are in trouble, and one that is in trouble itself.
pub(crate) fn all(places: &Places, example_bot: &Path, record: bool, checks: &Checks) {
    thread::scope(|scope| {
        scope.spawn(|| checks.step("the stack in trouble", faults::prove(places, checks)));
        checks.step("the services in trouble", provoked::prove(places, example_bot, record, checks));
    });
}

/// `stack-bot` in one of its modes, which exports to this endpoint.
fn stack_bot(mode: &str, service: &str, endpoint: &str) -> Result<Bot> {
    stack_bot_with(&[mode], service, endpoint)
}

/// The same, with what the mode needs to know.
fn stack_bot_with(mode: &[&str], service: &str, endpoint: &str) -> Result<Bot> {
    let program = std::env::current_exe()?.with_file_name("stack-bot");
    let mut command = Command::new(program);
    exporting(command.args(mode), endpoint).env("OTEL_SERVICE_NAME", service);
    if mode == ["calm"] {
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    }
    Bot::start(&mut command)
}

/// With nothing of this process's telemetry settings, and quick enough to be waited for.
fn exporting<'a>(command: &'a mut Command, endpoint: &str) -> &'a mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .env("OTEL_BSP_SCHEDULE_DELAY", "500")
}
