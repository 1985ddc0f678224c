//! What a user says of when a loop runs.

#[cfg(feature = "calendar")]
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ScheduleError;
#[cfg(feature = "calendar")]
use super::{calendar::Calendar, cron::Cron, daily::Daily};

/// When a loop's iterations are due. A plain value: it reads no clock.
///
/// What it is given is checked when the loop is registered, or by [`check`](Self::check), so that the calls chain.
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
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rhythm {
    /// At fixed distances, whatever an iteration takes.
    Every(Duration),
    /// So long after the iteration before has ended.
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
    /// How late an iteration may begin under [`MissedPolicy::Skip`](crate::schedule::MissedPolicy::Skip). Longer than a sleeper goes without a look at the wall clock, and
    /// than a busy runtime needs.
    pub const START_TOLERANCE: Duration = Duration::from_secs(60);

    fn of(rhythm: Rhythm) -> Self {
        Self { rhythm, immediate: None, count: None, starts: None, ends: None, jitter: Duration::ZERO }
    }

    /// At fixed distances from the first iteration, which is due at once. Runs on a clock that nobody can set.
    pub fn every(interval: Duration) -> Self {
        Self::of(Rhythm::Every(interval))
    }

    /// So long after the iteration before has ended; the first is due at once. Such iterations never overlap.
    pub fn delay(delay: Duration) -> Self {
        Self::of(Rhythm::Delay(delay))
    }

    /// Once, at an instant. One that is past when the loop begins is [missed](crate::schedule::MissedPolicy).
    pub fn once(at: SystemTime) -> Self {
        Self::of(Rhythm::Once(at))
    }

    /// Every day at these times of day (`HH:MM` or `HH:MM:SS`) in an IANA time zone.
    ///
    /// A time is due when the zone's clock first shows it or a later one. So where the clock is set forward over a time, it is
    /// due at that moment (several together, as one iteration); and one that the clock shows twice is due the first time.
    /// Each local time is due exactly once.
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

    /// By a cron expression in an IANA time zone: minute, hour, day of the month, month, day of the week; with a sixth field
    /// in front for seconds, and a seventh at the end for years. Names (`MON`, `JAN`), `L`, `W`, `#` and nicknames
    /// (`@daily`) are understood, as [croner](https://docs.rs/croner) does.
    ///
    /// Where the expression names hours, it names local times, and each is due exactly once, as for [`daily`](Self::daily).
    /// One with `*` in its hours (`*/15 * * * *`) asks for every so often instead: it goes on through an hour that the clock
    /// shows twice, and knows nothing of one that it leaves out.
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

    /// Whether the first iteration is due at once, rather than at the schedule's first time. So it is for
    /// [`every`](Self::every) and [`delay`](Self::delay), and not for the others, unless this says otherwise.
    #[must_use]
    pub fn immediate(mut self, immediate: bool) -> Self {
        self.immediate = Some(immediate);
        self
    }

    /// Ends after so many iterations.
    #[must_use]
    pub fn count(mut self, iterations: u64) -> Self {
        self.count = Some(iterations);
        self
    }

    /// Nothing is due before.
    #[must_use]
    pub fn starts(mut self, at: SystemTime) -> Self {
        self.starts = Some(at);
        self
    }

    /// Nothing is due after.
    #[must_use]
    pub fn ends(mut self, at: SystemTime) -> Self {
        self.ends = Some(at);
        self
    }

    /// Each iteration is later than its time by chance, up to this; the rhythm itself is kept.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Whether this is a schedule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), ScheduleError> {
        match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) if interval.is_zero() => {
                return Err(ScheduleError::ZeroInterval);
            }
            Rhythm::Every(interval) if self.jitter > *interval => return Err(ScheduleError::JitterTooLong),
            Rhythm::Invalid(error) => return Err(ScheduleError::clone(error)),
            _ => {}
        }
        if self.count == Some(0) {
            return Err(ScheduleError::ZeroCount);
        }
        match (self.starts, self.ends) {
            (Some(starts), Some(ends)) if ends <= starts => Err(ScheduleError::EndsBeforeStart),
            _ => Ok(()),
        }
    }

    /// The next time strictly later than `last`, by the wall clock and without jitter; `None` where there is none.
    ///
    /// A rhythm is reckoned from `last`.
    pub fn next_after(&self, last: SystemTime) -> Option<SystemTime> {
        let next = match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => match self.starts {
                Some(starts) if starts > last => Some(starts),
                _ => last.checked_add(*interval).filter(|next| *next > last),
            },
            Rhythm::Once(at) => Some(*at).filter(|at| *at > last),
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                let just_before =
                    |starts: SystemTime| starts.checked_sub(Duration::from_nanos(1)).unwrap_or(starts);
                calendar.next(self.starts.map_or(last, |starts| just_before(starts).max(last)))
            }
            Rhythm::Invalid(_) => None,
        }?;
        self.ends.is_none_or(|ends| next <= ends).then_some(next)
    }

    /// When its iterations are due if it begins at `from`, by the wall clock, without jitter, and as if they took no time.
    pub fn upcoming(&self, from: SystemTime) -> Upcoming<'_> {
        Upcoming { schedule: self, left: self.count.unwrap_or(u64::MAX), at: from, begun: false }
    }

    /// The interval of a rhythm.
    pub fn interval(&self) -> Option<Duration> {
        match &self.rhythm {
            Rhythm::Every(interval) | Rhythm::Delay(interval) => Some(*interval),
            _ => None,
        }
    }

    /// The same with another rhythm.
    pub(crate) fn with_interval(&self, interval: Duration) -> Self {
        let rhythm = match &self.rhythm {
            Rhythm::Delay(_) => Rhythm::Delay(interval),
            _ => Rhythm::Every(interval),
        };
        Self { rhythm, ..self.clone() }
    }

    pub(super) fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }

    pub(super) fn is_immediate(&self) -> bool {
        self.immediate.unwrap_or(matches!(self.rhythm, Rhythm::Every(_) | Rhythm::Delay(_)))
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
    pub(super) fn spread(&self) -> Duration {
        self.jitter
    }
}

impl From<Duration> for Schedule {
    /// [`every`](Self::every) so often.
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
}

impl Iterator for Upcoming<'_> {
    type Item = SystemTime;

    fn next(&mut self) -> Option<SystemTime> {
        self.left = self.left.checked_sub(1)?;
        let next = if std::mem::replace(&mut self.begun, true) {
            self.schedule.next_after(self.at)
        } else {
            self.schedule.first_at(self.at)
        };
        match next {
            Some(next) => self.at = next,
            None => self.left = 0,
        }
        next
    }
}

impl Schedule {
    /// The first time of a schedule that begins at `from`.
    pub(super) fn first_at(&self, from: SystemTime) -> Option<SystemTime> {
        let began = self.starts.map_or(from, |starts| starts.max(from));
        let first = match &self.rhythm {
            Rhythm::Invalid(_) => None,
            Rhythm::Once(at) => Some(*at),
            _ if self.is_immediate() => Some(began),
            Rhythm::Every(interval) | Rhythm::Delay(interval) => began.checked_add(*interval),
            // Its own time counts, where it begins right then.
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => {
                calendar.next(began.checked_sub(Duration::from_nanos(1)).unwrap_or(began))
            }
        }?;
        self.ends.is_none_or(|ends| first <= ends).then_some(first)
    }
}
