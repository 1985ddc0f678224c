//! Whether a task is well, and why not.
//!
//! Three verdicts, because they lead to three actions, as in Kubernetes: *liveness* false means "restart me", *readiness*
//! false means "send me no work", *healthy* false means "somebody should look". None rests on a lifetime counter: a task
//! that was restarted three times in a year is well.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    cell::{TaskState, Vitals},
    policy::labels,
};

/// The limits from which a task counts as unhealthy, over sliding windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HealthThresholds {
    /// So many errors in the last hour are too many (10).
    pub errors_per_hour: u64,
    /// So many restarts in the last hour are too many (3).
    pub restarts_per_hour: u64,
    /// For so long after a restart a task is recovering (300 s).
    pub recovering_for: Duration,
}

impl Default for HealthThresholds {
    fn default() -> Self {
        Self { errors_per_hour: 10, restarts_per_hour: 3, recovering_for: Duration::from_secs(300) }
    }
}

labels! {
    /// Why a task is not well, or not quite.
    pub enum HealthReason {
        /// Too many errors in the last hour.
        ErrorRate = "error_rate",
        /// Too many restarts in the last hour.
        Restarts = "restarts",
        /// It was given up.
        Failed = "failed",
        /// It gave no sign of life for longer than it promised.
        Stalled = "stalled",
        /// The tokio runtime that it ran on was shut down, and the task was dropped with it.
        RuntimeGone = "runtime_gone",
        /// It waits for its restart. Alone, this does not make it unhealthy, only not ready: one failure is no alarm.
        BackingOff = "backing_off",
        /// It was restarted a short while ago. Alone, this does not make it unhealthy.
        Recovering = "recovering",
        /// It has not begun, or waits for others. Alone, this does not make it unhealthy.
        NotStarted = "not_started",
        /// It runs and is not ready yet. Alone, this does not make it unhealthy.
        NotReady = "not_ready",
        /// It is held until somebody resumes it. Alone, this does not make it unhealthy.
        Paused = "paused",
        /// The manager is shutting down. Alone, this does not make it unhealthy.
        ShuttingDown = "shutting_down",
    }
}

impl HealthThresholds {
    /// So many errors in the last hour are too many.
    #[must_use]
    pub fn errors_per_hour(mut self, errors: u64) -> Self {
        self.errors_per_hour = errors;
        self
    }

    /// So many restarts in the last hour are too many: raise it where reconnecting is everyday work.
    #[must_use]
    pub fn restarts_per_hour(mut self, restarts: u64) -> Self {
        self.restarts_per_hour = restarts;
        self
    }

    /// For so long after a restart a task is recovering.
    #[must_use]
    pub fn recovering_for(mut self, time: Duration) -> Self {
        self.recovering_for = time;
        self
    }
}

impl HealthReason {
    const fn is_unhealthy(self) -> bool {
        matches!(self, Self::ErrorRate | Self::Restarts | Self::Failed | Self::Stalled | Self::RuntimeGone)
    }
}

/// How a task is.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskHealth {
    /// Whether nobody needs to look.
    pub is_healthy: bool,
    /// Whether it is alive: false only for a task that stalled, was given up, or was dropped with its runtime.
    pub is_live: bool,
    /// Whether it does its work now: alive, running, ready, and the manager not shutting down.
    pub is_ready: bool,
    /// Whether it has been ready at least once since it was registered: what a startup probe asks.
    pub has_started: bool,
    /// Why not, or not quite.
    pub reasons: Vec<HealthReason>,
    /// The time since it first began, where it has.
    pub uptime: Duration,
    /// Errors per hour, over the last hour.
    pub error_rate: f64,
    /// Restarts in all, as the counter `task.restarts` shows them.
    pub restart_count: u64,
    /// The last heartbeat, run start or run end.
    pub last_seen: Option<SystemTime>,
}

/// Writes one line: `healthy`, or `unhealthy` with the reasons, and the reasons that a healthy task has.
impl fmt::Display for TaskHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_healthy { "healthy" } else { "unhealthy" })?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {}", if index == 0 { ":" } else { "," }, reason.as_str())?;
        }
        Ok(())
    }
}

/// What is known of a registered task beside its figures.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Live {
    pub(crate) stalled: bool,
    /// Whether the runtime that it ran on is gone.
    pub(crate) runtime_gone: bool,
    pub(crate) ready: bool,
    pub(crate) started: bool,
}

/// How the service as a whole is: what the probes of Kubernetes ask.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ManagerHealth {
    /// False where restarting the process can help: a task stalled or was given up, or the runtime runs nothing.
    pub is_live: bool,
    /// Whether to send it work: alive, not shutting down, and every registered task ready or well finished.
    pub is_ready: bool,
    /// Whether every registered task has been ready at least once.
    pub has_started: bool,
    /// Whether the runtime runs nothing, all its threads being blocked.
    pub runtime_stalled: bool,
    /// The tasks that block a thread now, as the watchdog last saw them: one poll has gone on for longer than
    /// [`slow_poll`](crate::task::TaskManagerBuilder::slow_poll).
    pub blocked: Vec<BlockedTask>,
    /// The registered tasks, by name.
    pub tasks: Vec<(Arc<str>, TaskHealth)>,
}

