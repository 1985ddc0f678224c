//! Times of day.

use std::fmt;

use jiff::{
    ToSpan,
    civil::{DateTime, Time},
};

use super::ScheduleError;

/// Times of day, each once, in order; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Daily(Vec<Time>);

impl Daily {
    pub(super) fn parse<T: AsRef<str>>(times: impl IntoIterator<Item = T>) -> Result<Self, ScheduleError> {
        let mut times = times.into_iter().map(|text| time(text.as_ref())).collect::<Result<Vec<_>, _>>()?;
        times.sort_unstable();
        times.dedup();
        if times.is_empty() { Err(ScheduleError::NoTimes) } else { Ok(Self(times)) }
    }

    /// The first strictly after.
    pub(super) fn next(&self, after: DateTime) -> Option<DateTime> {
        let today = self.0.partition_point(|time| *time <= after.time());
        match self.0.get(today) {
            Some(time) => Some(after.date().to_datetime(*time)),
            None => Some(after.date().checked_add(1.day()).ok()?.to_datetime(self.0[0])),
        }
    }

    /// The last up to then.
    pub(super) fn previous(&self, at: DateTime) -> Option<DateTime> {
        let today = self.0.partition_point(|time| *time <= at.time());
        match self.0[..today].last() {
            Some(time) => Some(at.date().to_datetime(*time)),
            None => Some(at.date().checked_sub(1.day()).ok()?.to_datetime(*self.0.last()?)),
        }
    }
}

/// `HH:MM` or `HH:MM:SS`.
fn time(text: &str) -> Result<Time, ScheduleError> {
    let wrong = |position| ScheduleError::Time { text: text.to_owned(), position };
    let mut parts = [0_i8; 3];
    let mut position = 0;
    for (index, (part, limit)) in parts.iter_mut().zip([24, 60, 60]).enumerate() {
        if index > 0 {
            match text.as_bytes().get(position) {
                None if index == 2 => break,
                Some(b':') => position += 1,
                _ => return Err(wrong(position)),
            }
        }
        let digits = text
            .as_bytes()
            .get(position..position + 2)
            .filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let digits = digits.ok_or_else(|| wrong(position))?;
        let value = (digits[0] - b'0') * 10 + (digits[1] - b'0');
        if value >= limit {
            return Err(wrong(position));
        }
        *part = i8::try_from(value).map_err(|_| wrong(position))?;
        position += 2;
    }
    if position != text.len() {
        return Err(wrong(position));
    }
    Time::new(parts[0], parts[1], parts[2], 0).map_err(|_| wrong(0))
}

impl fmt::Display for Daily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("daily ")?;
        for (index, time) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{:02}:{:02}", time.hour(), time.minute())?;
            if time.second() != 0 {
                write!(f, ":{:02}", time.second())?;
            }
        }
        Ok(())
    }
}
