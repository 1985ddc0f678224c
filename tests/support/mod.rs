//! What the tests share.
#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    reason = "each test binary uses a part of this"
)]

mod alive;
mod door;
mod events;
mod eventually;
pub(crate) mod idioms;
pub(crate) mod metrics;
#[cfg(feature = "otlp-http")]
pub(crate) mod otlp;
pub(crate) mod process;
pub(crate) mod spans;
pub(crate) mod tasks;
mod wall_clock;

pub(crate) use alive::{Alive, AliveGuard};
pub(crate) use door::Door;
pub(crate) use events::{Events, Recorded, listen};
pub(crate) use eventually::{eventually, settle};
pub(crate) use wall_clock::WallClock;

/// A value as its `Debug` writes it: error variants cannot be built outside the crate.
pub(crate) fn shown(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

/// Seconds, which is what virtual time is told in.
pub(crate) const fn secs(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

/// Milliseconds.
pub(crate) const fn millis(milliseconds: u64) -> std::time::Duration {
    std::time::Duration::from_millis(milliseconds)
}
