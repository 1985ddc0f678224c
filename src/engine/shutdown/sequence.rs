//! The ordered shutdown: the intake first, then admission and timers closed, then stage by stage, under one deadline.
//!
//! Stages are the pairs of category and priority, in [`TaskCategory::SHUTDOWN_ORDER`] and lowest priority first. A task with
//! dependents stops after them. Only stages with something alive take time.
//!
//! Each stage is requested to stop, and has an equal share of the rest of the deadline. When the share is over, the next stage is requested
//! too, and the earlier one may continue until shortly before the deadline. A task with dependents is held until they are gone, or until
//! shortly before the deadline. Then it is requested to stop, and has a moment to end. Then everything left is dropped. A task
//! that cannot be dropped, because it blocks its thread, is reported as leaked.
//!
//! The shutdown is a state machine with two drivers ([`Sequence::advance`]). A task on the runtime is woken when a
//! member leaves or a time has come. The watchdog's thread calls it at each of its ticks. So the deadline is met even if all threads of the
//! runtime are blocked: the watchdog requests, drops, and writes the report.
//!
//! [`TaskCategory::SHUTDOWN_ORDER`]: crate::TaskCategory::SHUTDOWN_ORDER

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant, SystemTime},
};

use opentelemetry::{KeyValue, Value};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    contract::attribute,
    emit::{ManagedSpan, SpanParent, aside, with_trace},
    engine::{
        Order, Shared, ShutdownCause, ShutdownReport, Supervised, TaskEventKind, announce, is_current, later,
        observe::manager_span::{ManagerSpans, set_names},
        shutdown::{
            drain::RUNTIMES_TURN,
            topology::Position,
            tracker::{Admission, Asked, INTAKE_STAGE, Kind, Rank, Tracker, stage_of_task},
        },
    },
    gate::Gate,
    policy::ShutdownOutcome,
    run::{Guarded, catch},
    watchdog::{self, MemberId},
};

/// The part of the deadline that a drain leaves to the ordered shutdown.
const ORDERED_SHARE: u32 = 10;
/// The part of the deadline that is kept for dropping what did not end by itself.
const ABORT_SHARE: u32 = 10;
/// The least that is allowed for it, past the deadline if need be.
const ABORT_MOMENT: Duration = Duration::from_millis(10);
/// The longest time without a dropped task while others are still dropped, and the least if no time is left. It is the period in which
/// Linux accounts a container's processor time (`cpu.cfs_period_us`): a throttled process drops nothing for up to one period.
const ABORT_PAUSE: Duration = Duration::from_millis(100);
/// The most that is kept for it.
const ABORT_RESERVE: Duration = Duration::from_secs(1);
/// The time for which a waiter may receive the report before the last resort: after it, the waiter's thread counts as blocked. A waiter
/// that does something else at the same time, such as flushing a file, is not.
pub(super) const LAST_RESORT_AFTER: Duration = Duration::from_secs(2);
/// The longest time that the shutdown waits for its own spans and records.
const TELEMETRY_WITHIN: Duration = Duration::from_millis(500);
/// The longest wait for gates that give back what tasks held: after the report, and after an `unregister`.
const GATES_MOMENT: Duration = Duration::from_secs(1);
/// The interval of the watchdog's checks during a shutdown.
pub(crate) const SHUTDOWN_TICK: Duration = Duration::from_millis(10);

/// A shutdown that has begun.
pub(crate) struct Sequence {
    deadline: Duration,
    drained: Duration,
    cause: Option<ShutdownCause>,
    /// The gates of all tasks that there were when it began: each caller waits for them.
    gates: Vec<Arc<dyn Gate>>,
    report: watch::Sender<Option<Arc<ShutdownReport>>>,
    state: Mutex<State>,
    /// Locked only on threads that may block.
    spans: Arc<Mutex<Spans>>,
    /// True if a span or a record did not come in time: no later one is waited for.
    is_late: AtomicBool,
    /// Set by the writer of the report.
    finished: AtomicBool,
    /// Callers that wait for the report.
    waiting: AtomicUsize,
    /// True if one of them has it.
    delivered: AtomicBool,
    watched: Mutex<Watched>,
}

