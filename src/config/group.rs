//! Groups: tasks that begin in order, end in reverse and are restarted by one strategy.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{register::register, task::CriticalTaskConfig},
    engine::{Group, Shared},
    error::RegisterError,
    policy::{RestartIntensity, RestartStrategy},
};

/// Tasks that begin in order, each when the one before is ready; end in reverse; and are restarted by one strategy.
///
/// A member that is restarted takes the others along as the [`RestartStrategy`] says: they are stopped first, the last
/// first, and all begin anew in order, those that had finished by themselves too. Members that were stopped by hand stay
/// so, and one with [`RestartPolicy::Never`](crate::RestartPolicy::Never) is stopped with the others and not begun again. It is one restart, counted
/// against the limit of the member that failed, and against the group's where it has one. A second member that fails
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
    /// A group without members.
    pub fn new(name: impl Into<String>, strategy: RestartStrategy) -> Self {
        Self { name: name.into(), strategy, intensity: None, tasks: Vec::new() }
    }

    /// Adds a member, after those that are there.
    pub fn task(mut self, task: CriticalTaskConfig) -> Self {
        self.tasks.push(task);
        self
    }

    /// How many restarts of its members together are allowed within `within`, as OTP counts them; one more, and the member
    /// that failed is given up. By default each member has its own limit only.
    pub fn max_restarts(mut self, max_restarts: u32, within: Duration) -> Self {
        self.intensity = Some((max_restarts, within));
        self
    }

    /// The group's name, for people.
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
