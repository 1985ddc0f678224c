//! The used times of a loop on the wall clock. They outlive the loop's lives, changes of its schedule and changes of the clock.
//!
//! One rule: a time that was used is not due again, and a time that was not used is due. A time is used when its iteration
//! begins, or when it is counted as left out.

use std::time::{Duration, SystemTime};

use super::Schedule;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// All times up to this one are used.
    used: Option<SystemTime>,
    /// Nothing before it is due: the schedule came to hold then, or the loop began again by request.
    since: Option<SystemTime>,
    /// True if `used` comes from an earlier process, and no life has begun since.
    carried: bool,
    /// True if a life has begun, be it with a hook that has failed.
    opened: bool,
    /// True if the loop rests until somebody restarts it.
    rests: bool,
    /// The number of times that are left out, and not yet counted.
    left: u64,
}

impl Account {
    /// The account of a loop whose last iteration, in an earlier process, was due at `last_run`.
    pub(crate) fn carried(last_run: SystemTime) -> Self {
        Self { used: Some(last_run), carried: true, ..Self::default() }
    }

    /// The account of a life that takes over in a fleet that claimed `last_run` last. A later time that an earlier life here has begun was not
    /// claimed, so it is due again.
    pub(crate) fn take_over(&mut self, last_run: SystemTime) {
        (self.used, self.carried) = (Some(last_run), true);
    }

    /// Opens it for a life that is to begin: what comes from now on is due.
    pub(crate) fn open(&mut self, now: SystemTime) {
        self.opened = true;
        if std::mem::take(&mut self.rests) || self.since.is_none() && self.used.is_none() {
            self.since = Some(now);
        }
    }

    /// Begins a life. Returns the time that an earlier process used last, for the first life.
    pub(super) fn begin(&mut self, schedule: &Schedule, now: SystemTime) -> Option<SystemTime> {
        let carried = self.used.filter(|_| std::mem::take(&mut self.carried));
        self.open(now);
        if self.is_forgotten(schedule, now) {
            self.forget(now);
        }
        self.since = self.since.map(|since| since.min(now));
        carried.filter(|_| self.used.is_some())
    }

    /// The number of times that were left out between two lives, once.
    pub(crate) fn take_left(&mut self) -> u64 {
        std::mem::take(&mut self.left)
    }

    /// Another schedule than `before` holds from `now` on, while no life has the account. What had come is left out.
    pub(crate) fn change(&mut self, before: &Schedule, now: SystemTime) {
        if !self.opened {
            return;
        }
        if !self.rests && !self.is_forgotten(before, now) {
            self.leave_out(before, now);
        }
        if !before.is_calendar() {
            // A rhythm's times on a clock that was wrong are none of a calendar's.
            self.forget_after(now);
        }
        self.hold_from(now);
    }

    fn leave_out(&mut self, schedule: &Schedule, now: SystemTime) {
        let passed = schedule.passed(self.base(), now, false);
        self.used = passed.last.or(self.used);
        self.left = self.left.saturating_add(passed.count);
    }

