//! Services in trouble, beside one that is well and three instances of the example bot: what is seen of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use otel_tasks::{
    policy::{ExitKind, RestartReason},
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
    telemetry::contract::INSTRUMENTS,
};
use serde_json::Value;

use super::{END, THROUGH, exporting, figures, leases, pages, picture, stack_bot, traces};
use crate::{
    checks::Checks,
    jaeger::Jaeger,
    process::{Bot, wait_until},
    prometheus::Prometheus,
    stack::{Places, Ports, Stack},
};

/// The alerts that fire while the bot runs, and for which of its tasks.
const WHILE_IT_RUNS: [(&str, Option<&str>); 9] = [
    ("TaskFailed", Some("legacy_sync")),
    ("TaskRetrying", Some("mirror")),
    ("TaskCrashLooping", Some("fetcher")),
    ("TaskErrorRatioHigh", Some("command_roll")),
    ("TaskStuck", Some("silent")),
    ("TaskPollsSlow", Some("blocker")),
    ("TaskLoopLate", Some("overrun")),
    ("TaskLoopAbsent", Some("hung")),
    ("TaskNamesOverflow", None),
];
/// Their windows, and the time for which each must hold: two and a half minutes with room.
const ALERT: Duration = Duration::from_secs(240);

/// The example bot's instances have the same name as each other, in a namespace.
const FLEET: &str = "fleet/bot";

pub(crate) fn prove(places: &Places, example_bot: &Path, record: bool, checks: &Checks) -> Result<()> {
    let stack = Stack::start("services", places, Ports::free()?)?;
    let (prometheus, endpoint) = (stack.asked_prometheus(), stack.endpoint());
    thread::scope(|scope| {
        scope
            .spawn(|| checks.step("the services with leases", leases::prove(&endpoint, &prometheus, checks)));
        services(&stack, places, example_bot, record, checks)
    })?;
    stack.stop()
}

fn services(stack: &Stack, places: &Places, example_bot: &Path, record: bool, checks: &Checks) -> Result<()> {
    let (prometheus, jaeger) = (stack.asked_prometheus(), stack.asked_jaeger());
    let endpoint = stack.endpoint();
    // Over gRPC, the others over HTTP.
    let calm = stack_bot("calm", "calm", &format!("http://127.0.0.1:{}", stack.ports.otlp_grpc))?;
    let mut fleet = Vec::new();
    for seed in 1..=3 {
        fleet.push(instance(example_bot, &endpoint, seed)?);
    }
    let trouble = stack_bot("trouble", "bot", &endpoint)?;
    let begun = Instant::now();

    let (survivor, killed) = collisions(fleet, &prometheus, &jaeger, checks)?;
    // All but standby: no task of this bot has a gate.
    wait_until("all states", THROUGH, || Ok(states(&prometheus)?.len() == TaskState::ALL.len() - 1))
        .unwrap_or_else(|error| checks.step("each state is seen", Err(error)));
    let mut panels = pages::Panels::new();
    panels.ask(&prometheus, "bot")?;
    pages::variables(&prometheus, "bot", checks)?;
    pages::contract(&prometheus, checks)?;
    pages::panels_are_whole(&jaeger, "bot", checks)?;
    runbooks(&prometheus, places, checks)?;
    for (alert, task) in WHILE_IT_RUNS {
        fires(&prometheus, alert, &[("job", Some("bot")), ("task_name", task)], checks);
    }
    println!("        alerts had fired after {:?}", begun.elapsed());
    panels.ask(&prometheus, "bot")?;
    let picture = picture::take(&prometheus, &jaeger);
    let something = picture.as_ref().is_ok_and(|picture| picture.lines().count() > 25);
    checks.that("there is something to see", something, || format!("{picture:?}"));
    if let (true, Ok(picture)) = (record, picture) {
        std::fs::write(places.root.join("docs/stack-output.txt"), picture)?;
    }

    let printed = trouble.end(END)?;
    agreement(&prometheus, "bot", &printed, checks)?;
    provoked(&printed, checks)?;
    pages::names(&prometheus, "bot", "task_", INSTRUMENTS, checks)?;
    traces::prove(&jaeger, &prometheus, "bot", &printed, checks)?;
    panels.ask(&prometheus, "bot")?;
    panels.tell("", checks);
    fires(&prometheus, "TaskShutdownLeaked", &[("job", Some("bot"))], checks);
    fires(&prometheus, "TaskInstanceLost", &[("job", Some(FLEET)), ("instance", Some(&killed))], checks);
    silence(&prometheus, &killed, checks)?;

    let printed = calm.end(END)?;
    agreement(&prometheus, "calm", &printed, checks)?;
    survivor.terminate(END)?;
    Ok(())
}

