//! The current poll of each thread, written for the watchdog.
//!
//! A poll costs its thread a thread-local and two or three plain stores: no clock, no lock, no count of references. Only the reader
//! measures time: it checks from tick to tick if it is still the same poll.
//!
//! Invariants:
//! 1. A slot is written by the thread that holds it, and by no other; it changes hands under the lock of [`SLOTS`]. What is
//!    seen of it is written by the watchdog alone.
//! 2. `sequence` is odd exactly during a poll, and only ever grows, also from one holder to the next. With the slot's
//!    number it names one poll of the process.
//! 3. A poll that begins inside another one changes `id` alone. So the innermost shows, and the outer one makes no progress.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use crate::sync::atomic::{AtomicU64, Ordering};

/// The id of a member (spawned run or driver) of a manager, unique in the process. The high 24 bits are the manager's number,
/// the low 40 the member's.
pub(crate) type MemberId = u64;

const MEMBER_BITS: u32 = 40;
/// The number of managers with distinct ids.
pub(super) const MANAGERS: u64 = 1 << (u64::BITS - MEMBER_BITS);
/// Of a poll's identity, the rest being the slot's number: 2^20 threads at once are more than a kernel gives.
const SEQUENCE_BITS: u32 = 44;

/// The id of a manager's member. Numbers past the bits they have wrap. A member has the id of an earlier one after at
/// least 2^36 runs of one thread.
pub(crate) fn member_id(manager: u64, member: u64) -> MemberId {
    manager << MEMBER_BITS | member & ((1 << MEMBER_BITS) - 1)
}

/// The manager's number in a member's id.
pub(crate) fn manager_of(id: MemberId) -> u64 {
    id >> MEMBER_BITS
}

/// A thread's place. Alone on its cache lines (two, since processors fetch them in pairs), so that threads that poll do not
/// take them from each other.
#[repr(align(128))]
struct Slot {
    sequence: AtomicU64,
    id: AtomicU64,
    /// Written by the watchdog: the sequence of the last poll that it has seen here, at first none, and since when ([`moment`]).
    seen: AtomicU64,
    seen_since: AtomicU64,
}

