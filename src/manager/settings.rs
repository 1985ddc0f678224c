//! The settings of a manager, as plain data.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::read::HealthThresholds;

/// The settings with which a manager was built.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ManagerSettings {
    /// The time at which the manager was made, by the system's clock.
    pub started: SystemTime,
    /// The name that distinguishes this manager on a shared meter, if any.
    pub instance: Option<Arc<str>>,
    /// The first part of the names of the manager's own spans.
    pub span_prefix: Arc<str>,
    /// The number of task names with figures of their own.
    pub max_names: usize,
    /// The interval of the monitor's sweeps.
    pub monitor_interval: Duration,
    /// The longest time from the signal to the report: the drain and the ordered shutdown.
    pub shutdown_deadline: Duration,
    /// The drain after SIGTERM, a part of `shutdown_deadline`. Default: 0.
    pub drain: Duration,
    /// The time that a spawned plain future has to end at shutdown.
    pub spawn_grace: Duration,
    /// The time without progress after which the runtime counts as stalled.
    pub runtime_stall: Duration,
    /// The duration from which a poll counts as slow.
    pub slow_poll: Duration,
    /// The thresholds of health.
    pub health_thresholds: HealthThresholds,
}
