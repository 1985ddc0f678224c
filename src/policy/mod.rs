//! Pure values: what a task is, when it is restarted, how long it waits. No clock, no tokio, no OpenTelemetry.

mod backoff;
mod category;
mod decision;
mod error;
mod error_rules;
pub(crate) mod error_text;
mod error_view;
mod exit;
mod fraction;
mod give_up;
mod group;
mod health;
mod labels;
mod names;
mod output;
mod plain;
mod priority;
mod restart;
mod shutdown;
pub(crate) mod text;

pub use backoff::{Backoff, Jitter};
pub use category::{CategoryRules, TaskCategory};
pub use decision::{DecisionCause, RestartQuestion, RestartVerdict};
pub use error::PolicyError;
pub(crate) use error_rules::{ErrorRules, exit_of, failure};
pub(crate) use error_view::{ErrorView, ReturnedError};
pub use exit::{
    ERROR_TYPE_PANIC, ERROR_TYPE_STATE_HELD, ERROR_TYPE_TIMEOUT, ErrorClass, Exit, ExitKind, Failure, Panic,
};
pub(crate) use fraction::fraction;
pub use give_up::GiveUp;
pub use group::{DependencyLoss, Escalation, OverrunAction, RestartStrategy, StallAction};
pub use health::HealthRole;
pub use labels::ParseError;
#[cfg(feature = "serde")]
pub(crate) use labels::deserialize_text;
pub(crate) use labels::{labels, serialize_as_text};
pub use names::NameRule;
pub(crate) use names::type_path;
pub(crate) use output::returned_error_of;
pub use output::{Discard, DiscardExt, OutputError, TaskOutput, Value, via};
pub(crate) use plain::Plain;
pub use priority::TaskPriority;
pub use restart::{RestartIntensity, RestartPolicy, RestartReason};
pub(crate) use restart::{Verdict, check_reachable};
pub use shutdown::ShutdownOutcome;
