//! A loop behind a gate: each due time at most once in the fleet, and a take-over goes on where the last holder was.

use std::collections::BTreeMap;

use otel_tasks::{gate::Claim, schedule::MissedPolicy};

use super::*;

use crate::support::{Door, WallClock};

const GRACE: Duration = secs(5);
const HOUR: u64 = 3_600;
const LONG: Duration = secs(1_000 * 24 * HOUR);

/// Some midnight.
fn midnight() -> SystemTime {
    SystemTime::UNIX_EPOCH + secs(20_000 * 24 * HOUR)
}

fn after(seconds: u64) -> SystemTime {
    midnight() + secs(seconds)
}

/// The iterations of all replicas, by due time.
#[derive(Clone, Default)]
struct Fleet(Arc<Mutex<BTreeMap<SystemTime, usize>>>);

impl Fleet {
    fn body(&self, schedule: impl Into<Schedule>) -> TaskLoop {
        let fleet = self.clone();
        TaskLoop::on(schedule, move |ctx: TaskContext| {
            assert!(ctx.pass().is_some(), "an iteration without a pass");
            async {}
        })
        .after_iteration(move |done| {
            let due = done.due.expect("a due time");
            *fleet.0.lock().unwrap().entry(due).or_default() += 1;
            async {}
        })
    }

    /// The due times that were run, each of them once.
    fn ran(&self) -> Vec<SystemTime> {
        let ran = self.0.lock().unwrap();
        assert!(ran.values().all(|times| *times == 1), "{ran:?}");
        ran.keys().copied().collect()
    }
}

/// A replica whose clock shows that.
fn replica(clock: &WallClock, door: &Door, body: TaskLoop) -> TaskManager {
    let tasks = TaskManager::builder().wall_clock(clock.reader()).build().unwrap();
    tasks.register(CriticalTaskConfig::from_loop("l", body).gate(door.clone())).unwrap();
    tasks.start();
    tasks
}

#[tokio::test(start_paused = true)]
async fn a_due_time_is_claimed_before_its_iteration_and_run_only_if_it_is_won() {
    let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(midnight()));
    let tasks = replica(&clock, &door, fleet.body(Schedule::every(secs(10))));
    settle().await;
    let keeper = door.admit(1, LONG, GRACE);
    sleep(secs(15)).await;
    let first = fleet.ran();
    assert_eq!(door.asked().iter().map(|asked| asked.0).collect::<Vec<_>>(), first);
    assert_eq!(first.len(), 2);
    // Somebody else ran the next one.
    door.claim_elsewhere(first[1] + secs(10));
    sleep(secs(20)).await;
    let ran = fleet.ran();
    assert_eq!(ran.len(), 3);
    assert_eq!(ran[2], first[1] + secs(20));
    let answers: Vec<_> = door.asked().iter().map(|asked| asked.1).collect();
    assert_eq!(answers, [Claim::Won, Claim::Won, Claim::Done, Claim::Won]);
    let snapshot = tasks.snapshot("l").unwrap();
    assert_eq!(
        (snapshot.total_skipped(), snapshot.total_runs()),
        (0, 3),
        "what was run elsewhere was not left out"
    );
    drop(keeper);
}

