//! What a receiver answers is what is counted: taken, rejected, too large, refused, or tried again.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use opentelemetry::trace::{Span as _, Tracer as _};
use otel_tasks::telemetry::{Protocol, SignalOutcome, Telemetry};

use crate::{
    BOTH, LONG, assert_balanced, end_spans,
    support::{
        otlp::{Behaviour, Raw, Receiver, closed_port, wait_for},
        process::is_child,
    },
    traces, under,
};

#[test]
fn rejected_items_are_a_line_of_their_own() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Reject(3));
        let telemetry = receiver.telemetry("rejected").build().expect("telemetry");
        end_spans(&telemetry, 10);
        under(&telemetry, || (0..5).for_each(|n| tracing::info!(n)));
        assert!(telemetry.tracer_provider().force_flush().is_err(), "{protocol:?}: something was lost");
        assert!(telemetry.logger_provider().force_flush().is_err());
        telemetry.meter_provider().force_flush().expect("the collection was taken");
        let balance = telemetry.balance().snapshot();
        assert_eq!((balance.traces.exported, balance.traces.rejected), (7, 3), "{protocol:?}");
        assert_eq!((balance.logs.exported, balance.logs.rejected), (2, 3), "{protocol:?}");
        assert_eq!((balance.metrics.exported, balance.metrics.rejected_points), (1, 3), "{protocol:?}");
        assert_eq!((receiver.spans().len(), receiver.logs().len()), (7, 2), "the receiver agrees");
        assert_balanced(balance.traces);
        assert_balanced(balance.logs);
        assert_balanced(balance.metrics);
        receiver.set_behaviour(Behaviour::Ok);
        telemetry.meter_provider().force_flush().expect("a delivered collection");
        for (signal, rejected) in [("traces", 3.0), ("logs", 3.0), ("metrics", 3.0)] {
            let pairs = [("signal", signal), ("reason", "rejected")];
            assert_eq!(receiver.sum("task.telemetry.dropped", &pairs), Some(rejected), "{signal}");
        }
        let report = telemetry.shutdown_blocking();
        assert!(!report.is_complete());
        let text = report.to_string();
        assert!(text.contains("7 of 10 spans delivered, 3 rejected by the receiver"), "{text}");
        assert!(text.contains("3 data points rejected by the receiver"), "{text}");
    }
}

/// All of them rejected is a success of the request, and of nothing in it.
#[test]
fn a_request_of_which_everything_is_rejected_delivers_nothing() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        // A receiver that cannot count is not believed beyond what was sent.
        receiver.set_behaviour(Behaviour::Reject(1_000));
        let telemetry = receiver.telemetry("rejected").build().expect("telemetry");
        end_spans(&telemetry, 10);
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.rejected), (0, 10), "{report}");
        assert!(matches!(report.traces.outcome, SignalOutcome::Failed(_)), "{report}");
        assert_eq!(receiver.requests().traces, 1, "it is not sent again");
    }
}

/// A receiver may answer in JSON, whatever it was sent.
#[test]
fn rejected_items_are_read_from_json() {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    receiver.set_behaviour(raw(
        200,
        JSON,
        r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#,
    ));
    let telemetry = receiver.telemetry("json").build().expect("telemetry");
    end_spans(&telemetry, 5);
    let flushed = telemetry.tracer_provider().force_flush().expect_err("two were rejected").to_string();
    assert!(flushed.contains("the receiver rejected 2 of 5 spans"), "{flushed}");
    let balance = traces(&telemetry);
    assert_eq!((balance.exported, balance.rejected), (3, 2), "{balance:?}");
}

