//! The stop request of a life, and the wait for it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use slab::Slab;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// The stop request of a life. The token is created on demand: most tasks only wait.
#[derive(Default)]
pub(crate) struct Stop {
    asked: AtomicBool,
    /// True if the life has seen that it is to stop, before its driver has asked.
    early: AtomicBool,
    waiters: Mutex<Waiters>,
    token: OnceLock<CancellationToken>,
}

/// The wakers of the futures that wait for the request. There is nearly always one.
enum Waiters {
    /// Its key is 0.
    One(Waker),
    More(Option<Box<Slab<Waker>>>),
}

impl Default for Waiters {
    fn default() -> Self {
        Self::More(None)
    }
}

impl Waiters {
    /// Adds a waker, and returns its key.
    fn insert(&mut self, waker: Waker) -> usize {
        match std::mem::take(self) {
            Self::More(None) => {
                *self = Self::One(waker);
                0
            }
            Self::One(first) => {
                let mut more = Box::new(Slab::with_capacity(2));
                more.insert(first);
                let key = more.insert(waker);
                *self = Self::More(Some(more));
                key
            }
            Self::More(Some(mut more)) => {
                let key = more.insert(waker);
                *self = Self::More(Some(more));
                key
            }
        }
    }

    fn get_mut(&mut self, key: usize) -> Option<&mut Waker> {
        match self {
            Self::One(waker) => Some(waker),
            Self::More(more) => more.as_mut()?.get_mut(key),
        }
    }

    fn remove(&mut self, key: usize) -> Option<Waker> {
        match self {
            Self::One(_) => match std::mem::take(self) {
                Self::One(waker) => Some(waker),
                Self::More(_) => None,
            },
            Self::More(more) => more.as_mut()?.try_remove(key),
        }
    }
}

impl Stop {
    /// Returns a stop request that a token makes.
    pub(super) fn of(token: CancellationToken) -> Self {
        Self { token: token.into(), ..Self::default() }
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all that wait. No future waits here any more: each of them finds the request or the token.
    fn wake_all(&self) {
        // The wakers may be the user's: they are called without the lock.
        let waiters = std::mem::take(&mut *self.waiters());
        match waiters {
            Waiters::One(waker) => waker.wake(),
            Waiters::More(more) => {
                more.into_iter().flat_map(|more| *more).for_each(|(_, waker)| waker.wake())
            }
        }
    }

    pub(super) fn ask(&self) {
        // The lock of the waiters orders the request and the token: either this call finds the token, or `token` finds the request.
        self.asked.store(true, SeqCst);
        self.wake_all();
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(SeqCst)
            || self.early.load(SeqCst)
            || self.token.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// The life has seen that it is to stop.
    pub(super) fn is_seen(&self) {
        self.early.store(true, SeqCst);
    }

    /// Returns true if the life may have seen that it is to stop, before its driver has requested it.
    pub(super) fn was_early(&self) -> bool {
        self.is_asked() && !self.asked.load(SeqCst)
    }

    /// Returns the token, if somebody has asked for it.
    pub(super) fn held_token(&self) -> Option<&CancellationToken> {
        self.token.get()
    }

    pub(super) fn token(&self) -> &CancellationToken {
        self.token.get().unwrap_or_else(|| {
            let token = self.token.get_or_init(CancellationToken::new);
            // Earlier waiters wait for the token from now on, because its holder can cancel it.
            self.wake_all();
            if self.asked.load(SeqCst) {
                token.cancel();
            }
            token
        })
    }
}

/// A wait for the request of one life.
#[derive(Default)]
pub(super) enum Wait<'a> {
    #[default]
    New,
    /// Its waker has this key.
    Waits(usize),
    /// Boxed, because it is rare and large: otherwise every task's future would have its size.
    ForToken(Pin<Box<WaitForCancellationFuture<'a>>>),
}

impl<'a> Wait<'a> {
    pub(super) fn poll(&mut self, stop: &'a Stop, cx: &mut Context<'_>) -> Poll<()> {
        // Cloned without the lock, because the waker may be the user's.
        let mut waker = None;
        loop {
            if let Self::ForToken(cancelled) = self {
                return cancelled.as_mut().poll(cx);
            }
            let mut waiters = stop.waiters();
            // Under the lock: a request or a token that comes later finds the waker.
            if stop.is_asked() {
                return Poll::Ready(());
            }
            if let Some(token) = stop.token.get() {
                drop(waiters);
                *self = Self::ForToken(Box::pin(token.cancelled()));
                continue;
            }
            let held = match self {
                Self::Waits(key) => waiters.get_mut(*key),
                _ => None,
            };
            if held.as_ref().is_some_and(|held| held.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            let Some(waker) = waker.take() else {
                drop(waiters);
                waker = Some(cx.waker().clone());
                continue;
            };
            let before = match held {
                Some(held) => Some(std::mem::replace(held, waker)),
                None => {
                    *self = Self::Waits(waiters.insert(waker));
                    None
                }
            };
            drop(waiters);
            drop(before);
            return Poll::Pending;
        }
    }

    /// Waits no more.
    pub(super) fn leave(&mut self, stop: &Stop) {
        if let Self::Waits(key) = *self {
            let waker = stop.waiters().remove(key);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A wait as the user's future holds it.
    struct Waiting<'a>(&'a Stop, Wait<'a>);

    impl Future for Waiting<'_> {
        type Output = ();

        fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            let this = self.get_mut();
            this.1.poll(this.0, cx)
        }
    }

    impl Drop for Waiting<'_> {
        fn drop(&mut self) {
            self.1.leave(self.0);
        }
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    /// A wait with a waker of its own.
    struct Waiter<'a>(Waiting<'a>, Arc<Flag>);

    impl Waiter<'_> {
        fn poll(&mut self) -> Poll<()> {
            Pin::new(&mut self.0).poll(&mut Context::from_waker(&self.1.clone().into()))
        }

        /// Returns true if it was woken since the last call.
        fn is_woken(&self) -> bool {
            self.1.0.swap(false, SeqCst)
        }
    }

    fn waiting(stop: &Stop) -> Waiter<'_> {
        Waiter(Waiting(stop, Wait::New), Arc::default())
    }

