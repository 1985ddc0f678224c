//! Hot names: their parts are counted as one.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;
use crate::{
    cell::{EndedRun, RunError},
    policy::ExitKind,
};

const NOW: Duration = Duration::ZERO;

fn here(registry: &Registry<()>, name: &str, shard: usize) -> Arc<Entry<()>> {
    registry.plain_here(name, shard, |_| ()).expect("known")
}

fn run_at(entry: &Arc<Entry<()>>, started: SystemTime, error: Option<&'static str>) {
    entry.run_started(|| NOW, started);
    let message = || "broken".to_owned();
    let error = error.map(|error_type| RunError { error_type, message: &message, trace_id: None });
    let kind = if error.is_some() { ExitKind::Failure } else { ExitKind::Success };
    let run = EndedRun { kind, started, duration: Duration::from_secs(1), error };
    entry.run_ended(&run, || NOW, &AtomicUsize::new(8));
}

fn run(entry: &Arc<Entry<()>>) {
    run_at(entry, UNIX_EPOCH, None);
}

#[cfg(not(otel_tasks_loom))]
mod sums {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;
    use crate::cell::HISTORY_LENGTH;

    /// As a caller finds it that gives a priority.
    fn with(registry: &Registry<()>, priority: TaskPriority, shard: usize) -> Arc<Entry<()>> {
        let said = ("a", TaskCategory::Unknown, priority);
        registry.entry_here(said, None, shard, |_| (), || NOW).expect("room")
    }

    #[test]
    fn what_a_shard_has_found_is_found_again_without_the_lock_of_all() {
        let registry = Arc::new(Registry::<()>::new(4, 1_999, None, |_| ()));
        registry.entry(Identity::named("a"), true, NOW).expect("room");
        let find = {
            let registry = registry.clone();
            move || [here(&registry, "a", 0), with(&registry, TaskPriority::High, 0)]
        };
        let before = find();
        assert!(!Arc::ptr_eq(&before[0], &before[1]));
        let (tell, told) = std::sync::mpsc::channel();
        let _all = registry.entries.write().expect("no panic");
        std::thread::spawn(move || tell.send(find()));
        let again = told.recv_timeout(Duration::from_secs(20)).expect("the lock is not waited for");
        assert!(again.iter().zip(&before).all(|(again, before)| Arc::ptr_eq(again, before)));
    }

    #[test]
    fn each_identity_of_a_name_is_found_where_several_take_turns() {
        let registry = Registry::<()>::new(8, 1_999, None, |_| ());
        registry.entry(Identity::named("a"), true, NOW).expect("room");
        for _ in 0..3 {
            for priority in [TaskPriority::High, TaskPriority::Low, TaskPriority::High] {
                let entry = with(&registry, priority, 0);
                assert!(entry.identity.priority == priority && !entry.plain);
            }
            assert!(here(&registry, "a", 0).plain);
        }
        let component = |component: Option<&str>| {
            let said = ("a", TaskCategory::Unknown, TaskPriority::High);
            registry.entry_here(said, component, 0, |_| (), || NOW).expect("room")
        };
        assert_eq!(component(Some("db")).identity.component.as_deref(), Some("db"));
        assert_eq!(component(None).identity.component, None);
        assert_eq!(registry.listing().len(), 4);
    }

    /// Fails if the entry of a hot name keeps the place of its name, and is not found there itself.
    #[test]
    fn another_identity_takes_the_place_of_one_that_has_become_hot() {
        let registry = Arc::new(Registry::<()>::new(4, 1_999, None, |_| ()));
        with(&registry, TaskPriority::High, 0).cell.heat_up();
        let find = {
            let registry = registry.clone();
            move || with(&registry, TaskPriority::Low, 0)
        };
        let before = find();
        let (tell, told) = std::sync::mpsc::channel();
        let _all = registry.entries.write().expect("no panic");
        std::thread::spawn(move || tell.send(find()));
        let again = told.recv_timeout(Duration::from_secs(20)).expect("the lock is not waited for");
        assert!(Arc::ptr_eq(&again, &before));
    }

