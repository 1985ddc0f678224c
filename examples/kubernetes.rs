//! Probes, and a drain before the shutdown: `cargo run --example kubernetes`. The pod:
//!
//! ```yaml
//! terminationGracePeriodSeconds: 30 # more than the shutdown deadline of 25 s
//! containers:
//! - startupProbe:   { httpGet: { path: /started, port: 8080 } }
//!   readinessProbe: { httpGet: { path: /ready, port: 8080 }, periodSeconds: 2 }
//!   livenessProbe:  { httpGet: { path: /live, port: 8080 }, periodSeconds: 10 }
//! ```

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::get};
use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager, health::ManagerHealth, shutdown_signal,
    task::WeakTaskManager,
};

/// A handler that returns 200 or 503. It must not keep the manager alive.
fn probe(tasks: &WeakTaskManager, fact: fn(&ManagerHealth) -> bool) -> axum::routing::MethodRouter {
    let tasks = tasks.clone();
    get(async move || match tasks.upgrade() {
        Some(tasks) if fact(&tasks.health()) => (StatusCode::OK, "yes\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "no\n"),
    })
}

/// Is ready after a second.
async fn consumer(ctx: TaskContext) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    ctx.ready();
    ctx.cancelled().await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // After SIGTERM: 5 s during which /ready is 503, then the ordered shutdown.
    let tasks = TaskManager::builder().drain(Duration::from_secs(5)).build()?;
    let weak = tasks.downgrade();
    let probes = Router::new()
        .route("/started", probe(&weak, |health| health.has_started))
        .route("/ready", probe(&weak, |health| health.is_ready))
        .route("/live", probe(&weak, |health| health.is_live));
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    // Not a task: the probes respond during the shutdown, too.
    tokio::spawn(async move { axum::serve(listener, probes).await });

    tasks.register(CriticalTaskConfig::new("consumer", consumer).start_timeout(Duration::from_secs(10)))?;
    let report = tasks.run_until(shutdown_signal()).await;
    println!("{report}");
    report.exit()
}
