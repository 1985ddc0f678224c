//! What a bot printed at its end, as the series that Prometheus must hold: no more, no less, and with the same values.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use otel_tasks::{
    policy::ExitKind,
    shutdown::ShutdownOutcome,
    snapshot::{SkipReason, TaskState},
    telemetry::{
        Signal, contract as c,
        contract::{Instrument, key},
    },
};
use serde_json::Value;

use crate::{
    contract::{RESOURCE_LABELS, escaped, metric},
    prometheus::{Labels, Prometheus},
};

/// Why telemetry is lost: the values of the attribute `reason`.
pub(super) const REASONS: [&str; 6] =
    ["queue_full", "export_failed", "too_large", "rejected", "after_shutdown", "buffer_full"];

/// Values by name and labels, those of the resource left out.
pub(crate) type Series = BTreeMap<(String, Labels), f64>;

/// One task's figures, as they were printed.
pub(crate) struct Task<'a>(pub(crate) &'a Value);

impl Task<'_> {
    pub(crate) fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    pub(crate) fn runs(&self, kind: ExitKind) -> u64 {
        self.0["runs"][kind.as_str()].as_u64().unwrap_or(0)
    }

    pub(crate) fn total_runs(&self) -> u64 {
        ExitKind::ALL.iter().copied().map(|kind| self.runs(kind)).sum()
    }

    pub(crate) fn total_errors(&self) -> u64 {
        self.0["errors"].as_array().into_iter().flatten().filter_map(|error| error["count"].as_u64()).sum()
    }

    fn state(&self) -> Option<&str> {
        self.0["state"].as_str()
    }

    /// Its labels, which are printed as they are exported.
    fn labels(&self, more: &[(&str, &str)]) -> Labels {
        let own = [
            (key::NAME, "name"),
            (key::CATEGORY, "category"),
            (key::PRIORITY, "priority"),
            (key::COMPONENT, "component"),
        ];
        let own = own.into_iter().filter_map(|(key, field)| Some((key, self.0[field].as_str()?)));
        own.chain(more.iter().copied()).map(|(key, value)| (escaped(key), value.to_owned())).collect()
    }
}

/// A duration or a time as `serde` writes it, in seconds.
pub(crate) fn seconds(value: &Value) -> Option<f64> {
    let whole = value["secs"].as_f64().or_else(|| value["secs_since_epoch"].as_f64())?;
    let nanos = value["nanos"].as_f64().or_else(|| value["nanos_since_epoch"].as_f64())?;
    Some(whole + nanos / 1e9)
}

pub(crate) fn tasks(printed: &Value) -> Result<Vec<Task<'_>>> {
    Ok(printed["tasks"].as_array().context("tasks")?.iter().map(Task).collect())
}

/// What Prometheus must hold of a service that printed this.
pub(crate) fn expected(printed: &Value) -> Result<Series> {
    let mut series = Series::new();
    for task in tasks(printed)? {
        of_task(&task, &mut |name, more, value| {
            series.insert((name, task.labels(more)), value);
        });
    }
    let mut add = |instrument: Instrument, more: &[(&str, &str)], value: f64| {
        let labels = more.iter().map(|(key, value)| (escaped(key), (*value).to_owned())).collect();
        series.insert((metric(&instrument), labels), value);
    };
    let ended = printed["shutdown"]["tasks"].as_array().context("the shutdown's tasks")?;
    for &outcome in ShutdownOutcome::ALL {
        let alike = ended.iter().filter(|task| task["outcome"] == outcome.as_str());
        let count: u64 = alike.filter_map(|task| task["count"].as_u64()).sum();
        add(c::SHUTDOWN_TASKS, &[(key::SHUTDOWN_OUTCOME, outcome.as_str())], count as f64);
    }
    for &signal in Signal::ALL {
        // Traces alone are held before they are kept.
        let reasons =
            REASONS.into_iter().filter(|reason| *reason != "buffer_full" || signal == Signal::Traces);
        for reason in reasons {
            let count = printed["telemetry"][signal.as_str()][reason].as_f64().context("a count")?;
            add(c::TELEMETRY_DROPPED, &[(key::SIGNAL, signal.as_str()), (key::REASON, reason)], count);
        }
    }
    let shutdown = metric(&c::SHUTDOWN_DURATION);
    series.insert((format!("{shutdown}_count"), Labels::new()), 1.0);
    let took = seconds(&printed["shutdown"]["duration"]).context("a duration")?;
    series.insert((format!("{shutdown}_sum"), Labels::new()), took);
    Ok(series)
}

/// Takes a name, the labels beside the task's, and the value.
type Add<'a> = dyn FnMut(String, &[(&str, &str)], f64) + 'a;

