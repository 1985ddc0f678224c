//! The requested and held leases of a process, and their renewal: all due leases in one request.
//!
//! Invariants:
//! 1. An entry is made before the request for its lease is sent. It is removed after the lease was given back or is known to be lost. So
//!    [`Holds::settled`] waits for each request that may still grant a lease.
//! 2. A grant counts from before the request was sent.
//! 3. Nothing is renewed that the driver has given back.

use std::{
    collections::BTreeMap,
    future::{Future, pending, poll_fn},
    hash::{BuildHasher, Hasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, SystemTime},
};

use otel_tasks::gate::{BootClock, BootInstant, Claim, Grant, Keeper};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    figures::{Figures, Operation, Transition},
    store::{Answer, AnyStore, Ask, Held, Renewed, StoreError},
};

/// The `error.type` of a request that passed its time limit.
pub(crate) const TIMEOUT: &str = "timeout";
/// The `error.type` of a request in which the store panicked.
const PANIC: &str = "panic";
/// The `error.type` of a grant whose term does not grow.
pub(crate) const TERM: &str = "term";
/// A lease is renewed when this part of its ttl has passed.
const RENEW_PART: u32 = 3;
/// The part of the shortest ttl that a request may take.
const LIMIT_PART: u32 = 6;
/// The part of the ttl between a failed request and the next.
const RETRY_PART: u32 = 12;

/// The longest time between the notification of a release and the request of a candidate, so that not all candidates ask at once.
const AFTER_FREED: Duration = Duration::from_millis(20);

/// The state that the leases of one store share.
pub(crate) struct Holds {
    store: Box<dyn AnyStore>,
    pub(crate) clock: BootClock,
    pub(crate) figures: Arc<Figures>,
    state: Mutex<State>,
    /// For the renewal: there is another lease.
    added: Notify,
    /// For [`Holds::settled`]: an entry was removed.
    removed: Notify,
}

#[derive(Default)]
struct State {
    /// By holder, which is unique.
    entries: BTreeMap<Arc<str>, Entry>,
    /// The last term of each lease that is used.
    terms: BTreeMap<Arc<str>, u64>,
    /// True while the renewal runs.
    renews: bool,
}

struct Entry {
    ask: Ask,
    /// True once no one waits for the lease.
    leaves: bool,
    /// The other holder that the store named last, while this is a candidate.
    other: Option<Arc<str>>,
    /// `None` while the lease is asked for.
    hold: Option<Hold>,
}

struct Hold {
    term: u64,
    keeper: Arc<Keeper>,
    /// The time of its renewal.
    due: Instant,
    /// True if the last one failed: then it is renewed no earlier. It may be what the others wait for.
    failed: bool,
    /// The last due time that was claimed, as far as is known here.
    last_run: Option<SystemTime>,
    lost: bool,
}

/// A claim of a due time, and its state.
pub(crate) enum Claiming {
    /// The answer is known without the store.
    Known(Claim),
    /// The store is to be asked.
    Ask(Held),
}

