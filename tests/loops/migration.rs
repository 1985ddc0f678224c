//! What the page on other schedulers says of this crate.

use otel_tasks::schedule::OverlapPolicy;

use super::*;

use super::schedule::local;

/// The first times of an expression after new year's eve 2023, a Sunday.
fn cron(expression: &str, count: usize) -> Vec<String> {
    let schedule = Schedule::cron(expression, "UTC");
    assert_eq!(schedule.check(), Ok(()), "{expression}");
    local(&schedule, "UTC", "2023-12-31T12:00:00Z", count)
}

fn refused(expression: &str) -> String {
    Schedule::cron(expression, "UTC").check().expect_err(expression).to_string()
}

#[test]
fn either_of_two_fields_of_days_is_enough() {
    let expected = ["2024-01-05T00:00:00", "2024-01-12T00:00:00", "2024-01-13T00:00:00"];
    assert_eq!(cron("0 0 13 * FRI", 3), expected);
}

/// cron and cronie ask whether the field begins with a star, Kubernetes and croner whether it is one.
#[test]
fn ambiguous_day_step_is_refused_with_both_rewrites() {
    assert!(
        refused("0 0 */2 * MON")
            .contains("write +MON as the days of the week for both, or 1-31/2 for either")
    );
    assert!(
        refused("0 0 13 * */2").contains("write +*/2 as the days of the week for both, or 0-6/2 for either")
    );
    // Mondays with an odd number.
    assert_eq!(cron("0 0 */2 * +MON", 2), ["2024-01-01T00:00:00", "2024-01-15T00:00:00"]);
    let either = ["2024-01-01T00:00:00", "2024-01-03T00:00:00", "2024-01-05T00:00:00", "2024-01-07T00:00:00"];
    assert_eq!(cron("0 0 1-31/2 * MON", 5)[..4], either);
    assert_eq!(cron("0 0 1-31/2 * MON", 5)[4], "2024-01-08T00:00:00", "a Monday");
    assert_eq!(cron("0 0 13 * +FRI", 1), ["2024-09-13T00:00:00"]);
    for wrong in ["5,,10 * * * *", "0 0 * * 0-7/7", "0 0 * * MON-FRI#2"] {
        assert!(refused(wrong).contains("position"), "{wrong}");
    }
}

#[test]
fn one_is_monday_and_sunday_is_nought_and_seven() {
    for sunday in ["0", "7", "SUN"] {
        assert_eq!(cron(&format!("0 9 * * {sunday}"), 1), ["2024-01-07T09:00:00"], "{sunday}");
    }
    assert_eq!(cron("0 9 * * 1", 1), ["2024-01-01T09:00:00"]);
    // Quartz writes 6#3 and 6L for Friday.
    assert_eq!(cron("0 9 * * 5#3", 1), ["2024-01-19T09:00:00"]);
    assert_eq!(cron("0 9 * * 5L", 1), ["2024-01-26T09:00:00"]);
}

#[test]
fn a_question_mark_is_a_star() {
    assert_eq!(cron("0 0 12 ? * MON", 2), ["2024-01-01T12:00:00", "2024-01-08T12:00:00"]);
    assert_eq!(cron("0 0 12 15W * ?", 1), ["2024-01-15T12:00:00"]);
    assert_eq!(cron("0 0 12 L * ? 2024", 1), ["2024-01-31T12:00:00"]);
}

#[test]
fn nicknames_are_crons() {
    for (nickname, first) in [
        ("@hourly", "2023-12-31T12:00:00"),
        ("@daily", "2024-01-01T00:00:00"),
        ("@midnight", "2024-01-01T00:00:00"),
        ("@weekly", "2024-01-07T00:00:00"),
        ("@monthly", "2024-01-01T00:00:00"),
        ("@yearly", "2024-01-01T00:00:00"),
    ] {
        assert_eq!(cron(nickname, 1), [first], "{nickname}");
    }
}

