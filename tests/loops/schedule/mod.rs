//! When a schedule is due: its values, its errors, and the calendar's arithmetic against croner's own iteration and against
//! a walk through the changes of each zone's clock.

mod errors;
mod expressions;
mod oracle;
mod texts;
mod values;
mod zones;

use std::time::SystemTime;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// An instant, as `2024-03-31T01:30:00Z`.
pub(crate) fn at(text: &str) -> SystemTime {
    let timestamp: Timestamp = text.parse().expect("an instant");
    SystemTime::try_from(timestamp).expect("a time that the clock can tell")
}

/// What a zone's clock shows.
fn shown(zone: &str, time: SystemTime) -> DateTime {
    let zone = TimeZone::get(zone).expect("a zone");
    zone.to_datetime(Timestamp::try_from(time).expect("in range"))
}

/// The local times of a schedule's first so many iterations.
pub(crate) fn local(schedule: &otel_tasks::Schedule, zone: &str, from: &str, count: usize) -> Vec<String> {
    schedule.upcoming(at(from)).take(count).map(|time| shown(zone, time).to_string()).collect()
}