    /// The time after which times are due.
    pub(super) fn base(&self) -> SystemTime {
        let just_before = self.since.and_then(|since| since.checked_sub(Duration::from_nanos(1)));
        self.used.max(just_before).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub(super) fn used(&self) -> Option<SystemTime> {
        self.used
    }

    /// All times up to this one are used, and no later one.
    pub(super) fn set_used(&mut self, time: SystemTime) {
        self.used = Some(time);
    }

    /// Nothing before `at` is due.
    pub(super) fn hold_from(&mut self, at: SystemTime) {
        self.since = Some(at);
    }

    /// Returns true if the clock was set back so far that it must have been wrong when the last time was used.
    pub(super) fn is_forgotten(&self, schedule: &Schedule, now: SystemTime) -> bool {
        let back =
            |time: SystemTime| time.duration_since(now).is_ok_and(|back| back > schedule.not_repeated());
        self.used.is_some_and(back)
    }

    /// Forgets what was used later than `now`.
    pub(super) fn forget_after(&mut self, now: SystemTime) {
        self.used = self.used.filter(|used| *used <= now);
    }

    /// Begins again with the present.
    pub(super) fn forget(&mut self, now: SystemTime) {
        (self.used, self.since) = (None, Some(now));
    }

    /// The clock was set back: what it shows again is due unless it was used.
    pub(super) fn set_back(&mut self, now: SystemTime) {
        self.since = self.since.map(|since| since.min(now));
    }

    /// The loop rests until somebody restarts it, and nothing is due meanwhile. Returns the number of times that were due
    /// before and are left out.
    pub(crate) fn rest(&mut self, schedule: &Schedule, now: SystemTime) -> u64 {
        self.come_to_rest(schedule, now);
        self.take_left()
    }

    /// The same, and what is left out is counted later.
    pub(crate) fn come_to_rest(&mut self, schedule: &Schedule, now: SystemTime) {
        let rested = !self.opened || std::mem::replace(&mut self.rests, true);
        if !rested && !self.is_forgotten(schedule, now) {
            self.leave_out(schedule, now);
        }
    }
}

#[cfg(all(test, feature = "calendar"))]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(hour: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(hour * 3_600)
    }

    fn hourly() -> Schedule {
        Schedule::cron("0 1-23 * * *", "UTC")
    }

    fn next(account: &Account) -> Option<SystemTime> {
        hourly().next_after(account.base())
    }

    #[test]
    fn a_time_is_due_from_the_beginning_on_until_it_is_used() {
        let mut account = Account::default();
        assert_eq!(account.begin(&hourly(), at(5)), None);
        assert_eq!(next(&account), Some(at(5)), "its own time counts");
        account.set_used(at(5));
        assert_eq!(next(&account), Some(at(6)));
        assert_eq!(account.begin(&hourly(), at(9)), None);
        assert_eq!(next(&account), Some(at(6)), "another life owes what the one before left");
    }

    #[test]
    fn a_clock_that_is_set_back_repeats_nothing_that_was_used() {
        let mut account = Account::default();
        account.begin(&hourly(), at(5));
        account.set_back(at(3));
        assert_eq!(next(&account), Some(at(3)), "shown again, and not used");
        account.set_used(at(6));
        account.set_back(at(2));
        assert_eq!(next(&account), Some(at(7)));
        account.begin(&hourly(), at(1));
        assert_eq!(next(&account), Some(at(7)), "nor in another life");
    }

    #[test]
    fn a_clock_that_was_wrong_is_forgotten() {
        let mut account = Account::default();
        account.begin(&hourly(), at(1_000));
        account.set_used(at(1_000));
        assert!(!account.is_forgotten(&hourly(), at(1_000 - 48)));
        assert!(account.is_forgotten(&hourly(), at(1_000 - 49)));
        account.begin(&hourly(), at(100));
        assert_eq!(next(&account), Some(at(100)));
    }

    #[test]
    fn only_times_after_the_carried_last_run_are_due() {
        let mut account = Account::carried(at(5));
        assert_eq!(account.begin(&hourly(), at(9)), Some(at(5)));
        assert_eq!(next(&account), Some(at(6)));
        assert_eq!(account.begin(&hourly(), at(9)), None, "for the first life alone");
        assert_eq!(next(&account), Some(at(6)));
    }

    #[test]
    fn rest_counts_leftover_times_and_skips_times_during_rest() {
        let mut account = Account::default();
        assert_eq!(account.rest(&hourly(), at(2)), 0, "it has not begun");
        account.begin(&hourly(), at(5));
        assert_eq!(account.rest(&hourly(), at(7)), 2, "5 and 6; 7 is still to come");
        assert_eq!(account.rest(&hourly(), at(12)), 0, "it rests already");
        account.begin(&hourly(), at(13));
        assert_eq!(next(&account), Some(at(13)));
    }
}
