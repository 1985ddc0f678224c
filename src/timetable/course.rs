//! Where one life of a loop stands in its schedule: what is due next, what was missed, what overlapped.
//!
//! Two clocks: the steady one, on which rhythms run and which is told as the time since the life began, and the wall clock,
//! which anybody may set.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{MissedPolicy, Schedule, value::Rhythm};
use crate::policy::fraction;

/// What both clocks show.
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

impl Moment {
    /// How long ago it was; zero where it is to come.
    pub(crate) fn past(self, now: Now) -> Duration {
        match self {
            Self::Steady(at) => now.steady.saturating_sub(at),
            Self::Wall(at) => now.wall.duration_since(at).unwrap_or_default(),
        }
    }

    /// How long it is to come; zero where it has passed.
    pub(crate) fn ahead(self, now: Now) -> Duration {
        match self {
            Self::Steady(at) => at.saturating_sub(now.steady),
            Self::Wall(at) => at.duration_since(now.wall).unwrap_or_default(),
        }
    }

    /// The same on the wall clock; `None` where that cannot tell it.
    pub(crate) fn on_wall(self, now: Now) -> Option<SystemTime> {
        match self {
            Self::Wall(at) => Some(at),
            Self::Steady(_) => match self.past(now) {
                Duration::ZERO => now.wall.checked_add(self.ahead(now)),
                past => now.wall.checked_sub(past),
            },
        }
    }

    fn later(self, by: Duration) -> Self {
        match self {
            Self::Steady(at) => Self::Steady(at.saturating_add(by)),
            Self::Wall(at) => Self::Wall(at.checked_add(by).unwrap_or(at)),
        }
    }
}

/// What a time that has come makes of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fire {
    /// An iteration begins, so long after its time.
    Run { late: Duration },
    /// All that was due is left out.
    Skip,
}

/// A time that was used up, on both clocks.
#[derive(Debug, Clone, Copy)]
struct Used {
    steady: Duration,
    wall: SystemTime,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    /// The time of the schedule.
    time: Moment,
    /// When its iteration is to begin: with its jitter, or while it waits for another to end.
    at: Moment,
    jitter: Duration,
}

pub(crate) struct Course {
    schedule: Arc<Schedule>,
    due: Option<Due>,
    last: Option<Used>,
    /// Since when the schedule holds.
    since: Duration,
    /// How many of the times that were missed are still to be caught up with.
    behind: u32,
    /// What the wall clock showed when it was last read.
    read: SystemTime,
}

impl Course {
    /// Begins; `last` is the last time that the life before used up.
    pub(crate) fn begin(
        schedule: Arc<Schedule>,
        last: Option<SystemTime>,
        now: Now,
        random: &dyn Fn() -> f64,
    ) -> Self {
        let mut course =
            Self { schedule, due: None, last: None, since: now.steady, behind: 0, read: now.wall };
        let first = course.first(last, now);
        course.set_due(first, now, random);
        course
    }

    /// When the next iteration is due; `None` where the schedule is at its end.
    pub(crate) fn due(&self) -> Option<Moment> {
        self.due.map(|due| due.at)
    }

    pub(crate) fn schedule(&self) -> &Arc<Schedule> {
        &self.schedule
    }

    /// The last time that was used up.
    pub(crate) fn last_used(&self) -> Option<SystemTime> {
        self.last.map(|last| last.wall)
    }

    #[cfg_attr(not(feature = "calendar"), expect(unused_variables, reason = "a calendar alone looks back"))]
    fn first(&self, last: Option<SystemTime>, now: Now) -> Option<Moment> {
        let starts = self.schedule.start().filter(|starts| *starts > now.wall);
        match self.schedule.rhythm() {
            Rhythm::Invalid(_) => None,
            Rhythm::Once(at) => Some(Moment::Wall(*at)),
            _ if self.schedule.is_immediate() => {
                Some(starts.map_or(Moment::Steady(now.steady), Moment::Wall))
            }
            Rhythm::Every(interval) | Rhythm::Delay(interval) => {
                Some(starts.map_or(Moment::Steady(now.steady), Moment::Wall).later(*interval))
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let from = self.schedule.first_at(now.wall)?;
                // Not what the life before has done already.
                match last.filter(|last| *last >= from && !was_wrong(calendar, *last, now)) {
                    Some(last) => self.schedule.next_after(last).map(Moment::Wall),
                    None => Some(Moment::Wall(from)),
                }
            }
        }
    }

