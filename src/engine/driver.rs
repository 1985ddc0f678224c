//! The driver of one supervised task: its only writer, a small state machine that owns the user's future.
//!
//! ```text
//!            Start, gate open              exit: policy, limit, backoff
//!  Waiting ─────────────► Running ──────────────────────────────► Finished, Failed, Stopped, Paused
//!     ▲                    │  │ exit                                          │
//!     │ must yield         │  ▼                                               │ Restart, Resume
//!     └────────────────────┘ Backoff ─────► Waiting ◄─────────────────────────┘ (at once)
//! ```
//!
//! Invariants:
//! 1. A life is dropped before the next one is made, so two never overlap.
//! 2. A restart is counted when the new life begins, a give-up once, on entering `Failed`.
//! 3. Orders are looked at before timers and before the life itself: a stop wins over a restart that falls due.
//! 4. Every life begins in [`Driver::await_gate`], so none begins before what it rests on.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Life, LifeEnd, Order, Shared, ShutdownCause, ShutdownOutcome, Signal, Supervised, TaskEventKind, later,
    links::{Bond, Gate, GroupRestart, Yield},
    shutdown,
    signals::Stall,
    tracker::Place,
};
use crate::{
    cell::TaskState,
    policy::{Escalation, Exit, RestartPolicy, RestartReason, Verdict},
    run::{Guarded, catch},
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
    /// Wait for what it rests on, then live.
    Await(Option<Restart>),
    Live(Option<Restart>, Bond),
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
    /// Left when everything else of the driver is gone, and before it says so.
    place: Option<Place>,
    /// Restarts in a row without a stable run.
    attempt: u32,
    /// The delay before the last of them.
    delay: Duration,
    last_run: Option<SpanContext>,
    done: bool,
}

/// Why a life is asked to stop, and what is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Restart(RestartReason),
    Stop,
    GiveUp(&'static str),
    Pause,
    Yield(Yield),
    Leave,
}

/// How a life is being stopped.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    wish: Wish,
    /// How long it may go on once it was asked; `None` for as long as nobody says otherwise.
    grace: Option<Duration>,
    /// Until when it may be held up by those that go down before it.
    held_until: Instant,
    /// When it was asked.
    asked: Option<Instant>,
}

impl Stopping {
    fn new(wish: Wish, grace: Option<Duration>) -> Self {
        Self { wish, grace, held_until: later(Instant::now(), HELD_AT_MOST), asked: None }
    }

    /// The same stop for another reason; of two graces the shorter counts.
    fn because(self, wish: Wish, grace: Option<Duration>) -> Self {
        let grace = [self.grace, grace].into_iter().flatten().min();
        Self { wish, grace, ..self }
    }

    fn over(&self) -> Option<Instant> {
        Some(later(self.asked?, self.grace?))
    }
}

const GROUP_LIMIT: &str = "its group was restarted too often";

/// How long a task waits for those that go down before it, where they do not: a blocked thread must not hold up others for
/// ever.
const HELD_AT_MOST: Duration = Duration::from_secs(30);

impl Driver {
    pub(crate) fn new(supervised: Arc<Supervised>, shared: Arc<Shared>, place: Place) -> Self {
        Self {
            supervised,
            shared,
            place: Some(place),
            attempt: 0,
            delay: Duration::ZERO,
            last_run: None,
            done: false,
        }
    }

    pub(crate) async fn drive(mut self) {
        let mut step = Step::Rest(TaskState::Waiting);
        // Nothing of the user's panics into the driver; a subscriber may. The panic is printed, the life that it tore down
        // is over, and the driver goes on, so that the task can still be restarted and the shutdown finds it.
        while let Err(_panic) = Guarded::new(false, self.steps(step)).await {
            self.supervised.set_bond(None);
            self.tell(|| TaskEventKind::GaveUp { reason: "its driver panicked" });
            step = Step::Rest(TaskState::Failed);
        }
        self.done = true;
    }

    async fn steps(&mut self, mut step: Step) {
        loop {
            step = match step {
                Step::Rest(state) => self.rest(state).await,
                Step::Backoff { until, restart } => self.back_off(until, restart).await,
                Step::Await(restart) => self.await_gate(restart).await,
                Step::Live(restart, bond) => self.live(restart, bond).await,
                Step::Leave => return,
            };
        }
    }

