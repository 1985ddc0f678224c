//! How an iteration ended, for hooks and for those who asked for it.

use std::time::{Duration, SystemTime};

use crate::{policy::Exit, timetable::Trigger};

/// How an iteration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoopOutcome {
    /// Its number, from 1.
    pub iteration: u64,
    /// The time of the schedule that it was for; `None` for one that was asked for.
    pub due: Option<SystemTime>,
    /// Why it began.
    pub trigger: Trigger,
    /// How it ended.
    pub exit: Exit,
    /// How long it took, further tries included.
    pub duration: Duration,
}
