//! How late a task is stopped.

/// How late a task is stopped: inside a category, [`Low`](TaskPriority::Low) stops first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum TaskPriority {
    /// Status lines, activities.
    Low,
    /// Most work.
    #[default]
    Normal,
    /// Moderation, reminders.
    High,
    /// Databases, core services.
    Critical,
}

impl TaskPriority {
    /// Every priority, lowest first: the order in which shutdown stops them inside a category.
    pub const ALL: [Self; 4] = [Self::Low, Self::Normal, Self::High, Self::Critical];

    /// The value of the attribute `task.priority`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl std::fmt::Display for TaskPriority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
