//! The driver of one supervised task: its only writer, a small state machine that owns the user's future.
//!
//! ```text
//!            Start, gate open              exit: policy, limit, backoff
//!  Waiting ─────────────► Running ──────────────────────────────► Finished, Failed, Stopped, Paused
//!     ▲                    │  │ exit                                          │ Restart, Resume,
//!     │ must yield         │  ▼                                               │ time of the next try
//!     └────────────────────┘ Backoff ─────► Waiting ◄─────────────────────────┘ (at once)
//! ```
//!
//! It is a hand-written future. A hundred thousand drivers may wait at once, and an `async` block would keep room for each of
//! its states beside the others.
//!
//! Invariants:
//! 1. A life is dropped before the next one is made, so two never overlap.
//! 2. A restart is counted when the new life begins. A give-up is announced once, on entering `Failed`: a try that fails leads
//!    back in silence.
//! 3. Orders are checked before timers and before the life itself: a stop wins over a restart that falls due.
//! 4. Every life begins in [`Core::await_gate`]. So none begins before its dependencies, nor without a grant if the task has a gate of
//!    its own. Until then the task waits there, in the state `Standby`.

use std::{
    future::Future,
    num::NonZeroU64,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cell::TaskState,
    engine::{
        ContextParts, FAR_AWAY, Life, LifeEnd, Order, Origin, Shared, ShutdownCause, Supervised, TaskContext,
        TaskDecision, TaskEventKind,
        announce::{self, Announcer},
        begin_shutdown, later,
        observe::overruns,
        stop::Stop,
        supervision::{
            gated::{Entering, GatedBody},
            links::{Gate, GroupRestart},
            order_slot::Signal,
            signs_of_life::Stall,
            stopping::{Going, Stopping, Wish, Yield},
            timer::Timer,
        },
    },
    gate::{Pass, Standing},
    policy::{
        DecisionCause, Escalation, Exit, OverrunAction, RestartPolicy, RestartQuestion, RestartReason,
        RestartVerdict, ShutdownOutcome, Verdict,
    },
    run::{catch, catch_inline},
    watchdog,
};

/// The next step of the driver.
#[derive(Clone, Copy)]
enum Step {
    /// Wait for an order.
    Rest(TaskState),
    /// Wait for a restart to fall due.
    Backoff {
        until: Instant,
        reason: RestartReason,
    },
    /// Wait for the dependencies, then begin a life; with the reason of a restart.
    Await(Option<RestartReason>),
    Live(Option<RestartReason>),
    /// Wait for what the task owns, and then do that. Drop it when this time has come.
    Outlive {
        over: Option<Instant>,
        then: Then,
    },
    Leave,
}

/// The step after the end of all runs that a task owned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It was stopped: on request, or because of others.
    Stopped(DecisionCause),
    /// It was stopped when nothing of it lived but what it owns.
    Rest(TaskState),
    Leave,
}

impl Step {
    /// The state in which it finds the task.
    fn state(self) -> TaskState {
        match self {
            Self::Rest(state) => state,
            Self::Backoff { .. } => TaskState::Backoff,
            Self::Await(_) | Self::Live(_) => TaskState::Waiting,
            Self::Outlive { .. } | Self::Leave => TaskState::Stopping,
        }
    }
}

/// The current state.
enum State {
    /// Nothing yet: this comes next.
    Next(Step),
    Resting(TaskState),
    BackingOff {
        until: Instant,
        reason: RestartReason,
        /// True if other tasks had their turn.
        yielded: bool,
    },
    Awaiting {
        restart: Option<RestartReason>,
        /// The reported names of the tasks that are waited for.
        told: Vec<Arc<str>>,
        /// The wait for a grant, of a task that has a gate and waits for nothing else.
        entering: Option<Entering>,
    },
    Living(Alive),
    Outliving(Outliving),
}

/// The wait for what a task owns.
struct Outliving {
    then: Then,
    began: Instant,
    over: Option<Instant>,
    /// The graces of runs that have one of their own, the shortest first.
    graces: Vec<Duration>,
    /// True if all were dropped: then they are waited for until `over` and no longer.
    dropped: bool,
}

/// The driver of one task.
#[must_use = "a task without its driver never begins"]
pub(crate) struct Driver {
    core: Core,
    state: State,
    done: bool,
}

/// The parts of a driver in every state.
struct Core {
    supervised: Arc<Supervised>,
    shared: Arc<Shared>,
    timer: Timer,
    /// Of those before the present life.
    before: Option<Box<Before>>,
}

/// The driver's records of earlier lives.
#[derive(Default)]
struct Before {
    /// Restarts in a row without a stable run.
    attempt: u32,
    /// The delay before the last of them.
    delay: Duration,
    last_run: Option<SpanContext>,
    /// The time of the next try, if the task has failed and is not given up for good.
    retry_at: Option<Instant>,
    /// Since it failed: what it still has to show.
    failed: Option<Failed>,
}

/// The next step after a failure, until the task has recovered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It is tried again at an interval: a try that fails ends in `Failed` again.
    Retrying,
    /// A person decided to begin again: failures lead to restarts as before.
    Forgiven,
}

/// A life under way.
struct Alive {
    began: Instant,
    context: TaskContext,
    living: Pin<Box<dyn Future<Output = LifeEnd> + Send>>,
    going: Going,
    /// True if the life must be checked: something has happened.
    look: bool,
}

const GROUP_LIMIT: &str = "its group was restarted too often";

/// The time that a task waits for owned runs that were dropped: a run that blocks its thread continues.
const DROPPED_AT_MOST: Duration = Duration::from_secs(1);

impl Driver {
    pub(crate) fn new(supervised: Arc<Supervised>, shared: Arc<Shared>) -> Self {
        let core = Core { supervised, shared, timer: Timer::default(), before: None };
        Self { core, state: State::Resting(TaskState::Waiting), done: false }
    }