    /// Fails if a shard keeps an entry that was let go before it was kept, and is forgotten.
    #[test]
    fn an_entry_that_goes_while_a_shard_finds_it_is_not_kept() {
        let registry = Registry::<()>::new(1, 1_999, None, |_| ());
        let entry = registry.entries_of([Identity::named("a")].iter(), || NOW).expect("room").remove(0);
        registry.retire(&entry, NOW);
        registry.collect(NOW);
        let gone = Arc::downgrade(&entry);
        let goes = || {
            registry.expire(OBSERVED_FOR);
            Some(entry)
        };
        let found = registry.find_here(|found| &mut found.plain, "a", 0, |_| (), |_| true, goes);
        assert!(found.expect("it was found before it went").cell.is_gone());
        registry.collect(OBSERVED_FOR * 2);
        registry.take_forgotten();
        assert!(gone.upgrade().is_none(), "nothing keeps it");
    }

    #[test]
    fn a_hot_name_has_parts_for_each_of_its_identities() {
        let registry = Registry::<()>::new(4, 1_999, None, |_| ());
        let entry = with(&registry, TaskPriority::High, 0);
        run(&entry);
        entry.cell.heat_up();
        let parts = [0, 1, 0].map(|shard| with(&registry, TaskPriority::High, shard));
        assert!(Arc::ptr_eq(&parts[0], &parts[2]) && !Arc::ptr_eq(&parts[0], &parts[1]));
        assert!(parts.iter().all(|part| !Arc::ptr_eq(part, &entry) && part.identity == entry.identity));
        parts.iter().for_each(run);
        assert_eq!((registry.listing().len(), entry.cell.vitals(NOW).runs), (1, 4));
    }

    #[test]
    fn an_identity_that_was_let_go_is_not_found_again() {
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        let entry = with(&registry, TaskPriority::High, 0);
        registry.retire(&entry, NOW);
        let later = NOW + OBSERVED_FOR * 2;
        registry.collect(later);
        registry.expire(later);
        assert!(entry.cell.is_gone());
        let again = with(&registry, TaskPriority::High, 0);
        assert!(!again.cell.is_gone() && registry.listing().len() == 1);
    }

    fn hot() -> (Arc<Registry<()>>, Arc<Entry<()>>) {
        let registry = Arc::new(Registry::<()>::new(2, 1_999, None, |_| ()));
        let entry = registry.entries_of([Identity::named("a")].iter(), || NOW).expect("room").remove(0);
        run(&here(&registry, "a", 0));
        entry.cell.heat_up();
        (registry, entry)
    }

    #[test]
    fn each_shard_has_one_part_and_the_name_has_all() {
        let (registry, entry) = hot();
        let parts = [0, 1, 0].map(|shard| here(&registry, "a", shard));
        assert!(Arc::ptr_eq(&parts[0], &parts[2]) && !Arc::ptr_eq(&parts[0], &parts[1]));
        assert!(parts.iter().all(|part| !Arc::ptr_eq(part, &entry) && part.identity == entry.identity));
        parts[0].run_started(|| NOW, UNIX_EPOCH);
        run(&parts[1]);
        assert_eq!(registry.listing().len(), 1);
        let rows = registry.collect(NOW);
        assert_eq!((rows.len(), rows[0].1.active, rows[0].1.total_runs()), (1, 1, 2));
        let snapshot = snapshot(&registry.of_name("a"), NOW).expect("known");
        assert_eq!((snapshot.active, snapshot.run_time.as_secs(), snapshot.few.len()), (1, 2, 2));
        assert_eq!(snapshot.durations.iter().sum::<u64>(), 2);
        assert!(!entry.cell.is_quiet());
        assert!(
            Arc::ptr_eq(&registry.plain("a").expect("known"), &entry),
            "a caller that spawns no run gets the name"
        );
    }

    #[test]
    fn failures_are_counted_once_for_all_parts() {
        let (registry, entry) = hot();
        let parts = [0, 1].map(|shard| here(&registry, "a", shard));
        let failed = |part| run_at(part, UNIX_EPOCH, Some("io"));
        parts.iter().for_each(failed);
        failed(&entry);
        let vitals = entry.cell.vitals(NOW);
        assert_eq!((vitals.failures_in_a_row, vitals.errors, vitals.errors_last_hour), (3, 3, 3));
        let snapshot = entry.snapshot(NOW);
        assert_eq!((snapshot.total_errors(), snapshot.errors_last_hour), (3, 3));
        assert_eq!(snapshot.last_error.expect("failed").error_type, "io");
        run(&parts[1]);
        assert_eq!(entry.cell.vitals(NOW).failures_in_a_row, 0, "a success in any part ends the row");
    }

