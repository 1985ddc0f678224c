//! Helpers for the tests of a service that uses this crate: a clock to push forward, a log of events to ask, failures to
//! inject. Feature `testing`; for dev-dependencies, since it brings tokio's `test-util`.
//!
//! ```
//! use otel_tasks::{Backoff, CriticalTaskConfig, TaskManager, testing::{Clock, EventLog, Fault, Faults}};
//! use std::time::Duration;
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
//! let tasks = TaskManager::new();
//! let mut log = EventLog::of(&tasks);
//! let faults = Faults::new();
//! // The service's own task; `faults` can make it fail.
//! let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await })
//!     .backoff(Backoff::constant(Duration::from_secs(30)))
//!     .faults(&faults);
//! tasks.register(gateway)?;
//! tasks.start();
//!
//! let clock = Clock::paused();
//! clock.settle().await;
//! faults.inject(Fault::Fail("connection reset"));
//! clock.advance(Duration::from_secs(29)).await;
//! log.assert_order("gateway", &["registered", "started", "ready", "exited", "backing_off"]);
//! clock.advance(Duration::from_secs(2)).await;
//! log.assert_order("gateway", &["backing_off", "started"]);
//! # Ok(()) }
//! ```

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::{
    config::{CriticalTaskConfig, What},
    engine::{Body, Factory, LifeEnd, NewLife, TaskContext, TaskEvent, TaskEvents, Work, live_by_factory},
    manager::TaskManager,
    policy::{ErrorClass, ErrorRules, Exit, Failure},
};

/// The paused clock of the runtime: only a test moves it, past every timer on the way, in order.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Clock;

impl Clock {
    /// Pauses the clock, if it is not paused already (`start_paused`).
    ///
    /// # Panics
    /// Outside a current-thread runtime.
    #[track_caller]
    pub fn paused() -> Self {
        // tokio panics if the clock is paused already, and has no query for it. While it is paused, no time passes between two
        // reads; otherwise some does.
        let before = tokio::time::Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        if tokio::time::Instant::now() != before {
            tokio::time::pause();
        }
        Self
    }

    /// Moves the clock forward; whatever falls due on the way happens in its order and at its time.
    pub async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    /// Lets everything that can happen now happen. Moves the clock by a millisecond, the finest step of tokio's timers.
    pub async fn settle(&self) {
        self.advance(Duration::from_millis(1)).await;
    }
}

/// A wall clock that goes with the runtime's, and can be set: for [`wall_clock`](crate::task::TaskManagerBuilder::wall_clock), so that
/// calendars run in virtual time. Clones are the same clock.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, Schedule, TaskLoop, TaskManager, testing::WallClock};
/// use std::time::{Duration, UNIX_EPOCH};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
/// let clock = WallClock::starting(UNIX_EPOCH);
/// let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
/// let once = TaskLoop::on(Schedule::once(UNIX_EPOCH + Duration::from_secs(3_600)), |_| async {});
/// tasks.register(CriticalTaskConfig::from_loop("once", once))?;
/// tasks.start();
/// clock.set_forward(Duration::from_secs(3_000));
/// tokio::time::sleep(Duration::from_secs(601)).await;
/// assert_eq!(tasks.snapshot("once").unwrap().total_runs(), 1);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct WallClock {
    began: tokio::time::Instant,
    shows: Arc<Mutex<SystemTime>>,
}

impl WallClock {
    /// Creates a clock that shows `now`.
    pub fn starting(now: SystemTime) -> Self {
        Self { began: tokio::time::Instant::now(), shows: Arc::new(Mutex::new(now)) }
    }

    fn shows(&self) -> MutexGuard<'_, SystemTime> {
        self.shows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time that the clock shows.
    pub fn now(&self) -> SystemTime {
        *self.shows() + self.began.elapsed()
    }

    /// Sets it forward.
    pub fn set_forward(&self, by: Duration) {
        *self.shows() += by;
    }

    /// Sets it back.
    pub fn set_back(&self, by: Duration) {
        *self.shows() -= by;
    }

    /// Returns a function that reads the clock, for APIs that take a clock.
    pub fn reader(&self) -> impl Fn() -> SystemTime + Send + Sync + 'static {
        let clock = self.clone();
        move || clock.now()
    }
}

/// Every event of a manager since this was made.
#[derive(Debug)]
pub struct EventLog {
    events: TaskEvents,
    seen: Vec<TaskEvent>,
}

impl EventLog {
    /// The time that [`wait_for`](Self::wait_for) waits at most, of the runtime's time: 1 hour.
    pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(3_600);

    /// Listens from now on. Make it before the tasks are registered.
    pub fn of(tasks: &TaskManager) -> Self {
        Self { events: tasks.subscribe(), seen: Vec::new() }
    }

    /// The events so far.
    ///
    /// # Panics
    /// Where more than [`CAPACITY`](crate::events::TaskEvents::CAPACITY) events came since it was last asked: some are lost, so
    /// nothing can be said.
    #[track_caller]
    pub fn events(&mut self) -> &[TaskEvent] {
        while let Some(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        assert_eq!(self.events.missed(), 0, "events were missed; ask more often");
        &self.seen
    }

    /// The names of a task's events so far, in order ([`TaskEventKind::as_str`](crate::events::TaskEventKind::as_str)).
    #[track_caller]
    pub fn names(&mut self, task: &str) -> Vec<&'static str> {
        let of_task = self.events().iter().filter(|event| event.task.as_deref() == Some(task));
        of_task.map(|event| event.kind.as_str()).collect()
    }

