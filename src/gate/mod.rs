//! Once in the fleet: when a task may run. The manager holds the task's future, so it can refuse to poll it.
//!
//! A [`Gate`] decides on which of several processes a task runs; `otel-tasks-lease` has gates that use a store. This crate
//! enforces the decision:
//!
//! - A run begins with a [`Grant`]. Until then the task is in the state `Standby`: ready and live, without an alert.
//! - A grant has an end, `until`, which the gate moves on. The run is asked to stop one grace before it, and its future is dropped before
//!   it. No poll of the run begins after that, also if the process was stopped or the machine suspended meanwhile.
//! - A poll under way cannot be stopped. If it has not returned shortly before `until`, or an eighth of the grace after a revocation, the
//!   process is ended ([`OverrunAction`](crate::policy::OverrunAction)).
//! - Work that the task owns ([`TaskContext::spawn`](crate::TaskContext::spawn)) has the same end: it is dropped, and polled no more. The grant is
//!   released after it. Blocking work that it owns counts as a poll under way.
//! - The grant is released as soon as the future is gone: after a stop, a pause, a failure or a shutdown. A task that lost its grant waits for the next one.
//!
//! - A loop claims each due time before its iteration ([`Gate::begin`]). A take-over continues from the last due time that was claimed
//!   ([`Grant::last_run`]). Later times are missed, and the loop's [`MissedPolicy`](crate::schedule::MissedPolicy) applies.
//!
//! So at most one process *polls* the task. A request that it has sent before is the receiver's business: send the
//! [term](Pass::term) along, and refuse a lower one. A one-shot task runs on each process in turn.
//!
//! ```
//! use otel_tasks::{CriticalTaskConfig, TaskManager, gate::{BootInstant, BoxFuture, Gate, Grant}};
//! use std::time::Duration;
//!
//! /// A gate that is always open.
//! struct Open;
//!
//! impl Gate for Open {
//!     fn name(&self) -> &str {
//!         "open"
//!     }
//!
//!     fn enter(&self) -> BoxFuture<'_, Grant> {
//!         let until = BootInstant::now().saturating_add(Duration::from_secs(86_400));
//!         Box::pin(async move { Grant::new(1, until, Duration::from_secs(5)).0 })
//!     }
//! }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//! let tasks = TaskManager::new();
//! tasks.register(CriticalTaskConfig::new("outbox", |ctx| async move {
//!     let term = ctx.pass().map(|pass| pass.term());
//!     println!("UPDATE outbox SET sent = true WHERE id = $1 AND term <= {term:?}");
//!     ctx.cancelled().await;
//! })
//! .gate(Open))?;
//! # Ok(()) }
//! ```
//!
//! ```text
//!  gate                          manager                        run
//!  Keeper: extend, revoke,  ──►  Grant: asks, drops, refuses ──► Pass: term,
//!          released         ◄──         polls, is dropped        until
//! ```

// No I/O here, and no runtime: what the driver does with it is in `engine/supervision/gated.rs`.
mod clock;
mod fenced;
mod grant;

use std::{pin::Pin, sync::Arc, time::SystemTime};

pub use clock::{BootClock, BootInstant};
pub(crate) use fenced::Fenced;
pub(crate) use grant::Standing;
pub use grant::{Grant, Keeper, Pass};

use crate::policy::{ExitKind, labels};

/// A boxed future, as the methods of a [`Gate`] return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides when a task may run.
///
/// A task with a [gate](crate::CriticalTaskConfig::gate) begins a run only with a [`Grant`], and is in the state
/// [`Standby`](crate::snapshot::TaskState::Standby) while it waits for one. The manager drops the grant once the run's future is gone.
pub trait Gate: Send + Sync + 'static {
    /// The name of what the gate guards, such as a lease.
    fn name(&self) -> &str;

    /// Waits until the task may run, without limit.
    ///
    /// Errors are the gate's to count. Dropping the future means that the task is no longer a candidate.
    fn enter(&self) -> BoxFuture<'_, Grant>;

    /// Claims a due time before an iteration of a loop begins, so that each due time is run at most once in the fleet.
    ///
    /// By default each is won. If the gate does not know, it waits: no iteration begins meanwhile, and the pass ends by its time.
    /// A stop request ends the wait after a second.
    fn begin(&self, pass: &Pass, due: SystemTime) -> BoxFuture<'_, Claim> {
        let _ = (pass, due);
        Box::pin(std::future::ready(Claim::Won))
    }

    /// Records when a loop began under a grant without a [last run](Grant::last_run). Nothing is recorded by default.
    ///
    /// The next holder counts due times since then as missed.
    fn began(&self, pass: &Pass, at: SystemTime) -> BoxFuture<'_, ()> {
        let _ = (pass, at);
        Box::pin(std::future::ready(()))
    }

    /// Receives the result of the iteration of a due time that was won. The loop continues when the future is ready.
    fn end(&self, pass: &Pass, due: SystemTime, result: ExitKind) -> BoxFuture<'_, ()> {
        let _ = (pass, due, result);
        Box::pin(std::future::ready(()))
    }

    /// Returns the holder of what the gate guards, by the name that its store knows the holder by; `None` while it is unknown.
    ///
    /// For people: [`TaskSnapshot::gate`](crate::snapshot::TaskSnapshot::gate) and the page show it. It must not wait, and may be out of date.
    fn holder(&self) -> Option<Arc<str>> {
        None
    }

    /// Waits until what the dropped grants gave back is given back where others see it. At once by default.
    ///
    /// [`shutdown`](crate::TaskManager::shutdown), [`unregister`](crate::TaskManager::unregister) and
    /// [`replace`](crate::TaskManager::replace) wait for it, for a second at most. A process that ends earlier would keep the others waiting
    /// until the lease is over.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

labels! {
    /// The answer to the [claim](Gate::begin) of a due time.
    pub enum Claim {
        /// The due time is this holder's: its iteration begins.
        Won = "won",
        /// The due time, or a later one, was claimed before: no iteration begins, and none is counted as left out.
        Done = "done",
        /// Somebody else holds what the gate guards: the run's future is dropped.
        Lost = "lost",
    }
}

impl<G: Gate + ?Sized> Gate for Arc<G> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        (**self).enter()
    }

    fn begin(&self, pass: &Pass, due: SystemTime) -> BoxFuture<'_, Claim> {
        (**self).begin(pass, due)
    }

    fn began(&self, pass: &Pass, at: SystemTime) -> BoxFuture<'_, ()> {
        (**self).began(pass, at)
    }

    fn end(&self, pass: &Pass, due: SystemTime, result: ExitKind) -> BoxFuture<'_, ()> {
        (**self).end(pass, due, result)
    }

    fn holder(&self) -> Option<Arc<str>> {
        (**self).holder()
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        (**self).settled()
    }
}
