//! All cells of one manager, by name: bounded, and never removed, so that no exported counter ever runs backwards.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::{Arc, PoisonError},
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{TaskCell, TaskSnapshot, TaskState, Vitals};
use crate::{
    cell::identity::Identity,
    contract::OVERFLOW_NAME,
    policy::{TaskCategory, TaskPriority},
    sync::{
        Mutex, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
        lock,
    },
};

/// A cell, its identity, and what an upper layer keeps with it (`E`: the attribute sets its exports need).
#[derive(Debug)]
pub(crate) struct Entry<E> {
    pub(crate) identity: Identity,
    pub(crate) cell: TaskCell,
    pub(crate) extra: E,
    /// Made for a caller that gave nothing but the name. The first of a name is found by it alone.
    plain: bool,
}

/// An entry that is found by its name, which it holds already: the key costs no memory of its own.
struct ByName<E>(Arc<Entry<E>>);

impl<E> Borrow<str> for ByName<E> {
    fn borrow(&self) -> &str {
        &self.0.identity.name
    }
}

impl<E> Hash for ByName<E> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.identity.name.hash(state);
    }
}

impl<E> PartialEq for ByName<E> {
    fn eq(&self, other: &Self) -> bool {
        self.0.identity.name == other.0.identity.name
    }
}

impl<E> Eq for ByName<E> {}

/// The entries of every name, one per identity.
struct Entries<E> {
    /// The first of each name.
    first: HashSet<ByName<E>, RandomState>,
    /// Those after it: few names have more than one identity.
    more: HashMap<Arc<str>, Vec<Arc<Entry<E>>>, RandomState>,
    /// How many there are.
    count: usize,
}

impl<E> Default for Entries<E> {
    fn default() -> Self {
        Self { first: HashSet::default(), more: HashMap::default(), count: 0 }
    }
}

impl<E> Entries<E> {
    /// Those of one name, in the order in which they were made.
    fn of(&self, name: &str) -> impl Iterator<Item = &Arc<Entry<E>>> {
        let first = self.first.get(name).map(|first| &first.0);
        let more = if self.more.is_empty() { None } else { self.more.get(name) };
        first.into_iter().chain(more.into_iter().flatten())
    }

    fn find(&self, identity: &Identity) -> Option<&Arc<Entry<E>>> {
        self.of(&identity.name).find(|entry| entry.identity == *identity)
    }

    /// Adds one; with `first`, the first of its name.
    fn insert(&mut self, entry: Arc<Entry<E>>, first: bool) {
        self.count += 1;
        if first {
            self.first.insert(ByName(entry));
        } else {
            self.more.entry(entry.identity.name.clone()).or_default().push(entry);
        }
    }
}

/// Every entry in the order of the names, those of one name in the order in which they were made.
pub(crate) type Listing<E> = Arc<[Arc<Entry<E>>]>;

/// The parts of a listing that are about one name each.
pub(crate) fn by_name<E>(listing: &[Arc<Entry<E>>]) -> impl Iterator<Item = &[Arc<Entry<E>>]> {
    listing.chunk_by(|a, b| a.identity.name == b.identity.name)
}

pub(crate) struct Registry<E> {
    by_name: RwLock<Entries<E>>,
    listing: Mutex<Listing<E>>,
    /// How many more entries fit.
    room: AtomicUsize,
    /// How many more (name, error type) pairs fit.
    pub(crate) error_type_budget: AtomicUsize,
    extra: fn(&Option<Arc<str>>) -> E,
    instance: Option<Arc<str>>,
}

/// The sets one entry takes in the instrument with the most: one per result without an error type, plus `_OTHER`.
const SETS_PER_NAME: usize = 5;
/// The states a registered task is observed in: the other instrument that may be the widest.
const MAX_STATES: usize = TaskState::ALL.len();

impl<E> Registry<E> {
    /// A registry for at most `streams` attribute sets per instrument, and at most `names` entries.
    pub(crate) fn new(
        names: usize,
        streams: usize,
        instance: Option<Arc<str>>,
        extra: fn(&Option<Arc<str>>) -> E,
    ) -> Self {
        // The overflow name takes an entry of its own.
        let names = names.min(streams / MAX_STATES - 1);
        Self {
            by_name: RwLock::default(),
            listing: Mutex::new(Arc::new([])),
            room: AtomicUsize::new(names),
            error_type_budget: AtomicUsize::new(streams.saturating_sub((names + 1) * SETS_PER_NAME)),
            extra,
            instance,
        }
    }

    /// The entry that a caller who gave nothing but the name reads and writes, if there is one yet.
    pub(crate) fn plain(&self, name: &str) -> Option<Arc<Entry<E>>> {
        let entries = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        entries.of(name).find(|entry| entry.plain).cloned()
    }

