//! All living members: spawned runs, and registered tasks with or without their driver. A shutdown finds each member,
//! and no member comes after it unnoticed.
//!
//! Invariants:
//! 1. A member is entered under its shard's lock, which refuses once the shard is closed to its kind. So after
//!    [`Tracker::close`] has visited every shard, each admitted member of that kind is visible and no other will come.
//!    Registered tasks are entered under the lock of the registrations too, under which their admission is closed. So of tasks that are
//!    registered together, all are admitted or none.
//! 2. A member's outcome is recorded once, when it leaves, by the code that removes it from its shard.
//! 3. Locks are taken in the order shard, left_lines; a member is counted, and uncounted, under its shard's lock.
//! 4. No value of the user is dropped or called under a lock: the code that removed a member drops its values.
//! 5. An owned run is counted by its owner ([`Owned`]) and entered under one lock, that of its shard. So after the owner has
//!    been closed, a visit of every shard finds each admitted run, and no other will come. A run is counted until it has
//!    left, or waits for the shutdown itself.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use slab::Slab;
use tokio::{sync::Notify, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::topology::Position;
use crate::{
    engine::{
        ShutdownEntry, Supervised,
        observe::manager_span::Names,
        shutdown::lines::{Lines, Note, all_lines, line_of_driver, note},
        spawn::limit::{Limits, Room},
    },
    gate::{Grant, Pass},
    policy::{ShutdownOutcome, TaskCategory, TaskPriority},
    run::{Guard, Task},
    shards::{COUNT as SHARDS, LocalArc, LocalArcs, Shards},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
        lock,
    },
    watchdog::{self, MemberId},
};

/// The stage of the tasks that are marked as intake: before all others.
pub(crate) const INTAKE_STAGE: usize = 0;

/// The number of stages.
const STAGES: usize = 1 + TaskCategory::SHUTDOWN_ORDER.len() * TaskPriority::ALL.len();

/// The stage in which shutdown stops a task: categories in their order, inside one the lowest priority first.
pub(crate) fn stage_of(category: TaskCategory, priority: TaskPriority) -> usize {
    1 + place_of(category) * TaskPriority::ALL.len() + priority as usize
}

fn place_of(category: TaskCategory) -> usize {
    TaskCategory::SHUTDOWN_ORDER.iter().position(|ordered| *ordered == category).unwrap_or(0)
}

/// The place of a task's category in the order of stopping; intake comes first.
pub(crate) fn category_place(task: &Supervised) -> usize {
    if task.spec.intake { 0 } else { 1 + place_of(task.task.identity.category) }
}

/// The stage of a registered task.
pub(crate) fn stage_of_task(task: &Supervised) -> usize {
    let identity = &task.task.identity;
    if task.spec.intake { INTAKE_STAGE } else { stage_of(identity.category, identity.priority) }
}

/// A kind of registered tasks that a shutdown treats apart. Most managers have no task of a kind, and then no walk over all tasks is made for it.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Kind {
    Intake = 1,
    Gated = 2,
    /// With dependencies, or in a group.
    Linked = 4,
    Loop = 8,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Intake, Self::Gated, Self::Linked, Self::Loop];

    fn has(self, task: &Supervised) -> bool {
        match self {
            Self::Intake => task.spec.intake,
            Self::Gated => task.body.gated().is_some(),
            Self::Linked => !task.links().is_empty(),
            Self::Loop => task.body.is_loop(),
        }
    }
}

/// The kinds of members that are still admitted. A shutdown moves from one to the next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Admission {
    /// Registered tasks and all runs.
    #[default]
    All,
    /// All runs, while intake stops.
    Runs,
    /// Runs that a task owns, until that task has ended.
    OwnedRuns,
    Nothing,
}

/// The runs that a task owns: how many there are, whether they were asked to stop, and whether there may be more.
#[derive(Debug)]
pub(crate) struct Owned(AtomicU32);

impl Owned {
    const CLOSED: u32 = 1;
    const ASKED: u32 = 2;
    const ONE: u32 = 4;

    fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Counts one more, and returns whether it is to stop; `None` if it is closed. Under the lock of the shard that the run is
    /// entered in.
    fn enter(&self) -> Option<bool> {
        let mut held = self.0.load(Ordering::SeqCst);
        loop {
            if held & Self::CLOSED != 0 {
                return None;
            }
            match self.0.compare_exchange_weak(held, held + Self::ONE, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(held & Self::ASKED != 0),
                Err(now) => held = now,
            }
        }
    }

    /// Counts one again that no longer waits for the shutdown.
    fn enter_again(&self) {
        self.0.fetch_add(Self::ONE, Ordering::SeqCst);
    }

    /// Counts one less. Returns whether the owner waits for it, and for nothing else.
    fn leave(&self) -> bool {
        let left = self.0.fetch_sub(Self::ONE, Ordering::SeqCst) - Self::ONE;
        left < Self::ONE && left & Self::CLOSED != 0
    }

    /// Requests all later members to stop. Returns true if there are earlier ones.
    fn ask(&self) -> bool {
        self.0.fetch_or(Self::ASKED, Ordering::SeqCst) >= Self::ONE
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst) & Self::ASKED != 0
    }

    /// Refuses more.
    pub(crate) fn close(&self) {
        self.0.fetch_or(Self::CLOSED, Ordering::SeqCst);
    }

    /// Admits more again.
    pub(crate) fn open(&self) {
        // It is open before a first life.
        if self.0.load(Ordering::SeqCst) & (Self::CLOSED | Self::ASKED) != 0 {
            self.0.fetch_and(!(Self::CLOSED | Self::ASKED), Ordering::SeqCst);
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst) & Self::CLOSED != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst) < Self::ONE
    }
}

