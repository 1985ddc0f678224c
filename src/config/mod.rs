//! Configs of critical tasks, groups, and components that provide tasks of their own.

mod components;
mod family;
mod group;
mod register;
mod task;

pub(crate) use components::{Components, discover};
pub use components::{CriticalTasksProvider, Discovery};
pub use family::{FamilyHandle, FamilyKey, TaskFamily};
pub use group::TaskGroup;
pub(crate) use register::{check_replacement, register, register_one};
pub use task::CriticalTaskConfig;
#[cfg(feature = "testing")]
pub(crate) use task::What;
