//! The store on Kubernetes: one `Lease` object of `coordination.k8s.io/v1` for each lease.
//!
//! # Time
//! Each process counts on its own clock, which counts suspension. No wall clock is compared: `acquireTime` and `renewTime` are for readers.
//! A candidate takes over when it has seen no change of the object for `leaseDurationSeconds`. A holder counts its ttl from before it sent its
//! last renewal, so its time is over first. A candidate that has just started counts from when it saw the object first.
//!
//! `leaseDurationSeconds` is in whole seconds. A ttl is rounded up, so with a ttl below a second a take-over after a crash takes a second.
//!
//! # The term
//! The term is `leaseTransitions`, which each grant counts up. Each write names the `resourceVersion` that it follows. If the object has
//! changed, the server refuses the write: another process was first, which is no error.
//!
//! Do not delete the object of a lease in use. Processes that have seen it wait for the rest of the lease, and continue from the
//! largest term that they have seen. A process that has not seen it creates it again, with term 1. Receivers that know a larger term then refuse its writes.
//!
//! # Claims
//! The last claimed due time and its term are annotations of the object, written as everything else: if it has not changed.
//!
//! # Permissions
//! The verbs `get`, `create`, `update` and `watch` on [`RESOURCE`] in the namespace.

mod config;
mod connection;
mod error;
mod names;
mod object;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use otel_tasks::gate::{BootInstant, Claim};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout, timeout_at},
};

pub use self::{
    config::Config,
    error::{NameError, RESOURCE, RequestError},
};
use self::{
    connection::{Api, Event, Reply, Watch},
    names::object_name,
    object::Object,
};
use crate::{
    freed::Channels,
    holds::TIMEOUT,
    store::{Answer, Ask, Held, LeaseStore, Renewed, StoreError},
};

/// The number of renewals that wait for a response at once: the server counts the seats of a client.
const CONCURRENT: usize = 16;
/// The part of the ttl after which renewals that have no response yet have failed. The caller drops all of them after a sixth, and the others have
/// their responses.
const LIMIT_PART: u32 = 7;
/// The number of times that one write is tried while others change the object. Only an edit by hand changes a held one.
const ATTEMPTS: usize = 5;
/// The time between the end of a watch and the next.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Leases in objects of Kubernetes, over one connection that is made again when it is lost. Clones share it.
///
/// ```no_run
/// use otel_tasks_lease::{Kubernetes, Leases, StoreError};
/// # fn example() -> Result<(), StoreError> {
/// let leases = Leases::new(Kubernetes::in_cluster()?);
/// let lease = leases.lease("outbox");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Kubernetes(Arc<Inner>);

struct Inner {
    api: Api,
    /// By the name of the object.
    seen: Mutex<BTreeMap<Box<str>, Seen>>,
    channels: Channels,
    watching: Mutex<Watching>,
    /// The shortest ttl that was asked for, in microseconds: it limits each request of the caller.
    shortest: AtomicU64,
}

#[derive(Default)]
struct Watching {
    task: Option<JoinHandle<()>>,
    /// The reason why there is no watch. A candidate gets it, since it is notified of no release.
    refused: Option<String>,
}

/// The knowledge of this process about an object.
#[derive(Default)]
struct Seen {
    /// The version that was seen last, and when it was seen first.
    last: Option<(Object, BootInstant)>,
    /// The largest term.
    term: u64,
    /// The grant to a candidate of this process.
    grant: Option<Grant>,
}

struct Grant {
    holder: Arc<str>,
    term: u64,
    /// The end of the grant, from before its request was sent.
    until: BootInstant,
    /// The version to write next. The version that was seen last may be older: another candidate of this process may have seen it since.
    object: Object,
}

impl Grant {
    fn is_of(&self, object: &Object) -> bool {
        object.is_granted(&self.holder, self.term)
    }
}

impl Seen {
    fn saw(&mut self, object: &Object) {
        self.term = self.term.max(object.term());
        let is_known = self.last.as_ref().is_some_and(|(last, _)| last.version() == object.version());
        if !is_known {
            self.last = Some((object.clone(), BootInstant::now()));
        }
    }

