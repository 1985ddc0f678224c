//! Loops to watch: a table of when each is due next, what they do meanwhile, and what was left out.
//!
//! `cargo run --example loops`; takes about eight seconds. `cargo run --example loops -- 2026-03-28T22:00:00Z` shows when the
//! same loops are due from another moment on, such as the night before a change of the clock, and runs nothing.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, tz::TimeZone};
use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskContext, TaskLoop, TaskManager,
    events::TaskEventKind,
    schedule::{OnError, OverlapPolicy},
    snapshot::{SkipReason, TaskSnapshot},
    task_loop,
};
use tokio::time::sleep;

const ZONE: &str = "Europe/Berlin";

/// Takes longer than its interval now and then; one more may wait.
#[task_loop(every = "500ms", overlap = Queue, category = System)]
async fn sweep_cache(ctx: TaskContext) {
    let slow = ctx.iteration().is_some_and(|iteration| iteration % 4 == 0);
    sleep(Duration::from_millis(if slow { 1_300 } else { 20 })).await;
}

/// Fails now and then, and is tried again.
#[task_loop(every = "2s", jitter = "200ms", retry = 2, backoff = "100ms..1s")]
async fn fetch_rates(
    ctx: TaskContext,
    tries: Arc<std::sync::atomic::AtomicUsize>,
) -> Result<(), &'static str> {
    let fails = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 == 1;
    if fails && ctx.iteration() > Some(1) { Err("the bank does not answer") } else { Ok(()) }
}

#[task_loop(cron = "*/2 * * * * *", missed = Skip)]
async fn heartbeat() {}

#[task_loop(daily = ["02:30", "14:30"], zone = "Europe/Berlin")]
async fn backup() {}

#[task_loop(cron = "0 9 * * MON-FRI", zone = "America/New_York")]
async fn market_report() {}

#[task_loop(cron = "0 18 L * *", zone = "Asia/Tokyo")]
async fn close_the_month() {}

fn configs() -> Vec<CriticalTaskConfig> {
    let announce = Schedule::once(SystemTime::now() + Duration::from_secs(3));
    let announce = TaskLoop::on(announce, |_| async {});
    let workers = TaskLoop::on(Schedule::every(Duration::from_secs(1)).count(5), |_| {
        sleep(Duration::from_millis(2_500))
    })
    .overlap(OverlapPolicy::Allow(2))
    .on_error(|_| async { OnError::Continue });
    vec![
        sweep_cache(),
        fetch_rates(Arc::default()),
        heartbeat(),
        CriticalTaskConfig::from_loop("workers", workers),
        CriticalTaskConfig::from_loop("announce", announce),
        backup(),
        market_report(),
        close_the_month(),
    ]
}

fn shown(time: SystemTime) -> String {
    let zone = TimeZone::get(ZONE).unwrap_or(TimeZone::UTC);
    Timestamp::try_from(time).map_or_else(
        |_| "-".to_owned(),
        |time| time.to_zoned_datetime(zone).strftime("%a %d %b %Y %H:%M:%S %Z").to_string(),
    )
}

/// Returns the time from one instant to another, in its two largest units.
fn ahead(from: SystemTime, to: SystemTime) -> String {
    let seconds = to.duration_since(from).unwrap_or_default().as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut rest = seconds;
    let parts = units.map(|(unit, length)| {
        let count = rest / length;
        rest %= length;
        (count, unit)
    });
    let told: Vec<_> =
        parts.iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0).collect();
    match told.as_slice() {
        [] => "now".to_owned(),
        told => format!(
            "in {}",
            told.iter().map(|(count, unit)| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
        ),
    }
}

/// Each loop with its schedule and when it is due next.
fn table(from: SystemTime) {
    println!("{:<16} {:<52} {:<14} {:<30} THEN", "LOOP", "SCHEDULE", "NEXT", "AT");
    for config in configs() {
        let Some(handle) = config.loop_handle() else { continue };
        let schedule = handle.schedule();
        let mut upcoming = schedule.upcoming(from);
        let next =
            upcoming.next().map_or(("-".to_owned(), "-".to_owned()), |next| (ahead(from, next), shown(next)));
        let then = upcoming.next().map_or_else(|| "-".to_owned(), shown);
        println!("{:<16} {:<52} {:<14} {:<30} {then}", config.name(), schedule.to_string(), next.0, next.1);
    }
}

fn outcome(task: &TaskSnapshot) -> String {
    let (missed, overlapped) = (task.skipped(SkipReason::Missed), task.skipped(SkipReason::Overlapped));
    let state = task.state.map_or("-", |state| state.as_str());
    format!(
        "{:<16} {state:<9} {:>5} {:>7} {missed:>7} {overlapped:>11}   {}",
        task.name,
        task.total_runs(),
        task.retries,
        task.next_run.map_or_else(|| "-".to_owned(), shown)
    )
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(from) = std::env::args().nth(1) {
        table(SystemTime::try_from(from.parse::<Timestamp>()?)?);
        return Ok(());
    }
    table(SystemTime::now());
    println!();

    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    for config in configs() {
        tasks.register(config)?;
    }
    tasks.start();
    let began = tokio::time::Instant::now();
    let watch = async {
        while let Some(event) = events.recv().await {
            let Some(task) = event.task else { continue };
            let what = match event.kind {
                TaskEventKind::Skipped { reason, iterations, .. } => {
                    format!("{iterations} left out: {}", reason.as_str())
                }
                TaskEventKind::Retrying { iteration, failure, delay, .. } => {
                    format!("iteration {iteration} is tried again after {delay:.0?}: {}", failure.message)
                }
                TaskEventKind::Finished => "finished".to_owned(),
                _ => continue,
            };
            println!("{:>5.1}s  {task:<16} {what}", began.elapsed().as_secs_f64());
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(8), watch).await;

    println!(
        "\n{:<16} {:<9} {:>5} {:>7} {:>7} {:>11}   NEXT",
        "LOOP", "STATE", "RUNS", "RETRIES", "MISSED", "OVERLAPPED"
    );
    tasks.snapshots().iter().for_each(|task| println!("{}", outcome(task)));
    println!("\n{}", tasks.shutdown().await);
    Ok(())
}
