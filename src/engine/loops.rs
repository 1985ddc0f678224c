//! Task loops: a body that runs again and again, each iteration a run of its own.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use opentelemetry::trace::SpanContext;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Factory, Life, LifeEnd, Order, Supervised, TaskContext, later, spec, supervised::Untold};
use crate::{
    cell::SkipReason,
    policy::{Exit, TaskOutput},
    run::{Begin, Ended, Guarded, Run},
    telemetry::{
        DelaySeries,
        contract::{SCOPE, key, record},
        with_trace,
    },
};

type Hook<I, T> = Arc<dyn Fn(I) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;

/// Erases a hook. It is called inside the future, so that it panics where that is caught.
fn erase_hook<I, Fut>(hook: impl Fn(I) -> Fut + Send + Sync + 'static) -> Hook<I, Fut::Output>
where
    I: Send + 'static,
    Fut: Future + Send + 'static,
{
    let hook = Arc::new(hook);
    Arc::new(move |input| {
        let hook = hook.clone();
        Box::pin(async move { hook(input).await })
    })
}

/// A body that runs at a fixed interval. Register it as
/// [`CriticalTaskConfig::from_loop`](crate::CriticalTaskConfig::from_loop); control it through its [`LoopHandle`].
///
/// The first iteration runs at once. Iterations are planned at fixed distances from the first and never overlap; one whose
/// time passes while the one before still runs is skipped and counted, and the rhythm is kept. A failed iteration ends the
/// loop's life, and the restart policy decides, unless [`on_error`](Self::on_error) says to go on. A loop that reached its
/// [`count`](Self::count) or was [stopped](LoopHandle::stop) is finished and never restarted by itself.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager};
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::RegisterError> {
/// let tasks = TaskManager::builder().build();
/// let ticker = TaskLoop::every(Duration::from_secs(5), |ctx| async move {
///     println!("iteration {:?}", ctx.iteration());
/// })
/// .count(3);
/// let handle = ticker.handle();
/// tasks.register_critical_task(CriticalTaskConfig::from_loop("ticker", ticker))?;
/// tasks.start();
/// tokio::time::sleep(Duration::from_secs(11)).await;
/// assert_eq!((handle.current_iteration(), handle.is_running()), (3, false));
/// # Ok(()) }
/// ```
pub struct TaskLoop {
    pub(crate) body: LoopBody,
    pub(crate) error_type: Option<(std::any::TypeId, &'static str)>,
}

/// A figure that makes no loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopError {
    /// An interval of zero.
    ZeroInterval,
    /// A count of zero.
    ZeroCount,
}

impl std::fmt::Display for LoopError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ZeroInterval => "the interval of a loop must be longer than zero",
            Self::ZeroCount => "the count of a loop must be at least 1",
        })
    }
}

impl std::error::Error for LoopError {}

/// What an error hook decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Go on with the next iteration.
    Continue,
    /// End this life of the loop with the error; the restart policy decides what follows.
    End,
}

/// How an iteration ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoopOutcome {
    /// Its number, from 1.
    pub iteration: u64,
    /// How it ended.
    pub exit: Exit,
    /// How long it took.
    pub duration: Duration,
}