/// The task that owns a run.
#[derive(Clone)]
pub(crate) enum Owner {
    Task(Arc<Supervised>),
    /// A task behind a gate, with a share in the grant of its life.
    Gated(Box<(Arc<Supervised>, Arc<Grant>)>),
    /// A task cannot be made without a runtime.
    #[cfg(all(test, otel_tasks_loom))]
    Model(Arc<Owned>),
}

impl Owner {
    fn owned(&self) -> &Owned {
        match self {
            Self::Task(task) => &task.place.owned,
            Self::Gated(gated) => &gated.0.place.owned,
            #[cfg(all(test, otel_tasks_loom))]
            Self::Model(owned) => owned,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.owned().is_closed()
    }

    /// The same with a share in the grant of its life, if it has a gate: released when the run has left. `None` if that life is over.
    pub(crate) fn with_share(self) -> Option<Self> {
        match self {
            Self::Task(task) => match task.body.gated() {
                None => Some(Self::Task(task)),
                Some(gated) => {
                    let share = gated.share()?;
                    Some(Self::Gated(Box::new((task, share))))
                }
            },
            shared => Some(shared),
        }
    }

    /// The permission of the life that it lives, if it has a gate.
    pub(crate) fn pass(&self) -> Option<Pass> {
        match self {
            Self::Gated(gated) => Some(gated.1.pass()),
            _ => None,
        }
    }

    fn task(&self) -> Option<&Arc<Supervised>> {
        match self {
            Self::Task(task) => Some(task),
            Self::Gated(gated) => Some(&gated.0),
            #[cfg(all(test, otel_tasks_loom))]
            Self::Model(_) => None,
        }
    }

    fn is(&self, task: &Supervised) -> bool {
        self.task().is_some_and(|owner| std::ptr::eq(&**owner, task))
    }

    pub(crate) fn downgrade(&self) -> Weak<Supervised> {
        self.task().map_or_else(Weak::new, Arc::downgrade)
    }

    fn name(&self) -> Option<Arc<str>> {
        self.task().map(|task| task.name().clone())
    }
}

/// The number of a position of a shutdown, in their order.
pub(crate) type Rank = usize;

pub(crate) struct Tracker {
    number: u64,
    /// The grace of a plain run without an owner.
    plain_grace: Duration,
    /// A run is in that of the thread that spawned it.
    shards: Shards<Mutex<Shard>>,
    /// The number of drivers so far, which take the shards in turn. Written under the lock of the registrations.
    drivers: AtomicUsize,
    /// The [`Kind`]s of the drivers so far.
    kinds: AtomicU8,
    /// An [`Admission`]. Once it is no longer `All` the shutdown has begun, and members that leave are noted.
    admission: AtomicU8,
    /// Completes when nothing is waited for any more at some position.
    left: Notify,
    /// True if tasks are held up by their dependents, so that each leaving counts.
    holds: AtomicBool,
    plan: OnceLock<Plan>,
    /// Positions before this one are over.
    over: AtomicUsize,
    left_lines: Mutex<Lines>,
    /// Waiters for room check again whenever admission is closed to some.
    pub(crate) limits: Limits,
}

/// The positions that a shutdown waits for.
struct Plan {
    began: Instant,
    /// In the order of the positions.
    waited_for: Box<[Waited]>,
}

/// The number of members that are still waited for at a position.
struct Waited {
    position: Position,
    left: AtomicUsize,
    /// The number of them that were held for their dependents at first: if no more are left, there may be nothing to wait for.
    held: AtomicUsize,
}

// In this order, so that what each spawn and each end of a run changes is in one cache line with the lock.
#[repr(C)]
struct Shard {
    members: Slab<Member>,
    /// The number of the next member: one of those by which this shard is found.
    next: u64,
    admission: Admission,
    /// Each at the index that its place has. A driver that left during the shutdown leaves a gap, so that none of the others moves.
    drivers: Vec<Option<Arc<Supervised>>>,
    /// The number of gaps.
    gaps: usize,
    /// The outcomes of the drivers that left during the shutdown.
    notes: Vec<Note>,
}

impl Shard {
    fn new(index: usize) -> Self {
        Self {
            admission: Admission::default(),
            next: index as u64,
            members: Slab::new(),
            drivers: Vec::new(),
            gaps: 0,
            notes: Vec::new(),
        }
    }

    /// The drivers that are here.
    fn drivers(&self) -> impl Iterator<Item = &Arc<Supervised>> {
        self.drivers.iter().flatten()
    }

    /// The number of members that are alive.
    fn alive(&self) -> usize {
        self.members.len() + self.drivers.len() - self.gaps
    }

    fn next(&mut self) -> u64 {
        let next = self.next;
        self.next += SHARDS as u64;
        next
    }
}

/// The tracker's entry of a driver, inside its task. Written and read under its shard's lock.
pub(crate) struct DriverPlace {
    id: MemberId,
    /// The index of the entry in the shard.
    index: AtomicU32,
    /// Its rank, plus one, once the shutdown is planned; 0 before.
    rank: AtomicU32,
    /// As [`Member::asking`].
    asking: AtomicBool,
    /// As [`Member::outcome`]: the index in [`ShutdownOutcome::ALL`], plus one.
    outcome: AtomicU8,
    /// As [`Member::reported`].
    reported: AtomicBool,
    /// True if its driver has left.
    left: AtomicBool,
    /// The runs that its task owns.
    pub(crate) owned: Owned,
}

/// Relaxed throughout: the shard's lock orders.
impl DriverPlace {
    pub(crate) fn id(&self) -> MemberId {
        self.id
    }

