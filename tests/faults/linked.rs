//! Faults 21 to 23 and 31 to 33: readiness, dependencies, orders that race, signs of runs that are gone, groups.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskContext, TaskManager,
    events::{TaskEvent, TaskEventKind},
    health::HealthReason,
    policy::{
        DependencyLoss, Escalation, RestartReason,
        RestartStrategy::{OneForAll, OneForOne, RestForOne},
    },
    shutdown::ShutdownOutcome,
    snapshot::TaskState::{Backoff as InBackoff, Failed, Running, Stopped, Waiting},
    task::RegisterError,
};
use tokio::{task::yield_now, time::sleep};

use crate::{
    common::{On, Told, on_each_runtime},
    support::{Alive, eventually, millis, secs, shown},
};

#[allow(dead_code, clippy::allow_attributes, reason = "these faults use a part of it")]
#[path = "../otp/probe.rs"]
mod probe;

use probe::{Child, End, HOUR, Start, Stop, World, each_run_ended_once, group};

/// A delay that is short in real time too.
const SHORT: Duration = Duration::from_millis(30);

/// Long enough for what should not happen to have happened.
const A_WHILE: Duration = Duration::from_millis(150);

/// Waits until the log has this line, and answers what it has until then.
async fn until(world: &World, line: &str) -> Vec<String> {
    eventually(line, || world.log.has(line)).await;
    world.log.take()
}

async fn running(world: &World, names: &[&str]) {
    let ready = || names.iter().all(|name| world.is_ready(name));
    eventually("all run and are ready", ready).await;
}

fn waits_for(told: &[TaskEvent], task: &str) -> Vec<Vec<String>> {
    let of_task = told.iter().filter(|event| event.task.as_deref() == Some(task));
    let waits = of_task.filter_map(|event| match &event.kind {
        TaskEventKind::Waiting { waits_for, .. } => Some(waits_for.iter().map(ToString::to_string).collect()),
        _ => None,
    });
    waits.collect()
}

// 21: what is never ready.

/// It fails as timed out, is tried again, and is given up; who rests on it waits and says for whom; everything else goes on.
// Fails where there is no start timeout.
async fn fault_21_never_ready(_: On) {
    let mut world = World::new();
    let [db, api, other] = world.children(["db", "api", "other"]);
    db.starts(Start::Gated);
    let never_ready =
        db.transient().start_timeout(A_WHILE).backoff(Backoff::constant(SHORT)).max_restarts(2, HOUR);
    world.tasks.register_all([api.permanent().depends_on("db"), never_ready]).expect("no circle");
    world.tasks.start();
    eventually("it tries", || db.runs() == 1).await;
    assert_eq!(world.states(["db", "api"]), [Running, Waiting]);
    let health = world.tasks.health();
    assert!(health.is_live && !health.is_ready && !health.has_started, "{health:?}");
    let reasons = |name: &str| {
        let health = world.tasks.task_health(name).expect("known");
        health.reasons.iter().map(HealthReason::as_str).collect::<Vec<_>>()
    };
    assert_eq!((reasons("db"), reasons("api")), (vec!["not_ready"], vec!["waits_for"]));

    // Whoever waits, waits alone.
    let asked = tokio::time::Instant::now();
    world.tasks.register(other.permanent()).expect("a valid config");
    running(&world, &["other"]).await;
    world.tasks.stop("other").expect("registered");
    eventually("stopped", || world.state("other") == Stopped).await;
    world.tasks.unregister("other").await.expect("registered");
    assert!(asked.elapsed() < secs(2), "{:?}", asked.elapsed());

    eventually("given up", || world.state("db") == Failed).await;
    sleep(A_WHILE).await;
    assert_eq!((db.runs(), api.runs(), world.state("api")), (3, 0, Waiting));
    assert_eq!(world.restarts("db", RestartReason::Timeout), 2);
    // One that waits can be stopped, and begun again: then it waits again.
    world.tasks.stop("api").expect("registered");
    eventually("stopped", || world.state("api") == Stopped).await;
    world.tasks.restart("api").expect("registered");
    eventually("waits", || world.state("api") == Waiting).await;

    // Ready at last.
    db.starts(Start::Ready);
    world.tasks.restart("db").expect("registered");
    running(&world, &["db", "api"]).await;
    let told = world.told();
    assert_eq!(waits_for(&told, "api"), [["db"], ["db"]]);
    let ready = told.iter().rposition(|event| is(event, "db", |kind| matches!(kind, TaskEventKind::Ready)));
    assert!(ready < told.iter().position(|event| is_start(event, "api")), "first the one, then the other");
    assert!(world.tasks.health().is_ready);
    let report = world.tasks.shutdown().await;
    assert!(report.is_clean() && world.alive.now() == 0, "{report}");
    each_run_ended_once(&[told, world.told()].concat());
    assert_eq!(&*report.tasks[0].name, "api", "who rests on another goes first");
}

