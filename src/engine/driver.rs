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
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    ContextParts, Life, LifeEnd, Order, Shared, ShutdownCause, ShutdownOutcome, Signal, Supervised,
    TaskContext, TaskEventKind,
    context::Stop,
    later,
    links::{Gate, GroupRestart, Yield},
    shutdown,
    signals::Stall,
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
#[derive(Clone, Copy)]
enum Step {
    /// Wait for an order.
    Rest(TaskState),
    /// Wait for a restart to fall due.
    Backoff {
        until: Instant,
        reason: RestartReason,
    },
    /// Wait for what it rests on, then live; again, where there is a reason.
    Await(Option<RestartReason>),
    Live(Option<RestartReason>),
    Leave,
}

/// The driver of one task. A hundred thousand of them may wait at once, so its future is small: what it needs seldom is behind
/// a pointer.
pub(crate) struct Driver {
    supervised: Arc<Supervised>,
    shared: Arc<Shared>,
    timer: Timer,
    /// Of those before the present life.
    before: Option<Box<Before>>,
    /// When the run began whose end has not been told. An iteration tells its own.
    untold: Option<Instant>,
    done: bool,
}

/// What a driver knows of the lives before.
#[derive(Default)]
struct Before {
    /// Restarts in a row without a stable run.
    attempt: u32,
    /// The delay before the last of them.
    delay: Duration,
    last_run: Option<SpanContext>,
}

/// The one timer of a driver: made when there is something to wait for.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn is_set_to(&self, due: Instant) -> bool {
        self.0.as_ref().is_some_and(|sleep| sleep.deadline() == due)
    }

    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}

/// What a driver waited for.
enum Woken {
    Signal(Signal),
    Timer,
    Ended(LifeEnd),
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

/// A life under way.
struct Alive {
    began: Instant,
    epoch: u64,
    context: TaskContext,
    living: Pin<Box<dyn Future<Output = LifeEnd> + Send>>,
    stopping: Option<Stopping>,
    restart_due: Option<Instant>,
}

const GROUP_LIMIT: &str = "its group was restarted too often";

/// How long a task waits for those that go down before it, where they do not: a blocked thread must not hold up others for
/// ever.
const HELD_AT_MOST: Duration = Duration::from_secs(30);

impl Driver {
    pub(crate) fn new(supervised: Arc<Supervised>, shared: Arc<Shared>) -> Self {
        Self { supervised, shared, timer: Timer::default(), before: None, untold: None, done: false }
    }

    fn before(&mut self) -> &mut Before {
        self.before.get_or_insert_default()
    }

    fn last_run(&self) -> Option<&SpanContext> {
        self.before.as_ref()?.last_run.as_ref()
    }

