//! Every time that is due is run, or counted with its reason, exactly once: through clocks that are set, restarts and changes.

use std::collections::BTreeSet;

use otel_tasks::schedule::{MissedPolicy, OverlapPolicy};
use proptest::prelude::*;

use super::*;

use crate::support::WallClock;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// Some midnight, UTC.
fn midnight() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(20_000 * 24 * HOUR)
}

fn hour(hour: u64, minute: u64) -> SystemTime {
    midnight() + secs(hour * HOUR + minute * MINUTE)
}

/// A loop on a clock that can be set.
struct OnClock {
    clock: WallClock,
    tasks: TaskManager,
    handle: LoopHandle,
    /// What the clock showed when its iterations began, in minutes since midnight.
    begun: Arc<Mutex<Vec<i64>>>,
    running: Arc<AtomicUsize>,
}

/// How a loop is begun.
struct Begin {
    schedule: Schedule,
    /// How long an iteration takes, in minutes.
    takes: u64,
    /// The part of the jitter.
    random: f64,
}

fn on(schedule: Schedule) -> Begin {
    Begin { schedule, takes: 0, random: 0.5 }
}

impl Begin {
    fn takes(self, minutes: u64) -> Self {
        Self { takes: minutes, ..self }
    }

    /// Begins at midnight.
    fn begin(self, adjust: impl FnOnce(TaskLoop) -> TaskLoop) -> OnClock {
        let clock = WallClock::starting(midnight());
        let (begun, running) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (log, reader, count, takes) = (begun.clone(), clock.clone(), running.clone(), self.takes);
        let body = adjust(TaskLoop::on(self.schedule, move |_| {
            let now = reader.now();
            let minute = match now.duration_since(midnight()) {
                Ok(since) => since.as_secs() as i64 / 60,
                Err(before) => -(before.duration().as_secs() as i64) / 60,
            };
            log.lock().unwrap().push(minute);
            let count = count.clone();
            async move {
                count.fetch_add(1, SeqCst);
                let _runs = Runs(count);
                sleep(secs(takes * MINUTE)).await;
            }
        }));
        let handle = body.handle();
        let random = self.random;
        let tasks = TaskManager::builder().wall_clock(clock.reader()).random(move || random).build().unwrap();
        let config = CriticalTaskConfig::from_loop("l", body);
        tasks.register(config.shutdown_grace(secs(0))).unwrap();
        tasks.start();
        OnClock { clock, tasks, handle, begun, running }
    }
}

/// Counts down when an iteration ends, or is dropped.
struct Runs(Arc<AtomicUsize>);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl OnClock {
    fn begun(&self) -> Vec<i64> {
        self.begun.lock().unwrap().clone()
    }

    /// Those that are left out: missed, overlapped.
    fn left_out(&self) -> (u64, u64) {
        let snapshot = self.tasks.snapshot("l").unwrap();
        (snapshot.skipped(SkipReason::Missed), snapshot.skipped(SkipReason::Overlapped))
    }

    fn set(&self, seconds: i64) {
        self.clock.shift(seconds);
    }
}

async fn minutes(minutes: u64) {
    sleep(secs(minutes * MINUTE)).await;
}

fn hourly() -> Schedule {
    Schedule::cron("0 1-23 * * *", "UTC")
}

#[tokio::test(start_paused = true)]
async fn one_instant_after_other_schedules_still_comes() {
    for schedule in [Schedule::every(secs(HOUR)), hourly()] {
        let l = on(schedule).begin(|body| body);
        minutes(90).await;
        let before = l.begun().len();
        l.handle.change_schedule(Schedule::once(hour(5, 0))).unwrap();
        minutes(60).await;
        assert_eq!(l.handle.next_run(), Some(hour(5, 0)));
        minutes(300).await;
        assert_eq!(l.begun()[before..], [300]);
        assert_eq!(state(&l.tasks, "l"), Some(TaskState::Finished));
    }
}

