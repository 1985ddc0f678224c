//! The health of tasks and of the service, with reasons. The documentation of the public module `health` has the rules.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    cell::{TaskState, Vitals},
    policy::{HealthRole, Plain, labels, text::InstantText},
};

/// The limits from which a task counts as unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HealthThresholds {
    /// The number of errors in the last hour from which a task is unhealthy. Default: 10.
    pub errors_per_hour: u64,
    /// The number of runs in a row that failed, panicked or timed out from which a task is unhealthy. Default: 3.
    pub failures_in_a_row: u64,
    /// The number of restarts in the last hour from which a task is unhealthy. Default: 3.
    pub restarts_per_hour: u64,
    /// The time after a restart during which a task is recovering. Default: 300 s.
    pub recovering_for: Duration,
}

impl Default for HealthThresholds {
    fn default() -> Self {
        Self {
            errors_per_hour: 10,
            failures_in_a_row: 3,
            restarts_per_hour: 3,
            recovering_for: Duration::from_secs(300),
        }
    }
}

impl HealthThresholds {
    /// Sets the number of errors in the last hour from which a task is unhealthy.
    #[must_use]
    pub fn errors_per_hour(mut self, errors: u64) -> Self {
        self.errors_per_hour = errors;
        self
    }

    /// Sets the number of failures in a row from which a task is unhealthy. It finds what a rate cannot: a loop that fails once an
    /// hour, each hour.
    #[must_use]
    pub fn failures_in_a_row(mut self, failures: u64) -> Self {
        self.failures_in_a_row = failures;
        self
    }

    /// Sets the number of restarts in the last hour from which a task is unhealthy. Raise it for a task that reconnects often.
    #[must_use]
    pub fn restarts_per_hour(mut self, restarts: u64) -> Self {
        self.restarts_per_hour = restarts;
        self
    }

    /// Sets the time after a restart during which a task is recovering.
    #[must_use]
    pub fn recovering_for(mut self, time: Duration) -> Self {
        self.recovering_for = time;
        self
    }
}

labels! {
    /// The attention that a task or the service needs, from the best status to the worst.
    ///
    /// ```
    /// use otel_tasks::health::HealthStatus;
    /// assert!(HealthStatus::Healthy < HealthStatus::Degraded && HealthStatus::Degraded < HealthStatus::Unhealthy);
    /// ```
    pub enum HealthStatus {
        /// No attention is needed.
        Healthy = "healthy",
        /// Worth seeing; needs nobody yet. A task that failed and is being restarted, or a service that works without one of its tasks.
        Degraded = "degraded",
        /// An operator has to act.
        Unhealthy = "unhealthy",
    }
}

/// The reason why a task is not healthy, not live or not ready, with the value and the limit that it is compared with.
///
/// `Display` writes a sentence without a period, [`as_str`](Self::as_str) returns a label. With the feature `serde` it serializes as a
/// map with the label under `reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(tag = "reason", rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HealthReason {
    /// Too many errors in the last hour.
    #[non_exhaustive]
    ErrorRate {
        /// The errors in the last hour.
        errors_per_hour: u64,
        /// The threshold.
        limit: u64,
    },
    /// Too many runs failed, panicked or timed out since the last success. Not of a task that is [failed](Self::Failed).
    #[non_exhaustive]
    FailuresInARow {
        /// The failures since the last success.
        failures: u64,
        /// The threshold.
        limit: u64,
    },
    /// Too many restarts in the last hour.
    #[non_exhaustive]
    Restarts {
        /// The restarts in the last hour that nobody asked for.
        restarts_per_hour: u64,
        /// The threshold.
        limit: u64,
    },
    /// The task failed and is not being restarted.
    #[non_exhaustive]
    Failed {
        /// The time of the next try; `None` if the task was given up for good.
        next_retry: Option<SystemTime>,
    },
    /// The task gave no sign of life for longer than it promised.
    #[non_exhaustive]
    Stalled {
        /// The time since the last sign of life.
        silent_for: Duration,
        /// The task's heartbeat timeout.
        limit: Duration,
    },
    /// The tokio runtime that the task ran on was shut down, and the task was dropped with it.
    RuntimeGone,
    /// The task waits for its restart.
    BackingOff,
    /// The task was restarted a short while ago.
    Recovering,
    /// The task has not begun.
    NotStarted,
    /// The task waits for others before it begins. `task` is one of them; a failed task precedes the others.
    #[non_exhaustive]
    WaitsFor {
        /// The name of that task.
        task: Arc<str>,
        /// The state of that task; `None` if it is not registered.
        state: Option<TaskState>,
    },
    /// The task runs and is not ready yet.
    NotReady,
    /// The task is held until somebody resumes it.
    Paused,
    /// The task's gate is closed: it runs in another process.
    Standby,
    /// The manager drains before its shutdown.
    Draining,
    /// The manager is shutting down.
    ShuttingDown,
}

