//! What is no schedule is refused before anything runs, with an error that says what and where.

use std::time::{Duration, UNIX_EPOCH};

use otel_tasks::{Schedule, schedule::ScheduleError};

use crate::support::shown;

#[test]
fn figures_that_make_no_schedule_are_refused() {
    let second = Duration::from_secs(1);
    assert_eq!(Schedule::every(Duration::ZERO).check(), Err(ScheduleError::ZeroInterval));
    assert_eq!(Schedule::delay(Duration::ZERO).check(), Err(ScheduleError::ZeroInterval));
    assert_eq!(Schedule::every(second).count(0).check(), Err(ScheduleError::ZeroCount));
    assert_eq!(Schedule::every(second).jitter(2 * second).check(), Err(ScheduleError::JitterTooLong));
    assert_eq!(Schedule::every(second).jitter(second).check(), Ok(()));
    let (starts, ends) = (UNIX_EPOCH + second, UNIX_EPOCH);
    assert_eq!(
        Schedule::every(second).starts(starts).ends(ends).check(),
        Err(ScheduleError::EndsBeforeStart)
    );
    assert_eq!(Schedule::daily::<&str>([], "UTC").check(), Err(ScheduleError::NoTimes));
}

#[test]
fn a_wrong_time_of_day_names_the_position() {
    for (text, position) in [
        ("", 0),
        ("8:00", 0),
        ("24:00", 0),
        ("08", 2),
        ("08-00", 2),
        ("08:60", 3),
        ("08:0", 3),
        ("08:00:61", 6),
        ("08:00:", 6),
        ("08:00 ", 5),
        ("08:00:00Z", 8),
        ("０8:00", 0),
    ] {
        let expected = format!("Err(Time {{ text: {text:?}, position: {position} }})");
        assert_eq!(shown(&Schedule::daily(["09:00", text], "UTC").check()), expected);
    }
}

#[test]
fn a_wrong_cron_expression_names_the_position() {
    for (text, position) in [
        ("", 0),
        ("   ", 0),
        ("61 * * * *", 0),
        ("* 24 * * *", 2),
        ("0 0 32 * *", 4),
        ("0 0  * 13 *", 7),
        ("0 0 * * MOO", 8),
        ("*/0 * * * *", 0),
        ("0 9-5 * * *", 2),
        ("60 0 0 * * *", 0),
        ("0 0 *", 5),
        ("0 0 * * * * * *", 14),
        ("@often", 0),
    ] {
        let error = Schedule::cron(text, "UTC").check().expect_err(text);
        let ScheduleError::Cron { text: told, position: at, reason, .. } = &error else {
            panic!("{text:?}: {error:?}")
        };
        assert_eq!((told.as_str(), *at), (text, position), "{reason}");
        assert!(!reason.is_empty() && error.to_string().contains(&format!("position {position}")), "{error}");
    }
}

#[test]
fn wrong_cron_expression_error_names_its_reason() {
    for (text, reason) in [
        ("61 * * * *", "position 0: 61 is too much or too little: the minutes go from 0 to 59"),
        (
            "*/90 * * * *",
            "position 0: a step of 90 leads from no value to another: the minutes go from 0 to 59",
        ),
        ("1/10 * * * * *", "position 0: a step needs a range: write 1-59/10"),
        ("0 22-6 * * *", "position 2: a range ends after it begins: write 22-23,0-6"),
        ("0 9 * * Monday", "position 8: names have three letters: write MON"),
        ("@reboot", "position 0: a loop that runs once when it begins is `every` with a count of 1"),
        ("@every 5m", "position 0: an interval is no cron expression: use `every`, as in `every 5m`"),
    ] {
        let error = Schedule::cron(text, "UTC").check().expect_err(text).to_string();
        assert!(error.ends_with(reason), "{error}");
    }
    let midnight = Schedule::cron("@midnight", "UTC");
    assert_eq!(midnight.next_after(UNIX_EPOCH), Some(UNIX_EPOCH + Duration::from_secs(86_400)));
}

#[test]
fn an_expression_that_never_comes_true_is_refused() {
    for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 29 2 * 2100"] {
        let expected = format!("Err(NeverFires {{ text: {text:?} }})");
        assert_eq!(shown(&Schedule::cron(text, "UTC").check()), expected);
    }
    assert_eq!(Schedule::cron("0 0 0 1 1 * 1999", "UTC").check(), Ok(()), "it has come true");
}

#[test]
fn unknown_zone_error_names_the_position_and_nearest_zone() {
    for (name, position, nearest) in [
        ("Europe/Berlim", 12, Some("Europe/Berlin")),
        ("Europa/Berlin", 5, Some("Europe/Berlin")),
        ("America/Argentina/Buenos-Aires", 24, Some("America/Argentina/Buenos_Aires")),
        ("", 0, None),
        ("?", 0, None),
    ] {
        let error = Schedule::daily(["09:00"], name).check().expect_err(name);
        let ScheduleError::Zone { position: at, nearest: near, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*at, near.as_deref()), (position, nearest), "{name:?}");
    }
    let text = Schedule::daily(["09:00"], "Europe/Berlim").check().unwrap_err().to_string();
    assert_eq!(
        text,
        r#"there is no time zone "Europe/Berlim", wrong from position 12 on; "Europe/Berlin" is one"#
    );
}