#[tokio::test(start_paused = true)]
async fn loop_body_may_set_its_next_run() {
    let clock = WallClock::starting(midnight());
    let begun = Moments::default();
    let slot: Arc<Mutex<Option<LoopHandle>>> = Arc::default();
    let (log, own, reader) = (begun.clone(), slot.clone(), clock.clone());
    let body = TaskLoop::on(Schedule::once(midnight()), move |ctx: TaskContext| {
        log.note();
        let wait = [0, 100, 1, 0].get(ctx.iteration().unwrap() as usize).copied();
        if let (Some(wait), Some(handle)) = (wait, &*own.lock().unwrap()) {
            handle.change_schedule(Schedule::once(reader.now() + secs(wait))).unwrap();
        }
        // So the last of them come while it still runs.
        sleep(secs(5))
    });
    *slot.lock().unwrap() = Some(body.handle());
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body)).unwrap();
    tasks.start();
    sleep(secs(1_000)).await;
    assert_eq!(begun.seconds(), [0, 100, 105, 110]);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!((snapshot.state, snapshot.total_skipped()), (Some(TaskState::Finished), 0));
}

/// At 12:10, and planned for 12:40.
fn ten_past_noon() -> Schedule {
    Schedule::daily(["12:10"], "UTC").jitter(secs(HOUR))
}

