//! The schedule of a loop.

use std::time::{Duration, SystemTime};
#[cfg(feature = "calendar")]
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::ScheduleError;
#[cfg(feature = "calendar")]
use super::{LocalTime, calendar::Calendar, cron::Cron, daily::Daily};

/// The times at which the iterations of a loop are due. A plain value: it reads no clock.
///
/// The values are checked when the loop is registered, or by [`check`](Self::check), so the calls chain.
///
/// ```
/// use otel_tasks::{Schedule, schedule::ScheduleError};
/// use std::time::{Duration, UNIX_EPOCH};
/// let schedule = Schedule::every(Duration::from_secs(60)).count(3);
/// let times: Vec<u64> = schedule
///     .upcoming(UNIX_EPOCH)
///     .map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs())
///     .collect();
/// assert_eq!(times, [0, 60, 120]);
/// assert_eq!(Schedule::every(Duration::ZERO).check(), Err(ScheduleError::ZeroInterval));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub(super) rhythm: Rhythm,
    pub(super) immediate: Option<bool>,
    pub(super) count: Option<u64>,
    pub(super) starts: Option<SystemTime>,
    pub(super) ends: Option<SystemTime>,
    pub(super) jitter: Duration,
    pub(super) spread: Option<Spread>,
    #[cfg(feature = "calendar")]
    pub(super) except: Option<Except>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rhythm {
    /// The interval between starts, which the length of an iteration does not change.
    Every(Duration),
    /// The delay from the end of an iteration to the next.
    Delay(Duration),
    Once(SystemTime),
    /// Shared: it is large, and does not change.
    #[cfg(feature = "calendar")]
    Calendar(Arc<Calendar>),
    #[cfg_attr(
        not(feature = "calendar"),
        expect(dead_code, reason = "only what is parsed can be wrong at once")
    )]
    Invalid(Box<ScheduleError>),
}

impl Schedule {
    /// The latest start of an iteration after its time under [`MissedPolicy::Skip`](crate::schedule::MissedPolicy::Skip): 60 s. It is longer than
    /// a sleeping loop waits between two reads of the wall clock, and than a busy runtime needs.
    pub const START_TOLERANCE: Duration = Duration::from_secs(60);

    fn of(rhythm: Rhythm) -> Self {
        Self {
            rhythm,
            immediate: None,
            count: None,
            starts: None,
            ends: None,
            jitter: Duration::ZERO,
            spread: None,
            #[cfg(feature = "calendar")]
            except: None,
        }
    }

    /// Creates a schedule with a fixed interval from the first iteration, which is due at once. It follows a monotonic clock.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::Duration;
    /// let schedule = Schedule::every(Duration::from_secs(60));
    /// assert_eq!(schedule.interval(), Some(Duration::from_secs(60)));
    /// ```
    pub fn every(interval: Duration) -> Self {
        Self::of(Rhythm::Every(interval))
    }

    /// Creates a schedule with a fixed delay from the end of an iteration to the next. The first iteration is due at once, and iterations never
    /// overlap.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::Duration;
    /// let poll = Schedule::delay(Duration::from_secs(5));
    /// assert!(poll.check().is_ok());
    /// ```
    pub fn delay(delay: Duration) -> Self {
        Self::of(Rhythm::Delay(delay))
    }

    /// Creates a schedule with one iteration, at an instant. If the instant has passed when the loop begins, it is
    /// [missed](crate::schedule::MissedPolicy).
    ///
    /// The iteration never overlaps: if its time comes during another iteration, it begins after that. A new life of the loop begins again.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let launch = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    /// let once = Schedule::once(launch);
    /// assert_eq!(once.upcoming(UNIX_EPOCH).collect::<Vec<_>>(), [launch]);
    /// ```
    pub fn once(at: SystemTime) -> Self {
        Self::of(Rhythm::Once(at))
    }

