//! The identity of a task: its name, and the attributes that all its figures carry.

use std::sync::Arc;

use crate::policy::{TaskCategory, TaskPriority};

/// What a cell's figures are exported under: together these are one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) name: Arc<str>,
    pub(crate) category: TaskCategory,
    pub(crate) priority: TaskPriority,
    pub(crate) component: Option<Arc<str>>,
}
