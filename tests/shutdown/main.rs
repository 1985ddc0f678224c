//! The ordered shutdown of a manager, and the report of it.

#[path = "../support/mod.rs"]
mod support;

mod manager;
mod report;