    pub(crate) async fn drive(mut self) {
        let mut step = Step::Rest(TaskState::Waiting);
        // Nothing of the user's panics into the driver; a subscriber may. The panic is printed, the life that it tore down
        // is over, and the driver goes on, so that the task can still be restarted and the shutdown finds it.
        while let Err(_panic) = Guarded::new(false, self.steps(step)).await {
            self.tell_exit(|| Exit::Cancellation);
            self.timer.clear();
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
                Step::Backoff { until, reason } => self.back_off(until, reason).await,
                Step::Await(restart) => self.await_gate(restart).await,
                Step::Live(restart) => self.live(restart).await,
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

    /// Tells how the run under way ended, once.
    fn tell_exit(&mut self, exit: impl FnOnce() -> Exit) {
        if let Some(began) = self.untold.take() {
            self.tell(|| TaskEventKind::Exited { exit: exit(), duration: began.elapsed(), iteration: None });
        }
    }

    /// Waits for an order, or until `until`. The timer stays where it is; whoever waits no longer clears it.
    async fn signal_or_timer(&mut self, until: Option<Instant>) -> Option<Signal> {
        poll_fn(|cx| {
            if let Poll::Ready(signal) = self.supervised.poll_signal(cx) {
                return Poll::Ready(Some(signal));
            }
            match until {
                Some(until) => self.timer.poll(until, cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }

    async fn rest(&mut self, state: TaskState) -> Step {
        self.set_state(state);
        loop {
            let order = match self.supervised.next_signal().await {
                Signal::Order(order) => order,
                Signal::Look if state == TaskState::Finished && self.shared.begins_anew(&self.supervised) => {
                    return Step::Await(Some(RestartReason::Group));
                }
                Signal::Look => continue,
            };
            match order {
                Order::Start if state == TaskState::Waiting => return Step::Await(None),
                Order::Restart { .. } if state == TaskState::Waiting => return Step::Await(None),
                Order::Resume if state == TaskState::Paused => {
                    self.catch_up_with_group();
                    let began = self.supervised.signals.generation() > 0;
                    return Step::Await(began.then_some(RestartReason::Requested));
                }
                // A person decided to try again: what led here is forgiven.
                Order::Restart { .. } => {
                    self.supervised.task.cell.forgive_restarts();
                    self.catch_up_with_group();
                    if let Some(before) = &mut self.before {
                        before.attempt = 0;
                    }
                    return Step::Await(Some(RestartReason::Requested));
                }
                Order::Stop { .. } if matches!(state, TaskState::Waiting | TaskState::Paused) => {
                    return self.stopped(TaskState::Stopped);
                }
                Order::Pause if state == TaskState::Waiting => return self.paused(),
                Order::Start | Order::Stalled { .. } | Order::Stop { .. } | Order::Pause | Order::Resume => {}
                Order::Leave { .. } | Order::Kill => return self.leave_idle(),
            }
        }
    }

    /// What the group wanted of it before is over: somebody wants it to begin.
    fn catch_up_with_group(&self) {
        if let Some(membership) = self.supervised.links.membership() {
            self.supervised.links.know_epoch(membership.epoch());
        }
    }

    async fn back_off(&mut self, until: Instant, reason: RestartReason) -> Step {
        self.set_state(TaskState::Backoff);
        let step = self.wait_for_restart(until, reason).await;
        self.timer.clear();
        step
    }

    async fn wait_for_restart(&mut self, until: Instant, reason: RestartReason) -> Step {
        loop {
            if self.shared.stays_down(&self.supervised) {
                return self.stopped(TaskState::Stopped);
            }
            // A timer rounds up to its next millisecond; where there is nothing to wait for others have their turn, and that
            // is all: a task that fails at once must not keep its thread to itself.
            let signal = if until <= Instant::now() {
                tokio::select! {
                    biased;
                    signal = self.supervised.next_signal() => Some(signal),
                    () = tokio::task::yield_now() => None,
                }
            } else {
                self.signal_or_timer(Some(until)).await
            };
            match signal {
                Some(Signal::Order(Order::Restart { .. })) => {
                    self.supervised
                        .links
                        .membership()
                        .iter()
                        .for_each(|membership| membership.group.at_once());
                    return Step::Await(Some(RestartReason::Requested));
                }
                Some(Signal::Order(order)) => {
                    if let Some(step) = self.called_off(order) {
                        return step;
                    }
                }
                Some(Signal::Look) => {}
                None => return Step::Await(Some(reason)),
            }
        }
    }

    /// What an order makes of a start that is still to come.
    fn called_off(&self, order: Order) -> Option<Step> {
        match order {
            Order::Stop { .. } => Some(self.stopped(TaskState::Stopped)),
            Order::Pause => Some(self.paused()),
            Order::Leave { .. } | Order::Kill => Some(self.leave_idle()),
            Order::Start | Order::Restart { .. } | Order::Stalled { .. } | Order::Resume => None,
        }
    }

    /// Waits until what the task rests on is ready, and nobody is left who must go down first.
    async fn await_gate(&mut self, mut restart: Option<RestartReason>) -> Step {
        let mut told: Vec<Arc<str>> = Vec::new();
        self.timer.clear();
        if self.supervised.state() == TaskState::Finished {
            // Those that rest on what it did go down before it does it again.
            self.set_state(TaskState::Waiting);
        }
        loop {
            if self.shared.stays_down(&self.supervised) {
                return self.stopped(TaskState::Stopped);
            }
            // Nothing begins during a shutdown, also where this task is asked to leave in a later stage.
            if self.shared.tracker.is_closed() {
                return self.leave_idle();
            }
            let until = match self.shared.gate(&self.supervised) {
                Gate::Open(bond) => {
                    self.supervised.links.know_epoch(bond.epoch());
                    self.supervised.set_bond(Some(bond));
                    return Step::Live(restart);
                }
                Gate::Closed { waits_for, until } => {
                    self.set_state_once(TaskState::Waiting);
                    if !waits_for.is_empty() && waits_for != told {
                        self.tell(|| TaskEventKind::Waiting { waits_for: waits_for.clone() });
                        told = waits_for;
                    }
                    until
                }
            };
            let Some(signal) = self.signal_or_timer(until).await else { continue };
            if let Signal::Order(order) = signal {
                if let Some(step) = self.called_off(order) {
                    return step;
                }
                if matches!(order, Order::Restart { .. }) && restart.is_some() {
                    restart = Some(RestartReason::Requested);
                }
            }
        }
    }

    fn set_state_once(&self, state: TaskState) {
        if self.supervised.state() != state {
            self.set_state(state);
        }
    }

    /// Makes the next life.
    fn begin(&mut self, restart: Option<RestartReason>, began: Instant) -> Alive {
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
            None => supervised.registered_in.as_deref(),
        };
        let context = TaskContext::new(ContextParts {
            task: supervised.task.clone(),
            generation,
            stop: Stop::default(),
            supervised: Some(Arc::downgrade(supervised)),
            manager: Arc::downgrade(&self.shared),
        });
        let life = Life {
            shared: self.shared.clone(),
            supervised: supervised.clone(),
            context: context.clone(),
            links: link.cloned().into_iter().collect(),
            ready_by: spec.start_timeout.map(|limit| (later(began, limit), limit)),
        };
        let living = supervised.body.live(life);
        if !supervised.body.is_loop() {
            self.untold = Some(began);
        }
        Alive {
            began,
            epoch: self.supervised.links.known_epoch(),
            context,
            living,
            stopping: None,
            restart_due: None,
        }
    }

    async fn live(&mut self, restart: Option<RestartReason>) -> Step {
        let mut alive = self.begin(restart, Instant::now());
        let end = loop {
            let timer = self.look_after(&mut alive);
            match self.live_until(&mut alive, timer).await {
                Woken::Ended(end) => break Some(end),
                Woken::Signal(Signal::Look) => {}
                Woken::Signal(Signal::Order(order)) => match self.heard(order, &alive) {
                    Heard::Nothing => {}
                    Heard::Stop(stop) => alive.stopping = Some(stop),
                    Heard::RestartAt(due) => alive.restart_due = Some(due),
                    Heard::Kill => {
                        alive.stopping = Some(Stopping::new(Wish::Leave, None));
                        break None;
                    }
                },
                Woken::Timer => {
                    if self.timer_fired(&mut alive, Instant::now()) {
                        break None;
                    }
                }
            }
        };
        self.timer.clear();
        self.lived(alive, end)
    }

    /// Asks the life to stop where that is due. Answers when there is something to do next.
    fn look_after(&self, alive: &mut Alive) -> Option<Instant> {
        let spec = &self.supervised.spec;
        if alive.stopping.is_none() {
            if let Some(because) = self.shared.must_yield(&self.supervised) {
                self.tell(|| TaskEventKind::Yielding { reason: because.reason });
                alive.stopping = Some(Stopping::new(Wish::Yield(because), Some(spec.grace())));
            }
        }
        if let Some(stop) = alive.stopping.as_mut().filter(|stop| stop.asked.is_none()) {
            self.set_state_once(TaskState::Stopping);
            alive.restart_due = None;
            let now = Instant::now();
            // During a shutdown its stages keep the order.
            if (stop.wish == Wish::Leave && self.shared.tracker.is_closed())
                || now >= stop.held_until
                || !self.shared.is_held_up(&self.supervised)
            {
                stop.asked = Some(now);
                alive.context.ask_to_stop();
            }
        }
        match &alive.stopping {
            Some(stop) if stop.asked.is_none() => Some(stop.held_until),
            Some(stop) => stop.over(),
            None => [alive.restart_due, self.next_look()].into_iter().flatten().min(),
        }
    }

    /// Lives until there is something to do.
    async fn live_until(&mut self, alive: &mut Alive, due: Option<Instant>) -> Woken {
        // A timer that has been set goes before the life, and so does one that is due already: one without a grace is not
        // asked. A new one is set when the life has had its turn, which may be its last.
        let mut is_set = due.is_some_and(|due| self.timer.is_set_to(due) || due <= Instant::now());
        poll_fn(|cx| {
            if let Poll::Ready(signal) = self.supervised.poll_signal(cx) {
                return Poll::Ready(Woken::Signal(signal));
            }
            if let (Some(due), true) = (due, is_set) {
                if self.timer.poll(due, cx).is_ready() {
                    return Poll::Ready(Woken::Timer);
                }
            }
            if let Poll::Ready(end) = alive.living.as_mut().poll(cx) {
                return Poll::Ready(Woken::Ended(end));
            }
            if let (Some(due), false) = (due, is_set) {
                is_set = true;
                if self.timer.poll(due, cx).is_ready() {
                    return Poll::Ready(Woken::Timer);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Does what the timer was for. Answers whether the life is to be dropped.
    fn timer_fired(&self, alive: &mut Alive, now: Instant) -> bool {
        if alive.stopping.and_then(|stop| stop.over()).is_some_and(|over| over <= now) {
            return true;
        }
        let restart_is_due = alive.restart_due.is_some_and(|due| due <= now);
        if restart_is_due && self.shared.tracker.is_closed() {
            alive.restart_due = None;
        } else if restart_is_due {
            let requested = RestartReason::Requested;
            self.group_restart(alive.epoch, now, requested);
            alive.stopping =
                Some(Stopping::new(Wish::Restart(requested), Some(self.supervised.spec.grace())));
        } else {
            self.look_for_silence(now);
        }
        false
    }

    /// What follows a life: `end` where it ended by itself.
    fn lived(&mut self, alive: Alive, mut end: Option<LifeEnd>) -> Step {
        let Alive { began, epoch, living, stopping, restart_due, .. } = alive;
        let wish = stopping.map(|stop| stop.wish);
        // During a shutdown it leaves then, whatever it was stopped for.
        if end.is_none() && (wish == Some(Wish::Leave) || self.shared.tracker.is_closed()) {
            self.note(ShutdownOutcome::Aborted);
        }
        // The life's hooks are the user's too: a panic in their destructors ends here.
        let _ = catch(self.shared.recorder.options.silence_panics, move || drop(living));
        self.tell_exit(|| end.as_ref().map_or(Exit::Cancellation, |end| end.exit.clone()));
        self.supervised.signals.set_sleeping(false);
        if let Some(span_context) = end.as_mut().and_then(|end| end.span_context.take()) {
            self.before().last_run = Some(span_context);
        }
        let step = self.after(wish, end, began, epoch, restart_due);
        self.supervised.set_bond(None);
        self.shared.changed(&self.supervised);
        step
    }

    /// When to look next for a sign of life. One that is not expected now, in a loop that sleeps, may be from then on.
    fn next_look(&self) -> Option<Instant> {
        let timeout = self.supervised.spec.heartbeat_timeout?;
        let last = self.supervised.signals.last_beat();
        let expected = self.supervised.must_beat() && !self.supervised.signals.is_told(last);
        Some(later(if expected { last } else { Instant::now() }, timeout))
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
    fn heard(&self, order: Order, alive: &Alive) -> Heard {
        let Alive { epoch, stopping, restart_due, .. } = *alive;
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
            Order::Pause if self.supervised.body.hold(true) => {
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
                if self.supervised.body.hold(false) && self.supervised.state() == TaskState::Paused {
                    self.supervised.signals.rearm(Instant::now());
                    self.set_state(TaskState::Running);
                }
                Heard::Nothing
            }
        }
    }

    /// Tells the group that this member has to be restarted at `due`.
    fn group_restart(&self, epoch: u64, due: Instant, reason: RestartReason) -> GroupRestart {
        let Some(membership) = self.supervised.links.membership() else { return GroupRestart::Begins };
        let answer = membership.group.restart(membership.index, epoch, due, reason.counts());
        self.shared.changed(&self.supervised);
        answer
    }

    /// What follows a life.
    fn after(
        &mut self,
        wish: Option<Wish>,
        end: Option<LifeEnd>,
        began: Instant,
        epoch: u64,
        restart_due: Option<Instant>,
    ) -> Step {
        match wish {
            // Whatever it ended with, nothing begins again during a shutdown.
            _ if self.shared.tracker.is_closed() => Step::Leave,
            Some(Wish::Leave) => Step::Leave,
            Some(Wish::Stop) => self.stopped(TaskState::Stopped),
            Some(Wish::Pause) => self.paused(),
            Some(Wish::GiveUp(why)) => self.gave_up(why),
            Some(Wish::Yield(Yield { stays_down: true, .. })) => self.stopped(TaskState::Stopped),
            Some(Wish::Yield(Yield { reason, .. })) => Step::Await(Some(reason)),
            // A stall is the task's fault and counts against its limit; a request does not.
            Some(Wish::Restart(reason))
                if reason.counts() && self.supervised.spec.policy == RestartPolicy::Never =>
            {
                self.gave_up("not to be restarted after it stalled")
            }
            Some(Wish::Restart(reason)) if reason.counts() && self.limit_reached() => {
                self.gave_up("stalled too often")
            }
            Some(Wish::Restart(reason)) => Step::Await(Some(reason)),
            None => match restart_due {
                // Promised to whoever asked for it: it takes place though the run ended before it was due.
                Some(until) => Step::Backoff { until, reason: RestartReason::Requested },
                None => self.decide(end, began, epoch),
            },
        }
    }

    /// What follows a life that ended by itself.
    fn decide(&mut self, end: Option<LifeEnd>, began: Instant, epoch: u64) -> Step {
        let spec = self.supervised.spec.clone();
        let exit = end.as_ref().map_or(Exit::Cancellation, |end| end.exit.clone());
        if end.as_ref().is_some_and(|end| end.finished) {
            return self.stopped(TaskState::Finished);
        }
        match spec.policy.judge(&exit) {
            Verdict::Finished => self.stopped(TaskState::Finished),
            Verdict::Stopped => self.stopped(TaskState::Stopped),
            Verdict::Failed => self.gave_up("not to be restarted after this"),
            // A loop that is held: it begins anew when somebody resumes it.
            Verdict::Restart(_) if self.supervised.state() == TaskState::Paused => {
                Step::Rest(TaskState::Paused)
            }
            // Another member took it along just when it failed: one restart, and not of its own.
            Verdict::Restart(_) if self.is_taken_along(epoch) => {
                if self.shared.stays_down(&self.supervised) {
                    self.stopped(TaskState::Stopped)
                } else {
                    Step::Await(Some(RestartReason::Group))
                }
            }
            Verdict::Restart(_) if self.limit_reached() => self.gave_up("restarted too often"),
            Verdict::Restart(reason) => {
                let random = (self.shared.settings.random)();
                let before = self.before();
                if spec.backoff.resets_after(began.elapsed()) {
                    (before.attempt, before.delay) = (0, Duration::ZERO);
                }
                let delay = spec.backoff.delay(before.attempt, before.delay, random);
                let until = later(Instant::now(), delay);
                match self.group_restart(epoch, until, reason) {
                    GroupRestart::LimitReached => self.gave_up(GROUP_LIMIT),
                    GroupRestart::Stopped => self.stopped(TaskState::Stopped),
                    GroupRestart::UnderWay => Step::Await(Some(RestartReason::Group)),
                    GroupRestart::Begins => {
                        let before = self.before();
                        before.attempt = before.attempt.saturating_add(1);
                        before.delay = delay;
                        self.tell(|| TaskEventKind::BackingOff { reason, delay });
                        Step::Backoff { until, reason }
                    }
                }
            }
        }
    }

    /// Whether the group wants a life of this epoch to end.
    fn is_taken_along(&self, epoch: u64) -> bool {
        self.supervised.links.membership().is_some_and(|membership| membership.epoch() > epoch)
    }

    /// Notes what becomes of it at shutdown.
    fn note(&self, outcome: ShutdownOutcome) {
        self.shared.tracker.note_driver(&self.supervised, outcome);
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

    fn note_start(&self, restart: Option<RestartReason>, generation: u64) {
        let identity = &self.supervised.task.identity;
        let began = || TaskEventKind::Started { restart };
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        let Some(reason) = restart else {
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
        self.supervised.task.cell.restarted(reason, self.shared.recorder.now(), SystemTime::now());
        self.tell(began);
        with_trace(context_of(self.last_run()), || {
            tracing::event!(
                name: record::RESTARTED, target: SCOPE, parent: None, tracing::Level::WARN,
                { key::NAME } = &*identity.name, { key::COMPONENT } = identity.component.as_deref(),
                { key::GENERATION } = generation, { key::RESTART_REASON } = reason.as_str(),
                "task {} restarted: {}", identity.name, reason.as_str(),
            );
        });
    }

    fn stopped(&self, state: TaskState) -> Step {
        self.tell(|| match state {
            TaskState::Finished => TaskEventKind::Finished,
            _ => TaskEventKind::Stopped,
        });
        self.log_rest(state);
        Step::Rest(state)
    }

    fn paused(&self) -> Step {
        self.tell_pause();
        Step::Rest(TaskState::Paused)
    }

    fn tell_pause(&self) {
        self.tell(|| TaskEventKind::Paused);
        self.log_rest(TaskState::Paused);
    }

    fn log_rest(&self, state: TaskState) {
        let identity = &self.supervised.task.identity;
        with_trace(context_of(self.last_run()), || {
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
        with_trace(context_of(self.last_run()), || {
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
        if let Some(membership) = self.supervised.links.membership().filter(|_| {
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
        self.tell_exit(|| Exit::Cancellation);
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
        self.shared.tracker.leave_driver(&self.supervised);
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

fn context_of(span: Option<&SpanContext>) -> Option<opentelemetry::Context> {
    use opentelemetry::trace::TraceContextExt;
    span.map(|span| opentelemetry::Context::new().with_remote_span_context(span.clone()))
}