    /// Waits for an event. Earlier events count too.
    ///
    /// # Panics
    /// After [`DEFAULT_PATIENCE`](Self::DEFAULT_PATIENCE), with the events that came instead.
    pub async fn wait_for(&mut self, task: &str, kind: &str) -> TaskEvent {
        let is_it = |event: &TaskEvent| event.task.as_deref() == Some(task) && event.kind.as_str() == kind;
        if let Some(event) = self.events().iter().find(|event| is_it(event)) {
            return event.clone();
        }
        let found = tokio::time::timeout(Self::DEFAULT_PATIENCE, async {
            while let Some(event) = self.events.recv().await {
                self.seen.push(event.clone());
                if is_it(&event) {
                    return Some(event);
                }
            }
            None
        });
        match found.await {
            Ok(Some(event)) => event,
            Ok(None) | Err(_) => {
                panic!("no event {kind:?} of task {task:?} came, but {:?}", self.names(task))
            }
        }
    }

    /// Checks that these events of a task came in this order, with whatever in between.
    ///
    /// # Panics
    /// Where they did not.
    #[track_caller]
    pub fn assert_order(&mut self, task: &str, kinds: &[&str]) {
        let names = self.names(task);
        let mut rest = names.iter();
        let missing = kinds.iter().find(|kind| !rest.any(|name| name == *kind));
        if let Some(missing) = missing {
            panic!("task {task:?}: {missing:?} does not follow in {names:?}, wanted {kinds:?}");
        }
    }

    /// Checks that a task had no such event.
    ///
    /// # Panics
    /// Where it had.
    #[track_caller]
    pub fn assert_none(&mut self, task: &str, kind: &str) {
        let names = self.names(task);
        assert!(!names.contains(&kind), "task {task:?} had {kind:?} in {names:?}");
    }
}

/// A failure to inject into a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It returns this error, which trying again can help.
    Fail(&'static str),
    /// It returns this error, which trying again cannot help.
    FailForGood(&'static str),
    /// It panics with this text.
    Panic(&'static str),
    /// It returns as if it had done its work.
    Finish,
    /// It makes no progress, and does not react to a stop request: it has to be dropped.
    Hang,
    /// It blocks its thread for this time, then continues.
    Block(Duration),
}

/// Injects failures into the runs of the tasks that were [given](crate::CriticalTaskConfig::faults) it. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    shared: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    faults: Mutex<VecDeque<Fault>>,
    injected: Notify,
}

impl Faults {
    /// Nothing happens until something is injected.
    pub fn new() -> Self {
        Self::default()
    }

    /// The present run suffers this, or the next one where there is none. Several are suffered one after the other.
    pub fn inject(&self, fault: Fault) {
        self.waiting().push_back(fault);
        self.shared.injected.notify_one();
    }

    /// Returns the number of injected failures that have not happened yet.
    pub fn pending(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A factory whose work these faults can end.
    pub(crate) fn around(&self, factory: Arc<dyn Factory>) -> Arc<dyn Factory> {
        Arc::new(Afflicted { faults: self.clone(), factory })
    }

    /// Runs `work`, as long as no fault ends it.
    async fn afflict(&self, mut work: Work, context: TaskContext) -> Exit {
        let failure = |message: &str, class| {
            Exit::Failure(Failure { error_type: "injected", message: message.into(), class })
        };
        loop {
            let fault = self.waiting().pop_front();
            match fault {
                None => tokio::select! {
                    biased;
                    () = self.shared.injected.notified() => {}
                    exit = &mut work => return exit,
                },
                Some(Fault::Fail(message)) => return failure(message, ErrorClass::Transient),
                Some(Fault::FailForGood(message)) => return failure(message, ErrorClass::Permanent),
                Some(Fault::Panic(text)) => panic!("{text}"),
                Some(Fault::Finish) => return Exit::Success,
                Some(Fault::Hang) => std::future::pending().await,
                Some(Fault::Block(time)) => {
                    std::thread::sleep(time);
                    context.heartbeat();
                }
            }
        }
    }
}

impl CriticalTaskConfig {
    /// Injects failures into the task, for a test.
    ///
    /// ```
    /// use otel_tasks::{CriticalTaskConfig, testing::{Fault, Faults}};
    /// let faults = Faults::new();
    /// let gateway = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await }).faults(&faults);
    /// faults.inject(Fault::Fail("connection reset"));
    /// # drop(gateway);
    /// ```
    pub fn faults(mut self, faults: &Faults) -> Self {
        let wrap = |factory| faults.around(factory);
        self.what = match self.what {
            What::Closure(factory) => What::Closure(wrap(factory)),
            What::Loop(mut task_loop) => {
                task_loop.parts.factory = wrap(task_loop.parts.factory);
                What::Loop(task_loop)
            }
        };
        self
    }
}

struct Afflicted {
    faults: Faults,
    factory: Arc<dyn Factory>,
}

impl Factory for Afflicted {
    fn make(self: Arc<Self>, context: TaskContext, rules: Option<Arc<ErrorRules>>) -> Work {
        Box::pin(async move {
            let work = self.factory.clone().make(context.clone(), rules);
            self.faults.afflict(work, context).await
        })
    }

    fn into_body(self: Arc<Self>) -> Arc<dyn Body> {
        self
    }
}

impl Body for Afflicted {
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        live_by_factory(self, life)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
