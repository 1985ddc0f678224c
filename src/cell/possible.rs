//! The series that can occur under a name. A series that cannot is not exported. A series that can is exported from the first collection, as 0.

use std::ops::BitOr;

use crate::policy::RestartReason;

/// The series that can occur under a name, in parts. Parts are added as tasks are registered under it, and none is taken away: a series that was exported
/// once is exported at each collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Possible(pub(super) u16);

impl Possible {
    /// A task is registered: it has states, and restarts on request.
    pub(crate) const REGISTERED: Self = Self(1);
    /// Members report to it.
    pub(super) const FAMILY: Self = Self(1 << 1);
    pub(crate) const STANDBY: Self = Self(1 << 2);
    pub(crate) const FINISHED: Self = Self(1 << 3);
    /// Restarts after a failure or a panic.
    pub(crate) const RESTART_AFTER_ERROR: Self = Self(1 << 4);
    pub(crate) const RESTART_AFTER_TIMEOUT: Self = Self(1 << 5);
    pub(crate) const RESTART_AFTER_FINISH: Self = Self(1 << 6);
    pub(crate) const RESTART_AFTER_STALL: Self = Self(1 << 7);
    pub(crate) const RESTART_WITH_GROUP: Self = Self(1 << 8);
    pub(crate) const RESTART_WITH_DEPENDENCY: Self = Self(1 << 9);
    pub(crate) const RETRY: Self = Self(1 << 10);
    pub(crate) const STALLS: Self = Self(1 << 11);
    /// Iterations, which are left out or tried again.
    pub(crate) const ITERATIONS: Self = Self(1 << 12);

    /// Returns these parts on a condition, none otherwise.
    pub(crate) fn only_if(self, condition: bool) -> Self {
        if condition { self } else { Self::default() }
    }

    pub(crate) const fn has(self, part: Self) -> bool {
        self.0 & part.0 == part.0
    }

    pub(super) const fn has_restart(self, reason: RestartReason) -> bool {
        self.has(match reason {
            RestartReason::Failure | RestartReason::Panic => Self::RESTART_AFTER_ERROR,
            RestartReason::Timeout => Self::RESTART_AFTER_TIMEOUT,
            RestartReason::Finished => Self::RESTART_AFTER_FINISH,
            RestartReason::Stalled => Self::RESTART_AFTER_STALL,
            RestartReason::Group => Self::RESTART_WITH_GROUP,
            RestartReason::Dependency => Self::RESTART_WITH_DEPENDENCY,
            RestartReason::Retry => Self::RETRY,
            RestartReason::Requested => Self::REGISTERED,
        })
    }
}

impl BitOr for Possible {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
