//! Calendars: clocks that are set, processes that are suspended, and lives that follow each other.

use otel_tasks::schedule::MissedPolicy;

use super::*;

use crate::support::WallClock;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Some midnight, UTC.
fn midnight() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(20_000 * DAY)
}

/// A loop on a clock that can be set, and what that clock showed when its iterations began, in minutes since midnight.
struct OnClock {
    clock: WallClock,
    tasks: TaskManager,
    handle: LoopHandle,
    minutes: Arc<Mutex<Vec<i64>>>,
}

impl OnClock {
    fn begin(schedule: Schedule, adjust: impl FnOnce(TaskLoop) -> TaskLoop) -> Self {
        let clock = WallClock::starting(midnight());
        let minutes = Arc::new(Mutex::new(Vec::new()));
        let (log, reader) = (minutes.clone(), clock.clone());
        let body = adjust(TaskLoop::on(schedule, move |_| {
            let now = reader.now();
            let minute = match now.duration_since(midnight()) {
                Ok(since) => since.as_secs() as i64 / 60,
                Err(before) => -(before.duration().as_secs() as i64) / 60,
            };
            log.lock().unwrap().push(minute);
            async {}
        }));
        let handle = body.handle();
        let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
        tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
        tasks.start();
        Self { clock, tasks, handle, minutes }
    }

    fn minutes(&self) -> Vec<i64> {
        self.minutes.lock().unwrap().clone()
    }

    fn missed(&self) -> u64 {
        self.tasks.snapshot("l").unwrap().skipped(SkipReason::Missed)
    }
}

async fn hours(hours: u64) {
    sleep(secs(hours * HOUR)).await;
}

fn daily(time: &str) -> Schedule {
    Schedule::daily([time], "UTC")
}

