//! The stop of a life, and its reason.

use std::time::Duration;

use tokio::time::Instant;

use crate::{engine::later, policy::RestartReason};

/// The time that a task waits for the tasks that stop before it: 30 s. A blocked thread must not hold up other tasks
/// without a limit.
const HELD_AT_MOST: Duration = Duration::from_secs(30);

/// The reason why a life stops because of other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Yield {
    pub(crate) reason: RestartReason,
    /// True if the task stays stopped.
    pub(crate) stays_down: bool,
}

/// The reason why a life is requested to stop, and the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Restart(RestartReason),
    Stop,
    GiveUpStalled,
    GiveUpGroup,
    Pause,
    /// Its pass ends.
    Lost,
    Yield(Yield),
    Leave,
}

impl Wish {
    /// Returns true if the work that the task owns ends with the life.
    pub(super) fn ends_owned(self) -> bool {
        matches!(self, Self::Stop | Self::Leave | Self::Lost | Self::Yield(Yield { stays_down: true, .. }))
    }
}

/// The stop of a life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub(super) wish: Wish,
    /// The time that the life has after the request; `None` if it is unlimited.
    pub(super) grace: Option<Duration>,
    pub(super) asked: bool,
    /// The time of the request. Before the request: the time until which the tasks that stop before it may hold it up.
    pub(super) at: Instant,
}

impl Stopping {
    pub(super) fn new(wish: Wish, grace: Option<Duration>, now: Instant) -> Self {
        Self { wish, grace, asked: false, at: later(now, HELD_AT_MOST) }
    }

    /// The same stop for another reason; of two graces the shorter counts.
    pub(super) fn because(self, wish: Wish, grace: Option<Duration>) -> Self {
        let grace = [self.grace, grace].into_iter().flatten().min();
        Self { wish, grace, ..self }
    }

    pub(super) fn over(&self) -> Option<Instant> {
        Some(later(self.at, self.grace.filter(|_| self.asked)?))
    }
}

/// The state of a life after a poll.
#[derive(Clone, Copy)]
pub(super) enum Going {
    On { restart_due: Option<Instant> },
    Stops(Stopping),
}

impl Going {
    pub(super) fn stopping(self) -> Option<Stopping> {
        match self {
            Self::On { .. } => None,
            Self::Stops(stopping) => Some(stopping),
        }
    }

    pub(super) fn restart_due(self) -> Option<Instant> {
        match self {
            Self::On { restart_due } => restart_due,
            Self::Stops(_) => None,
        }
    }
}
