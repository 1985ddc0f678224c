//! The page on a thread and a runtime of its own, so that it responds while every worker of the service is blocked.
//!
//! No client costs more than its place. A head has a time limit, and a client must read at a minimum rate. Unread data stays in a socket
//! with a bounded buffer, or is shared by all.

mod pace;
mod places;

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::mpsc,
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{net::TcpStream, runtime::Runtime, sync::oneshot, task::JoinHandle, time::Instant};

use self::{
    pace::{Pace, Paced},
    places::{Limits, Places},
};
use crate::{
    Page,
    api::{StreamsEnd, router},
    guard::{is_probe, refusal},
};

/// Ten seconds for a head and without progress, and 16 KiB/s on the whole.
const PACE: Pace =
    Pace { head: Duration::from_secs(10), patience: Duration::from_secs(10), rate: 16 * 1_024 };
/// The minimum time that a client of the reserve has for its request.
const SILENCE: Duration = Duration::from_millis(5);
/// The time limit of a client of the reserve, in total.
const PROBE: Duration = Duration::from_secs(1);
/// The maximum size of a head, and of the buffer per connection.
const BUFFER: usize = 64 * 1_024;
/// The bytes of a response that the system keeps for a client that does not read.
const SEND_BUFFER: usize = 64 * 1_024;
/// The number of threads for responses and messages of streams.
const BLOCKING: usize = 1;
/// The time limit for blocking work at the end.
const LAST: Duration = Duration::from_secs(1);
/// The number of connections that may wait to be accepted. The system drops further ones, and their clients try again after a second.
const BACKLOG: i32 = 1_024;
/// The pause after a connection that could not be accepted, for example without free descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A page that is served. Dropped, it stops, and waits for its thread, which ends at once.
#[must_use = "the page is served until this is dropped"]
pub struct PageServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for PageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl PageServer {
    /// Returns the address at which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        // That its sender is gone is the sign.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

impl Page {
    /// Serves the page on a thread and a runtime of its own, until the [`PageServer`] is dropped.
    ///
    /// Its event streams end after the last event of the ordered shutdown.
    ///
    /// # Errors
    ///
    /// If no address can be bound, or the thread or its runtime cannot be created. The error names the address.
    pub fn serve(self, address: impl ToSocketAddrs) -> io::Result<PageServer> {
        let limits = Limits::new(self.connections, places::descriptors());
        serve(router(self, StreamsEnd::AfterShutdown), address, limits)
    }
}

fn serve(router: Router, address: impl ToSocketAddrs, limits: Limits) -> io::Result<PageServer> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    let listener = listen(&addresses).map_err(|error| {
        let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        io::Error::new(error.kind(), format!("serve the page at {}: {error}", addresses.join(", ")))
    })?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let (report, is_ready) = mpsc::channel();
    let thread = thread::Builder::new().name("otel-tasks-page".to_owned()).spawn(move || {
        // Made here and dropped here: a runtime that is dropped in an async context panics, and the caller may be in one.
        let (runtime, listener) = match prepare(listener) {
            Ok(prepared) => prepared,
            Err(error) => return drop(report.send(Err(error))),
        };
        // Fails only if the caller is gone; then `stopped` ends at once.
        let _ = report.send(Ok(()));
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, router, limits) => {}
                _ = stopped => {}
            }
        });
        // With the runtime go the connections.
        runtime.shutdown_timeout(LAST);
    })?;
    is_ready.recv().map_err(io::Error::other)??;
    Ok(PageServer { address, stop: Some(stop), thread: Some(thread) })
}

/// Listens at the first address that can be bound, as [`TcpListener::bind`] does. Its queue is longer than 128 connections, which one client
/// fills faster than they are accepted.
fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let at = |address: SocketAddr| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // On Windows the option would let two processes have one address.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address");
    for &address in addresses {
        match at(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The page's runtime, and the listener registered with it.
fn prepare(listener: TcpListener) -> io::Result<(Runtime, tokio::net::TcpListener)> {
    // Responses are prepared one at a time; each further thread would keep memory of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING).build()?;
    let inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    drop(inside);
    Ok((runtime, listener))
}

async fn accept(listener: tokio::net::TcpListener, router: Router, limits: Limits) {
    let places = Places::new(limits);
    // The oldest first.
    let mut reserve = VecDeque::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Only a matter of memory.
        let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
        let router = router.clone();
        match places.take(from.ip()) {
            Some(place) => drop(tokio::spawn(async move {
                converse(stream, from, router, PACE).await;
                drop(place);
            })),
            None => {
                reserve.retain(|(_, client): &(Instant, JoinHandle<()>)| !client.is_finished());
                if reserve.len() >= limits.reserve {
                    // The client that has been silent for longest makes room, after its minimum time.
                    if let Some((came, oldest)) = reserve.pop_front() {
                        tokio::time::sleep_until(came + SILENCE).await;
                        oldest.abort();
                    }
                }
                reserve.push_back((Instant::now(), tokio::spawn(probed(stream, router))));
                // A request that has arrived gets its response before the next client comes.
                tokio::task::yield_now().await;
            }
        }
    }
}

fn http(head: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(BUFFER);
    http
}

async fn converse(stream: TcpStream, from: SocketAddr, router: Router, pace: Pace) {
    use tower_service::Service;
    let stream = TokioIo::new(Paced::new(stream, pace));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        router.clone().call(request)
    });
    // A client that breaks off or talks nonsense concerns nobody else.
    let _ = http(pace.head).serve_connection(stream, answer).await;
}

