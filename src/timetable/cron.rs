//! Cron expressions: croner parses them and walks the calendar, on local times alone. What a zone makes of them is for
//! [`calendar`](super::calendar).

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use croner::{CivilDate, CivilDateTime, CivilTime, CronDateTime, Resolution, Weekday, errors::CronError};
use jiff::{SignedDuration, civil::DateTime};

use super::{ScheduleError, cron_fields::wrong_part};

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Cron {
    text: Arc<str>,
    /// Boxed: it is large.
    cron: Box<croner::Cron>,
    names_hours: bool,
}

impl Cron {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        if let Some((position, reason)) = wrong_part(text) {
            return Err(ScheduleError::Cron { text: text.to_owned(), position, reason });
        }
        let known = if text.trim().eq_ignore_ascii_case("@midnight") { "@daily" } else { text };
        let cron = croner::Cron::from_str(known).map_err(|error| refused(text, &error))?;
        let names_hours = !hours(&cron.pattern.to_string()).starts_with(['*', '?']);
        // In the form of a schedule's text.
        let fields: Vec<_> = text.split_whitespace().collect();
        let cron = Self { text: fields.join(" ").into(), cron: Box::new(cron), names_hours };
        // Four hundred years are the calendar's whole cycle.
        let some_day = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        match cron.next(some_day, true).or_else(|| cron.previous(some_day)) {
            Some(_) => Ok(cron),
            None => Err(ScheduleError::NeverFires { text: text.to_owned() }),
        }
    }

    /// Returns true if it names hours; false if it is an interval.
    pub(super) fn names_hours(&self) -> bool {
        self.names_hours
    }

    /// The first after, or with `inclusive` from then on.
    pub(super) fn next(&self, after: DateTime, inclusive: bool) -> Option<DateTime> {
        self.cron.find_next_occurrence(&Local(after), inclusive).ok().map(|local| local.0)
    }

    /// The last up to then.
    pub(super) fn previous(&self, at: DateTime) -> Option<DateTime> {
        self.cron.find_previous_occurrence(&Local(at), true).ok().map(|local| local.0)
    }
}

/// Without what croner makes of the text, which takes pages.
impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cron").field(&self.text).finish()
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron {}", self.text)
    }
}

/// The hours of an expression that is one.
fn hours(expression: &str) -> &str {
    let fields: Vec<_> = expression.split_whitespace().collect();
    fields.get(if fields.len() == 5 { 1 } else { 2 }).copied().unwrap_or("*")
}

/// Says where an expression goes wrong, which croner does not: at the first field that is refused alone, too.
fn refused(text: &str, error: &CronError) -> ScheduleError {
    let at = |position: usize, error: &CronError| ScheduleError::Cron {
        text: text.to_owned(),
        position,
        reason: reason(error),
    };
    let fields: Vec<(usize, &str)> = text
        .split_whitespace()
        .map(|field| (field.as_ptr() as usize - text.as_ptr() as usize, field))
        .collect();
    match fields.len() {
        0 => at(0, error),
        // An invalid nickname.
        1 => at(fields[0].0, error),
        2..=4 => at(text.trim_end().len(), error),
        5..=7 => {
            let alone = |index: usize| {
                let others = |(at, (_, field)): (usize, &(usize, &str))| {
                    if at == index { (*field).to_owned() } else { "*".to_owned() }
                };
                let expression: Vec<_> = fields.iter().enumerate().map(others).collect();
                croner::Cron::from_str(&expression.join(" ")).err()
            };
            let wrong = (0..fields.len()).find_map(|index| Some((fields[index].0, alone(index)?)));
            wrong.map_or_else(|| at(0, error), |(position, error)| at(position, &error))
        }
        _ => at(fields[7].0, error),
    }
}

/// Returns the reason of an error, in words that fit into our sentence.
fn reason(error: &CronError) -> String {
    match error {
        CronError::InvalidPattern(reason)
        | CronError::IllegalCharacters(reason)
        | CronError::ComponentError(reason) => reason.trim_end_matches('.').to_owned(),
        other => other.to_string().trim_end_matches('.').to_owned(),
    }
}

/// A local time as croner takes it: without a zone, so that none of its rules for zones applies.
#[derive(Clone, Copy)]
struct Local(DateTime);

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        let part = |part: i8| u32::from(part.unsigned_abs());
        CivilDateTime::new(
            CivilDate::from_parts_unchecked(
                i32::from(self.0.year()),
                part(self.0.month()),
                part(self.0.day()),
            ),
            CivilTime::from_parts_unchecked(
                part(self.0.hour()),
                part(self.0.minute()),
                part(self.0.second()),
            ),
        )
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(u32::from(self.0.weekday().to_sunday_zero_offset().unsigned_abs()))
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let year = i16::try_from(civil.year()).map_err(|_| CronError::InvalidDate)?;
        let part = |part: u32| i8::try_from(part).map_err(|_| CronError::InvalidDate);
        let (month, day) = (part(civil.month())?, part(civil.day())?);
        let (hour, minute, second) = (part(civil.hour())?, part(civil.minute())?, part(civil.second())?);
        DateTime::new(year, month, day, hour, minute, second, 0)
            .map(|time| Resolution::Single(Self(time)))
            .map_err(|_| CronError::InvalidDate)
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
