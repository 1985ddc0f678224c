//! A store in memory, in the runtime's time: leases of one process, for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use otel_tasks::gate::Claim;
use tokio::{sync::Notify, time::Instant};

use crate::store::{Answer, Ask, Held, LeaseStore, Renewed, StoreError};

/// A store in memory, for tests: several managers of one process share it. Clones are the same store. Its clock is tokio's, so it goes with
/// virtual time.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    rows: Arc<Mutex<BTreeMap<Arc<str>, Row>>>,
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Row {
    term: u64,
    grant: Option<(Arc<str>, Instant)>,
    /// The last due time that was claimed, and under which term.
    last_run: Option<(SystemTime, u64)>,
}

impl Memory {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the term under which the lease is held now; `None` if it is free.
    pub fn held_term(&self, lease: &str) -> Option<u64> {
        let rows = self.rows();
        let row = rows.get(lease)?;
        row.grant.as_ref().filter(|(_, until)| *until > Instant::now()).map(|_| row.term)
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn is_held(&self, held: &Held) -> bool {
        let is_valid =
            |(holder, until): &(Arc<str>, Instant)| *holder == held.ask.holder && *until > Instant::now();
        self.term == held.term && self.grant.as_ref().is_some_and(is_valid)
    }
}

impl LeaseStore for Memory {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        let (now, mut rows) = (Instant::now(), self.rows());
        let row = rows.entry(ask.lease.clone()).or_default();
        if let Some((holder, until)) = &row.grant {
            let left = until.saturating_duration_since(now);
            if *holder != ask.holder && !left.is_zero() {
                return Ok(Answer::HeldBy { holder: Some(holder.to_string()), ask_again_in: left });
            }
        }
        row.term += 1;
        row.grant = Some((ask.holder.clone(), now + ask.ttl));
        Ok(Answer::Granted { term: row.term, last_run: row.last_run.map(|(due, _)| due) })
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        let mut rows = self.rows();
        let mut renew = |held: &Held| match rows.get_mut(&held.ask.lease).filter(|row| row.is_held(held)) {
            None => Renewed::Lost,
            Some(row) => {
                row.grant = Some((held.ask.holder.clone(), Instant::now() + held.ask.ttl));
                Renewed::Kept
            }
        };
        Ok(held.iter().map(&mut renew).collect())
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        let mut rows = self.rows();
        let Some(row) = rows.get_mut(&held.ask.lease).filter(|row| row.is_held(held)) else {
            return Ok(Claim::Lost);
        };
        match row.last_run {
            Some(last) if last == (due, held.term) => {}
            Some((last, _)) if last >= due => return Ok(Claim::Done),
            _ => row.last_run = Some((due, held.term)),
        }
        Ok(Claim::Won)
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        if let Some(row) = self.rows().get_mut(&ask.lease) {
            if row.grant.as_ref().is_some_and(|(holder, _)| *holder == ask.holder) {
                row.grant = None;
                self.freed.notify_waiters();
            }
        }
        Ok(())
    }

    async fn freed(&self, _lease: &str) {
        self.freed.notified().await;
    }
}
