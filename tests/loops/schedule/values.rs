//! Each kind of schedule, and what is said of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};
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
fn times_of_day_are_due_in_order() {
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
fn quarter_hour_cron_continues_through_a_dst_change() {
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
        (Schedule::every(secs(5_400)).aligned("Asia/Kolkata"), "every 1h30m aligned in Asia/Kolkata"),
        (
            Schedule::cron("0 9 * * MON-FRI", "+05:30").jitter(secs(30)),
            "cron 0 9 * * MON-FRI in +05:30 jitter 30s",
        ),
        (Schedule::daily(["08:00"], "system"), "daily 08:00 in system"),
    ];
    for (schedule, expected) in texts {
        assert_eq!(expected.parse(), Ok(schedule.clone()));
        assert_eq!(schedule.to_string(), expected);
        assert_eq!(schedule.check(), Ok(()));
        assert_eq!(schedule.clone(), schedule);
    }
    let spread = Schedule::every(secs(60)).spread("a key with spaces").jitter(secs(5));
    assert_eq!(spread.to_string().parse(), Ok(spread.clone()));
    assert_eq!("every 1m spread guild-42".parse(), Ok(Schedule::every(secs(60)).spread("guild-42")));
    let shown = format!("{:?}", Schedule::cron("0 9 * * MON-FRI", "Europe/Paris"));
    assert!(shown.contains("0 9 * * MON-FRI") && shown.len() < 300, "{shown}");
}

fn minutes(count: u64) -> Duration {
    secs(count * 60)
}

#[test]
fn an_aligned_interval_is_reckoned_from_midnight_in_its_zone() {
    let kolkata = "Asia/Kolkata";
    let schedule = Schedule::every(minutes(90)).aligned(kolkata);
    assert_eq!(
        local(&schedule, kolkata, "2024-02-28T00:00:00Z", 3),
        ["2024-02-28T06:00:00", "2024-02-28T07:30:00", "2024-02-28T09:00:00"]
    );
    assert_eq!(schedule.interval(), Some(minutes(90)));
    assert_eq!(
        schedule.upcoming(at("2024-02-28T00:30:00Z")).next(),
        Some(at("2024-02-28T00:30:00Z")),
        "6:00"
    );
    let split = Schedule::every(Duration::from_millis(86_400_000 / 7)).aligned("UTC");
    assert_eq!(split.check(), Err(ScheduleError::NotADivisorOfADay));
    assert_eq!(Schedule::every(Duration::from_millis(250)).aligned("UTC").check(), Ok(()));
    assert_eq!(Schedule::every(minutes(7)).aligned("UTC").check(), Err(ScheduleError::NotADivisorOfADay));
    assert_eq!(
        Schedule::every(minutes(2 * 1_440)).aligned("UTC").check(),
        Err(ScheduleError::NotADivisorOfADay)
    );
    assert_eq!(Schedule::every(minutes(1_440)).aligned("UTC").check(), Ok(()));
    assert_eq!(Schedule::every(minutes(0)).aligned("UTC").check(), Err(ScheduleError::ZeroInterval));
    assert_eq!(
        Schedule::every(minutes(90)).aligned("UTC").jitter(minutes(91)).check(),
        Err(ScheduleError::JitterTooLong)
    );
    let refused = Schedule::daily(["09:00"], "UTC").aligned("UTC").check().unwrap_err();
    assert_eq!(refused.to_string(), "aligned is an option of an interval");
}

#[test]
fn an_aligned_interval_follows_the_clock_where_it_changes() {
    let berlin = "Europe/Berlin";
    let hours = |count: u64| Schedule::every(minutes(count * 60)).aligned(berlin);
    // The clock goes from 2:00 to 3:00.
    assert_eq!(
        local(&hours(2), berlin, "2024-03-30T22:30:00Z", 3),
        ["2024-03-31T00:00:00", "2024-03-31T04:00:00", "2024-03-31T06:00:00"]
    );
    // From 3:00 to 2:00: each hour in real time.
    let due: Vec<_> = hours(1).upcoming(at("2024-10-26T23:30:00Z")).take(4).collect();
    assert!(due.windows(2).all(|pair| pair[1].duration_since(pair[0]).unwrap() == secs(3_600)), "{due:?}");
}

#[test]
fn a_past_start_is_a_phase() {
    let starts = at("2024-01-01T09:20:00Z");
    let hourly = Schedule::every(minutes(60)).starts(starts);
    let noon = at("2024-03-05T12:00:00Z");
    let due: Vec<_> = hourly.upcoming(noon).take(2).collect();
    assert_eq!(due, [at("2024-03-05T12:20:00Z"), at("2024-03-05T13:20:00Z")]);
    assert_eq!(hourly.next_after(noon), Some(due[0]));
    assert_eq!(hourly.next_after(due[0]), Some(due[1]), "strictly later");
    assert_eq!(hourly.upcoming(due[0]).next(), Some(due[0]), "its own time counts");
    let at_once = hourly.clone().immediate(true);
    let due_at_once: Vec<_> = at_once.upcoming(noon).take(2).collect();
    assert_eq!(due_at_once, [noon, due[0]]);
    let later = hourly.immediate(false);
    assert_eq!(later.upcoming(at("2024-01-01T00:00:00Z")).next(), Some(starts + minutes(60)));
}

