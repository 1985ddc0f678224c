//! A receiver that goes and comes back, or takes for ever: what is lost of it, and what it costs in memory.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    trace::{Span as _, Tracer as _},
};
use otel_tasks::telemetry::{Protocol, Telemetry};

use crate::{
    BOTH, LONG,
    answers::{pipe, server},
    support::{
        otlp::{Behaviour, Receiver, closed_port, wait_for},
        process::is_child,
    },
    under,
};

/// Ends a span and writes a record, two thousand times a second, for so long.
fn work(telemetry: &Telemetry, time: Duration) -> usize {
    let tracer = telemetry.tracer();
    let began = Instant::now();
    let mut count = 0;
    under(telemetry, || {
        while began.elapsed() < time {
            tracer.start("work").end();
            tracing::info!(count);
            count += 1;
            let due = Duration::from_micros(500 * count as u64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    });
    count
}

/// Seen to fail: the exporter gave a batch up after 0.7 s, and a tenth of all was lost.
#[test]
fn a_receiver_that_is_up_and_down_in_turn_loses_nothing() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("flapping").shutdown_timeout(LONG).build().expect("telemetry");
        let count = std::thread::scope(|scope| {
            let working = scope.spawn(|| work(&telemetry, Duration::from_secs(8)));
            while !working.is_finished() {
                std::thread::sleep(Duration::from_secs(1));
                receiver.set_behaviour(Behaviour::Unavailable);
                std::thread::sleep(Duration::from_secs(1));
                receiver.set_behaviour(Behaviour::Ok);
            }
            working.join().expect("no panic")
        });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{protocol:?}: {report}");
        let spans: HashSet<_> = receiver.spans().into_iter().map(|span| span.span_id).collect();
        assert_eq!((spans.len(), receiver.spans().len()), (count, count), "{protocol:?}");
        assert_eq!(receiver.logs().len(), count, "{protocol:?}");
    }
}

/// A collector that is restarted: nothing listens on its port meanwhile.
#[test]
fn a_receiver_that_is_restarted_loses_nothing() {
    for protocol in BOTH {
        let address = closed_port();
        let telemetry = Telemetry::builder()
            .env(|_| None)
            .endpoint(format!("http://{address}"))
            .protocol(protocol)
            .shutdown_timeout(LONG)
            .build()
            .expect("telemetry");
        let mut count = work(&telemetry, Duration::from_millis(700));
        let receiver = Receiver::start_at(protocol, address);
        assert!(wait_for(LONG, || telemetry.balance().snapshot().traces.exported > 0));
        let before = receiver.spans().len();
        drop(receiver);
        count += work(&telemetry, Duration::from_millis(700));
        let receiver = Receiver::start_at(protocol, address);
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{protocol:?}: {report}");
        // What was taken between the reading and the end is in neither list.
        assert!(before + receiver.spans().len() <= count, "{protocol:?}");
    }
}

/// A connection may be dead without a sign: the receiver's host is gone, or a router has forgotten it.
#[test]
fn connection_without_a_response_is_abandoned() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let (behind, is_first) = (receiver.address(), AtomicBool::new(true));
        let network = server(move |client| match is_first.swap(false, SeqCst) {
            true => std::mem::forget(client),
            false => pipe(client, behind),
        });
        let telemetry = Telemetry::builder()
            .env(|name| (name == "OTEL_BSP_EXPORT_TIMEOUT").then(|| "500".to_owned()))
            .endpoint(format!("http://{network}"))
            .protocol(protocol)
            .build()
            .expect("telemetry");
        telemetry.tracer().start("work").end();
        let flushed = telemetry.tracer_provider().force_flush().expect_err("no answer").to_string();
        assert!(flushed.contains("no answer within 500ms"), "{protocol:?}: {flushed}");
        let exported = || telemetry.balance().snapshot().traces.exported;
        assert!(
            wait_for(LONG, || exported() == 1),
            "{protocol:?}: the next attempt has a connection of its own"
        );
        assert_eq!(receiver.spans().len(), 1, "{protocol:?}");
    }
}

