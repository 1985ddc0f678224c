//! Pure values: what a task is, when it is restarted, how long it waits. No clock, no tokio, no OpenTelemetry.

mod backoff;
mod category;
mod exit;
mod group;
mod names;
mod output;
mod priority;
mod restart;

pub use backoff::{
    Backoff, DEFAULT_BACKOFF_CAP, DEFAULT_BACKOFF_FACTOR, DEFAULT_RESTART_DELAY, DEFAULT_STABLE_AFTER, Jitter,
};
pub use category::{CategoryRules, TaskCategory};
pub use exit::{ErrorClass, Exit, ExitKind, Failure, Panic};
pub use group::{DependencyLoss, Escalation, RestartStrategy, StallAction};
pub use names::NameRule;
pub(crate) use names::type_path;
pub use output::{Discard, DiscardExt, TaskOutput};
pub use priority::TaskPriority;
pub use restart::{
    DEFAULT_MAX_RESTARTS, DEFAULT_RESTART_WINDOW, MAX_RESTARTS_LIMIT, PolicyError, RestartIntensity,
    RestartPolicy, RestartReason,
};
pub(crate) use restart::{Verdict, check_reachable};