    #[test]
    fn the_history_has_the_last_runs_of_all_parts_in_their_order() {
        let (registry, entry) = hot();
        for second in 1..=2 * HISTORY_LENGTH as u64 {
            let part = here(&registry, "a", (second % 2) as usize);
            run_at(&part, UNIX_EPOCH + Duration::from_secs(second), None);
        }
        let history = entry.cell.history();
        assert_eq!(history.len(), HISTORY_LENGTH);
        assert!(history.is_sorted_by_key(|run| run.started));
        assert_eq!(history[0].started, UNIX_EPOCH + Duration::from_secs(HISTORY_LENGTH as u64 + 1));
    }

    #[test]
    fn the_history_of_few_runs_is_in_their_order_too() {
        let (registry, entry) = hot();
        let parts = [here(&registry, "a", 0), here(&registry, "a", 1), entry.clone()];
        for second in 1..=9 {
            run_at(&parts[second as usize % 3], UNIX_EPOCH + Duration::from_secs(second), None);
        }
        let history = entry.cell.history();
        assert!(history.len() == 10 && history.is_sorted_by_key(|run| run.started), "{history:?}");
    }

    #[test]
    fn all_shards_find_the_same_entry_after_one_was_let_go_and_came_back() {
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        let of = |priority| Identity { priority, ..Identity::named("a") };
        let identities = [TaskPriority::Normal, TaskPriority::Low].map(of);
        let entries = registry.entries_of(identities.iter(), || NOW).expect("room");
        for shard in [1, 2] {
            assert!(Arc::ptr_eq(&here(&registry, "a", shard), &entries[0]));
        }
        registry.retire(&entries[0], NOW);
        let later = NOW + OBSERVED_FOR * 2;
        registry.collect(later);
        registry.expire(later);
        assert!(entries[0].cell.is_gone());
        let of_first_shard = here(&registry, "a", 1);
        registry.entries_of(identities[..1].iter(), || later).expect("room");
        registry.expire(later);
        assert!(Arc::ptr_eq(&here(&registry, "a", 1), &of_first_shard));
        assert!(Arc::ptr_eq(&here(&registry, "a", 2), &of_first_shard));
    }

    #[test]
    fn a_hot_name_is_let_go_between_two_runs_and_comes_back_with_its_parts() {
        let (registry, entry) = hot();
        let part = here(&registry, "a", 0);
        part.run_started(|| NOW, UNIX_EPOCH);
        registry.retire(&entry, NOW);
        registry.entries_of([Identity::named("b")].iter(), || NOW).expect("room");
        let other = || registry.entries_of([Identity::named("c")].iter(), || NOW);
        assert!(other().is_err() && !entry.cell.is_gone(), "a run is under way in a part");
        run(&part);
        let run_of_start =
            EndedRun { kind: ExitKind::Success, started: UNIX_EPOCH, duration: Duration::ZERO, error: None };
        part.run_ended(&run_of_start, || NOW, &AtomicUsize::new(0));
        let new = other().expect("room is made").remove(0);
        assert!(entry.cell.is_gone() && registry.listing_and_past().1.runs == 3);
        assert!(registry.plain_here("a", 0, |_| ()).is_none(), "a part of a name that is gone is not found");
        registry.retire(&new, NOW);
        assert!(part.run_started(|| NOW, UNIX_EPOCH), "a late run finds the name gone");
        registry.take_back(&part, NOW);
        assert!(!entry.cell.is_gone() && Arc::ptr_eq(&here(&registry, "a", 0), &part));
        assert_eq!((entry.cell.vitals(NOW).runs, entry.cell.vitals(NOW).active), (3, 1));
    }

