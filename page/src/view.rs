//! What the page says, as plain data: times are unix time in seconds, durations are seconds.

use std::{sync::Arc, time::Duration};

use otel_tasks::{
    TaskHealth, TaskManager,
    events::{TaskEvent, TaskEventKind},
    health::{BlockedTask, HealthStatus, ManagerHealth},
    policy::{ExitKind, RestartReason},
    snapshot::{TaskSnapshot, TaskState},
    task::TaskSettings,
    telemetry::contract::DURATION_BOUNDARIES,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::format::{abridged, seconds, unix};

/// How much of an error's text a row shows: its beginning and its end.
const SHORT_TEXT: usize = 300;

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
    /// How many members there are, if the row is a family's. What a member counts, its family's row counts too.
    members: Option<u64>,
    /// Where it stands, where it is registered.
    state: Option<&'static str>,
    /// `healthy`, `degraded` or `unhealthy`; `null` if the task is not registered.
    status: Option<&'static str>,
    /// What its health means for the service: `required`, `degrades` or `ignored`; `null` if the task is not registered.
    role: Option<&'static str>,
    /// Why it is not healthy, not live or not ready.
    reasons: Vec<&'static str>,
    /// What it waits for before it begins.
    #[schema(value_type = Vec<String>)]
    depends_on: Vec<Arc<str>>,
    active_runs: u64,
    runs: u64,
    errors: u64,
    restarts: u64,
    p50_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    max_seconds: Option<f64>,
    interval_seconds: Option<f64>,
    next_run: Option<f64>,
    last_error: Option<String>,
    last_error_time: Option<f64>,
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
    /// The time at which it came into its state.
    state_since: Option<f64>,
    /// The time at which it became unhealthy, while it is.
    unhealthy_since: Option<f64>,
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
    /// The trace of the last error, 32 hexadecimal digits.
    last_error_trace: Option<String>,
    /// The last ended runs, the oldest first.
    history: Vec<PastRun>,
    /// Ended runs per duration: the upper bound of each bucket in seconds, `null` for the last.
    durations: Vec<Bucket>,
    settings: Option<Settings>,
    /// What was told of it, the oldest first.
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

/// How a registered task is kept.
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
    /// Whether the shutdown has begun.
    shutting_down: bool,
    /// The shutdown's report, line by line, once it is over.
    report: Option<Vec<String>>,
    /// Whether the page may restart, pause, resume, stop and run tasks.
    control: bool,
    /// Whether the page is given spans.
    traces: bool,
    /// Where traces are stored: an address with `{trace_id}` in it.
    #[schema(value_type = Option<String>)]
    trace_link: Option<Arc<str>>,
    /// How long a shutdown may take, with its drain.
    shutdown_deadline_seconds: f64,
}

/// What the page was set to show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    pub(crate) control: bool,
    pub(crate) traces: bool,
    pub(crate) trace_link: Option<Arc<str>>,
}

/// A task that blocks a thread.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Blocked {
    #[schema(value_type = String)]
    task: Arc<str>,
    #[schema(value_type = String)]
    thread: Arc<str>,
    seconds: f64,
}

/// What a probe answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProbeView {
    /// `pass` or `fail`.
    pub(crate) status: &'static str,
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

/// What a refusal answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorView {
    pub(crate) error: String,
}

/// What of a service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
    Startup,
}

/// Every task, in the order of the names, and the service as a whole.
pub(crate) fn overview(manager: &TaskManager, shown: &Shown) -> (Summary, Vec<TaskRow>) {
    let health = manager.health();
    let by_name: std::collections::HashMap<_, _> =
        health.tasks.iter().map(|(name, health)| (name.clone(), health)).collect();
    let rows = manager.snapshots().into_iter().map(|snapshot| {
        let health = by_name.get(&snapshot.name).copied();
        let settings = health.and_then(|_| manager.task_settings(&snapshot.name));
        row(snapshot, health, settings.map(|settings| settings.depends_on).unwrap_or_default())
    });
    let rows = rows.collect();
    (summary(manager, &health, shown), rows)
}