    /// Creates a schedule of times of day (`HH:MM` or `HH:MM:SS`) in a time zone: an IANA name, `UTC`, an offset such as `+05:30`, or
    /// `system`.
    ///
    /// A time is due when the clock of the zone first shows it or a later time. So each local time is due exactly once:
    ///
    /// - If the clock is set forward over a time, the time is due at that moment. Several such times are one iteration.
    /// - If the clock shows a time twice, it is due the first time.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let backup = Schedule::daily(["02:30", "14:30"], "Europe/Berlin");
    /// // On 31 March 2024 the clock went from 02:00 to 03:00.
    /// let midnight = UNIX_EPOCH + Duration::from_secs(1_711_839_600);
    /// let hours: Vec<u64> =
    ///     backup.upcoming(midnight).take(3).map(|at| at.duration_since(midnight).unwrap().as_secs() / 60).collect();
    /// assert_eq!(hours, [120, 810, 1_530], "two hours after midnight; 14:30; 02:30 the next day");
    /// # }
    /// ```
    #[cfg(feature = "calendar")]
    pub fn daily<T: AsRef<str>>(times: impl IntoIterator<Item = T>, zone: &str) -> Self {
        let calendar = Daily::parse(times).and_then(|daily| Calendar::daily(daily, zone));
        Self::calendar(calendar)
    }

    /// Creates a schedule from a cron expression in a time zone (as for [`daily`](Self::daily)).
    ///
    /// The fields are minute, hour, day of the month, month, day of the week. A sixth field in front is for seconds, and a seventh at the end for
    /// years. Names (`MON`, `JAN`), `L`, `W`, `#` and nicknames (`@daily`, `@midnight`) are supported, as in
    /// [croner](https://docs.rs/croner). A value without a meaning in its field, such as `*/90` minutes, is rejected.
    ///
    /// If both day fields name days, either one is enough. With `+` before the days of the week (`0 0 13 * +FRI`) both must match. A field
    /// such as `*/2` beside another day field is rejected without `+`, because cron programs disagree about it.
    ///
    /// If the expression names hours, it names local times, and each is due exactly once, as for [`daily`](Self::daily). If its hours are `*`
    /// (`*/15 * * * *`), it is an interval. An interval continues through an hour that the clock shows twice. It has no time in an hour that
    /// the clock leaves out.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let report = Schedule::cron("0 9 * * MON-FRI", "UTC");
    /// // 1 January 1970 was a Thursday.
    /// assert_eq!(report.next_after(UNIX_EPOCH), Some(UNIX_EPOCH + Duration::from_secs(9 * 3_600)));
    /// assert!(Schedule::cron("0 25 * * *", "UTC").check().is_err());
    /// # }
    /// ```
    #[cfg(feature = "calendar")]
    pub fn cron(expression: &str, zone: &str) -> Self {
        let calendar = Cron::parse(expression).and_then(|cron| Calendar::cron(cron, zone));
        Self::calendar(calendar)
    }

    #[cfg(feature = "calendar")]
    fn calendar(calendar: Result<Calendar, ScheduleError>) -> Self {
        Self::of(match calendar {
            Ok(calendar) => Rhythm::Calendar(Arc::new(calendar)),
            Err(error) => Rhythm::Invalid(Box::new(error)),
        })
    }

    /// Aligns the times of an interval to multiples from midnight in a time zone (as for [`daily`](Self::daily)). The first iteration is not due
    /// at once.
    ///
    /// The times follow the wall clock of the zone, also if it is set forward or back. An interval that
    /// does not divide a day, and any schedule but [`every`](Self::every), is rejected.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    /// let aligned = Schedule::every(minutes(90)).aligned("UTC");
    /// assert_eq!(aligned.next_after(UNIX_EPOCH + minutes(100)), Some(UNIX_EPOCH + minutes(180)));
    /// # }
    /// ```
    #[cfg(feature = "calendar")]
    #[must_use]
    pub fn aligned(mut self, zone: &str) -> Self {
        let aligned = match &self.rhythm {
            Rhythm::Every(interval) => Calendar::aligned(*interval, zone),
            Rhythm::Invalid(_) => return self,
            _ => Err(ScheduleError::NotAnInterval { option: "aligned" }),
        };
        self.rhythm = Self::calendar(aligned).rhythm;
        self
    }

