//! The expansion of `#[instrumented_task]`.
//!
//! Inside a run of the same name the function adds no second run. Inside another run it is a child run in that manager;
//! outside of any it is recorded process-wide.

use std::future::Future;

use super::{Begin, Ended, PollTime, Recorder, Rules, Run, SpanDetails, SpanMade, current::Current, resume};
use crate::{
    emit::SpanParent,
    policy::{Exit, TaskCategory, TaskPriority},
    shards,
};

/// The settings of an instrumented function.
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

/// Reads an output through the most specific of the traits in [`via`] that its type allows. For outputs whose error borrows nothing,
/// so that the rules of a manager find it by its type.
#[derive(Debug)]
pub struct Probe<'a, T: ?Sized>(pub &'a T);

/// The same for outputs whose error may borrow: the rules of a manager find its sources alone.
#[derive(Debug)]
pub struct BorrowingProbe<'a, T: ?Sized>(pub &'a T);

/// The ways to read an output. The references before the probe order the traits: the compiler tries the most references first.
pub mod via {
    use super::{BorrowingProbe, Probe, Rules};
    use crate::policy::{ErrorView, Exit, failure};
    use std::{error::Error, fmt::Display};

    macro_rules! traits {
        ($($(#[$doc:meta])* $name:ident)*) => {$(
            $(#[$doc])*
            pub trait $name {
                /// Returns the exit of the run.
                fn task_exit(&self, rules: Rules<'_>) -> Exit;
            }
        )*};
    }

    traits! {
        /// A result with an error.
        ViaError
        /// A result with a report: `anyhow::Error`, `eyre::Report` or `Box<dyn Error + Send + Sync>`.
        ViaReport
        /// A result with a box of an error that is not `Sync`.
        ViaBox
        /// A result whose error can be displayed.
        ViaDisplay
        /// A result whose error cannot be displayed.
        ViaOpaque
        /// Any other output: a success.
        ViaAny
    }

    fn exit<T, E>(output: &Result<T, E>, rules: Rules<'_>, view: impl Fn(&E) -> ErrorView<'_>) -> Exit {
        match output {
            Ok(_) => Exit::Success,
            Err(error) => failure(view(error), rules.get().as_deref()),
        }
    }

    impl<T, E: Error + 'static> ViaError for &&&&&Probe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_error(error))
        }
    }

    impl<T, E: AsRef<dyn Error + Send + Sync + 'static> + 'static> ViaReport for &&&&Probe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_report(error, error.as_ref()))
        }
    }

    impl<T> ViaBox for &&&Probe<'_, Result<T, Box<dyn Error>>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_report(error, &**error))
        }
    }

    impl<T> ViaBox for &&&Probe<'_, Result<T, Box<dyn Error + Send>>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_report(error, &**error))
        }
    }

    impl<T, E: Display + 'static> ViaDisplay for &&Probe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_text(error))
        }
    }

    impl<T, E: Error> ViaError for &&&&BorrowingProbe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_borrowing(error))
        }
    }

    impl<T, E: AsRef<dyn Error + Send + Sync + 'static>> ViaReport for &&&BorrowingProbe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::inside::<E>(error.as_ref()))
        }
    }

    impl<T, E: Display> ViaDisplay for &&BorrowingProbe<'_, Result<T, E>> {
        fn task_exit(&self, rules: Rules<'_>) -> Exit {
            exit(self.0, rules, |error| ErrorView::of_borrowing_text(error))
        }
    }

    macro_rules! others {
        ($($probe:ident)*) => {$(
            impl<T, E> ViaOpaque for &$probe<'_, Result<T, E>> {
                fn task_exit(&self, rules: Rules<'_>) -> Exit {
                    exit(self.0, rules, |_| ErrorView::opaque::<E>())
                }
            }

            impl<T: ?Sized> ViaAny for $probe<'_, T> {
                fn task_exit(&self, _: Rules<'_>) -> Exit {
                    Exit::Success
                }
            }
        )*};
    }

    others!(Probe BorrowingProbe);
}

/// Runs `body` as a run of `task`. A panic is recorded and continues to unwind.
pub async fn instrument<F, C>(task: &'static Instrumented, body: F, classify: C) -> F::Output
where
    F: Future,
    C: FnOnce(&F::Output, Rules<'_>) -> Exit,
{
    let recorder = match Current::get() {
        Some(outer) if *outer.task.identity.name == *outer.recorder.options.name_rule.apply(task.name) => {
            return body.await;
        }
        Some(outer) => outer.recorder,
        None => Recorder::process().here(),
    };
    let entry = if task.category.is_none() && task.priority.is_none() && task.component.is_none() {
        recorder.task_here(task.name, shards::here())
    } else {
        recorder.task_with_here(task.name, task.category, task.priority, task.component, shards::here())
    };
    let run = {
        let mut details = SpanDetails { parent: SpanParent::current(), ..SpanDetails::default() };
        let begin = Begin {
            recorder,
            task: entry,
            timeout: None,
            error_rules: None,
            polls: PollTime::Exact,
            span: SpanMade::AtOnce(&mut details),
        };
        Run::begun(begin, body, classify, ())
    };
    match run.await {
        Ended { value: Ok(output), .. } => output,
        Ended { value: Err(Some(payload)), exit: Exit::Panic(panic), .. } => resume(panic, payload),
        _ => unreachable!("the run was given no time limit, and only a panic has a payload"),
    }
}
