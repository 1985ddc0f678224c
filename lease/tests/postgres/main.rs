//! Leases in a real PostgreSQL, in one process and in several.
//!
//! The other processes are this program again, which runs the test `replica` alone: see `replica.rs`.
#![cfg(unix)]

mod cluster;
mod fleet;
mod one_process;
mod replica;

use std::time::Duration;

/// Milliseconds.
const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Seconds.
const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