/// The example bot, as it is, but named in a namespace.
fn instance(program: &Path, endpoint: &str, seed: u32) -> Result<Bot> {
    let mut command = Command::new(program);
    command.args(["--quiet", "--seed", &seed.to_string()]);
    Bot::start(exporting(&mut command, endpoint).env("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=fleet"))
}

/// The states that some task of the bot is in.
fn states(prometheus: &Prometheus) -> Result<BTreeSet<String>> {
    let states = prometheus.query("max by (task_state) (task_status{job=\"bot\"}) == 1")?;
    Ok(states.into_iter().filter_map(|(mut labels, _)| labels.remove("task_state")).collect())
}

/// Waits until an alert fires with these labels.
pub(super) fn fires(prometheus: &Prometheus, alert: &str, labels: &[(&str, Option<&str>)], checks: &Checks) {
    let begun = Instant::now();
    let fired = wait_until(alert, ALERT, || {
        let is = |held: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| {
                value.is_none_or(|value| held.get(*label).is_some_and(|held| held == value))
            })
        };
        Ok(prometheus.firing()?.iter().any(|(name, held)| name == alert && is(held)))
    });
    let about: Vec<&str> = labels.iter().filter_map(|(_, value)| *value).collect();
    checks.that(&format!("{alert} fires for {}", about.join(", ")), fired.is_ok(), || {
        format!("not within {:?}; what fires: {:?}", begun.elapsed(), prometheus.firing())
    });
}

/// Three instances at once: each has series and traces of its own. One is killed, one ends in order, one goes on.
fn collisions(
    mut fleet: Vec<Bot>,
    prometheus: &Prometheus,
    jaeger: &Jaeger,
    checks: &Checks,
) -> Result<(Bot, String)> {
    let runs = format!("sum by (instance) (task_runs_total{{job=\"{FLEET}\"}})");
    wait_until("three instances", THROUGH, || {
        let instances = prometheus.query(&runs)?;
        Ok(instances.len() == 3 && instances.iter().all(|(_, runs)| *runs > 20.0))
    })?;
    let before: BTreeSet<String> = instances(prometheus)?;
    let mut killed = fleet.remove(0);
    killed.kill()?;
    let words = fleet.remove(0).terminate(END)?;
    let survivor = fleet.remove(0);
    let said =
        words.iter().find_map(|line| line.split_once(" runs, ")).context("it printed no statistics")?;
    let said: f64 = said.0.parse()?;
    // The one that says that it went down is the one that printed.
    let down = format!("task_shutdown_duration_seconds_count{{job=\"{FLEET}\"}}");
    let mut ended = None;
    let agreed = wait_until("the printed runs of an instance", THROUGH, || {
        ended = prometheus.query(&down)?.first().and_then(|(labels, _)| labels.get("instance").cloned());
        let by_instance = prometheus.query(&runs)?;
        Ok(by_instance.iter().any(|(labels, runs)| labels.get("instance") == ended.as_ref() && *runs == said))
    });
    checks.that(
        &format!("three instances at once: each keeps its own count ({said} runs were printed by one)"),
        agreed.is_ok(),
        || format!("{:?}", prometheus.query(&runs)),
    );
    let (still, gone) = growing(prometheus, &before)?;
    let lost: Vec<&String> = gone.iter().filter(|instance| Some(*instance) != ended.as_ref()).collect();
    checks.that("one goes on, two are gone", still.len() == 1 && lost.len() == 1, || {
        format!("{still:?} {gone:?}")
    });

    let spans = jaeger.spans(("bot", ""), "task.run", &[("service.namespace", "fleet")])?;
    let mut by_trace: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut by_instance: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for span in spans.iter().filter(|span| before.contains(&span.instance)) {
        by_trace.entry(&span.trace).or_default().insert(&span.instance);
        by_instance.entry(&span.instance).or_default().insert(&span.id);
    }
    let mixed: Vec<String> = by_trace
        .iter()
        .filter(|(_, of)| of.len() > 1)
        .map(|(trace, of)| format!("{trace}: {of:?}"))
        .collect();
    checks.none(&format!("no trace is of two instances ({} traces)", by_trace.len()), &mixed);
    let distinct: BTreeSet<&&str> = by_instance.values().flatten().collect();
    let held: usize = by_instance.values().map(BTreeSet::len).sum();
    checks.that(
        &format!("and no span ({held}) of three instances has another's id"),
        by_instance.len() == 3 && distinct.len() == held,
        || format!("{} instances, {} ids of {held} spans", by_instance.len(), distinct.len()),
    );
    let lost = lost.first().map_or(String::new(), ToString::to_string);
    Ok((survivor, lost))
}

fn instances(prometheus: &Prometheus) -> Result<BTreeSet<String>> {
    prometheus.label_values("instance", &format!("task_runs_total{{job=\"{FLEET}\"}}"))
}

