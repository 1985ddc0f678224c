//! The three pipelines over OTLP, a terminal layer, and one task: what our README shows.

use std::{process::ExitCode, time::Instant};

use otel_tasks::TaskManager;

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn run(began: Instant) -> Result<(), Failure> {
    let telemetry = otel_tasks::Telemetry::builder().service("footprint").install()?;
    let tasks = TaskManager::new();
    tasks.start();
    tasks.spawn("first", tokio::task::yield_now()).await?;
    println!("{}", began.elapsed().as_micros());
    if std::env::var_os("FOOTPRINT_SERVES").is_some() {
        eprintln!("{}", tasks.run_until(tokio::signal::ctrl_c()).await);
        eprintln!("{}", telemetry.shutdown().await);
    }
    Ok(())
}

fn main() -> ExitCode {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(run(began)) {
        // Nobody receives anything: no shutdown is waited for.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