    /// Continues as far as possible. Ready when the driver has left.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let core = &mut self.core;
            let step = match &mut self.state {
                State::Next(Step::Leave) => return Poll::Ready(()),
                State::Next(step) => {
                    self.state = core.enter(*step);
                    continue;
                }
                State::Resting(state) => ready!(core.rest(*state, cx)),
                State::BackingOff { until, reason, yielded } => {
                    let step = ready!(core.back_off(*until, *reason, yielded, cx));
                    core.timer.clear();
                    step
                }
                State::Awaiting { restart, told, entering } => {
                    ready!(core.await_gate(restart, told, entering, cx))
                }
                State::Outliving(outliving) => {
                    let step = ready!(core.outlive(outliving, cx));
                    core.timer.clear();
                    step
                }
                State::Living(alive) => {
                    let end = ready!(core.live(alive, cx));
                    core.timer.clear();
                    if end.is_some() && alive.context.was_early() {
                        core.hear_late(alive, cx);
                    }
                    let step = match std::mem::replace(&mut self.state, State::Next(Step::Leave)) {
                        State::Living(alive) => core.lived(alive, end),
                        _ => unreachable!("it has just lived"),
                    };
                    if watchdog::seen_for().is_some() {
                        // The time of this poll is that of the life that ended in it: the next life begins in a poll of its own.
                        self.state = State::Next(step);
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    step
                }
            };
            self.state = State::Next(step);
        }
    }

    /// Continues after any panic. Ready when the driver has left.
    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing of the user's panics into the driver; a subscriber may. The panic is printed, the life that it tore down
        // is over, and the driver continues, so that the task can still be restarted and the shutdown finds it.
        loop {
            if self.done {
                return Poll::Ready(());
            }
            match catch_inline(false, || self.advance(cx)) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) => self.done = true,
                Err(caught) => {
                    self.tear_down(Step::Rest(TaskState::Failed));
                    let retry_after = self.core.retry_after(false);
                    self.core.retry_later(retry_after);
                    self.core.tell(|| TaskEventKind::GaveUp { reason: "its driver panicked", retry_after });
                    self.core.own_announcer().driver_panicked(caught.panic.clone());
                }
            }
        }
    }

    /// The life that something of ours panicked around is over, or that was dropped with its runtime.
    fn tear_down(&mut self, next: Step) {
        self.core.timer.clear();
        if let State::Living(alive) = std::mem::replace(&mut self.state, State::Next(next)) {
            self.core.drop_life(alive, &Exit::Cancellation);
        }
        self.core.supervised.set_bond(None);
        if let Some(gated) = self.core.supervised.body.gated() {
            gated.give_back();
            self.core.shared.tracker.abort_owned(&self.core.supervised, None);
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let polled = this.go_on(cx);
        this.core.shared.do_errand();
        polled
    }
}

impl Core {
    fn before(&mut self) -> &mut Before {
        self.before.get_or_insert_default()
    }

    fn last_run(&self) -> Option<&SpanContext> {
        self.before.as_ref()?.last_run.as_ref()
    }

    fn enter(&mut self, step: Step) -> State {
        match step {
            Step::Rest(state) => {
                self.set_state(state);
                if state != TaskState::Waiting && !self.is_tried_again() {
                    self.supervised.body.rests(&self.supervised, &self.shared);
                }
                if self.supervised.rests() && !self.is_tried_again() && !self.supervised.owns_name() {
                    self.shared.retire_detached(&self.supervised);
                }
                State::Resting(state)
            }
            Step::Backoff { until, reason } => {
                self.set_state(TaskState::Backoff);
                State::BackingOff { until, reason, yielded: false }
            }
            Step::Await(restart) => {
                self.timer.clear();
                if self.supervised.state() == TaskState::Finished {
                    // The dependents stop before the next life.
                    self.set_state(TaskState::Waiting);
                }
                State::Awaiting { restart, told: Vec::new(), entering: None }
            }
            Step::Live(restart) => State::Living(self.begin(restart)),
            Step::Outlive { over, then } => self.begin_to_outlive(over, then),
            Step::Leave => State::Next(Step::Leave),
        }
    }

    /// Refuses more owned work, and waits for what there is.
    fn begin_to_outlive(&mut self, over: Option<Instant>, then: Then) -> State {
        self.timer.clear();
        let supervised = &self.supervised;
        self.shared.tracker.close_owner(supervised);
        if supervised.place.owned.is_empty() {
            return State::Next(self.outlived(then));
        }
        if !matches!(then, Then::Rest(_)) {
            self.set_state_once(TaskState::Stopping);
        }
        let graces = self.ask_owned();
        State::Outliving(Outliving { then, began: Instant::now(), over, graces, dropped: false })
    }

    /// Asks what the task owns to stop. Returns the graces of runs that have one of their own.
    fn ask_owned(&self) -> Vec<Duration> {
        let Some(asked) = self.shared.tracker.ask_owned(&self.supervised) else { return Vec::new() };
        asked.tokens.iter().for_each(CancellationToken::cancel);
        asked.graces
    }

    fn outlived(&self, then: Then) -> Step {
        match then {
            Then::Stopped(by) => self.stopped(TaskState::Stopped, by),
            Then::Rest(state) => Step::Rest(state),
            Then::Leave => Step::Leave,
        }
    }

