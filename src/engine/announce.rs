//! Each happening that has a log record, said once: the count, the event and the record belong together.
//!
//! A record is emitted last, since a subscriber is the user's code. Events without a record are sent where they happen.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::Context as OtelContext;
use tracing::Level;

use super::observe::events::{EventBus, TaskEventKind};
use crate::{
    cell::TaskState,
    contract::{SCOPE, key, record},
    emit::with_trace,
    policy::{Exit, Failure, Panic, RestartIntensity, RestartReason, error_text, text::InstantText},
    read::{HealthStatus, TaskHealth},
    run::Task,
};

/// The happenings of one task.
pub(super) struct Announcer<'a> {
    pub(super) events: &'a EventBus,
    pub(super) task: &'a Task,
    /// The generation of the life that the happening concerns.
    pub(super) generation: u64,
    /// The trace that the records belong to.
    pub(super) trace: Option<OtelContext>,
}

/// Emits a record of a task, with its name, a member's full name, and its component.
macro_rules! record {
    ($self:expr, $name:expr, $level:expr, { $($fields:tt)* }, $($text:tt)+) => {
        with_trace($self.trace.clone(), || {
            let identity = &$self.task.metered().identity;
            tracing::event!(
                name: $name, target: SCOPE, parent: None, $level,
                { key::NAME } = &*identity.name, { key::GIVEN_NAME } = $self.task.member_name(),
                { key::COMPONENT } = identity.component.as_deref(), $($fields)*
                $($text)+
            );
        })
    };
}

