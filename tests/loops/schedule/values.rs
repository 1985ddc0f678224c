//! Each kind of schedule, and what is said of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use otel_tasks::{Schedule, schedule::ScheduleError};

use super::{at, local};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Seconds from the epoch.
fn seconds(times: impl Iterator<Item = SystemTime>) -> Vec<u64> {
    times.map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs()).collect()
}

#[test]
fn an_interval_begins_at_once_and_keeps_its_distance() {
    let schedule = Schedule::every(secs(10));
    assert_eq!(seconds(schedule.upcoming(UNIX_EPOCH).take(4)), [0, 10, 20, 30]);
    let later = schedule.immediate(false).count(2);
    assert_eq!(seconds(later.upcoming(UNIX_EPOCH)), [10, 20]);
    assert_eq!(Schedule::delay(secs(7)).next_after(UNIX_EPOCH), Some(UNIX_EPOCH + secs(7)));
    assert_eq!(Schedule::every(secs(0)).next_after(UNIX_EPOCH), None, "none is strictly later");
}

#[test]
fn bounds_hold_and_both_ends_count() {
    let (starts, ends) = (UNIX_EPOCH + secs(100), UNIX_EPOCH + secs(120));
    let rhythm = Schedule::every(secs(10)).starts(starts).ends(ends);
    assert_eq!(seconds(rhythm.upcoming(UNIX_EPOCH)), [100, 110, 120]);
    assert_eq!(seconds(rhythm.upcoming(UNIX_EPOCH + secs(115))), [120], "a start in the past is a phase");
    let next = [50, 100].map(|after| rhythm.next_after(UNIX_EPOCH + secs(after)));
    assert_eq!(next, [100, 110].map(|next| Some(UNIX_EPOCH + secs(next))));
    let minutes =
        Schedule::cron("* * * * *", "UTC").starts(UNIX_EPOCH + secs(120)).ends(UNIX_EPOCH + secs(240));
    assert_eq!(seconds(minutes.upcoming(UNIX_EPOCH)), [120, 180, 240]);
    assert_eq!(minutes.next_after(UNIX_EPOCH), Some(UNIX_EPOCH + secs(120)));
    assert_eq!(minutes.next_after(UNIX_EPOCH + secs(240)), None);
}

#[test]
fn once_is_once() {
    let instant = UNIX_EPOCH + secs(50);
    let once = Schedule::once(instant);
    assert_eq!(once.upcoming(UNIX_EPOCH).collect::<Vec<_>>(), [instant]);
    assert_eq!((once.next_after(UNIX_EPOCH), once.next_after(instant)), (Some(instant), None));
    assert_eq!(once.upcoming(UNIX_EPOCH + secs(60)).count(), 1, "one that is past is due at once");
}

#[test]
fn times_of_day_come_in_order_whatever_order_they_were_given_in() {
    let schedule = Schedule::daily(["20:15:30", "08:00", "08:00"], "Asia/Kolkata");
    assert_eq!(
        local(&schedule, "Asia/Kolkata", "2024-02-28T00:00:00Z", 4),
        ["2024-02-28T08:00:00", "2024-02-28T20:15:30", "2024-02-29T08:00:00", "2024-02-29T20:15:30"]
    );
    let now = schedule.immediate(true);
    assert_eq!(
        local(&now, "Asia/Kolkata", "2024-02-28T00:00:00Z", 2),
        ["2024-02-28T05:30:00", "2024-02-28T08:00:00"]
    );
}

#[test]
fn a_time_at_which_it_begins_counts() {
    let schedule = Schedule::daily(["08:00"], "UTC");
    let eight = at("2024-01-01T08:00:00Z");
    assert_eq!(schedule.upcoming(eight).next(), Some(eight));
    assert_eq!(schedule.next_after(eight), Some(at("2024-01-02T08:00:00Z")), "strictly later");
    let just_after = eight + Duration::from_nanos(1);
    assert_eq!(schedule.upcoming(just_after).next(), Some(at("2024-01-02T08:00:00Z")));
}

#[test]
fn leap_days_month_ends_and_weekdays_are_the_calendars() {
    let utc = |expression: &str, count| {
        let schedule = Schedule::cron(expression, "UTC");
        schedule.check().expect("a schedule");
        local(&schedule, "UTC", "2023-12-30T00:00:00Z", count)
    };
    assert_eq!(utc("0 0 29 2 *", 3), ["2024-02-29T00:00:00", "2028-02-29T00:00:00", "2032-02-29T00:00:00"]);
    assert_eq!(utc("0 12 L * *", 3), ["2023-12-31T12:00:00", "2024-01-31T12:00:00", "2024-02-29T12:00:00"]);
    assert_eq!(utc("0 0 31 * *", 3), ["2023-12-31T00:00:00", "2024-01-31T00:00:00", "2024-03-31T00:00:00"]);
    assert_eq!(utc("30 9 * * MON#1", 2), ["2024-01-01T09:30:00", "2024-02-05T09:30:00"]);
    assert_eq!(
        utc("*/20 30 6 * * *", 3),
        ["2023-12-30T06:30:00", "2023-12-30T06:30:20", "2023-12-30T06:30:40"]
    );
    assert_eq!(utc("@monthly", 2), ["2024-01-01T00:00:00", "2024-02-01T00:00:00"]);
    // 2100 is no leap year.
    let schedule = Schedule::cron("0 0 29 2 *", "UTC");
    assert_eq!(local(&schedule, "UTC", "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00:00"]);
}

