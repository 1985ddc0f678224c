//! What the page says, as plain data: times are unix time in seconds, durations are seconds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ExitKind, ManagerHealth, RestartReason, TaskEvent, TaskEventKind, TaskManager, TaskSnapshot, TaskState,
    contract::DURATION_BOUNDARIES, engine::Supervised,
};

/// How much of an error's text a row shows.
const SHORT_TEXT: usize = 300;

/// One task in the table.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct TaskRow {
    #[schema(value_type = String)]
    name: Arc<str>,
    category: &'static str,
    priority: &'static str,
    #[schema(value_type = Option<String>)]
    component: Option<Arc<str>>,
    /// Where it stands, where it is registered.
    state: Option<&'static str>,
    is_healthy: bool,
    /// Why it is not well, or not quite.
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
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// Everything about one task.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskDetail {
    #[serde(flatten)]
    row: TaskRow,
    liveness: bool,
    readiness: bool,
    startup: bool,
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
    traces: Option<Vec<super::spans::TraceView>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counted {
    what: &'static str,
    count: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PastRun {
    started: f64,
    seconds: f64,
    result: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Bucket {
    at_most_seconds: Option<f64>,
    runs: u64,
}

/// How a registered task is kept.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Settings {
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
pub(super) struct EventView {
    pub(super) at: f64,
    #[schema(value_type = Option<String>)]
    pub(super) task: Option<Arc<str>>,
    generation: u64,
    kind: &'static str,
    detail: String,
}

/// The service as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Summary {
    liveness: bool,
    readiness: bool,
    startup: bool,
    runtime_stalled: bool,
    blocked: Vec<Blocked>,
    registered: usize,
    unhealthy: usize,
    /// Whether the shutdown has begun.
    shutting_down: bool,
    /// The shutdown's report, line by line, once it is over.
    report: Option<Vec<String>>,
    /// Whether the page may restart, pause, resume and stop tasks.
    control: bool,
    /// Whether the page is given spans.
    traces: bool,
}

/// A task that blocks a thread.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Blocked {
    #[schema(value_type = String)]
    task: Arc<str>,
    #[schema(value_type = String)]
    thread: Arc<str>,
    seconds: f64,
}

/// What a probe answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProbeView {
    /// `pass` or `fail`.
    pub(super) status: &'static str,
    pub(super) runtime_stalled: bool,
    pub(super) blocked: Vec<Blocked>,
    /// The tasks for which it fails, with the reasons.
    pub(super) tasks: Vec<ProbeTask>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProbeTask {
    #[schema(value_type = String)]
    name: Arc<str>,
    state: Option<&'static str>,
    reasons: Vec<&'static str>,
}

/// What a refusal answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorView {
    pub(super) error: String,
}

/// What of a service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    Ready,
    Startup,
}

/// Every task, in the order of the names, and the service as a whole.
pub(super) fn overview(manager: &TaskManager, control: bool, traces: bool) -> (Summary, Vec<TaskRow>) {
    let health = manager.health();
    let by_name: std::collections::HashMap<_, _> =
        health.tasks.iter().map(|(name, health)| (name.clone(), health)).collect();
    let rows = manager.snapshots().into_iter().map(|snapshot| {
        let health = by_name.get(&snapshot.name).copied();
        let depends_on = health.and_then(|_| manager.for_page().supervised(&snapshot.name));
        row(snapshot, health, depends_on.as_deref())
    });
    let rows = rows.collect();
    (summary(manager, &health, control, traces), rows)
}

fn summary(manager: &TaskManager, health: &ManagerHealth, control: bool, traces: bool) -> Summary {
    let shared = manager.for_page();
    let report = shared.drain.get().and_then(|drain| drain.report());
    Summary {
        liveness: health.is_live,
        readiness: health.is_ready,
        startup: health.has_started,
        runtime_stalled: health.runtime_stalled,
        blocked: blocked(health),
        registered: health.tasks.len(),
        unhealthy: health.tasks.iter().filter(|(_, task)| !task.is_healthy).count(),
        shutting_down: shared.tracker.is_closed(),
        report: report.map(|report| report.to_string().lines().map(str::to_owned).collect()),
        control,
        traces,
    }
}

