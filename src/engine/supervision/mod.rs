//! A registered task and its driver: its order slot, its links to other tasks, and its signs of life.

pub(in crate::engine) mod courier;
pub(in crate::engine) mod driver;
pub(in crate::engine) mod gated;
pub(in crate::engine) mod lend;
pub(in crate::engine) mod links;
pub(in crate::engine) mod member;
pub(in crate::engine) mod order_slot;
pub(in crate::engine) mod seldom;
mod settings;
pub(in crate::engine) mod signs_of_life;
pub(in crate::engine) mod spec;
mod stopping;
pub(in crate::engine) mod supervised;
mod timer;

pub(crate) use gated::GatedBody;
pub use lend::Lent;
pub(crate) use lend::erase_lending;
pub(crate) use links::{Group, Links, Membership};
pub(crate) use member::{Family, MemberBody};
pub(crate) use order_slot::Order;
pub use settings::TaskSettings;
#[cfg(feature = "testing")]
pub(crate) use spec::live_by_factory;
pub(crate) use spec::{Factory, TaskSpec, Work, erase};
pub(crate) use supervised::{Body, KeptManager, Life, LifeEnd, NewLife, Supervised, is_current, until_gone};
