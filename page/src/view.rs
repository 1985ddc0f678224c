//! The data of the page. Times are unix time in seconds, durations are seconds.

mod schedule;
mod service;
mod why;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use otel_tasks::{
    TaskHealth, TaskManager,
    events::{RestartVerdict, TaskEvent, TaskEventKind},
    health::{HealthStatus, ManagerHealth, TaskWord},
    policy::ExitKind,
    snapshot::{GateSnapshot, RunMinutes, TaskSnapshot, TaskState},
    task::TaskSettings,
    telemetry::contract::DURATION_BOUNDARIES,
};
use serde::Serialize;
use utoipa::ToSchema;

pub(crate) use schedule::{Lane, lanes};
use service::{Blocked, Failing, blocked, failing, reasons, sentence, time_zone};
pub(crate) use service::{Probe, RuntimeView, runtime};
pub(crate) use why::Why;

use crate::{
    control::Action,
    format::{SHORT_TEXT, abridged, seconds, unix},
    spans::{Identity, SpanRing},
};

/// One task in the table.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TaskRow {
    #[schema(value_type = String)]
    name: Arc<str>,
    category: &'static str,
    priority: &'static str,
    #[schema(value_type = Option<String>)]
    component: Option<Arc<str>>,
    /// The family, if the task is a member of one.
    #[schema(value_type = Option<String>)]
    family: Option<Arc<str>>,
    /// The number of members, if the row is a family's. The family's row includes the counts of its members.
    members: Option<u64>,
    /// The one word for people, such as `Healthy`, `Failed` or `Restarting`.
    word: &'static str,
    /// With `Failed` the time of the next try, with `Restarting` that of the restart.
    word_until: Option<f64>,
    /// The order by need: 0 if the task needs attention, 1 if it may need attention soon, 2 for the rest.
    attention: u8,
    /// The state, if the task is registered.
    state: Option<&'static str>,
    /// The time at which it came into its state.
    state_since: Option<f64>,
    /// The time at which it became unhealthy, while it is.
    unhealthy_since: Option<f64>,
    /// `healthy`, `degraded` or `unhealthy`; `null` if the task is not registered.
    status: Option<&'static str>,
    /// The effect of its health on the service: `required`, `degrades` or `ignored`; `null` if the task is not registered.
    role: Option<&'static str>,
    /// The reasons why it is not healthy, not live or not ready.
    reasons: Vec<&'static str>,
    /// The gate, if the task runs on one of several processes.
    gate: Option<GateView>,
    /// The tasks that it waits for before it begins.
    #[schema(value_type = Vec<String>)]
    depends_on: Vec<Arc<str>>,
    active_runs: u64,
    runs: u64,
    errors: u64,
    restarts: u64,
    restarts_last_hour: u64,
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    max_seconds: Option<f64>,
    interval_seconds: Option<f64>,
    next_run: Option<f64>,
    next_retry: Option<f64>,
    /// The schedule of a loop as text.
    schedule: Option<String>,
    /// Runs and errors of the last 60 minutes.
    minutes: Option<Minutes>,
    last_error: Option<String>,
    last_error_time: Option<f64>,
    /// The trace of the last error, 32 hexadecimal digits.
    last_error_trace: Option<String>,
}

/// The gate of a task.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct GateView {
    /// The name of what it guards, such as a lease.
    #[schema(value_type = String)]
    name: Arc<str>,
    /// The process that holds it, by the name that the gate's store knows it by; `null` while it is unknown.
    #[schema(value_type = Option<String>)]
    holder: Option<Arc<str>>,
    /// The term of this process; `null` while another process or none holds it.
    term: Option<u64>,
}

impl From<GateSnapshot> for GateView {
    fn from(GateSnapshot { name, holder, term, .. }: GateSnapshot) -> Self {
        Self { name, holder, term }
    }
}

/// Runs and errors by minute, the oldest first; the last minute is not over.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Minutes {
    runs: Vec<u32>,
    errors: Vec<u32>,
}

impl From<RunMinutes> for Minutes {
    fn from(minutes: RunMinutes) -> Self {
        Self { runs: minutes.runs, errors: minutes.errors }
    }
}

