//! What only reads cells: health and statistics.

mod health;
mod statistics;

pub use health::{BlockedTask, HealthReason, HealthThresholds, ManagerHealth, TaskHealth};
pub(crate) use health::{Live, health, is_healthy, manager_health};
pub(crate) use statistics::{Tally, metrics};
pub use statistics::{TaskMetrics, TaskStatistics};
