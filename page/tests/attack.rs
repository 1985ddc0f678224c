//! What clients do that mean harm: a real process with limits on its descriptors and its memory, and clients from outside.
//!
//! Throughout, probes and scrapes are answered, the process grows by less than 64 MB, and its own sockets and files open. The promise is 100 ms for 99 of
//! 100 probes in a release build; the test prints what it measures and fails at ten times that.
#![cfg(target_os = "linux")]

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager, Telemetry};
use otel_tasks_page::{Feed, Page};
use support::{TOKEN, ask, eventually, waits};

/// Set in the process that is attacked.
const VICTIM: &str = "OTEL_TASKS_PAGE_VICTIM";
const TASKS: usize = 2_000;
/// Of a release build; a debug build is an order of magnitude slower by itself.
const PROMISE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 100 });
const GROWTH: u64 = 64 << 20;
/// What the process may have, in KiB: it ends with the first allocation beyond. Linux counts private writable memory, touched or not: the
/// heap and the stacks of threads. About 130 MiB are taken when the attacks begin.
const MEMORY: u64 = 200 << 10;
/// How long a scrape may take: what Prometheus waits by default.
const SCRAPE: Duration = Duration::from_secs(10);
/// How long each attack goes on. `.ci/run attack` has the release build.
const ATTACK: Duration = Duration::from_secs(if cfg!(debug_assertions) { 1 } else { 4 });

