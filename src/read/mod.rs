//! The reports that only read cells: health and statistics.

mod health;
mod statistics;
mod word;

pub use health::{BlockedTask, HealthReason, HealthStatus, HealthThresholds, ManagerHealth, TaskHealth};
pub(crate) use health::{Live, health, manager_health, status};
pub(crate) use statistics::{Tally, metrics};
pub use statistics::{TaskMetrics, TaskStatistics};
pub use word::TaskWord;
