//! The cost of an outage: lost spans if a receiver is up and down in turn, and memory if a receiver never answers.
//!
//! `cargo bench --bench outage`: 2,000 spans a second for two minutes with a receiver that is up for 2 s and down for 2 s; then 50,000
//! spans with 50 KB of text each and a receiver that takes requests and never answers. `--quick` for a look that it still runs.

#[path = "../tests/support/otlp.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod otlp;

use std::time::{Duration, Instant};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, Tracer as _},
};
use otel_tasks::telemetry::Protocol;
use otlp::{Behaviour, Receiver};

fn main() {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    let (time, large) =
        if is_quick { (Duration::from_secs(6), 2_000) } else { (Duration::from_secs(120), 50_000) };
    flapping(time);
    tarpit(large);
}

fn flapping(time: Duration) {
    const PHASE: Duration = Duration::from_secs(2);
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = receiver.telemetry("flapping").shutdown_timeout(3 * PHASE).build().expect("telemetry");
    let tracer = telemetry.tracer();
    let began = Instant::now();
    let mut ended = 0_u32;
    while began.elapsed() < time {
        let is_up = began.elapsed().as_secs() / PHASE.as_secs() % 2 == 0;
        receiver.set_behaviour(if is_up { Behaviour::Ok } else { Behaviour::Unavailable });
        tracer.start("work").end();
        ended += 1;
        std::thread::sleep((Duration::from_micros(500) * ended).saturating_sub(began.elapsed()));
    }
    receiver.set_behaviour(Behaviour::Ok);
    let report = telemetry.shutdown_blocking();
    let lost = u64::from(ended) - report.traces.exported;
    println!("up and down every {PHASE:?} for {time:?}: {lost} of {ended} spans lost");
    assert_eq!(lost, 0, "{report}");
}

fn tarpit(count: usize) {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    receiver.set_behaviour(Behaviour::Hang);
    let timeout = Duration::from_millis(100);
    let telemetry = receiver.telemetry("tarpit").shutdown_timeout(timeout).build().expect("telemetry");
    let tracer = telemetry.tracer();
    let before = resident();
    for _ in 0..count {
        let mut span = tracer.start("large");
        span.set_attribute(KeyValue::new("text", "x".repeat(50_000)));
        span.end();
    }
    let after = resident();
    let waiting = telemetry.balance().snapshot().traces.pending;
    let grown = (after - before) >> 20;
    println!(
        "{count} spans of 50 KB to a receiver that never answers: {waiting} wait, {grown} MiB more resident"
    );
    drop(telemetry.shutdown_blocking());
}

/// Resident memory in bytes; 0 where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().unwrap_or(0) * 1024
}
