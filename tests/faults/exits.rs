//! Faults 1 to 12: how runs end, and what follows an end: restarts, their delays, their limit.

use std::{
    future::{Future, Ready},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, TaskContext, TaskGroup, TaskManager,
    events::{TaskEvent, TaskEventKind},
    policy::{ErrorClass, Escalation, Exit, Jitter, RestartReason, RestartStrategy, StallAction},
    shutdown::ShutdownOutcome,
    snapshot::TaskState,
};
use tokio::time::{Instant, sleep};

use crate::{
    common::{Case, On, Told, on_each_runtime, rss},
    support::{
        Alive, eventually, millis, secs, settle,
        spans::{Spans, attribute},
        tasks::{obedient, restarts, state},
    },
};

/// A delay that is short in real time too.
const SHORT: Duration = Duration::from_millis(20);

/// How one life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Succeeds,
    Fails,
    FailsForGood,
    Panics,
    Passes,
    /// It ends when it is asked to.
    Obeys,
    /// It panics when it is asked to end.
    PanicsWhenAsked,
    FailsWhenAsked,
    /// It does not hear.
    Pends,
}

/// A task whose lives end as it is written; the last line counts for all that follow. Its time limit is [`SHORT`] where
/// it is to pass it.
fn scripted(name: &str, alive: &Alive, lives: &[How]) -> CriticalTaskConfig {
    let (alive, lives) = (alive.clone(), lives.to_vec());
    let passes = lives.contains(&How::Passes);
    let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
        let guard = alive.guard();
        let life = usize::try_from(ctx.generation()).expect("few") - 1;
        let how = lives[life.min(lives.len() - 1)];
        async move {
            let _guard = guard;
            match how {
                How::Succeeds => Ok(()),
                How::Fails => Err("down"),
                How::FailsForGood => Err("for good"),
                How::Panics => panic!("boom"),
                How::Passes | How::Pends => std::future::pending().await,
                How::Obeys => {
                    ctx.cancelled().await;
                    Ok(())
                }
                How::PanicsWhenAsked => {
                    ctx.cancelled().await;
                    panic!("boom")
                }
                How::FailsWhenAsked => {
                    ctx.cancelled().await;
                    Err("down")
                }
            }
        }
    })
    .backoff(Backoff::constant(SHORT))
    .classify(|error: &&str| match *error {
        "for good" => ErrorClass::Permanent,
        _ => ErrorClass::Transient,
    });
    if passes { config.run_timeout(SHORT) } else { config }
}

/// Ends a scenario: everything stops by itself, each run has told its end, nothing is alive.
async fn ends_well(tasks: &TaskManager, told: &mut Told, alive: &Alive) {
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(tasks);
    assert_eq!(alive.now(), 0, "futures are left alive");
    assert!(alive.most() <= alive.total());
}

fn manager() -> TaskManager {
    TaskManager::builder().max_names(1_200).build().unwrap()
}

/// A manager, what it tells, and how many of its futures live.
fn begun() -> (TaskManager, Told, Alive) {
    let tasks = manager();
    let told = Told::by(&tasks);
    (tasks, told, Alive::default())
}

/// How long tasks waited for their restarts, in order.
fn delays(told: &mut Told) -> Vec<Duration> {
    let delay = |event: &TaskEvent| match event.kind {
        TaskEventKind::BackingOff { delay, .. } => Some(delay),
        _ => None,
    };
    told.all().iter().filter_map(delay).collect()
}

/// What is drawn of a manager that must still do everything: its calls answer, and a task comes, goes and is counted.
async fn everything_still_works(tasks: &TaskManager) {
    let alive = Alive::default();
    tasks.register(obedient("probe", &alive)).expect("registered");
    eventually("the probe runs", || state(tasks, "probe") == Some(TaskState::Running)).await;
    assert!(tasks.snapshots().iter().any(|task| &*task.name == "probe"));
    assert!(tasks.task_health("probe").is_some_and(|health| health.is_healthy()));
    assert!(tasks.health().tasks.iter().any(|(name, _)| &**name == "probe"));
    tasks.statistics();
    tasks.stop("probe").expect("registered");
    eventually("the probe stops", || state(tasks, "probe") == Some(TaskState::Stopped)).await;
    tasks.unregister("probe").await.expect("registered");
    tasks.spawn("command_probe", async {}).await.expect("a short task runs");
    assert_eq!(alive.now(), 0);
}

/// A value whose destructor panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb");
    }
}

// ---------------------------------------------------------------------------------------------------------------- 1