/// What a flush returns is of now: not the failure before it, for which a pause was still on.
#[test]
fn a_flush_of_metrics_after_an_outage_makes_an_attempt() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("back").build().expect("telemetry");
        for _ in 0..3 {
            receiver.set_behaviour(Behaviour::Unavailable);
            assert!(telemetry.meter_provider().force_flush().is_err(), "{protocol:?}");
            receiver.set_behaviour(Behaviour::Ok);
            telemetry.meter_provider().force_flush().expect("the receiver is back");
        }
        let metrics = telemetry.balance().snapshot().metrics;
        // One that failed may have been delivered just before a newer one took its place.
        assert_eq!((metrics.ended, metrics.pending), (6, 0), "{protocol:?}");
        assert!(metrics.exported >= 3, "{protocol:?}: {metrics:?}");
    }
}

#[test]
fn a_delta_is_kept_through_an_outage_and_a_cumulative_figure_heals_by_itself() {
    for (preference, failed) in [("delta", 0), ("cumulative", 2)] {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let env = move |name: &str| {
            (name == "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE").then(|| preference.to_owned())
        };
        let telemetry = receiver.telemetry("deltas").env(env).build().expect("telemetry");
        let counter = telemetry.meter().u64_counter("steps").build();
        receiver.set_behaviour(Behaviour::Unavailable);
        for _ in 0..3 {
            counter.add(1, &[]);
            let _ = telemetry.meter_provider().force_flush();
        }
        receiver.set_behaviour(Behaviour::Ok);
        counter.add(1, &[]);
        let _ = telemetry.meter_provider().force_flush();
        assert!(wait_for(LONG, || telemetry.balance().snapshot().metrics.pending == 0));
        let metrics = telemetry.balance().snapshot().metrics;
        assert_eq!(
            (metrics.ended, metrics.export_failed - failed <= 1),
            (4, true),
            "{preference}: {metrics:?}"
        );
        let all: f64 = receiver
            .metrics()
            .iter()
            .filter(|metric| metric.name == "steps")
            .flat_map(|metric| metric.points.iter().map(|point| point.value))
            .sum();
        match preference {
            "delta" => assert_eq!((all, metrics.export_failed), (4.0, 0), "each delta arrived once"),
            _ => assert_eq!(receiver.sum("steps", &[]), Some(4.0)),
        }
    }
}

/// The most memory that the process ever had, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the peak");
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse::<u64>().expect("a number") * 1024
}

/// Seen to fail: the queue was bounded in items alone, and 20,000 texts of 50 KB were a gigabyte.
#[cfg(target_os = "linux")]
#[test]
fn silent_receiver_costs_bounded_memory() {
    if is_child() {
        for protocol in BOTH {
            let receiver = Receiver::start(protocol);
            receiver.set_behaviour(Behaviour::Hang);
            let telemetry = receiver
                .telemetry("tarpit")
                .shutdown_timeout(Duration::from_millis(100))
                .build()
                .expect("telemetry");
            let tracer = telemetry.tracer();
            let before = peak();
            under(&telemetry, || {
                for _ in 0..20_000 {
                    let mut span = tracer.start("large");
                    span.set_attribute(KeyValue::new("text", "x".repeat(25_000)));
                    span.add_event("text", vec![KeyValue::new("text", "y".repeat(25_000))]);
                    span.end();
                    tracing::info!(text = "z".repeat(50_000));
                }
            });
            let grown = peak() - before;
            let balance = telemetry.balance().snapshot();
            assert_eq!((balance.traces.ended, balance.logs.ended), (20_000, 20_000));
            // 670 texts of 50 KB fill 32 MiB, and 80 are a batch on its way.
            assert!((600..800).contains(&balance.traces.pending), "{balance:?}");
            assert!((600..800).contains(&balance.logs.pending), "{balance:?}");
            // Both queues, the batch in flight of each with its copy, and what the allocator keeps.
            assert!(grown < 160 * 1024 * 1024, "{protocol:?}: {} MiB", grown >> 20);
            let _report = telemetry.shutdown_blocking();
        }
        return;
    }
    let test = "outage::silent_receiver_costs_bounded_memory";
    let output = crate::support::process::child(test).output().expect("a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
