//! What leaves the process, and how.
pub mod contract;
