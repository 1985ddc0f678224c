//! Work at intervals and times of day: `cargo run --example cron`; takes about 5 seconds.

use std::time::{Duration, SystemTime};

use otel_tasks::{
    Backoff, CriticalTaskConfig, Schedule, TaskContext, TaskLoop, TaskManager,
    schedule::{MissedPolicy, OverlapPolicy},
    task_loop,
};

/// Every two seconds by the wall clock. The attribute makes a config of the function.
#[task_loop(cron = "*/2 * * * * *", missed = Skip)]
async fn heartbeat(ctx: TaskContext) {
    println!("heartbeat {:?}", ctx.iteration());
}

/// Fails in its first try, and is retried in the same run.
fn rates() -> TaskLoop {
    let tries = std::sync::atomic::AtomicU32::new(0);
    TaskLoop::every(Duration::from_secs(3), move |_| {
        let first = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        async move { if first { Err("the bank does not respond") } else { Ok(()) } }
    })
    .retry(2, Backoff::constant(Duration::from_millis(100)))
}

/// Weekdays at nine in New York, but not on Christmas Day.
fn report() -> TaskLoop {
    let schedule = Schedule::cron("0 9 * * MON-FRI", "America/New_York")
        .except(|time| (time.month, time.day) == (12, 25))
        .jitter(Duration::from_secs(30));
    TaskLoop::on(schedule, |_| async { println!("send the report") })
        .missed(MissedPolicy::RunOnce)
        .overlap(OverlapPolicy::Queue)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report = report();
    for time in report.handle().schedule().upcoming(SystemTime::now()).take(3) {
        println!("report is due at {}", humantime::format_rfc3339_seconds(time));
    }
    let tasks = TaskManager::new();
    tasks.register_all([
        heartbeat(),
        CriticalTaskConfig::from_loop("rates", rates()),
        CriticalTaskConfig::from_loop("report", report),
    ])?;
    let shutdown = tasks.run_until(tokio::time::sleep(Duration::from_secs(5))).await;
    for task in tasks.snapshots() {
        println!("{:<9} {} runs, {} retries", task.name, task.total_runs(), task.retries);
    }
    println!("{shutdown}");
    Ok(())
}
