//! Errors of loops.

use crate::timetable::ScheduleError;
/// A figure that makes no loop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopError {
    /// Its schedule is none.
    Schedule(ScheduleError),
    /// [`MissedPolicy::CatchUp`] with nothing.
    ZeroCatchUp,
    /// [`OverlapPolicy::Allow`] of none.
    ZeroOverlap,
}

impl std::fmt::Display for LoopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Schedule(error) => error.fmt(f),
            Self::ZeroCatchUp => {
                f.write_str("a loop must catch up with at least 1 iteration, or skip what was missed")
            }
            Self::ZeroOverlap => f.write_str("a loop must allow at least 1 iteration at once"),
        }
    }
}

impl std::error::Error for LoopError {}

/// Why a loop did not obey.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopControlError {
    /// The loop is not registered, or no longer, or its manager has shut down.
    NotRegistered,
    /// The task of this name is no loop.
    NotALoop,
    /// The new schedule is none; the old one stays.
    Schedule(ScheduleError),
}

impl std::fmt::Display for LoopControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRegistered => "the loop is not registered with a manager",
            Self::NotALoop => "the task is not a loop",
            Self::Schedule(_) => "the new schedule of the loop is not usable",
        })
    }
}

impl std::error::Error for LoopControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Schedule(source) => Some(source),
            Self::NotRegistered | Self::NotALoop => None,
        }
    }
}