    /// Delays all times of an interval by a part of it that is computed from `key`. It is the same in each process, and different for most
    /// keys. So the loops of a thousand guilds do not begin together.
    ///
    /// Without [`aligned`](Self::aligned) or [`starts`](Self::starts), the first iteration is delayed. Times of day, cron expressions and `once`
    /// are rejected. A key of `#` and eight hexadecimal digits is the hash itself, as in the text form of a schedule.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let every = Schedule::every(Duration::from_secs(300));
    /// let first = |key: &str| every.clone().spread(key).upcoming(UNIX_EPOCH).next();
    /// assert_eq!(first("guild 7"), first("guild 7"));
    /// assert_ne!(first("guild 7"), first("guild 8"));
    /// ```
    #[must_use]
    pub fn spread(mut self, key: &str) -> Self {
        self.spread = Some(Spread::of(key));
        self
    }

    /// Leaves out the times for which `leave_out` returns true: they are not due, and not counted. Only for schedules with a time zone:
    /// [`daily`](Self::daily), [`cron`](Self::cron), [`aligned`](Self::aligned).
    ///
    /// `leave_out` is called for each time, often more than once; a panic counts as false. Two schedules are equal only if they share it, and it is
    /// not part of the text form.
    ///
    /// After 200,000 left out times in a row, [`next_after`](Self::next_after) and [`upcoming`](Self::upcoming) end the search. A
    /// loop waits until the last of these times, logs `task.schedule.empty`, and continues from there. An exception that leaves out
    /// the 400 years of a calendar's cycle is rejected.
    ///
    /// ```
    /// # #[cfg(feature = "calendar")] {
    /// use otel_tasks::Schedule;
    /// let report = Schedule::daily(["09:00"], "Europe/Berlin").except(|time| (time.month, time.day) == (12, 25));
    /// # drop(report);
    /// # }
    /// ```
    #[cfg(feature = "calendar")]
    #[must_use]
    pub fn except(mut self, leave_out: impl Fn(&LocalTime) -> bool + Send + Sync + 'static) -> Self {
        self.except = Some(Except(Arc::new(leave_out)));
        self
    }

    /// Sets if the first iteration is due at once, in place of the first time of the schedule.
    ///
    /// Default: true for [`every`](Self::every) and [`delay`](Self::delay) without [`starts`](Self::starts) and [`spread`](Self::spread), false
    /// for any other schedule.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let minute = Duration::from_secs(60);
    /// let later = Schedule::every(minute).immediate(false);
    /// assert_eq!(later.upcoming(UNIX_EPOCH).next(), Some(UNIX_EPOCH + minute));
    /// ```
    #[must_use]
    pub fn immediate(mut self, immediate: bool) -> Self {
        self.immediate = Some(immediate);
        self
    }

    /// Sets the number of iterations after which a life of the loop ends. A restart begins the count again, and
    /// [`run_now`](crate::LoopHandle::run_now) does not count.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let three = Schedule::every(Duration::from_secs(60)).count(3);
    /// assert_eq!(three.upcoming(UNIX_EPOCH).count(), 3);
    /// ```
    #[must_use]
    pub fn count(mut self, iterations: u64) -> Self {
        self.count = Some(iterations);
        self
    }

    /// Sets the earliest due time. An interval counts from it, also if it has passed. For example, with an interval of an hour and a start at
    /// 9:20, an iteration is due at twenty past each hour.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let at = |minutes: u64| UNIX_EPOCH + Duration::from_secs(minutes * 60);
    /// let hourly = Schedule::every(Duration::from_secs(3_600)).starts(at(20));
    /// assert_eq!(hourly.next_after(at(100)), Some(at(140)));
    /// ```
    #[must_use]
    pub fn starts(mut self, at: SystemTime) -> Self {
        self.starts = Some(at);
        self
    }

    /// Sets the latest due time.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let minute = Duration::from_secs(60);
    /// let schedule = Schedule::every(minute).ends(UNIX_EPOCH + 2 * minute);
    /// assert_eq!(schedule.upcoming(UNIX_EPOCH).count(), 3, "at 0, 1 and 2 minutes");
    /// ```
    #[must_use]
    pub fn ends(mut self, at: SystemTime) -> Self {
        self.ends = Some(at);
        self
    }

