//! Every IANA zone, around the changes of its clock between 1970 and 2037.

use std::{str::FromStr, sync::LazyLock, time::SystemTime};

use croner::Cron;
use jiff::{
    SignedDuration, Timestamp, ToSpan, ZonedDateTime,
    civil::{DateTime, date},
    tz::{TimeZone, db},
};
use otel_tasks::Schedule;
use proptest::{prelude::*, sample::Index};

use super::oracle::{self, InZone, first_reached, stretches};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A zone by name: the rest would fill a screen.
impl std::fmt::Debug for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

struct Zone {
    name: String,
    zone: TimeZone,
    /// The changes of its clock between 1970 and 2037.
    changes: Vec<Timestamp>,
}

static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
    let end: Timestamp = "2038-01-01T00:00:00Z".parse().unwrap();
    let zones: Vec<_> = db()
        .available()
        .filter_map(|name| {
            let zone = TimeZone::get(name.as_str()).ok()?;
            let changes = zone.following(Timestamp::UNIX_EPOCH).map(|change| change.timestamp());
            let changes = changes.take_while(|change| *change < end).collect();
            Some(Zone { name: name.as_str().to_owned(), zone, changes })
        })
        .collect();
    assert!(zones.len() > 500, "only {} zones", zones.len());
    assert!(zones.iter().filter(|zone| !zone.changes.is_empty()).count() > 300);
    zones
});

/// A zone, and a window of some days around one of its changes, or around any moment where it has none.
fn windows() -> impl Strategy<Value = (&'static Zone, Timestamp, Timestamp)> {
    let anywhere = 0_i64..2_145_916_800;
    (any::<Index>(), any::<Index>(), anywhere, 1_i64..260_000, 200_000_i64..400_000).prop_map(
        |(zone, change, anywhere, before, after)| {
            let zone = zone.get(&ZONES);
            let middle = match zone.changes.as_slice() {
                [] => Timestamp::from_second(anywhere).unwrap(),
                changes => *change.get(changes),
            };
            let shift = |seconds| middle.checked_add(SignedDuration::from_secs(seconds)).unwrap();
            (zone, shift(-before), shift(after))
        },
    )
}

fn wall(time: Timestamp) -> SystemTime {
    SystemTime::try_from(time).unwrap()
}

/// What a schedule says is due in a window. Also holds that each is strictly later than the one before.
fn due(schedule: &Schedule, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let due: Vec<_> = schedule
        .upcoming(wall(from))
        .map(|time| Timestamp::try_from(time).unwrap())
        .take_while(|time| *time < to)
        .collect();
    assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "{due:?}");
    due
}

/// All that is due in a window, found through its stretches. The window of the oracle begins earlier: what its clock showed
/// before counts.
fn expected(
    zone: &Zone,
    from: Timestamp,
    to: Timestamp,
    times: impl Iterator<Item = DateTime>,
) -> Vec<Timestamp> {
    let stretches = stretches(&zone.zone, from.checked_sub(DAY * 4).unwrap(), to);
    let mut due = oracle::local(&stretches, times);
    due.retain(|time| *time >= from);
    due
}

