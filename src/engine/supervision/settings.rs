//! The settings of a registered task, as plain data.

use std::{sync::Arc, time::Duration};

use super::Supervised;
use crate::policy::{
    Backoff, DependencyLoss, Escalation, GiveUp, HealthRole, RestartIntensity, RestartPolicy, StallAction,
};

/// The settings of a registered task.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskSettings {
    /// The rule by which the task is restarted.
    pub restart_policy: RestartPolicy,
    /// The limit on restarts.
    pub intensity: RestartIntensity,
    /// The delays before restarts.
    pub backoff: Backoff,
    /// The consequence of more restarts than the limit allows.
    pub give_up: GiveUp,
    /// The meaning of the task's health for the service.
    pub health_role: HealthRole,
    /// The interval at which the monitor checks the task's health.
    pub health_check_interval: Duration,
    /// The longest time without a heartbeat, if any.
    pub heartbeat_timeout: Option<Duration>,
    /// The longest time of a single poll, if any.
    pub poll_timeout: Option<Duration>,
    /// The longest time until the task is ready, if any.
    pub start_timeout: Option<Duration>,
    /// The longest time of a run, if any.
    pub run_timeout: Option<Duration>,
    /// The reaction to a stall.
    pub on_stall: StallAction,
    /// The other tasks that are stopped when the task is given up.
    pub escalation: Escalation,
    /// True if a shutdown stops the task before all others.
    pub intake: bool,
    /// The time that the task, and the work that it owns, has to end after a stop request.
    pub shutdown_grace: Duration,
    /// The names of the tasks that this one depends on.
    pub depends_on: Vec<Arc<str>>,
    /// The reaction to the loss of a dependency.
    pub on_dependency_loss: DependencyLoss,
}

impl TaskSettings {
    pub(crate) fn of(task: &Supervised) -> Self {
        let spec = &task.spec;
        Self {
            restart_policy: spec.policy,
            intensity: spec.intensity,
            backoff: spec.backoff,
            give_up: spec.give_up,
            health_role: spec.health_role,
            health_check_interval: spec.health_check_interval,
            heartbeat_timeout: spec.heartbeat_timeout,
            poll_timeout: spec.poll_timeout,
            start_timeout: spec.start_timeout,
            run_timeout: spec.run_timeout,
            on_stall: spec.on_stall,
            escalation: spec.escalation,
            intake: spec.intake,
            shutdown_grace: spec.grace(),
            depends_on: task.links().dependencies().to_vec(),
            on_dependency_loss: task.links().loss(),
        }
    }
}
