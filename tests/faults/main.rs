//! Forty faults that the manager survives, by number; each module holds a range of them.
//!
//! Virtual time where no real thread is involved, and then on one thread; the same scenario on one and on four workers is
//! in real time, with short delays. Two of the faults cannot be tested here. A build with `panic = "abort"` ends the
//! process with the first panic, so it has no fault 1 to survive; and what an out-of-memory kill takes is known only to
//! whoever starts the process again. Both are for the orchestrator.

#[path = "../support/mod.rs"]
mod support;

mod common;

mod exits;
mod linked;
mod stopping;
mod surroundings;
