//! What only reads cells: health and statistics.

mod health;
mod statistics;

pub(crate) use health::health;
pub use health::{HealthReason, HealthThresholds, TaskHealth};
pub use statistics::{TaskMetrics, TaskStatistics};
pub(crate) use statistics::{metrics, statistics};