    fn set_state(&self, state: TaskState) {
        self.supervised.set_state(state);
        self.shared.changed(&self.supervised);
    }

    fn tell(&self, kind: impl FnOnce() -> TaskEventKind) {
        self.shared.tell(&self.supervised, kind);
    }

    fn requested(&self) -> Restart {
        self.restart(RestartReason::Requested)
    }

    fn restart(&self, reason: RestartReason) -> Restart {
        Restart { reason, failed_run: self.last_run.clone() }
    }

    async fn rest(&mut self, state: TaskState) -> Step {
        self.set_state(state);
        loop {
            let order = match self.supervised.next_signal().await {
                Signal::Order(order) => order,
                Signal::Look if state == TaskState::Finished && self.shared.begins_anew(&self.supervised) => {
                    return Step::Await(Some(self.restart(RestartReason::Group)));
                }
                Signal::Look => continue,
            };
            match order {
                Order::Start if state == TaskState::Waiting => return Step::Await(None),
                Order::Restart { .. } if state == TaskState::Waiting => return Step::Await(None),
                Order::Resume if state == TaskState::Paused => {
                    self.catch_up_with_group();
                    let began = self.supervised.signals.generation() > 0;
                    return Step::Await(began.then(|| self.requested()));
                }
                // A person decided to try again: what led here is forgiven.
                Order::Restart { .. } => {
                    self.supervised.task.cell.forgive_restarts();
                    self.catch_up_with_group();
                    self.attempt = 0;
                    return Step::Await(Some(self.requested()));
                }
                Order::Stop { .. } if matches!(state, TaskState::Waiting | TaskState::Paused) => {
                    return self.stopped(TaskState::Stopped, None);
                }
                Order::Pause if state == TaskState::Waiting => return self.paused(),
                Order::Start | Order::Stalled { .. } | Order::Stop { .. } | Order::Pause | Order::Resume => {}
                Order::Leave { .. } | Order::Kill => return self.leave_idle(),
            }
        }
    }

    /// What the group wanted of it before is over: somebody wants it to begin.
    fn catch_up_with_group(&self) {
        if let Some(membership) = &self.supervised.links.membership {
            self.supervised.known_epoch.store(membership.epoch(), SeqCst);
        }
    }

    async fn back_off(&mut self, until: Instant, restart: Restart) -> Step {
        self.set_state(TaskState::Backoff);
        loop {
            if self.shared.stays_down(&self.supervised) {
                return self.stopped(TaskState::Stopped, None);
            }
            tokio::select! {
                biased;
                signal = self.supervised.next_signal() => match signal {
                    Signal::Order(Order::Restart { .. }) => {
                        self.supervised.links.membership.iter().for_each(|membership| membership.group.at_once());
                        return Step::Await(Some(Restart { reason: RestartReason::Requested, ..restart }));
                    }
                    Signal::Order(order) => if let Some(step) = self.called_off(order) {
                        return step;
                    },
                    Signal::Look => {}
                },
                () = wait_until(until) => return Step::Await(Some(restart)),
            }
        }
    }

    /// What an order makes of a start that is still to come.
    fn called_off(&self, order: Order) -> Option<Step> {
        match order {
            Order::Stop { .. } => Some(self.stopped(TaskState::Stopped, None)),
            Order::Pause => Some(self.paused()),
            Order::Leave { .. } | Order::Kill => Some(self.leave_idle()),
            Order::Start | Order::Restart { .. } | Order::Stalled { .. } | Order::Resume => None,
        }
    }

