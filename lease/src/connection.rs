//! The one connection of a store.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use crate::{holds::TIMEOUT, store::StoreError};

/// The longest time to make a connection. Meanwhile no other request has one, also if the caller has no time limit of its own.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A connection that is being made. Boxed, because each request would else have room for it.
pub(crate) type Making<'a, C> = Pin<Box<dyn Future<Output = Result<C, StoreError>> + Send + 'a>>;

/// A connection, which may have closed.
pub(crate) trait Connection {
    fn is_closed(&self) -> bool;
}

/// The one connection of a store. It is made with the first request, and again after it has closed.
pub(crate) struct Slot<C> {
    current: Mutex<Option<Arc<C>>>,
    /// Held while a connection is made, so that there is one.
    making: AsyncMutex<()>,
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        Self { current: Mutex::default(), making: AsyncMutex::default() }
    }
}

impl<C: Connection> Slot<C> {
    fn slot(&self) -> MutexGuard<'_, Option<Arc<C>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Option<Arc<C>> {
        self.slot().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    /// Returns the connection. If there is none, `make` makes it, and `made` is called then.
    pub(crate) async fn get<'a>(
        &self,
        make: impl FnOnce() -> Making<'a, C>,
        made: impl FnOnce(),
    ) -> Result<Arc<C>, StoreError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let _one = self.making.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let connection = timeout(CONNECT_WITHIN, make()).await;
        let connection = Arc::new(connection.map_err(|elapsed| StoreError::new(TIMEOUT, elapsed))??);
        let before = self.slot().replace(connection.clone());
        drop(before);
        made();
        Ok(connection)
    }

    /// Makes another connection for the next request.
    pub(crate) fn give_up(&self, connection: &Arc<C>) {
        let gone = self.slot().take_if(|current| Arc::ptr_eq(current, connection));
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicBool, Ordering::SeqCst},
    };

    use super::*;

    #[derive(Default)]
    struct Closes(AtomicBool);

    impl Connection for Closes {
        fn is_closed(&self) -> bool {
            self.0.load(SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_is_never_made_does_not_block_the_next_request() {
        let slot = Slot::<Closes>::default();
        let (first, second) = tokio::join!(
            slot.get(|| Box::pin(pending()), || panic!("nothing was made")),
            slot.get(|| Box::pin(ready(Ok(Closes::default()))), || {})
        );
        assert_eq!(first.err().map(|error| error.error_type()), Some(TIMEOUT));
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn one_connection_is_made_until_it_closes_or_is_given_up() {
        let slot = Slot::<Closes>::default();
        let get = || async { slot.get(|| Box::pin(ready(Ok(Closes::default()))), || {}).await.ok() };
        let first = get().await.expect("made");
        assert!(Arc::ptr_eq(&first, &get().await.expect("kept")));
        first.0.store(true, SeqCst);
        let second = get().await.expect("made again");
        assert!(!Arc::ptr_eq(&first, &second));
        slot.give_up(&first);
        assert!(slot.current().is_some(), "another one");
        slot.give_up(&second);
        assert!(slot.current().is_none());
    }
}
