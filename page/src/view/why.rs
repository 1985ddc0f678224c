//! The changes of a task, and the reasons for its restarts.

use otel_tasks::{
    TaskManager,
    events::{PinnedTrace, RestartVerdict, TaskChange, TaskDecision},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    format::{SHORT_TEXT, abridged, seconds, unix},
    spans::{SpanRing, TraceView},
};

/// A change of a task, or equal changes in a row.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangeView {
    /// Counted from 1 for each task.
    id: u64,
    /// The first time.
    at: f64,
    /// The last time.
    until: f64,
    count: u64,
    generation: u64,
    kind: &'static str,
    /// One line.
    detail: String,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl From<&TaskChange> for ChangeView {
    fn from(change: &TaskChange) -> Self {
        Self {
            id: change.number,
            at: unix(change.at),
            until: unix(change.until),
            count: change.count,
            generation: change.generation,
            kind: change.kind.as_str(),
            detail: abridged(&change.kind.to_string(), SHORT_TEXT).into_owned(),
            trace_id: change.trace_id.map(|id| id.to_string()),
            span_id: change.span_id.map(|id| id.to_string()),
        }
    }
}

/// The reason why a task was restarted, given up or not restarted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DecisionView {
    /// Counted from 1 for each task.
    id: u64,
    at: f64,
    generation: u64,
    /// `restart`, `give_up` or `stop`.
    decision: &'static str,
    /// `exit`, `stall`, `request`, `group`, `dependency` or `retry`.
    asked_by: &'static str,
    /// The reason of the restart or of the give-up.
    reason: Option<&'static str>,
    /// The result of the run.
    exit: Option<&'static str>,
    error_type: Option<&'static str>,
    error: Option<String>,
    is_permanent: bool,
    /// The restarts within the window; `null` if the policy was not asked.
    count: Option<u32>,
    /// `null` without a limit.
    limit: Option<u32>,
    window_seconds: Option<f64>,
    /// The restarts in a row without a stable run.
    attempt: Option<u32>,
    /// The random number, 0 to 1, that the delay was drawn with.
    random: Option<f64>,
    /// Before the restart.
    delay_seconds: Option<f64>,
    /// Until the next try of a task that was given up.
    retry_after_seconds: Option<f64>,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl From<&TaskDecision> for DecisionView {
    fn from(decision: &TaskDecision) -> Self {
        let question = decision.question.as_ref();
        let limit = question.map(|question| question.limit).filter(|limit| !limit.is_unlimited());
        let (reason, delay, retry_after) = match decision.verdict {
            RestartVerdict::Restart { reason, delay, .. } => (Some(reason.as_str()), Some(delay), None),
            RestartVerdict::GiveUp { reason, retry_after, .. } => (Some(reason), None, retry_after),
            _ => (None, None, None),
        };
        Self {
            id: decision.number,
            at: unix(decision.at),
            generation: decision.generation,
            decision: decision.verdict.as_str(),
            asked_by: decision.cause.as_str(),
            reason,
            exit: question.and_then(|question| question.result).map(|result| result.as_str()),
            error_type: decision.error_type,
            error: decision.message.as_deref().map(|message| abridged(message, SHORT_TEXT).into_owned()),
            is_permanent: question.is_some_and(|question| question.is_permanent),
            count: question.map(|question| question.restarts),
            limit: limit.map(|limit| limit.max_restarts()),
            window_seconds: limit.map(|limit| seconds(limit.within())),
            attempt: question.map(|question| question.attempt),
            random: question.map(|question| question.random),
            delay_seconds: delay.map(seconds),
            retry_after_seconds: retry_after.map(seconds),
            trace_id: decision.trace_id.map(|id| id.to_string()),
            span_id: decision.span_id.map(|id| id.to_string()),
        }
    }
}

/// A trace that matters longest.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PinnedView {
    /// `last_error`, `give_up` or `restart`.
    why: &'static str,
    at: f64,
    trace_id: String,
    span_id: String,
    /// `null` where its spans are gone, or the page is given none.
    trace: Option<TraceView>,
}

/// The changes, the decisions and the pinned traces of a task.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Why {
    /// The latest changes, the oldest first. Successful runs are left out.
    changes: Vec<ChangeView>,
    /// The decisions to restart it, to give it up or not to restart it, the oldest first.
    decisions: Vec<DecisionView>,
    pinned: Vec<PinnedView>,
}

impl Why {
    pub(crate) fn of(manager: &TaskManager, name: &str, ring: Option<&SpanRing>) -> Self {
        let pinned = manager.pinned_traces(name).unwrap_or_default();
        let pinned =
            [("last_error", pinned.last_error), ("give_up", pinned.give_up), ("restart", pinned.restart)];
        let view = |(why, trace): (_, Option<PinnedTrace>)| {
            let PinnedTrace { at, trace_id, span_id, .. } = trace?;
            let shown = ring.and_then(|ring| ring.trace_of(name, trace_id));
            Some(PinnedView {
                why,
                at: unix(at),
                trace_id: trace_id.to_string(),
                span_id: span_id.to_string(),
                trace: shown,
            })
        };
        Self {
            changes: manager.changes(name).unwrap_or_default().iter().map(ChangeView::from).collect(),
            decisions: manager.decisions(name).unwrap_or_default().iter().map(DecisionView::from).collect(),
            pinned: pinned.into_iter().filter_map(view).collect(),
        }
    }
}
