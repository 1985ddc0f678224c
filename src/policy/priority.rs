//! The priority of a task.

use super::labels::labels;
labels! {
    /// The priority of a task. In a category, a shutdown stops [`Low`](TaskPriority::Low) first.
    #[derive(Default)]
    pub enum TaskPriority {
        /// Status lines, activities.
        Low = "low",
        /// Most work.
        #[default]
        Normal = "normal",
        /// Moderation, reminders.
        High = "high",
        /// Databases, core services.
        Critical = "critical",
    }
}