/// The observations of the watchdog, in real time. Written and read by its thread alone.
#[derive(Default)]
struct Watched {
    /// Since when something has been due that the runtime has not done.
    due_since: Option<StdInstant>,
    /// The time at which the report was there.
    reported_at: Option<StdInstant>,
}

/// The spans of the shutdown: if a subscriber panics, the spans of that call are lost.
#[derive(Default)]
struct Spans {
    cleanup: Option<ManagedSpan>,
    cancel: Option<ManagedSpan>,
}

struct State {
    phase: Phase,
    /// The time of the request for the shutdown: the start of the drain, if there was one.
    began: Instant,
    abort_at: Instant,
    end: Instant,
    /// The time at which the graces of spawned runs are over, the soonest first. A registered task's driver keeps its own.
    graces: Vec<(Instant, Rank, Duration)>,
    /// Positions before this one are those of the intake.
    intake: Rank,
    /// True if the intake is over, and all other tasks are requested to stop stage by stage.
    staged: bool,
    /// The dependents of a task, and the later members of its group.
    dependents: Dependents,
    /// Tasks whose position has been asked, and that stay until their dependents are gone.
    held: Vec<Arc<Supervised>>,
}

/// For each task its dependents.
pub(crate) type Dependents = HashMap<MemberId, Vec<Arc<Supervised>>>;

impl State {
    /// Returns true if a task stays for its dependents. What a dependent owns counts as the dependent, whose driver waits for it.
    fn is_held(&self, task: &Supervised) -> bool {
        let dependents = self.dependents.get(&task.place.id()).into_iter().flatten();
        dependents.into_iter().any(|dependent| !dependent.place.is_out())
    }

    /// The tasks at a position that are held for their dependents.
    fn held_at(&self, tracker: &Tracker, rank: Rank) -> Vec<Arc<Supervised>> {
        if self.dependents.is_empty() {
            return Vec::new();
        }
        tracker.drivers(|driver| driver.place.is_waited_for_at(rank) && self.is_held(driver))
    }

    /// Returns true if the members at a position are gone, or stay for their dependents: waiting for them gains nothing.
    fn is_over(&self, tracker: &Tracker, rank: Rank) -> bool {
        let held = self.held.iter().filter(|task| task.place.is_waited_for_at(rank)).count();
        tracker.left_at(rank) <= held
    }

