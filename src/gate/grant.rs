//! One permission to run, and its three ends.
//!
//! Invariants:
//! 1. A permission that is over stays so: nothing that the keeper does opens it again.
//! 2. `busy` is raised before the clock is read, so the watchdog sees each poll that began in time.
//! 3. The grant is dropped after the future that it allowed; only then does `released` complete for the gate.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{BootClock, BootInstant};
use crate::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

/// The part of the grace that is left when the future is dropped, as a divisor: the rest is for the destructors.
const DROP_PART: u32 = 8;
/// The part of the grace that is left when the watchdog acts on a poll that has not returned.
const OVERRUN_PART: u32 = 16;

/// The state that the three ends share.
struct Hold {
    term: u64,
    grace: Duration,
    clock: BootClock,
    /// [`BootInstant`] as bits. Written by the keeper, and only ever grows.
    until: AtomicU64,
    /// Set once: by a revocation, by a driver or poll that finds the time over, or at the end of the grant.
    over: AtomicBool,
    /// The polls and drops of user code under way.
    busy: AtomicU32,
    /// True once the watchdog has acted on an overrun. Written by the watchdog alone.
    overran: AtomicBool,
    /// Wakes the driver.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Cancelled when the grant is dropped.
    released: CancellationToken,
}

impl Hold {
    fn until(&self) -> BootInstant {
        BootInstant::from_bits(self.until.load(SeqCst))
    }

    fn before(&self, part: u32) -> BootInstant {
        self.until().saturating_sub(self.grace / part)
    }

    /// Ends the permission, and wakes the driver.
    fn end(&self) {
        if !self.over.swap(true, SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// True once no poll may begin.
    fn is_over(&self) -> bool {
        if self.over.load(SeqCst) {
            return true;
        }
        let is_over = self.clock.now() >= self.before(DROP_PART);
        if is_over {
            self.end();
        }
        is_over
    }
}

/// The driver's end of a permission to run. Dropped once the run's future is gone, which releases what the gate guards.
#[derive(Debug)]
#[must_use = "dropping a grant releases it"]
pub struct Grant {
    hold: Arc<Hold>,
    last_run: Option<SystemTime>,
}

/// The gate's end of a permission to run.
#[derive(Debug)]
#[must_use = "a grant whose keeper is gone ends by its time"]
pub struct Keeper(Arc<Hold>);

/// A run's view of its permission: see [`TaskContext::pass`](crate::TaskContext::pass). Clones see the same and delay nothing.
#[derive(Debug, Clone)]
pub struct Pass(Arc<Hold>);

/// The state of a permission for its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The run may continue for this time, or longer if it is extended.
    Open(Duration),
    /// The run is to end by itself within this time.
    Ends(Duration),
    /// The run's future is to be dropped now.
    Over,
}

impl Grant {
    /// Creates a permission for the term `term`, which must be larger than that of every earlier holder.
    ///
    /// `until` counts from before the request for the permission was sent. The run is asked to stop `grace` before `until`. Its future is
    /// dropped an eighth of `grace` before `until`, and no poll begins from then on. A third of a lease is a good grace.
    pub fn new(term: u64, until: BootInstant, grace: Duration) -> (Self, Keeper) {
        Self::on(BootClock::system(), term, until, grace)
    }

    /// Creates a permission whose time is read from `clock`; for tests in virtual time.
    pub fn on(clock: BootClock, term: u64, until: BootInstant, grace: Duration) -> (Self, Keeper) {
        let hold = Arc::new(Hold {
            term,
            grace,
            clock,
            until: AtomicU64::new(until.to_bits()),
            over: AtomicBool::new(false),
            busy: AtomicU32::new(0),
            overran: AtomicBool::new(false),
            wake: OnceLock::default(),
            released: CancellationToken::new(),
        });
        (Self { hold: hold.clone(), last_run: None }, Keeper(hold))
    }

    /// Sets the due time that was last claimed by any holder: a loop counts as missed what fell due since.
    pub fn last_run(mut self, due: Option<SystemTime>) -> Self {
        self.last_run = due;
        self
    }

    pub(crate) fn last_due(&self) -> Option<SystemTime> {
        self.last_run
    }

