//! One error type for one operation.

use std::{fmt, time::Duration};

use crate::{
    policy::{NameRule, Plain, PolicyError},
    timetable::ScheduleError,
};

/// The reason why a manager was not built. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// `max_names` is zero: no task could have a name.
    ZeroNames,
    /// `span_prefix` is empty.
    EmptySpanPrefix,
    /// A threshold of health is zero: every task would always be unhealthy.
    ZeroThreshold,
    /// A duration that must be longer than zero is zero.
    #[non_exhaustive]
    ZeroDuration {
        /// The name of the builder's method.
        setting: &'static str,
    },
    /// Another manager of this process reports to systemd.
    SystemdInUse,
    /// The drain leaves no time to the ordered shutdown: it must be shorter than the deadline.
    #[non_exhaustive]
    DrainTooLong {
        /// The drain.
        drain: Duration,
        /// The deadline.
        shutdown_deadline: Duration,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroNames => f.write_str("max_names must be at least 1"),
            Self::ZeroThreshold => f.write_str("a health threshold must be at least 1"),
            Self::EmptySpanPrefix => f.write_str("span_prefix must not be empty"),
            Self::ZeroDuration { setting } => write!(f, "{setting} must be longer than zero"),
            Self::SystemdInUse => f.write_str("another manager of this process reports to systemd"),
            Self::DrainTooLong { drain, shutdown_deadline } => {
                write!(f, "drain ({drain:?}) must be shorter than shutdown_deadline ({shutdown_deadline:?})")
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// The reason why a task was not registered. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is empty.
    EmptyName,
    /// The name is longer than [`NameRule::MAX_NAME`](crate::policy::NameRule::MAX_NAME), or the name of each member of a family
    /// would be.
    #[non_exhaustive]
    NameTooLong {
        /// The beginning of the name.
        name: String,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The name is reserved for all tasks beyond the limit of names.
    #[non_exhaustive]
    ReservedName {
        /// The name.
        name: String,
    },
    /// A task of this name is registered already.
    #[non_exhaustive]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The task of this name is being replaced by another call.
    #[non_exhaustive]
    BeingReplaced {
        /// The name.
        name: String,
    },
    /// The manager already tracks its maximum number of task names.
    #[non_exhaustive]
    NameLimit {
        /// The name that no longer fits.
        name: String,
        /// The limit.
        max_names: usize,
    },
    /// The values of the restart policy contradict each other.
    #[non_exhaustive]
    Policy {
        /// The task's name.
        name: String,
        /// The contradiction.
        source: PolicyError,
    },
    /// The settings of the loop are invalid.
    #[non_exhaustive]
    Loop {
        /// The task's name.
        name: String,
        /// The invalid setting.
        source: LoopError,
    },
    /// A duration is zero and must be longer.
    #[non_exhaustive]
    ZeroDuration {
        /// The task's name.
        name: String,
        /// The name of the setting.
        field: &'static str,
    },
    /// A classification was given for another type than the task's error.
    #[non_exhaustive]
    ErrorType {
        /// The task's name.
        name: String,
        /// The type that the task returns; `None` if it cannot fail.
        returned: Option<&'static str>,
        /// The type that the classification takes.
        classified: &'static str,
    },
    /// A task depends on a task that is not registered.
    #[non_exhaustive]
    UnknownDependency {
        /// The task, and what it depends on.
        path: Vec<String>,
    },
    /// Tasks depend on each other in a cycle; the order inside a group counts too.
    #[non_exhaustive]
    DependencyCycle {
        /// The path of the cycle: its last name is the first.
        path: Vec<String>,
    },
    /// A group without members.
    #[non_exhaustive]
    EmptyGroup {
        /// The group's name.
        group: String,
    },
    /// The restart limit of a group is invalid.
    #[non_exhaustive]
    GroupPolicy {
        /// The group's name.
        group: String,
        /// The problem of the limit.
        source: PolicyError,
    },
    /// The key of a member cannot be part of a name.
    #[non_exhaustive]
    Key {
        /// The family's name.
        family: String,
        /// The key's text; if it is too long, the beginning of it.
        key: String,
        /// The problem of the key.
        problem: KeyProblem,
    },
    /// The name of a family cannot begin the names of its members.
    #[non_exhaustive]
    FamilyName {
        /// The name.
        family: String,
        /// The character in it: a slash, a backslash or a control character.
        character: char,
    },
    /// A family already has its maximum number of members, or would have more.
    #[non_exhaustive]
    FamilyFull {
        /// The family's name.
        family: String,
        /// The limit.
        max_members: usize,
    },
    /// There is no tokio runtime: the manager was built outside one, and so is this call.
    NoRuntime,
    /// The tokio runtime has no timer: it was built without `enable_time` or `enable_all`.
    NoTime,
    /// The manager's tokio runtime was shut down, and this call is outside a runtime.
    RuntimeGone,
    /// The manager is shutting down.
    ShuttingDown,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyName => f.write_str("the task has an empty name"),
            Self::NameTooLong { name, bytes } => {
                let most = NameRule::MAX_NAME;
                write!(
                    f,
                    "the name of a task has at most {most} bytes, and that of task {name:?}.. has {bytes}"
                )
            }
            Self::ReservedName { name } => {
                write!(f, "the name {name:?} is reserved for all tasks beyond the limit of names")
            }
            Self::Duplicate { name } => write!(f, "a task named {name:?} is registered already"),
            Self::BeingReplaced { name } => write!(f, "task {name:?} is being replaced already"),
            Self::NameLimit { name, max_names } => {
                write!(
                    f,
                    "there is no room for task {name:?}: the manager tracks at most {max_names} names, raise max_names"
                )
            }
            Self::Policy { name, .. } => write!(f, "the restart policy of task {name:?} is not usable"),
            Self::Loop { name, .. } => write!(f, "the loop of task {name:?} is not usable"),
            Self::ZeroDuration { name, field } => {
                write!(f, "the {field} of task {name:?} must be longer than zero")
            }
            Self::ErrorType { name, returned: Some(returned), classified } => {
                write!(
                    f,
                    "task {name:?} returns errors of type {returned}: a rule for {classified} never matches"
                )
            }
            Self::ErrorType { name, returned: None, classified } => {
                write!(f, "task {name:?} returns no errors: a rule for {classified} never matches")
            }
            Self::UnknownDependency { path } => {
                write!(f, "a task depends on a task that is not registered: {}", Plain(path.join(" -> ")))
            }
            Self::DependencyCycle { path } => {
                write!(f, "tasks depend on each other in a cycle: {}", Plain(path.join(" -> ")))
            }
            Self::EmptyGroup { group } => write!(f, "the group {group:?} has no members"),
            Self::GroupPolicy { group, .. } => {
                write!(f, "the restart limit of group {group:?} is not usable")
            }
            Self::Key { family, key, problem } => {
                write!(f, "the key {key:?} cannot name a member of the family {family:?}: {problem}")
            }
            Self::FamilyName { family, character } => write!(
                f,
                "the family {family:?} cannot have this name: it contains {character:?}, and slashes, backslashes and control \
                 characters are not allowed"
            ),
            Self::FamilyFull { family, max_members } => {
                write!(f, "the family {family:?} may have at most {max_members} members")
            }
            Self::NoRuntime => {
                f.write_str("there is no tokio runtime: build the manager, or register, inside one")
            }
            Self::NoTime => {
                f.write_str("the tokio runtime has no timer: call enable_time or enable_all on its builder")
            }
            Self::RuntimeGone => {
                f.write_str("the manager's tokio runtime was shut down: register inside another one")
            }
            Self::ShuttingDown => f.write_str("the manager is shutting down"),
        }
    }
}

