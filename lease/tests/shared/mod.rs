//! The scenarios that each store must survive. The server is `crate::cluster`: its `Cluster`, `Store`, `open` and `Fenced`.

pub(crate) mod fleet;
pub(crate) mod guarded;
pub(crate) mod one_process;
pub(crate) mod replica;

use std::time::Duration;

/// Milliseconds.
pub(crate) const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Seconds.
pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