fn early(zone: &Zone, from: Timestamp) -> DateTime {
    zone.zone.to_datetime(from.checked_sub(DAY * 3).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn times_of_day_are_due_once_each((zone, from, to) in windows(), times in prop::collection::btree_set(0_u32..86_400, 1..5), whole in any::<bool>()) {
        // Most people's times are whole quarters of an hour, and most changes happen at such.
        let times: Vec<_> = times.into_iter().map(|time| if whole { time / 900 * 900 } else { time }).collect();
        let texts: Vec<_> = times.iter().map(|time| format!("{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)).collect();
        let schedule = Schedule::daily(&texts, &zone.name);
        let first = early(zone, from).date();
        let days = (0..14).map(|day| first.checked_add(day.days()).unwrap());
        let mut civil: Vec<_> = days
            .flat_map(|day| times.iter().map(move |time| day.at(0, 0, 0, 0).checked_add(i64::from(*time).seconds()).unwrap()))
            .collect();
        civil.sort_unstable();
        civil.dedup();
        prop_assert_eq!(due(&schedule, from, to), expected(zone, from, to, civil.into_iter()), "{} {:?}", zone.name, texts);
    }

    #[test]
    fn an_expression_that_names_hours_is_due_once_for_each_local_time((zone, from, to) in windows(), minute in minutes(), hour in hours()) {
        let text = format!("{minute} {hour} * * *");
        let cron = Cron::from_str(&text).unwrap();
        let schedule = Schedule::cron(&text, &zone.name);
        let times = oracle::times(&cron, early(zone, from)).take_while(|time| *time < zone.zone.to_datetime(to).checked_add(2.days()).unwrap());
        prop_assert_eq!(due(&schedule, from, to), expected(zone, from, to, times), "{} {}", zone.name, text);
    }

    #[test]
    fn expression_without_hours_follows_real_time((zone, from, to) in windows(), minute in minutes(), step in prop_oneof![Just(""), Just("/2"), Just("/5")]) {
        let text = format!("{minute} *{step} * * *");
        let cron = Cron::from_str(&text).unwrap();
        let schedule = Schedule::cron(&text, &zone.name);
        let mut expected = oracle::real(&stretches(&zone.zone, from, to), &cron);
        expected.retain(|time| *time >= from);
        prop_assert_eq!(due(&schedule, from, to), expected, "{} {}", zone.name, text);
    }

    /// Where croner's own rules for a zone say what they promise (one time of day, a gap of at most two hours), ours are the
    /// same.
    #[test]
    fn one_time_of_day_is_due_when_croner_says((zone, from, to) in windows(), minute in 0_u32..60, hour in 0_u32..24) {
        let long_gap = stretches(&zone.zone, from.checked_sub(DAY * 3).unwrap(), to).windows(2).any(|pair| pair[0].gap(&pair[1]) > SignedDuration::from_hours(2));
        prop_assume!(!long_gap);
        let text = format!("{minute} {hour} * * *");
        let cron = Cron::from_str(&text).unwrap();
        let start = InZone(ZonedDateTime::new(from, zone.zone.clone()));
        let theirs: Vec<_> = cron.iter_from(start, croner::Direction::Forward).map(|time| time.0.timestamp()).take_while(|time| *time < to).collect();
        let mut theirs: Vec<_> = theirs.into_iter().filter(|time| *time >= from).collect();
        theirs.dedup();
        prop_assert_eq!(due(&Schedule::cron(&text, &zone.name), from, to), theirs, "{} {}", zone.name, text);
    }

    #[test]
    fn days_of_the_month_and_the_week_are_croners((zone, from) in (any::<Index>(), 0_i64..2_100_000_000), day in prop_oneof![(1_u32..32).prop_map(|day| day.to_string()), Just("L".to_owned()), Just("*".to_owned()), (1_u32..29).prop_map(|day| format!("{day}W"))], month in prop_oneof![Just("*".to_owned()), (1_u32..13).prop_map(|month| month.to_string())], weekday in prop_oneof![Just("*".to_owned()), (0_u32..7).prop_map(|day| day.to_string()), (0_u32..7, 1_u32..6).prop_map(|(day, nth)| format!("{day}#{nth}"))]) {
        let zone = zone.get(&ZONES);
        // At a minute that no change of a clock leaves out: not the one they happen at.
        let text = format!("47 12 {day} {month} {weekday}");
        let Ok(cron) = Cron::from_str(&text) else { return Ok(()) };
        let schedule = Schedule::cron(&text, &zone.name);
        if schedule.check().is_err() { return Ok(()) }
        let from = Timestamp::from_second(from).unwrap();
        let ours: Vec<_> = schedule.upcoming(wall(from)).take(6).map(|time| zone.zone.to_datetime(Timestamp::try_from(time).unwrap())).collect();
        let theirs: Vec<_> = oracle::times(&cron, zone.zone.to_datetime(from)).filter(|time| !is_left_out(zone, *time)).take(6).collect();
        let ours: Vec<_> = ours.into_iter().take(theirs.len()).collect();
        if theirs.iter().all(|time| time.year() < 2037) && !spans_left_out(zone, from) {
            prop_assert_eq!(ours, theirs, "{} {}", zone.name, text);
        }
    }
}

fn is_left_out(zone: &Zone, time: DateTime) -> bool {
    zone.zone.to_ambiguous_timestamp(time).is_ambiguous()
}

/// Whether whole hours around noon are left out somewhere: the date line.
fn spans_left_out(zone: &Zone, from: Timestamp) -> bool {
    zone.changes.iter().filter(|change| **change >= from).any(|change| {
        let before = zone.zone.to_offset(change.checked_sub(SignedDuration::from_secs(1)).unwrap());
        let after = zone.zone.to_offset(*change);
        (after.seconds() - before.seconds()).abs() > 3 * 3_600
    })
}

fn minutes() -> impl Strategy<Value = String> {
    prop_oneof![
        (0_u32..60).prop_map(|minute| minute.to_string()),
        Just("0,30".to_owned()),
        Just("*/15".to_owned()),
        Just("*/7".to_owned())
    ]
}

fn hours() -> impl Strategy<Value = String> {
    prop_oneof![
        (0_u32..24).prop_map(|hour| hour.to_string()),
        Just("0-3".to_owned()),
        Just("1,2,3".to_owned()),
        Just("22,23,0".to_owned())
    ]
}

/// Not sampled: each change of each zone once, with the times around it.
#[test]
fn around_every_change_of_every_zone_each_local_time_is_due_once() {
    let mut changes = 0;
    for zone in &*ZONES {
        for change in &zone.changes {
            let before = zone.zone.to_datetime(change.checked_sub(SignedDuration::from_secs(1)).unwrap());
            let after = zone.zone.to_datetime(*change);
            let times = [before, after]
                .map(|time| format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()));
            let schedule = Schedule::daily(&times, &zone.name);
            let (from, to) = (change.checked_sub(DAY).unwrap(), change.checked_add(DAY).unwrap());
            let first = early(zone, from).date();
            let mut civil: Vec<_> = (0..8)
                .flat_map(|day| {
                    [before, after]
                        .map(|time| first.checked_add(day.days()).unwrap().to_datetime(time.time()))
                })
                .collect();
            civil.sort_unstable();
            civil.dedup();
            assert_eq!(
                due(&schedule, from, to),
                expected(zone, from, to, civil.into_iter()),
                "{} {change}",
                zone.name
            );
            changes += 1;
        }
    }
    assert!(changes > 10_000, "{changes}");
}

#[test]
fn the_oracle_knows_the_rule() {
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let window = |from: &str, to: &str| stretches(&berlin, from.parse().unwrap(), to.parse().unwrap());
    let spring = window("2024-03-30T00:00:00Z", "2024-04-01T00:00:00Z");
    let left_out = date(2024, 3, 31).at(2, 30, 0, 0);
    assert_eq!(first_reached(&spring, left_out), Some("2024-03-31T01:00:00Z".parse().unwrap()));
    let autumn = window("2024-10-26T00:00:00Z", "2024-10-28T00:00:00Z");
    let twice = date(2024, 10, 27).at(2, 30, 0, 0);
    assert_eq!(first_reached(&autumn, twice), Some("2024-10-27T00:30:00Z".parse().unwrap()));
}
