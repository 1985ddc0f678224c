//! The position of one life of a loop in its schedule: the next due time, missed times, overlaps. An [`Account`] keeps the state for the next
//! life.
//!
//! There are two clocks. Rhythms follow the monotonic clock, in time since the life began. The wall clock
//! may be set by anybody.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

#[cfg(feature = "calendar")]
use super::value::Passed;
use super::{Account, MissedPolicy, Schedule, Trigger, value::Rhythm};
use crate::policy::fraction;

/// The times of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Now {
    pub(crate) steady: Duration,
    pub(crate) wall: SystemTime,
}

/// A time on one of the two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Steady(Duration),
    Wall(SystemTime),
}

impl Now {
    /// The times of the clocks when a life began. Not zero, so that earlier times can be represented.
    pub(crate) const ORIGIN: Duration = Duration::from_secs(1 << 36);

    /// Returns the times of the clocks this long ago, if they were not set since.
    pub(crate) fn ago(self, ago: Duration) -> Self {
        let wall = self.wall.checked_sub(ago).unwrap_or(self.wall);
        Self { steady: self.steady.saturating_sub(ago), wall }
    }
}

impl Moment {
    /// Returns the time since this moment; zero if it is in the future.
    pub(crate) fn past(self, now: Now) -> Duration {
        match self {
            Self::Steady(at) => now.steady.saturating_sub(at),
            Self::Wall(at) => now.wall.duration_since(at).unwrap_or_default(),
        }
    }

    /// Returns the time until this moment; zero if it has passed.
    pub(crate) fn ahead(self, now: Now) -> Duration {
        match self {
            Self::Steady(at) => at.saturating_sub(now.steady),
            Self::Wall(at) => at.duration_since(now.wall).unwrap_or_default(),
        }
    }

    /// Returns the same moment on the wall clock; `None` if that cannot represent it.
    pub(crate) fn on_wall(self, now: Now) -> Option<SystemTime> {
        match self {
            Self::Wall(at) => Some(at),
            Self::Steady(at) if at < now.steady => now.wall.checked_sub(now.steady - at),
            Self::Steady(at) => now.wall.checked_add(at - now.steady),
        }
    }

    fn later(self, by: Duration) -> Self {
        match self {
            Self::Steady(at) => Self::Steady(at.saturating_add(by)),
            Self::Wall(at) => Self::Wall(at.checked_add(by).unwrap_or(at)),
        }
    }
}

/// The result of a time that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fired {
    /// The iteration that begins.
    pub(crate) begins: Option<Begins>,
    /// The number of times that are left out because they were missed.
    pub(crate) missed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begins {
    /// The time that it is for.
    pub(crate) due: SystemTime,
    /// The delay of its start after that time, and its jitter.
    pub(crate) late: Duration,
    pub(crate) trigger: Trigger,
}

/// The number of times that are left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) missed: u64,
    pub(crate) overlapped: u64,
}

/// A time that is used, on both clocks.
#[derive(Debug, Clone, Copy)]
struct Used {
    steady: Duration,
    wall: SystemTime,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    /// The time of the schedule.
    time: Moment,
    /// The time at which its iteration is to begin: with its jitter, or while it waits for another to end.
    at: Moment,
    jitter: Duration,
    /// True if it is the first one of a life that begins at once.
    immediate: bool,
}

/// Invariants:
/// 1. `due` is the first time that is not used. It is `None` at the end of the schedule, and while an iteration runs that the next
///    one waits for.
/// 2. Times are used in their order, so the latest used time covers all earlier ones.
/// 3. A time leaves `due` as a used one, or to come again.
pub(crate) struct Course {
    schedule: Arc<Schedule>,
    account: Account,
    due: Option<Due>,
    /// Without a due time: all times before this one are left out, and the search for the next time continues here.
    looks_at: Option<SystemTime>,
    /// The last time that this life used.
    last: Option<Used>,
    /// Since when the schedule holds.
    since: Duration,
    /// The number of missed times that are still to be caught up with.
    behind: u32,
    /// The last single time of `once` that was used. It stays so through other schedules.
    taken: Option<SystemTime>,
    /// The wall clock at the last read.
    read: SystemTime,
}

/// The state to restore if a time turns out to be still due.
#[derive(Clone, Copy)]
struct Before {
    account: Account,
    last: Option<Used>,
    taken: Option<SystemTime>,
}

