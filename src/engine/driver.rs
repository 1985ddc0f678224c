//! The driver of one supervised task: its only writer, a small state machine that owns the user's future.
//!
//! ```text
//!            Start                       exit: policy, limit, backoff
//!  Waiting ─────────► Running ──────────────────────────────► Finished, Failed, Stopped
//!                      ▲   │ exit                                       │
//!                      │   ▼                                            │ Restart
//!                      └ Backoff ◄──────────────────────────────────────┘ (at once)
//! ```
//!
//! Invariants:
//! 1. A life is dropped before the next one is made, so two never overlap.
//! 2. A restart is counted when the new life begins, a give-up once, on entering `Failed`.
//! 3. Orders are looked at before timers and before the life itself: a stop wins over a restart that falls due.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Life, LifeEnd, Order, Shared, ShutdownOutcome, Supervised, later, tracker::Place};
use crate::{
    cell::TaskState,
    policy::{Exit, RestartPolicy, RestartReason, Verdict},
    run::catch,
    telemetry::{
        contract::{SCOPE, key, record},
        with_trace,
    },
};

/// What the driver does next.
enum Step {
    /// Wait for an order.
    Rest(TaskState),
    /// Wait for a restart to fall due.
    Backoff {
        until: Instant,
        restart: Restart,
    },
    Live(Option<Restart>),
    Leave,
}

/// A restart that has been decided.
struct Restart {
    reason: RestartReason,
    /// The run before, to link to.
    failed_run: Option<SpanContext>,
}

pub(crate) struct Driver {
    supervised: Arc<Supervised>,
    shared: Arc<Shared>,
    /// Left when everything else of the driver is gone.
    place: Place,
    /// Restarts in a row without a stable run.
    attempt: u32,
    last_run: Option<SpanContext>,
    done: bool,
}

impl Driver {
    pub(crate) fn new(supervised: Arc<Supervised>, shared: Arc<Shared>, place: Place) -> Self {
        Self { supervised, shared, place, attempt: 0, last_run: None, done: false }
    }

    pub(crate) async fn drive(mut self) {
        let mut step = Step::Rest(TaskState::Waiting);
        loop {
            step = match step {
                Step::Rest(state) => self.rest(state).await,
                Step::Backoff { until, restart } => self.back_off(until, restart).await,
                Step::Live(restart) => self.live(restart).await,
                Step::Leave => break,
            };
        }
        self.done = true;
    }

    fn set_state(&self, state: TaskState) {
        self.supervised.set_state(state);
    }

    async fn rest(&mut self, state: TaskState) -> Step {
        self.set_state(state);
        loop {
            match self.supervised.next_order().await {
                Order::Start if state == TaskState::Waiting => return Step::Live(None),
                Order::Restart { .. } if state == TaskState::Waiting => return Step::Live(None),
                // A person decided to try again: what led here is forgiven.
                Order::Restart { reason, .. } => {
                    self.supervised.task.cell.forgive_restarts();
                    self.attempt = 0;
                    return Step::Live(Some(Restart { reason, failed_run: self.last_run.clone() }));
                }
                Order::Stop { .. } if state == TaskState::Waiting => return Step::Rest(TaskState::Stopped),
                Order::Start | Order::Stop { .. } => {}
                Order::Leave { .. } | Order::Kill => return self.leave_idle(),
            }
        }
    }

    async fn back_off(&mut self, until: Instant, restart: Restart) -> Step {
        self.set_state(TaskState::Backoff);
        loop {
            tokio::select! {
                biased;
                order = self.supervised.next_order() => match order {
                    Order::Start => {}
                    Order::Restart { reason, .. } => return Step::Live(Some(Restart { reason, ..restart })),
                    Order::Stop { .. } => return self.stopped(TaskState::Stopped, None),
                    Order::Leave { .. } | Order::Kill => return self.leave_idle(),
                },
                () = sleep_until(until) => return Step::Live(Some(restart)),
            }
        }
    }

