//! Managers and tasks of the usual kinds.

use otel_tasks::{
    CriticalTaskConfig, LoopHandle, TaskLoop, TaskManager, policy::RestartReason, snapshot::TaskState,
};

use super::{Alive, secs};

/// A started manager with this task.
pub(crate) fn started(config: CriticalTaskConfig) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register(config).expect("a valid config");
    tasks.start();
    tasks
}

/// A started manager with these tasks.
pub(crate) fn all_started(configs: impl IntoIterator<Item = CriticalTaskConfig>) -> TaskManager {
    begun(TaskManager::new(), configs)
}

/// The manager, started with these tasks.
pub(crate) fn begun(
    tasks: TaskManager,
    configs: impl IntoIterator<Item = CriticalTaskConfig>,
) -> TaskManager {
    tasks.register_all(configs).expect("valid configs");
    tasks.start();
    tasks
}

/// A started manager with this loop as its task "l".
pub(crate) fn looping(body: TaskLoop) -> (TaskManager, LoopHandle) {
    let handle = body.handle();
    (started(CriticalTaskConfig::from_loop("l", body)), handle)
}

pub(crate) fn state(tasks: &TaskManager, name: &str) -> Option<TaskState> {
    tasks.snapshot(name).and_then(|task| task.state)
}

pub(crate) fn states<const N: usize>(tasks: &TaskManager, names: [&str; N]) -> [Option<TaskState>; N] {
    names.map(|name| state(tasks, name))
}

/// Restarts for this reason.
pub(crate) fn restarts(tasks: &TaskManager, name: &str, reason: RestartReason) -> u64 {
    tasks.snapshot(name).map_or(0, |task| task.restarts(reason))
}

/// A task that runs until it is asked to stop.
pub(crate) fn obeys(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx| async move { ctx.cancelled().await })
}

/// The same, and each run of it is counted.
pub(crate) fn obedient(name: &str, alive: &Alive) -> CriticalTaskConfig {
    let alive = alive.clone();
    CriticalTaskConfig::new(name, move |ctx| alive.during(async move { ctx.cancelled().await }))
}

/// A task that never hears.
pub(crate) fn deaf(name: &str, alive: &Alive) -> CriticalTaskConfig {
    let alive = alive.clone();
    CriticalTaskConfig::new(name, move |_| alive.during(std::future::pending::<()>()))
}

/// A loop whose iterations never end by themselves.
pub(crate) fn deaf_loop(every: u64, alive: &Alive) -> TaskLoop {
    let alive = alive.clone();
    TaskLoop::every(secs(every), move |_| alive.during(std::future::pending::<()>()))
}

/// A task that takes so many seconds to stop.
pub(crate) fn takes(name: &str, seconds: u64) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, move |ctx| async move {
        ctx.cancelled().await;
        tokio::time::sleep(secs(seconds)).await;
    })
}