#[test]
fn nonportable_expressions_are_refused_with_a_correction() {
    assert!(refused("*/90 * * * *").ends_with("the minutes go from 0 to 59"));
    assert!(refused("0 22-2 * * *").ends_with("write 22-23,0-2"));
    assert!(refused("1/10 * * * * *").ends_with("write 1-59/10"));
    assert!(refused("0 9 * * Monday").ends_with("write MON"));
    assert!(refused("@reboot").contains("count of 1"));
    assert_eq!(cron("1-59/10 * * * * *", 2), ["2023-12-31T12:00:01", "2023-12-31T12:00:11"]);
    assert_eq!(cron("0 22-23,0-2 * * *", 3)[..2], ["2023-12-31T22:00:00", "2023-12-31T23:00:00"]);
    let aligned = Schedule::every(secs(90 * 60)).aligned("UTC");
    assert_eq!(
        local(&aligned, "UTC", "2023-12-31T12:00:00Z", 2),
        ["2023-12-31T12:00:00", "2023-12-31T13:30:00"]
    );
}

#[test]
fn a_time_that_the_clock_leaves_out_is_due_when_it_is_left_out() {
    let half_past_two = Schedule::daily(["02:30"], "Europe/Berlin");
    assert_eq!(local(&half_past_two, "Europe/Berlin", "2024-03-30T12:00:00Z", 1), ["2024-03-31T03:00:00"]);
    let twice = half_past_two.upcoming(super::schedule::at("2024-10-26T12:00:00Z"));
    assert_eq!(
        twice.take(1).collect::<Vec<_>>(),
        [super::schedule::at("2024-10-27T00:30:00Z")],
        "once, the first time"
    );
}

#[test]
fn a_past_start_is_the_phase_of_an_interval() {
    let (starts, from) = (SystemTime::UNIX_EPOCH + secs(1_200), SystemTime::UNIX_EPOCH + secs(90_000));
    let next = Schedule::every(secs(3_600)).starts(starts).upcoming(from).next();
    assert_eq!(next, Some(SystemTime::UNIX_EPOCH + secs(91_200)));
}

#[tokio::test(start_paused = true)]
async fn the_first_iteration_is_at_once_or_after_one_interval() {
    let begin = Instant::now();
    for (immediate, expected) in [(None, 0), (Some(false), 10)] {
        let schedule = Schedule::every(secs(10));
        let schedule = immediate.map_or(schedule.clone(), |immediate| schedule.immediate(immediate));
        let (body, _, moments) = noting_on(schedule, 0);
        let _tasks = started(CriticalTaskConfig::from_loop("l", body));
        let began = Instant::now();
        sleep(secs(15)).await;
        let first = moments.0.lock().unwrap()[0];
        assert_eq!((first - began).as_secs(), expected, "{:?}", began - begin);
    }
}

#[tokio::test(start_paused = true)]
async fn iterations_are_numbered_from_one() {
    let seen = Log::default();
    let log = seen.clone();
    let body = TaskLoop::every(secs(10), move |ctx: TaskContext| {
        log.push(format!("{:?}", ctx.iteration()));
        async {}
    });
    let (_tasks, handle) = looping(body);
    settle().await;
    assert_eq!((seen.lines(), handle.current_iteration()), (vec!["Some(1)".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn one_iteration_is_a_count_of_one_or_one_instant() {
    for schedule in [Schedule::every(secs(10)).count(1), Schedule::once(SystemTime::now())] {
        let (body, _, moments) = noting_on(schedule, 0);
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(100)).await;
        assert_eq!((moments.count(), state(&tasks, "l")), (1, Some(TaskState::Finished)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_unless_more_are_allowed() {
    for (overlap, most) in [(OverlapPolicy::default(), 1), (OverlapPolicy::Allow(3), 3)] {
        let alive = Alive::default();
        let guards = alive.clone();
        let body = TaskLoop::every(secs(10), move |_| guards.during(sleep(secs(45)))).overlap(overlap);
        let tasks = started(CriticalTaskConfig::from_loop("l", body));
        sleep(secs(100)).await;
        assert_eq!(alive.most(), most, "{overlap:?}");
        assert!(tasks.snapshot("l").unwrap().skipped(SkipReason::Overlapped) > 0, "the others are counted");
    }
}
