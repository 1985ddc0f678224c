//! Starting: what a start that is declined, fails or panics leaves behind.

use std::sync::Arc;

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, TaskGroup,
    policy::{
        DependencyLoss, Escalation, RestartIntensity, RestartReason, RestartStrategy,
        RestartStrategy::{OneForAll, OneForOne, RestForOne},
        StallAction,
    },
    shutdown::ShutdownOutcome,
    snapshot::TaskState::{Failed, Finished, Running, Stopped},
    task::RegisterError,
};
use tokio::time::{Instant, sleep};

use crate::{
    probe::{End, HOUR, STRATEGIES, Start, Stop, World, calm, each_run_ended_once, group},
    support::{Events, eventually, millis, secs, shown},
};

// Fails where an empty group is accepted.
#[tokio::test(start_paused = true)]
async fn sup_start_normal() {
    let world = World::new();
    let empty = TaskGroup::new("sup", OneForOne).max_restarts(2, HOUR);
    // A group that never has members has nothing to supervise: the one thing that OTP allows here and we do not.
    assert_eq!(shown(&world.tasks.register_group(empty)), r#"Err(EmptyGroup { group: "sup" })"#);
    world.tasks.start();
    let report = world.tasks.shutdown().await;
    assert!(report.tasks.is_empty() && report.is_clean() && report.cause.is_none(), "{report}");
    assert_eq!(report.exit_code(), 0);
    assert!(Arc::ptr_eq(&report, &world.tasks.shutdown().await), "one shutdown, one report");
}

/// To end well before it is ready is OTP's `ignore`: it is no failed start.
// Fails where a member that finished holds up those after it.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_child() {
    for strategy in STRATEGIES {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        c1.starts(Start::Ends(End::Ok));
        world.supervise(strategy, 0, [c1.transient(), c2.transient()]).await;
        assert_eq!(world.states(["c1", "c2"]), [Finished, Running], "{strategy:?}");
        assert_eq!(world.counts(), [2, 1], "it stays registered");
        assert!(world.tasks.health().is_ready, "one that finished well is not missed");
        assert_eq!(world.log.take(), ["start c1", "end c1", "start c2", "ready c2"]);
        world.finish().await;
    }
}

/// OTP forgets a temporary child that declines; ours stays registered, as finished.
// Fails where a member that finished holds up those after it.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child() {
    for strategy in STRATEGIES {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        c1.starts(Start::Ends(End::Ok));
        world.supervise(strategy, 0, [c1.temporary(), c2.temporary()]).await;
        assert_eq!(world.states(["c1", "c2"]), [Finished, Running], "{strategy:?}");
        assert_eq!(world.counts(), [2, 1]);
        world.finish().await;
    }
}

// Fails where a temporary child that ends well counts as failed.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child_start_child() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    world.tasks.start();
    c1.starts(Start::Ends(End::Ok));
    world.register(c1.temporary()).await;
    world.register(c2.temporary()).await;
    assert_eq!(world.states(["c1", "c2"]), [Finished, Running]);
    assert_eq!((world.counts(), c1.runs()), ([2, 1], 1));
    world.finish().await;
}

// Fails where runs are not counted.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_temporary_child_start_child_simple() {
    let world = World::new();
    let first = world.tasks.spawn("worker", async {});
    let second = world.tasks.spawn("worker", std::future::pending::<()>());
    assert_eq!(first.await, Ok(()));
    let snapshot = world.tasks.snapshot("worker").expect("spawned");
    assert_eq!((snapshot.active, snapshot.total_runs()), (1, 1));
    assert_eq!(world.counts(), [0, 0], "an instance is not registered");
    drop(second);
    let report = world.finish().await;
    assert_eq!(report.tasks.len(), 1, "{report}");
}

// Fails where a transient child that ends well is restarted.
#[tokio::test(start_paused = true)]
async fn sup_start_ignore_permanent_child_start_child_simple() {
    let (world, [c1, c2, c3]) = World::with(["c1", "c2", "c3"]);
    c2.starts(Start::Ends(End::Ok));
    for child in [&c1, &c2, &c3] {
        world.register(child.transient()).await;
    }
    assert_eq!(world.states(["c1", "c2", "c3"]), [Running, Finished, Running]);
    let report = world.finish().await;
    assert_eq!(report.count(ShutdownOutcome::Clean), 2, "{report}");
    assert_eq!(
        report.count(ShutdownOutcome::NotRunning),
        1,
        "it is neither waited for nor dropped: {report}"
    );
}

