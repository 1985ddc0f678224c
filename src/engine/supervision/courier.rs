//! Carries a person's orders past the runtime's queue.
//!
//! A wake-up from outside of a multi-thread runtime waits in the queue behind all others. If a thousand tasks fail
//! at once, that takes long. A wake-up on a worker is handled next. So if the queue is not empty, the wake-up is
//! left here as an errand. The next driver that has been polled performs it on a worker, or a messenger does. A messenger is a task that
//! is spawned for it and waits in the queue as the wake-up would have.
//!
//! Invariants:
//! 1. The first errand sends a messenger, which continues until none is left. So each errand is performed, once.
//! 2. A driver performs an errand after its poll, never before. No other worker can take the task that it wakes, and a
//!    user's poll may block.

use std::{collections::VecDeque, sync::Arc, task};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    engine::{Shared, Supervised},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        lock,
    },
};

/// The largest number of waiting errands. More are orders in bulk, each of which the others overtake: those use the queue.
const MAX_ERRANDS: usize = 64;

/// The work for a worker.
pub(crate) enum Errand {
    Wake(task::Waker),
    /// Bring a task's driver.
    Drive(Arc<Supervised>),
}

/// The errands that wait.
pub(crate) struct Errands<E> {
    waiting: Mutex<VecDeque<E>>,
    /// True if an errand waits; written under the lock, and read without it by each driver that was polled.
    any: AtomicBool,
}

/// The fate of an errand.
enum Left<E> {
    /// It waits, and so does a messenger.
    Behind,
    /// It waits for the messenger that is to be sent.
    First,
    /// Too many wait.
    Refused(E),
}

impl<E> Default for Errands<E> {
    fn default() -> Self {
        Self { waiting: Mutex::new(VecDeque::new()), any: AtomicBool::new(false) }
    }
}

impl<E> Errands<E> {
    fn leave(&self, errand: E) -> Left<E> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MAX_ERRANDS {
            return Left::Refused(errand);
        }
        waiting.push_back(errand);
        self.any.store(true, SeqCst);
        if waiting.len() == 1 { Left::First } else { Left::Behind }
    }

    fn take(&self) -> Option<E> {
        if !self.any.load(SeqCst) {
            return None;
        }
        let mut waiting = lock(&self.waiting);
        let errand = waiting.pop_front();
        self.any.store(!waiting.is_empty(), SeqCst);
        errand
    }
}

/// Does what errands are left when it is dropped: by the task that it is moved into, which may never be polled.
struct Messenger(Arc<Shared>);

impl Drop for Messenger {
    fn drop(&mut self) {
        while self.0.do_errand() {}
    }
}

impl Shared {
    /// Does an errand before what waits for a worker, where that can be.
    pub(crate) fn overtake(self: &Arc<Self>, errand: Errand) {
        match self.existing_runtime().filter(|runtime| has_queue(&runtime.handle)) {
            None => self.run(errand),
            Some(runtime) => match self.errands.leave(errand) {
                Left::Behind => {}
                Left::First => {
                    let messenger = Messenger(self.clone());
                    drop(runtime.spawn(async move { drop(messenger) }));
                }
                Left::Refused(errand) => self.run(errand),
            },
        }
    }

    /// Performs the errand that has waited longest. Returns true if there was one.
    pub(crate) fn do_errand(self: &Arc<Self>) -> bool {
        let errand = self.errands.take();
        errand.map(|errand| self.run(errand)).is_some()
    }

    fn run(self: &Arc<Self>, errand: Errand) {
        match errand {
            Errand::Wake(waker) => waker.wake(),
            Errand::Drive(task) => self.drive(task),
        }
    }
}

/// Returns true if a wake-up from outside has to wait for others. A current-thread runtime checks its queue after every few
/// polls, and puts its own wake-ups behind all others.
fn has_queue(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().global_queue_depth() > 0
}

/// Seen to fail where `take` writes `any` when it has unlocked.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::sync::Arc;

    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    #[test]
    fn each_errand_is_performed_exactly_once() {
        model(3, || {
            let errands = Arc::new(Errands::default());
            let all = |errands: &Errands<u8>| std::iter::from_fn(|| errands.take()).collect::<Vec<_>>();
            let leaves = [1, 2].map(|errand| {
                let errands = errands.clone();
                thread::spawn(move || match errands.leave(errand) {
                    Left::First => all(&errands),
                    Left::Behind => Vec::new(),
                    Left::Refused(_) => unreachable!("there is room"),
                })
            });
            let mut done: Vec<_> = errands.take().into_iter().collect();
            done.extend(leaves.into_iter().flat_map(|leaves| leaves.join().expect("no panic")));
            done.sort_unstable();
            assert_eq!(done, [1, 2]);
        });
    }
}
