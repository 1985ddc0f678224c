//! The figures of the leases of one store, and their instruments.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};
use otel_tasks::{
    gate::Pass,
    telemetry::contract::{DURATION_BOUNDARIES, ERROR_TYPE_OTHER, SCOPE, key, lease, record},
};

use crate::store::StoreError;

/// The most classes of errors that are kept apart, by operation; further ones are counted as [`ERROR_TYPE_OTHER`].
const ERROR_TYPES: usize = 32;

/// A request to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Acquire,
    Renew,
    Claim,
    Release,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Renew => "renew",
            Self::Claim => "claim",
            Self::Release => "release",
        }
    }
}

/// The change of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    Acquired,
    Lost,
    Released,
}

impl Transition {
    const ALL: [Self; 3] = [Self::Acquired, Self::Lost, Self::Released];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Lost => "lost",
            Self::Released => "released",
        }
    }
}

pub(crate) struct Figures {
    state: Mutex<State>,
    renew_duration: OnceLock<Histogram<f64>>,
}

#[derive(Default)]
struct State {
    leases: BTreeMap<Arc<str>, Figure>,
    errors: BTreeMap<(Operation, &'static str), u64>,
    /// True if the last request failed.
    fails: bool,
}

#[derive(Default)]
struct Figure {
    /// The number of values that use the lease.
    uses: usize,
    transitions: [u64; Transition::ALL.len()],
    pass: Option<Pass>,
}

impl State {
    fn count(&mut self, operation: Operation, error_type: &'static str) {
        let is_known = self.errors.contains_key(&(operation, error_type));
        let class = if is_known || self.errors.len() < ERROR_TYPES { error_type } else { ERROR_TYPE_OTHER };
        *self.errors.entry((operation, class)).or_default() += 1;
    }
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), renew_duration: OnceLock::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease is used from now on, so that it is seen before anybody holds it.
    pub(crate) fn used(&self, lease: &Arc<str>) {
        self.state().leases.entry(lease.clone()).or_default().uses += 1;
    }

    /// A lease is used once less. Returns true if it was the last time: its figures are gone.
    pub(crate) fn unused(&self, lease: &str) -> bool {
        let mut state = self.state();
        let Some(figure) = state.leases.get_mut(lease) else { return false };
        figure.uses -= 1;
        let is_last = figure.uses == 0;
        if is_last {
            state.leases.remove(lease);
        }
        is_last
    }

    pub(crate) fn acquired(&self, lease: &str, pass: Pass) {
        if let Some(figure) = self.state().leases.get_mut(lease) {
            figure.transitions[Transition::Acquired as usize] += 1;
            figure.pass = Some(pass);
        }
    }

    /// A hold under this term has ended. Another one of this process may have begun before.
    pub(crate) fn ended(&self, lease: &str, transition: Transition, term: u64) {
        if let Some(figure) = self.state().leases.get_mut(lease) {
            figure.transitions[transition as usize] += 1;
            figure.pass.take_if(|pass| pass.term() == term);
        }
    }

    /// Counts an error of one of several requests.
    pub(crate) fn failed(&self, operation: Operation, error_type: &'static str) {
        self.state().count(operation, error_type);
    }

    /// Counts a response. Emits a record when the store begins to fail, and when it is back.
    pub(crate) fn answered(&self, operation: Operation, error: Option<&StoreError>) {
        let changed = {
            let mut state = self.state();
            if let Some(error) = error {
                state.count(operation, error.error_type());
            }
            std::mem::replace(&mut state.fails, error.is_some()) != error.is_some()
        };
        if changed {
            // A subscriber is the user's: its panic ends neither a renewal nor a candidate.
            let _ = catch_unwind(AssertUnwindSafe(|| announce(operation, error)));
        }
    }

    pub(crate) fn renewed(&self, took: Duration) {
        if let Some(histogram) = self.renew_duration.get() {
            histogram.record(took.as_secs_f64(), &[]);
        }
    }

    /// Creates the instruments, once.
    pub(crate) fn expose(self: &Arc<Self>, meter: &Meter) {
        let mut first = false;
        self.renew_duration.get_or_init(|| {
            first = true;
            let duration = lease::RENEW_DURATION;
            let histogram = meter.f64_histogram(duration.name).with_unit(duration.unit);
            histogram
                .with_description(duration.description)
                .with_boundaries(DURATION_BOUNDARIES.to_vec())
                .build()
        });
        if first {
            observe(meter, &Arc::downgrade(self));
        }
    }
}

/// Emits the record of a store that begins to fail, or is back.
fn announce(operation: Operation, error: Option<&StoreError>) {
    match error {
        Some(error) => {
            let message = chain(error);
            tracing::event!(
                name: record::LEASE_STORE_FAILED, target: SCOPE, parent: None, tracing::Level::WARN,
                { key::LEASE_OPERATION } = operation.as_str(), { key::EXCEPTION_TYPE } = error.error_type(),
                { key::EXCEPTION_MESSAGE } = message,
                "the store of leases fails: held leases end by their time, and none is taken over"
            );
        }
        None => tracing::event!(
            name: record::LEASE_STORE_BACK, target: SCOPE, parent: None, tracing::Level::INFO,
            "the store of leases is back"
        ),
    }
}