    /// Waits until what the task rests on is ready, and nobody is left who must go down first.
    async fn await_gate(&mut self, mut restart: Option<Restart>) -> Step {
        let mut told: Vec<Arc<str>> = Vec::new();
        if self.supervised.state() == TaskState::Finished {
            // Those that rest on what it did go down before it does it again.
            self.set_state(TaskState::Waiting);
        }
        loop {
            if self.shared.stays_down(&self.supervised) {
                return self.stopped(TaskState::Stopped, None);
            }
            // Nothing begins during a shutdown, also where this task is asked to leave in a later stage.
            if self.shared.tracker.is_closed() {
                return self.leave_idle();
            }
            let until = match self.shared.gate(&self.supervised) {
                Gate::Open(bond) => return Step::Live(restart, bond),
                Gate::Closed { waits_for, until } => {
                    self.set_state_once(TaskState::Waiting);
                    if !waits_for.is_empty() && waits_for != told {
                        self.tell(|| TaskEventKind::Waiting { waits_for: waits_for.clone() });
                        told = waits_for;
                    }
                    until
                }
            };
            let signal = tokio::select! {
                biased;
                signal = self.supervised.next_signal() => signal,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => continue,
            };
            if let Signal::Order(order) = signal {
                if let Some(step) = self.called_off(order) {
                    return step;
                }
                if let (Order::Restart { .. }, Some(restart)) = (order, &mut restart) {
                    restart.reason = RestartReason::Requested;
                }
            }
        }
    }

    fn set_state_once(&self, state: TaskState) {
        if self.supervised.state() != state {
            self.set_state(state);
        }
    }

