//! How many of something are alive, by drop guards.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

/// Counts guards: how many there are, were at most at once, and were made in all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alive {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
}

/// Alive until it is dropped.
#[derive(Debug)]
pub(crate) struct AliveGuard {
    counts: Arc<Counts>,
}

impl Alive {
    pub(crate) fn guard(&self) -> AliveGuard {
        self.counts.total.fetch_add(1, SeqCst);
        let now = self.counts.now.fetch_add(1, SeqCst) + 1;
        self.counts.most.fetch_max(now, SeqCst);
        AliveGuard { counts: self.counts.clone() }
    }

    /// Alive from now on until the future has ended or is dropped.
    pub(crate) fn during<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let guard = self.guard();
        async move {
            let _guard = guard;
            future.await
        }
    }

    pub(crate) fn now(&self) -> usize {
        self.counts.now.load(SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.counts.most.load(SeqCst)
    }

    pub(crate) fn total(&self) -> usize {
        self.counts.total.load(SeqCst)
    }
}

impl Drop for AliveGuard {
    fn drop(&mut self) {
        self.counts.now.fetch_sub(1, SeqCst);
    }
}
