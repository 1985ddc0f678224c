//! A task behind a gate: when it runs, when it is asked to stop and dropped, and when its lease is given back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskContext, TaskFamily, TaskGroup, TaskLoop, TaskManager,
    gate::{BoxFuture, Gate, Grant, Keeper, Pass},
    health::HealthReason,
    policy::{DecisionCause, RestartReason, RestartStrategy, RestartVerdict},
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
    task::RegisterError,
};
use tokio::{sync::Notify, time::sleep};

use crate::support::{
    Alive, Door, eventually, millis, secs, settle,
    tasks::{all_started, deaf, obedient, obeys, restarts, started, state, states},
};

const GRACE: Duration = secs(5);
const LASTS: Duration = secs(15);

fn admit(door: &Door, term: u64) -> Keeper {
    door.admit(term, LASTS, GRACE)
}

#[tokio::test(start_paused = true)]
async fn task_is_in_standby_until_its_gate_opens() {
    let (door, alive) = (Door::new(), Alive::default());
    let tasks = all_started([obedient("t", &alive).gate(door.clone()), obeys("after").depends_on("t")]);
    settle().await;
    assert_eq!((state(&tasks, "t"), alive.total(), door.candidates()), (Some(TaskState::Standby), 0, 1));
    let health = tasks.task_health("t").unwrap();
    assert_eq!((health.reasons.as_slice(), health.is_healthy()), (&[HealthReason::Standby][..], true));
    assert!(health.is_live && !health.is_ready && health.has_started && !health.fails_readiness());
    let after = tasks.task_health("after").unwrap();
    assert_eq!(after.state, Some(TaskState::Waiting));
    assert!(after.has_started, "whoever waits for it must not fail the startup probe");
    let health = tasks.health();
    assert!(health.is_live && health.has_started, "{health}");

    let keeper = admit(&door, 7);
    settle().await;
    assert_eq!(
        (state(&tasks, "t"), state(&tasks, "after")),
        (Some(TaskState::Running), Some(TaskState::Running))
    );
    assert!(tasks.health().is_ready);
    assert_eq!(tasks.snapshot("t").unwrap().total_restarts(), 0);
    for _ in 0..100 {
        keeper.extend(door.now().saturating_add(LASTS));
        sleep(secs(5)).await;
    }
    assert_eq!((alive.now(), alive.total()), (1, 1), "as long as it is extended");
}

#[tokio::test(start_paused = true)]
async fn snapshot_shows_the_standing_of_the_gate() {
    let door = Door::new();
    let tasks = all_started([obeys("t").gate(door.clone()), obeys("ungated").depends_on("t")]);
    let gate = || {
        let one = tasks.snapshot("t").unwrap();
        let all = tasks.snapshots();
        assert_eq!(all.iter().find(|task| &*task.name == "t").unwrap().gate, one.gate);
        assert!(tasks.snapshot("ungated").unwrap().gate.is_none());
        *one.gate.expect("it has a gate")
    };
    settle().await;
    let standby = gate();
    assert_eq!((&*standby.name, standby.holder, standby.term, standby.remaining), ("door", None, None, None));
    door.held_by(Some("web-2"));
    let standby = gate();
    assert_eq!((standby.holder.as_deref(), standby.is_held()), (Some("web-2"), false));
    door.held_by(Some("web-1"));
    let keeper = admit(&door, 7);
    settle().await;
    let held = gate();
    assert_eq!((held.holder.as_deref(), held.term, held.is_held()), (Some("web-1"), Some(7), true));
    sleep(secs(3)).await;
    let left = gate().remaining.expect("it is held");
    assert!(left <= LASTS - secs(3) && left > LASTS - secs(4), "{left:?}");
    keeper.extend(door.now().saturating_add(LASTS));
    assert_eq!(gate().remaining, Some(LASTS));
    #[cfg(feature = "serde")]
    {
        let json = serde_json::to_value(tasks.snapshot("t").unwrap()).expect("plain data");
        assert_eq!((&json["gate"]["name"], &json["gate"]["term"]), (&"door".into(), &7.into()));
    }
    // The driver has not seen it yet.
    keeper.revoke();
    assert_eq!((gate().term, gate().remaining), (None, None));
}

/// A gate that cannot name its holder.
struct Nameless(Door);

