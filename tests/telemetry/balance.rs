//! What ended was exported, refused, failed or is pending: exactly, whatever the receiver does, and the end is on time.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{
    Protocol, Signal, SignalBalance, SignalOutcome, Telemetry, TelemetryBuilder, TelemetryReport,
};

use crate::{
    BOTH, LONG, assert_balanced, end_spans,
    support::otlp::{ANY, Behaviour, Receiver, closed_port, wait_for},
    traces, under,
};

/// What a loaded machine may add to a deadline.
const MARGIN: Duration = Duration::from_millis(700);

#[test]
fn a_burst_of_ten_thousand_spans_loses_none_and_doubles_none() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("burst").shutdown_timeout(LONG).build().expect("telemetry");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| end_spans(&telemetry, 2_500));
            }
        });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        let ids: Vec<_> = receiver.spans_named("burst").into_iter().map(|span| span.span_id).collect();
        assert_eq!(ids.len(), 10_000);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 10_000);
    }
}

#[test]
fn a_burst_of_ten_thousand_records_loses_none() {
    let receiver = Receiver::start(ANY);
    let telemetry = receiver.telemetry("burst").shutdown_timeout(LONG).build().expect("telemetry");
    under(&telemetry, || {
        for n in 0..10_000_i64 {
            tracing::event!(name: "task.started", tracing::Level::INFO, n);
        }
    });
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    let numbers: HashSet<_> =
        receiver.logs_named("task.started").iter().filter_map(|log| log.int("n")).collect();
    assert_eq!((receiver.logs().len(), numbers.len()), (10_000, 10_000));
}

#[test]
fn beyond_the_bound_every_span_is_accounted_for() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Delay(Duration::from_millis(100)));
        let telemetry =
            receiver.telemetry("burst").span_queue(1_000).shutdown_timeout(LONG).build().expect("telemetry");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| end_spans(&telemetry, 2_500));
            }
        });
        let during = traces(&telemetry);
        assert_balanced(during);
        assert_eq!(during.ended, 10_000);
        assert!(during.queue_full > 0, "{during:?}");
        let report = telemetry.shutdown_blocking();
        let spans = &report.traces;
        assert_eq!(spans.exported + spans.queue_full, 10_000, "{report}");
        assert_eq!(spans.outcome, SignalOutcome::Delivered);
        let ids: HashSet<_> = receiver.spans().into_iter().map(|span| span.span_id).collect();
        assert_eq!(ids.len() as u64, spans.exported, "the receiver agrees");
        assert_eq!(receiver.spans().len(), ids.len(), "none twice");
    }
}

#[test]
fn spans_that_are_not_sampled_are_not_counted() {
    let receiver = Receiver::start(ANY);
    let off = |name: &str| (name == "OTEL_TRACES_SAMPLER").then(|| "always_off".to_owned());
    let telemetry = receiver.telemetry("burst").env(off).build().expect("telemetry");
    end_spans(&telemetry, 10);
    assert_eq!(traces(&telemetry), SignalBalance::default());
    assert_eq!(telemetry.shutdown_blocking().traces.ended, 0);
}

#[test]
fn refusing_receiver_loses_the_batch_and_is_reported() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Refuse);
        let telemetry = receiver.telemetry("refused").build().expect("telemetry");
        end_spans(&telemetry, 10);
        assert!(telemetry.tracer_provider().force_flush().is_err());
        assert_eq!((traces(&telemetry).export_failed, receiver.requests().traces), (10, 1));
        receiver.set_behaviour(Behaviour::Ok);
        end_spans(&telemetry, 5);
        let balance = telemetry.balance();
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.export_failed), (5, 10), "{report}");
        assert_eq!(report.traces.outcome, SignalOutcome::Delivered, "what was left was delivered");
        assert_balanced(balance.snapshot().traces);
    }
}

#[test]
fn a_receiver_that_recovers_in_time_costs_nothing() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Unavailable);
        let telemetry = receiver.telemetry("back").shutdown_timeout(LONG).build().expect("telemetry");
        end_spans(&telemetry, 512);
        assert!(wait_for(LONG, || receiver.requests().traces > 0));
        receiver.set_behaviour(Behaviour::Ok);
        let report = telemetry.shutdown_blocking();
        assert_eq!(report.traces.exported, 512, "{report}");
    }
}