fn is(event: &TaskEvent, task: &str, kind: impl FnOnce(&TaskEventKind) -> bool) -> bool {
    event.task.as_deref() == Some(task) && kind(&event.kind)
}

fn is_start(event: &TaskEvent, task: &str) -> bool {
    is(event, task, |kind| matches!(kind, TaskEventKind::Started { .. }))
}

/// Ready just when the time is over: one decision, whichever it is.
// Fails where there is no start timeout.
#[tokio::test(start_paused = true)]
async fn fault_21_ready_at_the_last_moment_is_one_decision() {
    for late in [millis(999), secs(1), millis(1_001)] {
        let (world, [api]) = World::with(["api"]);
        let db = CriticalTaskConfig::new("db", move |ctx| async move {
            sleep(late).await;
            ctx.ready();
            ctx.cancelled().await;
        });
        let db = db.start_timeout(secs(1)).max_restarts(0, HOUR);
        world.tasks.register_all([db, api.permanent().depends_on("db")]).expect("no circle");
        world.tasks.start();
        sleep(secs(60)).await;
        let (state, begun) = (world.state("db"), api.runs());
        assert!((state, begun) == (Running, 1) || (state, begun) == (Failed, 0), "{late:?}: {state} {begun}");
        if late != secs(1) {
            assert_eq!(state == Running, late < secs(1));
        }
        world.finish().await;
    }
}

/// A shutdown does not wait for what never becomes ready, nor for who waits for it.
// Fails where a dependency counts as ready when it is registered.
async fn fault_21_shutdown_while_it_starts(_: On) {
    let (world, [db, api]) = World::with(["db", "api"]);
    db.starts(Start::Gated);
    world.tasks.register_all([db.permanent(), api.permanent().depends_on("db")]).expect("no circle");
    world.tasks.start();
    eventually("it tries", || db.runs() == 1).await;
    let report = world.finish().await;
    assert!(report.duration < secs(2) && report.is_clean(), "{report}");
    assert_eq!(report.count(ShutdownOutcome::NotRunning), 1, "api was not begun: {report}");
    assert_eq!(api.runs(), 0);
}

// 22: what one rests on is lost.

#[derive(Debug, Clone, Copy, PartialEq)]
enum Loss {
    Fails,
    IsStopped,
    IsRestarted,
    IsUnregistered,
    IsGivenUp,
}

/// `db` is lost while `api` rests on it and `web` on that: by each option and each kind of loss, in this order.
// Fails where `Keep` goes down with its dependency.
async fn fault_22_dependency_lost(on: On) {
    use Loss::{Fails, IsGivenUp, IsRestarted, IsStopped, IsUnregistered};
    for option in [DependencyLoss::Keep, DependencyLoss::Stop, DependencyLoss::Restart] {
        for loss in [Fails, IsStopped, IsRestarted, IsUnregistered, IsGivenUp] {
            lose(option, loss, on).await;
        }
    }
}