    /// Delays each iteration by a random time up to `jitter`; the rhythm itself does not change.
    ///
    /// An iteration of a calendar is never delayed past its next time. An interval that is shorter than `jitter` is rejected.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::Duration;
    /// let fetch = Schedule::every(Duration::from_secs(60)).jitter(Duration::from_secs(5));
    /// assert!(fetch.check().is_ok());
    /// ```
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Checks the schedule, as a registration does.
    ///
    /// # Errors
    /// [`ScheduleError`] names the problem.
    ///
    /// ```
    /// use otel_tasks::{Schedule, schedule::ScheduleError};
    /// use std::time::Duration;
    /// assert_eq!(Schedule::every(Duration::ZERO).check(), Err(ScheduleError::ZeroInterval));
    /// ```
    pub fn check(&self) -> Result<(), ScheduleError> {
        match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) if interval.is_zero() => {
                return Err(ScheduleError::ZeroInterval);
            }
            Rhythm::Invalid(error) => return Err(ScheduleError::clone(error)),
            Rhythm::Once(at) if !self.is_within(*at) => return Err(ScheduleError::OutOfBounds),
            _ => {}
        }
        match self.interval() {
            Some(interval) if self.jitter > interval && !matches!(self.rhythm, Rhythm::Delay(_)) => {
                return Err(ScheduleError::JitterTooLong);
            }
            None if self.spread.is_some() => return Err(ScheduleError::NotAnInterval { option: "spread" }),
            _ => {}
        }
        #[cfg(feature = "calendar")]
        match &self.rhythm {
            _ if self.except.is_none() => {}
            Rhythm::Calendar(calendar) if self.leaves_out_all(calendar) => {
                return Err(ScheduleError::NothingLeft);
            }
            Rhythm::Calendar(_) => {}
            _ => return Err(ScheduleError::NoZone),
        }
        if self.count == Some(0) {
            return Err(ScheduleError::ZeroCount);
        }
        match (self.starts, self.ends) {
            (Some(starts), Some(ends)) if ends <= starts => Err(ScheduleError::EndsBeforeStart),
            _ => Ok(()),
        }
    }

    /// Returns the next time after `last`, by the wall clock and without jitter; `None` if there is none.
    ///
    /// A rhythm counts from `last`, or from its start if it has one.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(Schedule::every(minute).next_after(UNIX_EPOCH), Some(UNIX_EPOCH + minute));
    /// ```
    pub fn next_after(&self, last: SystemTime) -> Option<SystemTime> {
        let next = match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => match self.base() {
                Some(base) if base > last => Some(base),
                Some(base) if matches!(self.rhythm, Rhythm::Every(_)) => {
                    multiple_after(base, *interval, just_after(last))
                }
                _ => last.checked_add(*interval).filter(|next| *next > last),
            },
            Rhythm::Once(at) => Some(*at).filter(|at| *at > last && self.is_within(*at)),
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let after = self.starts.map_or(last, |starts| just_before(starts).max(last));
                self.calendar_after(calendar, after).due()
            }
            Rhythm::Invalid(_) => None,
        }?;
        self.ends.is_none_or(|ends| next <= ends).then_some(next)
    }

    /// Returns the due times of a loop that begins at `from`, by the wall clock, without jitter, for iterations that take no time.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// let minute = Duration::from_secs(60);
    /// let first: Vec<_> = Schedule::every(minute).upcoming(UNIX_EPOCH).take(2).collect();
    /// assert_eq!(first, [UNIX_EPOCH, UNIX_EPOCH + minute]);
    /// ```
    pub fn upcoming(&self, from: SystemTime) -> Upcoming<'_> {
        Upcoming {
            schedule: self,
            left: self.count.unwrap_or(u64::MAX),
            at: from,
            begun: false,
            at_once: false,
        }
    }

    /// Returns the interval of a rhythm; `None` for any other schedule.
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::{Duration, UNIX_EPOCH};
    /// assert_eq!(Schedule::every(Duration::from_secs(60)).interval(), Some(Duration::from_secs(60)));
    /// assert_eq!(Schedule::once(UNIX_EPOCH).interval(), None);
    /// ```
    pub fn interval(&self) -> Option<Duration> {
        match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => Some(*interval),
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => calendar.interval(),
            _ => None,
        }
    }

    /// The same with another rhythm.
    pub(crate) fn with_interval(&self, interval: Duration) -> Self {
        let rhythm = match &self.rhythm {
            Rhythm::Delay(_) => Rhythm::Delay(interval),
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) if calendar.interval().is_some() => {
                Self::calendar(calendar.with_interval(interval)).rhythm
            }
            _ => Rhythm::Every(interval),
        };
        Self { rhythm, ..self.clone() }
    }

    pub(super) fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }

    pub(super) fn is_immediate(&self) -> bool {
        let begins = matches!(self.rhythm, Rhythm::Every(_) | Rhythm::Delay(_)) && !self.has_phase();
        self.immediate.unwrap_or(begins)
    }

    /// Returns true if the next time is not known before the iteration has ended.
    pub(crate) fn is_delay(&self) -> bool {
        matches!(self.rhythm, Rhythm::Delay(_))
    }

    pub(super) fn says_immediate(&self) -> Option<bool> {
        self.immediate
    }

    /// Returns true if the times of a rhythm do not depend on its first iteration alone.
    pub(super) fn has_phase(&self) -> bool {
        self.starts.is_some() || self.spread.is_some()
    }

    /// Returns true if its times follow the wall clock.
    pub(super) fn is_calendar(&self) -> bool {
        #[cfg(feature = "calendar")]
        return matches!(self.rhythm, Rhythm::Calendar(_));
        #[cfg(not(feature = "calendar"))]
        false
    }

    /// Returns true if a time lies between its bounds.
    pub(super) fn is_within(&self, time: SystemTime) -> bool {
        self.starts.is_none_or(|starts| starts <= time) && self.ends.is_none_or(|ends| time <= ends)
    }

    /// Returns the largest change of the clock backwards for which the last time is not repeated.
    pub(super) fn not_repeated(&self) -> Duration {
        match &self.rhythm {
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => calendar.not_repeated(),
            _ => Duration::MAX,
        }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        self.count
    }

    pub(super) fn start(&self) -> Option<SystemTime> {
        self.starts
    }

    pub(super) fn end(&self) -> Option<SystemTime> {
        self.ends
    }

    /// Up to how much later than its time an iteration is made to begin.
    pub(super) fn most_jitter(&self) -> Duration {
        self.jitter
    }
}