fn blocked(health: &ManagerHealth) -> Vec<Blocked> {
    let view = |blocked: &crate::health::BlockedTask| Blocked {
        task: blocked.task.clone(),
        thread: blocked.thread.clone(),
        // Told by the tick; finer would change the page for nothing.
        seconds: (blocked.polling_for.as_secs_f64() * 10.0).floor() / 10.0,
    };
    health.blocked.iter().map(view).collect()
}

fn row(
    snapshot: TaskSnapshot,
    health: Option<&crate::TaskHealth>,
    registered: Option<&Supervised>,
) -> TaskRow {
    TaskRow {
        category: snapshot.category.as_str(),
        priority: snapshot.priority.as_str(),
        state: snapshot.state.map(TaskState::as_str),
        is_healthy: health.is_none_or(|health| health.is_healthy),
        reasons: health
            .map(|health| health.reasons.iter().map(|reason| reason.as_str()).collect())
            .unwrap_or_default(),
        depends_on: registered.map(|task| task.links.dependencies().to_vec()).unwrap_or_default(),
        active_runs: snapshot.active,
        runs: snapshot.total_runs(),
        errors: snapshot.total_errors(),
        restarts: snapshot.total_restarts(),
        p50_seconds: snapshot.quantile(0.5).map(seconds),
        p95_seconds: snapshot.quantile(0.95).map(seconds),
        max_seconds: (snapshot.total_runs() > 0).then(|| seconds(snapshot.longest_run)),
        interval_seconds: snapshot.interval.map(seconds),
        next_run: snapshot.next_run.map(unix),
        last_error: snapshot.last_error.map(|error| shortened(&error.message, SHORT_TEXT).to_owned()),
        last_error_time: snapshot.last_error_time.map(unix),
        name: snapshot.name,
        component: snapshot.component,
    }
}

/// Everything about a task; `None` for a name that was never seen.
pub(super) fn detail(
    manager: &TaskManager,
    name: &str,
    events: Vec<EventView>,
    traces: Option<Vec<super::spans::TraceView>>,
) -> Option<TaskDetail> {
    let snapshot = manager.snapshot(name)?;
    let metrics = manager.task_metrics(name)?;
    let health = manager.task_health(name)?;
    let registered = manager.for_page().supervised(name);
    let last_error = snapshot.last_error.clone();
    let bounds = DURATION_BOUNDARIES.iter().copied().map(Some).chain([None]);
    let durations = bounds.zip(&snapshot.durations);
    let count = |what, count| Counted { what, count };
    Some(TaskDetail {
        liveness: health.is_live,
        readiness: health.is_ready,
        startup: health.has_started,
        first_start: snapshot.first_start.map(unix),
        last_success: snapshot.last_success.map(unix),
        last_restart: snapshot.last_restart.map(unix),
        last_seen: snapshot.last_seen.map(unix),
        average_seconds: seconds(snapshot.average_run()),
        longest_poll_seconds: seconds(snapshot.longest_poll),
        slow_polls: snapshot.slow_polls,
        stalls: snapshot.stalls,
        skipped_iterations: snapshot.skipped.iter().sum(),
        results: ExitKind::ALL
            .iter()
            .zip(snapshot.runs)
            .map(|(kind, runs)| count(kind.as_str(), runs))
            .collect(),
        error_types: snapshot.errors.iter().map(|error| count(error.error_type, error.count)).collect(),
        restart_reasons: RestartReason::ALL
            .iter()
            .zip(snapshot.restarts)
            .map(|(reason, restarts)| count(reason.as_str(), restarts))
            .collect(),
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
        settings: registered.as_deref().map(settings),
        events,
        traces,
        row: row(snapshot, registered.is_some().then_some(&health), registered.as_deref()),
    })
}

