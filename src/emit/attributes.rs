//! The attribute sets of one task name, each built when it is first exported: an idle task of a manager without a meter has
//! none.
//!
//! Invariant: each is sorted by key. The SDK of OpenTelemetry keeps a set in the given order *and* sorted. If both are the
//! same, it hashes, copies and keeps half as much.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{KeyValue, SpanId, TraceId};

use super::exemplars::{Exemplars, RunExemplar};
use crate::{
    cell::{Entry, Identity},
    contract::{ERROR_TYPE_OTHER, ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT, key},
    policy::ExitKind,
};

/// The attribute sets of one task name.
///
/// Each span counts a reference to its strings. So each entry has strings of its own. Threads that run other names, or other parts of a
/// hot name, do not take these counts from each other.
#[derive(Debug)]
pub(crate) struct TaskAttributes {
    /// Boxed, so that an entry has one word of it.
    instance: Option<Box<Arc<str>>>,
    /// The parts of a hot name share them.
    sets: OnceLock<Arc<Sets>>,
}

#[derive(Debug)]
struct Sets {
    base: Vec<KeyValue>,
    /// With the result of runs that carry no error type.
    plain_results: [OnceLock<Vec<KeyValue>>; ExitKind::ALL.len()],
    /// Those of a failure, where one came: most names fail in one way.
    failure: OnceLock<Box<Failure>>,
    /// Made once somebody has asked for exemplars.
    exemplars: OnceLock<Box<Exemplars>>,
    /// As `plain_results`, in the histogram that was first asked.
    #[cfg(feature = "bound-instruments")]
    bound: [OnceLock<BoundDuration>; ExitKind::ALL.len()],
}

/// The attributes of runs that failed in one way.
#[derive(Debug)]
struct Failure {
    kind: ExitKind,
    error_type: &'static str,
    attributes: Vec<KeyValue>,
}

impl TaskAttributes {
    pub(crate) fn new(instance: Option<&str>) -> Self {
        Self { instance: instance.map(|instance| Box::new(instance.into())), sets: OnceLock::new() }
    }

    /// Returns those of a part of a hot name.
    pub(crate) fn shared(task: &Entry<Self>) -> Self {
        let instance = task.extra.instance.as_deref().map(AsRef::as_ref);
        Self { sets: OnceLock::from(task.sets().clone()), ..Self::new(instance) }
    }
}

impl Entry<TaskAttributes> {
    /// The attributes of [`crate::contract::TASK_ATTRIBUTES`] in a new vector, with room for more; a member's are its family's.
    pub(crate) fn new_attributes(&self, more: usize) -> Vec<KeyValue> {
        let metered = self.metered();
        let Identity { name, category, priority, component } = &metered.identity;
        let instance = metered.extra.instance.as_deref();
        let optional = usize::from(component.is_some()) + usize::from(instance.is_some());
        let mut attributes = Vec::with_capacity(3 + optional + more);
        attributes.push(KeyValue::new(key::CATEGORY, category.as_str()));
        if let Some(component) = component {
            attributes.push(KeyValue::new(key::COMPONENT, component.clone()));
        }
        if let Some(instance) = instance {
            attributes.push(KeyValue::new(key::MANAGER, instance.clone()));
        }
        attributes.push(KeyValue::new(key::NAME, name.clone()));
        attributes.push(KeyValue::new(key::PRIORITY, priority.as_str()));
        attributes
    }

    fn sets(&self) -> &Arc<Sets> {
        self.extra.sets.get_or_init(|| {
            Arc::new(Sets {
                base: self.new_attributes(0),
                plain_results: Default::default(),
                failure: OnceLock::new(),
                exemplars: OnceLock::new(),
                #[cfg(feature = "bound-instruments")]
                bound: Default::default(),
            })
        })
    }

    /// The attributes of [`crate::contract::TASK_ATTRIBUTES`]; a member's are its family's.
    pub(crate) fn attributes(&self) -> &[KeyValue] {
        &self.metered().sets().base
    }

    /// Returns the entry and the error type under which its runs are recorded in histograms. An entry for several names has only the
    /// error types that every name may have.
    pub(super) fn recorded_as(&self, error_type: Option<&'static str>) -> (&Self, Option<&'static str>) {
        let series = self.recorded();
        if std::ptr::eq(series, self.metered()) {
            return (series, error_type);
        }
        // It has no runs of its own for which its sets would be kept.
        series.sets();
        let always = [ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT];
        let other = |error_type| if always.contains(&error_type) { error_type } else { ERROR_TYPE_OTHER };
        (series, error_type.map(other))
    }

