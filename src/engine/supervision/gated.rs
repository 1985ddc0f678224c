//! A body behind a gate: its lives begin with a grant, and none of their polls begins when the grant is over.
//!
//! A gated life is another future, so a task without a gate pays nothing.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

use super::{
    supervised::{Body, LifeEnd, NewLife, Supervised},
    timer::Timer,
};
use crate::{
    cell::GateSnapshot,
    engine::{Shared, later},
    gate::{Fenced, Gate, Grant, Pass, Standing},
    policy::OverrunAction,
    run::catch,
};

/// The longest time that a task in standby waits after a lost grant before it requests again: two that lost at once come apart.
const STAND_AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// A body behind a gate.
pub(crate) struct GatedBody {
    inner: Arc<dyn Body>,
    gate: Arc<dyn Gate>,
    /// The gate's, read once: a gate is the user's.
    name: Arc<str>,
    pub(crate) on_overrun: OverrunAction,
    place: Mutex<Place>,
    pub(crate) iterations: Iterations,
}

/// The iterations of a loop, and those of them that wait for the gate. Written by the loop's life alone.
#[derive(Default)]
pub(crate) struct Iterations {
    all: AtomicUsize,
    at_gate: AtomicUsize,
}

impl Iterations {
    /// One waits for the gate. Returns true if all do.
    pub(crate) fn wait(&self) -> bool {
        self.at_gate.fetch_add(1, SeqCst) + 1 == self.all.load(SeqCst)
    }

    /// One waits for the gate no more.
    pub(crate) fn go_on(&self) {
        self.at_gate.fetch_sub(1, SeqCst);
    }

    /// There are `all` iterations now. Returns true if they all wait for the gate.
    pub(crate) fn all_wait(&self, all: usize) -> bool {
        self.all.store(all, SeqCst);
        self.at_gate.load(SeqCst) == all
    }
}

/// Written by the driver alone.
#[derive(Default)]
struct Place {
    /// The grant of the life that is about to begin.
    next: Option<Arc<Grant>>,
    /// That of the last life that began; held by the life, and by what its task owns.
    current: Weak<Grant>,
    /// The last claimed time in the fleet when that life began.
    last_run: Option<SystemTime>,
    /// True if the last grant was lost.
    lost: bool,
}

/// The wait for a grant.
pub(super) type Entering = Pin<Box<dyn Future<Output = Grant> + Send>>;

