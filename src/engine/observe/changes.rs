//! The changes of one registered task, and their reasons: small rings that are made at the first change.
//!
//! Successful runs are no changes, and neither is the first start, so a task that idles or works well has no ring.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, MutexGuard},
    time::{Duration, SystemTime},
};

use opentelemetry::{SpanId, TraceId, trace::SpanContext};

use crate::{
    policy::{
        DecisionCause, Exit, ExitKind, RestartQuestion, RestartReason, RestartVerdict, error_text::bounded,
    },
    read::HealthStatus,
};

/// The largest length of an error's text in a change, in bytes.
const TEXT: usize = 512;
/// The number of entries at the end of a ring that are compared with a new one. For example, a failure, its restart, and the same again
/// are two entries.
const ALIKE: usize = 4;

/// A change of a registered task: a failure, a restart, a stop. A successful run is no change.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskChange {
    /// The number of the change, counted from 1 for each task.
    pub number: u64,
    /// The time at which it happened; for equal changes in a row, the first time.
    pub at: SystemTime,
    /// The time at which it happened last.
    pub until: SystemTime,
    /// The number of times that it happened. Equal failures and restarts in a row are one change.
    pub count: u64,
    /// The task's generation, the last time.
    pub generation: u64,
    /// The kind of the change.
    pub kind: TaskChangeKind,
    /// The trace of the run that it concerns, the last time.
    pub trace_id: Option<TraceId>,
    /// The span of that run.
    pub span_id: Option<SpanId>,
}

impl TaskChange {
    /// The largest number of changes of a task that are kept.
    pub const KEPT: usize = 32;
}

/// The kind of a change of a registered task.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TaskChangeKind {
    /// A run failed, panicked or timed out.
    #[non_exhaustive]
    Failed {
        /// The result of the run.
        result: ExitKind,
        /// The class of the error.
        error_type: &'static str,
        /// The text of the error, at most about 512 bytes.
        message: Arc<str>,
    },
    /// An iteration of a loop failed and is tried again.
    #[non_exhaustive]
    Retried {
        /// The class of the error.
        error_type: &'static str,
        /// The text of the error, at most about 512 bytes.
        message: Arc<str>,
    },
    /// The task began again.
    #[non_exhaustive]
    Restarted {
        /// The reason.
        reason: RestartReason,
    },
    /// The task was given up.
    #[non_exhaustive]
    GaveUp {
        /// The reason.
        reason: &'static str,
        /// The time until the next try; `None` if the task was given up for good.
        retry_after: Option<Duration>,
    },
    /// The task is well again after it had failed.
    Recovered,
    /// The task gave no sign of life in time.
    #[non_exhaustive]
    Stalled {
        /// The time without a sign of life.
        silent_for: Duration,
    },
    /// A health check found another status.
    #[non_exhaustive]
    Health {
        /// The new status.
        status: HealthStatus,
    },
    /// The task ended by itself, and its policy leaves it so.
    Finished,
    /// The task was stopped.
    #[non_exhaustive]
    Stopped {
        /// The cause of the stop.
        by: DecisionCause,
    },
    /// The task was paused.
    #[non_exhaustive]
    Paused {
        /// The cause of the pause.
        by: DecisionCause,
    },
    /// The paused task continues.
    Resumed,
    /// The gate of the task is closed: it is in standby.
    Standby,
    /// The gate of the task was opened.
    #[non_exhaustive]
    PassGranted {
        /// The term of the pass.
        term: u64,
    },
    /// The pass of the task was over, or about to end, before the task was.
    #[non_exhaustive]
    PassLost {
        /// The term of the pass.
        term: u64,
    },
}

