//! Expensive responses. They are prepared one at a time on a thread for blocking work, and shared by concurrent requests. They are bounded in
//! bytes until their clients have read them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

/// The maximum of bytes in responses that were not sent yet. A larger response needs all of it.
const BYTES: usize = 32 << 20;
/// The unit of the room, in bytes.
const UNIT: usize = 1 << 10;

/// The longest time that an answer is waited for, behind others or while it is made.
const PATIENCE: Duration = Duration::from_secs(10);

/// There is no room, or no time, for the answer.
#[derive(Debug)]
pub(crate) struct Busy;

/// The room for responses that are not sent yet.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES / UNIT)))
    }
}

/// An answer with its room.
struct Held {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// The answer, which takes its room until the last clone is dropped.
    pub(crate) fn hold(&self, bytes: Vec<u8>) -> Result<Bytes, Busy> {
        let units = bytes.len().div_ceil(UNIT).min(BYTES / UNIT);
        let units = u32::try_from(units).map_err(|_| Busy)?;
        let room = self.0.clone().try_acquire_many_owned(units).map_err(|_| Busy)?;
        Ok(Bytes::from_owner(Held { bytes, _room: room }))
    }
}

/// Prepares responses one at a time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Maker {
    turn: Arc<Mutex<()>>,
    room: Room,
}

impl Maker {
    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    /// Returns the result of `make`, which runs on a thread for blocking work.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let made = async {
            let turn = self.turn.clone().lock_owned().await;
            // The turn is over when it is made, though nobody waits any more.
            let made = tokio::task::spawn_blocking(move || (make(), turn)).await;
            made.map(|(made, _turn)| made).map_err(|_| Busy)
        };
        tokio::time::timeout(PATIENCE, made).await.map_err(|_| Busy)?
    }

    /// The answer that `make` returns, made like that, with its room.
    pub(crate) async fn answer<E: From<Busy> + Send + 'static>(
        &self,
        make: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Result<Bytes, E> {
        Ok(self.room.hold(self.make(make).await??)?)
    }
}

/// One answer, for all that ask within a time.
#[derive(Debug)]
pub(crate) struct Shared {
    fresh: Duration,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
    /// True if something was changed since the last response was begun.
    is_stale: AtomicBool,
}

impl Shared {
    /// Creates a response that is shared for `fresh` after it was made.
    pub(crate) fn new(fresh: Duration) -> Self {
        Self { fresh, last: Arc::default(), is_stale: AtomicBool::new(false) }
    }

    /// Returns the response, made by `make` if the last one is older. Concurrent requests wait for it.
    pub(crate) async fn get<E>(
        &self,
        maker: &Maker,
        make: impl FnOnce() -> Result<Vec<u8>, E> + Send + 'static,
    ) -> Result<Bytes, E>
    where
        E: From<Busy> + Send + 'static,
    {
        let mut last =
            tokio::time::timeout(PATIENCE, self.last.clone().lock_owned()).await.map_err(|_| Busy)?;
        let is_stale = self.is_stale.swap(false, Relaxed);
        if let Some((_, bytes)) = last.as_ref().filter(|(made, _)| !is_stale && made.elapsed() < self.fresh) {
            return Ok(bytes.clone());
        }
        // Before the new one needs its room.
        *last = None;
        let (maker, kept, fresh) = (maker.clone(), self.last.clone(), self.fresh);
        // A task of its own: others wait for the answer, though who asked first may leave.
        let made = tokio::spawn(async move {
            let bytes = maker.answer(make).await?;
            // From now on, not from when it was begun: otherwise nobody shares an answer that takes longer than its time to make.
            let now = Instant::now();
            *last = Some((now, bytes.clone()));
            // It needs its room no longer than it is shared: other responses may need that.
            tokio::spawn(async move {
                tokio::time::sleep(fresh).await;
                kept.lock_owned().await.take_if(|(made, _)| *made == now);
            });
            Ok(bytes)
        });
        made.await.map_err(|_| Busy)?
    }