impl Course {
    /// Begins a life with what the one before has left. Also returns the number of times that it left out.
    pub(crate) fn begin(
        schedule: Arc<Schedule>,
        mut account: Account,
        now: Now,
        random: &dyn Fn() -> f64,
    ) -> (Self, LeftOut) {
        let carried = account.begin(&schedule, now.wall);
        let mut course = Self {
            schedule,
            account,
            due: None,
            looks_at: None,
            last: None,
            since: now.steady,
            behind: 0,
            taken: None,
            read: now.wall,
        };
        let mut left = LeftOut { missed: course.account.take_left(), overlapped: 0 };
        if let Some(carried) = carried {
            course.carry(carried, now);
        }
        let next = match course.last {
            Some(_) if course.schedule.says_immediate() != Some(true) => course.next(now),
            _ => course.first(now, &mut left),
        };
        course.set_due(next, now, random);
        (course, left)
    }

    /// Continues from the last time of an earlier process.
    fn carry(&mut self, carried: SystemTime, now: Now) {
        match self.schedule.rhythm() {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => {
                let ahead = carried.duration_since(now.wall).unwrap_or_default();
                // Further ahead than the next time, and the clock was wrong.
                if ahead <= *interval {
                    let last = on_both(Moment::Wall(self.in_phase(carried, *interval)), now);
                    self.last = Some(last);
                    self.since = self.since.min(last.steady);
                }
            }
            Rhythm::Once(at) => self.taken = Some(*at).filter(|at| *at <= carried),
            _ => {}
        }
    }

    /// The last time of an interval's phase up to a time; that time itself without a phase that outlives a process.
    fn in_phase(&self, time: SystemTime, interval: Duration) -> SystemTime {
        let is_fixed = self.schedule.start().is_some() && !self.schedule.is_delay();
        let next = self.schedule.phase_at(time).filter(|next| is_fixed && *next != time);
        next.and_then(|next| next.checked_sub(interval)).unwrap_or(time)
    }