    fn set_index(&self, index: usize) {
        // 2^32 tasks would not fit.
        self.index.store(u32::try_from(index).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    fn rank(&self) -> Option<Rank> {
        self.rank.load(Ordering::Relaxed).checked_sub(1).map(|rank| rank as usize)
    }

    /// Returns true if the shutdown waits for the task at this position.
    pub(crate) fn is_waited_for_at(&self, rank: Rank) -> bool {
        self.rank() == Some(rank) && !self.is_out()
    }

    /// Returns true if nobody waits for the task: its driver has left, or it waits for the shutdown itself.
    pub(crate) fn is_out(&self) -> bool {
        self.left.load(Ordering::SeqCst) || self.is_asking()
    }

    fn is_asking(&self) -> bool {
        self.asking.load(Ordering::Relaxed)
    }

    fn outcome(&self) -> Option<ShutdownOutcome> {
        let outcome = self.outcome.load(Ordering::Relaxed).checked_sub(1)?;
        ShutdownOutcome::ALL.get(usize::from(outcome)).copied()
    }
}

struct Member {
    id: MemberId,
    task: Arc<Task>,
    /// Once tokio has returned it.
    abort: Option<AbortHandle>,
    extras: Option<Box<RunExtras>>,
    /// The task that owns it, which asks it to stop and waits for it.
    owner: Option<Owner>,
    /// The stage in which a shutdown stops it, if no task owns it: the caller's category counts even if its name is metered under another.
    stage: u8,
    /// The position at which the shutdown counts it, plus one, once it is planned. Not for a run that its owner counts.
    rank: Option<NonZeroU32>,
    /// It waits for the shutdown itself, which therefore does not wait for it.
    asking: bool,
    /// Set where it does not end by itself while it is waited for.
    outcome: Option<ShutdownOutcome>,
    /// True if the report has named it as leaked.
    reported: bool,
}

impl Member {
    fn rank(&self) -> Option<Rank> {
        self.rank.map(|rank| rank.get() as usize - 1)
    }

    fn set_rank(&mut self, rank: Option<Rank>) {
        self.rank = rank.and_then(|rank| NonZeroU32::new(u32::try_from(rank + 1).ok()?));
    }

    /// Its rank, or that of the task that owns it.
    fn rank_to_report(&self) -> Option<Rank> {
        let of_owner = || self.owner.as_ref()?.task()?.place.rank();
        self.rank().or_else(of_owner)
    }

    /// Clean, if its owner was asked after its position was over, because of its dependents.
    fn outcome_of_held_owner(&self) -> Option<ShutdownOutcome> {
        let of_owner = self.owner.as_ref()?.task()?.place.outcome();
        of_owner.filter(|outcome| *outcome == ShutdownOutcome::Clean)
    }

    fn owner_name(&self) -> Option<Arc<str>> {
        self.owner.as_ref().and_then(Owner::name)
    }

    fn abort(&mut self) {
        self.outcome = Some(ShutdownOutcome::Aborted);
        self.abort.iter().for_each(AbortHandle::abort);
    }

    fn token(&self) -> Option<&CancellationToken> {
        self.extras.as_ref()?.token.as_ref()
    }

    /// The time after the stop request at which it is dropped. A plain future cannot receive that request: it has `of_plain`, unless a
    /// task owns it, whose grace counts then.
    fn grace(&self, of_plain: Duration) -> Option<Duration> {
        let is_plain = self.token().is_none() && self.owner.is_none();
        let given = self.extras.as_ref().and_then(|extras| extras.grace);
        given.or(is_plain.then_some(of_plain))
    }
}

// There may be a million of them.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Member>() <= 56);

/// The parts of a spawned run that a plain spawn does not have.
pub(crate) struct RunExtras {
    /// The stop request, if the run receives one.
    pub(crate) token: Option<CancellationToken>,
    /// The grace that the caller gave it.
    pub(crate) grace: Option<Duration>,
    #[expect(dead_code, reason = "held until the run has left, and given back by being dropped")]
    pub(crate) room: Option<Room>,
}

/// A member's place; dropping it leaves.
pub(crate) struct Place {
    tracker: LocalArc<Tracker>,
    key: usize,
    id: MemberId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tracker.leave(self.key, self.id);
    }
}

impl Place {
    #[cfg(all(test, otel_tasks_loom))]
    fn id(&self) -> MemberId {
        self.id
    }

    pub(crate) fn key(&self) -> (usize, MemberId) {
        (self.key, self.id)
    }

    /// Records the outcome of the member, if it does not end by itself.
    pub(crate) fn note(&self, outcome: ShutdownOutcome) {
        let mut shard = self.tracker.shard(self.key);
        if let Some(member) = shard.members.get_mut(self.key / SHARDS).filter(|member| member.id == self.id) {
            member.outcome = Some(outcome);
        }
    }
}

impl Guard for Place {
    fn run_dropped(&self) {
        self.note(ShutdownOutcome::Aborted);
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The wakers of a stage's stop request, to be used when no lock is held: they may be the user's code.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) tokens: Vec<CancellationToken>,
    /// The graces of the spawned runs, each once.
    pub(crate) graces: Vec<Duration>,
}

impl Tracker {
    pub(crate) fn new(number: u64, plain_grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            number,
            plain_grace,
            shards: Shards::new(|index| Mutex::new(Shard::new(index))),
            drivers: AtomicUsize::new(0),
            kinds: AtomicU8::new(0),
            admission: AtomicU8::new(Admission::All as u8),
            holds: AtomicBool::new(false),
            left: Notify::new(),
            plan: OnceLock::new(),
            over: AtomicUsize::new(0),
            left_lines: Mutex::new(Lines::default()),
            limits: Limits::default(),
        })
    }