fn raw(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Behaviour {
    Behaviour::Raw(Raw { status, headers, body })
}

const PROTOBUF: &[(&str, &str)] = &[("content-type", "application/x-protobuf")];
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const HTML: &[(&str, &str)] = &[("content-type", "text/html")];

#[test]
fn an_empty_body_of_any_2xx_is_a_full_success() {
    let cases = [
        raw(200, &[], ""),
        raw(200, PROTOBUF, ""),
        raw(202, HTML, ""),
        raw(204, &[], ""),
        raw(200, JSON, "{}"),
        raw(201, JSON, " { } \n"),
        raw(200, &[], "{\"partialSuccess\": {}}"),
        // A field that a later version may add.
        raw(200, PROTOBUF, "\u{32}\u{0}"),
    ];
    for case in cases {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(case);
        let telemetry = receiver.telemetry("taken").build().expect("telemetry");
        end_spans(&telemetry, 2);
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.ended), (2, 2), "{case:?}: {report}");
        assert_eq!(report.metrics.outcome, SignalOutcome::Delivered, "{case:?}: {report}");
    }
}

#[test]
fn a_success_whose_body_is_no_export_response_is_a_failure_and_not_sent_again() {
    let page = "<!doctype html><title>Welcome to nginx!</title>";
    let cases = [
        raw(200, HTML, page),
        raw(200, &[], page),
        raw(200, PROTOBUF, page),
        raw(202, &[("content-type", "text/plain")], "ok"),
        // Read as protobuf, this is an unknown field of eight bytes.
        raw(200, &[("content-type", "text/plain")], "accepted!"),
        raw(200, JSON, "{\"error\": \"no such tenant\"}"),
        raw(200, JSON, "[]"),
        raw(200, PROTOBUF, "\u{a}\u{5}"),
    ];
    for case in cases {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(case);
        let telemetry = receiver.telemetry("html").build().expect("telemetry");
        end_spans(&telemetry, 2);
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.export_failed), (0, 2), "{case:?}: {report}");
        assert_eq!(receiver.requests().traces, 1, "{case:?}");
        let text = report.to_string();
        assert!(text.contains("not an OTLP response"), "{case:?}: {text}");
    }
}

#[test]
fn a_redirect_is_not_followed_and_carries_no_header_away() {
    for status in [301, 302, 303, 307, 308] {
        let other = Receiver::start(Protocol::HttpProtobuf);
        let location = format!("http://user:secret@localhost:{}/v1/traces", other.address().port());
        let location: &'static str = Box::leak(location.into_boxed_str());
        let headers: &'static [(&str, &str)] = Box::leak(Box::new([("location", location)]));
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(raw(status, headers, ""));
        let env = |name: &str| (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| "api-key=secret".to_owned());
        let telemetry = receiver.telemetry("elsewhere").env(env).build().expect("telemetry");
        end_spans(&telemetry, 13);
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.export_failed), (0, 13), "{status}: {report}");
        assert_eq!(receiver.requests().traces, 1, "{status}: it is not sent again");
        assert_eq!(other.headers().len(), 0, "{status}: the other host sees nothing");
        let text = report.to_string();
        let shown = format!("HTTP {status} redirects to \"http://***@localhost:{}", other.address().port());
        assert!(text.contains(&shown) && !text.contains("secret"), "{text}");
    }
}

/// Over gRPC, a redirect of HTTP is an answer that is none.
#[cfg(feature = "otlp-grpc")]
#[test]
fn a_redirect_over_grpc_is_not_followed_either() {
    let other = Receiver::start(Protocol::Grpc);
    let location = format!("http://localhost:{}", other.address().port());
    let app = axum::Router::new().fallback(move || {
        std::future::ready((axum::http::StatusCode::FOUND, [("location", location.clone())]))
    });
    let (endpoint, _server) = crate::support::otlp::Server::of(app);
    let telemetry = Telemetry::builder()
        .env(|_| None)
        .endpoint(endpoint)
        .protocol(Protocol::Grpc)
        .build()
        .expect("telemetry");
    end_spans(&telemetry, 2);
    let report = telemetry.shutdown_blocking();
    assert_eq!((report.traces.exported, report.traces.export_failed), (0, 2), "{report}");
    assert_eq!(other.headers().len(), 0);
}

