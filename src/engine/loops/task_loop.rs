//! The description of a loop: its schedule, its body, its policies and its hooks.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{control::Control, handle::LoopHandle, outcome::LoopOutcome};
use crate::{
    engine::{Factory, Lent, TaskContext, erase_lending, supervision::spec},
    error::LoopError,
    policy::{Backoff, Failure, ReturnedError, TaskOutput, labels, returned_error_of},
    timetable::{Account, MissedPolicy, OverlapPolicy, Retry, Schedule},
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

/// A body that runs by a [`Schedule`]. Register it with
/// [`CriticalTaskConfig::from_loop`](crate::CriticalTaskConfig::from_loop); control it through its [`LoopHandle`].
///
/// Each iteration is a run. [`MissedPolicy`] and [`OverlapPolicy`] decide what happens to an iteration whose time was missed, or comes while
/// another one runs. Each iteration that does not take place is counted.
///
/// An iteration that fails, panics or times out is a failed run, and the loop continues at its next time. The loop is not restarted for
/// that: health reports failures in a row. A [permanent](crate::policy::ErrorClass::Permanent) error ends the loop, and so does
/// [`on_error`](Self::on_error) with [`OnError::End`]; then the restart policy decides. A loop that reached the end of its schedule, or was
/// [stopped](LoopHandle::stop), is finished and never restarted automatically.
///
/// ```
/// use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager};
/// use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), otel_tasks::task::RegisterError> {
/// let tasks = TaskManager::new();
/// let ticker = TaskLoop::every(Duration::from_secs(5), |ctx| async move {
///     println!("iteration {:?}", ctx.iteration());
/// })
/// .count(3);
/// let handle = ticker.handle();
/// tasks.register(CriticalTaskConfig::from_loop("ticker", ticker))?;
/// tasks.start();
/// tokio::time::sleep(Duration::from_secs(11)).await;
/// assert_eq!((handle.current_iteration(), handle.is_running()), (3, false));
/// # Ok(()) }
/// ```
pub struct TaskLoop {
    pub(crate) parts: Parts,
    pub(crate) returned_error: Option<ReturnedError>,
}

labels! {
    /// The decision of an error hook.
    pub enum OnError {
        /// The loop continues with the next iteration, unless the error is permanent.
        Continue = "continue",
        /// This life of the loop ends with the error; the restart policy decides what follows.
        End = "end",
    }
}

/// The parts of a loop.
pub(crate) struct Parts {
    pub(crate) factory: Arc<dyn Factory>,
    /// True if its iterations borrow one state, one after the other.
    pub(super) lends: bool,
    pub(super) control: Arc<Control>,
    pub(super) missed: MissedPolicy,
    pub(super) overlap: OverlapPolicy,
    /// Boxed: few have one.
    pub(super) retry: Option<Box<Retry>>,
    pub(super) before_loop: Option<Arc<dyn Factory>>,
    pub(super) after_loop: Option<Hook<TaskContext, ()>>,
    pub(super) after_iteration: Option<Hook<LoopOutcome, ()>>,
    pub(super) on_error: Option<Hook<LoopOutcome, OnError>>,
}

impl TaskLoop {
    /// Creates a loop that runs `body` every `interval`. The first iteration is due at once.
    ///
    /// An interval of zero is refused when the loop is registered.
    ///
    /// ```
    /// use otel_tasks::TaskLoop;
    /// use std::time::Duration;
    /// let sweep = TaskLoop::every(Duration::from_secs(60), |ctx| async move {
    ///     println!("iteration {:?}", ctx.iteration());
    /// });
    /// # drop(sweep);
    /// ```
    pub fn every<F, Fut, Via>(interval: Duration, body: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::on(Schedule::every(interval), body)
    }

    /// Creates a loop that runs `body` on a schedule, which is checked when the loop is registered.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::{Schedule, TaskLoop, schedule::MissedPolicy};
    /// let backup = TaskLoop::on(Schedule::daily(["03:30"], "Europe/Berlin"), |_| async { /* save */ })
    ///     .missed(MissedPolicy::Skip);
    /// # }
    /// ```
    pub fn on<F, Fut, Via>(schedule: impl Into<Schedule>, body: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::of(schedule.into(), spec::erase(body), returned_error_of::<Fut::Output, Via>())
    }

    /// Creates a loop as [`on`](Self::on) does, and gives each iteration a clone of `state`.
    ///
    /// ```
    /// use otel_tasks::TaskLoop;
    /// use std::{sync::Arc, time::Duration};
    /// let prune = TaskLoop::with(Duration::from_secs(3_600), Arc::new("/var/cache"), |_, folder| async move {
    ///     println!("prune {folder}");
    /// });
    /// # drop(prune);
    /// ```
    pub fn with<S, F, Fut, Via>(schedule: impl Into<Schedule>, state: S, body: F) -> Self
    where
        S: Clone + Send + Sync + 'static,
        F: Fn(TaskContext, S) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        Self::on(schedule, move |context| body(context, state.clone()))
    }

    /// Creates a loop as [`on`](Self::on) does, and lends `state` to its iterations, one after the other, also across restarts of the loop.
    /// See [`CriticalTaskConfig::lend`](crate::CriticalTaskConfig::lend).
    ///
    /// [`OverlapPolicy::Allow`] is refused when the loop is registered: two iterations cannot borrow at once.
    ///
    /// ```
    /// use otel_tasks::{Lent, TaskContext, TaskLoop};
    /// use std::time::Duration;
    /// let poll = TaskLoop::lend(Duration::from_secs(5), Vec::new(), |_, mut seen: Lent<Vec<u64>>| async move {
    ///     let next = seen.len() as u64;
    ///     seen.push(next);
    /// });
    /// # drop(poll);
    /// ```
    pub fn lend<S, F, Fut, Via>(schedule: impl Into<Schedule>, state: S, body: F) -> Self
    where
        S: Send + 'static,
        F: Fn(TaskContext, Lent<S>) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        let factory = erase_lending(state, body);
        let mut lending = Self::of(schedule.into(), factory, returned_error_of::<Fut::Output, Via>());
        lending.parts.lends = true;
        lending
    }

    fn of(schedule: Schedule, factory: Arc<dyn Factory>, returned_error: Option<ReturnedError>) -> Self {
        let parts = Parts {
            factory,
            lends: false,
            control: Control::new(schedule),
            missed: MissedPolicy::default(),
            overlap: OverlapPolicy::default(),
            retry: None,
            before_loop: None,
            after_loop: None,
            after_iteration: None,
            on_error: None,
        };
        Self { parts, returned_error }
    }

    /// Sets the due time of the last iteration in an earlier process, which the service has stored. It comes from [`LoopOutcome::due`] or
    /// [`LoopHandle::last_run`]. `None` means that the loop has never run.
    ///
    /// Iterations that fell due since then are missed, and [`missed`](Self::missed) decides about them. An interval continues from that time. If
    /// a process crashes during an iteration, the next process repeats the iteration.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::{Schedule, TaskLoop, schedule::LoopOutcome};
    /// use std::{fs, path::Path, time::{Duration, SystemTime, UNIX_EPOCH}};
    ///
    /// fn read(file: &Path) -> Option<SystemTime> {
    ///     let nanos = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    ///     Some(UNIX_EPOCH + Duration::from_nanos(nanos))
    /// }
    ///
    /// fn write(file: &Path, done: &LoopOutcome) -> std::io::Result<()> {
    ///     let Some(due) = done.due else { return Ok(()) };
    ///     let nanos = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    ///     // To a new file first, so that a crash leaves the old one.
    ///     fs::write(file.with_extension("new"), nanos.to_string())?;
    ///     fs::rename(file.with_extension("new"), file)
    /// }
    ///
    /// let file = Path::new("/var/lib/bot/report.last");
    /// let report = TaskLoop::on(Schedule::daily(["09:00"], "Europe/Berlin"), |_| async { /* report */ })
    ///     .last_run(read(file))
    ///     .after_iteration(move |done| async move {
    ///         if let Err(error) = write(file, &done) {
    ///             eprintln!("the report's time is not stored: {error}");
    ///         }
    ///     });
    /// # drop(report);
    /// # }
    /// ```
    #[must_use]
    pub fn last_run(self, due: impl Into<Option<SystemTime>>) -> Self {
        let due = due.into();
        {
            let mut state = self.parts.control.state();
            state.account = due.map(Account::carried).unwrap_or_default();
            state.last_run = due;
        }
        self
    }

    /// Sets the number of iterations after which a life of the loop is finished, whatever its schedule had. 0 is refused when the loop is
    /// registered. See [`Schedule::count`].
    ///
    /// ```
    /// use otel_tasks::TaskLoop;
    /// use std::time::Duration;
    /// let warm_up = TaskLoop::every(Duration::from_secs(1), |_| async { /* fill the cache */ }).count(10);
    /// # drop(warm_up);
    /// ```
    #[must_use]
    pub fn count(self, iterations: u64) -> Self {
        let counted = Schedule::clone(&self.parts.control.schedule()).count(iterations);
        self.parts.control.begin_with(counted);
        self
    }

    /// Sets what happens to iterations whose time was missed. Default: [`MissedPolicy::RunOnce`].
    ///
    /// ```
    /// use otel_tasks::{TaskLoop, schedule::MissedPolicy};
    /// use std::time::Duration;
    /// let report = TaskLoop::every(Duration::from_secs(3_600), |_| async { /* send */ })
    ///     .missed(MissedPolicy::Skip);
    /// # drop(report);
    /// ```
    #[must_use]
    pub fn missed(mut self, missed: MissedPolicy) -> Self {
        self.parts.missed = missed;
        self
    }

    /// Sets what happens to an iteration whose time comes while another one runs. Default: [`OverlapPolicy::Skip`].
    ///
    /// ```
    /// use otel_tasks::{TaskLoop, schedule::OverlapPolicy};
    /// use std::time::Duration;
    /// let poll = TaskLoop::every(Duration::from_secs(1), |_| async { /* at most four at once */ })
    ///     .overlap(OverlapPolicy::Allow(4));
    /// # drop(poll);
    /// ```
    #[must_use]
    pub fn overlap(mut self, overlap: OverlapPolicy) -> Self {
        self.parts.overlap = overlap;
        self.parts.control.state().allowed = match overlap {
            OverlapPolicy::Allow(most) => most,
            _ => 1,
        };
        self
    }

    /// Retries a failed iteration up to `times` times before it counts as failed, inside the same run, with these delays.
    ///
    /// Transient errors are retried (see [`classify`](crate::CriticalTaskConfig::classify)), or the errors that [`retry_when`](Self::retry_when)
    /// selects. A panic is not retried, nor is any failure after a stop request to the task or the [loop](LoopHandle::stop). A
    /// [`run_timeout`](crate::CriticalTaskConfig::run_timeout) limits all tries together.
    ///
    /// ```
    /// use otel_tasks::{Backoff, TaskLoop};
    /// use std::time::Duration;
    /// let fetch = TaskLoop::every(Duration::from_secs(60), |_| async { Ok::<(), std::io::Error>(()) })
    ///     .retry(3, Backoff::growing(Duration::from_secs(1), Duration::from_secs(10)));
    /// # drop(fetch);
    /// ```
    #[doc(alias = "reconnect")]
    #[must_use]
    pub fn retry(mut self, times: u32, backoff: Backoff) -> Self {
        let when = self.parts.retry.take().and_then(|retry| retry.when);
        self.parts.retry = Some(Box::new(Retry { times, backoff, when }));
        self
    }

    /// Selects the failures that are retried. It has no effect without [`retry`](Self::retry).
    ///
    /// ```
    /// use otel_tasks::{Backoff, TaskLoop};
    /// use std::time::Duration;
    /// let fetch = TaskLoop::every(Duration::from_secs(60), |_| async { Err::<(), _>("busy") })
    ///     .retry(3, Backoff::constant(Duration::from_secs(1)))
    ///     .retry_when(|failure| failure.message == "busy");
    /// # drop(fetch);
    /// ```
    #[doc(alias = "add_exception_type")]
    #[must_use]
    pub fn retry_when(mut self, when: impl Fn(&Failure) -> bool + Send + Sync + 'static) -> Self {
        let retry = self.parts.retry.take();
        let (times, backoff) = retry.map_or((0, Backoff::default()), |retry| (retry.times, retry.backoff));
        self.parts.retry = Some(Box::new(Retry { times, backoff, when: Some(Arc::new(when)) }));
        self
    }

    /// Sets a hook that is awaited before the first iteration of each life, with the context of that life. A stop request drops it.
    ///
    /// If the hook returns an error, the body does not run. The error is a failed run and ends the life, and the restart policy decides. A panic
    /// in the hook is logged and ignored.
    ///
    /// ```
    /// # use otel_tasks::TaskLoop;
    /// # async fn connect() -> Result<(), std::io::Error> { Ok(()) }
    /// let poll = TaskLoop::every(std::time::Duration::from_secs(5), |_| async { /* poll */ })
    ///     .before_loop(|_| async { connect().await });
    /// # drop(poll);
    /// ```
    #[must_use]
    pub fn before_loop<F, Fut, Via>(mut self, hook: F) -> Self
    where
        F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: TaskOutput<Via> + 'static,
    {
        self.parts.before_loop = Some(spec::erase(hook));
        self
    }

    /// Sets a hook that is awaited after the last iteration of each life, unless the life is dropped. A panic in the hook is logged and ignored.
    ///
    /// [`TaskContext::is_cancelled`] returns true if the task was requested to stop.
    ///
    /// ```
    /// # use otel_tasks::TaskLoop;
    /// let poll = TaskLoop::every(std::time::Duration::from_secs(5), |_| async { /* poll */ })
    ///     .after_loop(|ctx| async move { println!("stopped: {}", ctx.is_cancelled()) });
    /// # drop(poll);
    /// ```
    #[must_use]
    pub fn after_loop<Fut>(mut self, hook: impl Fn(TaskContext) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.parts.after_loop = Some(erase_hook(hook));
        self
    }

    /// Sets a hook that is awaited after each iteration, as a part of the iteration: the wait for the next one begins after it. A panic in the
    /// hook is logged and ignored.
    ///
    /// ```
    /// # use otel_tasks::TaskLoop;
    /// let poll = TaskLoop::every(std::time::Duration::from_secs(5), |_| async { /* poll */ })
    ///     .after_iteration(|done| async move { println!("{} took {:?}", done.iteration, done.duration) });
    /// # drop(poll);
    /// ```
    #[must_use]
    pub fn after_iteration<Fut>(mut self, hook: impl Fn(LoopOutcome) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.parts.after_iteration = Some(erase_hook(hook));
        self
    }

    /// Sets a hook that is awaited when an iteration fails, panics or times out, and that may end the loop. Without it, the loop continues.
    ///
    /// A permanent error ends the loop, whatever the hook returns. A panic in the hook is logged, and the loop continues.
    ///
    /// ```
    /// use otel_tasks::{TaskLoop, schedule::OnError};
    /// use std::time::Duration;
    /// let poll = TaskLoop::every(Duration::from_secs(5), |_| async { Err::<(), _>("no access") })
    ///     .on_error(|failed| async move {
    ///         if failed.iteration < 3 { OnError::Continue } else { OnError::End }
    ///     });
    /// # drop(poll);
    /// ```
    #[must_use]
    pub fn on_error<Fut>(mut self, hook: impl Fn(LoopOutcome) -> Fut + Send + Sync + 'static) -> Self
    where
        Fut: Future<Output = OnError> + Send + 'static,
    {
        self.parts.on_error = Some(erase_hook(hook));
        self
    }

    /// Returns a handle, which controls the loop once it is registered.
    ///
    /// ```
    /// use otel_tasks::TaskLoop;
    /// use std::time::Duration;
    /// let sweep = TaskLoop::every(Duration::from_secs(60), |_| async {});
    /// let handle = sweep.handle();
    /// assert_eq!(handle.interval(), Some(Duration::from_secs(60)));
    /// ```
    pub fn handle(&self) -> LoopHandle {
        LoopHandle { control: self.parts.control.clone() }
    }

    pub(crate) fn check(&self) -> Result<(), LoopError> {
        self.parts.control.schedule().check().map_err(LoopError::Schedule)?;
        match (self.parts.missed, self.parts.overlap) {
            (MissedPolicy::CatchUp(0), _) => Err(LoopError::ZeroCatchUp),
            (_, OverlapPolicy::Allow(0)) => Err(LoopError::ZeroOverlap),
            (_, OverlapPolicy::Allow(_)) if self.parts.lends => Err(LoopError::LentOverlap),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for TaskLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskLoop")
            .field("schedule", &self.parts.control.schedule())
            .field("missed", &self.parts.missed)
            .field("overlap", &self.parts.overlap)
            .field("retry", &self.parts.retry)
            .finish_non_exhaustive()
    }
}
