//! The errors of schedules.

use std::fmt;

/// The reason why a [`Schedule`](crate::Schedule) is invalid. Reported before anything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleError {
    /// An interval of zero.
    ZeroInterval,
    /// A count of zero.
    ZeroCount,
    /// A jitter that is longer than the interval: the order of the iterations would be left to chance.
    JitterTooLong,
    /// No time of day.
    NoTimes,
    /// The end is not after the start.
    EndsBeforeStart,
    /// The instant of [`once`](crate::Schedule::once) lies before the start or after the end.
    OutOfBounds,
    /// An interval that is to be [aligned](crate::Schedule::aligned) and does not divide a day.
    NotADivisorOfADay,
    /// An option that only an interval has.
    #[non_exhaustive]
    NotAnInterval {
        /// The option.
        option: &'static str,
    },
    /// [`except`](crate::Schedule::except) for a schedule without a time zone.
    NoZone,
    /// [`except`](crate::Schedule::except) leaves out all times.
    NothingLeft,
    /// A text that is no schedule.
    #[non_exhaustive]
    Text {
        /// The text.
        text: String,
        /// The position of the word that is wrong, in bytes from the beginning.
        position: usize,
        /// The expected text.
        expected: &'static str,
    },
    /// An invalid time of day.
    #[non_exhaustive]
    Time {
        /// The text of the user.
        text: String,
        /// The position of the error, in bytes from the beginning.
        position: usize,
    },
    /// An invalid cron expression.
    #[non_exhaustive]
    Cron {
        /// The text of the user.
        text: String,
        /// The position of the field with the error, in bytes from the beginning.
        position: usize,
        /// The problem of the field.
        reason: String,
    },
    /// A cron expression that never comes true, such as the 30th of February.
    #[non_exhaustive]
    NeverFires {
        /// The text of the user.
        text: String,
    },
    /// A time zone that is neither known by name nor an offset.
    #[non_exhaustive]
    Zone {
        /// The text of the user.
        name: String,
        /// The length of the beginning that a known name shares with it, in bytes.
        position: usize,
        /// A known name that shares that beginning.
        nearest: Option<String>,
    },
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroInterval => f.write_str("the interval of a loop must be longer than zero"),
            Self::ZeroCount => f.write_str("the count of a loop must be at least 1"),
            Self::JitterTooLong => f.write_str("the jitter of a loop must not be longer than its interval"),
            Self::NoTimes => f.write_str("a daily schedule needs at least one time of day"),
            Self::EndsBeforeStart => f.write_str("a schedule must end after it starts"),
            Self::OutOfBounds => f.write_str("the instant of a schedule lies outside of its start and end"),
            Self::NotADivisorOfADay => {
                f.write_str("the interval of an aligned schedule must divide a day into equal parts")
            }
            Self::NotAnInterval { option } => write!(f, "{option} is an option of an interval"),
            Self::NoZone => f.write_str("except needs a schedule with a time zone: daily, cron or aligned"),
            Self::NothingLeft => f.write_str("except leaves out every time of the schedule"),
            Self::Text { text, position, expected } => {
                write!(f, "the schedule {text:?} is wrong at position {position}: expected {expected}")
            }
            Self::Time { text, position } => {
                write!(
                    f,
                    "{text:?} is no time of day, wrong from position {position} on: expected HH:MM or HH:MM:SS"
                )
            }
            Self::Cron { text, position, reason } => {
                write!(f, "the cron expression {text:?} is wrong at position {position}: {reason}")
            }
            Self::NeverFires { text } => write!(f, "the cron expression {text:?} never comes true"),
            Self::Zone { name, position, nearest } => {
                write!(f, "there is no time zone {name:?}, wrong from position {position} on")?;
                match nearest {
                    Some(nearest) => write!(f, "; {nearest:?} is one"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for ScheduleError {}