impl TaskRow {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// Everything about one task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskDetail {
    #[serde(flatten)]
    row: TaskRow,
    is_live: bool,
    is_ready: bool,
    has_started: bool,
    /// The reasons with values and limits.
    reason_texts: Vec<String>,
    /// The time at which this process loses the gate unless its permission is extended; `null` while it has none.
    gate_until: Option<f64>,
    first_start: Option<f64>,
    last_success: Option<f64>,
    last_restart: Option<f64>,
    last_seen: Option<f64>,
    average_seconds: f64,
    longest_poll_seconds: f64,
    slow_polls: u64,
    stalls: u64,
    skipped_iterations: u64,
    /// Ended runs by result.
    results: Vec<Counted>,
    /// Errors by class.
    error_types: Vec<Counted>,
    /// Restarts by reason.
    restart_reasons: Vec<Counted>,
    /// The whole text of the last error with its causes, at most 8 KiB.
    last_error_text: Option<String>,
    /// The actions that its state permits: `restart`, `pause`, `resume`, `stop` and `run`.
    actions: Vec<&'static str>,
    /// The runs of the next 24 hours, at most 300, if it is a loop.
    upcoming: Option<Vec<f64>>,
    #[serde(flatten)]
    why: Why,
    /// The last ended runs, the oldest first.
    history: Vec<PastRun>,
    /// Ended runs per duration: the upper bound of each bucket in seconds, `null` for the last.
    durations: Vec<Bucket>,
    settings: Option<Settings>,
    /// Its events, the oldest first.
    events: Vec<EventView>,
    /// Its last traces, the newest first; `null` where the page is given no spans.
    traces: Option<Vec<crate::spans::TraceView>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counted {
    what: &'static str,
    count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PastRun {
    started: f64,
    seconds: f64,
    result: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Bucket {
    at_most_seconds: Option<f64>,
    runs: u64,
}

/// The settings of a registered task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Settings {
    restart: String,
    max_restarts: u32,
    restart_window_seconds: f64,
    restart_delay_seconds: f64,
    restart_delay_cap_seconds: f64,
    health_check_interval_seconds: f64,
    heartbeat_timeout_seconds: Option<f64>,
    run_timeout_seconds: Option<f64>,
    start_timeout_seconds: Option<f64>,
    poll_timeout_seconds: Option<f64>,
    on_stall: String,
    escalation: String,
    shutdown_grace_seconds: f64,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct EventView {
    pub(crate) at: f64,
    #[schema(value_type = Option<String>)]
    pub(crate) task: Option<Arc<str>>,
    generation: u64,
    kind: &'static str,
    detail: String,
}

/// The service as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Summary {
    /// The name, the version and the instance of the service, from the telemetry's resource.
    #[schema(value_type = Option<String>)]
    service: Option<Arc<str>>,
    #[schema(value_type = Option<String>)]
    version: Option<Arc<str>>,
    #[schema(value_type = Option<String>)]
    instance: Option<Arc<str>>,
    /// The time at which the manager was made.
    started: f64,
    /// The time zone of the service.
    time_zone: &'static str,
    /// The failing probe, its task and the time since when, in one sentence.
    sentence: String,
    /// The tasks that fail each probe, at most 20 for each.
    failing: Vec<Failing>,
    /// The registered tasks by state.
    states: BTreeMap<&'static str, usize>,
    /// `healthy`, `degraded` or `unhealthy`.
    status: &'static str,
    is_live: bool,
    is_ready: bool,
    has_started: bool,
    runtime_stalled: bool,
    blocked: Vec<Blocked>,
    registered: usize,
    degraded: usize,
    unhealthy: usize,
    /// True once the shutdown has begun.
    shutting_down: bool,
    /// The shutdown's report, line by line, once it is over.
    report: Option<Vec<String>>,
    /// True if the page may restart, pause, resume, stop and run tasks.
    control: bool,
    /// True if the page receives spans.
    traces: bool,
    /// The address of stored traces, with `{trace_id}` in it.
    #[schema(value_type = Option<String>)]
    trace_link: Option<Arc<str>>,
    /// The time limit of a shutdown with its drain, in seconds.
    shutdown_deadline_seconds: f64,
}

/// The settings of the page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) control: bool,
    pub(crate) traces: bool,
    pub(crate) trace_link: Option<Arc<str>>,
}

/// The response to a probe.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProbeView {
    /// `pass` or `fail`.
    pub(crate) status: &'static str,
    /// The reasons of the service itself for which it fails: `runtime_stalled`, `draining`, `shutting_down`.
    pub(crate) reasons: Vec<&'static str>,
    pub(crate) runtime_stalled: bool,
    pub(crate) blocked: Vec<Blocked>,
    /// The tasks for which it fails, with the reasons.
    pub(crate) tasks: Vec<ProbeTask>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProbeTask {
    #[schema(value_type = String)]
    name: Arc<str>,
    state: Option<&'static str>,
    reasons: Vec<&'static str>,
}

/// The body of a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
}

