//! The requests to a store of leases: four, each a future of a result.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use otel_tasks::gate::Claim;

/// A store of leases that several processes share.
///
/// The caller limits each request to a sixth of the shortest ttl and drops its future then; the request may still take effect. Implement the
/// methods as `async fn`, and check the store with the suite `conformance` (feature `testing`).
///
/// # Guarantees that a store gives
/// - A lease has one holder at a time, by the store's own clock. A grant lasts for the ttl from when the store received the request, or
///   longer; never shorter.
/// - The term of a lease grows with each grant, without end.
/// - Each due time is claimed under one term at most, and a due time before a claimed one never.
pub trait LeaseStore: Send + Sync + 'static {
    /// Grants the lease, if it is free, over, or already granted to the same holder: an earlier answer may have been lost on its way.
    fn acquire(&self, ask: &Ask) -> impl Future<Output = Result<Answer, StoreError>> + Send;

    /// Renews all these grants for their ttl from now, in one round trip where the store can. Returns one answer each, in their order.
    ///
    /// A grant that is over is lost, even if no other candidate has taken over.
    fn renew(&self, held: &[Held]) -> impl Future<Output = Result<Vec<Renewed>, StoreError>> + Send;

    /// Claims a due time under the grant's term. The same claim again under the same term is won again: its answer may have been lost.
    fn claim(&self, held: &Held, due: SystemTime) -> impl Future<Output = Result<Claim, StoreError>> + Send;

    /// Frees the lease if it is granted to this holder; otherwise without effect.
    fn release(&self, ask: &Ask) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Completes when the lease may have become free, so that a candidate asks at once. May complete for no reason; never by default.
    ///
    /// What happens after the first poll must not be missed.
    fn freed(&self, lease: &str) -> impl Future<Output = ()> + Send {
        let _ = lease;
        std::future::pending()
    }
}

/// A request for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ask {
    /// The name of the lease.
    pub lease: Arc<str>,
    /// The candidate: unique for each hold, so no two that ask have the same.
    pub holder: Arc<str>,
    /// The time that the grant lasts unless it is renewed.
    pub ttl: Duration,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The request that was granted.
    pub ask: Ask,
    /// The term of the grant.
    pub term: u64,
}

/// The answer to a request for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The candidate holds the lease.
    Granted {
        /// The term: larger than that of every earlier grant, at least 1.
        term: u64,
        /// The last due time that was claimed, or up to a millisecond later.
        last_run: Option<SystemTime>,
    },
    /// Somebody else holds the lease.
    HeldBy {
        /// The holder, if the store knows it.
        holder: Option<String>,
        /// The time after which another request may be granted. A store without [`freed`](LeaseStore::freed) may name a shorter one.
        ask_again_in: Duration,
    },
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// The lease is held for another ttl.
    Kept,
    /// The lease is not held under this term any more.
    Lost,
    /// The request for this lease failed, with this class of error. Others of the same renewal did not.
    Failed(&'static str),
}

/// A failed request to a store.
#[derive(Debug)]
pub struct StoreError {
    error_type: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// Creates an error. `error_type` is its class in metrics, one of a small set.
    pub fn new(error_type: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error_type, source: source.into() }
    }

    /// Returns the class of the error.
    pub fn error_type(&self) -> &'static str {
        self.error_type
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store of leases failed ({})", self.error_type)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A store behind a pointer: [`Leases`](crate::Leases) is not generic.
pub(crate) trait AnyStore: Send + Sync {
    fn acquire<'a>(&'a self, ask: &'a Ask) -> Boxed<'a, Result<Answer, StoreError>>;
    fn renew<'a>(&'a self, held: &'a [Held]) -> Boxed<'a, Result<Vec<Renewed>, StoreError>>;
    fn claim<'a>(&'a self, held: &'a Held, due: SystemTime) -> Boxed<'a, Result<Claim, StoreError>>;
    fn release<'a>(&'a self, ask: &'a Ask) -> Boxed<'a, Result<(), StoreError>>;
    fn freed<'a>(&'a self, lease: &'a str) -> Boxed<'a, ()>;
}

impl<S: LeaseStore> AnyStore for S {
    fn acquire<'a>(&'a self, ask: &'a Ask) -> Boxed<'a, Result<Answer, StoreError>> {
        Box::pin(LeaseStore::acquire(self, ask))
    }

    fn renew<'a>(&'a self, held: &'a [Held]) -> Boxed<'a, Result<Vec<Renewed>, StoreError>> {
        Box::pin(LeaseStore::renew(self, held))
    }

    fn claim<'a>(&'a self, held: &'a Held, due: SystemTime) -> Boxed<'a, Result<Claim, StoreError>> {
        Box::pin(LeaseStore::claim(self, held, due))
    }

    fn release<'a>(&'a self, ask: &'a Ask) -> Boxed<'a, Result<(), StoreError>> {
        Box::pin(LeaseStore::release(self, ask))
    }

    fn freed<'a>(&'a self, lease: &'a str) -> Boxed<'a, ()> {
        Box::pin(LeaseStore::freed(self, lease))
    }
}
