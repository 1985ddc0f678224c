//! A schedule is read as it was written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use otel_tasks::{Schedule, schedule::ScheduleError};
use proptest::prelude::*;

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1_u64..200_000).prop_map(Duration::from_secs),
        (1_u64..10_000_000_000).prop_map(Duration::from_nanos),
    ]
}

fn instants() -> impl Strategy<Value = SystemTime> {
    (-5_000_000_000_i64..300_000_000_000, 0_u32..1_000_000_000).prop_map(|(seconds, nanos)| {
        let by = Duration::new(seconds.unsigned_abs(), nanos);
        if seconds < 0 { UNIX_EPOCH - by } else { UNIX_EPOCH + by }
    })
}

fn zones() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "UTC",
        "Europe/Berlin",
        "america/new_york",
        "+05:30",
        "-08:00",
        "system",
        "Etc/GMT+5",
    ])
}

fn crons() -> impl Strategy<Value = String> {
    let expression = prop::sample::select(vec![
        "0 9 * * MON-FRI",
        "*/15 * * * *",
        "0 0 12 L * ? 2030-2040",
        "0 0 13 * +fri",
        "@daily",
        "@Midnight",
        "0 0 1,15W * 5#2",
    ]);
    let space = prop::sample::select(vec!["", " ", "  ", "\t", "\n "]);
    (expression, space.clone(), space).prop_map(|(expression, around, between)| {
        let between = if between.is_empty() { " " } else { between };
        format!("{around}{}{around}", expression.split(' ').collect::<Vec<_>>().join(between))
    })
}

fn rhythms() -> impl Strategy<Value = Schedule> {
    let time = (0_u32..24, 0_u32..60, 0_u32..60)
        .prop_map(|(hour, minute, second)| format!("{hour:02}:{minute:02}:{second:02}"));
    prop_oneof![
        durations().prop_map(Schedule::every),
        durations().prop_map(Schedule::delay),
        instants().prop_map(Schedule::once),
        (prop::collection::vec(time, 1..4), zones()).prop_map(|(times, zone)| Schedule::daily(times, zone)),
        (crons(), zones()).prop_map(|(cron, zone)| Schedule::cron(&cron, zone)),
        (prop::sample::select(vec![90_u64, 3_600, 86_400, 1]), zones())
            .prop_map(|(seconds, zone)| Schedule::every(Duration::from_secs(seconds)).aligned(zone)),
    ]
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof!["#[0-9a-fA-F]{8}", "#[0-9a-z+]{0,9}", "[a-z0-9-]{1,12}", Just("a key with spaces".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn a_schedule_is_read_as_it_is_written(
        rhythm in rhythms(),
        spread in prop::option::of(keys()),
        jitter in prop::option::of(durations()),
        count in prop::option::of(1_u64..u64::MAX),
        starts in prop::option::of(instants()),
        ends in prop::option::of(instants()),
        immediate in prop::option::of(any::<bool>()),
    ) {
        let mut schedule = rhythm;
        if let Some(key) = &spread {
            schedule = schedule.spread(key);
        }
        schedule = match jitter { Some(jitter) => schedule.jitter(jitter), None => schedule };
        schedule = match count { Some(count) => schedule.count(count), None => schedule };
        schedule = match starts { Some(starts) => schedule.starts(starts), None => schedule };
        schedule = match ends { Some(ends) => schedule.ends(ends), None => schedule };
        schedule = match immediate { Some(immediate) => schedule.immediate(immediate), None => schedule };
        // What is no schedule is read as none, with the same reason.
        match schedule.check() {
            Ok(()) => prop_assert_eq!(schedule.to_string().parse(), Ok(schedule.clone()), "{}", schedule),
            Err(error) => prop_assert_eq!(schedule.to_string().parse::<Schedule>().is_err(), true, "{}", error),
        }
    }

    #[test]
    fn a_key_in_a_text_is_the_key_of_a_schedule(key in keys()) {
        prop_assume!(!key.contains(' '));
        let schedule = Schedule::every(Duration::from_secs(60)).spread(&key);
        prop_assert_eq!(format!("every 1m spread {key}").parse(), Ok(schedule));
    }
}

#[test]
fn white_space_around_an_expression_is_no_part_of_it() {
    let plain = Schedule::cron("0 9 * * *", "UTC");
    for text in [" 0 9 * * *", "0 9 * * * ", "0\t9  *\n* *"] {
        assert_eq!(Schedule::cron(text, "UTC"), plain, "{text:?}");
    }
    assert_eq!(Schedule::cron(" @daily ", "UTC").to_string(), "cron @daily in UTC");
}

#[test]
fn etc_unknown_zone_is_refused() {
    let error = Schedule::daily(["09:00"], "Etc/Unknown").check().expect_err("it has no clock");
    assert!(matches!(error, ScheduleError::Zone { .. }), "{error:?}");
}

#[test]
fn an_exception_that_leaves_nothing_is_refused() {
    let daily = |zone| Schedule::daily(["09:00"], zone);
    assert_eq!(daily("UTC").except(|_| true).check(), Err(ScheduleError::NothingLeft));
    assert_eq!(
        Schedule::cron("0 0 1 * *", "UTC").except(|time| time.day == 1).check(),
        Err(ScheduleError::NothingLeft)
    );
    let error = daily("UTC").except(|_| true).check().unwrap_err().to_string();
    assert_eq!(error, "except leaves out every time of the schedule");
    // Something is left, sooner or later.
    assert_eq!(daily("UTC").except(|time| time.year < 2_030).check(), Ok(()));
    assert_eq!(daily("UTC").except(|time| (time.month, time.day) != (2, 29)).check(), Ok(()));
    assert_eq!(daily("UTC").except(|time| time.year != 2_399).check(), Ok(()));
}