    /// Waits until what the task owns has ended.
    fn outlive(&mut self, outliving: &mut Outliving, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if self.supervised.place.owned.is_empty() {
                return Poll::Ready(self.outlived(outliving.then));
            }
            match self.supervised.poll_signal(cx) {
                Poll::Ready(Signal::Order(order)) => {
                    let now = Instant::now();
                    let (then, over) = match order {
                        Order::Kill => (Then::Leave, Some(now)),
                        Order::Leave { grace } => (Then::Leave, grace.map(|grace| later(now, grace))),
                        Order::Stop { grace } => (outliving.then, Some(later(now, grace))),
                        // What it owns is left alone again.
                        Order::Restart { .. } if outliving.then != Then::Leave => {
                            self.supervised.place.owned.open();
                            if self.supervised.body.gated().is_some() {
                                // It ends with its grant.
                                self.shared.tracker.abort_owned(&self.supervised, None);
                            }
                            self.forgive();
                            self.requested();
                            return Poll::Ready(Step::Await(Some(RestartReason::Requested)));
                        }
                        _ => continue,
                    };
                    outliving.then = then;
                    if !outliving.dropped {
                        outliving.over = [outliving.over, over].into_iter().flatten().min();
                    }
                    continue;
                }
                Poll::Ready(Signal::Look)
                    if outliving.then == Then::Rest(TaskState::Finished)
                        && self.shared.begins_anew(&self.supervised) =>
                {
                    self.decide_without_policy(DecisionCause::Group, RestartReason::Group);
                    return Poll::Ready(Step::Await(Some(RestartReason::Group)));
                }
                Poll::Ready(Signal::Look) => {
                    if outliving.dropped {
                        // A run that waited for the shutdown when the others were dropped may do so no longer.
                        self.shared.tracker.abort_owned(&self.supervised, None);
                    }
                    continue;
                }
                Poll::Pending => {}
            }
            let grace = outliving.graces.first().copied();
            let grace_over = grace.map(|grace| later(outliving.began, grace));
            let pass_over = if outliving.dropped { None } else { self.pass_over_at() };
            let Some(due) = [outliving.over, grace_over, pass_over].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            if due > Instant::now() {
                ready!(self.timer.poll(due, cx));
                // Its pass may have been extended.
                continue;
            }
            if grace_over == Some(due) && ![outliving.over, pass_over].contains(&Some(due)) {
                self.shared.tracker.abort_owned(&self.supervised, grace);
                outliving.graces.remove(0);
            } else if outliving.dropped {
                return Poll::Ready(self.outlived(outliving.then));
            } else {
                self.shared.tracker.abort_owned(&self.supervised, None);
                outliving.graces.clear();
                outliving.dropped = true;
                outliving.over = Some(later(Instant::now(), DROPPED_AT_MOST));
            }
        }
    }

    /// The time at which what a task with a gate owns is dropped, unless its pass is extended.
    fn pass_over_at(&self) -> Option<Instant> {
        let pass = self.supervised.body.gated()?.pass()?;
        Some(later(Instant::now(), pass.dropped_in()))
    }

    fn set_state(&self, state: TaskState) {
        self.supervised.set_state(state, &self.shared);
        self.shared.changed(&self.supervised);
    }

    fn tell(&self, kind: impl FnOnce() -> TaskEventKind) {
        self.shared.tell(&self.supervised, kind);
    }

    fn rest(&mut self, state: TaskState, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            match self.supervised.poll_signal(cx) {
                Poll::Ready(Signal::Order(order)) => {
                    if let Some(step) = self.heard_at_rest(order, state) {
                        self.retry_no_more();
                        return Poll::Ready(step);
                    }
                }
                Poll::Ready(Signal::Look)
                    if state == TaskState::Finished && self.shared.begins_anew(&self.supervised) =>
                {
                    self.decide_without_policy(DecisionCause::Group, RestartReason::Group);
                    return Poll::Ready(Step::Await(Some(RestartReason::Group)));
                }
                Poll::Ready(Signal::Look)
                    if self.is_tried_again() && self.shared.stays_down(&self.supervised) =>
                {
                    self.retry_no_more();
                    return Poll::Ready(self.stopped_with_group());
                }
                Poll::Ready(Signal::Look) => {}
                Poll::Pending => {
                    let retry_at = self.before.as_ref().and_then(|before| before.retry_at);
                    let Some(retry_at) = retry_at else { return Poll::Pending };
                    ready!(self.timer.poll(retry_at, cx));
                    self.retry_no_more();
                    self.decide_without_policy(DecisionCause::Retry, RestartReason::Retry);
                    return Poll::Ready(Step::Await(Some(RestartReason::Retry)));
                }
            }
        }
    }

    /// The time until the next try, if the task is given up now.
    fn retry_after(&self, for_good: bool) -> Option<Duration> {
        self.supervised.spec.give_up.retry_after(self.supervised.spec.policy, for_good)
    }

    /// Sets when it is tried again, now that it has failed.
    fn retry_later(&mut self, retry_after: Option<Duration>) {
        let Some(interval) = retry_after else { return };
        self.before().retry_at = Some(later(Instant::now(), interval));
        self.has_failed(Failed::Retrying);
        // Also an interval that no clock can show is one after which it is tried again.
        let wall = self.supervised.wall_clock();
        let shown = wall.checked_add(interval).or_else(|| wall.checked_add(FAR_AWAY));
        self.supervised.set_next_retry(shown);
    }

    /// Nothing is tried again later: the task begins, or rests for another reason.
    fn retry_no_more(&mut self) {
        self.timer.clear();
        if self.before.as_mut().and_then(|before| before.retry_at.take()).is_some() {
            self.supervised.set_next_retry(None);
        }
    }

    fn has_failed(&mut self, failed: Failed) {
        self.before().failed = Some(failed);
        self.supervised.await_success();
    }

    /// Returns the time at which the current life will show that the task has recovered, if it had failed. A loop shows it by an iteration.
    fn recovers_at(&self, began: Instant) -> Option<Instant> {
        self.before.as_ref()?.failed.filter(|_| !self.supervised.body.is_loop())?;
        Some(later(began, self.supervised.spec.backoff.stable()))
    }

    /// The task has shown that it is well, if it had failed.
    fn recovered(&mut self) {
        let Some(before) = self.before.as_mut().filter(|before| before.failed.is_some()) else { return };
        (before.failed, before.attempt, before.delay) = (None, 0, Duration::ZERO);
        self.supervised.task.cell.recovered();
        self.own_announcer().recovered();
    }

    fn is_retrying(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.failed == Some(Failed::Retrying))
    }

    /// Returns the step for an order to a task without a life.
    fn heard_at_rest(&mut self, order: Order, state: TaskState) -> Option<Step> {
        match order {
            Order::Start if state == TaskState::Waiting => Some(Step::Await(None)),
            Order::Restart { .. } if state == TaskState::Waiting => Some(Step::Await(None)),
            Order::Resume if state == TaskState::Paused => {
                self.catch_up_with_group();
                let began = self.supervised.signals.generation() > 0;
                self.own_announcer().resumed();
                if began {
                    self.requested();
                }
                Some(Step::Await(began.then_some(RestartReason::Requested)))
            }
            Order::Restart { .. } => {
                self.forgive();
                self.requested();
                Some(Step::Await(Some(RestartReason::Requested)))
            }
            Order::Stop { .. } if matches!(state, TaskState::Waiting | TaskState::Paused) => {
                Some(stop_at_rest(order))
            }
            Order::Pause if state == TaskState::Waiting => Some(self.paused(DecisionCause::Request)),
            // It would begin again by itself.
            Order::Stop { .. } if self.is_tried_again() => Some(stop_at_rest(order)),
            Order::Pause if self.is_tried_again() => Some(self.paused(DecisionCause::Request)),
            // Its owned runs may continue, and there may be more to come.
            Order::Stop { .. } if !self.supervised.place.owned.is_closed() => {
                Some(Step::Outlive { over: over_at(order), then: Then::Rest(state) })
            }
            Order::Start | Order::Stalled { .. } | Order::Stop { .. } | Order::Pause | Order::Resume => None,
            Order::Leave { .. } | Order::Kill => Some(self.leave_idle(order)),
        }
    }

    /// Forgives what led here: a person decided to try again.
    fn forgive(&mut self) {
        self.supervised.task.cell.forgive_restarts();
        self.catch_up_with_group();
        if let Some(before) = &mut self.before {
            before.attempt = 0;
            before.failed = before.failed.map(|_| Failed::Forgiven);
        }
    }

    /// Returns true if it has failed and will begin again by itself.
    fn is_tried_again(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.retry_at.is_some())
    }

    /// Drops earlier requests of the group: a caller wants the task to begin.
    fn catch_up_with_group(&self) {
        if let Some(membership) = self.supervised.links().membership() {
            self.supervised.links().know_epoch(membership.epoch());
        }
    }

    fn back_off(
        &mut self,
        until: Instant,
        reason: RestartReason,
        yielded: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        loop {
            if self.shared.stays_down(&self.supervised) {
                return Poll::Ready(self.stopped_with_group());
            }
            match self.supervised.poll_signal(cx) {
                Poll::Ready(Signal::Order(Order::Restart { .. })) => {
                    self.supervised
                        .links()
                        .membership()
                        .iter()
                        .for_each(|membership| membership.group.at_once());
                    self.requested();
                    return Poll::Ready(Step::Await(Some(RestartReason::Requested)));
                }
                Poll::Ready(Signal::Order(order)) => {
                    if let Some(step) = self.called_off(order) {
                        return Poll::Ready(step);
                    }
                }
                Poll::Ready(Signal::Look) => {}
                Poll::Pending => {
                    // A timer rounds up to its next millisecond; where there is nothing to wait for others have their turn,
                    // and that is all: a task that fails at once must not keep its thread to itself.
                    if until > Instant::now() {
                        ready!(self.timer.poll(until, cx));
                    } else if !std::mem::replace(yielded, true) {
                        return pin!(tokio::task::yield_now()).poll(cx).map(|()| Step::Await(Some(reason)));
                    }
                    return Poll::Ready(Step::Await(Some(reason)));
                }
            }
        }
    }

    /// Returns the step for an order before a start that is still to come.
    fn called_off(&self, order: Order) -> Option<Step> {
        match order {
            Order::Stop { .. } => Some(stop_at_rest(order)),
            Order::Pause => Some(self.paused(DecisionCause::Request)),
            Order::Leave { .. } | Order::Kill => Some(self.leave_idle(order)),
            Order::Start | Order::Restart { .. } | Order::Stalled { .. } | Order::Resume => None,
        }
    }

    /// Waits until the dependencies of the task are ready, and no task is left that must stop first.
    fn await_gate(
        &mut self,
        restart: &mut Option<RestartReason>,
        told: &mut Vec<Arc<str>>,
        entering: &mut Option<Entering>,
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        loop {
            if self.shared.stays_down(&self.supervised) {
                return Poll::Ready(self.stopped_with_group());
            }
            // Nothing begins during a shutdown, also where this task is asked to leave in a later stage.
            if self.shared.tracker.is_staged() {
                return Poll::Ready(
                    self.leave_idle(Order::Leave { grace: self.supervised.spec.shutdown_grace }),
                );
            }
            let until = match self.shared.gate(&self.supervised) {
                Gate::Open(_) if self.stands_by(entering, cx) => None,
                Gate::Open(bond) => {
                    self.supervised.links().know_epoch(bond.epoch());
                    self.supervised.set_bond(Some(bond));
                    return Poll::Ready(Step::Live(*restart));
                }
                Gate::Closed { waits_for, until } => {
                    // No candidate while it could not begin.
                    *entering = None;
                    self.set_state_once(TaskState::Waiting);
                    if !waits_for.is_empty() && waits_for != *told {
                        self.tell(|| TaskEventKind::Waiting { waits_for: waits_for.clone() });
                        *told = waits_for;
                    }
                    until
                }
            };
            match (self.supervised.poll_signal(cx), until) {
                (Poll::Ready(Signal::Order(order)), _) => {
                    if let Some(step) = self.called_off(order) {
                        return Poll::Ready(step);
                    }
                    if matches!(order, Order::Restart { .. }) && restart.is_some() {
                        self.requested();
                        *restart = Some(RestartReason::Requested);
                    }
                }
                (Poll::Ready(Signal::Look), _) => {}
                (Poll::Pending, Some(until)) => ready!(self.timer.poll(until, cx)),
                (Poll::Pending, None) => return Poll::Pending,
            }
        }
    }

    /// Returns true if its gate is closed, and the task waits for nothing else.
    fn stands_by(&self, entering: &mut Option<Entering>, cx: &mut Context<'_>) -> bool {
        let Some(gated) = self.supervised.body.gated() else { return false };
        let entered = entering.get_or_insert_with(|| gated.enter(&self.shared)).as_mut().poll(cx);
        let Poll::Ready(grant) = entered else {
            if self.supervised.state() != TaskState::Standby {
                self.set_state(TaskState::Standby);
                self.own_announcer().stands_by();
            }
            return true;
        };
        *entering = None;
        let pass = gated.admit(grant, &self.supervised);
        let term = pass.term();
        if gated.on_overrun != OverrunAction::Report {
            if let Err(error) = overruns::watch(pass, self.supervised.name().clone(), gated.name().clone()) {
                announce::unwatched(&error);
            }
        }
        self.announcer(self.supervised.signals.generation()).pass_granted(gated.name(), term);
        false
    }

    /// Requests a life to stop if its pass is about to end. Returns true if the pass is over: then the life is to be dropped.
    fn look_at_pass(&self, alive: &mut Alive) -> bool {
        let Some(pass) = alive.context.pass() else { return false };
        let left = match pass.standing() {
            Standing::Open(_) => return false,
            Standing::Ends(left) => left,
            Standing::Over => Duration::ZERO,
        };
        let now = Instant::now();
        let mut stop = alive.going.stopping().unwrap_or_else(|| {
            if let Some(gated) = self.supervised.body.gated() {
                gated.lost();
                let announcer = self.announcer(self.supervised.signals.generation());
                announcer.pass_lost(gated.name(), pass.term());
            }
            // The members that the strategy includes stop, too; it waits for none of them.
            self.group_restart(self.epoch(), now, RestartReason::Group);
            Stopping::new(Wish::Lost, None, now)
        });
        if !stop.asked {
            // Nobody can hold it up.
            self.set_state_once(TaskState::Stopping);
            (stop.asked, stop.at) = (true, now);
            alive.context.ask_to_stop();
        }
        let longest = later(now, left).saturating_duration_since(stop.at);
        stop.grace = Some(stop.grace.map_or(longest, |grace| grace.min(longest)));
        alive.going = Going::Stops(stop);
        left.is_zero()
    }

    /// Gives the pass of a life back that has ended. What the task owns ends with it, unless it is waited for.
    fn pass_ended(&self, pass: &Pass, waits: bool) {
        if !waits {
            self.shared.tracker.abort_owned(&self.supervised, None);
        }
        if let Some(gated) = self.supervised.body.gated() {
            let announcer = self.announcer(self.supervised.signals.generation());
            announcer.pass_released(gated.name(), pass.term());
        }
    }

    fn set_state_once(&self, state: TaskState) {
        if self.supervised.state() != state {
            self.set_state(state);
        }
    }

    /// Makes the next life.
    fn begin(&mut self, restart: Option<RestartReason>) -> Alive {
        let began = Instant::now();
        let supervised = &self.supervised;
        let spec = &supervised.spec;
        let generation = supervised.signals.begin(began);
        if spec.start_timeout.is_none() {
            supervised.signals.ready(generation);
        }
        if restart.is_some() {
            supervised.restarted_at(began);
        }
        self.set_state(TaskState::Running);
        self.note_start(restart, generation);
        if supervised.signals.is_ready() {
            self.tell(|| TaskEventKind::Ready);
        }
        let link = match restart {
            Some(_) => self.last_run(),
            None => supervised.registered_in(),
        };
        supervised.place.owned.open();
        let context = TaskContext::new(ContextParts {
            task: supervised.task.clone(),
            generation: NonZeroU64::new(generation),
            stop: Stop::default(),
            origin: Origin::of_owner(
                Arc::downgrade(supervised),
                supervised.body.gated().and_then(GatedBody::next_pass),
            ),
        });
        let life = Life {
            shared: &self.shared,
            supervised,
            context: context.clone(),
            began,
            links: link.cloned().into_iter().collect(),
            ready_by: spec.start_timeout.map(|limit| (later(began, limit), limit)),
        };
        let living = supervised.body.clone().live(life);
        Alive { began, context, living, going: Going::On { restart_due: None }, look: true }
    }

    /// Lives, and does what is to be done meanwhile. Ready when the life is over: `None` where it is to be dropped.
    fn live(&mut self, alive: &mut Alive, cx: &mut Context<'_>) -> Poll<Option<LifeEnd>> {
        // The time of an order, if it was received a moment ago.
        let mut heard_at = None;
        loop {
            let due = if std::mem::take(&mut alive.look) {
                let due = self.look_after(alive, heard_at.take());
                if due.is_none() {
                    self.timer.clear();
                }
                due
            } else {
                self.timer.due()
            };
            if let Poll::Ready(signal) = self.supervised.poll_signal(cx) {
                alive.look = true;
                let Signal::Order(order) = signal else {
                    if self.look_at_pass(alive) {
                        return Poll::Ready(None);
                    }
                    continue;
                };
                if self.receive(order, alive, *heard_at.insert(Instant::now())) {
                    return Poll::Ready(None);
                }
                continue;
            }
            // A timer that has been set precedes the life, and so does a timer that is due already: a life without a grace is not
            // requested to stop. A new timer is set when the life has had its turn, which may be its last.
            let first = due.filter(|due| self.timer.is_set_to(*due) || *due <= Instant::now());
            let mut fired = first.is_some_and(|due| self.timer.poll(due, cx).is_ready());
            if !fired {
                if let Poll::Ready(end) = alive.living.as_mut().poll(cx) {
                    return Poll::Ready(Some(end));
                }
                let second = due.filter(|_| first.is_none());
                fired = second.is_some_and(|due| self.timer.poll(due, cx).is_ready());
            }
            if !fired {
                return Poll::Pending;
            }
            alive.look = true;
            if self.timer_fired(alive, Instant::now()) {
                return Poll::Ready(None);
            }
        }
    }

    /// Performs an order to a life. Returns true if the life is to be dropped.
    fn receive(&self, order: Order, alive: &mut Alive, now: Instant) -> bool {
        match self.heard(order, alive, now) {
            Heard::Nothing => {}
            Heard::Stop(stop) => alive.going = Going::Stops(stop),
            Heard::RestartAt(due) => alive.going = Going::On { restart_due: Some(due) },
            Heard::Kill => {
                let killed = Stopping::new(Wish::Leave, Some(Duration::ZERO), now);
                alive.going = Going::Stops(Stopping { asked: true, at: now, ..killed });
                return true;
            }
        }
        false
    }

    /// Receives what a life has seen before its driver, and has ended for.
    fn hear_late(&mut self, alive: &mut Alive, cx: &mut Context<'_>) {
        while let Poll::Ready(signal) = self.supervised.poll_signal(cx) {
            if let Signal::Order(order) = signal {
                self.receive(order, alive, Instant::now());
            }
        }
        self.look_at_pass(alive);
        self.yield_if_due(alive);
    }

    /// Lets the life stop if other tasks require it.
    fn yield_if_due(&self, alive: &mut Alive) {
        if alive.going.stopping().is_none() {
            if let Some(because) = self.shared.must_yield(&self.supervised) {
                self.tell(|| TaskEventKind::Yielding { reason: because.reason });
                let grace = Some(self.supervised.spec.grace());
                alive.going = Going::Stops(Stopping::new(Wish::Yield(because), grace, Instant::now()));
            }
        }
    }

    /// Requests the life to stop if that is due. Returns the time of the next action. `now` is given if it was read a moment ago.
    fn look_after(&mut self, alive: &mut Alive, now: Option<Instant>) -> Option<Instant> {
        self.yield_if_due(alive);
        if self.supervised.has_succeeded() {
            self.recovered();
        }
        let stop = match &mut alive.going {
            Going::On { restart_due } => {
                let recovers_at = self.recovers_at(alive.began);
                return [*restart_due, self.next_look(), recovers_at].into_iter().flatten().min();
            }
            Going::Stops(stop) => stop,
        };
        if !stop.asked {
            self.set_state_once(TaskState::Stopping);
            let now = now.unwrap_or_else(Instant::now);
            // During a shutdown its stages keep the order, also of what was asked for before it.
            let is_its_turn = if self.shared.tracker.is_staged() {
                self.supervised.is_called()
            } else {
                !self.shared.is_held_up(&self.supervised)
            };
            if is_its_turn || now >= stop.at {
                (stop.asked, stop.at) = (true, now);
                alive.context.ask_to_stop();
            }
        }
        // Together with the life, which may wait for them.
        if stop.asked && stop.wish.ends_owned() && !self.supervised.place.owned.is_asked() {
            self.ask_owned();
        }
        if stop.asked { stop.over() } else { Some(stop.at) }
    }

    /// Performs the action of the timer. Returns true if the life is to be dropped.
    fn timer_fired(&mut self, alive: &mut Alive, now: Instant) -> bool {
        if alive.going.stopping().and_then(|stop| stop.over()).is_some_and(|over| over <= now) {
            return true;
        }
        if alive.going.stopping().is_none() && self.recovers_at(alive.began).is_some_and(|at| at <= now) {
            self.recovered();
        }
        let restart_is_due = alive.going.restart_due().is_some_and(|due| due <= now);
        if restart_is_due && self.shared.tracker.is_staged() {
            alive.going = Going::On { restart_due: None };
        } else if restart_is_due {
            let requested = RestartReason::Requested;
            self.group_restart(self.epoch(), now, requested);
            let grace = Some(self.supervised.spec.grace());
            alive.going = Going::Stops(Stopping::new(Wish::Restart(requested), grace, now));
        } else {
            self.look_for_silence(now);
        }
        false
    }

    /// The epoch of its group that the life under way, or the last, knew.
    fn epoch(&self) -> u64 {
        self.supervised.links().known_epoch()
    }

    /// Drops a life, and reports the end of its run. A loop reports the end of an iteration itself.
    fn drop_life(&self, Alive { began, living, .. }: Alive, exit: &Exit) {
        // The life's hooks are the user's too: a panic in their destructors ends here.
        let _ = catch_inline(self.shared.recorder.options.silence_panics, move || drop(living));
        if !self.supervised.body.is_loop() {
            self.tell(|| TaskEventKind::Exited {
                exit: exit.clone(),
                duration: began.elapsed(),
                iteration: None,
            });
        }
    }

    /// Returns the step after a life; `end` if the life ended by itself.
    fn lived(&mut self, alive: Alive, mut end: Option<LifeEnd>) -> Step {
        let (began, stopping) = (alive.began, alive.going.stopping());
        let pass = alive.context.pass().cloned();
        let wish = stopping.map(|stop| stop.wish);
        let restart_due = alive.going.restart_due();
        // During a shutdown it leaves then, whatever it was stopped for.
        if end.is_none() && (wish == Some(Wish::Leave) || self.shared.tracker.is_staged()) {
            self.note(ShutdownOutcome::Aborted);
        }
        self.drop_life(alive, end.as_ref().map_or(&Exit::Cancellation, |end| &end.exit));
        self.supervised.signals.set_sleeping(false);
        if let Some(span_context) = end.as_mut().and_then(|end| end.span_context.take()) {
            self.before().last_run = Some(span_context);
        }
        // An iteration's failure was noted when it happened.
        let failed = end.as_ref().filter(|end| end.exit.error_type().is_some());
        if let Some(end) = failed.filter(|_| !self.supervised.body.is_loop()) {
            self.own_announcer().run_ended(&end.exit);
        }
        let step = match self.after(wish, end, began, restart_due) {
            Step::Outlive { over, then } => {
                let grace = match stopping {
                    Some(stop) => stop.grace,
                    None => self.supervised.spec.shutdown_grace,
                };
                let from_now = || grace.map(|grace| later(Instant::now(), grace));
                let asked_until = stopping.and_then(|stop| stop.over());
                Step::Outlive { over: asked_until.or(over).or_else(from_now), then }
            }
            step => step,
        };
        if let Some(pass) = pass {
            self.pass_ended(&pass, matches!(step, Step::Outlive { .. }));
        }
        if self.supervised.state() == TaskState::Running {
            // Before it is seen to have stopped: a running task could be depended on.
            self.supervised.set_state(step.state(), &self.shared);
        }
        self.supervised.set_bond(None);
        self.shared.changed(&self.supervised);
        step
    }

    /// Returns the time of the next check for a sign of life. A sleeping loop may have to send signs from then on.
    fn next_look(&self) -> Option<Instant> {
        let timeout = self.supervised.spec.heartbeat_timeout?;
        let last = self.supervised.signals.last_beat()?;
        let expected = self.supervised.must_beat() && !self.supervised.signals.is_told(last);
        Some(later(if expected { last } else { Instant::now() }, timeout))
    }

    fn look_for_silence(&self, now: Instant) {
        let timeout = self.supervised.spec.heartbeat_timeout.filter(|_| self.supervised.must_beat());
        let Some((timeout, last)) = timeout.zip(self.supervised.signals.last_beat()) else { return };
        let silent_for = now.saturating_duration_since(last);
        if silent_for >= timeout {
            self.shared.stalled(&self.supervised, Stall::Silence(last), silent_for);
        }
    }

    /// Returns the meaning of an order for a life.
    fn heard(&self, order: Order, alive: &Alive, now: Instant) -> Heard {
        let (stopping, restart_due) = (alive.going.stopping(), alive.going.restart_due());
        let grace = Some(self.supervised.spec.grace());
        let stop = |wish, grace| {
            Heard::Stop(match stopping {
                Some(stop) => stop.because(wish, grace),
                None => Stopping::new(wish, grace, now),
            })
        };
        match order {
            Order::Kill => Heard::Kill,
            Order::Leave { grace } => stop(Wish::Leave, grace),
            // It leaves already, with the grace it was given then.
            _ if stopping.is_some_and(|stop| stop.wish == Wish::Leave) => Heard::Nothing,
            order if order.yields() && stopping.is_some() => Heard::Nothing,
            // It would not begin again, so it continues until its stage is requested to stop.
            Order::Restart { .. } | Order::Stalled { .. } if self.shared.tracker.is_staged() => {
                Heard::Nothing
            }
            Order::Start => Heard::Nothing,
            Order::Restart { after, .. } if !after.is_zero() && stopping.is_none() => {
                Heard::RestartAt(restart_due.unwrap_or_else(|| later(now, after)))
            }
            // The members that the strategy includes stop before it does, so they are informed first.
            Order::Restart { .. } => {
                self.group_restart(self.epoch(), now, RestartReason::Requested);
                stop(Wish::Restart(RestartReason::Requested), grace)
            }
            Order::Stalled { generation, .. } if generation != self.supervised.signals.generation() => {
                Heard::Nothing
            }
            Order::Stalled { give_up: true, .. } => stop(Wish::GiveUpStalled, grace),
            Order::Stalled { .. } => {
                let stalled = RestartReason::Stalled;
                match self.group_restart(self.epoch(), now, stalled) {
                    GroupRestart::LimitReached => stop(Wish::GiveUpGroup, grace),
                    _ => stop(Wish::Restart(stalled), grace),
                }
            }
            Order::Stop { grace } => stop(Wish::Stop, Some(grace)),
            Order::Pause if self.supervised.body.hold(true) => {
                self.paused(DecisionCause::Request);
                self.set_state(TaskState::Paused);
                Heard::Nothing
            }
            Order::Pause => stop(Wish::Pause, grace),
            // It has not come down yet: what holds is the last word.
            Order::Resume if stopping.is_some_and(|stop| stop.wish == Wish::Pause) => {
                stop(Wish::Restart(RestartReason::Requested), grace)
            }
            Order::Resume => {
                if self.supervised.body.hold(false) && self.supervised.state() == TaskState::Paused {
                    self.own_announcer().resumed();
                    self.supervised.signals.rearm(Instant::now());
                    self.set_state(TaskState::Running);
                }
                Heard::Nothing
            }
        }
    }

    /// Reports to the group that this member has to be restarted at `due`.
    fn group_restart(&self, epoch: u64, due: Instant, reason: RestartReason) -> GroupRestart {
        let Some(membership) = self.supervised.links().membership() else { return GroupRestart::Begins };
        let answer = membership.group.restart(membership.index, epoch, due, reason.counts());
        self.shared.changed(&self.supervised);
        answer
    }

    /// Returns the step after a life.
    fn after(
        &mut self,
        wish: Option<Wish>,
        end: Option<LifeEnd>,
        began: Instant,
        restart_due: Option<Instant>,
    ) -> Step {
        // A permanent error gives the task up for good, also where the run ends with it while it is stopped.
        let exit = end.as_ref().map(|end| &end.exit);
        let retry_after = self.retry_after(exit.is_some_and(Exit::is_permanent));
        match wish {
            // Whatever it ended with, nothing begins again during a shutdown.
            _ if self.shared.tracker.is_staged() => Step::Outlive { over: None, then: Then::Leave },
            Some(Wish::Leave) => Step::Outlive { over: None, then: Then::Leave },
            Some(Wish::Stop) => Step::Outlive { over: None, then: Then::Stopped(DecisionCause::Request) },
            Some(Wish::Lost) if end.as_ref().is_some_and(|end| end.finished) => self.decide(end, began),
            // A take-over is a start and no restart: nothing has failed.
            Some(Wish::Lost) => {
                self.decided(DecisionCause::Gate, RestartVerdict::StandBy, None, exit);
                Step::Await(None)
            }
            Some(Wish::Pause) => self.paused(DecisionCause::Request),
            Some(Wish::GiveUpStalled) => {
                let verdict = RestartVerdict::GiveUp { reason: "stalled", retry_after };
                self.decided(DecisionCause::Stall, verdict, None, exit);
                self.gave_up("stalled", retry_after)
            }
            Some(Wish::GiveUpGroup) => {
                let verdict = RestartVerdict::GiveUp { reason: GROUP_LIMIT, retry_after };
                self.decided(DecisionCause::Group, verdict, None, exit);
                self.gave_up(GROUP_LIMIT, retry_after)
            }
            Some(Wish::Yield(Yield { stays_down, reason })) => {
                let cause = match reason {
                    RestartReason::Dependency => DecisionCause::Dependency,
                    _ => DecisionCause::Group,
                };
                if stays_down {
                    self.decided(cause, RestartVerdict::Stop, None, exit);
                    Step::Outlive { over: None, then: Then::Stopped(cause) }
                } else {
                    self.decide_without_policy(cause, reason);
                    Step::Await(Some(reason))
                }
            }
            // A stall is the task's fault and counts against its limit; a request does not.
            Some(Wish::Restart(RestartReason::Stalled)) => {
                let question = RestartQuestion {
                    is_permanent: exit.is_some_and(Exit::is_permanent),
                    ..self.question(None)
                };
                let verdict = question.answer();
                self.decided(DecisionCause::Stall, verdict, Some(question), exit);
                match verdict {
                    RestartVerdict::GiveUp { reason, retry_after } => self.gave_up(reason, retry_after),
                    _ => Step::Await(Some(RestartReason::Stalled)),
                }
            }
            Some(Wish::Restart(reason)) => {
                self.requested();
                Step::Await(Some(reason))
            }
            None => match restart_due {
                // Promised to the caller: it takes place even if the run ended before it was due.
                Some(until) => {
                    self.requested();
                    Step::Backoff { until, reason: RestartReason::Requested }
                }
                None => self.decide(end, began),
            },
        }
    }

    /// Returns the policy's question about a run with this exit, or about a stall.
    fn question(&self, exit: Option<&Exit>) -> RestartQuestion {
        let spec = &self.supervised.spec;
        let now = self.shared.recorder.now();
        let restarts = self.supervised.task.cell.restarts_within(now, spec.intensity.within());
        let before = self.before.as_deref();
        RestartQuestion {
            result: exit.map(Exit::kind),
            is_permanent: exit.is_some_and(Exit::is_permanent),
            policy: spec.policy,
            limit: spec.intensity,
            restarts,
            is_retry: self.is_retrying(),
            give_up: spec.give_up,
            backoff: spec.backoff,
            attempt: before.map_or(0, |before| before.attempt),
            previous_delay: before.map_or(Duration::ZERO, |before| before.delay),
            random: 0.0,
        }
    }

    /// Notes and reports a decision.
    fn decided(
        &self,
        cause: DecisionCause,
        verdict: RestartVerdict,
        question: Option<RestartQuestion>,
        exit: Option<&Exit>,
    ) {
        let generation = self.supervised.signals.generation();
        let decision = TaskDecision::new(generation, cause, verdict, question, exit, self.last_run());
        self.own_announcer().decided(&decision);
    }

    /// Notes a restart that is not the policy's decision.
    fn decide_without_policy(&self, cause: DecisionCause, reason: RestartReason) {
        self.decided(cause, RestartVerdict::Restart { reason, delay: Duration::ZERO }, None, None);
    }

    /// Notes that somebody asked for a restart.
    fn requested(&self) {
        self.decide_without_policy(DecisionCause::Request, RestartReason::Requested);
    }

    /// Returns the step after a life that ended by itself.
    fn decide(&mut self, end: Option<LifeEnd>, began: Instant) -> Step {
        let spec = self.supervised.spec.clone();
        let exit = end.as_ref().map_or(Exit::Cancellation, |end| end.exit.clone());
        // What would have shown it may have come with the end.
        let lasted = self.recovers_at(began).is_some_and(|at| at <= Instant::now());
        if lasted || self.supervised.has_succeeded() {
            self.recovered();
        }
        if end.as_ref().is_some_and(|end| end.finished) {
            return self.stopped(TaskState::Finished, DecisionCause::Exit);
        }
        // A long run of a closure was no failure until it ended: a row of failures begins again with it.
        let is_run = !self.supervised.body.is_loop();
        if is_run && exit.kind().is_error() && spec.backoff.resets_after(began.elapsed()) {
            self.supervised.task.cell.failed_after_long();
        }
        if let Verdict::Restart(_) = spec.policy.judge(exit.kind(), exit.is_permanent()) {
            // A held loop: it begins again when a caller resumes it.
            if self.supervised.state() == TaskState::Paused {
                return Step::Rest(TaskState::Paused);
            }
            // Another member took it along just when it failed: one restart, and not of its own.
            if self.is_taken_along() {
                return self.taken_along(None, &exit, self.shared.stays_down(&self.supervised));
            }
        }
        if spec.backoff.resets_after(began.elapsed()) {
            if let Some(before) = &mut self.before {
                (before.attempt, before.delay) = (0, Duration::ZERO);
            }
        }
        let mut question = self.question(Some(&exit));
        if let RestartVerdict::Restart { .. } = question.answer() {
            question.random = (self.shared.settings.random)();
        }
        let cause = DecisionCause::Exit;
        match question.answer() {
            RestartVerdict::Finish => {
                self.recovered();
                self.stopped(TaskState::Finished, cause)
            }
            RestartVerdict::Stop | RestartVerdict::StandBy => self.stopped(TaskState::Stopped, cause),
            verdict @ RestartVerdict::GiveUp { reason, retry_after } => {
                self.decided(cause, verdict, Some(question), Some(&exit));
                self.gave_up(reason, retry_after)
            }
            verdict @ RestartVerdict::Restart { reason, delay } => {
                let until = later(Instant::now(), delay);
                match self.group_restart(self.epoch(), until, reason) {
                    GroupRestart::LimitReached => {
                        let retry_after = self.retry_after(false);
                        let verdict = RestartVerdict::GiveUp { reason: GROUP_LIMIT, retry_after };
                        self.decided(DecisionCause::Group, verdict, Some(question), Some(&exit));
                        self.gave_up(GROUP_LIMIT, retry_after)
                    }
                    GroupRestart::Stopped => self.taken_along(Some(question), &exit, true),
                    GroupRestart::UnderWay => self.taken_along(Some(question), &exit, false),
                    GroupRestart::Begins => {
                        let before = self.before();
                        before.attempt = before.attempt.saturating_add(1);
                        before.delay = delay;
                        self.decided(cause, verdict, Some(question), Some(&exit));
                        self.tell(|| TaskEventKind::BackingOff { reason, delay });
                        if reason == RestartReason::Finished {
                            self.own_announcer().ended(delay);
                        }
                        Step::Backoff { until, reason }
                    }
                }
            }
        }
    }

    /// The group restarts or stops the task, which has just ended.
    fn taken_along(&self, question: Option<RestartQuestion>, exit: &Exit, stays_down: bool) -> Step {
        let (verdict, step) = if stays_down {
            (RestartVerdict::Stop, self.stopped_with_group())
        } else {
            let reason = RestartReason::Group;
            (RestartVerdict::Restart { reason, delay: Duration::ZERO }, Step::Await(Some(reason)))
        };
        self.decided(DecisionCause::Group, verdict, question, Some(exit));
        step
    }

    /// Returns true if the group requests the end of the life.
    fn is_taken_along(&self) -> bool {
        self.supervised.links().membership().is_some_and(|membership| membership.epoch() > self.epoch())
    }

    /// Records its outcome at shutdown.
    fn note(&self, outcome: ShutdownOutcome) {
        self.shared.tracker.note_driver(&self.supervised, outcome);
    }

    /// Leaves without having had anything to stop.
    fn leave_idle(&self, order: Order) -> Step {
        self.note(ShutdownOutcome::NotRunning);
        Step::Outlive { over: over_at(order), then: Then::Leave }
    }

    /// Announces with the trace of the last run.
    fn announcer(&self, generation: u64) -> Announcer<'_> {
        Announcer {
            trace: context_of(self.last_run()),
            ..self.shared.announcer(&self.supervised, generation)
        }
    }

    /// The announcer of the generation that lives, or was the last to live.
    fn own_announcer(&self) -> Announcer<'_> {
        self.announcer(self.supervised.signals.generation())
    }

    /// Shows that the driver has left.
    fn left(&self) {
        self.supervised.driver_left();
        self.shared.changed(&self.supervised);
    }

    fn note_start(&self, restart: Option<RestartReason>, generation: u64) {
        match restart {
            None => self.shared.announcer(&self.supervised, generation).started(),
            Some(RestartReason::Retry) => {
                self.announcer(generation).tried_again(self.shared.recorder.now());
            }
            Some(reason) => self.announcer(generation).restarted(reason, self.shared.recorder.now()),
        }
    }

    /// Stops together with its group, when nothing of it lives but what it owns.
    fn stopped_with_group(&self) -> Step {
        let over = later(Instant::now(), self.supervised.spec.grace());
        Step::Outlive { over: Some(over), then: Then::Stopped(DecisionCause::Group) }
    }

    fn stopped(&self, state: TaskState, by: DecisionCause) -> Step {
        self.own_announcer().at_rest(state, by);
        Step::Rest(state)
    }

    fn paused(&self, by: DecisionCause) -> Step {
        self.stopped(TaskState::Paused, by)
    }

    fn gave_up(&mut self, why: &'static str, retry_after: Option<Duration>) -> Step {
        let was_retrying = self.is_retrying();
        self.retry_later(retry_after);
        if retry_after.is_none() {
            self.has_failed(Failed::Forgiven);
        }
        if !(was_retrying && retry_after.is_some()) {
            let intensity = self.supervised.spec.intensity;
            self.own_announcer().gave_up(why, intensity, retry_after);
        }
        self.escalate(why, retry_after.is_none());
        Step::Rest(TaskState::Failed)
    }

    /// Performs the effects of a give-up on other tasks: an escalation follows only if it is `for_good`.
    fn escalate(&self, why: &'static str, for_good: bool) {
        let escalation = if for_good { self.supervised.spec.escalation } else { Escalation::None };
        // A task that nothing restarts stops no others by itself, as OTP's temporary children do not.
        if let Some(membership) = self.supervised.links().membership().filter(|_| {
            escalation == Escalation::Group || self.supervised.spec.policy != RestartPolicy::Never
        }) {
            membership.group.given_up(membership.index, escalation == Escalation::Group);
        }
        if escalation == Escalation::Shutdown {
            let cause = ShutdownCause { task: self.supervised.name().clone(), reason: why };
            begin_shutdown(&self.shared, Some(cause));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let left = catch(false, || {
            self.leave();
            self.core.left();
        });
        // Whatever panics, the driver has left: `unregister` and the shutdown wait for that.
        if left.is_err() {
            let Core { supervised, shared, .. } = &self.core;
            let _ = catch(false, || shared.tracker.leave_driver(supervised));
            let _ = catch(false, || self.core.left());
        }
    }
}

