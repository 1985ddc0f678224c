use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::otlp::env;

/// Calls a server on loopback, that does with the first request what it is told.
fn call<R: Send>(
    serve: impl FnOnce(TcpStream) -> R + Send,
    ask: impl FnOnce(Handle, RuntimeHttpClient, Request<Bytes>),
) -> R {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let settings =
        env::read(&|_| None, &crate::otlp::settings::Overrides::default()).expect("the defaults").traces.otlp;
    let settings = OtlpSettings { endpoint: endpoint.clone(), ..settings };
    let (runtime, resource) = (ExportRuntime::start().expect("a thread"), Resource::builder_empty().build());
    let mut warnings = Vec::new();
    let mut transports =
        Transports { runtime: &runtime, resource: &resource, warnings: &mut warnings, system_roots: None };
    let client = transports.http_client(&settings).expect("a client");
    let request = Request::post(endpoint).body(Bytes::from_static(b"spans")).expect("a request");
    std::thread::scope(|scope| {
        let served = scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("a call");
            let mut request = Vec::new();
            while !request.ends_with(b"spans") {
                let mut more = [0; 1024];
                let count = stream.read(&mut more).expect("a request");
                request.extend_from_slice(&more[..count]);
            }
            serve(stream)
        });
        ask(runtime.handle.clone(), client, request);
        served.join().expect("no panic")
    })
}

#[test]
fn an_answer_is_read_up_to_its_bound() {
    for (length, taken) in [(MAX_RESPONSE_BYTES, true), (MAX_RESPONSE_BYTES + 1, false)] {
        let serve = |mut stream: TcpStream| {
            let head = format!("HTTP/1.1 202 Accepted\r\nx-told: 7\r\ncontent-length: {length}\r\n\r\n");
            // Whom it is too much hangs up.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; length]));
        };
        call(serve, |handle, client, request| match handle.block_on(client.send_bytes(request)) {
            Ok(answer) => {
                assert_eq!((answer.status().as_u16(), answer.body().len(), taken), (202, length, true));
                assert_eq!(answer.headers()["x-told"], "7");
            }
            Err(error) => assert!(error.is::<ResponseBodyTooLarge>() && !taken, "{error}"),
        });
    }
}

#[test]
fn a_call_that_is_given_up_hangs_up() {
    let (asked, is_asked) = oneshot::channel();
    let serve = |mut stream: TcpStream| {
        let _ = asked.send(());
        // Well before the client itself would give up.
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        stream.read(&mut [0]).map_err(|error| error.kind())
    };
    let end = call(serve, |handle, client, request| {
        let call = client.send_bytes(request);
        handle.block_on(async {
            tokio::select! {
                _ = call => panic!("nobody answers"),
                asked = is_asked => assert!(asked.is_ok()),
            }
        });
    });
    assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
}

#[test]
fn loopback_is_what_no_proxy_can_reach() {
    for local in
        ["http://localhost:4318/v1/traces", "http://127.0.0.1:4318", "https://127.9.9.9", "http://[::1]:1"]
    {
        assert!(is_loopback(local), "{local}");
    }
    for remote in
        ["http://collector:4318", "http://localhost.example", "http://10.0.0.1", "http://[::2]", "localhost"]
    {
        assert!(!is_loopback(remote), "{remote}");
    }
}