/// Every task, in the order of the names, and the service as a whole.
pub(crate) fn overview(manager: &TaskManager, shown: &Shown) -> (Summary, Vec<TaskRow>) {
    let health = manager.health();
    let by_name: std::collections::HashMap<_, _> =
        health.tasks.iter().map(|(name, health)| (name.clone(), health)).collect();
    let rows = manager.snapshots().into_iter().map(|snapshot| {
        let health = by_name.get(&snapshot.name).copied();
        row(manager, snapshot, health)
    });
    let rows = rows.collect();
    (summary(manager, &health, shown), rows)
}

fn summary(manager: &TaskManager, health: &ManagerHealth, shown: &Shown) -> Summary {
    let report = manager.report();
    let with = |status| health.tasks.iter().filter(|(_, task)| task.status == status).count();
    let in_state = |state: &TaskState| {
        (state.as_str(), health.tasks.iter().filter(|(_, task)| task.state == Some(*state)).count())
    };
    let failing = failing(manager, health);
    Summary {
        service: None,
        version: None,
        instance: None,
        started: unix(manager.settings().started),
        time_zone: {
            static ZONE: OnceLock<String> = OnceLock::new();
            ZONE.get_or_init(time_zone)
        },
        sentence: sentence(health, &failing),
        failing,
        states: TaskState::ALL.iter().map(in_state).collect(),
        status: health.status.as_str(),
        is_live: health.is_live,
        is_ready: health.is_ready,
        has_started: health.has_started,
        runtime_stalled: health.runtime_stalled,
        blocked: blocked(health),
        registered: health.tasks.len(),
        degraded: with(HealthStatus::Degraded),
        unhealthy: with(HealthStatus::Unhealthy),
        shutting_down: manager.is_shutting_down(),
        report: report.map(|report| report.to_string().lines().map(str::to_owned).collect()),
        control: shown.control,
        traces: shown.traces,
        trace_link: shown.trace_link.clone(),
        shutdown_deadline_seconds: seconds(manager.settings().shutdown_deadline),
    }
}

impl Summary {
    /// Adds what the service is called.
    pub(crate) fn of(self, Identity { service, version, instance }: Identity) -> Self {
        Self { service, version, instance, ..self }
    }
}

/// The word for a task, and the time that it holds until.
fn word(manager: &TaskManager, task: &TaskSnapshot, health: Option<&TaskHealth>) -> (TaskWord, Option<f64>) {
    let word = match health {
        Some(health) => health.word(task.active),
        None if task.active > 0 => TaskWord::Running,
        None => TaskWord::Idle,
    };
    let until = match word {
        TaskWord::Failed => task.next_retry,
        TaskWord::Restarting => {
            let decisions = manager.decisions(&task.name).unwrap_or_default();
            decisions.last().and_then(|decision| match decision.verdict {
                RestartVerdict::Restart { delay, .. } => decision.at.checked_add(delay),
                _ => None,
            })
        }
        _ => None,
    };
    (word, until.map(unix))
}

fn row(manager: &TaskManager, snapshot: TaskSnapshot, health: Option<&TaskHealth>) -> TaskRow {
    let (word, word_until) = word(manager, &snapshot, health);
    TaskRow {
        word: word.as_str(),
        word_until,
        attention: match health.map(|health| health.status) {
            Some(HealthStatus::Unhealthy) => 0,
            Some(HealthStatus::Degraded) => 1,
            _ => 2,
        },
        state_since: health.and_then(|health| health.state_since).map(unix),
        unhealthy_since: health.and_then(|health| health.unhealthy_since).map(unix),
        restarts_last_hour: snapshot.restarts_last_hour,
        next_retry: snapshot.next_retry.map(unix),
        schedule: schedule::text(manager, &snapshot),
        last_error_trace: snapshot.last_error.as_ref().and_then(|error| error.trace_id.clone()),
        category: snapshot.category.as_str(),
        priority: snapshot.priority.as_str(),
        members: snapshot.total_members(),
        state: snapshot.state.map(TaskState::as_str),
        status: health.map(|health| health.status.as_str()),
        role: health.map(|health| health.role.as_str()),
        reasons: health
            .map(|health| health.reasons.iter().map(|reason| reason.as_str()).collect())
            .unwrap_or_default(),
        active_runs: snapshot.active,
        runs: snapshot.total_runs(),
        errors: snapshot.total_errors(),
        restarts: snapshot.total_restarts(),
        p50_seconds: snapshot.quantile(0.5).map(seconds),
        p95_seconds: snapshot.quantile(0.95).map(seconds),
        max_seconds: (snapshot.total_runs() > 0).then(|| seconds(snapshot.longest_run)),
        interval_seconds: snapshot.interval.map(seconds),
        next_run: snapshot.next_run.map(unix),
        minutes: snapshot.minutes.map(Minutes::from),
        last_error: snapshot.last_error.map(|error| abridged(&error.message, SHORT_TEXT).into_owned()),
        last_error_time: snapshot.last_error_time.map(unix),
        gate: snapshot.gate.map(|gate| GateView::from(*gate)),
        depends_on: snapshot.depends_on,
        name: snapshot.name,
        component: snapshot.component,
        family: snapshot.family,
    }
}

