//! Restarts, their limit, and what follows: `cargo run --example restart`; takes about 3 seconds.

use std::{io, time::Duration};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, HealthRole, TaskManager, events::TaskEventKind, policy::ErrorClass,
};

/// Fails in its first two runs.
fn gateway() -> CriticalTaskConfig {
    CriticalTaskConfig::new("gateway", |ctx| async move {
        if ctx.generation() <= 2 {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        ctx.cancelled().await;
        Ok(())
    })
    .backoff(Backoff::growing(Duration::from_millis(100), Duration::from_secs(1)))
}

/// Fails in every run: two restarts in ten seconds are allowed, then a retry follows every second.
fn mirror() -> CriticalTaskConfig {
    CriticalTaskConfig::new("mirror", |_| async { Err::<(), _>(io::Error::from(io::ErrorKind::TimedOut)) })
        .max_restarts(2, Duration::from_secs(10))
        .backoff(Backoff::constant(Duration::from_millis(100)))
        .give_up(GiveUp::RetryEvery(Duration::from_secs(1)))
        .health_role(HealthRole::Degrades)
}

/// Fails with an error that no restart can repair.
fn uploads() -> CriticalTaskConfig {
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    CriticalTaskConfig::new("uploads", move |_| async move { Err::<(), _>(denied()) })
        .classify(|error: &io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => ErrorClass::Permanent,
            _ => ErrorClass::Transient,
        })
        .health_role(HealthRole::Degrades)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tasks = TaskManager::new();
    tasks.register_all([gateway(), mirror(), uploads()])?;
    let mut events = tasks.subscribe();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let (Some(task), TaskEventKind::GaveUp { reason, .. }) = (event.task, event.kind) {
                println!("{task} was given up: {reason}");
            }
        }
    });

    let report = tasks.run_until(tokio::time::sleep(Duration::from_secs(3))).await;
    for task in tasks.snapshots() {
        println!("{:<8} {} runs, {} restarts", task.name, task.total_runs(), task.total_restarts());
    }
    println!("{report}");
    Ok(())
}