async fn lose(option: DependencyLoss, loss: Loss, on: On) {
    let case = format!("{option:?} {loss:?} {on:?}");
    let (world, [db, api, web]) = World::with(["db", "api", "web"]);
    let limit = if loss == Loss::IsGivenUp { 0 } else { 5 };
    let tasks = [
        web.permanent().depends_on("api").on_dependency_loss(option),
        api.permanent().depends_on("db").on_dependency_loss(option),
        db.permanent().max_restarts(limit, HOUR),
    ];
    world.tasks.register_all(tasks).expect("no circle");
    world.tasks.start();
    running(&world, &["db", "api", "web"]).await;
    let begun = ["start db", "ready db", "start api", "ready api", "start web", "ready web"];
    assert_eq!(world.log.take(), begun, "{case}");

    // The last one takes its time; who it rests on has to wait for it.
    web.stops(Stop::After(SHORT));
    match loss {
        Loss::Fails | Loss::IsGivenUp => db.end(End::Err),
        Loss::IsStopped => world.tasks.stop("db").expect("registered"),
        Loss::IsRestarted => {
            world.tasks.restart("db").expect("registered");
        }
        Loss::IsUnregistered => world.tasks.unregister("db").await.expect("registered"),
    }
    let dependents_down = ["stop web", "end web", "stop api", "end api"];
    let (by_itself, asked) = (&["end db"][..], &["stop db", "end db"][..]);
    let again = &["start db", "ready db"][..];
    let down = if option == DependencyLoss::Keep { &[][..] } else { &dependents_down[..] };
    let dependents_again = match option {
        DependencyLoss::Restart => &["start api", "ready api", "start web", "ready web"][..],
        _ => &[][..],
    };
    let expected = match loss {
        Loss::Fails => [by_itself, down, again, dependents_again].concat(),
        Loss::IsGivenUp => [by_itself, down].concat(),
        Loss::IsRestarted => [down, asked, again, dependents_again].concat(),
        Loss::IsStopped | Loss::IsUnregistered => [down, asked].concat(),
    };
    let last = expected.last().expect("something happens");
    let mut log = until(&world, last).await;
    sleep(A_WHILE).await;
    log.extend(world.log.take());
    assert_eq!(log, expected, "{case}");
    let comes_back = matches!(loss, Loss::Fails | Loss::IsRestarted);
    let dependents = match option {
        DependencyLoss::Keep => Running,
        DependencyLoss::Stop => Stopped,
        _ if comes_back => Running,
        _ => Waiting,
    };
    assert_eq!(world.states(["api", "web"]), [dependents, dependents], "{case}");
    let reason = RestartReason::Dependency;
    let restarted = u64::from(option == DependencyLoss::Restart && comes_back);
    assert_eq!(
        (world.restarts("api", reason), world.restarts("web", reason)),
        (restarted, restarted),
        "{case}"
    );
    let of_api = world.tasks.snapshot("api").expect("known");
    assert_eq!((of_api.total_errors(), of_api.restarts_last_hour), (0, 0), "{case}: not its fault");

    // And back, where it did not come by itself.
    if !comes_back {
        if loss == Loss::IsUnregistered {
            world.tasks.register(db.permanent()).expect("the name is free");
        } else {
            world.tasks.restart("db").expect("registered");
        }
        running(&world, &["db"]).await;
        sleep(A_WHILE).await;
        let expected = if option == DependencyLoss::Stop { Stopped } else { Running };
        assert_eq!(world.states(["api", "web"]), [expected, expected], "{case}");
        assert_eq!(world.restarts("web", reason), u64::from(option == DependencyLoss::Restart), "{case}");
    }
    world.tasks.shutdown().await;
    assert_eq!(world.alive.now(), 0, "{case}");
}

/// Who does not hear holds up the one it rests on for its grace, and no longer.
// Fails where a lost dependency is not seen.
#[tokio::test(start_paused = true)]
async fn fault_22_deaf_dependent_delays_a_restart_for_its_grace() {
    let (world, [db, api]) = World::with(["db", "api"]);
    api.stops(Stop::Never);
    let api_config = api.permanent().depends_on("db").on_dependency_loss(DependencyLoss::Restart);
    world.tasks.register_all([db.permanent(), api_config.shutdown_grace(secs(3))]).expect("no circle");
    world.tasks.start();
    running(&world, &["db", "api"]).await;
    let asked = tokio::time::Instant::now();
    world.tasks.restart("db").expect("registered");
    eventually("db begins again", || db.runs() == 2).await;
    let took = asked.elapsed();
    assert!((secs(3)..secs(3) + millis(50)).contains(&took), "{took:?}");
    running(&world, &["db", "api"]).await;
    assert_eq!((db.runs(), api.runs(), world.alive.most()), (2, 2, 2));
    world.finish().await;
}

/// Lost again while its dependents go down, and while they come up: they follow, and nothing runs twice.
// Fails where a lost dependency is not seen.
async fn fault_22_lost_again_meanwhile(_: On) {
    let (world, [db, api]) = World::with(["db", "api"]);
    let restart = |config: CriticalTaskConfig| config.on_dependency_loss(DependencyLoss::Restart);
    let api_config = restart(api.permanent().depends_on("db"));
    world.tasks.register_all([db.permanent(), api_config]).expect("no circle");
    world.tasks.start();
    running(&world, &["db", "api"]).await;
    // While it goes down.
    api.stops(Stop::After(SHORT));
    db.end(End::Panic);
    eventually("api is asked", || world.log.has("stop api")).await;
    world.tasks.restart("db").expect("registered");
    eventually("it is begun again", || api.runs() == 2).await;
    running(&world, &["db", "api"]).await;
    // While it comes up.
    api.stops(Stop::AtOnce).starts(Start::Gated);
    db.end(End::Panic);
    eventually("api starts", || api.runs() == 3).await;
    db.end(End::Panic);
    eventually("api starts again", || api.runs() == 4).await;
    api.go();
    running(&world, &["db", "api"]).await;
    assert_eq!((db.alive(), api.alive(), api.runs()), (1, 1, 4));
    assert_eq!(world.restarts("api", RestartReason::Dependency), 3);
    world.finish().await;
}

// 23: dependencies that make no sense.