#[test]
fn dropped_spans_are_counted_by_an_instrument() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    receiver.set_behaviour(Behaviour::Refuse);
    let telemetry = receiver.telemetry("dropped").span_queue(4).build().expect("telemetry");
    end_spans(&telemetry, 4);
    assert!(telemetry.tracer_provider().force_flush().is_err());
    receiver.set_behaviour(Behaviour::Hang);
    end_spans(&telemetry, 4);
    assert!(
        wait_for(LONG, || receiver.requests().traces == 2),
        "one batch is on its way, the queue is empty"
    );
    end_spans(&telemetry, 7);
    let before = traces(&telemetry);
    assert_eq!((before.export_failed, before.queue_full, before.pending), (4, 3, 8));
    receiver.set_behaviour(Behaviour::Ok);
    telemetry.meter_provider().force_flush().expect("a delivered collection");
    let dropped =
        |signal, reason| receiver.sum("task.telemetry.dropped", &[("signal", signal), ("reason", reason)]);
    assert_eq!(dropped("traces", "export_failed"), Some(4.0));
    assert_eq!(dropped("traces", "queue_full"), Some(3.0));
    assert_eq!(dropped("traces", "after_shutdown"), Some(0.0));
    assert_eq!(dropped("logs", "queue_full"), Some(0.0));
    let metric = receiver.metric("task.telemetry.dropped").expect("the instrument");
    assert_eq!((metric.unit.as_str(), metric.points.len()), ("{item}", 16));
}

#[test]
fn failed_collections_of_metrics_are_counted() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Refuse);
        let telemetry = receiver.telemetry("metrics").build().expect("telemetry");
        assert!(telemetry.meter_provider().force_flush().is_err());
        receiver.set_behaviour(Behaviour::Ok);
        telemetry.meter_provider().force_flush().expect("a delivered collection");
        let metrics = telemetry.balance().snapshot().metrics;
        assert_eq!((metrics.ended, metrics.exported, metrics.export_failed), (2, 1, 1));
        receiver.set_behaviour(Behaviour::Refuse);
        let report = telemetry.shutdown_blocking();
        let refusal = if protocol == Protocol::Grpc { "INVALID_ARGUMENT" } else { "400" };
        let told = matches!(&report.metrics.outcome, SignalOutcome::Failed(text) if text.contains(refusal));
        assert!(told, "the receiver's own words: {report}");
    }
}

#[test]
fn spans_that_end_after_the_shutdown_are_counted() {
    let receiver = Receiver::start(ANY);
    let telemetry = receiver.telemetry("late").build().expect("telemetry");
    let (balance, tracer) = (telemetry.balance(), telemetry.tracer());
    let mut late = tracer.start("late");
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    late.end();
    assert_eq!(balance.snapshot().traces.after_shutdown, 1);
    assert_balanced(balance.snapshot().traces);
    assert_eq!(receiver.spans().len(), 0);
}

/// Shuts down on a runtime of each kind, and says how long that took.
fn shutdown_on_each_runtime(
    mut build: impl FnMut() -> Telemetry,
    mut check: impl FnMut(TelemetryReport, Duration),
) {
    let current = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime without timers");
    let multi = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    for runtime in [current(), multi()] {
        let telemetry = runtime.block_on(async { build() });
        let began = Instant::now();
        let report = runtime.block_on(telemetry.shutdown());
        check(report, began.elapsed());
    }
    // From the only worker, and from a worker that blocks.
    let runtime = multi();
    let telemetry = build();
    let (report, took) = runtime
        .block_on(runtime.spawn(async move {
            let began = Instant::now();
            (telemetry.shutdown().await, began.elapsed())
        }))
        .expect("no panic");
    check(report, took);
    let telemetry = build();
    let began = Instant::now();
    let report = current().block_on(async { telemetry.shutdown_blocking() });
    check(report, began.elapsed());
}

#[test]
fn shutdown_delivers_on_every_runtime() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let build = || {
            let telemetry = receiver.telemetry("end").build().expect("telemetry");
            end_spans(&telemetry, 3);
            telemetry
        };
        shutdown_on_each_runtime(build, |report, took| {
            assert!(report.is_complete(), "{report}");
            assert_eq!(report.traces.exported, 3);
            assert!(took < Duration::from_secs(5), "{took:?}");
        });
        assert_eq!(receiver.spans().len(), 12);
    }
}