impl Gate for Nameless {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        self.0.enter()
    }

    fn holder(&self) -> Option<Arc<str>> {
        panic!("out of order")
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_panics_when_its_holder_is_asked_for_has_none() {
    let tasks = started(obeys("t").gate(Nameless(Door::new())));
    settle().await;
    let gate = tasks.snapshot("t").unwrap().gate.expect("it has a gate");
    assert_eq!((&*gate.name, gate.holder), ("door", None));
    assert_eq!(tasks.snapshots().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_sees_the_pass_that_it_began_with() {
    let door = Door::new();
    let passes = Arc::new(std::sync::Mutex::new(Vec::<Pass>::new()));
    let seen = passes.clone();
    let tasks = started(
        CriticalTaskConfig::new("t", move |ctx: TaskContext| {
            seen.lock().unwrap().push(ctx.pass().expect("a pass").clone());
            async move { ctx.cancelled().await }
        })
        .gate(door.clone()),
    );
    settle().await;
    drop(admit(&door, 3));
    settle().await;
    let first = passes.lock().unwrap()[0].clone();
    assert_eq!((first.term(), first.is_open()), (3, true));
    sleep(LASTS).await;
    assert_eq!((first.is_open(), first.remaining()), (false, Duration::ZERO));
    sleep(secs(1)).await;
    let keeper = admit(&door, 4);
    settle().await;
    let second = passes.lock().unwrap()[1].clone();
    keeper.extend(door.now().saturating_add(secs(60)));
    assert_eq!((first.term(), second.term(), first.is_open()), (3, 4, false), "a clone is of its own term");
    assert_eq!(second.remaining(), secs(60));
    drop(tasks);
}

#[tokio::test(start_paused = true)]
async fn run_stops_one_grace_early_and_returns_to_standby() {
    let (door, alive) = (Door::new(), Alive::default());
    let tasks = started(obedient("t", &alive).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    sleep(LASTS - GRACE - millis(10)).await;
    assert_eq!((alive.now(), keeper.is_released()), (1, false));
    sleep(millis(20)).await;
    assert_eq!((alive.now(), keeper.is_released()), (0, true), "asked, ended, and given back at once");
    sleep(secs(1)).await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Standby), 1));
    let _keeper = admit(&door, 2);
    settle().await;
    assert_eq!((alive.now(), alive.total(), alive.most()), (1, 2, 1));
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!(snapshot.total_restarts(), 0, "a take-over is no restart");
    let changes: Vec<_> = tasks.changes("t").unwrap().iter().map(|change| change.kind.to_string()).collect();
    assert_eq!(changes, ["in standby", "granted: term 1", "lost: term 1", "in standby", "granted: term 2"]);
    let decisions = tasks.decisions("t").unwrap();
    let [lost] = &decisions[..] else { panic!("{decisions:?}") };
    assert_eq!((lost.cause, lost.verdict), (DecisionCause::Gate, RestartVerdict::StandBy));
    assert!(lost.question.is_none(), "the policy is not asked");
}

#[tokio::test(start_paused = true)]
async fn a_deaf_run_is_dropped_before_the_end_and_only_then_given_back() {
    let (door, alive) = (Door::new(), Alive::default());
    let _tasks = started(deaf("t", &alive).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    let until = door.now().saturating_add(LASTS);
    let (at, counted) = (door.clone(), alive.clone());
    let released = tokio::spawn(async move {
        keeper.released().await;
        (at.now(), counted.now())
    });
    sleep(LASTS).await;
    let (released_at, alive_then) = released.await.unwrap();
    assert_eq!(alive_then, 0, "the future is gone before the lease is given back");
    let left = until.saturating_duration_since(released_at);
    assert!(left > millis(500) && left <= GRACE / 8, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revoked_run_is_dropped_at_once_and_polled_no_more() {
    let (door, polled, wake) = (Door::new(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let tasks = started(counts_polls(&polled, &wake).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    let before = polled.load(SeqCst);
    assert!(before > 0);
    // Both wake it: the revocation wins.
    wake.notify_one();
    keeper.revoke();
    settle().await;
    assert_eq!((polled.load(SeqCst), keeper.is_released()), (before, true));
    keeper.extend(door.now().saturating_add(secs(1_000)));
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Standby), "what is over is not opened again");
}

/// A task that counts its polls, which `wake` causes.
fn counts_polls(polled: &Arc<AtomicU32>, wake: &Arc<Notify>) -> CriticalTaskConfig {
    let (polled, wake) = (polled.clone(), wake.clone());
    CriticalTaskConfig::new("t", move |_| {
        let (polled, wake) = (polled.clone(), wake.clone());
        async move {
            loop {
                polled.fetch_add(1, SeqCst);
                wake.notified().await;
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn no_poll_begins_after_a_suspension_that_outlasted_the_pass() {
    let (door, polled, wake) = (Door::new(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let tasks = started(counts_polls(&polled, &wake).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    wake.notify_one();
    settle().await;
    let before = polled.load(SeqCst);
    door.suspend(LASTS * 3);
    // The runtime's timers stood still; something else wakes the run.
    wake.notify_one();
    settle().await;
    assert_eq!(polled.load(SeqCst), before, "refused at the poll");
    assert!(keeper.is_released());
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Standby));
}

#[tokio::test(start_paused = true)]
async fn stopped_or_paused_task_is_no_candidate() {
    let door = Door::new();
    let tasks = all_started([obeys("t").gate(door.clone()), obeys("gone").gate(door.clone())]);
    settle().await;
    assert_eq!(door.candidates(), 2);
    tasks.stop("t").unwrap();
    tasks.unregister("gone").await.unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Stopped), 0));
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Standby), 1));
    tasks.pause("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Paused), 0));
    tasks.resume("t").unwrap();
    settle().await;
    assert_eq!(door.candidates(), 1);
    tasks.replace(obeys("t").gate(door.clone())).await.unwrap();
    settle().await;
    assert_eq!(door.candidates(), 1, "the new one alone");
    let report = tasks.shutdown().await;
    assert_eq!(door.candidates(), 0);
    assert_eq!(report.count(ShutdownOutcome::NotRunning), 1, "{report}");
}

#[tokio::test(start_paused = true)]
async fn any_run_end_releases_its_lease_at_once() {
    let door = Door::new();
    let tasks = TaskManager::new();
    tasks.start();
    let mut term = 0;
    let mut held = async |config: CriticalTaskConfig| {
        tasks.register(config.gate(door.clone())).unwrap();
        settle().await;
        term += 1;
        let keeper = door.admit(term, secs(3_600), GRACE);
        settle().await;
        assert!(!keeper.is_released());
        keeper
    };
    let keeper = held(obeys("stopped")).await;
    tasks.stop("stopped").unwrap();
    settle().await;
    assert!(keeper.is_released(), "stop");
    let keeper = held(obeys("paused")).await;
    tasks.pause("paused").unwrap();
    settle().await;
    assert!(keeper.is_released(), "pause");
    let keeper = held(CriticalTaskConfig::from_loop("loop", TaskLoop::every(secs(60), |_| async {}))).await;
    // A claim under way is waited for.
    sleep(millis(10)).await;
    tasks.pause("loop").unwrap();
    settle().await;
    assert_eq!(
        (state(&tasks, "loop"), keeper.is_released()),
        (Some(TaskState::Paused), true),
        "pause of a loop"
    );
    let keeper = held(obeys("unregistered")).await;
    tasks.unregister("unregistered").await.unwrap();
    assert!(keeper.is_released(), "unregister");
    let keeper = held(obeys("replaced")).await;
    tasks.replace(obeys("replaced")).await.unwrap();
    assert!(keeper.is_released(), "replace");
    let keeper = held(CriticalTaskConfig::one_shot("finished", |_| sleep(secs(1)))).await;
    sleep(secs(1)).await;
    settle().await;
    assert_eq!((state(&tasks, "finished"), keeper.is_released()), (Some(TaskState::Finished), true));
    let keeper = held(obeys("last")).await;
    tasks.shutdown().await;
    assert!(keeper.is_released(), "shutdown");
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_gives_its_lease_back_and_is_restarted_with_the_next() {
    let door = Door::new();
    let fails = CriticalTaskConfig::new("t", |_| async {
        sleep(secs(1)).await;
        Err::<(), _>("down")
    });
    let tasks = started(fails.backoff(Backoff::constant(secs(30))).gate(door.clone()));
    settle().await;
    let keeper = door.admit(1, secs(3_600), GRACE);
    sleep(secs(2)).await;
    assert_eq!(
        (state(&tasks, "t"), keeper.is_released()),
        (Some(TaskState::Backoff), true),
        "others may try"
    );
    assert_eq!(door.candidates(), 0);
    sleep(secs(31)).await;
    assert_eq!(
        (state(&tasks, "t"), restarts(&tasks, "t", RestartReason::Failure)),
        (Some(TaskState::Standby), 0)
    );
    let _keeper = door.admit(9, secs(3_600), GRACE);
    settle().await;
    assert_eq!(restarts(&tasks, "t", RestartReason::Failure), 1, "counted when the run begins");
}

#[tokio::test(start_paused = true)]
async fn owned_work_ends_before_the_lease_is_released() {
    let (door, owned) = (Door::new(), Alive::default());
    let counted = owned.clone();
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let owned = counted.during(std::future::pending::<()>());
        async move {
            drop(ctx.task("owned").spawn_with(move |inner| {
                assert_eq!(inner.pass().map(Pass::term), Some(1));
                owned
            }));
            ctx.cancelled().await;
        }
    });
    let tasks = started(task.restart_policy(RestartPolicy::Always).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    assert_eq!(owned.now(), 1);
    let (counted, at) = (owned.clone(), door.clone());
    let until = door.now().saturating_add(LASTS);
    let released = tokio::spawn(async move {
        keeper.released().await;
        (counted.now(), until.saturating_duration_since(at.now()))
    });
    sleep(LASTS).await;
    let (alive, left) = released.await.unwrap();
    assert!(alive == 0 && left >= GRACE / 8, "{alive} alive, {left:?} left");
    drop(tasks);
}

#[tokio::test(start_paused = true)]
async fn manual_restart_does_not_wait_for_owned_work() {
    let (door, owned) = (Door::new(), Alive::default());
    let counted = owned.clone();
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        drop(ctx.spawn("owned", counted.during(std::future::pending::<()>())));
        async move { ctx.cancelled().await }
    });
    let tasks = started(task.gate(door.clone()));
    settle().await;
    let keeper = door.admit(1, secs(3_600), GRACE);
    sleep(secs(60)).await;
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((owned.now(), keeper.is_released(), door.candidates()), (0, true, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_under_way_is_over_when_the_pass_is() {
    let (door, alive) = (Door::new(), Alive::default());
    let tasks = started(deaf("t", &alive).shutdown_grace(secs(3_600)).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    tasks.stop("t").unwrap();
    sleep(LASTS).await;
    assert_eq!((alive.now(), keeper.is_released()), (0, true), "no grace outlasts a lease");
    assert_eq!(state(&tasks, "t"), Some(TaskState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_group_goes_down_with_a_member_that_lost_and_begins_with_it() {
    let (door, first, second) = (Door::new(), Alive::default(), Alive::default());
    let tasks = TaskManager::new();
    let group = TaskGroup::new("g", RestartStrategy::RestForOne)
        .task(obedient("first", &first).gate(door.clone()))
        .task(obedient("second", &second));
    tasks.register_group(group).unwrap();
    tasks.start();
    settle().await;
    assert_eq!((first.now(), second.now()), (0, 0), "in order");
    let keeper = admit(&door, 1);
    settle().await;
    assert_eq!((first.now(), second.now()), (1, 1));
    keeper.revoke();
    sleep(secs(2)).await;
    assert_eq!((first.now(), second.now()), (0, 0));
    let _keeper = admit(&door, 2);
    settle().await;
    assert_eq!((first.now(), second.now(), first.total(), second.total()), (1, 1, 2, 2));
    assert_eq!(tasks.snapshot("first").unwrap().total_restarts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_dependency_went_down_is_no_candidate_until_it_is_back() {
    let door = Door::new();
    let tasks = all_started([obeys("base"), obeys("t").depends_on("base").gate(door.clone())]);
    settle().await;
    assert_eq!(door.candidates(), 1);
    tasks.stop("base").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Waiting), 0));
    tasks.restart("base").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), door.candidates()), (Some(TaskState::Standby), 1));
}

/// A task that owns work of an hour, and leaves it an hour to end.
fn owns(owned: &Alive) -> CriticalTaskConfig {
    let owned = owned.clone();
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let owned = owned.clone();
        async move {
            let work = ctx.task("owned").shutdown_grace(secs(3_600));
            drop(work.spawn_with(|_| owned.during(std::future::pending::<()>())));
            ctx.cancelled().await;
        }
    });
    task.shutdown_grace(secs(3_600))
}

#[tokio::test(start_paused = true)]
async fn owned_work_of_a_stopped_task_ends_before_the_lease() {
    for shuts_down in [false, true] {
        let (door, owned) = (Door::new(), Alive::default());
        let tasks = TaskManager::builder().shutdown_deadline(secs(3_600)).build().unwrap();
        tasks.register(owns(&owned).gate(door.clone())).unwrap();
        tasks.start();
        settle().await;
        let keeper = admit(&door, 1);
        sleep(secs(1)).await;
        if shuts_down {
            tokio::spawn({
                let tasks = tasks.clone();
                async move { tasks.shutdown().await }
            });
        } else {
            tasks.stop("t").unwrap();
        }
        sleep(secs(10)).await;
        assert_eq!((owned.now(), keeper.is_released()), (1, false), "it has its grace");
        let until = door.now().saturating_add(LASTS);
        keeper.extend(until);
        sleep(LASTS - GRACE / 8 - millis(10)).await;
        assert_eq!((owned.now(), keeper.is_released()), (1, false), "as long as the lease is extended");
        sleep(millis(20)).await;
        assert_eq!((owned.now(), keeper.is_released()), (0, true), "shutdown: {shuts_down}");
        assert!(door.now() < until);
    }
}

/// A task that was stopped, and waits for its owned work.
async fn stopping_with_owned_work() -> (TaskManager, Door, Keeper, Alive) {
    let (door, owned) = (Door::new(), Alive::default());
    let tasks = started(owns(&owned).gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    tasks.stop("t").unwrap();
    settle().await;
    assert_eq!(owned.now(), 1);
    (tasks, door, keeper, owned)
}

#[tokio::test(start_paused = true)]
async fn owned_work_of_a_stopped_task_ends_when_the_lease_is_revoked() {
    let (tasks, _door, keeper, owned) = stopping_with_owned_work().await;
    keeper.revoke();
    settle().await;
    assert_eq!((owned.now(), state(&tasks, "t")), (0, Some(TaskState::Stopped)));
}

#[tokio::test(start_paused = true)]
async fn restart_of_a_stopping_task_ends_the_owned_work_of_its_last_run() {
    let (tasks, door, keeper, owned) = stopping_with_owned_work().await;
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((owned.now(), keeper.is_released(), door.candidates()), (0, true, 1));
}

#[tokio::test(start_paused = true)]
async fn no_poll_of_owned_work_begins_after_a_suspension_that_outlasted_the_pass() {
    let (door, polled, wake) = (Door::new(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (polls, wakes) = (polled.clone(), wake.clone());
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let (polls, wakes) = (polls.clone(), wakes.clone());
        async move {
            drop(ctx.spawn("owned", async move {
                loop {
                    polls.fetch_add(1, SeqCst);
                    wakes.notified().await;
                }
            }));
            ctx.cancelled().await;
        }
    });
    let tasks = started(task.gate(door.clone()));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    wake.notify_one();
    settle().await;
    let before = polled.load(SeqCst);
    assert!(before > 1);
    door.suspend(LASTS * 3);
    wake.notify_one();
    settle().await;
    assert_eq!((polled.load(SeqCst), keeper.is_released()), (before, true), "refused at the poll");
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Standby));
}

#[tokio::test(start_paused = true)]
async fn run_that_was_extended_at_the_last_moment_is_asked_again() {
    let (door, keeper) = (Door::new(), Arc::new(std::sync::Mutex::new(None::<Keeper>)));
    let (at, kept) = (door.clone(), keeper.clone());
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let (at, kept) = (at.clone(), kept.clone());
        async move {
            let mut polls = 0;
            let extends = std::future::poll_fn(move |_| {
                polls += 1;
                // Polled when it is about to be asked to stop.
                if polls == 2 {
                    let kept = kept.lock().unwrap();
                    kept.as_ref().unwrap().extend(at.now().saturating_add(LASTS));
                }
                std::task::Poll::<()>::Pending
            });
            tokio::select! {
                biased;
                () = ctx.cancelled() => {}
                () = extends => {}
            }
        }
    });
    let tasks = started(task.gate(door.clone()));
    settle().await;
    *keeper.lock().unwrap() = Some(admit(&door, 1));
    let is_released = || keeper.lock().unwrap().as_ref().unwrap().is_released();
    sleep(LASTS - GRACE + millis(10)).await;
    assert_eq!((state(&tasks, "t"), is_released()), (Some(TaskState::Running), false), "extended");
    sleep(LASTS - GRACE - millis(20)).await;
    assert!(!is_released());
    sleep(millis(20)).await;
    assert!(is_released(), "asked, and ended: {:?}", state(&tasks, "t"));
}

/// A door that takes a while to show to others that it is free.
struct Slow(Door, tokio::time::Instant);

impl Gate for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        self.0.enter()
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep_until(self.1))
    }
}

