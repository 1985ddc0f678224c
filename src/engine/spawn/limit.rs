//! Limits on the number of concurrent runs of a name: the rooms in use, and the queue of reservations.
//!
//! Invariants:
//! 1. Room is taken under the lock of [`State`], and only while less is taken than the limit permits. So a lower limit applies to all later
//!    reservations, and does not change the rooms that are in use.
//! 2. One waiter has the turn, and it alone waits for room. The turn moves in the order of arrival. No reservation takes room past the
//!    waiters.
//! 3. A change is made first, and then notified, if it may let the waiter with the turn continue. Such a change frees room, changes the
//!    limit or closes admission. [`Notify::notify_one`] keeps a notification that comes between the waiter's check and its wait.
//! 4. No code of the user is called, and no value of the user dropped, under a lock.
//!
//! The semaphore has one permit, the turn, and not one for each room. A permit that was promised to a waiter cannot be taken back, so
//! a lower limit would not apply at once.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Weak},
};

use tokio::sync::{Notify, Semaphore};

use crate::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering::SeqCst},
    lock,
};

/// The limit of one name.
#[derive(Debug)]
pub(crate) struct Limit {
    state: Mutex<State>,
    turn: Semaphore,
    changed: Notify,
    /// Wakes the waiters for the turn: some may be refused now.
    closed: Notify,
}

#[derive(Debug)]
struct State {
    max: usize,
    held: usize,
    waiting: usize,
}

/// Room for one run. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Room(Arc<Limit>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.state().held -= 1;
        self.0.look();
    }
}