    #[test]
    fn threads_lose_no_run_while_their_name_becomes_hot() {
        const RUNS: u64 = 20_000;
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        let entry = registry.entry(Identity::named("a"), true, NOW).expect("room");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|shard| {
                    let registry = &registry;
                    scope.spawn(move || (0..RUNS).for_each(|_| run(&here(registry, "a", shard))))
                })
                .collect();
            scope.spawn(|| {
                let mut before = 0;
                while !done.load(SeqCst) {
                    let seen = entry.exported();
                    // The cells are read one after another: a thread may go from the name's cell to its part meanwhile.
                    assert!(seen.active <= 2 * 4 && seen.total_runs() >= before, "{seen:?}");
                    before = seen.total_runs();
                    if before > RUNS {
                        entry.cell.heat_up();
                    }
                }
            });
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
            done.store(true, SeqCst);
        });
        let rest = entry.snapshot(NOW);
        assert_eq!((rest.active, rest.total_runs()), (0, 4 * RUNS));
        assert_eq!(rest.durations.iter().sum::<u64>(), 4 * RUNS);
        assert_eq!(rest.run_time.as_secs(), 4 * RUNS);
    }

    #[test]
    fn a_name_is_hot_once_many_of_its_runs_wait_for_each_other() {
        let registry = Registry::<()>::new(2, 1_999, None, |_| ());
        let entry = registry.entry(Identity::named("a"), true, NOW).expect("room");
        (0..10_000).for_each(|_| run(&here(&registry, "a", 0)));
        assert!(!entry.cell.is_hot(), "one thread waits for nobody");
        let until = std::time::Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            for shard in 0..4 {
                let (registry, entry) = (&registry, &entry);
                scope.spawn(move || {
                    while !entry.cell.is_hot() && std::time::Instant::now() < until {
                        run(&here(registry, "a", shard));
                    }
                });
            }
        });
        // One core has no two threads at once.
        assert!(
            entry.cell.is_hot() || std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1)
        );
    }
}

#[cfg(otel_tasks_loom)]
mod loom {
    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    fn registry() -> (Arc<Registry<()>>, Arc<Entry<()>>) {
        let registry = Arc::new(Registry::<()>::new(1, 1_999, None, |_| ()));
        let entry = registry.entries_of([Identity::named("a")].iter(), || NOW).expect("room").remove(0);
        (registry, entry)
    }

    #[test]
    fn runs_of_a_name_that_becomes_hot_are_each_counted_once() {
        model(2, || {
            let (registry, entry) = registry();
            let other = {
                let registry = registry.clone();
                thread::spawn(move || run(&here(&registry, "a", 1)))
            };
            entry.cell.heat_up();
            run(&here(&registry, "a", 0));
            other.join().expect("no panic");
            let vitals = entry.cell.vitals(NOW);
            assert_eq!((vitals.active, vitals.runs, entry.cell.history().len()), (0, 2, 2));
        });
    }

    #[test]
    fn a_reader_beside_a_name_that_becomes_hot_sees_no_run_that_is_not_there() {
        model(2, || {
            let (registry, entry) = registry();
            let other = {
                let registry = registry.clone();
                thread::spawn(move || {
                    run(&here(&registry, "a", 1));
                    run(&here(&registry, "a", 1));
                })
            };
            entry.cell.heat_up();
            let first = entry.cell.vitals(NOW);
            let then = entry.cell.vitals(NOW);
            assert!(first.active <= 1 && then.active <= 1 && first.runs <= then.runs && then.runs <= 2);
            other.join().expect("no panic");
            assert_eq!(entry.cell.ended_runs(), 2);
        });
    }

    #[test]
    fn two_threads_of_one_shard_share_its_part() {
        model(2, || {
            let (registry, entry) = registry();
            entry.cell.heat_up();
            let other = {
                let registry = registry.clone();
                thread::spawn(move || here(&registry, "a", 0))
            };
            let part = here(&registry, "a", 0);
            assert!(Arc::ptr_eq(&part, &other.join().expect("no panic")) && entry.cell.is_or_has(&part.cell));
        });
    }

    #[test]
    fn a_run_of_a_hot_name_that_is_let_go_keeps_it_or_finds_it_gone() {
        model(2, || {
            let (registry, entry) = registry();
            entry.cell.heat_up();
            let part = here(&registry, "a", 0);
            registry.retire(&entry, NOW);
            let other = {
                let registry = registry.clone();
                thread::spawn(move || registry.entries_of([Identity::named("b")].iter(), || NOW).is_ok())
            };
            let was_gone = part.run_started(|| NOW, UNIX_EPOCH);
            if was_gone {
                registry.take_back(&part, NOW);
            }
            let made = other.join().expect("no panic");
            let names: Vec<_> =
                registry.listing().iter().map(|entry| entry.identity.name.to_string()).collect();
            assert_eq!(names, [if made { "b" } else { "a" }]);
            assert_eq!(entry.cell.is_gone(), made);
            assert!(was_gone || !made, "a run that keeps the name");
        });
    }
}
