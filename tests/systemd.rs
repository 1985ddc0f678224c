//! What systemd receives from a service. Each test runs itself again as a child that has systemd's variables, since a process has
//! one environment; the child listens on the socket itself.

#![cfg(unix)]

#[path = "support/process.rs"]
mod process;

use std::{
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager,
    task::{BuildError, TaskManagerBuilder},
};

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The path of a socket that no other test has.
fn path(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("otel-tasks-{test}-{}", std::process::id()))
}

/// Whether this is the child, with these variables. Otherwise runs the child, which must succeed.
fn in_child(test: &str, variables: &[(&str, &str)]) -> bool {
    if process::is_child() {
        return true;
    }
    let path = path(test);
    let mut child = process::child(test);
    child.env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    let output = child.envs(variables.iter().copied()).output().expect("a child");
    let _ = std::fs::remove_file(path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn bind() -> UnixDatagram {
    let name = std::env::var("NOTIFY_SOCKET").expect("a socket");
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
        return UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).expect("a name"))
            .expect("a socket");
    }
    UnixDatagram::bind(name).expect("a socket")
}

/// The lines that the service manager has received, with the time.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<(Instant, String)>>>);

impl Received {
    /// Receives from now on.
    fn listen() -> Self {
        Self::on(bind())
    }

    fn on(socket: UnixDatagram) -> Self {
        let received = Self::default();
        let lines = received.0.clone();
        std::thread::spawn(move || {
            let mut datagram = [0; 4_096];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = std::str::from_utf8(&datagram[..length]).expect("text");
                let now = Instant::now();
                lines.lock().expect("lines").extend(text.lines().map(|line| (now, line.to_owned())));
            }
        });
        received
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("lines").iter().map(|(_, line)| line.clone()).collect()
    }

    fn count(&self, wanted: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(wanted)).count()
    }

    fn wait_for(&self, wanted: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.count(wanted) == 0 {
            assert!(Instant::now() < until, "no {wanted} in {:?}", self.lines());
            std::thread::sleep(millis(5));
        }
    }

    /// The lines of that beginning that come within this time.
    fn within(&self, time: Duration, wanted: &str) -> usize {
        let before = self.count(wanted);
        std::thread::sleep(time);
        self.count(wanted) - before
    }
}

fn builder() -> TaskManagerBuilder {
    TaskManager::builder().systemd().runtime_stall(millis(100))
}

fn workers() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

async fn obeys(ctx: TaskContext) {
    ctx.cancelled().await;
}

fn reports_the_life_of_a_service() {
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().shutdown_deadline(Duration::from_secs(20)).build().expect("a manager");
    let ready = Arc::new(tokio::sync::Notify::new());
    let is_ready = ready.clone();
    let late = CriticalTaskConfig::new("late", move |ctx| {
        let is_ready = is_ready.clone();
        async move {
            is_ready.notified().await;
            ctx.ready();
            ctx.cancelled().await;
            tokio::time::sleep(millis(1_300)).await;
        }
    });
    tasks.register(late.start_timeout(Duration::from_secs(60))).expect("registered");
    assert_eq!(received.within(millis(300), "READY"), 0, "it is not started: {:?}", received.lines());
    tasks.start();
    assert_eq!(received.within(millis(300), "READY"), 0, "a task is not ready: {:?}", received.lines());
    ready.notify_one();
    received.wait_for("READY=1");
    received.wait_for("STATUS=1 of 1 tasks healthy");
    assert_eq!(received.count("STOPPING"), 0);
    assert_eq!(received.count("WATCHDOG"), 0, "nobody asks for pings");

    let report = runtime.block_on(tasks.shutdown());
    assert!(report.is_clean(), "{report}");
    received.wait_for("STATUS=shut down in ");
    assert_eq!(received.count("STATUS=shutting down: 1 tasks and runs left"), 1);
    assert_eq!((received.count("READY=1"), received.count("STOPPING=1")), (1, 1), "{:?}", received.lines());
    let extensions: Vec<u64> = received
        .lines()
        .iter()
        .filter_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="))
        .map(|micros| micros.parse().expect("a number"))
        .collect();
    assert!(extensions.len() >= 2, "one a second: {extensions:?}");
    assert!(extensions[0] > 21_900_000 && extensions[0] <= 22_000_000, "{extensions:?}");
    assert!(extensions[1] < 21_100_000, "the end stays where it is: {extensions:?}");
    assert_eq!(received.within(millis(1_200), "EXTEND"), 0, "the shutdown is over");
}

