//! Receivers behind an HTTP proxy: reached through it, and a failure names it if it is the proxy's.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use otel_tasks::telemetry::{Telemetry, TelemetryBuilder};

use crate::{
    answers::server,
    end_spans,
    support::otlp::{BEHIND_PROXY, Receiver, closed_port},
    traces,
};

/// Telemetry to that endpoint, with these variables.
fn telemetry(endpoint: &str, env: &[(&str, String)]) -> TelemetryBuilder {
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let get = move |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Telemetry::builder().env(get).endpoint(endpoint).protocol(otel_tasks::telemetry::Protocol::HttpProtobuf)
}

/// The head of a request.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

#[test]
fn requests_in_plain_text_go_to_the_proxy_with_its_password() {
    // The address of a request is complete for a proxy; the receiver looks at its path.
    let proxy = Receiver::start(otel_tasks::telemetry::Protocol::HttpProtobuf);
    let variable = ("http_proxy", format!("http://user:p%40ss@{}", proxy.address()));
    let endpoint = format!("http://{BEHIND_PROXY}:4318");
    let telemetry = telemetry(&endpoint, &[variable]).build().expect("telemetry");
    assert_eq!(telemetry.warnings(), []);
    end_spans(&telemetry, 3);
    let report = telemetry.shutdown_blocking();
    assert_eq!((report.traces.exported, proxy.spans().len()), (3, 3), "{report}");
    for headers in proxy.headers() {
        // user:p@ss
        assert_eq!(headers["proxy-authorization"], "Basic dXNlcjpwQHNz");
        assert_eq!(headers["host"], format!("{BEHIND_PROXY}:4318"));
    }
}

#[cfg(feature = "tls")]
#[test]
fn requests_over_tls_go_through_a_tunnel_and_the_receiver_sees_nothing_of_the_password() {
    let receiver = Receiver::start_tls(otel_tasks::telemetry::Protocol::HttpProtobuf);
    let (behind, heads) = (receiver.address(), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let seen = heads.clone();
    let proxy = server(move |mut client| {
        seen.lock().expect("no panic").push(head(&mut client));
        let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\nproxy-agent: test\r\n\r\n");
        crate::answers::pipe(client, behind);
    });
    let env = [
        ("https_proxy", format!("user:p%40ss@{proxy}")),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", receiver.authority().display().to_string()),
    ];
    let telemetry = telemetry(&format!("https://{BEHIND_PROXY}:4318"), &env).build().expect("telemetry");
    end_spans(&telemetry, 3);
    let report = telemetry.shutdown_blocking();
    assert_eq!((report.traces.exported, receiver.spans().len()), (3, 3), "{report}");
    assert!(receiver.headers().iter().all(|headers| !headers.contains_key("proxy-authorization")));
    for head in heads.lock().expect("no panic").iter() {
        assert!(head.starts_with(&format!("CONNECT {BEHIND_PROXY}:4318 HTTP/1.1\r\n")), "{head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
    }
}

/// What a flush says of one span, and whether the span waits for another attempt. The flush takes no longer than `limit`, in milliseconds.
fn flushed(endpoint: &str, variable: &'static str, proxy: &str, limit: u64) -> (String, bool) {
    let proxy = format!("http://user:secret@{proxy}");
    let env = [(variable, proxy), ("OTEL_BSP_EXPORT_TIMEOUT", limit.to_string())];
    let telemetry = telemetry(endpoint, &env).build().expect("telemetry");
    end_spans(&telemetry, 1);
    let text = telemetry.tracer_provider().force_flush().expect_err("a failure").to_string();
    assert!(!text.contains("secret") && text.contains(endpoint), "{text}");
    (text.replace("\\\"", "\""), traces(&telemetry).pending == 1)
}

#[test]
fn a_failure_of_the_proxy_names_the_proxy_and_not_the_receiver() {
    let answers = |status: &'static str| {
        server(move |mut stream| {
            let _ = head(&mut stream);
            let length = "sorry".len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\nsorry");
            let _ = stream.write_all(answer.as_bytes());
            std::thread::spawn(move || {
                // Closing with the body unread would reset the connection before the answer is read.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                std::io::copy(&mut stream, &mut std::io::sink())
            });
        })
    };
    let down = closed_port();
    let (unwilling, refuses) = (answers("407 Proxy Authentication Required"), answers("403 Forbidden"));
    let (broken, silent) = (answers("502 Bad Gateway"), server(std::mem::forget));
    let hangs_up = server(|mut stream| drop(head(&mut stream)));
    let own = |proxy: std::net::SocketAddr| format!("the proxy http://***@{proxy}: ");
    let through = |proxy: std::net::SocketAddr| format!("(through the proxy http://***@{proxy}");
    // Only the proxy that never answers is waited for that long: on a busy machine an answer can take longer than half a second.
    let limit = |proxy| if proxy == silent { 500 } else { 30_000 };
    let plain = format!("http://{BEHIND_PROXY}:4318");
    for (proxy, cause, names, waits) in [
        (down, "connection refused", own(down), true),
        (unwilling, "HTTP 407: \"sorry\"", own(unwilling), false),
        // These may be the receiver's own words.
        (refuses, "HTTP 403", through(refuses), false),
        (broken, "HTTP 502", through(broken), true),
        (silent, "no answer within 500ms", through(silent), true),
        (hangs_up, "closed the connection", through(hangs_up), true),
    ] {
        let (text, is_kept) = flushed(&plain, "http_proxy", &proxy.to_string(), limit(proxy));
        assert!(text.contains(cause) && text.contains(&names), "{cause}, {names}: {text}");
        assert_eq!(is_kept, waits, "{text}");
    }
    #[cfg(feature = "tls")]
    for (proxy, cause, names, waits) in [
        (down, "connection refused", own(down), true),
        (unwilling, "HTTP 407: \"sorry\"", own(unwilling), false),
        (refuses, "HTTP 403: \"sorry\"", own(refuses), false),
        (broken, "HTTP 502: \"sorry\"", own(broken), true),
        (silent, "no answer within 500ms", through(silent), true),
        (hangs_up, "closed the connection", own(hangs_up), true),
    ] {
        let endpoint = format!("https://{BEHIND_PROXY}:4318");
        let (text, is_kept) = flushed(&endpoint, "https_proxy", &proxy.to_string(), limit(proxy));
        assert!(text.contains(cause) && text.contains(&names), "{cause}, {names}: {text}");
        assert_eq!(is_kept, waits, "{text}");
    }
    let unknown = "no-such-proxy.invalid:3128";
    let (text, _) = flushed(&plain, "http_proxy", unknown, 30_000);
    assert!(
        text.contains("the proxy http://***@no-such-proxy.invalid:3128: unknown host \"no-such-proxy"),
        "{text}"
    );
}