    async fn live(&mut self, restart: Option<Restart>) -> Step {
        let generation = self.supervised.generation.fetch_add(1, Relaxed) + 1;
        let began = Instant::now();
        let token = CancellationToken::new();
        self.supervised.heartbeat.send_replace(began);
        self.supervised.sleeping.store(false, Relaxed);
        self.set_state(TaskState::Running);
        self.note_start(restart.as_ref(), began, generation);
        let links = match restart {
            Some(restart) => restart.failed_run,
            None => self.supervised.registered_in.clone(),
        };
        let life = Life {
            shared: self.shared.clone(),
            supervised: self.supervised.clone(),
            generation,
            token: token.clone(),
            links: links.into_iter().collect(),
        };
        let mut living = self.supervised.spec.body.live(life);
        let mut wish = Wish::None;
        let mut grace_over: Option<Instant> = None;
        let mut restart_due: Option<(Instant, RestartReason)> = None;
        let end = loop {
            let timer = [grace_over, restart_due.map(|(due, _)| due)].into_iter().flatten().min();
            tokio::select! {
                biased;
                order = self.supervised.next_order() => match order {
                    Order::Start => continue,
                    // It leaves already, with the grace it was given then.
                    Order::Restart { .. } | Order::Stop { .. } if wish == Wish::Leave => continue,
                    order @ Order::Restart { .. } if wish != Wish::None && order.yields() => continue,
                    Order::Restart { reason, after } if !after.is_zero() && wish == Wish::None => {
                        restart_due = Some((later(Instant::now(), after), reason));
                        continue;
                    }
                    Order::Restart { reason, .. } => {
                        wish = Wish::Restart(reason);
                        grace_over.get_or_insert(later(Instant::now(), self.supervised.spec.grace()));
                    }
                    Order::Stop { grace } => {
                        wish = Wish::Stop;
                        grace_over = Some(earlier(grace_over, later(Instant::now(), grace)));
                    }
                    Order::Leave { grace } => {
                        wish = Wish::Leave;
                        let over = grace.map(|grace| earlier(grace_over, later(Instant::now(), grace)));
                        grace_over = over.or(grace_over);
                    }
                    Order::Kill => {
                        wish = Wish::Leave;
                        break None;
                    }
                },
                () = sleep_until(timer.unwrap_or(began)), if timer.is_some() => {
                    if grace_over.is_some_and(|over| over <= Instant::now()) {
                        break None;
                    }
                    let Some((_, reason)) = restart_due.take() else { continue };
                    wish = Wish::Restart(reason);
                    grace_over.get_or_insert(later(Instant::now(), self.supervised.spec.grace()));
                }
                end = &mut living => break Some(end),
            }
            restart_due = None;
            self.set_state(TaskState::Stopping);
            token.cancel();
        };
        if end.is_none() && wish == Wish::Leave {
            self.place.note(ShutdownOutcome::Aborted);
        }
        // The life's hooks are the user's too: a panic in their destructors ends here.
        let _ = catch(self.shared.recorder.options.silence_panics, move || drop(living));
        self.supervised.sleeping.store(false, Relaxed);
        if let Some(span_context) = end.as_ref().and_then(|end| end.span_context.clone()) {
            self.last_run = Some(span_context);
        }
        match wish {
            Wish::Leave => Step::Leave,
            Wish::Stop => self.stopped(TaskState::Stopped, end.as_ref()),
            // A stall is the task's fault and counts against its limit; a request does not.
            Wish::Restart(reason)
                if reason != RestartReason::Requested
                    && self.supervised.spec.policy == RestartPolicy::Never =>
            {
                self.gave_up("not to be restarted after it stalled")
            }
            Wish::Restart(reason) if reason != RestartReason::Requested && self.limit_reached() => {
                self.gave_up("stalled too often")
            }
            Wish::Restart(reason) => Step::Live(Some(Restart { reason, failed_run: self.last_run.clone() })),
            Wish::None => match restart_due {
                // Promised to whoever asked for it: it takes place though the run ended before it was due.
                Some((until, reason)) => {
                    Step::Backoff { until, restart: Restart { reason, failed_run: self.last_run.clone() } }
                }
                None => self.decide(end, began.elapsed()),
            },
        }
    }

    /// What follows a life that ended by itself.
    fn decide(&mut self, end: Option<LifeEnd>, lasted: Duration) -> Step {
        let spec = &self.supervised.spec;
        let exit = end.as_ref().map_or(Exit::Cancellation, |end| end.exit.clone());
        if end.as_ref().is_some_and(|end| end.finished) {
            return self.stopped(TaskState::Finished, end.as_ref());
        }
        match spec.policy.judge(&exit) {
            Verdict::Finished => self.stopped(TaskState::Finished, end.as_ref()),
            Verdict::Stopped => self.stopped(TaskState::Stopped, end.as_ref()),
            Verdict::Failed => self.gave_up("not to be restarted after this"),
            Verdict::Restart(_) if self.limit_reached() => self.gave_up("restarted too often"),
            Verdict::Restart(reason) => {
                if spec.backoff.resets_after(lasted) {
                    self.attempt = 0;
                }
                let delay = spec.backoff.delay(self.attempt, fastrand::f64());
                self.attempt = self.attempt.saturating_add(1);
                let restart = Restart { reason, failed_run: self.last_run.clone() };
                Step::Backoff { until: later(Instant::now(), delay), restart }
            }
        }
    }

