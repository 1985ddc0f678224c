//! What is due, found another way: croner walks local times, and each is looked for in every stretch of a zone's time
//! between two changes of its clock.

use std::cmp::Ordering;

use croner::{
    CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday, errors::CronError,
};
use jiff::{
    SignedDuration, Timestamp, ZonedDateTime,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone},
};

/// A stretch of a zone's time with one offset.
pub(crate) struct Stretch {
    from: Timestamp,
    to: Timestamp,
    offset: Offset,
}

/// The stretches that make up a window, in order.
pub(crate) fn stretches(zone: &TimeZone, from: Timestamp, to: Timestamp) -> Vec<Stretch> {
    let mut starts = vec![(from, zone.to_offset(from))];
    let changes = zone.following(from).take_while(|change| change.timestamp() < to);
    starts.extend(changes.map(|change| (change.timestamp(), change.offset())));
    let ends = starts.iter().skip(1).map(|(from, _)| *from).chain([to]);
    let stretches = starts.iter().zip(ends);
    stretches.map(|((from, offset), to)| Stretch { from: *from, to, offset: *offset }).collect()
}

impl Stretch {
    fn instant(&self, time: DateTime) -> Timestamp {
        self.offset.to_timestamp(time).expect("far from the end of time")
    }

    /// How much local time is left out between this stretch and the one after it.
    pub(crate) fn gap(&self, next: &Self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(next.offset.seconds() - self.offset.seconds()))
    }

    fn first(&self) -> DateTime {
        self.offset.to_datetime(self.from)
    }
}

/// The first instant at which the clock shows that time or a later one.
pub(crate) fn first_reached(stretches: &[Stretch], time: DateTime) -> Option<Timestamp> {
    stretches
        .iter()
        .map(|stretch| (stretch, stretch.instant(time).max(stretch.from)))
        .find_map(|(stretch, instant)| (instant < stretch.to).then_some(instant))
}

/// What is due in a window after its beginning, where each local time is due once.
pub(crate) fn local(stretches: &[Stretch], times: impl Iterator<Item = DateTime>) -> Vec<Timestamp> {
    let mut due: Vec<_> = times.map_while(|time| first_reached(stretches, time)).collect();
    due.sort_unstable();
    due.dedup();
    due
}

/// What is due in a window where every instant counts that shows such a time.
pub(crate) fn real(stretches: &[Stretch], cron: &Cron) -> Vec<Timestamp> {
    let mut due = Vec::new();
    for stretch in stretches {
        let times = cron.iter_from(Local(stretch.first()), croner::Direction::Forward);
        let instants = times.map(|time| stretch.instant(time.0));
        due.extend(instants.take_while(|instant| *instant < stretch.to));
    }
    due
}

/// The local times of an expression.
pub(crate) fn times(cron: &Cron, from: DateTime) -> impl Iterator<Item = DateTime> {
    cron.iter_from(Local(from), croner::Direction::Forward).map(|time| time.0)
}

fn civil(time: DateTime) -> CivilDateTime {
    let part = |part: i8| part as u32;
    CivilDateTime::new(
        CivilDate::from_ymd(i32::from(time.year()), part(time.month()), part(time.day())).expect("a date"),
        CivilTime::from_hms_opt(part(time.hour()), part(time.minute()), part(time.second())).expect("a time"),
    )
}

fn datetime(civil: CivilDateTime) -> Result<DateTime, CronError> {
    let part = |part: u32| part as i8;
    let (year, month, day) = (civil.year() as i16, part(civil.month()), part(civil.day()));
    DateTime::new(year, month, day, part(civil.hour()), part(civil.minute()), part(civil.second()), 0)
        .map_err(|_| CronError::InvalidDate)
}

fn weekday(time: DateTime) -> Weekday {
    Weekday::from_days_from_sunday(time.weekday().to_sunday_zero_offset() as u32)
}

#[derive(Clone, Copy)]
struct Local(DateTime);

impl CronDateTime for Local {
    fn to_civil(&self) -> CivilDateTime {
        civil(self.0)
    }
    fn civil_weekday(&self) -> Weekday {
        weekday(self.0)
    }
    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        Ok(Resolution::Single(Self(datetime(civil)?)))
    }
    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }
    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// A time in its zone, under croner's own rules for changes of the clock.
#[derive(Clone)]
pub(crate) struct InZone(pub(crate) ZonedDateTime);

impl CronDateTime for InZone {
    fn to_civil(&self) -> CivilDateTime {
        civil(self.0.datetime())
    }
    fn civil_weekday(&self) -> Weekday {
        weekday(self.0.datetime())
    }
    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let ambiguous = self.0.time_zone().to_ambiguous_zoned_datetime(datetime(civil)?);
        let zoned =
            |zoned: Result<ZonedDateTime, jiff::Error>| zoned.map(InZone).map_err(|_| CronError::InvalidTime);
        Ok(match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Resolution::Single(zoned(ambiguous.unambiguous())?),
            AmbiguousOffset::Gap { .. } => Resolution::Gap,
            AmbiguousOffset::Fold { .. } => {
                Resolution::Ambiguous(zoned(ambiguous.clone().earlier())?, zoned(ambiguous.later())?)
            }
        })
    }
    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        self.0.checked_add(SignedDuration::from_secs(seconds)).ok().map(Self)
    }
    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.0.timestamp().cmp(&other.0.timestamp())
    }
}
