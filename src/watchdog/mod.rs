//! The time of running polls, seen from outside: by a thread of the process that runs even if every worker of the
//! runtime is stuck. It knows neither tokio nor OpenTelemetry, and decides nothing: it reports to each manager.
//!
//! ```text
//! run, driver --polling(id)--> the slot of its thread <--looks-- watchdog's thread --Tick--> Watched (a manager)
//! ```
//!
//! There is one thread for all managers, because what it watches is a property of threads, which managers share.

mod aside;
mod scan;
mod slot;
mod thread;

pub(crate) use aside::{aside, say_within};
pub(crate) use scan::BlockedPoll;
pub(crate) use slot::{MemberId, block_for, manager_of, member_id, polled_here, polling, seen_for};
pub(crate) use thread::{Tick, Watched, last_tick, next_number, tick_at, watch};
