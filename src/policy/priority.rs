//! How late a task is stopped.

use super::labels::labels;
labels! {
    /// How late a task is stopped: inside a category, [`Low`](TaskPriority::Low) stops first.
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