async fn fault_01_panic_is_reported_with_its_text_and_restarted(_: On) {
    let (tasks, mut told, alive) = begun();
    let payloads: [(&str, fn()); 3] = [
        ("a str", || panic!("in so many words")),
        ("a String", || std::panic::panic_any("in so many words".to_owned())),
        ("no string", || std::panic::panic_any(42)),
    ];
    for (name, payload) in payloads {
        let alive = alive.clone();
        let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            alive.during(async move {
                match ctx.generation() {
                    1 => payload(),
                    2 => {
                        tokio::task::yield_now().await;
                        payload()
                    }
                    _ => ctx.cancelled().await,
                }
            })
        });
        tasks.register(config.backoff(Backoff::constant(SHORT))).expect("registered");
    }
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    for (name, _) in payloads {
        eventually("the third life", || {
            tasks.snapshot(name).is_some_and(|task| task.total_restarts() == 2)
                && state(&tasks, name) == Some(TaskState::Running)
        })
        .await;
    }
    assert_eq!(tasks.snapshot("sibling").map(|task| task.total_runs()), Some(0), "it goes on");
    ends_well(&tasks, &mut told, &alive).await;
    for ((name, _), text) in
        payloads.iter().zip(["in so many words", "in so many words", "non-string payload"])
    {
        let lives = ["started", "restarted panic", "restarted panic"];
        let mut story = vec!["registered"];
        story.extend([lives[0], "ready", "exited panic", "backing_off panic"]);
        story.extend([lives[1], "ready", "exited panic", "backing_off panic"]);
        story.extend([lives[2], "ready", "exited success"]);
        assert_eq!(told.story(name), story, "{name}");
        for exit in &told.exits(name)[..2] {
            assert!(matches!(exit, Exit::Panic(panic) if panic.text == *text), "{name}: {exit:?}");
            assert!(matches!(exit, Exit::Panic(panic) if panic.location.is_some()), "{name}: {exit:?}");
        }
        assert_eq!(restarts(&tasks, name, RestartReason::Panic), 2, "{name}");
        assert_eq!(tasks.snapshot(name).map(|task| task.total_errors()), Some(2), "{name}");
    }
    assert_eq!(told.exits("sibling"), [Exit::Success]);
}

/// The payload is the user's value, so its destructor is the user's code.
async fn fault_01_a_payload_whose_destructor_panics_ends_one_life(_: On) {
    let (tasks, mut told, alive) = begun();
    let of_task = alive.clone();
    let config = CriticalTaskConfig::new("bomb", move |ctx: TaskContext| {
        of_task.during(async move {
            if ctx.generation() == 1 {
                std::panic::panic_any(Bomb);
            }
            ctx.cancelled().await;
        })
    });
    tasks.register(config.backoff(Backoff::constant(SHORT))).expect("registered");
    tasks.start();
    eventually("the second life", || {
        restarts(&tasks, "bomb", RestartReason::Panic) == 1
            && state(&tasks, "bomb") == Some(TaskState::Running)
    })
    .await;
    ends_well(&tasks, &mut told, &alive).await;
    assert_eq!(
        told.story("bomb"),
        [
            "registered",
            "started",
            "ready",
            "exited panic",
            "backing_off panic",
            "restarted panic",
            "ready",
            "exited success"
        ]
    );
}

on_each_runtime! { run:
    // Fails where a payload that is a `String` is not looked at.
    fault_01_panic_is_reported_with_its_text_and_restarted,
    // Fails where a payload is dropped uncontained.
    fault_01_a_payload_whose_destructor_panics_ends_one_life,
}

// ---------------------------------------------------------------------------------------------------------------- 2

async fn fault_02_a_panic_under_a_shared_mutex_poisons_nothing_of_ours(_: On) {
    let (tasks, mut told, alive) = begun();
    let shared = Arc::new(Mutex::new(0_u64));
    let (held, manager_of_holder) = (shared.clone(), tasks.clone());
    let holder = CriticalTaskConfig::new("holder", move |ctx: TaskContext| {
        let (held, tasks) = (held.clone(), manager_of_holder.clone());
        async move {
            if ctx.generation() > 1 {
                ctx.cancelled().await;
                return;
            }
            let _held = held.lock().unwrap_or_else(PoisonError::into_inner);
            // In the midst of the manager's own code, as deep as the user's gets.
            let _never = tasks.task("command_never").spawn_with(|_| -> Ready<()> { panic!("under a lock") });
        }
    });
    let (read, beats) = (shared.clone(), Arc::new(AtomicU64::new(0)));
    let counted = beats.clone();
    let of_sibling = alive.clone();
    let sibling = CriticalTaskConfig::new("sibling", move |ctx: TaskContext| {
        let (read, counted, guard) = (read.clone(), counted.clone(), of_sibling.guard());
        async move {
            let _guard = guard;
            while !ctx.is_cancelled() {
                *read.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                counted.fetch_add(1, SeqCst);
                tokio::select! { () = sleep(millis(1)) => {}, () = ctx.cancelled() => {} }
            }
        }
    });
    tasks.register(sibling).expect("registered");
    tasks.register(holder.backoff(Backoff::constant(SHORT))).expect("registered");
    tasks.start();
    eventually("the holder again", || restarts(&tasks, "holder", RestartReason::Panic) == 1).await;
    assert!(shared.is_poisoned(), "which is the user's affair");
    let before = beats.load(SeqCst);
    eventually("the sibling goes on", || beats.load(SeqCst) > before + 2).await;
    everything_still_works(&tasks).await;
    let never = tasks.snapshot("command_never").expect("a name that was seen");
    assert_eq!((never.active, never.total_runs()), (0, 0), "it never ran");
    ends_well(&tasks, &mut told, &alive).await;
    assert_eq!(told.exits("sibling"), [Exit::Success]);
    assert!(matches!(&told.exits("holder")[..], [Exit::Panic(_), Exit::Success]));
}

