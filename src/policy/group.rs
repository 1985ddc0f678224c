//! How tasks hang together: what one's end does to others.

use super::labels::labels;
labels! {
    /// What happens to the other members of a group when one of them has to be restarted. The words and the meaning are
    /// those of [OTP's supervisors](https://www.erlang.org/doc/apps/stdlib/supervisor.html).
    #[derive(Default)]
    pub enum RestartStrategy {
        /// Nothing: it is restarted alone. The default.
        #[default]
        OneForOne = "one_for_one",
        /// All are stopped, the last first, and begin anew together, the first first.
        OneForAll = "one_for_all",
        /// Those after it are stopped, the last first, and begin anew after it.
        RestForOne = "rest_for_one",
    }
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

labels! {
    /// What a task does when one it depends on is lost: failed, was stopped, restarted or unregistered.
    #[derive(Default)]
    pub enum DependencyLoss {
        /// It goes on: it can reconnect by itself. The default.
        #[default]
        Keep = "keep",
        /// It is stopped, and stays so until somebody restarts it.
        Stop = "stop",
        /// It is stopped, waits, and begins anew as soon as the dependency is ready again.
        Restart = "restart",
    }
}

labels! {
    /// What is done when one poll of a task with a [gate](crate::CriticalTaskConfig::gate) goes on until its permission is about to end:
    /// the task blocks its thread, so nobody can stop it.
    #[derive(Default)]
    pub enum OverrunAction {
        /// The process is aborted, after a line on the standard error output: somebody else is about to begin. The default.
        #[default]
        Exit = "exit",
        /// A log record says so, and two may run at once.
        Report = "report",
    }
}

labels! {
    /// How far the end of a task that was given up reaches.
    #[derive(Default)]
    pub enum Escalation {
        /// No further: the others go on. The default; one bad task takes nothing down unasked.
        #[default]
        None = "none",
        /// The other members of its group are stopped, the last first. Without a group this is [`Escalation::None`].
        Group = "group",
        /// The manager shuts down in order; the report names the task and why it was given up.
        Shutdown = "shutdown",
    }
}

labels! {
    /// What is done about a task that stalled: it gave no heartbeat in time, or one poll of it took too long.
    #[derive(Default)]
    pub enum StallAction {
        /// It is told: event, log record, counter, health.
        Report = "report",
        /// It is told and restarted, which counts against its limit. The default. A poll that blocks its thread cannot be
        /// interrupted: the restart takes place when it returns.
        #[default]
        Restart = "restart",
        /// It is told and given up at once, and its [`Escalation`] follows.
        Escalate = "escalate",
    }
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