impl Holds {
    pub(crate) fn new(store: impl AnyStore + 'static, clock: BootClock) -> Self {
        Self {
            store: Box::new(store),
            figures: Arc::new(Figures::new()),
            clock,
            state: Mutex::default(),
            added: Notify::new(),
            removed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeper(&self, holder: &str) -> Option<Arc<Keeper>> {
        self.state().entries.get(holder)?.hold.as_ref().map(|hold| hold.keeper.clone())
    }

    /// The process that holds the lease; `None` while it is unknown, or while no task of this process waits for the lease.
    pub(crate) fn holder(&self, lease: &str) -> Option<Arc<str>> {
        let state = self.state();
        let of_lease = || state.entries.values().filter(|entry| &*entry.ask.lease == lease);
        let own = of_lease().find(|entry| entry.renewed().is_some()).map(|entry| &entry.ask.holder);
        own.or_else(|| of_lease().find_map(|entry| entry.other.as_ref()))
            .map(|holder| process_of(holder).into())
    }

    /// The store has named the other holder of the lease, or has failed.
    fn named(&self, candidate: &Ask, other: Option<String>) {
        if let Some(entry) = self.state().entries.get_mut(&candidate.holder) {
            entry.other = other.map(Arc::from);
        }
    }

    /// True if another process is known to hold the lease.
    fn is_lost(&self, holder: &str) -> bool {
        let state = self.state();
        state.entries.get(holder).and_then(|entry| entry.hold.as_ref()).is_none_or(|hold| hold.lost)
    }

    /// The lease is not used any more.
    pub(crate) fn unused(&self, lease: &str) {
        self.state().terms.remove(lease);
    }

    /// Returns the time that a request may take. All requests share the store's connection, so the shortest lease decides.
    fn limit(&self) -> Duration {
        let shortest = self.state().entries.values().map(|entry| entry.ask.ttl).min();
        // There is an entry as long as anything is requested.
        shortest.unwrap_or_default() / LIMIT_PART
    }

    /// Sends a request, and counts an error.
    async fn request<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ()> {
        let result = match timeout(self.limit(), caught(request)).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(StoreError::new(PANIC, panic)),
            Err(elapsed) => Err(StoreError::new(TIMEOUT, elapsed)),
        };
        self.figures.answered(operation, result.as_ref().err());
        result.map_err(drop)
    }

    /// Waits for a lease until it is granted. A grant that arrives after this future was dropped is given back.
    pub(crate) async fn enter(self: &Arc<Self>, ask: Ask, grace: Duration) -> Option<Grant> {
        let (answer, answered) = oneshot::channel();
        let holder = ask.holder.clone();
        self.state()
            .entries
            .insert(holder.clone(), Entry { ask: ask.clone(), leaves: false, other: None, hold: None });
        let _stands = Stands { holds: self, holder: &holder };
        // A task of its own, since a dropped request may still be granted.
        tokio::spawn(Candidate { holds: self.clone(), ask, grace }.stand(answer));
        answered.await.ok()
    }

    async fn acquire(&self, ask: &Ask) -> Result<Answer, ()> {
        let acquire = async {
            let answer = self.store.acquire(ask).await?;
            if let Answer::Granted { term, .. } = answer {
                self.grows(ask, term)?;
            }
            Ok(answer)
        };
        self.request(Operation::Acquire, acquire).await
    }

    /// Notes a granted term, which fences what earlier holders write.
    fn grows(&self, ask: &Ask, term: u64) -> Result<(), StoreError> {
        let mut state = self.state();
        let last = state.terms.entry(ask.lease.clone()).or_default();
        if term <= *last {
            return Err(StoreError::new(TERM, format!("term {term} is granted after term {last}")));
        }
        *last = term;
        Ok(())
    }

    /// Keeps what was granted to a candidate.
    fn granted(
        self: &Arc<Self>,
        ask: &Ask,
        grace: Duration,
        (sent, term, last_run): (BootInstant, u64, Option<SystemTime>),
    ) -> Grant {
        let until = sent.saturating_add(ask.ttl);
        let (grant, keeper) = Grant::on(self.clock.clone(), term, until, grace);
        let keeper = Arc::new(keeper);
        let due = Instant::now()
            + (ask.ttl / RENEW_PART).saturating_sub(self.clock.now().saturating_duration_since(sent));
        let renews = {
            let mut state = self.state();
            if let Some(entry) = state.entries.get_mut(&ask.holder) {
                entry.hold = Some(Hold { term, keeper, due, failed: false, last_run, lost: false });
            }
            std::mem::replace(&mut state.renews, true)
        };
        self.figures.acquired(&ask.lease, grant.pass());
        if renews {
            self.added.notify_one();
        } else {
            tokio::spawn(Renewal { holds: self.clone(), is_over: false }.run());
        }
        grant.last_run(last_run)
    }

    /// The renewal's next time, and whether there is anything left to renew.
    fn next_due(&self) -> Option<Instant> {
        let mut state = self.state();
        let due = state.entries.values().filter_map(Entry::renewed).map(|hold| hold.due).min();
        if due.is_none() {
            state.renews = false;
        }
        due
    }

    /// Returns the leases to renew now: due leases, and leases that are due soon. So leases that were acquired one by one come together.
    fn batch(&self) -> Vec<Held> {
        let state = self.state();
        let now = Instant::now();
        let is_due = |entry: &&Entry| {
            let ahead =
                |hold: &Hold| if hold.failed { Duration::ZERO } else { entry.ask.ttl / (2 * RENEW_PART) };
            entry.renewed().is_some_and(|hold| hold.due <= now + ahead(hold))
        };
        let held =
            |entry: &Entry| entry.hold.as_ref().map(|hold| Held { ask: entry.ask.clone(), term: hold.term });
        state.entries.values().filter(is_due).filter_map(held).collect()
    }

    async fn renew(&self) {
        let batch = self.batch();
        if batch.is_empty() {
            return;
        }
        let (sent, began) = (self.clock.now(), Instant::now());
        let answers = self.request(Operation::Renew, async { self.store.renew(&batch).await }).await;
        self.figures.renewed(began.elapsed());
        // Not under the lock: a revocation wakes the driver, which is not ours.
        let mut lost = Vec::new();
        let mut state = self.state();
        for (index, held) in batch.iter().enumerate() {
            let Some(hold) = state.entries.get_mut(&held.ask.holder).and_then(|entry| entry.hold.as_mut())
            else {
                continue;
            };
            let ttl = held.ask.ttl;
            match answers.as_ref().map(|answers| answers.get(index)) {
                Ok(Some(Renewed::Kept)) => {
                    hold.keeper.extend(sent.saturating_add(ttl));
                    (hold.due, hold.failed) = (began + ttl / RENEW_PART, false);
                }
                Ok(Some(Renewed::Lost)) => {
                    hold.lost = true;
                    lost.push(hold.keeper.clone());
                }
                Ok(Some(Renewed::Failed(class))) => {
                    self.figures.failed(Operation::Renew, class);
                    (hold.due, hold.failed) = (Instant::now().max(began + ttl / RETRY_PART), true);
                }
                // A store whose response has too few entries has failed for the others.
                Ok(None) | Err(()) => {
                    (hold.due, hold.failed) = (Instant::now().max(began + ttl / RETRY_PART), true);
                }
            }
        }
        drop(state);
        lost.iter().for_each(|keeper| keeper.revoke());
    }

    /// Begins a claim of a due time under a term. `Lost` if the term is not held any more.
    pub(crate) fn begin_claim(&self, lease: &str, term: u64, due: SystemTime) -> Claiming {
        let mut state = self.state();
        let Some((ask, hold)) = state.held(lease, term) else { return Claiming::Known(Claim::Lost) };
        if hold.last_run.is_some_and(|last| last >= due) {
            return Claiming::Known(Claim::Done);
        }
        Claiming::Ask(Held { ask: ask.clone(), term })
    }

    /// Repeats the request until the store responds. Dropped with the life that waits for it.
    pub(crate) async fn claim(&self, held: &Held, due: SystemTime) -> Claim {
        let answer = self.ask_claim(held, due).await;
        self.claimed(held, due, answer);
        answer
    }

    async fn ask_claim(&self, held: &Held, due: SystemTime) -> Claim {
        loop {
            match self.request(Operation::Claim, async { self.store.claim(held, due).await }).await {
                Ok(answer) => return answer,
                Err(()) => sleep(held.ask.ttl / RETRY_PART).await,
            }
        }
    }

    /// Records a time before the first claim of a lease. A due time at that very moment is still to be claimed.
    pub(crate) async fn record(&self, lease: &str, term: u64, at: SystemTime) {
        let held = self.state().held(lease, term).map(|(ask, _)| Held { ask: ask.clone(), term });
        if let Some(held) = held {
            if self.ask_claim(&held, at).await == Claim::Lost {
                self.claimed(&held, at, Claim::Lost);
            }
        }
    }

    fn claimed(&self, held: &Held, due: SystemTime, answer: Claim) {
        let mut state = self.state();
        let Some((_, hold)) = state.held(&held.ask.lease, held.term) else { return };
        if answer == Claim::Lost {
            hold.lost = true;
            let keeper = hold.keeper.clone();
            drop(state);
            keeper.revoke();
        } else {
            hold.last_run = hold.last_run.max(Some(due));
        }
    }

    /// Waits until nothing of this lease is asked for or waits to be given back.
    pub(crate) async fn settled(&self, lease: &str) {
        loop {
            let removed = self.removed.notified();
            tokio::pin!(removed);
            removed.as_mut().enable();
            let is_settled = {
                let state = self.state();
                let mut entries = state.entries.values().filter(|entry| &*entry.ask.lease == lease);
                entries.all(|entry| !entry.is_leaving())
            };
            if is_settled {
                return;
            }
            removed.await;
        }
    }
}

impl State {
    fn held(&mut self, lease: &str, term: u64) -> Option<(&Ask, &mut Hold)> {
        self.entries.values_mut().find_map(|entry| {
            let hold = entry.hold.as_mut().filter(|hold| hold.term == term)?;
            let is_held = !hold.lost && !hold.keeper.is_released();
            (is_held && &*entry.ask.lease == lease).then_some((&entry.ask, hold))
        })
    }
}

impl Entry {
    /// True if the lease is to be given back, or may have to be.
    fn is_leaving(&self) -> bool {
        match &self.hold {
            None => self.leaves,
            Some(hold) => hold.keeper.is_released(),
        }
    }

