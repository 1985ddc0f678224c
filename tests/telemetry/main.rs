//! The telemetry of the feature `otlp`: what arrives at a receiver, what does not, and what is told of it.
#![cfg(feature = "otlp")]

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod builder;
mod cost;
mod environment;
mod export;
mod instrumentation;
mod process;

use otel_tasks::telemetry::{Protocol, Telemetry};
use tracing_subscriber::prelude::*;

const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Runs it with the telemetry's layers as this thread's subscriber.
fn under<T>(telemetry: &Telemetry, run: impl FnOnce() -> T) -> T {
    support::listen();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(telemetry.layer()), run)
}