/// The service that is attacked; nothing in any other process.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("built");
    runtime.block_on(async {
        let feed = Feed::default();
        let telemetry =
            Telemetry::builder().export_if_configured().env(|_| None).with(&feed).build().expect("built");
        let tasks =
            TaskManager::builder().max_names(TASKS + 100).meter(telemetry.meter()).tracer(telemetry.tracer());
        let tasks = tasks.build().expect("valid");
        for number in 0..TASKS {
            tasks.register(waits(&format!("task_{number}"))).expect("registered");
        }
        let fails =
            TaskLoop::every(Duration::from_millis(1), |_| async { Err::<(), _>("refused ".repeat(100)) });
        tasks.register(CriticalTaskConfig::from_loop("failing", fails)).expect("registered");
        tasks.start();
        let page = Page::new(&tasks).feed(&feed).token(TOKEN).connections(usize::MAX);
        let page = page.serve("127.0.0.1:0").expect("served");
        let listener = TcpListener::bind("127.0.0.1:0").expect("its own");
        let own = listener.local_addr().expect("an address");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        // The service's own work: until it is told to end.
        let failures = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = failures.clone();
        std::thread::spawn(move || {
            loop {
                let works = TcpStream::connect(own).is_ok() && std::fs::File::open("/proc/self/stat").is_ok();
                counted.fetch_add(usize::from(!works), SeqCst);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Its events have long texts: the largest answers that are made for each client.
        let runs = || tasks.snapshot("failing").map_or(0, |task| task.total_runs());
        eventually("every event is of a failure", || runs() > 2_100).await;
        tasks.stop("failing").expect("registered");
        println!("page {}", page.address());
        let _ = std::io::stdin().read(&mut [0]);
        println!("failures {}", failures.load(SeqCst));
        tasks.shutdown().await;
        telemetry.shutdown().await;
    });
}

struct Victim {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    page: SocketAddr,
    /// In bytes, before the first attack.
    before: u64,
}

impl Victim {
    /// Starts a process that may have 1,024 descriptors and [`MEMORY`].
    fn start() -> Self {
        let mut child = Command::new("sh")
            .args([
                "-c",
                &format!("ulimit -n 1024; ulimit -d {MEMORY}; exec \"$0\" --exact victim --nocapture"),
            ])
            .arg(std::env::current_exe().expect("this test"))
            .env(VICTIM, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let page = said(&mut lines, "page ").parse().expect("an address");
        // What every request brings about once.
        for path in ["/tasks", "/metrics", "/events/recent", "/tasks/task_1"] {
            assert_eq!(ask(page, "GET", path, &[]).status, 200, "{path}");
        }
        let mut victim = Self { child, lines, page, before: 0 };
        std::fs::write(format!("/proc/{}/clear_refs", victim.child.id()), "5").expect("its own process");
        victim.before = victim.status("VmRSS:");
        victim
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the process ended");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
    }

    /// The most that it grew since the start.
    fn growth(&self) -> u64 {
        self.status("VmHWM:").saturating_sub(self.before)
    }
}

/// The rest of the next line that begins so.
fn said(lines: &mut impl Iterator<Item = std::io::Result<String>>, begins: &str) -> String {
    let line = lines
        .map_while(Result::ok)
        .find_map(|line| line.find(begins).map(|at| line[at + begins.len()..].to_owned()));
    line.unwrap_or_else(|| panic!("it never said {begins:?}"))
}

/// One probe, as a kubelet sends it: by the service's name, on a connection of its own. How long it took.
fn probe(page: SocketAddr) -> Result<Duration, String> {
    answered(page, "/health/live")
}

/// How long it took until the whole answer was there.
fn answered(page: SocketAddr, path: &str) -> Result<Duration, String> {
    let began = Instant::now();
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&page, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(SCRAPE))?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: web:8088\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match answer() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(began.elapsed()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}

/// Attacks while somebody probes. `attack` returns once `is_over` is set.
fn under(victim: &Victim, name: &str, attack: impl Fn(SocketAddr, &AtomicBool) + Sync) {
    let (is_over, page) = (AtomicBool::new(false), victim.page);
    let mut times = Vec::new();
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| attack(page, &is_over));
        let end = Instant::now() + ATTACK;
        while Instant::now() < end {
            match probe(page) {
                Ok(time) => times.push(time),
                Err(error) => failed.push(error),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        is_over.store(true, SeqCst);
    });
    times.sort_unstable();
    let p99 = times[(times.len() * 99).div_ceil(100) - 1];
    let growth = victim.growth();
    println!(
        "{name}: {} probes, half in {:.1?}, 99 of 100 in {p99:.1?}, the slowest in {:.1?}; it grew by {:.1} MB",
        times.len(),
        times[times.len() / 2],
        times.last().expect("some"),
        growth as f64 / f64::from(1 << 20),
    );
    assert!(failed.is_empty(), "{name}: {} probes failed: {:?}", failed.len(), failed.first());
    assert!(p99 < 10 * PROMISE, "{name}: {p99:?}");
    assert!(growth < GROWTH, "{name}: it grew by {growth} B");
}

/// A client at another address of this machine.
fn connect_from(number: u16, page: SocketAddr) -> Option<TcpStream> {
    let [high, low] = number.to_be_bytes();
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 1, high, low.max(1)), 0);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
    socket.bind(&from.into()).ok()?;
    socket.connect_timeout(&page.into(), Duration::from_secs(1)).ok()?;
    Some(socket.into())
}

fn wait_for(is_over: &AtomicBool) {
    while !is_over.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// So many connections, each with these bytes sent and nothing read.
fn hold(page: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    (0..count)
        .filter_map(|_| {
            let mut stream = TcpStream::connect_timeout(&page, Duration::from_secs(1)).ok()?;
            let _ = stream.set_nonblocking(true);
            let _ = stream.write(bytes);
            Some(stream)
        })
        .collect()
}

/// Asks for this at full speed on some threads.
fn at_full_speed(threads: usize, is_over: &AtomicBool, ask: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    ask();
                }
            });
        }
    });
}

/// One request whose answer is read to its end. Whether it was answered with 200: it is an attack, and may be refused or late.
fn request(page: SocketAddr, head: &str) -> bool {
    let asked = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&page, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    asked().unwrap_or(false)
}