impl From<Duration> for Schedule {
    /// Calls [`every`](Self::every).
    fn from(interval: Duration) -> Self {
        Self::every(interval)
    }
}

/// The times of a [`Schedule`], in order: see [`Schedule::upcoming`].
#[derive(Debug, Clone)]
#[must_use = "iterators are lazy"]
pub struct Upcoming<'a> {
    schedule: &'a Schedule,
    left: u64,
    at: SystemTime,
    begun: bool,
    /// True if the first time came at once, and the phase is still to begin.
    at_once: bool,
}

impl Iterator for Upcoming<'_> {
    type Item = SystemTime;

    fn next(&mut self) -> Option<SystemTime> {
        self.left = self.left.checked_sub(1)?;
        let next = if self.begun {
            self.schedule.next_after(self.at)
        } else if std::mem::replace(&mut self.at_once, false) {
            self.begun = true;
            self.schedule.phase_at(just_after(self.at))
        } else {
            // A phase does not begin with an iteration at once.
            self.at_once =
                self.schedule.is_immediate() && self.schedule.has_phase() && !self.schedule.is_delay();
            self.begun = !self.at_once;
            self.schedule.first_at(self.at)
        };
        match next {
            Some(next) => self.at = next,
            None => self.left = 0,
        }
        next
    }
}

/// The result of a search for the next time of a calendar.
#[cfg(feature = "calendar")]
enum Search {
    Due(SystemTime),
    /// There is none.
    End,
    /// Too many in a row are left out, this one last.
    LeftOut(SystemTime),
}

#[cfg(feature = "calendar")]
impl Search {
    fn due(self) -> Option<SystemTime> {
        match self {
            Self::Due(time) => Some(time),
            _ => None,
        }
    }
}

/// The largest number of times in a row that [`Schedule::except`] may leave out: two days of every second.
#[cfg(feature = "calendar")]
const EXCEPTED_AT_MOST: u32 = 200_000;

impl Schedule {
    /// The first time of a schedule that begins at `from`.
    pub(super) fn first_at(&self, from: SystemTime) -> Option<SystemTime> {
        if self.is_immediate() && !matches!(self.rhythm, Rhythm::Invalid(_) | Rhythm::Once(_)) {
            let began = self.starts.map_or(from, |starts| starts.max(from));
            return self.ends.is_none_or(|ends| began <= ends).then_some(began);
        }
        self.phase_at(from)
    }

