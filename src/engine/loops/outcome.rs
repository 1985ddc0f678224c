//! The outcome of an iteration, for hooks and for its caller.

use std::time::{Duration, SystemTime};

use crate::{policy::Exit, timetable::Trigger};

/// The outcome of an iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopOutcome {
    /// The number of the iteration, from 1.
    pub iteration: u64,
    /// The due time of the iteration; `None` for a requested iteration.
    pub due: Option<SystemTime>,
    /// The reason why it began.
    pub trigger: Trigger,
    /// The exit of the iteration.
    pub exit: Exit,
    /// The duration of the iteration, retries included.
    pub duration: Duration,
}
