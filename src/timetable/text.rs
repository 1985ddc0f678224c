//! A schedule as text: what a configuration file says, and what logs and the page show.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    Schedule, ScheduleError,
    value::{Rhythm, Spread},
};
use crate::policy::{
    serialize_as_text,
    text::{DurationText, InstantText, duration, instant},
};

/// Writes the text that [`FromStr`] reads.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rhythm {
            Rhythm::Every(interval) => write!(f, "every {}", DurationText(*interval))?,
            Rhythm::Delay(delay) => write!(f, "delay {}", DurationText(*delay))?,
            Rhythm::Once(at) => write!(f, "once {}", InstantText(*at))?,
            #[cfg(feature = "calendar")]
            Rhythm::Calendar(calendar) => write!(f, "{calendar}")?,
            Rhythm::Invalid(error) => write!(f, "never: {error}")?,
        }
        if let Some(Spread(share)) = self.spread {
            write!(f, " spread #{share:08x}")?;
        }
        if !self.jitter.is_zero() {
            write!(f, " jitter {}", DurationText(self.jitter))?;
        }
        if let Some(count) = self.count {
            write!(f, " count {count}")?;
        }
        if let Some(starts) = self.starts {
            write!(f, " starts {}", InstantText(starts))?;
        }
        if let Some(ends) = self.ends {
            write!(f, " ends {}", InstantText(ends))?;
        }
        match self.immediate {
            Some(immediate) => write!(f, " immediate {immediate}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Reads a rhythm and its options.
    ///
    /// | text | schedule |
    /// |---|---|
    /// | `every 5m` | [`Schedule::every`] |
    /// | `delay 10s` | [`Schedule::delay`] |
    /// | `once 2026-12-24T18:00:00Z` | [`Schedule::once`] |
    /// | `daily 08:00,20:15:30 in Europe/Berlin` | `Schedule::daily` (feature `calendar`) |
    /// | `cron 0 9 * * MON-FRI in UTC` | `Schedule::cron` (feature `calendar`) |
    /// | `every 90m aligned in UTC` | `Schedule::aligned` (feature `calendar`) |
    /// | `spread guild-42` | [`Schedule::spread`]; written as a hash, such as `spread #5d1f3a90` |
    /// | `jitter 30s`, `count 3`, `starts` and `ends` with an instant, `immediate true` | options, in any order |
    ///
    /// # Errors
    /// [`ScheduleError::Text`] names the word that cannot be read, with its position; the others are those of
    /// [`check`](Schedule::check).
    ///
    /// ```
    /// use otel_tasks::Schedule;
    /// use std::time::Duration;
    /// let schedule: Schedule = "every 5m jitter 30s".parse()?;
    /// assert_eq!(schedule, Schedule::every(Duration::from_secs(300)).jitter(Duration::from_secs(30)));
    /// assert_eq!(schedule.to_string(), "every 5m jitter 30s");
    /// # Ok::<(), otel_tasks::schedule::ScheduleError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let mut words = Words { text, rest: text };
        let schedule = match words.next("every, delay, once, daily or cron")? {
            "every" => {
                let every = Self::every(words.duration()?);
                words.alignment(every)?
            }
            "delay" => Self::delay(words.duration()?),
            "once" => Self::once(words.instant()?),
            #[cfg(feature = "calendar")]
            "daily" => {
                let (times, zone) = words.in_zone()?;
                Self::daily(times.split(',').map(str::trim), zone)
            }
            #[cfg(feature = "calendar")]
            "cron" => {
                let (expression, zone) = words.in_zone()?;
                Self::cron(expression, zone)
            }
            #[cfg(not(feature = "calendar"))]
            word @ ("daily" | "cron") => {
                return Err(words.wrong(word, "a rhythm without a calendar: the feature `calendar` is off"));
            }
            word => return Err(words.wrong(word, "every, delay, once, daily or cron")),
        };
        let schedule = words.options(schedule)?;
        schedule.check()?;
        Ok(schedule)
    }
}

serialize_as_text!(Schedule);

/// The words of a text that were not read yet.
struct Words<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn wrong(&self, word: &str, expected: &'static str) -> ScheduleError {
        let position = word.as_ptr() as usize - self.text.as_ptr() as usize;
        ScheduleError::Text { text: self.text.to_owned(), position, expected }
    }

    fn peek(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        self.rest.split_whitespace().next()
    }

    fn next(&mut self, expected: &'static str) -> Result<&'a str, ScheduleError> {
        let Some(word) = self.peek() else {
            return Err(ScheduleError::Text {
                text: self.text.to_owned(),
                position: self.text.len(),
                expected,
            });
        };
        self.rest = &self.rest[word.len()..];
        Ok(word)
    }

    fn duration(&mut self) -> Result<Duration, ScheduleError> {
        const EXPECTED: &str = "a duration such as 5m or 1m30s";
        let word = self.next(EXPECTED)?;
        duration(word).ok_or_else(|| self.wrong(word, EXPECTED))
    }

    fn instant(&mut self) -> Result<std::time::SystemTime, ScheduleError> {
        const EXPECTED: &str = "an instant such as 2026-12-24T18:00:00Z";
        let word = self.next(EXPECTED)?;
        instant(word).ok_or_else(|| self.wrong(word, EXPECTED))
    }

    /// Returns the text before `in`, and the zone after it.
    #[cfg(feature = "calendar")]
    fn in_zone(&mut self) -> Result<(&'a str, &'a str), ScheduleError> {
        const EXPECTED: &str = "times or an expression, then `in` and a time zone";
        let before = self.rest.trim_start();
        loop {
            let word = self.next(EXPECTED)?;
            if word == "in" {
                let length = word.as_ptr() as usize - before.as_ptr() as usize;
                return Ok((before[..length].trim(), self.next("a time zone such as Europe/Berlin")?));
            }
        }
    }

    /// `aligned in` and a zone, if that comes next.
    fn alignment(&mut self, every: Schedule) -> Result<Schedule, ScheduleError> {
        if self.peek() != Some("aligned") {
            return Ok(every);
        }
        self.next("aligned")?;
        #[cfg(feature = "calendar")]
        {
            const EXPECTED: &str = "`in` and a time zone such as Europe/Berlin";
            match self.next(EXPECTED)? {
                "in" => Ok(every.aligned(self.next(EXPECTED)?)),
                word => Err(self.wrong(word, EXPECTED)),
            }
        }
        #[cfg(not(feature = "calendar"))]
        Err(self.wrong(&self.rest[..0], "a rhythm without a calendar: the feature `calendar` is off"))
    }

    fn options(&mut self, mut schedule: Schedule) -> Result<Schedule, ScheduleError> {
        const OPTIONS: &str = "jitter, spread, count, starts, ends or immediate";
        while let Some(option) = self.peek() {
            self.next(OPTIONS)?;
            schedule = match option {
                "jitter" => schedule.jitter(self.duration()?),
                "spread" => schedule.spread(self.next("a key")?),
                "starts" => schedule.starts(self.instant()?),
                "ends" => schedule.ends(self.instant()?),
                "count" => {
                    let word = self.next("a number")?;
                    schedule.count(word.parse().map_err(|_| self.wrong(word, "a number"))?)
                }
                "immediate" => {
                    let word = self.next("true or false")?;
                    schedule.immediate(word.parse().map_err(|_| self.wrong(word, "true or false"))?)
                }
                _ => return Err(self.wrong(option, OPTIONS)),
            };
        }
        Ok(schedule)
    }
}