#[test]
fn oversized_batch_is_split_and_oversized_items_are_dropped() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::AtMost(4_000));
        let telemetry = receiver.telemetry("large").build().expect("telemetry");
        let tracer = telemetry.tracer();
        for n in 0..100 {
            let mut span = tracer.start("sized");
            let size = if n % 50 == 7 { 5_000 } else { 100 };
            span.set_attribute(opentelemetry::KeyValue::new("text", "x".repeat(size)));
            span.end();
        }
        under(&telemetry, || (0..100).for_each(|n| tracing::info!(n, text = "x".repeat(200))));
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.exported, report.traces.too_large), (98, 2), "{protocol:?}: {report}");
        assert_eq!((report.logs.exported, report.logs.ended), (100, 100), "{protocol:?}: {report}");
        let spans = receiver.spans_named("sized");
        let ids: std::collections::HashSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!((spans.len(), ids.len()), (98, 98), "the receiver agrees");
        let sizes: Vec<_> = spans.iter().filter_map(|span| span.string("text").map(str::len)).collect();
        assert!(sizes.iter().all(|&size| size == 100));
        assert!(report.to_string().contains("2 too large"), "{report}");
    }
}

#[test]
fn a_collection_that_is_too_large_arrives_in_parts() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("large").build().expect("telemetry");
        let counter = telemetry.meter().u64_counter("many").build();
        for n in 0..300 {
            counter.add(1, &[opentelemetry::KeyValue::new("n", n)]);
        }
        receiver.set_behaviour(Behaviour::AtMost(4_000));
        telemetry.meter_provider().force_flush().expect("every part was taken");
        let metrics = telemetry.balance().snapshot().metrics;
        assert_eq!((metrics.ended, metrics.exported), (1, 1), "{protocol:?}");
        let points: usize = receiver
            .metrics()
            .iter()
            .filter(|metric| metric.name == "many")
            .map(|metric| metric.points.len())
            .sum();
        assert_eq!(points, 300, "{protocol:?}");
    }
}

#[test]
fn a_receiver_that_takes_no_request_of_any_size_is_not_asked_for_each_item() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::AtMost(0));
        let telemetry = receiver.telemetry("large").build().expect("telemetry");
        end_spans(&telemetry, 512);
        let report = telemetry.shutdown_blocking();
        assert_eq!(report.traces.export_failed + report.traces.too_large, 512, "{report}");
        assert!(receiver.requests().traces < 100, "{:?}", receiver.requests());
    }
}

#[test]
fn a_pause_that_the_receiver_asks_for_is_kept_also_by_the_next_batch() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Throttle(Duration::from_secs(2)));
        let telemetry = receiver.telemetry("pause").shutdown_timeout(LONG).build().expect("telemetry");
        let began = Instant::now();
        end_spans(&telemetry, 600);
        assert!(wait_for(LONG, || receiver.requests().traces == 1));
        receiver.set_behaviour(Behaviour::Ok);
        assert!(wait_for(LONG, || traces(&telemetry).exported >= 512), "{:?}", traces(&telemetry));
        assert!(began.elapsed() >= Duration::from_secs(2), "{protocol:?}: {:?}", began.elapsed());
        assert_eq!(receiver.requests().traces, 2, "{protocol:?}: nothing in between");
        let report = telemetry.shutdown_blocking();
        assert_eq!(report.traces.exported, 600, "{report}");
    }
}

/// A server on loopback that treats each connection as told.
pub(crate) fn server(serve: impl Fn(std::net::TcpStream) + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(100).flatten() {
            serve(stream);
        }
    });
    address
}

