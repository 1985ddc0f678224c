//! Each happening that has a log record, said once: the count, the event and the record belong together.
//!
//! A record is emitted last, since a subscriber is the user's code. A record of the watchdog or of the shutdown is emitted on a thread of its own
//! ([`record_aside`]): nothing else depends on it then. Events without a record are sent where they happen.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, TraceContextExt},
};
use tracing::Level;

use super::observe::{
    changes::{Changes, TaskChangeKind, TaskDecision},
    events::{EventBus, TaskEventKind},
};
use crate::{
    cell::TaskState,
    contract::{SCOPE, key, record},
    emit::{record_aside, with_trace},
    policy::{
        DecisionCause, Exit, Failure, Panic, RestartIntensity, RestartReason, RestartVerdict, error_text,
        text::InstantText,
    },
    read::{HealthStatus, TaskHealth},
    run::Task,
};

/// The happenings of one task.
pub(super) struct Announcer<'a> {
    pub(super) events: &'a EventBus,
    pub(super) task: &'a Arc<Task>,
    /// The changes of the task; `None` for a spawned task.
    pub(super) changes: Option<&'a dyn Changes>,
    /// The generation of the life that the happening concerns.
    pub(super) generation: u64,
    /// The trace that the records belong to.
    pub(super) trace: Option<OtelContext>,
}

/// A task and a trace, for a record on another thread.
struct About {
    task: Arc<Task>,
    trace: Option<OtelContext>,
}

impl About {
    fn name(&self) -> &Arc<str> {
        &self.task.identity.name
    }
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

    fn about(&self) -> About {
        About { task: self.task.clone(), trace: self.trace.clone() }
    }

    fn send(&self, kind: impl FnOnce() -> TaskEventKind) {
        self.events.tell(Some(self.name()), self.generation, kind);
    }

    /// The run whose trace the records belong to.
    fn run(&self) -> Option<SpanContext> {
        self.trace.as_ref().map(|trace| trace.span().span_context().clone())
    }

    fn change(&self, kind: TaskChangeKind) {
        if let Some(changes) = self.changes {
            let run = self.run();
            changes.rings_made().change(self.generation, kind, run.as_ref());
        }
    }

    /// A run of the task failed; without effect for any other end. The run has a record of its own.
    pub(super) fn run_ended(&self, exit: &Exit) {
        if let Some(failed) = TaskChangeKind::failed(exit) {
            self.change(failed);
        }
    }

    /// The paused task continues. It has no record: its restart may have one.
    pub(super) fn resumed(&self) {
        self.change(TaskChangeKind::Resumed);
    }

    /// It was decided what follows an end, a stall or a request.
    pub(super) fn decided(&self, decision: &TaskDecision) {
        if let Some(changes) = self.changes {
            changes.rings_made().decide(decision);
        }
        let (reason, delay) = match decision.verdict {
            RestartVerdict::Restart { reason, delay } => (Some(reason.as_str()), Some(delay)),
            RestartVerdict::GiveUp { reason, retry_after } => (Some(reason), retry_after),
            RestartVerdict::Finish | RestartVerdict::Stop | RestartVerdict::StandBy => (None, None),
        };
        let question = decision.question.as_ref();
        let limit = question.map(|question| question.limit).filter(|limit| !limit.is_unlimited());
        record!(self, record::DECISION, Level::INFO,
            {
                { key::GENERATION } = number(self.generation),
                { key::DECISION } = decision.verdict.as_str(), { key::DECISION_CAUSE } = decision.cause.as_str(),
                { key::REASON } = reason, { key::DECISION_DELAY } = delay.map(|delay| delay.as_secs_f64()),
                { key::RESULT } = question.and_then(|question| question.result).map(|result| result.as_str()),
                { key::DECISION_RESTARTS } = question.map(|question| i64::from(question.restarts)),
                { key::DECISION_LIMIT } = limit.map(|limit| i64::from(limit.max_restarts())),
                { key::DECISION_WINDOW } = limit.map(|limit| limit.within().as_secs_f64()),
                { key::DECISION_ATTEMPT } = question.map(|question| i64::from(question.attempt)),
                { key::DECISION_PREVIOUS_DELAY } = question.map(|question| question.previous_delay.as_secs_f64()),
                { key::DECISION_RANDOM } = question.map(|question| question.random),
                { key::EXCEPTION_TYPE } = decision.error_type, { key::EXCEPTION_MESSAGE } = decision.message.as_deref(),
            },
            "task {}: {}", self.name(), DecisionText(decision));
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
        self.change(TaskChangeKind::Restarted { reason });
        self.send(|| TaskEventKind::Started { restart: Some(reason) });
        record!(self, record::RESTARTED, Level::WARN,
            { { key::GENERATION } = number(self.generation), { key::RESTART_REASON } = reason.as_str(), },
            "task {} restarted: {reason}", self.name());
    }