    /// Returns the rest of the time of another holder; `None` if it is over or not known.
    fn rest(&self, ask: &Ask) -> Option<(&str, Duration)> {
        let (object, since) = self.last.as_ref()?;
        let holder = object.holder().filter(|holder| **holder != *ask.holder)?;
        let over = since.saturating_add(object.duration().unwrap_or(ask.ttl));
        let rest = over.saturating_duration_since(BootInstant::now());
        (!rest.is_zero()).then_some((holder, rest))
    }

    /// As [`saw`](Self::saw), for a version that this process wrote, or read since its write was refused.
    fn saw_own(&mut self, object: &Object) {
        self.saw(object);
        if let Some(grant) = self.grant.as_mut().filter(|grant| grant.is_of(object)) {
            grant.object = object.clone();
        }
    }

    /// Returns the version to write next, if this grant is held and its time is not over.
    fn held(&self, held: &Held) -> Option<Object> {
        let grant = self.grant.as_ref()?;
        let is_same = grant.holder == held.ask.holder && grant.term == held.term;
        (is_same && grant.until > BootInstant::now()).then(|| grant.object.clone())
    }
}

impl Kubernetes {
    /// Creates a store. The connection is made with the first request.
    ///
    /// # Errors
    /// If the URL, the namespace or a certificate is not valid.
    pub fn new(config: Config) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Inner {
            api: Api::new(config)?,
            seen: Mutex::default(),
            channels: Channels::default(),
            watching: Mutex::default(),
            shortest: AtomicU64::new(u64::MAX),
        })))
    }

    /// Creates a store on the cluster of this pod, in the pod's namespace, with its service account.
    ///
    /// # Errors
    /// If this process does not run in a pod with a service account.
    pub fn in_cluster() -> Result<Self, StoreError> {
        Self::new(Config::in_cluster()?)
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

impl Inner {
    /// Reads or changes what is known of an object.
    fn known<T>(&self, name: &str, look: impl FnOnce(&mut Seen) -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(name) {
            Some(seen) => look(seen),
            None => look(seen.entry(name.into()).or_default()),
        }
    }

    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the next version of an object. Returns `None` if another process was first, or deleted it.
    async fn update(&self, name: &str, object: Object) -> Result<Option<Object>, StoreError> {
        if let Reply::Object(object) = self.api.update(name, object).await? {
            self.known(name, |seen| seen.saw_own(&object));
            return Ok(Some(object));
        }
        let found = self.api.get(name).await?;
        self.known(name, |seen| match &found {
            Some(object) if seen.grant.as_ref().is_some_and(|grant| grant.is_of(object)) => {
                seen.saw_own(object)
            }
            _ => seen.grant = None,
        });
        Ok(None)
    }

    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        let name = object_name(&ask.lease)?;
        self.shortest.fetch_min(u64::try_from(ask.ttl.as_micros()).unwrap_or(u64::MAX), Relaxed);
        for _ in 0..ATTEMPTS {
            let found = self.api.get(&name).await?;
            let (rest, term) = self.known(&name, |seen| {
                if let Some(object) = &found {
                    seen.saw(object);
                }
                let rest = seen.rest(ask).map(|(holder, rest)| (holder.to_owned(), rest));
                (rest, seen.term + 1)
            });
            if let Some((holder, rest)) = rest {
                if let Some(refused) = self.watching().refused.clone() {
                    return Err(StoreError::new("watch", refused));
                }
                return Ok(Answer::HeldBy { holder: Some(holder), ask_again_in: rest.min(ask.ttl) });
            }
            let sent = BootInstant::now();
            let written = match found {
                Some(object) => self.update(&name, object.granted(ask, term)?).await?,
                None => match self.api.create(Object::new(&name, ask, term)?).await? {
                    Reply::Object(object) => Some(object),
                    Reply::Absent | Reply::Conflict => None,
                },
            };
            let Some(object) = written else { continue };
            let last_run = object.last_run()?.map(|(due, _)| due);
            self.known(&name, |seen| {
                seen.saw(&object);
                let until = sent.saturating_add(ask.ttl);
                seen.grant = Some(Grant { holder: ask.holder.clone(), term, until, object });
            });
            return Ok(Answer::Granted { term, last_run });
        }
        Ok(Answer::HeldBy { holder: None, ask_again_in: ask.ttl / 12 })
    }

    async fn renew(&self, held: &Held) -> Result<Renewed, StoreError> {
        let name = object_name(&held.ask.lease)?;
        for _ in 0..ATTEMPTS {
            let Some(object) = self.known(&name, |seen| seen.held(held)) else { return Ok(Renewed::Lost) };
            let sent = BootInstant::now();
            if self.update(&name, object.renewed(held.ask.ttl)).await?.is_some() {
                self.known(&name, |seen| {
                    let grant = seen.grant.as_mut();
                    if let Some(grant) = grant.filter(|grant| grant.holder == held.ask.holder) {
                        grant.until = grant.until.max(sent.saturating_add(held.ask.ttl));
                    }
                });
                return Ok(Renewed::Kept);
            }
        }
        Err(RequestError::Contended.into())
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        let name = object_name(&held.ask.lease)?;
        for _ in 0..ATTEMPTS {
            let Some(object) = self.known(&name, |seen| seen.held(held)) else { return Ok(Claim::Lost) };
            match object.last_run()? {
                Some((last, term)) if (last, term) == (due, held.term) => return Ok(Claim::Won),
                Some((last, _)) if last >= due => return Ok(Claim::Done),
                _ => {}
            }
            if self.update(&name, object.claimed(due)?).await?.is_some() {
                return Ok(Claim::Won);
            }
        }
        Err(RequestError::Contended.into())
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        let name = object_name(&ask.lease)?;
        let is_mine = |object: &Object| object.holder() == Some(&*ask.holder);
        for _ in 0..ATTEMPTS {
            // A grant that is given back is renewed no more.
            let grant = self.known(&name, |seen| seen.grant.take_if(|grant| grant.holder == ask.holder));
            let found = match grant {
                Some(grant) => Some(grant.object),
                None => self.api.get(&name).await?,
            };
            let Some(object) = found.filter(is_mine) else { return Ok(()) };
            if self.update(&name, object.released()).await?.is_some() {
                return Ok(());
            }
        }
        Err(RequestError::Contended.into())
    }

    fn heard(&self, event: Event) {
        let (Event::Changed(object) | Event::Deleted(object)) = &event;
        let Some(name) = object.name() else { return };
        let is_over = matches!(event, Event::Deleted(_)) || object.holder().is_none();
        if !is_over {
            self.known(name, |seen| {
                // A holder has seen the newest version, since it wrote it. An older one may arrive here later.
                if seen.grant.as_ref().is_none_or(|grant| grant.until <= BootInstant::now()) {
                    seen.saw(object);
                }
            });
        } else {
            self.channels.freed(name);
        }
    }

    /// Begins the watch, if there is none.
    fn watch(self: &Arc<Self>) {
        let mut watching = self.watching();
        if watching.task.as_ref().is_none_or(JoinHandle::is_finished) {
            watching.task = Some(tokio::spawn(watch(Arc::downgrade(self))));
        }
    }

    /// True if a candidate waits. Otherwise the watch ends.
    fn keeps_watching(&self) -> bool {
        let mut watching = self.watching();
        let waits = self.channels.are_waited_for();
        if !waits {
            watching.task = None;
        }
        waits
    }

    async fn open(&self) -> Option<Watch> {
        let opened = self.api.watch().await?;
        self.watching().refused = match &opened {
            Err(error) if matches!(error.error_type(), "forbidden" | "unauthorized") => {
                std::error::Error::source(error).map(ToString::to_string)
            }
            _ => None,
        };
        opened.ok()
    }
}