// Fails where cycles are not looked for.
#[tokio::test(start_paused = true)]
async fn fault_23_contradictions_are_refused_with_their_path_and_nothing_starts() {
    let world = World::new();
    world.tasks.start();
    let task = |name: &str, dependencies: &[&str]| {
        let config = world.child(name).permanent();
        dependencies.iter().fold(config, |config, on| config.depends_on(*on))
    };
    let cycle = |path: &[&str]| format!("DependencyCycle {{ path: {path:?} }}");
    let refused =
        |configs: Vec<CriticalTaskConfig>| world.tasks.register_all(configs).expect_err("a contradiction");

    let circle = refused(vec![task("lead", &["a"]), task("a", &["b"]), task("b", &["c"]), task("c", &["a"])]);
    assert_eq!(shown(&circle), cycle(&["a", "b", "c", "a"]), "who only leads there is not on it");
    assert!(circle.to_string().ends_with("in a cycle: a -> b -> c -> a"), "{circle}");
    let itself = world.tasks.register(task("a", &["a"])).expect_err("a circle");
    assert_eq!(shown(&itself), cycle(&["a", "a"]));
    let unknown = refused(vec![task("a", &[]), task("b", &["a", "nobody"])]);
    assert_eq!(shown(&unknown), r#"UnknownDependency { path: ["b", "nobody"] }"#);
    assert!(unknown.to_string().ends_with("not registered: b -> nobody"), "{unknown}");
    let twice = refused(vec![task("a", &[]), task("b", &[]), task("a", &[])]);
    assert_eq!(shown(&twice), r#"Duplicate { name: "a" }"#);
    // The order of a group counts too: a begins before b, and cannot wait for it.
    let against = world.tasks.register_group(group(OneForOne, [task("a", &["b"]), task("b", &[])]));
    assert_eq!(shown(&against.expect_err("a circle")), cycle(&["a", "b", "a"]));
    // From one group into another and back.
    world.tasks.register_group(group(OneForOne, [task("x1", &[]), task("x2", &[])])).expect("in order");
    let between = group(OneForOne, [task("y1", &["x2"]), task("y2", &["x1"])]);
    world.tasks.register_group(between).expect("no circle");
    sleep(secs(1)).await;
    assert_eq!(world.tasks.task_names(), ["x1", "x2", "y1", "y2"]);
    assert_eq!(world.alive.total(), 4, "of those that were refused none has begun");

    // A circle that closes over a name that was free meanwhile.
    world.tasks.unregister("x1").await.expect("registered");
    let closes = world.tasks.register(task("x1", &["y2"])).expect_err("a circle");
    assert_eq!(shown(&closes), cycle(&["x1", "y2", "x1"]));
    assert_eq!(world.tasks.task_names(), ["x2", "y1", "y2"]);
    // The same in an order that makes sense.
    world.tasks.register(task("x1", &[])).expect("no circle");
    let chain: Vec<_> =
        ["p", "q", "r"].into_iter().zip([&["q"][..], &["r"], &[]]).map(|(name, on)| task(name, on)).collect();
    world.tasks.register_all(chain).expect("any order");
    running(&world, &["p", "q", "r"]).await;
    world.tasks.shutdown().await;
    assert_eq!(world.alive.now(), 0);
}

/// Two who each close the circle of the other, at once: one of them is refused.
// Fails where a name that is taken is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_23_a_circle_cannot_be_closed_by_two_at_once() {
    for _ in 0..50 {
        let (world, [a, b]) = World::with(["a", "b"]);
        let both =
            [(a.permanent().depends_on("b"), b.permanent()), (a.permanent(), b.permanent().depends_on("a"))];
        let registered = both.map(|(first, second)| {
            let tasks = world.tasks.clone();
            tokio::spawn(async move { tasks.register_all([first, second]) })
        });
        let mut accepted = 0;
        for registered in registered {
            match registered.await.expect("no panic") {
                Ok(()) => accepted += 1,
                Err(error) => assert!(matches!(error, RegisterError::Duplicate { .. }), "{error}"),
            }
        }
        assert_eq!(accepted, 1);
        world.tasks.start();
        running(&world, &["a", "b"]).await;
        world.finish().await;
    }
}

// 31: orders that race.

/// The last order that was accepted counts, and runs never overlap.
// Fails where restarts for others' sake count.
async fn fault_31_restarts_race_with_stops(_: On) {
    let alive = Alive::default();
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let of_run = alive.clone();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let alive = of_run.clone();
        async move {
            let _guard = alive.guard();
            ctx.cancelled().await;
            yield_now().await;
        }
    });
    tasks.register(config.backoff(Backoff::constant(Duration::ZERO))).expect("a valid config");
    tasks.start();
    for (round, last_is_stop) in [true, false, true, false].into_iter().enumerate() {
        let racing: Vec<_> = (0..4)
            .map(|racer| {
                let tasks = tasks.clone();
                tokio::spawn(async move {
                    for order in 0..25 {
                        if racer == 3 {
                            tasks.stop("t").expect("registered");
                        } else {
                            tasks.restart("t").expect("registered");
                        }
                        if order % 3 == racer {
                            yield_now().await;
                        }
                    }
                })
            })
            .collect();
        for racer in racing {
            racer.await.expect("no panic");
        }
        let expected = if last_is_stop { Stopped } else { Running };
        if last_is_stop {
            tasks.stop("t").expect("registered");
        } else {
            tasks.restart("t").expect("registered");
        }
        let state = || tasks.snapshot("t").and_then(|task| task.state);
        let there = || state() == Some(expected) && alive.now() == usize::from(!last_is_stop);
        eventually("the last order is carried out", there).await;
        sleep(SHORT).await;
        assert!(there(), "round {round}: and stays so: {:?}", state());
        assert!(alive.most() <= 1, "round {round}: two runs at once");
        told.all();
    }
    tasks.shutdown().await;
    assert_eq!(alive.now(), 0);
    told.check_runs(&tasks);
    each_run_ended_once(told.all());
}