fn summary(manager: &TaskManager, health: &ManagerHealth, shown: &Shown) -> Summary {
    let report = manager.report();
    let with = |status| health.tasks.iter().filter(|(_, task)| task.status == status).count();
    Summary {
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

fn blocked(health: &ManagerHealth) -> Vec<Blocked> {
    let view = |blocked: &BlockedTask| Blocked {
        task: blocked.task.clone(),
        thread: blocked.thread.clone(),
        seconds: tenths(blocked.polling_for),
    };
    health.blocked.iter().map(view).collect()
}

fn row(snapshot: TaskSnapshot, health: Option<&TaskHealth>, depends_on: Vec<Arc<str>>) -> TaskRow {
    TaskRow {
        category: snapshot.category.as_str(),
        priority: snapshot.priority.as_str(),
        members: snapshot.total_members(),
        state: snapshot.state.map(TaskState::as_str),
        status: health.map(|health| health.status.as_str()),
        role: health.map(|health| health.role.as_str()),
        reasons: health
            .map(|health| health.reasons.iter().map(|reason| reason.as_str()).collect())
            .unwrap_or_default(),
        depends_on,
        active_runs: snapshot.active,
        runs: snapshot.total_runs(),
        errors: snapshot.total_errors(),
        restarts: snapshot.total_restarts(),
        p50_seconds: snapshot.quantile(0.5).map(seconds),
        p95_seconds: snapshot.quantile(0.95).map(seconds),
        max_seconds: (snapshot.total_runs() > 0).then(|| seconds(snapshot.longest_run)),
        interval_seconds: snapshot.interval.map(seconds),
        next_run: snapshot.next_run.map(unix),
        last_error: snapshot.last_error.map(|error| abridged(&error.message, SHORT_TEXT).into_owned()),
        last_error_time: snapshot.last_error_time.map(unix),
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
    Some(TaskDetail {
        reason_texts: registered
            .into_iter()
            .flat_map(|health| &health.reasons)
            .map(ToString::to_string)
            .collect(),
        state_since: health.state_since.map(unix),
        unhealthy_since: health.unhealthy_since.map(unix),
        is_live: health.is_live,
        is_ready: health.is_ready,
        has_started: health.has_started,
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
        restart_reasons: RestartReason::ALL
            .iter()
            .map(|reason| count(reason.as_str(), snapshot.restarts(*reason)))
            .collect(),
        last_error_text: last_error.as_ref().map(|error| error.message.clone()),
        last_error_trace: last_error.and_then(|error| error.trace_id),
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
        row: row(snapshot, registered, settings.map(|settings| settings.depends_on).unwrap_or_default()),
    })
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

/// What a probe answers, and whether it passes.
pub(crate) fn probe(manager: &TaskManager, probe: Probe) -> (bool, ProbeView) {
    let health = manager.health();
    let passes = match probe {
        Probe::Live => health.is_live,
        Probe::Ready => health.is_ready,
        Probe::Startup => health.has_started,
    };
    let fails = |task: &TaskHealth| match probe {
        Probe::Live => task.fails_liveness(),
        Probe::Ready => task.fails_readiness(),
        Probe::Startup => task.fails_startup(),
    };
    let failing = health.tasks.iter().filter(|(_, task)| !passes && fails(task));
    let tasks = failing.map(|(name, task)| ProbeTask {
        name: name.clone(),
        state: task.state.map(TaskState::as_str),
        reasons: task.reasons.iter().map(|reason| reason.as_str()).collect(),
    });
    let view = ProbeView {
        status: if passes { "pass" } else { "fail" },
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

/// What an event says beside its kind.
fn detail_of(kind: &TaskEventKind) -> String {
    match kind {
        TaskEventKind::Waiting { waits_for, .. } => waits_for.join(", "),
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
        TaskEventKind::RuntimeStalled { stalled_for, polling, .. } => {
            format!("for {stalled_for:.1?}, by {}", polling.join(", "))
        }
        TaskEventKind::ProcessResumed { stood_still_for, .. } => {
            format!("stood still for {stood_still_for:.1?}")
        }
        TaskEventKind::ShutdownEnded(report) => {
            report.to_string().lines().next().unwrap_or_default().to_owned()
        }
        // Its kind says all of it.
        _ => String::new(),
    }
}

/// Whole tenths of a second: a finer value would change at each tick, and the page with it.
fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).floor() / 10.0
}

#[cfg(test)]
mod tests;
