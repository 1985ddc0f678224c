//! Local times in a zone, as instants.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{
    SignedDuration, Timestamp,
    civil::{DateTime, Time},
    tz::TimeZone,
};

use crate::policy::text::DurationText;

use super::{LocalTime, ScheduleError, cron::Cron, daily::Daily, zone};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Calendar {
    times: Times,
    zone: TimeZone,
    zone_name: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Times {
    Daily(Daily),
    Cron(Cron),
    /// At whole multiples from midnight; they divide the day.
    Aligned(Duration),
}

/// The largest change of the clock backwards for which the repeated times are left out: 48 h. After a larger change the last time is
/// forgotten, because the clock was wrong before.
const NOT_REPEATED: Duration = Duration::from_secs(48 * 3_600);
/// The same for an interval, for which a pause of hours would be worse: 60 s.
const NOT_REPEATED_OFTEN: Duration = Duration::from_secs(60);

impl Calendar {
    pub(super) fn daily(daily: Daily, zone: &str) -> Result<Self, ScheduleError> {
        Ok(Self { times: Times::Daily(daily), zone: zone::find(zone)?, zone_name: zone.into() })
    }

    pub(super) fn cron(cron: Cron, zone: &str) -> Result<Self, ScheduleError> {
        Ok(Self { times: Times::Cron(cron), zone: zone::find(zone)?, zone_name: zone.into() })
    }

    pub(super) fn aligned(interval: Duration, zone: &str) -> Result<Self, ScheduleError> {
        const DAY: u128 = 86_400_000_000_000;
        match interval.as_nanos() {
            0 => return Err(ScheduleError::ZeroInterval),
            nanos if DAY % nanos != 0 => return Err(ScheduleError::NotADivisorOfADay),
            _ => {}
        }
        Ok(Self { times: Times::Aligned(interval), zone: zone::find(zone)?, zone_name: zone.into() })
    }

    /// The same with another interval.
    pub(super) fn with_interval(&self, interval: Duration) -> Result<Self, ScheduleError> {
        Self::aligned(interval, &self.zone_name)
    }

    /// The interval, if it has one.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self.times {
            Times::Aligned(interval) => Some(interval),
            _ => None,
        }
    }

    /// Returns the local time in the zone.
    pub(super) fn local(&self, at: SystemTime) -> Option<LocalTime> {
        let time = self.zone.to_datetime(Timestamp::try_from(at).ok()?);
        let part = |part: i8| part.unsigned_abs();
        Some(LocalTime {
            year: time.year(),
            month: part(time.month()),
            day: part(time.day()),
            weekday: part(time.weekday().to_monday_one_offset()),
            hour: part(time.hour()),
            minute: part(time.minute()),
            second: part(time.second()),
            at,
        })
    }

    pub(super) fn next(&self, after: SystemTime) -> Option<SystemTime> {
        let after = Timestamp::try_from(after).ok()?;
        let next = if self.is_every_so_often() { self.next_real(after) } else { self.next_local(after) };
        SystemTime::try_from(next?).ok()
    }

    pub(super) fn previous(&self, at: SystemTime) -> Option<SystemTime> {
        let at = Timestamp::try_from(at).ok()?;
        let previous =
            if self.is_every_so_often() { self.previous_real(at) } else { self.previous_local(at) };
        SystemTime::try_from(previous?).ok()
    }

    /// Returns the largest change of the clock backwards for which the last time is not repeated.
    pub(super) fn not_repeated(&self) -> Duration {
        match &self.times {
            Times::Aligned(interval) => (*interval).clamp(NOT_REPEATED_OFTEN, NOT_REPEATED),
            _ if self.is_every_so_often() => NOT_REPEATED_OFTEN,
            _ => NOT_REPEATED,
        }
    }

    fn is_every_so_often(&self) -> bool {
        match &self.times {
            Times::Daily(_) => false,
            Times::Cron(cron) => !cron.names_hours(),
            Times::Aligned(_) => true,
        }
    }

    fn next_local(&self, after: Timestamp) -> Option<Timestamp> {
        let mut time = zone::latest_shown(&self.zone, after);
        loop {
            time = self.times.next(time, false)?;
            let due = zone::first_shown(&self.zone, time)?;
            if due > after {
                return Some(due);
            }
        }
    }

    fn previous_local(&self, at: Timestamp) -> Option<Timestamp> {
        zone::first_shown(&self.zone, self.times.previous(zone::latest_shown(&self.zone, at))?)
    }

    /// Between two changes of the clock, local times and instants run alike.
    fn next_real(&self, after: Timestamp) -> Option<Timestamp> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.zone.to_offset(from);
            let due = self
                .times
                .next(offset.to_datetime(from), inclusive)
                .and_then(|time| offset.to_timestamp(time).ok());
            let change = zone::next_change(&self.zone, from);
            match (due, change) {
                (Some(due), Some(change)) if due >= change => {}
                (Some(due), _) => return Some(due),
                (None, _) => return None,
            }
            (from, inclusive) = (change?, true);
        }
    }

    fn previous_real(&self, at: Timestamp) -> Option<Timestamp> {
        let mut from = at;
        loop {
            let offset = self.zone.to_offset(from);
            let due = offset.to_timestamp(self.times.previous(offset.to_datetime(from))?).ok()?;
            match zone::last_change(&self.zone, from) {
                Some(change) if due < change => {
                    from = change.checked_sub(SignedDuration::from_nanos(1)).ok()?
                }
                _ => return Some(due),
            }
        }
    }
}