    fn set_due(&mut self, time: Option<Moment>, now: Now, random: &dyn Fn() -> f64) {
        let spread = self.schedule.spread();
        self.due = time.filter(|time| self.has_not_ended(*time, now)).map(|time| {
            let jitter = match spread {
                Duration::ZERO => Duration::ZERO,
                spread => fraction(spread, random()),
            };
            Due { time, at: time.later(jitter), jitter }
        });
    }

    /// Of a rhythm, too, nothing is due after its end.
    fn has_not_ended(&self, time: Moment, now: Now) -> bool {
        self.schedule.end().is_none_or(|ends| time.on_wall(now).is_some_and(|time| time <= ends))
    }

    /// Takes what is due: says whether an iteration begins, and how many times are left out.
    pub(crate) fn fire(&mut self, missed: MissedPolicy, now: Now) -> (Fire, u64) {
        let Some(due) = self.due.take() else { return (Fire::Skip, 0) };
        let late = due.at.past(now);
        let first = self.used(due.time, now);
        self.last = Some(first);
        if self.behind > 0 {
            self.behind -= 1;
            return (Fire::Run { late }, 0);
        }
        // What came after it, with its jitter taken off: the others would be as much later.
        let until = Now {
            steady: now.steady.saturating_sub(due.jitter),
            wall: now.wall.checked_sub(due.jitter).unwrap_or(now.wall),
        };
        let further = self.times_between(until, true);
        let Some(latest) = further.last else {
            let skipped = missed == MissedPolicy::Skip && late > Schedule::START_TOLERANCE;
            return if skipped { (Fire::Skip, 1) } else { (Fire::Run { late }, 0) };
        };
        let latest_late = until.steady.saturating_sub(latest.steady);
        match missed {
            MissedPolicy::Skip if latest_late > Schedule::START_TOLERANCE => {
                self.last = Some(latest);
                (Fire::Skip, further.count.saturating_add(1))
            }
            MissedPolicy::Skip | MissedPolicy::RunOnce => {
                self.last = Some(latest);
                (Fire::Run { late: latest_late }, further.count)
            }
            MissedPolicy::CatchUp(limit) => {
                let all = further.count.saturating_add(1);
                let run = u32::try_from(all).unwrap_or(u32::MAX).min(limit.max(1));
                let left_out = all - u64::from(run);
                if left_out > 0 {
                    self.last = Some(self.back_from(latest, run - 1, until));
                }
                self.behind = run - 1;
                let late = until.steady.saturating_sub(self.last.map_or(until.steady, |last| last.steady));
                (Fire::Run { late }, left_out)
            }
        }
    }

    /// Goes on from the time that was taken last, once its iteration has ended. Answers how many times passed meanwhile: those
    /// are left out, but for the first of them with `queue`.
    pub(crate) fn follow(&mut self, queue: bool, now: Now, random: &dyn Fn() -> f64) -> u64 {
        let Some(last) = self.last else { return 0 };
        if let Rhythm::Delay(delay) = self.schedule.rhythm() {
            self.set_due(Some(Moment::Steady(now.steady.saturating_add(*delay))), now, random);
            return 0;
        }
        if self.behind > 0 {
            self.set_due(self.after(last), now, random);
            return 0;
        }
        let passed = self.times_between(now, false);
        match (passed.first, passed.last) {
            (Some(first), Some(latest)) if queue => {
                // It waits no longer, and the rhythm goes on from the last that passed.
                let at =
                    if self.is_rhythm() { Moment::Steady(first.steady) } else { Moment::Wall(first.wall) };
                let time =
                    if self.is_rhythm() { Moment::Steady(latest.steady) } else { Moment::Wall(latest.wall) };
                self.due = Some(Due { time, at, jitter: Duration::ZERO });
                passed.count - 1
            }
            (_, latest) => {
                let next = self.not_before(latest.unwrap_or(last), now);
                self.set_due(next, now, random);
                passed.count
            }
        }
    }

    /// Goes on from the time that was taken last while its iteration still runs.
    pub(crate) fn go_on(&mut self, now: Now, random: &dyn Fn() -> f64) {
        if let Some(last) = self.last {
            let next = if self.behind > 0 { self.after(last) } else { self.not_before(last, now) };
            self.set_due(next, now, random);
        }
    }