    /// The gate of the task is closed. It has no record: a healthy replica is in standby for months.
    pub(super) fn stands_by(&self) {
        self.change(TaskChangeKind::Standby);
        self.send(|| TaskEventKind::Standby);
    }

    /// The gate of the task was opened.
    pub(super) fn pass_granted(&self, gate: &str, term: u64) {
        self.change(TaskChangeKind::PassGranted { term });
        self.send(|| TaskEventKind::PassGranted { term });
        record!(self, record::LEASE_ACQUIRED, Level::INFO, { { key::LEASE_TERM } = number(term), },
            "task {} holds {gate}, term {term}", self.name());
    }

    /// The task is stopped because its pass ends.
    pub(super) fn pass_lost(&self, gate: &str, term: u64) {
        self.change(TaskChangeKind::PassLost { term });
        self.send(|| TaskEventKind::PassLost { term });
        record!(self, record::LEASE_LOST, Level::WARN, { { key::LEASE_TERM } = number(term), },
            "task {} has lost {gate}, term {term}: it is stopped, and in standby again", self.name());
    }

    /// The task has ended, and gives its pass back.
    pub(super) fn pass_released(&self, gate: &str, term: u64) {
        record!(self, record::LEASE_RELEASED, Level::INFO, { { key::LEASE_TERM } = number(term), },
            "task {} gives {gate} back, term {term}", self.name());
    }

    /// One poll of the task has not returned though its pass is about to end.
    pub(super) fn overran(&self, gate: &str, term: u64) {
        let (about, gate) = (self.about(), gate.to_owned());
        record_aside(move || {
            record!(about, record::LEASE_OVERRUN, Level::ERROR, { { key::LEASE_TERM } = number(term), },
                "task {} blocks its thread though {gate}, term {term}, is about to end: it may run twice at once",
                about.name());
        });
    }

    /// The task finished, or was stopped or paused.
    pub(super) fn at_rest(&self, state: TaskState, by: DecisionCause) {
        self.change(match state {
            TaskState::Finished => TaskChangeKind::Finished,
            TaskState::Paused => TaskChangeKind::Paused { by },
            _ => TaskChangeKind::Stopped { by },
        });
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
        self.change(TaskChangeKind::Restarted { reason: RestartReason::Retry });
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
        self.change(TaskChangeKind::GaveUp { reason, retry_after });
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
        self.change(TaskChangeKind::Recovered);
        self.send(|| TaskEventKind::Recovered);
        record!(self, record::RECOVERED, Level::INFO, {}, "task {} recovered", self.name());
    }

    /// The task gave no sign of life. `act` performs the task's stall action before a subscriber receives the event.
    pub(super) fn stalled(&self, silent_for: Duration, act: impl FnOnce()) {
        self.task.stalled();
        self.change(TaskChangeKind::Stalled { silent_for });
        self.send(|| TaskEventKind::Stalled { silent_for });
        act();
        let about = self.about();
        record_aside(move || {
            record!(
                about,
                record::STALLED,
                Level::WARN,
                {},
                "task {} stalled: no sign of life for {silent_for:.1?}",
                about.name()
            );
        });
    }

    /// One poll of the task does not return.
    pub(super) fn blocks(&self, thread: &Arc<str>, polling_for: Duration) {
        self.send(|| TaskEventKind::SlowPoll { polling_for, thread: thread.clone() });
        let (about, thread) = (self.about(), thread.clone());
        record_aside(move || {
            record!(
                about,
                record::POLL_SLOW,
                Level::WARN,
                {},
                "task {} blocks the thread {thread}: one poll has gone on for {polling_for:.1?}",
                about.name()
            );
        });
    }

