//! Observations that stay out of a collection of the SDK, which takes most of its time to find the series of each.
//!
//! While a [`Deferred`] is collected, a callback of the tasks' instruments gives the SDK its first observation alone. That one
//! shows in which scope the instrument is, and whether a View has changed it. It can be no other point: the SDK gives what one
//! reader's collection observes to all readers of the provider.

use std::{cell::RefCell, fmt};

use opentelemetry::KeyValue;

/// The observations of the tasks' instruments in one collection, without the SDK's work for each series.
///
/// For a reader that writes all series at once, as a page's `/metrics` does. Instruments of other crates, and histograms, are
/// in the SDK's collection as ever. For an instrument of [`of`](Self::of) the collection has some points only, the
/// [`first`](DeferredObservations::first) among them. A reader that does not find that one collects again, without this type:
/// a View has changed the instrument.
///
/// # Examples
///
/// ```
/// use otel_tasks::telemetry::Deferred;
///
/// let (collected, deferred) = Deferred::during(|| "what the reader has collected");
/// assert_eq!(collected, "what the reader has collected");
/// assert_eq!(deferred.of("task.runs").count(), 0, "no manager reports to this reader");
/// ```
#[derive(Debug, Default)]
pub struct Deferred(Vec<DeferredObservations>);

/// The observations of one instrument of one meter.
pub struct DeferredObservations {
    instrument: &'static str,
    first: Vec<KeyValue>,
    observations: Observations,
}

/// A value that an instrument reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Observed {
    /// A value of seconds.
    F64(f64),
    /// A count that never falls.
    U64(u64),
    /// A count of what there is now.
    I64(i64),
}

/// Calls what it is given for each observation.
type Observations = Box<dyn Fn(&mut dyn FnMut(Observed, &[KeyValue]))>;

thread_local! {
    /// The observations of the collection on this thread, if it defers them.
    static DEFERRED: RefCell<Option<Deferred>> = const { RefCell::new(None) };
}

/// Returns true if the collection on this thread defers observations.
pub(super) fn is_deferring() -> bool {
    DEFERRED.with_borrow(Option::is_some)
}

/// Defers the observations of an instrument, of which `first` has the attributes of one.
pub(super) fn defer(instrument: &'static str, first: &[KeyValue], observations: Observations) {
    DEFERRED.with_borrow_mut(|deferred| {
        if let Some(Deferred(all)) = deferred {
            all.push(DeferredObservations { instrument, first: first.to_vec(), observations });
        }
    });
}

impl Deferred {
    /// Runs `collect`, a collection on this thread, and returns what it returns beside the observations.
    pub fn during<R>(collect: impl FnOnce() -> R) -> (R, Self) {
        /// Ends the deferring also when `collect` panics.
        struct Ends(Option<Deferred>);
        impl Drop for Ends {
            fn drop(&mut self) {
                DEFERRED.set(self.0.take());
            }
        }
        let ends = Ends(DEFERRED.replace(Some(Self::default())));
        let collected = collect();
        let deferred = DEFERRED.take().unwrap_or_default();
        drop(ends);
        (collected, deferred)
    }

    /// Returns the observations of the instruments with this name, one for each meter that has it. Where two are in one scope, an
    /// observation of the later one replaces those under the same attributes.
    pub fn of(&self, instrument: &str) -> impl Iterator<Item = &DeferredObservations> {
        self.0.iter().filter(move |deferred| deferred.instrument == instrument)
    }

    /// Returns the names of the instruments whose observations were deferred, each once for each meter.
    pub fn instruments(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|deferred| deferred.instrument)
    }
}

impl DeferredObservations {
    /// Returns the attributes of the one observation that the collection has too.
    pub fn first(&self) -> &[KeyValue] {
        &self.first
    }

    /// Calls `each` with the value and the attributes of each observation.
    pub fn observe(&self, each: &mut dyn FnMut(Observed, &[KeyValue])) {
        (self.observations)(each);
    }
}

impl fmt::Debug for DeferredObservations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DeferredObservations")
            .field("instrument", &self.instrument)
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

/// The types of values, and how each is reported.
pub(super) trait Observable: Copy + 'static {
    fn observed(self) -> Observed;
}

impl Observable for f64 {
    fn observed(self) -> Observed {
        Observed::F64(self)
    }
}

impl Observable for u64 {
    fn observed(self) -> Observed {
        Observed::U64(self)
    }
}

impl Observable for i64 {
    fn observed(self) -> Observed {
        Observed::I64(self)
    }
}