    /// Leaves out what fell due up to now: it was not to take place.
    pub(crate) fn leave_out(&mut self, now: Now, random: &dyn Fn() -> f64) {
        let Some(due) =
            self.due.filter(|due| due.at.ahead(now).is_zero() && due.at.past(now) > Duration::ZERO)
        else {
            return;
        };
        self.behind = 0;
        let used = self.used(due.time, now);
        self.last = Some(used);
        let next = self.not_before(used, now);
        self.set_due(next, now, random);
    }

    /// Another schedule has held since then. A rhythm is reckoned from the last time that was used up, and due at once where
    /// that is past; a calendar begins with what it shows next. With `waits`, an iteration has to be
    /// [followed](Self::follow) first.
    pub(crate) fn change(
        &mut self,
        schedule: Arc<Schedule>,
        since: Duration,
        waits: bool,
        now: Now,
        random: &dyn Fn() -> f64,
    ) {
        self.schedule = schedule;
        self.since = since;
        self.behind = 0;
        let calendar = !self.is_rhythm();
        let has_started = self.schedule.start().is_none_or(|starts| starts <= now.wall);
        match &mut self.last {
            // It begins anew then.
            Some(_) if !calendar && !has_started => {
                let first = self.first(None, now);
                self.set_due(first, now, random);
            }
            None => {
                // The first iteration is still to come. One that was due at once stays so.
                let is_due = self.due.is_some_and(|due| due.at.ahead(now).is_zero());
                if !(is_due && has_started && self.schedule.is_immediate()) {
                    let first = self.first(None, now);
                    self.set_due(first, now, random);
                }
            }
            Some(last) => {
                if calendar {
                    let ago = now.steady.saturating_sub(since);
                    last.wall = last.wall.max(now.wall.checked_sub(ago).unwrap_or(now.wall));
                }
                if !waits {
                    let next = self.last.and_then(|last| self.after(last));
                    let at_once = Moment::Steady(now.steady);
                    self.set_due(
                        next.map(|next| if next.past(now).is_zero() { next } else { at_once }),
                        now,
                        random,
                    );
                }
            }
        }
    }

    /// Looks at the wall clock: where it was set back, the next time of a calendar is found anew.
    pub(crate) fn look(&mut self, now: Now, random: &dyn Fn() -> f64) {
        if std::mem::replace(&mut self.read, now.wall) > now.wall {
            if let Some(next) = self.found_anew(now) {
                self.set_due(next, now, random);
            }
        }
    }

