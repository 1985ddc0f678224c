//! The consequence of too many failures.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    PolicyError, RestartPolicy,
    labels::serialize_as_text,
    text::{DurationText, duration},
};

/// The consequence for a task that failed more often than its limit allows.
///
/// The task is in the state `Failed` meanwhile. A [permanent error](crate::policy::ErrorClass::Permanent), and any failure under
/// [`RestartPolicy::Never`](crate::RestartPolicy::Never), gives the task up for good in any case.
///
/// ```
/// use otel_tasks::GiveUp;
/// use std::time::Duration;
/// assert_eq!(GiveUp::default(), GiveUp::RetryEvery(Duration::from_secs(300)));
/// assert_eq!("retry every 5m".parse(), Ok(GiveUp::default()));
/// assert_eq!(GiveUp::ForGood.to_string(), "for_good");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GiveUp {
    /// The task stays down until somebody restarts it, and its [`Escalation`](crate::policy::Escalation) follows.
    ForGood,
    /// The task is tried again at this interval until it recovers: an outage does not end a service. The default, with
    /// [`DEFAULT_RETRY`](Self::DEFAULT_RETRY), unless an [`Escalation`](crate::policy::Escalation) is set.
    ///
    /// A try that fails leads back to `Failed` at once. The task has recovered once a run has lasted for the
    /// [`stable_after`](crate::Backoff::stable_after) of its backoff, or, for a loop, once an iteration has succeeded.
    RetryEvery(Duration),
}

impl GiveUp {
    /// The interval of [`GiveUp::default`]: 5 minutes.
    pub const DEFAULT_RETRY: Duration = Duration::from_secs(300);

    /// The time until a task that was given up is tried again; `None` if it is not.
    pub(crate) fn retry_after(self, policy: RestartPolicy, for_good: bool) -> Option<Duration> {
        match self {
            Self::RetryEvery(interval) if !for_good && policy != RestartPolicy::Never => Some(interval),
            _ => None,
        }
    }
}

impl Default for GiveUp {
    fn default() -> Self {
        Self::RetryEvery(Self::DEFAULT_RETRY)
    }
}

const FOR_GOOD: &str = "for_good";
const RETRY_EVERY: &str = "retry every ";

/// Writes the text that [`FromStr`] reads: `for_good` or `retry every 5m`.
impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForGood => f.write_str(FOR_GOOD),
            Self::RetryEvery(interval) => write!(f, "{RETRY_EVERY}{}", DurationText(*interval)),
        }
    }
}

impl FromStr for GiveUp {
    type Err = PolicyError;

    /// Reads `for_good` or `retry every 5m`.
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case(FOR_GOOD) {
            return Ok(Self::ForGood);
        }
        text.strip_prefix(RETRY_EVERY)
            .and_then(|interval| duration(interval.trim()))
            .map(Self::RetryEvery)
            .ok_or_else(|| PolicyError::GiveUp { text: text.to_owned() })
    }
}

serialize_as_text!(GiveUp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_are_written() {
        for given in [GiveUp::ForGood, GiveUp::default(), GiveUp::RetryEvery(Duration::MAX)] {
            assert_eq!(given.to_string().parse(), Ok(given));
        }
        for text in ["", "never", "retry", "retry every", "retry every five"] {
            assert!(matches!(text.parse::<GiveUp>(), Err(PolicyError::GiveUp { .. })), "{text:?}");
        }
    }
}