    /// The task's status is another one.
    pub(super) fn health_changed(&self, health: &TaskHealth) {
        let status = health.status;
        self.change(TaskChangeKind::Health { status });
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
        self.change(TaskChangeKind::retried(failure.error_type, &failure.message));
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

    /// Code outside of the task's runs panicked in its driver: the task has failed.
    pub(super) fn driver_panicked(&self, panic: Panic) {
        let (about, text) = (self.about(), Exit::Panic(panic).message());
        record_aside(move || {
            record!(
                about,
                record::CALLBACK_PANICKED,
                Level::ERROR,
                {},
                "task {} has failed outside of its runs, in a schedule, a gate or a subscriber: {text}",
                about.name()
            );
        });
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

/// A function that the manager was given panicked, and its fallback is used. Said once for each function.
pub(crate) fn callback_panicked(callback: &'static str, panic: Panic) {
    let text = Exit::Panic(panic).message();
    record_aside(move || {
        tracing::event!(
            name: record::CALLBACK_PANICKED, target: SCOPE, parent: None, Level::ERROR,
            "{callback} {text}",
        );
    });
}

/// A step of the monitor's sweep panicked.
pub(super) fn step_panicked(step: &'static str, text: &str) {
    tracing::event!(
        name: record::MONITOR_FAILED, target: SCOPE, parent: None, Level::ERROR,
        "monitor step {step} panicked: {text}",
    );
}

/// The largest number of names in a text.
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

/// Returns which tasks block the threads of a runtime. Other work may block them, too.
fn blocked_by(polling: &[Arc<str>]) -> String {
    if polling.is_empty() {
        return "no task of the manager blocks a thread".to_owned();
    }
    format!("its threads are blocked by: {}", some_of(polling))
}

/// The runtime runs nothing.
pub(super) fn runtime_stalled(events: &EventBus, stalled_for: Duration, polling: Vec<Arc<str>>) {
    let by = blocked_by(&polling);
    events.tell(None, 0, || TaskEventKind::RuntimeStalled { stalled_for, polling });
    record_aside(move || {
        tracing::event!(
            name: record::RUNTIME_STALLED, target: SCOPE, parent: None, Level::ERROR,
            "the runtime has run nothing for {stalled_for:.1?}; {by}",
        );
    });
}

/// The runtime of registered tasks was shut down, and they were dropped with it.
pub(super) fn runtime_gone(names: &[Arc<str>]) {
    let names = some_of(names);
    record_aside(move || {
        tracing::event!(
            name: record::RUNTIME_GONE, target: SCOPE, parent: None, Level::ERROR,
            "the tokio runtime of the task manager was shut down; these tasks were dropped with it: {names}",
        );
    });
}

/// The manager drains.
pub(super) fn draining(events: &EventBus, drain: Duration, until: SystemTime) {
    events.tell(None, 0, || TaskEventKind::Draining { until });
    record_aside(move || {
        tracing::event!(
            name: record::DRAINING, target: SCOPE, parent: None, Level::INFO,
            "the task manager drains for {drain:.1?}, then the ordered shutdown begins",
        );
    });
}

/// A task did not end by itself at shutdown. The record belongs to the current trace.
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
    record_aside(move || {
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
    record_aside(|| {
        if tracing::enabled!(target: SCOPE, Level::WARN) {
            tracing::event!(name: record::TELEMETRY_ENDED, target: SCOPE, parent: None, Level::WARN, "{TEXT}");
        } else {
            // Not the macro, which panics if stderr is closed.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("otel-tasks: {TEXT}\n"));
        }
    });
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
    let error = error.to_string();
    record_aside(move || {
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

/// One sentence about a decision.
struct DecisionText<'a>(&'a TaskDecision);

impl std::fmt::Display for DecisionText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(TaskDecision { verdict, cause, question, .. }) = self;
        match verdict {
            RestartVerdict::Restart { reason, delay } if delay.is_zero() => {
                write!(f, "restart at once ({reason})")?;
            }
            RestartVerdict::Restart { reason, delay } => write!(f, "restart in {delay:.1?} ({reason})")?,
            RestartVerdict::GiveUp { reason, retry_after: None } => {
                write!(f, "given up for good ({reason})")?
            }
            RestartVerdict::GiveUp { reason, retry_after: Some(after) } => {
                write!(f, "given up ({reason}), next try in {after:?}")?;
            }
            RestartVerdict::Finish => f.write_str("finished")?,
            RestartVerdict::Stop => f.write_str("stays down")?,
            RestartVerdict::StandBy => f.write_str("standby")?,
        }
        write!(f, ", because of: {cause}")?;
        match question {
            Some(question) if !question.limit.is_unlimited() => write!(
                f,
                "; {} restarts in {:?} (limit: {})",
                question.restarts,
                question.limit.within(),
                question.limit.max_restarts()
            ),
            _ => Ok(()),
        }
    }
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_without_a_blocking_task_has_no_empty_list_of_them() {
        assert_eq!(blocked_by(&["a".into(), "b".into()]), "its threads are blocked by: a, b");
        assert_eq!(blocked_by(&[]), "no task of the manager blocks a thread");
    }
}