    /// The next time of a calendar on a clock that was set back; `None` for what is no calendar.
    #[cfg_attr(not(feature = "calendar"), expect(unused_variables, reason = "there is none"))]
    fn found_anew(&self, now: Now) -> Option<Option<Moment>> {
        match self.schedule.rhythm() {
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let last = self.last_used().filter(|last| !was_wrong(calendar, *last, now));
                let after = last.map_or(now.wall, |last| last.max(now.wall));
                Some(self.schedule.next_after(after).map(Moment::Wall))
            }
            _ => None,
        }
    }

    /// The next time of the schedule, whether an iteration is waited for at that time or not.
    pub(crate) fn upcoming(&self, now: Now) -> Option<Moment> {
        self.due().or_else(|| self.after(self.last?).filter(|time| self.has_not_ended(*time, now)))
    }

    /// How far the next time and the one after it lie apart.
    pub(crate) fn distance(&self) -> Option<Duration> {
        self.schedule.interval().or_else(|| {
            let next = match (self.due, self.last) {
                (Some(due), _) => due.time,
                (None, last) => self.after(last?)?,
            };
            let Moment::Wall(next) = next else { return None };
            self.schedule.next_after(next)?.duration_since(next).ok()
        })
    }

    /// Whether a time can come while an iteration runs.
    pub(crate) fn overlaps(&self) -> bool {
        !matches!(self.schedule.rhythm(), Rhythm::Delay(_))
    }

    fn is_rhythm(&self) -> bool {
        matches!(self.schedule.rhythm(), Rhythm::Every(_) | Rhythm::Delay(_))
    }

    fn used(&self, time: Moment, now: Now) -> Used {
        let past = time.past(now);
        match time {
            Moment::Steady(steady) => Used { steady, wall: now.wall.checked_sub(past).unwrap_or(now.wall) },
            Moment::Wall(wall) => Used { steady: now.steady.saturating_sub(past), wall },
        }
    }

    /// The time after that one.
    fn after(&self, last: Used) -> Option<Moment> {
        match self.schedule.rhythm() {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => {
                Some(Moment::Steady(last.steady.saturating_add(*interval)))
            }
            Rhythm::Once(_) | Rhythm::Invalid(_) => None,
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(_) => self.schedule.next_after(last.wall).map(Moment::Wall),
        }
    }

    /// The first time after that one which has not passed.
    fn not_before(&self, last: Used, now: Now) -> Option<Moment> {
        match self.schedule.rhythm() {
            // Most often the next one, which costs no division.
            Rhythm::Every(interval) if last.steady.saturating_add(*interval) >= now.steady => {
                self.after(last)
            }
            Rhythm::Every(interval) => {
                let times = steps(last.steady, now.steady, *interval).max(1);
                Some(Moment::Steady(last.steady.saturating_add(multiple(*interval, times))))
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let just_before = now.wall.checked_sub(Duration::from_nanos(1)).unwrap_or(now.wall);
                let after =
                    if was_wrong(calendar, last.wall, now) { now.wall } else { last.wall.max(just_before) };
                self.schedule.next_after(after).map(Moment::Wall)
            }
            _ => self.after(last),
        }
    }

    /// The times after the last one that was used up, and before `now`, or with `inclusive` up to it; not those before the
    /// schedule came to hold.
    fn times_between(&self, now: Now, inclusive: bool) -> Between {
        let Some(last) = self.last else { return Between::default() };
        match self.schedule.rhythm() {
            Rhythm::Every(interval) if last.steady.saturating_add(*interval) > now.steady => {
                Between::default()
            }
            Rhythm::Every(interval) => {
                // Nothing was due after the end.
                let after_end = self.schedule.end().and_then(|ends| now.wall.duration_since(ends).ok());
                let upto = now.steady.saturating_sub(after_end.unwrap_or_default());
                let passed = if inclusive || upto < now.steady {
                    whole(last.steady, upto, *interval)
                } else {
                    steps(last.steady, upto, *interval).saturating_sub(1)
                };
                let before = whole(last.steady, self.since.min(upto), *interval);
                let at = |times| {
                    let steady = last.steady.saturating_add(multiple(*interval, times));
                    self.used(Moment::Steady(steady), now)
                };
                match passed.saturating_sub(before) {
                    0 => Between::default(),
                    count => Between { count, first: Some(at(before + 1)), last: Some(at(passed)) },
                }
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let mut between = Between::default();
                let is_past =
                    |time: &SystemTime| if inclusive { *time <= now.wall } else { *time < now.wall };
                let mut time = last.wall;
                while let Some(next) = self.schedule.next_after(time).filter(is_past) {
                    time = next;
                    let used = self.used(Moment::Wall(next), now);
                    between.count += 1;
                    between.first.get_or_insert(used);
                    between.last = Some(used);
                    if between.count == MissedPolicy::MAX_COUNTED {
                        let upto = if inclusive {
                            Some(now.wall)
                        } else {
                            now.wall.checked_sub(Duration::from_nanos(1))
                        };
                        let latest =
                            upto.and_then(|upto| calendar.previous(upto)).filter(|latest| *latest > time);
                        if let Some(latest) = latest {
                            between.last = Some(self.used(Moment::Wall(latest), now));
                        }
                        break;
                    }
                }
                between
            }
            _ => Between::default(),
        }
    }

    /// The time so many before that one.
    fn back_from(&self, latest: Used, by: u32, now: Now) -> Used {
        match self.schedule.rhythm() {
            Rhythm::Every(interval) => {
                let steady = latest.steady.saturating_sub(multiple(*interval, u64::from(by)));
                self.used(Moment::Steady(steady), now)
            }
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let before = |time: SystemTime| calendar.previous(time.checked_sub(Duration::from_nanos(1))?);
                let wall = (0..by).try_fold(latest.wall, |time, _| before(time)).unwrap_or(latest.wall);
                self.used(Moment::Wall(wall), now)
            }
            _ => latest,
        }
    }
}

#[derive(Default)]
struct Between {
    count: u64,
    first: Option<Used>,
    last: Option<Used>,
}

/// Whether the clock was set back so far from a time that was used up that it must have been wrong.
#[cfg(feature = "calendar")]
fn was_wrong(calendar: &super::calendar::Calendar, last: SystemTime, now: Now) -> bool {
    last.duration_since(now.wall).is_ok_and(|back| back > calendar.not_repeated())
}

/// How many intervals lead from `from` to `to` or just past it.
fn steps(from: Duration, to: Duration, interval: Duration) -> u64 {
    let nanos = to.saturating_sub(from).as_nanos().div_ceil(interval.as_nanos().max(1));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// How many whole intervals lie between.
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
