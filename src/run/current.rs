//! The run that this thread is polling.

use std::{cell::Cell, sync::Arc};

use super::{Recorder, Task};
use crate::shards::LocalArc;

/// A run, as what happens inside it sees it.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) recorder: LocalArc<Recorder>,
    pub(crate) task: Arc<Task>,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

impl Current {
    /// The run being polled on this thread, if any.
    pub(crate) fn get() -> Option<Self> {
        CURRENT.with(|current| {
            let held = current.take();
            let copy = held.clone();
            current.set(held);
            copy
        })
    }

    /// Runs `poll` with `slot`'s run as the current one. The run is moved there and back, so that no poll counts
    /// references. `poll` must not unwind: the run would stay behind.
    #[inline]
    pub(crate) fn scope<R>(slot: &mut Option<Self>, poll: impl FnOnce() -> R) -> R {
        CURRENT.with(|current| {
            let outer = current.replace(slot.take());
            let result = poll();
            *slot = current.replace(outer);
            result
        })
    }
}
