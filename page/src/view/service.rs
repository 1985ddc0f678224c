//! The service, and its faults in one sentence.

use std::{
    fmt::Write,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use otel_tasks::{
    TaskHealth, TaskManager,
    health::{BlockedTask, HealthReason, ManagerHealth},
    snapshot::TaskState,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::format::{seconds, unix};

/// The maximum of failing tasks that are listed.
const MOST: usize = 20;

/// The questions of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
    Startup,
}

impl Probe {
    pub(super) fn passes(self, health: &ManagerHealth) -> bool {
        match self {
            Self::Live => health.is_live,
            Self::Ready => health.is_ready,
            Self::Startup => health.has_started,
        }
    }

    pub(super) fn fails(self, task: &TaskHealth) -> bool {
        match self {
            Self::Live => task.fails_liveness(),
            Self::Ready => task.fails_readiness(),
            Self::Startup => task.fails_startup(),
        }
    }
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

pub(super) fn blocked(health: &ManagerHealth) -> Vec<Blocked> {
    let view = |blocked: &BlockedTask| Blocked {
        task: blocked.task.clone(),
        thread: blocked.thread.clone(),
        seconds: tenths(blocked.polling_for),
    };
    health.blocked.iter().map(view).collect()
}

/// Whole tenths of a second: a finer value would change at each tick, and the page with it.
pub(super) fn tenths(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).floor() / 10.0
}

/// A probe that fails, and what it fails for.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Failing {
    /// `liveness`, `readiness` or `startup`.
    probe: &'static str,
    /// Since when; `null` where it is not known.
    since: Option<f64>,
    /// `null` for the runtime and the shutdown.
    #[schema(value_type = Option<String>)]
    task: Option<Arc<str>>,
    state: Option<&'static str>,
    reasons: Vec<&'static str>,
}

const PROBES: [(Probe, &str); 3] =
    [(Probe::Live, "liveness"), (Probe::Ready, "readiness"), (Probe::Startup, "startup")];

/// Returns the tasks that fail each probe; within a probe, the task that has failed for longest comes first.
pub(crate) fn failing(manager: &TaskManager, health: &ManagerHealth) -> Vec<Failing> {
    let mut all = Vec::new();
    for (probe, name) in PROBES.into_iter().filter(|(probe, _)| !probe.passes(health)) {
        let of_service =
            |reason| Failing { probe: name, since: None, task: None, state: None, reasons: vec![reason] };
        all.extend(reasons(manager, health, probe).into_iter().map(of_service));
        let failing = health.tasks.iter().filter(|(_, task)| probe.fails(task));
        let mut tasks: Vec<_> = failing
            .map(|(task, health)| Failing {
                probe: name,
                since: since(health).map(unix),
                task: Some(task.clone()),
                state: health.state.map(TaskState::as_str),
                reasons: health.reasons.iter().map(|reason| reason.as_str()).collect(),
            })
            .collect();
        let order = |failing: &Failing| failing.since.unwrap_or(f64::INFINITY);
        tasks.sort_by(|a, b| order(a).total_cmp(&order(b)));
        tasks.truncate(MOST);
        all.extend(tasks);
    }
    all
}

/// Returns the reasons of the service itself for which a probe fails.
pub(crate) fn reasons(manager: &TaskManager, health: &ManagerHealth, probe: Probe) -> Vec<&'static str> {
    let is_ready_probe = probe == Probe::Ready;
    let all = [
        (health.runtime_stalled && probe != Probe::Startup, "runtime_stalled"),
        (manager.is_draining() && is_ready_probe, HealthReason::Draining.as_str()),
        (manager.is_shutting_down() && is_ready_probe, HealthReason::ShuttingDown.as_str()),
    ];
    all.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

fn since(health: &TaskHealth) -> Option<SystemTime> {
    health.unhealthy_since.or(health.state_since)
}

/// One sentence: what fails which probe and since when, or that all pass.
pub(crate) fn sentence(health: &ManagerHealth, failing: &[Failing]) -> String {
    let probes: Vec<_> =
        PROBES.iter().filter(|(probe, _)| !probe.passes(health)).map(|(_, name)| *name).collect();
    if probes.is_empty() {
        let (total, healthy) =
            (health.tasks.len(), health.tasks.iter().filter(|(_, task)| task.is_healthy()).count());
        return format!("All probes passing: {healthy} of {total} tasks healthy");
    }
    let mut text = match &probes[..] {
        [one] => (*one).to_owned(),
        [first, second] => format!("{first} and {second}"),
        all => all.join(", "),
    };
    text[..1].make_ascii_uppercase();
    text.push_str(" failing");
    // Of the worst of them: they are in the order of the probes.
    let Some(first) = failing.first() else { return text };
    if let Some(since) = first.since {
        let _ = write!(text, " since {} UTC", clock(since));
    }
    match (&first.task, first.state) {
        (Some(task), Some(state)) => {
            let _ = write!(text, ": {task} is {state}");
            let reasons: Vec<_> = first
                .reasons
                .iter()
                .filter(|reason| **reason != state)
                .map(|reason| reason.replace('_', " "))
                .collect();
            if !reasons.is_empty() {
                let _ = write!(text, " ({})", reasons.join(", "));
            }
        }
        _ => {
            let _ = write!(text, ": {}", first.reasons.join(", ").replace('_', " "));
        }
    }
    text
}

/// The time of the day in UTC, as `08:29:20`.
fn clock(unix: f64) -> String {
    let second = unix.rem_euclid(86_400.0) as u32;
    format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// The time zone of the service: `TZ`, else the system's; `UTC` if neither says one.
pub(crate) fn time_zone() -> String {
    let variable = std::env::var("TZ").ok().map(|zone| zone.trim_start_matches(':').to_owned());
    let of_system = || {
        let target = std::fs::read_link(Path::new("/etc/localtime")).ok()?;
        let (_, zone) = target.to_str()?.split_once("zoneinfo/")?;
        Some(zone.to_owned())
    };
    variable.filter(|zone| !zone.is_empty()).or_else(of_system).unwrap_or_else(|| "UTC".to_owned())
}

/// The tokio runtime of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RuntimeView {
    workers: Option<usize>,
    alive_tasks: Option<usize>,
    global_queue_depth: Option<usize>,
    /// The time that the workers were busy since the runtime began, added up.
    busy_seconds: Option<f64>,
    /// The part of the workers' time that they were busy since the manager was made, 0 to 1.
    busy_ratio: Option<f64>,
    stalled: bool,
    blocked: Vec<Blocked>,
}

pub(crate) fn runtime(manager: &TaskManager) -> RuntimeView {
    let health = manager.health();
    let figures = manager.runtime_figures();
    let busy = figures.and_then(|figures| figures.busy);
    let passed = manager.settings().started.elapsed().ok();
    let ratio = || {
        let all = passed?.as_secs_f64() * figures?.workers as f64;
        (all > 0.0).then_some((busy?.as_secs_f64() / all).min(1.0))
    };
    RuntimeView {
        workers: figures.map(|figures| figures.workers),
        alive_tasks: figures.map(|figures| figures.alive_tasks),
        global_queue_depth: figures.map(|figures| figures.global_queue_depth),
        busy_seconds: busy.map(seconds),
        busy_ratio: ratio(),
        stalled: health.runtime_stalled,
        blocked: blocked(&health),
    }
}
