//! The ordered shutdown: admission and timers closed first, then stage by stage, under one deadline.
//!
//! Stages are the pairs of category and priority, in [`TaskCategory::SHUTDOWN_ORDER`] and lowest priority first; only
//! those with something alive take time. Each stage is asked to stop and given an equal share of what is left of the
//! deadline; when its share is over the next stage is asked too, and what is still there may go on until shortly before
//! the deadline. Then everything left is dropped; what cannot be dropped, because it blocks its thread, is reported as
//! leaked.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use opentelemetry::{KeyValue, Value};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Order, Shared, ShutdownOutcome, ShutdownReport, later, monitor,
    monitor::{manager_span, set_names},
    tracker::{STAGES, stage_of_task},
};
use crate::telemetry::{
    ManagedSpan, SpanParent,
    contract::{SCOPE, attribute, key, record},
};

/// The part of the deadline that is kept for dropping what did not end by itself.
const ABORT_SHARE: u32 = 10;
/// The least that is allowed for it, past the deadline if need be.
const ABORT_MOMENT: Duration = Duration::from_millis(10);
/// The most that is kept for it.
const ABORT_RESERVE: Duration = Duration::from_secs(1);

/// Shuts down once; every caller gets the same report.
///
/// # Cancel safety
/// The shutdown runs on the runtime, not in the caller: a caller that is dropped does not interrupt it.
pub(crate) async fn shutdown(shared: &Arc<Shared>, deadline: Duration) -> Arc<ShutdownReport> {
    let mut report = begin(shared, deadline);
    let ended = report.wait_for(Option::is_some).await.ok().and_then(|report| report.clone());
    ended.unwrap_or_else(|| {
        // The runtime went away under us: nothing ran to its end, and nothing is left to wait for.
        Arc::new(ShutdownReport { duration: Duration::ZERO, deadline, tasks: shared.tracker.report() })
    })
}

/// Closes admission and begins the shutdown in the background, unless it has begun already. Answers where its report
/// will be; where its runtime goes away meanwhile, the channel closes without one.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    deadline: Duration,
) -> watch::Receiver<Option<Arc<ShutdownReport>>> {
    let runtime = shared.runtime();
    let mut begun = shared.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(report) = &*begun {
        return report.clone();
    }
    shared.tracker.close();
    let (sender, report) = watch::channel(None);
    *begun = Some(report.clone());
    drop(begun);
    let shared = shared.clone();
    runtime.spawn(async move {
        let report = run(&shared, deadline).await;
        sender.send_replace(Some(Arc::new(report)));
    });
    report
}

async fn run(shared: &Arc<Shared>, deadline: Duration) -> ShutdownReport {
    let began = Instant::now();
    shared.tracker.began(began);
    monitor::stop(shared);
    let span = manager_span(shared, "cleanup_tasks", SpanParent::Root);
    stop_task_loops(shared, &span);
    cancel_tasks(shared, &span, began, deadline).await;
    let report = ShutdownReport { duration: began.elapsed(), deadline, tasks: shared.tracker.report() };
    finish(shared, span, &report);
    report
}

/// Asks every loop to stop: sleepers end at once, the others after the iteration under way.
fn stop_task_loops(shared: &Shared, parent: &ManagedSpan) {
    let span = {
        let _entered = parent.enter();
        manager_span(shared, "stop_task_loops", SpanParent::Current)
    };
    let mut stopped = Vec::new();
    for task in everyone(shared) {
        if task.spec.body.is_loop() {
            task.order(Order::Leave { grace: task.spec.shutdown_grace });
            stopped.push(task.task.identity.name.to_string());
        }
    }
    span.set_attribute(KeyValue::new(
        attribute::LOOPS_STOPPED,
        i64::try_from(stopped.len()).unwrap_or(i64::MAX),
    ));
    span.end();
}