#[test]
fn a_service_reports_ready_status_and_stopping() {
    if in_child("a_service_reports_ready_status_and_stopping", &[]) {
        reports_the_life_of_a_service();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_service_reports_to_an_abstract_socket() {
    let name = format!("@otel-tasks-test-{}", std::process::id());
    if in_child("a_service_reports_to_an_abstract_socket", &[("NOTIFY_SOCKET", &name)]) {
        reports_the_life_of_a_service();
    }
}

#[test]
fn a_drain_is_reported_as_stopping() {
    if !in_child("a_drain_is_reported_as_stopping", &[]) {
        return;
    }
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().shutdown_deadline(Duration::from_secs(20)).build().expect("a manager");
    tasks.register(CriticalTaskConfig::new("obeys", obeys)).expect("registered");
    tasks.start();
    received.wait_for("READY=1");
    let draining = runtime.spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown_after(millis(1_500)).await }
    });
    received.wait_for("STOPPING=1");
    assert!(!tasks.is_shutting_down(), "it drains");
    received.wait_for("EXTEND_TIMEOUT_USEC=2");
    runtime.block_on(draining).expect("no panic");
    received.wait_for("STATUS=shut down in ");
    assert_eq!(received.count("STOPPING=1"), 1);
}

#[test]
fn pings_end_while_all_workers_are_blocked() {
    if !in_child("pings_end_while_all_workers_are_blocked", &[("WATCHDOG_USEC", "300000")]) {
        return;
    }
    let received = Received::listen();
    let tasks = std::thread::spawn({
        let received = received.clone();
        move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let tasks = builder().build().expect("a manager");
                tasks.register(CriticalTaskConfig::new("obeys", obeys)).expect("registered");
                tasks.start();
                tokio::time::sleep(millis(600)).await;
                assert!(received.count("WATCHDOG=1") >= 3, "one each 100 ms: {:?}", received.lines());
                let block = tasks.spawn("blocks", async { std::thread::sleep(millis(3_500)) });
                let _ = block.await;
                tokio::time::sleep(millis(600)).await;
                tasks
            })
        }
    });
    received.wait_for("STATUS=1 of 1 tasks healthy; the runtime has stalled");
    assert_eq!(received.within(millis(1_500), "WATCHDOG"), 0, "{:?}", received.lines());
    let before = received.count("WATCHDOG");
    let _tasks = tasks.join().expect("no panic");
    assert!(received.count("WATCHDOG") >= before + 3, "they begin again: {:?}", received.lines());
}

#[test]
fn pings_end_while_a_task_is_not_live() {
    if !in_child("pings_end_while_a_task_is_not_live", &[("WATCHDOG_USEC", "300000")]) {
        return;
    }
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().build().expect("a manager");
    let beats = Arc::new(AtomicBool::new(true));
    let goes_on = beats.clone();
    let beating = CriticalTaskConfig::new("beating", move |ctx| {
        let goes_on = goes_on.clone();
        async move {
            loop {
                tokio::time::sleep(millis(20)).await;
                if goes_on.load(SeqCst) {
                    ctx.heartbeat();
                }
            }
        }
    });
    let beating = beating.heartbeat_timeout(millis(200)).shutdown_grace(Duration::ZERO);
    tasks.register(beating.on_stall(otel_tasks::policy::StallAction::Report)).expect("registered");
    tasks.start();
    received.wait_for("READY=1");
    assert!(received.within(millis(600), "WATCHDOG=1") >= 3, "{:?}", received.lines());
    beats.store(false, SeqCst);
    received.wait_for("STATUS=0 of 1 tasks healthy; 1 unhealthy: beating");
    assert_eq!(received.within(millis(600), "WATCHDOG"), 0, "{:?}", received.lines());
    beats.store(true, SeqCst);
    assert!(received.within(millis(900), "WATCHDOG=1") >= 3, "{:?}", received.lines());
    runtime.block_on(tasks.shutdown());
}