#[test]
fn no_client_hurts_the_service() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if std::env::var_os(VICTIM).is_some() {
        return;
    }
    // The attackers have descriptors enough.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
    let mut victim = Victim::start();

    under(&victim, "nobody attacks", |_, is_over| wait_for(is_over));
    under(&victim, "1,100 connections that ask four times and never read", |page, is_over| {
        let asks = "GET /tasks HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4);
        let _held = hold(page, 1_100, asks.as_bytes());
        wait_for(is_over);
    });
    under(&victim, "connections that come again and never read", |page, is_over| {
        let asks = "GET /events/recent HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4);
        while !is_over.load(SeqCst) {
            let _held = hold(page, 200, asks.as_bytes());
        }
    });
    under(&victim, "1,100 heads that never end", |page, is_over| {
        let mut held = hold(page, 1_100, b"GET / HTTP/1.1\r\nHost: local");
        while !is_over.load(SeqCst) {
            held.iter_mut().for_each(|stream| drop(stream.write(b"x")));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    under(&victim, "streams that are read a byte at a time", |page, is_over| {
        let mut held = hold(page, 200, b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        while !is_over.load(SeqCst) {
            held.iter_mut().for_each(|stream| drop(stream.read(&mut [0])));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    under(&victim, "connections from 300 addresses", |page, is_over| {
        let _held: Vec<_> = (0..300).filter_map(|number| connect_from(number, page)).collect();
        wait_for(is_over);
    });
    under(&victim, "requests to control tasks, with a wrong token and without", |page, is_over| {
        at_full_speed(8, is_over, || {
            request(page, "POST /tasks/task_1/stop HTTP/1.1");
            request(page, "POST /tasks/task_1/stop HTTP/1.1\r\nAuthorization: Bearer wrong");
        });
    });
    under(&victim, "answers that are made for each, from many addresses, and never read", |page, is_over| {
        let paths = ["/tasks/failing", "/events/recent"];
        let mut held: Vec<_> = (0..300)
            .filter_map(|number: u16| {
                let mut stream = connect_from(number, page)?;
                stream.set_read_timeout(Some(SCRAPE)).ok()?;
                let path = paths[usize::from(number) % paths.len()];
                let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                Some(stream)
            })
            .collect();
        // Each answer is made when its first byte is there.
        held.iter_mut().for_each(|stream| drop(stream.read(&mut [0])));
        wait_for(is_over);
    });
    let answers = AtomicUsize::new(0);
    under(&victim, "metrics without their text, at full speed", |page, is_over| {
        at_full_speed(16, is_over, || {
            answers.fetch_add(usize::from(request(page, "HEAD /metrics HTTP/1.1")), SeqCst);
        });
    });
    let answers = answers.into_inner();
    println!("    {answers} answers");
    let texts = 50 * ATTACK.as_secs();
    assert!(answers as u64 > texts, "no more answers than texts can be made: {answers}");
    let scrapes = Mutex::new(Vec::new());
    under(&victim, "metrics at full speed", |page, is_over| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                at_full_speed(16, is_over, || {
                    request(page, "GET /metrics HTTP/1.1");
                });
            });
            while !is_over.load(SeqCst) {
                scrapes.lock().expect("nobody panics").push(answered(page, "/metrics"));
            }
        });
    });
    let scrapes = scrapes.into_inner().expect("nobody panics");
    println!("    beside it, {} scrapes: {scrapes:.1?}", scrapes.len());
    for scrape in &scrapes {
        let time = scrape.as_ref().unwrap_or_else(|why| panic!("a scrape beside the others: {why:.200}"));
        assert!(*time < SCRAPE, "a scrape took {time:?}");
    }
    under(&victim, "every task, at full speed", |page, is_over| {
        at_full_speed(8, is_over, || {
            request(page, "GET /tasks HTTP/1.1");
            request(page, "GET /tasks/task_1 HTTP/1.1");
            request(page, "GET /events/recent HTTP/1.1");
        });
    });

    // And it is as it was.
    let until = Instant::now() + Duration::from_secs(30);
    while ask(victim.page, "GET", "/tasks", &[]).status != 200 {
        assert!(Instant::now() < until, "it has no place for a client again");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(victim.child.stdin.take());
    assert_eq!(said(&mut victim.lines, "failures "), "0", "the service's own sockets and files");
    assert!(victim.child.wait().expect("it ends").success());
}
