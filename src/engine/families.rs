//! Registration of families: adding members, removing them, and replacing a member that still stops.
//!
//! A member that is asked to leave keeps its name until its run and its owned work have ended. If its key is ensured meanwhile, a
//! successor is registered at the moment when the member is forgotten. A later removal cancels the successor.

use std::{any::Any, collections::HashMap, sync::Arc};

use crate::{
    engine::{Family, MemberBody, Registration, Shared, Supervised},
    error::RegisterError,
};

/// The reason why members were not changed.
pub(crate) enum Changed {
    /// The registrations have changed since the caller read them: it must read them again.
    Meanwhile,
    Refused(RegisterError),
}

impl From<RegisterError> for Changed {
    fn from(error: RegisterError) -> Self {
        Self::Refused(error)
    }
}

/// The members that a family must have, by name; missing ones with their registration.
pub(crate) type Wanted = HashMap<Arc<str>, Option<Registration>>;

fn is_to_stay(task: &Supervised) -> bool {
    task.body.member().is_some_and(MemberBody::is_to_stay)
}

impl Shared {
    /// Reserves a name for a family, and keeps its settings.
    pub(crate) fn register_family(
        &self,
        name: &Arc<str>,
        said: Arc<dyn Any + Send + Sync>,
    ) -> Result<(), RegisterError> {
        let mut registered = self.registered();
        if self.tracker.is_closed() {
            return Err(RegisterError::ShuttingDown);
        }
        if registered.is_taken(name) {
            return Err(RegisterError::Duplicate { name: name.to_string() });
        }
        registered.families.insert(name.clone(), said);
        Ok(())
    }

    /// The members of a family that are registered, in the order of the names.
    pub(crate) fn members_of(&self, family: &Arc<Family>) -> Vec<Arc<Supervised>> {
        let is_member = |task: &&Arc<Supervised>| task.body.member().is_some_and(|body| body.is_of(family));
        self.all_registered().iter().filter(is_member).cloned().collect()
    }

    /// Registers a member; or lets it come back, if `leaving` still has its name.
    pub(crate) fn ensure_member(
        self: &Arc<Self>,
        family: &Arc<Family>,
        member: Registration,
        leaving: Option<&Arc<Supervised>>,
    ) -> Result<(), Changed> {
        self.check_runtime().map_err(RegisterError::from)?;
        let now = self.settings.wall_clock.now();
        let registered_in = Self::registered_in();
        let mut registered = self.registered();
        let held = registered.get(&member.identity.name);
        let unchanged = match (held, leaving) {
            (None, _) => true,
            (Some(held), Some(leaving)) => Arc::ptr_eq(held, leaving) && !is_to_stay(held),
            (Some(_), None) => false,
        };
        let refused = if !unchanged {
            Some(Changed::Meanwhile)
        } else if self.tracker.is_closed() {
            Some(Changed::Refused(RegisterError::ShuttingDown))
        } else if !family.has_room() {
            Some(Changed::Refused(full(family)))
        } else if registered.is_reserved(&member.identity.name) {
            Some(Changed::Refused(being_replaced(&member)))
        } else {
            None
        };
        if let Some(refused) = refused {
            drop(registered);
            return Err(refused);
        }
        if let Some(leaving) = held.and_then(|held| held.body.member()) {
            leaving.returns(member);
            return Ok(());
        }
        let member = vec![member];
        if let Err(error) = registered.check(&member, None) {
            drop(registered);
            return Err(error.into());
        }
        match self.admit_tasks(member, registered_in) {
            Ok(new) => {
                self.enter(&mut registered, &new, now);
                let started = self.is_started();
                drop(registered);
                self.entered(new, started);
                Ok(())
            }
            Err(refused) => {
                drop(registered);
                Err(refused.error.into())
            }
        }
    }

    /// Marks a member as leaving, if it still has its name. Returns true if it was to stay.
    pub(crate) fn mark_leaving(&self, task: &Arc<Supervised>) -> Result<bool, Changed> {
        let registered = self.registered();
        if !registered.has(task) {
            return Err(Changed::Meanwhile);
        }
        let Some((stayed, next)) = task.body.member().map(MemberBody::leaves) else { return Ok(false) };
        drop(registered);
        drop(next);
        Ok(stayed)
    }

    /// Sets the members of a family: all, or nothing is changed. Returns the members to stop.
    pub(crate) fn set_members(
        self: &Arc<Self>,
        family: &Arc<Family>,
        mut wanted: Wanted,
    ) -> Result<Vec<Arc<Supervised>>, Changed> {
        self.check_runtime().map_err(RegisterError::from)?;
        let now = self.settings.wall_clock.now();
        let registered_in = Self::registered_in();
        let mut registered = self.registered();
        if self.tracker.is_closed() {
            drop(registered);
            return Err(RegisterError::ShuttingDown.into());
        }
        let members = registered
            .tasks()
            .iter()
            .filter(|task| task.body.member().is_some_and(|body| body.is_of(family)));
        let (there, gone): (Vec<_>, Vec<_>) =
            members.cloned().partition(|task| wanted.contains_key(task.name()));
        // Members that are leaving and come back.
        let mut returning = Vec::new();
        let mut dropped = Vec::new();
        let mut seen = true;
        for task in there {
            let Some(member) = wanted.remove(task.name()) else { continue };
            if is_to_stay(&task) {
                dropped.extend(member);
            } else if let Some(member) = member {
                returning.push((task, member));
            } else {
                seen = false;
            }
        }
        let missing = wanted.len();
        let new: Vec<_> = wanted.into_values().flatten().collect();
        let replaced = returning.iter().find(|(_, member)| registered.is_reserved(&member.identity.name));
        let refused = if !seen || new.len() < missing {
            Some(Changed::Meanwhile)
        } else if let Some((_, member)) = replaced {
            Some(Changed::Refused(being_replaced(member)))
        } else {
            registered.check(&new, None).err().map(Changed::from)
        };
        if let Some(refused) = refused {
            drop(registered);
            drop((returning, dropped, new));
            return Err(refused);
        }
        let new = match self.admit_tasks(new, registered_in) {
            Ok(new) => new,
            Err(refused) => {
                drop(registered);
                drop((returning, dropped));
                return Err(refused.error.into());
            }
        };
        let mut leaving = Vec::new();
        let mut called_off = Vec::new();
        for task in gone {
            let Some((stayed, next)) = task.body.member().map(MemberBody::leaves) else { continue };
            called_off.extend(next);
            // Members that are leaving already are waited for, too.
            leaving.push((task, stayed));
        }
        for (task, member) in returning {
            task.body.member().expect("it is one of the members").returns(member);
        }
        self.enter(&mut registered, &new, now);
        let started = self.is_started();
        drop(registered);
        drop((dropped, called_off));
        self.entered(new, started);
        for (task, _) in leaving.iter().filter(|(_, stayed)| *stayed) {
            self.leave(task);
        }
        Ok(leaving.into_iter().map(|(task, _)| task).collect())
    }
}

fn being_replaced(member: &Registration) -> RegisterError {
    RegisterError::BeingReplaced { name: member.identity.name.to_string() }
}

fn full(family: &Family) -> RegisterError {
    RegisterError::FamilyFull { family: family.name.to_string(), max_members: family.max_members }
}
