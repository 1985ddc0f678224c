//! Every shape of a loop.

#![deny(warnings)]

use std::{sync::Arc, time::Duration};

use otel_tasks::{CriticalTaskConfig, TaskContext, task_loop};

const PAUSE: Duration = Duration::from_secs(3);

#[task_loop(every = "5s")]
async fn plain() {}

/// Documented.
#[task_loop(every = PAUSE, count = 3, immediate = false, jitter = "1s")]
pub async fn expression(_: TaskContext) -> Result<(), String> {
    Err("always".to_owned())
}

#[task_loop(delay = "1h 30m", retry = 2, backoff = PAUSE, timeout = "5m")]
async fn arguments(ctx: TaskContext, mut count: u32, name: Arc<str>) -> std::io::Result<()> {
    count += u32::try_from(name.len()).map_err(std::io::Error::other)?;
    if count > 3 {
        return Ok(());
    }
    ctx.heartbeat();
    Ok(())
}

#[task_loop(every = "250ms", overlap = Allow(2), missed = CatchUp(3), name = "generic", category = "system")]
async fn generic<T: Clone + Into<String> + Send + Sync + 'static>(value: T) {
    let _: String = value.into();
}

mod inner {
    use otel_tasks::{TaskPriority, task_loop};

    #[task_loop(every = "5s", priority = TaskPriority::Low, overlap = CancelRunning, missed = Skip, component = "inner")]
    pub(crate) async fn elsewhere(ctx: otel_tasks::TaskContext) {
        ctx.cancelled().await;
    }
}

struct Owner;

impl Owner {
    #[task_loop(every = "5s", overlap = Queue)]
    async fn associated(owner: Arc<Owner>) {
        drop(owner);
    }
}

fn main() {
    let configs: Vec<CriticalTaskConfig> = vec![
        plain(),
        expression(),
        arguments(1, "a".into()),
        generic("b"),
        inner::elsewhere(),
        Owner::associated(Arc::new(Owner)),
    ];
    let names: Vec<_> = configs.iter().map(CriticalTaskConfig::name).collect();
    assert_eq!(names, ["plain", "expression", "arguments", "generic", "elsewhere", "associated"]);
    let intervals: Vec<_> = configs.iter().map(|config| config.loop_handle().unwrap().interval()).collect();
    assert_eq!(intervals[1], Some(PAUSE));
    assert_eq!(intervals[2], Some(Duration::from_secs(5_400)));
}
