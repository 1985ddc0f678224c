//! What only reads cells: health and statistics.

mod health;
mod statistics;

pub use health::{HealthReason, HealthThresholds, ManagerHealth, TaskHealth};
pub(crate) use health::{Live, health, manager_health};
pub use statistics::{TaskMetrics, TaskStatistics};
pub(crate) use statistics::{metrics, statistics};
