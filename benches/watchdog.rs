//! How soon the watchdog sees what it is there for, and how well a shutdown keeps its deadline when nothing else can.
//!
//! `cargo bench --bench watchdog`: each figure is the time from the moment that was promised (a heartbeat missed, a poll past
//! its threshold, the deadline) to the event or the report. What is promised is 100 ms, two ticks of the watchdog's thread;
//! exits 1 above ten times that. `--quick` for a look that it still runs.

use std::{
    process::ExitCode,
    sync::mpsc,
    time::{Duration, Instant},
};

use otel_tasks::{
    CriticalTaskConfig, TaskManager,
    events::{TaskEventKind, TaskEvents},
    policy::StallAction,
    shutdown::ShutdownOutcome,
};
use tokio::runtime::{Builder, Runtime};

const PROMISE: Duration = Duration::from_millis(100);
const ALLOWED: Duration = PROMISE.saturating_mul(10);
/// The timeout, threshold or deadline in each case.
const LIMIT: Duration = Duration::from_millis(300);
const WORKERS: usize = 2;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().expect("a runtime")
}

/// When the first event comes that `wanted` accepts. On a thread that no runtime can block.
fn seen(events: &mut TaskEvents, wanted: impl Fn(&TaskEventKind) -> bool) -> Instant {
    let began = Instant::now();
    loop {
        while let Some(event) = events.try_recv() {
            if wanted(&event.kind) {
                return Instant::now();
            }
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is seen");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Blocks `threads` threads of the runtime until the sender is dropped. Answers when they do.
fn block(tasks: &TaskManager, threads: usize) -> (mpsc::Sender<()>, Instant) {
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    let (tell, told) = mpsc::channel();
    for _ in 0..threads {
        let (released, tell) = (released.clone(), tell.clone());
        drop(tasks.spawn("blocker", async move {
            tell.send(()).expect("somebody listens");
            while released
                .try_lock()
                .map_or(true, |released| released.try_recv() == Err(mpsc::TryRecvError::Empty))
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
    }
    (0..threads).for_each(|_| told.recv().expect("it blocks"));
    (release, Instant::now())
}

fn silent(tasks: &TaskManager) {
    let config = CriticalTaskConfig::new("silent", |_| std::future::pending::<()>());
    tasks.register(config.heartbeat_timeout(LIMIT).on_stall(StallAction::Report)).expect("new");
    tasks.start();
}

fn silence(blocked: bool) -> Duration {
    let runtime = runtime();
    let _inside = runtime.enter();
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    silent(&tasks);
    let began = seen(&mut events, |kind| matches!(kind, TaskEventKind::Started { .. }));
    let release = blocked.then(|| block(&tasks, WORKERS));
    let at = seen(&mut events, |kind| matches!(kind, TaskEventKind::Stalled { .. }));
    drop(release);
    at.saturating_duration_since(began + LIMIT)
}

fn slow_poll() -> Duration {
    let runtime = runtime();
    let _inside = runtime.enter();
    let tasks = TaskManager::builder().slow_poll(LIMIT).build().unwrap();
    let mut events = tasks.subscribe();
    let (release, began) = block(&tasks, 1);
    let at = seen(&mut events, |kind| matches!(kind, TaskEventKind::SlowPoll { .. }));
    drop(release);
    at.saturating_duration_since(began + LIMIT)
}

fn shutdown(blocked: bool) -> Duration {
    let runtime = runtime();
    let tasks = {
        let _inside = runtime.enter();
        TaskManager::builder().shutdown_deadline(LIMIT).build().unwrap()
    };
    let mut events = tasks.subscribe();
    let deaf = CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>());
    tasks.register(deaf).expect("new");
    tasks.start();
    seen(&mut events, |kind| matches!(kind, TaskEventKind::Started { .. }));
    let release = blocked.then(|| block(&tasks, WORKERS));
    let began = Instant::now();
    let report = runtime.block_on(tasks.shutdown());
    let took = began.elapsed();
    let expected = if blocked { ShutdownOutcome::Leaked } else { ShutdownOutcome::Aborted };
    assert!(report.count(expected) > 0, "{report}");
    drop(release);
    took.saturating_sub(LIMIT)
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    let rounds = if quick { 2 } else { 15 };
    type Case = (&'static str, fn() -> Duration);
    let cases: [Case; 5] = [
        ("a missed heartbeat is seen", || silence(false)),
        ("a missed heartbeat is seen, every thread blocked", || silence(true)),
        ("a poll that blocks its thread is seen", slow_poll),
        ("a shutdown of the deaf reports past its deadline", || shutdown(false)),
        ("the same, every thread blocked", || shutdown(true)),
    ];
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores, {WORKERS} threads of the runtime, {rounds} rounds; after the promised moment, ms"
    );
    println!("{:<52} {:>8} {:>8}", "", "median", "most");
    let mut worst = Duration::ZERO;
    for (name, measure) in cases {
        let mut figures: Vec<_> = (0..rounds).map(|_| measure()).collect();
        figures.sort_unstable();
        let millis = |figure: Duration| figure.as_secs_f64() * 1e3;
        let most = figures[rounds - 1];
        println!("{name:<52} {:>8.1} {:>8.1}", millis(figures[rounds / 2]), millis(most));
        worst = worst.max(most);
    }
    if worst > ALLOWED {
        println!("{worst:.1?} is above {ALLOWED:?}, ten times the promise");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
