//! Restart, pause, resume, stop and run from the page: with the token, and written down.

use std::{
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use otel_tasks::{
    TaskManager,
    schedule::LoopControlError,
    snapshot::{TaskSnapshot, TaskState},
    task::{RestartError, TaskControlError, TaskManagerBuilder, UnknownTask},
    telemetry::contract::{
        SCOPE,
        key::{self, CONTROL_ACTION, CONTROL_OUTCOME, CONTROL_REFUSED},
        page::CONTROL_REFUSALS,
    },
};
use subtle::ConstantTimeEq;
use tracing::{Level, Span, field::Empty};

use crate::guesses::{Guesses, NotAccepted};

/// The name of the record.
const CONTROLLED: &str = "task.controlled";

/// The actions on a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Restart,
    Pause,
    Resume,
    Stop,
    /// One iteration of a loop now.
    Run,
}

impl Action {
    pub(crate) const ALL: [Self; 5] = [Self::Restart, Self::Pause, Self::Resume, Self::Stop, Self::Run];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop => "stop",
            Self::Run => "run",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    /// Returns true if the action changes a task in this state. A name that is not registered has no state.
    pub(crate) fn changes(self, task: &TaskSnapshot) -> bool {
        let Some(state) = task.state else { return false };
        let is_tried_again = task.next_retry.is_some();
        match self {
            Self::Restart => state != TaskState::Stopping,
            Self::Pause => {
                matches!(
                    state,
                    TaskState::Waiting | TaskState::Standby | TaskState::Running | TaskState::Backoff
                ) || is_tried_again
            }
            Self::Resume => state == TaskState::Paused,
            Self::Stop => match state {
                TaskState::Stopping | TaskState::Stopped | TaskState::Finished => false,
                TaskState::Failed => is_tried_again,
                _ => true,
            },
            Self::Run => matches!(state, TaskState::Running | TaskState::Paused),
        }
    }
}

/// The reason why nothing was done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// No token was configured.
    Off,
    Token,
    /// Too many tokens of the address wait for their check.
    Busy,
    Unknown(String),
    Conflict(String),
}

impl Refused {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Off => "control is off",
            Self::Token => "no valid token",
            Self::Busy => "too many tokens",
            Self::Unknown(_) => "unknown task",
            Self::Conflict(_) => "conflict",
        }
    }
}

/// Refused requests. Few of them have a record, because one client may send many.
#[derive(Debug)]
pub(crate) struct Refusals {
    counter: Counter<u64>,
    /// Since the last record.
    count: AtomicU64,
    last: Mutex<Option<Instant>>,
}

/// The minimum distance of records of refusals.
const QUIET: Duration = Duration::from_secs(60);

impl Refusals {
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = meter
            .u64_counter(CONTROL_REFUSALS.name)
            .with_unit(CONTROL_REFUSALS.unit)
            .with_description(CONTROL_REFUSALS.description)
            .build();
        Self { counter, count: AtomicU64::new(0), last: Mutex::default() }
    }

    /// Counts a refusal. The first is a record, and then one a minute at most.
    pub(crate) fn note(&self, name: &str, action: Action, outcome: &'static str) {
        self.counter.add(1, &[KeyValue::new(CONTROL_OUTCOME, outcome)]);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < QUIET) {
            return;
        }
        *last = Some(Instant::now());
        self.count.fetch_sub(count, Relaxed);
        drop(last);
        tracing::event!(
            name: CONTROLLED, target: SCOPE, parent: None, Level::WARN,
            { key::NAME } = name, { CONTROL_ACTION } = action.as_str(), { CONTROL_OUTCOME } = outcome,
            { CONTROL_REFUSED } = count,
            "the page refused {count} requests to control a task, the last to {} task {name:?}: {outcome}", action.as_str(),
        );
    }
}

/// Checks that the request may control tasks: its token is the configured one, and it is its address's turn.
pub(crate) async fn permit(
    guesses: &Guesses,
    configured: Option<&str>,
    given: Option<&str>,
    from: Option<IpAddr>,
) -> Result<(), Refused> {
    let configured = configured.ok_or(Refused::Off)?;
    // No guess.
    let given = given.ok_or(Refused::Token)?;
    let is_right = || bool::from(configured.as_bytes().ct_eq(given.as_bytes()));
    guesses.look(from, is_right).await.map_err(|not_accepted| match not_accepted {
        NotAccepted::Wrong => Refused::Token,
        NotAccepted::TooMany => Refused::Busy,
    })
}

/// Does what is asked. Each attempt that was permitted is a span and a record.
pub(crate) fn control(manager: &TaskManager, name: &str, action: Action) -> Result<(), Refused> {
    let span = span(manager, name, action);
    // Entered, it is OpenTelemetry's current span: the record carries its trace.
    let _entered = span.enter();
    let done = act(manager, name, action);
    let outcome = done.as_ref().map_or_else(Refused::as_str, |()| "accepted");
    span.record(CONTROL_OUTCOME, outcome);
    if done.is_err() {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", outcome);
    }
    // Without a `tracing` parent: otherwise tracing-opentelemetry would make a span event of it as well.
    tracing::event!(
        name: CONTROLLED, target: SCOPE, parent: None, Level::WARN,
        { key::NAME } = name, { CONTROL_ACTION } = action.as_str(), { CONTROL_OUTCOME } = outcome,
        "the page was asked to {} task {name:?}: {outcome}", action.as_str(),
    );
    done
}

/// The span of one control request, a trace of its own. Its level is that of the record: a filter that passes the record
/// passes the record's trace, too.
fn span(manager: &TaskManager, name: &str, action: Action) -> Span {
    let prefix = manager.settings().span_prefix;
    // A `tracing` span's name is fixed at compile time; another prefix reaches OpenTelemetry as `otel.name`.
    let other_name =
        (*prefix != *TaskManagerBuilder::DEFAULT_SPAN_PREFIX).then(|| format!("{prefix}.control_task"));
    tracing::span!(
        target: SCOPE, parent: None, Level::WARN, "bot.control_task",
        otel.name = other_name, otel.status_code = Empty, otel.status_description = Empty,
        { key::NAME } = name, { CONTROL_ACTION } = action.as_str(), { CONTROL_OUTCOME } = Empty,
    )
}

fn act(manager: &TaskManager, name: &str, action: Action) -> Result<(), Refused> {
    let unknown = |error: UnknownTask| Refused::Unknown(error.to_string());
    let refused = |error: TaskControlError| match error {
        TaskControlError::Unknown(error) => unknown(error),
        error => Refused::Conflict(error.to_string()),
    };
    // The manager takes an order that changes nothing; a person wants to know that it does not.
    if let Some(task) = manager.snapshot(name).filter(|task| !action.changes(task)) {
        if let Some(state) = task.state {
            let (action, state) = (action.as_str(), state.as_str());
            return Err(Refused::Conflict(format!("{action} has no effect on task {name:?}: it is {state}")));
        }
    }
    match action {
        Action::Restart => manager.restart(name).map(drop).map_err(|error| match error {
            RestartError::Unknown(error) => unknown(error),
            error => Refused::Conflict(error.to_string()),
        }),
        Action::Pause => manager.pause(name).map_err(refused),
        Action::Resume => manager.resume(name).map_err(refused),
        Action::Stop => manager.stop(name).map_err(refused),
        Action::Run => {
            let begun = manager.loop_handle(name).and_then(|handle| handle.run_now());
            begun.map(drop).map_err(|error| match error {
                LoopControlError::NotRegistered => Refused::Unknown(error.to_string()),
                error => Refused::Conflict(error.to_string()),
            })
        }
    }
}
