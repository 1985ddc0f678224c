//! Forty faults that the manager survives, by number; each module holds a range of them.
//!
//! Virtual time where no real thread is involved, and then on one thread; the same scenario on one and on four workers is
//! in real time, with short delays. Two of the faults cannot be tested here. A build with `panic = "abort"` ends the
//! process with the first panic, so it has no fault 1 to survive; and what an out-of-memory kill takes is known only to
//! whoever starts the process again. Both are for the orchestrator.

mod support;

#[path = "support/metrics.rs"]
#[allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of this")]
mod metrics;
#[path = "support/spans.rs"]
#[allow(dead_code, clippy::allow_attributes, reason = "each test binary uses a part of this")]
mod spans;

#[path = "faults/common.rs"]
mod common;

#[path = "faults/exits.rs"]
mod exits;
#[path = "faults/linked.rs"]
mod linked;
#[path = "faults/stopping.rs"]
mod stopping;
#[path = "faults/surroundings.rs"]
mod surroundings;