    /// The entry of this identity, made where there is none; `None` where there is no room for one more.
    pub(crate) fn entry(&self, identity: Identity, plain: bool) -> Option<Arc<Entry<E>>> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        self.entry_in(&mut by_name, identity, plain)
    }

    /// The entries of these identities, found by name alone. Where there is no room for all of them none is made, and the
    /// name of the first that no longer fits is answered.
    pub(crate) fn entries_of<'a>(
        &self,
        identities: impl Iterator<Item = &'a Identity> + Clone,
    ) -> Result<Vec<Arc<Entry<E>>>, Arc<str>> {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = |identity: &&Identity| by_name.find(identity).is_none();
        // Room is taken under this lock alone. Names of a registration are each there once.
        let room = self.room.load(Relaxed);
        // Not looked for where all fit anyway.
        let beyond = identities.clone().nth(room).and_then(|_| identities.clone().filter(is_new).nth(room));
        if let Some(beyond) = beyond {
            return Err(beyond.name.clone());
        }
        let made = identities.filter_map(|identity| self.entry_in(&mut by_name, identity.clone(), true));
        Ok(made.collect())
    }

    fn entry_in(&self, by_name: &mut Entries<E>, identity: Identity, plain: bool) -> Option<Arc<Entry<E>>> {
        let mut first = true;
        for entry in by_name.of(&identity.name) {
            if entry.identity == identity {
                return Some(entry.clone());
            }
            first = false;
        }
        let overflow = &*identity.name == OVERFLOW_NAME;
        if !overflow && self.room.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            return None;
        }
        let extra = (self.extra)(&self.instance);
        let entry = Arc::new(Entry { identity, cell: TaskCell::default(), extra, plain });
        by_name.insert(entry.clone(), first);
        Some(entry)
    }

    /// The one entry for everything that no longer fits.
    pub(crate) fn overflow(&self) -> Arc<Entry<E>> {
        let identity = Identity {
            name: OVERFLOW_NAME.into(),
            category: TaskCategory::Unknown,
            priority: TaskPriority::Normal,
            component: None,
        };
        self.plain(OVERFLOW_NAME)
            .or_else(|| self.entry(identity, true))
            .expect("the overflow entry takes no room, so there is always room for it")
    }

    /// Every entry. Sorted once, and again after names came: entries never go, so their number tells.
    pub(crate) fn listing(&self) -> Listing<E> {
        let mut listing = lock(&self.listing);
        let mut all: Vec<_> = {
            let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
            if listing.len() == by_name.count {
                return listing.clone();
            }
            let first = by_name.first.iter().map(|first| &first.0);
            first.chain(by_name.more.values().flatten()).cloned().collect()
        };
        // Stable: the first of a name stays before those after it.
        all.sort_by(|a, b| a.identity.name.cmp(&b.identity.name));
        *listing = all.into();
        listing.clone()
    }

    /// The entries of one name, in the order in which they were made.
    pub(crate) fn of_name(&self, name: &str) -> Vec<Arc<Entry<E>>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.of(name).cloned().collect()
    }
}

/// What is known of a name at one moment, summed over its entries.
pub(crate) fn snapshot<E>(of_name: &[Arc<Entry<E>>], now: Duration) -> Option<TaskSnapshot> {
    // The registered identity is the one that is shown; it goes first.
    let shown = of_name.iter().position(|entry| entry.cell.state().is_some()).unwrap_or(0);
    let read = |entry: &Arc<Entry<E>>| entry.cell.snapshot(&entry.identity, now);
    let mut sum = read(of_name.get(shown)?);
    let others = of_name.iter().enumerate().filter(|(place, _)| *place != shown);
    others.for_each(|(_, other)| sum.absorb(read(other)));
    Some(sum)
}