/// The same in every order that chance makes of it, with pauses and orders to a group among them.
// Fails where the first order wins instead of the last.
#[tokio::test(start_paused = true)]
async fn fault_31_last_order_counts_after_any_history() {
    for seed in 0..300_u64 {
        let mut random = Random(seed);
        let mut world = World::new();
        let [first, child] = world.children(["first", "t"]);
        let strategy = [OneForOne, OneForAll, RestForOne][random.below(3)];
        child.stops(Stop::After(millis(random.below(3) as u64)));
        world.supervise(strategy, 0, [first.permanent(), child.permanent()]).await;
        let mut history = Vec::new();
        for _ in 0..random.below(20) {
            let order = ["stop", "restart", "pause", "resume", "restart first"][random.below(5)];
            history.push(order);
            let registered = match order {
                "stop" => world.tasks.stop("t").is_ok(),
                "pause" => world.tasks.pause("t").is_ok(),
                "resume" => world.tasks.resume("t").is_ok(),
                "restart" => world.tasks.restart("t").is_ok(),
                _ => world.tasks.restart("first").is_ok(),
            };
            assert!(registered);
            match random.below(4) {
                0 => yield_now().await,
                1 => sleep(millis(random.below(3) as u64)).await,
                _ => {}
            }
        }
        let stop = random.below(2) == 0;
        let case = format!("seed {seed}: {history:?}, then {}", if stop { "stop" } else { "restart" });
        if stop {
            world.tasks.stop("t").expect("registered");
        } else {
            world.tasks.restart("t").expect("registered");
        }
        sleep(secs(1)).await;
        let expected = if stop { (Stopped, 0) } else { (Running, 1) };
        assert_eq!((world.state("t"), child.alive()), expected, "{case}");
        assert_eq!((world.state("first"), first.alive()), (Running, 1), "{case}");
        let told = world.told();
        assert!(!told.iter().any(|event| matches!(event.kind, TaskEventKind::GaveUp { .. })), "{case}");
        world.tasks.shutdown().await;
        let told = [told, world.told()].concat();
        each_run_ended_once(&told);
        assert_eq!(world.alive.now(), 0, "{case}");
    }
}

/// Numbers that look like chance and are the same for each seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).expect("below a usize")
    }
}

/// Lives that are stopped without a grace just when they begin: what is told of each is whole.
// Fails where a group's order is left out of the search for cycles.
async fn fault_31_stop_without_grace_after_a_start_is_reported_completely(_: On) {
    let mut world = World::new();
    let child = world.child("t");
    let config = child.permanent().shutdown_grace(Duration::ZERO);
    world.tasks.register(config).expect("a valid config");
    world.tasks.start();
    let mut told = Vec::new();
    for _ in 0..20 {
        let racing = [true, false].map(|stops| {
            let tasks = world.tasks.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    if stops {
                        tasks.stop("t").expect("registered");
                    } else {
                        tasks.restart("t").expect("registered");
                    }
                    yield_now().await;
                }
            })
        });
        for racer in racing {
            racer.await.expect("no panic");
        }
        told.extend(world.told());
    }
    world.tasks.stop("t").expect("registered");
    eventually("stopped", || (world.state("t"), child.alive()) == (Stopped, 0)).await;
    told.extend(world.told());
    each_run_ended_once(&told);
    world.tasks.shutdown().await;
}

on_each_runtime! { run:
    fault_31_stop_without_grace_after_a_start_is_reported_completely,
}

// 32: signs of runs that are gone.