#[test]
fn a_key_spreads_the_times_and_always_the_same_way() {
    let hourly = |key: &str| Schedule::every(minutes(60)).spread(key);
    let offset =
        |key: &str| hourly(key).upcoming(UNIX_EPOCH).next().unwrap().duration_since(UNIX_EPOCH).unwrap();
    assert_eq!(offset("guild-42"), offset("guild-42"));
    assert_eq!(offset("guild-42").as_secs(), 2_401, "in every process and version");
    // A thousand keys: about as many in each quarter.
    let mut quarters = [0; 4];
    for key in 0..1_000 {
        let offset = offset(&key.to_string());
        quarters[usize::try_from(offset.as_secs() / 900).unwrap()] += 1;
    }
    assert!(quarters.iter().all(|count| (200..300).contains(count)), "{quarters:?}");
    let aligned = hourly("guild-42").aligned("UTC");
    let due: Vec<_> = aligned.upcoming(UNIX_EPOCH).take(2).collect();
    assert_eq!(due, [UNIX_EPOCH + offset("guild-42"), UNIX_EPOCH + minutes(60) + offset("guild-42")]);
    assert_eq!(aligned.next_after(due[0]), Some(due[1]));
    let started = hourly("guild-42").starts(UNIX_EPOCH + minutes(10));
    assert_eq!(started.upcoming(UNIX_EPOCH + minutes(600)).next(), {
        let first = UNIX_EPOCH + minutes(10) + offset("guild-42");
        (0..).map(|count| first + minutes(60 * count)).find(|time| *time >= UNIX_EPOCH + minutes(600))
    });
    for schedule in
        [Schedule::once(UNIX_EPOCH), Schedule::daily(["09:00"], "UTC"), Schedule::cron("@daily", "UTC")]
    {
        let refused = schedule.spread("key").check().unwrap_err();
        assert_eq!(refused.to_string(), "spread is an option of an interval");
    }
}

#[test]
fn times_may_be_left_out() {
    let weekdays = Schedule::daily(["09:00", "17:00"], "Europe/Berlin")
        .except(|time| time.weekday > 5 || (time.month, time.day, time.hour) == (1, 1, 9));
    assert_eq!(
        local(&weekdays, "Europe/Berlin", "2023-12-29T12:00:00Z", 3),
        ["2023-12-29T17:00:00", "2024-01-01T17:00:00", "2024-01-02T09:00:00"]
    );
    let noted = std::sync::Arc::new(std::sync::Mutex::new(None));
    let log = noted.clone();
    let plain = Schedule::daily(["02:30:15"], "Europe/Berlin");
    let noting = plain.clone().except(move |time| {
        *log.lock().unwrap() = Some(time.clone());
        false
    });
    let due = noting.next_after(at("2024-03-31T00:00:00Z"));
    let time = noted.lock().unwrap().clone().unwrap();
    assert_eq!(Some(time.at), due);
    assert_eq!((time.year, time.month, time.day, time.weekday), (2024, 3, 31, 7));
    assert_eq!((time.hour, time.minute, time.second), (3, 0, 0), "what the clock shows: it leaves 2:30 out");
    assert_eq!(noting.to_string(), plain.to_string(), "absent in the text");
    assert_eq!(noting, noting.clone(), "the same one");
    assert_ne!(noting, plain);
    assert_ne!(plain.clone().except(|_| false), plain.clone().except(|_| false), "compared by identity");
    assert_eq!(plain.except(|_| true).next_after(UNIX_EPOCH), None, "nothing is left");
    assert_eq!(Schedule::every(secs(60)).except(|_| true).check(), Err(ScheduleError::NoZone));
    assert_eq!(Schedule::every(secs(60)).aligned("UTC").except(|_| true).check(), Ok(()));
}

#[test]
fn a_zone_is_a_name_or_an_offset() {
    let nine = |zone: &str| Schedule::daily(["09:00"], zone).next_after(at("2024-06-01T00:00:00Z"));
    assert_eq!(nine("+05:30"), Some(at("2024-06-01T03:30:00Z")));
    assert_eq!(nine("-08:00"), Some(at("2024-06-01T17:00:00Z")));
    assert_eq!(nine("UTC"), nine("+00:00"));
    let system = TimeZone::system();
    let shown = system.to_datetime(Timestamp::try_from(nine("system").expect("a zone")).unwrap());
    assert_eq!((shown.hour(), shown.minute()), (9, 0));
    for zone in ["+5:30", "+05", "+24:00", "+05:60", "+0530", "+05:3x", "-", "local"] {
        let error = Schedule::daily(["09:00"], zone).check().expect_err(zone);
        assert!(matches!(error, ScheduleError::Zone { .. }), "{error:?}");
    }
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
        ("every 5m aligned", 16, "zone"),
        ("every 5m aligned UTC", 17, "zone"),
        ("every 5m spread", 15, "key"),
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
        "every 7m aligned in UTC",
        "daily 08:00 in UTC spread key",
    ] {
        let error = text.parse::<Schedule>().expect_err(text);
        assert!(!matches!(error, ScheduleError::Text { .. }), "{text:?}: {error:?}");
    }
}
