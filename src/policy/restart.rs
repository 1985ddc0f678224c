//! Whether a task is restarted, and how often.

use std::time::Duration;

use super::{Backoff, ErrorClass, Exit, ExitKind};

/// When a supervised task that ended is run again.
///
/// | how it ended | `Always` | `OnFailure` | `Never` |
/// |---|---|---|---|
/// | success | restart | finished | finished |
/// | transient error, panic, timeout | restart | restart | failed |
/// | permanent error | failed | failed | failed |
/// | stopped on request | stopped | stopped | stopped |
/// | stalled (no heartbeat in time) | restart | restart | failed |
///
/// The first two columns are OTP's `permanent` and `transient`, the last its `temporary`; that a *permanent error* ends
/// even an `Always` task is ours: the user said that trying again cannot help.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartPolicy {
    /// Restart however it ended.
    Always,
    /// Restart after an error, a panic or a timeout. The default.
    #[default]
    OnFailure,
    /// Never restart.
    Never,
}

/// Why a task was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum RestartReason {
    /// It returned a transient error.
    Failure,
    /// It panicked.
    Panic,
    /// It passed its time limit.
    Timeout,
    /// It finished, and its policy is [`RestartPolicy::Always`].
    Finished,
    /// It went without a heartbeat for longer than it promised.
    Stalled,
    /// Somebody asked for it.
    Requested,
    /// Another member of its group had to be restarted.
    Group,
    /// A task it depends on was lost and is ready again.
    Dependency,
}

impl RestartReason {
    /// Every reason, in declaration order.
    pub const ALL: [Self; 8] = [
        Self::Failure,
        Self::Panic,
        Self::Timeout,
        Self::Finished,
        Self::Stalled,
        Self::Requested,
        Self::Group,
        Self::Dependency,
    ];

    /// Whether it counts against the task's restart limit: it is the task's own doing.
    pub(crate) const fn counts(self) -> bool {
        !matches!(self, Self::Requested | Self::Group | Self::Dependency)
    }

    /// The value of the attribute `task.restart.reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Finished => "finished",
            Self::Stalled => "stalled",
            Self::Requested => "requested",
            Self::Group => "group",
            Self::Dependency => "dependency",
        }
    }
}

/// What the policy says of one exit. The limit is asked afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Restart(RestartReason),
    Finished,
    Failed,
    Stopped,
}

impl RestartPolicy {
    pub(crate) fn judge(self, exit: &Exit) -> Verdict {
        let reason = match exit.kind() {
            ExitKind::Success if self == Self::Always => return Verdict::Restart(RestartReason::Finished),
            ExitKind::Success => return Verdict::Finished,
            ExitKind::Cancellation => return Verdict::Stopped,
            ExitKind::Failure => RestartReason::Failure,
            ExitKind::Panic => RestartReason::Panic,
            ExitKind::Timeout => RestartReason::Timeout,
        };
        let permanent = exit.failure().is_some_and(|failure| failure.class == ErrorClass::Permanent);
        if self == Self::Never || permanent { Verdict::Failed } else { Verdict::Restart(reason) }
    }
}

/// How many restarts are allowed in how long: one more within the window and the task is given up.
///
/// The window slides; what left it no longer counts. This is OTP's restart intensity and period, per task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartIntensity {
    max_restarts: u32,
    within: Duration,
}

/// The restarts of [`RestartIntensity::default`], as in the seed.
pub const DEFAULT_MAX_RESTARTS: u32 = 5;
/// The window of [`RestartIntensity::default`].
pub const DEFAULT_RESTART_WINDOW: Duration = Duration::from_secs(600);
/// The most restarts a limit may name: the cell keeps the time of each.
pub const MAX_RESTARTS_LIMIT: u32 = 1_000;

impl Default for RestartIntensity {
    fn default() -> Self {
        Self { max_restarts: DEFAULT_MAX_RESTARTS, within: DEFAULT_RESTART_WINDOW }
    }
}

impl RestartIntensity {
    /// Allows `max_restarts` within any span of `within`; 0 gives up on the first failure.
    ///
    /// # Errors
    /// [`PolicyError::ZeroWindow`] for a zero `within`, [`PolicyError::TooManyRestarts`] above [`MAX_RESTARTS_LIMIT`].
    pub fn new(max_restarts: u32, within: Duration) -> Result<Self, PolicyError> {
        if within.is_zero() {
            return Err(PolicyError::ZeroWindow { max_restarts });
        }
        if max_restarts > MAX_RESTARTS_LIMIT {
            return Err(PolicyError::TooManyRestarts { max_restarts });
        }
        Ok(Self { max_restarts, within })
    }

