//! The rules that derive a run's exit from its output: rules of the run, or else of its manager.

use std::sync::Arc;

use super::current::Current;
use crate::policy::{ErrorRules, Exit, TaskOutput, failure};

/// The rules for the error of the run that is current.
#[derive(Clone, Copy)]
pub struct Rules<'a>(pub(super) Option<&'a Arc<ErrorRules>>);

impl std::fmt::Debug for Rules<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl Rules<'_> {
    /// Those of the run, or else of its manager. Called for errors only: most runs have none.
    pub(super) fn get(self) -> Option<Arc<ErrorRules>> {
        match self.0 {
            Some(own) => Some(own.clone()),
            None => Current::get()?.recorder.options.error_rules.clone(),
        }
    }
}

/// Returns the exit of a run that returned this output.
pub(crate) fn exit_of_run<T: TaskOutput<Via>, Via>(output: &T, rules: Rules<'_>) -> Exit {
    output.error().map_or(Exit::Success, |error| failure(error, rules.get().as_deref()))
}