/// Writes the three verdicts, then a line for each task that has a reason.
impl fmt::Display for ManagerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |holds| if holds { "yes" } else { "no" };
        write!(
            f,
            "live: {}, ready: {}, started: {}",
            verdict(self.is_live),
            verdict(self.is_ready),
            verdict(self.has_started)
        )?;
        if self.runtime_stalled {
            f.write_str("\nthe runtime has stalled")?;
        }
        for blocked in &self.blocked {
            write!(
                f,
                "\n{} blocks the thread {} for {:.1?}",
                blocked.task, blocked.thread, blocked.polling_for
            )?;
        }
        for (name, task) in self.tasks.iter().filter(|(_, task)| !task.reasons.is_empty()) {
            write!(f, "\n{name}: {task}")?;
        }
        Ok(())
    }
}

/// A task of which one poll goes on and on, and blocks the thread it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct BlockedTask {
    /// The task's name.
    pub task: Arc<str>,
    /// The thread: its name and id.
    pub thread: Arc<str>,
    /// For how long at least.
    pub polling_for: Duration,
}

/// `ready` says whether every task is ready or well finished.
pub(crate) fn manager_health(
    tasks: Vec<(Arc<str>, TaskHealth)>,
    ready: bool,
    runtime_stalled: bool,
    blocked: Vec<BlockedTask>,
    shutting_down: bool,
) -> ManagerHealth {
    let is_live = !runtime_stalled && tasks.iter().all(|(_, task)| task.is_live);
    ManagerHealth {
        is_live,
        is_ready: is_live && ready && !shutting_down,
        has_started: tasks.iter().all(|(_, task)| task.has_started),
        runtime_stalled,
        blocked,
        tasks,
    }
}

/// Why a task is not well, or not quite.
fn reasons(
    task: &Vitals,
    live: Live,
    thresholds: &HealthThresholds,
    shutting_down: bool,
) -> impl Iterator<Item = HealthReason> {
    let recovering = task.state == Some(TaskState::Running)
        && task.since_restart.is_some_and(|since| since < thresholds.recovering_for);
    [
        (task.errors_last_hour >= thresholds.errors_per_hour, HealthReason::ErrorRate),
        (task.restarts_last_hour >= thresholds.restarts_per_hour, HealthReason::Restarts),
        (task.state == Some(TaskState::Failed), HealthReason::Failed),
        (live.stalled, HealthReason::Stalled),
        (live.runtime_gone, HealthReason::RuntimeGone),
        (task.state == Some(TaskState::Backoff), HealthReason::BackingOff),
        (recovering, HealthReason::Recovering),
        (task.state == Some(TaskState::Waiting), HealthReason::NotStarted),
        (task.state == Some(TaskState::Running) && !live.ready, HealthReason::NotReady),
        (task.state == Some(TaskState::Paused), HealthReason::Paused),
        (shutting_down, HealthReason::ShuttingDown),
    ]
    .into_iter()
    .filter_map(|(applies, reason)| applies.then_some(reason))
}

/// [`TaskHealth::is_healthy`] alone.
pub(crate) fn is_healthy(task: &Vitals, live: Live, thresholds: &HealthThresholds) -> bool {
    // The shutdown makes nobody unhealthy.
    !reasons(task, live, thresholds, false).any(HealthReason::is_unhealthy)
}

pub(crate) fn health(
    task: &Vitals,
    live: Live,
    thresholds: &HealthThresholds,
    shutting_down: bool,
) -> TaskHealth {
    let reasons: Vec<_> = reasons(task, live, thresholds, shutting_down).collect();
    let is_live = !live.stalled && !live.runtime_gone && task.state != Some(TaskState::Failed);
    TaskHealth {
        is_healthy: !reasons.iter().any(|reason| reason.is_unhealthy()),
        is_live,
        is_ready: is_live && !shutting_down && live.ready && task.state == Some(TaskState::Running),
        has_started: live.started,
        reasons,
        uptime: task.uptime.unwrap_or_default(),
        error_rate: task.errors_last_hour as f64,
        restart_count: task.restarts,
        last_seen: task.last_seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cell::TaskCell, policy::RestartReason};

    const READY: Live = Live { stalled: false, runtime_gone: false, ready: true, started: true };

    #[test]
    fn a_fresh_restart_is_recovering_and_not_unhealthy() {
        let cell = TaskCell::default();
        cell.set_state(Some(TaskState::Running));
        cell.restarted(RestartReason::Failure, Duration::from_secs(5), SystemTime::now());
        let at = |seconds| {
            let vitals = cell.vitals(Duration::from_secs(seconds));
            health(&vitals, READY, &HealthThresholds::default(), false)
        };
        let health = at(6);
        assert!(health.is_healthy && health.is_live && health.is_ready, "{health:?}");
        assert_eq!(health.reasons, [HealthReason::Recovering]);
        assert_eq!(at(304).reasons, [HealthReason::Recovering]);
        assert_eq!(at(305).reasons, [], "five minutes after it");
    }

    #[test]
    fn old_restarts_no_longer_count() {
        let cell = TaskCell::default();
        cell.set_state(Some(TaskState::Running));
        (0..50)
            .for_each(|_| cell.restarted(RestartReason::Failure, Duration::from_secs(1), SystemTime::now()));
        let at = |now| health(&cell.vitals(now), READY, &HealthThresholds::default(), false);
        assert!(!at(Duration::from_secs(60)).is_healthy);
        // The seed's counter of a lifetime stays above its limit for ever.
        let later = at(Duration::from_secs(7_200));
        assert!(later.is_healthy, "{later:?}");
        assert_eq!(later.restart_count, 50);
    }
}
