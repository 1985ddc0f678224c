//! The words that people are shown: on the page, in a terminal, in a sentence.

use super::{HealthStatus, TaskHealth};
use crate::{cell::TaskState, policy::labels};

labels! {
    /// The one word that says how a task is, of its state and its health.
    pub enum TaskWord {
        /// An operator has to act.
        Unhealthy = "Unhealthy",
        /// It was given up; there may be a next try.
        Failed = "Failed",
        /// It waits for its delay before a restart.
        Restarting = "Restarting",
        /// It works, with a problem that needs no action yet.
        Degraded = "Degraded",
        /// It works.
        Healthy = "Healthy",
        /// It has not begun, waits for others, or runs on another process.
        Standby = "Standby",
        /// It is being stopped.
        Stopping = "Stopping",
        /// It is held until somebody resumes it.
        Paused = "Paused",
        /// It was stopped.
        Stopped = "Stopped",
        /// It ended by itself, well.
        Finished = "Finished",
        /// A name that is not registered, and has runs.
        Running = "Running",
        /// A name that is not registered, and has no run now.
        Idle = "Idle",
    }
}

impl TaskHealth {
    /// Returns the one word for the task. `active_runs` matters only for a name that is not registered.
    ///
    /// ```
    /// # use otel_tasks::{CriticalTaskConfig, TaskManager, health::TaskWord};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = TaskManager::new();
    /// tasks.register(CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await }))?;
    /// let health = tasks.task_health("gateway").ok_or("registered")?;
    /// assert_eq!(health.word(0), TaskWord::Standby);
    /// # Ok(()) }
    /// ```
    pub fn word(&self, active_runs: u64) -> TaskWord {
        match self.state {
            None if active_runs > 0 => TaskWord::Running,
            None => TaskWord::Idle,
            Some(TaskState::Failed) => TaskWord::Failed,
            Some(TaskState::Backoff) => TaskWord::Restarting,
            Some(TaskState::Stopping) => TaskWord::Stopping,
            Some(TaskState::Paused) => TaskWord::Paused,
            Some(TaskState::Stopped) => TaskWord::Stopped,
            Some(TaskState::Finished) => TaskWord::Finished,
            Some(TaskState::Waiting | TaskState::Standby) if self.status == HealthStatus::Healthy => {
                TaskWord::Standby
            }
            Some(TaskState::Waiting | TaskState::Standby | TaskState::Running) => match self.status {
                HealthStatus::Healthy => TaskWord::Healthy,
                HealthStatus::Degraded => TaskWord::Degraded,
                HealthStatus::Unhealthy => TaskWord::Unhealthy,
            },
        }
    }
}