/// Watches the objects while a candidate waits, and while there is a store.
async fn watch(store: Weak<Inner>) {
    while let Some(inner) = store.upgrade().filter(|inner| inner.keeps_watching()) {
        let made = inner.api.made.clone();
        let made = made.notified();
        let opened = inner.open().await;
        drop(inner);
        if let Some(mut watch) = opened {
            while let Some(event) = watch.next().await {
                let Some(inner) = store.upgrade() else { return };
                inner.heard(event);
            }
        }
        // At once after a new connection: the first of this store, or the one after a restart of the server.
        let _ = timeout(WATCH_PAUSE, made).await;
    }
}

impl LeaseStore for Kubernetes {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        self.0.acquire(ask).await
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        let Some(shortest) = held.iter().map(|held| held.ask.ttl).min() else { return Ok(Vec::new()) };
        let shortest = shortest.min(Duration::from_micros(self.0.shortest.load(Relaxed)));
        let deadline = Instant::now() + shortest / LIMIT_PART;
        let seats = Arc::new(Semaphore::new(CONCURRENT));
        // Dropped with this future, and all of its requests with it.
        let mut requests = JoinSet::new();
        for (index, held) in held.iter().cloned().enumerate() {
            let (inner, seats) = (self.0.clone(), seats.clone());
            requests.spawn(async move {
                // Never closed.
                let _seat = seats.acquire().await;
                (index, inner.renew(&held).await)
            });
        }
        let mut answers = vec![Renewed::Failed(TIMEOUT); held.len()];
        let mut failed = None;
        while let Ok(Some(done)) = timeout_at(deadline, requests.join_next()).await {
            let (index, answer) = done.map_err(|error| StoreError::new("panic", error))?;
            answers[index] = answer.unwrap_or_else(|error| {
                let class = Renewed::Failed(error.error_type());
                failed = Some(error);
                class
            });
        }
        if answers.iter().all(|answer| matches!(answer, Renewed::Failed(_))) {
            return Err(
                failed.unwrap_or_else(|| StoreError::new(TIMEOUT, "no renewal had a response in time"))
            );
        }
        Ok(answers)
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        self.0.claim(held, due).await
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        self.0.release(ask).await
    }

    fn freed(&self, lease: &str) -> impl Future<Output = ()> + Send {
        let inner = self.0.clone();
        let name = object_name(lease);
        async move {
            // The request for the lease has the error.
            let Ok(name) = name else { return std::future::pending().await };
            let channel = inner.channels.of(&name);
            let freed = channel.notified();
            inner.watch();
            drop(inner);
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask() -> Ask {
        Ask { lease: "a".into(), holder: "me".into(), ttl: Duration::from_secs(15) }
    }

    fn version(number: u64, holder: &str, term: u64) -> Object {
        let metadata = json!({ "name": "a", "uid": "u", "resourceVersion": number.to_string() });
        let spec = json!({ "holderIdentity": holder, "leaseTransitions": term, "leaseDurationSeconds": 15 });
        Object::of(json!({ "metadata": metadata, "spec": spec })).expect("an object")
    }

    #[test]
    fn a_late_response_of_another_candidate_ends_no_grant() {
        let held = Held { ask: ask(), term: 2 };
        let until = BootInstant::now().saturating_add(ask().ttl);
        let object = version(8, "me", 2);
        let grant = Grant { holder: ask().holder, term: 2, until, object: object.clone() };
        let mut seen = Seen { grant: Some(grant), ..Seen::default() };
        seen.saw(&object);
        seen.saw(&version(7, "", 1));
        assert_eq!(seen.held(&held), Some(object));
        assert_eq!(seen.term, 2, "the largest term is known");
    }

    #[test]
    fn a_grant_whose_time_is_over_is_not_held_though_nobody_took_over() {
        let object = version(8, "me", 2);
        let grant = Grant { holder: ask().holder, term: 2, until: BootInstant::now(), object };
        let seen = Seen { grant: Some(grant), ..Seen::default() };
        assert_eq!(seen.held(&Held { ask: ask(), term: 2 }), None);
    }

    #[test]
    fn a_candidate_counts_from_the_last_change_that_it_saw() {
        let mut seen = Seen::default();
        seen.saw(&version(7, "other", 1));
        let Some((_, since)) = seen.last.clone() else { panic!("it was seen") };
        std::thread::sleep(Duration::from_millis(2));
        seen.saw(&version(7, "other", 1));
        assert_eq!(seen.last.as_ref().map(|(_, since)| *since), Some(since), "nothing changed");
        seen.saw(&version(8, "other", 1));
        assert!(seen.last.as_ref().is_some_and(|(_, again)| *again > since));
        assert!(
            seen.rest(&ask())
                .is_some_and(|(holder, rest)| holder == "other" && rest > Duration::from_secs(14))
        );
    }
}
