//! The manager in figures.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime},
};

use super::HealthStatus;
use crate::{
    cell::{Identity, RunRecord, TaskSnapshot, TaskState, Vitals},
    policy::{TaskCategory, TaskPriority},
};

/// The figures of one task: a small view of [`TaskSnapshot`](crate::snapshot::TaskSnapshot), with the last runs.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskMetrics {
    /// The task's name.
    pub name: String,
    /// The category of the task.
    pub category: TaskCategory,
    /// The priority of the task: a shutdown stops lower priorities first.
    pub priority: TaskPriority,
    /// The state of the task; `None` if it is not registered.
    pub state: Option<TaskState>,
    /// The time at which it first began.
    pub start_time: Option<SystemTime>,
    /// Restarts in all.
    pub restart_count: u64,
    /// The time at which it was last restarted.
    pub last_restart: Option<SystemTime>,
    /// Ended runs.
    pub run_count: u64,
    /// Runs under way.
    pub active_runs: u64,
    /// Time spent in ended runs.
    pub total_runtime: Duration,
    /// The mean of the ended runs.
    pub avg_runtime: Duration,
    /// The longest ended run.
    pub max_runtime: Duration,
    /// Runs that failed, panicked or timed out.
    pub error_count: u64,
    /// The last error's text.
    pub last_error: Option<String>,
    /// The time at which it happened.
    pub last_error_time: Option<SystemTime>,
    /// The last ended runs, the oldest first; at most [`HISTORY_LENGTH`](crate::TaskMetrics::HISTORY_LENGTH).
    pub history: Vec<RunRecord>,
}

impl TaskMetrics {
    /// The number of ended runs that a name remembers.
    pub const HISTORY_LENGTH: usize = crate::cell::HISTORY_LENGTH;
}

pub(crate) fn metrics(task: &TaskSnapshot, history: Vec<RunRecord>) -> TaskMetrics {
    TaskMetrics {
        name: task.name.to_string(),
        category: task.category,
        priority: task.priority,
        state: task.state,
        start_time: task.first_start,
        restart_count: task.total_restarts(),
        last_restart: task.last_restart,
        run_count: task.total_runs(),
        active_runs: task.active,
        total_runtime: task.run_time,
        avg_runtime: task.average_run(),
        max_runtime: task.longest_run,
        error_count: task.total_errors(),
        last_error: task.last_error.as_ref().map(|error| error.message.clone()),
        last_error_time: task.last_error_time,
        history,
    }
}

/// The manager in figures: registered tasks counted by kind, and totals over every name it ever knew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskStatistics {
    /// Tasks that are registered, or have runs under way.
    pub total_tasks: usize,
    /// Tasks that are registered.
    pub critical_tasks: usize,
    /// Registered tasks that are healthy.
    pub healthy_tasks: usize,
    /// Registered tasks that are degraded.
    pub degraded_tasks: usize,
    /// Registered tasks that are unhealthy.
    pub unhealthy_tasks: usize,
    /// The tasks of `total_tasks` by category; every category is present.
    pub categories: BTreeMap<TaskCategory, usize>,
    /// The tasks of `total_tasks` by priority; every priority is present.
    pub priorities: BTreeMap<TaskPriority, usize>,
    /// Runs under way, of every name.
    pub active_runs: u64,
    /// Ended runs, of every name, unregistered ones too.
    pub total_runs: u64,
    /// Restarts, of every name, unregistered ones too.
    pub total_restarts: u64,
    /// Errors, of every name, unregistered ones too.
    pub total_errors: u64,
}

/// Writes two lines: the tasks by category with their health, and the totals.
///
/// ```text
/// 5 tasks (3 scheduled, 1 gateway, 1 system), 5 of them critical: 4 healthy, 1 degraded
/// 123 runs, 17 errors, 5 restarts
/// ```
impl fmt::Display for TaskStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tasks", self.total_tasks)?;
        let mut begun = false;
        for (category, tasks) in self.categories.iter().filter(|(_, tasks)| **tasks > 0) {
            write!(f, "{}{tasks} {category}", if begun { ", " } else { " (" })?;
            begun = true;
        }
        if begun {
            f.write_str(")")?;
        }
        write!(f, ", {} of them critical: {} healthy", self.critical_tasks, self.healthy_tasks)?;
        for (tasks, status) in
            [(self.degraded_tasks, HealthStatus::Degraded), (self.unhealthy_tasks, HealthStatus::Unhealthy)]
        {
            if tasks > 0 {
                write!(f, ", {tasks} {status}")?;
            }
        }
        write!(
            f,
            "\n{} runs, {} errors, {} restarts",
            self.total_runs, self.total_errors, self.total_restarts,
        )
    }
}

/// Adds names up.
#[derive(Default)]
pub(crate) struct Tally {
    sums: TaskStatistics,
    categories: [usize; TaskCategory::ALL.len()],
    priorities: [usize; TaskPriority::ALL.len()],
}

impl Tally {
    /// Adds what was counted under a name.
    pub(crate) fn count(&mut self, task: &Vitals) {
        let sums = &mut self.sums;
        sums.active_runs += task.active;
        sums.total_runs += task.runs;
        sums.total_restarts += task.restarts;
        sums.total_errors += task.errors;
    }

    /// Adds a task; `status` is asked of a registered one.
    pub(crate) fn add(&mut self, identity: &Identity, task: &Vitals, status: impl FnOnce() -> HealthStatus) {
        let sums = &mut self.sums;
        if task.state.is_none() && task.active == 0 {
            return;
        }
        sums.total_tasks += 1;
        self.categories[identity.category as usize] += 1;
        self.priorities[identity.priority as usize] += 1;
        if task.state.is_some() {
            sums.critical_tasks += 1;
            *match status() {
                HealthStatus::Healthy => &mut sums.healthy_tasks,
                HealthStatus::Degraded => &mut sums.degraded_tasks,
                HealthStatus::Unhealthy => &mut sums.unhealthy_tasks,
            } += 1;
        }
    }

    pub(crate) fn statistics(self) -> TaskStatistics {
        let Self { sums, categories, priorities } = self;
        TaskStatistics {
            categories: TaskCategory::ALL
                .iter()
                .map(|&category| (category, categories[category as usize]))
                .collect(),
            priorities: TaskPriority::ALL
                .iter()
                .map(|&priority| (priority, priorities[priority as usize]))
                .collect(),
            ..sums
        }
    }
}
