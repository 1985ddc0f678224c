//! The restart decision: one question with all its inputs, so that a recorded question can be decided again.

use std::time::Duration;

use super::{
    Backoff, ExitKind, GiveUp, RestartIntensity, RestartPolicy, RestartReason, Verdict, labels::labels,
};

labels! {
    /// The cause of a decision about a task.
    pub enum DecisionCause {
        /// A run of the task ended by itself.
        Exit = "exit",
        /// The task stalled.
        Stall = "stall",
        /// Somebody asked for it.
        Request = "request",
        /// The task's group: a member was restarted or given up, or the limit of the group was reached.
        Group = "group",
        /// A task that it depends on was lost.
        Dependency = "dependency",
        /// The time of the next try came.
        Retry = "retry",
        /// The task's pass was over, or about to end.
        Gate = "gate",
    }
}

/// Everything that decides what follows the end of a run, or a stall.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RestartQuestion {
    /// The result of the run; `None` if the task stalled.
    pub result: Option<ExitKind>,
    /// True if the error of the run was permanent.
    pub is_permanent: bool,
    /// The task's restart policy.
    pub policy: RestartPolicy,
    /// The limit of the task's restarts.
    pub limit: RestartIntensity,
    /// The restarts within the window of the limit that count against it.
    pub restarts: u32,
    /// True if the task had been given up, and this was another try.
    pub is_retry: bool,
    /// The consequence if the limit is reached.
    pub give_up: GiveUp,
    /// The delays of restarts.
    pub backoff: Backoff,
    /// The restarts in a row without a stable run.
    pub attempt: u32,
    /// The delay before the restart before this one.
    pub previous_delay: Duration,
    /// The random number, 0 to 1, that the delay was drawn with; 0 if there is no delay.
    pub random: f64,
}

/// The consequence of the end of a run, or of a stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartVerdict {
    /// The task begins again.
    #[non_exhaustive]
    Restart {
        /// The reason.
        reason: RestartReason,
        /// The time before the restart.
        delay: Duration,
    },
    /// The task is given up.
    #[non_exhaustive]
    GiveUp {
        /// The reason.
        reason: &'static str,
        /// The time until the next try; `None` if the task is given up for good.
        retry_after: Option<Duration>,
    },
    /// The task has finished.
    Finish,
    /// The task stays down.
    Stop,
    /// The task is in standby until its gate grants the next pass.
    StandBy,
}

impl RestartVerdict {
    /// The name of the verdict in log records and JSON: `restart`, `give_up`, `finish`, `stop` or `stand_by`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Restart { .. } => "restart",
            Self::GiveUp { .. } => "give_up",
            Self::Finish => "finish",
            Self::Stop => "stop",
            Self::StandBy => "stand_by",
        }
    }
}

impl RestartQuestion {
    /// Decides the question. It reads nothing else, so the same question always has the same verdict.
    pub fn answer(&self) -> RestartVerdict {
        let is_over = self.is_retry || self.restarts >= self.limit.max_restarts();
        let give_up = |reason| {
            let retry_after = self.give_up.retry_after(self.policy, self.is_permanent);
            RestartVerdict::GiveUp { reason, retry_after }
        };
        let Some(result) = self.result else {
            return match self.policy {
                RestartPolicy::Never => give_up("not to be restarted after it stalled"),
                _ if is_over => give_up("stalled too often"),
                _ => RestartVerdict::Restart { reason: RestartReason::Stalled, delay: Duration::ZERO },
            };
        };
        match self.policy.judge(result, self.is_permanent) {
            Verdict::Finished => RestartVerdict::Finish,
            Verdict::Stopped => RestartVerdict::Stop,
            Verdict::Failed => {
                RestartVerdict::GiveUp { reason: "not to be restarted after this", retry_after: None }
            }
            Verdict::Restart(_) if is_over => give_up("restarted too often"),
            Verdict::Restart(reason) => RestartVerdict::Restart {
                reason,
                delay: self.backoff.delay(self.attempt, self.previous_delay, self.random),
            },
        }
    }
}
