//! What was held and what was not: told as it comes, counted at the end.

use std::sync::{Mutex, PoisonError};

#[derive(Default)]
pub(crate) struct Checks(Mutex<(usize, usize)>);

impl Checks {
    /// Holds that nothing is wrong.
    pub(crate) fn none(&self, what: &str, wrong: &[String]) {
        self.that(what, wrong.is_empty(), || wrong.join("\n        "));
    }

    pub(crate) fn that(&self, what: &str, holds: bool, otherwise: impl FnOnce() -> String) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holds {
            counts.0 += 1;
            println!("  ok    {what}");
        } else {
            counts.1 += 1;
            println!("  WRONG {what}\n        {}", otherwise());
        }
    }

    /// A step that could not be taken is one that failed.
    pub(crate) fn step(&self, what: &str, result: anyhow::Result<()>) {
        if let Err(error) = result {
            self.that(what, false, || format!("{error:#}"));
        }
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