on_each_runtime! { run:
    // Fails where the lock of the registrations is held while a short task's closure is called.
    fault_02_a_panic_under_a_shared_mutex_poisons_nothing_of_ours,
}

// ---------------------------------------------------------------------------------------------------------------- 3

/// A task that never hears, and whose destructor panics.
fn explosive(name: &str, alive: &Alive) -> CriticalTaskConfig {
    let alive = alive.clone();
    CriticalTaskConfig::new(name, move |_| {
        // Dropped first, and must not keep the guard from being dropped.
        let (guard, bomb) = (alive.guard(), Bomb);
        async move {
            let _guard = guard;
            let _bomb = bomb;
            std::future::pending::<()>().await;
        }
    })
    .shutdown_grace(SHORT)
}

async fn fault_03_a_destructor_that_panics_holds_up_nothing(_: On) {
    let spans = Spans::new();
    let tasks = TaskManager::builder().tracer(spans.tracer()).build().unwrap();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    for name in ["stopped", "restarted", "removed", "left"] {
        tasks.register(explosive(name, &alive)).expect("registered");
    }
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    eventually("all run", || alive.now() == 5).await;
    tasks.stop("stopped").expect("registered");
    tasks.restart("restarted").expect("registered");
    tasks.unregister("removed").await.expect("registered");
    eventually("stopped", || state(&tasks, "stopped") == Some(TaskState::Stopped)).await;
    eventually("restarted", || {
        restarts(&tasks, "restarted", RestartReason::Requested) == 1
            && state(&tasks, "restarted") == Some(TaskState::Running)
    })
    .await;
    let guard = alive.guard();
    let begun = Arc::new(AtomicUsize::new(0));
    let begins = begun.clone();
    let short = tasks.task("command_short").spawn(async move {
        let _guard = guard;
        let _bomb = Bomb;
        begins.store(1, SeqCst);
        std::future::pending::<()>().await;
    });
    everything_still_works(&tasks).await;
    eventually("it has begun", || begun.load(SeqCst) == 1).await;
    short.abort();
    assert!(short.await.is_err());

    let report = tasks.shutdown().await;
    let outcomes = report.tasks.iter().map(|task| (&*task.name, task.outcome));
    // The probe was unregistered; that it is in no report is held elsewhere.
    let outcomes: Vec<_> = outcomes.filter(|(name, _)| *name != "probe").collect();
    for (name, outcome) in [
        ("left", ShutdownOutcome::Aborted),
        ("restarted", ShutdownOutcome::Aborted),
        ("sibling", ShutdownOutcome::Clean),
        ("stopped", ShutdownOutcome::NotRunning),
    ] {
        assert!(outcomes.contains(&(name, outcome)), "{name} is not {outcome}: {report}");
    }
    assert_eq!((outcomes.len(), report.exit_code()), (4, 1), "{report}");
    assert!(report.duration < report.deadline, "it goes on at once: {report}");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
    for (name, runs) in [("stopped", 1), ("restarted", 2), ("removed", 1), ("left", 1), ("command_short", 1)]
    {
        let of_task = spans.runs_of(name);
        assert_eq!(of_task.len(), runs, "{name}");
        for run in of_task {
            assert_eq!(attribute(&run, "task.run.drop_panicked"), Some(true.into()), "{name}: {run:#?}");
        }
        if name != "command_short" {
            assert!(told.exits(name).iter().all(|exit| *exit == Exit::Cancellation), "{name}");
        }
    }
}

on_each_runtime! { run:
    // Fails where the destructor is not caught, or not marked on the span.
    fault_03_a_destructor_that_panics_holds_up_nothing,
}

// ---------------------------------------------------------------------------------------------------------------- 4

async fn fault_04_a_factory_that_panics_is_a_failed_start(_: On) {
    let (tasks, mut told, alive) = begun();
    let broken = CriticalTaskConfig::new("broken", |_| -> Ready<()> { panic!("no future today") })
        .backoff(Backoff::new(SHORT, 2.0, 4 * SHORT).expect("valid").jitter(Jitter::None))
        .max_restarts(4, secs(600));
    tasks.register(broken).expect("registered");
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    eventually("given up", || state(&tasks, "broken") == Some(TaskState::Failed)).await;
    assert_eq!(state(&tasks, "sibling"), Some(TaskState::Running));
    everything_still_works(&tasks).await;
    let delays: Vec<_> = told
        .all()
        .iter()
        .filter_map(|event| match event.kind {
            TaskEventKind::BackingOff { delay, reason: RestartReason::Panic, .. } => Some(delay),
            _ => None,
        })
        .collect();
    assert_eq!(delays, [SHORT, 2 * SHORT, 4 * SHORT, 4 * SHORT]);
    let exits = told.exits("broken");
    assert_eq!(exits.len(), 5, "a failed start is a run: {exits:?}");
    assert!(exits.iter().all(|exit| matches!(exit, Exit::Panic(panic) if panic.text == "no future today")));
    let error = tasks.snapshot("broken").and_then(|task| task.last_error).expect("it failed");
    assert!(error.message.contains("no future today"), "{error:?}");
    assert_eq!(told.exits("sibling"), []);
    ends_well(&tasks, &mut told, &alive).await;
}