#[test]
fn a_runtime_that_is_dropped_does_not_take_the_export_with_it() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let telemetry = runtime.block_on(async { receiver.telemetry("gone").build() }).expect("telemetry");
        drop(runtime);
        end_spans(&telemetry, 3);
        assert!(telemetry.shutdown_blocking().is_complete());
    }
}

/// Long enough for the threads of a signal without items to have their turn on a busy machine.
const DEADLINE: Duration = Duration::from_secs(1);

#[test]
fn a_slow_or_hanging_receiver_does_not_hold_up_the_end() {
    for behaviour in [Behaviour::Delay(Duration::from_secs(30)), Behaviour::Hang] {
        for protocol in BOTH {
            let receiver = Receiver::start(protocol);
            receiver.set_behaviour(behaviour);
            let build = || {
                let telemetry =
                    receiver.telemetry("slow").shutdown_timeout(DEADLINE).build().expect("telemetry");
                end_spans(&telemetry, 600);
                telemetry
            };
            shutdown_on_each_runtime(build, |report, took| {
                assert!(took < DEADLINE + MARGIN, "{protocol:?} {behaviour:?}: {took:?}");
                assert!(took >= DEADLINE, "the time is made use of: {took:?}");
                assert_eq!(report.traces.outcome, SignalOutcome::TimedOut, "{report}");
                assert_eq!((report.traces.ended, report.traces.undelivered), (600, 600));
                assert_eq!(report.metrics.outcome, SignalOutcome::TimedOut);
                assert_eq!(report.logs.outcome, SignalOutcome::Delivered, "there were none");
            });
        }
    }
}

/// Seen to fail where the providers, which are dropped at once, wait for the queues as well.
#[test]
fn shutdown_does_not_block_and_reports_each_signals_time() {
    let (hangs, receiver) = (Receiver::start(ANY), Receiver::start(ANY));
    hangs.set_behaviour(Behaviour::Hang);
    let endpoints = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("{}/v1/traces", hangs.endpoint())),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", ANY.as_str().to_owned()),
    ];
    let env =
        move |name: &str| endpoints.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
    let builder = otel_tasks::Telemetry::builder().env(env).shutdown_timeout(2 * DEADLINE);
    let telemetry = builder.build().expect("telemetry");
    end_spans(&telemetry, 1);
    let began = Instant::now();
    let report = telemetry.shutdown();
    assert!(began.elapsed() < DEADLINE, "it begins and does not wait");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let report = runtime.block_on(report);
    assert_eq!(
        (&report.traces.outcome, report.traces.took),
        (&SignalOutcome::TimedOut, report.took),
        "{report}"
    );
    for delivered in [&report.metrics, &report.logs] {
        assert_eq!(delivered.outcome, SignalOutcome::Delivered, "{report}");
        assert!(delivered.took < 2 * DEADLINE && 2 * DEADLINE <= report.took, "{report:?}");
    }
}

#[test]
fn dropping_telemetry_does_not_hold_up_the_program() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Hang);
        let telemetry = receiver.telemetry("dropped").build().expect("telemetry");
        end_spans(&telemetry, 1);
        let began = Instant::now();
        drop(telemetry);
        let took = began.elapsed();
        assert!(took < Telemetry::DROP_TIMEOUT + MARGIN, "{took:?}");
    }
}

#[test]
fn ending_a_span_stays_fast_with_a_bad_receiver() {
    let down = || closed_port().to_string();
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let measure = |builder: TelemetryBuilder| {
            let telemetry = builder
                .span_queue(2_000)
                .shutdown_timeout(DEADLINE)
                .protocol(protocol)
                .build()
                .expect("telemetry");
            let tracer = telemetry.tracer();
            let mut spans: Vec<_> = (0..10_000).map(|_| tracer.start("one")).collect();
            let mut times: Vec<_> = spans
                .iter_mut()
                .map(|span| {
                    let began = Instant::now();
                    span.end();
                    began.elapsed()
                })
                .collect();
            times.sort();
            assert_balanced(traces(&telemetry));
            let began = Instant::now();
            let report = telemetry.shutdown_blocking();
            assert!(began.elapsed() < DEADLINE + MARGIN, "{report}");
            assert_eq!(report.traces.ended, 10_000);
            times[times.len() * 99 / 100]
        };
        let builder = || receiver.telemetry("fast");
        for behaviour in [Behaviour::Refuse, Behaviour::Hang, Behaviour::Unavailable] {
            receiver.set_behaviour(behaviour);
            let slow = measure(builder());
            assert!(slow < Duration::from_millis(1), "99 % of spans end within {slow:?} ({behaviour:?})");
        }
        let slow = measure(builder().endpoint(format!("http://{}", down())));
        assert!(slow < Duration::from_millis(1), "99 % of spans end within {slow:?} (down)");
    }
}