impl Driver {
    /// Leaves the task behind as one without a driver.
    fn leave(&mut self) {
        if !self.done {
            // Dropped with its runtime.
            self.tear_down(Step::Leave);
            self.core.shared.tracker.close_owner(&self.core.supervised);
            self.core.note(ShutdownOutcome::Aborted);
            self.core.supervised.runtime_gone();
        }
        let Core { supervised, shared, .. } = &self.core;
        let is_tried_again = self.core.is_tried_again();
        let was_alive = is_alive(supervised.state()) || is_tried_again;
        if was_alive {
            supervised.set_state(TaskState::Stopped, shared);
        }
        if is_tried_again {
            supervised.set_next_retry(None);
        }
        if supervised.is_to_unregister() {
            shared.remove(supervised);
        } else if !supervised.owns_name() {
            // Detached.
            shared.retire_detached(supervised);
        }
        let reported = shared.tracker.leave_driver(supervised);
        if !self.done && was_alive && !reported {
            supervised.set_lost();
        }
    }
}

fn stop_at_rest(order: Order) -> Step {
    Step::Outlive { over: over_at(order), then: Then::Stopped(DecisionCause::Request) }
}

/// Returns the end of the grace that an order gives to owned runs, if the task has no life.
fn over_at(order: Order) -> Option<Instant> {
    let now = Instant::now();
    match order {
        Order::Leave { grace } => grace.map(|grace| later(now, grace)),
        Order::Stop { grace } => Some(later(now, grace)),
        _ => Some(now),
    }
}

fn is_alive(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Waiting
            | TaskState::Standby
            | TaskState::Running
            | TaskState::Backoff
            | TaskState::Stopping
            | TaskState::Paused
    )
}

/// The meaning of an order for a life.
enum Heard {
    Nothing,
    Stop(Stopping),
    RestartAt(Instant),
    Kill,
}

fn context_of(span: Option<&SpanContext>) -> Option<opentelemetry::Context> {
    use opentelemetry::trace::TraceContextExt;
    span.map(|span| opentelemetry::Context::new().with_remote_span_context(span.clone()))
}