/// A clone of a context outlives its run: what it says is ignored and counted, and speaks for no other run.
// Fails where a heartbeat of any generation counts.
async fn fault_32_stale_signs(on: On) {
    let (world, [api]) = World::with(["api"]);
    let contexts: Arc<Mutex<Vec<TaskContext>>> = Arc::default();
    let kept = contexts.clone();
    let alive = world.alive.clone();
    let db = CriticalTaskConfig::new("db", move |ctx: TaskContext| {
        kept.lock().expect("not poisoned").push(ctx.clone());
        let guard = alive.guard();
        async move {
            let _guard = guard;
            if ctx.generation() == 1 {
                ctx.ready();
                sleep(SHORT).await;
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        }
    });
    let db = db.backoff(Backoff::constant(Duration::ZERO)).start_timeout(HOUR);
    let api_config = api.permanent().depends_on("db").on_dependency_loss(DependencyLoss::Restart);
    world.tasks.register_all([db, api_config]).expect("no circle");
    world.tasks.start();
    let contexts = move || contexts.lock().expect("not poisoned").clone();
    eventually("the second generation", || contexts().len() == 2).await;
    eventually("its dependent waits for it", || world.state("api") == Waiting).await;
    let [first, second] = <[TaskContext; 2]>::try_from(contexts()).expect("two");
    assert_eq!((first.generation(), second.generation()), (1, 2));
    let seen = world.tasks.snapshot("db").expect("known").last_seen;
    for _ in 0..3 {
        first.ready();
        first.heartbeat();
    }
    sleep(A_WHILE).await;
    let snapshot = world.tasks.snapshot("db").expect("known");
    assert_eq!(snapshot.stale_signals, 6, "{on:?}");
    assert_eq!(snapshot.last_seen, seen, "a sign that is ignored is no sign of life");
    assert_eq!((world.states(["db", "api"]), api.runs()), ([Running, Waiting], 1), "not ready by it");
    second.ready();
    running(&world, &["db", "api"]).await;
    assert_eq!(world.tasks.snapshot("db").expect("known").stale_signals, 6, "the present run's signs count");
    // And from the past again, at rest.
    world.tasks.stop("db").expect("registered");
    eventually("stopped", || world.state("db") == Stopped).await;
    first.ready();
    first.heartbeat();
    sleep(A_WHILE).await;
    assert_eq!(world.states(["db", "api"]), [Stopped, Waiting]);
    world.finish().await;
    // It outlives the manager too.
    first.heartbeat();
    second.ready();
    assert!(matches!(second.spawn("late", async {}).await, Err(otel_tasks::TaskError::ShuttingDown)));
}

/// The heartbeats of a run that is gone do not keep the present one from being seen to stall.
// Fails where a heartbeat of any generation counts.
#[tokio::test(start_paused = true)]
async fn fault_32_stale_heartbeats_hide_no_stall() {
    let world = World::new();
    let config = CriticalTaskConfig::new("t", |ctx: TaskContext| async move {
        if ctx.generation() == 1 {
            // What a run leaves behind goes on beating.
            tokio::spawn(async move {
                for _ in 0..100 {
                    sleep(secs(1)).await;
                    ctx.heartbeat();
                }
            });
            return Err::<(), _>("down");
        }
        std::future::pending().await
    });
    let config = config.heartbeat_timeout(secs(3)).backoff(Backoff::constant(Duration::ZERO));
    world.tasks.register(config.max_restarts(3, HOUR)).expect("a valid config");
    world.tasks.start();
    sleep(secs(60)).await;
    assert_eq!(world.state("t"), Failed);
    let snapshot = world.tasks.snapshot("t").expect("known");
    assert_eq!((snapshot.stalls, world.restarts("t", RestartReason::Stalled)), (3, 2));
    assert!(snapshot.stale_signals >= 50, "{}", snapshot.stale_signals);
    world.tasks.shutdown().await;
}

/// Work that a run left behind ends while the next runs: that changes nothing. (The run's own end cannot come late: its
/// future is dropped before the next is made.)
// Fails where a ready sign of any generation counts.
async fn fault_32_work_left_behind_by_a_run_ends_late(_: On) {
    let world = World::new();
    let alive = world.alive.clone();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        alive.during(async move {
            if ctx.generation() == 1 {
                let later = ctx.clone();
                drop(ctx.spawn("left_behind", async move {
                    sleep(A_WHILE).await;
                    later.ready();
                    Err::<(), _>("late")
                }));
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        })
    });
    let config = config.backoff(Backoff::constant(Duration::ZERO)).max_restarts(1, HOUR);
    world.tasks.register(config).expect("a valid config");
    world.tasks.start();
    let late = || world.tasks.snapshot("left_behind").is_some_and(|task| task.total_runs() == 1);
    eventually("it has ended", late).await;
    sleep(SHORT).await;
    let snapshot = world.tasks.snapshot("t").expect("known");
    assert_eq!((world.state("t"), snapshot.total_runs(), snapshot.stale_signals), (Running, 1, 1));
    assert_eq!((snapshot.total_errors(), snapshot.total_restarts(), world.alive.now()), (1, 1, 1));
    world.finish().await;
}