#[tokio::test(start_paused = true)]
async fn sup_start_fail() {
    let world = World::new();
    world.tasks.register_component("bad", || -> Vec<CriticalTaskConfig> { panic!("fail") });
    let child = world.child("c1");
    world.tasks.register_component("good", move || vec![child.permanent()]);
    let discovery = world.tasks.discover_components();
    assert_eq!(discovery.panicked, [("bad".to_owned(), "fail".to_owned())]);
    assert_eq!(discovery.registered, ["c1"]);
    world.tasks.start();
    calm().await;
    assert_eq!(world.counts(), [1, 1], "the manager starts all the same");
    world.finish().await;
}

/// Refused is not started: nothing stays. But a first start that *fails* goes by the task's policy, where OTP discards the
/// child: it was registered, and is tried again until it is given up.
// Fails where a task's limit is one.
#[tokio::test(start_paused = true)]
async fn sup_start_child_returns_error() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    world.tasks.start();
    let refused = world.tasks.register(c1.permanent().max_restarts(1, secs(0)));
    assert!(matches!(refused, Err(RegisterError::Policy { name, .. }) if name == "c1"));
    assert_eq!((world.counts(), c1.runs()), ([0, 0], 0));

    c2.starts(Start::Ends(End::Err));
    world.register(c2.permanent().max_restarts(2, HOUR)).await;
    assert_eq!((world.state("c2"), c2.runs()), (Failed, 3));
    assert_eq!(world.counts(), [1, 0]);
    let last_error = world.tasks.snapshot("c2").and_then(|task| task.last_error).expect("it failed");
    assert_eq!(last_error.message, "down");
    world.finish().await;
}

// Fails where a task's limit is not asked.
#[tokio::test(start_paused = true)]
async fn sup_start_restart_child_returns_error() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    world.supervise(OneForOne, 5, [c1.permanent().max_restarts(0, HOUR), c2.permanent()]).await;
    world.tasks.stop("c1").expect("registered");
    calm().await;
    c1.starts(Start::Ends(End::Err));
    world.tasks.restart("c1").expect("registered");
    sleep(secs(60)).await;
    assert_eq!((world.state("c1"), c1.runs()), (Failed, 2), "a start by hand that fails is not tried again");
    assert_eq!((world.state("c2"), c2.runs()), (Running, 1));
    assert_eq!(world.counts(), [2, 1]);
    world.finish().await;
}

// Fails where runs are not counted.
#[tokio::test(start_paused = true)]
async fn sup_start_child_returns_error_simple() {
    let world = World::new();
    let failed = world.tasks.spawn("worker", async { Err::<(), _>("reason") });
    assert_eq!(failed.await, Ok(Err("reason")), "whoever started it is told");
    let snapshot = world.tasks.snapshot("worker").expect("spawned");
    assert_eq!((snapshot.active, snapshot.total_runs(), snapshot.total_restarts()), (0, 1, 0));
    assert!(world.finish().await.tasks.is_empty());
}

