//! Supervision in a terminal: tasks with dependencies, a silent task, a task that blocks a thread, a task that ignores
//! every stop request. The output shows the detected problems, the restarts, and the task that could not be stopped.
//!
//! `cargo run --example supervision`; takes about eight seconds.

use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskContext, TaskGroup, TaskManager,
    events::{TaskEvent, TaskEventKind, TaskEvents},
    policy::{DependencyLoss, RestartStrategy},
};
use tokio::time::sleep;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Works until it is asked to stop.
async fn work(ctx: TaskContext) {
    while !ctx.is_cancelled() {
        ctx.heartbeat();
        tokio::select! {
            () = ctx.cancelled() => {}
            () = sleep(millis(100)) => {}
        }
    }
}

/// Takes a while to be ready, and loses its connection once.
async fn database(ctx: TaskContext) -> Result<(), &'static str> {
    sleep(millis(400)).await;
    ctx.ready();
    if ctx.generation() == 1 {
        sleep(millis(1_200)).await;
        return Err("connection lost");
    }
    work(ctx).await;
    Ok(())
}

/// Waits for an answer that never comes, the first time.
async fn sync(ctx: TaskContext) {
    sleep(millis(500)).await;
    if ctx.generation() == 1 {
        std::future::pending::<()>().await;
    }
    work(ctx).await;
}

/// Computes for too long without giving its thread back, the first time.
async fn report(ctx: TaskContext) {
    sleep(millis(2_500)).await;
    if ctx.generation() == 1 {
        thread::sleep(millis(1_500));
    }
    work(ctx).await;
}

fn configs() -> [CriticalTaskConfig; 4] {
    let quick = |config: CriticalTaskConfig| {
        config.backoff(Backoff::constant(millis(300))).shutdown_grace(millis(500))
    };
    [
        quick(CriticalTaskConfig::new("database", database)).start_timeout(millis(2_000)),
        quick(CriticalTaskConfig::new("gateway", work))
            .depends_on("database")
            .on_dependency_loss(DependencyLoss::Restart),
        quick(CriticalTaskConfig::new("sync", sync)).heartbeat_timeout(millis(1_000)),
        quick(CriticalTaskConfig::new("report", report)).poll_timeout(millis(800)),
    ]
}

fn group() -> TaskGroup {
    let session = CriticalTaskConfig::new("session", |ctx: TaskContext| async move {
        if ctx.generation() == 1 {
            sleep(millis(4_500)).await;
            return Err("session closed by peer");
        }
        work(ctx).await;
        Ok(())
    });
    TaskGroup::new("voice", RestartStrategy::OneForAll)
        .task(session.backoff(Backoff::constant(millis(300))))
        .task(CriticalTaskConfig::new("encoder", work).restart_policy(RestartPolicy::Always))
        .task(CriticalTaskConfig::new("sender", work).restart_policy(RestartPolicy::Always))
}

/// Returns the text for an event; `None` for most events.
fn words(event: &TaskEvent) -> Option<String> {
    Some(match &event.kind {
        TaskEventKind::Started { restart: None, .. } => "begins".into(),
        TaskEventKind::Started { restart: Some(reason), .. } => format!("begins again: {}", reason.as_str()),
        TaskEventKind::Waiting { waits_for, .. } => format!("waits for {}", waits_for.join(", ")),
        TaskEventKind::Exited { exit, .. } if exit.error_type().is_some() => {
            format!("fails: {}", exit.message())
        }
        TaskEventKind::BackingOff { delay, .. } => format!("will begin again in {delay:?}"),
        TaskEventKind::Yielding { reason, .. } => format!("goes down with the others: {}", reason.as_str()),
        TaskEventKind::Stalled { silent_for, .. } => format!("STALLED: no sign of life for {silent_for:.1?}"),
        TaskEventKind::SlowPoll { polling_for, thread, .. } => {
            format!("BLOCKS the thread {thread}, for {polling_for:.1?} so far")
        }
        TaskEventKind::GaveUp { reason, .. } => format!("is given up: {reason}"),
        TaskEventKind::RuntimeStalled { polling, .. } => format!("RUNTIME STALLED by {}", polling.join(", ")),
        TaskEventKind::ShutdownBegan => "shutdown begins".into(),
        _ => return None,
    })
}

async fn print(mut events: TaskEvents, began: Instant) {
    while let Some(event) = events.recv().await {
        if let Some(words) = words(&event) {
            let task = event.task.as_deref().unwrap_or("");
            println!("{:>5.1} s  {task:<10} {words}", began.elapsed().as_secs_f64());
        }
    }
}

#[tokio::main(worker_threads = 4)]
async fn main() -> Result<(), Box<dyn Error>> {
    let tasks =
        TaskManager::builder().shutdown_deadline(millis(2_000)).slow_poll(millis(500)).build().unwrap();
    let printer = tokio::spawn(print(tasks.subscribe(), Instant::now()));
    tasks.register_all(configs())?;
    tasks.register_group(group())?;
    tasks.start();
    let archiver = tasks.spawn_blocking("archiver", |_stop| thread::sleep(Duration::from_secs(3_600)));
    sleep(millis(5_500)).await;

    println!("\n{:<10} {:<8} {:>5} {:>9} {:>7}  health", "task", "state", "runs", "restarts", "stalls");
    for (name, health) in tasks.health().tasks {
        let task = tasks.snapshot(&name).ok_or("unknown")?;
        let state = task.state.map(|state| state.as_str()).unwrap_or_default();
        println!(
            "{name:<10} {state:<8} {:>5} {:>9} {:>7}  {health}",
            task.total_runs() + task.active,
            task.total_restarts(),
            task.stalls,
        );
    }

    println!();
    let report = tasks.shutdown().await;
    printer.await?;
    println!("\n{report}\nexit code of a service: {}", report.exit_code());
    drop(archiver);
    // A runtime that is dropped would wait for the archiver's thread, which nothing can end.
    std::process::exit(0);
}
