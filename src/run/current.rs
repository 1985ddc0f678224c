//! The run that this thread is polling.

use std::{cell::Cell, mem::ManuallyDrop, sync::Arc};

use super::{Recorder, Task};
use crate::shards::LocalArc;

/// A run, as what happens inside it sees it.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) recorder: LocalArc<Recorder>,
    pub(crate) task: Arc<Task>,
}

thread_local! {
    /// `None` between polls. So nothing is left to drop, and a thread-local without a destructor is read without a check.
    static CURRENT: Cell<Option<ManuallyDrop<Current>>> = const { Cell::new(None) };
}

impl Current {
    /// The run being polled on this thread, if any.
    pub(crate) fn get() -> Option<Self> {
        CURRENT.with(|current| {
            let held = current.take();
            let copy = held.as_deref().cloned();
            current.set(held);
            copy
        })
    }

    /// Swaps the current run with `slot`'s: once before a poll, and once after it. The run is moved, so that no poll counts
    /// references. The poll must not unwind: the run would stay behind.
    #[inline]
    pub(crate) fn swap(slot: &mut Option<Self>) {
        let outer = CURRENT.replace(slot.take().map(ManuallyDrop::new));
        *slot = outer.map(ManuallyDrop::into_inner);
    }
}