impl HealthReason {
    /// Returns the label of this reason in JSON, such as `error_rate`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ErrorRate { .. } => "error_rate",
            Self::FailuresInARow { .. } => "failures_in_a_row",
            Self::Restarts { .. } => "restarts",
            Self::Failed { .. } => "failed",
            Self::Stalled { .. } => "stalled",
            Self::RuntimeGone => "runtime_gone",
            Self::BackingOff => "backing_off",
            Self::Recovering => "recovering",
            Self::NotStarted => "not_started",
            Self::WaitsFor { .. } => "waits_for",
            Self::NotReady => "not_ready",
            Self::Paused => "paused",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Returns the status of a task that has this reason alone.
    ///
    /// Unhealthy: too many errors, failures or restarts, failed, stalled, its runtime gone. Degraded: waiting for a restart, restarted a short while ago.
    /// Healthy: the others, which pass by themselves or were asked for.
    pub const fn status(&self) -> HealthStatus {
        match self {
            Self::ErrorRate { .. }
            | Self::FailuresInARow { .. }
            | Self::Restarts { .. }
            | Self::Failed { .. }
            | Self::Stalled { .. }
            | Self::RuntimeGone => HealthStatus::Unhealthy,
            Self::BackingOff | Self::Recovering => HealthStatus::Degraded,
            Self::NotStarted
            | Self::WaitsFor { .. }
            | Self::NotReady
            | Self::Paused
            | Self::Standby
            | Self::Draining
            | Self::ShuttingDown => HealthStatus::Healthy,
        }
    }
}

/// Writes a sentence without a period, with value and limit: `12 errors in the last hour, limit 10`.
impl fmt::Display for HealthReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorRate { errors_per_hour, limit } => {
                write!(f, "{} in the last hour, limit {limit}", counted(*errors_per_hour, "error"))
            }
            Self::FailuresInARow { failures, limit } => {
                write!(f, "{} in a row, limit {limit}", counted(*failures, "failure"))
            }
            Self::Restarts { restarts_per_hour, limit } => {
                write!(f, "{} in the last hour, limit {limit}", counted(*restarts_per_hour, "restart"))
            }
            Self::Failed { next_retry: None } => f.write_str("failed for good"),
            Self::Failed { next_retry: Some(at) } => {
                let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                write!(f, "failed, next try at {}", InstantText(UNIX_EPOCH + Duration::from_secs(seconds)))
            }
            Self::Stalled { silent_for, limit } => {
                write!(f, "no sign of life for {silent_for:.1?}, limit {limit:?}")
            }
            Self::RuntimeGone => f.write_str("dropped with its tokio runtime"),
            Self::BackingOff => f.write_str("waiting for its restart"),
            Self::Recovering => f.write_str("restarted a short while ago"),
            Self::NotStarted => f.write_str("not started"),
            Self::WaitsFor { task, state: Some(state) } => write!(f, "waits for {} ({state})", Plain(task)),
            Self::WaitsFor { task, state: None } => write!(f, "waits for {} (not registered)", Plain(task)),
            Self::NotReady => f.write_str("not ready"),
            Self::Paused => f.write_str("paused"),
            Self::Standby => f.write_str("standing by"),
            Self::Draining => f.write_str("draining"),
            Self::ShuttingDown => f.write_str("shutting down"),
        }
    }
}

fn counted(number: u64, of: &str) -> String {
    format!("{number} {of}{}", if number == 1 { "" } else { "s" })
}