#[tokio::test(start_paused = true)]
async fn each_caller_of_shutdown_waits_for_the_gates() {
    let (door, began) = (Door::new(), tokio::time::Instant::now());
    let settled = began + millis(300);
    let tasks = started(obeys("t").gate(Slow(door.clone(), settled)));
    settle().await;
    let keeper = admit(&door, 1);
    settle().await;
    let first = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.shutdown().await }
    });
    sleep(millis(50)).await;
    assert!(keeper.is_released(), "its report is made");
    let report = tasks.shutdown().await;
    assert!(began.elapsed() >= millis(300), "the second caller waits, too: {:?}", began.elapsed());
    assert_eq!(report.count(ShutdownOutcome::Clean), 1);
    first.await.unwrap();
}

/// The others that its owner waits for do not end when they are dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owned_run_that_waits_for_the_shutdown_no_longer_is_dropped_and_its_lease_released() {
    for is_gated in [true, false] {
        let (door, asks) = (Door::new(), Alive::default());
        let tasks = TaskManager::builder().shutdown_deadline(secs(60)).build().unwrap();
        let (weak, counted) = (tasks.downgrade(), asks.clone());
        let owner = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
            let (tasks, counted) = (weak.upgrade().expect("alive"), counted.clone());
            async move {
                drop(ctx.task("thread").spawn_blocking(|_| std::thread::sleep(millis(1_600))));
                drop(ctx.spawn(
                    "asks",
                    counted.during(async move {
                        let _ = tokio::time::timeout(millis(300), tasks.shutdown()).await;
                        std::future::pending::<()>().await
                    }),
                ));
                ctx.cancelled().await;
            }
        });
        let owner = owner.shutdown_grace(millis(100));
        tasks.register(if is_gated { owner.gate(door.clone()) } else { owner }).unwrap();
        tasks.start();
        let mut keeper = None;
        if is_gated {
            eventually("a candidate", || door.candidates() == 1).await;
            keeper = Some(door.admit(1, secs(60), GRACE));
        }
        eventually("the run", || asks.now() == 1).await;
        eventually("the end of the run", || asks.now() == 0).await;
        if let Some(keeper) = keeper {
            eventually("the release", || keeper.is_released()).await;
        }
        eventually("the report", || tasks.report().is_some()).await;
        let report = tasks.report().expect("made");
        let outcome = report.tasks.iter().find(|line| &*line.name == "asks").map(|line| line.outcome);
        assert_eq!(outcome, Some(ShutdownOutcome::Aborted), "{report}");
    }
}

/// Meanwhile there is no task of the name.
#[tokio::test(start_paused = true)]
async fn name_of_a_replaced_task_is_taken_while_its_gate_settles() {
    let settled = tokio::time::Instant::now() + millis(500);
    let tasks = started(obeys("t").gate(Slow(Door::new(), settled)));
    settle().await;
    let during = async {
        sleep(millis(100)).await;
        assert!(tasks.task_names().is_empty(), "the old task is gone");
        let family = TaskFamily::new("t", |ctx: TaskContext, _: u64| async move { ctx.cancelled().await });
        for refused in [
            tasks.register(obeys("t")),
            tasks.register_all([obeys("other"), obeys("t")]),
            tasks.register_family(family).map(drop),
        ] {
            assert!(
                matches!(&refused, Err(RegisterError::Duplicate { name, .. }) if name == "t"),
                "{refused:?}"
            );
        }
        tasks.register(obeys("after").depends_on("t")).expect("it may be depended on");
    };
    let (replaced, ()) = tokio::join!(tasks.replace(obeys("t")), during);
    replaced.expect("nobody has taken its name");
    settle().await;
    assert_eq!(states(&tasks, ["t", "after"]), [Some(TaskState::Running); 2]);
}
