//! Errors of policies.

use std::time::Duration;

/// A policy that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyError {
    /// A restart limit without a window to count it in.
    #[non_exhaustive]
    ZeroWindow {
        /// The limit that was given.
        max_restarts: u32,
    },
    /// A restart limit above [`RestartIntensity::MAX_RESTARTS`](crate::policy::RestartIntensity::MAX_RESTARTS).
    #[non_exhaustive]
    TooManyRestarts {
        /// The limit that was given.
        max_restarts: u32,
        /// The highest limit that can be given.
        most: u32,
    },
    /// The delays between restarts are longer than the window allows, so the limit is never reached.
    #[non_exhaustive]
    LimitUnreachable {
        /// The limit that was given.
        max_restarts: u32,
        /// Its window.
        within: Duration,
        /// The shortest time of that number of restarts, if each run fails at once.
        needed: Duration,
    },
    /// A text that is neither `for_good` nor an interval such as `retry every 5m`.
    #[non_exhaustive]
    GiveUp {
        /// The text.
        text: String,
    },
    /// A text that is no restart limit, such as `5 in 10m`.
    #[non_exhaustive]
    Intensity {
        /// The text.
        text: String,
    },
    /// A backoff whose figures make no sense.
    #[non_exhaustive]
    Backoff {
        /// The reason.
        reason: &'static str,
    },
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ZeroWindow { max_restarts } => {
                write!(f, "a limit of {max_restarts} restarts needs a window longer than zero")
            }
            Self::TooManyRestarts { max_restarts, most } => {
                write!(f, "a limit of {max_restarts} restarts is above the {most} that are kept")
            }
            Self::LimitUnreachable { max_restarts, within, needed } => write!(
                f,
                "a limit of {max_restarts} restarts in {within:?} can never be reached: with this backoff they take {needed:?}"
            ),
            Self::GiveUp { text } => {
                write!(f, "{text:?} is neither \"for_good\" nor an interval such as \"retry every 5m\"")
            }
            Self::Intensity { text } => write!(f, "{text:?} is no restart limit such as \"5 in 10m\""),
            Self::Backoff { reason } => write!(f, "the backoff is not usable: {reason}"),
        }
    }
}

impl std::error::Error for PolicyError {}