    /// The same but for an immediate iteration.
    pub(super) fn phase_at(&self, from: SystemTime) -> Option<SystemTime> {
        let began = self.starts.map_or(from, |starts| starts.max(from));
        let first = match &self.rhythm {
            Rhythm::Invalid(_) => None,
            Rhythm::Once(at) => Some(*at).filter(|at| self.is_within(*at)),
            Rhythm::Every(interval) | Rhythm::Delay(interval) => {
                let waits = if self.immediate == Some(false) { *interval } else { Duration::ZERO };
                match self.base() {
                    Some(base) => multiple_after(base.checked_add(waits)?, *interval, began),
                    None => began.checked_add(waits)?.checked_add(self.offset()),
                }
            }
            // A time that equals the beginning counts.
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => self.calendar_after(calendar, just_before(began)).due(),
        }?;
        self.ends.is_none_or(|ends| first <= ends).then_some(first)
    }

    /// Returns the instant from which a rhythm counts, if it has one.
    fn base(&self) -> Option<SystemTime> {
        self.starts?.checked_add(self.offset())
    }

    /// Returns the delay of all times by [`spread`](Self::spread).
    fn offset(&self) -> Duration {
        match (self.spread, self.interval()) {
            (Some(spread), Some(interval)) => spread.part_of(interval),
            _ => Duration::ZERO,
        }
    }

    /// The last time strictly before `time` of a calendar.
    #[cfg(feature = "calendar")]
    pub(super) fn previous_before(&self, time: SystemTime) -> Option<SystemTime> {
        let Rhythm::Calendar(calendar) = &self.rhythm else { return None };
        let offset = self.offset();
        let mut time = time.checked_sub(offset)?;
        for _ in 0..EXCEPTED_AT_MOST {
            time = calendar.previous(just_before(time))?;
            if let Some(due) = self.unless_excepted(calendar, time.checked_add(offset)?) {
                return Some(due);
            }
        }
        None
    }

    #[cfg(feature = "calendar")]
    fn calendar_after(&self, calendar: &Calendar, after: SystemTime) -> Search {
        self.calendar_within(calendar, after, EXCEPTED_AT_MOST)
    }

    /// Searches at most `most` times.
    #[cfg(feature = "calendar")]
    fn calendar_within(&self, calendar: &Calendar, after: SystemTime, most: u32) -> Search {
        let offset = self.offset();
        let next = |time: SystemTime| calendar.next(time.checked_sub(offset)?)?.checked_add(offset);
        let mut time = after;
        for _ in 0..most {
            match next(time) {
                None => return Search::End,
                Some(next) => time = next,
            }
            if let Some(due) = self.unless_excepted(calendar, time) {
                return Search::Due(due);
            }
        }
        Search::LeftOut(time)
    }

    /// Returns the last left out time after `after`, if the search for the next time ended with it.
    pub(super) fn left_out_after(&self, after: SystemTime) -> Option<SystemTime> {
        #[cfg(feature = "calendar")]
        if let (Rhythm::Calendar(calendar), true) = (&self.rhythm, self.except.is_some()) {
            let after = self.starts.map_or(after, |starts| just_before(starts).max(after));
            if let Search::LeftOut(last) = self.calendar_after(calendar, after) {
                return Some(last).filter(|last| self.ends.is_none_or(|ends| *last < ends));
            }
        }
        let _ = after;
        None
    }

    /// Returns true if a whole cycle of the calendar is left out. It is found only if times are days apart.
    #[cfg(feature = "calendar")]
    fn leaves_out_all(&self, calendar: &Calendar) -> bool {
        /// 1 January 2000, and the time from it to the same day of the next cycle.
        const SOME_DAY: Duration = Duration::from_secs(946_684_800);
        const CYCLE: Duration = Duration::from_secs(146_097 * 86_400);
        const LOOKS: u32 = 1_000;
        let some_day = SystemTime::UNIX_EPOCH + SOME_DAY;
        let is_past =
            |last: SystemTime, part: u32| last.duration_since(some_day).is_ok_and(|gone| gone > CYCLE / part);
        // First a few of them: most exceptions leave something, and if times are close together, the cycle is out of reach.
        match self.calendar_within(calendar, some_day, LOOKS) {
            Search::LeftOut(last) if is_past(last, EXCEPTED_AT_MOST / LOOKS) => {
                match self.calendar_after(calendar, some_day) {
                    Search::LeftOut(last) => is_past(last, 1),
                    Search::End => true,
                    Search::Due(_) => false,
                }
            }
            _ => false,
        }
    }

