//! State that the runs of a task borrow, one after the other.

use std::{
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    engine::{
        TaskContext,
        supervision::spec::{Factory, try_erase},
    },
    policy::{ERROR_TYPE_STATE_HELD, ErrorClass, Exit, Failure, TaskOutput},
};

/// State that a run has borrowed from its task. It goes back when this is dropped. The next run borrows it with all changes of this run, also
/// after an error, a panic or an abort.
///
/// See [`CriticalTaskConfig::lend`](crate::CriticalTaskConfig::lend). To borrow several fields at once, borrow the state first:
/// `let state = &mut *lent;`.
pub struct Lent<S: Send + 'static> {
    /// `Some` until the drop.
    state: Option<Box<S>>,
    home: Arc<Lender<S>>,
}

/// The place of the state between two runs.
struct Lender<S>(Mutex<Option<Box<S>>>);

impl<S> Lender<S> {
    fn state(&self) -> MutexGuard<'_, Option<Box<S>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send + 'static> Lent<S> {
    /// `None` if an earlier run's is not back.
    fn of(home: &Arc<Lender<S>>) -> Option<Self> {
        let state = home.state().take()?;
        Some(Self { state: Some(state), home: home.clone() })
    }
}

const HERE: &str = "the state goes back at the drop";

impl<S: Send + 'static> Deref for Lent<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.state.as_deref().expect(HERE)
    }
}

impl<S: Send + 'static> DerefMut for Lent<S> {
    fn deref_mut(&mut self) -> &mut S {
        self.state.as_deref_mut().expect(HERE)
    }
}

impl<S: Send + fmt::Debug + 'static> fmt::Debug for Lent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(&**self).finish()
    }
}

impl<S: Send + 'static> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.home.state() = self.state.take();
    }
}

/// Erases a factory whose runs borrow `state`.
pub(crate) fn erase_lending<S, F, Fut, Via>(state: S, factory: F) -> Arc<dyn Factory>
where
    S: Send + 'static,
    F: Fn(TaskContext, Lent<S>) -> Fut + Send + Sync + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: TaskOutput<Via> + 'static,
{
    let home = Arc::new(Lender(Mutex::new(Some(Box::new(state)))));
    try_erase(move |context| match Lent::of(&home) {
        Some(lent) => Ok(factory(context, lent)),
        None => Err(Exit::Failure(Failure {
            error_type: ERROR_TYPE_STATE_HELD,
            message: "the state of the task is still held by an earlier run, which gave it away".to_owned(),
            class: ErrorClass::Transient,
        })),
    })
}