/// A client without a place: a probe gets its response, anything else is refused.
async fn probed(stream: TcpStream, router: Router) {
    let router = Router::new().fallback(|request: Request<Body>| async move {
        let mut response = if is_probe(request.uri().path()) { ask(router, request).await } else { full() };
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    });
    let connection = http(PROBE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // As in `converse`.
    let _ = tokio::time::timeout(PROBE, connection).await;
}

async fn ask(mut router: Router, request: Request<Body>) -> Response {
    use tower_service::Service;
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn full() -> Response {
    let why = "the page has as many connections as it may";
    ([(header::RETRY_AFTER, "10")], refusal(StatusCode::SERVICE_UNAVAILABLE, why)).into_response()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
    };

    use super::*;

    /// Notes that it has been dropped, which takes its time.
    struct Slow(Arc<AtomicBool>);

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(50));
            self.0.store(true, SeqCst);
        }
    }

    #[test]
    fn dropped_server_joins_its_thread_and_closes_its_port() {
        let is_over = Arc::new(AtomicBool::new(false));
        let router = Router::new().layer(axum::Extension(Arc::new(Slow(is_over.clone()))));
        let server = serve(router, "127.0.0.1:0", Limits::new(4, None)).expect("served");
        let address = server.address();
        assert_eq!(format!("{server:?}"), format!("PageServer {{ address: {address}, .. }}"));
        TcpStream::connect(address).expect("it listens");
        drop(server);
        assert!(is_over.load(SeqCst));
        let refused = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// A connection that the system drops is tried again after a second.
    #[test]
    #[cfg(target_os = "linux")]
    fn six_hundred_connections_wait_to_be_accepted() {
        let listener = listen(&["127.0.0.1:0".parse().expect("an address")]).expect("bound");
        let address = listener.local_addr().expect("an address");
        let began = std::time::Instant::now();
        for number in 0..600 {
            let connected = TcpStream::connect_timeout(&address, Duration::from_millis(900));
            connected.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        }
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn the_first_address_that_can_be_bound_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr();
        let [taken, free] = [taken.expect("an address"), "127.0.0.1:0".parse().expect("an address")];
        let held = TcpListener::bind(taken).expect("bound again");
        let listener = listen(&[taken, free]).expect("the second");
        assert_ne!(listener.local_addr().expect("an address"), taken);
        assert_eq!(listen(&[taken]).expect_err("in use").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(listen(&[]).expect_err("none").kind(), io::ErrorKind::InvalidInput);
        drop(held);
    }

    #[test]
    fn probe_gets_a_response_despite_many_waiting_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("an address");
        let connect = || TcpStream::connect(address).expect("it listens");
        let _place = connect();
        let mut probe = connect();
        probe.write_all(b"GET /health/live HTTP/1.1\r\nHost: web\r\n\r\n").expect("sent");
        let _behind: Vec<_> = (0..100).map(|_| connect()).collect();
        let router = Router::new().fallback(|| async { "passes" });
        let (runtime, listener) = prepare(listener).expect("prepared");
        let limits = Limits { connections: 1, of_one_address: 1, reserve: 4 };
        let served = async {
            tokio::time::timeout(Duration::from_millis(500), accept(listener, router, limits)).await
        };
        runtime.block_on(served).expect_err("it accepts without end");
        let mut answer = String::new();
        // Fails where the connection was given up.
        let _ = probe.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("passes"), "{answer:?}");
    }

    /// The time of a connection whose client sends this, then a byte at a time, and reads this number of bytes at a time.
    fn conversation(router: Router, sends: &str, more: &'static [u8], reads: usize) -> Duration {
        let (runtime, listener) =
            prepare(listen(&["127.0.0.1:0".parse().expect("an address")]).expect("bound")).expect("prepared");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        client.write_all(sends.as_bytes()).expect("sent");
        std::thread::spawn(move || {
            client.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
            let mut buffer = vec![0; reads];
            for _ in 0..500 {
                // Fails once the connection has ended.
                let _ = client.write(more);
                let _ = client.read(&mut buffer);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let short = Duration::from_millis(200);
        let pace = Pace { head: short, patience: short, rate: 4 << 20 };
        let began = std::time::Instant::now();
        runtime.block_on(async {
            let (stream, from) = listener.accept().await.expect("a client");
            SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).expect("set");
            let _ = tokio::time::timeout(Duration::from_secs(3), converse(stream, from, router, pace)).await;
        });
        began.elapsed()
    }

    /// Each does something at least every 30 ms.
    #[test]
    fn no_client_keeps_its_place_by_a_byte_at_a_time() {
        let endless = || {
            let chunk = bytes::Bytes::from(vec![b'x'; 64 << 10]);
            Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>(chunk)))
        };
        let router = || {
            Router::new()
                .route("/large", axum::routing::get(|| async { vec![b'x'; 16 << 20] }))
                .route("/stream", axum::routing::get(move || async move { endless() }))
                .fallback(|| async { StatusCode::FORBIDDEN })
        };
        for (what, sends, more, reads) in [
            ("a head", "GET / HTTP/1.1\r\nHost: ", &b"x"[..], 0),
            ("a body", "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\n", b"x", 1_024),
            ("an answer", "GET /large HTTP/1.1\r\nHost: web\r\n\r\n", b"", 1),
            ("a stream", "GET /stream HTTP/1.1\r\nHost: web\r\n\r\n", b"", 1),
            ("a stream that is not read", "GET /stream HTTP/1.1\r\nHost: web\r\n\r\n", b"", 0),
        ] {
            let time = conversation(router(), sends, more, reads);
            assert!(time < Duration::from_secs(2), "{what} took {time:?}");
        }
        let time = conversation(router(), "GET /stream HTTP/1.1\r\nHost: web\r\n\r\n", b"", 1 << 20);
        assert!(time >= Duration::from_secs(3), "a stream that is read ended after {time:?}");
    }
}