// Fails where a stop has no grace.
#[tokio::test(start_paused = true)]
async fn sup_start_map() {
    let (world, [child]) = World::with(["c1"]);
    // With nothing set: permanent, ten restarts in ten minutes, ten seconds to stop.
    let plain = {
        let child = child.clone();
        CriticalTaskConfig::new("c1", move |ctx| {
            let child = child.clone();
            async move { child.run(ctx).await }
        })
    };
    let shown = format!("{plain:?}");
    assert!(shown.contains("restart: Always, limit: None"), "{shown}");
    world.register(plain).await;
    child.stops(Stop::Never);
    let asked = Instant::now();
    world.tasks.stop("c1").expect("registered");
    eventually("stopped", || world.state("c1") == Stopped).await;
    assert!((secs(10)..secs(10) + millis(10)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    assert_eq!(RestartPolicy::default(), RestartPolicy::Always);
    assert_eq!(RestartIntensity::default().to_string(), "10 in 10m");
    assert_eq!(RestartStrategy::default(), OneForOne);
    assert_eq!(Escalation::default(), Escalation::None);
    assert_eq!(DependencyLoss::default(), DependencyLoss::Keep);
    assert_eq!(StallAction::default(), StallAction::Restart);
    assert!(world.tasks.snapshot("unknown").is_none());
    world.finish().await;
}

// Fails where an empty name is accepted.
#[tokio::test(start_paused = true)]
async fn sup_start_map_faulty_specs() {
    let (world, [c1, nameless, c3]) = World::with(["c1", "", "c3"]);
    let faulty = group(OneForAll, [c1.permanent(), nameless.permanent(), c3.permanent()]);
    assert_eq!(world.tasks.register_group(faulty), Err(RegisterError::EmptyName));
    world.tasks.start();
    calm().await;
    assert_eq!((world.counts(), c1.runs(), c3.runs()), ([0, 0], 0, 0), "one faulty member and none is there");
    assert!(world.tasks.snapshots().is_empty());
    world.finish().await;
}

/// The name of a member is held by a task outside the group.
// Fails where a name that is taken is accepted.
#[tokio::test(start_paused = true)]
async fn already_started_outside_supervisor() {
    let (world, [outside, c1]) = World::with(["outside", "c1"]);
    world.register(outside.permanent()).await;
    let again = world.child("outside");
    let refused = world.tasks.register_group(group(OneForAll, [c1.permanent(), again.permanent()]));
    assert_eq!(shown(&refused), r#"Err(Duplicate { name: "outside" })"#);
    calm().await;
    assert_eq!((world.counts(), c1.runs(), again.runs()), ([1, 1], 0, 0));
    assert_eq!(outside.runs(), 1, "who has the name is not disturbed");
    assert!(world.finish().await.is_clean());
}

/// OTP does not try a first start again, and stops what had begun; ours does what the policy and the escalation say: with no
/// restart allowed it is the same.
// Fails where one that waits does not see that its group was stopped.
#[tokio::test(start_paused = true)]
async fn faulty_application_shutdown() {
    for strategy in [OneForAll, RestForOne] {
        let mut world = World::new();
        let [c1, c2, c3] = world.children(["c1", "c2", "c3"]);
        c2.starts(Start::Ends(End::Err));
        let faulty = c2.permanent().max_restarts(0, HOUR).escalation(Escalation::Group);
        world.supervise(strategy, 5, [c1.permanent(), faulty, c3.permanent()]).await;
        assert_eq!(world.states(["c1", "c2", "c3"]), [Stopped, Failed, Stopped], "{strategy:?}");
        assert_eq!(c3.runs(), 0, "not begun at all");
        let log = world.log.take();
        assert_eq!(log, ["start c1", "ready c1", "start c2", "end c2", "stop c1", "end c1"]);
        let last_error = world.tasks.snapshot("c2").and_then(|task| task.last_error).expect("it failed");
        assert_eq!(last_error.message, "down");
        each_run_ended_once(&world.told());
        world.finish().await;
    }
    // And to the outside: the manager says which of its tasks it was, and why.
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    c2.starts(Start::Ends(End::Err));
    let faulty = c2.permanent().max_restarts(0, HOUR).escalation(Escalation::Shutdown);
    world.supervise(RestForOne, 5, [c1.permanent(), faulty]).await;
    let report = world.finish().await;
    let cause = report.cause.as_ref().expect("it shut itself down");
    assert_eq!((&*cause.task, cause.reason), ("c2", "restarted too often"));
    assert_eq!(report.exit_code(), 1);
}

/// A start by hand is no news; a restart is, with its reason.
// Fails where restarts are neither counted nor logged.
#[tokio::test(start_paused = true)]
async fn external_start_no_progress_log() {
    let (events, _guard) = Events::record();
    let (world, [child]) = World::with(["c1"]);
    world.register(child.permanent()).await;
    assert_eq!(events.count("task.restarted", "c1"), 0);
    assert!(events.named("task.started").iter().all(|event| event.level == tracing::Level::INFO));
    child.end(End::Panic);
    calm().await;
    let restarted = events.named("task.restarted");
    assert_eq!(restarted.len(), 1);
    assert_eq!(restarted[0].field("task.restart.reason"), "panic");
    assert_eq!(world.restarts("c1", RestartReason::Panic), 1);
    world.finish().await;
}
