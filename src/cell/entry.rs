//! A name's cell with its identity, and who else counts what happens under it.
//!
//! A member of a family counts twice: in a cell of its own, and in the cell of its family. Health and the page read its own cell; the
//! cell of the family is exported.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{EndedRun, Identity, Possible, SkipReason, TaskCell, TaskSnapshot, task_cell::Part};
use crate::{policy::RestartReason, sync::atomic::AtomicUsize};

/// A cell, its identity, and what an upper layer keeps with it (`E`: the attribute sets its exports need).
#[derive(Debug)]
pub(crate) struct Entry<E> {
    pub(crate) identity: Identity,
    pub(crate) cell: TaskCell,
    pub(crate) extra: E,
    /// The entry that it is metered under, as [`Kind`] says.
    pub(super) under: Option<Arc<Entry<E>>>,
    pub(super) kind: Kind,
    /// Made for a caller that gave nothing but the name. The first of a name is found by it alone.
    pub(super) plain: bool,
    /// The bits of [`Possible`]. A part is set before its series can be other than 0.
    possible: AtomicU16,
    /// The number of members that report to it. Written under the registry's lock.
    pub(super) members: AtomicU32,
    /// The position of its task among the registered ones, plus one; 0 without one. Used only under their lock.
    position: AtomicU32,
}

/// For the runs of a hot name that the threads of one shard spawn.
impl<E: Send + Sync + 'static> Part for Entry<E> {
    fn cell(&self) -> &TaskCell {
        &self.cell
    }

    fn any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The role of an entry in totals and exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name of its own. If the histograms were full when it came, they record it as `_OTHER`.
    Name,
    /// A member of the family that it is metered under. Takes no room, and is not exported.
    Member,
    /// The name of everything that does not fit. Takes no room.
    Overflow,
}

impl<E> Entry<E> {
    pub(super) fn new(
        identity: Identity,
        cell: TaskCell,
        extra: E,
        under: Option<Arc<Self>>,
        kind: Kind,
        plain: bool,
    ) -> Self {
        let (possible, members, position) = (AtomicU16::new(0), AtomicU32::new(0), AtomicU32::new(0));
        Self { identity, cell, extra, under, kind, plain, possible, members, position }
    }

    /// Returns one more entry of a hot name, with a part of its cell.
    pub(super) fn new_part(&self, extra: E) -> Self {
        let name = self.identity.name.as_ref().into();
        let component = self.identity.component.as_deref().map(Arc::from);
        let (identity, cell) = (Identity { name, component, ..self.identity }, self.cell.new_part());
        Self::new(identity, cell, extra, self.under.clone(), self.kind, self.plain)
    }

    /// The family, for a member of one.
    pub(crate) fn family(&self) -> Option<&Arc<Entry<E>>> {
        self.under.as_ref().filter(|_| self.kind == Kind::Member)
    }

    pub(crate) fn is_family(&self) -> bool {
        self.possible().has(Possible::FAMILY)
    }

    /// Returns the series that can occur under the name.
    fn possible(&self) -> Possible {
        Possible(self.possible.load(Ordering::Relaxed))
    }

    /// Adds series that can occur from now on. What a member can do, its family can.
    pub(crate) fn allow(&self, possible: Possible) {
        self.allow_here(possible);
        if let Some(family) = self.family() {
            family.allow_here(possible);
        }
    }

    fn allow_here(&self, possible: Possible) {
        self.possible.fetch_or(possible.0, Ordering::Relaxed);
    }