impl TaskChangeKind {
    /// The name of the kind in logs and JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "failed",
            Self::Retried { .. } => "retried",
            Self::Restarted { .. } => "restarted",
            Self::GaveUp { .. } => "gave_up",
            Self::Recovered => "recovered",
            Self::Stalled { .. } => "stalled",
            Self::Health { .. } => "health",
            Self::Finished => "finished",
            Self::Stopped { .. } => "stopped",
            Self::Paused { .. } => "paused",
            Self::Resumed => "resumed",
            Self::Standby => "standby",
            Self::PassGranted { .. } => "pass_granted",
            Self::PassLost { .. } => "pass_lost",
        }
    }

    pub(crate) fn failed(exit: &Exit) -> Option<Self> {
        let error_type = exit.error_type()?;
        let message = bounded(&exit.message(), TEXT).into();
        Some(Self::Failed { result: exit.kind(), error_type, message })
    }

    pub(crate) fn retried(error_type: &'static str, message: &str) -> Self {
        Self::Retried { error_type, message: bounded(message, TEXT).into() }
    }

    /// Returns true if it may happen repeatedly, in turn with others of its kind.
    fn repeats(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Retried { .. } | Self::Restarted { .. })
    }
}

/// Writes one line without the task's name, as in `restarted after a failure`.
impl fmt::Display for TaskChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { message, .. } => write!(f, "failed: {message}"),
            Self::Retried { message, .. } => write!(f, "tries an iteration again: {message}"),
            Self::Restarted { reason } => f.write_str(restarted(*reason)),
            Self::GaveUp { reason, retry_after: None } => write!(f, "given up for good: {reason}"),
            Self::GaveUp { reason, retry_after: Some(after) } => {
                write!(f, "given up: {reason}, next try in {after:?}")
            }
            Self::Recovered => f.write_str("recovered"),
            Self::Stalled { silent_for } => write!(f, "stalled: no sign of life for {silent_for:.1?}"),
            Self::Health { status } => write!(f, "became {status}"),
            Self::Finished => f.write_str("finished"),
            Self::Stopped { by } => write!(f, "stopped by {by}"),
            Self::Paused { by } => write!(f, "paused by {by}"),
            Self::Resumed => f.write_str("resumed"),
            Self::Standby => f.write_str("in standby"),
            Self::PassGranted { term } => write!(f, "granted: term {term}"),
            Self::PassLost { term } => write!(f, "lost: term {term}"),
        }
    }
}

fn restarted(reason: RestartReason) -> &'static str {
    match reason {
        RestartReason::Failure => "restarted after a failure",
        RestartReason::Panic => "restarted after a panic",
        RestartReason::Timeout => "restarted after a timeout",
        RestartReason::Finished => "restarted after it ended by itself",
        RestartReason::Stalled => "restarted after a stall",
        RestartReason::Requested => "restarted on request",
        RestartReason::Group => "restarted with its group",
        RestartReason::Dependency => "restarted with a task that it depends on",
        RestartReason::Retry => "tried again",
    }
}

/// The reason why a registered task was restarted, given up, not restarted or put in standby: all inputs of the decision.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskDecision {
    /// The number of the decision, counted from 1 for each task.
    pub number: u64,
    /// The time at which it was made.
    pub at: SystemTime,
    /// The task's generation that had ended, or was to end.
    pub generation: u64,
    /// The cause of the decision.
    pub cause: DecisionCause,
    /// The decision.
    pub verdict: RestartVerdict,
    /// The inputs of the task's policy. `None` if the policy did not decide: the cause was a request, the group or a dependency.
    ///
    /// Its [`answer`](RestartQuestion::answer) is the verdict, unless the cause is the group, which may overrule it.
    pub question: Option<RestartQuestion>,
    /// The class of the error that the run ended with.
    pub error_type: Option<&'static str>,
    /// The text of that error, at most about 512 bytes.
    pub message: Option<Arc<str>>,
    /// The trace of the run that ended.
    pub trace_id: Option<TraceId>,
    /// The span of that run.
    pub span_id: Option<SpanId>,
}

impl TaskDecision {
    /// The most decisions that are kept of a task.
    pub const KEPT: usize = 16;

