//! A service in which nothing goes wrong: no alert may fire for it.

use std::{error::Error, sync::Arc};

use otel_tasks::{CriticalTaskConfig, ShutdownReport, TaskCategory, TaskLoop, TaskManager};
use tokio::{sync::mpsc, time::sleep};

use crate::{figures, millis};

pub(crate) async fn run(
    mut orders: mpsc::UnboundedReceiver<String>,
) -> Result<(TaskManager, Arc<ShutdownReport>), Box<dyn Error>> {
    let tasks = TaskManager::builder().monitor_interval(millis(5_000)).build().unwrap();
    let gateway = CriticalTaskConfig::new("gateway", |ctx| async move {
        while !ctx.is_cancelled() {
            ctx.heartbeat();
            tokio::select! {
                () = ctx.cancelled() => {}
                () = sleep(millis(200)) => {}
            }
        }
    });
    tasks.register(
        gateway.category(TaskCategory::Gateway).component("network").heartbeat_timeout(millis(5_000)),
    )?;
    let clock = TaskLoop::every(millis(500), |_| async { sleep(millis(5)).await });
    tasks.register(CriticalTaskConfig::from_loop("clock", clock))?;
    tasks.start();
    figures::say(&serde_json::json!({ "began": "calm" }));
    let commands = async {
        loop {
            let _ = tasks.task("command_ping").category(TaskCategory::Command).spawn(sleep(millis(3))).await;
            sleep(millis(100)).await;
        }
    };
    tokio::select! {
        () = commands => {}
        _ = orders.recv() => {}
    }
    let report = tasks.shutdown().await;
    Ok((tasks, report))
}