/// Passes everything on to that address, and back.
pub(crate) fn pipe(mut client: std::net::TcpStream, behind: std::net::SocketAddr) {
    let mut upstream = std::net::TcpStream::connect(behind).expect("a receiver");
    let (mut from, mut to) = (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::thread::spawn(move || std::io::copy(&mut upstream, &mut client));
}

/// Why an export fails, without what comes before it. An answer is waited for no longer than `limit`.
fn reason(endpoint: &str, protocol: Protocol, limit: Duration) -> String {
    let telemetry = Telemetry::builder()
        .env(move |name| (name == "OTEL_BSP_EXPORT_TIMEOUT").then(|| limit.as_millis().to_string()))
        .endpoint(endpoint)
        .protocol(protocol)
        .shutdown_timeout(LONG)
        .build()
        .expect("telemetry");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let checked = runtime.block_on(telemetry.check(limit)).expect_err("no receiver");
    end_spans(&telemetry, 1);
    let flushed = telemetry.tracer_provider().force_flush().expect_err("no receiver").to_string();
    // A server may hang up in more than one way.
    let either = ["the server closed the connection without an answer", "no answer within"];
    let is_either = |text: &str| either.iter().any(|either| text.contains(either));
    assert!(
        flushed.replace("\\\"", "\"").contains(&checked.reason)
            || (is_either(&flushed) && is_either(&checked.reason)),
        "the check and the exporter agree: {flushed} | {checked}"
    );
    checked.reason
}

#[test]
fn failure_text_names_its_cause() {
    let down = closed_port();
    let hangs_up = server(|mut stream| {
        let _ = stream.read(&mut [0; 16_384]);
    });
    let silent = server(std::mem::forget);
    for protocol in BOTH {
        let says = |endpoint: &str, words: &str| {
            let reason = reason(endpoint, protocol, LONG);
            assert!(reason.contains(words), "{protocol:?} {endpoint}: {reason}");
        };
        says(&format!("http://{down}"), "connection refused");
        says("http://no-such-host.invalid:4318", "unknown host \"no-such-host.invalid\"");
        let reason = reason(&format!("http://{silent}"), protocol, Duration::from_millis(500));
        assert_eq!(reason, "no answer within 500ms", "{protocol:?}");
        says(
            &format!("http://{hangs_up}"),
            if protocol == Protocol::Grpc {
                "closed without a response"
            } else {
                "closed the connection without an answer"
            },
        );
        #[cfg(feature = "tls")]
        {
            let plain = Receiver::start(protocol);
            says(&format!("https://localhost:{}", plain.address().port()), "the port does not speak TLS");
            let tls = Receiver::start_tls(protocol);
            says(&tls.endpoint(), "the server's certificate is not trusted");
        }
    }
    let text = server(|mut stream| {
        let _ = stream.read(&mut [0; 16_384]);
        let _ = stream.write_all(b"220 smtp.example ESMTP\r\n");
    });
    let reason_of = |protocol| reason(&format!("http://{text}"), protocol, LONG);
    assert!(
        reason_of(Protocol::HttpProtobuf).contains("not HTTP/1.1"),
        "{}",
        reason_of(Protocol::HttpProtobuf)
    );
    #[cfg(feature = "otlp-grpc")]
    assert!(reason_of(Protocol::Grpc).contains("in HTTP/2"), "{}", reason_of(Protocol::Grpc));
}

#[test]
fn the_servers_own_words_are_in_the_report() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        receiver.set_behaviour(Behaviour::Refuse);
        let telemetry = receiver.telemetry("refused").build().expect("telemetry");
        end_spans(&telemetry, 1);
        let text = telemetry.shutdown_blocking().to_string();
        assert!(text.contains("\"as the test wants it\"") && text.contains(&receiver.endpoint()), "{text}");
        let code = if protocol == Protocol::Grpc { "gRPC INVALID_ARGUMENT" } else { "HTTP 400" };
        assert!(text.contains(code), "{text}");
    }
    // A body of google.rpc.Status, and one with control characters.
    for (headers, body, words) in [
        (PROTOBUF, "\u{8}\u{3}\u{12}\u{2}no", "\"no\""),
        (HTML, "\u{1b}[31mred\r\nlines", "\"[31mred  lines\""),
    ] {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(raw(401, headers, body));
        let telemetry = receiver.telemetry("refused").build().expect("telemetry");
        end_spans(&telemetry, 1);
        let text = telemetry.shutdown_blocking().to_string();
        assert!(text.contains(&format!("HTTP 401: {words}")), "{text}");
    }
}