impl Slot {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self { sequence: zero(), id: zero(), seen: AtomicU64::new(u64::MAX), seen_since: zero() }
    }

    /// Begins a poll. Returns the id of the poll around it, if there is one.
    #[inline]
    fn enter(&self, id: MemberId) -> Option<MemberId> {
        let outer = self.here();
        // Release: pairs with the Acquire load of `id` in `read`. A reader of this id also sees the end of the poll
        // before, which this thread stored earlier; so it cannot take this id for that poll's.
        self.id.store(id, Ordering::Release);
        if outer.is_none() {
            // Relaxed: our own store.
            let sequence = self.sequence.load(Ordering::Relaxed);
            // Release: pairs with the first load in `read`. A reader of this sequence sees the poll's id, or a later one.
            self.sequence.store(sequence + 1, Ordering::Release);
        }
        outer
    }

    /// Ends the innermost poll.
    #[inline]
    fn leave(&self, outer: Option<MemberId>) {
        match outer {
            // Release: as in `enter`.
            Some(outer) => self.id.store(outer, Ordering::Release),
            None => {
                // Both relaxed: our own store, and a store that publishes nothing. It comes before the next id, whose Release
                // carries it.
                let sequence = self.sequence.load(Ordering::Relaxed);
                self.sequence.store(sequence + 1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the polled member, for the thread that holds the slot.
    #[inline]
    fn here(&self) -> Option<MemberId> {
        // Both relaxed: our own stores.
        let polling = self.sequence.load(Ordering::Relaxed) % 2 == 1;
        polling.then(|| self.id.load(Ordering::Relaxed))
    }

    /// Records that a poll continues. Only the watchdog calls it.
    fn see(&self, sequence: u64, now: u64) {
        // Relaxed: our own store.
        if self.seen.load(Ordering::Relaxed) != sequence {
            self.seen_since.store(now, Ordering::Relaxed);
            // Release: pairs with the load in `seen_since`.
            self.seen.store(sequence, Ordering::Release);
        }
    }

    /// Returns the time at which the watchdog first saw the current poll, for the thread that holds the slot. `None` if the poll
    /// is younger than the last tick.
    #[inline]
    fn seen_since(&self) -> Option<u64> {
        // Relaxed: our own store.
        let sequence = self.sequence.load(Ordering::Relaxed);
        // Acquire: pairs with the Release store in `see`. The moment is this poll's: a later one, whose moment might have
        // been stored already, has not begun. Only the sequence of a poll is stored, which is odd.
        let seen = self.seen.load(Ordering::Acquire) == sequence;
        seen.then(|| self.seen_since.load(Ordering::Relaxed))
    }

    /// Returns the poll's sequence and the innermost id, for any thread. `None` also if the poll ends during this call, because such a
    /// poll is not stuck.
    fn read(&self) -> Option<(u64, MemberId)> {
        // Acquire: pairs with the Release store of `sequence` in `enter`, so the id is not of an earlier poll.
        let sequence = self.sequence.load(Ordering::Acquire);
        if sequence % 2 == 0 {
            return None;
        }
        // Acquire: pairs with the Release stores of `id`. If this is the id of a later poll, that this poll has ended
        // happened before, and the load below cannot miss it. Relaxed suffices there: nothing is read after it.
        let id = self.id.load(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == sequence).then_some((sequence, id))
    }
}

/// Every slot of the process; a slot whose thread has ended waits for the next thread. Slots are never freed. So a thread
/// finds its own by a bare reference, without a count and without a check. There are as many as
/// there were threads at one time.
static SLOTS: Mutex<Slots> = Mutex::new(Slots { held: Vec::new(), free: Vec::new() });

struct Slots {
    /// By the slots' numbers: the slot, and the thread that holds it.
    held: Vec<(&'static Slot, Option<Arc<str>>)>,
    free: Vec<usize>,
}

fn slots() -> MutexGuard<'static, Slots> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This thread's slot. Apart from [`HOLDER`], because a thread-local without a destructor is read without a check.
    static HERE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    static HOLDER: Holder = Holder::new();
}

/// A thread's hold on its slot, given back when the thread ends.
struct Holder {
    slot: &'static Slot,
    number: usize,
}

impl Holder {
    fn new() -> Self {
        let thread = std::thread::current();
        // Both, since tokio's workers all have one name; the id is as `tracing-subscriber` prints it.
        let name: Arc<str> = match thread.name() {
            Some(name) => format!("{name} {:?}", thread.id()).into(),
            None => format!("{:?}", thread.id()).into(),
        };
        let mut slots = slots();
        let number = slots.free.pop().unwrap_or_else(|| {
            slots.held.push((Box::leak(Box::new(Slot::new())), None));
            slots.held.len() - 1
        });
        let (slot, holder) = &mut slots.held[number];
        *holder = Some(name);
        Self { slot, number }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = HERE.try_with(|here| here.set(None));
        // A guard that was leaked must not leave its poll to the next thread.
        if self.slot.here().is_some() {
            self.slot.leave(None);
        }
        let mut slots = slots();
        slots.held[self.number].1 = None;
        slots.free.push(self.number);
    }
}

/// The mark of a poll, until this is dropped. Not `Send`: it belongs to the thread's stack.
#[must_use = "the poll is seen only until this is dropped"]
pub(crate) struct Polling {
    slot: Option<&'static Slot>,
    outer: Option<MemberId>,
    on_this_thread: PhantomData<*const ()>,
}

impl Drop for Polling {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.leave(self.outer);
        }
    }
}

/// Enters this thread's slot: until the guard is dropped, the watchdog sees that `id` is being polled here. Inside another
/// poll this id shows until then, and the time of the outer poll continues. Guards must be dropped in reverse order, as values
/// on a stack are.
#[inline]
pub(crate) fn polling(id: MemberId) -> Polling {
    let slot = HERE.try_with(Cell::get).ok().flatten().or_else(take_slot);
    Polling { slot, outer: slot.and_then(|slot| slot.enter(id)), on_this_thread: PhantomData }
}

/// `None` where the thread is ending and has given its slot back: what is polled by a destructor then is not watched.
#[cold]
fn take_slot() -> Option<&'static Slot> {
    let slot = HOLDER.try_with(|holder| holder.slot).ok()?;
    let _ = HERE.try_with(|here| here.set(Some(slot)));
    Some(slot)
}

