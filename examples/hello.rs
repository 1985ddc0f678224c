//! A task that fails once and is restarted: `cargo run --example hello`, then Ctrl-C.

use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, Telemetry, shutdown_signal};

/// Loses its connection in its first run.
async fn gateway(ctx: TaskContext) -> Result<(), &'static str> {
    println!("gateway: run {}", ctx.generation());
    if ctx.generation() == 1 {
        return Err("connection lost");
    }
    ctx.cancelled().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Log records go to the terminal. Traces, metrics and logs go to OTEL_EXPORTER_OTLP_ENDPOINT.
    let telemetry = Telemetry::builder().service("hello").install()?;
    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::new("gateway", gateway))?;

    let report = tasks.run_until(shutdown_signal()).await;
    println!("{report}\n{}", telemetry.shutdown().await);
    report.exit()
}