    /// The held tasks whose dependents are gone.
    fn take_released(&mut self) -> Vec<Arc<Supervised>> {
        let held = std::mem::take(&mut self.held);
        let (held, released) = held.into_iter().partition(|task| self.is_held(task));
        self.held = held;
        released
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Not planned yet.
    Beginning,
    /// Stages from this position on are still to be asked.
    Asking(Rank),
    /// Those at this position were asked, and are waited for until then.
    Waiting(Rank, Instant),
    /// All were asked.
    Asked,
    /// All members but those held for their dependents were dropped. The held ones were requested to stop, and are waited for until then.
    LastAsked(Instant),
    /// The rest was dropped, and is waited for until then. If fewer than `left` are left then, it is waited for longer, up to the limit.
    Dropped {
        until: Instant,
        left: usize,
        limit: Instant,
    },
    Done,
}

/// Shuts down once; every caller gets the same report. A caller that is a member itself is not waited for.
///
/// # Cancel safety
/// The shutdown runs on the runtime, not in the caller: a caller that is dropped does not interrupt it.
pub(crate) async fn shutdown(shared: &Arc<Shared>) -> Arc<ShutdownReport> {
    shutdown_after(shared, Duration::ZERO).await
}

/// Drains for this time, then shuts down, as [`shutdown`] does.
///
/// # Cancel safety
/// As [`shutdown`].
pub(crate) async fn shutdown_after(shared: &Arc<Shared>, drain: Duration) -> Arc<ShutdownReport> {
    let asking = watchdog::polled_here().and_then(|id| Asking::new(shared, id));
    if drain.is_zero() {
        begin(shared, None);
    } else {
        begin_drain(shared, drain);
        let _awaited = Awaited::new(shared);
        // The sender lives in `shared`, so the wait cannot fail.
        let _ = shared.begun.subscribe().wait_for(|begun| *begun).await;
    }
    let sequence = begin(shared, None);
    sequence.waiting.fetch_add(1, SeqCst);
    let _waits = Waits(&sequence.waiting);
    let mut report = sequence.report.subscribe();
    // The sender lives in `sequence`, so the wait cannot fail.
    let ended = report.wait_for(Option::is_some).await.ok().and_then(|report| report.clone());
    drop(asking);
    sequence.delivered.store(true, SeqCst);
    settle(&sequence.gates).await;
    ended.unwrap_or_else(|| sequence.make_report(shared))
}

/// The gates of these tasks.
pub(crate) fn gates_of(tasks: &[Arc<Supervised>]) -> Vec<Arc<dyn Gate>> {
    tasks.iter().filter_map(|task| task.body.gated()).map(|gated| gated.gate().clone()).collect()
}

/// Waits for the gates of tasks that are gone. A task that calls this itself is not waited for.
pub(crate) async fn until_released(shared: &Shared, tasks: &[Arc<Supervised>]) {
    let gates = gates_of(tasks);
    if gates.is_empty() || tasks.iter().any(|task| is_current(shared, task)) {
        return;
    }
    if let Some(runtime) = shared.existing_runtime() {
        // The caller may be on another runtime, without a timer.
        let _ = runtime.spawn(async move { settle(&gates).await }).await;
    }
}

/// Waits for the gates, so that other replicas learn at once that they are free, before the process ends.
async fn settle(gates: &[Arc<dyn Gate>]) {
    let all = async {
        for gate in gates {
            if let Err(panic) = Guarded::new(true, gate.settled()).await {
                announce::callback_panicked("a gate", panic);
            }
        }
    };
    if !gates.is_empty() {
        let _ = timeout(GATES_MOMENT, all).await;
    }
}

/// Drains for this time, then begins the ordered shutdown. A drain that has begun can only become shorter; a shutdown that has begun
/// is not changed.
fn begin_drain(shared: &Arc<Shared>, drain: Duration) {
    let deadline = shared.settings.shutdown_deadline;
    let drain = drain.min(deadline - deadline / ORDERED_SHARE);
    if drain.is_zero() {
        begin(shared, None);
        return;
    }
    let runtime = shared.runtime();
    // For the clock.
    let _inside = runtime.handle.enter();
    let began = Instant::now();
    let weak = Arc::downgrade(shared);
    let finish = move || {
        weak.upgrade().inspect(|shared| drop(begin(shared, None)));
    };
    let Some(first) = shared.drain.begin(began, later(began, drain), finish) else { return };
    let wall = SystemTime::now();
    announce::draining(&shared.events, drain, wall.checked_add(drain).unwrap_or(wall));
    if first {
        #[cfg(all(feature = "systemd", unix))]
        shared.stopping();
        let shared = shared.clone();
        runtime.spawn(async move {
            while let Some(until) = shared.drain.until() {
                if until <= Instant::now() {
                    break;
                }
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = shared.drain.moved() => {}
                }
            }
            begin(&shared, None);
        });
    }
}

/// A caller that waits for a signal, and for the report then.
pub(crate) struct Awaited<'a> {
    _waits: Waits<'a>,
}

impl<'a> Awaited<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        shared.awaited.fetch_add(1, SeqCst);
        Self { _waits: Waits(&shared.awaited) }
    }
}

struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// A member that waits for the shutdown; dropped before that is over, it is waited for like any other.
struct Asking<'a> {
    shared: &'a Arc<Shared>,
    id: MemberId,
}

impl<'a> Asking<'a> {
    fn new(shared: &'a Arc<Shared>, id: MemberId) -> Option<Self> {
        shared.tracker.set_asking(id, true).then_some(Self { shared, id })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.shared.tracker.set_asking(self.id, false);
        if self.shared.sequence.get().is_some_and(|sequence| sequence.report.borrow().is_none()) {
            let tracker = &self.shared.tracker;
            let is_it = |driver: &Supervised| driver.place.id() == self.id && !driver.place.is_out();
            tracker.drivers(is_it).iter().for_each(Supervised::call);
            stop(&tracker.to_ask(|id, _| id == self.id));
        }
    }
}

/// Closes admission and begins the shutdown, unless it has begun already.
pub(crate) fn begin(shared: &Arc<Shared>, cause: Option<ShutdownCause>) -> Arc<Sequence> {
    let runtime = shared.runtime();
    // For the clock.
    let _inside = runtime.handle.enter();
    let mut first = false;
    let sequence = shared.sequence.get_or_init(|| {
        first = true;
        shared.begin_to_close();
        let drained_from = shared.drain.end();
        // No task comes any more, and none has left yet.
        let gates = gates_of(&shared.tracker.drivers_of(Kind::Gated));
        Arc::new(Sequence::new(shared.settings.shutdown_deadline, drained_from, cause, gates))
    });
    if first {
        sequence.start(shared);
        let (shared, sequence) = (shared.clone(), sequence.clone());
        runtime.spawn(async move {
            loop {
                let left = shared.tracker.next_leaving();
                tokio::pin!(left);
                // Enabled before the check: a member that leaves in between still wakes this future.
                left.as_mut().enable();
                let Some(next) = sequence.advance(&shared, Instant::now()) else { break };
                tokio::select! {
                    () = left => {}
                    () = sleep_until(next) => {}
                }
            }
            sequence.finish(&shared);
        });
    }
    sequence.clone()
}

/// Begins the drain, or the ordered shutdown without one, in place of a caller that is blocked.
pub(super) fn begin_unheard(shared: &Arc<Shared>, drain: Duration) {
    if drain.is_zero() {
        begin(shared, None);
    } else {
        begin_drain(shared, drain);
    }
}

/// Drops at once what the shutdown still waits for, and begins one where none has begun.
pub(crate) fn abort(shared: &Arc<Shared>) {
    let sequence = begin(shared, None);
    let runtime = shared.runtime();
    let _inside = runtime.handle.enter();
    {
        let mut state = sequence.state();
        let now = Instant::now();
        state.abort_at = state.abort_at.min(now);
        state.end = state.end.min(now);
    }
    if sequence.advance(shared, Instant::now()).is_none() {
        sequence.finish(shared);
    }
    shared.tracker.wake();
}

/// Drops whatever is left. Not under a lock: destructors are the user's code.
fn drop_all(tracker: &Tracker) {
    tracker.drivers(|_| true).iter().for_each(|driver| {
        driver.order(Order::Kill);
    });
    tracker.abort_runs(|_, _| true);
}

/// Asks the spawned runs. Not under a lock: wakers may be the user's code.
fn stop(asked: &Asked) {
    asked.tokens.iter().for_each(tokio_util::sync::CancellationToken::cancel);
}

