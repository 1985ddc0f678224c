//! The links of a task: its dependencies, and the group of which it is a member.
//!
//! There is no conductor. Each driver checks the tasks to which it is linked, again after each change of one of them:
//!
//! - [`Shared::gate`]: may the task begin?
//! - [`Shared::must_yield`]: must the task stop?
//! - [`Shared::is_held_up`]: which tasks must stop before it?
//!
//! Stopping in reverse and starting in order follow from these checks. So a second failure during a group's restart is no special case.
//!
//! A life records its dependencies when it begins, as its [`Bond`]: the generations of its dependencies and its group's epoch.
//! If one of these has changed, the life is out of date and stops.
//!
//! Invariant: dependencies and the order inside groups, taken together, have no cycle; registration sees to it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::time::Instant;

use crate::{
    cell::TaskState,
    engine::{Shared, Supervised, supervision::stopping::Yield},
    policy::{DependencyLoss, RestartIntensity, RestartPolicy, RestartReason, RestartStrategy},
};

/// The links of a task, set when it is registered. Most tasks have none.
#[derive(Default)]
pub(crate) struct Links(Option<Linked>);

struct Linked {
    dependencies: Vec<Arc<str>>,
    loss: DependencyLoss,
    membership: Option<Membership>,
    /// The bond of the current life; `None` without a life. Written by the driver alone.
    bond: Mutex<Option<Bond>>,
    /// The epoch of its group that its last life knew. Written by the driver alone.
    known_epoch: AtomicU64,
}

#[derive(Clone)]
pub(crate) struct Membership {
    pub(crate) group: Arc<Group>,
    /// Its place in the order of the group.
    pub(crate) index: usize,
}

/// The dependencies of a life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bond {
    dependencies: Vec<(Weak<Supervised>, u64)>,
    epoch: u64,
}

/// Tasks that begin in order, end in reverse, and are restarted by one strategy.
pub(crate) struct Group {
    pub(crate) strategy: RestartStrategy,
    intensity: Option<RestartIntensity>,
    /// Set once, when all are registered.
    members: OnceLock<Vec<Weak<Supervised>>>,
    state: Mutex<GroupState>,
}

struct GroupState {
    /// For each member, the number of restarts because of the group. Lives of an older epoch stop.
    epochs: Vec<u64>,
    /// The time until which members wait before they begin again.
    due: Option<Instant>,
    /// For each member, the epoch up to which it stays down: the group was stopped because one of it was given up.
    stopped_up_to: Vec<u64>,
    /// The times of restarts that count for the group's limit.
    restarts: VecDeque<Instant>,
}

/// The decision of a group about a member that has to be restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupRestart {
    /// The member is restarted, with the members that the strategy includes.
    Begins,
    /// It is being restarted already, together with another; this is no restart of its own.
    UnderWay,
    /// The group has been stopped.
    Stopped,
    /// The group has been restarted too often.
    LimitReached,
}

/// The permission of a task to begin.
pub(crate) enum Gate {
    Open(Bond),
    /// Not yet: because of these, or before then.
    Closed {
        waits_for: Vec<Arc<str>>,
        until: Option<Instant>,
    },
}

