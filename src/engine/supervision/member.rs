//! A member of a family: a registered task that has a key, and a place that it may have to give up and take again.
//!
//! Invariants:
//! 1. A family counts its members that stay, and its members that come back. Each change of a [`Place`] changes the count.
//! 2. Places are changed under the lock of the registered tasks; so is the task under a member's name.

use std::{
    any::Any,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::gated::GatedBody;
use crate::engine::{
    Registration,
    shared::Shared,
    supervision::supervised::{Body, LifeEnd, NewLife, Supervised},
};

/// The state that the members of a family share.
pub(crate) struct Family {
    pub(crate) name: Arc<str>,
    pub(crate) max_members: usize,
    /// Written under the lock of what is registered.
    members: AtomicUsize,
}

impl Family {
    pub(crate) fn new(name: Arc<str>, max_members: usize) -> Arc<Self> {
        Arc::new(Self { name, max_members, members: AtomicUsize::new(0) })
    }

    /// Returns true if there is room for one more member.
    pub(crate) fn has_room(&self) -> bool {
        self.members.load(Relaxed) < self.max_members
    }

    fn enter(&self) {
        self.members.fetch_add(1, Relaxed);
    }

    fn leave(&self) {
        self.members.fetch_sub(1, Relaxed);
    }
}

/// The place of a member in its family.
enum Place {
    /// It was not registered yet.
    Outside,
    Stays,
    /// It was asked to leave, or is not registered any more.
    Leaves,
    /// It was asked to leave, and another takes its place then.
    Returns(Box<Registration>),
}

/// The body of a member, around what lives.
pub(crate) struct MemberBody {
    inner: Arc<dyn Body>,
    family: Arc<Family>,
    key: Box<dyn Any + Send + Sync>,
    place: Mutex<Place>,
}

impl MemberBody {
    pub(crate) fn new(inner: Arc<dyn Body>, family: Arc<Family>, key: Box<dyn Any + Send + Sync>) -> Self {
        Self { inner, family, key, place: Mutex::new(Place::Outside) }
    }

    /// Returns true if it is a member of this family.
    pub(crate) fn is_of(&self, family: &Arc<Family>) -> bool {
        Arc::ptr_eq(&self.family, family)
    }

    pub(crate) fn family(&self) -> &Arc<Family> {
        &self.family
    }

    pub(crate) fn key(&self) -> &dyn Any {
        &*self.key
    }

    fn set(&self, place: Place) -> Place {
        std::mem::replace(&mut *self.place.lock().unwrap_or_else(PoisonError::into_inner), place)
    }

    /// It is registered.
    pub(crate) fn stays(&self) {
        self.set(Place::Stays);
        self.family.enter();
    }

    /// It is asked to leave, or is gone. Returns who was to take its place, to be dropped without a lock.
    pub(crate) fn leaves(&self) -> (bool, Option<Box<Registration>>) {
        match self.set(Place::Leaves) {
            Place::Outside | Place::Leaves => (false, None),
            Place::Stays => {
                self.family.leave();
                (true, None)
            }
            Place::Returns(next) => {
                self.family.leave();
                (true, Some(next))
            }
        }
    }

    /// Returns true if it stays, or another takes its place.
    pub(crate) fn is_to_stay(&self) -> bool {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*place, Place::Stays | Place::Returns(_))
    }

    /// Another takes its place when it has left.
    pub(crate) fn returns(&self, next: Registration) {
        self.set(Place::Returns(Box::new(next)));
        self.family.enter();
    }
}

impl Body for MemberBody {
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        self.inner.clone().live(life)
    }

    fn is_loop(&self) -> bool {
        self.inner.is_loop()
    }

    fn hold(&self, held: bool) -> bool {
        self.inner.hold(held)
    }

    fn rests(&self, supervised: &Arc<Supervised>, shared: &Arc<Shared>) {
        self.inner.rests(supervised, shared);
    }

    fn registered(&self, supervised: &Arc<Supervised>) {
        self.inner.registered(supervised);
    }

    fn member(&self) -> Option<&MemberBody> {
        Some(self)
    }

    fn gated(&self) -> Option<&GatedBody> {
        self.inner.gated()
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