    /// Returns the run's view of this permission.
    pub fn pass(&self) -> Pass {
        Pass(self.hold.clone())
    }

    /// Calls `wake` when the driver has to read the permission. Only the first call has an effect.
    pub(crate) fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.hold.wake.get_or_init(|| Box::new(wake));
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.hold.over.store(true, SeqCst);
        self.hold.released.cancel();
    }
}

impl Keeper {
    /// Extends the permission. An earlier `until` than before has no effect, nor has a call after the permission was over.
    ///
    /// `until` counts from before the renewal was sent.
    pub fn extend(&self, until: BootInstant) {
        self.0.until.fetch_max(until.to_bits(), SeqCst);
    }

    /// Ends the permission now: somebody else holds it. No poll begins any more, and the run's future is dropped.
    pub fn revoke(&self) {
        self.0.end();
    }

    /// Waits until the run's future is gone and the driver has given the grant back.
    ///
    /// # Cancel safety
    /// Cancel safe: once it has completed it completes at once again.
    pub async fn released(&self) {
        self.0.released.cancelled().await;
    }

    /// Returns true once the driver has given the grant back.
    pub fn is_released(&self) -> bool {
        self.0.released.is_cancelled()
    }
}

impl Pass {
    /// Returns the fencing token, which grows with each hand-over.
    ///
    /// Store the token with each write of the holder, and refuse a write with a lower token. A request that was sent before the
    /// permission ended can arrive after the next holder's requests.
    pub fn term(&self) -> u64 {
        self.0.term
    }

    /// Returns the end of the permission, which moves on while it is extended.
    pub fn until(&self) -> BootInstant {
        self.0.until()
    }

    /// Returns the time that is left; zero once the permission is over.
    pub fn remaining(&self) -> Duration {
        if self.0.over.load(SeqCst) {
            return Duration::ZERO;
        }
        self.until().saturating_duration_since(self.0.clock.now())
    }

    /// Returns true until the permission is over.
    pub fn is_open(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns the state of the permission for its driver.
    pub(crate) fn standing(&self) -> Standing {
        let hold = &self.0;
        if hold.is_over() {
            return Standing::Over;
        }
        let now = hold.clock.now();
        let asked_in = hold.before(1).saturating_duration_since(now);
        if asked_in.is_zero() {
            Standing::Ends(hold.before(DROP_PART).saturating_duration_since(now))
        } else {
            Standing::Open(asked_in)
        }
    }

    /// Begins a poll of the run; `None` if no poll may begin any more.
    pub(crate) fn begin_poll(&self) -> Option<Busy<'_>> {
        let busy = self.busy();
        (!self.0.is_over()).then_some(busy)
    }

    /// Marks user code of the run as active until the returned value is dropped.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.0.busy.fetch_add(1, SeqCst);
        Busy(&self.0)
    }

    /// Wakes the driver.
    pub(crate) fn wake_driver(&self) {
        self.0.wake();
    }

    /// Ends the permission: somebody else holds it.
    pub(crate) fn lose(&self) {
        self.0.end();
    }

    /// Ends a permission whose time is over, so that the driver drops the run even if its timers did not fire. Called by the watchdog.
    ///
    /// Returns true, once, if user code is still active shortly before the permission ends.
    pub(crate) fn look_for_overrun(&self) -> bool {
        let hold = &self.0;
        // Written, not only read: a poll that raises it later sees that the permission is over.
        if hold.released.is_cancelled() || !hold.is_over() || hold.busy.fetch_add(0, SeqCst) == 0 {
            return false;
        }
        // A revoked one has no time left.
        let is_late = hold.clock.now() >= hold.before(OVERRUN_PART);
        is_late && !hold.overran.swap(true, SeqCst)
    }

    /// The time until the watchdog checks for an overrun.
    pub(crate) fn overrun_in(&self) -> Duration {
        self.0.before(OVERRUN_PART).saturating_duration_since(self.0.clock.now())
    }
}

/// Active user code of a run.
#[must_use = "the code is seen only until this is dropped"]
pub(crate) struct Busy<'a>(&'a Hold);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, SeqCst);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("term", &self.term)
            .field("until", &self.until())
            .field("grace", &self.grace)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, otel_tasks_loom))]
mod loom;