#[test]
fn a_time_that_the_clock_leaves_out_is_due_when_it_is_left_out() {
    let berlin = "Europe/Berlin";
    let schedule = Schedule::daily(["02:00", "02:30", "03:00", "03:15"], berlin);
    assert_eq!(
        local(&schedule, berlin, "2024-03-30T23:00:00Z", 3),
        ["2024-03-31T03:00:00", "2024-03-31T03:15:00", "2024-04-01T02:00:00"],
        "three of them at one moment are one iteration"
    );
    let cron = Schedule::cron("30 2 * * *", berlin);
    assert_eq!(
        local(&cron, berlin, "2024-03-30T23:00:00Z", 2),
        ["2024-03-31T03:00:00", "2024-04-01T02:30:00"]
    );
}

#[test]
fn a_time_that_comes_twice_is_due_the_first_time() {
    let schedule = Schedule::daily(["02:30"], "Europe/Berlin");
    let due: Vec<_> = schedule.upcoming(at("2024-10-26T22:00:00Z")).take(2).collect();
    assert_eq!(due, [at("2024-10-27T00:30:00Z"), at("2024-10-28T01:30:00Z")]);
    // Also where it is asked between the two.
    assert_eq!(schedule.next_after(at("2024-10-27T01:10:00Z")), Some(at("2024-10-28T01:30:00Z")));
    let hours = Schedule::cron("0 1,2,3 * * *", "Europe/Berlin");
    let due: Vec<_> = hours.upcoming(at("2024-10-26T22:00:00Z")).take(3).collect();
    assert_eq!(due, [at("2024-10-26T23:00:00Z"), at("2024-10-27T00:00:00Z"), at("2024-10-27T02:00:00Z")]);
}

#[test]
fn a_day_that_a_zone_leaves_out_is_due_when_it_is_left_out() {
    // Samoa went from the 29th of December 2011 to the 31st.
    let schedule = Schedule::daily(["09:00"], "Pacific/Apia");
    assert_eq!(
        local(&schedule, "Pacific/Apia", "2011-12-29T15:00:00Z", 4),
        ["2011-12-29T09:00:00", "2011-12-31T00:00:00", "2011-12-31T09:00:00", "2012-01-01T09:00:00"]
    );
}

#[test]
fn every_so_often_goes_on_through_a_change_of_the_clock() {
    let quarters = Schedule::cron("*/15 * * * *", "Europe/Berlin");
    for from in ["2024-10-26T23:50:00Z", "2024-03-31T00:20:00Z"] {
        let due: Vec<_> = quarters.upcoming(at(from)).take(10).collect();
        assert!(due.windows(2).all(|pair| pair[1].duration_since(pair[0]).unwrap() == secs(900)), "{due:?}");
    }
}

#[test]
fn a_schedule_is_read_as_it_is_written() {
    let late = UNIX_EPOCH + secs(1_800_000_000);
    let texts = [
        (Schedule::every(secs(5)), "every 5s"),
        (Schedule::delay(secs(5)).count(1), "delay 5s count 1"),
        (Schedule::every(secs(60)).jitter(secs(5)).count(3), "every 1m jitter 5s count 3"),
        (Schedule::daily(["08:00", "20:15:30"], "UTC"), "daily 08:00,20:15:30 in UTC"),
        (Schedule::cron("0 9 * * MON-FRI", "Europe/Paris"), "cron 0 9 * * MON-FRI in Europe/Paris"),
        (
            Schedule::cron("@daily", "UTC").starts(UNIX_EPOCH).ends(late).immediate(true),
            "cron @daily in UTC starts 1970-01-01T00:00:00Z ends 2027-01-15T08:00:00Z immediate true",
        ),
        (Schedule::once(UNIX_EPOCH), "once 1970-01-01T00:00:00Z"),
        (Schedule::once(UNIX_EPOCH - secs(1)), "once @-1.000000000"),
    ];
    for (schedule, expected) in texts {
        assert_eq!(expected.parse(), Ok(schedule.clone()));
        assert_eq!(schedule.to_string(), expected);
        assert_eq!(schedule.check(), Ok(()));
        assert_eq!(schedule.clone(), schedule);
    }
    let shown = format!("{:?}", Schedule::cron("0 9 * * MON-FRI", "Europe/Paris"));
    assert!(shown.contains("0 9 * * MON-FRI") && shown.len() < 300, "{shown}");
}

#[test]
fn a_text_that_is_no_schedule_is_refused_at_the_wrong_word() {
    for (text, at, word) in [
        ("", 0, "cron"),
        ("often", 0, "every"),
        ("every", 5, "duration"),
        ("every so", 6, "duration"),
        ("every 5m jitter", 15, "duration"),
        ("every 5m twice", 9, "count"),
        ("every 5m count many", 15, "number"),
        ("every 5m immediate yes", 19, "true"),
        ("once tomorrow", 5, "instant"),
        ("daily 08:00", 11, "zone"),
        ("cron 0 9 * * *", 14, "zone"),
        ("cron 0 9 * * * in", 17, "zone"),
    ] {
        match text.parse::<Schedule>() {
            Err(ScheduleError::Text { position, expected, .. }) => {
                assert!(position == at && expected.contains(word), "{text:?}: {position} {expected}");
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }
    for text in [
        "every 0s",
        "every 5m count 0",
        "every 5s jitter 6s",
        "daily 25:00 in UTC",
        "cron 0 9 * * * in Nowhere",
    ] {
        let error = text.parse::<Schedule>().expect_err(text);
        assert!(!matches!(error, ScheduleError::Text { .. }), "{text:?}: {error:?}");
    }
}