/// The health of one task.
///
/// The fields are about the task itself, whatever its [role](Self::role). [`fails_liveness`](Self::fails_liveness),
/// [`fails_readiness`](Self::fails_readiness) and [`fails_startup`](Self::fails_startup) say what it means for the service.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskHealth {
    /// The worst [status](HealthReason::status) of the reasons; healthy without one.
    pub status: HealthStatus,
    /// The meaning of the task's health for the service; `Ignored` for a name that is not registered.
    pub role: HealthRole,
    /// The state of the task; `None` for a name that is not registered.
    pub state: Option<TaskState>,
    /// False only for a task that stalled and is not being stopped for it, was given up for good or was dropped with its runtime.
    pub is_live: bool,
    /// True if the task does its work now: live, running, ready, and the manager not shutting down.
    pub is_ready: bool,
    /// True if the task has been ready at least once since it was registered, or is paused or in standby.
    pub has_started: bool,
    /// The reason why the task is not healthy, not live or not ready.
    pub reasons: Vec<HealthReason>,
    /// The time at which the task came into its state, by the manager's wall clock.
    pub state_since: Option<SystemTime>,
    /// The time at which the task became unhealthy, by the manager's wall clock; `None` if it is not. It is noticed when health is asked
    /// for and when the monitor sweeps; of a failure or a stall the time itself is known.
    pub unhealthy_since: Option<SystemTime>,
    /// The time since the task first began; zero before.
    pub uptime: Duration,
    /// Errors per hour, over the last hour.
    pub error_rate: f64,
    /// Restarts in all, as the counter `task.restarts` shows them.
    pub restart_count: u64,
    /// The time of the last heartbeat, run start or run end.
    pub last_seen: Option<SystemTime>,
}

impl TaskHealth {
    /// Returns true if the task needs no attention.
    pub const fn is_healthy(&self) -> bool {
        matches!(self.status, HealthStatus::Healthy)
    }

    /// Returns true if this task makes the service not live.
    pub fn fails_liveness(&self) -> bool {
        self.role == HealthRole::Required && !self.is_live
    }

    /// Returns true if this task makes the service not ready. A task that is paused, in standby or finished does not.
    pub fn fails_readiness(&self) -> bool {
        let at_rest = self.state.is_some_and(|state| state == TaskState::Finished || state.is_held());
        self.role == HealthRole::Required && !self.is_ready && !at_rest
    }

    /// Returns true if this task makes the service not started.
    pub fn fails_startup(&self) -> bool {
        self.role == HealthRole::Required && !self.has_started
    }

    /// The status that this task gives to the service.
    fn status_of_service(&self) -> HealthStatus {
        match self.role {
            HealthRole::Required => self.status,
            HealthRole::Degrades => self.status.min(HealthStatus::Degraded),
            HealthRole::Ignored => HealthStatus::Healthy,
        }
    }

    /// Since when it is unhealthy, if that is first noticed at `now`.
    pub(crate) fn noticed(&self, now: SystemTime) -> SystemTime {
        self.reasons
            .iter()
            .filter_map(|reason| match reason {
                HealthReason::Failed { .. } => self.state_since,
                HealthReason::Stalled { silent_for, limit } => {
                    now.checked_sub(silent_for.saturating_sub(*limit))
                }
                _ => None,
            })
            .fold(now, SystemTime::min)
    }
}

/// Writes one line: the status, and the reasons.
///
/// ```text
/// unhealthy: 12 errors in the last hour, limit 10; restarted a short while ago
/// ```
impl fmt::Display for TaskHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.status.as_str())?;
        for (index, reason) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// The facts about a task beside its figures.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) role: HealthRole,
    /// The silence of a stalled task, and its limit.
    pub(crate) stalled: Option<(Duration, Duration)>,
    /// True if the runtime that it ran on is gone.
    pub(crate) runtime_gone: bool,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    /// A task that it waits for, and the state of that task.
    pub(crate) waits_for: Option<(Arc<str>, Option<TaskState>)>,
    /// The time at which a task that has failed is tried again; `None` for never.
    pub(crate) next_retry: Option<SystemTime>,
    /// True if one run is its whole life, which may never succeed by ending.
    pub(crate) one_run: bool,
}

impl TaskHealth {
    /// Adds that the manager drains, if it does.
    pub(crate) fn of_draining(mut self, draining: bool) -> Self {
        self.reasons.extend(draining.then_some(HealthReason::Draining));
        self
    }
}

/// Of a name that is not registered.
impl Default for Live {
    fn default() -> Self {
        Self {
            role: HealthRole::Ignored,
            stalled: None,
            runtime_gone: false,
            ready: false,
            started: false,
            waits_for: None,
            next_retry: None,
            one_run: false,
        }
    }
}

