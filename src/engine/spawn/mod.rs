//! Short tasks: their builder, and the futures and threads that run them.

pub(in crate::engine) mod blocking;
pub(in crate::engine) mod builder;
pub(in crate::engine) mod limit;
pub(in crate::engine) mod limited;
pub(in crate::engine) mod polled;

pub use blocking::StopToken;
pub use builder::TaskBuilder;
pub(crate) use builder::{SpawnOptions, Spawner};
pub use limited::LimitedTask;
