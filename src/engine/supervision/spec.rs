//! What a registered task is made of, with its types erased.

use std::{
    any::{Any, TypeId},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::{
    engine::{Life, LifeEnd, TaskContext, supervision::supervised::Body},
    policy::{
        Backoff, ErrorClass, Escalation, Exit, Failure, GiveUp, HealthRole, RestartIntensity, RestartPolicy,
        StallAction, TaskOutput,
    },
    run::{Begin, Run},
};

/// How long a task may go on after it was asked to stop, where nothing else was said.
pub(crate) const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// How a registered task is kept. Tasks that are kept alike share one: there may be many, and few ways to keep them.
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
    /// Whether it stops before all others.
    pub(crate) intake: bool,
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

impl<F: Factory> Body for F {
    fn live(self: Arc<Self>, life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        live_once(self, life)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Erased<F>(F);

impl<F, Fut> Factory for Erased<F>
where
    F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput + 'static,
{
    fn make(self: Arc<Self>, context: TaskContext, rules: Option<Arc<ErrorRules>>) -> Work {
        Box::pin(Made { rules, making: Making::Call { factory: self, context } })
    }

    fn into_body(self: Arc<Self>) -> Arc<dyn Body> {
        self
    }
}

/// Erases a factory. It is called inside the future, so that its panics are the run's.
pub(crate) fn erase<F, Fut>(factory: F) -> Arc<dyn Factory>
where
    F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput + 'static,
{
    Arc::new(Erased(factory))
}

pin_project_lite::pin_project! {
    /// What a factory makes. Not an `async` block, which would keep room for what it was called with.
    struct Made<F, Fut> {
        rules: Option<Arc<ErrorRules>>,
        #[pin]
        making: Making<F, Fut>,
    }
}

pin_project_lite::pin_project! {
    #[project = MakingNow]
    #[project_replace = MakingBefore]
    enum Making<F, Fut> {
        Call { factory: Arc<Erased<F>>, context: TaskContext },
        Run { #[pin] future: Fut },
        /// Its factory is being called, or has panicked.
        Called,
    }
}

impl<F, Fut> Future for Made<F, Fut>
where
    F: Fn(TaskContext) -> Fut,
    Fut: Future,
    Fut::Output: TaskOutput,
{
    type Output = Exit;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        let mut this = self.project();
        if let MakingNow::Call { .. } = this.making.as_mut().project() {
            if let MakingBefore::Call { factory, context } =
                this.making.as_mut().project_replace(Making::Called)
            {
                let future = (factory.0)(context);
                this.making.set(Making::Run { future });
            }
        }
        let MakingNow::Run { future } = this.making.project() else { return Poll::Pending };
        let output = ready!(future.poll(cx));
        Poll::Ready(match this.rules {
            Some(rules) => rules.exit(&output),
            None => ErrorRules::default().exit(&output),
        })
    }
}

/// The type of the error that an output may carry.
pub(crate) fn error_type_of<T: TaskOutput>() -> Option<(TypeId, &'static str)> {
    T::error_type_id()
}

type Rule<T> = Arc<dyn Fn(&dyn Any) -> T + Send + Sync>;

/// How an error of one type is classed and named.
#[derive(Default, Clone)]
pub(crate) struct ErrorRules {
    pub(crate) class: Option<Rule<ErrorClass>>,
    pub(crate) error_type: Option<Rule<&'static str>>,
}

impl ErrorRules {
    pub(crate) fn is_empty(&self) -> bool {
        self.class.is_none() && self.error_type.is_none()
    }

    pub(crate) fn exit<T: TaskOutput>(&self, output: &T) -> Exit {
        output.error().map_or(Exit::Success, |error| {
            Exit::Failure(Failure {
                error_type: self.error_type.as_ref().map_or(error.type_name, |name| name(error.any)),
                message: error.display.to_string(),
                class: self.class.as_ref().map_or(ErrorClass::Transient, |class| class(error.any)),
            })
        })
    }
}

/// The life of a task that is one closure: its one run.
fn live_once(factory: Arc<dyn Factory>, mut life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
    let supervised = life.supervised.clone();
    let work = life.until_ready(factory.make(life.context.clone(), supervised.rules.clone()));
    let begin = Begin {
        generation: Some(life.context.generation()),
        links: std::mem::take(&mut life.links),
        timeout: supervised.spec.run_timeout,
        polls: life.shared.recorder.polls(),
        ..Begin::new(life.shared.recorder.clone(), supervised.task.clone())
    };
    Box::pin(Once { run: Run::begun(begin, work, Exit::clone, ()) })
}

pin_project_lite::pin_project! {
    struct Once {
        #[pin]
        run: Run<Work, fn(&Exit) -> Exit, ()>,
    }
}

impl Future for Once {
    type Output = LifeEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LifeEnd> {
        let ended = ready!(self.project().run.poll(cx));
        Poll::Ready(LifeEnd { exit: ended.exit, finished: false, span_context: ended.span_context })
    }
}