/// The health of the service as a whole: the facts for the probes of Kubernetes.
///
/// The [table](crate::health) says how they follow from the tasks.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ManagerHealth {
    /// The worst status that a task gives to the service. A required task gives its own status, a task that degrades at most degraded, an
    /// ignored task healthy. Unhealthy while the runtime is stalled.
    pub status: HealthStatus,
    /// False only if a restart of the process can help. A required task stalled, was given up for good or was dropped with its
    /// runtime, or the runtime is stalled.
    pub is_live: bool,
    /// True if the service can take work: live, neither draining nor shutting down, and every required task ready, paused, in standby or finished.
    pub is_ready: bool,
    /// True if every required task has been ready at least once, or is paused or in standby.
    pub has_started: bool,
    /// True if the runtime makes no progress because all its threads are blocked. A runtime with more work than time is not stalled.
    pub runtime_stalled: bool,
    /// The tasks that block a thread now, as the watchdog last saw them: one poll has gone on for longer than
    /// [`slow_poll`](crate::task::TaskManagerBuilder::slow_poll).
    pub blocked: Vec<BlockedTask>,
    /// The registered tasks, by name.
    pub tasks: Vec<(Arc<str>, TaskHealth)>,
}

/// Writes the status and the facts for the probes, then a line for each task that has a reason.
impl fmt::Display for ManagerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |holds| if holds { "yes" } else { "no" };
        write!(
            f,
            "{}, live: {}, ready: {}, started: {}",
            self.status,
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
                Plain(&blocked.task),
                Plain(&blocked.thread),
                blocked.polling_for
            )?;
        }
        for (name, task) in self.tasks.iter().filter(|(_, task)| !task.reasons.is_empty()) {
            write!(f, "\n{} ({}): {task}", Plain(name), task.role)?;
        }
        Ok(())
    }
}

/// A task with a poll that does not return, and blocks its thread.
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

pub(crate) fn manager_health(
    tasks: Vec<(Arc<str>, TaskHealth)>,
    runtime_stalled: bool,
    blocked: Vec<BlockedTask>,
    shutting_down: bool,
) -> ManagerHealth {
    let any = |fails: fn(&TaskHealth) -> bool| tasks.iter().any(|(_, task)| fails(task));
    let is_live = !runtime_stalled && !any(TaskHealth::fails_liveness);
    let of_runtime = if runtime_stalled { HealthStatus::Unhealthy } else { HealthStatus::Healthy };
    ManagerHealth {
        status: tasks.iter().map(|(_, task)| task.status_of_service()).fold(of_runtime, HealthStatus::max),
        is_live,
        is_ready: is_live && !any(TaskHealth::fails_readiness) && !shutting_down,
        has_started: !any(TaskHealth::fails_startup),
        runtime_stalled,
        blocked,
        tasks,
    }
}

/// Returns why a task is not healthy, not live or not ready.
fn reasons(
    task: &Vitals,
    live: Live,
    thresholds: &HealthThresholds,
    shutting_down: bool,
) -> impl Iterator<Item = HealthReason> {
    let state = task.state;
    let is = |wanted| state == Some(wanted);
    let since_restart = task.since_restart.filter(|_| is(TaskState::Running));
    let recovering = since_restart.is_some_and(|since| since < thresholds.recovering_for);
    // A run without an end never succeeds: after a long time it counts as recovered. A task that has failed says so itself.
    let recovered = live.one_run && since_restart.is_some() && !recovering;
    let row_counts = !recovered && !is(TaskState::Failed);
    let HealthThresholds { errors_per_hour, failures_in_a_row, restarts_per_hour, .. } = *thresholds;
    let (errors, failures, restarts) =
        (task.errors_last_hour, task.failures_in_a_row, task.restarts_last_hour);
    let waits = live
        .waits_for
        .map_or(HealthReason::NotStarted, |(task, state)| HealthReason::WaitsFor { task, state });
    // What is so now goes before what is counted.
    [
        is(TaskState::Failed).then_some(HealthReason::Failed { next_retry: live.next_retry }),
        live.stalled.map(|(silent_for, limit)| HealthReason::Stalled { silent_for, limit }),
        live.runtime_gone.then_some(HealthReason::RuntimeGone),
        (errors >= errors_per_hour)
            .then_some(HealthReason::ErrorRate { errors_per_hour: errors, limit: errors_per_hour }),
        (failures >= failures_in_a_row && row_counts)
            .then_some(HealthReason::FailuresInARow { failures, limit: failures_in_a_row }),
        (restarts >= restarts_per_hour)
            .then_some(HealthReason::Restarts { restarts_per_hour: restarts, limit: restarts_per_hour }),
        is(TaskState::Backoff).then_some(HealthReason::BackingOff),
        recovering.then_some(HealthReason::Recovering),
        is(TaskState::Waiting).then_some(waits),
        (is(TaskState::Running) && !live.ready).then_some(HealthReason::NotReady),
        is(TaskState::Paused).then_some(HealthReason::Paused),
        is(TaskState::Standby).then_some(HealthReason::Standby),
        shutting_down.then_some(HealthReason::ShuttingDown),
    ]
    .into_iter()
    .flatten()
}

