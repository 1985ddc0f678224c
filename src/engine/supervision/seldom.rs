//! The state that few registered tasks ever need: behind a pointer, made on demand.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::SystemTime,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::engine::observe::changes::{Changes, Rings};

/// The pointer, also to the settings `G` that few tasks are registered with.
pub(crate) struct Seldom<G>(OnceLock<Box<Rare<G>>>);

#[derive(Default)]
struct Rare<G> {
    given: G,
    held: OnceLock<Box<Held>>,
}

#[derive(Default)]
pub(crate) struct Held {
    /// Written by the driver alone: when the last restart began.
    pub(super) last_restart: Mutex<Option<Instant>>,
    /// Since when the task is unhealthy, as far as somebody has noticed.
    pub(super) unhealthy_since: Mutex<Option<SystemTime>>,
    /// Notifies the waiters for the driver's last act.
    pub(super) gone: Notify,
    /// True if the task had failed and an iteration must succeed for its recovery. Set by the driver.
    pub(super) awaits_success: AtomicBool,
    /// True if that iteration has succeeded. Set by the loop, taken by the driver.
    pub(super) succeeded: AtomicBool,
    /// The token of a life, if somebody has asked for it, and the generation of that life.
    pub(super) token: Mutex<Option<(u64, CancellationToken)>>,
    rings: Mutex<Rings>,
}

impl<G: Default> Seldom<G> {
    pub(super) fn get(&self) -> Option<&Held> {
        self.0.get()?.held.get().map(|held| &**held)
    }

    pub(super) fn get_or_make(&self) -> &Held {
        self.0.get_or_init(Box::default).held.get_or_init(Box::default)
    }

    /// Made with the settings of a task; `None` if it has none of them.
    pub(super) fn new(given: Option<G>) -> Self {
        let rare = given.map(|given| Box::new(Rare { given, held: OnceLock::new() }));
        Self(rare.map_or_else(OnceLock::new, OnceLock::from))
    }

    /// Returns the settings. They may be the default ones.
    pub(super) fn given(&self) -> Option<&G> {
        self.0.get().map(|rare| &rare.given)
    }

    pub(super) fn given_or_make(&self) -> &G {
        &self.0.get_or_init(Box::default).given
    }

    /// Returns the changes of the task; `None` before the first change.
    pub(crate) fn rings(&self) -> Option<MutexGuard<'_, Rings>> {
        self.get().map(|held| held.rings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<G: Default> Changes for Seldom<G> {
    fn rings_made(&self) -> MutexGuard<'_, Rings> {
        self.get_or_make().rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