    /// Serves the answer to nobody any more: something was changed.
    pub(crate) fn forget(&self) {
        self.is_stale.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[test]
    fn response_keeps_its_room_until_the_last_drop() {
        let room = Room::default();
        let first = room.hold(vec![0; BYTES - UNIT]).expect("room");
        let shared = first.slice(10..20);
        let small = room.hold(vec![0; UNIT]).expect("room");
        assert!(room.hold(vec![0; 1]).is_err());
        drop(first);
        assert!(room.hold(vec![0; 2 * UNIT]).is_err(), "a part of it is still held");
        drop((shared, small));
        drop(room.hold(vec![0; BYTES * 2]).expect("larger than all, and alone"));
        assert!(room.hold(Vec::new()).is_ok());
    }

    #[tokio::test]
    async fn simultaneous_requests_share_one_response() {
        let made = Arc::new(AtomicUsize::new(0));
        let (maker, shared) = (Maker::default(), Shared::new(Duration::from_secs(60)));
        let make = || {
            let made = made.clone();
            move || -> Result<Vec<u8>, Busy> {
                std::thread::sleep(Duration::from_millis(20));
                Ok(made.fetch_add(1, SeqCst).to_string().into_bytes())
            }
        };
        let (first, second) = tokio::join!(shared.get(&maker, make()), shared.get(&maker, make()));
        assert_eq!((first.expect("made"), second.expect("shared")), ("0".into(), "0".into()));
        shared.forget();
        assert_eq!(shared.get(&maker, make()).await.expect("made"), "1");
        let old = Shared::new(Duration::ZERO);
        assert_eq!(old.get(&maker, make()).await.expect("made"), "2");
        assert_eq!(old.get(&maker, make()).await.expect("made again"), "3");
    }

    #[tokio::test]
    async fn response_gives_its_room_back_once_it_is_not_shared() {
        let maker = Maker::default();
        let (text, open) = (Shared::new(Duration::from_millis(50)), Shared::new(Duration::from_millis(50)));
        let large = || Ok::<_, Busy>(vec![b'x'; BYTES - UNIT]);
        drop(text.get(&maker, large).await.expect("room"));
        tokio::time::timeout(Duration::from_secs(30), async {
            while open.get(&maker, large).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the room of the other response");
    }

    #[tokio::test]
    async fn waiting_requests_share_a_response_slower_than_its_lifetime() {
        let made = Arc::new(AtomicUsize::new(0));
        let (maker, shared) = (Maker::default(), Shared::new(Duration::from_millis(500)));
        let make = || {
            let made = made.clone();
            move || -> Result<Vec<u8>, Busy> {
                std::thread::sleep(Duration::from_millis(600));
                Ok(made.fetch_add(1, SeqCst).to_string().into_bytes())
            }
        };
        let (first, second) = tokio::join!(shared.get(&maker, make()), shared.get(&maker, make()));
        assert_eq!((first.expect("made"), second.expect("shared")), ("0".into(), "0".into()));
    }

    #[tokio::test]
    async fn response_is_shared_after_its_first_client_leaves() {
        let made = Arc::new(AtomicUsize::new(0));
        let (maker, shared) = (Maker::default(), Shared::new(Duration::from_secs(60)));
        let make = || {
            let made = made.clone();
            move || -> Result<Vec<u8>, Busy> {
                std::thread::sleep(Duration::from_millis(50));
                Ok(made.fetch_add(1, SeqCst).to_string().into_bytes())
            }
        };
        let first = tokio::time::timeout(Duration::from_millis(5), shared.get(&maker, make()));
        first.await.expect_err("it leaves");
        assert_eq!(shared.get(&maker, make()).await.expect("shared"), "0");
    }

    /// A client that leaves does not let the next response begin early.
    #[tokio::test]
    async fn responses_are_made_one_at_a_time_after_disconnects() {
        let maker = Maker::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..5 {
            let (running, most) = (running.clone(), most.clone());
            let make = maker.make(move || {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                std::thread::sleep(Duration::from_millis(20));
                running.fetch_sub(1, SeqCst);
            });
            let _ = tokio::time::timeout(Duration::from_millis(5), make).await;
        }
        maker.make(|| ()).await.expect("its turn");
        assert_eq!(most.load(SeqCst), 1);
    }
}
