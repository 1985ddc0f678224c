//! What Jaeger must hold of a bot that printed its figures.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use otel_tasks::policy::ExitKind;
use serde_json::Value;

use super::figures;
use crate::{
    checks::Checks,
    jaeger::{Jaeger, Span},
    prometheus::Prometheus,
};

pub(crate) fn prove(
    jaeger: &Jaeger,
    prometheus: &Prometheus,
    service: &str,
    printed: &Value,
    checks: &Checks,
) -> Result<()> {
    let services = jaeger.services()?;
    checks.that("Jaeger knows the service", services.contains(service), || format!("{services:?}"));
    let operations = jaeger.operations(service)?;
    // Other instances have the same name.
    let instance = printed["resource"]["service.instance.id"].as_str().context("an instance")?;
    let of = (service, instance);
    let wanted =
        ["task.run", "bot.monitor_tasks", "bot.cleanup_tasks", "bot.stop_task_loops", "bot.cancel_tasks"];
    let missing: Vec<String> =
        wanted.iter().filter(|name| !operations.contains(**name)).map(ToString::to_string).collect();
    checks.none("Jaeger knows the operations", &missing);

    counts(jaeger, of, printed, checks)?;
    restarts(jaeger, of, checks)?;
    nested(jaeger, of, ("fetcher", "fetch_page"), checks)?;
    nested(jaeger, of, ("command_roll", "shake_dice"), checks)?;
    sweeps_and_shutdown(jaeger, prometheus, of, printed, checks)
}

/// As many runs as were printed, as many of them failed, each with its class.
fn counts(jaeger: &Jaeger, of: (&str, &str), printed: &Value, checks: &Checks) -> Result<()> {
    let mut wrong = Vec::new();
    let mut total = 0;
    for task in figures::tasks(printed)? {
        let runs = jaeger.runs(of, task.name())?;
        let distinct: BTreeSet<&str> = runs.iter().map(|run| run.id.as_str()).collect();
        let failed = runs.iter().filter(|run| run.tag("error.type").is_some()).count() as u64;
        let marked = runs.iter().filter(|run| run.tag("error").as_deref() == Some("true")).count() as u64;
        let described = runs.iter().filter(|run| run.tag("otel.status_description").is_some()).count() as u64;
        let seen = (distinct.len() as u64, failed, marked, described);
        // What was cancelled says so in its status, and has no class of error.
        let errors = task.total_errors();
        let not_well = errors + task.runs(ExitKind::Cancellation);
        if seen != (task.total_runs(), errors, not_well, not_well) {
            let runs = task.total_runs();
            wrong.push(format!("{}: printed {runs} runs, {errors} errors; Jaeger has {seen:?}", task.name()));
        }
        total += runs.len();
    }
    checks.none(
        &format!("Jaeger has the runs and errors that were printed, each with its tags ({total} runs)"),
        &wrong,
    );
    Ok(())
}

/// A run after a failed one is a trace of its own, and leads to the failed one.
fn restarts(jaeger: &Jaeger, of: (&str, &str), checks: &Checks) -> Result<()> {
    let runs = jaeger.runs(of, "fetcher")?;
    let by_generation: HashMap<String, &Span> =
        runs.iter().filter_map(|run| Some((run.tag("task.run.generation")?, run))).collect();
    let mut wrong = Vec::new();
    for generation in 2..=runs.len() {
        let [Some(failed), Some(run)] =
            [generation - 1, generation].map(|number| by_generation.get(&number.to_string()))
        else {
            wrong.push(format!("no generation {generation}, or not the one before it"));
            continue;
        };
        let leads = run.links.contains(&(failed.trace.clone(), failed.id.clone()));
        if !leads
            || run.trace == failed.trace
            || failed.tag("error.type").as_deref() != Some("connection_reset")
        {
            wrong.push(format!(
                "generation {generation}: {:?}, the failed run is {} {}",
                run.links, failed.trace, failed.id
            ));
        }
    }
    checks.none(
        &format!("each restart is linked to the run that failed ({})", runs.len().saturating_sub(1)),
        &wrong,
    );
    checks.that("there were restarts", runs.len() > 5, || format!("{} runs", runs.len()));
    Ok(())
}

/// What the user opened inside a run is its child, in the same trace.
fn nested(jaeger: &Jaeger, of: (&str, &str), (task, operation): (&str, &str), checks: &Checks) -> Result<()> {
    let spans = jaeger.spans(of, "task.run", &[("task.name", task)])?;
    let runs: HashMap<&str, &Span> =
        spans.iter().filter(|span| span.operation == "task.run").map(|run| (run.id.as_str(), run)).collect();
    let inner: Vec<&Span> = spans.iter().filter(|span| span.operation == operation).collect();
    let lost = inner.iter().filter(|span| {
        let parent = span.parent.as_deref().and_then(|parent| runs.get(parent));
        parent.is_none_or(|run| {
            run.trace != span.trace || span.start < run.start || span.duration > run.duration
        })
    });
    let lost: Vec<String> = lost.map(|span| format!("{span:?}")).take(3).collect();
    checks.none(&format!("{operation} is nested in its run ({} of {})", inner.len(), runs.len()), &lost);
    checks.that(
        &format!("nearly each run of {task} has its {operation}"),
        inner.len() + 1 >= runs.len() && !inner.is_empty(),
        || format!("{} of {}", inner.len(), runs.len()),
    );
    Ok(())
}

/// As many sweeps as were measured; one shutdown, with its parts.
fn sweeps_and_shutdown(
    jaeger: &Jaeger,
    prometheus: &Prometheus,
    of: (&str, &str),
    printed: &Value,
    checks: &Checks,
) -> Result<()> {
    let sweeps = jaeger.spans(of, "bot.monitor_tasks", &[])?.len();
    let measured = prometheus.sum(&format!("task_monitor_duration_seconds_count{{job=\"{}\"}}", of.0))?;
    checks.that(&format!("each sweep is a span ({sweeps})"), sweeps > 0 && sweeps as f64 == measured, || {
        format!("{sweeps} spans, {measured} measured")
    });
    let spans = jaeger.spans(of, "bot.cleanup_tasks", &[])?;
    let cleanup =
        spans.iter().find(|span| span.operation == "bot.cleanup_tasks").context("no bot.cleanup_tasks")?;
    let children = spans.iter().filter(|span| span.parent.as_ref() == Some(&cleanup.id));
    let children: BTreeSet<&str> = children.map(|span| span.operation.as_str()).collect();
    checks.that("the shutdown is one span with its parts", spans.len() == 3 && children.len() == 2, || {
        format!("{spans:?}")
    });
    let leaked = printed["shutdown"]["tasks"].as_array().into_iter().flatten();
    let leaked: Vec<&str> =
        leaked.filter(|task| task["outcome"] == "leaked").filter_map(|task| task["name"].as_str()).collect();
    let told = cleanup.tag("tasks.leaked").unwrap_or_default();
    checks.that(
        "it names what leaked",
        !leaked.is_empty() && leaked.iter().all(|name| told.contains(name)),
        || told,
    );
    Ok(())
}
