//! Blocking work, and the token that requests it to stop.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// The stop request for blocking work. Nothing else can stop such work: Rust cannot end a thread from outside.
///
/// ```
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tasks = otel_tasks::TaskManager::new();
/// let poller = tasks.spawn_blocking("poller", |stop| {
///     while !stop.wait_timeout(Duration::from_millis(10)) {
///         // look at the device
///     }
/// });
/// assert!(tasks.shutdown().await.is_clean());
/// # drop(poller);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct StopToken(CancellationToken);

impl StopToken {
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self(token)
    }

    /// Returns true if the work should stop.
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Blocks this thread for `timeout`, or until the work should stop. Returns whether it should stop.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let until = Instant::now().checked_add(timeout);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut stopped = pin!(self.0.cancelled());
        loop {
            if stopped.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                return true;
            }
            match until {
                // Longer than the clock can represent.
                None => std::thread::park(),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    std::thread::park_timeout(left);
                }
            }
        }
    }

    /// The token behind it, for libraries that take one.
    pub fn cancellation_token(&self) -> &CancellationToken {
        &self.0
    }
}