impl GatedBody {
    pub(crate) fn new(inner: Arc<dyn Body>, gate: Arc<dyn Gate>, on_overrun: OverrunAction) -> Self {
        let name = gate.name().into();
        Self { inner, gate, name, on_overrun, place: Mutex::default(), iterations: Iterations::default() }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a grant; with jitter after a loss.
    pub(super) fn enter(&self, shared: &Shared) -> Entering {
        let gate = self.gate.clone();
        let lost = std::mem::take(&mut self.place().lost);
        let jitter =
            STAND_AGAIN_WITHIN.mul_f64(if lost { fraction_of((shared.settings.random)()) } else { 0.0 });
        Box::pin(async move {
            if !jitter.is_zero() {
                sleep(jitter).await;
            }
            gate.enter().await
        })
    }

    /// A life begins with this grant. Returns its pass.
    pub(super) fn admit(&self, grant: Grant, supervised: &Arc<Supervised>) -> Pass {
        let driver = Arc::downgrade(supervised);
        grant.on_change(move || {
            if let Some(driver) = driver.upgrade() {
                driver.look();
            }
        });
        let pass = grant.pass();
        let grant = Arc::new(grant);
        let before = {
            let mut place = self.place();
            (place.current, place.last_run) = (Arc::downgrade(&grant), grant.last_due());
            place.next.replace(grant)
        };
        // The keeper's waker is not ours.
        drop(before);
        pass
    }

    /// The pass of the life that is about to begin.
    pub(super) fn next_pass(&self) -> Option<Pass> {
        self.place().next.as_ref().map(|grant| grant.pass())
    }

    /// The life that was to begin does not.
    pub(super) fn give_back(&self) {
        let grant = self.place().next.take();
        drop(grant);
    }

    /// The grant was lost.
    pub(super) fn lost(&self) {
        self.place().lost = true;
    }

    /// A share in the grant of the life under way, for what its task owns: released with the last.
    pub(crate) fn share(&self) -> Option<Arc<Grant>> {
        self.place().current.upgrade().filter(|grant| grant.pass().is_open())
    }

    /// The pass of the life under way, or of what the task still owns.
    pub(crate) fn pass(&self) -> Option<Pass> {
        self.place().current.upgrade().map(|grant| grant.pass())
    }

    /// The standing of the gate, for people. The gate is the user's: if it panics, its holder is unknown.
    pub(crate) fn snapshot(&self) -> GateSnapshot {
        let permission = self.pass().map(|pass| (pass.term(), pass.remaining()));
        let permission = permission.filter(|(_, remaining)| !remaining.is_zero());
        let holder = catch(false, || self.gate.holder()).ok().flatten();
        GateSnapshot::new(self.gate.name().into(), holder, permission)
    }

    /// The due time that was last claimed in the fleet when the life under way began.
    pub(crate) fn last_run(&self) -> Option<SystemTime> {
        self.place().last_run
    }

    pub(crate) fn gate(&self) -> &Arc<dyn Gate> {
        &self.gate
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// A source of random numbers is the user's: what it returns may be no fraction.
fn fraction_of(random: f64) -> f64 {
    if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.0 }
}

impl Body for GatedBody {
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        let grant = self.place().next.take();
        let inner = self.inner.clone().live(life);
        match grant {
            Some(grant) => Box::pin(Gated {
                life: Fenced::new(grant.pass(), inner),
                timer: Timer::default(),
                asked: false,
                _grant: grant,
            }),
            // The driver admits each life of a gated task; without a grant none may be polled.
            None => Box::pin(std::future::pending()),
        }
    }

    fn is_loop(&self) -> bool {
        self.inner.is_loop()
    }

    /// A pause releases what the gate guards, so the life is stopped and not held.
    fn hold(&self, _held: bool) -> bool {
        false
    }

    fn rests(&self, supervised: &Arc<Supervised>, shared: &Arc<Shared>) {
        self.inner.rests(supervised, shared);
    }

    fn registered(&self, supervised: &Arc<Supervised>) {
        self.inner.registered(supervised);
    }

    fn gated(&self) -> Option<&GatedBody> {
        Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}

/// A life behind a gate. The grant is its last field: released after the life is dropped.
struct Gated {
    life: Fenced<Pin<Box<dyn Future<Output = LifeEnd> + Send>>>,
    /// Set to when the life is to be asked to stop, unless its pass is extended.
    timer: Timer,
    /// True if the driver was woken to request it, and the pass was not extended since.
    asked: bool,
    _grant: Arc<Grant>,
}

impl Future for Gated {
    type Output = LifeEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LifeEnd> {
        let this = self.get_mut();
        loop {
            match this.life.pass().standing() {
                Standing::Open(left) => {
                    this.asked = false;
                    let due = later(Instant::now(), left);
                    // Set once per extension: an earlier one fires, and finds that there is more time.
                    let due =
                        this.timer.due().filter(|set| *set <= due && *set > Instant::now()).unwrap_or(due);
                    if this.timer.poll(due, cx).is_pending() {
                        break;
                    }
                }
                Standing::Ends(_) | Standing::Over => {
                    if !std::mem::replace(&mut this.asked, true) {
                        this.timer.clear();
                        this.life.pass().wake_driver();
                    }
                    break;
                }
            }
        }
        Pin::new(&mut this.life).poll(cx)
    }
}