    /// The hold, if it is to be renewed.
    fn renewed(&self) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| !hold.lost && !hold.keeper.is_released())
    }
}

/// Somebody waits for a lease, until this is dropped.
struct Stands<'a> {
    holds: &'a Holds,
    holder: &'a str,
}

impl Drop for Stands<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.holds.state().entries.get_mut(self.holder) {
            entry.leaves = true;
        }
    }
}

/// Waits for a lease, holds it, and gives it back.
struct Candidate {
    holds: Arc<Holds>,
    ask: Ask,
    grace: Duration,
}

impl Candidate {
    async fn stand(self, mut answer: oneshot::Sender<Grant>) {
        let Self { holds, ask, .. } = &self;
        let grant = loop {
            let mut freed = pin!(async {
                if caught(async { holds.store.freed(&ask.lease).await }).await.is_err() {
                    pending::<()>().await;
                }
            });
            // From here on nothing is missed; what it may say now is older than the request.
            let is_stale = poll_fn(|cx| Poll::Ready(freed.as_mut().poll(cx).is_ready())).await;
            let sent = holds.clock.now();
            // Until when a request whose answer is missing may have been granted.
            let (pause, unknown) = match holds.acquire(ask).await {
                Ok(Answer::Granted { term, last_run }) => {
                    break holds.granted(ask, self.grace, (sent, term, last_run));
                }
                Ok(Answer::HeldBy { holder, ask_again_in }) => {
                    holds.named(ask, holder);
                    (ask_again_in.min(ask.ttl), None)
                }
                Err(()) => {
                    holds.named(ask, None);
                    (ask.ttl / RETRY_PART, Some(sent.saturating_add(ask.ttl)))
                }
            };
            let jitter = (ask.ttl / RETRY_PART / 2).mul_f64(fraction());
            tokio::select! {
                biased;
                () = answer.closed() => {
                    if let Some(over) = unknown {
                        self.give_back(over).await;
                    }
                    return;
                }
                () = sleep(pause + jitter) => {}
                () = freed, if !is_stale => sleep(AFTER_FREED.mul_f64(fraction())).await,
            }
        };
        let (pass, keeper) = (grant.pass(), holds.keeper(&ask.holder));
        // Without a waiter, the grant is dropped here and given back.
        let _ = answer.send(grant);
        if let Some(keeper) = keeper {
            keeper.released().await;
        }
        let now = holds.clock.now();
        // A lease whose run was asked to end without a renewal is lost, too.
        let ran_out = now >= pass.until().saturating_sub(self.grace);
        let lost = holds.is_lost(&ask.holder);
        let transition = if lost || ran_out { Transition::Lost } else { Transition::Released };
        holds.figures.ended(&ask.lease, transition, pass.term());
        if lost {
            // Perhaps its time has passed, and no other process holds it.
            let _ = self.release().await;
        } else {
            // A renewal whose answer is missing may have been sent just now.
            self.give_back(now.saturating_add(ask.ttl)).await;
        }
    }

