//! Defaults that keep a service alive: a task that ends is restarted, an outage does not end a task, and a loop goes on.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, TaskContext, TaskLoop, TaskManager,
    events::TaskEventKind,
    gate::{BoxFuture, Gate, Grant},
    policy::{ErrorClass, Escalation, Exit, ExitKind, Jitter, RestartIntensity, RestartReason, StallAction},
    schedule::{OnError, Schedule},
    snapshot::TaskState,
    task::RegisterError,
};
use tokio::time::{Instant, sleep};
use tracing::Level;

use crate::support::{
    Events,
    metrics::Metrics,
    millis, secs, settle,
    tasks::{all_started, restarts, started, state},
};

/// When runs began, in milliseconds after the test did.
#[derive(Clone)]
struct Begun(Instant, Arc<Mutex<Vec<u128>>>);

impl Begun {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn note(&self) {
        self.1.lock().unwrap().push(self.0.elapsed().as_millis());
    }

    fn seconds(&self) -> Vec<u128> {
        self.1.lock().unwrap().iter().map(|at| at / 1_000).collect()
    }

    fn count(&self) -> usize {
        self.1.lock().unwrap().len()
    }
}

/// A task that fails while `down`, and otherwise runs until it is asked to stop.
fn depends_on(down: &Arc<AtomicBool>, begun: &Begun) -> CriticalTaskConfig {
    let (down, begun) = (down.clone(), begun.clone());
    CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let down = down.clone();
        begun.note();
        async move {
            if down.load(SeqCst) {
                return Err("unreachable");
            }
            ctx.cancelled().await;
            Ok(())
        }
    })
}

fn kinds(events: &mut otel_tasks::events::TaskEvents) -> Vec<TaskEventKind> {
    std::iter::from_fn(|| events.try_recv()).map(|event| event.kind).collect()
}

fn recoveries(kinds: &[TaskEventKind]) -> usize {
    kinds.iter().filter(|kind| matches!(kind, TaskEventKind::Recovered)).count()
}

// ---- a task that ends