fn observe(meter: &Meter, figures: &Weak<Figures>) {
    // The meter keeps a callback for as long as it lives: it holds nothing but a weak pointer.
    let each = |seen: fn(&State, Observe<'_>)| {
        let figures = figures.clone();
        move |observe: Observe<'_>| {
            if let Some(figures) = figures.upgrade() {
                seen(&figures.state(), observe);
            }
        }
    };
    let held = each(|state, observe| {
        for (name, figure) in &state.leases {
            let is_held = figure.pass.as_ref().is_some_and(Pass::is_open);
            observe(if is_held { 1.0 } else { 0.0 }, &[KeyValue::new(key::LEASE_NAME, name.clone())]);
        }
    });
    let transitions = each(|state, observe| {
        for (name, figure) in &state.leases {
            for transition in Transition::ALL {
                let labels = [
                    KeyValue::new(key::LEASE_NAME, name.clone()),
                    KeyValue::new(key::LEASE_TRANSITION, transition.as_str()),
                ];
                observe(count(figure.transitions[transition as usize]), &labels);
            }
        }
    });
    let errors = each(|state, observe| {
        for ((operation, class), errors) in &state.errors {
            let labels = [
                KeyValue::new(key::LEASE_OPERATION, operation.as_str()),
                KeyValue::new(key::ERROR_TYPE, *class),
            ];
            observe(count(*errors), &labels);
        }
    });
    let remaining = each(|state, observe| {
        for (name, figure) in &state.leases {
            if let Some(pass) = figure.pass.as_ref().filter(|pass| pass.is_open()) {
                let left = pass.remaining().as_secs_f64();
                observe(left, &[KeyValue::new(key::LEASE_NAME, name.clone())]);
            }
        }
    });
    let _ = meter
        .i64_observable_up_down_counter(lease::HELD.name)
        .with_unit(lease::HELD.unit)
        .with_description(lease::HELD.description)
        .with_callback(move |observer| held(&mut |value, labels| observer.observe(value as i64, labels)))
        .build();
    for (instrument, seen) in
        [(lease::TRANSITIONS, Box::new(transitions) as Seen), (lease::ERRORS, Box::new(errors))]
    {
        let _ = meter
            .u64_observable_counter(instrument.name)
            .with_unit(instrument.unit)
            .with_description(instrument.description)
            .with_callback(move |observer| seen(&mut |value, labels| observer.observe(value as u64, labels)))
            .build();
    }
    let _ = meter
        .f64_observable_gauge(lease::REMAINING.name)
        .with_unit(lease::REMAINING.unit)
        .with_description(lease::REMAINING.description)
        .with_callback(move |observer| remaining(&mut |value, labels| observer.observe(value, labels)))
        .build();
}

/// Takes a value with its attributes.
type Observe<'a> = &'a mut dyn FnMut(f64, &[KeyValue]);
/// Passes on the values of an instrument.
type Seen = Box<dyn Fn(Observe<'_>) + Send + Sync>;

/// Exact up to 2^53.
fn count(number: u64) -> f64 {
    number as f64
}

/// The texts of an error and its sources.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use otel_tasks::gate::{BootInstant, Grant};

    use super::*;

    #[test]
    fn late_end_of_an_earlier_hold_leaves_the_later_one() {
        let (figures, lease) = (Figures::new(), Arc::from("l"));
        figures.used(&lease);
        let until = BootInstant::now().saturating_add(Duration::from_secs(60));
        let [first, second] = [1, 2].map(|term| Grant::new(term, until, Duration::from_secs(5)).0);
        figures.acquired(&lease, first.pass());
        figures.acquired(&lease, second.pass());
        let held = || figures.state().leases["l"].pass.as_ref().map(Pass::term);
        figures.ended(&lease, Transition::Lost, 1);
        assert_eq!((held(), figures.state().leases["l"].transitions), (Some(2), [2, 1, 0]));
        figures.ended(&lease, Transition::Released, 2);
        assert_eq!(held(), None);
    }

    #[test]
    fn figures_of_a_lease_are_gone_with_its_last_use() {
        let figures = Figures::new();
        for number in 0..100 {
            let lease: Arc<str> = format!("{number}").into();
            figures.used(&lease);
            figures.used(&lease);
            assert!(!figures.unused(&lease));
            assert_eq!(figures.state().leases.len(), 1);
            assert!(figures.unused(&lease));
            figures.ended(&lease, Transition::Released, 1);
            assert_eq!(figures.state().leases.len(), 0, "a late end does not bring it back");
        }
    }
}
