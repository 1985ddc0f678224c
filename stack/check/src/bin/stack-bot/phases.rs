//! A service that works on while its telemetry is disturbed: short tasks at a steady rate, named after the phase that it is told,
//! each of which says how late it was.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use otel_tasks::{ShutdownReport, TaskCategory, TaskManager, telemetry::Balance};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{figures, millis};

/// How long each short task sleeps: what it takes longer is what it was delayed.
const WORK: Duration = millis(20);
/// Two hundred spans a second: an outage of a quarter of a minute is more than the queue holds.
const EVERY: Duration = millis(5);

/// How late the short tasks of a phase were.
#[derive(Default)]
struct Lateness(Mutex<Vec<Duration>>);

impl Lateness {
    fn push(&self, late: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }

    fn take(&self) -> serde_json::Value {
        let mut lateness = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        lateness.sort_unstable();
        let at = |q: f64| {
            let last = lateness.len().saturating_sub(1);
            lateness.get((last as f64 * q) as usize).map(Duration::as_secs_f64)
        };
        json!({ "tasks": lateness.len(), "p50": at(0.5), "p99": at(0.99), "worst": at(1.0) })
    }
}

pub(crate) async fn run(
    mut orders: mpsc::UnboundedReceiver<String>,
    balance: Balance,
) -> Result<(TaskManager, Arc<ShutdownReport>), Box<dyn Error>> {
    let tasks = TaskManager::builder().monitor_interval(millis(5_000)).build().unwrap();
    tasks.start();
    let lateness = Arc::new(Lateness::default());
    let mut phase = "phase_begin".to_owned();
    figures::say(&json!({ "phase": phase }));
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => work(&tasks, &phase, &lateness),
            order = orders.recv() => {
                // What this phase began has ended before the next is told.
                sleep(WORK * 3).await;
                let ended = json!({ "ended": phase, "lateness": lateness.take(), "telemetry": figures::balance(&balance) });
                figures::say(&ended);
                let Some(order) = order else { break };
                phase = order;
            }
        }
    }
    let report = tasks.shutdown().await;
    Ok((tasks, report))
}

fn work(tasks: &TaskManager, phase: &str, lateness: &Arc<Lateness>) {
    let lateness = lateness.clone();
    let begun = Instant::now();
    drop(tasks.task(phase).category(TaskCategory::Command).spawn(async move {
        sleep(WORK).await;
        lateness.push(begun.elapsed().saturating_sub(WORK));
    }));
}