#[tokio::test(start_paused = true)]
async fn times_of_day_come_day_after_day() {
    let l = OnClock::begin(Schedule::daily(["09:00", "21:30"], "UTC"), |body| body);
    settle().await;
    assert_eq!(l.handle.next_run(), Some(midnight() + secs(9 * HOUR)));
    let snapshot = l.tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.next_run, snapshot.interval), (l.handle.next_run(), Some(secs(45_000))));
    hours(48).await;
    assert_eq!(l.minutes(), [540, 1_290, 1_980, 2_730]);
    assert_eq!(l.missed(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_iteration_begins_at_its_second() {
    let l = OnClock::begin(Schedule::cron("*/10 * * * * *", "UTC"), |body| body);
    sleep(secs(3_605)).await;
    assert_eq!(l.minutes().len(), 361);
    assert_eq!(l.tasks.snapshot("l").unwrap().total_skipped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_past_a_time_makes_it_late_and_once() {
    let l = OnClock::begin(daily("09:00"), |body| body);
    hours(8).await;
    l.clock.shift(2 * HOUR as i64);
    sleep(secs(60)).await;
    assert_eq!(l.minutes(), [600], "seen within half a minute");
    hours(24).await;
    assert_eq!(l.minutes(), [600, 1_980], "and the next day at nine");
}

#[tokio::test(start_paused = true)]
async fn times_that_a_clock_set_back_shows_again_are_not_due_again() {
    for back in [HOUR, 25 * HOUR] {
        let l = OnClock::begin(daily("09:00"), |body| body);
        hours(9).await;
        sleep(secs(120)).await;
        assert_eq!(l.minutes(), [540]);
        l.clock.shift(-(back as i64));
        hours(back / HOUR + 1).await;
        assert_eq!(l.minutes(), [540], "{back}");
        hours(24).await;
        assert_eq!(l.minutes(), [540, 1_980], "{back}: strictly later than the last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_wrong_by_years_stalls_nothing() {
    let l = OnClock::begin(daily("09:00"), |body| body);
    hours(1).await;
    // Set forward by ten years for ten minutes; one of the missed takes place, the others are counted.
    l.clock.shift(3_650 * DAY as i64);
    sleep(secs(600)).await;
    assert_eq!((l.minutes().len(), l.missed()), (1, 3_649));
    l.clock.shift(-3_650 * DAY as i64);
    hours(24).await;
    assert_eq!(l.minutes()[1..], [540], "the first nine o'clock after it was set right");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_wrong_when_the_loop_began_stalls_nothing() {
    let l = OnClock::begin(daily("09:00"), |body| body);
    settle().await;
    l.clock.shift(-3_650 * DAY as i64);
    hours(1).await;
    assert_eq!(l.handle.next_run(), Some(midnight() - secs(3_650 * DAY) + secs(9 * HOUR)));
    hours(9).await;
    assert_eq!(l.minutes(), [540 - 3_650 * 1_440]);
}

#[tokio::test(start_paused = true)]
async fn quarter_hour_cron_continues_after_clock_is_set_back() {
    let l = OnClock::begin(Schedule::cron("*/15 * * * *", "UTC"), |body| body);
    hours(2).await;
    sleep(secs(60)).await;
    l.clock.shift(-(HOUR as i64));
    hours(1).await;
    assert_eq!(l.minutes(), [0, 15, 30, 45, 60, 75, 90, 105, 120, 75, 90, 105, 120]);
    // By a little: not twice for one time.
    l.clock.shift(-61);
    sleep(secs(30)).await;
    l.clock.shift(-20);
    sleep(secs(900)).await;
    assert_eq!(l.minutes()[13..], [135]);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_neither_bursts_nor_stalls() {
    // The wall clock goes on, the steady one stands still.
    let l = OnClock::begin(Schedule::cron("0 * * * *", "UTC"), |body| body);
    hours(1).await;
    sleep(secs(600)).await;
    assert_eq!(l.minutes(), [0, 60]);
    l.clock.shift(8 * HOUR as i64);
    sleep(secs(60)).await;
    assert_eq!(l.minutes()[2..], [550], "one of eight, at 9:10");
    assert_eq!(l.missed(), 7);
    hours(2).await;
    assert_eq!(l.minutes()[3..], [600, 660]);
}

#[tokio::test(start_paused = true)]
async fn missed_times_follow_the_policy() {
    for (policy, expected, missed) in [
        (MissedPolicy::Skip, vec![0, 660], 10),
        (MissedPolicy::CatchUp(3), vec![0, 610, 610, 610, 660], 7),
        (MissedPolicy::RunOnce, vec![0, 610, 660], 9),
    ] {
        let l = OnClock::begin(Schedule::cron("0 * * * *", "UTC"), |body| body.missed(policy));
        sleep(secs(600)).await;
        l.clock.shift(10 * HOUR as i64);
        hours(1).await;
        assert_eq!((l.minutes(), l.missed()), (expected, missed), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missed_times_of_a_schedule_of_every_second_are_counted_up_to_a_limit() {
    let l = OnClock::begin(Schedule::cron("* * * * * *", "UTC"), |body| body);
    sleep(secs(5)).await;
    let before = l.minutes().len();
    l.clock.shift(365 * DAY as i64);
    sleep(secs(30)).await;
    assert_eq!(l.missed(), otel_tasks::schedule::MissedPolicy::MAX_COUNTED);
    let after = l.minutes().len() - before;
    assert!((28..=32).contains(&after), "it goes on, once a second: {after}");
}

#[tokio::test(start_paused = true)]
async fn new_life_does_not_repeat_the_previous_iteration() {
    let l = OnClock::begin(daily("09:00"), |body| body);
    hours(9).await;
    settle().await;
    l.clock.shift(-60);
    l.handle.restart().unwrap();
    hours(2).await;
    assert_eq!(l.minutes(), [540]);
    hours(24).await;
    assert_eq!(l.minutes(), [540, 1_980]);
}

#[tokio::test(start_paused = true)]
async fn a_first_iteration_at_once_is_outside_the_calendar() {
    let l = OnClock::begin(daily("09:00").immediate(true).count(2), |body| body);
    hours(30).await;
    assert_eq!(l.minutes(), [0, 540]);
    assert_eq!(state(&l.tasks, "l"), Some(TaskState::Finished));
}

#[tokio::test(start_paused = true)]
async fn a_loop_changes_between_rhythm_and_calendar() {
    let l = OnClock::begin(Schedule::every(secs(HOUR)), |body| body);
    sleep(secs(5_400)).await;
    l.handle.change_schedule(daily("09:00")).unwrap();
    hours(8).await;
    assert_eq!(l.minutes(), [0, 60, 540]);
    assert_eq!(l.handle.interval(), None);
    l.handle.change_schedule(Schedule::every(secs(HOUR))).unwrap();
    hours(2).await;
    assert_eq!(l.minutes()[3..], [600, 660], "counted from the last");
}

#[tokio::test(start_paused = true)]
async fn a_calendar_that_is_over_finishes_the_loop() {
    let ends = midnight() + secs(2 * DAY);
    let l = OnClock::begin(daily("09:00").ends(ends), |body| body);
    hours(80).await;
    assert_eq!((l.minutes(), state(&l.tasks, "l")), (vec![540, 1_980], Some(TaskState::Finished)));
    assert_eq!(l.handle.next_run(), None);
}

#[tokio::test(start_paused = true)]
async fn wall_clock_step_is_configurable() {
    let clock = WallClock::starting(midnight());
    let tasks = TaskManager::builder().wall_clock(clock.reader()).wall_clock_step(secs(5)).build().unwrap();
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::on(daily("09:00"), move |_| {
        log.note();
        async {}
    });
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(100)).await;
    clock.shift(12 * HOUR as i64);
    sleep(secs(6)).await;
    assert_eq!(moments.count(), 1);
}

/// The clock is set past a time of the new calendar during a short iteration, and the schedule is changed before the iteration ends.
#[tokio::test(start_paused = true)]
async fn calendar_that_comes_during_an_iteration_begins_with_the_clock_of_then() {
    let clock = WallClock::starting(midnight() + secs(3 * HOUR) - secs(1));
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let moments = Moments::default();
    let log = moments.clone();
    let body = TaskLoop::every(secs(10), move |_| {
        log.note();
        sleep(Duration::from_millis(300))
    });
    let handle = body.handle();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(Duration::from_millis(100)).await;
    clock.shift(HOUR as i64);
    handle.change_schedule(daily("03:00")).unwrap();
    sleep(secs(60)).await;
    assert_eq!(moments.count(), 1, "03:00 was over when the schedule came");
    assert_eq!(tasks.snapshot("l").unwrap().skipped(SkipReason::Missed), 0);
    assert_eq!(handle.next_run(), Some(midnight() + secs(27 * HOUR)));
}

/// The clock is set during a short iteration of a loop that seldom runs.
#[tokio::test(start_paused = true)]
async fn clock_that_is_set_during_an_iteration_shows_in_the_next_time() {
    let clock = WallClock::starting(midnight());
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let body = TaskLoop::every(secs(HOUR), move |_| sleep(Duration::from_millis(200)));
    let handle = body.handle();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(Duration::from_millis(100)).await;
    clock.shift(HOUR as i64 / 2);
    sleep(secs(1)).await;
    assert_eq!(handle.next_run(), Some(midnight() + secs(HOUR + HOUR / 2)));
}
