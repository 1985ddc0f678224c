//! Everything that is alive: spawned runs and drivers, so that a shutdown finds each and nothing slips in behind it.
//!
//! Invariants:
//! 1. A member is entered under its shard's lock, which refuses once the shard is closed; so after [`Tracker::close`]
//!    has visited every shard, each member that was admitted is visible and no other will come.
//! 2. A member's outcome is noted once, when it leaves, by whoever removes it from its shard.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::{ShutdownOutcome, TaskShutdown};
use crate::{
    policy::{TaskCategory, TaskPriority},
    run::Task,
};

const SHARDS: usize = 8;
/// Categories times priorities.
pub(crate) const STAGES: usize = TaskCategory::ALL.len() * TaskPriority::ALL.len();

/// The stage in which shutdown stops a task: categories in their order, inside one the lowest priority first.
pub(crate) fn stage_of(category: TaskCategory, priority: TaskPriority) -> usize {
    let place = TaskCategory::SHUTDOWN_ORDER.iter().position(|ordered| *ordered == category).unwrap_or(0);
    place * TaskPriority::ALL.len() + priority as usize
}

/// The stage of a registered task.
pub(crate) fn stage_of_task(task: &Task) -> usize {
    stage_of(task.identity.category, task.identity.priority)
}

#[derive(Default)]
pub(crate) struct Tracker {
    shards: [Mutex<Shard>; SHARDS],
    next_id: AtomicU64,
    /// Members alive, by stage.
    alive: [AtomicUsize; STAGES],
    /// Set when the shutdown begins; members that leave afterwards are noted.
    draining: AtomicBool,
    /// Stages below this one are over.
    stages_over: AtomicUsize,
    left: Notify,
    drained: Mutex<Drained>,
}

#[derive(Default)]
struct Shard {
    closed: bool,
    members: Slab<Member>,
}

struct Member {
    id: u64,
    task: Arc<Task>,
    kind: MemberKind,
    /// When shutdown stops it: what its caller said counts even where its name is metered under another.
    stage: usize,
    /// Set where it does not end by itself while it is waited for.
    outcome: Option<ShutdownOutcome>,
    /// Whether the report has named it as leaked.
    reported: bool,
}

enum MemberKind {
    /// A spawned run; how to drop it, once tokio has told, and how long it may go on after it was asked to stop.
    Run {
        abort: Option<AbortHandle>,
        token: Option<tokio_util::sync::CancellationToken>,
        grace: Option<Duration>,
    },
    /// The driver of a supervised task, which is asked through its own orders.
    Driver,
}

#[derive(Clone, Default)]
struct Drained {
    began: Option<Instant>,
    lines: Vec<TaskShutdown>,
}

/// A member's place; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<super::Shared>,
    key: usize,
    id: u64,
}

impl std::fmt::Debug for super::Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.tracker.leave(self.key, self.id);
    }
}

impl Place {
    /// Tells how the run can be dropped. It may have left already: then this does nothing.
    pub(crate) fn set_abort(tracker: &Tracker, key: usize, id: u64, handle: AbortHandle) {
        let mut shard = tracker.shard(key);
        let member = shard.members.get_mut(key / SHARDS).filter(|member| member.id == id);
        if let Some(Member { kind: MemberKind::Run { abort, .. }, outcome, .. }) = member {
            if outcome.is_some() {
                handle.abort();
            }
            *abort = Some(handle);
        }
    }

    pub(crate) fn key(&self) -> (usize, u64) {
        (self.key, self.id)
    }

    /// Notes what becomes of the member, where it is not that it ends by itself.
    pub(crate) fn note(&self, outcome: ShutdownOutcome) {
        let mut shard = self.shared.tracker.shard(self.key);
        if let Some(member) = shard.members.get_mut(self.key / SHARDS).filter(|member| member.id == self.id) {
            member.outcome = Some(outcome);
        }
    }
}

impl Tracker {
    fn shard(&self, key: usize) -> MutexGuard<'_, Shard> {
        self.shards[key % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a spawned run, or refuses it during a shutdown.
    pub(crate) fn enter_run(
        shared: &Arc<super::Shared>,
        task: &Arc<Task>,
        stage: usize,
        token: Option<tokio_util::sync::CancellationToken>,
        grace: Option<Duration>,
    ) -> Option<Place> {
        Self::enter(shared, task, stage, MemberKind::Run { abort: None, token, grace })
    }

    /// Admits a driver, or refuses it during a shutdown.
    pub(crate) fn enter_driver(shared: &Arc<super::Shared>, task: &Arc<Task>) -> Option<Place> {
        Self::enter(shared, task, stage_of_task(task), MemberKind::Driver)
    }

    fn enter(shared: &Arc<super::Shared>, task: &Arc<Task>, stage: usize, kind: MemberKind) -> Option<Place> {
        let tracker = &shared.tracker;
        let id = tracker.next_id.fetch_add(1, Ordering::Relaxed); // Uniqueness only.
        let shard_index = id as usize % SHARDS;
        let mut shard = tracker.shard(shard_index);
        if shard.closed {
            return None;
        }
        // Relaxed: written under the shard's lock, and read after every shard's lock was taken by `close`.
        tracker.alive[stage].fetch_add(1, Ordering::Relaxed);
        let slot = shard.members.insert(Member {
            id,
            task: task.clone(),
            kind,
            stage,
            outcome: None,
            reported: false,
        });
        drop(shard);
        Some(Place { shared: shared.clone(), key: slot * SHARDS + shard_index, id })
    }

    fn leave(&self, key: usize, id: u64) {
        let stage = {
            let mut shard = self.shard(key);
            let member = match shard.members.get(key / SHARDS) {
                Some(member) if member.id == id => shard.members.remove(key / SHARDS),
                _ => return,
            };
            // Under the shard's lock: whoever makes the report finds the member or its note, never both or neither.
            if self.draining.load(Ordering::Acquire) && !member.reported {
                let late = member.stage < self.stages_over.load(Ordering::Acquire);
                let by_itself = if late { ShutdownOutcome::Late } else { ShutdownOutcome::Clean };
                self.drained().note(&member.task, member.outcome.unwrap_or(by_itself));
            }
            member.stage
        };
        // AcqRel: pairs with the Acquire load in `alive_in`, so that whoever sees the stage empty sees the note.
        self.alive[stage].fetch_sub(1, Ordering::AcqRel);
        self.left.notify_waiters();
    }

    fn drained(&self) -> MutexGuard<'_, Drained> {
        self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes admission for ever and begins to note who leaves.
    pub(crate) fn close(&self) {
        self.draining.store(true, Ordering::Release);
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        }
    }