    /// How many restarts are allowed.
    pub fn max_restarts(&self) -> u32 {
        self.max_restarts
    }

    /// The length of the window.
    pub fn within(&self) -> Duration {
        self.within
    }
}

/// Refuses a limit that the delays can never reach: a task failing at once, each time, would never be given up.
pub(crate) fn check_reachable(intensity: RestartIntensity, backoff: &Backoff) -> Result<(), PolicyError> {
    if backoff.cap().saturating_mul(intensity.max_restarts) < intensity.within {
        return Ok(());
    }
    let needed: Duration = (1..intensity.max_restarts)
        .map(|attempt| backoff.longest(attempt))
        .fold(Duration::ZERO, Duration::saturating_add);
    if needed >= intensity.within {
        return Err(PolicyError::LimitUnreachable {
            max_restarts: intensity.max_restarts,
            within: intensity.within,
            needed,
        });
    }
    Ok(())
}

/// A policy that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// A restart limit without a window to count it in.
    ZeroWindow {
        /// The limit that was given.
        max_restarts: u32,
    },
    /// A restart limit above [`MAX_RESTARTS_LIMIT`].
    TooManyRestarts {
        /// The limit that was given.
        max_restarts: u32,
    },
    /// The delays between restarts are so long that the limit is never reached within its window.
    LimitUnreachable {
        /// The limit that was given.
        max_restarts: u32,
        /// Its window.
        within: Duration,
        /// How long that many restarts take at least, failing at once each time.
        needed: Duration,
    },
    /// A backoff whose figures make no sense.
    Backoff {
        /// What is wrong.
        reason: &'static str,
    },
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ZeroWindow { max_restarts } => {
                write!(f, "a limit of {max_restarts} restarts needs a window longer than zero")
            }
            Self::TooManyRestarts { max_restarts } => {
                write!(
                    f,
                    "a limit of {max_restarts} restarts is above the {MAX_RESTARTS_LIMIT} that are kept"
                )
            }
            Self::LimitUnreachable { max_restarts, within, needed } => write!(
                f,
                "a limit of {max_restarts} restarts in {within:?} can never be reached: with this backoff they take {needed:?}"
            ),
            Self::Backoff { reason } => write!(f, "the backoff is not usable: {reason}"),
        }
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Failure, Panic};

    #[test]
    fn every_exit_under_every_policy_has_one_verdict() {
        let failure = |class| Exit::Failure(Failure { error_type: "e", message: "m".into(), class });
        let exits = [
            Exit::Success,
            failure(ErrorClass::Transient),
            failure(ErrorClass::Permanent),
            Exit::Panic(Panic { text: "p".into(), location: None }),
            Exit::Timeout(Duration::from_secs(1)),
            Exit::Cancellation,
        ];
        use RestartReason as R;
        use Verdict::{Failed, Finished, Restart, Stopped};
        let table = [
            (
                RestartPolicy::Always,
                [
                    Restart(R::Finished),
                    Restart(R::Failure),
                    Failed,
                    Restart(R::Panic),
                    Restart(R::Timeout),
                    Stopped,
                ],
            ),
            (
                RestartPolicy::OnFailure,
                [Finished, Restart(R::Failure), Failed, Restart(R::Panic), Restart(R::Timeout), Stopped],
            ),
            (RestartPolicy::Never, [Finished, Failed, Failed, Failed, Failed, Stopped]),
        ];
        for (policy, verdicts) in table {
            for (exit, verdict) in exits.iter().zip(verdicts) {
                assert_eq!(policy.judge(exit), verdict, "{policy:?} {exit:?}");
            }
        }
    }

    #[test]
    fn a_limit_that_its_delays_never_reach_is_refused() {
        let default = RestartIntensity::default();
        assert_eq!(check_reachable(default, &Backoff::default()), Ok(()));
        // The seed's 30 s, doubling without a cap, five times in ten minutes: simulated, it never gives up.
        let uncapped =
            Backoff::new(Duration::from_secs(30), 2.0, Duration::from_secs(86_400)).expect("valid");
        assert!(matches!(check_reachable(default, &uncapped), Err(PolicyError::LimitUnreachable { .. })));
    }
}