impl Group {
    pub(crate) fn new(
        strategy: RestartStrategy,
        intensity: Option<RestartIntensity>,
        size: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            strategy,
            intensity,
            members: OnceLock::new(),
            state: Mutex::new(GroupState {
                epochs: vec![0; size],
                due: None,
                stopped_up_to: vec![0; size],
                restarts: VecDeque::new(),
            }),
        })
    }

    pub(crate) fn set_members(&self, members: Vec<Weak<Supervised>>) {
        // Set once, by the registration.
        let _ = self.members.set(members);
    }

    pub(crate) fn size(&self) -> usize {
        self.members.get().map_or(0, Vec::len)
    }

    fn state(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members that are still registered, with their places.
    fn members(&self) -> impl Iterator<Item = (usize, Arc<Supervised>)> {
        let members = self.members.get().map(Vec::as_slice).unwrap_or_default();
        members.iter().enumerate().filter_map(|(index, member)| {
            member.upgrade().filter(|member| !member.has_left()).map(|member| (index, member))
        })
    }

    /// Wakes the drivers whose decision may change because a member changed:
    ///
    /// 1. the nearest running member before it, which stops next
    /// 2. the nearest member that was stopped by hand and may have been held up, if that is another
    /// 3. the member that begins next, because later members wait for it too
    ///
    /// If the last out-of-date life has ended, wakes all, because each of them waits for that.
    fn member_changed(&self, changed: usize) {
        let members: Vec<_> = self.members().collect();
        let all = {
            let state = self.state();
            let ended = members.iter().any(|(index, member)| *index == changed && !member.is_up());
            ended && !members.iter().any(|(index, member)| member.is_out_of_date(state.epochs[*index]))
        };
        let up_below = || members.iter().rev().filter(|(index, member)| *index < changed && member.is_up());
        let next_down = up_below().next();
        let held_up = up_below().find(|(_, member)| member.state() == TaskState::Stopping);
        let waiting = |(index, member): &&(usize, Arc<Supervised>)| {
            *index != changed && member.state() == TaskState::Waiting
        };
        let next_up = members.iter().filter(waiting).take(if all { usize::MAX } else { 1 });
        next_down.into_iter().chain(held_up).chain(next_up).for_each(|(_, member)| member.look());
    }

    /// Wakes every member, because the group's request to them has changed.
    pub(crate) fn wake(&self) {
        self.members().for_each(|(_, member)| member.look());
    }

    /// Member `failed`, whose life is of `epoch`, has to be restarted at `due`; with `counts`, against the group's limit.
    pub(crate) fn restart(&self, failed: usize, epoch: u64, due: Instant, counts: bool) -> GroupRestart {
        let mut state = self.state();
        if state.epochs[failed] > epoch {
            let stopped = epoch < state.stopped_up_to[failed];
            return if stopped { GroupRestart::Stopped } else { GroupRestart::UnderWay };
        }
        if let Some(intensity) = self.intensity.filter(|_| counts) {
            let now = Instant::now();
            state.restarts.retain(|at| now.saturating_duration_since(*at) < intensity.within());
            if state.restarts.len() >= intensity.max_restarts() as usize {
                return GroupRestart::LimitReached;
            }
            state.restarts.push_back(now);
        }
        if self.strategy != RestartStrategy::OneForOne {
            self.bump(&mut state, failed);
            state.due = Some(due);
        }
        drop(state);
        self.wake();
        GroupRestart::Begins
    }

    /// Member `failed` has been given up. The members that the strategy includes stop for good; with `all`, every member does.
    pub(crate) fn given_up(&self, failed: usize, all: bool) {
        let mut state = self.state();
        if all {
            state.epochs.iter_mut().for_each(|epoch| *epoch += 1);
            state.stopped_up_to = state.epochs.clone();
        } else if self.strategy != RestartStrategy::OneForOne {
            self.bump(&mut state, failed);
        }
        drop(state);
        self.wake();
    }

    /// Nobody waits any longer for the delay of a restart: somebody asked for it to begin now.
    pub(crate) fn at_once(&self) {
        self.state().due = None;
        self.wake();
    }

    fn bump(&self, state: &mut GroupState, failed: usize) {
        for (other, epoch) in state.epochs.iter_mut().enumerate() {
            *epoch += u64::from(self.strategy.takes_along(failed, other));
        }
    }
}

impl Membership {
    /// The member before it that is still registered.
    pub(crate) fn before(&self) -> Option<Arc<Supervised>> {
        self.group.members().filter(|(other, _)| *other < self.index).last().map(|(_, member)| member)
    }

    /// Returns true if the group was stopped since the member, which is `task`, last began or was begun by hand.
    fn is_stopped(&self, task: &Supervised) -> bool {
        task.links().known_epoch() < self.group.state().stopped_up_to[self.index]
    }

    /// Returns the number of restarts of this member because of the group.
    pub(crate) fn epoch(&self) -> u64 {
        self.group.state().epochs[self.index]
    }
}

impl Links {
    pub(super) const NONE: Self = Self(None);

