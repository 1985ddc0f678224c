//! How tasks hang together: what one's end does to others.

/// What happens to the other members of a group when one of them has to be restarted. The words and the meaning are
/// those of [OTP's supervisors](https://www.erlang.org/doc/apps/stdlib/supervisor.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RestartStrategy {
    /// Nothing: it is restarted alone. The default.
    #[default]
    OneForOne,
    /// All are stopped, the last first, and begin anew together, the first first.
    OneForAll,
    /// Those after it are stopped, the last first, and begin anew after it.
    RestForOne,
}

impl RestartStrategy {
    /// Whether the failure of member `failed` takes member `other` along.
    pub(crate) fn takes_along(self, failed: usize, other: usize) -> bool {
        match self {
            Self::OneForOne => other == failed,
            Self::OneForAll => true,
            Self::RestForOne => other >= failed,
        }
    }
}

/// What a task does when one it depends on is lost: failed, was stopped, restarted or unregistered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DependencyLoss {
    /// It goes on: it can reconnect by itself. The default.
    #[default]
    Keep,
    /// It is stopped, and stays so until somebody restarts it.
    Stop,
    /// It is stopped, waits, and begins anew as soon as the dependency is ready again.
    Restart,
}

/// How far the end of a task that was given up reaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Escalation {
    /// No further: the others go on. The default; one bad task takes nothing down unasked.
    #[default]
    None,
    /// The other members of its group are stopped, the last first. Without a group this is [`Escalation::None`].
    Group,
    /// The manager shuts down in order; the report names the task and why it was given up.
    Shutdown,
}

/// What is done about a task that stalled: it gave no heartbeat in time, or one poll of it took too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum StallAction {
    /// It is told: event, log record, counter, health.
    Report,
    /// It is told and restarted, which counts against its limit. The default. A poll that blocks its thread cannot be
    /// interrupted: the restart takes place when it returns.
    #[default]
    Restart,
    /// It is told and given up at once, and its [`Escalation`] follows.
    Escalate,
}

#[cfg(test)]
mod tests {
    use super::RestartStrategy::{OneForAll, OneForOne, RestForOne};

    #[test]
    fn each_strategy_takes_along_whom_it_says() {
        let along = |strategy: super::RestartStrategy| [0, 1, 2].map(|other| strategy.takes_along(1, other));
        assert_eq!(along(OneForOne), [false, true, false]);
        assert_eq!(along(OneForAll), [true, true, true]);
        assert_eq!(along(RestForOne), [false, true, true]);
    }
}
