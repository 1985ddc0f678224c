//! The monitor: a sweep at start and then at every interval, as the span `bot.monitor_tasks`.
//!
//! A sweep does three things:
//!
//! - It warns once of names that the user's prefixes do not cover.
//! - It removes the names of tasks that are gone.
//! - It reports changes of health, of the tasks whose interval has passed.
//!
//! Each step is isolated: a panic in one is logged and the others still run. The loop itself ends only
//! with [`Shared::stop_monitor`] or the manager.

use std::{
    collections::BTreeSet,
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use opentelemetry::KeyValue;
use tokio::time::Instant;

use crate::{
    cell::Entry,
    contract::attribute,
    emit::{ManagedSpan, SpanParent},
    engine::{
        Shared, Supervised, announce,
        observe::manager_span::{Names, set_names, strings},
    },
    policy::TaskCategory,
    read::{self, HealthStatus},
    run::{Task, catch},
};

/// Starts the monitor loop; without effect where it runs already.
pub(crate) fn start(shared: &Arc<Shared>) {
    // Before the lock: it may move the manager, which starts the monitor itself.
    let runtime = shared.runtime();
    let mut monitor = shared.monitor.lock().unwrap_or_else(PoisonError::into_inner);
    if monitor.as_ref().is_some_and(|running| !running.is_finished()) || shared.tracker.is_closed() {
        return;
    }
    let weak = Arc::downgrade(shared);
    let interval = shared.settings.monitor_interval;
    let handle = runtime.spawn(async move {
        loop {
            // Held for the sweep alone: the monitor keeps no manager alive.
            let Some(shared) = weak.upgrade() else { return };
            let _ = catch(shared.recorder.options.silence_panics, || sweep(&shared));
            drop(shared);
            tokio::time::sleep(interval).await;
        }
    });
    *monitor = Some(handle.abort_handle());
}

pub(crate) fn is_running(shared: &Shared) -> bool {
    let monitor = shared.monitor.lock().unwrap_or_else(PoisonError::into_inner);
    monitor.as_ref().is_some_and(|running| !running.is_finished())
}

fn sweep(shared: &Arc<Shared>) {
    let began = Instant::now();
    let span = shared.manager_spans().span("monitor_tasks", SpanParent::Root);
    {
        let _entered = span.enter();
        step(shared, "categorize tasks", || categorize(shared, &span));
        step(shared, "check health", || check_health(shared, &span));
        step(shared, "let names go", || shared.recorder.registry().expire(shared.recorder.now()));
    }
    span.end();
    if let Some(exposition) = &*shared.recorder.exposition() {
        exposition.instruments.monitor_duration.record(began.elapsed().as_secs_f64(), &[]);
    }
}

/// One step of a sweep: its panic is logged and ends nothing but the step.
fn step(shared: &Shared, name: &'static str, step: impl FnOnce()) {
    if let Err(caught) = catch(shared.recorder.options.silence_panics, step) {
        announce::step_panicked(name, &caught.panic.text);
    }
}

fn categorize(shared: &Shared, span: &ManagedSpan) {
    let has_prefixes = shared.recorder.options.categories.has_prefixes();
    if !has_prefixes && !span.is_seen() {
        return;
    }
    let listing = shared.recorder.registry().listing();
    let names = names_alive(&listing);
    set_names(span, &names);
    // Without a table every plain name is unknown, and meant to be.
    if !has_prefixes {
        return;
    }
    let mut unknown = names[TaskCategory::Unknown as usize].clone();
    {
        // Bounded like the names of the registry, which come and go. The lock is not held during a call of the subscriber, which is the user's code.
        let mut warned = shared.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() > 2 * listing.len() {
            let known: HashSet<_> = listing.iter().map(|entry| &*entry.identity.name).collect();
            warned.retain(|name| known.contains(&**name));
        }
        unknown.retain(|name| warned.insert(name.clone()));
    }
    for name in unknown {
        announce::category_unknown(&name);
    }
}

/// The names that are registered or have runs under way. Asked of the cells: of names there are few, of tasks millions.
fn names_alive(listing: &[Arc<Task>]) -> Names {
    let mut names = Names::default();
    // Members have no name of their own here: the name of their family is checked.
    let named = listing.iter().map(|entry| &**entry).filter(|entry| entry.family().is_none());
    for Entry { identity, cell, .. } in named {
        if cell.is_alive() {
            names[identity.category as usize].push(identity.name.clone());
        }
    }
    // A name may have more than one identity in a category.
    names.iter_mut().for_each(Vec::dedup);
    names
}

/// The names that tasks are metered under, each once: there may be ten thousand members of a family.
fn names_of(tasks: &[&Arc<Supervised>]) -> Vec<Arc<str>> {
    let names: BTreeSet<_> = tasks.iter().map(|task| &task.task.metered().identity.name).collect();
    names.into_iter().cloned().collect()
}

fn check_health(shared: &Arc<Shared>, span: &ManagedSpan) {
    let tasks = shared.registered_tasks();
    let thresholds = &shared.settings.thresholds;
    let now = shared.recorder.now();
    let (mut degraded, mut unhealthy) = (Vec::new(), Vec::new());
    for task in tasks.iter() {
        let vitals = task.task.cell.vitals(now);
        // Most are healthy, and of those nothing is made.
        let status = read::status(&vitals, task.live(), thresholds);
        match status {
            HealthStatus::Healthy => _ = task.note_status(status, SystemTime::now),
            HealthStatus::Degraded => degraded.push(task),
            HealthStatus::Unhealthy => unhealthy.push(task),
        }
        let changed = task.checked(now, task.spec.health_check_interval, status);
        if changed || status != HealthStatus::Healthy {
            let health = shared.health_of(Some(task), &vitals);
            if changed {
                shared.announcer(task, task.signals.generation()).health_changed(&health);
            }
        }
    }
    let healthy = tasks.len() - degraded.len() - unhealthy.len();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    span.set_attribute(KeyValue::new(attribute::MONITOR_TASKS, count(tasks.len())));
    span.set_attribute(KeyValue::new(attribute::MONITOR_HEALTHY, count(healthy)));
    span.set_attribute(KeyValue::new(attribute::MONITOR_DEGRADED, strings(&names_of(&degraded))));
    span.set_attribute(KeyValue::new(attribute::MONITOR_UNHEALTHY, strings(&names_of(&unhealthy))));
}
