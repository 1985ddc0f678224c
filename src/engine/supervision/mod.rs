//! A registered task and its driver: its order slot, its links to other tasks, and its signs of life.

pub(in crate::engine) mod courier;
pub(in crate::engine) mod driver;
pub(in crate::engine) mod links;
pub(in crate::engine) mod member;
pub(in crate::engine) mod order_slot;
mod settings;
pub(in crate::engine) mod signs_of_life;
pub(in crate::engine) mod spec;
mod stopping;
pub(in crate::engine) mod supervised;
mod timer;

pub(crate) use links::{Group, Links, Membership};
pub(crate) use member::{Family, MemberBody};
pub(crate) use order_slot::Order;
pub use settings::TaskSettings;
pub(crate) use spec::{ErrorRules, Factory, TaskSpec, Work, erase, error_type_of};
pub(crate) use supervised::{Body, Life, LifeEnd, Supervised, is_current, until_gone};
