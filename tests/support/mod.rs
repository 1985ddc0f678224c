//! Helpers of the integration tests. Not every test file uses all of them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test binary uses a part of this"
)]

pub mod otlp;
