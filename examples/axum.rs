//! An HTTP server that stops first, and work that it owns: `cargo run --example axum`, then
//! `curl -X POST http://127.0.0.1:8080/orders` and Ctrl-C.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, TaskPriority, shutdown_signal};

/// Accepts an order. The mail belongs to `http`: a shutdown waits for it.
async fn order(State(ctx): State<TaskContext>) -> StatusCode {
    ctx.task("confirmation_mail").timeout(Duration::from_secs(30)).spawn(async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        println!("mail sent");
        Ok::<(), io::Error>(())
    });
    StatusCode::ACCEPTED
}

/// Serves until the stop request, then finishes the open requests.
async fn serve(ctx: TaskContext, socket: Arc<TcpListener>) -> io::Result<()> {
    let app = Router::new().route("/orders", post(order)).with_state(ctx.clone());
    let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
    axum::serve(listener, app).with_graceful_shutdown(ctx.cancelled_owned()).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Bound here, so that a port in use ends the program, and a restart of the task refuses no connection.
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    println!("listening on http://{}", socket.local_addr()?);

    let tasks = TaskManager::new();
    let http = CriticalTaskConfig::with("http", Arc::new(socket), serve)
        .intake()
        .priority(TaskPriority::Critical)
        .shutdown_grace(Duration::from_secs(10));
    tasks.register(http)?;
    let report = tasks.run_until(shutdown_signal()).await;
    println!("{report}");
    report.exit()
}