    #[test]
    fn each_waiter_is_woken_once() {
        let stop = Stop::default();
        let mut waiters = [waiting(&stop), waiting(&stop), waiting(&stop)];
        for waiter in &mut waiters {
            assert!(waiter.poll().is_pending() && waiter.poll().is_pending());
        }
        stop.ask();
        for waiter in &mut waiters {
            assert!(waiter.is_woken() && waiter.poll().is_ready());
        }
    }

    #[test]
    fn a_dropped_waiter_takes_its_own_waker_along() {
        let stop = Stop::default();
        for dropped in 0..3 {
            let mut waiters = vec![waiting(&stop), waiting(&stop), waiting(&stop)];
            waiters.iter_mut().for_each(|waiter| assert!(waiter.poll().is_pending()));
            drop(waiters.remove(dropped));
            waiters.push(waiting(&stop));
            assert!(waiters[2].poll().is_pending());
            let kept = |stop: &Stop| match &*stop.waiters() {
                Waiters::One(_) => 1,
                Waiters::More(more) => more.as_ref().map_or(0, |more| more.len()),
            };
            assert_eq!(kept(&stop), 3);
            drop(waiters);
            assert_eq!(kept(&stop), 0);
        }
    }

    #[test]
    fn a_token_that_is_made_later_ends_an_earlier_wait() {
        let stop = Stop::default();
        let (mut first, mut second) = (waiting(&stop), waiting(&stop));
        assert!(first.poll().is_pending() && second.poll().is_pending());
        let token = stop.token();
        assert!(first.is_woken() && first.poll().is_pending() && second.poll().is_pending());
        token.cancel();
        assert!(first.is_woken() && first.poll().is_ready() && second.poll().is_ready());
    }

    #[test]
    fn a_token_that_is_made_after_the_request_is_cancelled() {
        let stop = Stop::default();
        stop.ask();
        assert!(stop.token().is_cancelled());
    }

    /// Of threads that race: the request, and a waiter or a token.
    #[test]
    fn a_request_at_the_same_time_is_seen() {
        for _ in 0..1_000 {
            let stop = Stop::default();
            std::thread::scope(|scope| {
                scope.spawn(|| stop.ask());
                let mut waiter = waiting(&stop);
                let ready = waiter.poll().is_ready();
                let token = stop.token().clone();
                while !ready && !waiter.is_woken() {
                    std::thread::yield_now();
                }
                while !token.is_cancelled() {
                    std::thread::yield_now();
                }
            });
        }
    }
}