/// Everything about a task; `None` for a name that was never seen.
pub(crate) fn detail(
    manager: &TaskManager,
    name: &str,
    events: Vec<EventView>,
    traces: Option<Vec<crate::spans::TraceView>>,
) -> Option<TaskDetail> {
    let snapshot = manager.snapshot(name)?;
    let metrics = manager.task_metrics(name)?;
    let health = manager.task_health(name)?;
    let settings = manager.task_settings(name);
    let last_error = snapshot.last_error.clone();
    let bounds = DURATION_BOUNDARIES.iter().copied().map(Some).chain([None]);
    let durations = bounds.zip(&snapshot.durations);
    let count = |what, count| Counted { what, count };
    let registered = settings.is_some().then_some(&health);
    let remaining = snapshot.gate.as_ref().and_then(|gate| gate.remaining);
    Some(TaskDetail {
        reason_texts: registered
            .into_iter()
            .flat_map(|health| &health.reasons)
            .map(ToString::to_string)
            .collect(),
        is_live: health.is_live,
        is_ready: health.is_ready,
        has_started: health.has_started,
        gate_until: remaining.map(|remaining| unix(SystemTime::now() + remaining)),
        first_start: snapshot.first_start.map(unix),
        last_success: snapshot.last_success.map(unix),
        last_restart: snapshot.last_restart.map(unix),
        last_seen: snapshot.last_seen.map(unix),
        average_seconds: seconds(snapshot.average_run()),
        longest_poll_seconds: seconds(snapshot.longest_poll),
        slow_polls: snapshot.slow_polls,
        stalls: snapshot.stalls,
        skipped_iterations: snapshot.total_skipped(),
        results: ExitKind::ALL.iter().map(|kind| count(kind.as_str(), snapshot.runs(*kind))).collect(),
        error_types: snapshot.errors.iter().map(|error| count(error.error_type, error.count)).collect(),
        restart_reasons: snapshot
            .restarts_by_reason()
            .map(|(reason, restarts)| count(reason.as_str(), restarts))
            .collect(),
        last_error_text: last_error.map(|error| error.message),
        actions: actions(manager, &snapshot),
        upcoming: schedule::upcoming(manager, &snapshot),
        why: Why::default(),
        history: metrics
            .history
            .iter()
            .map(|run| PastRun {
                started: unix(run.started),
                seconds: seconds(run.duration),
                result: run.result.as_str(),
            })
            .collect(),
        durations: durations.map(|(bound, runs)| Bucket { at_most_seconds: bound, runs: *runs }).collect(),
        settings: settings.as_ref().map(Settings::from),
        events,
        traces,
        row: row(manager, snapshot, registered),
    })
}

impl TaskDetail {
    /// Adds what has changed and why, and the pinned traces.
    pub(crate) fn explained(mut self, manager: &TaskManager, ring: Option<&SpanRing>) -> Self {
        self.why = Why::of(manager, &self.row.name, ring);
        self
    }
}

/// Returns the actions that the state of a task permits.
fn actions(manager: &TaskManager, task: &TaskSnapshot) -> Vec<&'static str> {
    if manager.is_shutting_down() {
        return Vec::new();
    }
    let is_loop = manager.loop_handle(&task.name).is_ok();
    let all = Action::ALL.into_iter().filter(|action| action.changes(task));
    all.filter(|action| *action != Action::Run || is_loop).map(Action::as_str).collect()
}