    async fn release(&self) -> Result<(), ()> {
        let Self { holds, ask, .. } = self;
        holds.request(Operation::Release, async { holds.store.release(ask).await }).await
    }

    /// Gives the lease back; tries again until it is over in any case.
    async fn give_back(&self, over: BootInstant) {
        let Self { holds, ask, .. } = self;
        while holds.clock.now() < over {
            if self.release().await.is_ok() {
                return;
            }
            sleep(ask.ttl / RETRY_PART).await;
        }
    }
}

impl Drop for Candidate {
    /// Also with the runtime.
    fn drop(&mut self) {
        let entry = self.holds.state().entries.remove(&self.ask.holder);
        // A keeper that goes revokes nothing: what is left of the grant ends by its time.
        drop(entry);
        self.holds.removed.notify_waiters();
    }
}

/// The renewal of all leases of one store. Ends when there is none.
struct Renewal {
    holds: Arc<Holds>,
    is_over: bool,
}

impl Renewal {
    async fn run(mut self) {
        while let Some(due) = self.holds.next_due() {
            tokio::select! {
                () = sleep_until(due) => self.holds.renew().await,
                () = self.holds.added.notified() => {}
            }
        }
        self.is_over = true;
    }
}

impl Drop for Renewal {
    /// With its runtime: the next grant begins another, on its own.
    fn drop(&mut self) {
        if !self.is_over {
            self.holds.state().renews = false;
        }
    }
}

/// The name of the process in the name of one of its holds, which has a number after a slash: see [`Leases::holder`](crate::Leases::holder).
fn process_of(holder: &str) -> &str {
    holder.rsplit_once('/').map_or(holder, |(process, _)| process)
}

/// The output of a request; the text of a panic in it. A store is the user's.
async fn caught<T>(request: impl Future<Output = T>) -> Result<T, String> {
    let mut request = pin!(request);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Poll::Ready(Err(text.unwrap_or_else(|| "a panic without a text".to_owned())))
        }
    })
    .await
}

/// A random number, 0 to 1: what candidates of several processes need to come apart.
fn fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}