    /// From when on the report reckons.
    pub(crate) fn began(&self, began: Instant) {
        self.drained().began = Some(began);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn alive_in(&self, stages: std::ops::Range<usize>) -> usize {
        self.alive[stages].iter().map(|alive| alive.load(Ordering::Acquire)).sum()
    }

    /// Waits until nothing of these stages is alive.
    pub(crate) async fn emptied(&self, stages: std::ops::Range<usize>) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Enabled before the check: a member that leaves in between still wakes us.
            left.as_mut().enable();
            if self.alive_in(stages.clone()) == 0 {
                return;
            }
            left.await;
        }
    }

    pub(crate) fn stage_over(&self, stage: usize) {
        self.stages_over.store(stage + 1, Ordering::Release);
    }

    /// Visits the spawned runs of these stages: asks those that can hear it to stop. Answers the graces they have.
    pub(crate) fn ask_runs(&self, stage: usize) -> Vec<Option<Duration>> {
        let mut graces = Vec::new();
        self.visit(stage..stage + 1, |member| {
            if let MemberKind::Run { token, grace, .. } = &mut member.kind {
                if let Some(token) = token {
                    token.cancel();
                }
                graces.push(*grace);
            }
        });
        graces.sort_unstable();
        graces.dedup();
        graces
    }

    /// Drops the spawned runs of these stages for whose grace `which` says so.
    pub(crate) fn abort_runs(
        &self,
        stages: std::ops::Range<usize>,
        which: impl Fn(Option<Duration>) -> bool,
    ) {
        self.visit(stages, |member| {
            if let MemberKind::Run { abort, grace, .. } = &mut member.kind {
                if which(*grace) {
                    member.outcome = Some(ShutdownOutcome::Aborted);
                    abort.iter().for_each(AbortHandle::abort);
                }
            }
        });
    }

    fn visit(&self, stages: std::ops::Range<usize>, mut visit: impl FnMut(&mut Member)) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, member) in shard.members.iter_mut().filter(|(_, member)| stages.contains(&member.stage)) {
                visit(member);
            }
        }
    }

    /// The names alive, by category.
    pub(crate) fn names(&self) -> std::collections::BTreeMap<TaskCategory, Vec<String>> {
        let mut names = std::collections::BTreeMap::<TaskCategory, Vec<String>>::new();
        self.visit(0..STAGES, |member| {
            let of_category = names.entry(member.task.identity.category).or_default();
            let name = &*member.task.identity.name;
            if !of_category.iter().any(|held| held == name) {
                of_category.push(name.to_owned());
            }
        });
        names.values_mut().for_each(|of_category| of_category.sort_unstable());
        names
    }

    /// The lines of the report: who left since [`Tracker::close`], and who is still here and therefore leaked.
    pub(crate) fn report(&self) -> Vec<TaskShutdown> {
        let mut leaked = Vec::new();
        self.visit(0..STAGES, |member| {
            member.reported = true;
            leaked.push(member.task.clone());
        });
        // A copy: whoever asks twice gets the same answer.
        let mut drained = self.drained().clone();
        leaked.iter().for_each(|task| drained.note(task, ShutdownOutcome::Leaked));
        let mut lines = drained.lines;
        lines.sort_by_key(|line| {
            let category =
                TaskCategory::SHUTDOWN_ORDER.iter().position(|category| *category == line.category);
            (category, line.priority, line.name.clone(), line.outcome)
        });
        lines
    }
}

impl Drained {
    fn note(&mut self, task: &Task, outcome: ShutdownOutcome) {
        let after = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let identity = &task.identity;
        let same = |line: &&mut TaskShutdown| {
            line.outcome == outcome
                && line.name == identity.name
                && line.category == identity.category
                && line.priority == identity.priority
        };
        match self.lines.iter_mut().find(same) {
            Some(line) => {
                line.count += 1;
                line.after = after;
            }
            None => self.lines.push(TaskShutdown {
                name: identity.name.clone(),
                category: identity.category,
                priority: identity.priority,
                outcome,
                count: 1,
                after,
            }),
        }
    }
}
