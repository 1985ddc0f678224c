//! How a life is being stopped, and why.

use std::time::Duration;

use tokio::time::Instant;

use crate::{engine::later, policy::RestartReason};

/// How long a task waits for those that go down before it, where they do not: a blocked thread must not hold up others for
/// ever.
const HELD_AT_MOST: Duration = Duration::from_secs(30);

/// Why a life goes down because of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Yield {
    pub(crate) reason: RestartReason,
    /// Whether the task stays down.
    pub(crate) stays_down: bool,
}

/// Why a life is asked to stop, and what is to follow.
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
    /// Whether what the task owns ends with the life.
    pub(super) fn ends_owned(self) -> bool {
        matches!(self, Self::Stop | Self::Leave | Self::Lost | Self::Yield(Yield { stays_down: true, .. }))
    }
}

/// How a life is being stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    pub(super) wish: Wish,
    /// How long it may go on once it was asked; `None` for as long as nobody says otherwise.
    pub(super) grace: Option<Duration>,
    pub(super) asked: bool,
    /// When it was asked; before, until when it may be held up by those that go down before it.
    pub(super) at: Instant,
}

impl Stopping {
    pub(super) fn new(wish: Wish, grace: Option<Duration>) -> Self {
        Self { wish, grace, asked: false, at: later(Instant::now(), HELD_AT_MOST) }
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

/// Whether a life goes on.
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