impl std::error::Error for RegisterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Policy { source, .. } | Self::GroupPolicy { source, .. } => Some(source),
            Self::Loop { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The reason why the text of a key cannot be part of a member's name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The text is empty.
    Empty,
    /// The text is longer than [`MAX_KEY_LENGTH`](crate::task::MAX_KEY_LENGTH).
    TooLong,
    /// A slash or a backslash, which would break the paths of the page, or a control character.
    Character(char),
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it is longer than {MAX_KEY_LENGTH} bytes"),
            Self::Character(character) => write!(f, "it contains {character:?}"),
        }
    }
}

/// The longest text of a key, in bytes.
pub const MAX_KEY_LENGTH: usize = 128;

/// No task of this name is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownTask {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no task named {:?} is registered", self.name)
    }
}

impl std::error::Error for UnknownTask {}

/// No component of this name is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownComponent {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no component named {:?} is registered", self.name)
    }
}

impl std::error::Error for UnknownComponent {}

/// The reason why a task was not restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartError {
    /// No task of this name is registered.
    Unknown(UnknownTask),
    /// The task was restarted as often as its limit allows and is still alive; one more failure gives it up. Once it has
    /// been given up a restart works again.
    #[non_exhaustive]
    LimitReached {
        /// The task's name.
        name: String,
        /// The number of allowed restarts.
        max_restarts: u32,
        /// The time in which they are allowed.
        within: Duration,
    },
    /// The tokio runtime that the task ran on was shut down, and the task was dropped with it. Unregister or replace it.
    #[non_exhaustive]
    RuntimeGone {
        /// The task's name.
        name: String,
    },
    /// The task is being unregistered or replaced.
    #[non_exhaustive]
    Leaving {
        /// The task's name.
        name: String,
    },
    /// The manager is shutting down.
    ShuttingDown,
}