// 33: a second failure in the midst of a group's restart.

async fn supervised<const N: usize>(
    world: &World,
    strategy: otel_tasks::policy::RestartStrategy,
    limit: u32,
    children: &[Child; N],
) {
    let members = children.each_ref().map(|child| child.permanent());
    world.tasks.register_group(group(strategy, members).max_restarts(limit, HOUR)).expect("a valid group");
    world.tasks.start();
    let names = children.each_ref().map(|child| child.name());
    running(world, &names).await;
    world.log.take();
}

/// `c1` fails by itself while it waits for `c3`, which takes its time to stop and then fails as well: one restart.
// Fails where one that waits does not see that its group was stopped.
async fn fault_33_fails_while_another_stops(_: On) {
    for end in End::ALL {
        let (world, children) = World::with(["c1", "c2", "c3"]);
        let [c1, c2, c3] = &children;
        supervised(&world, OneForAll, 1, &children).await;
        // Until it is told to end.
        c3.stops(Stop::After(secs(8)));
        c2.end(End::Panic);
        eventually("c3 is asked", || world.log.has("stop c3")).await;
        c1.end_run(1, end);
        eventually("c1 has ended", || world.log.has("end c1")).await;
        c3.end_run(1, end);
        eventually("all run anew", || children.iter().all(|child| child.runs() == 2)).await;
        running(&world, &["c1", "c2", "c3"]).await;
        let log = world.log.take();
        let again = ["start c1", "ready c1", "start c2", "ready c2", "start c3", "ready c3"];
        assert_eq!(log[..4], ["end c2", "stop c3", "end c1", "end c3"], "{end:?}");
        assert_eq!(log[4..], again, "{end:?}");
        sleep(A_WHILE).await;
        assert_eq!(children.each_ref().map(|child| child.runs()), [2, 2, 2], "{end:?}: once");
        let restarts = |name: &str| world.tasks.snapshot(name).expect("known").total_restarts();
        assert_eq!(["c1", "c2", "c3"].map(restarts), [1, 1, 1]);
        assert_eq!(
            (world.restarts("c2", RestartReason::Panic), world.restarts("c1", RestartReason::Group)),
            (1, 1)
        );
        c3.stops(Stop::AtOnce);
        world.finish().await;
    }
}

/// In a rest-for-one the later ones are asked backwards, and an earlier one that fails meanwhile is a restart of its own
/// that takes them along; each begins once.
// Fails where nobody waits for those that stop before it.
async fn fault_33_an_earlier_one_fails_while_the_rest_stops(_: On) {
    let (world, children) = World::with(["c1", "c2", "c3", "c4"]);
    supervised(&world, RestForOne, 2, &children).await;
    let [c1, c2, c3, c4] = &children;
    // Until they are ended below.
    c3.stops(Stop::After(secs(8)));
    c4.stops(Stop::After(secs(8)));
    c2.end(End::Err);
    eventually("c4 is asked", || world.log.has("stop c4")).await;
    c1.end(End::Panic);
    eventually("c1 has ended", || world.log.has("end c1")).await;
    c4.end_run(1, End::Ok);
    eventually("c3 is asked", || world.log.has("stop c3")).await;
    c3.end_run(1, End::Ok);
    running(&world, &["c1"]).await;
    eventually("all run anew", || children.iter().all(|child| child.runs() == 2)).await;
    running(&world, &["c1", "c2", "c3", "c4"]).await;
    let log = world.log.take();
    let down: Vec<_> =
        log.iter().filter(|line| line.ends_with("c3") || line.ends_with("c4")).cloned().collect();
    assert_eq!(down[..4], ["stop c4", "end c4", "stop c3", "end c3"], "{log:?}");
    let begun: Vec<_> = log.iter().filter(|line| line.starts_with("start")).cloned().collect();
    assert_eq!(begun, ["start c1", "start c2", "start c3", "start c4"], "{log:?}");
    sleep(A_WHILE).await;
    assert_eq!(children.each_ref().map(|child| child.runs()), [2, 2, 2, 2]);
    assert_eq!([c1, c2, c3, c4].map(|child| child.alive()), [1, 1, 1, 1]);
    c3.stops(Stop::AtOnce);
    c4.stops(Stop::AtOnce);
    world.finish().await;
}