    pub(crate) fn new(
        generation: u64,
        cause: DecisionCause,
        verdict: RestartVerdict,
        question: Option<RestartQuestion>,
        exit: Option<&Exit>,
        run: Option<&SpanContext>,
    ) -> Self {
        let failed = exit.filter(|exit| exit.error_type().is_some());
        let ids = run.and_then(ids_of);
        Self {
            number: 0,
            at: SystemTime::now(),
            generation,
            cause,
            verdict,
            question,
            error_type: failed.and_then(Exit::error_type),
            message: failed.map(|exit| bounded(&exit.message(), TEXT).into()),
            trace_id: ids.map(|(trace, _)| trace),
            span_id: ids.map(|(_, span)| span),
        }
    }
}

/// The traces of a task that matter longest. They are kept while newer changes and decisions push out older ones.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PinnedTraces {
    /// The last run that failed.
    pub last_error: Option<PinnedTrace>,
    /// The run that ended before the task was last given up.
    pub give_up: Option<PinnedTrace>,
    /// The run that ended before the last restart.
    pub restart: Option<PinnedTrace>,
}

/// The trace and the span of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedTrace {
    /// The time of the error, the give-up or the decision to restart.
    pub at: SystemTime,
    /// The trace.
    pub trace_id: TraceId,
    /// The span of the run.
    pub span_id: SpanId,
}

/// The owner of the changes of a task, which makes their rings with the first change.
pub(crate) trait Changes {
    fn rings_made(&self) -> MutexGuard<'_, Rings>;
}

/// The rings of one task.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    changes: VecDeque<TaskChange>,
    changed: u64,
    decisions: VecDeque<TaskDecision>,
    decided: u64,
    pinned: PinnedTraces,
}

impl Rings {
    pub(crate) fn change(&mut self, generation: u64, kind: TaskChangeKind, run: Option<&SpanContext>) {
        let at = SystemTime::now();
        let ids = run.and_then(ids_of);
        if let Some((trace_id, span_id)) = ids.filter(|_| matches!(kind, TaskChangeKind::Failed { .. })) {
            self.pinned.last_error = Some(PinnedTrace { at, trace_id, span_id });
        }
        let recent = self.changes.iter_mut().rev().take(ALIKE);
        let mut recent = recent.take_while(|change| change.kind.repeats());
        let alike = if kind.repeats() { recent.find(|change| change.kind == kind) } else { None };
        if let Some(change) = alike {
            (change.count, change.until, change.generation) = (change.count + 1, at, generation);
            (change.trace_id, change.span_id) = ids.unzip();
            return;
        }
        if self.changes.len() == TaskChange::KEPT {
            self.changes.pop_front();
        }
        self.changed += 1;
        let (trace_id, span_id) = ids.unzip();
        let number = self.changed;
        self.changes.push_back(TaskChange {
            number,
            at,
            until: at,
            count: 1,
            generation,
            kind,
            trace_id,
            span_id,
        });
    }

    pub(crate) fn decide(&mut self, decision: &TaskDecision) {
        if let (Some(trace_id), Some(span_id)) = (decision.trace_id, decision.span_id) {
            let trace = Some(PinnedTrace { at: decision.at, trace_id, span_id });
            match decision.verdict {
                RestartVerdict::Restart { .. } => self.pinned.restart = trace,
                RestartVerdict::GiveUp { .. } => self.pinned.give_up = trace,
                RestartVerdict::Finish | RestartVerdict::Stop | RestartVerdict::StandBy => {}
            }
        }
        if self.decisions.len() == TaskDecision::KEPT {
            self.decisions.pop_front();
        }
        self.decided += 1;
        self.decisions.push_back(TaskDecision { number: self.decided, ..decision.clone() });
    }

    pub(crate) fn changes(&self) -> Vec<TaskChange> {
        self.changes.iter().cloned().collect()
    }

    pub(crate) fn decisions(&self) -> Vec<TaskDecision> {
        self.decisions.iter().cloned().collect()
    }

    pub(crate) fn pinned(&self) -> PinnedTraces {
        self.pinned.clone()
    }
}

fn ids_of(run: &SpanContext) -> Option<(TraceId, SpanId)> {
    run.is_valid().then(|| (run.trace_id(), run.span_id()))
}
