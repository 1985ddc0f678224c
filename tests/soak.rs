//! Ten years of two hundred schedules in virtual time: every iteration begins at its time, none twice, none is lost.
//!
//! What is due is reckoned beforehand by each schedule's own iteration, which `tests/loops/schedule` holds against croner's. A debug
//! build runs four months of it: `cargo test --release --test soak` is the whole.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use otel_tasks::{CriticalTaskConfig, Schedule, TaskLoop, TaskManager};
use support::WallClock;

const DAY: u64 = 86_400;
const DAYS: u64 = if cfg!(debug_assertions) { 120 } else { 3_653 };
const SPAN: Duration = Duration::from_secs(DAYS * DAY);
const ZONES: [&str; 10] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "UTC",
    "Asia/Tehran",
    "America/St_Johns",
];

/// The first midnight of 2016, UTC: a leap year comes first, then changes of the clock in all zones but two.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(16_801 * DAY)
}

/// Two hundred schedules of every kind. None is due so often that ten years of it could not be kept.
fn schedules() -> Vec<Schedule> {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let mut schedules = Vec::new();
    for (index, zone) in ZONES.into_iter().enumerate() {
        let shift = index as u64;
        let minute = 7 * index % 60;
        schedules.extend([
            Schedule::daily(["02:30"], zone),
            Schedule::daily(["00:00", "01:59:59", "12:00", "23:59:59"], zone),
            Schedule::daily([format!("{:02}:{minute:02}", 2 + index)], zone).immediate(true),
            Schedule::cron(&format!("{minute} * * * *"), zone).count(20_000),
            Schedule::cron(&format!("{minute} */6 * * *"), zone),
            Schedule::cron("0 9 * * MON-FRI", zone),
            Schedule::cron("30 2 * * SUN", zone),
            Schedule::cron("0 0 L * *", zone),
            Schedule::cron("0 0 29 2 *", zone),
            Schedule::cron("15 1,2,3 * 3,10,11 *", zone),
            Schedule::cron("*/30 1-3 * * SUN", zone),
            Schedule::cron("59 59 23 31 12 *", zone),
            Schedule::cron("0 12 * * FRI#2", zone).starts(start() + hours(24 * 100)),
            Schedule::cron("0 4 1W * *", zone).ends(start() + hours(24 * 300)),
            Schedule::every(hours(5 + shift)),
            Schedule::every(hours(24 * (1 + shift))).immediate(false),
            Schedule::every(hours(7) + Duration::from_nanos(1 + shift)),
            Schedule::every(hours(30)).starts(start() + hours(50 + shift)),
            Schedule::delay(hours(11 + shift)),
            Schedule::once(start() + hours(24 * 30 * (1 + shift))),
        ]);
    }
    assert_eq!(schedules.len(), 200);
    schedules
}

#[tokio::test(start_paused = true)]
async fn every_iteration_of_ten_years_begins_at_its_time() {
    let clock = WallClock::starting(start());
    let tasks = TaskManager::builder()
        .max_names(300)
        // A sweep a minute would be five millions.
        .monitor_interval(Duration::from_secs(30 * DAY))
        .wall_clock(clock.reader())
        // Nobody sets this clock.
        .wall_clock_step(Duration::from_secs(400 * DAY))
        .build()
        .unwrap();
    let schedules = schedules();
    let mut loops = Vec::new();
    for (index, schedule) in schedules.iter().enumerate() {
        let began = Arc::new(Mutex::new(Vec::new()));
        let (log, reader) = (began.clone(), clock.clone());
        let body = TaskLoop::on(schedule.clone(), move |_| {
            log.lock().unwrap().push(reader.now());
            async {}
        });
        tasks
            .register(CriticalTaskConfig::from_loop(format!("loop-{index}"), body))
            .expect("a sound schedule");
        loops.push(began);
    }
    tasks.start();
    tokio::time::sleep(SPAN).await;

    let ended = clock.now();
    let mut checked = 0;
    for (index, (schedule, began)) in schedules.iter().zip(&loops).enumerate() {
        let began = began.lock().unwrap();
        // A timer fires within the millisecond after its time.
        let just_ended = ended - Duration::from_millis(10);
        let expected = schedule.upcoming(start()).take_while(|due| *due < just_ended);
        let mut count = 0;
        let mut late = Duration::ZERO;
        for (number, due) in expected.enumerate() {
            let began = began.get(number).unwrap_or_else(|| panic!("{schedule}: {number} was lost"));
            let later =
                began.duration_since(due).unwrap_or_else(|_| panic!("{schedule}: {number} was early"));
            // A delay is counted from when the one before began, late as it was: that adds up.
            late = if schedule.to_string().contains("after") {
                late + Duration::from_millis(3)
            } else {
                Duration::from_millis(3)
            };
            assert!(later < late, "{schedule}: {number} began {later:?} late");
            count += 1;
        }
        assert!((count..=count + 1).contains(&began.len()), "{schedule}: {} instead of {count}", began.len());
        let snapshot = tasks.snapshot(&format!("loop-{index}")).expect("registered");
        assert_eq!(snapshot.total_skipped(), 0, "{schedule}");
        assert_eq!(snapshot.total_runs(), began.len() as u64, "{schedule}");
        checked += count;
    }
    // Some two hundred a day.
    assert!(checked as u64 > 150 * DAYS, "{checked}");
    println!("{checked} iterations of {} schedules, each at its time", schedules.len());
}