impl Limit {
    fn new(max: usize) -> Arc<Self> {
        let state = Mutex::new(State { max, held: 0, waiting: 0 });
        Arc::new(Self { state, turn: Semaphore::new(1), changed: Notify::new(), closed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn set_max(&self, max: usize) {
        self.state().max = max;
        self.look();
    }

    /// Wakes the waiter with the turn, to check again.
    fn look(&self) {
        self.changed.notify_one();
    }

    /// Returns the number of free rooms.
    pub(crate) fn available(&self) -> usize {
        let state = self.state();
        state.max.saturating_sub(state.held)
    }

    /// Takes room, if there is some and nobody waits for it.
    pub(crate) fn try_room(self: &Arc<Self>) -> Option<Room> {
        let mut state = self.state();
        let is_free = state.waiting == 0 && state.held < state.max;
        is_free.then(|| {
            state.held += 1;
            Room(self.clone())
        })
    }

    /// Waits for room, behind earlier waiters. `None` once `is_refused`.
    ///
    /// Cancel safe: who stops waiting leaves the turn to the next.
    pub(crate) async fn room(self: &Arc<Self>, is_refused: impl Fn() -> bool) -> Option<Room> {
        let waiting = Waiting::of(self);
        let mut turn = pin!(self.turn.acquire());
        // Never closed.
        let _turn = loop {
            let mut closed = pin!(self.closed.notified());
            // Enabled before the check: a wake-up between the check and the wait is kept.
            closed.as_mut().enable();
            if is_refused() {
                return None;
            }
            tokio::select! {
                biased;
                turn = &mut turn => break turn.ok()?,
                () = closed => {}
            }
        };
        loop {
            if is_refused() {
                return None;
            }
            if let Some(room) = waiting.take() {
                return Some(room);
            }
            self.changed.notified().await;
        }
    }
}

/// A counted waiter.
struct Waiting<'a>(&'a Arc<Limit>);

impl<'a> Waiting<'a> {
    fn of(limit: &'a Arc<Limit>) -> Self {
        limit.state().waiting += 1;
        Self(limit)
    }

    fn take(&self) -> Option<Room> {
        let mut state = self.0.state();
        (state.held < state.max).then(|| {
            state.held += 1;
            Room(self.0.clone())
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

/// The limits of one manager, by name. Unused limits are forgotten when there are twice as many as before.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    by_name: Mutex<ByName>,
    /// True once there has been a limit. SeqCst: see [`Limits::owner_closed`].
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct ByName {
    limits: HashMap<Box<str>, Weak<Limit>>,
    /// The number of limits at which the unused are removed.
    enough: usize,
}

impl Limits {
    const FEW: usize = 16;

    fn by_name(&self) -> MutexGuard<'_, ByName> {
        lock(&self.by_name)
    }

    /// The limit of that name, which is `max` from now on.
    pub(crate) fn of(&self, name: &str, max: usize) -> Arc<Limit> {
        let mut by_name = self.by_name();
        if let Some(limit) = by_name.limits.get(name).and_then(Weak::upgrade) {
            drop(by_name);
            limit.set_max(max);
            return limit;
        }
        if by_name.limits.len() >= by_name.enough.max(Self::FEW) {
            by_name.limits.retain(|_, limit| limit.strong_count() > 0);
            by_name.enough = 2 * by_name.limits.len();
        }
        let limit = Limit::new(max);
        self.any.store(true, SeqCst);
        by_name.limits.insert(name.into(), Arc::downgrade(&limit));
        limit
    }

    /// Returns a limit without a manager, which is gone.
    pub(crate) fn alone(max: usize) -> Arc<Limit> {
        Limit::new(max)
    }

    /// An owner refuses more runs: wakes all waiters. Takes no lock if there has been no limit. The first waiter for a later limit
    /// finds that the owner was closed before.
    pub(crate) fn owner_closed(&self) {
        if self.any.load(SeqCst) {
            self.look();
        }
    }

    /// Wakes all waiters, to check again: some may be refused now.
    pub(crate) fn look(&self) {
        let limits: Vec<_> = self.by_name().limits.values().filter_map(Weak::upgrade).collect();
        limits.iter().for_each(|limit| {
            limit.look();
            limit.closed.notify_waiters();
        });
    }
}

/// Each of these changes was seen to fail the named models:
///
/// - If `owner_closed` wakes no waiter, both fail.
/// - If `of` does not set `any`, both fail.
/// - If `look` does not wake the waiters for the turn, the first fails.
/// - If `room` checks before it can be woken, the first fails.
/// - If `look` does not wake the waiter with the turn, the second fails.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::{
        pin::Pin,
        sync::atomic::AtomicBool as Flag,
        task::{Context, Poll, Wake, Waker},
    };

    use ::loom::thread;

    use super::*;
    use crate::sync::{atomic::fence, model};

    #[derive(Default)]
    struct Woken(Flag);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    struct Waiter {
        room: Pin<Box<dyn Future<Output = Option<Room>>>>,
        woken: Arc<Woken>,
        is_refused: bool,
    }

    impl Waiter {
        /// A waiter that has checked once.
        fn of(limit: &Arc<Limit>, closed: &Arc<AtomicBool>) -> Self {
            let (limit, closed) = (limit.clone(), closed.clone());
            let room = Box::pin(async move { limit.room(|| is_closed(&closed)).await });
            let woken = Arc::new(Woken(Flag::new(true)));
            let mut waiter = Self { room, woken, is_refused: false };
            waiter.is_refused();
            waiter
        }

        /// Polls it if it was woken. Returns true if it has been refused.
        fn is_refused(&mut self) -> bool {
            if !self.is_refused && self.woken.0.swap(false, SeqCst) {
                let waker = Waker::from(self.woken.clone());
                if let Poll::Ready(room) = self.room.as_mut().poll(&mut Context::from_waker(&waker)) {
                    assert!(room.is_none(), "there is no room");
                    self.is_refused = true;
                }
            }
            self.is_refused
        }
    }

    /// loom takes an access with SeqCst for acquire and release. The fences order the accesses of two atomics.
    fn is_closed(closed: &AtomicBool) -> bool {
        fence(SeqCst);
        closed.load(SeqCst)
    }

    fn close(closed: &AtomicBool, limits: &Limits) {
        closed.store(true, SeqCst);
        fence(SeqCst);
        limits.owner_closed();
    }

    #[test]
    fn waiter_behind_that_of_another_owner_is_refused_when_its_owner_closes() {
        model(3, || {
            let (limits, closed) = (Arc::new(Limits::default()), Arc::new(AtomicBool::new(false)));
            let limit = limits.of("name", 1);
            let held = limit.try_room().expect("room");
            let mut first = Waiter::of(&limit, &Arc::new(AtomicBool::new(false)));
            let closes = {
                let (limits, closed) = (limits.clone(), closed.clone());
                thread::spawn(move || close(&closed, &limits))
            };
            let mut second = Waiter::of(&limit, &closed);
            closes.join().expect("no panic");
            assert!(second.is_refused());
            assert!(!first.is_refused(), "it waits on");
            drop(held);
        });
    }

    #[test]
    fn first_waiter_for_a_limit_made_while_its_owner_closes_is_refused() {
        model(3, || {
            let (limits, closed) = (Arc::new(Limits::default()), Arc::new(AtomicBool::new(false)));
            let closes = {
                let (limits, closed) = (limits.clone(), closed.clone());
                thread::spawn(move || close(&closed, &limits))
            };
            let limit = limits.of("name", 1);
            let held = limit.try_room().expect("room");
            let mut waiter = Waiter::of(&limit, &closed);
            closes.join().expect("no panic");
            assert!(waiter.is_refused());
            drop(held);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        collections::VecDeque,
        pin::Pin,
        task::{Context, Poll, Wake, Waker},
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Reserve,
        TryReserve,
        /// Gives back the room of a run.
        GiveBack(usize),
        /// A waiter gives up.
        GiveUp(usize),
        SetLimit(usize),
        Close,
        /// The woken waiters are polled.
        Poll,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Reserve),
            2 => Just(Step::TryReserve),
            5 => (0..8_usize).prop_map(Step::GiveBack),
            2 => (0..8_usize).prop_map(Step::GiveUp),
            2 => (1..5_usize).prop_map(Step::SetLimit),
            1 => Just(Step::Close),
            6 => Just(Step::Poll),
        ];
        prop::collection::vec(step, 0..60)
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    struct Waiter<'a> {
        future: Pin<Box<dyn Future<Output = Option<Room>> + 'a>>,
        woken: Arc<Woken>,
    }

    impl Waiter<'_> {
        fn poll(&mut self) -> Poll<Option<Room>> {
            self.woken.0.store(false, SeqCst);
            let waker = Waker::from(self.woken.clone());
            self.future.as_mut().poll(&mut Context::from_waker(&waker))
        }
    }

    /// Polls the woken waiters until none is left. Only the first waiter may get room, while there is some.
    fn poll_woken(
        waiters: &mut VecDeque<Waiter<'_>>,
        held: &mut Vec<Room>,
        max: usize,
        closed: bool,
    ) -> Result<(), TestCaseError> {
        while let Some(at) = waiters.iter().position(|waiter| waiter.woken.0.load(SeqCst)) {
            let Poll::Ready(room) = waiters[at].poll() else { continue };
            prop_assert!(at == 0 || room.is_none(), "in the order in which they came");
            prop_assert_eq!(room.is_none(), closed);
            waiters.remove(at);
            if let Some(room) = room {
                prop_assert!(held.len() < max);
                held.push(room);
            }
        }
        Ok(())
    }

    proptest! {
        /// Seen to fail if any caller does not call `look`, and if a newcomer may take room past the waiters.
        #[test]
        fn room_goes_to_the_first_that_waits_and_never_beyond_the_limit(steps in steps()) {
            let limits = Limits::default();
            let limit = limits.of("name", 2);
            let (mut max, closed) = (2, Cell::new(false));
            let mut held = Vec::new();
            let mut waiters = VecDeque::new();
            for step in steps {
                match step {
                    Step::Reserve => {
                        let future = Box::pin(limit.room(|| closed.get()));
                        let mut waiter = Waiter { future, woken: Arc::default() };
                        match waiter.poll() {
                            Poll::Pending => waiters.push_back(waiter),
                            Poll::Ready(None) => prop_assert!(closed.get()),
                            Poll::Ready(Some(room)) => {
                                prop_assert!(waiters.is_empty() && held.len() < max && !closed.get());
                                held.push(room);
                            }
                        }
                    }
                    Step::TryReserve => {
                        let room = limit.try_room();
                        prop_assert_eq!(room.is_some(), waiters.is_empty() && held.len() < max);
                        held.extend(room);
                    }
                    Step::GiveBack(at) if at < held.len() => drop(held.swap_remove(at)),
                    Step::GiveUp(at) if at < waiters.len() => drop(waiters.remove(at)),
                    Step::GiveBack(_) | Step::GiveUp(_) => {}
                    Step::SetLimit(to) => {
                        max = to;
                        prop_assert!(Arc::ptr_eq(&limits.of("name", to), &limit));
                    }
                    Step::Close => {
                        closed.set(true);
                        limits.look();
                    }
                    Step::Poll => poll_woken(&mut waiters, &mut held, max, closed.get())?,
                }
                prop_assert_eq!(limit.available(), max.saturating_sub(held.len()));
            }
            poll_woken(&mut waiters, &mut held, max, closed.get())?;
            prop_assert!(waiters.is_empty() || !closed.get() && held.len() >= max, "somebody waits in vain");
            held.clear();
            poll_woken(&mut waiters, &mut held, max, closed.get())?;
            held.clear();
        }
    }

    #[test]
    fn a_limit_that_nobody_uses_is_forgotten() {
        let limits = Limits::default();
        let kept = limits.of("kept", 3);
        for name in 0..10_000 {
            drop(limits.of(&name.to_string(), 1));
        }
        assert!(limits.by_name().limits.len() <= 2 * Limits::FEW);
        assert!(Arc::ptr_eq(&limits.of("kept", 1), &kept));
        assert_eq!(kept.available(), 1);
    }
}
