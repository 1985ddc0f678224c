//! The policies for iterations: missed, overlapping and failed.

use std::{fmt, str::FromStr, sync::Arc};

use crate::policy::{Backoff, ErrorClass, Failure, ParseError, labels, serialize_as_text};

/// The policy for iterations whose time passed while nothing could begin: the process was suspended, the clock was set
/// forward, or the runtime was blocked. Each policy leaves out the times that passed while the loop was
/// [paused](crate::LoopHandle::pause).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MissedPolicy {
    /// All are left out, except the last one if it is late by at most [`Schedule::START_TOLERANCE`](crate::Schedule::START_TOLERANCE).
    Skip,
    /// One iteration takes place at once, for the last of them. The default.
    #[default]
    RunOnce,
    /// The last of them take place, up to this number, one after the other under any [`OverlapPolicy`]. The others are left out.
    CatchUp(u32),
}

impl MissedPolicy {
    /// The largest number of missed times of a calendar that are counted, each time: 10,000. Further times are left out and not
    /// counted. So a clock that was set forward by years does not make a schedule of every second count for minutes.
    pub const MAX_COUNTED: u64 = 10_000;
}

/// The policy for an iteration whose time comes while an earlier one runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverlapPolicy {
    /// It is left out. The default.
    #[default]
    Skip,
    /// One iteration waits, and begins when the earlier one has ended. Further ones are left out.
    Queue,
    /// The running iteration is dropped, and ends as cancelled. It has begun, so it is not counted as left out.
    CancelRunning,
    /// It begins beside the running iterations, up to this number at once. Further ones are left out. The iterations share the
    /// loop's tokio task: they are concurrent, but not on several threads.
    Allow(u32),
}

impl OverlapPolicy {
    /// Returns true if a time that comes during an iteration must be noticed at once.
    pub(crate) fn is_watched(self) -> bool {
        matches!(self, Self::CancelRunning | Self::Allow(_))
    }
}

labels! {
    /// The reason why an iteration began.
    pub enum Trigger {
        /// Its time came.
        Schedule = "schedule",
        /// A caller requested it: [`LoopHandle::run_now`](crate::LoopHandle::run_now).
        Manual = "manual",
        /// Its time was missed: it began later than [`Schedule::START_TOLERANCE`](crate::Schedule::START_TOLERANCE), or is one of several
        /// missed iterations.
        Missed = "missed",
        /// It is the first iteration of a loop that begins [at once](crate::Schedule::immediate).
        Immediate = "immediate",
    }
}

/// Reads a word, or a word and a number such as `allow 2`.
fn word(text: &str) -> (&str, Option<&str>) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, None), |(word, number)| (word, Some(number.trim())))
}

impl fmt::Display for MissedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("skip"),
            Self::RunOnce => f.write_str("run_once"),
            Self::CatchUp(most) => write!(f, "catch_up {most}"),
        }
    }
}

impl FromStr for MissedPolicy {
    type Err = ParseError;

    /// Reads `skip`, `run_once` or `catch_up 3`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unknown = || ParseError::new("MissedPolicy", text, &["skip", "run_once", "catch_up 3"]);
        match word(text) {
            ("skip", None) => Ok(Self::Skip),
            ("run_once", None) => Ok(Self::RunOnce),
            ("catch_up", Some(most)) => most.parse().map(Self::CatchUp).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for OverlapPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("skip"),
            Self::Queue => f.write_str("queue"),
            Self::CancelRunning => f.write_str("cancel_running"),
            Self::Allow(most) => write!(f, "allow {most}"),
        }
    }
}

impl FromStr for OverlapPolicy {
    type Err = ParseError;

    /// Reads `skip`, `queue`, `cancel_running` or `allow 2`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unknown =
            || ParseError::new("OverlapPolicy", text, &["skip", "queue", "cancel_running", "allow 2"]);
        match word(text) {
            ("skip", None) => Ok(Self::Skip),
            ("queue", None) => Ok(Self::Queue),
            ("cancel_running", None) => Ok(Self::CancelRunning),
            ("allow", Some(most)) => most.parse().map(Self::Allow).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

serialize_as_text!(MissedPolicy, OverlapPolicy);

/// Tries an iteration again before it counts as failed.
#[derive(Clone)]
pub(crate) struct Retry {
    pub(crate) times: u32,
    pub(crate) backoff: Backoff,
    pub(crate) when: Option<Predicate>,
}

pub(crate) type Predicate = Arc<dyn Fn(&Failure) -> bool + Send + Sync>;

impl Retry {
    /// Returns true if an iteration that failed for the `failures`th time is tried again. Transient errors are, where nobody says
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
