//! The rule of local times, by which each is due exactly once:
//!
//! > A local time is due at the first instant at which the zone's clock shows it or a later one.
//!
//! So a time in a gap is due when the gap begins, and of a time that comes twice the first counts. The rule makes the instant
//! a function of the local time that never runs backwards, on which the arithmetic here depends.

use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone, db},
};

use super::ScheduleError;

/// As far as clocks are ever set back: the date line moved by a day.
const SET_BACK_AT_MOST: SignedDuration = SignedDuration::from_hours(48);
const LEAST: SignedDuration = SignedDuration::from_nanos(1);

/// Finds a zone by its IANA name, by its offset from UTC such as `+05:30`, or that of the machine as `system`.
pub(super) fn find(name: &str) -> Result<TimeZone, ScheduleError> {
    let zone = match name {
        "system" => TimeZone::try_system().ok(),
        _ if name.starts_with(['+', '-']) => offset(name).map(TimeZone::fixed),
        _ => TimeZone::get(name).ok(),
    };
    // `Etc/Unknown` has a name and no clock.
    zone.filter(|zone| !zone.is_unknown()).ok_or_else(|| unknown(name))
}

/// `+05:30`.
fn offset(text: &str) -> Option<Offset> {
    let (is_west, time) = (text.starts_with('-'), text.get(1..)?);
    let (hours, minutes) = time.split_once(':')?;
    let number = |digits: &str, limit: i32| {
        let is_number = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse().ok().filter(|number: &i32| is_number && *number < limit)
    };
    let seconds = number(hours, 24)? * 3_600 + number(minutes, 60)? * 60;
    Offset::from_seconds(if is_west { -seconds } else { seconds }).ok()
}

fn unknown(name: &str) -> ScheduleError {
    let same = |(a, b): &(char, char)| a.eq_ignore_ascii_case(b);
    let begins = |known: &str| {
        name.chars().zip(known.chars()).take_while(same).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let ends = |known: &str| name.chars().rev().zip(known.chars().rev()).take_while(same).count();
    let known = db().available().map(|known| known.as_str().to_owned());
    // Of several alike the first by name: an answer that does not change.
    let nearest = known.max_by_key(|known| (begins(known), ends(known), std::cmp::Reverse(known.clone())));
    let nearest = nearest.filter(|nearest| begins(nearest) > 0);
    ScheduleError::Zone { name: name.to_owned(), position: nearest.as_deref().map_or(0, begins), nearest }
}

/// The latest that the zone's clock has shown up to an instant.
pub(super) fn latest_shown(zone: &TimeZone, at: Timestamp) -> DateTime {
    let now = zone.to_datetime(at);
    let (Ok(just_after), Ok(oldest)) = (at.checked_add(LEAST), at.checked_sub(SET_BACK_AT_MOST)) else {
        return now;
    };
    let recent =
        zone.preceding(just_after).map(|change| change.timestamp()).take_while(|change| *change > oldest);
    let before =
        recent.filter_map(|change| change.checked_sub(LEAST).ok()).map(|before| zone.to_datetime(before));
    before.fold(now, DateTime::max)
}

/// The first instant at which the zone's clock shows a time or a later one.
pub(super) fn first_shown(zone: &TimeZone, time: DateTime) -> Option<Timestamp> {
    match zone.to_ambiguous_timestamp(time).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(time).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(time).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // By the later offset, the time is before the change that leaves it out.
            zone.following(after.to_timestamp(time).ok()?).next().map(|change| change.timestamp())
        }
    }
}

/// The first change of the clock after an instant.
pub(super) fn next_change(zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    zone.following(after).next().map(|change| change.timestamp())
}

/// The last change of the clock up to an instant.
pub(super) fn last_change(zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
    zone.preceding(at.checked_add(LEAST).ok()?).next().map(|change| change.timestamp())
}