impl Sequence {
    fn new(
        deadline: Duration,
        drained_from: Option<Instant>,
        cause: Option<ShutdownCause>,
        gates: Vec<Arc<dyn Gate>>,
    ) -> Self {
        let now = Instant::now();
        let began = drained_from.unwrap_or(now);
        let drained = now.saturating_duration_since(began);
        let end = later(began, deadline);
        let left = end.saturating_duration_since(now);
        let reserve = (left / ABORT_SHARE).min(ABORT_RESERVE);
        Self {
            deadline,
            drained,
            cause,
            gates,
            report: watch::Sender::new(None),
            state: Mutex::new(State {
                phase: Phase::Beginning,
                began,
                abort_at: later(now, left - reserve),
                end,
                graces: Vec::new(),
                intake: 0,
                staged: false,
                dependents: Dependents::new(),
                held: Vec::new(),
            }),
            spans: Arc::default(),
            is_late: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            delivered: AtomicBool::new(false),
            watched: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, shared: &Arc<Shared>) {
        shared.stop_monitor();
        shared.events.tell(None, 0, || TaskEventKind::ShutdownBegan);
        shared.begun.send_replace(true);
        #[cfg(all(feature = "systemd", unix))]
        shared.stopping();
        let begin = shared.manager_spans();
        self.aside(move |spans| spans.cleanup = Some(begin.span("cleanup_tasks", SpanParent::Root)));
        let positions = shared.positions();
        let began = self.state().began;
        let has_intake = if positions.put_off.is_empty() {
            !shared.tracker.drivers_of(Kind::Intake).is_empty()
        } else {
            positions.put_off.values().any(|(stage, _)| *stage == INTAKE_STAGE)
        };
        if !has_intake {
            self.begin_stages(shared);
        }
        let intake = has_intake.then_some((INTAKE_STAGE, 0));
        let others = positions.put_off.values().copied().chain(intake);
        shared.tracker.plan(began, others, |supervised| positions.of(supervised));
        let mut state = self.state();
        state.dependents = positions.dependents;
        state.intake = shared.tracker.intake_ranks();
        state.staged = !has_intake;
        state.phase = Phase::Asking(0);
        drop(state);
        shared.watch_closely();
    }

    /// Emits spans and records of the shutdown. The subscriber is not ours: nothing that it does holds up the shutdown for longer than
    /// [`TELEMETRY_WITHIN`].
    fn aside(&self, emit: impl FnOnce(&mut Spans) + Send + 'static) {
        let spans = self.spans.clone();
        let emit = move || {
            let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = catch(false, || emit(&mut spans));
        };
        let limit = if self.is_late.load(SeqCst) { Duration::ZERO } else { TELEMETRY_WITHIN };
        if !aside(limit, Box::new(emit)) {
            self.is_late.store(true, SeqCst);
        }
    }

    /// The time at which the shutdown must be over.
    pub(super) fn end(&self) -> Instant {
        self.state().end
    }

    /// The intake is over, or there is none: what no task owns is refused, and the loops are asked.
    fn begin_stages(&self, shared: &Shared) {
        shared.tracker.close(Admission::OwnedRuns);
        let loops = stop_task_loops(shared);
        let (begin, tracker) = (shared.manager_spans(), shared.tracker.clone());
        self.aside(move |spans| spans.begin_stages(&begin, &tracker, loops));
    }

    /// Performs the actions that are due at `now`. Returns the time of the next action, or `None` if only
    /// [`Sequence::finish`] is left.
    pub(crate) fn advance(&self, shared: &Shared, now: Instant) -> Option<Instant> {
        let tracker = &shared.tracker;
        loop {
            let mut state = self.state();
            if state.phase == Phase::Beginning {
                return Some(now + SHUTDOWN_TICK);
            }
            while let Some((_, rank, grace)) = state.graces.first().copied().filter(|(over, ..)| *over <= now)
            {
                state.graces.remove(0);
                tracker.abort_runs(|of_run, its_grace| of_run == Some(rank) && its_grace == Some(grace));
            }
            let released = state.take_released();
            if !released.is_empty() {
                drop(state);
                ask_held(shared, &released);
                continue;
            }
            let next_grace = state.graces.first().map(|(over, ..)| *over);
            let until = match state.phase {
                Phase::Beginning | Phase::Done => return None,
                Phase::Asking(from)
                    if !state.staged
                        && tracker.next_rank(from).is_none_or(|(rank, _)| rank >= state.intake) =>
                {
                    // No other driver continues meanwhile.
                    (state.staged, state.phase) = (true, Phase::Beginning);
                    let intake = state.intake;
                    drop(state);
                    self.begin_stages(shared);
                    tracker.plan_runs();
                    self.state().phase = Phase::Asking(from.max(intake));
                    continue;
                }
                Phase::Asking(from) => {
                    let Some((rank, stages)) = tracker.next_rank(from) else {
                        tracker.over_before(usize::MAX);
                        state.phase = Phase::Asked;
                        continue;
                    };
                    tracker.over_before(rank);
                    let left = state.abort_at.saturating_duration_since(now);
                    let share = left / u32::try_from(stages).unwrap_or(u32::MAX);
                    let asked = tracker.to_ask(|_, of_member| of_member == Some(rank));
                    let held = state.held_at(tracker, rank);
                    let is_held: HashSet<_> = held.iter().map(Arc::as_ptr).collect();
                    if !held.is_empty() {
                        tracker.hold(rank, held.len());
                    }
                    state.phase = Phase::Waiting(rank, now + share);
                    state.held.extend(held);
                    state.graces.extend(asked.graces.iter().map(|grace| (later(now, *grace), rank, *grace)));
                    state.graces.sort_unstable();
                    drop(state);
                    let is_asked = |driver: &Supervised| {
                        driver.place.is_waited_for_at(rank) && !is_held.contains(&std::ptr::from_ref(driver))
                    };
                    tracker.each_driver(is_asked, Supervised::call);
                    stop(&asked);
                    continue;
                }
                Phase::Waiting(rank, until) => {
                    if state.is_over(tracker, rank) || now >= until.min(state.abort_at) {
                        state.phase = Phase::Asking(rank + 1);
                        continue;
                    }
                    until.min(state.abort_at)
                }
                Phase::Asked => {
                    if tracker.is_emptied(None) {
                        state.phase = Phase::Done;
                        continue;
                    }
                    if now >= state.abort_at {
                        tracker.close(Admission::Nothing);
                        let until = now + state.end.saturating_duration_since(now) / 2;
                        if !state.held.is_empty() && until > now {
                            state.phase = Phase::LastAsked(until);
                            let held = std::mem::take(&mut state.held);
                            drop(state);
                            let is_held =
                                |driver: &Supervised| held.iter().any(|held| std::ptr::eq(&**held, driver));
                            tracker.drivers(|driver| !is_held(driver)).iter().for_each(|driver| {
                                driver.order(Order::Kill);
                            });
                            tracker.abort_runs_but_of(&held);
                            ask_held(shared, &held);
                            continue;
                        }
                        self.drop_rest(tracker, state, now);
                        continue;
                    }
                    state.abort_at
                }
                Phase::LastAsked(until) => {
                    // It may be asked to end at once meanwhile.
                    let until = until.min(state.end);
                    if tracker.is_emptied(None) {
                        state.phase = Phase::Done;
                        continue;
                    }
                    if now >= until {
                        self.drop_rest(tracker, state, now);
                        continue;
                    }
                    until
                }
                Phase::Dropped { until, .. } if now < until && !tracker.is_emptied(None) => until,
                Phase::Dropped { left, limit, .. } => {
                    let still = tracker.left();
                    state.phase = if 0 < still && still < left && now < limit {
                        Phase::Dropped { until: now + ABORT_PAUSE, left: still, limit }
                    } else {
                        Phase::Done
                    };
                    continue;
                }
            };
            return Some(next_grace.map_or(until, |grace| grace.min(until)));
        }
    }

    /// Drops what is left. However short the deadline, what can be dropped has a moment to be, and more of them while some end.
    fn drop_rest(&self, tracker: &Tracker, mut state: MutexGuard<'_, State>, now: Instant) {
        let (end, left) = (state.end, tracker.left());
        let limit = end.max(now) + ABORT_RESERVE;
        state.phase = Phase::Dropped { until: limit, left: 0, limit };
        drop(state);
        let began = StdInstant::now();
        drop_all(tracker);
        // On a runtime with one thread, nothing else has run meanwhile.
        let took = Some(began.elapsed()).filter(|took| *took > ABORT_MOMENT).unwrap_or_default();
        let moment = if end <= now { ABORT_PAUSE } else { ABORT_MOMENT };
        let until = end.max(now + moment + took);
        self.state().phase = Phase::Dropped { until, left, limit: limit.max(until) };
    }

    /// Writes the report and ends the spans. Only the first call has an effect.
    pub(crate) fn finish(&self, shared: &Shared) {
        if self.finished.swap(true, SeqCst) {
            return;
        }
        // Nothing slips in behind the report.
        shared.tracker.close(Admission::Nothing);
        // What they hold is the user's: not dropped under the lock.
        let linked = {
            let mut state = self.state();
            (std::mem::take(&mut state.dependents), std::mem::take(&mut state.held))
        };
        drop(linked);
        let report = self.make_report(shared);
        let outcomes = ShutdownOutcome::ALL.iter().map(|&outcome| (outcome.as_str(), report.count(outcome)));
        shared.recorder.shut_down(outcomes.collect());
        let (recorder, reported) = (Arc::clone(&shared.recorder), report.clone());
        self.aside(move |spans| {
            if let Some(exposition) = &*recorder.exposition() {
                exposition.instruments.shutdown_duration.record(reported.duration.as_secs_f64(), &[]);
            }
            let Spans { cleanup, cancel } = std::mem::take(spans);
            let _ = catch(false, || cancel.map(ManagedSpan::end));
            let _ = catch(false, || cleanup.map(|cleanup| record_report(cleanup, &reported)));
        });
        shared.events.tell(None, 0, || TaskEventKind::ShutdownEnded(report.clone()));
        self.report.send_replace(Some(report));
    }

    /// The report, once it is there.
    pub(crate) fn report(&self) -> Option<Arc<ShutdownReport>> {
        self.report.borrow().clone()
    }

    pub(super) fn make_report(&self, shared: &Shared) -> Arc<ShutdownReport> {
        let (tasks, asked_by) = shared.tracker.report(&shared.lost_tasks());
        let duration = self.state().began.elapsed();
        Arc::new(ShutdownReport {
            duration,
            drained: self.drained,
            deadline: self.deadline,
            tasks,
            asked_by,
            cause: self.cause.clone(),
        })
    }

    /// Returns true if [`Sequence::advance`] would do anything.
    fn is_due(&self, shared: &Shared, now: Instant) -> bool {
        let (phase, abort_at, grace, released, is_over) = {
            let state = self.state();
            let released = state.held.iter().any(|task| !state.is_held(task));
            let is_over = match state.phase {
                Phase::Waiting(rank, _) => state.is_over(&shared.tracker, rank),
                _ => false,
            };
            (state.phase, state.abort_at, state.graces.first().map(|(over, ..)| *over), released, is_over)
        };
        let due = match phase {
            Phase::Beginning => false,
            Phase::Asking(_) | Phase::Done => true,
            Phase::Waiting(_, until) => is_over || now >= until.min(abort_at),
            Phase::Asked => now >= abort_at || shared.tracker.is_emptied(None),
            Phase::LastAsked(until) | Phase::Dropped { until, .. } => {
                now >= until || shared.tracker.is_emptied(None)
            }
        };
        due || released || grace.is_some_and(|over| over <= now)
    }

    /// The watchdog's part: performs the actions that the runtime has not performed for [`RUNTIMES_TURN`], including the report. It calls the
    /// last resort if no caller can receive the report. `now` is the runtime's clock, `tick` the real one.
    pub(crate) fn watch(&self, shared: &Shared, now: Instant, tick: StdInstant) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let report = self.report.borrow().clone();
        let Some(report) = report else {
            if !self.is_due(shared, now) {
                watched.due_since = None;
            } else if tick.saturating_duration_since(*watched.due_since.get_or_insert(tick)) >= RUNTIMES_TURN
            {
                drop(watched);
                if self.advance(shared, now).is_none() {
                    self.finish(shared);
                }
            }
            return;
        };
        let since = *watched.reported_at.get_or_insert(tick);
        let undelivered = !self.delivered.load(SeqCst) && self.is_awaited(shared);
        if undelivered && tick.saturating_duration_since(since) >= LAST_RESORT_AFTER {
            self.delivered.store(true, SeqCst);
            drop(watched);
            if let Some(panic) = shared.settings.last_resort.run(&report) {
                announce::callback_panicked("the last resort", panic);
            }
        }
    }