#[tokio::test(start_paused = true)]
async fn gate_receives_the_result_of_each_iteration() {
    let (door, clock) = (Door::new(), WallClock::starting(midnight()));
    let body = TaskLoop::on(Schedule::every(secs(10)), |ctx: TaskContext| async move {
        if ctx.iteration() == Some(2) { Err("down") } else { Ok(()) }
    });
    let _tasks = replica(&clock, &door, body);
    settle().await;
    let _keeper = door.admit(1, LONG, GRACE);
    sleep(secs(25)).await;
    let results: Vec<_> = door.ended().iter().map(|ended| ended.1).collect();
    assert_eq!(results, [ExitKind::Success, ExitKind::Failure, ExitKind::Success]);
    let dues: Vec<_> = door.ended().iter().map(|ended| ended.0).collect();
    assert_eq!(dues, door.asked().iter().map(|asked| asked.0).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_finds_another_holder_ends_the_life() {
    let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(midnight()));
    let tasks = replica(&clock, &door, fleet.body(Schedule::every(secs(10))));
    settle().await;
    let keeper = door.admit(1, LONG, GRACE);
    sleep(secs(5)).await;
    door.lose();
    sleep(secs(8)).await;
    assert_eq!((fleet.ran().len(), keeper.is_released(), door.candidates()), (1, true, 1));
    assert_eq!(state(&tasks, "l"), Some(TaskState::Standby));
    let asked = tasks.loop_handle("l").unwrap().run_now().map(drop);
    assert_eq!(asked, Err(LoopControlError::Standby));
}

#[cfg(feature = "calendar")]
#[tokio::test(start_paused = true)]
async fn times_between_two_holders_are_missed() {
    let hourly = || Schedule::cron("0 * * * *", "UTC");
    for (policy, ran, missed) in [
        (MissedPolicy::RunOnce, vec![HOUR, 4 * HOUR, 5 * HOUR], 2),
        (MissedPolicy::Skip, vec![HOUR, 5 * HOUR], 3),
        (MissedPolicy::CatchUp(3), vec![HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR], 0),
    ] {
        let (door, fleet, clock) =
            (Door::new(), Fleet::default(), WallClock::starting(midnight() + secs(60)));
        let old = replica(&clock, &door, fleet.body(hourly()).missed(policy));
        settle().await;
        let keeper = door.admit(1, LONG, GRACE);
        let new = replica(&clock, &door, fleet.body(hourly()).missed(policy));
        sleep(secs(HOUR)).await;
        old.shutdown().await;
        assert!(keeper.is_released());
        // Nobody holds it at 2, 3 and 4 o'clock.
        sleep(secs(3 * HOUR)).await;
        let _keeper = door.admit_after(2, LONG, GRACE, door.last_won());
        sleep(secs(HOUR)).await;
        assert_eq!(fleet.ran(), ran.into_iter().map(after).collect::<Vec<_>>(), "{policy:?}");
        let left_out = new.snapshot("l").unwrap().skipped(SkipReason::Missed);
        assert_eq!(left_out, missed, "{policy:?}");
        let last_run = new.loop_handle("l").unwrap().last_run();
        assert_eq!(last_run, Some(after(5 * HOUR)), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn interval_continues_from_the_last_holder() {
    let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(midnight()));
    let every = || Schedule::every(secs(600));
    let old = replica(&clock, &door, fleet.body(every()));
    settle().await;
    let _first = door.admit(1, LONG, GRACE);
    settle().await;
    let new = replica(&clock, &door, fleet.body(every()));
    sleep(secs(900)).await;
    let before = fleet.ran();
    old.shutdown().await;
    let _second = door.admit_after(2, LONG, GRACE, door.last_won());
    sleep(secs(10)).await;
    assert_eq!(fleet.ran(), before, "no iteration at the take-over");
    sleep(secs(600)).await;
    let ran = fleet.ran();
    let distance = ran[2].duration_since(ran[1]).unwrap();
    assert!(ran.len() == 3 && distance >= secs(599) && distance <= secs(601), "{ran:?}");
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn returning_holder_does_not_repeat_iterations_of_others() {
    let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(midnight()));
    let tasks = replica(&clock, &door, fleet.body(Schedule::every(secs(600))));
    settle().await;
    let keeper = door.admit(1, LONG, GRACE);
    sleep(secs(700)).await;
    keeper.revoke();
    sleep(secs(600)).await;
    // Another one ran that of 1,200 s meanwhile.
    let elsewhere = door.last_won().unwrap() + secs(600);
    door.claim_elsewhere(elsewhere);
    let _keeper = door.admit_after(3, LONG, GRACE, Some(elsewhere));
    sleep(secs(600)).await;
    let ran = fleet.ran();
    assert_eq!(ran.len(), 3, "{ran:?}");
    assert!(ran[2] > elsewhere, "{ran:?}");
    drop(tasks);
}

#[cfg(feature = "calendar")]
#[tokio::test(start_paused = true)]
async fn same_process_repeats_a_due_time_that_was_not_claimed() {
    for policy in [MissedPolicy::RunOnce, MissedPolicy::CatchUp(3)] {
        let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(midnight()));
        let hourly = Schedule::cron("0 * * * *", "UTC");
        let _tasks = replica(&clock, &door, fleet.body(hourly).missed(policy));
        settle().await;
        let first = door.admit_after(1, LONG, GRACE, Some(midnight()));
        sleep(secs(HOUR + 60)).await;
        assert_eq!(fleet.ran(), [after(HOUR)]);
        // Lost before the claim of the next one was answered.
        door.lose();
        sleep(secs(HOUR)).await;
        assert_eq!((fleet.ran().len(), first.is_released()), (1, true));
        door.regain();
        let _second = door.admit_after(2, LONG, GRACE, door.last_won());
        sleep(secs(60)).await;
        assert_eq!(fleet.ran(), [after(HOUR), after(2 * HOUR)], "{policy:?}");
    }
}

/// A loop with these iterations that sends signs of life each second.
fn beating(iterations: TaskLoop) -> CriticalTaskConfig {
    CriticalTaskConfig::from_loop("l", iterations).heartbeat_timeout(secs(1))
}

#[tokio::test(start_paused = true)]
async fn loop_is_not_silent_while_it_waits_for_its_gate() {
    let (door, (events, _recording)) = (Door::new(), Events::record());
    let iterations = TaskLoop::on(Schedule::every(secs(30)), |_| sleep(millis(500)));
    let handle = iterations.handle();
    let tasks = TaskManager::new();
    tasks.register(beating(iterations).gate(door.clone())).unwrap();
    tasks.start();
    settle().await;
    door.take(secs(10));
    let _keeper = door.admit(1, LONG, GRACE);
    sleep(secs(5)).await;
    // It looks at itself meanwhile.
    handle.change_interval(secs(60)).unwrap();
    sleep(secs(20)).await;
    assert_eq!(door.asked().len(), 1);
    assert_eq!(door.ended().len(), 1);
    assert_eq!(events.count("task.stalled", "l"), 0, "neither before its iteration nor after it");
}

#[tokio::test(start_paused = true)]
async fn silent_iteration_is_reported_behind_a_gate_too() {
    let (door, (events, _recording)) = (Door::new(), Events::record());
    let iterations = TaskLoop::on(Schedule::every(secs(30)), |_| sleep(secs(5)));
    let tasks = TaskManager::new();
    tasks.register(beating(iterations).gate(door.clone())).unwrap();
    tasks.start();
    settle().await;
    let _keeper = door.admit(1, LONG, GRACE);
    sleep(secs(4)).await;
    events.arrived("task.stalled", 1);
    assert_eq!(events.count("task.stalled", "l"), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_a_store_that_is_away() {
    for (waits_for_end, by_handle) in [(false, false), (false, true), (true, false), (true, true)] {
        let door = Door::new();
        let iterations = TaskLoop::on(Schedule::every(secs(30)), |_| async {});
        let handle = iterations.handle();
        let config = CriticalTaskConfig::from_loop("l", iterations).shutdown_grace(secs(3_600));
        let tasks = started(config.gate(door.clone()));
        settle().await;
        let keeper = door.admit(1, LONG, GRACE);
        if waits_for_end {
            // Before the answer, so that the end takes long.
            sleep(millis(1)).await;
        }
        door.take(secs(1_000));
        sleep(secs(5)).await;
        assert_eq!((door.asked().len(), door.ended().len()), if waits_for_end { (1, 1) } else { (0, 0) });
        if by_handle {
            handle.stop();
        } else {
            tasks.stop("l").unwrap();
        }
        // The answer to a request that is under way has a moment.
        sleep(millis(900)).await;
        assert!(!keeper.is_released());
        sleep(millis(200)).await;
        assert!(keeper.is_released(), "{waits_for_end} {by_handle}: {:?}", state(&tasks, "l"));
    }
}

#[cfg(feature = "calendar")]
#[tokio::test(start_paused = true)]
async fn a_deploy_across_a_night_that_shows_half_past_two_twice_runs_it_once() {
    // 2024-10-27T00:00Z; 02:30 in Berlin is shown at 00:30Z and at 01:30Z.
    let start = SystemTime::UNIX_EPOCH + secs(1_729_987_200);
    let daily = || Schedule::daily(["02:30"], "Europe/Berlin");
    for deploys in [[1_795, 1_805], [1_805, 5_395], [5_395, 5_405], [1_799, 5_401]] {
        let (door, fleet, clock) = (Door::new(), Fleet::default(), WallClock::starting(start));
        let mut holder = replica(&clock, &door, fleet.body(daily()));
        settle().await;
        // The night before.
        door.claim_elsewhere(start - secs(23 * HOUR + 1_800));
        let mut keepers = vec![door.admit_after(1, LONG, GRACE, door.last_won())];
        let mut term = 1;
        for deploy in deploys {
            let next = replica(&clock, &door, fleet.body(daily()));
            let passed = clock.now().duration_since(start).unwrap();
            sleep(secs(deploy).saturating_sub(passed)).await;
            holder.shutdown().await;
            // Half a minute passes until the next one holds it.
            sleep(secs(30)).await;
            term += 1;
            keepers.push(door.admit_after(term, LONG, GRACE, door.last_won()));
            holder = next;
        }
        sleep(secs(2 * HOUR)).await;
        assert_eq!(fleet.ran().len(), 1, "{deploys:?}: {:?}", fleet.ran());
    }
}

#[tokio::test(start_paused = true)]
async fn three_replicas_with_clocks_an_hour_apart_run_no_due_time_twice() {
    let (door, fleet) = (Door::new(), Fleet::default());
    let aligned = || Schedule::every(secs(60)).aligned("UTC");
    let mut replicas = Vec::new();
    for shift in [0, -3_600, 3_600] {
        let clock = WallClock::starting(midnight());
        clock.shift(shift);
        replicas.push((replica(&clock, &door, fleet.body(aligned())), clock));
        settle().await;
    }
    let mut term = 0;
    for _ in 0..30 {
        term += 1;
        let keeper = door.admit_after(term, LONG, GRACE, door.last_won());
        sleep(secs(150)).await;
        keeper.revoke();
        sleep(secs(2)).await;
    }
    // `ran` asserts that each was run once.
    assert!(fleet.ran().len() > 10, "{:?}", fleet.ran());
    drop(replicas);
}

#[tokio::test(start_paused = true)]
async fn result_of_an_iteration_is_on_the_handle_while_the_gate_notes_its_end() {
    let (door, clock) = (Door::new(), WallClock::starting(midnight()));
    let body = TaskLoop::on(Schedule::every(secs(60)), |_| async {});
    let handle = body.handle();
    let _tasks = replica(&clock, &door, body);
    settle().await;
    let _keeper = door.admit(1, LONG, GRACE);
    door.take(secs(5));
    for _ in 0..1_000 {
        if !door.ended().is_empty() {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    let due = door.ended().first().expect("it has ended").0;
    assert_eq!((handle.last_result(), handle.last_run()), (Some(Exit::Success), Some(due)));
}