fn settings(task: &Supervised) -> Settings {
    let spec = &task.spec;
    Settings {
        restart: format!("{:?}", spec.policy),
        max_restarts: spec.intensity.max_restarts(),
        restart_window_seconds: seconds(spec.intensity.within()),
        restart_delay_seconds: seconds(spec.backoff.initial()),
        restart_delay_cap_seconds: seconds(spec.backoff.cap()),
        health_check_interval_seconds: seconds(spec.health_check_interval),
        heartbeat_timeout_seconds: spec.heartbeat_timeout.map(seconds),
        run_timeout_seconds: spec.run_timeout.map(seconds),
        start_timeout_seconds: spec.start_timeout.map(seconds),
        poll_timeout_seconds: spec.poll_timeout.map(seconds),
        on_stall: format!("{:?}", spec.on_stall),
        escalation: format!("{:?}", spec.escalation),
        shutdown_grace_seconds: seconds(spec.grace()),
    }
}

/// What a probe answers, and whether it passes.
pub(super) fn probe(manager: &TaskManager, probe: Probe) -> (bool, ProbeView) {
    let health = manager.health();
    let passes = match probe {
        Probe::Live => health.is_live,
        Probe::Ready => health.is_ready,
        Probe::Startup => health.has_started,
    };
    let shared = manager.for_page();
    let fails = |task: &crate::TaskHealth, state: Option<TaskState>| match probe {
        Probe::Live => !task.is_live,
        Probe::Ready => !task.is_ready && state != Some(TaskState::Finished),
        Probe::Startup => !task.has_started,
    };
    let tasks = health.tasks.iter().filter_map(|(name, task)| {
        let state = shared.supervised(name).map(|task| task.state());
        (!passes && fails(task, state)).then(|| ProbeTask {
            name: name.clone(),
            state: state.map(TaskState::as_str),
            reasons: task.reasons.iter().map(|reason| reason.as_str()).collect(),
        })
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
        let detail = match &event.kind {
            TaskEventKind::Waiting { waits_for } => waits_for.join(", "),
            TaskEventKind::Started { restart } => {
                restart.map(|reason| reason.as_str().to_owned()).unwrap_or_default()
            }
            TaskEventKind::Exited { exit, duration, iteration } => {
                let iteration = iteration.map(|number| format!(", iteration {number}")).unwrap_or_default();
                let failed = exit.error_type().is_some();
                let message = if failed { format!(": {}", exit.message()) } else { String::new() };
                format!("{} after {duration:.1?}{iteration}{message}", exit.kind().as_str())
            }
            TaskEventKind::BackingOff { reason, delay } => format!("{}, for {delay:.1?}", reason.as_str()),
            TaskEventKind::Yielding { reason } => reason.as_str().to_owned(),
            TaskEventKind::Skipped { reason, iterations } => format!("{iterations} {}", reason.as_str()),
            TaskEventKind::Retrying { iteration, failure, delay } => {
                format!("iteration {iteration}, after {delay:.1?}: {}", failure.message)
            }
            TaskEventKind::GaveUp { reason } => (*reason).to_owned(),
            TaskEventKind::Stalled { silent_for } => format!("silent for {silent_for:.1?}"),
            TaskEventKind::SlowPoll { polling_for, thread } => format!("{thread}, for {polling_for:.1?}"),
            TaskEventKind::HealthChanged { is_healthy } => {
                if *is_healthy { "well" } else { "not well" }.to_owned()
            }
            TaskEventKind::RuntimeStalled { stalled_for, polling } => {
                format!("for {stalled_for:.1?}, by {}", polling.join(", "))
            }
            TaskEventKind::ProcessResumed { stood_still_for } => {
                format!("stood still for {stood_still_for:.1?}")
            }
            TaskEventKind::ShutdownEnded(report) => {
                report.to_string().lines().next().unwrap_or_default().to_owned()
            }
            TaskEventKind::Registered
            | TaskEventKind::Ready
            | TaskEventKind::Finished
            | TaskEventKind::Stopped
            | TaskEventKind::Paused
            | TaskEventKind::Unregistered
            | TaskEventKind::ShutdownBegan => String::new(),
        };
        Self {
            at: unix(event.at),
            task: event.task.clone(),
            generation: event.generation,
            kind: event.kind.as_str(),
            detail: shortened(&detail, SHORT_TEXT).to_owned(),
        }
    }
}

pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

pub(super) fn unix(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// The text, or as much of its beginning as fits into so many bytes.
pub(super) fn shortened(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        BlockedTask, ErrorClass, Exit, Failure, HealthReason, LastError, ShutdownReport, SkipReason,
        TaskCategory, TaskHealth, TaskPriority,
        cell::{ErrorCount, Identity},
    };

    fn millis(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_event_is_told_with_what_it_says() {
        let failure =
            |text: &str| Failure { error_type: "io", message: text.to_owned(), class: ErrorClass::Transient };
        let exited = |exit, iteration| TaskEventKind::Exited { exit, duration: millis(1_500), iteration };
        let report = ShutdownReport {
            duration: millis(100),
            deadline: millis(25_000),
            tasks: Vec::new(),
            asked_by: vec!["operator".into()],
            cause: None,
        };
        let told = [
            (TaskEventKind::Registered, "registered", ""),
            (TaskEventKind::Waiting { waits_for: vec!["a".into(), "b".into()] }, "waiting", "a, b"),
            (TaskEventKind::Started { restart: None }, "started", ""),
            (TaskEventKind::Started { restart: Some(RestartReason::Panic) }, "started", "panic"),
            (TaskEventKind::Ready, "ready", ""),
            (exited(Exit::Success, None), "exited", "success after 1.5s"),
            (exited(Exit::Cancellation, Some(7)), "exited", "cancellation after 1.5s, iteration 7"),
            (
                exited(Exit::Failure(failure("lost")), Some(8)),
                "exited",
                "failure after 1.5s, iteration 8: lost",
            ),
            (
                TaskEventKind::Skipped { reason: SkipReason::Overlapped, iterations: 3 },
                "skipped",
                "3 overlapped",
            ),
            (
                TaskEventKind::Retrying { iteration: 9, failure: failure("lost"), delay: millis(250) },
                "retrying",
                "iteration 9, after 250.0ms: lost",
            ),
            (
                TaskEventKind::BackingOff { reason: RestartReason::Timeout, delay: millis(2_000) },
                "backing_off",
                "timeout, for 2.0s",
            ),
            (TaskEventKind::Yielding { reason: RestartReason::Group }, "yielding", "group"),
            (TaskEventKind::Finished, "finished", ""),
            (TaskEventKind::Stopped, "stopped", ""),
            (TaskEventKind::Paused, "paused", ""),
            (TaskEventKind::GaveUp { reason: "too many" }, "gave_up", "too many"),
            (TaskEventKind::Stalled { silent_for: millis(3_000) }, "stalled", "silent for 3.0s"),
            (
                TaskEventKind::SlowPoll { polling_for: millis(4_000), thread: "worker".into() },
                "slow_poll",
                "worker, for 4.0s",
            ),
            (TaskEventKind::Unregistered, "unregistered", ""),
            (TaskEventKind::HealthChanged { is_healthy: true }, "health_changed", "well"),
            (TaskEventKind::HealthChanged { is_healthy: false }, "health_changed", "not well"),
            (
                TaskEventKind::RuntimeStalled {
                    stalled_for: millis(5_000),
                    polling: vec!["a".into(), "b".into()],
                },
                "runtime_stalled",
                "for 5.0s, by a, b",
            ),
            (
                TaskEventKind::ProcessResumed { stood_still_for: millis(6_000) },
                "process_resumed",
                "stood still for 6.0s",
            ),
            (TaskEventKind::ShutdownBegan, "shutdown_began", ""),
            (
                TaskEventKind::ShutdownEnded(Arc::new(report)),
                "shutdown_ended",
                "shutdown took 100.0ms of 25.0s: 0 clean, 0 late, 0 aborted, 0 leaked, 0 not running",
            ),
            (exited(Exit::Failure(failure(&"x".repeat(400))), None), "exited", &{
                let beginning = "failure after 1.5s: ";
                format!("{beginning}{}", "x".repeat(SHORT_TEXT - beginning.len()))
            }),
        ];
        for (kind, name, detail) in told {
            let event = TaskEvent {
                at: UNIX_EPOCH + millis(2_500),
                task: Some("gateway".into()),
                generation: 3,
                kind,
            };
            let expected =
                json!({ "at": 2.5, "task": "gateway", "generation": 3, "kind": name, "detail": detail });
            assert_eq!(json!(EventView::from(&event)), expected);
        }
    }

    fn well() -> TaskHealth {
        TaskHealth {
            is_healthy: true,
            liveness: true,
            readiness: true,
            startup: true,
            reasons: Vec::new(),
            uptime: Duration::ZERO,
            error_rate: 0.0,
            restart_count: 0,
            last_seen: None,
        }
    }

    #[test]
    fn a_row_is_the_snapshot_in_seconds() {
        let identity = Identity {
            name: "poller".into(),
            category: TaskCategory::Scheduled,
            priority: TaskPriority::High,
            component: Some("demo".into()),
        };
        let never_ran = TaskSnapshot::of(&identity);
        let mut ran = never_ran.clone();
        ran.state = Some(TaskState::Running);
        ran.active = 2;
        // Four runs of success, three of failure; all of them between 1 s and 2.5 s.
        (ran.runs[0], ran.runs[1], ran.restarts[0]) = (4, 3, 5);
        ran.durations = vec![0; DURATION_BOUNDARIES.len() + 1];
        ran.durations[13] = 7;
        ran.longest_run = millis(2_000);
        ran.errors = vec![ErrorCount { error_type: "io", count: 3 }];
        ran.interval = Some(millis(500));
        ran.next_run = Some(UNIX_EPOCH + millis(9_500));
        ran.last_error_time = Some(UNIX_EPOCH + millis(8_500));
        ran.last_error =
            Some(LastError { error_type: "io", message: "x".repeat(400), at: UNIX_EPOCH, trace_id: None });
        let unwell = TaskHealth {
            is_healthy: false,
            reasons: vec![HealthReason::ErrorRate, HealthReason::Restarts],
            ..well()
        };
        assert_eq!(
            json!(row(ran, Some(&unwell), None)),
            json!({
                "name": "poller", "category": "scheduled", "priority": "high", "component": "demo",
                "state": "running", "is_healthy": false, "reasons": ["error_rate", "restarts"],
                "depends_on": [], "active_runs": 2, "runs": 7, "errors": 3, "restarts": 5,
                "p50_seconds": 1.5, "p95_seconds": 1.95, "max_seconds": 2.0,
                "interval_seconds": 0.5, "next_run": 9.5,
                "last_error": "x".repeat(SHORT_TEXT), "last_error_time": 8.5,
            })
        );
        assert_eq!(
            json!(row(never_ran, None, None)),
            json!({
                "name": "poller", "category": "scheduled", "priority": "high", "component": "demo",
                "state": null, "is_healthy": true, "reasons": [],
                "depends_on": [], "active_runs": 0, "runs": 0, "errors": 0, "restarts": 0,
                "p50_seconds": null, "p95_seconds": null, "max_seconds": null,
                "interval_seconds": null, "next_run": null,
                "last_error": null, "last_error_time": null,
            })
        );
    }

    #[test]
    fn the_service_is_summed_up() {
        let blocked =
            BlockedTask { task: "blocker".into(), thread: "worker".into(), polling_for: millis(1_290) };
        let unwell = TaskHealth { is_healthy: false, ..well() };
        let health = ManagerHealth {
            liveness: false,
            readiness: false,
            startup: true,
            runtime_stalled: true,
            blocked: vec![blocked],
            tasks: vec![("a".into(), unwell), ("b".into(), well()), ("c".into(), well())],
        };
        let manager = TaskManager::new();
        assert_eq!(
            json!(summary(&manager, &health, true, false)),
            json!({
                "liveness": false, "readiness": false, "startup": true, "runtime_stalled": true,
                "blocked": [{ "task": "blocker", "thread": "worker", "seconds": 1.2 }],
                "registered": 3, "unhealthy": 1, "shutting_down": false, "report": null,
                "control": true, "traces": false,
            })
        );
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(shortened("grüße", 3), "gr");
        assert_eq!(shortened("grüße", 4), "grü");
        assert_eq!(shortened("kurz", 4), "kurz");
        assert_eq!(shortened("🦀", 3), "");
    }

    #[test]
    fn time_before_the_epoch_is_negative() {
        assert_eq!(unix(UNIX_EPOCH - Duration::from_secs(2)), -2.0);
    }
}
