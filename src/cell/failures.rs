//! The failed runs of a name: made with the first of them or for a hot name, and one for all cells of the name.

use std::time::{Duration, UNIX_EPOCH};

use super::{ErrorCount, LastError, TaskSnapshot, window::HourWindow};
use crate::{
    contract::{ERROR_TYPE_OTHER, ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        lock,
    },
};

/// Every `Relaxed` is statistics only and pairs with nothing, as in [`TaskCell`](super::TaskCell).
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Ended runs that failed, panicked or timed out since the last success.
    in_a_row: AtomicU64,
    /// The time of the last failure: unix time in nanoseconds, 0 for never. Written after its record.
    pub(super) last: AtomicU64,
    last_hour: HourWindow,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    errors: Vec<ErrorCount>,
    last: Option<LastError>,
}

/// The reason why a run failed.
pub(crate) struct RunError<'a> {
    pub(crate) error_type: &'static str,
    pub(crate) message: &'a dyn Fn() -> String,
    pub(crate) trace_id: Option<String>,
}

impl Failures {
    /// Counts a failure. Returns the error type it was counted under.
    pub(super) fn count(
        &self,
        RunError { error_type, message, trace_id }: &RunError<'_>,
        ended: u64,
        now: Duration,
        budget: &AtomicUsize,
    ) -> &'static str {
        let error_type = {
            let mut known = lock(&self.known);
            known.last = Some(LastError {
                error_type,
                message: message(),
                at: UNIX_EPOCH + Duration::from_nanos(ended),
                trace_id: trace_id.clone(),
            });
            count_error(&mut known.errors, error_type, budget)
        };
        self.last.fetch_max(ended, Relaxed);
        self.last_hour.count(now);
        error_type
    }

    /// Counts a run that failed in the row.
    pub(super) fn continue_row(&self) {
        self.in_a_row.fetch_add(1, Relaxed);
    }

    /// Sets the number of runs that have failed in a row.
    pub(super) fn set_row(&self, in_a_row: u64) {
        // A load first: nearly always it is so already, and a read leaves the line with the other workers.
        if self.in_a_row.load(Relaxed) != in_a_row {
            self.in_a_row.store(in_a_row, Relaxed);
        }
    }

    pub(super) fn in_a_row(&self) -> u64 {
        self.in_a_row.load(Relaxed)
    }

    pub(super) fn last_hour(&self, now: Duration) -> u64 {
        self.last_hour.sum(now)
    }

    pub(super) fn forget_last_hour(&self) {
        self.last_hour.clear();
    }

    /// Returns the counted errors. Error types that are known from before have none yet. If there was no error, the lock is not taken.
    pub(super) fn errors(&self) -> Vec<ErrorCount> {
        if self.last.load(Relaxed) == 0 {
            return Vec::new();
        }
        lock(&self.known).errors.iter().filter(|error| error.count > 0).copied().collect()
    }

    pub(super) fn last(&self) -> Option<LastError> {
        if self.last.load(Relaxed) == 0 { None } else { lock(&self.known).last.clone() }
    }

    pub(super) fn error_types(&self) -> Vec<&'static str> {
        lock(&self.known).errors.iter().map(|error| error.error_type).collect()
    }

    pub(super) fn know(&self, error_types: impl Iterator<Item = &'static str>) {
        let known = error_types.map(|error_type| ErrorCount { error_type, count: 0 });
        lock(&self.known).errors.extend(known);
    }

    pub(super) fn reset(&self) {
        [&self.in_a_row, &self.last].into_iter().for_each(|figure| figure.store(0, Relaxed));
        self.last_hour.clear();
        let mut known = lock(&self.known);
        // The histograms still know them.
        known.errors.iter_mut().for_each(|error| error.count = 0);
        known.last = None;
    }
}

/// The classes that every name may show, whatever its budget.
const ALWAYS: [&str; 3] = [ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT, ERROR_TYPE_OTHER];

/// Returns true if a class takes a place of a name's eight and of the registry's budget.
pub(super) fn takes_budget(error_type: &str) -> bool {
    !ALWAYS.contains(&error_type)
}

/// Counts an error under its type, or under `_OTHER` where the name's eight places or the registry's budget are used up.
pub(super) fn count_error(
    errors: &mut Vec<ErrorCount>,
    error_type: &'static str,
    budget: &AtomicUsize,
) -> &'static str {
    if let Some(known) = errors.iter_mut().find(|known| known.error_type == error_type) {
        known.count += 1;
        return error_type;
    }
    let own = errors.iter().filter(|known| takes_budget(known.error_type)).count();
    let admitted = !takes_budget(error_type)
        || own < TaskSnapshot::MAX_ERROR_TYPES
            && budget.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
    if !admitted {
        return count_error(errors, ERROR_TYPE_OTHER, budget);
    }
    errors.push(ErrorCount { error_type, count: 1 });
    error_type
}
