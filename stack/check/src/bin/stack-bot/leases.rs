//! A service with a task that runs on one of its instances. The lease is a row in the PostgreSQL at the address that it is given.

use std::{error::Error, sync::Arc};

use otel_tasks::{CriticalTaskConfig, ShutdownReport, TaskManager};
use otel_tasks_lease::{Leases, Postgres};
use tokio::sync::mpsc;

use crate::{figures, millis};

pub(crate) async fn run(
    mut orders: mpsc::UnboundedReceiver<String>,
    address: &str,
) -> Result<(TaskManager, Arc<ShutdownReport>), Box<dyn Error>> {
    let store = Postgres::new(address)?;
    store.migrate().await?;
    let leases = Leases::new(store);
    let tasks = TaskManager::new();
    let outbox = CriticalTaskConfig::new("outbox", |ctx| async move { ctx.cancelled().await });
    tasks.register(outbox.gate(leases.lease("outbox").ttl(millis(3_000))))?;
    tasks.start();
    figures::say(&serde_json::json!({ "began": "leases" }));
    let _ = orders.recv().await;
    let report = tasks.shutdown().await;
    Ok((tasks, report))
}
