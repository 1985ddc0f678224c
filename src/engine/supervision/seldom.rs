//! The state that few registered tasks ever need: behind a pointer, made on demand.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::SystemTime,
};

use opentelemetry::trace::SpanContext;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{observe::changes::Rings, supervision::links::Links},
    policy::ErrorRules,
    run::Contained,
};

/// The pointer.
#[derive(Default)]
pub(crate) struct Seldom(OnceLock<Box<Rare>>);

/// Made at the registration if the task has any of the first three, otherwise with the last.
#[derive(Default)]
struct Rare {
    links: Links,
    /// The rules that classify and name the task's errors. They are the user's functions, as its body is.
    rules: Option<Contained<Arc<ErrorRules>>>,
    /// The span in which the task was registered.
    registered_in: Option<Arc<SpanContext>>,
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

impl Seldom {
    pub(super) fn get(&self) -> Option<&Held> {
        self.0.get()?.held.get().map(|held| &**held)
    }

    pub(super) fn get_or_make(&self) -> &Held {
        self.0.get_or_init(Box::default).held.get_or_init(Box::default)
    }

    pub(super) fn new(
        links: Links,
        rules: Option<Arc<ErrorRules>>,
        registered_in: Option<Arc<SpanContext>>,
    ) -> Self {
        if links.is_empty() && rules.is_none() && registered_in.is_none() {
            return Self::default();
        }
        let rules = rules.map(Contained::new);
        Self(OnceLock::from(Box::new(Rare { links, rules, registered_in, held: OnceLock::new() })))
    }

    pub(super) fn links(&self) -> &Links {
        const NONE: &Links = &Links::NONE;
        self.0.get().map_or(NONE, |rare| &rare.links)
    }

    pub(super) fn rules(&self) -> Option<&Arc<ErrorRules>> {
        self.0.get()?.rules.as_deref()
    }

    pub(super) fn registered_in(&self) -> Option<&SpanContext> {
        self.0.get()?.registered_in.as_deref()
    }

    /// Returns the changes of the task; `None` before the first change.
    pub(crate) fn rings(&self) -> Option<MutexGuard<'_, Rings>> {
        self.get().map(|held| held.rings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the rings with the first change.
    pub(crate) fn rings_made(&self) -> MutexGuard<'_, Rings> {
        self.get_or_make().rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