#[test]
fn a_receiver_that_is_down_costs_the_spans_and_nothing_else() {
    for protocol in BOTH {
        let telemetry = otel_tasks::Telemetry::builder()
            .env(|_| None)
            .protocol(protocol)
            .endpoint(format!("http://{}", closed_port()))
            .build()
            .expect("telemetry");
        end_spans(&telemetry, 10);
        let began = Instant::now();
        let report = telemetry.shutdown_blocking();
        assert!(began.elapsed() < Duration::from_secs(5) + MARGIN);
        assert_eq!((report.traces.ended, report.traces.export_failed), (10, 10), "{report}");
        assert!(matches!(report.traces.outcome, SignalOutcome::Failed(_)), "{report}");
        assert!(report.to_string().contains("traces  0 of 10 spans delivered, 10 failed"), "{report}");
    }
}

#[test]
fn hanging_export_attempt_times_out_and_keeps_its_items() {
    let receiver = Receiver::start(ANY);
    receiver.set_behaviour(Behaviour::Hang);
    let env = |name: &str| match name {
        "OTEL_BSP_EXPORT_TIMEOUT" | "OTEL_METRIC_EXPORT_TIMEOUT" => Some("50".to_owned()),
        _ => None,
    };
    let telemetry = receiver.telemetry("hung").env(env).build().expect("telemetry");
    end_spans(&telemetry, 1);
    let began = Instant::now();
    assert!(telemetry.tracer_provider().force_flush().is_err());
    assert!(telemetry.meter_provider().force_flush().is_err());
    assert!(began.elapsed() < Duration::from_secs(5), "long before the exporter's own ten seconds");
    let snapshot = telemetry.balance().snapshot();
    assert_eq!((snapshot.traces.pending, snapshot.metrics.pending), (1, 1), "another attempt is made");
    receiver.set_behaviour(Behaviour::Ok);
    let all = || {
        let balance = telemetry.balance().snapshot();
        (balance.traces.exported, balance.metrics.exported) == (1, 1)
    };
    assert!(wait_for(LONG, all), "{:?}", telemetry.balance());
}

#[test]
fn check_reports_whether_a_collector_listens() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let telemetry = receiver.telemetry("check").build().expect("telemetry");
    assert_eq!(runtime.block_on(telemetry.check(LONG)), Ok(()));
    let endpoint = format!("http://{}", closed_port());
    let telemetry = receiver.telemetry("check").endpoint(&endpoint).build().expect("telemetry");
    let unreachable = runtime.block_on(telemetry.check(LONG)).expect_err("nothing listens");
    let endpoint = format!("{endpoint}/v1/traces");
    assert_eq!((unreachable.signal, &unreachable.endpoint), (Signal::Traces, &endpoint));
    let refused = unreachable.reason.to_lowercase();
    assert!(refused.contains("refused"), "{refused}");
    let told = format!("reach the collector of traces at {endpoint}: {}", unreachable.reason);
    assert_eq!(unreachable.to_string(), told);
}

/// Answers one connection with `answer`, once something was said.
fn says(answer: &'static [u8]) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        let _ = stream.read(&mut [0; 1_024]);
        let _ = stream.write_all(answer);
    });
    address.to_string()
}

