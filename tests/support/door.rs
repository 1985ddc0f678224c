//! A gate that a test opens by hand, in the runtime's time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use otel_tasks::{
    gate::{BootClock, BootInstant, BoxFuture, Claim, Gate, Grant, Keeper, Pass},
    policy::ExitKind,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

/// A gate that a test opens by hand. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Door(Arc<Inner>);

struct Inner {
    began: Instant,
    /// For how long the machine was suspended.
    suspended: Arc<Mutex<Duration>>,
    candidates: Mutex<VecDeque<oneshot::Sender<Grant>>>,
    claims: Mutex<Claims>,
    holder: Mutex<Option<Arc<str>>>,
}

/// The due times that were asked for.
#[derive(Default)]
struct Claims {
    last: Option<SystemTime>,
    /// Each with its answer.
    asked: Vec<(SystemTime, Claim)>,
    ended: Vec<(SystemTime, ExitKind)>,
    /// Whether somebody else holds the lease by now.
    lost: bool,
    /// How long a claim, and the end of an iteration, take.
    takes: Duration,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            suspended: Arc::default(),
            candidates: Mutex::default(),
            claims: Mutex::default(),
            holder: Mutex::default(),
        }))
    }

    /// A clock that goes with the runtime's, and through each suspension.
    pub(crate) fn clock(&self) -> BootClock {
        let (began, suspended) = (self.0.began, self.0.suspended.clone());
        BootClock::from_fn(move || {
            BootInstant::after_boot(began.elapsed() + *suspended.lock().expect("no panic"))
        })
    }

    pub(crate) fn now(&self) -> BootInstant {
        self.clock().now()
    }

    /// The machine was suspended: the boot clock went on, and the runtime's stood still.
    pub(crate) fn suspend(&self, time: Duration) {
        *self.0.suspended.lock().expect("no panic") += time;
    }

    fn candidates_now(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Grant>>> {
        let mut candidates = self.0.candidates.lock().expect("no panic");
        candidates.retain(|candidate| !candidate.is_closed());
        candidates
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.claims.lock().expect("no panic")
    }

    /// What was asked for, with the answers.
    pub(crate) fn asked(&self) -> Vec<(SystemTime, Claim)> {
        self.claims().asked.clone()
    }

    /// The due time that was won last.
    pub(crate) fn last_won(&self) -> Option<SystemTime> {
        self.claims().last
    }

    /// What the iterations that were won ended with.
    pub(crate) fn ended(&self) -> Vec<(SystemTime, ExitKind)> {
        self.claims().ended.clone()
    }

    /// Somebody else has claimed all times up to this one.
    pub(crate) fn claim_elsewhere(&self, due: SystemTime) {
        self.claims().last = Some(due);
    }

    /// The next claims find that somebody else holds the lease.
    pub(crate) fn lose(&self) {
        self.claims().lost = true;
    }

    /// The store names this holder.
    pub(crate) fn held_by(&self, holder: Option<&str>) {
        *self.0.holder.lock().expect("no panic") = holder.map(Arc::from);
    }

    /// The next claims are answered again.
    pub(crate) fn regain(&self) {
        self.claims().lost = false;
    }

    /// From now on a claim takes so long, and so does the end of an iteration.
    pub(crate) fn take(&self, takes: Duration) {
        self.claims().takes = takes;
    }

    /// How many stand before the gate.
    pub(crate) fn candidates(&self) -> usize {
        self.candidates_now().len()
    }

    /// Lets the first candidate in, for so long.
    pub(crate) fn admit(&self, term: u64, lasts: Duration, grace: Duration) -> Keeper {
        self.admit_after(term, lasts, grace, None)
    }

    /// The same, after somebody ran what was due then.
    pub(crate) fn admit_after(
        &self,
        term: u64,
        lasts: Duration,
        grace: Duration,
        last_run: Option<SystemTime>,
    ) -> Keeper {
        let candidate = self.candidates_now().pop_front().expect("a candidate");
        let (grant, keeper) = Grant::on(self.clock(), term, self.now().saturating_add(lasts), grace);
        candidate.send(grant.last_run(last_run)).expect("it stands there");
        keeper
    }
}

impl Gate for Door {
    fn name(&self) -> &str {
        "door"
    }

    fn holder(&self) -> Option<Arc<str>> {
        self.0.holder.lock().expect("no panic").clone()
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        let (candidate, grant) = oneshot::channel();
        self.candidates_now().push_back(candidate);
        Box::pin(async move { grant.await.expect("the gate keeps its candidates") })
    }

    fn begin(&self, _: &Pass, due: SystemTime) -> BoxFuture<'_, Claim> {
        Box::pin(async move {
            // As a request would.
            let takes = self.claims().takes.max(Duration::from_millis(2));
            sleep(takes).await;
            let mut claims = self.claims();
            let answer = match claims.last {
                _ if claims.lost => Claim::Lost,
                Some(last) if last >= due => Claim::Done,
                _ => Claim::Won,
            };
            claims.asked.push((due, answer));
            if answer == Claim::Won {
                claims.last = Some(due);
            }
            answer
        })
    }

    fn end(&self, _: &Pass, due: SystemTime, result: ExitKind) -> BoxFuture<'_, ()> {
        let takes = {
            let mut claims = self.claims();
            claims.ended.push((due, result));
            claims.takes
        };
        Box::pin(async move {
            if !takes.is_zero() {
                sleep(takes).await;
            }
        })
    }
}