impl Times {
    /// The first after, or with `inclusive` from then on.
    fn next(&self, after: DateTime, inclusive: bool) -> Option<DateTime> {
        match self {
            Self::Daily(daily) => daily.next(after),
            Self::Cron(cron) => cron.next(after, inclusive),
            Self::Aligned(interval) => {
                let latest = latest_multiple(after, *interval)?;
                if inclusive && latest == after {
                    return Some(latest);
                }
                latest.checked_add(SignedDuration::try_from(*interval).ok()?).ok()
            }
        }
    }

    /// The last up to then.
    fn previous(&self, at: DateTime) -> Option<DateTime> {
        match self {
            Self::Daily(daily) => daily.previous(at),
            Self::Cron(cron) => cron.previous(at),
            Self::Aligned(interval) => latest_multiple(at, *interval),
        }
    }
}

/// The last local time up to `at` that lies a whole number of intervals after midnight.
fn latest_multiple(at: DateTime, interval: Duration) -> Option<DateTime> {
    let midnight = at.date().to_datetime(Time::midnight());
    let since = at.duration_since(midnight).as_nanos();
    let over = since % i128::try_from(interval.as_nanos()).ok()?.max(1);
    at.checked_sub(SignedDuration::from_nanos(i64::try_from(over).ok()?)).ok()
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.times {
            Times::Daily(daily) => write!(f, "{daily}")?,
            Times::Cron(cron) => write!(f, "{cron}")?,
            Times::Aligned(interval) => write!(f, "every {} aligned", DurationText(*interval))?,
        }
        write!(f, " in {}", self.zone_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        SystemTime::try_from(text.parse::<Timestamp>().expect("an instant")).expect("in range")
    }

    #[test]
    fn the_one_before_is_found_in_an_hour_that_comes_twice() {
        let daily = |time| Calendar::daily(Daily::parse([time]).unwrap(), "Europe/Berlin").unwrap();
        // 02:10, for the second time.
        let second = at("2024-10-27T01:10:00Z");
        assert_eq!(daily("02:45").previous(second), Some(at("2024-10-27T00:45:00Z")));
        assert_eq!(daily("03:00").previous(second), Some(at("2024-10-26T01:00:00Z")));
        let cron = |text| Calendar::cron(Cron::parse(text).unwrap(), "Europe/Berlin").unwrap();
        assert_eq!(cron("45 * * * *").previous(second), Some(at("2024-10-27T00:45:00Z")));
        assert_eq!(cron("5 * * * *").previous(second), Some(at("2024-10-27T01:05:00Z")));
        assert_eq!(cron("0 * * * *").previous(second), Some(at("2024-10-27T01:00:00Z")), "at the change");
    }

    #[test]
    fn next_and_previous_are_each_others_way_back() {
        let calendars = [
            Calendar::daily(Daily::parse(["00:00", "02:30", "02:45", "23:59:59"]).unwrap(), "Europe/Berlin")
                .unwrap(),
            Calendar::cron(Cron::parse("*/20 1-3 * * *").unwrap(), "America/New_York").unwrap(),
            Calendar::cron(Cron::parse("*/20 * * * *").unwrap(), "Australia/Lord_Howe").unwrap(),
            Calendar::daily(Daily::parse(["09:00", "21:00"]).unwrap(), "Pacific/Apia").unwrap(),
        ];
        for calendar in calendars {
            for from in [
                "2011-12-27T00:00:00Z",
                "2024-03-08T00:00:00Z",
                "2024-10-04T00:00:00Z",
                "2024-11-01T00:00:00Z",
            ] {
                let mut time = calendar.next(at(from)).unwrap();
                for _ in 0..500 {
                    let next = calendar.next(time).unwrap();
                    assert_eq!(calendar.previous(next), Some(next), "{calendar}");
                    let just_before = next - Duration::from_nanos(1);
                    assert_eq!(calendar.previous(just_before), Some(time), "{calendar}");
                    assert_eq!(calendar.next(just_before), Some(next), "{calendar}");
                    time = next;
                }
            }
        }
    }
}
