//! Leases in a real API server of Kubernetes, in one process and in several.
//!
//! The other processes are this program again, which runs the test `replica` alone: see `../shared/replica.rs`.
#![cfg(unix)]

mod cluster;
mod objects;
#[path = "../shared/mod.rs"]
mod shared;

use shared::{guarded, millis, secs};
