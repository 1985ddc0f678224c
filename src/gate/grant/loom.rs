//! Seen to fail:
//!
//! - the first if the driver is woken before the end is noted
//! - the second if the watchdog reads `busy` with a load, and if `begin_poll` raises it after it has read the clock
//! - the third if it is not noted that the time was over

use ::loom::thread;

use super::*;
use crate::sync::{atomic::AtomicUsize, model};

/// A permission until the 100th second, and its clock: the future is dropped at 98, and an overrun acted on at 99.
fn granted(now: u64) -> (Grant, Keeper, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(now));
    let shown = clock.clone();
    let clock_of_grant = BootClock::from_fn(move || at(shown.load(SeqCst)));
    let (grant, keeper) = Grant::on(clock_of_grant, 1, at(100), Duration::from_secs(16));
    (grant, keeper, clock)
}

fn at(seconds: u64) -> BootInstant {
    BootInstant::after_boot(Duration::from_secs(seconds))
}

#[test]
fn a_driver_that_comes_while_its_grant_is_revoked_sees_it_or_is_woken() {
    model(3, || {
        let (grant, keeper, _) = granted(0);
        let woken = Arc::new(AtomicUsize::new(0));
        let revokes = thread::spawn(move || keeper.revoke());
        let wakes = woken.clone();
        grant.on_change(move || {
            wakes.fetch_add(1, SeqCst);
        });
        let seen = grant.pass().standing() == Standing::Over;
        revokes.join().expect("no panic");
        let woken = woken.load(SeqCst);
        assert!(seen || woken == 1, "it waits for its timer");
        assert!(woken <= 1, "woken {woken} times");
        assert_eq!(grant.pass().standing(), Standing::Over);
    });
}

#[test]
fn a_poll_that_begins_as_the_time_runs_out_is_refused_or_seen_by_the_watchdog() {
    model(3, || {
        let (grant, _keeper, clock) = granted(97);
        let pass = grant.pass();
        let polls = {
            let pass = pass.clone();
            thread::spawn(move || pass.begin_poll().map(std::mem::forget).is_some())
        };
        clock.store(99, SeqCst);
        let seen = pass.is_overrun();
        let began = polls.join().expect("no panic");
        assert!(!began || seen, "it continues, and no thread ends it");
        assert!(pass.begin_poll().is_none());
    });
}

#[test]
fn a_renewal_that_comes_late_opens_nothing_again() {
    model(3, || {
        let (grant, keeper, _) = granted(99);
        let pass = grant.pass();
        let renews = thread::spawn(move || {
            keeper.extend(at(200));
            keeper
        });
        let (first, second) = (pass.begin_poll().is_some(), pass.begin_poll().is_some());
        assert!(first || !second, "a poll was refused before");
        let keeper = renews.join().expect("no panic");
        assert_eq!(pass.begin_poll().is_some(), second);
        drop(grant);
        keeper.extend(at(300));
        assert!(pass.begin_poll().is_none(), "it was given back");
    });
}