/// A member fails while the group begins again: what had begun goes down first, and one more is counted.
// Fails where one that was given up takes nobody along.
async fn fault_33_fails_while_the_group_begins_again(_: On) {
    for (strategy, limit) in [(OneForAll, 2), (RestForOne, 2)] {
        let (world, children) = World::with(["c1", "c2", "c3"]);
        let [c1, c2, c3] = &children;
        supervised(&world, strategy, limit, &children).await;
        c2.starts(Start::Gated);
        c1.end(End::Panic);
        eventually("c2 starts", || c2.runs() == 2).await;
        assert_eq!(c3.runs(), 1, "{strategy:?}: it waits for c2");
        world.log.take();
        // The one that fails is the one that starts, or in a rest-for-one the one before it.
        let culprit = if strategy == OneForAll { c2 } else { c1 };
        culprit.end(End::Err);
        eventually("c2 starts again", || c2.runs() == 3).await;
        c2.go();
        running(&world, &["c1", "c2", "c3"]).await;
        let expected: &[&str] = if strategy == OneForAll {
            &["end c2", "stop c1", "end c1", "start c1", "ready c1"]
        } else {
            &["end c1", "stop c2", "end c2", "start c1", "ready c1"]
        };
        let rest = ["start c2", "ready c2", "start c3", "ready c3"];
        assert_eq!(world.log.take(), [expected, &rest[..]].concat(), "{strategy:?}");
        assert_eq!(children.each_ref().map(|child| child.runs()), [3, 3, 2]);
        // Two were counted, and the limit is two.
        c1.end(End::Err);
        eventually("given up", || world.state("c1") == Failed).await;
        eventually("the others wait for it", || world.states(["c2", "c3"]) == [Waiting, Waiting]).await;
        // Begun again by hand it brings them along.
        c2.starts(Start::Ready);
        world.tasks.restart("c1").expect("registered");
        running(&world, &["c1", "c2", "c3"]).await;
        world.finish().await;
    }
}

/// All fail at the same moment, over and over, on real threads: a group of three is three restarted once each time.
// Fails where a member that finished holds up those after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fault_33_all_fail_at_once_over_and_over() {
    let mut world = World::new();
    let children = world.children(["c1", "c2", "c3"]);
    supervised(&world, OneForAll, 1_000, &children).await;
    let mut told = Vec::new();
    for round in 1..=100 {
        for child in &children {
            child.end_run(round, End::Panic);
        }
        eventually("all run anew", || children.iter().all(|child| child.runs() > round)).await;
        running(&world, &["c1", "c2", "c3"]).await;
        told.extend(world.told());
        assert_eq!(world.alive.now(), 3, "round {round}");
        let runs = children.each_ref().map(|child| child.runs());
        assert_eq!(runs, [round + 1; 3], "round {round}: each begins once");
    }
    let statistics = world.tasks.statistics();
    assert_eq!(statistics.total_restarts, 300);
    world.tasks.shutdown().await;
    told.extend(world.told());
    each_run_ended_once(&told);
    assert_eq!((world.alive.now(), world.alive.most()), (0, 3));
}

/// Given up in the midst of a group's restart: whoever is there goes down, and nobody begins any more.
// Fails where `Escalation::Group` stops nobody.
async fn fault_33_given_up_in_the_midst_of_it(_: On) {
    let (world, children) = World::with(["c1", "c2", "c3"]);
    let [c1, c2, c3] = &children;
    let members = children.each_ref().map(|child| child.permanent().escalation(Escalation::Group));
    world.tasks.register_group(group(OneForAll, members).max_restarts(1, HOUR)).expect("a valid group");
    world.tasks.start();
    running(&world, &["c1", "c2", "c3"]).await;
    c2.starts(Start::Gated);
    c3.end(End::Panic);
    eventually("c2 starts", || c2.runs() == 2).await;
    c2.end(End::Err);
    eventually("c2 is given up", || world.state("c2") == Failed).await;
    eventually("c1 is down", || world.state("c1") == Stopped).await;
    sleep(A_WHILE).await;
    assert_eq!([c1, c2, c3].map(|child| (child.runs(), child.alive())), [(2, 0), (2, 0), (1, 0)]);
    assert!(matches!(world.state("c3"), Waiting | Stopped | InBackoff), "{:?}", world.state("c3"));
    world.finish().await;
}

on_each_runtime! { run:
    fault_21_never_ready,
    fault_21_shutdown_while_it_starts,
    fault_22_dependency_lost,
    fault_22_lost_again_meanwhile,
    fault_31_restarts_race_with_stops,
    fault_32_stale_signs,
    fault_32_work_left_behind_by_a_run_ends_late,
    fault_33_fails_while_another_stops,
    fault_33_an_earlier_one_fails_while_the_rest_stops,
    fault_33_fails_while_the_group_begins_again,
    fault_33_given_up_in_the_midst_of_it,
}
