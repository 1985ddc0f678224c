//! What the tests share.

#![expect(
    clippy::allow_attributes,
    reason = "which helpers go unused differs from one test binary to the next"
)]
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

mod alive;
mod events;
mod eventually;

pub(crate) use alive::{Alive, AliveGuard};
pub(crate) use events::{Events, Recorded, listen};
pub(crate) use eventually::{eventually, settle};

/// Seconds, which is what virtual time is told in.
pub(crate) fn secs(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

/// Milliseconds.
pub(crate) fn millis(milliseconds: u64) -> std::time::Duration {
    std::time::Duration::from_millis(milliseconds)
}
