//! Seen to fail:
//!
//! - the first if `enter` reads `closed` and inserts under two locks, and if it does not read `closed`
//! - the second if `leave` records after it has released the shard, and if `reported` is not read
//! - the third if `set_asking` counts after it has released the shard
//! - the fourth if it checks before it closes

use ::loom::thread;

use super::*;
use crate::{
    cell::{Identity, Registry},
    emit::TaskAttributes,
    shards,
    sync::model,
};

fn task() -> Arc<Task> {
    let identity = Identity {
        name: "t".into(),
        category: TaskCategory::Scheduled,
        priority: TaskPriority::High,
        component: None,
    };
    Registry::new(1, 1_999, None, TaskAttributes::new)
        .entry(identity, true, std::time::Duration::ZERO)
        .expect("room")
}

fn tracker() -> LocalArcs<Tracker> {
    LocalArcs::new(Tracker::new(0, Duration::ZERO))
}

fn enter(tracker: &LocalArcs<Tracker>, task: &Arc<Task>) -> Option<Place> {
    Tracker::enter(tracker, shards::here(), task, 1, None, None).ok()
}

fn plan(tracker: &Tracker) {
    tracker.plan(Instant::now(), std::iter::empty(), |_| unreachable!("there are no drivers"));
}

fn lines(tracker: &Tracker) -> u64 {
    tracker.report(&[]).0.iter().map(|line| line.count).sum()
}

/// A closed tracker, and the thread that enters a member meanwhile.
fn close_while_one_enters() -> (LocalArcs<Tracker>, thread::JoinHandle<Option<Place>>) {
    let (tracker, task) = (tracker(), task());
    let enters = {
        let tracker = tracker.clone();
        thread::spawn(move || enter(&tracker, &task))
    };
    tracker.close(Admission::OwnedRuns);
    (tracker, enters)
}

#[test]
fn nothing_slips_in_behind_a_close() {
    model(3, || {
        let (tracker, enters) = close_while_one_enters();
        plan(&tracker);
        let found = lines(&tracker);
        let admitted = enters.join().expect("no panic");
        assert_eq!(found, u64::from(admitted.is_some()));
        assert_eq!(tracker.is_emptied(None), admitted.is_none());
    });
}

#[test]
fn a_member_is_found_or_noted_and_never_both() {
    model(3, || {
        let (tracker, task) = (tracker(), task());
        let place = enter(&tracker, &task).expect("open");
        tracker.close(Admission::OwnedRuns);
        let leaves = thread::spawn(move || drop(place));
        plan(&tracker);
        assert_eq!(lines(&tracker), 1);
        leaves.join().expect("no panic");
        assert!(tracker.is_emptied(None), "what has left is not waited for");
        assert!(lines(&tracker) <= 1, "what was reported as leaked is not noted again");
    });
}

#[test]
fn a_member_that_asks_and_leaves_is_counted_once() {
    model(3, || {
        let (tracker, task) = (tracker(), task());
        let stays = enter(&tracker, &task).expect("open");
        let place = enter(&tracker, &task).expect("open");
        let id = place.id();
        tracker.close(Admission::OwnedRuns);
        plan(&tracker);
        let leaves = {
            let tracker = tracker.clone();
            thread::spawn(move || {
                drop(place);
                assert!(!tracker.is_emptied(None), "not even for a moment: one stays");
            })
        };
        if tracker.set_asking(id, true) {
            tracker.set_asking(id, false);
        }
        leaves.join().expect("no panic");
        let left = |waited: &Waited| waited.left.load(Ordering::Relaxed);
        let waited_for: usize = tracker.waited_for().iter().map(left).sum();
        assert_eq!(waited_for, 1, "the member that stays");
        drop(stays);
        assert!(tracker.is_emptied(None));
    });
}

#[test]
fn is_idle_after_close_counts_every_entry() {
    model(3, || {
        let (tracker, enters) = close_while_one_enters();
        let idle = tracker.is_idle();
        assert_eq!(idle, enters.join().expect("no panic").is_none());
    });
}

fn enter_owned(tracker: &LocalArcs<Tracker>, task: &Arc<Task>, owner: &Arc<Owned>) -> Option<Place> {
    let owner = Some(Owner::Model(owner.clone()));
    Tracker::enter(tracker, shards::here(), task, 1, owner, None).ok()
}

fn owned(tracker: &Tracker) -> usize {
    let mut owned = 0;
    tracker.visit(|member| owned += usize::from(member.owner.is_some()));
    owned
}

/// Seen to fail where `enter` counts before it has its shard, and where it asks whether the owner is closed without counting.
#[test]
fn owned_work_is_admitted_and_waited_for_or_refused() {
    model(3, || {
        let (tracker, task) = (tracker(), task());
        let owner = Arc::new(Owned::new());
        let stays = enter_owned(&tracker, &task, &owner).expect("open");
        tracker.close(Admission::OwnedRuns);
        let enters = {
            let (tracker, task, owner) = (tracker.clone(), task.clone(), owner.clone());
            thread::spawn(move || enter_owned(&tracker, &task, &owner))
        };
        owner.close();
        // What is asked and dropped when the grace is over.
        let found = owned(&tracker);
        let admitted = enters.join().expect("no panic");
        assert_eq!(found, 1 + usize::from(admitted.is_some()), "found, or refused");
        assert!(!owner.is_empty(), "not even for a moment: one stays");
        drop(admitted);
        assert!(!owner.is_empty());
        drop(stays);
        assert!(owner.is_empty(), "what has left is not waited for");
        assert!(enter_owned(&tracker, &task, &owner).is_none());
    });
}

#[test]
fn owned_work_that_leaves_while_its_owner_ends_is_seen_by_one_of_both() {
    model(3, || {
        let (tracker, task) = (tracker(), task());
        let owner = Arc::new(Owned::new());
        let place = enter_owned(&tracker, &task, &owner).expect("open");
        let leaves = {
            let owner = owner.clone();
            thread::spawn(move || owner.leave())
        };
        owner.close();
        let seen = owner.is_empty();
        let told = leaves.join().expect("no panic");
        assert!(seen || told, "the owner would wait without end");
        owner.enter_again();
        drop(place);
    });
}

#[test]
fn nothing_slips_in_behind_the_last_close_owned_or_not() {
    model(3, || {
        let (tracker, task) = (tracker(), task());
        let owner = Arc::new(Owned::new());
        let enters = {
            let (tracker, owner) = (tracker.clone(), owner.clone());
            thread::spawn(move || enter_owned(&tracker, &task, &owner))
        };
        tracker.close(Admission::Nothing);
        let found = owned(&tracker);
        let admitted = enters.join().expect("no panic");
        assert_eq!(found, usize::from(admitted.is_some()));
        assert_eq!(owner.is_empty(), admitted.is_none());
    });
}
