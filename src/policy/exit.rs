//! The exit of a run.

use std::time::Duration;

use super::{error_text, labels::labels};

/// The `error.type` of a panic.
pub const ERROR_TYPE_PANIC: &str = "panic";
/// The `error.type` of a run that passed its time limit (OpenTelemetry semantic conventions).
pub const ERROR_TYPE_TIMEOUT: &str = "timeout";
/// The `error.type` of a run that could not borrow its task's state, because an earlier run gave it away
/// ([`Lent`](crate::Lent)).
pub const ERROR_TYPE_STATE_HELD: &str = "state_held";

/// The exit of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It returned `()` or `Ok`.
    Success,
    /// It returned an error.
    Failure(Failure),
    /// It panicked.
    Panic(Panic),
    /// It passed this time limit and was dropped.
    Timeout(Duration),
    /// It was dropped before it finished: aborted, or its grace was over.
    Cancellation,
}

/// A panic that a run raised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Panic {
    /// The payload's text, or `non-string payload`; cut so that [`Exit::message`] has at most [`Failure::MAX_MESSAGE`] bytes.
    pub text: String,
    /// `file:line:column`, where the crate's panic hook was on.
    pub location: Option<String>,
}

/// An error that a run returned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The error's class, for metrics: one of few.
    pub error_type: &'static str,
    /// The text of the error and its causes, `a: b: c`, for spans and log records; at most [`Failure::MAX_MESSAGE`] bytes.
    pub message: String,
    /// The class of the error.
    pub class: ErrorClass,
}

impl Panic {
    /// A panic with this text, which is cut so that its message fits.
    pub(crate) fn new(text: &str, location: Option<String>) -> Self {
        let mut panic = Self { text: String::new(), location };
        let most = Failure::MAX_MESSAGE.saturating_sub(panic.message().len());
        panic.text = error_text::bounded(text, most);
        panic
    }

    fn message(&self) -> String {
        match self {
            Self { text, location: Some(location) } => format!("panicked at {location}: {text}"),
            Self { text, location: None } => format!("panicked: {text}"),
        }
    }
}

impl Failure {
    /// The most bytes that the text of an error takes: 8 KiB. A longer one keeps its beginning and says how much was cut, as in
    /// `… (5,234,112 bytes cut)`.
    pub const MAX_MESSAGE: usize = error_text::MAX_BYTES;
}

labels! {
    /// The class of an error: a retry can help, or it cannot.
    #[derive(Default)]
    pub enum ErrorClass {
        /// A retry can help: the restart policy decides. The default.
        #[default]
        Transient = "transient",
        /// A retry cannot help: the task fails at once.
        Permanent = "permanent",
    }
}

labels! {
    /// [`Exit`] without its details.
    pub enum ExitKind {
        /// It returned `()` or `Ok`.
        Success = "success",
        /// It returned an error.
        Failure = "failure",
        /// It panicked.
        Panic = "panic",
        /// It passed its time limit.
        Timeout = "timeout",
        /// It was dropped before it finished.
        Cancellation = "cancellation",
    }
}

impl ExitKind {
    /// Returns true if [`Exit::error_type`] names an error.
    pub(crate) const fn is_error(self) -> bool {
        matches!(self, Self::Failure | Self::Panic | Self::Timeout)
    }
}

impl Exit {
    /// The exit without its details.
    pub fn kind(&self) -> ExitKind {
        match self {
            Self::Success => ExitKind::Success,
            Self::Failure(_) => ExitKind::Failure,
            Self::Panic(_) => ExitKind::Panic,
            Self::Timeout(_) => ExitKind::Timeout,
            Self::Cancellation => ExitKind::Cancellation,
        }
    }

    /// The class of the error for metrics and spans; `None` for a success and a cancellation.
    pub fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Success | Self::Cancellation => None,
            Self::Failure(failure) => Some(failure.error_type),
            Self::Panic(_) => Some(ERROR_TYPE_PANIC),
            Self::Timeout(_) => Some(ERROR_TYPE_TIMEOUT),
        }
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failure(failure) => Some(failure),
            _ => None,
        }
    }

    /// Returns true if it is a failure that a retry cannot repair.
    pub(crate) fn is_permanent(&self) -> bool {
        self.failure().is_some_and(|failure| failure.class == ErrorClass::Permanent)
    }

    /// One line for people: what happened, without the task's name.
    pub fn message(&self) -> String {
        match self {
            Self::Success => "finished".into(),
            Self::Failure(failure) => failure.message.clone(),
            Self::Panic(panic) => panic.message(),
            Self::Timeout(limit) => format!("passed its time limit of {limit:?}"),
            Self::Cancellation => "dropped before it finished".into(),
        }
    }
}