#[tokio::test(start_paused = true)]
async fn a_time_that_waits_for_its_jitter_stays_due() {
    for how in ["set back", "restarted", "changed", "set back and restarted"] {
        let l = on(ten_past_noon()).begin(|body| body);
        minutes(12 * 60 + 20).await;
        if how.starts_with("set back") {
            l.set(-40);
            sleep(secs(40)).await;
        }
        match how {
            "changed" => l.handle.change_schedule(Schedule::daily(["18:00"], "UTC")).unwrap(),
            "restarted" | "set back and restarted" => l.handle.restart().unwrap(),
            _ => {}
        }
        minutes(60).await;
        assert!(matches!(l.begun()[..], [760..=790]), "{how}: {:?}", l.begun());
        assert_eq!(l.left_out(), (0, 0), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_while_the_loop_catches_up_loses_nothing() {
    let l = on(hourly()).takes(1).begin(|body| body.missed(MissedPolicy::CatchUp(3)));
    minutes(30).await;
    l.set(4 * HOUR as i64);
    sleep(secs(45)).await;
    assert_eq!(
        (l.begun(), l.left_out()),
        (vec![270], (1, 0)),
        "of 1 to 4 o'clock the last three, this is for 2"
    );
    // 3:30. The time for 3 has come, the time for 4 comes again.
    l.set(-(HOUR as i64));
    minutes(120).await;
    assert_eq!(l.begun()[1..], [211, 240, 300], "3, 4 and 5 o'clock");
    assert_eq!(l.left_out(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_time_during_a_backoff_is_missed() {
    for (policy, begins, missed) in [
        (MissedPolicy::RunOnce, vec![60, 210, 240, 300], 1),
        (MissedPolicy::Skip, vec![60, 240, 300], 2),
        (MissedPolicy::CatchUp(9), vec![60, 210, 210, 240, 300], 0),
    ] {
        let clock = WallClock::starting(midnight());
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (log, reader) = (begun.clone(), clock.clone());
        let body = TaskLoop::on(hourly(), move |ctx: TaskContext| {
            log.lock().unwrap().push(reader.now().duration_since(midnight()).unwrap().as_secs() / 60);
            async move { if ctx.generation() == 1 { Err("down") } else { Ok(()) } }
        });
        let body = body.missed(policy).on_error(|_| async { OnError::End });
        let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
        let config = CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(150 * MINUTE)));
        tasks.register(config).unwrap();
        tasks.start();
        minutes(310).await;
        assert_eq!(*begun.lock().unwrap(), begins, "{policy:?}");
        assert_eq!(tasks.snapshot("l").unwrap().skipped(SkipReason::Missed), missed, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_a_person_has_stopped_owes_nothing_of_the_time_since() {
    let l = on(hourly()).begin(|body| body);
    minutes(90).await;
    l.handle.cancel().unwrap();
    minutes(180).await;
    l.handle.restart().unwrap();
    minutes(60).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60, 300], (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_time_during_a_hook_or_after_it_has_failed_is_missed() {
    let clock = WallClock::starting(hour(8, 59));
    let (begun, reader) = (Arc::new(Mutex::new(Vec::new())), clock.clone());
    let log = begun.clone();
    let lives = Arc::new(AtomicUsize::new(0));
    let body = TaskLoop::on(Schedule::daily(["09:00"], "UTC"), move |_| {
        log.lock().unwrap().push(reader.now().duration_since(midnight()).unwrap().as_secs() / 60);
        async {}
    });
    let body = body.missed(MissedPolicy::RunOnce).before_loop(move |_| {
        let life = lives.fetch_add(1, SeqCst);
        async move { if life == 0 { Err("not yet") } else { Ok(()) } }
    });
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let config = CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(2 * MINUTE)));
    tasks.register(config).unwrap();
    tasks.start();
    minutes(10).await;
    assert_eq!(*begun.lock().unwrap(), [9 * 60 + 1], "it was due at 9:00, between the hook's two calls");
}

#[tokio::test(start_paused = true)]
async fn a_pause_within_the_jitter_counts_the_time_that_had_come() {
    for schedule in
        [ten_past_noon(), Schedule::every(secs(12 * HOUR)).jitter(secs(11 * HOUR)).immediate(false)]
    {
        let l = on(schedule).begin(|body| body);
        minutes(12 * 60 + 20).await;
        l.handle.pause().unwrap();
        minutes(10).await;
        assert_eq!((l.begun(), l.left_out()), (vec![], (1, 0)));
        l.handle.resume().unwrap();
        minutes(60).await;
        assert_eq!((l.begun(), l.left_out()), (vec![], (1, 0)));
    }
}

#[tokio::test(start_paused = true)]
async fn immediate_iteration_does_not_move_the_phase() {
    let began = midnight() - secs(40 * MINUTE);
    let l = on(Schedule::every(secs(HOUR)).starts(began).immediate(true)).begin(|body| body);
    minutes(150).await;
    assert_eq!((l.begun(), l.left_out()), (vec![0, 20, 80, 140], (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn catch_up_times_beyond_the_count_are_missed() {
    let l = on(hourly().count(2)).takes(1).begin(|body| body.missed(MissedPolicy::CatchUp(5)));
    minutes(30).await;
    l.set(5 * HOUR as i64);
    minutes(60).await;
    assert_eq!(l.begun().len(), 2);
    assert_eq!(l.left_out(), (3, 0), "of 1 to 5 o'clock");
}

#[tokio::test(start_paused = true)]
async fn an_instant_that_waits_for_its_jitter_is_counted_where_a_person_stops_the_loop() {
    let l = on(Schedule::once(hour(12, 10)).jitter(secs(HOUR))).begin(|body| body);
    minutes(12 * 60 + 20).await;
    l.handle.cancel().unwrap();
    minutes(60).await;
    assert_eq!((l.begun(), l.left_out()), (vec![], (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_calendar_after_a_rhythm_whose_clock_was_wrong_loses_nothing() {
    let l = on(Schedule::every(secs(HOUR))).begin(|body| body);
    l.set(34 * HOUR as i64);
    minutes(61).await;
    l.set(-34 * HOUR as i64);
    let before = l.begun().len();
    l.handle.change_schedule(hourly()).unwrap();
    minutes(120).await;
    assert_eq!((&l.begun()[before..], l.left_out()), (&[120, 180][..], (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn an_aligned_interval_of_hours_is_not_repeated_by_a_clock_set_back_by_minutes() {
    let l = on(Schedule::every(secs(12 * HOUR)).aligned("UTC")).begin(|body| body);
    minutes(12 * 60 + 1).await;
    let before = l.begun().len();
    l.set(-5 * MINUTE as i64);
    minutes(30).await;
    assert_eq!(l.begun().len(), before, "{:?}", l.begun());
}

/// Seen to fail: it was called again while it unwound, and the process was aborted.
#[tokio::test(start_paused = true)]
async fn a_time_at_which_an_exception_panics_is_due() {
    let l = on(hourly().except(|time| if time.hour == 3 { panic!("three") } else { time.hour == 2 }))
        .begin(|body| body);
    minutes(250).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60, 180, 240], (0, 0)));
}

#[test]
fn an_instant_outside_of_its_bounds_is_refused_and_never_due() {
    let at = hour(5, 0);
    for bounded in [Schedule::once(at).starts(at + secs(1)), Schedule::once(at).ends(at - secs(1))] {
        assert_eq!(bounded.check(), Err(ScheduleError::OutOfBounds));
        assert_eq!((bounded.upcoming(midnight()).count(), bounded.next_after(midnight())), (0, None));
    }
    assert_eq!(Schedule::once(at).starts(at).ends(at + secs(1)).check(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_jitter_longer_than_the_gap_of_a_calendar_passes_no_later_time() {
    for schedule in [
        Schedule::cron("*/10 * * * *", "UTC"),
        Schedule::daily(
            (0..24).flat_map(|hour| [0, 10, 20, 30, 40, 50].map(|minute| format!("{hour:02}:{minute:02}"))),
            "UTC",
        ),
    ] {
        let mut begin = on(schedule.jitter(secs(HOUR)));
        begin.random = 0.9;
        let l = begin.begin(|body| body);
        minutes(119).await;
        assert_eq!(l.begun(), [9, 19, 29, 39, 49, 59, 69, 79, 89, 99, 109]);
        assert_eq!(l.left_out(), (0, 0), "none of them overlapped with another");
    }
}

#[tokio::test(start_paused = true)]
async fn an_iteration_whose_jitter_ends_after_the_one_before_does_not_overlap() {
    let mut begin = on(Schedule::every(secs(10 * MINUTE)).jitter(secs(8 * MINUTE)));
    begin.random = 1.0;
    // The first from 8 to 12; the second is for 10, and has until 18.
    let l = begin.takes(4).begin(|body| body);
    minutes(40).await;
    assert_eq!((l.begun(), l.left_out()), (vec![8, 18, 28, 38], (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_further_tries() {
    for overlap in [OverlapPolicy::Skip, OverlapPolicy::Allow(2)] {
        for during_the_try in [false, true] {
            let tries = Moments::default();
            let log = tries.clone();
            let body = TaskLoop::every(secs(10_000), move |_| {
                log.note();
                async move {
                    sleep(secs(10)).await;
                    Err::<(), _>("down")
                }
            });
            let (tasks, handle) = looping(body.overlap(overlap).retry(5, Backoff::constant(secs(100))));
            sleep(secs(if during_the_try { 5 } else { 50 })).await;
            handle.stop();
            sleep(secs(6)).await;
            assert_eq!((tries.count(), state(&tasks, "l")), (1, Some(TaskState::Finished)), "{overlap:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn catch_up_iterations_run_one_after_another() {
    for overlap in [OverlapPolicy::CancelRunning, OverlapPolicy::Allow(5), OverlapPolicy::Skip] {
        let l = on(hourly()).takes(2).begin(|body| body.missed(MissedPolicy::CatchUp(3)).overlap(overlap));
        minutes(30).await;
        l.set(4 * HOUR as i64);
        minutes(40).await;
        assert_eq!(l.begun(), [270, 272, 274, 300], "{overlap:?}");
        assert_eq!(l.left_out(), (1, 0), "{overlap:?}");
        assert_eq!(l.tasks.snapshot("l").unwrap().runs(ExitKind::Cancellation), 0, "{overlap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_count_is_of_one_life() {
    let l = on(hourly().count(2)).begin(|body| body);
    minutes(90).await;
    l.handle.restart().unwrap();
    minutes(300).await;
    assert_eq!((l.begun(), state(&l.tasks, "l")), (vec![60, 120, 180], Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_into_a_later_jitter_keeps_that_time() {
    // At ten past, and planned for 25 past.
    let schedule = || Schedule::cron("10 1-23 * * *", "UTC").jitter(secs(30 * MINUTE));
    for (missed, overlap, begins, left_out) in [
        (MissedPolicy::Skip, OverlapPolicy::Skip, vec![265], (3, 0)),
        (MissedPolicy::RunOnce, OverlapPolicy::Allow(2), vec![260, 265], (2, 0)),
        (MissedPolicy::CatchUp(2), OverlapPolicy::Skip, vec![260, 261, 265], (1, 0)),
    ] {
        let l = on(schedule()).takes(1).begin(|body| body.missed(missed).overlap(overlap));
        minutes(60).await;
        // 4:20, in the jitter of 4:10.
        l.set(200 * MINUTE as i64);
        minutes(30).await;
        assert_eq!((l.begun(), l.left_out()), (begins, left_out), "{missed:?} {overlap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn overlaps_are_counted_across_a_new_life_or_schedule() {
    for how in ["restart", "change", "cancel", "stop"] {
        let l = on(hourly()).takes(150).begin(|body| body);
        minutes(200).await;
        match how {
            "restart" => l.handle.restart().unwrap(),
            "change" => l.handle.change_schedule(Schedule::daily(["23:00"], "UTC")).unwrap(),
            "cancel" => l.handle.cancel().unwrap(),
            _ => l.handle.stop(),
        }
        minutes(30).await;
        assert_eq!(l.left_out(), (0, 2), "{how}: 2 and 3 o'clock");
        assert_eq!(l.begun(), [60], "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn queued_iteration_is_due_in_the_next_life() {
    let l = on(hourly()).takes(150).begin(|body| body.overlap(OverlapPolicy::Queue));
    minutes(200).await;
    l.handle.restart().unwrap();
    minutes(5).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60, 200], (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn new_life_repeats_no_used_time() {
    let l = on(hourly()).takes(70).begin(|body| body);
    minutes(135).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60], (0, 1)), "2 o'clock overlapped");
    for _ in 0..3 {
        l.handle.restart().unwrap();
        minutes(1).await;
        l.set(-(20 * MINUTE as i64));
        minutes(1).await;
    }
    // 1:21. At 3 it goes on.
    minutes(90).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60], (0, 1)));
    minutes(15).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60, 180], (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_a_time_is_counted_once() {
    for missed in [MissedPolicy::Skip, MissedPolicy::RunOnce, MissedPolicy::CatchUp(9)] {
        let l = on(hourly()).takes(600).begin(|body| body.missed(missed).overlap(OverlapPolicy::Allow(1)));
        minutes(90).await;
        l.set(40 * MINUTE as i64);
        minutes(1).await;
        assert_eq!((l.begun(), l.left_out()), (vec![60], (0, 1)), "{missed:?}: 2 o'clock, ten minutes late");
        l.set(3 * HOUR as i64);
        minutes(1).await;
        assert_eq!(l.left_out(), (0, 4), "{missed:?}: 3, 4 and 5 o'clock");
    }
}

#[tokio::test(start_paused = true)]
async fn times_during_a_pause_are_not_counted_as_overlaps() {
    // It runs from 1:00 to 3:30.
    for (pause, resume, overlapped, next) in [
        (90, None, 0, None),
        (130, None, 1, None),
        (130, Some(190), 1, Some(240)),
        (70, Some(130), 1, Some(240)),
    ] {
        for overlap in [OverlapPolicy::Skip, OverlapPolicy::Queue] {
            let l = on(hourly()).takes(150).begin(|body| body.overlap(overlap));
            minutes(pause).await;
            l.handle.pause().unwrap();
            if let Some(resume) = resume {
                minutes(resume - pause).await;
                l.handle.resume().unwrap();
                minutes(235 - resume).await;
            } else {
                minutes(235 - pause).await;
            }
            match overlap {
                OverlapPolicy::Skip => {
                    assert_eq!(l.left_out(), (0, overlapped), "{pause} {resume:?}");
                    minutes(10).await;
                    assert_eq!(l.begun().get(1).copied(), next, "{pause} {resume:?}");
                }
                // What waits when it is paused is left out.
                _ => {
                    let (missed, overlapped_then) = l.left_out();
                    let run = l.begun().len() as u64 - 1;
                    assert_eq!(missed + overlapped_then + run, overlapped, "{pause} {resume:?}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_schedule_during_a_pause_holds_from_the_resume_on() {
    let l = on(hourly()).takes(150).begin(|body| body);
    minutes(90).await;
    l.handle.pause().unwrap();
    minutes(40).await;
    l.handle.change_schedule(Schedule::cron("*/10 * * * *", "UTC")).unwrap();
    minutes(55).await;
    l.handle.resume().unwrap();
    minutes(30).await;
    // From 3:05 to 3:30, while the first one still runs.
    assert_eq!((l.begun(), l.left_out()), (vec![60, 210], (0, 2)), "3:10 and 3:20 overlapped");
}

#[tokio::test(start_paused = true)]
async fn each_schedule_during_an_iteration_holds_while_it_does() {
    let l = on(hourly()).takes(150).begin(|body| body);
    minutes(125).await;
    l.handle.change_schedule(Schedule::cron("*/10 * * * *", "UTC")).unwrap();
    minutes(30).await;
    l.handle.change_schedule(Schedule::daily(["23:00"], "UTC")).unwrap();
    minutes(60).await;
    assert_eq!((l.begun(), l.left_out()), (vec![60], (0, 4)), "2:00, and 2:10, 2:20 and 2:30");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_between_two_lives_holds_from_then_on() {
    let clock = WallClock::starting(midnight());
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (log, reader) = (begun.clone(), clock.clone());
    let body = TaskLoop::on(hourly(), move |ctx: TaskContext| {
        log.lock().unwrap().push(reader.now().duration_since(midnight()).unwrap().as_secs() / 60);
        async move { if ctx.generation() == 1 { Err("down") } else { Ok(()) } }
    });
    let handle = body.handle();
    let body = body.on_error(|_| async { OnError::End });
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    let config = CriticalTaskConfig::from_loop("l", body).backoff(Backoff::constant(secs(150 * MINUTE)));
    tasks.register(config).unwrap();
    tasks.start();
    minutes(150).await;
    handle.change_schedule(Schedule::cron("*/20 0-23 * * *", "UTC")).unwrap();
    minutes(75).await;
    assert_eq!(*begun.lock().unwrap(), [60, 210, 220], "at 3:30 for 3:20");
    let missed = tasks.snapshot("l").unwrap().skipped(SkipReason::Missed);
    assert_eq!(missed, 3, "2:00 of the one, 2:40 and 3:00 of the other");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_during_the_hook_before_a_loop_holds_from_then_on() {
    let mut begin = on(hourly());
    begin.random = 0.0;
    let l = begin.begin(|body| body.before_loop(|_| async { minutes(190).await }));
    minutes(150).await;
    l.handle.change_schedule(Schedule::cron("*/20 0-23 * * *", "UTC")).unwrap();
    minutes(45).await;
    assert_eq!(
        (l.begun(), l.left_out()),
        (vec![190], (3, 0)),
        "run for 3:00; 1:00, 2:00 and 2:40 are missed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_instant_that_was_used_is_so_after_another_schedule() {
    let l = on(Schedule::once(hour(1, 0))).begin(|body| body.after_iteration(|_| async { minutes(1).await }));
    minutes(60).await;
    settle().await;
    l.handle.change_schedule(Schedule::every(secs(10 * MINUTE))).unwrap();
    minutes(25).await;
    assert_eq!(l.begun(), [60, 70, 80]);
    l.handle.change_schedule(Schedule::once(hour(1, 0))).unwrap();
    minutes(60).await;
    assert_eq!((l.begun(), state(&l.tasks, "l")), (vec![60, 70, 80], Some(TaskState::Finished)));
}

#[tokio::test(start_paused = true)]
async fn long_exception_keeps_the_loop_running_and_is_logged() {
    let (events, _guard) = Events::record();
    let begins = midnight() + secs(3 * 24 * HOUR);
    let schedule = Schedule::cron("* * * * * *", "UTC").except(move |time| time.at < begins);
    assert_eq!(schedule.check(), Ok(()), "too many to be looked at");
    let l = on(schedule.count(2)).begin(|body| body);
    minutes(60).await;
    assert_eq!((l.begun(), state(&l.tasks, "l")), (vec![], Some(TaskState::Running)));
    assert_eq!(l.handle.next_run(), None);
    let records = events.named("task.schedule.empty");
    assert_eq!(records.len(), 1);
    let told = "the schedule of loop l leaves out every time until 2024-10-06T07:33:19Z";
    assert_eq!(records[0].message(), told);
    minutes(3 * 24 * 60).await;
    assert_eq!((l.begun(), state(&l.tasks, "l")), (vec![3 * 24 * 60; 2], Some(TaskState::Finished)));
}

/// An exception is the user's code: here it changes the schedule while another interval is looked at.
#[tokio::test(start_paused = true)]
async fn another_interval_is_checked_with_the_schedule_that_it_joins() {
    let slot: Arc<Mutex<Option<LoopHandle>>> = Arc::default();
    let own = slot.clone();
    let schedule = Schedule::every(secs(HOUR)).aligned("UTC").except(move |_| {
        if let Some(handle) = own.lock().unwrap().take() {
            let long = Schedule::every(secs(2 * HOUR)).jitter(secs(2 * HOUR));
            handle.change_schedule(long).unwrap();
        }
        false
    });
    let (_, handle, _) = noting_on(schedule, 0);
    *slot.lock().unwrap() = Some(handle.clone());
    let changed = handle.change_interval(secs(HOUR / 2));
    assert_eq!(changed, Err(LoopControlError::Schedule(ScheduleError::JitterTooLong)));
    assert_eq!(handle.schedule().check(), Ok(()));
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Set(i64),
    Restart,
    Change(usize),
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u64..200).prop_map(Step::Pass),
        3 => (-300_i64..300).prop_map(Step::Set),
        1 => Just(Step::Restart),
        1 => (0_usize..3).prop_map(Step::Change),
        1 => (1_u64..200).prop_map(Step::Pause),
    ];
    prop::collection::vec(step, 1..30)
}

fn schedules() -> [Schedule; 3] {
    [
        hourly(),
        Schedule::cron("*/20 0-23 * * *", "UTC"),
        Schedule::daily(["00:30", "06:00", "06:10", "17:00"], "UTC"),
    ]
}

/// What the clock has shown of a schedule's times, each once.
#[derive(Default)]
struct Shown {
    times: BTreeSet<SystemTime>,
    total: u64,
    /// The latest of them.
    latest: Option<SystemTime>,
    since: Option<SystemTime>,
}

impl Shown {
    /// The clock shows this; `due`, and the loop is not paused.
    fn show(&mut self, schedule: &Schedule, now: SystemTime) {
        let since = *self.since.get_or_insert(now);
        let mut time = since.min(now) - Duration::from_nanos(1);
        while let Some(next) = schedule.next_after(time).filter(|next| *next <= now) {
            time = next;
            if self.latest.is_none_or(|latest| next > latest) && self.times.insert(next) {
                self.total += 1;
            }
        }
        self.since = Some(since.min(now));
        // Later times alone are due from now on.
        self.latest = self.latest.max(self.times.last().copied());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    /// A loop as it runs, through everything that may happen to it.
    #[test]
    fn every_time_is_run_or_counted_exactly_once(
        takes in prop_oneof![Just(0_u64), 1_u64..90],
        missed in prop_oneof![Just(MissedPolicy::Skip), Just(MissedPolicy::RunOnce), Just(MissedPolicy::CatchUp(3))],
        overlap in prop_oneof![Just(OverlapPolicy::Skip), Just(OverlapPolicy::Queue), Just(OverlapPolicy::Allow(2))],
        steps in steps(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let all = schedules();
            let mut schedule = all[0].clone();
            let due: Arc<Mutex<Vec<SystemTime>>> = Arc::default();
            let log = due.clone();
            let l = on(schedule.clone()).takes(takes).begin(|body| {
                body.missed(missed).overlap(overlap).after_iteration(move |done: LoopOutcome| {
                    log.lock().unwrap().extend(done.due);
                    async {}
                })
            });
            settle().await;
            let mut shown = Shown::default();
            shown.show(&schedule, l.clock.now());
            for step in steps {
                // Nobody looks at the clock while an iteration runs beside which none begins.
                let is_idle = l.running.load(SeqCst) == 0;
                match step {
                    Step::Pass(by) => minutes(by).await,
                    Step::Set(by) if is_idle => {
                        let (now, distance) = (l.clock.now(), secs(by.unsigned_abs() * MINUTE));
                        let to = if by < 0 { now - distance } else { now + distance };
                        // The loop reads the clock within 30 s. A time that comes earlier may be seen or not.
                        if schedule.next_after(to).is_some_and(|next| next <= to + secs(31)) { continue }
                        l.set(by * MINUTE as i64);
                    }
                    Step::Restart if is_idle => l.handle.restart().unwrap(),
                    Step::Change(other) if is_idle => {
                        // All that has come is settled, and nothing comes at this moment.
                        sleep(secs(90 * MINUTE + 7)).await;
                        if l.running.load(SeqCst) > 0 { continue }
                        shown.show(&schedule, l.clock.now());
                        schedule = all[other].clone();
                        l.handle.change_schedule(schedule.clone()).unwrap();
                        shown.since = Some(l.clock.now());
                    }
                    Step::Pause(by) if is_idle => {
                        sleep(secs(7)).await;
                        if l.running.load(SeqCst) > 0 { continue }
                        shown.show(&schedule, l.clock.now());
                        l.handle.pause().unwrap();
                        minutes(by).await;
                        l.handle.resume().unwrap();
                        // What came meanwhile is left out.
                        let before = shown.total;
                        shown.show(&schedule, l.clock.now());
                        shown.total = before;
                    }
                    _ => continue,
                }
                sleep(secs(31)).await;
                shown.show(&schedule, l.clock.now());
            }
            // Until all that runs or waits is through.
            for _ in 0..4 {
                minutes(takes + 1).await;
            }
            shown.show(&schedule, l.clock.now());
            l.handle.stop();
            minutes(takes + 1).await;
            let (missed, overlapped) = l.left_out();
            let run = l.begun().len() as u64;
            prop_assert_eq!(run + missed + overlapped, shown.total, "run {}, missed {}, overlapped {}", run, missed, overlapped);
            let mut due = due.lock().unwrap().clone();
            due.sort_unstable();
            prop_assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "none twice: {due:?}");
            Ok(())
        })?;
    }
}
