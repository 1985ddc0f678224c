//! A poll that does not return: behind a gate its process ends before another one may run the task, whatever else is blocked.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager,
    gate::{BootInstant, BoxFuture, Gate, Grant},
    shutdown::LastResort,
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::{
    millis,
    process::{child_as, is_child, role},
    secs,
};

const LASTS: Duration = secs(6);
const GRACE: Duration = secs(5);

/// A gate that is open once, for a while.
struct Once(AtomicBool);

impl Once {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl Gate for Once {
    fn name(&self) -> &str {
        "once"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        if self.0.swap(true, SeqCst) {
            return Box::pin(std::future::pending());
        }
        let until = BootInstant::now().saturating_add(LASTS);
        println!("@{}", nanos(until));
        Box::pin(async move { Grant::new(1, until, GRACE).0 })
    }
}

fn nanos(at: BootInstant) -> u128 {
    at.saturating_duration_since(BootInstant::after_boot(Duration::ZERO)).as_nanos()
}

/// A process that this test has started. Ended with it.
struct Blocked(Child);

impl Blocked {
    fn start(test: &str, role: &str) -> Self {
        let mut command: Command = child_as(test, role);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(child.expect("started"))
    }

    /// The end of its permission.
    fn until(&mut self) -> u128 {
        let lines = BufReader::new(self.0.stdout.take().expect("piped")).lines();
        let mut ends = lines.map_while(Result::ok).filter_map(|line| line.split_once('@')?.1.parse().ok());
        ends.next().expect("it is granted")
    }

    /// Waits for its end, which nothing else causes. Reads nothing of what it writes on stderr.
    fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("its own") {
                return status;
            }
            assert!(began.elapsed() < LASTS * 10, "it still runs");
            std::thread::sleep(millis(5));
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn assert_aborted(status: ExitStatus) {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(status.signal(), Some(6), "{status}");
}

/// Blocks its thread.
fn park() {
    loop {
        std::thread::park();
    }
}

/// Runs these tasks on two workers until the process is ended.
fn run(tasks: impl IntoIterator<Item = CriticalTaskConfig>, slow_poll: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let manager = TaskManager::builder().slow_poll(slow_poll).build().unwrap();
        manager.register_all(tasks.into_iter().map(|task| task.gate(Once::new()))).unwrap();
        manager.start();
        std::future::pending::<()>().await;
    });
}

#[test]
fn full_stderr_does_not_delay_the_end_of_the_process() {
    if is_child() {
        return run(
            [CriticalTaskConfig::new("t", |_| async {
                loop {
                    // The test reads none of it. Once the pipe is full, this thread holds the lock of stderr.
                    eprintln!("{}", "x".repeat(4_096));
                }
            })],
            millis(100),
        );
    }
    let mut child = Blocked::start("overruns::full_stderr_does_not_delay_the_end_of_the_process", "child");
    child.until();
    assert_aborted(child.ended());
}

static HELD: Mutex<()> = Mutex::new(());

/// A subscriber that waits for what a task holds.
struct Waits;

impl<S: tracing::Subscriber> Layer<S> for Waits {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        drop(HELD.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[test]
fn blocked_subscriber_does_not_delay_the_end_of_the_process() {
    if is_child() {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Waits)).unwrap();
        return run(
            [CriticalTaskConfig::new("t", |_| async {
                let _held = HELD.lock().unwrap();
                park();
            })],
            // So that the watchdog reports it, and waits.
            millis(100),
        );
    }
    let mut child =
        Blocked::start("overruns::blocked_subscriber_does_not_delay_the_end_of_the_process", "child");
    child.until();
    assert_aborted(child.ended());
}

#[test]
fn process_whose_workers_are_all_blocked_ends_before_its_permission() {
    if let Some(blocks) = role() {
        let blocked = |name| CriticalTaskConfig::new(name, |_| async { park() });
        let owner = CriticalTaskConfig::new("owner", |ctx: TaskContext| async move {
            drop(ctx.task("work").spawn_blocking(|_| park()));
            ctx.cancelled().await;
        });
        return match &*blocks {
            "workers" => run([blocked("a"), blocked("b")], secs(60)),
            _ => run([owner], secs(60)),
        };
    }
    for blocks in ["workers", "owned work"] {
        let test = "overruns::process_whose_workers_are_all_blocked_ends_before_its_permission";
        let mut child = Blocked::start(test, blocks);
        let until = child.until();
        assert_aborted(child.ended());
        let ended = nanos(BootInstant::now());
        assert!(ended < until, "{blocks}: ended {:?} ms late", (ended - until) / 1_000_000);
    }
}

#[test]
fn full_stderr_does_not_delay_the_last_resort() {
    if is_child() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let tasks = TaskManager::builder().shutdown_deadline(secs(1)).last_resort(LastResort::Exit);
            let tasks = tasks.build().unwrap();
            tasks
                .register(CriticalTaskConfig::new("t", |ctx: TaskContext| async move {
                    ctx.cancelled().await;
                    loop {
                        eprintln!("{}", "x".repeat(4_096));
                    }
                }))
                .unwrap();
            tasks.start();
            tokio::time::sleep(millis(10)).await;
            tasks.shutdown().await;
        });
    }
    let mut child = Blocked::start("overruns::full_stderr_does_not_delay_the_last_resort", "child");
    assert_eq!(child.ended().code(), Some(2), "a task was leaked");
}
