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
mod proxies;
mod sdk_metrics;
mod tail;

use std::time::Duration;

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{Protocol, SignalBalance, Telemetry};
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

const LONG: Duration = Duration::from_secs(30);

/// Ends so many spans at once.
fn end_spans(telemetry: &Telemetry, count: usize) {
    let tracer = telemetry.tracer();
    for _ in 0..count {
        tracer.start("burst").end();
    }
}

fn traces(telemetry: &Telemetry) -> SignalBalance {
    telemetry.balance().snapshot().traces
}

#[track_caller]
fn assert_balanced(balance: SignalBalance) {
    let sum = balance.exported
        + balance.queue_full
        + balance.export_failed
        + balance.too_large
        + balance.rejected
        + balance.after_shutdown
        + balance.buffer_full
        + balance.pending;
    assert_eq!(balance.ended, sum, "{balance:?}");
}