on_each_runtime! { run:
    // Fails where a panic has no delay, or does not count against the limit.
    fault_04_a_factory_that_panics_is_a_failed_start,
}

// ---------------------------------------------------------------------------------------------------------------- 5

/// A task that ends at once, every time, and when each life began.
fn at_once(name: &str) -> (CriticalTaskConfig, Arc<Mutex<Vec<Instant>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let log = begun.clone();
    let config = CriticalTaskConfig::new(name, move |_| {
        log.lock().expect("no panic under it").push(Instant::now());
        std::future::ready(())
    });
    (config.restart_policy(RestartPolicy::Always), begun)
}

fn shortest_distance(begun: &Mutex<Vec<Instant>>) -> Duration {
    let begun = begun.lock().expect("no panic under it");
    begun.windows(2).map(|pair| pair[1] - pair[0]).min().expect("it began twice")
}

async fn fault_05_task_ending_at_once_causes_no_hot_loop(on: On) {
    let tasks = manager();
    let mut told = Told::by(&tasks);
    let (config, begun) = at_once("hasty");
    // In virtual time the delays as they are by default; half of the first is the least.
    let (config, least) = match on {
        On::CurrentThread => (config, millis(500)),
        _ => (config.backoff(Backoff::new(4 * SHORT, 2.0, 8 * SHORT).expect("valid")), 2 * SHORT),
    };
    tasks.register(config.max_restarts(5, secs(600))).expect("registered");
    // Even a delay of nothing ends at the limit, and meanwhile others come by.
    let (unwise, its_lives) = at_once("unwise");
    let unwise = unwise.backoff(Backoff::constant(Duration::ZERO)).max_restarts(1_000, secs(600));
    tasks.register(unwise).expect("registered");
    let (seen, lives) = (Arc::new(AtomicUsize::new(usize::MAX)), its_lives.clone());
    let first_look = seen.clone();
    tasks.start();
    let passer_by = tokio::spawn(async move {
        first_look.store(lives.lock().expect("no panic under it").len(), SeqCst);
    });
    passer_by.await.expect("it comes by");
    assert!(seen.load(SeqCst) < 1_001, "nobody was let in between: {}", seen.load(SeqCst));
    let began = Instant::now();
    for name in ["unwise", "hasty"] {
        // Not `eventually`: by default it takes minutes.
        while state(&tasks, name) != Some(TaskState::Failed) {
            told.all();
            assert!(began.elapsed() < secs(600), "{name} is given up within its window");
            sleep(SHORT).await;
        }
    }
    assert!(shortest_distance(&begun) >= least, "{:?}", shortest_distance(&begun));
    assert_eq!(begun.lock().expect("no panic under it").len(), 6, "the first life and five restarts");
    assert_eq!(its_lives.lock().expect("no panic under it").len(), 1_001);
    assert_eq!(restarts(&tasks, "hasty", RestartReason::Finished), 5);
    assert_eq!(told.count("hasty", |kind| matches!(kind, TaskEventKind::GaveUp { .. })), 1);
    ends_well(&tasks, &mut told, &Alive::default()).await;
}

on_each_runtime! { run:
    // Fails where there is no delay.
    fault_05_task_ending_at_once_causes_no_hot_loop,
}

// ---------------------------------------------------------------------------------------------------------------- 6

/// What one end leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    Restart(RestartReason),
    Rest(TaskState),
}