    /// Returns true if somebody waits for the report.
    pub(super) fn is_awaited(&self, shared: &Shared) -> bool {
        self.waiting.load(SeqCst) > 0 || shared.awaited.load(SeqCst) > 0
    }

    /// Returns true if the watchdog has nothing left to do.
    pub(crate) fn is_over(&self, shared: &Shared) -> bool {
        self.report.borrow().is_some() && (self.delivered.load(SeqCst) || !self.is_awaited(shared))
    }
}

impl Spans {
    fn begin_stages(&mut self, begin: &ManagerSpans, tracker: &Tracker, loops_stopped: i64) {
        let Some(cleanup) = &self.cleanup else { return };
        let inside = |work| {
            let _entered = cleanup.enter();
            begin.span(work, SpanParent::Current)
        };
        let stop_loops = inside("stop_task_loops");
        stop_loops.set_attribute(KeyValue::new(attribute::LOOPS_STOPPED, loops_stopped));
        stop_loops.end();
        let cancel = self.cancel.insert(inside("cancel_tasks"));
        // Only where somebody sees them: there may be many.
        if cancel.otel_context().is_some() {
            set_names(cancel, &tracker.names());
        }
    }
}

/// Asks tasks that were held for their dependents. They are not late, though their position is over.
fn ask_held(shared: &Shared, held: &[Arc<Supervised>]) {
    for task in held {
        shared.tracker.note_driver(task, ShutdownOutcome::Clean);
        task.call();
    }
}

