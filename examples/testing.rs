//! Tests of a service in virtual time: `cargo test --features testing --example testing`.

use std::{io, time::Duration};

use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager};

/// The task under test.
fn gateway() -> CriticalTaskConfig {
    CriticalTaskConfig::new("gateway", |ctx| async move {
        ctx.cancelled().await;
        Ok::<(), io::Error>(())
    })
    .backoff(Backoff::constant(Duration::from_secs(30)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tasks = TaskManager::new();
    tasks.register(gateway())?;
    println!("{}", tasks.run_until(std::future::ready(())).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use otel_tasks::testing::{Clock, EventLog, Fault, Faults};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn gateway_is_restarted_after_thirty_seconds() -> Result<(), Box<dyn std::error::Error>> {
        let (tasks, faults, clock) = (TaskManager::new(), Faults::new(), Clock::paused());
        let mut log = EventLog::of(&tasks);
        tasks.register(gateway().faults(&faults))?;
        tasks.start();
        clock.settle().await;

        faults.inject(Fault::Fail("connection reset"));
        clock.advance(Duration::from_secs(29)).await;
        log.assert_order("gateway", &["started", "ready", "exited", "backing_off"]);
        assert!(!tasks.health().is_ready);

        clock.advance(Duration::from_secs(2)).await;
        log.assert_order("gateway", &["backing_off", "started"]);
        assert!(tasks.health().is_ready);
        assert!(tasks.shutdown().await.is_clean());
        Ok(())
    }
}
