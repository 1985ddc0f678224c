//! What a registered task is made of, with its types erased.

use std::{
    any::{Any, TypeId},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{Body, Life, LifeEnd, TaskContext, supervised::Untold};
use crate::{
    policy::{
        Backoff, ErrorClass, Escalation, Exit, Failure, RestartIntensity, RestartPolicy, StallAction,
        TaskOutput,
    },
    run::{Begin, Run},
};

/// How long a task may go on after it was asked to stop, where nothing else was said.
pub(crate) const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

/// Everything about a registered task that does not change.
pub(crate) struct TaskSpec {
    pub(crate) body: Box<dyn Body>,
    pub(crate) policy: RestartPolicy,
    pub(crate) intensity: RestartIntensity,
    pub(crate) backoff: Backoff,
    pub(crate) health_check_interval: Duration,
    pub(crate) heartbeat_timeout: Option<Duration>,
    pub(crate) shutdown_grace: Option<Duration>,
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) poll_timeout: Option<Duration>,
    pub(crate) on_stall: StallAction,
    pub(crate) escalation: Escalation,
}

impl TaskSpec {
    /// The grace of a stop or restart by hand.
    pub(crate) fn grace(&self) -> Duration {
        self.shutdown_grace.unwrap_or(DEFAULT_STOP_GRACE)
    }
}

/// A user's factory with its future and output erased.
pub(crate) type Factory =
    Arc<dyn Fn(TaskContext, Arc<ErrorRules>) -> Pin<Box<dyn Future<Output = Exit> + Send>> + Send + Sync>;

/// Erases a factory. It is called inside the future, so that its panics are the run's.
pub(crate) fn erase<F, Fut>(factory: F) -> Factory
where
    F: Fn(TaskContext) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput + 'static,
{
    let factory = Arc::new(factory);
    Arc::new(move |context, rules| {
        let factory = factory.clone();
        Box::pin(async move {
            let output = factory(context).await;
            rules.exit(&output)
        })
    })
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

/// The body of a task that is one closure: one run per life.
pub(crate) struct FactoryBody {
    pub(crate) factory: Factory,
    pub(crate) rules: Arc<ErrorRules>,
    pub(crate) timeout: Option<Duration>,
}

impl Body for FactoryBody {
    fn live(&self, mut life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>> {
        let future = life.until_ready((self.factory)(life.context(None), self.rules.clone()));
        let begin = Begin {
            generation: Some(life.generation),
            links: std::mem::take(&mut life.links),
            timeout: self.timeout,
            ..Begin::new(life.shared.recorder.clone(), life.supervised.task.clone())
        };
        let run = Run::begun(begin, future, Exit::clone, ());
        let untold = Untold::begin(&life, None);
        Box::pin(async move {
            let ended = run.await;
            untold.tell(&ended);
            LifeEnd { exit: ended.exit, finished: false, span_context: ended.span_context }
        })
    }
}
