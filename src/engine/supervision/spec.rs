//! The parts of a registered task, with their types erased.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use crate::{
    emit::ManagedSpan,
    engine::{
        LifeEnd, NewLife, TaskContext,
        supervision::supervised::{Body, Life},
    },
    gate::Pass,
    policy::{
        Backoff, ErrorRules, Escalation, Exit, GiveUp, HealthRole, RestartIntensity, RestartPolicy,
        StallAction, TaskOutput, exit_of,
    },
    run::{Begin, Ended, Rules, Run, SpanDetails, SpanMade},
};

/// The default grace of a task after a stop request: 10 s.
pub(crate) const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// The settings of a registered task. Tasks with equal settings share one: there may be many tasks, and few different settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TaskSpec {
    pub(crate) policy: RestartPolicy,
    pub(crate) intensity: RestartIntensity,
    pub(crate) backoff: Backoff,
    pub(crate) give_up: GiveUp,
    pub(crate) health_check_interval: Duration,
    pub(crate) heartbeat_timeout: Option<Duration>,
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) poll_timeout: Option<Duration>,
    pub(crate) on_stall: StallAction,
    pub(crate) escalation: Escalation,
    pub(crate) health_role: HealthRole,
    /// True if it stops before all others.
    pub(crate) intake: bool,
    /// True if tasks that depend on it begin after its success, and not with it.
    pub(crate) ends: bool,
}

impl TaskSpec {
    /// The grace of a stop or restart by hand.
    pub(crate) fn grace(&self) -> Duration {
        self.shutdown_grace.unwrap_or(DEFAULT_STOP_GRACE)
    }
}

/// A user's work with its type erased: it ends as the run ends.
pub(crate) type Work = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// A user's factory with its future and output erased.
pub(crate) trait Factory: Send + Sync + 'static {
    fn make(self: Arc<Self>, context: TaskContext, rules: Option<Arc<ErrorRules>>) -> Work;

    /// The body of a task whose lives are one run each.
    fn into_body(self: Arc<Self>) -> Arc<dyn Body>;
}

/// A factory, which may end a run at once, and how a run ended by what its future returned.
struct Erased<F, C>(F, C);

impl<F, Fut, C> Factory for Erased<F, C>
where
    F: Fn(TaskContext) -> Result<Fut, Exit> + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    C: Fn(&Fut::Output, Option<&ErrorRules>) -> Exit + Copy + Send + Sync + 'static,
{
    fn make(self: Arc<Self>, context: TaskContext, rules: Option<Arc<ErrorRules>>) -> Work {
        Box::pin(self.made(context, rules))
    }

    fn into_body(self: Arc<Self>) -> Arc<dyn Body> {
        self
    }
}

impl<F, Fut, C> Body for Erased<F, C>
where
    F: Fn(TaskContext) -> Result<Fut, Exit> + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    C: Fn(&Fut::Output, Option<&ErrorRules>) -> Exit + Copy + Send + Sync + 'static,
{
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        if life.ready_by.is_some() {
            return live_by_factory(self, life);
        }
        // The work and the run around it are one allocation.
        let rules = life.supervised.rules().cloned();
        live_once(life, |context| self.made(context, rules))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<F, C> Erased<F, C> {
    fn made<Fut>(self: Arc<Self>, context: TaskContext, rules: Option<Arc<ErrorRules>>) -> Made<F, Fut, C>
    where
        C: Copy,
    {
        Made { rules, exit: self.1, making: Making::Call { factory: self, context } }
    }
}

/// Erases a factory. It is called inside the future, so that its panics are the run's.
pub(crate) fn erase<F, Fut, Via>(factory: F) -> Arc<dyn Factory>
where
    F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput<Via> + 'static,
{
    try_erase(move |context| Ok(factory(context)))
}

/// Erases a factory that may end a run at once.
pub(super) fn try_erase<F, Fut, Via>(factory: F) -> Arc<dyn Factory>
where
    F: Fn(TaskContext) -> Result<Fut, Exit> + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput<Via> + 'static,
{
    // In a closure, so that the lifetime of `Via` does not matter.
    Arc::new(Erased(factory, |output: &Fut::Output, rules: Option<&ErrorRules>| exit_of(output, rules)))
}

pin_project_lite::pin_project! {
    /// The future of a factory. Not an `async` block, which would keep room for its arguments.
    struct Made<F, Fut, C> {
        rules: Option<Arc<ErrorRules>>,
        exit: C,
        #[pin]
        making: Making<F, Fut, C>,
    }
}

pin_project_lite::pin_project! {
    #[project = MakingNow]
    #[project_replace = MakingBefore]
    enum Making<F, Fut, C> {
        Call { factory: Arc<Erased<F, C>>, context: TaskContext },
        Run { #[pin] future: Fut },
        /// Its factory is being called, has panicked, or has ended the run at once.
        Called,
    }
}

impl<F, Fut, C> Future for Made<F, Fut, C>
where
    F: Fn(TaskContext) -> Result<Fut, Exit>,
    Fut: Future,
    C: Fn(&Fut::Output, Option<&ErrorRules>) -> Exit,
{
    type Output = Exit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        let mut this = self.project();
        if let MakingNow::Call { .. } = this.making.as_mut().project() {
            if let MakingBefore::Call { factory, context } =
                this.making.as_mut().project_replace(Making::Called)
            {
                match (factory.0)(context) {
                    Ok(future) => this.making.set(Making::Run { future }),
                    Err(exit) => return Poll::Ready(exit),
                }
            }
        }
        let MakingNow::Run { future } = this.making.project() else { return Poll::Pending };
        let output = ready!(future.poll(cx));
        Poll::Ready((this.exit)(&output, this.rules.as_deref()))
    }
}

/// The life of a task that is one closure, by a factory of any kind.
pub(crate) fn live_by_factory(
    factory: Arc<dyn Factory>,
    life: NewLife<'_>,
) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
    let rules = life.supervised.rules().cloned();
    let work = life.until_ready(factory.make(life.context.clone(), rules));
    live_once(life, |_| work)
}

/// The life of a task that is one closure: its one run, of the work for its context.
fn live_once<W>(
    life: NewLife<'_>,
    work: impl FnOnce(TaskContext) -> W,
) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>>
where
    W: Future<Output = Exit> + Send + 'static,
{
    let Life { shared, supervised, context, began, links, .. } = life;
    let mut details = SpanDetails {
        generation: Some(context.generation()),
        term: context.pass().map(Pass::term),
        links,
        ..SpanDetails::default()
    };
    let begin = Begin {
        recorder: shared.recorder.here(),
        task: supervised.task.clone(),
        timeout: supervised.spec.run_timeout,
        error_rules: None,
        polls: shared.recorder.polls(),
        span: SpanMade::AtOnce(&mut details),
    };
    let run = Run::<_, _, _, Box<ManagedSpan>>::begun_at(
        (began, SystemTime::now()),
        begin,
        work(context),
        |exit: &Exit, _: Rules<'_>| exit.clone(),
        (),
    );
    Box::pin(Once { run })
}

pin_project_lite::pin_project! {
    struct Once<R> {
        #[pin]
        run: R,
    }
}

impl<R: Future<Output = Ended<Exit>>> Future for Once<R> {
    type Output = LifeEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LifeEnd> {
        let ended = ready!(self.project().run.poll(cx));
        Poll::Ready(LifeEnd { exit: ended.exit, finished: false, span_context: ended.span_context })
    }
}