    async fn live(&mut self, restart: Option<Restart>, bond: Bond) -> Step {
        let began = Instant::now();
        let epoch = bond.epoch();
        let supervised = self.supervised.clone();
        let spec = &supervised.spec;
        self.supervised.known_epoch.store(epoch, SeqCst);
        self.supervised.set_bond(Some(bond));
        let generation = self.supervised.signals.begin(began);
        let token = CancellationToken::new();
        if spec.start_timeout.is_none() {
            self.supervised.signals.ready(generation);
        }
        if restart.is_some() {
            self.supervised.restarted_at(began);
        }
        self.set_state(TaskState::Running);
        self.note_start(restart.as_ref(), generation);
        if self.supervised.signals.is_ready() {
            self.tell(|| TaskEventKind::Ready);
        }
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
            ready_by: spec.start_timeout.map(|limit| (later(began, limit), limit)),
        };
        let mut living = spec.body.live(life);
        let mut stopping: Option<Stopping> = None;
        let mut restart_due: Option<Instant> = None;
        let end = loop {
            if stopping.is_none() {
                if let Some(because) = self.shared.must_yield(&self.supervised) {
                    self.tell(|| TaskEventKind::Yielding { reason: because.reason });
                    stopping = Some(Stopping::new(Wish::Yield(because), Some(spec.grace())));
                }
            }
            if let Some(stop) = stopping.as_mut().filter(|stop| stop.asked.is_none()) {
                self.set_state_once(TaskState::Stopping);
                restart_due = None;
                let now = Instant::now();
                // During a shutdown its stages keep the order.
                if (stop.wish == Wish::Leave && self.shared.tracker.is_closed())
                    || now >= stop.held_until
                    || !self.shared.is_held_up(&self.supervised)
                {
                    stop.asked = Some(now);
                    token.cancel();
                }
            }
            let held_until = stopping.filter(|stop| stop.asked.is_none()).map(|stop| stop.held_until);
            let grace_over = stopping.and_then(|stop| stop.over());
            let look = self.next_look(Instant::now()).filter(|_| stopping.is_none());
            let timer = [grace_over, held_until, restart_due, look].into_iter().flatten().min();
            tokio::select! {
                biased;
                signal = self.supervised.next_signal() => {
                    let Signal::Order(order) = signal else { continue };
                    match self.heard(order, epoch, stopping, restart_due) {
                        Heard::Nothing => {}
                        Heard::Stop(stop) => stopping = Some(stop),
                        Heard::RestartAt(due) => restart_due = Some(due),
                        Heard::Kill => {
                            stopping = Some(Stopping::new(Wish::Leave, None));
                            break None;
                        }
                    }
                }
                () = sleep_until(timer.unwrap_or(began)), if timer.is_some() => {
                    let now = Instant::now();
                    if grace_over.is_some_and(|over| over <= now) {
                        break None;
                    }
                    if restart_due.is_some_and(|due| due <= now) && self.shared.tracker.is_closed() {
                        restart_due = None;
                    } else if restart_due.is_some_and(|due| due <= now) {
                        self.group_restart(epoch, now, RestartReason::Requested);
                        stopping = Some(Stopping::new(Wish::Restart(RestartReason::Requested), Some(spec.grace())));
                    } else {
                        self.look_for_silence(now);
                    }
                }
                end = &mut living => break Some(end),
            }
        };
        let wish = stopping.map(|stop| stop.wish);
        // During a shutdown it leaves then, whatever it was stopped for.
        if end.is_none() && (wish == Some(Wish::Leave) || self.shared.tracker.is_closed()) {
            self.note(ShutdownOutcome::Aborted);
        }
        // The life's hooks are the user's too: a panic in their destructors ends here.
        let _ = catch(self.shared.recorder.options.silence_panics, move || drop(living));
        self.supervised.signals.set_sleeping(false);
        if let Some(span_context) = end.as_ref().and_then(|end| end.span_context.clone()) {
            self.last_run = Some(span_context);
        }
        let step = self.after(wish, end, began.elapsed(), epoch, restart_due);
        self.supervised.set_bond(None);
        self.shared.changed(&self.supervised);
        step
    }

    /// When to look next for a sign of life. One that is not expected now, in a loop that sleeps, may be from then on.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let timeout = self.supervised.spec.heartbeat_timeout?;
        let last = self.supervised.signals.last_beat();
        let expected = self.supervised.must_beat() && !self.supervised.signals.is_told(last);
        Some(later(if expected { last } else { now }, timeout))
    }

    fn look_for_silence(&self, now: Instant) {
        let timeout = self.supervised.spec.heartbeat_timeout.filter(|_| self.supervised.must_beat());
        let last = self.supervised.signals.last_beat();
        let silent_for = now.saturating_duration_since(last);
        if timeout.is_some_and(|timeout| silent_for >= timeout) {
            self.shared.stalled(&self.supervised, Stall::Silence(last), silent_for);
        }
    }

    /// What an order means to a life.
    fn heard(
        &self,
        order: Order,
        epoch: u64,
        stopping: Option<Stopping>,
        restart_due: Option<Instant>,
    ) -> Heard {
        let grace = Some(self.supervised.spec.grace());
        let stop = |wish, grace| {
            Heard::Stop(match stopping {
                Some(stop) => stop.because(wish, grace),
                None => Stopping::new(wish, grace),
            })
        };
        match order {
            Order::Kill => Heard::Kill,
            Order::Leave { grace } => stop(Wish::Leave, grace),
            // It leaves already, with the grace it was given then.
            _ if stopping.is_some_and(|stop| stop.wish == Wish::Leave) => Heard::Nothing,
            order if order.yields() && stopping.is_some() => Heard::Nothing,
            // It would not begin again: it goes on until its stage is asked.
            Order::Restart { .. } | Order::Stalled { .. } if self.shared.tracker.is_closed() => {
                Heard::Nothing
            }
            Order::Start => Heard::Nothing,
            Order::Restart { after, .. } if !after.is_zero() && stopping.is_none() => {
                Heard::RestartAt(restart_due.unwrap_or_else(|| later(Instant::now(), after)))
            }
            // Those it takes along go down before it does, so they are told first.
            Order::Restart { .. } => {
                self.group_restart(epoch, Instant::now(), RestartReason::Requested);
                stop(Wish::Restart(RestartReason::Requested), grace)
            }
            Order::Stalled { generation, .. } if generation != self.supervised.signals.generation() => {
                Heard::Nothing
            }
            Order::Stalled { give_up: true, .. } => stop(Wish::GiveUp("stalled"), grace),
            Order::Stalled { .. } => {
                let stalled = RestartReason::Stalled;
                match self.group_restart(epoch, Instant::now(), stalled) {
                    GroupRestart::LimitReached => stop(Wish::GiveUp(GROUP_LIMIT), grace),
                    _ => stop(Wish::Restart(stalled), grace),
                }
            }
            Order::Stop { grace } => stop(Wish::Stop, Some(grace)),
            Order::Pause if self.supervised.spec.body.hold(true) => {
                self.tell_pause();
                self.set_state(TaskState::Paused);
                Heard::Nothing
            }
            Order::Pause => stop(Wish::Pause, grace),
            // It has not come down yet: what holds is the last word.
            Order::Resume if stopping.is_some_and(|stop| stop.wish == Wish::Pause) => {
                stop(Wish::Restart(RestartReason::Requested), grace)
            }
            Order::Resume => {
                if self.supervised.spec.body.hold(false) && self.supervised.state() == TaskState::Paused {
                    self.supervised.signals.rearm(Instant::now());
                    self.set_state(TaskState::Running);
                }
                Heard::Nothing
            }
        }
    }

    /// Tells the group that this member has to be restarted at `due`.
    fn group_restart(&self, epoch: u64, due: Instant, reason: RestartReason) -> GroupRestart {
        let Some(membership) = &self.supervised.links.membership else { return GroupRestart::Begins };
        let answer = membership.group.restart(membership.index, epoch, due, reason.counts());
        self.shared.changed(&self.supervised);
        answer
    }

    /// What follows a life.
    fn after(
        &mut self,
        wish: Option<Wish>,
        end: Option<LifeEnd>,
        lasted: Duration,
        epoch: u64,
        restart_due: Option<Instant>,
    ) -> Step {
        match wish {
            // Whatever it ended with, nothing begins again during a shutdown.
            _ if self.shared.tracker.is_closed() => Step::Leave,
            Some(Wish::Leave) => Step::Leave,
            Some(Wish::Stop) => self.stopped(TaskState::Stopped, end.as_ref()),
            Some(Wish::Pause) => self.paused(),
            Some(Wish::GiveUp(why)) => self.gave_up(why),
            Some(Wish::Yield(Yield { stays_down: true, .. })) => {
                self.stopped(TaskState::Stopped, end.as_ref())
            }
            Some(Wish::Yield(Yield { reason, .. })) => Step::Await(Some(self.restart(reason))),
            // A stall is the task's fault and counts against its limit; a request does not.
            Some(Wish::Restart(reason))
                if reason.counts() && self.supervised.spec.policy == RestartPolicy::Never =>
            {
                self.gave_up("not to be restarted after it stalled")
            }
            Some(Wish::Restart(reason)) if reason.counts() && self.limit_reached() => {
                self.gave_up("stalled too often")
            }
            Some(Wish::Restart(reason)) => Step::Await(Some(self.restart(reason))),
            None => match restart_due {
                // Promised to whoever asked for it: it takes place though the run ended before it was due.
                Some(until) => Step::Backoff { until, restart: self.requested() },
                None => self.decide(end, lasted, epoch),
            },
        }
    }

    /// What follows a life that ended by itself.
    fn decide(&mut self, end: Option<LifeEnd>, lasted: Duration, epoch: u64) -> Step {
        let spec = &self.supervised.spec;
        let exit = end.as_ref().map_or(Exit::Cancellation, |end| end.exit.clone());
        if end.as_ref().is_some_and(|end| end.finished) {
            return self.stopped(TaskState::Finished, end.as_ref());
        }
        match spec.policy.judge(&exit) {
            Verdict::Finished => self.stopped(TaskState::Finished, end.as_ref()),
            Verdict::Stopped => self.stopped(TaskState::Stopped, end.as_ref()),
            Verdict::Failed => self.gave_up("not to be restarted after this"),
            // A loop that is held: it begins anew when somebody resumes it.
            Verdict::Restart(_) if self.supervised.state() == TaskState::Paused => {
                Step::Rest(TaskState::Paused)
            }
            // Another member took it along just when it failed: one restart, and not of its own.
            Verdict::Restart(_) if self.is_taken_along(epoch) => {
                if self.shared.stays_down(&self.supervised) {
                    self.stopped(TaskState::Stopped, end.as_ref())
                } else {
                    Step::Await(Some(self.restart(RestartReason::Group)))
                }
            }
            Verdict::Restart(_) if self.limit_reached() => self.gave_up("restarted too often"),
            Verdict::Restart(reason) => {
                if spec.backoff.resets_after(lasted) {
                    (self.attempt, self.delay) = (0, Duration::ZERO);
                }
                let delay = spec.backoff.delay(self.attempt, self.delay, (self.shared.settings.random)());
                let until = later(Instant::now(), delay);
                match self.group_restart(epoch, until, reason) {
                    GroupRestart::LimitReached => self.gave_up(GROUP_LIMIT),
                    GroupRestart::Stopped => self.stopped(TaskState::Stopped, end.as_ref()),
                    GroupRestart::UnderWay => Step::Await(Some(self.restart(RestartReason::Group))),
                    GroupRestart::Begins => {
                        self.attempt = self.attempt.saturating_add(1);
                        self.delay = delay;
                        self.tell(|| TaskEventKind::BackingOff { reason, delay });
                        Step::Backoff { until, restart: self.restart(reason) }
                    }
                }
            }
        }
    }

    /// Whether the group wants a life of this epoch to end.
    fn is_taken_along(&self, epoch: u64) -> bool {
        self.supervised.links.membership.as_ref().is_some_and(|membership| membership.epoch() > epoch)
    }

    /// Notes what becomes of it at shutdown.
    fn note(&self, outcome: ShutdownOutcome) {
        self.place.iter().for_each(|place| place.note(outcome));
    }

    /// Leaves without having had anything to stop.
    fn leave_idle(&self) -> Step {
        self.note(ShutdownOutcome::NotRunning);
        Step::Leave
    }

    fn limit_reached(&self) -> bool {
        let intensity = self.supervised.spec.intensity;
        let restarts =
            self.supervised.task.cell.restarts_within(self.shared.recorder.now(), intensity.within());
        restarts >= intensity.max_restarts()
    }

    fn note_start(&self, restart: Option<&Restart>, generation: u64) {
        let identity = &self.supervised.task.identity;
        let began = || TaskEventKind::Started { restart: restart.map(|restart| restart.reason) };
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        let Some(restart) = restart else {
            self.tell(began);
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
        self.supervised.task.cell.restarted(restart.reason, self.shared.recorder.now(), SystemTime::now());
        self.tell(began);
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
        self.tell(|| match state {
            TaskState::Finished => TaskEventKind::Finished,
            _ => TaskEventKind::Stopped,
        });
        self.log_rest(state, end);
        Step::Rest(state)
    }

    fn paused(&self) -> Step {
        self.tell_pause();
        Step::Rest(TaskState::Paused)
    }

    fn tell_pause(&self) {
        self.tell(|| TaskEventKind::Paused);
        self.log_rest(TaskState::Paused, None);
    }

    fn log_rest(&self, state: TaskState, end: Option<&LifeEnd>) {
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
    }

    fn gave_up(&self, why: &'static str) -> Step {
        self.tell(|| TaskEventKind::GaveUp { reason: why });
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
        self.escalate(why);
        Step::Rest(TaskState::Failed)
    }

    /// What the end of a task that was given up does to others.
    fn escalate(&self, why: &'static str) {
        let escalation = self.supervised.spec.escalation;
        // One that nobody restarts takes nobody along unasked, as OTP's temporary children do not.
        if let Some(membership) = self.supervised.links.membership.as_ref().filter(|_| {
            escalation == Escalation::Group || self.supervised.spec.policy != RestartPolicy::Never
        }) {
            membership.group.given_up(membership.index, escalation == Escalation::Group);
        }
        if escalation == Escalation::Shutdown {
            let cause = ShutdownCause { task: self.supervised.name().clone(), reason: why };
            shutdown::begin(&self.shared, Some(cause));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            // Dropped with its runtime.
            self.note(ShutdownOutcome::Aborted);
        }
        if is_alive(self.supervised.state()) {
            self.supervised.set_state(TaskState::Stopped);
        }
        self.supervised.set_bond(None);
        if self.supervised.is_to_unregister() {
            self.shared.forget(&self.supervised);
        }
        self.place = None;
        self.supervised.driver_left();
        self.shared.changed(&self.supervised);
    }
}

fn is_alive(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Waiting
            | TaskState::Running
            | TaskState::Backoff
            | TaskState::Stopping
            | TaskState::Paused
    )
}

/// What a life makes of an order.
enum Heard {
    Nothing,
    Stop(Stopping),
    RestartAt(Instant),
    Kill,
}

/// A timer rounds up to its next millisecond; where there is nothing to wait for others have their turn, and that is all: a
/// task that fails at once must not keep its thread to itself.
async fn wait_until(until: Instant) {
    if until <= Instant::now() {
        tokio::task::yield_now().await;
    } else {
        sleep_until(until).await;
    }
}

fn context_of(span: Option<&SpanContext>) -> Option<opentelemetry::Context> {
    use opentelemetry::trace::TraceContextExt;
    span.map(|span| opentelemetry::Context::new().with_remote_span_context(span.clone()))
}
