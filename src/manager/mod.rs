//! The facade: what a service calls.

mod builder;
mod settings;
mod task_manager;

pub use builder::TaskManagerBuilder;
pub use settings::ManagerSettings;
pub use task_manager::{TaskManager, WeakTaskManager};
