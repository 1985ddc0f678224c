//! The state of the watchdog for a manager.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant as StdInstant,
};

use tokio::task::JoinHandle;

use crate::{
    engine::{Supervised, observe::runtime::RuntimeFigures},
    read::BlockedTask,
};

/// The state of the watchdog for a manager.
pub(crate) struct Watch {
    pub(super) number: u64,
    /// The tasks that promised signs of life: few, where there are many.
    beating: Mutex<Vec<Weak<Supervised>>>,
    /// The tasks with a gate.
    gated: Mutex<Vec<Weak<Supervised>>>,
    /// True if the runtime is known to run nothing. Written by the watchdog's thread alone; so is the next.
    pub(super) stalled: AtomicBool,
    /// The polls that block a thread, as the last tick saw them.
    pub(super) blocked: Mutex<Vec<BlockedTask>>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Blocked polls that were reported; kept until they return.
    pub(super) told: HashSet<u64>,
    pub(super) probe: Option<Probe>,
    pub(super) probed: Option<StdInstant>,
}

/// A tiny task that shows whether the runtime runs anything.
pub(super) struct Probe {
    pub(super) ran: Arc<AtomicBool>,
    pub(super) task: JoinHandle<()>,
    pub(super) told: bool,
    /// The figures of the runtime at the last tick.
    pub(super) figures: RuntimeFigures,
    /// The time at which it was sent, or at which the figures last showed progress.
    pub(super) progress_at: StdInstant,
}

impl Watch {
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            beating: Mutex::default(),
            gated: Mutex::default(),
            stalled: AtomicBool::new(false),
            blocked: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// The manager has moved to another runtime, of which nothing is known yet.
    pub(crate) fn runtime_moved(&self) {
        self.stalled.store(false, SeqCst);
    }

    /// Watches a task for signs of life if it promised any, and for overruns if it has a gate.
    pub(crate) fn add(&self, task: &Arc<Supervised>) {
        let watch = |list: &Mutex<Vec<_>>| {
            list.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(task));
        };
        if task.spec.heartbeat_timeout.is_some() {
            watch(&self.beating);
        }
        if task.body.gated().is_some() {
            watch(&self.gated);
        }
    }

    /// The polls that block a thread.
    pub(crate) fn blocked(&self) -> Vec<BlockedTask> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn beating(&self) -> Vec<Arc<Supervised>> {
        alive_of(&self.beating)
    }

    pub(super) fn gated(&self) -> Vec<Arc<Supervised>> {
        alive_of(&self.gated)
    }
}

/// Those whose driver has not left; the others are forgotten.
fn alive_of(watched: &Mutex<Vec<Weak<Supervised>>>) -> Vec<Arc<Supervised>> {
    let mut alive = Vec::new();
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    watched.retain(|task| {
        let task = task.upgrade();
        let keep = task.as_ref().is_some_and(|task| !task.has_left());
        // A task that has left counts too: its last reference must not end under the lock.
        alive.extend(task);
        keep
    });
    alive
}