impl Announcer<'_> {
    fn name(&self) -> &Arc<str> {
        &self.task.identity.name
    }

    fn send(&self, kind: impl FnOnce() -> TaskEventKind) {
        self.events.tell(Some(self.name()), self.generation, kind);
    }

    /// The task began for the first time.
    pub(super) fn started(&self) {
        self.send(|| TaskEventKind::Started { restart: None });
        record!(self, record::STARTED, Level::INFO, { { key::GENERATION } = number(self.generation), },
            "task {} started", self.name());
    }

    /// The task began again.
    pub(super) fn restarted(&self, reason: RestartReason, now: Duration) {
        self.task.restarted(reason, now, SystemTime::now());
        self.send(|| TaskEventKind::Started { restart: Some(reason) });
        record!(self, record::RESTARTED, Level::WARN,
            { { key::GENERATION } = number(self.generation), { key::RESTART_REASON } = reason.as_str(), },
            "task {} restarted: {reason}", self.name());
    }

    /// The task finished, or was stopped or paused on request.
    pub(super) fn at_rest(&self, state: TaskState) {
        self.send(|| match state {
            TaskState::Finished => TaskEventKind::Finished,
            TaskState::Paused => TaskEventKind::Paused,
            _ => TaskEventKind::Stopped,
        });
        record!(self, record::STOPPED, Level::INFO, { { key::STATE } = state.as_str(), },
            "task {} {state}", self.name());
    }

    /// The task began another try after it had failed. It has no record: the failure had one, and the recovery will.
    pub(super) fn tried_again(&self, now: Duration) {
        self.task.restarted(RestartReason::Retry, now, SystemTime::now());
        self.send(|| TaskEventKind::Started { restart: Some(RestartReason::Retry) });
    }

    /// The task ended by itself though it is to run as long as the service does.
    pub(super) fn ended(&self, delay: Duration) {
        record!(
            self,
            record::ENDED,
            Level::WARN,
            {},
            "task {} ended by itself and is restarted in {delay:.1?}. If it may end, register it with \
             CriticalTaskConfig::one_shot",
            self.name()
        );
    }

    /// The task was given up, for good or until it is tried again after `retry_after`.
    pub(super) fn gave_up(
        &self,
        reason: &'static str,
        intensity: RestartIntensity,
        retry_after: Option<Duration>,
    ) {
        self.send(|| TaskEventKind::GaveUp { reason, retry_after });
        let limit = match intensity.is_unlimited() {
            true => String::new(),
            false => {
                format!(" (limit: {} restarts in {:?})", intensity.max_restarts(), intensity.within())
            }
        };
        let next = match retry_after {
            None => String::new(),
            Some(interval) => format!(", tried again every {interval:?}"),
        };
        record!(self, record::GAVE_UP, Level::ERROR, { { key::REASON } = reason, },
            "task {} given up: {reason}{limit}{next}", self.name());
    }

    /// The task is well again after it had failed.
    pub(super) fn recovered(&self) {
        self.send(|| TaskEventKind::Recovered);
        record!(self, record::RECOVERED, Level::INFO, {}, "task {} recovered", self.name());
    }

    /// The task gave no sign of life. `act` does what the task's settings say, before a subscriber hears of it.
    pub(super) fn stalled(&self, silent_for: Duration, act: impl FnOnce()) {
        self.task.stalled();
        self.send(|| TaskEventKind::Stalled { silent_for });
        act();
        record!(
            self,
            record::STALLED,
            Level::WARN,
            {},
            "task {} stalled: no sign of life for {silent_for:.1?}",
            self.name()
        );
    }

    /// One poll of the task goes on and on.
    pub(super) fn blocks(&self, thread: &Arc<str>, polling_for: Duration) {
        self.send(|| TaskEventKind::SlowPoll { polling_for, thread: thread.clone() });
        record!(
            self,
            record::POLL_SLOW,
            Level::WARN,
            {},
            "task {} blocks the thread {thread}: one poll has gone on for {polling_for:.1?}",
            self.name()
        );
    }

    /// The task's status is another one.
    pub(super) fn health_changed(&self, health: &TaskHealth) {
        let status = health.status;
        self.send(|| TaskEventKind::HealthChanged { status });
        let name = self.name();
        match status {
            HealthStatus::Healthy => {
                record!(self, record::HEALTH_CHANGED, Level::INFO, { { key::HEALTH_STATUS } = status.as_str(), },
                    "task {name} is healthy again");
            }
            HealthStatus::Degraded => {
                record!(self, record::HEALTH_CHANGED, Level::INFO, { { key::HEALTH_STATUS } = status.as_str(), },
                    "task {name} is {health}");
            }
            HealthStatus::Unhealthy => {
                record!(self, record::HEALTH_CHANGED, Level::WARN, { { key::HEALTH_STATUS } = status.as_str(), },
                    "task {name} is {health}");
            }
        }
    }

    /// An iteration of a loop is tried again.
    pub(super) fn iteration_retried(&self, iteration: u64, failure: &Failure, delay: Duration) {
        self.task.retried();
        self.send(|| TaskEventKind::Retrying { iteration, failure: failure.clone(), delay });
        record!(self, record::ITERATION_RETRIED, Level::WARN,
            {
                { key::ITERATION } = number(iteration), { key::EXCEPTION_TYPE } = failure.error_type,
                { key::EXCEPTION_MESSAGE } = failure.message,
            },
            "iteration {iteration} of loop {} is tried again after {delay:?}: {}", self.name(), failure.message);
    }

    /// A hook of a loop panicked.
    pub(super) fn hook_panicked(&self, hook: &'static str, panic: Panic) {
        record!(
            self,
            record::HOOK_PANICKED,
            Level::ERROR,
            {},
            "hook {hook} of loop {} {}",
            self.name(),
            Exit::Panic(panic).message()
        );
    }

    /// The schedule of a loop leaves out all of its times up to then, and for as long nothing begins.
    pub(super) fn schedule_is_empty(&self, upto: SystemTime) {
        record!(
            self,
            record::SCHEDULE_EMPTY,
            Level::WARN,
            {},
            "the schedule of loop {} leaves out every time until {}",
            self.name(),
            InstantText(upto)
        );
    }

    /// The task is stopped later than its category asks, because of a task that depends on it.
    pub(super) fn order_inverted(&self, dependent: &str) {
        record!(
            self,
            record::ORDER_INVERTED,
            Level::WARN,
            {},
            "task {} is stopped after {dependent}, which depends on it, though it would come first",
            self.name()
        );
    }
}

/// A task has no category, though the manager has rules for names.
pub(super) fn category_unknown(name: &str) {
    tracing::event!(
        name: record::CATEGORY_UNKNOWN, target: SCOPE, parent: None, Level::WARN,
        { key::NAME } = name,
        "task {name} has no category: no rule of the manager matches its name. Add a prefix to the rules, or set the category",
    );
}

/// A step of the monitor's sweep panicked.
pub(super) fn step_panicked(step: &'static str, text: &str) {
    tracing::event!(
        name: record::MONITOR_FAILED, target: SCOPE, parent: None, Level::ERROR,
        "monitor step {step} panicked: {text}",
    );
}

/// How many names a text lists.
const MAX_LISTED: usize = 20;

