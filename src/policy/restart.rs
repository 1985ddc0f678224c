//! The rules of restarts: the policy and the limit.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    Backoff, ExitKind,
    labels::{labels, serialize_as_text},
    text::{DurationText, duration},
};
use crate::policy::error::PolicyError;

labels! {
    /// The rule by which a supervised task that has ended runs again.
    ///
    /// | how it ended | `Always` | `OnFailure` | `Never` |
    /// |---|---|---|---|
    /// | success | restart | finished | finished |
    /// | transient error, panic, timeout | restart | restart | failed |
    /// | permanent error | failed | failed | failed |
    /// | stopped on request | stopped | stopped | stopped |
    /// | stalled (no heartbeat in time) | restart | restart | failed |
    ///
    /// The first two columns are OTP's `permanent` and `transient`, the last its `temporary`. As in OTP the default is the
    /// first: a task that is registered runs as long as the service does. A *permanent error* ends even an `Always` task: the
    /// user's classification says that another try cannot help.
    ///
    /// A loop that reached the end of its schedule, or that its handle stopped, is finished under every policy. The policy
    /// decides after an error that ended the loop.
    #[derive(Default)]
    pub enum RestartPolicy {
        /// Restart the task however it ended. The default of a task that is no loop.
        #[default]
        Always = "always",
        /// Restart the task after an error, a panic or a timeout: for work that may end. The default of a loop and of
        /// [`CriticalTaskConfig::one_shot`](crate::CriticalTaskConfig::one_shot).
        OnFailure = "on_failure",
        /// Never restart.
        Never = "never",
    }
}

labels! {
    /// The reason why a task was restarted.
    pub enum RestartReason {
        /// It returned a transient error.
        Failure = "failure",
        /// It panicked.
        Panic = "panic",
        /// It passed its time limit.
        Timeout = "timeout",
        /// It finished, and its policy is [`RestartPolicy::Always`].
        Finished = "finished",
        /// It went without a heartbeat for longer than it promised.
        Stalled = "stalled",
        /// Somebody asked for it.
        Requested = "requested",
        /// Another member of its group had to be restarted.
        Group = "group",
        /// A task it depends on was lost and is ready again.
        Dependency = "dependency",
        /// It had failed too often, and [`GiveUp::RetryEvery`](crate::policy::GiveUp::RetryEvery) says to try again.
        Retry = "retry",
    }
}

impl RestartReason {
    /// Returns true if it counts against the task's restart limit: it is the task's own doing.
    pub(crate) const fn counts(self) -> bool {
        !matches!(self, Self::Requested | Self::Group | Self::Dependency | Self::Retry)
    }
}

/// The verdict of the policy on one exit. The limit is checked after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Restart(RestartReason),
    Finished,
    Failed,
    Stopped,
}

impl RestartPolicy {
    pub(crate) fn judge(self, result: ExitKind, is_permanent: bool) -> Verdict {
        let reason = match result {
            ExitKind::Success if self == Self::Always => return Verdict::Restart(RestartReason::Finished),
            ExitKind::Success => return Verdict::Finished,
            ExitKind::Cancellation => return Verdict::Stopped,
            ExitKind::Failure => RestartReason::Failure,
            ExitKind::Panic => RestartReason::Panic,
            ExitKind::Timeout => RestartReason::Timeout,
        };
        if self == Self::Never || is_permanent { Verdict::Failed } else { Verdict::Restart(reason) }
    }
}

/// The limit on restarts in a time window. After one more failure within the window, the task is given up.
///
/// The window slides; what left it no longer counts. This is OTP's restart intensity and period, per task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartIntensity {
    max_restarts: u32,
    within: Duration,
}

const UNLIMITED: &str = "unlimited";

impl Default for RestartIntensity {
    fn default() -> Self {
        Self {
            max_restarts: RestartIntensity::DEFAULT_MAX_RESTARTS,
            within: RestartIntensity::DEFAULT_WITHIN,
        }
    }
}

impl RestartIntensity {
    /// The most restarts a limit may name: the cell keeps the time of each.
    pub const MAX_RESTARTS: u32 = 1_000;

    /// The window of [`RestartIntensity::default`].
    pub const DEFAULT_WITHIN: Duration = Duration::from_secs(600);

    /// The restarts of [`RestartIntensity::default`].
    pub const DEFAULT_MAX_RESTARTS: u32 = 10;

    /// No limit: the task is restarted after each failure, with the delays of its [`Backoff`].
    pub const UNLIMITED: Self = Self { max_restarts: u32::MAX, within: Duration::MAX };

    /// Allows `max_restarts` within any span of `within`; 0 gives up on the first failure.
    ///
    /// # Errors
    /// [`PolicyError::ZeroWindow`] for a zero `within`, [`PolicyError::TooManyRestarts`] above [`RestartIntensity::MAX_RESTARTS`].
    pub fn new(max_restarts: u32, within: Duration) -> Result<Self, PolicyError> {
        if within.is_zero() {
            return Err(PolicyError::ZeroWindow { max_restarts });
        }
        if max_restarts > RestartIntensity::MAX_RESTARTS {
            return Err(PolicyError::TooManyRestarts { max_restarts, most: Self::MAX_RESTARTS });
        }
        Ok(Self { max_restarts, within })
    }

    /// Returns whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::UNLIMITED
    }

    /// The number of restarts that are allowed; `u32::MAX` without a limit.
    pub fn max_restarts(&self) -> u32 {
        self.max_restarts
    }

    /// The length of the window; [`Duration::MAX`] without a limit.
    pub fn within(&self) -> Duration {
        self.within
    }
}

/// Writes the text that [`FromStr`] reads: `5 in 10m` or `unlimited`.
impl fmt::Display for RestartIntensity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unlimited() {
            return f.write_str(UNLIMITED);
        }
        write!(f, "{} in {}", self.max_restarts, DurationText(self.within))
    }
}

impl FromStr for RestartIntensity {
    type Err = PolicyError;

    /// Reads `5 in 10m`: the number of restarts, and the time in which they count; or `unlimited`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        if text.trim().eq_ignore_ascii_case(UNLIMITED) {
            return Ok(Self::UNLIMITED);
        }
        let malformed = || PolicyError::Intensity { text: text.to_owned() };
        let (max_restarts, within) = text.split_once(" in ").ok_or_else(malformed)?;
        let max_restarts = max_restarts.trim().parse().map_err(|_| malformed())?;
        Self::new(max_restarts, duration(within.trim()).ok_or_else(malformed)?)
    }
}

serialize_as_text!(RestartIntensity);

/// Refuses a limit that the delays can never reach: a task failing at once, each time, would never be given up.
pub(crate) fn check_reachable(intensity: RestartIntensity, backoff: &Backoff) -> Result<(), PolicyError> {
    if intensity.is_unlimited() || backoff.cap().saturating_mul(intensity.max_restarts) < intensity.within {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ErrorClass, Exit, Failure, Panic};

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
                assert_eq!(policy.judge(exit.kind(), exit.is_permanent()), verdict, "{policy:?} {exit:?}");
            }
        }
    }

    #[test]
    fn a_limit_that_its_delays_never_reach_is_refused() {
        let default = RestartIntensity::default();
        assert_eq!(check_reachable(default, &Backoff::default()), Ok(()));
        // 30 s, doubled without a cap, five times in ten minutes: simulated, the limit is never reached.
        let uncapped =
            Backoff::new(Duration::from_secs(30), 2.0, Duration::from_secs(86_400)).expect("valid");
        assert!(matches!(check_reachable(default, &uncapped), Err(PolicyError::LimitUnreachable { .. })));
    }
}