#[test]
fn user_and_password_of_an_address_are_sent_and_never_shown() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let endpoint = format!("http://user:p%40ss@localhost:{}", receiver.address().port());
        let telemetry = receiver.telemetry("user").endpoint(&endpoint).build().expect("telemetry");
        assert!(telemetry.endpoints().all(|(_, shown)| shown.contains("***@") && !shown.contains("p%40ss")));
        end_spans(&telemetry, 1);
        let report = telemetry.shutdown_blocking();
        assert_eq!(report.traces.exported, 1, "{report}");
        // user:p@ss
        let basic = "Basic dXNlcjpwQHNz";
        let sent = receiver.headers();
        assert!(sent.iter().all(|headers| headers["authorization"] == basic), "{sent:?}");
    }
}

/// A body of which a byte comes now and then.
struct Drips {
    next: tokio::time::Interval,
    is_first: bool,
}

impl hyper::body::Body for Drips {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::ready!(self.next.poll_tick(cx));
        // What precedes a message of gRPC: whether it is compressed, and its size.
        let data = if std::mem::replace(&mut self.is_first, false) { &[0, 0, 0, 4, 0][..] } else { b"x" };
        Poll::Ready(Some(Ok(hyper::body::Frame::data(axum::body::Bytes::from_static(data)))))
    }
}

/// An answer that comes a byte at a time ends at the attempt's limit.
#[test]
fn dripping_response_times_out_and_spans_are_kept() {
    for protocol in BOTH {
        let kind =
            if protocol == Protocol::HttpProtobuf { "application/x-protobuf" } else { "application/grpc" };
        let app = axum::Router::new().fallback(move || {
            let body = Drips { next: tokio::time::interval(Duration::from_millis(100)), is_first: true };
            std::future::ready(([("content-type", kind)], axum::body::Body::new(body)))
        });
        let (dripping, _server) = crate::support::otlp::Server::of(app);
        let telemetry = Telemetry::builder()
            .env(|name| (name == "OTEL_BSP_EXPORT_TIMEOUT").then(|| "300".to_owned()))
            .endpoint(dripping)
            .protocol(protocol)
            .build()
            .expect("telemetry");
        end_spans(&telemetry, 1);
        let flushed = telemetry.tracer_provider().force_flush().expect_err("no answer").to_string();
        assert!(flushed.contains("no answer within 300ms"), "{protocol:?}: {flushed}");
        assert_eq!(traces(&telemetry).pending, 1, "{protocol:?}: a flush that fails loses nothing");
    }
}

