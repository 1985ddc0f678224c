//! The layers of this crate in a subscriber of your own: `cargo run --example own_subscriber`.

use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, Telemetry};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

async fn import(ctx: TaskContext) -> Result<(), &'static str> {
    tracing::info!(rows = 3, "imported");
    let saved = ctx.spawn("save", async {
        tracing::info!("saved");
        Ok::<(), std::io::Error>(())
    });
    saved.await.map_err(|_| "not saved")?.map_err(|_| "not saved")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `build` installs nothing. `install` would set the subscriber too.
    let telemetry = Telemetry::builder().service("import").build()?;
    // The filter belongs to the terminal alone: a filter on the registry would hide spans from the export.
    let terminal = fmt::layer().without_time().with_filter(EnvFilter::new("info"));
    tracing_subscriber::registry().with(telemetry.layer()).with(terminal).init();
    // Meters and propagators of other libraries use the same pipelines.
    telemetry.set_global();

    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::one_shot("import", import))?;
    let report = tasks.run_until(tokio::time::sleep(std::time::Duration::from_millis(500))).await;

    println!("{report}");
    println!("{}", tasks.check_instrumentation());
    println!("{}", telemetry.shutdown().await);
    Ok(())
}