/// The first names, and how many there are beside them: a family may have ten thousand.
fn some_of(names: &[impl AsRef<str>]) -> String {
    let listed: Vec<_> = names.iter().take(MAX_LISTED).map(AsRef::as_ref).collect();
    let listed = listed.join(", ");
    match names.len().saturating_sub(MAX_LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

/// The watchdog's thread did not start.
pub(super) fn unwatched(error: &std::io::Error) {
    with_trace(None, || {
        tracing::event!(
            name: record::MONITOR_FAILED, target: SCOPE, parent: None, Level::ERROR,
            "the watchdog's thread did not start, blocked threads will not be seen: {error}",
        );
    });
}

/// The runtime runs nothing.
pub(super) fn runtime_stalled(events: &EventBus, stalled_for: Duration, polling: Vec<Arc<str>>) {
    let names = some_of(&polling);
    events.tell(None, 0, || TaskEventKind::RuntimeStalled { stalled_for, polling });
    with_trace(None, || {
        tracing::event!(
            name: record::RUNTIME_STALLED, target: SCOPE, parent: None, Level::ERROR,
            "the runtime has run nothing for {stalled_for:.1?}; its threads are blocked by: {names}",
        );
    });
}

/// The runtime of registered tasks was shut down, and they were dropped with it.
pub(super) fn runtime_gone(names: &[Arc<str>]) {
    with_trace(None, || {
        tracing::event!(
            name: record::RUNTIME_GONE, target: SCOPE, parent: None, Level::ERROR,
            "the tokio runtime of the task manager was shut down; these tasks were dropped with it: {}",
            some_of(names),
        );
    });
}

/// The manager drains.
pub(super) fn draining(events: &EventBus, drain: Duration, until: SystemTime) {
    events.tell(None, 0, || TaskEventKind::Draining { until });
    with_trace(None, || {
        tracing::event!(
            name: record::DRAINING, target: SCOPE, parent: None, Level::INFO,
            "the task manager drains for {drain:.1?}, then the ordered shutdown begins",
        );
    });
}

/// A task did not end by itself at shutdown. The record belongs to the span that is entered.
pub(super) fn not_stopped(name: &str, outcome: crate::policy::ShutdownOutcome) {
    tracing::event!(
        name: record::NOT_STOPPED, target: SCOPE, parent: None, Level::WARN,
        { key::NAME } = name, { key::SHUTDOWN_OUTCOME } = outcome.as_str(),
        "task {name} did not end by itself: {outcome}",
    );
}

/// A task that was stopped could not be replaced.
pub(crate) fn replacement_failed(name: &str, error: &crate::error::RegisterError) {
    with_trace(None, || {
        tracing::event!(
            name: record::MONITOR_FAILED, target: SCOPE, parent: None, Level::ERROR,
            { key::NAME } = name,
            "task {name} was stopped and could not be replaced: {}", error_text::of_error(error),
        );
    });
}

/// The last handle of a manager was dropped while something was alive.
pub(crate) fn last_handle_dropped(names: &[&str]) {
    let tasks = if names.is_empty() { "spawned runs".to_owned() } else { some_of(names) };
    with_trace(None, || {
        tracing::event!(
            name: record::MANAGER_DROPPED, target: SCOPE, parent: None, Level::WARN,
            "the last handle of the task manager was dropped: an ordered shutdown of {tasks} begins. Keep a handle, \
             and await `shutdown` or `run_until`",
        );
    });
}

/// Installed telemetry was dropped without its shutdown.
#[cfg(feature = "otlp-http")]
pub(crate) fn telemetry_dropped() {
    const TEXT: &str = "the installed telemetry was dropped, and nothing is exported any more: keep what `install` returned until \
                        the program ends, then await `shutdown`";
    if tracing::enabled!(target: SCOPE, Level::WARN) {
        tracing::event!(name: record::TELEMETRY_ENDED, target: SCOPE, parent: None, Level::WARN, "{TEXT}");
    } else {
        // Not the macro, which panics if stderr is closed.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("otel-tasks: {TEXT}\n"));
    }
}

/// A variable of the service manager's is not used.
#[cfg(all(feature = "systemd", unix))]
pub(crate) fn service_variable_ignored(ignored: &crate::systemd::Ignored) {
    with_trace(None, || {
        tracing::event!(
            name: record::SYSTEMD_FAILED, target: SCOPE, parent: None, Level::WARN,
            variable = ignored.variable,
            "{ignored}",
        );
    });
}

/// The service manager does not receive what is sent to it.
#[cfg(all(feature = "systemd", unix))]
pub(super) fn service_manager_failed(error: &std::io::Error) {
    with_trace(None, || {
        tracing::event!(
            name: record::SYSTEMD_FAILED, target: SCOPE, parent: None, Level::WARN,
            "the service manager cannot be notified, which is tried again: {error}",
        );
    });
}

/// A component's tasks could not be registered.
pub(crate) fn component_failed(component: &str, text: &str) {
    with_trace(None, || {
        tracing::event!(
            name: record::MONITOR_FAILED, target: SCOPE, parent: None, Level::ERROR,
            { key::COMPONENT } = component,
            "component {component}: {text}",
        );
    });
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