    pub(crate) fn result_attributes(&self, kind: ExitKind) -> &[KeyValue] {
        let sets = self.sets();
        sets.plain_results[kind as usize].get_or_init(|| with(&sets.base, key::RESULT, kind.as_str()))
    }

    /// Returns true if a run that ends now leaves its attributes behind for the next. The first of a name, which may be its only
    /// one, does not.
    pub(super) fn keeps_sets(&self) -> bool {
        self.extra.sets.get().is_some() || self.cell.ended_runs() > 1
    }

    /// Notes a run that has ended as an exemplar of its bucket.
    pub(crate) fn note_exemplar(
        &self,
        kind: ExitKind,
        error_type: Option<&'static str>,
        duration: Duration,
        span: (TraceId, SpanId),
    ) {
        let (series, error_type) = self.recorded_as(error_type);
        let exemplars = series.sets().exemplars.get_or_init(Default::default);
        exemplars.run_ended(kind, error_type, duration, span);
    }

    /// The exemplars of the runs that are recorded under this name.
    pub(crate) fn run_exemplars(&self) -> Vec<RunExemplar> {
        let Some(noted) = self.extra.sets.get().and_then(|sets| sets.exemplars.get()) else {
            return Vec::new();
        };
        noted.all(|kind, error_type| match error_type {
            None => self.result_attributes(kind).to_vec(),
            Some(error_type) => with(self.result_attributes(kind), key::ERROR_TYPE, error_type),
        })
    }

    /// [`Self::result_attributes`] for a run that ends, and that leaves none behind.
    pub(super) fn with_new_result_attributes(&self, kind: ExitKind, record: impl FnOnce(&[KeyValue])) {
        let metered = self.metered();
        let Identity { name, category, priority, component } = &metered.identity;
        if component.is_none() && metered.extra.instance.is_none() {
            // On the stack.
            return record(&[
                KeyValue::new(key::CATEGORY, category.as_str()),
                KeyValue::new(key::NAME, name.clone()),
                KeyValue::new(key::PRIORITY, priority.as_str()),
                KeyValue::new(key::RESULT, kind.as_str()),
            ]);
        }
        let mut attributes = self.new_attributes(1);
        attributes.push(KeyValue::new(key::RESULT, kind.as_str()));
        record(&attributes);
    }

    /// The histogram's series of this result that the name holds.
    #[cfg(feature = "bound-instruments")]
    pub(super) fn held(&self, kind: ExitKind) -> Option<&BoundDuration> {
        self.extra.sets.get()?.bound[kind as usize].get()
    }

    /// The place for the histogram's series of this result.
    #[cfg(feature = "bound-instruments")]
    pub(super) fn bound(&self, kind: ExitKind) -> &OnceLock<BoundDuration> {
        &self.sets().bound[kind as usize]
    }

    /// The attributes of a run that failed.
    pub(super) fn with_error_attributes(
        &self,
        kind: ExitKind,
        error_type: &'static str,
        record: impl FnOnce(&[KeyValue]),
    ) {
        let new = || with(self.result_attributes(kind), key::ERROR_TYPE, error_type);
        if !self.keeps_sets() {
            return record(&new());
        }
        let kept =
            self.sets().failure.get_or_init(|| Box::new(Failure { kind, error_type, attributes: new() }));
        if kept.kind == kind && kept.error_type == error_type {
            record(&kept.attributes);
        } else {
            record(&new());
        }
    }
}

fn with(base: &[KeyValue], key: &'static str, value: &'static str) -> Vec<KeyValue> {
    let mut varied = Varied::default();
    varied.begin(base, key);
    varied.with(value);
    varied.set
}

/// A set in which one value changes from one observation to the next: a collection makes tens of thousands.
#[derive(Default)]
pub(super) struct Varied {
    set: Vec<KeyValue>,
    place: usize,
}

impl Varied {
    /// Begins with `base` and an attribute whose value comes.
    pub(super) fn begin(&mut self, base: &[KeyValue], key: &'static str) {
        self.set.clear();
        self.set.reserve(base.len() + 1);
        self.place = base.partition_point(|attribute| attribute.key.as_str() < key);
        self.set.extend_from_slice(&base[..self.place]);
        self.set.push(KeyValue::new(key, ""));
        self.set.extend_from_slice(&base[self.place..]);
    }