    /// Leaves without having had anything to stop.
    fn leave_idle(&self) -> Step {
        self.place.note(ShutdownOutcome::NotRunning);
        Step::Leave
    }

    fn limit_reached(&self) -> bool {
        let intensity = self.supervised.spec.intensity;
        let restarts =
            self.supervised.task.cell.restarts_within(self.shared.recorder.now(), intensity.within());
        restarts >= intensity.max_restarts()
    }

    fn note_start(&self, restart: Option<&Restart>, now: Instant, generation: u64) {
        let identity = &self.supervised.task.identity;
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        let Some(restart) = restart else {
            with_trace(None, || {
                tracing::event!(
                    name: record::STARTED, target: SCOPE, parent: None, tracing::Level::INFO,
                    { key::NAME } = &*identity.name, { key::COMPONENT } = identity.component.as_deref(),
                    { key::GENERATION } = generation,
                    "task {} started", identity.name,
                )
            });
            return;
        };
        self.supervised.restarted_at(now);
        self.supervised.task.cell.restarted(restart.reason, self.shared.recorder.now(), SystemTime::now());
        with_trace(context_of(restart.failed_run.as_ref()), || {
            tracing::event!(
                name: record::RESTARTED, target: SCOPE, parent: None, tracing::Level::WARN,
                { key::NAME } = &*identity.name, { key::COMPONENT } = identity.component.as_deref(),
                { key::GENERATION } = generation, { key::RESTART_REASON } = restart.reason.as_str(),
                "task {} restarted: {}", identity.name, restart.reason.as_str(),
            );
        });
    }

    fn stopped(&self, state: TaskState, end: Option<&LifeEnd>) -> Step {
        let identity = &self.supervised.task.identity;
        let trace = end.and_then(|end| end.span_context.as_ref()).or(self.last_run.as_ref());
        with_trace(context_of(trace), || {
            tracing::event!(
                name: record::STOPPED, target: SCOPE, parent: None, tracing::Level::INFO,
                { key::NAME } = &*identity.name, { key::COMPONENT } = identity.component.as_deref(),
                { key::STATE } = state.as_str(),
                "task {} {}", identity.name, state.as_str(),
            );
        });
        Step::Rest(state)
    }

    fn gave_up(&self, why: &'static str) -> Step {
        let identity = &self.supervised.task.identity;
        let intensity = self.supervised.spec.intensity;
        with_trace(context_of(self.last_run.as_ref()), || {
            tracing::event!(
                name: record::GAVE_UP, target: SCOPE, parent: None, tracing::Level::ERROR,
                { key::NAME } = &*identity.name, { key::COMPONENT } = identity.component.as_deref(),
                { key::REASON } = why,
                "task {} given up: {why} (limit: {} restarts in {:?})",
                identity.name, intensity.max_restarts(), intensity.within(),
            );
        });
        Step::Rest(TaskState::Failed)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            // Dropped with its runtime.
            self.place.note(ShutdownOutcome::Aborted);
        }
        if self.supervised.task.cell.state().is_some_and(is_alive) {
            self.set_state(TaskState::Stopped);
        }
        if self.supervised.is_to_unregister() {
            self.shared.forget(&self.supervised);
        }
        self.supervised.driver_left();
    }
}

fn is_alive(state: TaskState) -> bool {
    matches!(state, TaskState::Waiting | TaskState::Running | TaskState::Backoff | TaskState::Stopping)
}

/// What is to follow a life that was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    None,
    Restart(RestartReason),
    Stop,
    Leave,
}

fn earlier(held: Option<Instant>, new: Instant) -> Instant {
    held.map_or(new, |held| held.min(new))
}

fn context_of(span: Option<&SpanContext>) -> Option<opentelemetry::Context> {
    use opentelemetry::trace::TraceContextExt;
    span.map(|span| opentelemetry::Context::new().with_remote_span_context(span.clone()))
}