    /// Returns the position of its task among the registered ones. Only under their lock.
    pub(crate) fn position(&self) -> Option<usize> {
        (self.position.load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    /// Sets that position, under the same lock.
    pub(crate) fn set_position(&self, position: Option<usize>) {
        let position = position.map_or(0, |position| position + 1);
        self.position
            .store(u32::try_from(position).expect("fewer than four billion tasks"), Ordering::Relaxed);
    }

    /// Counts a member that comes. Under the registry's lock, as the next.
    pub(super) fn member_comes(&self) {
        self.allow_here(Possible::FAMILY);
        self.members.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a member that goes. Returns whether it was the last.
    pub(super) fn member_goes(&self) -> bool {
        self.members.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Returns the entry that is exported for it: itself, or its family.
    pub(crate) fn metered(&self) -> &Self {
        self.family().map_or(self, |family| family)
    }

    /// Returns the entry under which histograms record its runs. Histograms cannot remove a name.
    pub(crate) fn recorded(&self) -> &Self {
        let mut entry = self;
        while let Some(under) = &entry.under {
            entry = under;
        }
        entry
    }

    /// The name, for a member: its family's has another.
    pub(crate) fn member_name(&self) -> Option<&str> {
        self.family().map(|_| &*self.identity.name)
    }

    /// The cells that count what happens under the name.
    fn cells(&self) -> impl Iterator<Item = &TaskCell> {
        [Some(&self.cell), self.family().map(|family| &family.cell)].into_iter().flatten()
    }

    /// Counts a run that begins. Returns whether the registry has let the name go meanwhile; of a member, its family's, since
    /// the member's own is not let go.
    #[inline]
    pub(crate) fn run_started(&self, now: impl FnOnce() -> Duration + Copy, wall: SystemTime) -> bool {
        let own_is_gone = self.cell.run_started(now, wall);
        self.family().map_or(own_is_gone, |family| family.run_of_member_started(now(), wall))
    }

    /// Out of the path of other runs, as the next.
    #[inline(never)]
    fn run_of_member_started(&self, now: Duration, wall: SystemTime) -> bool {
        self.cell.run_started(|| now, wall)
    }

    /// Counts an ended run. Returns the error type that it is exported under.
    #[inline]
    pub(crate) fn run_ended(
        &self,
        run: &EndedRun<'_>,
        now: impl FnOnce() -> Duration + Copy,
        error_type_budget: &AtomicUsize,
    ) -> Option<&'static str> {
        let Some(family) = self.family() else {
            return self.cell.run_ended(run, now, error_type_budget);
        };
        let error_type = family.run_of_member_ended(run, now(), error_type_budget);
        // Not exported: it has a budget of its own.
        self.run_of_member_ended(run, now(), &AtomicUsize::new(TaskSnapshot::MAX_ERROR_TYPES));
        error_type
    }

    #[inline(never)]
    fn run_of_member_ended(
        &self,
        run: &EndedRun<'_>,
        now: Duration,
        error_type_budget: &AtomicUsize,
    ) -> Option<&'static str> {
        self.cell.run_ended(run, || now, error_type_budget)
    }

    pub(crate) fn count_minute(&self, now: Duration, is_error: bool) {
        self.cells().for_each(|cell| cell.count_minute(now, is_error));
    }

    pub(crate) fn polled(&self, duration: Duration, slow: Duration) {
        self.cell.polled(duration, slow);
        if let Some(family) = self.family() {
            family.cell.polled(duration, slow);
        }
    }

    pub(crate) fn heartbeat(&self, wall: SystemTime) {
        self.cells().for_each(|cell| cell.heartbeat(wall));
    }

    pub(crate) fn stale_signal(&self) {
        self.cells().for_each(TaskCell::stale_signal);
    }

    pub(crate) fn restarted(&self, reason: RestartReason, now: Duration, wall: SystemTime) {
        self.cells().for_each(|cell| cell.restarted(reason, now, wall));
    }

    pub(crate) fn stalled(&self) {
        self.cells().for_each(TaskCell::stalled);
    }

    pub(crate) fn skipped(&self, reason: SkipReason, iterations: u64) {
        self.cells().for_each(|cell| cell.skipped(reason, iterations));
    }

    pub(crate) fn retried(&self) {
        self.cells().for_each(TaskCell::retried);
    }

    /// Everything that is known of it.
    pub(crate) fn snapshot(&self, now: Duration) -> TaskSnapshot {
        self.complete(self.cell.snapshot(&self.identity, now))
    }

    /// Returns its exported figures.
    pub(crate) fn exported(&self) -> TaskSnapshot {
        self.complete(self.cell.exported(&self.identity))
    }

    fn complete(&self, snapshot: TaskSnapshot) -> TaskSnapshot {
        TaskSnapshot {
            family: self.family().map(|family| family.identity.name.clone()),
            members: self.is_family().then(Default::default),
            possible: self.possible(),
            ..snapshot
        }
    }
}