/// The reason why a task was not stopped, paused or resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskControlError {
    /// No task of this name is registered.
    Unknown(UnknownTask),
    /// The tokio runtime that the task ran on was shut down, and the task was dropped with it. Unregister or replace it.
    #[non_exhaustive]
    RuntimeGone {
        /// The task's name.
        name: String,
    },
    /// The task is being unregistered or replaced.
    #[non_exhaustive]
    Leaving {
        /// The task's name.
        name: String,
    },
}

impl fmt::Display for TaskControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => unknown.fmt(f),
            Self::RuntimeGone { name } => runtime_gone(f, name),
            Self::Leaving { name } => leaving(f, name),
        }
    }
}

impl std::error::Error for TaskControlError {}

impl From<UnknownTask> for TaskControlError {
    fn from(unknown: UnknownTask) -> Self {
        Self::Unknown(unknown)
    }
}

fn runtime_gone(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(f, "the tokio runtime of task {name:?} was shut down, and the task was dropped with it")
}

fn leaving(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(f, "task {name:?} is being unregistered or replaced")
}

impl fmt::Display for RestartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(unknown) => unknown.fmt(f),
            Self::LimitReached { name, max_restarts, within } => {
                write!(
                    f,
                    "task {name:?} has been restarted {max_restarts} times within {within:?}, which is its limit"
                )
            }
            Self::RuntimeGone { name } => runtime_gone(f, name),
            Self::Leaving { name } => leaving(f, name),
            Self::ShuttingDown => f.write_str("the manager is shutting down"),
        }
    }
}

impl std::error::Error for RestartError {}

/// An invalid setting of a loop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopError {
    /// The schedule is invalid.
    Schedule(ScheduleError),
    /// [`MissedPolicy::CatchUp`](crate::schedule::MissedPolicy::CatchUp) with zero iterations.
    ZeroCatchUp,
    /// [`OverlapPolicy::Allow`](crate::schedule::OverlapPolicy::Allow) with zero iterations.
    ZeroOverlap,
    /// [`OverlapPolicy::Allow`](crate::schedule::OverlapPolicy::Allow) of a loop that [lends](crate::TaskLoop::lend) its state.
    LentOverlap,
}

impl std::fmt::Display for LoopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Schedule(error) => error.fmt(f),
            Self::ZeroCatchUp => f.write_str(
                "a loop must catch up with at least 1 missed iteration; use `skip` to leave all out",
            ),
            Self::ZeroOverlap => f.write_str("a loop must allow at least 1 iteration at once"),
            Self::LentOverlap => f.write_str(
                "iterations of a loop that lends its state cannot overlap: two cannot borrow it at once",
            ),
        }
    }
}

impl std::error::Error for LoopError {}

/// The reason why a call on a loop had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopControlError {
    /// The loop is not registered, or no longer, or its manager has shut down.
    NotRegistered,
    /// The task of this name is no loop.
    NotALoop,
    /// The tokio runtime that the loop ran on was shut down, and the loop was dropped with it.
    RuntimeGone,
    /// The loop waits for its start or restart, is about to end, or has ended.
    NotRunning,
    /// The loop is in standby: its [gate](crate::CriticalTaskConfig::gate) is closed.
    Standby,
    /// The loop already runs the maximum number of concurrent iterations.
    Overlapped,
    /// The new schedule is invalid; the old schedule stays.
    Schedule(ScheduleError),
}

impl std::fmt::Display for LoopControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRegistered => "the loop is not registered with a manager",
            Self::NotALoop => "the task is not a loop",
            Self::RuntimeGone => {
                "the tokio runtime of the loop was shut down, and the loop was dropped with it"
            }
            Self::NotRunning => "the loop is not running",
            Self::Standby => "the loop is in standby: its gate is closed",
            Self::Overlapped => "the loop already runs the maximum number of iterations at once",
            Self::Schedule(_) => "the new schedule of the loop is not usable",
        })
    }
}

impl std::error::Error for LoopControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Schedule(source) => Some(source),
            _ => None,
        }
    }
}