/// The status of an error says what to do, whatever becomes of its body.
#[test]
fn an_errors_body_need_not_be_readable() {
    /// What follows the head of an error.
    type Rest = fn(&mut std::net::TcpStream);
    let breaks_off: Rest = |stream| drop(stream.write_all(b"short"));
    let endless: Rest = |stream| while stream.write_all(&[b'x'; 65_536]).is_ok() {};
    let drips: Rest = |stream| {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
    };
    for (kind, rest) in [("breaks off", breaks_off), ("is endless", endless), ("drips", drips)] {
        for (status, sent) in [("400 Bad Request", 1), ("413 Content Too Large", 3)] {
            let requests = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let counted = requests.clone();
            let server = server(move |mut stream| {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 16_384]);
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 1000000000\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes());
                    rest(&mut stream);
                });
            });
            // Only a body that drips is waited for that long.
            let limit = if kind == "drips" { "1000" } else { "30000" };
            let telemetry = Telemetry::builder()
                .env(move |name| (name == "OTEL_BSP_EXPORT_TIMEOUT").then(|| limit.to_owned()))
                .endpoint(format!("http://{server}"))
                .build()
                .expect("telemetry");
            end_spans(&telemetry, 2);
            let flushed = telemetry.tracer_provider().force_flush().expect_err("an error").to_string();
            let balance = traces(&telemetry);
            assert_eq!(balance.pending, 0, "a {status} whose body {kind}: {flushed}, {balance:?}");
            assert_eq!(balance.export_failed + balance.too_large, 2, "{flushed}, {balance:?}");
            assert_eq!(
                requests.load(std::sync::atomic::Ordering::SeqCst),
                sent,
                "a {status} whose body {kind}"
            );
        }
    }
}

/// Of our side, it is no request that is too large: halves would be answered so too.
#[test]
fn oversized_response_fails_without_another_request() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    /// More than the 4 MiB that are read.
    const SIZE: usize = 5 << 20;
    for protocol in BOTH {
        let requests = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let app = axum::Router::new().fallback(move || {
            counted.fetch_add(1, SeqCst);
            let (kind, body) = match protocol {
                Protocol::HttpProtobuf => ("application/x-protobuf", vec![b'x'; SIZE]),
                // What precedes a message: whether it is compressed, and its size.
                _ => ("application/grpc", [&[0][..], &(SIZE as u32).to_be_bytes()].concat()),
            };
            std::future::ready(([("content-type", kind)], body))
        });
        let (endpoint, _server) = crate::support::otlp::Server::of(app);
        let others = |name: &str| matches!(name, "OTEL_METRICS_EXPORTER" | "OTEL_LOGS_EXPORTER");
        let telemetry = Telemetry::builder()
            .env(move |name| others(name).then(|| "none".to_owned()))
            .endpoint(endpoint)
            .protocol(protocol)
            .build()
            .expect("telemetry");
        end_spans(&telemetry, 4);
        let report = telemetry.shutdown_blocking();
        assert_eq!((report.traces.export_failed, report.traces.ended), (4, 4), "{protocol:?}: {report}");
        assert!(report.to_string().contains("the answer is larger than 4 MiB"), "{protocol:?}: {report}");
        assert_eq!(requests.load(SeqCst), 1, "{protocol:?}");
    }
}

#[test]
fn a_change_of_cause_has_a_line_and_the_same_cause_has_none() {
    let test = "a_change_of_cause_has_a_line_and_the_same_cause_has_none";
    if is_child() {
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        receiver.set_behaviour(Behaviour::Unavailable);
        let telemetry = receiver.telemetry("causes").shutdown_timeout(LONG).install().expect("telemetry");
        end_spans(&telemetry, 512);
        assert!(wait_for(LONG, || receiver.requests().traces > 3));
        receiver.set_behaviour(raw(502, &[], ""));
        let before = receiver.requests().traces;
        assert!(wait_for(LONG, || receiver.requests().traces > before + 1));
        receiver.set_behaviour(Behaviour::Ok);
        assert!(wait_for(LONG, || traces(&telemetry).exported == 512));
        drop(telemetry.shutdown_blocking());
        return;
    }
    let output = crate::support::process::child(&format!("answers::{test}")).output().expect("a child");
    let lines = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{lines}");
    let fails: Vec<_> = lines.lines().filter(|line| line.contains("export of spans")).collect();
    assert_eq!(fails.len(), 3, "{lines}");
    assert!(fails[0].contains("fails: http://localhost:") && fails[0].contains("HTTP 503"), "{lines}");
    assert!(fails[1].contains("HTTP 502"), "{lines}");
    assert!(fails[2].contains("works again, 0 were lost"), "{lines}");
}