    pub(super) fn with(&mut self, value: &'static str) -> &[KeyValue] {
        self.set[self.place].value = value.into();
        &self.set
    }
}

/// A histogram's number and one series of it.
#[cfg(feature = "bound-instruments")]
pub(super) type BoundDuration = (u64, opentelemetry::metrics::BoundHistogram<f64>);

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use opentelemetry::Value;

    use super::*;
    use crate::{
        cell::Registry,
        policy::{TaskCategory, TaskPriority},
    };

    fn task() -> std::sync::Arc<Entry<TaskAttributes>> {
        let registry = Registry::new(1, 1_999, Some("instance".into()), TaskAttributes::new);
        let identity = Identity {
            name: "t".into(),
            category: TaskCategory::Scheduled,
            priority: TaskPriority::High,
            component: Some("component".into()),
        };
        registry.entry(identity, true, Duration::ZERO).expect("room")
    }

    fn error_attributes(
        task: &Entry<TaskAttributes>,
        kind: ExitKind,
        error_type: &'static str,
    ) -> Vec<KeyValue> {
        let mut recorded = Vec::new();
        task.with_error_attributes(kind, error_type, |attributes| recorded = attributes.to_vec());
        recorded
    }

    #[test]
    fn a_failure_is_recorded_as_its_own_whichever_came_first() {
        let task = task();
        task.attributes();
        let ways = [
            (ExitKind::Failure, "io"),
            (ExitKind::Failure, "dns"),
            (ExitKind::Panic, "io"),
            (ExitKind::Failure, "io"),
        ];
        for (kind, error_type) in ways {
            let mut expected = task.result_attributes(kind).to_vec();
            expected.push(KeyValue::new(key::ERROR_TYPE, error_type));
            expected.sort_by(|one, other| one.key.cmp(&other.key));
            assert_eq!(error_attributes(&task, kind, error_type), expected);
        }
    }

    #[test]
    fn every_set_is_sorted_by_key() {
        let task = task();
        let keys = |set: &[KeyValue]| set.iter().map(|held| held.key.to_string()).collect::<Vec<_>>();
        let mut varied = Varied::default();
        varied.begin(task.attributes(), key::REASON);
        for set in [
            task.attributes(),
            task.result_attributes(ExitKind::Success),
            &error_attributes(&task, ExitKind::Failure, "io"),
            varied.with("missed"),
        ] {
            assert!(keys(set).is_sorted(), "{:?}", keys(set));
            assert!(set.len() >= 5 && set.iter().all(|held| !held.value.as_str().is_empty()));
        }
    }

    /// The addresses of the counted strings that a span of this entry gets.
    fn counted(entry: &Entry<TaskAttributes>) -> Vec<*const u8> {
        let address = |attribute: &KeyValue| match &attribute.value {
            Value::String(text) if !["unknown", "normal"].contains(&text.as_str()) => {
                Some(text.as_str().as_ptr())
            }
            _ => None,
        };
        entry.new_attributes(0).iter().filter_map(address).collect()
    }

    #[test]
    fn the_spans_of_two_names_and_of_two_parts_count_no_string_together() {
        let registry = Registry::new(10, 1_999, Some("bot".into()), TaskAttributes::new);
        let component: Arc<str> = "db".into();
        let entry = |name: &str, component: Option<&Arc<str>>| {
            let identity = Identity {
                name: name.into(),
                category: TaskCategory::Unknown,
                priority: TaskPriority::default(),
                component: component.cloned(),
            };
            registry.entry(identity, component.is_none(), Duration::ZERO).expect("room")
        };
        let names = [entry("a", Some(&component)), entry("b", Some(&component))].map(|entry| counted(&entry));
        assert_eq!(names.each_ref().map(Vec::len), [3, 3], "component, instance and name");
        let hot = entry("c", None);
        hot.run_started(|| Duration::ZERO, SystemTime::UNIX_EPOCH);
        hot.cell.heat_up();
        let part = |shard| registry.plain_here("c", shard, TaskAttributes::shared).expect("known");
        let parts = [part(0), part(1)].map(|part| counted(&part));
        assert_eq!(parts.each_ref().map(Vec::len), [2, 2], "instance and name");
        let mut all: Vec<_> = names.into_iter().chain(parts).chain([counted(&hot)]).flatten().collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before, "each string is counted by one entry");
    }
}