async fn cancel_tasks(shared: &Arc<Shared>, parent: &ManagedSpan, began: Instant, deadline: Duration) {
    let span = {
        let _entered = parent.enter();
        manager_span(shared, "cancel_tasks", SpanParent::Current)
    };
    set_names(&span, &shared.tracker.names());
    let reserve = (deadline / ABORT_SHARE).min(ABORT_RESERVE);
    let (abort_at, end) = (later(began, deadline - reserve), later(began, deadline));
    let mut graces = Graces::default();
    for stage in 0..STAGES {
        let alive = |stage: &usize| shared.tracker.alive_in(*stage..*stage + 1) > 0;
        if alive(&stage) {
            let left = (stage..STAGES).filter(alive).count().max(1);
            let share = abort_at.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(1);
            graces.ask(shared, stage);
            graces.wait(shared, stage..stage + 1, Instant::now() + share).await;
        }
        shared.tracker.stage_over(stage);
    }
    let all = 0..STAGES;
    graces.wait(shared, all.clone(), abort_at).await;
    if shared.tracker.alive_in(all.clone()) > 0 {
        for task in everyone(shared) {
            task.order(Order::Kill);
        }
        shared.tracker.abort_runs(all.clone(), |_| true);
        // However short the deadline, what can be dropped has a moment to be.
        let end = end.max(Instant::now() + ABORT_MOMENT);
        let _ = timeout_at(end, shared.tracker.emptied(all)).await;
    }
    span.end();
}

/// When the graces of spawned runs are over, the soonest first. A registered task's driver keeps its own.
#[derive(Default)]
struct Graces(Vec<(Instant, usize, Duration)>);

impl Graces {
    /// Asks a stage to stop.
    fn ask(&mut self, shared: &Shared, stage: usize) {
        let asked = Instant::now();
        for task in everyone(shared).iter().filter(|task| stage_of_task(&task.task) == stage) {
            task.order(Order::Leave { grace: task.spec.shutdown_grace });
        }
        let graces = shared.tracker.ask_runs(stage).into_iter().flatten();
        self.0.extend(graces.map(|grace| (later(asked, grace), stage, grace)));
        self.0.sort_unstable();
    }

    /// Waits until these stages are empty, or until then. Meanwhile the runs whose graces pass are dropped, whatever their
    /// stage: a stage whose share is over is no longer waited for, but keeps its graces.
    async fn wait(&mut self, shared: &Shared, stages: std::ops::Range<usize>, until: Instant) {
        loop {
            let next = self.0.first().copied().filter(|(over, ..)| *over <= until);
            tokio::select! {
                biased;
                () = shared.tracker.emptied(stages.clone()) => return,
                () = sleep_until(next.map_or(until, |(over, ..)| over)) => {}
            }
            let Some((_, stage, grace)) = next else { return };
            self.0.remove(0);
            shared.tracker.abort_runs(stage..stage + 1, |of_run| of_run == Some(grace));
        }
    }
}

fn everyone(shared: &Shared) -> Vec<Arc<super::Supervised>> {
    let registered = shared.registered();
    registered.tasks.values().chain(&registered.detached).cloned().collect()
}

fn finish(shared: &Shared, span: ManagedSpan, report: &ShutdownReport) {
    let outcomes = ShutdownOutcome::ALL.map(|outcome| (outcome.as_str(), report.count(outcome)));
    shared.recorder.shut_down(outcomes.into());
    if let Some(exposition) = shared.recorder.exposition() {
        exposition.instruments.shutdown_duration.record(report.duration.as_secs_f64(), &[]);
    }
    for outcome in ShutdownOutcome::ALL {
        let names: Vec<_> = report
            .tasks
            .iter()
            .filter(|task| task.outcome == outcome)
            .map(|task| opentelemetry::StringValue::from(task.name.to_string()))
            .collect();
        span.set_attribute(KeyValue::new(
            attribute::shutdown_names(outcome),
            Value::Array(opentelemetry::Array::String(names)),
        ));
    }
    let stuck = report.count(ShutdownOutcome::Aborted) + report.count(ShutdownOutcome::Leaked);
    if stuck > 0 {
        span.fail(&format!("{stuck} tasks did not end by themselves"));
    }
    {
        let _entered = span.enter();
        for task in report.tasks.iter().filter(|task| task.outcome.is_forced()) {
            tracing::event!(
                name: record::NOT_STOPPED, target: SCOPE, parent: None, tracing::Level::WARN,
                { key::NAME } = &*task.name, { key::SHUTDOWN_OUTCOME } = task.outcome.as_str(),
                "task {} did not end by itself: {}", task.name, task.outcome,
            );
        }
    }
    span.end();
}

/// Completes on SIGINT (Ctrl-C) or, on Unix, SIGTERM.
///
/// Where a handler cannot be installed the error is logged and that signal is not waited for.
///
/// # Cancel safety
/// Cancel safe; but once tokio listens for a signal, its default action stays off for the rest of the process.
pub async fn shutdown_signal() {
    let interrupt = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(target: SCOPE, %error, "cannot listen for SIGINT");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(target: SCOPE, %error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