/// [`TaskHealth::status`] alone.
pub(crate) fn status(task: &Vitals, live: Live, thresholds: &HealthThresholds) -> HealthStatus {
    worst(reasons(task, live, thresholds, false))
}

fn worst(reasons: impl Iterator<Item = HealthReason>) -> HealthStatus {
    reasons.map(|reason| reason.status()).max().unwrap_or(HealthStatus::Healthy)
}

/// The health of a task; since when it is unhealthy is not known here.
pub(crate) fn health(
    task: &Vitals,
    live: Live,
    thresholds: &HealthThresholds,
    shutting_down: bool,
) -> TaskHealth {
    let reasons: Vec<_> = reasons(task, live.clone(), thresholds, shutting_down).collect();
    let for_good = task.state == Some(TaskState::Failed) && live.next_retry.is_none();
    // The manager ends the task that has stalled: a restart of the process helps no more.
    let is_stalled = live.stalled.is_some() && task.state != Some(TaskState::Stopping);
    let is_live = !is_stalled && !live.runtime_gone && !for_good;
    TaskHealth {
        status: worst(reasons.iter().cloned()),
        role: live.role,
        state: task.state,
        is_live,
        is_ready: is_live && !shutting_down && live.ready && task.state == Some(TaskState::Running),
        has_started: live.started,
        reasons,
        state_since: task.state_since,
        unhealthy_since: None,
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

    const READY: Live = Live {
        role: HealthRole::Required,
        stalled: None,
        runtime_gone: false,
        ready: true,
        started: true,
        waits_for: None,
        next_retry: None,
        one_run: true,
    };

    #[test]
    fn a_fresh_restart_is_recovering_and_not_unhealthy() {
        let cell = TaskCell::default();
        cell.set_state(Some(TaskState::Running), SystemTime::now());
        cell.restarted(RestartReason::Failure, Duration::from_secs(5), SystemTime::now());
        let at = |seconds| {
            let vitals = cell.vitals(Duration::from_secs(seconds));
            health(&vitals, READY, &HealthThresholds::default(), false)
        };
        let health = at(6);
        assert!(health.status == HealthStatus::Degraded && health.is_live && health.is_ready, "{health:?}");
        assert_eq!(health.reasons, [HealthReason::Recovering]);
        assert_eq!(at(304).reasons, [HealthReason::Recovering]);
        assert_eq!(
            (at(305).reasons, at(305).status),
            (vec![], HealthStatus::Healthy),
            "five minutes after it"
        );
    }

    #[test]
    fn old_restarts_no_longer_count() {
        let cell = TaskCell::default();
        cell.set_state(Some(TaskState::Running), SystemTime::now());
        (0..50)
            .for_each(|_| cell.restarted(RestartReason::Failure, Duration::from_secs(1), SystemTime::now()));
        let at = |now| health(&cell.vitals(now), READY, &HealthThresholds::default(), false);
        let ill = at(Duration::from_secs(60));
        assert_eq!(ill.status, HealthStatus::Unhealthy);
        assert_eq!(ill.reasons[0], HealthReason::Restarts { restarts_per_hour: 50, limit: 3 });
        // A counter of a lifetime would stay above its limit.
        let later = at(Duration::from_secs(7_200));
        assert!(later.is_healthy(), "{later:?}");
        assert_eq!(later.restart_count, 50);
    }

    #[test]
    fn a_task_with_a_next_try_is_live_and_not_ready() {
        let cell = TaskCell::default();
        cell.set_state(Some(TaskState::Failed), UNIX_EPOCH);
        let next_retry = Some(UNIX_EPOCH + Duration::from_secs(1_709_210_096));
        let with = |next_retry| {
            let live = Live { ready: false, next_retry, ..READY };
            health(&cell.vitals(Duration::ZERO), live, &HealthThresholds::default(), false)
        };
        let health = with(next_retry);
        assert!(health.is_live && !health.fails_liveness() && health.fails_readiness(), "{health:?}");
        assert_eq!(health.to_string(), "unhealthy: failed, next try at 2024-02-29T12:34:56Z");
        let for_good = with(None);
        assert!(!for_good.is_live && for_good.fails_liveness(), "{for_good:?}");
        assert_eq!(for_good.to_string(), "unhealthy: failed for good");
    }
}
