//! What becomes of an iteration whose time was missed, or whose time comes while another runs; and of one that fails.

use std::{fmt, sync::Arc};

use crate::policy::{Backoff, ErrorClass, Failure};

/// What becomes of iterations whose time passed while nothing could begin: the process was suspended, the clock was set
/// forward, the runtime was blocked. Those that passed while the loop was [paused](crate::LoopHandle::pause) are left out
/// under each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissedPolicy {
    /// They are left out, unless the last of them is late by no more than [`Schedule::START_TOLERANCE`].
    Skip,
    /// However many they are, one takes place at once, for the last of them.
    #[default]
    RunOnce,
    /// The last so many of them take place, one after the other; the others are left out.
    CatchUp(u32),
}

impl MissedPolicy {
    /// How many missed times of a calendar are counted at most, each time: a clock that was set forward by years must not make
    /// a schedule of every second count for minutes.
    pub const MAX_COUNTED: u64 = 10_000;
}

/// What becomes of an iteration whose time comes while one before it still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverlapPolicy {
    /// It is left out.
    #[default]
    Skip,
    /// One waits, and begins as soon as the one before has ended; further ones are left out.
    Queue,
    /// The one that runs is dropped, and ends as cancelled.
    CancelRunning,
    /// It begins beside those that run, up to so many at once; further ones are left out. They take turns in the loop's own
    /// tokio task: beside each other, but not on several threads.
    Allow(u32),
}

impl OverlapPolicy {
    /// Whether a time that comes during an iteration is to be seen when it comes.
    pub(crate) fn is_watched(self) -> bool {
        matches!(self, Self::CancelRunning | Self::Allow(_))
    }
}

/// Tries an iteration again before it counts as failed.
#[derive(Clone)]
pub(crate) struct Retry {
    pub(crate) times: u32,
    pub(crate) backoff: Backoff,
    pub(crate) when: Option<Predicate>,
}

pub(crate) type Predicate = Arc<dyn Fn(&Failure) -> bool + Send + Sync>;

impl Retry {
    /// Whether an iteration that failed for the `failures`th time is tried again. Transient errors are, where nobody says
    /// otherwise.
    pub(crate) fn tries_again(&self, failures: u32, failure: &Failure) -> bool {
        failures <= self.times
            && match &self.when {
                Some(when) => when(failure),
                None => failure.class == ErrorClass::Transient,
            }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("times", &self.times)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}
