//! The identity of a task: its name, and the attributes that all its figures carry.

use std::sync::Arc;

use crate::policy::{TaskCategory, TaskPriority};

/// The identity under which the figures of a cell are exported: equal identities are one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) name: Arc<str>,
    pub(crate) category: TaskCategory,
    pub(crate) priority: TaskPriority,
    pub(crate) component: Option<Arc<str>>,
}

impl Identity {
    /// That of a task about which nothing but the name is said.
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            category: TaskCategory::Unknown,
            priority: TaskPriority::default(),
            component: None,
        }
    }
}
