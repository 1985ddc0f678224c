use std::{
    sync::{Arc, mpsc},
    thread,
};

use super::*;
use crate::watchdog::{MemberId, member_id, polling};

const TICK: Duration = Duration::from_millis(20);
/// Ten times what a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(10);

type Told = (Instant, Option<Duration>, Vec<BlockedPoll>);

/// A manager that passes on its ticks, then does as the test says.
struct Manager {
    number: u64,
    told: mpsc::Sender<Told>,
    then: Box<dyn Fn() + Send + Sync>,
}

impl Watched for Manager {
    fn tick(&self, tick: &Tick<'_>) {
        // Nobody listens any more where the test is over.
        let _ = self.told.send((tick.now, tick.resumed_after, tick.blocked.to_vec()));
        (self.then)();
    }
}

fn manager_then(then: impl Fn() + Send + Sync + 'static) -> (Arc<Manager>, mpsc::Receiver<Told>) {
    let (told, ticks) = mpsc::channel();
    (Arc::new(Manager { number: next_number(), told, then: Box::new(then) }), ticks)
}

fn manager() -> (Arc<Manager>, mpsc::Receiver<Told>) {
    manager_then(|| {})
}

fn watch_at(watchdog: &'static Watchdog, every: Duration, manager: &Arc<Manager>) {
    let weak: Weak<Manager> = Arc::downgrade(manager);
    watchdog.watch(manager.number, every, weak).expect("the system gives a thread");
}

/// Blocks a thread inside the polls of these members until the sender is dropped.
fn block(ids: Vec<MemberId>) -> (mpsc::Sender<()>, thread::JoinHandle<()>) {
    let (release, released) = mpsc::channel::<()>();
    let blocked = thread::Builder::new().name("blocked".into()).spawn(move || {
        let _polls: Vec<_> = ids.into_iter().map(polling).collect();
        let _ = released.recv();
    });
    (release, blocked.expect("the system gives a thread"))
}

fn next(ticks: &mpsc::Receiver<Told>) -> Told {
    ticks.recv_timeout(PATIENCE).expect("a tick comes")
}

/// Returns the next tick with blocked polls.
fn blocked(ticks: &mpsc::Receiver<Told>) -> Vec<BlockedPoll> {
    std::iter::repeat_with(|| next(ticks).2)
        .take(200)
        .find(|blocked| !blocked.is_empty())
        .expect("a tick within 200 ticks")
}

#[test]
fn last_tick_comes_from_the_process_wide_watchdog() {
    let (manager, ticks) = manager();
    let weak: Weak<Manager> = Arc::downgrade(&manager);
    watch(manager.number, 100 * PATIENCE, weak).expect("the system gives a thread");
    tick_at(manager.number, Instant::now());
    next(&ticks);
    assert!(last_tick().is_some_and(|ago| ago < PATIENCE));
}

#[test]
fn a_thread_that_blocks_is_reported_as_one_poll() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (manager, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &manager);
    let id = member_id(manager.number, 42);
    let (release, thread) = block(vec![id]);
    let first = blocked(&ticks);
    assert_eq!((first.len(), first[0].id), (1, id));
    assert!(first[0].thread.starts_with("blocked ThreadId("), "{first:?}");
    let mut since = first[0].since;
    for _ in 0..10 {
        let again = next(&ticks).2;
        assert_eq!((again.len(), again[0].id, again[0].poll), (1, id, first[0].poll));
        assert!(again[0].since > since);
        since = again[0].since;
    }
    drop(release);
    thread.join().expect("no panic");
    // One tick may have been in progress.
    let _ = ticks.try_iter().count();
    next(&ticks);
    assert_eq!(next(&ticks).2, vec![]);
}

#[test]
fn each_manager_receives_its_own_innermost_blocked_polls() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let ((one, ticks_of_one), (two, ticks_of_two)) = (manager(), manager());
    watch_at(&WATCHDOG, TICK, &one);
    watch_at(&WATCHDOG, TICK, &two);
    let (outer, inner, other) =
        (member_id(two.number, 1), member_id(one.number, 2), member_id(two.number, 3));
    let held = [block(vec![outer, inner]), block(vec![other])];
    let ids = |blocked: Vec<BlockedPoll>| blocked.iter().map(|poll| poll.id).collect::<Vec<_>>();
    assert_eq!(ids(blocked(&ticks_of_one)), [inner]);
    assert_eq!(ids(blocked(&ticks_of_two)), [other]);
    for (release, thread) in held {
        drop(release);
        thread.join().expect("no panic");
    }
}

#[test]
fn the_most_demanding_manager_sets_the_pace() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let ((patient, ticks), (demanding, _ticks)) = (manager(), manager());
    watch_at(&WATCHDOG, 100 * PATIENCE, &patient);
    assert_eq!(ticks.recv_timeout(10 * TICK), Err(mpsc::RecvTimeoutError::Timeout));
    watch_at(&WATCHDOG, TICK, &demanding);
    let (_, resumed_after, _) = next(&ticks);
    assert_eq!(resumed_after, None, "the tick was asked for later, so it is not late");
    next(&ticks);
}

#[test]
fn a_tick_that_is_asked_for_comes_though_the_thread_sleeps_for_longer_and_others_ask_for_theirs() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let ((one, ticks_of_one), (other, _ticks)) = (manager(), manager());
    watch_at(&WATCHDOG, 100 * PATIENCE, &one);
    watch_at(&WATCHDOG, 100 * PATIENCE, &other);
    WATCHDOG.tick_at(one.number, Instant::now());
    next(&ticks_of_one);
    // By now it sleeps again, and has to be woken.
    thread::sleep(5 * TICK);
    let later = Instant::now() + 50 * TICK;
    WATCHDOG.tick_at(one.number, later);
    WATCHDOG.tick_at(other.number, Instant::now());
    assert!(next(&ticks_of_one).0 < later, "all are ticked at once");
    assert!(next(&ticks_of_one).0 >= later, "and one of them again when it asked");
}

