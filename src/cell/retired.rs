//! The names whose task is registered no more, in the order in which they retired.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{Entry, Identity};

/// Retired names, each found by its identity, and given up in order: first the names that a collection has seen.
pub(super) struct RetiredNames<E> {
    unseen: BTreeMap<u64, Retired<E>>,
    seen: BTreeMap<u64, Retired<E>>,
    numbers: HashMap<Identity, u64, RandomState>,
    /// The number of the next that retires.
    next: u64,
}

/// An entry whose task is registered no more.
struct Retired<E> {
    entry: Arc<Entry<E>>,
    /// The time since which no run was seen under the name.
    quiet_since: Duration,
    runs: u64,
}

impl<E> Default for RetiredNames<E> {
    fn default() -> Self {
        Self { unseen: BTreeMap::new(), seen: BTreeMap::new(), numbers: HashMap::default(), next: 0 }
    }
}

impl<E> RetiredNames<E> {
    /// Adds a name that retires now. No collection has seen it.
    pub(super) fn push(&mut self, entry: Arc<Entry<E>>, now: Duration) {
        self.remove(&entry.identity);
        let runs = entry.cell.ended_runs();
        self.numbers.insert(entry.identity.clone(), self.next);
        self.unseen.insert(self.next, Retired { entry, quiet_since: now, runs });
        self.next += 1;
    }

    /// Removes a name, whose task is registered again.
    pub(super) fn remove(&mut self, identity: &Identity) {
        if let Some(number) = self.numbers.remove(identity) {
            // It is in one of them.
            self.unseen.remove(&number);
            self.seen.remove(&number);
        }
    }

    /// A collection has seen the last figures of a name.
    pub(super) fn note_seen(&mut self, identity: &Identity) {
        let Some(number) = self.numbers.get(identity) else { return };
        if let Some(retired) = self.unseen.remove(number) {
            self.seen.insert(*number, retired);
        }
    }

    /// Removes up to `wanted` names that `let_go` agrees to, except those in `spared`. Returns how many.
    pub(super) fn give_up(
        &mut self,
        wanted: usize,
        spared: &HashSet<*const Entry<E>>,
        mut let_go: impl FnMut(&Arc<Entry<E>>) -> bool,
    ) -> usize {
        let mut given_up = 0;
        for names in [&mut self.seen, &mut self.unseen] {
            let mut gone = Vec::new();
            for (number, Retired { entry, .. }) in &*names {
                if given_up == wanted {
                    break;
                }
                if !spared.contains(&Arc::as_ptr(entry)) && let_go(entry) {
                    gone.push(*number);
                    given_up += 1;
                }
            }
            for number in gone {
                let retired = names.remove(&number).expect("it was just there");
                self.numbers.remove(&retired.entry.identity);
            }
        }
        given_up
    }

    /// Removes the names that have been quiet for this time, were seen, and that `let_go` agrees to.
    pub(super) fn expire(
        &mut self,
        now: Duration,
        quiet_for: Duration,
        mut let_go: impl FnMut(&Arc<Entry<E>>) -> bool,
    ) {
        let is_due = |held: &mut Retired<E>| {
            let cell = &held.entry.cell;
            let runs = cell.ended_runs();
            if !cell.is_quiet() || runs != held.runs {
                (held.quiet_since, held.runs) = (now.max(held.quiet_since), runs);
            }
            now.saturating_sub(held.quiet_since) >= quiet_for
        };
        self.unseen.values_mut().for_each(|held| _ = is_due(held));
        self.seen.retain(|_, held| {
            let goes = is_due(held) && let_go(&held.entry);
            if goes {
                self.numbers.remove(&held.entry.identity);
            }
            !goes
        });
    }
}
