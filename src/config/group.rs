//! Groups: tasks that begin in order, end in reverse and are restarted by one strategy.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{register::register, task::CriticalTaskConfig},
    engine::{Group, Shared},
    error::RegisterError,
    policy::{RestartIntensity, RestartStrategy},
};

/// Tasks that start in order, stop in reverse order, and are restarted by one strategy. Each starts when the previous member is ready.
///
/// The [`RestartStrategy`] decides which other members a restart includes. They are stopped in reverse order, and then all start again in
/// order, also members that had finished. A member that was stopped by hand stays stopped. A member with
/// [`RestartPolicy::Never`](crate::RestartPolicy::Never) is stopped with the others and does not start again.
///
/// It is one restart, counted for the limit of the failed member, and for the limit of the group if it has one. A second member that fails
/// meanwhile is part of the same restart.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, TaskGroup, TaskManager, policy::RestartStrategy};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
/// let tasks = TaskManager::new();
/// let group = TaskGroup::new("ingest", RestartStrategy::RestForOne)
///     .task(CriticalTaskConfig::new("connection", |ctx| async move { ctx.cancelled().await }))
///     .task(CriticalTaskConfig::new("reader", |ctx| async move { ctx.cancelled().await }));
/// tasks.register_group(group)?;
/// # Ok(()) }
/// ```
#[must_use = "a group does nothing until it is registered"]
#[derive(Debug)]
pub struct TaskGroup {
    name: String,
    strategy: RestartStrategy,
    intensity: Option<(u32, Duration)>,
    tasks: Vec<CriticalTaskConfig>,
}

impl TaskGroup {
    /// Creates a group without members.
    pub fn new(name: impl Into<String>, strategy: RestartStrategy) -> Self {
        Self { name: name.into(), strategy, intensity: None, tasks: Vec::new() }
    }

    /// Adds a member after the others.
    pub fn task(mut self, task: CriticalTaskConfig) -> Self {
        self.tasks.push(task);
        self
    }

    /// Sets the number of restarts of all members together that are allowed within `within`, as OTP counts them. After one more failure,
    /// the failed member is given up. Default: each member has its own limit only.
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        self.intensity = Some((max_restarts, within));
        self
    }

    /// Returns the name of the group, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    #[track_caller]
    pub(crate) fn register(self, shared: &Arc<Shared>) -> Result<(), RegisterError> {
        let Self { name, strategy, intensity, tasks } = self;
        if tasks.is_empty() {
            return Err(RegisterError::EmptyGroup { group: name });
        }
        let intensity = intensity
            .map(|(max_restarts, within)| RestartIntensity::new(max_restarts, within))
            .transpose()
            .map_err(|source| RegisterError::GroupPolicy { group: name, source })?;
        let group = Group::new(strategy, intensity, tasks.len());
        register(tasks, Some(&group), shared)
    }
}