impl TaskLoop {
    /// A loop that runs `body` every `interval`, the first time at once.
    ///
    /// An interval of zero is refused when the loop is registered.
    pub fn every<F, Fut>(interval: Duration, body: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput + 'static,
    {
        let control = Arc::new(Control {
            state: Mutex::new(State { interval, ..State::default() }),
            changed: Changed::default(),
            supervised: Mutex::default(),
        });
        let body = LoopBody {
            factory: spec::erase(body),
            control,
            count: None,
            before_loop: None,
            after_loop: None,
            after_iteration: None,
            on_error: None,
        };
        Self { body, error_type: spec::error_type_of::<Fut::Output>() }
    }

    /// Finishes the loop after so many iterations; 0 is refused when the loop is registered.
    #[must_use]
    pub fn count(mut self, iterations: u64) -> Self {
        self.body.count = Some(iterations);
        self
    }

    /// Awaited before the first iteration of each life; dropped when the task is asked to stop. A panic in it is logged and
    /// ignored.
    #[must_use]
    pub fn before_loop<Fut>(mut self, hook: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.body.before_loop = Some(erase_hook(move |()| hook()));
        self
    }

    /// Awaited after the last iteration of each life, unless the life is dropped. A panic in it is logged and ignored.
    #[must_use]
    pub fn after_loop<Fut>(mut self, hook: impl Fn() -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.body.after_loop = Some(erase_hook(move |()| hook()));
        self
    }

    /// Awaited after each iteration, before the next one is waited for. A panic in it is logged and ignored.
    #[must_use]
    pub fn after_iteration<Fut>(mut self, hook: impl Fn(LoopOutcome) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.body.after_iteration = Some(erase_hook(hook));
        self
    }

    /// Awaited when an iteration fails, panics or times out; decides whether the loop goes on. A panic in it is logged and
    /// counts as [`OnError::End`].
    #[must_use]
    pub fn on_error<Fut>(mut self, hook: impl Fn(LoopOutcome) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = OnError> + Send + 'static,
    {
        self.body.on_error = Some(erase_hook(hook));
        self
    }

    /// A handle to control the loop once it is registered.
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { control: self.body.control.clone() }
    }

    pub(crate) fn check(&self) -> Result<(), LoopError> {
        if self.body.control.state().interval.is_zero() {
            return Err(LoopError::ZeroInterval);
        }
        if self.body.count == Some(0) { Err(LoopError::ZeroCount) } else { Ok(()) }
    }
}

impl std::fmt::Debug for TaskLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskLoop")
            .field("interval", &self.body.control.state().interval)
            .field("count", &self.body.count)
            .finish_non_exhaustive()
    }
}

/// Controls a [`TaskLoop`]. Clones control the same loop.
#[derive(Clone)]
pub struct LoopHandle {
    control: Arc<Control>,
}

/// Why a loop did not obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoopControlError {
    /// The loop is not registered, or no longer, or its manager has shut down.
    NotRegistered,
    /// The new interval is zero; the old one stays.
    ZeroInterval,
}

impl std::fmt::Display for LoopControlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotRegistered => "the loop is not registered with a manager",
            Self::ZeroInterval => "the interval of a loop must be longer than zero",
        })
    }
}

impl std::error::Error for LoopControlError {}

impl LoopHandle {
    /// Finishes the loop after the iteration under way; one that sleeps wakes and finishes at once; one that waits for its
    /// start or restart is stopped and does not begin by itself. Without effect on a loop that has ended.
    pub fn stop(&self) {
        let running = {
            let mut state = self.control.state();
            state.stop_requested = state.running;
            state.running
        };
        if running {
            self.control.changed.tell();
        } else {
            // A loop that is not registered has nothing to stop.
            let _ = self.control.order(Order::Stop { grace: spec::DEFAULT_STOP_GRACE });
        }
    }

    /// Ends the loop now, dropping the iteration under way.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn cancel(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Stop { grace: Duration::ZERO })
    }

    /// Ends this life of the loop, after the iteration under way had its grace, and begins a new one with iteration 1.
    ///
    /// # Errors
    /// [`LoopControlError::NotRegistered`].
    pub fn restart(&self) -> Result<(), LoopControlError> {
        self.control.order(Order::Restart { after: Duration::ZERO })
    }

    /// Changes the interval. A sleeping loop counts it from the iteration before (and runs at once where that is past); a
    /// running or not yet started one from the present or first iteration on.
    ///
    /// # Errors
    /// [`LoopControlError::ZeroInterval`]; the old interval stays.
    pub fn change_interval(&self, interval: Duration) -> Result<(), LoopControlError> {
        if interval.is_zero() {
            return Err(LoopControlError::ZeroInterval);
        }
        self.control.state().interval = interval;
        self.control.changed.tell();
        Ok(())
    }

    /// The interval.
    pub fn interval(&self) -> Duration {
        self.control.state().interval
    }

    /// Whether the loop is alive: between its start and its end, asleep or not.
    pub fn is_running(&self) -> bool {
        self.control.state().running
    }

    /// Whether the last life ended with an error.
    pub fn failed(&self) -> bool {
        self.control.state().failed
    }

    /// The number of the iteration under way or, between two, of the last one; 0 before the first.
    pub fn current_iteration(&self) -> u64 {
        self.control.state().iteration
    }

    /// When the next iteration is due; `None` while one is under way and while the loop does not run.
    pub fn next_iteration(&self) -> Option<SystemTime> {
        self.control.state().next
    }

    /// How the last iteration ended.
    pub fn last_result(&self) -> Option<Exit> {
        self.control.state().last_result.clone()
    }
}