    #[cfg(feature = "calendar")]
    fn unless_excepted(&self, calendar: &Calendar, due: SystemTime) -> Option<SystemTime> {
        let is_excepted = self.except.as_ref().is_some_and(|Except(leave_out)| {
            let local = calendar.local(due);
            // A panic here would be a panic of the driver, which computes times.
            local.is_some_and(|local| catch_unwind(AssertUnwindSafe(|| leave_out(&local))).unwrap_or(false))
        });
        (!is_excepted).then_some(due)
    }

    /// The times of a calendar, or the single one of `once`, after `after` and before `upto`, or with `inclusive` up to it.
    pub(super) fn passed(&self, after: SystemTime, upto: SystemTime, inclusive: bool) -> Passed {
        let mut passed = Passed::default();
        if let Rhythm::Once(at) = self.rhythm {
            let has_passed = at > after && self.is_within(at) && (at < upto || inclusive && at == upto);
            let at = has_passed.then_some(at);
            return Passed { count: u64::from(has_passed), first: at, last: at };
        }
        if !self.is_calendar() {
            return passed;
        }
        let has_passed = |time: &SystemTime| if inclusive { *time <= upto } else { *time < upto };
        let mut time = after;
        while let Some(next) = self.next_after(time).filter(has_passed) {
            time = next;
            passed.count += 1;
            passed.first.get_or_insert(next);
            passed.last = Some(next);
            #[cfg(feature = "calendar")]
            if passed.count == super::MissedPolicy::MAX_COUNTED {
                let upto = if inclusive { just_after(upto) } else { upto };
                passed.last = passed.last.max(self.previous_before(upto));
                break;
            }
        }
        passed
    }
}

/// Times that have passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Not more than [`MissedPolicy::MAX_COUNTED`](super::MissedPolicy::MAX_COUNTED).
    pub(super) count: u64,
    pub(super) first: Option<SystemTime>,
    pub(super) last: Option<SystemTime>,
}

const LEAST: Duration = Duration::from_nanos(1);

#[cfg(feature = "calendar")]
fn just_before(time: SystemTime) -> SystemTime {
    time.checked_sub(LEAST).unwrap_or(time)
}

fn just_after(time: SystemTime) -> SystemTime {
    time.checked_add(LEAST).unwrap_or(time)
}

/// Returns the first instant from `from` on that lies a whole number of intervals after `base`.
fn multiple_after(base: SystemTime, interval: Duration, from: SystemTime) -> Option<SystemTime> {
    let Ok(since) = from.duration_since(base) else { return Some(base) };
    let over = since.as_nanos() % interval.as_nanos().max(1);
    if over == 0 {
        return Some(from);
    }
    let over =
        Duration::new(u64::try_from(over / 1_000_000_000).ok()?, u32::try_from(over % 1_000_000_000).ok()?);
    from.checked_sub(over)?.checked_add(interval)
}

/// A part of an interval, found from a key: 32 bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spread(pub(super) u32);

impl Spread {
    /// Hashes a key, in each process and version in the same way: FNV-1a, and the last step of SplitMix64, which spreads short keys.
    pub(super) fn of(key: &str) -> Self {
        let digits = key.strip_prefix('#').filter(|digits| digits.len() == 8);
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if let Some(hash) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            return Self(hash);
        }
        let fnv = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed >> 32) as u32)
    }

    fn part_of(self, interval: Duration) -> Duration {
        let part = |whole: u128| (whole * u128::from(self.0)) >> 32;
        let nanos = part(interval.as_nanos());
        Duration::new(
            u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX),
            u32::try_from(nanos % 1_000_000_000).unwrap_or_default(),
        )
    }
}

/// The exceptions of a schedule.
#[cfg(feature = "calendar")]
#[derive(Clone)]
pub(super) struct Except(Arc<dyn Fn(&LocalTime) -> bool + Send + Sync>);

#[cfg(feature = "calendar")]
impl PartialEq for Except {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

#[cfg(feature = "calendar")]
impl std::fmt::Debug for Except {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Except(..)")
    }
}
