//! The service `axum_service`, over real sockets and signals.
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use deadpool_sqlite::rusqlite::Connection;

/// Much longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 6;
const TOKEN: &str = "secret";

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn of(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("axum_service-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn database(&self) -> PathBuf {
        self.0.join("shop.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The service in a process of its own.
struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

fn command(database: &Path, address: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_axum_service"));
    for (name, _) in std::env::vars_os() {
        if ["OTEL_", "SHOP_", "RUST_LOG"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("SHOP_ADDRESS", address).env("SHOP_DATABASE", database).env("RUST_LOG", "error");
    command.envs(settings.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

impl Service {
    fn start(database: &Path, address: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = command(database, address, settings).spawn().expect("the service");
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let address = line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line:?}"));
        let address = address.parse().expect("an address");
        let service = Self { process, output, address };
        wait_for("ready", || service.status("/ops/health/ready") == Some(200));
        service
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(sent.expect("a shell").success());
    }

    fn status(&self, path: &str) -> Option<u16> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        response(self.address, &request).map(|(status, _)| status)
    }

    /// Waits for the end: how it ended, and what the service printed.
    fn end(mut self) -> (ExitStatus, String) {
        let began = Instant::now();
        let status = loop {
            match self.process.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(began.elapsed() < PATIENCE, "the service does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        (status, rest)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a request on a connection of its own. `None` if no complete response came.
fn response(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    response_on(TcpStream::connect(address).ok()?, request)
}

fn response_on(mut stream: TcpStream, request: &str) -> Option<(u16, String)> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Nobody listens.
    Refused,
    /// Another response than 201, or none.
    Unanswered,
}

/// Places an order. Returns its number.
fn order(address: SocketAddr) -> Result<i64, Failure> {
    let stream = TcpStream::connect(address).map_err(|_| Failure::Refused)?;
    let body = r#"{"item": "tea"}"#;
    let length = body.len();
    let head =
        "POST /orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    match response_on(stream, &format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}")) {
        Some((201, id)) => id.parse().map_err(|_| Failure::Unanswered),
        _ => Err(Failure::Unanswered),
    }
}

/// A request whose body does not come: its handler waits for it.
fn hanging_order(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let head =
        "POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9";
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).expect("sent");
    stream
}

/// A connection that is kept open after a response.
fn idle_connection(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET /ops/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("a response");
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

/// The time of each order's response or failure, and its number.
type Seen = Vec<(Instant, Result<i64, Failure>)>;

/// Clients that place orders one after the other.
struct Clients {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn of(address: SocketAddr) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let client = |_| {
            let (seen, stop) = (seen.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let outcome = order(address);
                    seen.lock().unwrap().push((Instant::now(), outcome));
                    if outcome.is_err() {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { seen, stop, threads }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    fn wait_for_another(&self, orders: usize) {
        let count = || self.seen().iter().filter(|(_, outcome)| outcome.is_ok()).count();
        let before = count();
        wait_for("orders", || count() >= before + orders);
    }

    /// Returns what the clients have seen.
    fn end(self) -> Seen {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        self.seen.lock().unwrap().clone()
    }
}

fn accepted(seen: &[(Instant, Result<i64, Failure>)]) -> Vec<i64> {
    seen.iter().filter_map(|(_, outcome)| outcome.ok()).collect()
}

/// Those of `orders` that the database has, and those whose mail was sent, after the service has ended.
fn stored(database: &Path, orders: &[i64]) -> (usize, usize) {
    let database = Connection::open(database).expect("a database");
    let select = "SELECT mail_sent IS NOT NULL FROM orders WHERE id = ?1";
    let mut select = database.prepare(select).expect("valid");
    let mails: Vec<bool> =
        orders.iter().filter_map(|id| select.query_row([id], |row| row.get(0)).ok()).collect();
    (mails.len(), mails.iter().filter(|sent| **sent).count())
}

/// Seen to fail in four cases:
///
/// - without `.intake()`: a loop is requested to stop first
/// - without the drain
/// - with mails that are spawned by `tokio::spawn`
/// - with a pool that is closed when the signal comes
#[test]
fn sigterm_under_load_loses_no_order() {
    const DRAIN: Duration = Duration::from_secs(4);
    let folder = Folder::of("load");
    let settings = [("SHOP_DRAIN", "4"), ("SHOP_MAIL_TAKES", "0.4")];
    let service = Service::start(&folder.database(), "127.0.0.1:0", &settings);
    let clients = Clients::of(service.address);
    clients.wait_for_another(50);
    assert_eq!(service.status("/ops"), Some(200));

    let asked = Instant::now();
    service.signal("TERM");
    wait_for("not ready", || service.status("/ops/health/ready") == Some(503));
    let not_ready = Instant::now();
    assert_eq!(service.status("/ops/health/live"), Some(200));

    let (status, output) = service.end();
    let drained = asked + DRAIN;
    assert!(Instant::now() >= drained, "{output}");
    let seen = clients.end();
    let failed = seen.iter().find(|(at, outcome)| *at < drained && outcome.is_err());
    assert_eq!(failed, None, "orders failed before the end of the drain");
    let while_draining =
        seen.iter().filter(|(at, outcome)| (not_ready..drained).contains(at) && outcome.is_ok());
    assert!(while_draining.count() > 0, "no orders were accepted during the drain");
    let orders = accepted(&seen);
    assert_eq!(stored(&folder.database(), &orders), (orders.len(), orders.len()), "{output}");

    assert_eq!(status.code(), Some(0), "{output}");
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].contains("drained for"), "{output}");
    assert_eq!(lines[1].split_whitespace().nth(1), Some("http"), "HTTP is asked first: {output}");
    assert!(output.contains("confirmation_mail") && output.contains("of http"), "{output}");
    assert!(output.contains("telemetry ended after"), "{output}");
}

/// Seen to fail without a drain: the service then ends at the first signal.
#[test]
fn a_second_sigterm_ends_the_drain() {
    let folder = Folder::of("twice");
    let service = Service::start(&folder.database(), "127.0.0.1:0", &[("SHOP_DRAIN", "20")]);
    let orders: Vec<_> = (0..10).map(|_| order(service.address).expect("accepted")).collect();
    let asked = Instant::now();
    service.signal("TERM");
    wait_for("not ready", || service.status("/ops/health/ready") == Some(503));
    let last = order(service.address).expect("accepted during the drain");
    service.signal("TERM");
    let (status, output) = service.end();
    assert!(asked.elapsed() < Duration::from_secs(15), "{output}");
    assert_eq!(status.code(), Some(0), "{output}");
    let orders = [orders, vec![last]].concat();
    assert_eq!(stored(&folder.database(), &orders), (orders.len(), orders.len()));
}

/// The third signal ends the process although a handler hangs. Without it the grace of `http` is waited for.
#[test]
fn a_third_sigterm_ends_a_handler_that_hangs() {
    let folder = Folder::of("thrice");
    let service = Service::start(&folder.database(), "127.0.0.1:0", &[("SHOP_DRAIN", "20")]);
    let placed = order(service.address).expect("accepted");
    let _hanging = hanging_order(service.address);
    service.signal("TERM");
    wait_for("not ready", || service.status("/ops/health/ready") == Some(503));
    let mut idle = idle_connection(service.address);
    service.signal("TERM");
    // The ordered shutdown has begun: the server closes connections that do nothing.
    idle.read_to_end(&mut Vec::new()).expect("the connection ends");
    let asked = Instant::now();
    service.signal("TERM");
    let (status, output) = service.end();
    assert!(asked.elapsed() < Duration::from_secs(7), "{output}");
    assert_eq!(status.code(), Some(1), "{output}");
    let http = output.lines().find(|line| line.contains("http")).expect("a line");
    assert!(http.trim_start().starts_with("aborted"), "{output}");
    assert_eq!(stored(&folder.database(), &[placed]).0, 1);
}

/// Seen to fail without the loop `unsent_mails`.
#[test]
fn after_kill_9_a_restart_sends_the_mails() {
    let folder = Folder::of("killed");
    let database = folder.database();
    let service = Service::start(&database, "127.0.0.1:0", &[("SHOP_MAIL_TAKES", "1000")]);
    let address = service.address;
    let clients = Clients::of(address);
    clients.wait_for_another(30);
    service.signal("KILL");
    assert_eq!(service.end().0.code(), None);
    let orders = accepted(&clients.end());
    assert_eq!(stored(&database, &orders), (orders.len(), 0));

    let service =
        Service::start(&database, &address.to_string(), &[("SHOP_MAIL_TAKES", "0.01"), ("SHOP_DRAIN", "0")]);
    wait_for("mails", || stored(&database, &orders).1 == orders.len());
    service.signal("TERM");
    let (status, output) = service.end();
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(stored(&database, &orders), (orders.len(), orders.len()));
}

/// Seen to fail if each run of `http` binds a socket of its own.
#[test]
fn a_restart_of_http_refuses_no_connection() {
    let folder = Folder::of("restart");
    let settings = [("SHOP_OPS_TOKEN", TOKEN), ("SHOP_DRAIN", "0")];
    let service = Service::start(&folder.database(), "127.0.0.1:0", &settings);
    let clients = Clients::of(service.address);
    clients.wait_for_another(10);
    // The old run ends only when this does.
    let hanging = hanging_order(service.address);
    let head =
        "POST /ops/tasks/http/restart HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0";
    let restart = format!("{head}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    assert_eq!(response(service.address, &restart).map(|(status, _)| status), Some(202));
    std::thread::sleep(Duration::from_millis(500));
    drop(hanging);
    clients.wait_for_another(10);
    let seen = clients.end();
    let refused = seen.iter().filter(|(_, outcome)| *outcome == Err(Failure::Refused));
    assert_eq!(refused.count(), 0);
    let orders = accepted(&seen);
    service.signal("TERM");
    let (status, output) = service.end();
    assert_eq!(status.code(), Some(0), "{output}");
    assert_eq!(stored(&folder.database(), &orders), (orders.len(), orders.len()));
}

#[test]
fn a_port_in_use_ends_the_program() {
    let folder = Folder::of("port");
    let service = Service::start(&folder.database(), "127.0.0.1:0", &[]);
    let other = folder.0.join("other.db");
    let second = command(&other, &service.address.to_string(), &[]).stderr(Stdio::piped()).output();
    let second = second.expect("the service");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("AddrInUse"), "{second:?}");
    assert_eq!(service.status("/ops/health/live"), Some(200));
}
