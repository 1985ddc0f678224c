//! The effects of the end of one task on other tasks.

use super::labels::labels;
labels! {
    /// The effect of a member's restart on the other members of its group. The words and the meaning are
    /// those of [OTP's supervisors](https://www.erlang.org/doc/apps/stdlib/supervisor.html).
    #[derive(Default)]
    pub enum RestartStrategy {
        /// Nothing: it is restarted alone. The default.
        #[default]
        OneForOne = "one_for_one",
        /// All members are stopped in reverse order, and then start again in order.
        OneForAll = "one_for_all",
        /// The later members are stopped in reverse order, and start again after it, in order.
        RestForOne = "rest_for_one",
    }
}

impl RestartStrategy {
    /// Returns true if the failure of member `failed` takes member `other` along.
    pub(crate) fn takes_along(self, failed: usize, other: usize) -> bool {
        match self {
            Self::OneForOne => other == failed,
            Self::OneForAll => true,
            Self::RestForOne => other >= failed,
        }
    }
}

labels! {
    /// The reaction of a task to the loss of a dependency: failed, stopped, restarted or unregistered.
    #[derive(Default)]
    pub enum DependencyLoss {
        /// The task continues: it can reconnect by itself. The default.
        #[default]
        Keep = "keep",
        /// It is stopped, and stays so until somebody restarts it.
        Stop = "stop",
        /// The task is stopped, waits, and starts again as soon as the dependency is ready.
        Restart = "restart",
    }
}

labels! {
    /// The action for a poll of a task with a [gate](crate::CriticalTaskConfig::gate) that has not returned when its permission is about to
    /// end. Such a task blocks its thread, so it cannot be stopped.
    #[derive(Default)]
    pub enum OverrunAction {
        /// The process is aborted, after a line on the standard error output, before another process begins. The default.
        #[default]
        Exit = "exit",
        /// A log record reports it, and two processes may run the task at once.
        Report = "report",
    }
}

labels! {
    /// The extent of the stop after a task was given up.
    #[derive(Default)]
    pub enum Escalation {
        /// The other tasks continue. The default.
        #[default]
        None = "none",
        /// The other members of its group are stopped, the last first. Without a group this is [`Escalation::None`].
        Group = "group",
        /// The manager shuts down in order; the report names the task and why it was given up.
        Shutdown = "shutdown",
    }
}

labels! {
    /// The reaction to a stalled task: it sent no heartbeat in time, or one poll of it took too long.
    #[derive(Default)]
    pub enum StallAction {
        /// It is reported: event, log record, counter, health.
        Report = "report",
        /// It is reported and restarted, which counts for its limit. The default. A poll that blocks its thread cannot be
        /// interrupted: the restart takes place when the poll returns.
        #[default]
        Restart = "restart",
        /// It is reported and given up at once, and its [`Escalation`] follows.
        Escalate = "escalate",
    }
}

#[cfg(test)]
mod tests {
    use super::RestartStrategy::{OneForAll, OneForOne, RestForOne};

    #[test]
    fn each_strategy_takes_along_its_members() {
        let along = |strategy: super::RestartStrategy| [0, 1, 2].map(|other| strategy.takes_along(1, other));
        assert_eq!(along(OneForOne), [false, true, false]);
        assert_eq!(along(OneForAll), [true, true, true]);
        assert_eq!(along(RestForOne), [false, true, true]);
    }
}
