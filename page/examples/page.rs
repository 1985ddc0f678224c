//! The live page of a service, with traces and control: `cargo run --example page`, open the address, then Ctrl-C.

use std::time::Duration;

use otel_tasks::{CriticalTaskConfig, TaskContext, TaskLoop, TaskManager, Telemetry, shutdown_signal};
use otel_tasks_page::{Feed, Page};

/// Fails every ten seconds, and is restarted.
async fn gateway(ctx: TaskContext) -> Result<(), &'static str> {
    match ctx.run_until_cancelled(tokio::time::sleep(Duration::from_secs(10))).await {
        None => Ok(()),
        Some(()) => Err("connection lost"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The feed collects spans and metrics for the page. `export_if_configured`: OTLP only with an OTEL_* endpoint.
    let feed = Feed::default();
    let telemetry = Telemetry::builder().service("shop").export_if_configured().with(&feed).install()?;

    let tasks = TaskManager::new();
    let sweep = TaskLoop::every(Duration::from_secs(2), |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
    tasks.register_all([
        CriticalTaskConfig::new("gateway", gateway),
        CriticalTaskConfig::from_loop("sweep", sweep).depends_on("gateway"),
    ])?;

    // A thread of its own serves the page. With a token, `POST /tasks/sweep/run` and the buttons of the page work.
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9464".into());
    let token = std::env::var("PAGE_TOKEN").unwrap_or_default();
    let page = Page::new(&tasks).feed(&feed).token(token).serve(address)?;
    println!("listening on http://{}", page.address());

    let report = tasks.run_until(shutdown_signal()).await;
    println!("{report}\n{}", telemetry.shutdown().await);
    report.exit()
}