#[test]
fn a_service_manager_that_receives_nothing_does_not_block_the_watchdog() {
    if !in_child(
        "a_service_manager_that_receives_nothing_does_not_block_the_watchdog",
        &[("WATCHDOG_USEC", "30000")],
    ) {
        return;
    }
    let socket = bind();
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("a socket");
    while filler.send_to(b"X_FULL=1", std::env::var("NOTIFY_SOCKET").expect("a path")).is_ok() {}
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().slow_poll(millis(50)).build().expect("a manager");
    tasks.register(CriticalTaskConfig::new("obeys", obeys)).expect("registered");
    tasks.start();
    std::thread::sleep(millis(500));
    let blocks = tasks.spawn("blocks", async { std::thread::sleep(millis(1_500)) });
    let until = Instant::now() + millis(1_000);
    while tasks.health().blocked.is_empty() {
        assert!(Instant::now() < until, "the watchdog's thread has not looked");
        std::thread::sleep(millis(10));
    }
    runtime.block_on(blocks).expect("no panic");
    // What did not fit is sent once there is room.
    let received = Received::on(socket);
    received.wait_for("READY=1");
    received.wait_for("WATCHDOG=1");
    let report = runtime.block_on(tasks.shutdown());
    assert!(report.is_clean(), "{report}");
    received.wait_for("STOPPING=1");
}

#[test]
fn a_variable_that_cannot_be_used_is_ignored_with_a_warning() {
    if !in_child(
        "a_variable_that_cannot_be_used_is_ignored_with_a_warning",
        &[("WATCHDOG_USEC", "2s"), ("WATCHDOG_PID", "1")],
    ) {
        return;
    }
    let records = records();
    tracing_subscriber::fmt().with_writer(records.1).init();
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().build().expect("a manager");
    tasks.start();
    received.wait_for("READY=1");
    assert_eq!(received.within(millis(300), "WATCHDOG"), 0, "{:?}", received.lines());
    let records = String::from_utf8(records.0.lock().expect("records").clone()).expect("text");
    let warned = records.lines().filter(|record| record.contains("WARN")).collect::<Vec<_>>();
    assert_eq!(warned.len(), 1, "{records}");
    assert!(warned[0].contains("WATCHDOG_USEC=\"2s\" is ignored"), "{records}");
}

#[test]
fn pings_for_another_process_are_not_sent() {
    if !in_child(
        "pings_for_another_process_are_not_sent",
        &[("WATCHDOG_USEC", "300000"), ("WATCHDOG_PID", "1")],
    ) {
        return;
    }
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().build().expect("a manager");
    tasks.start();
    received.wait_for("READY=1");
    assert_eq!(received.within(millis(500), "WATCHDOG"), 0, "{:?}", received.lines());
}

#[test]
fn one_manager_of_a_process_reports_at_a_time() {
    if !in_child("one_manager_of_a_process_reports_at_a_time", &[]) {
        return;
    }
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let first = builder().build().expect("a manager");
    assert_eq!(builder().build().err(), Some(BuildError::SystemdInUse));
    let silent = TaskManager::new();
    silent.start();
    assert_eq!(received.within(millis(300), "READY"), 0, "another manager is ready: {:?}", received.lines());
    drop(first);
    let second = builder().build().expect("the first is gone");
    second.start();
    received.wait_for("READY=1");
}

#[test]
fn a_task_cannot_add_lines_to_a_status() {
    if !in_child("a_task_cannot_add_lines_to_a_status", &[]) {
        return;
    }
    let received = Received::listen();
    let runtime = workers();
    let _inside = runtime.enter();
    let tasks = builder().build().expect("a manager");
    let fails = |_: TaskContext| async { Err::<(), _>(std::io::Error::other("no")) };
    let fails = CriticalTaskConfig::new("a\nMAINPID=1", fails);
    tasks.register(fails.restart_policy(otel_tasks::RestartPolicy::Never)).expect("registered");
    tasks.start();
    received.wait_for("STATUS=0 of 1 tasks healthy; 1 unhealthy: a MAINPID=1");
    assert_eq!(received.count("MAINPID"), 0);
}

#[test]
fn without_a_service_manager_nothing_happens() {
    if !in_child("without_a_service_manager_nothing_happens", &[("NOTIFY_SOCKET", "")]) {
        return;
    }
    let runtime = workers();
    let _inside = runtime.enter();
    let (first, second) = (builder().build().expect("a manager"), builder().build().expect("another"));
    first.start();
    assert!(first.health().is_live);
    drop((first, second));
}

/// What is written to the other half.
fn records() -> (Arc<Mutex<Vec<u8>>>, Mutex<Writer>) {
    let written = Arc::<Mutex<Vec<u8>>>::default();
    (written.clone(), Mutex::new(Writer(written)))
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("records").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