    fn shard(&self, key: usize) -> MutexGuard<'_, Shard> {
        lock(&self.shards[key % SHARDS])
    }

    fn left_lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.left_lines)
    }

    /// Enters a registered task, which is made with the place of its driver. Under the lock of the registrations, if admission is open.
    pub(crate) fn enter_driver(&self, made: impl FnOnce(DriverPlace) -> Arc<Supervised>) -> Arc<Supervised> {
        let turn = self.drivers.load(Ordering::Relaxed);
        self.drivers.store(turn.wrapping_add(1), Ordering::Relaxed);
        let mut shard = self.shard(turn);
        debug_assert!(shard.admission == Admission::All, "closed under the lock of the registrations");
        let supervised = made(DriverPlace {
            id: watchdog::member_id(self.number, shard.next()),
            index: AtomicU32::new(0),
            rank: AtomicU32::new(0),
            asking: AtomicBool::new(false),
            outcome: AtomicU8::new(0),
            reported: AtomicBool::new(false),
            left: AtomicBool::new(false),
            owned: Owned::new(),
        });
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.has(&supervised));
        let kinds = kinds.fold(0, |kinds, kind| kinds | kind as u8);
        // Relaxed: in the order of the shard's lock, which a shutdown takes before it reads them.
        let before = self.kinds.load(Ordering::Relaxed);
        if before | kinds != before {
            self.kinds.fetch_or(kinds, Ordering::Relaxed);
        }
        supervised.place.set_index(shard.drivers.len());
        if shard.drivers.len() == shard.drivers.capacity() {
            // By a half, and not to the double: what a hundred thousand idle tasks hold counts.
            let more = shard.drivers.len() / 2 + 4;
            shard.drivers.reserve_exact(more);
        }
        shard.drivers.push(Some(supervised.clone()));
        supervised
    }

    /// Records the outcome of a driver, if it does not end by itself.
    pub(crate) fn note_driver(&self, supervised: &Supervised, outcome: ShutdownOutcome) {
        let _shard = self.shard(supervised.place.id as usize);
        supervised.place.outcome.store(outcome as u8 + 1, Ordering::Relaxed);
    }

    /// Removes the driver of a task. Without effect if it was not admitted. Returns true if the shutdown reports it.
    pub(crate) fn leave_driver(&self, supervised: &Supervised) -> bool {
        let place = &supervised.place;
        let (member, emptied, closed) = {
            let mut shard = self.shard(place.id as usize);
            let index = place.index.load(Ordering::Relaxed) as usize;
            let member = match shard.drivers.get_mut(index) {
                Some(entry) if entry.as_ref().is_some_and(|member| std::ptr::eq(&**member, supervised)) => {
                    entry.take()
                }
                _ => return false,
            };
            // As in `leave`.
            let mut emptied = false;
            place.left.store(true, Ordering::SeqCst);
            let closed = self.is_closed();
            if closed {
                shard.gaps += 1;
                if !place.reported.load(Ordering::Relaxed) {
                    let note = Note {
                        task: supervised.task.clone(),
                        position: self.position(place.rank(), stage_of_task(supervised)),
                        outcome: place.outcome().unwrap_or_else(|| self.by_itself(place.rank())),
                        after: self.after(),
                    };
                    shard.notes.push(note);
                }
                emptied = self.uncount(place.rank().filter(|_| !place.is_asking()));
                emptied |= self.holds.load(Ordering::SeqCst) && !supervised.links().is_empty();
            } else {
                shard.drivers.swap_remove(index);
                if let Some(Some(moved)) = shard.drivers.get(index) {
                    moved.place.set_index(index);
                }
            }
            (member, emptied, closed)
        };
        // Its last use may be here, and what it held is the user's.
        drop(member);
        if emptied {
            self.left.notify_waiters();
        }
        closed
    }

    fn waited_for(&self) -> &[Waited] {
        self.plan.get().map_or(&[], |plan| &plan.waited_for)
    }

    /// Returns the position at which the report names a member.
    fn position(&self, rank: Option<Rank>, stage: usize) -> Position {
        let waited = rank.and_then(|rank| self.waited_for().get(rank));
        waited.map_or((stage, 0), |waited| waited.position)
    }

    fn position_of(&self, member: &Member) -> Position {
        let stage = match member.owner.as_ref().and_then(Owner::task) {
            Some(task) => stage_of_task(task),
            None => usize::from(member.stage),
        };
        self.position(member.rank_to_report(), stage)
    }

    /// Returns the outcome of a member that ends by itself now.
    fn by_itself(&self, rank: Option<Rank>) -> ShutdownOutcome {
        // Relaxed: both outcomes are true of a member that leaves at that moment.
        let late = rank.is_some_and(|rank| rank < self.over.load(Ordering::Relaxed));
        if late { ShutdownOutcome::Late } else { ShutdownOutcome::Clean }
    }

    /// Returns the time since the start of the shutdown.
    fn after(&self) -> Duration {
        self.plan.get().map_or(Duration::ZERO, |plan| plan.began.elapsed())
    }

    fn count(&self, rank: Rank) {
        self.count_all(Some(rank), 1);
    }

    fn count_all(&self, rank: Option<Rank>, members: usize) {
        if let Some(waited) = rank.and_then(|rank| self.waited_for().get(rank)) {
            // Relaxed: in the order of the shard's lock.
            waited.left.fetch_add(members, Ordering::Relaxed);
        }
    }

    /// Returns whether nothing is waited for there any more, unless it is held up.
    fn uncount(&self, rank: Option<Rank>) -> bool {
        let waited = rank.and_then(|rank| self.waited_for().get(rank));
        // Release: pairs with the Acquire loads of the check for an empty position, which then sees it left. SeqCst: either
        // this call finds the held member, or the shutdown finds the member that is left.
        waited.is_some_and(|waited| {
            waited.left.fetch_sub(1, Ordering::SeqCst) <= 1 + waited.held.load(Ordering::SeqCst)
        })
    }

    /// Returns true if a run would be admitted now, if nothing changes.
    pub(crate) fn admits_run(&self, owner: Option<&Owner>) -> bool {
        let admission = self.admission.load(Ordering::Acquire);
        match owner {
            None => admission <= Admission::Runs as u8,
            // While intake stops, a run of an owner that has ended is admitted as a run without an owner.
            Some(_) if admission == Admission::Runs as u8 => true,
            Some(owner) => admission <= Admission::OwnedRuns as u8 && !owner.is_closed(),
        }
    }

    /// Admits a spawned run, or refuses it: during a shutdown, or once its owner has ended.
    pub(crate) fn enter(
        tracker: &LocalArcs<Self>,
        index: usize,
        task: &Arc<Task>,
        stage: usize,
        mut owner: Option<Owner>,
        extras: Option<Box<RunExtras>>,
    ) -> Result<Place, Option<Box<RunExtras>>> {
        let mut shard = tracker.shard(index);
        let admitted = match &owner {
            None => (shard.admission <= Admission::Runs).then_some(false),
            Some(_) if shard.admission > Admission::OwnedRuns => None,
            // Counted under the lock: a call that closes or requests the owner and then visits the shards finds the run.
            Some(held) => match held.owned().enter() {
                // Nobody is to be refused while intake stops.
                None if shard.admission == Admission::Runs => {
                    owner = None;
                    Some(false)
                }
                entered => entered,
            },
        };
        let Some(is_to_stop) = admitted else {
            drop(shard);
            return Err(extras);
        };
        let told = extras.as_ref().filter(|_| is_to_stop).and_then(|extras| extras.token.clone());
        let id = watchdog::member_id(tracker.number, shard.next());
        let slot = shard.members.insert(Member {
            id,
            task: task.clone(),
            abort: None,
            extras,
            owner,
            // There are few stages.
            stage: u8::try_from(stage).unwrap_or(u8::MAX),
            rank: None,
            asking: false,
            outcome: None,
            reported: false,
        });
        drop(shard);
        told.iter().for_each(CancellationToken::cancel);
        Ok(Place { tracker: tracker.of_shard(index), key: slot * SHARDS + index, id })
    }

    /// Sets the abort handle of a run. It may have left already: then this does nothing.
    pub(crate) fn set_abort(&self, (key, id): (usize, MemberId), handle: AbortHandle) {
        let mut shard = self.shard(key);
        let member = shard.members.get_mut(key / SHARDS).filter(|member| member.id == id);
        if let Some(Member { abort, outcome, .. }) = member {
            if outcome.is_some() {
                handle.abort();
            }
            *abort = Some(handle);
        }
    }

    fn leave(&self, key: usize, id: MemberId) {
        let (member, emptied) = {
            let mut shard = self.shard(key);
            let member = match shard.members.get(key / SHARDS) {
                Some(member) if member.id == id => shard.members.remove(key / SHARDS),
                _ => return,
            };
            // Under the shard's lock: the writer of the report finds the member or its record, never both or neither.
            let mut emptied = false;
            if self.is_closed() {
                if !member.reported {
                    let outcome = member.outcome.or(member.outcome_of_held_owner());
                    let outcome = outcome.unwrap_or_else(|| self.by_itself(member.rank_to_report()));
                    let position = self.position_of(&member);
                    note(
                        &mut self.left_lines(),
                        &member.task,
                        member.owner_name(),
                        position,
                        outcome,
                        self.after(),
                    );
                }
                emptied = self.uncount(member.rank().filter(|_| !member.asking));
            }
            (member, emptied)
        };
        // After it was noted: its owner may be the last that the shutdown waits for.
        if let Some(owner) = member.owner.as_ref().filter(|_| !member.asking) {
            if owner.owned().leave() {
                owner.task().into_iter().for_each(|task| task.look());
            }
        }
        // Its last use may be here, and what it held is the user's.
        drop(member);
        if emptied {
            self.left.notify_waiters();
        }
    }

    /// Admits no more than that from now on, and begins to record leaving members.
    pub(crate) fn close(&self, to: Admission) {
        self.close_under((), to);
    }

    /// The same under a lock, which is released before any waiter is woken: its waker may be the user's code.
    pub(crate) fn close_under(&self, held: impl Sized, to: Admission) {
        self.admission.fetch_max(to as u8, Ordering::AcqRel);
        for shard in self.shards.iter() {
            let mut shard = lock(shard);
            shard.admission = shard.admission.max(to);
        }
        drop(held);
        self.limits.look();
    }

    /// Refuses more runs of that owner.
    pub(crate) fn close_owner(&self, owner: &Supervised) {
        owner.place.owned.close();
        self.limits.owner_closed();
    }

    /// Returns true if nothing is alive.
    pub(crate) fn is_idle(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).alive() == 0)
    }

    /// The number of runs and registered tasks that are alive.
    #[cfg(all(feature = "systemd", unix))]
    pub(crate) fn alive(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).alive()).sum()
    }

    /// Returns true if the ordered shutdown has begun: no task is registered any more.
    pub(crate) fn is_closed(&self) -> bool {
        // Acquire: pairs with the Release in `close`.
        self.admission.load(Ordering::Acquire) != Admission::All as u8
    }

    /// Returns true if all tasks are being stopped: the shutdown has begun, and the intake is over.
    pub(crate) fn is_staged(&self) -> bool {
        // Acquire: as in `is_closed`.
        self.admission.load(Ordering::Acquire) >= Admission::OwnedRuns as u8
    }

    /// Gives every member its position, for the shutdown to count. `others` are those positions of drivers that are not the first of a stage, or
    /// that are in the stage of the intake. Called once, after [`Tracker::close`]. Runs that are admitted after it are counted by
    /// [`Tracker::plan_runs`].
    pub(crate) fn plan(
        &self,
        began: Instant,
        others: impl Iterator<Item = Position>,
        of_driver: impl Fn(&Supervised) -> Position,
    ) {
        // A run may come yet, in any stage but that of the intake.
        let mut positions: Vec<Position> =
            (INTAKE_STAGE + 1..STAGES).map(|stage| (stage, 0)).chain(others).collect();
        positions.sort_unstable();
        positions.dedup();
        let waited = |position: &Position| Waited {
            position: *position,
            left: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        };
        let plan = Plan { began, waited_for: positions.iter().map(waited).collect() };
        // Set once, by the one shutdown.
        let _ = self.plan.set(plan);
        // No driver has come since; who has left is not counted. Most are where the one before is.
        let mut before = None;
        let mut rank_of = |position: Position| match before {
            Some((held, rank)) if held == position => Some(rank),
            _ => {
                let rank = positions.binary_search(&position).ok()?;
                before = Some((position, rank));
                Some(rank)
            }
        };
        let mut asking = Vec::new();
        for shard in self.shards.iter() {
            let mut shard = lock(shard);
            let Shard { drivers, notes, .. } = &mut *shard;
            // Each of them leaves one.
            notes.reserve(drivers.len());
            let (mut counted, mut of_rank) = (None, 0);
            for supervised in drivers.iter().flatten() {
                let place = &supervised.place;
                let rank = rank_of(of_driver(supervised));
                // There are no more positions than members.
                let number = rank.map_or(0, |rank| u32::try_from(rank + 1).unwrap_or(u32::MAX));
                place.rank.store(number, Ordering::Relaxed);
                if place.is_asking() {
                    asking.push(supervised.clone());
                    continue;
                }
                if counted != rank {
                    self.count_all(counted, std::mem::take(&mut of_rank));
                    counted = rank;
                }
                of_rank += 1;
            }
            self.count_all(counted, of_rank);
        }
        // A task that has begun to wait for the shutdown is not waited for. Its runs are, as if they had no owner. A task that begins to wait
        // after this walk finds the plan, and does it itself.
        asking.iter().for_each(|asking| self.close_owner(asking));
        self.plan_runs();
    }

    /// Gives a position to the runs that have none, unless their owner waits for them. The owner does not wait if it waits for the shutdown, or
    /// has left without them. Called when the plan is made, and again when admission is closed to runs without an owner.
    pub(crate) fn plan_runs(&self) {
        let stage_of_rank = |waited: &Waited| waited.position;
        self.visit(|member| {
            let is_owned = member
                .owner
                .as_ref()
                .is_some_and(|owner| owner.task().is_none_or(|task| !task.place.is_out()));
            if member.rank.is_none() && !is_owned {
                let position = (usize::from(member.stage), 0);
                let rank = self.waited_for().binary_search_by_key(&position, stage_of_rank).ok();
                member.set_rank(rank);
                member.rank().filter(|_| !member.asking).into_iter().for_each(|rank| self.count(rank));
            }
        });
    }

    /// Returns the number of positions in the stage of the intake: the first ones.
    pub(crate) fn intake_ranks(&self) -> Rank {
        self.waited_for().partition_point(|waited| waited.position.0 == INTAKE_STAGE)
    }

    /// Returns the number of members that are waited for at a position.
    pub(crate) fn left_at(&self, rank: Rank) -> usize {
        // SeqCst: as in `uncount`.
        self.waited_for().get(rank).map_or(0, |waited| waited.left.load(Ordering::SeqCst))
    }

    /// Records that this number of tasks at a position are held for their dependents. From now on each leaving of a task with links completes
    /// [`Tracker::next_leaving`]. So does the last leaving there of a task that is not held.
    pub(crate) fn hold(&self, rank: Rank, held: usize) {
        self.holds.store(true, Ordering::SeqCst);
        if let Some(waited) = self.waited_for().get(rank) {
            waited.held.fetch_add(held, Ordering::SeqCst);
        }
    }

    /// The first position from `from` on in which something is waited for, and in how many there is.
    pub(crate) fn next_rank(&self, from: Rank) -> Option<(Rank, usize)> {
        let mut ranks = (from..self.waited_for().len()).filter(|rank| !self.is_emptied(Some(*rank)));
        let first = ranks.next()?;
        Some((first, ranks.count() + 1))
    }

    /// Returns true if nothing at this position is waited for; `None` for anywhere.
    pub(crate) fn is_emptied(&self, rank: Option<Rank>) -> bool {
        // Acquire: pairs with the Release in `uncount`.
        let is_empty = |waited: &Waited| waited.left.load(Ordering::Acquire) == 0;
        match rank {
            Some(rank) => self.waited_for().get(rank).is_none_or(is_empty),
            None => self.waited_for().iter().all(is_empty),
        }
    }

    /// Returns the number of members that are waited for at any position.
    pub(crate) fn left(&self) -> usize {
        // Acquire: as in `is_emptied`.
        self.waited_for().iter().map(|waited| waited.left.load(Ordering::Acquire)).sum()
    }

    /// Completes the next time that nothing is waited for at a position any more. Enable it before the check.
    pub(crate) fn next_leaving(&self) -> tokio::sync::futures::Notified<'_> {
        self.left.notified()
    }

    /// Wakes the waiters for [`Tracker::next_leaving`].
    pub(crate) fn wake(&self) {
        self.left.notify_waiters();
    }

    /// Positions before this one are over.
    pub(crate) fn over_before(&self, rank: Rank) {
        self.over.store(rank, Ordering::Relaxed); // As in `by_itself`.
    }

    /// Marks a member as waiting for the shutdown itself, or no longer. Returns true if there is such a member.
    pub(crate) fn set_asking(&self, id: MemberId, asking: bool) -> bool {
        let mut shard = self.shard(id as usize);
        let Shard { members, drivers, .. } = &mut *shard;
        let recount = |rank: Option<Rank>| match rank {
            Some(rank) if !asking => self.count(rank),
            rank => drop(self.uncount(rank)),
        };
        let (mut found, mut wake, mut adopts, mut asked) = (false, None, None, None);
        if let Some((_, member)) = members.iter_mut().find(|(_, member)| member.id == id) {
            found = true;
            if std::mem::replace(&mut member.asking, asking) != asking {
                recount(member.rank());
                match &member.owner {
                    Some(owner) if asking => wake = owner.owned().leave().then(|| owner.clone()),
                    Some(owner) => {
                        owner.owned().enter_again();
                        // If it has dropped its other runs, it drops this one, too.
                        wake = Some(owner.clone());
                        if owner.owned().is_asked() {
                            // It was not asked with the others.
                            asked = member.token().cloned();
                        }
                        let has_left = |owner: &Owner| owner.task().is_some_and(|task| task.place.is_out());
                        if member.rank.is_none() && has_left(owner) {
                            // Nobody else waits for it.
                            member.set_rank(member.rank_to_report());
                            member.rank().into_iter().for_each(|rank| self.count(rank));
                        }
                    }
                    None => {}
                }
            }
        } else if let Some(driver) = drivers.iter().flatten().find(|driver| driver.place.id == id) {
            found = true;
            if driver.place.asking.swap(asking, Ordering::Relaxed) != asking {
                recount(driver.place.rank());
                adopts = (asking && self.plan.get().is_some()).then(|| driver.clone());
            }
        }
        drop(shard);
        if let Some(token) = asked {
            token.cancel();
        }
        if let Some(task) = wake.as_ref().and_then(Owner::task) {
            task.look();
        }
        if let Some(driver) = adopts {
            self.adopt(&driver);
        }
        self.left.notify_waiters();
        found
    }

    /// A task has begun to wait for the shutdown, which therefore waits for what the task owns itself, and asks it.
    fn adopt(&self, owner: &Arc<Supervised>) {
        self.close_owner(owner);
        self.plan_runs();
        if let Some(asked) = self.ask_owned(owner) {
            asked.tokens.iter().for_each(CancellationToken::cancel);
        }
    }

    /// Requests the current and later runs of a task to stop. Returns the wakers for the caller to use; `None` if there are no current runs.
    pub(crate) fn ask_owned(&self, owner: &Supervised) -> Option<Asked> {
        if !owner.place.owned.ask() {
            return None;
        }
        let mut asked = Asked::default();
        self.visit(|member| {
            if !member.asking && member.owner.as_ref().is_some_and(|held| held.is(owner)) {
                asked.tokens.extend(member.token().cloned());
                asked.graces.extend(member.grace(self.plain_grace));
            }
        });
        asked.graces.sort_unstable();
        asked.graces.dedup();
        Some(asked)
    }

    /// Drops the runs that a task owns; with a grace, those with that grace.
    pub(crate) fn abort_owned(&self, owner: &Supervised, grace: Option<Duration>) {
        self.visit(|member| {
            let is_meant = grace.is_none() || member.grace(self.plain_grace) == grace;
            if !member.asking && is_meant && member.owner.as_ref().is_some_and(|held| held.is(owner)) {
                member.abort();
            }
        });
    }

    /// Returns true if a member is a run that this task owns.
    pub(crate) fn is_owned_by(&self, id: MemberId, owner: &Supervised) -> bool {
        let shard = self.shard(id as usize);
        let member = shard.members.iter().find(|(_, member)| member.id == id);
        member.is_some_and(|(_, member)| member.owner.as_ref().is_some_and(|held| held.is(owner)))
    }

    /// The spawned runs to ask to stop: those at this position, or one.
    pub(crate) fn to_ask(&self, which: impl Fn(MemberId, Option<Rank>) -> bool) -> Asked {
        let mut asked = Asked::default();
        self.visit(|member| {
            if !member.asking && which(member.id, member.rank()) {
                asked.tokens.extend(member.token().cloned());
                asked.graces.extend(member.grace(self.plain_grace));
            }
        });
        asked.graces.sort_unstable();
        asked.graces.dedup();
        asked
    }

    /// Drops those spawned runs for whose position and grace `which` says so.
    pub(crate) fn abort_runs(&self, which: impl Fn(Option<Rank>, Option<Duration>) -> bool) {
        self.visit(|member| {
            if !member.asking && which(member.rank(), member.grace(self.plain_grace)) {
                member.abort();
            }
        });
    }

    /// Drops every spawned run, except the runs of these tasks.
    pub(crate) fn abort_runs_but_of(&self, owners: &[Arc<Supervised>]) {
        self.visit(|member| {
            let spared = |owner: &Owner| owners.iter().any(|spared| owner.is(spared));
            if !member.asking && !member.owner.as_ref().is_some_and(spared) {
                member.abort();
            }
        });
    }

    fn visit(&self, mut visit: impl FnMut(&mut Member)) {
        for shard in self.shards.iter() {
            lock(shard).members.iter_mut().for_each(|(_, member)| visit(member));
        }
    }

    fn visit_drivers(&self, mut visit: impl FnMut(&Arc<Supervised>)) {
        for shard in self.shards.iter() {
            lock(shard).drivers().for_each(&mut visit);
        }
    }

    /// Visits the registered tasks for which `which` says so, without a lock. A few of each shard are visited in turn. So they are visited
    /// about in the order of their registration, which is that of their memory. Only for a shutdown, when no entry moves.
    pub(crate) fn each_driver(&self, which: impl Fn(&Supervised) -> bool, visit: impl Fn(&Arc<Supervised>)) {
        /// The number of entries of a shard that are visited together: while they are in the processor's cache.
        const TOGETHER: usize = 8;
        let mut together = Vec::with_capacity(SHARDS * TOGETHER);
        for from in (0..).step_by(TOGETHER) {
            let mut is_end = true;
            for shard in self.shards.iter() {
                let shard = lock(shard);
                let rest = shard.drivers.get(from..).unwrap_or_default();
                is_end &= rest.len() <= TOGETHER;
                let entries = rest.iter().take(TOGETHER).flatten();
                together.extend(entries.filter(|driver| which(driver)).cloned());
            }
            together.drain(..).for_each(|driver| visit(&driver));
            if is_end {
                break;
            }
        }
    }

    /// The registered tasks for which `which` says so.
    pub(crate) fn drivers(&self, which: impl Fn(&Supervised) -> bool) -> Vec<Arc<Supervised>> {
        let mut drivers = Vec::new();
        self.visit_drivers(|driver| {
            if which(driver) {
                drivers.push(driver.clone());
            }
        });
        drivers
    }

    /// The registered tasks of this kind.
    pub(crate) fn drivers_of(&self, kind: Kind) -> Vec<Arc<Supervised>> {
        // Relaxed: as where they are written.
        if self.kinds.load(Ordering::Relaxed) & kind as u8 == 0 {
            return Vec::new();
        }
        self.drivers(|driver| kind.has(driver))
    }

    /// The member of that number: its task, and its supervision where it is registered.
    pub(crate) fn member(&self, id: MemberId) -> Option<(Arc<Task>, Option<Arc<Supervised>>)> {
        let shard = self.shard(id as usize);
        if let Some((_, member)) = shard.members.iter().find(|(_, member)| member.id == id) {
            return Some((member.task.clone(), None));
        }
        let driver = shard.drivers().find(|driver| driver.place.id == id)?;
        Some((driver.task.clone(), Some(driver.clone())))
    }

    /// The names alive, by category. Asks every member, of which there may be millions: for the shutdown, which does so anyway.
    pub(crate) fn names(&self) -> Names {
        let mut names = [const { BTreeSet::new() }; TaskCategory::ALL.len()];
        let mut name = |task: &Task| {
            let identity = &task.metered().identity;
            let of_category = &mut names[identity.category as usize];
            if !of_category.contains(&identity.name) {
                of_category.insert(identity.name.clone());
            }
        };
        self.visit(|member| name(&member.task));
        self.visit_drivers(|driver| name(&driver.task));
        names.map(|names| names.into_iter().collect())
    }

    /// Returns the lines of the report: the members that left since [`Tracker::close`], and the leaked members, which are still here. Returns
    /// beside them the names of the tasks that wait for the report.
    ///
    /// `lost` are tasks that were dropped with their runtime before the shutdown.
    pub(crate) fn report(&self, lost: &[Arc<Supervised>]) -> (Vec<ShutdownEntry>, Vec<Arc<str>>) {
        const LEAKED: ShutdownOutcome = ShutdownOutcome::Leaked;
        let mut leaked = Vec::new();
        let mut asking = Vec::new();
        let of_lost = |lost: &Arc<Supervised>| {
            let position = (stage_of_task(lost), 0);
            line_of_driver(&lost.task, position, ShutdownOutcome::Aborted, Duration::ZERO)
        };
        let noted: usize = self.shards.iter().map(|shard| lock(shard).notes.len()).sum();
        let mut of_drivers = Vec::with_capacity(noted + lost.len());
        of_drivers.extend(lost.iter().map(of_lost));
        let after = self.after();
        for shard in self.shards.iter() {
            // Under one lock: found or noted, as in `leave`.
            let mut shard = lock(shard);
            // They stay: a second call returns the same.
            of_drivers.extend(shard.notes.iter().map(Note::line));
            for (_, member) in shard.members.iter_mut() {
                member.reported = true;
                if member.asking {
                    asking.push(member.task.identity.name.clone());
                } else {
                    leaked.push((member.task.clone(), member.owner_name(), self.position_of(member)));
                }
            }
            for driver in shard.drivers() {
                let (task, place) = (&driver.task, &driver.place);
                place.reported.store(true, Ordering::Relaxed);
                if place.is_asking() {
                    asking.push(task.identity.name.clone());
                } else {
                    let position = self.position(place.rank(), stage_of_task(driver));
                    // One whose life is over waits for work of its own that leaked.
                    let outlives = !driver.is_up() && place.owned.is_closed() && !place.owned.is_empty();
                    let ended = || place.outcome().unwrap_or_else(|| self.by_itself(place.rank()));
                    let outcome = if outlives { ended() } else { LEAKED };
                    of_drivers.push(line_of_driver(task, position, outcome, after));
                }
            }
        }
        let mut lines = self.left_lines().clone();
        for (task, owner, position) in leaked {
            note(&mut lines, &task, owner, position, LEAKED, after);
        }
        asking.sort_unstable();
        asking.dedup();
        (all_lines(lines, of_drivers), asking)
    }
}

#[cfg(all(test, otel_tasks_loom))]
mod loom;