impl From<&TaskSettings> for Settings {
    fn from(settings: &TaskSettings) -> Self {
        Self {
            restart: format!("{:?}", settings.restart_policy),
            max_restarts: settings.intensity.max_restarts(),
            restart_window_seconds: seconds(settings.intensity.within()),
            restart_delay_seconds: seconds(settings.backoff.initial()),
            restart_delay_cap_seconds: seconds(settings.backoff.cap()),
            health_check_interval_seconds: seconds(settings.health_check_interval),
            heartbeat_timeout_seconds: settings.heartbeat_timeout.map(seconds),
            run_timeout_seconds: settings.run_timeout.map(seconds),
            start_timeout_seconds: settings.start_timeout.map(seconds),
            poll_timeout_seconds: settings.poll_timeout.map(seconds),
            on_stall: format!("{:?}", settings.on_stall),
            escalation: format!("{:?}", settings.escalation),
            shutdown_grace_seconds: seconds(settings.shutdown_grace),
        }
    }
}

/// Returns the response to a probe, and true if it passes.
pub(crate) fn probe(manager: &TaskManager, probe: Probe) -> (bool, ProbeView) {
    let health = manager.health();
    let passes = probe.passes(&health);
    let failing = health.tasks.iter().filter(|(_, task)| !passes && probe.fails(task));
    let tasks = failing.map(|(name, task)| ProbeTask {
        name: name.clone(),
        state: task.state.map(TaskState::as_str),
        reasons: task.reasons.iter().map(|reason| reason.as_str()).collect(),
    });
    let view = ProbeView {
        status: if passes { "pass" } else { "fail" },
        reasons: reasons(manager, &health, probe),
        runtime_stalled: health.runtime_stalled,
        blocked: blocked(&health),
        tasks: tasks.collect(),
    };
    (passes, view)
}

impl From<&TaskEvent> for EventView {
    fn from(event: &TaskEvent) -> Self {
        let detail = detail_of(&event.kind);
        Self {
            at: unix(event.at),
            task: event.task.clone(),
            generation: event.generation,
            kind: event.kind.as_str(),
            detail: abridged(&detail, SHORT_TEXT).into_owned(),
        }
    }
}

/// Returns the details of an event.
fn detail_of(kind: &TaskEventKind) -> String {
    match kind {
        TaskEventKind::Waiting { waits_for, .. } => waits_for.join(", "),
        TaskEventKind::PassGranted { term, .. } | TaskEventKind::PassLost { term, .. } => {
            format!("term {term}")
        }
        TaskEventKind::Started { restart, .. } => {
            restart.map(|reason| reason.as_str().to_owned()).unwrap_or_default()
        }
        TaskEventKind::Exited { exit, duration, iteration, .. } => {
            let iteration = iteration.map(|number| format!(", iteration {number}")).unwrap_or_default();
            let failed = exit.error_type().is_some();
            let message = if failed { format!(": {}", exit.message()) } else { String::new() };
            format!("{} after {duration:.1?}{iteration}{message}", exit.kind().as_str())
        }
        TaskEventKind::BackingOff { reason, delay, .. } => format!("{}, for {delay:.1?}", reason.as_str()),
        TaskEventKind::Yielding { reason, .. } => reason.as_str().to_owned(),
        TaskEventKind::Skipped { reason, iterations, .. } => format!("{iterations} {}", reason.as_str()),
        TaskEventKind::Retrying { iteration, failure, delay, .. } => {
            format!("iteration {iteration}, after {delay:.1?}: {}", failure.message)
        }
        TaskEventKind::GaveUp { reason, .. } => (*reason).to_owned(),
        TaskEventKind::Stalled { silent_for, .. } => format!("silent for {silent_for:.1?}"),
        TaskEventKind::SlowPoll { polling_for, thread, .. } => format!("{thread}, for {polling_for:.1?}"),
        TaskEventKind::HealthChanged { status, .. } => status.as_str().to_owned(),
        TaskEventKind::RuntimeStalled { stalled_for, polling, .. } => stall_of_runtime(*stalled_for, polling),
        TaskEventKind::ProcessResumed { stood_still_for: time, .. } => {
            format!("made no progress for {time:.1?}")
        }
        TaskEventKind::ShutdownEnded(report) => {
            report.to_string().lines().next().unwrap_or_default().to_owned()
        }
        // Its kind says all of it.
        _ => String::new(),
    }
}

/// Returns the time of a stall and the tasks that block a thread, if there are any.
fn stall_of_runtime(stalled_for: Duration, polling: &[Arc<str>]) -> String {
    let by = if polling.is_empty() { String::new() } else { format!(", by {}", polling.join(", ")) };
    format!("for {stalled_for:.1?}{by}")
}

#[cfg(test)]
mod tests;