/// What health and the totals ask of a name, summed over its entries.
pub(crate) fn vitals<E>(of_name: &[Arc<Entry<E>>], now: Duration) -> Vitals {
    let mut sum = Vitals::default();
    of_name.iter().for_each(|entry| sum.absorb(&entry.cell.vitals(now)));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity {
            name: name.into(),
            category: TaskCategory::Unknown,
            priority: TaskPriority::Normal,
            component: None,
        }
    }

    #[test]
    fn past_its_bound_a_registry_has_only_the_overflow_entry() {
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        assert!(registry.entry(identity("a"), true).is_some());
        assert!(registry.entry(identity("b"), true).is_some());
        assert!(registry.entry(identity("c"), true).is_none());
        assert!(registry.entry(identity("a"), true).is_some(), "known names still answer");
        assert_eq!(&*registry.overflow().identity.name, OVERFLOW_NAME);
        assert_eq!(registry.listing().len(), 3);
    }

    #[test]
    fn one_name_under_two_identities_is_two_entries_and_one_sum() {
        let registry = Registry::<()>::new(10, 1_999, None, |_| ());
        let plain = registry.entry(identity("a"), true).expect("room");
        let other = Identity { priority: TaskPriority::High, ..identity("a") };
        let high = registry.entry(other, false).expect("room");
        plain.cell.run_started(|| Duration::ZERO, std::time::SystemTime::now());
        high.cell.run_started(|| Duration::ZERO, std::time::SystemTime::now());
        assert_eq!(snapshot(&registry.of_name("a"), Duration::ZERO).expect("known").active, 2);
        assert!(Arc::ptr_eq(&registry.plain("a").expect("known"), &plain));
    }

    #[test]
    fn a_listing_is_sorted_and_made_anew_only_when_names_came() {
        let registry = Registry::<()>::new(10, 1_999, None, |_| ());
        let names = |listing: &Listing<()>| -> Vec<_> {
            by_name(listing).map(|of_name| (of_name[0].identity.name.to_string(), of_name.len())).collect()
        };
        assert!(names(&registry.listing()).is_empty());
        for name in ["b", "c", "a"] {
            registry.entry(identity(name), true).expect("room");
        }
        let first = registry.listing();
        assert_eq!(names(&first), [("a".into(), 1), ("b".into(), 1), ("c".into(), 1)]);
        assert!(Arc::ptr_eq(&first, &registry.listing()), "the same as long as nothing came");
        let other = Identity { priority: TaskPriority::High, ..identity("b") };
        registry.entry(other, false).expect("room");
        registry.entry(identity("aa"), true).expect("room");
        let second = registry.listing();
        assert_eq!(names(&second), [("a".into(), 1), ("aa".into(), 1), ("b".into(), 2), ("c".into(), 1)]);
        assert!(
            second[2].plain && !second[3].plain,
            "those of one name in the order in which they were made"
        );
    }

    #[test]
    fn the_name_alone_means_the_first_entry_that_was_made_for_it_alone() {
        let registry = Registry::<()>::new(10, 1_999, None, |_| ());
        let of = |priority| Identity { priority, ..identity("a") };
        registry.entry(of(TaskPriority::High), false).expect("room");
        assert!(registry.plain("a").is_none());
        let plain = registry.entry(of(TaskPriority::Normal), true).expect("room");
        registry.entry(of(TaskPriority::Low), true).expect("room");
        assert!(Arc::ptr_eq(&registry.plain("a").expect("known"), &plain));
        assert_eq!(registry.listing().len(), 3);
    }

    #[test]
    fn names_that_come_together_fit_together_or_not_at_all() {
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        let made = |names: &[&str]| {
            let identities: Vec<Identity> = names.iter().map(|name| identity(name)).collect();
            registry.entries_of(identities.iter()).map(|entries| {
                entries.iter().map(|entry| entry.identity.name.to_string()).collect::<Vec<_>>().concat()
            })
        };
        assert_eq!(made(&["a", "b", "c"]), Err("c".into()));
        assert_eq!(registry.listing().len(), 0, "none is made where one has no room");
        assert_eq!(made(&["a"]), Ok("a".into()));
        assert_eq!(made(&["a", "b"]), Ok("ab".into()), "one that is there needs no room");
        assert_eq!(made(&["a", "c"]), Err("c".into()));
        assert!(registry.plain("b").is_some(), "they are found by name alone");
    }
}

/// Seen to fail where the look and the insertion are under two locks, one after the other.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    fn identity(name: &str) -> Identity {
        Identity {
            name: name.into(),
            category: TaskCategory::Unknown,
            priority: TaskPriority::Normal,
            component: None,
        }
    }

    /// What two threads get that ask at once, where one name fits.
    fn asked_at_once(names: [&'static str; 2]) -> [Option<Arc<Entry<()>>>; 2] {
        let registry = Arc::new(Registry::<()>::new(1, 1_999, None, |_| ()));
        let other = {
            let registry = registry.clone();
            thread::spawn(move || registry.entry(identity(names[0]), true))
        };
        let here = registry.entry(identity(names[1]), true);
        let there = other.join().expect("no panic");
        assert_eq!(registry.listing().len(), 1);
        [there, here]
    }

    #[test]
    fn two_that_ask_for_one_new_name_at_the_bound_share_it() {
        model(3, || {
            let [there, here] = asked_at_once(["t", "t"]).map(|entry| entry.expect("room for one"));
            assert!(Arc::ptr_eq(&there, &here) && here.plain);
        });
    }

    #[test]
    fn of_two_new_names_at_the_bound_one_fits() {
        model(3, || {
            let got = asked_at_once(["a", "b"]);
            assert_eq!(got.iter().flatten().count(), 1);
        });
    }
}
