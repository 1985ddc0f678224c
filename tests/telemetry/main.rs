//! The telemetry of the feature `otlp-http`: what arrives at a receiver, what does not, and what is told of it.
#![cfg(feature = "otlp-http")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod balance;
mod builder;
#[cfg(feature = "gzip")]
mod cost;
mod environment;
mod export;
mod instrumentation;
mod outage;
mod process;
mod sdk_metrics;
mod tail;

use otel_tasks::telemetry::{Protocol, Telemetry};
use tracing_subscriber::prelude::*;

/// Every protocol that was compiled.
#[cfg(feature = "otlp-grpc")]
const BOTH: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
#[cfg(not(feature = "otlp-grpc"))]
const BOTH: [Protocol; 1] = [Protocol::HttpProtobuf];

/// Runs it with the telemetry's layers as this thread's subscriber.
fn under<T>(telemetry: &Telemetry, run: impl FnOnce() -> T) -> T {
    support::listen();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(telemetry.layer()), run)
}