/// Requests every loop to stop: sleeping loops end at once, the others after the current iteration. Returns their number.
fn stop_task_loops(shared: &Shared) -> i64 {
    let mut stopped = 0;
    for task in shared.tracker.drivers_of(Kind::Loop) {
        // A loop with dependents waits for them like any other task.
        if !shared.is_rested_on(&task) {
            task.call();
            stopped += 1;
        }
    }
    stopped
}

/// The position of each driver that is not in its own stage.
#[derive(Default)]
pub(crate) struct Positions {
    pub(crate) put_off: HashMap<*const Supervised, Position>,
    pub(crate) dependents: Dependents,
}

impl Positions {
    fn of(&self, supervised: &Supervised) -> Position {
        let held = self.put_off.get(&std::ptr::from_ref(supervised));
        held.copied().unwrap_or_else(|| (stage_of_task(supervised), 0))
    }
}

fn record_report(span: ManagedSpan, report: &ShutdownReport) {
    let is_exported = span.otel_context().is_some();
    for outcome in ShutdownOutcome::ALL.iter().copied().filter(|_| is_exported) {
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
    if let Some(cause) = &report.cause {
        span.fail(&cause.to_string());
    } else if stuck > 0 {
        span.fail(&format!("{stuck} tasks did not end by themselves"));
    }
    let context = span.otel_context();
    // Before the records: a subscriber that blocks in one of them must not keep the span.
    span.end();
    with_trace(context, || {
        for task in report.tasks.iter().filter(|task| task.outcome.is_forced()) {
            announce::not_stopped(&task.name, task.outcome);
        }
    });
}