impl std::fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopHandle").field("state", &*self.control.state()).finish_non_exhaustive()
    }
}

/// What a loop and its handles share.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Changed,
    supervised: Mutex<Weak<Supervised>>,
}

#[derive(Debug, Default)]
struct State {
    interval: Duration,
    running: bool,
    failed: bool,
    stop_requested: bool,
    /// Whether no further iteration begins for the time being.
    held: bool,
    iteration: u64,
    next: Option<SystemTime>,
    last_result: Option<Exit>,
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) -> Result<(), LoopControlError> {
        let supervised = self.supervised.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let supervised = supervised.filter(|supervised| supervised.stands() && !supervised.has_left());
        supervised.ok_or(LoopControlError::NotRegistered)?.command(order);
        Ok(())
    }
}

/// Tells the life under way that its control has changed. One waits at most, and stays registered from one wait to the next.
#[derive(Default)]
struct Changed(Mutex<(bool, Option<Waker>)>);

impl Changed {
    fn held(&self) -> MutexGuard<'_, (bool, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kept until somebody looks.
    fn tell(&self) {
        let mut held = self.held();
        held.0 = true;
        let waker = held.1.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (told, waker) = &mut *self.held();
        if std::mem::take(told) {
            return Poll::Ready(());
        }
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes nobody any more: the waker would hold what the life ran in.
    fn close(&self) {
        let waker = self.held().1.take();
        drop(waker);
    }
}

#[derive(Clone)]
pub(crate) struct LoopBody {
    pub(crate) factory: Arc<dyn Factory>,
    control: Arc<Control>,
    count: Option<u64>,
    before_loop: Option<Hook<(), ()>>,
    after_loop: Option<Hook<(), ()>>,
    after_iteration: Option<Hook<LoopOutcome, ()>>,
    on_error: Option<Hook<LoopOutcome, OnError>>,
}

impl LoopBody {
    /// One life. Runs no user code before it is polled.
    pub(crate) fn live(&self, life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        Box::pin(LoopLife { body: self.clone(), life, delays: DelaySeries::default() }.live())
    }

    /// Holds the life under way, or lets it go on. Answers whether there is one.
    pub(crate) fn hold(&self, held: bool) -> bool {
        let mut state = self.control.state();
        if state.running {
            state.held = held;
        }
        let running = state.running;
        drop(state);
        self.control.changed.tell();
        running
    }

