//! What a loop is told of an earlier process, and what it tells the next.

use otel_tasks::schedule::{MissedPolicy, Trigger};

use super::*;

use crate::support::WallClock;

const HOUR: u64 = 3_600;

/// Some noon.
fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(20_000 * 24 * HOUR + 12 * HOUR)
}

fn ago(hours: u64, minutes: u64) -> SystemTime {
    noon() - secs(hours * HOUR + minutes * 60)
}

/// Runs from noon on for so many minutes. Returns the minutes at which iterations began, how many times were missed, and the
/// handle.
async fn from_noon(
    schedule: Schedule,
    missed: MissedPolicy,
    last_run: impl Into<Option<SystemTime>>,
    minutes: u64,
) -> (Vec<u64>, u64, LoopHandle) {
    let clock = WallClock::starting(noon());
    let begun: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (log, reader) = (begun.clone(), clock.clone());
    let body = TaskLoop::on(schedule, move |_| {
        log.lock().unwrap().push(reader.now().duration_since(noon()).unwrap().as_secs() / 60);
        async {}
    });
    let body = body.missed(missed).last_run(last_run);
    let handle = body.handle();
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(minutes * 60 + 30)).await;
    let missed = tasks.snapshot("l").unwrap().skipped(SkipReason::Missed);
    let begun = begun.lock().unwrap().clone();
    (begun, missed, handle)
}

#[cfg(feature = "calendar")]
#[tokio::test(start_paused = true)]
async fn calendar_times_since_the_last_run_are_missed() {
    let daily = || Schedule::daily(["09:00"], "UTC");
    for (policy, last_run, begins, missed) in [
        (MissedPolicy::RunOnce, Some(ago(3, 0)), vec![], 0),
        (MissedPolicy::RunOnce, None, vec![], 0),
        (MissedPolicy::RunOnce, Some(ago(27, 0)), vec![0], 0),
        (MissedPolicy::RunOnce, Some(ago(3 * 24 + 3, 0)), vec![0], 2),
        (MissedPolicy::Skip, Some(ago(3 * 24 + 3, 0)), vec![], 3),
        (MissedPolicy::CatchUp(2), Some(ago(3 * 24 + 3, 0)), vec![0, 0], 1),
        // From a clock that was wrong.
        (MissedPolicy::RunOnce, Some(noon() + secs(3 * 24 * HOUR)), vec![], 0),
    ] {
        let (begun, left_out, handle) = from_noon(daily(), policy, last_run, 10).await;
        assert_eq!((begun, left_out), (begins, missed), "{policy:?} {last_run:?}");
        assert!(handle.next_run().is_some(), "nine o'clock tomorrow");
    }
}

#[tokio::test(start_paused = true)]
async fn interval_continues_from_the_last_run() {
    let hourly = || Schedule::every(secs(HOUR));
    for (schedule, policy, last_run, begins, missed) in [
        (hourly(), MissedPolicy::RunOnce, Some(ago(0, 20)), vec![40, 100], 0),
        (hourly(), MissedPolicy::RunOnce, None, vec![0, 60], 0),
        (hourly(), MissedPolicy::RunOnce, Some(ago(3, 20)), vec![0, 40, 100], 2),
        (hourly(), MissedPolicy::Skip, Some(ago(3, 20)), vec![40, 100], 3),
        (hourly(), MissedPolicy::CatchUp(9), Some(ago(2, 20)), vec![0, 0, 40, 100], 0),
        (hourly().immediate(true), MissedPolicy::RunOnce, Some(ago(0, 20)), vec![0, 60], 0),
        (hourly().immediate(true), MissedPolicy::RunOnce, Some(ago(3, 20)), vec![0, 60], 3),
        // A start is the phase, and what ran before does not move it.
        (hourly().starts(ago(20, 20)), MissedPolicy::RunOnce, Some(ago(0, 40)), vec![0, 40, 100], 0),
        (hourly().starts(ago(20, 20)), MissedPolicy::RunOnce, Some(ago(3, 0)), vec![0, 40, 100], 2),
        (hourly().starts(ago(20, 20)), MissedPolicy::RunOnce, Some(ago(0, 20)), vec![40, 100], 0),
        (hourly().starts(ago(1, 20)), MissedPolicy::RunOnce, Some(ago(9, 0)), vec![0, 40, 100], 1),
        (
            hourly().starts(ago(20, 20)).immediate(true),
            MissedPolicy::RunOnce,
            Some(ago(3, 0)),
            vec![0, 40, 100],
            3,
        ),
        // Not from a clock that was wrong by more than the next time.
        (hourly(), MissedPolicy::RunOnce, Some(noon() + secs(5 * HOUR)), vec![0, 60], 0),
        (Schedule::delay(secs(HOUR)), MissedPolicy::RunOnce, Some(ago(0, 20)), vec![40, 100], 0),
        (Schedule::delay(secs(HOUR)), MissedPolicy::RunOnce, Some(ago(9, 0)), vec![0, 60], 0),
    ] {
        let (begun, left_out, _) = from_noon(schedule.clone(), policy, last_run, 110).await;
        assert_eq!((begun, left_out), (begins, missed), "{schedule} {policy:?} {last_run:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn instant_of_the_last_run_is_not_repeated() {
    let once = || Schedule::once(ago(1, 0));
    for (last_run, begins) in [(Some(ago(1, 0)), vec![]), (Some(ago(2, 0)), vec![0]), (None, vec![0])] {
        let (begun, _, _) = from_noon(once(), MissedPolicy::RunOnce, last_run, 10).await;
        assert_eq!(begun, begins, "{last_run:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn handle_returns_the_due_time_of_the_last_iteration() {
    let (_, _, handle) = from_noon(Schedule::every(secs(HOUR)), MissedPolicy::RunOnce, ago(0, 20), 30).await;
    assert_eq!(handle.last_run(), Some(ago(0, 20)), "what it was given, until one has ended");
    let clock = WallClock::starting(noon());
    let (body, handle, _) = noting_on(Schedule::every(secs(HOUR)).jitter(secs(600)), 60);
    let outcomes: Arc<Mutex<Vec<LoopOutcome>>> = Arc::default();
    let log = outcomes.clone();
    let body = body.after_iteration(move |outcome| {
        log.lock().unwrap().push(outcome);
        async {}
    });
    let tasks = TaskManager::builder().wall_clock(clock.reader()).random(|| 1.0).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    assert_eq!(handle.last_run(), None);
    sleep(secs(620)).await;
    assert_eq!(handle.last_run(), None, "it runs still");
    sleep(secs(60)).await;
    assert_eq!(handle.last_run(), Some(noon()), "without its jitter");
    handle.run_now().unwrap().await.unwrap();
    assert_eq!(handle.last_run(), Some(noon()), "one that was asked for has none");
    sleep(secs(HOUR)).await;
    assert_eq!(handle.last_run(), Some(noon() + secs(HOUR)));
    let expected = [
        (Some(noon()), Trigger::Immediate),
        (None, Trigger::Manual),
        (Some(noon() + secs(HOUR)), Trigger::Schedule),
    ];
    let outcomes: Vec<_> =
        outcomes.lock().unwrap().iter().map(|outcome| (outcome.due, outcome.trigger)).collect();
    assert_eq!(outcomes, expected);
}
