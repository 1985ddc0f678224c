//! A spawned task, from outside.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::task::JoinHandle;

use super::Ended;
use crate::policy::{Exit, Panic, Plain};

/// A spawned task. Await it for the output of the task. If it is dropped, the task continues.
///
/// # Cancel safety
/// Cancel safe: dropping the handle, or a future that awaits `&mut` of it, loses nothing of the task.
pub struct TaskHandle<T> {
    task: Result<JoinHandle<Outcome<T>>, Refusal>,
}

/// The reason why a task was not spawned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    ShuttingDown,
    RuntimeGone,
}

impl From<Refusal> for TaskError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ShuttingDown => Self::ShuttingDown,
            Refusal::RuntimeGone => Self::RuntimeGone,
        }
    }
}

/// The result of a spawned task for tokio, which moves it several times: as small as possible.
pub(crate) type Outcome<T> = Result<T, Box<TaskError>>;

impl<T> From<Ended<T>> for Outcome<T> {
    fn from(ended: Ended<T>) -> Self {
        match ended {
            Ended { value: Ok(value), .. } => Ok(value),
            Ended { exit: Exit::Panic(panic), .. } => Err(Box::new(TaskError::Panicked(panic))),
            Ended { exit: Exit::Timeout(limit), .. } => Err(Box::new(TaskError::TimedOut(limit))),
            Ended { .. } => Err(Box::new(TaskError::Cancelled)),
        }
    }
}

/// The reason why a task has no output to give.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskError {
    /// It was never run: the manager is shutting down, or the task that would own it was stopped.
    ShuttingDown,
    /// It was never run: the manager's tokio runtime was shut down, and the spawn was outside a runtime.
    RuntimeGone,
    /// It panicked.
    Panicked(Panic),
    /// It passed this time limit and was dropped.
    TimedOut(Duration),
    /// It was never run: the operating system refused the thread that blocking work needs.
    NoThread,
    /// It was dropped before it finished: by its handle, by the shutdown, or with its runtime.
    Cancelled,
}

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ShuttingDown => f.write_str("the manager is shutting down, so the task was not run"),
            Self::RuntimeGone => {
                f.write_str("the manager's tokio runtime was shut down, so the task was not run")
            }
            Self::Panicked(panic) => write!(f, "the task {}", Plain(Exit::Panic(panic.clone()).message())),
            Self::TimedOut(limit) => write!(f, "the task passed its time limit of {limit:?}"),
            Self::NoThread => f.write_str("the operating system refused a thread, so the task was not run"),
            Self::Cancelled => f.write_str("the task was dropped before it finished"),
        }
    }
}

impl std::error::Error for TaskError {}

impl<T> TaskHandle<T> {
    pub(crate) fn new(task: JoinHandle<Outcome<T>>) -> Self {
        Self { task: Ok(task) }
    }

    pub(crate) fn refused(why: Refusal) -> Self {
        Self { task: Err(why) }
    }

    /// Returns true if the task has ended (a refused one never began).
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().map_or(true, JoinHandle::is_finished)
    }

    /// Drops the task's future at its next suspension point; the run ends as a cancellation.
    pub fn abort(&self) {
        if let Ok(task) = &self.task {
            task.abort();
        }
    }
}

impl<T> std::fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let task = match &mut self.task {
            Ok(task) => task,
            Err(refusal) => return Poll::Ready(Err((*refusal).into())),
        };
        Pin::new(task).poll(cx).map(|joined| match joined {
            Ok(outcome) => outcome.map_err(|error| *error),
            Err(_) => Err(TaskError::Cancelled),
        })
    }
}
