//! The waits of candidates for a lease to become free.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::Notified};

/// The waits for a lease to become free, by its name.
#[derive(Default)]
pub(crate) struct Channels(Arc<Mutex<Waits>>);

type Waits = BTreeMap<Box<str>, Arc<Notify>>;

fn locked(waits: &Mutex<Waits>) -> MutexGuard<'_, Waits> {
    waits.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channels {
    /// Waits until a lease is freed. It is known by its name as long as somebody waits.
    pub(crate) fn of(&self, lease: &str) -> Waiting {
        let channel = locked(&self.0).entry(lease.into()).or_default().clone();
        Waiting { waits: self.0.clone(), channel, lease: lease.into() }
    }

    pub(crate) fn freed(&self, lease: &str) {
        if let Some(channel) = locked(&self.0).get(lease) {
            channel.notify_waiters();
        }
    }

    /// Something may have been missed.
    #[cfg(feature = "postgres")]
    pub(crate) fn all_freed(&self) {
        locked(&self.0).values().for_each(|channel| channel.notify_waiters());
    }

    /// Returns true while a candidate waits.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn are_waited_for(&self) -> bool {
        !locked(&self.0).is_empty()
    }
}

/// A wait for a lease to become free, until this is dropped.
pub(crate) struct Waiting {
    waits: Arc<Mutex<Waits>>,
    channel: Arc<Notify>,
    lease: Box<str>,
}

impl Waiting {
    pub(crate) fn notified(&self) -> Notified<'_> {
        self.channel.notified()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waits = locked(&self.waits);
        // That of the map, and this one.
        if Arc::strong_count(&self.channel) == 2 {
            waits.remove(&self.lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_is_known_as_long_as_somebody_waits_for_it() {
        let channels = Channels::default();
        let (first, second) = (channels.of("l"), channels.of("l"));
        let other = channels.of("other");
        drop(first);
        assert_eq!(locked(&channels.0).len(), 2);
        {
            let mut notified = std::pin::pin!(second.notified());
            notified.as_mut().enable();
            channels.freed("l");
            notified.await;
        }
        drop((second, other));
        assert_eq!(locked(&channels.0).len(), 0);
    }
}