fn of_task(task: &Task<'_>, add: &mut Add<'_>) {
    let registered = task.state().is_some();
    let figure = |field: &str| task.0[field].as_f64().unwrap_or(0.0);
    add(metric(&c::RUN_ACTIVE), &[], figure("active"));
    add(metric(&c::RUN_TIME), &[], seconds(&task.0["run_time"]).unwrap_or(0.0));
    add(metric(&c::POLLS_SLOW), &[], figure("slow_polls"));
    for &kind in ExitKind::ALL {
        let runs = task.runs(kind) as f64;
        add(metric(&c::RUNS), &[(key::RESULT, kind.as_str())], runs);
        if runs > 0.0 {
            add(format!("{}_count", metric(&c::RUN_DURATION)), &[(key::RESULT, kind.as_str())], runs);
        }
    }
    if task.total_runs() > 0 {
        let duration = metric(&c::RUN_DURATION);
        add(format!("{duration}_sum"), &[], seconds(&task.0["run_time"]).unwrap_or(0.0));
        let printed = task.0["durations"].as_array().into_iter().flatten().filter_map(Value::as_f64);
        let mut so_far = 0.0;
        // Prometheus's buckets hold all that took no longer.
        for (boundary, runs) in c::DURATION_BOUNDARIES.iter().copied().chain([f64::INFINITY]).zip(printed) {
            so_far += runs;
            add(format!("{duration}_bucket"), &[("le", &boundary.to_string())], so_far);
        }
    }
    if !task.0["interval"].is_null() {
        // One delay for each iteration.
        add(format!("{}_count", metric(&c::SCHEDULE_DELAY)), &[], task.total_runs() as f64);
    }
    for error in task.0["errors"].as_array().into_iter().flatten() {
        let error_type = error["error_type"].as_str().unwrap_or_default();
        add(metric(&c::RUN_ERRORS), &[(key::ERROR_TYPE, error_type)], error["count"].as_f64().unwrap_or(0.0));
    }
    if task.total_runs() > 0 {
        add(metric(&c::RUN_DURATION_MAX), &[], seconds(&task.0["longest_run"]).unwrap_or(0.0));
    }
    for (reason, count) in task.0["restarts_by_reason"].as_object().into_iter().flatten() {
        add(metric(&c::RESTARTS), &[(key::RESTART_REASON, reason)], count.as_f64().unwrap_or(0.0));
    }
    if registered {
        for &state in TaskState::ALL {
            let is = task.state() == Some(state.as_str());
            if is || !matches!(state, TaskState::Standby | TaskState::Finished) {
                add(metric(&c::STATUS), &[(key::STATE, state.as_str())], f64::from(u8::from(is)));
            }
        }
    }
    let longest_poll = seconds(&task.0["longest_poll"]).filter(|poll| *poll > 0.0);
    let when_registered = |field: &str| seconds(&task.0[field]).filter(|_| registered);
    let gauges = [
        (c::LAST_SUCCESS_TIME, seconds(&task.0["last_success"])),
        (c::LAST_ERROR_TIME, seconds(&task.0["last_error_time"])),
        (c::LAST_RESTART_TIME, seconds(&task.0["last_restart"])),
        (c::HEARTBEAT_TIME, when_registered("last_seen")),
        (c::INTERVAL, when_registered("interval")),
        (c::NEXT_RUN_TIME, when_registered("next_run")),
        (c::NEXT_RETRY_TIME, when_registered("next_retry")),
        (c::POLL_DURATION_MAX, longest_poll),
        (c::RESERVATION_PENDING, task.0["pending_reservations"].as_f64()),
    ];
    for (instrument, value) in gauges {
        if let Some(value) = value {
            add(metric(&instrument), &[], value);
        }
    }
    for &reason in SkipReason::ALL {
        let count = task.0["skipped"][reason.as_str()].as_f64().unwrap_or(0.0);
        if count > 0.0 || !task.0["interval"].is_null() {
            add(metric(&c::ITERATIONS_SKIPPED), &[(key::REASON, reason.as_str())], count);
        }
    }
    let stalls = figure("stalls");
    if stalls > 0.0 {
        add(metric(&c::STALLS), &[], stalls);
    }
}

/// What Prometheus holds of these names for a service. Run durations are summed over classes of errors; their sums and buckets over
/// results, too.
pub(crate) fn held(prometheus: &Prometheus, job: &str, names: &Series) -> Result<Series> {
    let mut held = Series::new();
    let names: std::collections::BTreeSet<&str> = names.keys().map(|(name, _)| name.as_str()).collect();
    let durations = metric(&c::RUN_DURATION);
    for name in names {
        for (mut labels, value) in prometheus.query(&format!("{name}{{job=\"{job}\"}}"))? {
            labels.retain(|label, _| label != "__name__" && !RESOURCE_LABELS.contains(&label.as_str()));
            match name.strip_prefix(&durations) {
                Some("_count") => _ = labels.remove(&escaped(key::ERROR_TYPE)),
                Some("_sum" | "_bucket") => {
                    labels.remove(&escaped(key::ERROR_TYPE));
                    labels.remove(&escaped(key::RESULT));
                }
                _ => {}
            }
            // `1` or `1.0`, as the version likes.
            if let Some(boundary) = labels.get_mut("le") {
                *boundary = boundary.parse::<f64>()?.to_string();
            }
            *held.entry((name.to_owned(), labels)).or_default() += value;
        }
    }
    Ok(held)
}

/// The metrics of which a series may also be there as 0: what a bot prints does not say whether it can occur for the task.
fn may_be_zero(name: &str) -> bool {
    [c::STATUS, c::STALLS, c::ITERATIONS_SKIPPED].iter().any(|instrument| metric(instrument) == name)
}

/// What is different, in words; a few of them.
pub(crate) fn differences(expected: &Series, held: &Series) -> Vec<String> {
    let same = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(1.0);
    let mut different = Vec::new();
    for ((name, labels), value) in expected {
        match held.get(&(name.clone(), labels.clone())) {
            Some(held) if same(*value, *held) => {}
            Some(held) => different.push(format!("{name} {labels:?}: printed {value}, held {held}")),
            None => different.push(format!("{name} {labels:?}: printed {value}, not there")),
        }
    }
    for ((name, labels), value) in held.iter().filter(|(key, _)| !expected.contains_key(*key)) {
        if *value == 0.0 && may_be_zero(name) {
            continue;
        }
        different.push(format!("{name} {labels:?}: there, and was not printed"));
    }
    let more = different.len().saturating_sub(12);
    different.truncate(12);
    if more > 0 {
        different.push(format!("and {more} more"));
    }
    different
}