    /// Returns the due time of the next iteration; `None` if the schedule is at its end.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.due.map(|due| due.at)
    }

    /// Returns the time of the next action: the start of the next iteration, or another search for one.
    pub(crate) fn wakes(&self) -> Option<Moment> {
        self.due().or(self.looks_at().map(Moment::Wall))
    }

    /// Returns the time up to which the schedule leaves out all its times, if the search ended there.
    pub(crate) fn looks_at(&self) -> Option<SystemTime> {
        self.looks_at
    }

    pub(crate) fn schedule(&self) -> &Arc<Schedule> {
        &self.schedule
    }

    pub(crate) fn account(&self) -> Account {
        self.account
    }

    /// The first time of the schedule, as far as this life is concerned.
    fn first(&mut self, now: Now, left: &mut LeftOut) -> Option<(Moment, bool)> {
        let starts = self.schedule.start().filter(|starts| *starts > now.wall);
        match self.schedule.rhythm() {
            Rhythm::Invalid(_) => None,
            Rhythm::Once(_) => self.next(now),
            _ if self.schedule.is_immediate() => {
                if let Some(starts) = starts {
                    return Some((Moment::Wall(starts), true));
                }
                // It takes the place of what was left.
                left.missed += self.later(now, false, false).count;
                if self.is_calendar() {
                    self.account.hold_from(now.wall);
                } else if self.schedule.has_phase() {
                    // The rhythm does not begin with it.
                    self.since = self.since.max(now.steady.saturating_add(Duration::from_nanos(1)));
                }
                Some((Moment::Steady(now.steady), true))
            }
            Rhythm::Every(_) | Rhythm::Delay(_) => {
                let first = self.schedule.first_at(now.wall)?;
                let is_ahead = starts.is_some();
                Some((if is_ahead { Moment::Wall(first) } else { self.steadily(first, now) }, false))
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(_) => self.next(now),
        }
    }

    /// A time to come, on the clock that nobody can set.
    fn steadily(&self, time: SystemTime, now: Now) -> Moment {
        Moment::Steady(now.steady.saturating_add(Moment::Wall(time).ahead(now)))
    }

    /// The first time that is not used.
    fn next(&self, now: Now) -> Option<(Moment, bool)> {
        let next = match self.schedule.rhythm() {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => {
                let last = self.last?;
                match self.schedule.start().filter(|starts| *starts > now.wall.max(last.wall)) {
                    Some(_) => Moment::Wall(self.schedule.first_at(now.wall)?),
                    None if self.awaits_phase(last) => Moment::Steady(self.first_of_phase(now)?.steady),
                    None => {
                        // Before the schedule came to hold, none of its times was due.
                        let from = if last.steady < self.since {
                            let before = multiple(*interval, whole(last.steady, self.since, *interval));
                            last.steady.saturating_add(before)
                        } else {
                            last.steady
                        };
                        Moment::Steady(from.saturating_add(*interval))
                    }
                }
            }
            Rhythm::Once(at) if self.taken != Some(*at) && self.schedule.is_within(*at) => Moment::Wall(*at),
            Rhythm::Once(_) | Rhythm::Invalid(_) => return None,
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(_) => Moment::Wall(self.schedule.next_after(self.account.base())?),
        };
        Some((next, false))
    }

    /// Returns true if the phase of a rhythm is still to begin: its times do not depend on the last used time.
    fn awaits_phase(&self, last: Used) -> bool {
        self.schedule.has_phase() && last.steady < self.since
    }

    /// The first time of a phase since it came to hold.
    fn first_of_phase(&self, now: Now) -> Option<Used> {
        let from = Moment::Steady(self.since).on_wall(now)?;
        Some(on_both(Moment::Wall(self.schedule.phase_at(from)?), now))
    }

    fn set_due(&mut self, next: Option<(Moment, bool)>, now: Now, random: &dyn Fn() -> f64) {
        self.due = next.filter(|(time, _)| self.has_not_ended(*time, now)).map(|(time, immediate)| {
            let window = self.window(time);
            if window.is_zero() {
                return Due { time, at: time, jitter: window, immediate };
            }
            let mut jitter = fraction(window, random());
            let past = time.past(now);
            if jitter < past && past <= window {
                // There is still room for it.
                jitter = past;
            }
            Due { time, at: time.later(jitter), jitter, immediate }
        });
        self.looks_at = match self.due {
            Some(_) => None,
            None => self.schedule.left_out_after(self.account.base()),
        };
        if let Some(upto) = self.looks_at {
            self.account.hold_from(upto.checked_add(Duration::from_nanos(1)).unwrap_or(upto));
        }
    }

    /// Up to how much later than its time an iteration may be made to begin: not past the next time.
    fn window(&self, time: Moment) -> Duration {
        let most = self.schedule.most_jitter();
        match time {
            Moment::Wall(time) if self.is_calendar() && !most.is_zero() => {
                let next = self.schedule.next_after(time);
                next.and_then(|next| next.duration_since(time).ok()).map_or(most, |gap| gap.min(most))
            }
            _ => most,
        }
    }

    /// Of a rhythm, too, nothing is due after its end.
    fn has_not_ended(&self, time: Moment, now: Now) -> bool {
        self.schedule.end().is_none_or(|ends| time.on_wall(now).is_some_and(|time| time <= ends))
    }

    /// Uses what is due: returns whether an iteration begins, and how many times are left out.
    pub(crate) fn fire(&mut self, policy: MissedPolicy, now: Now) -> Fired {
        let Some(due) = self.due.take() else { return Fired { begins: None, missed: 0 } };
        let late = due.at.past(now);
        let first = self.use_up(due.time, now);
        if self.behind > 0 {
            self.behind -= 1;
            return Fired { begins: Some(first.begins(late, Trigger::Missed)), missed: 0 };
        }
        let further = self.later(now, true, true);
        let Some(latest) = further.last else {
            let is_late = late > Schedule::START_TOLERANCE;
            if is_late && policy == MissedPolicy::Skip {
                return Fired { begins: None, missed: 1 };
            }
            let trigger = if is_late {
                Trigger::Missed
            } else if due.immediate {
                Trigger::Immediate
            } else {
                Trigger::Schedule
            };
            return Fired { begins: Some(first.begins(late, trigger)), missed: 0 };
        };
        // The others would have been as much later as the first.
        let late = |used: Used| now.steady.saturating_sub(used.steady).saturating_sub(due.jitter);
        let all = further.count.saturating_add(1);
        let (begins, missed) = match policy {
            MissedPolicy::Skip if late(latest) > Schedule::START_TOLERANCE => (None, all),
            MissedPolicy::Skip | MissedPolicy::RunOnce => (Some(latest), further.count),
            MissedPolicy::CatchUp(limit) => {
                let run = u32::try_from(all).unwrap_or(u32::MAX).min(limit.max(1));
                self.behind = run - 1;
                let left_out = all - u64::from(run);
                let begins = if left_out == 0 { first } else { self.back_from(latest, run - 1, now) };
                (Some(begins), left_out)
            }
        };
        self.set_last(begins.unwrap_or(latest));
        Fired { begins: begins.map(|used| used.begins(late(used), Trigger::Missed)), missed }
    }

    /// Uses what is due although nothing begins. Returns how many times are left out.
    pub(crate) fn overlap(&mut self, now: Now) -> u64 {
        self.take(now, true, true).count
    }

    /// Continues from the last used time.
    pub(crate) fn go_on(&mut self, now: Now, random: &dyn Fn() -> f64) {
        self.set_due(self.next(now), now, random);
    }

    /// Continues after the end of the iteration for which the next one waited. Returns the number of times that passed meanwhile. They are left
    /// out, except for one of them with `queue`.
    pub(crate) fn follow(&mut self, queue: bool, now: Now, random: &dyn Fn() -> f64) -> u64 {
        if self.due.is_none() {
            let next = match (self.schedule.rhythm(), self.next(now)) {
                (Rhythm::Delay(delay), Some((Moment::Steady(_), _))) => {
                    Some((Moment::Steady(now.steady.saturating_add(*delay)), false))
                }
                (_, next) => next,
            };
            self.set_due(next, now, random);
        }
        if self.behind > 0 || matches!(self.schedule.rhythm(), Rhythm::Delay(_) | Rhythm::Once(_)) {
            return 0;
        }
        // Most often, and without a copy of the account.
        if self.due.is_none_or(|due| !due.at.ahead(now).is_zero()) {
            return 0;
        }
        let before = self.before();
        let passed = self.take(now, false, true);
        let (Some(first), Some(latest)) = (passed.first, passed.last) else { return 0 };
        if queue {
            let at = self.moment(first);
            self.keep_latest(before, &passed, latest, at, now);
            return passed.count - 1;
        }
        self.go_on(now, random);
        passed.count
    }

    /// Leaves out the times that have passed: the loop is or was paused. Returns their number. A time that waits for its jitter has passed, too.
    pub(crate) fn leave_out(&mut self, now: Now, random: &dyn Fn() -> f64) -> u64 {
        let due = self.due;
        self.due = due.map(|due| Due { at: due.time, ..due });
        let passed = self.take(now, false, false).count;
        if passed == 0 {
            self.due = due;
            return 0;
        }
        self.behind = 0;
        self.go_on(now, random);
        passed
    }

    /// Leaves out the times that have come by the begin of the last iteration of a count. Returns their number.
    pub(crate) fn leave_out_rest(&mut self, now: Now) -> u64 {
        self.behind = 0;
        let rest = self.later(now, true, true);
        if let Some(last) = rest.last {
            self.set_last(last);
        }
        rest.count
    }

    /// Another schedule has applied since `since`. A time that had come before stays due, the latest if there are several. A rhythm
    /// counts from the last used time, and is due at once if that has passed. A calendar begins with its next time.
    /// With `running`, the next iteration waits for a running one, which has been [followed](Self::follow) up to then.
    pub(crate) fn change(
        &mut self,
        schedule: Arc<Schedule>,
        since: Duration,
        running: bool,
        now: Now,
        random: &dyn Fn() -> f64,
    ) -> LeftOut {
        let mut left = LeftOut::default();
        let at = now.ago(now.steady.saturating_sub(since));
        if !self.is_calendar() {
            // A rhythm's times on a clock that was wrong are none of a calendar's.
            self.account.forget_after(at.wall);
        }
        left.missed = self.keep_due(at);
        // A time that is due at once now stays due.
        let has_started = schedule.start().is_none_or(|starts| starts <= now.wall);
        let is_due = |due: &Due| due.immediate && due.at.ahead(now).is_zero();
        let stays =
            |due: &Due| !due.time.past(at).is_zero() || is_due(due) && has_started && schedule.is_immediate();
        self.due = self.due.filter(stays);
        self.schedule = schedule;
        self.since = since;
        self.behind = 0;
        self.account.hold_from(at.wall);
        if self.is_calendar() && self.account.is_forgotten(&self.schedule, now.wall) {
            self.account.forget(now.wall);
        }
        if self.due.is_none() && !running {
            let next = match self.last {
                None => self.first(now, &mut left),
                Some(last) if !self.schedule.has_phase() && self.is_rhythm() => {
                    let interval = self.schedule.interval().unwrap_or_default();
                    Some((Moment::Steady(last.steady.saturating_add(interval)), false))
                }
                Some(_) => self.next(now),
            };
            let at_once = (Moment::Steady(now.steady), false);
            let next = next.map(|next| match next {
                (Moment::Steady(time), _) if time < now.steady => at_once,
                next => next,
            });
            self.set_due(next, now, random);
        }
        left
    }

    /// Keeps the latest of the times that came before `at` due. Returns how many others are left out.
    fn keep_due(&mut self, at: Now) -> u64 {
        let Some(due) = self.due.filter(|due| !due.time.past(at).is_zero()) else { return 0 };
        let before = self.before();
        let first = self.use_up(due.time, at);
        let further = self.later(at, false, false);
        match further.last {
            None => self.restore(before),
            Some(latest) => {
                let passed = Between { count: further.count + 1, first: Some(first), last: Some(latest) };
                self.keep_latest(before, &passed, latest, due.at, at);
            }
        }
        further.count
    }

    /// Reads the wall clock. If the clock was set back, the next time of a calendar is found again. Returns the number of times that are
    /// left out, because they had come on a wrong clock.
    pub(crate) fn look(&mut self, now: Now, random: &dyn Fn() -> f64) -> u64 {
        let read = std::mem::replace(&mut self.read, now.wall);
        if read <= now.wall || !self.is_calendar() {
            return 0;
        }
        if self.account.is_forgotten(&self.schedule, now.wall) {
            let missed = self.left(Now { wall: read, ..now });
            self.account.forget(now.wall);
            self.behind = 0;
            if self.due.is_some() {
                self.go_on(now, random);
            }
            return missed;
        }
        self.account.set_back(now.wall);
        match self.due.map(|due| due.time) {
            Some(Moment::Wall(time)) if time > now.wall => {
                self.go_on(now, random);
                // One of a schedule before does not come again.
                u64::from(time <= read && !self.comes(time))
            }
            None if self.looks_at.is_some() => {
                self.go_on(now, random);
                0
            }
            _ => 0,
        }
    }

    /// Returns true if it is a time of the schedule that is not used.
    fn comes(&self, time: SystemTime) -> bool {
        let just_before = time.checked_sub(Duration::from_nanos(1)).unwrap_or(time);
        self.schedule.next_after(just_before.max(self.account.base())) == Some(time)
    }

    /// Returns the number of times that had come and are not used.
    fn left(&mut self, now: Now) -> u64 {
        let Some(due) = self.due.filter(|due| due.time.ahead(now).is_zero()) else { return 0 };
        let before = self.before();
        self.use_up(due.time, now);
        let left = self.later(now, true, false).count + 1;
        self.restore(before);
        left
    }

    /// Ends the life. Returns how many times are left out. What a calendar has left is due in the next life; a rhythm begins again
    /// there. With `running`, an iteration ends with the life that the next one waited for; `over`, and nothing more was due.
    pub(crate) fn end(&mut self, (running, queue): (bool, bool), over: bool, now: Now) -> LeftOut {
        let mut left = LeftOut::default();
        if over {
            self.account.hold_from(now.wall);
            return left;
        }
        if running && self.due.is_none() {
            left.overlapped = self.follow(queue, now, &|| 0.0);
        }
        let just_before = now.ago(Duration::from_nanos(1));
        if self.is_rhythm() {
            left.missed = self.left(just_before);
        } else if let Some(Moment::Wall(time)) = self.due.map(|due| due.time).filter(|_| self.is_calendar()) {
            // The next life does not know a time of an earlier schedule, also if the time is due at this very moment.
            if time <= now.wall && !self.comes(time) {
                self.use_up(Moment::Wall(time), now);
                left.missed = 1;
            }
        }
        left
    }

    /// The next time of the schedule, whether an iteration is waited for at that time or not.
    pub(crate) fn upcoming(&self, now: Now) -> Option<Moment> {
        self.due()
            .or_else(|| self.next(now).map(|(time, _)| time).filter(|time| self.has_not_ended(*time, now)))
    }

    /// Returns the distance between the next time and the one after it.
    pub(crate) fn distance(&self) -> Option<Duration> {
        self.schedule.interval().or_else(|| {
            let next = match self.due {
                Some(due) => due.time,
                None if self.is_calendar() => Moment::Wall(self.schedule.next_after(self.account.base())?),
                None => return None,
            };
            let Moment::Wall(next) = next else { return None };
            self.schedule.next_after(next)?.duration_since(next).ok()
        })
    }

    /// Returns true if a time can come while an iteration runs.
    pub(crate) fn overlaps(&self) -> bool {
        !self.schedule.is_delay()
    }

    /// Returns true if times that were missed are still to be caught up with, one after the other.
    pub(crate) fn catches_up(&self) -> bool {
        self.behind > 0
    }

    /// Returns true if all times of the schedule follow the monotonic clock, whatever the wall clock shows.
    pub(crate) fn is_steady(&self) -> bool {
        self.is_rhythm() && self.schedule.start().is_none() && self.schedule.end().is_none()
    }

    fn is_rhythm(&self) -> bool {
        matches!(self.schedule.rhythm(), Rhythm::Every(_) | Rhythm::Delay(_))
    }

    fn is_calendar(&self) -> bool {
        self.schedule.is_calendar()
    }

    fn before(&self) -> Before {
        Before { account: self.account, last: self.last, taken: self.taken }
    }

    fn restore(&mut self, before: Before) {
        (self.account, self.last, self.taken) = (before.account, before.last, before.taken);
    }

    /// Uses what has come, with its jitter, before `now` or with `inclusive` up to it.
    fn take(&mut self, now: Now, inclusive: bool, spare: bool) -> Between {
        let has_come = |due: &Due| due.at.ahead(now).is_zero() && (inclusive || !due.at.past(now).is_zero());
        let Some(due) = self.due.filter(has_come) else { return Between::default() };
        self.due = None;
        let first = self.use_up(due.time, now);
        let further = self.later(now, inclusive, spare);
        if let Some(last) = further.last {
            self.set_last(last);
        }
        Between {
            count: further.count.saturating_add(1),
            first: Some(first),
            last: further.last.or(Some(first)),
        }
    }

    /// Keeps the latest used time due, to begin at `at`.
    fn keep_latest(&mut self, before: Before, passed: &Between, latest: Used, at: Moment, now: Now) {
        self.restore(before);
        if passed.count > 1 {
            // The first may be a time of an earlier schedule. This schedule does not find it before the latest.
            let first_of_two = passed.first.filter(|_| passed.count == 2);
            let used = first_of_two.unwrap_or_else(|| self.back_from(latest, 1, now));
            self.set_last(used);
        }
        self.due = Some(Due { time: self.moment(latest), at, jitter: Duration::ZERO, immediate: false });
    }

    fn moment(&self, used: Used) -> Moment {
        if self.is_rhythm() { Moment::Steady(used.steady) } else { Moment::Wall(used.wall) }
    }

    fn use_up(&mut self, time: Moment, now: Now) -> Used {
        let used = on_both(time, now);
        match self.schedule.rhythm() {
            Rhythm::Once(at) if time == Moment::Wall(*at) => self.taken = Some(*at),
            _ => {}
        }
        self.set_last(used);
        used
    }

    fn set_last(&mut self, used: Used) {
        self.last = Some(used);
        // Of a calendar, one of a schedule before may be earlier than what is used.
        let latest = self.account.used().filter(|_| self.is_calendar());
        self.account.set_used(latest.map_or(used.wall, |latest| latest.max(used.wall)));
    }

    /// Returns the times after the last used time, and before `now`; with `inclusive` also `now`. Times before the
    /// start of the schedule are left out. With `spare`, a time that may still begin within its jitter is left out too.
    fn later(&self, now: Now, inclusive: bool, spare: bool) -> Between {
        let jitter = if spare { self.schedule.most_jitter() } else { Duration::ZERO };
        match self.schedule.rhythm() {
            Rhythm::Every(interval) => match self.last {
                // Most often, and without a division.
                Some(last)
                    if last.steady.saturating_add(*interval) > now.steady && !self.awaits_phase(last) =>
                {
                    Between::default()
                }
                Some(last) if self.awaits_phase(last) => match self.first_of_phase(now) {
                    Some(first) => {
                        let steady = first.steady.saturating_sub(*interval);
                        self.beats(*interval, steady, steady, now, inclusive, jitter)
                    }
                    None => Between::default(),
                },
                Some(last) => self.beats(*interval, last.steady, self.since, now, inclusive, jitter),
                None => Between::default(),
            },
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(_) => {
                let mut passed = self.schedule.passed(self.account.base(), now.wall, inclusive);
                let has_room = |last: &SystemTime| {
                    !jitter.is_zero() && last.checked_add(jitter).is_none_or(|over| over > now.wall)
                };
                if let Some(last) = passed.last.filter(has_room) {
                    passed = match passed.count - 1 {
                        0 => Passed::default(),
                        count => Passed { count, last: self.schedule.previous_before(last), ..passed },
                    };
                }
                let used = |time: SystemTime| on_both(Moment::Wall(time), now);
                Between { count: passed.count, first: passed.first.map(used), last: passed.last.map(used) }
            }
            _ => Between::default(),
        }
    }

    /// The times of an interval after `last`, but for those before `since`.
    fn beats(
        &self,
        interval: Duration,
        last: Duration,
        since: Duration,
        now: Now,
        inclusive: bool,
        jitter: Duration,
    ) -> Between {
        // Nothing was due after the end.
        let after_end = self.schedule.end().and_then(|ends| now.wall.duration_since(ends).ok());
        let upto = now.steady.saturating_sub(after_end.unwrap_or_default());
        let mut passed = if inclusive || upto < now.steady {
            whole(last, upto, interval)
        } else {
            steps(last, upto, interval).saturating_sub(1)
        };
        let before = whole(last, since.min(upto), interval);
        let at = |times| last.saturating_add(multiple(interval, times));
        if passed > before && !jitter.is_zero() && at(passed).saturating_add(jitter) > now.steady {
            passed -= 1;
        }
        let used = |times| on_both(Moment::Steady(at(times)), now);
        match passed.saturating_sub(before) {
            0 => Between::default(),
            count => Between { count, first: Some(used(before + 1)), last: Some(used(passed)) },
        }
    }

    /// Returns the time this number of times before.
    fn back_from(&self, latest: Used, by: u32, now: Now) -> Used {
        match self.schedule.rhythm() {
            Rhythm::Every(interval) => {
                let steady = latest.steady.saturating_sub(multiple(*interval, u64::from(by)));
                on_both(Moment::Steady(steady), now)
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(_) => {
                let wall = (0..by).try_fold(latest.wall, |time, _| self.schedule.previous_before(time));
                on_both(Moment::Wall(wall.unwrap_or(latest.wall)), now)
            }
            _ => latest,
        }
    }
}

impl Used {
    fn begins(self, late: Duration, trigger: Trigger) -> Begins {
        Begins { due: self.wall, late, trigger }
    }
}

fn on_both(time: Moment, now: Now) -> Used {
    let steady = match time {
        Moment::Steady(steady) => steady,
        Moment::Wall(_) => now.steady.saturating_sub(time.past(now)).saturating_add(time.ahead(now)),
    };
    Used { steady, wall: time.on_wall(now).unwrap_or(now.wall) }
}

#[derive(Default)]
struct Between {
    count: u64,
    first: Option<Used>,
    last: Option<Used>,
}

/// Returns the number of intervals from `from` to `to` or just past it.
fn steps(from: Duration, to: Duration, interval: Duration) -> u64 {
    let nanos = to.saturating_sub(from).as_nanos().div_ceil(interval.as_nanos().max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Returns the number of whole intervals between.
fn whole(from: Duration, to: Duration, interval: Duration) -> u64 {
    u64::try_from(to.saturating_sub(from).as_nanos() / interval.as_nanos().max(1)).unwrap_or(u64::MAX)
}

fn multiple(interval: Duration, times: u64) -> Duration {
    let nanos = interval.as_nanos().saturating_mul(u128::from(times));
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX);
    Duration::new(seconds, u32::try_from(nanos % 1_000_000_000).unwrap_or_default())
}

#[cfg(all(test, feature = "calendar"))]
mod tests;