    pub(crate) fn new(
        dependencies: Vec<Arc<str>>,
        loss: DependencyLoss,
        membership: Option<Membership>,
    ) -> Self {
        let linked = !dependencies.is_empty() || membership.is_some();
        let (bond, known_epoch) = (Mutex::default(), AtomicU64::new(0));
        Self(linked.then_some(Linked { dependencies, loss, membership, bond, known_epoch }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn dependencies(&self) -> &[Arc<str>] {
        self.0.as_ref().map_or(&[], |linked| &linked.dependencies)
    }

    pub(crate) fn loss(&self) -> DependencyLoss {
        self.0.as_ref().map_or(DependencyLoss::default(), |linked| linked.loss)
    }

    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.0.as_ref()?.membership.as_ref()
    }

    /// The epoch of its group that its last life knew.
    pub(crate) fn known_epoch(&self) -> u64 {
        self.0.as_ref().map_or(0, |linked| linked.known_epoch.load(SeqCst))
    }

    /// Called by the driver alone.
    pub(crate) fn know_epoch(&self, epoch: u64) {
        if let Some(linked) = &self.0 {
            linked.known_epoch.store(epoch, SeqCst);
        }
    }

    /// Called by the driver alone.
    pub(crate) fn set_bond(&self, bond: Option<Bond>) {
        if let Some(linked) = &self.0 {
            *linked.bond.lock().unwrap_or_else(PoisonError::into_inner) = bond;
        }
    }

    fn bond(&self) -> Option<Bond> {
        self.0.as_ref()?.bond.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Bond {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Returns true for a member on which later ones do not wait: it rests by decision, or nothing restarts it.
fn is_settled(member: &Supervised, epoch: u64) -> bool {
    match member.state() {
        TaskState::Stopped | TaskState::Paused => true,
        TaskState::Finished => {
            member.links().known_epoch() >= epoch || member.spec.policy == RestartPolicy::Never
        }
        TaskState::Failed => member.spec.policy == RestartPolicy::Never,
        _ => member.carries(),
    }
}

impl Shared {
    /// Checks if a task may begin now, and returns its bond.
    pub(crate) fn gate(&self, task: &Supervised) -> Gate {
        let mut waits_for = Vec::new();
        let mut until = None;
        let mut bond = Bond::default();
        for name in task.links().dependencies() {
            // A dependency that has still to stop counts as stopped. A life that began with it would end at once, again and again.
            let may_rest_on =
                |dependency: &Arc<Supervised>| dependency.carries() && self.must_yield(dependency).is_none();
            match self.supervised(name).filter(may_rest_on) {
                Some(dependency) => {
                    bond.dependencies.push((Arc::downgrade(&dependency), dependency.signals.generation()));
                }
                None => waits_for.push(name.clone()),
            }
        }
        if let Some(Membership { group, index }) = task.links().membership() {
            let first_time = task.signals.generation() == 0;
            // One for one, the order is that of the first start; afterwards each is on its own.
            let in_order = first_time || group.strategy != RestartStrategy::OneForOne;
            let state = group.state();
            bond.epoch = state.epochs[*index];
            for (other, member) in group.members().filter(|(other, _)| other != index) {
                let before = other < *index && in_order && !is_settled(&member, state.epochs[other]);
                let given_up = group.strategy == RestartStrategy::OneForAll
                    && member.state() == TaskState::Failed
                    && member.spec.policy != RestartPolicy::Never;
                if before || given_up || member.is_out_of_date(state.epochs[other]) {
                    waits_for.push(member.name().clone());
                }
            }
            until = state.due.filter(|due| state.epochs[*index] > 0 && *due > Instant::now());
        }
        waits_for.extend(self.yielding_dependents(task).map(|dependent| dependent.name().clone()));
        if waits_for.is_empty() && until.is_none() {
            Gate::Open(bond)
        } else {
            Gate::Closed { waits_for, until }
        }
    }

    /// Returns the names of the tasks that a waiting task waits for.
    pub(crate) fn waits_for(&self, task: &Supervised) -> Vec<Arc<str>> {
        match self.gate(task) {
            Gate::Closed { waits_for, .. } => waits_for,
            Gate::Open(_) => Vec::new(),
        }
    }

    /// Returns true if a waiting task waits for a paused task or a task in standby, directly or through other tasks. Checks at most a
    /// hundred of them.
    pub(crate) fn waits_for_a_held_task(&self, task: &Supervised) -> bool {
        const AT_MOST: usize = 100;
        if self.held.load(SeqCst) == 0 {
            return false;
        }
        let waits_for = |task: &Supervised| match self.gate(task) {
            Gate::Closed { waits_for, .. } if task.state() == TaskState::Waiting => waits_for,
            _ => Vec::new(),
        };
        let (mut open, mut seen) = (waits_for(task), HashSet::new());
        while let Some(name) = open.pop().filter(|_| seen.len() < AT_MOST) {
            let Some(other) = self.supervised(&name).filter(|_| seen.insert(name)) else { continue };
            if other.state().is_held() {
                return true;
            }
            open.extend(waits_for(&other).into_iter().filter(|name| !seen.contains(name)));
        }
        false
    }

    /// Returns true if a member that finished begins again, because its group does: as in OTP, in any state.
    pub(crate) fn begins_anew(&self, task: &Supervised) -> bool {
        task.spec.policy != RestartPolicy::Never
            && task.links().membership().is_some_and(|membership| {
                membership.epoch() > task.links().known_epoch() && !membership.is_stopped(task)
            })
    }

    /// Returns true if a task that has not begun again yet stays stopped, because its group was stopped meanwhile.
    pub(crate) fn stays_down(&self, task: &Supervised) -> bool {
        task.links().membership().is_some_and(|membership| membership.is_stopped(task))
    }

    /// Returns the reason why a task must stop, if its life is out of date.
    pub(crate) fn must_yield(&self, task: &Supervised) -> Option<Yield> {
        if task.links().is_empty() || !task.is_up() {
            return None;
        }
        if let Some(membership) = task.links().membership() {
            if task.is_out_of_date(membership.epoch()) {
                // A task that nothing restarts stops with the others and stays stopped, as OTP's temporary children do.
                let stays_down = membership.is_stopped(task) || task.spec.policy == RestartPolicy::Never;
                return Some(Yield { reason: RestartReason::Group, stays_down });
            }
        }
        // A detached task continues without its dependencies: no task waits for it any more either.
        if task.links().loss() == DependencyLoss::Keep || !task.owns_name() {
            return None;
        }
        let bond = task.links().bond()?;
        let lost = || {
            bond.dependencies.iter().any(|(dependency, generation)| match dependency.upgrade() {
                Some(dependency) => {
                    dependency.has_left()
                        || !dependency.owns_name()
                        || dependency.signals.generation() != *generation
                        || !dependency.carries()
                        || self.must_yield(&dependency).is_some()
                }
                None => true,
            })
        };
        lost().then_some(Yield {
            reason: RestartReason::Dependency,
            stays_down: task.links().loss() == DependencyLoss::Stop,
        })
    }

    /// Returns true if another task has to stop before this one: a dependent, or a later member of its group.
    pub(crate) fn is_held_up(&self, task: &Supervised) -> bool {
        let later = task.links().membership().into_iter().flat_map(|Membership { group, index }| {
            group.members().filter(|(other, _)| other > index).map(|(_, member)| member)
        });
        later.into_iter().any(|member| self.must_yield(&member).is_some())
            || self.yielding_dependents(task).next().is_some()
    }

    /// Returns true if the stop of this task, or with `restarts` its restart, would stop another task before it. Before its driver has
    /// received the order, no other task yields to it.
    pub(crate) fn would_be_held_up(&self, task: &Supervised, restarts: bool) -> bool {
        let stops_with = |other: &Supervised| {
            other.is_up() && other.owns_name() && other.links().loss() != DependencyLoss::Keep
        };
        let taken_along = task.links().membership().filter(|_| restarts).is_some_and(|membership| {
            let Membership { group, index } = membership;
            let mut later = group.members().filter(|(other, _)| other > index);
            later.any(|(other, member)| group.strategy.takes_along(*index, other) && member.is_up())
        });
        taken_along
            || self.is_held_up(task)
            || self.dependents(task.name()).iter().any(|dependent| stops_with(dependent))
    }

    /// Returns the dependents of a task that stop because of it.
    fn yielding_dependents(&self, task: &Supervised) -> impl Iterator<Item = Arc<Supervised>> {
        let dependents = self.dependents(task.name());
        dependents.into_iter().filter(|dependent| self.must_yield(dependent).is_some())
    }

    /// Wakes all drivers that may have waited for a change in `task`: its direct and indirect dependents, its
    /// dependencies, and its group.
    pub(crate) fn changed(&self, task: &Supervised) {
        if task.links().is_empty() && !self.has_dependents() {
            return;
        }
        let (mut told, mut seen) = (Vec::new(), HashSet::new());
        let mut next = self.dependents(task.name());
        while let Some(dependent) = next.pop() {
            if !seen.insert(Arc::as_ptr(&dependent)) {
                continue;
            }
            next.extend(self.dependents(dependent.name()));
            told.push(dependent);
        }
        told.iter().for_each(|dependent| dependent.look());
        for name in task.links().dependencies() {
            self.supervised(name).iter().for_each(|dependency| dependency.look());
        }
        if let Some(Membership { group, index }) = task.links().membership() {
            group.member_changed(*index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn outdated_member_restart_returns_the_groups_decision() {
        let now = Instant::now();
        let group = Group::new(RestartStrategy::OneForAll, None, 2);
        assert_eq!(group.restart(0, 0, now, true), GroupRestart::Begins);
        // A life of the epoch before: it is taken along already.
        assert_eq!(group.restart(1, 0, now, true), GroupRestart::UnderWay);
        assert_eq!(group.state().epochs, [1, 1], "and takes nobody along a second time");
        assert_eq!(group.restart(1, 1, now, true), GroupRestart::Begins);
        group.given_up(0, true);
        assert_eq!(group.restart(1, 2, now, true), GroupRestart::Stopped);
        // The next life has the current epoch of the group.
        assert_eq!(group.restart(1, 3, now, true), GroupRestart::Begins);
        assert_eq!(group.restart(0, 3, now, true), GroupRestart::UnderWay, "though it was stopped before");
    }
}