#[test]
fn panics_end_neither_the_thread_nor_the_others_ticks() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("a destructor of a payload"));
        }
    }
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (panicking, its_ticks) = manager_then(|| std::panic::resume_unwind(Box::new(Bomb)));
    let (other, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &panicking);
    watch_at(&WATCHDOG, TICK, &other);
    for _ in 0..5 {
        next(&its_ticks);
        next(&ticks);
    }
}

/// A manager whose last reference is dropped in its tick, where both panic.
#[test]
fn a_manager_may_die_in_its_tick() {
    struct Dying {
        itself: Mutex<Option<Arc<Dying>>>,
        ticked: mpsc::Sender<&'static str>,
    }
    impl Watched for Dying {
        fn tick(&self, _: &Tick<'_>) {
            let itself = self.itself.lock().expect("no panic under it").take();
            let _ = self.ticked.send("tick");
            drop(itself);
            std::panic::resume_unwind(Box::new("a tick"));
        }
    }
    impl Drop for Dying {
        fn drop(&mut self) {
            // A destructor that uses the watchdog would block if a lock were held.
            let on_the_watchdog = thread::current().name() == Some("otel-tasks-watchdog");
            WATCHDOG.tick_at(0, Instant::now());
            let _ = self.ticked.send(if on_the_watchdog { "dropped" } else { "dropped elsewhere" });
            std::panic::resume_unwind(Box::new("a destructor"));
        }
    }
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (ticked, events) = mpsc::channel();
    let dying = Arc::new(Dying { itself: Mutex::new(None), ticked });
    *dying.itself.lock().expect("no panic under it") = Some(dying.clone());
    let weak: Weak<Dying> = Arc::downgrade(&dying);
    drop(dying);
    WATCHDOG.watch(next_number(), TICK, weak).expect("the system gives a thread");
    assert_eq!(events.recv_timeout(PATIENCE), Ok("tick"));
    assert_eq!(events.recv_timeout(PATIENCE), Ok("dropped"));
    let (other, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &other);
    next(&ticks);
    assert_eq!(WATCHDOG.state().watched.len(), 1, "the dead one is forgotten");
}

#[test]
fn a_manager_that_is_dropped_is_ticked_no_more_and_the_thread_ends() {
    static WATCHDOG: Watchdog = Watchdog::new(TICK);
    let (first, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &first);
    next(&ticks);
    drop(first);
    // The sender is gone with the manager, once no tick holds it.
    let gone = std::iter::repeat_with(|| ticks.recv_timeout(PATIENCE)).find_map(Result::err);
    assert_eq!(gone, Some(mpsc::RecvTimeoutError::Disconnected));
    assert_eq!(WATCHDOG.last_tick(), None);
    let began = Instant::now();
    while WATCHDOG.state().running {
        assert!(began.elapsed() < PATIENCE, "the thread ends");
        thread::sleep(TICK);
    }
    let (second, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &second);
    next(&ticks);
    assert!(WATCHDOG.last_tick().is_some());
}

#[test]
fn the_time_without_managers_does_not_count_as_one_without_ticks() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (first, ticks) = manager();
    watch_at(&WATCHDOG, TICK, &first);
    next(&ticks);
    drop(first);
    thread::sleep(50 * TICK);
    let (second, ticks) = manager();
    watch_at(&WATCHDOG, 100 * PATIENCE, &second);
    assert!(WATCHDOG.last_tick().is_some_and(|ago| ago < 25 * TICK));
    assert_eq!(ticks.recv_timeout(10 * TICK), Err(mpsc::RecvTimeoutError::Timeout));
}

#[test]
fn a_tick_can_be_asked_for_early() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (manager, ticks) = manager();
    watch_at(&WATCHDOG, 100 * PATIENCE, &manager);
    // So that it sleeps already.
    assert_eq!(ticks.recv_timeout(10 * TICK), Err(mpsc::RecvTimeoutError::Timeout));
    let at = Instant::now() + 5 * TICK;
    WATCHDOG.tick_at(manager.number, at + 100 * PATIENCE);
    WATCHDOG.tick_at(manager.number, at);
    WATCHDOG.tick_at(manager.number, at + PATIENCE);
    let (now, resumed_after, _) = next(&ticks);
    assert!(now >= at && now < at + PATIENCE / 2);
    assert_eq!(resumed_after, None);
    assert_eq!(ticks.recv_timeout(10 * TICK), Err(mpsc::RecvTimeoutError::Timeout), "one tick");
}

#[test]
fn deadlines_that_are_over_do_not_make_it_spin() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let number = Arc::new(AtomicU64::new(0));
    let own = number.clone();
    let (manager, ticks) =
        manager_then(move || WATCHDOG.tick_at(own.load(Ordering::Relaxed), Instant::now()));
    number.store(manager.number, Ordering::Relaxed);
    watch_at(&WATCHDOG, TICK, &manager);
    let (first, ..) = next(&ticks);
    let took = (0..20).fold(Duration::ZERO, |_, _| next(&ticks).0 - first);
    assert!(took >= 20 * MIN_DISTANCE, "{took:?}");
}

/// The thread's own slowness is not the process's.
#[test]
fn a_slow_tick_is_not_taken_for_a_process_that_stood_still() {
    static WATCHDOG: Watchdog = Watchdog::new(LINGER);
    let (slow, ticks) = manager_then(|| thread::sleep(Duration::from_millis(1_500)));
    watch_at(&WATCHDOG, TICK, &slow);
    next(&ticks);
    assert_eq!(next(&ticks).1, None);
}
