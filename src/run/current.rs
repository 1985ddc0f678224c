//! The run that this thread is polling.

use std::{cell::RefCell, sync::Arc};

use super::{Recorder, Task};

/// A run, as what happens inside it sees it.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) task: Arc<Task>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

impl Current {
    /// The run being polled on this thread, if any.
    pub(crate) fn get() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Runs `poll` with `slot`'s run as the current one. The run is moved there and back, so that no poll counts
    /// references. `poll` must not unwind: the run would stay behind.
    pub(crate) fn scope<R>(slot: &mut Option<Self>, poll: impl FnOnce() -> R) -> R {
        let outer = CURRENT.replace(slot.take());
        let result = poll();
        *slot = CURRENT.replace(outer);
        result
    }
}