/// The member being polled on this thread (the innermost), or that blocks it, if any.
pub(crate) fn polled_here() -> Option<MemberId> {
    let polled = HERE.try_with(Cell::get).ok().flatten().and_then(Slot::here);
    polled.or_else(|| BLOCKING.try_with(Cell::get).ok().flatten())
}

thread_local! {
    /// The member whose blocking work runs on this thread. It is to block, so the watchdog does not watch it.
    static BLOCKING: Cell<Option<MemberId>> = const { Cell::new(None) };
}

/// Does the blocking work of a member. `work` must not unwind.
pub(crate) fn block_for<R>(member: MemberId, work: impl FnOnce() -> R) -> R {
    BLOCKING.set(Some(member));
    let result = work();
    BLOCKING.set(None);
    result
}

/// Returns the time for which the watchdog has seen the current poll of this thread: less than its real time by at most a tick. `None`
/// if the watchdog has not seen it, as for almost every poll.
#[inline]
pub(crate) fn seen_for() -> Option<Duration> {
    let since = HERE.try_with(Cell::get).ok().flatten().and_then(Slot::seen_since)?;
    Some(Duration::from_nanos(moment(Instant::now()).saturating_sub(since)))
}

/// Nanoseconds since this was first asked.
fn moment(instant: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let since = instant.saturating_duration_since(*FIRST.get_or_init(|| instant));
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A poll that the watchdog found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Polled {
    pub(super) id: MemberId,
    /// The slot's number and the sequence.
    pub(super) poll: u64,
    pub(super) thread: Arc<str>,
}

/// Returns the current polls of all threads, and marks each of them as seen.
pub(super) fn polled() -> Vec<Polled> {
    let now = moment(Instant::now());
    let slots = slots();
    let held = slots.held.iter().zip(0_u64..);
    held.filter_map(|((slot, holder), number)| {
        let thread = holder.as_ref()?;
        let (sequence, id) = slot.read()?;
        slot.see(sequence, now);
        Some(Polled { id, poll: poll_of(number, sequence), thread: thread.clone() })
    })
    .collect()
}

/// A poll's identity.
fn poll_of(slot: u64, sequence: u64) -> u64 {
    slot << SEQUENCE_BITS | sequence & ((1 << SEQUENCE_BITS) - 1)
}

#[cfg(test)]
mod tests;

/// Seen to fail if the store of `id` in `enter`, or its load in `read`, is relaxed, and if `read` does not load twice.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    #[test]
    fn a_poll_is_never_read_with_the_id_of_another() {
        const INNER: u64 = 1 << 63;
        model(3, || {
            let slot = Arc::new(Slot::new());
            // The reader is the spawned thread. Loom begins with the spawning thread, and a reader that ends
            // before the writer begins has nothing to try.
            let reads = {
                let slot = slot.clone();
                thread::spawn(move || {
                    if let Some((sequence, id)) = slot.read() {
                        assert_eq!((sequence - 1) / 2, id & !INNER);
                    }
                })
            };
            for number in 0..3 {
                let outer = slot.enter(number);
                if number == 1 {
                    let inner = slot.enter(number | INNER);
                    slot.leave(inner);
                }
                slot.leave(outer);
            }
            reads.join().expect("no panic");
        });
    }
}
