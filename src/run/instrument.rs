//! What `#[instrumented_task]` expands to.
//!
//! Inside a run of the same name the function adds no second run; inside another it is a child run in that manager;
//! under none it is recorded process-wide.

use std::{fmt::Display, future::Future};

use super::{Begin, Ended, Recorder, Run, current::Current, resume};
use crate::{
    emit::SpanParent,
    policy::{ErrorClass, Exit, Failure as PolicyFailure, TaskCategory, TaskPriority},
};

/// What the attribute says of its function.
#[derive(Debug)]
pub struct Instrumented {
    name: &'static str,
    category: Option<TaskCategory>,
    priority: Option<TaskPriority>,
    component: Option<&'static str>,
}

impl Instrumented {
    /// Filled in by the attribute.
    pub const fn new(
        name: &'static str,
        category: Option<TaskCategory>,
        priority: Option<TaskPriority>,
        component: Option<&'static str>,
    ) -> Self {
        Self { name, category, priority, component }
    }
}

/// A returned error, as far as its type lets itself be seen.
#[derive(Debug)]
pub struct Failure {
    error_type: &'static str,
    message: String,
}

/// Looks at an output through the most telling of the `Via` traits that its type allows.
#[derive(Debug)]
pub struct Probe<'a, T: ?Sized>(pub &'a T);

/// A result whose error can be displayed.
pub trait ViaDisplay {
    /// The error.
    fn task_failure(&self) -> Option<Failure>;
}

/// A result whose error cannot be displayed.
pub trait ViaOpaque {
    /// The error's type alone.
    fn task_failure(&self) -> Option<Failure>;
}

/// Any other output: a success.
pub trait ViaAny {
    /// Nothing.
    fn task_failure(&self) -> Option<Failure>;
}

impl<T, E: Display> ViaDisplay for &&Probe<'_, Result<T, E>> {
    fn task_failure(&self) -> Option<Failure> {
        let error = self.0.as_ref().err()?;
        Some(Failure { error_type: std::any::type_name::<E>(), message: error.to_string() })
    }
}

impl<T, E> ViaOpaque for &Probe<'_, Result<T, E>> {
    fn task_failure(&self) -> Option<Failure> {
        self.0.as_ref().err()?;
        let error_type = std::any::type_name::<E>();
        Some(Failure { error_type, message: format!("an error of type {error_type}") })
    }
}

impl<T: ?Sized> ViaAny for Probe<'_, T> {
    fn task_failure(&self) -> Option<Failure> {
        None
    }
}

/// Runs `body` as a run of `task`. A panic is recorded and goes on unwinding.
pub async fn instrument<F, C>(task: &'static Instrumented, body: F, classify: C) -> F::Output
where
    F: Future,
    C: FnOnce(&F::Output) -> Option<Failure>,
{
    let recorder = match Current::get() {
        Some(outer) if *outer.task.identity.name == *outer.recorder.options.name_rule.apply(task.name) => {
            return body.await;
        }
        Some(outer) => outer.recorder,
        None => Recorder::process().clone(),
    };
    let entry = if task.category.is_none() && task.priority.is_none() && task.component.is_none() {
        recorder.task(task.name)
    } else {
        recorder.task_with(task.name, task.category, task.priority, task.component.map(Into::into))
    };
    let begin = Begin { parent: SpanParent::Current, ..Begin::new(recorder, entry) };
    let exit = |output: &F::Output| match classify(output) {
        None => Exit::Success,
        Some(Failure { error_type, message }) => {
            Exit::Failure(PolicyFailure { error_type, message, class: ErrorClass::Transient })
        }
    };
    match Run::begun(begin, body, exit, ()).await {
        Ended { value: Ok(output), .. } => output,
        Ended { value: Err(Some(payload)), exit: Exit::Panic(panic), .. } => resume(panic, payload),
        _ => unreachable!("the run was given no time limit, and only a panic has a payload"),
    }
}