/// Which instances still export, and which do not.
fn growing(prometheus: &Prometheus, instances: &BTreeSet<String>) -> Result<(Vec<String>, Vec<String>)> {
    thread::sleep(Duration::from_secs(6));
    let recent = prometheus
        .query(&format!("count by (instance) (present_over_time(task_run_active{{job=\"{FLEET}\"}}[5s]))"))?;
    let recent: BTreeSet<&String> = recent.iter().filter_map(|(labels, _)| labels.get("instance")).collect();
    Ok(instances.iter().cloned().partition(|instance| recent.contains(instance)))
}

/// What a service printed at its end is what Prometheus holds.
fn agreement(prometheus: &Prometheus, job: &str, printed: &Value, checks: &Checks) -> Result<()> {
    checks.that(&format!("{job}: all telemetry was delivered"), printed["complete"] == true, || {
        printed["said"].to_string()
    });
    let expected = figures::expected(printed)?;
    let mut different = Vec::new();
    let _ = wait_until("the final figures", THROUGH, || {
        different = figures::differences(&expected, &figures::held(prometheus, job, &expected)?);
        Ok(different.is_empty())
    });
    checks.none(
        &format!("{job}: what was printed is what Prometheus holds ({} series)", expected.len()),
        &different,
    );
    Ok(())
}

/// Nothing that the instruments tell apart was left out.
fn provoked(printed: &Value, checks: &Checks) -> Result<()> {
    let expected = figures::expected(printed)?;
    let mut missing = Vec::new();
    let mut seen = |label: &str, values: Vec<&str>| {
        for value in values {
            let of = expected
                .iter()
                .filter(|((_, labels), _)| labels.get(label).is_some_and(|held| held == value));
            if !of.into_iter().any(|(_, count)| *count > 0.0) {
                missing.push(format!("{label} {value}"));
            }
        }
    };
    seen("task_run_result", ExitKind::ALL.iter().map(|kind| kind.as_str()).collect());
    seen("task_restart_reason", RestartReason::ALL.iter().map(|reason| reason.as_str()).collect());
    seen("task_shutdown_outcome", ShutdownOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect());
    checks.none("each result, each reason of a restart, each end at a shutdown was provoked", &missing);
    Ok(())
}

/// The service that is well had no alert, at any time; nor had the instances that went on or ended in order that of the one
/// that was killed.
fn silence(prometheus: &Prometheus, killed: &str, checks: &Checks) -> Result<()> {
    let alerts = prometheus.query("max_over_time(ALERTS{job=\"calm\"}[20m])")?;
    checks.that("no alert is even pending for the healthy service", alerts.is_empty(), || {
        format!("{alerts:?}")
    });
    let alive = prometheus.sum("time() - max(timestamp(task_run_active{job=\"calm\"}))")?;
    checks.that("which was there all the time", alive < 30.0, || format!("last seen {alive} s ago"));
    let lost = prometheus.query("max_over_time(ALERTS{alertname=\"TaskInstanceLost\"}[20m])")?;
    let others: Vec<String> = lost
        .iter()
        .filter(|(labels, _)| labels.get("instance").is_none_or(|held| held != killed))
        .map(|(labels, _)| format!("{labels:?}"))
        .collect();
    checks.none("no other instance counts as lost", &others);
    Ok(())
}

/// Each alert has a severity, a summary, and a page that says what to do.
fn runbooks(prometheus: &Prometheus, places: &Places, checks: &Checks) -> Result<()> {
    let page = std::fs::read_to_string(places.root.join("docs/runbooks.md"))?;
    let anchors: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase).collect();
    // Each has been evaluated, or its health is not known.
    let mut rules = Vec::new();
    wait_until("the first evaluation", THROUGH, || {
        rules = prometheus.rules()?;
        Ok(rules.iter().all(|rule| rule["health"] != "unknown"))
    })?;
    let mut wrong = Vec::new();
    for rule in &rules {
        let name = rule["name"].as_str().unwrap_or_default();
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        let (_, anchor) = rule["annotations"]["runbook_url"]
            .as_str()
            .unwrap_or_default()
            .split_once('#')
            .unwrap_or_default();
        let said = ["summary", "description"]
            .iter()
            .all(|key| rule["annotations"][key].as_str().is_some_and(|text| !text.is_empty()));
        let healthy = rule["health"] == "ok";
        if !["critical", "warning", "info"].contains(&severity)
            || !said
            || !healthy
            || anchor != name.to_lowercase()
            || !anchors.contains(anchor)
        {
            wrong.push(format!("{name}: {rule}"));
        }
    }
    checks.none(&format!("each alert has its severity, its words and its runbook ({})", rules.len()), &wrong);
    Ok(())
}