    /// Called when the task is registered.
    pub(crate) fn registered(&self, supervised: &Arc<Supervised>) {
        *self.control.supervised.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(supervised);
    }
}

struct LoopLife {
    body: LoopBody,
    life: Life,
    delays: DelaySeries,
}

/// What a wait for an iteration came to.
enum Woken {
    Due,
    /// The loop was told to finish.
    Finish,
    /// The task was told to stop.
    Stop,
}

/// What an iteration came to.
struct Iterated {
    outcome: LoopOutcome,
    span_context: Option<SpanContext>,
    ended: Instant,
}

impl LoopLife {
    async fn live(mut self) -> LifeEnd {
        let _alive = Alive::begin(&self.body.control, &self.life.supervised);
        if let Some(hook) = &self.body.before_loop {
            tokio::select! {
                biased;
                // A hook that waits for what never comes must not hold up a stop; the first wait below ends the life.
                () = self.life.context.cancelled() => {}
                _ = self.hook("before_loop", Some(hook(()))) => {}
            }
        }
        // Waited for at each iteration, and registered once.
        let context = self.life.context.clone();
        let mut stopped = pin!(context.cancelled());
        let mut now = Instant::now();
        let mut planned = now;
        let mut due = pin!(sleep_until(planned));
        let mut before: Option<Instant> = None;
        let mut last = LifeEnd { exit: Exit::Success, finished: true, span_context: None };
        for iteration in 1.. {
            match self.wait_for(&mut planned, before, now, &mut stopped, &mut due).await {
                Woken::Due => {}
                Woken::Finish => break,
                Woken::Stop => {
                    last.finished = false;
                    break;
                }
            }
            let Iterated { outcome, span_context, ended } = self.iterate(iteration, planned).await;
            now = ended;
            last.exit = outcome.exit.clone();
            last.span_context = span_context;
            let failed = outcome.exit.error_type().is_some();
            if let Some(hook) = &self.body.after_iteration {
                self.hook("after_iteration", Some(hook(outcome.clone()))).await;
                now = Instant::now();
            }
            if failed {
                if !self.goes_on(outcome).await {
                    self.body.control.state().failed = true;
                    last.finished = false;
                    break;
                }
                now = Instant::now();
            }
            if self.body.count.is_some_and(|count| iteration >= count) {
                break;
            }
            before = Some(planned);
            planned = self.next_after(planned, now);
        }
        self.hook("after_loop", self.body.after_loop.as_ref().map(|hook| hook(()))).await;
        // Under one lock: a stop that comes later finds the loop not running, and becomes an order.
        let mut state = self.body.control.state();
        state.running = false;
        last.finished |= state.stop_requested;
        drop(state);
        last
    }

    /// Sleeps until `planned`, which moves with the interval.
    async fn wait_for(
        &self,
        planned: &mut Instant,
        before: Option<Instant>,
        mut now: Instant,
        stopped: &mut Pin<&mut impl Future<Output = ()>>,
        due: &mut Pin<&mut Sleep>,
    ) -> Woken {
        let control = &self.body.control;
        let (mut interval, mut held) = {
            let state = control.state();
            (state.interval, state.held)
        };
        loop {
            self.plan(Some(*planned).filter(|_| !held), now, |_| {});
            self.life.supervised.signals.set_sleeping(true);
            if due.deadline() != *planned {
                due.as_mut().reset(*planned);
            }
            tokio::select! {
                biased;
                () = &mut *stopped => return Woken::Stop,
                () = std::future::poll_fn(|cx| control.changed.poll(cx)) => {
                    now = Instant::now();
                    let state = control.state();
                    if state.stop_requested {
                        return Woken::Finish;
                    }
                    if std::mem::replace(&mut held, state.held) && !held {
                        // What fell due meanwhile was not to take place; the rhythm is kept.
                        let late = now.saturating_duration_since(*planned).as_nanos();
                        let passed = u32::try_from(late.div_ceil(interval.as_nanos())).unwrap_or(u32::MAX);
                        *planned = later(*planned, interval.saturating_mul(passed));
                    }
                    if let Some(before) = before.filter(|_| state.interval != interval) {
                        *planned = later(before, state.interval).max(now);
                        interval = state.interval;
                    }
                }
                () = &mut *due, if !held => return Woken::Due,
            }
        }
    }

