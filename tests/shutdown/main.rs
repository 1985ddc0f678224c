//! The ordered shutdown of a manager, and the report of it.

#[path = "../support/mod.rs"]
mod support;

#[cfg(unix)]
mod blocked_output;
mod dependencies;
mod drain;
mod intake;
mod manager;
mod owned;
mod report;
#[cfg(unix)]
mod signals;
