//! One permission to run, and its three ends.
//!
//! Invariants:
//! 1. A permission that is over stays so: nothing that the keeper does opens it again.
//! 2. `busy` is raised before the clock is read, so each poll that began in time is seen from outside.
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
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst, fence},
};

/// The part of the grace that is left when the future is dropped, as a divisor: the rest is for the destructors.
const DROP_PART: u32 = 8;
/// The part of the grace that is left when a poll that has not returned is an overrun.
const OVERRUN_PART: u32 = 16;
/// The part of the grace after a revocation when a poll that has not returned is an overrun: another process holds the gate already.
const REVOKED_PART: u32 = 8;

/// The state that the three ends share.
struct Hold {
    term: u64,
    grace: Duration,
    clock: BootClock,
    /// [`BootInstant`] as bits. Written by the keeper, and only ever grows.
    until: AtomicU64,
    /// Set once: by a revocation, by a driver or poll that finds the time over, or at the end of the grant.
    over: AtomicBool,
    /// The time of the revocation as bits; `u64::MAX` without one.
    revoked: AtomicU64,
    /// The polls and drops of user code under way.
    busy: AtomicU32,
    /// True once the watchdog has reported an overrun. Written by the watchdog alone.
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

    /// Ends the permission before its time.
    fn revoke(&self) {
        self.revoked.fetch_min(self.clock.now().to_bits(), SeqCst);
        self.end();
    }

    /// The time at which active user code is an overrun.
    fn overrun_at(&self) -> BootInstant {
        let by_time = self.before(OVERRUN_PART);
        match self.revoked.load(SeqCst) {
            u64::MAX => by_time,
            revoked => by_time.min(BootInstant::from_bits(revoked).saturating_add(self.grace / REVOKED_PART)),
        }
    }

    /// Ends the permission, and wakes the driver.
    fn end(&self) {
        if !self.over.swap(true, SeqCst) {
            fence(SeqCst);
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
            revoked: AtomicU64::new(u64::MAX),
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
        // With the one of `end`: a driver that reads the permission from here on sees its end, or `end` sees the driver.
        fence(SeqCst);
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
        self.0.revoke();
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
        if asked_in.is_zero() { Standing::Ends(self.dropped_in()) } else { Standing::Open(asked_in) }
    }

    /// The time until the run's future is to be dropped, unless it is extended; zero if the permission is over.
    pub(crate) fn dropped_in(&self) -> Duration {
        let hold = &self.0;
        if hold.is_over() {
            return Duration::ZERO;
        }
        hold.before(DROP_PART).saturating_duration_since(hold.clock.now())
    }

    /// Begins a poll of the run; `None` if no poll may begin any more.
    pub(crate) fn begin_poll(&self) -> Option<Busy<'_>> {
        // A poll that does not begin is not seen.
        if self.0.over.load(SeqCst) {
            return None;
        }
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
        self.0.revoke();
    }

    /// Ends a permission whose time is over, so that the driver drops the run even if its timers did not fire. Called by the watchdog.
    pub(crate) fn end_if_over(&self) {
        if !self.is_released() {
            self.0.is_over();
        }
    }

    /// True once the driver has given the grant back.
    pub(crate) fn is_released(&self) -> bool {
        self.0.released.is_cancelled()
    }

    /// Returns true if user code is active shortly before the permission ends, or a while after a revocation. The driver is not woken.
    pub(crate) fn is_overrun(&self) -> bool {
        // Written, not only read: a poll that raises it later sees the time.
        !self.is_released() && self.0.busy.fetch_add(0, SeqCst) > 0 && self.overrun_in().is_zero()
    }

    /// Returns true at the first call.
    pub(crate) fn first_overrun(&self) -> bool {
        !self.0.overran.swap(true, SeqCst)
    }

    /// The time until active user code is an overrun.
    pub(crate) fn overrun_in(&self) -> Duration {
        self.0.overrun_at().saturating_duration_since(self.0.clock.now())
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

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(8);

    fn at(seconds: f64) -> BootInstant {
        BootInstant::after_boot(Duration::from_secs_f64(seconds))
    }

    /// A grant until 100 s, and a clock that shows these milliseconds.
    fn granted() -> (Grant, Keeper, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(0));
        let shown = now.clone();
        let clock =
            BootClock::from_fn(move || BootInstant::after_boot(Duration::from_millis(shown.load(SeqCst))));
        let (grant, keeper) = Grant::on(clock, 1, at(100.0), GRACE);
        (grant, keeper, now)
    }

    #[test]
    fn active_code_is_an_overrun_shortly_before_the_end() {
        let (grant, keeper, now) = granted();
        let pass = grant.pass();
        let busy = pass.begin_poll().expect("it is open");
        now.store(99_400, SeqCst);
        assert!(!pass.is_overrun());
        now.store(99_500, SeqCst);
        assert!(pass.is_overrun());
        keeper.extend(at(200.0));
        assert!(!pass.is_overrun(), "there is more time");
        now.store(300_000, SeqCst);
        assert!(pass.is_overrun() && pass.first_overrun() && !pass.first_overrun());
        drop(busy);
        assert!(!pass.is_overrun() && pass.begin_poll().is_none());
        drop(grant);
        assert!(pass.is_released());
    }

    #[test]
    fn active_code_is_an_overrun_a_while_after_a_revocation() {
        let (grant, keeper, now) = granted();
        let pass = grant.pass();
        let _busy = pass.begin_poll().expect("it is open");
        now.store(10_000, SeqCst);
        keeper.revoke();
        assert!(!pass.is_overrun() && pass.begin_poll().is_none());
        now.store(10_900, SeqCst);
        keeper.revoke();
        assert!(!pass.is_overrun(), "its driver drops it");
        now.store(11_000, SeqCst);
        assert!(pass.is_overrun(), "another process may run it since a second");
    }

    #[test]
    fn a_poll_that_is_refused_is_no_overrun() {
        let (grant, _keeper, now) = granted();
        let pass = grant.pass();
        now.store(300_000, SeqCst);
        assert!(pass.begin_poll().is_none());
        assert!(!pass.is_overrun());
        drop(grant);
    }
}
