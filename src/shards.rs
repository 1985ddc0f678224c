//! Values of which each thread uses its own, so that threads do not take cache lines from each other.
//!
//! A thread has the same index in all of them. Threads that are more than [`COUNT`] share: a shard is never more than a place of
//! less contention, and whatever it holds allows any thread.

use std::{
    cell::Cell,
    ops::{Deref, Index},
    sync::Arc,
};

/// The number of shards. Fewer where every interleaving is tried; their number is in no invariant.
pub(crate) const COUNT: usize = if cfg!(all(test, otel_tasks_loom)) { 2 } else { 16 };

thread_local! {
    /// [`COUNT`] before the first use. Without a destructor, so that it is read without a check.
    static HERE: Cell<usize> = const { Cell::new(COUNT) };
}

/// Returns the index of this thread's shard, below [`COUNT`].
#[inline]
pub(crate) fn here() -> usize {
    let index = HERE.get();
    if index < COUNT { index } else { take() }
}

#[cfg(not(all(test, otel_tasks_loom)))]
#[cold]
fn take() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static NEXT: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: no index depends on another.
    let index = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
    HERE.set(index);
    index
}

/// Loom's threads are one thread of the system, and begin again with each interleaving.
#[cfg(all(test, otel_tasks_loom))]
fn take() -> usize {
    use loom::sync::atomic::{AtomicUsize, Ordering};

    loom::lazy_static! {
        static ref NEXT: AtomicUsize = AtomicUsize::new(0);
    }
    loom::thread_local! {
        static INDEX: usize = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
    }
    INDEX.with(|index| *index)
}

/// One value for each shard.
pub(crate) struct Shards<T>([Apart<T>; COUNT]);

/// A value on cache lines of its own (two, since processors fetch them in pairs).
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Shards<T> {
    pub(crate) fn new(mut make: impl FnMut(usize) -> T) -> Self {
        Self(std::array::from_fn(|index| Apart(make(index))))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|apart| &apart.0)
    }
}

impl<T> Index<usize> for Shards<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.0[index].0
    }
}

/// A reference that is counted by one shard. As an [`Arc`], it keeps its value alive.
pub(crate) struct LocalArc<T>(Arc<Wide<T>>);

/// Large enough that no two counts are on one pair of cache lines. The value is at the end: a thread that reads it does not wait for a
/// thread that changes the count.
#[repr(C)]
struct Wide<T> {
    _rest: [u64; 13],
    value: Arc<T>,
}

impl<T> Clone for LocalArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for LocalArc<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

/// The references to one value, one for each shard.
pub(crate) struct LocalArcs<T> {
    value: Arc<T>,
    local: Arc<[LocalArc<T>; COUNT]>,
}

impl<T> LocalArcs<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let local = |_| LocalArc(Arc::new(Wide { _rest: [0; 13], value: value.clone() }));
        Self { local: Arc::new(std::array::from_fn(local)), value }
    }

    /// Returns the reference of this thread's shard.
    #[inline]
    pub(crate) fn here(&self) -> LocalArc<T> {
        self.of_shard(here())
    }

    #[inline]
    pub(crate) fn of_shard(&self, shard: usize) -> LocalArc<T> {
        self.local[shard].clone()
    }
}

impl<T> Clone for LocalArcs<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), local: self.local.clone() }
    }
}

impl<T> Deref for LocalArcs<T> {
    type Target = Arc<T>;

    #[inline]
    fn deref(&self) -> &Arc<T> {
        &self.value
    }
}