#[tokio::test(start_paused = true)]
async fn a_task_that_returns_ok_is_restarted_and_the_end_is_a_warning() {
    let (events, _guard) = Events::record();
    let begun = Begun::new();
    let count = begun.clone();
    let config = CriticalTaskConfig::new("gateway", move |_| {
        count.note();
        async {
            sleep(secs(5)).await;
            Ok::<_, std::io::Error>(())
        }
    });
    let tasks = started(config);
    let mut told = tasks.subscribe();
    sleep(millis(5_400)).await;
    assert_eq!(state(&tasks, "gateway"), Some(TaskState::Backoff), "it is not finished");
    assert!(!tasks.health().is_ready, "a service without its gateway is not ready");
    sleep(secs(2)).await;
    assert_eq!((state(&tasks, "gateway"), begun.count()), (Some(TaskState::Running), 2));
    assert_eq!(restarts(&tasks, "gateway", RestartReason::Finished), 1);
    let ended = events.named("task.ended");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].level, Level::WARN);
    assert!(ended[0].message().starts_with("task gateway ended by itself"), "{ended:?}");
    let told = kinds(&mut told);
    let finished = |kind: &TaskEventKind| {
        matches!(kind, TaskEventKind::BackingOff { reason: RestartReason::Finished, .. })
    };
    assert!(told.iter().any(finished), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn ends_count_against_the_limit() {
    let tasks = started(CriticalTaskConfig::new("t", |_| async {}));
    sleep(secs(590)).await;
    assert_eq!(restarts(&tasks, "t", RestartReason::Finished), 10);
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_is_finished_once_it_has_succeeded() {
    let begun = Begun::new();
    let count = begun.clone();
    let migrate = CriticalTaskConfig::one_shot("migrate", move |ctx| {
        count.note();
        async move { if ctx.generation() < 3 { Err("locked") } else { Ok(()) } }
    });
    let tasks = started(migrate);
    sleep(secs(60)).await;
    assert_eq!((state(&tasks, "migrate"), begun.count()), (Some(TaskState::Finished), 3));
    assert_eq!(tasks.task_settings("migrate").unwrap().restart_policy, RestartPolicy::OnFailure);
    assert!(tasks.health().is_ready && tasks.health().is_live);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_reached_its_count_or_was_stopped_is_finished() {
    let counted = TaskLoop::every(secs(1), |_| async {}).count(2);
    let stopped = TaskLoop::every(secs(1), |_| async {});
    let handle = stopped.handle();
    let tasks = all_started([
        CriticalTaskConfig::from_loop("counted", counted).restart_policy(RestartPolicy::Always),
        CriticalTaskConfig::from_loop("stopped", stopped),
    ]);
    sleep(secs(5)).await;
    handle.stop();
    sleep(secs(60)).await;
    for name in ["counted", "stopped"] {
        assert_eq!(state(&tasks, name), Some(TaskState::Finished), "{name}");
    }
}

// ---- an outage

#[tokio::test(start_paused = true)]
async fn the_first_restart_follows_within_a_second_and_the_tenth_after_a_minute() {
    let begun = Begun::new();
    let down = Arc::new(AtomicBool::new(true));
    let tasks = started(depends_on(&down, &begun));
    sleep(millis(1_001)).await;
    assert_eq!(begun.count(), 2, "at most a second, and at least half of one");
    sleep(secs(400)).await;
    let delays: Vec<_> = begun.1.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
    let most = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60];
    assert_eq!(delays.len(), most.len(), "{delays:?}");
    for (delay, most) in delays.iter().zip(most) {
        assert!((most * 500..=most * 1_000 + 2).contains(delay), "{delays:?}");
    }
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn after_too_many_failures_a_task_is_tried_every_five_minutes_and_recovers() {
    let (events, _guard) = Events::record();
    let begun = Begun::new();
    let down = Arc::new(AtomicBool::new(true));
    let backoff = Backoff::constant(secs(1)).stable_after(secs(100));
    let tasks = started(depends_on(&down, &begun).restarts("2 in 10m".parse().unwrap(), backoff));
    let mut told = tasks.subscribe();
    // An outage of three hours: the first run, two restarts, then a try each five minutes.
    sleep(secs(10_800)).await;
    let seconds = begun.seconds();
    assert_eq!(seconds[..5], [0, 1, 2, 302, 602]);
    assert_eq!(seconds.len(), 3 + 35);
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    let snapshot = tasks.snapshot("t").unwrap();
    let next = snapshot.next_retry.expect("it is tried again");
    assert!(next.duration_since(SystemTime::now()).is_ok_and(|until| until <= secs(300)), "{next:?}");
    assert_eq!(snapshot.restarts(RestartReason::Retry), 35);
    assert_eq!(events.count("task.gave_up", "t"), 1, "one record at entry");
    assert_eq!(events.count("task.restarted", "t"), 2, "none for the tries");
    let entered: Vec<_> = kinds(&mut told)
        .into_iter()
        .filter_map(|kind| match kind {
            TaskEventKind::GaveUp { retry_after, .. } => Some(retry_after),
            _ => None,
        })
        .collect();
    assert_eq!(entered, [Some(secs(300))]);

    down.store(false, SeqCst);
    sleep(secs(50)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    assert_eq!(tasks.snapshot("t").unwrap().next_retry, None);
    assert_eq!(events.count("task.recovered", "t"), 0, "it has not lasted yet");
    sleep(secs(110)).await;
    assert_eq!(events.count("task.recovered", "t"), 1, "one record at recovery");
    assert_eq!(recoveries(&kinds(&mut told)), 1);
    // It is forgiven: the next failure leads to a quick restart again, and the outage makes nobody unhealthy.
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!((snapshot.restarts_last_hour, snapshot.errors_last_hour), (0, 0));
    assert_eq!(snapshot.total_errors(), 38, "what was counted stays counted");
    assert_ne!(tasks.task_health("t").unwrap().status, otel_tasks::health::HealthStatus::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_fails_before_it_is_stable_leads_back_without_quick_restarts() {
    let begun = Begun::new();
    let count = begun.clone();
    let flaps = CriticalTaskConfig::new("t", move |_| {
        count.note();
        async {
            sleep(secs(20)).await;
            Err::<(), _>("again")
        }
    });
    let tasks = started(flaps.max_restarts(0, secs(60)));
    let mut told = tasks.subscribe();
    sleep(secs(1_000)).await;
    assert_eq!(begun.seconds(), [0, 320, 640, 960]);
    let told = kinds(&mut told);
    let given_up = told.iter().filter(|kind| matches!(kind, TaskEventKind::GaveUp { .. })).count();
    assert_eq!((given_up, recoveries(&told)), (1, 0), "{told:?}");
}

/// Each kind of failure that another try can help is tried again.
#[tokio::test(start_paused = true)]
async fn errors_other_than_permanent_ones_are_retried() {
    async fn end(how: ExitKind) -> Result<(), &'static str> {
        match how {
            ExitKind::Success => Ok(()),
            ExitKind::Failure => Err("down"),
            ExitKind::Panic => panic!("a bug"),
            _ => std::future::pending().await,
        }
    }
    for how in [ExitKind::Success, ExitKind::Failure, ExitKind::Panic, ExitKind::Timeout] {
        let config = CriticalTaskConfig::new("t", move |_| end(how)).run_timeout(secs(1));
        let tasks = started(config.max_restarts(0, secs(60)));
        sleep(secs(310)).await;
        assert_eq!(restarts(&tasks, "t", RestartReason::Retry), 1, "{how}");
        assert_eq!(state(&tasks, "t"), Some(TaskState::Failed), "{how}");
    }
    for on_stall in [StallAction::Restart, StallAction::Escalate] {
        let config = CriticalTaskConfig::new("t", |ctx: TaskContext| async move { ctx.cancelled().await })
            .heartbeat_timeout(secs(1))
            .on_stall(on_stall);
        let tasks = started(config.max_restarts(0, secs(60)));
        sleep(secs(310)).await;
        assert_eq!(restarts(&tasks, "t", RestartReason::Retry), 1, "{on_stall}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_gives_up_for_good() {
    let begun = Begun::new();
    let down = Arc::new(AtomicBool::new(true));
    let config = depends_on(&down, &begun).classify(|_: &&'static str| ErrorClass::Permanent);
    let tasks = started(config);
    sleep(secs(86_400)).await;
    assert_eq!((state(&tasks, "t"), begun.count()), (Some(TaskState::Failed), 1));
    assert_eq!(tasks.snapshot("t").unwrap().next_retry, None);
    // A permanent error in a later try ends the tries.
    let permanent = Arc::new(AtomicBool::new(false));
    let class = permanent.clone();
    let begun = Begun::new();
    let config = depends_on(&down, &begun).max_restarts(0, secs(60)).classify(move |_: &&'static str| {
        match class.load(SeqCst) {
            true => ErrorClass::Permanent,
            false => ErrorClass::Transient,
        }
    });
    let tasks = started(config);
    sleep(secs(10)).await;
    assert!(tasks.snapshot("t").unwrap().next_retry.is_some());
    permanent.store(true, SeqCst);
    sleep(secs(86_400)).await;
    assert_eq!((begun.count(), tasks.snapshot("t").unwrap().next_retry), (2, None));
}

#[tokio::test(start_paused = true)]
async fn an_escalation_makes_for_good_the_default() {
    let down = Arc::new(AtomicBool::new(true));
    for (config, settings) in [
        (depends_on(&down, &Begun::new()), GiveUp::RetryEvery(secs(300))),
        (depends_on(&down, &Begun::new()).escalation(Escalation::Shutdown), GiveUp::ForGood),
        (
            depends_on(&down, &Begun::new())
                .give_up(GiveUp::RetryEvery(secs(60)))
                .escalation(Escalation::Shutdown),
            GiveUp::RetryEvery(secs(60)),
        ),
    ] {
        let tasks = TaskManager::new();
        tasks.register(config.max_restarts(0, secs(60))).unwrap();
        assert_eq!(tasks.task_settings("t").unwrap().give_up, settings);
        tasks.start();
        sleep(secs(1)).await;
        assert_eq!(tasks.is_shutting_down(), settings == GiveUp::ForGood, "it escalates only for good");
    }
}

#[tokio::test(start_paused = true)]
async fn unlimited_restarts_never_give_up() {
    let begun = Begun::new();
    let down = Arc::new(AtomicBool::new(true));
    let backoff = Backoff::constant(secs(1));
    let tasks = started(depends_on(&down, &begun).backoff(backoff).unlimited_restarts());
    sleep(secs(3_600)).await;
    assert!(begun.count() > 3_500, "{}", begun.count());
    assert_ne!(state(&tasks, "t"), Some(TaskState::Failed));
    let intensity = tasks.task_settings("t").unwrap().intensity;
    assert_eq!((intensity, intensity.to_string()), (RestartIntensity::UNLIMITED, "unlimited".into()));
    assert_eq!("unlimited".parse(), Ok(RestartIntensity::UNLIMITED));
    tasks.restart("t").expect("a restart by hand has no limit either");
}

#[tokio::test(start_paused = true)]
async fn a_delay_alone_needs_no_other_limit() {
    for delay in [Duration::ZERO, secs(120), secs(3_600), Duration::MAX] {
        let config = depends_on(&Arc::default(), &Begun::new()).restart_delay(delay);
        TaskManager::new().register(config).expect("the default limit promises nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_interval_of_zero_is_refused_and_the_longest_is_not() {
    let config = || depends_on(&Arc::new(AtomicBool::new(true)), &Begun::new()).max_restarts(0, secs(60));
    let tasks = TaskManager::new();
    let refused = tasks.register(config().give_up(GiveUp::RetryEvery(Duration::ZERO)));
    assert!(
        matches!(refused, Err(RegisterError::ZeroDuration { field: "retry interval", .. })),
        "{refused:?}"
    );
    let tasks = started(config().give_up(GiveUp::RetryEvery(Duration::MAX)));
    sleep(secs(86_400)).await;
    assert_eq!(state(&tasks, "t"), Some(TaskState::Failed));
    assert!(tasks.snapshot("t").unwrap().next_retry.is_some() && tasks.health().is_live, "not for good");
    assert!(tasks.shutdown().await.is_clean());
}

// ---- orders to a task that waits for its next try

#[tokio::test(start_paused = true)]
async fn orders_are_obeyed_while_a_task_waits_for_its_next_try() {
    async fn failed() -> (TaskManager, Begun, Arc<AtomicBool>) {
        let (begun, down) = (Begun::new(), Arc::new(AtomicBool::new(true)));
        let tasks = started(depends_on(&down, &begun).max_restarts(0, secs(60)));
        sleep(secs(10)).await;
        assert!(tasks.snapshot("t").unwrap().next_retry.is_some());
        (tasks, begun, down)
    }
    for (order, rests) in [("stop", TaskState::Stopped), ("pause", TaskState::Paused)] {
        let (tasks, begun, _) = failed().await;
        match order {
            "stop" => tasks.stop("t").unwrap(),
            _ => tasks.pause("t").unwrap(),
        }
        sleep(secs(3_600)).await;
        assert_eq!((state(&tasks, "t"), begun.count()), (Some(rests), 1), "{order}");
        assert_eq!(tasks.snapshot("t").unwrap().next_retry, None, "{order}");
    }
    let (tasks, begun, down) = failed().await;
    down.store(false, SeqCst);
    tasks.restart("t").unwrap();
    settle().await;
    assert_eq!((state(&tasks, "t"), begun.count()), (Some(TaskState::Running), 2), "it begins at once");
    sleep(secs(3_600)).await;
    assert_eq!((begun.count(), restarts(&tasks, "t", RestartReason::Retry)), (2, 0), "and no try follows");

    let (tasks, ..) = failed().await;
    tasks.unregister("t").await.unwrap();
    assert_eq!(tasks.snapshot("t").unwrap().next_retry, None, "nothing is left of it");
    let (tasks, ..) = failed().await;
    assert!(tasks.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_group_begins_together_when_the_member_that_failed_is_tried_again() {
    use otel_tasks::{TaskGroup, policy::RestartStrategy};
    for strategy in [RestartStrategy::OneForAll, RestartStrategy::RestForOne] {
        let (begun, down) = (Begun::new(), Arc::new(AtomicBool::new(true)));
        let other = Begun::new();
        let count = other.clone();
        let after = CriticalTaskConfig::new("after", move |ctx: TaskContext| {
            count.note();
            async move { ctx.cancelled().await }
        });
        let tasks = TaskManager::new();
        let group = TaskGroup::new("group", strategy)
            .task(depends_on(&down, &begun).max_restarts(0, secs(60)))
            .task(after);
        tasks.register_group(group).unwrap();
        tasks.start();
        sleep(secs(400)).await;
        assert_eq!(state(&tasks, "after"), Some(TaskState::Waiting), "{strategy}");
        down.store(false, SeqCst);
        sleep(secs(300)).await;
        for name in ["t", "after"] {
            assert_eq!(state(&tasks, name), Some(TaskState::Running), "{strategy} {name}");
        }
    }
}

// ---- loops

#[tokio::test(start_paused = true)]
async fn failed_iteration_counts_as_failed_run_and_loop_continues() {
    for how in [ExitKind::Failure, ExitKind::Panic, ExitKind::Timeout] {
        let (begun, lives) = (Begun::new(), Arc::new(AtomicUsize::new(0)));
        let (count, count_lives) = (begun.clone(), lives.clone());
        let hourly = TaskLoop::every(secs(3_600), move |_| {
            count.note();
            async move {
                match how {
                    ExitKind::Failure => Err::<(), _>("down"),
                    ExitKind::Panic => panic!("a bug"),
                    _ => std::future::pending().await,
                }
            }
        })
        .before_loop(move |_| {
            count_lives.fetch_add(1, SeqCst);
            async {}
        });
        let tasks = started(CriticalTaskConfig::from_loop("hourly", hourly).run_timeout(secs(60)));
        sleep(secs(86_400 - 60)).await;
        assert_eq!(begun.seconds(), (0..24).map(|hour| hour * 3_600).collect::<Vec<_>>(), "{how}");
        assert_eq!(lives.load(SeqCst), 1, "{how}: one life");
        let snapshot = tasks.snapshot("hourly").unwrap();
        assert_eq!((snapshot.state, snapshot.total_restarts()), (Some(TaskState::Running), 0), "{how}");
        assert_eq!((snapshot.runs(how), snapshot.total_errors()), (24, 24), "{how}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_or_on_error_ends_a_loop_and_the_policy_decides() {
    for (permanent, state_after) in [(true, TaskState::Failed), (false, TaskState::Running)] {
        let lives = Arc::new(AtomicUsize::new(0));
        let count = lives.clone();
        let body = TaskLoop::every(secs(100), |ctx: TaskContext| async move {
            if ctx.generation() == 1 { Err("down") } else { Ok(()) }
        })
        .before_loop(move |_| {
            count.fetch_add(1, SeqCst);
            async {}
        })
        .on_error(move |_| async move { if permanent { OnError::Continue } else { OnError::End } });
        let config = CriticalTaskConfig::from_loop("l", body).classify(move |_: &&'static str| {
            if permanent { ErrorClass::Permanent } else { ErrorClass::Transient }
        });
        let tasks = started(config);
        sleep(secs(50)).await;
        assert_eq!(state(&tasks, "l"), Some(state_after), "permanent: {permanent}");
        assert_eq!(lives.load(SeqCst), if permanent { 1 } else { 2 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_not_ready_in_time_is_restarted() {
    let body = TaskLoop::every(secs(10), |_| async { Err::<(), _>("not connected") });
    let config = CriticalTaskConfig::from_loop("l", body).start_timeout(secs(25));
    let tasks = started(config.backoff(Backoff::constant(secs(1))));
    sleep(secs(40)).await;
    assert_eq!(tasks.snapshot("l").unwrap().total_restarts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_loop_recovers_with_its_first_success() {
    let body = TaskLoop::every(secs(10), |ctx: TaskContext| async move {
        if ctx.generation() == 1 { Err("down") } else { Ok(()) }
    })
    .on_error(|_| async { OnError::End });
    let handle = body.handle();
    let tasks = started(CriticalTaskConfig::from_loop("l", body).max_restarts(0, secs(60)));
    let mut told = tasks.subscribe();
    sleep(secs(299)).await;
    assert_eq!((state(&tasks, "l"), recoveries(&kinds(&mut told))), (Some(TaskState::Failed), 0));
    sleep(secs(2)).await;
    assert_eq!(handle.last_result(), Some(Exit::Success));
    assert_eq!((state(&tasks, "l"), recoveries(&kinds(&mut told))), (Some(TaskState::Running), 1));
    sleep(secs(100)).await;
    assert_eq!(recoveries(&kinds(&mut told)), 0, "once");
}

/// Seen to fail where an iteration that ended a life well counts for the life after the next failure.
#[tokio::test(start_paused = true)]
async fn a_loop_that_stalls_in_each_try_does_not_recover() {
    let body = TaskLoop::every(secs(10), |ctx: TaskContext| async move { ctx.cancelled().await });
    let stalls = CriticalTaskConfig::from_loop("l", body)
        .heartbeat_timeout(secs(5))
        .on_stall(StallAction::Restart)
        .max_restarts(0, secs(60));
    let tasks = started(stalls);
    let mut told = tasks.subscribe();
    sleep(secs(1_000)).await;
    let told = kinds(&mut told);
    let given_up = told.iter().filter(|kind| matches!(kind, TaskEventKind::GaveUp { .. })).count();
    assert_eq!((given_up, recoveries(&told)), (1, 0), "{told:?}");
}

/// Seen to fail where the time of the next try is asked of a clock that panics: the task was gone.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_panics_ends_no_task() {
    let (events, _guard) = Events::record();
    let broken = Arc::new(AtomicBool::new(false));
    let seen = broken.clone();
    let tasks = TaskManager::builder()
        .wall_clock(move || {
            assert!(!seen.load(SeqCst), "no clock");
            SystemTime::now()
        })
        .build()
        .unwrap();
    let begun = Begun::new();
    let down = Arc::new(AtomicBool::new(true));
    tasks.register(depends_on(&down, &begun).max_restarts(0, secs(60))).unwrap();
    broken.store(true, SeqCst);
    tasks.start();
    sleep(secs(400)).await;
    assert_eq!(begun.seconds(), [0, 300]);
    assert!(tasks.task_health("t").unwrap().unhealthy_since.is_some());
    assert!(tasks.is_monitoring());
    let said = events.arrived("task.callback.panicked", 1);
    assert_eq!(said.len(), 1, "once");
    assert!(said[0].message().starts_with("the wall clock panicked at "), "{}", said[0].message());
}

/// Seen to fail: the task that failed, and the loop, were given up without a record.
#[tokio::test(start_paused = true)]
async fn a_random_source_that_panics_ends_no_task() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::builder().random(|| panic!("no dice")).build().unwrap();
    let begun = Begun::new();
    let noted = begun.clone();
    let fails = CriticalTaskConfig::new("fails", move |_| {
        noted.note();
        async { Err::<(), _>("always") }
    });
    let fails = fails.backoff(Backoff::constant(secs(10)).jitter(Jitter::Full)).unlimited_restarts();
    let ticks = TaskLoop::on(Schedule::every(secs(10)).jitter(secs(2)), |_| async {});
    tasks.register_all([fails, CriticalTaskConfig::from_loop("ticks", ticks)]).unwrap();
    tasks.start();
    sleep(secs(100)).await;
    assert!(begun.seconds().len() >= 5, "{:?}", begun.seconds());
    assert!(tasks.snapshot("ticks").unwrap().total_runs() >= 8);
    let said = events.arrived("task.callback.panicked", 1);
    assert_eq!(said.len(), 1, "once");
    assert!(said[0].message().starts_with("the random source panicked at "), "{}", said[0].message());
    assert!(said[0].message().ends_with("no dice"), "{}", said[0].message());
}

/// Panics wherever it is called.
struct Broken;

impl Gate for Broken {
    fn name(&self) -> &str {
        "lease"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        Box::pin(async { panic!("no store") })
    }

    fn holder(&self) -> Option<Arc<str>> {
        panic!("no store")
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { panic!("no store") })
    }
}

/// Seen to fail: the give-up had no record, and the shutdown and each snapshot panicked.
#[tokio::test(start_paused = true)]
async fn a_gate_that_panics_is_recorded_and_its_task_is_tried_again() {
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    let gated = CriticalTaskConfig::new("gated", |ctx: TaskContext| async move { ctx.cancelled().await });
    tasks.register(gated.gate(Broken)).unwrap();
    tasks.start();
    sleep(secs(301)).await;
    let snapshot = tasks.snapshot("gated").unwrap();
    assert_eq!((snapshot.state, snapshot.gate.unwrap().holder), (Some(TaskState::Failed), None));
    let said = events.arrived("task.callback.panicked", 2);
    assert_eq!(said.len(), 2, "at first, and at the next try");
    assert_eq!(said[0].field("task.name"), "gated");
    assert!(said[0].message().ends_with("no store"), "{}", said[0].message());
    assert!(tasks.shutdown().await.is_clean());
    assert_eq!(events.arrived("task.callback.panicked", 3).len(), 3);
}

/// Seen to fail: until its time came the next try was shown that the group had called off.
#[tokio::test(start_paused = true)]
async fn a_group_that_is_stopped_calls_off_the_next_try_of_a_member() {
    use otel_tasks::{TaskGroup, policy::RestartStrategy};
    let fails = CriticalTaskConfig::new("tried", |_| async { Err::<(), _>("down") });
    let ends = CriticalTaskConfig::new("ends", |_| async {
        sleep(secs(60)).await;
        Err::<(), _>("down")
    });
    let group = TaskGroup::new("group", RestartStrategy::OneForOne)
        .task(ends.max_restarts(0, secs(60)).escalation(Escalation::Group))
        .task(fails.max_restarts(0, secs(60)));
    let tasks = TaskManager::new();
    tasks.register_group(group).unwrap();
    tasks.start();
    sleep(secs(1)).await;
    let shown = || (state(&tasks, "tried"), tasks.snapshot("tried").unwrap().next_retry.is_some());
    assert_eq!(shown(), (Some(TaskState::Failed), true));
    sleep(secs(60)).await;
    assert_eq!(state(&tasks, "ends"), Some(TaskState::Failed));
    assert_eq!(shown(), (Some(TaskState::Stopped), false));
    sleep(secs(1_000)).await;
    assert_eq!(shown(), (Some(TaskState::Stopped), false));
}

// ---- telemetry

#[tokio::test(start_paused = true)]
async fn the_gauge_of_the_next_try_is_absent_unless_there_is_one() {
    let metrics = Metrics::new();
    let tasks = TaskManager::builder().meter(metrics.meter()).build().unwrap();
    let (down, begun) = (Arc::new(AtomicBool::new(true)), Begun::new());
    tasks.register(depends_on(&down, &begun).max_restarts(0, secs(60))).unwrap();
    let for_good = CriticalTaskConfig::new("for_good", |_| async { Err::<(), _>("down") });
    tasks.register(for_good.max_restarts(0, secs(60)).give_up(GiveUp::ForGood)).unwrap();
    tasks.start();
    let names = || {
        let points = metrics.collect();
        let of_gauge = points.of("task.next_retry.time", &[]).into_iter();
        of_gauge.map(|point| point.attributes["task.name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(), [""; 0]);
    sleep(secs(10)).await;
    assert_eq!(names(), ["t"], "not for one that was given up for good");
    down.store(false, SeqCst);
    sleep(secs(300)).await;
    assert_eq!(names(), [""; 0], "it runs");
}
