//! The program that the stack is tested with. It has four services:
//!
//! - a service that uses all instruments
//! - a service without any event
//! - a service that continues while its telemetry is disturbed
//! - a service with a task that runs in one of its instances
//!
//! Each line on standard output is one JSON value; the last are the final figures. It ends when standard input does.

#![forbid(unsafe_code)]

mod calm;
mod figures;
mod leases;
mod phases;
mod trouble;

use std::{io::BufRead, process::ExitCode, time::Duration};

use tokio::sync::mpsc;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The lines of standard input, until it ends.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    receive
}

#[tokio::main(worker_threads = 4)]
async fn main() -> ExitCode {
    let mode = std::env::args().nth(1).unwrap_or_default();
    let telemetry = match otel_tasks::Telemetry::builder().fmt(false).install() {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("stack-bot: {error}");
            return ExitCode::FAILURE;
        }
    };
    opentelemetry_instrumentation_tokio::observe_current_runtime();
    let orders = orders();
    let ended = match mode.as_str() {
        "trouble" => trouble::run(orders).await,
        "calm" => calm::run(orders).await,
        "leases" => leases::run(orders, &std::env::args().nth(2).unwrap_or_default()).await,
        "phases" => phases::run(orders, telemetry.balance()).await,
        _ => Err(format!("stack-bot trouble, calm, leases or phases; not {mode:?}").into()),
    };
    let (tasks, report) = match ended {
        Ok(ended) => ended,
        Err(error) => {
            eprintln!("stack-bot: {error}");
            return ExitCode::FAILURE;
        }
    };
    let resource = telemetry.resource().clone();
    let balance = telemetry.balance();
    let telemetry = telemetry.shutdown().await;
    // After everything has ended: what was exported last is what is printed.
    figures::say(&figures::last(&tasks, &report, &resource, &balance, &telemetry));
    // What leaked blocks its thread, and a runtime that is dropped would wait for it.
    std::process::exit(0)
}