async fn fault_06_every_end_under_every_policy_follows_the_table(_: On) {
    use Follows::{Rest, Restart};
    use RestartReason::{Failure, Finished, Panic, Stalled, Timeout};
    use TaskState::{Failed, Stopped};
    let finished = Rest(TaskState::Finished);
    // The end, and what follows it as permanent, transient and temporary; then whether it is asked to stop.
    let table = [
        (How::Succeeds, [Restart(Finished), finished, finished], false),
        (How::FailsForGood, [Rest(Failed), Rest(Failed), Rest(Failed)], false),
        (How::Fails, [Restart(Failure), Restart(Failure), Rest(Failed)], false),
        (How::Panics, [Restart(Panic), Restart(Panic), Rest(Failed)], false),
        (How::Passes, [Restart(Timeout), Restart(Timeout), Rest(Failed)], false),
        (How::Pends, [Restart(Stalled), Restart(Stalled), Rest(Failed)], false),
        (How::Obeys, [Rest(Stopped), Rest(Stopped), Rest(Stopped)], true),
        (How::FailsWhenAsked, [Rest(Stopped), Rest(Stopped), Rest(Stopped)], true),
        (How::PanicsWhenAsked, [Rest(Stopped), Rest(Stopped), Rest(Stopped)], true),
        (How::Pends, [Rest(Stopped), Rest(Stopped), Rest(Stopped)], true),
    ];
    let policies = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
    let (tasks, mut told, alive) = begun();
    let mut cells = Vec::new();
    for (how, row, asked) in table {
        for (policy, follows) in policies.into_iter().zip(row) {
            let name = format!("{how:?} {policy:?} {asked}");
            let mut config =
                scripted(&name, &alive, &[how, How::Obeys]).restart_policy(policy).shutdown_grace(SHORT);
            if how == How::Pends && !asked {
                config = config.heartbeat_timeout(5 * SHORT).on_stall(StallAction::Restart);
            }
            tasks.register(config).expect("registered");
            cells.push((name, how, follows, asked));
        }
    }
    tasks.start();
    for (name, ..) in cells.iter().filter(|(.., asked)| *asked) {
        eventually("it runs", || state(&tasks, name) == Some(TaskState::Running)).await;
        tasks.stop(name).expect("registered");
    }
    for (name, _, follows, _) in &cells {
        match *follows {
            Rest(rest) => eventually(name, || state(&tasks, name) == Some(rest)).await,
            Restart(reason) => {
                eventually(name, || {
                    // One that stalls does so again, since it gives no sign of life.
                    restarts(&tasks, name, reason) >= 1 && told.story(name).contains(&"ready".to_owned())
                })
                .await;
            }
        }
    }
    // What rests stays at rest.
    sleep(5 * SHORT).await;
    for (name, how, follows, asked) in &cells {
        let restarts = tasks.snapshot(name).expect("registered");
        let exit = match how {
            How::Succeeds | How::Obeys => "exited success",
            How::Fails | How::FailsForGood | How::FailsWhenAsked => "exited failure",
            How::Panics | How::PanicsWhenAsked => "exited panic",
            How::Passes => "exited timeout",
            How::Pends => "exited cancellation",
        };
        let mut story = vec!["registered".to_owned(), "started".into(), "ready".into()];
        if *how == How::Pends && !asked {
            story.push("stalled".into());
        }
        story.push(exit.into());
        match *follows {
            Restart(reason) => {
                assert!(RestartReason::ALL.iter().all(|of| (*of == reason) == (restarts.restarts(*of) > 0)));
                if reason != Stalled {
                    story.push(format!("backing_off {}", reason.as_str()));
                }
                story.push(format!("restarted {}", reason.as_str()));
            }
            Rest(rest) => {
                assert_eq!(state(&tasks, name), Some(rest), "{name}");
                assert_eq!(restarts.total_restarts(), 0, "{name}");
                story.push(if rest == Failed { "gave_up" } else { rest.as_str() }.into());
            }
        }
        let so_far = told.story(name);
        assert_eq!(so_far[..story.len().min(so_far.len())], story, "{name}");
        if matches!(follows, Rest(_)) {
            assert_eq!(so_far.len(), story.len(), "{name}: {so_far:?}");
        }
    }
    tasks.shutdown().await;
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

on_each_runtime! { run:
    // Fails where `Never` restarts after a timeout.
    fault_06_every_end_under_every_policy_follows_the_table,
}

// ---------------------------------------------------------------------------------------------------------------- 7

async fn fault_07_restart_storm_is_spread_and_commands_still_work(_: On) {
    const TASKS: usize = 1_000;
    const DELAY: Duration = Duration::from_secs(4);
    let (tasks, mut told, alive) = begun();
    let fail = tokio::sync::watch::Sender::new(false);
    for number in 0..TASKS {
        let (alive, fail) = (alive.clone(), fail.subscribe());
        let config = CriticalTaskConfig::new(format!("storm {number}"), move |ctx: TaskContext| {
            let (guard, mut fail) = (alive.guard(), fail.clone());
            async move {
                let _guard = guard;
                if ctx.generation() > 1 {
                    ctx.cancelled().await;
                    return Ok(());
                }
                fail.wait_for(|fail| *fail).await.map(drop).map_err(|_| "gone")?;
                Err("all at once")
            }
        });
        tasks.register(config.backoff(Backoff::constant(DELAY).jitter(Jitter::Equal))).expect("one");
    }
    tasks.register(obedient("bystander", &alive)).expect("registered");
    tasks.start();
    eventually("all run", || alive.now() == TASKS + 1).await;
    told.all();
    fail.send_replace(true);
    // In the midst of it a command is carried out, and questions are answered. The promise is a tenth of a second; the limit
    // is for a busy machine, and still before the first of them begins again.
    const LIMIT: Duration = Duration::from_secs(2);
    let (asked, asked_by_the_clock) = (Instant::now(), StdInstant::now());
    tasks.stop("bystander").expect("registered");
    eventually("it is stopped", || state(&tasks, "bystander") == Some(TaskState::Stopped)).await;
    let took = asked.elapsed().max(asked_by_the_clock.elapsed());
    assert!(took < LIMIT, "a stop took {took:?}");
    let asked = StdInstant::now();
    assert_eq!(tasks.snapshots().len(), TASKS + 1);
    assert_eq!(tasks.health().tasks.len(), TASKS + 1);
    assert!(asked.elapsed() < LIMIT, "two questions took {:?}", asked.elapsed());
    eventually("all run again", || {
        told.all();
        alive.now() == TASKS && alive.total() == 2 * TASKS + 1
    })
    .await;
    let delays = delays(&mut told);
    assert_eq!(delays.len(), TASKS);
    assert!(delays.iter().all(|delay| (DELAY / 2..=DELAY).contains(delay)));
    let mut tenths = [0_u32; 10];
    for delay in delays {
        let part = (delay - DELAY / 2).as_secs_f64() / (DELAY / 2).as_secs_f64();
        tenths[((part * 10.0) as usize).min(9)] += 1;
    }
    // Six standard deviations of a fair draw.
    assert!(tenths.iter().all(|tenth| (43..=157).contains(tenth)), "{tenths:?}");
    assert_eq!(alive.most(), TASKS + 1, "no two lives of one task");
    // The bystander is not running, and everything else ends by itself.
    ends_well(&tasks, &mut told, &alive).await;
}

on_each_runtime! { run:
    // Fails where the draw is always the same.
    fault_07_restart_storm_is_spread_and_commands_still_work,
}

// ---------------------------------------------------------------------------------------------------------------- 8

async fn fault_08_at_its_limit_a_task_is_given_up_once_and_a_restart_by_hand_forgives(_: On) {
    let (tasks, mut told, alive) = begun();
    let group = TaskGroup::new("pair", RestartStrategy::OneForOne).task(obedient("other", &alive)).task(
        scripted("failing", &alive, &[How::Fails]).max_restarts(2, secs(600)).escalation(Escalation::Group),
    );
    tasks.register_group(group).expect("registered");
    tasks.register(obedient("stranger", &alive)).expect("registered");
    tasks.start();
    let gave_up = |kind: &TaskEventKind| matches!(kind, TaskEventKind::GaveUp { .. });
    eventually("given up", || state(&tasks, "failing") == Some(TaskState::Failed)).await;
    eventually("it takes its group along", || state(&tasks, "other") == Some(TaskState::Stopped)).await;
    sleep(10 * SHORT).await;
    let lives = |told: &mut Told| told.count("failing", |kind| matches!(kind, TaskEventKind::Started { .. }));
    assert_eq!((lives(&mut told), told.count("failing", gave_up)), (3, 1), "{:?}", told.story("failing"));
    assert_eq!(
        told.story("other"),
        ["registered", "started", "ready", "yielding group", "exited success", "stopped"]
    );
    assert_eq!(state(&tasks, "stranger"), Some(TaskState::Running));
    assert!(!tasks.health().is_live, "a task was given up");

    // By hand it has its whole limit again.
    assert_eq!(tasks.restart("failing"), Ok(Duration::ZERO));
    eventually("given up again", || told.count("failing", gave_up) == 2).await;
    assert_eq!(lives(&mut told), 6, "{:?}", told.story("failing"));
    let reasons =
        [RestartReason::Failure, RestartReason::Requested].map(|reason| restarts(&tasks, "failing", reason));
    assert_eq!(reasons, [4, 1]);
    assert_eq!(state(&tasks, "stranger"), Some(TaskState::Running));
    ends_well(&tasks, &mut told, &alive).await;
}

async fn fault_08_at_their_limit_two_tasks_shut_the_manager_down_once(_: On) {
    let (tasks, mut told, alive) = begun();
    for name in ["one", "two"] {
        let failing = scripted(name, &alive, &[How::Fails]).max_restarts(1, secs(600));
        tasks.register(failing.escalation(Escalation::Shutdown)).expect("registered");
    }
    tasks.register(obedient("other", &alive)).expect("registered");
    tasks.start();
    let report = tasks.run_until(std::future::pending::<()>()).await;
    let cause = report.cause.as_ref().expect("it was not asked for");
    assert_eq!(cause.reason, "restarted too often");
    assert_eq!((report.exit_code(), report.count(ShutdownOutcome::Clean) >= 1), (1, true), "{report}");
    let again = tasks.shutdown().await;
    assert!(Arc::ptr_eq(&report, &again), "one shutdown");
    let stories = told.stories();
    for once in ["shutdown_began", "shutdown_ended"] {
        assert_eq!(stories.iter().filter(|line| *line == once).count(), 1, "{stories:?}");
    }
    assert_eq!(told.story(&cause.task).iter().filter(|line| *line == "gave_up").count(), 1);
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

on_each_runtime! { run:
    // Fails where the restart by hand forgives nothing, the escalation is left out, or giving up is told twice.
    fault_08_at_its_limit_a_task_is_given_up_once_and_a_restart_by_hand_forgives,
    // Fails where the escalation is left out.
    fault_08_at_their_limit_two_tasks_shut_the_manager_down_once,
}

// ---------------------------------------------------------------------------------------------------------------- 9

/// A task that lives for so long, then fails.
fn living(name: &str, lives_for: Duration, lives: &Arc<AtomicU64>) -> CriticalTaskConfig {
    let lives = lives.clone();
    CriticalTaskConfig::new(name, move |_| {
        lives.fetch_add(1, SeqCst);
        async move {
            sleep(lives_for).await;
            Err::<(), _>("after a while")
        }
    })
    .backoff(Backoff::constant(Duration::ZERO))
}

async fn fault_09_failures_just_outside_the_window_are_never_too_many(on: On) {
    // In real time only what cannot be early is outside the window, and there are fewer.
    let (window, failures) = match on {
        On::CurrentThread => (secs(10), 10_000),
        _ => (millis(3), 200),
    };
    let tasks = manager();
    let (outside, inside) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let slow = living("outside", window + millis(1), &outside).max_restarts(1, window);
    // Two in the window, so three fit and the fourth does not.
    let slower = living("twice outside", window / 2 + millis(1), &Arc::default()).max_restarts(2, window);
    let quick = living("inside", secs(3), &inside).max_restarts(3, secs(10)).give_up(GiveUp::ForGood);
    for config in [slow, slower] {
        tasks.register(config).expect("registered");
    }
    if on == On::CurrentThread {
        tasks.register(quick).expect("registered");
    }
    tasks.start();
    while outside.load(SeqCst) <= failures {
        sleep(window).await;
        assert_eq!(state(&tasks, "outside").filter(|state| *state == TaskState::Failed), None);
    }
    assert_ne!(state(&tasks, "twice outside"), Some(TaskState::Failed));
    assert!(tasks.task_health("outside").is_some_and(|health| health.restart_count >= failures));
    if on == On::CurrentThread {
        assert_eq!((state(&tasks, "inside"), inside.load(SeqCst)), (Some(TaskState::Failed), 4));
    }
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
}

on_each_runtime! { run:
    // Fails where the window is twice as long.
    fault_09_failures_just_outside_the_window_are_never_too_many,
}

/// Each failure has its time kept while it is in the window, and no longer.
async fn a_task_that_always_fails(_: On) {
    let tasks = manager();
    let lives = Arc::new(AtomicU64::new(0));
    let slow = living("slow", secs(1), &lives).max_restarts(1_000, secs(999));
    tasks.register(slow).expect("registered");
    tasks.start();
    sleep(secs(5_000)).await;
    let before = rss();
    sleep(secs(10_000)).await;
    assert!(lives.load(SeqCst) > 10_000);
    let grown = rss().saturating_sub(before);
    // Not a hundred bytes for each.
    assert!(grown < 1_000, "10,000 failures, and {grown} KiB more");
}

// Fails where each failure leaks 400 bytes.
#[test]
fn fault_09_ten_thousand_failures_take_no_memory() {
    let test = "exits::fault_09_ten_thousand_failures_take_no_memory";
    Case { on: On::CurrentThread, test }.run_alone(a_task_that_always_fails);
}

// --------------------------------------------------------------------------------------------------------------- 10

async fn fault_10_a_stable_life_begins_the_delays_again(_: On) {
    const STABLE: Duration = Duration::from_secs(1);
    let tasks = manager();
    let mut told = Told::by(&tasks);
    let config = CriticalTaskConfig::new("task", move |ctx: TaskContext| async move {
        match ctx.generation() {
            4 => sleep(STABLE).await,
            // Just not stable.
            6 => sleep(STABLE / 2).await,
            8.. => {
                ctx.cancelled().await;
                return Ok(());
            }
            _ => {}
        }
        Err("down")
    });
    let backoff =
        Backoff::new(SHORT, 2.0, 60 * SHORT).expect("valid").jitter(Jitter::None).stable_after(STABLE);
    tasks.register(config.backoff(backoff).max_restarts(10, secs(600))).expect("registered");
    tasks.start();
    told.until("the eighth life", |event| {
        event.generation == 8 && matches!(event.kind, TaskEventKind::Started { .. })
    })
    .await;
    let delays = delays(&mut told);
    assert_eq!(delays, [1, 2, 4, 1, 2, 4, 8].map(|steps| steps * SHORT));
    // The limit is another matter: what is in its window counts, stable or not.
    eventually("the seventh is counted", || restarts(&tasks, "task", RestartReason::Failure) == 7).await;
    ends_well(&tasks, &mut told, &Alive::default()).await;
}

on_each_runtime! { run:
    // Fails where a stable life is not asked for.
    fault_10_a_stable_life_begins_the_delays_again,
}

// --------------------------------------------------------------------------------------------------------------- 11

const HOUR: Duration = Duration::from_secs(3_600);
/// Ten times what "at once" means.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Waits, and fails where it takes longer than "at once": in virtual time it takes nothing.
async fn at_once_is(what: &str, happens: impl Future) {
    let began = Instant::now();
    happens.await;
    assert!(began.elapsed() < AT_ONCE, "{what} took {:?}", began.elapsed());
}

async fn fault_11_orders_during_a_backoff_do_not_wait_for_its_timer(_: On) {
    let (tasks, mut told, alive) = begun();
    for name in ["stopped", "restarted", "removed", "paused", "replaced"] {
        let config = scripted(name, &alive, &[How::Fails, How::Obeys]).backoff(Backoff::constant(HOUR));
        tasks.register(config.max_restarts(5, 10 * HOUR)).expect("registered");
    }
    tasks.start();
    for name in ["stopped", "restarted", "removed", "paused", "replaced"] {
        eventually("it waits", || state(&tasks, name) == Some(TaskState::Backoff)).await;
    }
    assert_eq!(alive.now(), 0);

    tasks.stop("stopped").expect("registered");
    at_once_is("a stop", eventually("stopped", || state(&tasks, "stopped") == Some(TaskState::Stopped)))
        .await;
    tasks.pause("paused").expect("registered");
    at_once_is("a pause", eventually("paused", || state(&tasks, "paused") == Some(TaskState::Paused))).await;
    tasks.restart("restarted").expect("registered");
    at_once_is("a restart", eventually("it runs", || state(&tasks, "restarted") == Some(TaskState::Running)))
        .await;
    at_once_is("a removal", async { tasks.unregister("removed").await.expect("registered") }).await;
    tasks.register(obedient("removed", &alive)).expect("the name is free");
    at_once_is("a replacement", async {
        tasks.replace(obedient("replaced", &alive)).await.expect("registered");
    })
    .await;

    settle().await;
    eventually("all run", || alive.now() == 3).await;
    assert_eq!(
        told.story("restarted"),
        [
            "registered",
            "started",
            "ready",
            "exited failure",
            "backing_off failure",
            "restarted requested",
            "ready"
        ]
    );
    assert_eq!(restarts(&tasks, "restarted", RestartReason::Requested), 1);
    assert_eq!(restarts(&tasks, "restarted", RestartReason::Failure), 0, "one restart, not two");
    tasks.resume("paused").expect("registered");
    eventually("it goes on", || state(&tasks, "paused") == Some(TaskState::Running)).await;
    assert_eq!(state(&tasks, "stopped"), Some(TaskState::Stopped));
    ends_well(&tasks, &mut told, &alive).await;
    assert_eq!(alive.total(), 5 + 4);
}

on_each_runtime! { run:
    // Fails where a stop, or a restart, waits for the timer.
    fault_11_orders_during_a_backoff_do_not_wait_for_its_timer,
}

// Fails where a stop waits for the timer.
#[tokio::test(start_paused = true)]
async fn fault_11_a_timer_that_was_called_off_never_fires() {
    let alive = Alive::default();
    for order in [TaskManager::stop, TaskManager::pause] {
        let tasks = manager();
        let mut told = Told::by(&tasks);
        let config = scripted("task", &alive, &[How::Fails, How::Obeys]).backoff(Backoff::constant(HOUR));
        tasks.register(config.max_restarts(5, 10 * HOUR)).expect("registered");
        tasks.start();
        settle().await;
        order(&tasks, "task").expect("registered");
        sleep(5 * HOUR).await;
        assert_eq!(told.count("task", |kind| matches!(kind, TaskEventKind::Started { .. })), 1);
        assert_eq!(alive.now(), 0);
    }
}

/// The order and the timer in one millisecond, in whichever sequence: the order is what stands at the end.
// Fails where a stop waits for the timer.
#[tokio::test(start_paused = true)]
async fn fault_11_a_stop_that_comes_just_when_the_restart_falls_due_wins() {
    for early in [0, 1] {
        let tasks = manager();
        let mut told = Told::by(&tasks);
        let alive = Alive::default();
        let config = scripted("task", &alive, &[How::Fails, How::Obeys]).backoff(Backoff::constant(secs(1)));
        tasks.register(config).expect("registered");
        tasks.start();
        let due = Instant::now() + secs(1) - millis(early);
        told.until("it waits", |event| matches!(event.kind, TaskEventKind::BackingOff { .. })).await;
        tokio::time::sleep_until(due).await;
        tasks.stop("task").expect("registered");
        sleep(secs(10)).await;
        assert_eq!(state(&tasks, "task"), Some(TaskState::Stopped));
        assert_eq!(alive.now(), 0);
        told.check_runs(&tasks);
        if early > 0 {
            assert_eq!(alive.total(), 1, "{:?}", told.story("task"));
        }
    }
}

// --------------------------------------------------------------------------------------------------------------- 12

async fn fault_12_a_shutdown_does_not_wait_for_a_backoff(on: On) {
    let (tasks, mut told, alive) = begun();
    let waiting = scripted("waiting", &alive, &[How::Fails, How::Obeys]).backoff(Backoff::constant(HOUR));
    tasks.register(waiting.max_restarts(5, 10 * HOUR)).expect("registered");
    tasks.register(obedient("running", &alive)).expect("registered");
    tasks.start();
    eventually("it waits", || state(&tasks, "waiting") == Some(TaskState::Backoff)).await;
    eventually("it runs", || alive.now() == 1).await;
    let (began, began_by_the_clock) = (Instant::now(), StdInstant::now());
    let report = tasks.shutdown().await;
    let took = began.elapsed().max(began_by_the_clock.elapsed());
    assert!(took < AT_ONCE && report.duration < AT_ONCE, "{took:?} {report}");
    let outcomes: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.outcome)).collect();
    assert_eq!(outcomes.len(), 2, "{report}");
    assert!(outcomes.contains(&("waiting", ShutdownOutcome::NotRunning)), "{report}");
    assert!(outcomes.contains(&("running", ShutdownOutcome::Clean)), "{report}");
    assert!(report.is_clean());
    // The timer is cancelled: in virtual time nothing is left that could move the clock but this.
    sleep(if on == On::CurrentThread { 3 * HOUR } else { 5 * SHORT }).await;
    assert_eq!(told.exits("waiting").len(), 1);
    assert_eq!(
        told.story("waiting"),
        ["registered", "started", "ready", "exited failure", "backing_off failure"]
    );
    told.check_runs(&tasks);
    assert_eq!((alive.now(), alive.total()), (0, 2));
    assert_ne!(state(&tasks, "waiting"), Some(TaskState::Backoff), "nothing waits any more");
}

on_each_runtime! { run:
    // Fails where a backoff does not hear that it shall leave.
    fault_12_a_shutdown_does_not_wait_for_a_backoff,
}
