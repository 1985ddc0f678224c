//! Leases in a real PostgreSQL, in one process and in several.
//!
//! The other processes are this program again, which runs the test `replica` alone: see `../shared/replica.rs`.
#![cfg(unix)]

mod cluster;
#[path = "../shared/mod.rs"]
mod shared;

use shared::guarded;