/// Seen to fail: whatever took a connection was called a collector.
#[test]
fn check_names_the_problem_of_an_endpoint() {
    use Protocol::{Grpc, HttpProtobuf};
    const NOT_HTTP2: &str = "the connection was closed without a response in HTTP/2: is it an HTTP/1.1 port, or does it expect https://?";
    const SOON: Duration = Duration::from_secs(5);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let reason = |protocol: Protocol, endpoint: &str| {
        let traces = |name: &str| matches!(name, "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER");
        let telemetry = otel_tasks::Telemetry::builder()
            .protocol(protocol)
            .endpoint(endpoint)
            .env(move |name| traces(name).then(|| "none".to_owned()))
            .build()
            .expect("telemetry");
        let checked = runtime.block_on(telemetry.check(SOON));
        let unreachable = checked.expect_err("no receiver is there");
        assert!(!format!("{unreachable:?} {unreachable}").contains("hunter2"), "{unreachable:?}");
        unreachable.reason
    };
    let tls = Receiver::start_tls(HttpProtobuf);
    let plain = Receiver::start(HttpProtobuf);
    let port = |receiver: &Receiver| receiver.address().port();
    for protocol in BOTH {
        let at = |endpoint: String| reason(protocol, &endpoint);
        let closed = at(format!("http://user:hunter2@{}", closed_port()));
        assert_eq!(closed, "connection refused");
        let unknown = at("http://user:hunter2@nowhere.invalid:4318".to_owned());
        assert_eq!(unknown, "unknown host \"nowhere.invalid\"");
        let plain = at(format!("https://user:hunter2@localhost:{}", port(&plain)));
        assert_eq!(plain, "the port does not speak TLS: write http://");
        let trusted = at(format!("https://user:hunter2@localhost:{}", port(&tls)));
        assert!(trusted.starts_with("the server's certificate is not trusted: "), "{trusted}");
        let expected = at(format!("http://user:hunter2@localhost:{}", port(&tls)));
        let other = match protocol {
            Grpc => NOT_HTTP2,
            _ => "the response is not HTTP/1.1: is it a gRPC port, or does it expect https://?",
        };
        assert_eq!(expected, other);
        let closed = match protocol {
            Grpc => NOT_HTTP2,
            _ => "the server closed the connection without an answer",
        };
        assert_eq!(at(format!("http://{}", says(b""))), closed);
        assert_eq!(at(format!("http://{}", says(b"220 mail.example ESMTP\r\n"))), other);
    }
    let go = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let go = reason(HttpProtobuf, &format!("http://{}", says(go)));
    assert_eq!(go, "HTTP 400: \"Client sent an HTTP request to an HTTPS server.\"");
    let http2 = says(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64");
    assert!(reason(HttpProtobuf, &format!("http://{http2}")).contains("is not HTTP/1.1"));
    if BOTH.contains(&Grpc) {
        let http1 = says(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        assert!(reason(Grpc, &format!("http://{http1}")).contains("in HTTP/2"));
    }
}

#[test]
fn check_takes_a_receiver_for_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for protocol in BOTH {
        for receiver in [Receiver::start(protocol), Receiver::start_tls(protocol)] {
            let telemetry = receiver.telemetry("check");
            let telemetry = if receiver.endpoint().starts_with("https") {
                let authority = receiver.authority().display().to_string();
                telemetry
                    .env(move |name| (name == "OTEL_EXPORTER_OTLP_CERTIFICATE").then(|| authority.clone()))
            } else {
                telemetry
            };
            let telemetry = telemetry.build().expect("telemetry");
            assert_eq!(runtime.block_on(telemetry.check(LONG)), Ok(()), "{}", receiver.endpoint());
        }
    }
}

#[test]
fn check_of_a_silent_port_ends_in_time() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("an address"));
    for protocol in BOTH {
        let telemetry = otel_tasks::Telemetry::builder().env(|_| None).protocol(protocol).endpoint(&endpoint);
        let telemetry = telemetry.shutdown_timeout(Duration::from_millis(10)).build().expect("telemetry");
        let began = Instant::now();
        let checked = runtime.block_on(telemetry.check(Duration::from_millis(100)));
        assert_eq!(checked.expect_err("silence").reason, "no answer within 100ms");
        assert!(began.elapsed() < LONG);
    }
}

#[test]
fn a_deadline_beyond_the_sdks_five_seconds_is_kept() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    receiver.set_behaviour(Behaviour::Delay(Duration::from_secs(6)));
    let telemetry = receiver.telemetry("slow").shutdown_timeout(LONG).build().expect("telemetry");
    end_spans(&telemetry, 1);
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.metrics.outcome, SignalOutcome::Delivered, "{report}");
}