    async fn iterate(&mut self, iteration: u64, planned: Instant) -> Iterated {
        let began = Instant::now();
        let recorder = &self.life.shared.recorder;
        let supervised = &self.life.supervised;
        self.plan(None, began, |state| state.iteration = iteration);
        supervised.signals.heartbeat(self.life.context.generation(), began);
        if let Some(exposition) = &*recorder.exposition() {
            let delay = began.saturating_duration_since(planned).as_secs_f64();
            exposition.instruments.schedule_delay.record(&mut self.delays, &supervised.task, delay);
        }
        let begin = Begin {
            generation: Some(self.life.context.generation()),
            iteration: Some(iteration),
            // The first iteration takes them all.
            links: std::mem::take(&mut self.life.links),
            timeout: supervised.spec.run_timeout,
            polls: recorder.polls(),
            ..Begin::new(recorder.clone(), supervised.task.clone())
        };
        let context = self.life.context.of_iteration(iteration);
        let future = self.body.factory.clone().make(context, supervised.rules.clone());
        let future = self.life.until_ready(future);
        let run = Run::begun_at(began, begin, future, Exit::clone, ());
        let untold = Untold::begin(&self.life, iteration, began);
        let Ended { exit, span_context, at: ended, .. } = run.await;
        untold.tell(&exit, ended);
        if exit == Exit::Success && !supervised.signals.is_ready() {
            // A loop that has done its work once is ready, whether it says so or not.
            self.life.context.ready();
        }
        self.body.control.state().last_result = Some(exit.clone());
        let duration = ended.saturating_duration_since(began);
        Iterated { outcome: LoopOutcome { iteration, exit, duration }, span_context, ended }
    }

    async fn goes_on(&self, outcome: LoopOutcome) -> bool {
        let Some(hook) = &self.body.on_error else { return false };
        self.hook("on_error", Some(hook(outcome))).await == Some(OnError::Continue)
    }

    /// The first planned time after `planned` that has not passed; those that have are skipped and counted.
    fn next_after(&self, planned: Instant, now: Instant) -> Instant {
        let interval = self.body.control.state().interval;
        let late = now.saturating_duration_since(planned);
        if late <= interval {
            return later(planned, interval);
        }
        let missed = late.as_nanos().div_ceil(interval.as_nanos()).saturating_sub(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX);
        self.life.supervised.task.cell.skipped(SkipReason::Missed, u64::from(missed));
        later(planned, interval.saturating_mul(missed.saturating_add(1)))
    }

    /// Shows when the next iteration is due, or that one is under way.
    fn plan(&self, planned: Option<Instant>, now: Instant, also: impl FnOnce(&mut State)) {
        let mut state = self.body.control.state();
        also(&mut state);
        state.next = planned.map(|planned| SystemTime::now() + planned.saturating_duration_since(now));
        self.life.supervised.task.cell.set_schedule(Some(state.interval), state.next);
        self.life.supervised.signals.set_sleeping(planned.is_some());
    }

    async fn hook<T>(
        &self,
        name: &'static str,
        hook: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    ) -> Option<T> {
        match Guarded::new(self.life.shared.recorder.options.silence_panics, hook?).await {
            Ok(value) => Some(value),
            Err(panic) => {
                with_trace(None, || {
                    tracing::event!(
                        name: record::HOOK_PANICKED, target: SCOPE, parent: None, tracing::Level::ERROR,
                        { key::NAME } = &*self.life.supervised.task.identity.name,
                        "hook {name} of loop {} {}", self.life.supervised.task.identity.name, Exit::Panic(panic).message(),
                    );
                });
                None
            }
        }
    }
}

/// Marks the loop as running, and as not when its life ends or is dropped.
struct Alive {
    control: Arc<Control>,
    supervised: Arc<Supervised>,
}

impl Alive {
    fn begin(control: &Arc<Control>, supervised: &Arc<Supervised>) -> Self {
        let mut state = control.state();
        let interval = state.interval;
        *state = State { interval, running: true, last_result: state.last_result.take(), ..State::default() };
        drop(state);
        Self { control: control.clone(), supervised: supervised.clone() }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut state = self.control.state();
        state.running = false;
        state.next = None;
        self.supervised.task.cell.set_schedule(Some(state.interval), None);
        drop(state);
        self.control.changed.close();
    }
}
