//! The meaning of a task's health for the service.

use super::{TaskPriority, labels};

labels! {
    /// The meaning of a registered task's health for the health of the whole service.
    ///
    /// Default: `Required` for a closure of priority Critical or High, `Degrades` for loops and for closures of priority Normal or
    /// Low. [`CriticalTaskConfig::health_role`](crate::CriticalTaskConfig::health_role) sets it.
    ///
    /// ```
    /// use otel_tasks::HealthRole;
    /// assert_eq!("degrades".parse(), Ok(HealthRole::Degrades));
    /// assert_eq!(HealthRole::Required.to_string(), "required");
    /// ```
    pub enum HealthRole {
        /// The service does not work without the task: it counts for liveness, readiness, the startup probe and the status.
        Required = "required",
        /// The service works less well without the task: it counts for the status alone, which becomes degraded at worst.
        Degrades = "degrades",
        /// The task's health changes nothing of the service's health.
        Ignored = "ignored",
    }
}

impl HealthRole {
    /// The default role of a task.
    pub(crate) fn of(is_loop: bool, priority: TaskPriority) -> Self {
        if !is_loop && priority >= TaskPriority::High { Self::Required } else { Self::Degrades }
    }
}
