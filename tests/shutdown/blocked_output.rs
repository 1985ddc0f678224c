//! A process whose output or subscriber blocks for ever still ends with its exit code, in a process of its own.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, shutdown::LastResort, shutdown_signal};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt, util::SubscriberInitExt};

use crate::support::{
    process::{child_as, role},
    secs,
};

/// The deadline of each shutdown here.
const DEADLINE: Duration = Duration::from_secs(2);
/// The longest time from SIGTERM to the end: the deadline, the moment for a waiter, the line, the flush.
const AT_MOST: Duration = Duration::from_secs(2 + 7);

/// As `stderr`, and the process is ended by its own code alone.
const PRINTING: &str = "stderr, with the default last resort,";

/// Blocks every thread for ever that emits a record, once it is armed.
struct Blocks;

static ARMED: AtomicBool = AtomicBool::new(false);

impl<S: tracing::Subscriber> Layer<S> for Blocks {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        while ARMED.load(SeqCst) {
            std::thread::park();
        }
    }

    fn on_new_span(&self, _: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        while ARMED.load(SeqCst) {
            std::thread::park();
        }
    }
}

/// What the child writes to, and on how many workers; 0 for a current-thread runtime.
fn serve(role: &str) -> ! {
    let (sink, workers) = role.rsplit_once(' ').expect("two words");
    let workers: usize = workers.parse().expect("a number");
    #[cfg(feature = "otlp-http")]
    let telemetry = sink.starts_with("http").then(|| {
        // Its lines go to stderr.
        let telemetry = otel_tasks::Telemetry::builder().env(|_| None).endpoint(sink).service("blocked");
        telemetry.install().expect("telemetry")
    });
    match sink {
        _ if sink.starts_with("http") => {}
        "stderr" | PRINTING => tracing_subscriber::fmt().with_writer(std::io::stderr).init(),
        "stdout" => tracing_subscriber::fmt().with_writer(std::io::stdout).init(),
        _ => tracing_subscriber::registry().with(Blocks).init(),
    }
    let mut runtime = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 0 {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_all().build().expect("a runtime");
    let report = runtime.block_on(async {
        let tasks = TaskManager::builder()
            .shutdown_deadline(DEADLINE)
            .last_resort(if sink == PRINTING { LastResort::Print } else { LastResort::Exit })
            .slow_poll(Duration::from_millis(100))
            .build()
            .expect("valid");
        for number in 0..4 {
            let writes = |_: TaskContext| async {
                ARMED.store(true, SeqCst);
                let text = "x".repeat(4_096);
                loop {
                    tracing::info!("{text}");
                    tokio::task::yield_now().await;
                }
            };
            tasks.register(CriticalTaskConfig::new(format!("writes_{number}"), writes)).expect("valid");
        }
        let signal = shutdown_signal();
        let mut output = std::io::stdout();
        // The line, and the start of another, which the end of the process would flush.
        let _ = output.write_all(b"serving\npart of a line").and_then(|()| output.flush());
        print!("and more of it");
        tasks.run_until(signal).await
    });
    #[cfg(feature = "otlp-http")]
    telemetry.map(otel_tasks::Telemetry::shutdown_blocking);
    report.exit();
}

/// Ends the child whatever happens.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Child {
    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Some(status) = self.0.try_wait().expect("its state") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

fn ends_though(test: &str, sink: &str, workers: &[usize]) {
    if let Some(role) = role() {
        serve(&role);
    }
    for workers in workers {
        let role = format!("{sink} {workers}");
        let command = &mut child_as(test, &role);
        let mut child =
            Child(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child"));
        let mut output = BufReader::with_capacity(1, child.0.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(output.read_line(&mut line).expect("text") > 0, "{role}: it ended");
        }
        // Nothing is read any more: the pipes fill, and the watchdog reports polls that do not return.
        std::thread::sleep(secs(1));
        assert_eq!(child.0.try_wait().expect("its state"), None, "{role}");
        let pid = child.0.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s TERM \"$0\"", &pid]).status();
        assert!(sent.expect("a shell").success());
        let began = Instant::now();
        let status = child.ends_within(AT_MOST);
        let code = status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{role}: {status:?} after {:?}", began.elapsed());
    }
}

/// Fails if the watchdog writes to stderr itself, or the shutdown needs a thread that does.
#[test]
fn a_full_stderr_that_nobody_reads_does_not_keep_the_process() {
    ends_though(
        "blocked_output::a_full_stderr_that_nobody_reads_does_not_keep_the_process",
        "stderr",
        &[0, 1, 2],
    );
}

/// Fails if the signal passes through the workers alone.
#[test]
fn a_caller_receives_the_signal_and_the_report_while_every_worker_is_blocked() {
    let test = "blocked_output::a_caller_receives_the_signal_and_the_report_while_every_worker_is_blocked";
    ends_though(test, PRINTING, &[1, 2]);
}

/// Fails if a record of the shutdown is emitted before its span ends, or the flush waits for a thread that writes.
#[cfg(feature = "otlp-http")]
#[test]
fn telemetry_leaves_before_the_process_ends() {
    use crate::support::otlp::{ANY, Receiver};

    if let Some(role) = role() {
        serve(&role);
    }
    let receiver = Receiver::start(ANY);
    ends_though("blocked_output::telemetry_leaves_before_the_process_ends", &receiver.endpoint(), &[0, 1, 2]);
    let shutdowns = receiver.spans().iter().filter(|span| span.name == "bot.cleanup_tasks").count();
    assert_eq!(shutdowns, 3);
}

/// Fails if the end of the process flushes stdout.
#[test]
fn a_full_stdout_that_nobody_reads_does_not_keep_the_process() {
    ends_though(
        "blocked_output::a_full_stdout_that_nobody_reads_does_not_keep_the_process",
        "stdout",
        &[0, 1, 2],
    );
}

/// Fails if a span or a record of the shutdown is made on a thread that the shutdown needs.
#[test]
fn a_subscriber_that_blocks_for_ever_does_not_keep_the_process() {
    ends_though(
        "blocked_output::a_subscriber_that_blocks_for_ever_does_not_keep_the_process",
        "subscriber",
        &[0, 1, 2],
    );
}
