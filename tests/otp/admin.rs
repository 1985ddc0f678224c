//! Children by hand: added, stopped, begun again, removed, counted; and what is refused.

use std::time::Duration;

use otel_tasks::{
    TaskGroup, TaskManager,
    policy::{
        Escalation, PolicyError, RestartIntensity, RestartReason,
        RestartStrategy::{OneForAll, OneForOne},
    },
    snapshot::TaskState::{Backoff, Running, Stopped},
    task::{RegisterError, RestartError, TaskControlError, UnknownTask},
};

use crate::{
    probe::{End, HOUR, POLICIES, STRATEGIES, Start, World, calm, each_run_ended_once, group},
    support::{secs, shown},
};

fn unknown(name: &str) -> UnknownTask {
    let tasks = TaskManager::new();
    match tasks.stop(name) {
        Err(TaskControlError::Unknown(unknown)) => unknown,
        other => panic!("nothing is registered: {other:?}"),
    }
}

// Fails where a name that is taken is accepted.
#[tokio::test(start_paused = true)]
async fn child_adm() {
    for strategy in STRATEGIES {
        let world = World::new();
        let tasks = &world.tasks;
        let [c1, sibling] = world.children(["c1", "sibling"]);
        world.supervise(strategy, 1, [sibling.permanent(), c1.permanent()]).await;
        assert_eq!(world.counts(), [2, 2]);
        let duplicate = r#"Err(Duplicate { name: "c1" })"#;
        assert_eq!(shown(&tasks.register(c1.permanent())), duplicate);

        assert_eq!(tasks.stop("c9"), Err(unknown("c9").into()));
        for _ in 0..2 {
            assert_eq!(tasks.stop("c1"), Ok(()), "also the second time");
            tokio::time::sleep(secs(60)).await;
            assert_eq!((world.state("c1"), c1.runs()), (Stopped, 1), "though it is permanent");
            assert_eq!(world.counts(), [2, 1]);
        }
        assert_eq!(shown(&tasks.register(c1.permanent())), duplicate, "its name is taken");

        assert_eq!(tasks.restart("c1"), Ok(Duration::ZERO));
        calm().await;
        assert_eq!((world.state("c1"), c1.runs()), (Running, 2));
        assert_eq!(tasks.restart("c9"), Err(RestartError::Unknown(unknown("c9"))));

        assert_eq!(tasks.unregister("c9").await, Err(unknown("c9")));
        // OTP refuses to delete one that runs; ours is stopped first.
        assert_eq!(tasks.unregister("c1").await, Ok(()));
        assert_eq!((world.counts(), c1.alive()), ([1, 1], 0));
        assert_eq!(tasks.restart("c1"), Err(RestartError::Unknown(unknown("c1"))));
        assert_eq!(tasks.stop("c1"), Err(unknown("c1").into()));
        assert_eq!(tasks.register(c1.permanent()), Ok(()));
        calm().await;
        assert_eq!((world.state("c1"), c1.runs(), world.counts()), (Running, 3, [2, 2]));
        assert_eq!(sibling.runs(), 1, "{strategy:?}: what is done by hand to one is of one alone");
        tasks.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn child_adm_simple() {
    let world = World::new();
    assert!(world.tasks.snapshot("worker").is_none());
    let [i1, i2] = world.children(["i1", "i2"]);
    let [first, second] = [&i1, &i2].map(|child| {
        let child = child.clone();
        world.tasks.task("worker").spawn_with(|ctx| async move { child.run(ctx).await })
    });
    calm().await;
    let active = || world.tasks.snapshot("worker").expect("spawned").active;
    assert_eq!(active(), 2);
    // By its name a short task is nobody's to stop: it is not registered.
    assert_eq!(world.tasks.stop("worker"), Err(unknown("worker").into()));
    assert_eq!(world.tasks.restart("worker"), Err(RestartError::Unknown(unknown("worker"))));
    assert_eq!(world.tasks.unregister("worker").await, Err(unknown("worker")));
    for _ in 0..2 {
        first.abort();
        calm().await;
        assert_eq!((active(), i1.alive(), i2.alive()), (1, 0, 1), "the other lives, and twice is once");
    }
    assert!(first.is_finished() && !second.is_finished());
    assert_eq!(first.await, Err(otel_tasks::TaskError::Cancelled));
    drop(second);
    world.finish().await;
}

/// Supervision survives the administration.
// Fails where a restart by hand forgives nothing.
#[tokio::test(start_paused = true)]
async fn extra_return() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.permanent()).await;
    world.tasks.stop("c1").expect("registered");
    calm().await;
    world.tasks.restart("c1").expect("registered");
    calm().await;
    world.tasks.unregister("c1").await.expect("registered");
    world.register(child.permanent()).await;
    let runs = child.runs();
    child.end(End::Panic);
    calm().await;
    assert_eq!((world.state("c1"), child.runs(), world.counts()), (Running, runs + 1, [1, 1]));
    world.tasks.unregister("c1").await.expect("registered");
    // And what led to being given up is forgiven to one that is begun again by hand.
    world.register(child.permanent().max_restarts(1, HOUR)).await;
    for _ in 0..2 {
        let runs = child.runs();
        child.end(End::Panic);
        calm().await;
        assert_eq!((world.state("c1"), child.runs()), (Running, runs + 1));
        child.end(End::Panic);
        calm().await;
        assert_eq!((world.state("c1"), child.runs()), (otel_tasks::snapshot::TaskState::Failed, runs + 1));
        world.tasks.restart("c1").expect("registered");
        calm().await;
    }
    world.tasks.shutdown().await;
}

// Fails where a window of zero is accepted.
#[tokio::test(start_paused = true)]
async fn child_specs() {
    let (world, [child]) = World::with(["c1"]);
    let refused = |config| world.tasks.register(config).expect_err("faulty");
    let policy = |source: &str| format!(r#"Policy {{ name: "c1", source: {source} }}"#);
    assert_eq!(
        shown(&refused(child.permanent().max_restarts(1, Duration::ZERO))),
        policy("ZeroWindow { max_restarts: 1 }")
    );
    let too_many = RestartIntensity::MAX_RESTARTS + 1;
    assert_eq!(
        shown(&refused(child.permanent().max_restarts(too_many, HOUR))),
        policy("TooManyRestarts { max_restarts: 1001, most: 1000 }")
    );
    let never_reached = child.permanent().restart_delay(secs(60)).max_restarts(10, secs(60));
    assert!(matches!(
        refused(never_reached),
        RegisterError::Policy { source: PolicyError::LimitUnreachable { .. }, .. }
    ));
    assert_eq!(refused(world.child("").permanent()), RegisterError::EmptyName);
    assert_eq!((world.counts(), child.runs()), ([0, 0], 0));

    // Two of one name in one group.
    let twice = group(OneForAll, [world.child("c0").permanent(), child.permanent(), child.permanent()]);
    assert_eq!(shown(&world.tasks.register_group(twice)), r#"Err(Duplicate { name: "c1" })"#);
    world.tasks.start();
    calm().await;
    assert_eq!((world.counts(), child.runs()), ([0, 0], 0), "none of them is there");
    world.tasks.shutdown().await;
}

/// A refused registration changes nothing, as its error says: it takes no room among the names either.
// Fails where equal names in one batch are accepted.
#[tokio::test(start_paused = true)]
async fn a_refused_group_leaves_no_name_behind() {
    let world = World::of(TaskManager::builder().max_names(3));
    let child = world.child("c1");
    for round in 0..3 {
        let other = world.child(&format!("other{}", ["a", "b", "c"][round]));
        let twice = group(OneForAll, [other.permanent(), child.permanent(), child.permanent()]);
        let refused = world.tasks.register_group(twice);
        assert_eq!(shown(&refused), r#"Err(Duplicate { name: "c1" })"#, "round {round}");
    }
    assert!(world.tasks.snapshots().is_empty(), "{:?}", world.tasks.snapshots().len());
    let three = world.children(["x", "y", "z"]);
    world.supervise(OneForAll, 1, three.each_ref().map(|child| child.permanent())).await;
    assert_eq!(world.counts(), [3, 3]);
    world.finish().await;
}

/// Every combination that can be written down is accepted.
// Fails where a grace of zero is refused.
#[tokio::test(start_paused = true)]
async fn child_specs_map() {
    for strategy in STRATEGIES {
        for policy in POLICIES {
            for grace in [Some(Duration::ZERO), Some(secs(1)), None] {
                for escalation in [Escalation::None, Escalation::Group, Escalation::Shutdown] {
                    let (world, [child]) = World::with(["c1"]);
                    let config = child.config(policy).escalation(escalation);
                    let config = match grace {
                        Some(grace) => config.shutdown_grace(grace),
                        None => config,
                    };
                    world.supervise(strategy, 1, [config]).await;
                    assert_eq!(world.counts(), [1, 1], "{strategy:?} {policy:?} {grace:?} {escalation:?}");
                    world.finish().await;
                }
            }
        }
    }
}

// Fails where a window of zero is accepted.
#[tokio::test(start_paused = true)]
async fn sup_flags() {
    let (world, [child]) = World::with(["c1"]);
    let group = || TaskGroup::new("sup", OneForOne).task(child.permanent());
    let faulty = |group: TaskGroup| match world.tasks.register_group(group) {
        Err(RegisterError::GroupPolicy { group, source, .. }) if group == "sup" => source,
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(&faulty(group().max_restarts(1, Duration::ZERO))), "ZeroWindow { max_restarts: 1 }");
    let too_many = RestartIntensity::MAX_RESTARTS + 1;
    let refused = faulty(group().max_restarts(too_many, HOUR));
    assert_eq!(shown(&refused), "TooManyRestarts { max_restarts: 1001, most: 1000 }");
    assert_eq!((world.counts(), child.runs()), ([0, 0], 0));
    world.supervise_as(group().max_restarts(0, Duration::from_nanos(1))).await;
    assert_eq!(world.counts(), [1, 1]);
    world.finish().await;
}

// Fails where runs are not counted.
#[tokio::test(start_paused = true)]
async fn which_children() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    assert!(world.tasks.snapshots().is_empty() && world.tasks.task_names().is_empty());
    world.register(c1.permanent()).await;
    world.register(c2.permanent()).await;
    assert_eq!(world.tasks.task_names(), ["c1", "c2"]);
    assert_eq!(world.states(["c1", "c2"]), [Running, Running]);
    world.tasks.stop("c1").expect("registered");
    calm().await;
    assert_eq!(world.states(["c1", "c2"]), [Stopped, Running]);
    assert_eq!(world.tasks.task_names(), ["c1", "c2"]);
    world.tasks.unregister("c1").await.expect("registered");
    assert_eq!(world.tasks.task_names(), ["c2"]);
    let figures = world.tasks.snapshot("c1").expect("its figures stay, so that no counter runs backwards");
    assert_eq!((figures.state, figures.total_runs()), (None, 1));
    world.finish().await;
}

// Fails where runs are not counted.
#[tokio::test(start_paused = true)]
async fn count_children() {
    let world = World::of(TaskManager::builder().max_names(300));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let spawn = || {
        for _ in 0..1_000 {
            let mut stopped = stopped.clone();
            drop(world.tasks.spawn("worker", async move {
                let _ = stopped.wait_for(|stopped| *stopped).await;
            }));
        }
    };
    let counts = || {
        let snapshot = world.tasks.snapshot("worker").expect("spawned");
        (snapshot.active, snapshot.total_runs())
    };
    spawn();
    assert_eq!((counts(), counts()), ((1_000, 0), (1_000, 0)));
    spawn();
    calm().await;
    assert_eq!((counts(), counts()), ((2_000, 0), (2_000, 0)));
    stop.send_replace(true);
    calm().await;
    assert_eq!(counts(), (0, 2_000));
    // And of registered ones.
    let children: Vec<_> = (0..200).map(|number| world.child(&format!("c{number}x"))).collect();
    for child in &children {
        world.tasks.register(child.permanent()).expect("a valid config");
    }
    world.tasks.start();
    calm().await;
    let statistics = world.tasks.statistics();
    assert_eq!((statistics.critical_tasks, statistics.active_runs), (200, 200));
    assert_eq!(world.tasks.statistics(), statistics);
    children.iter().take(50).for_each(|child| {
        world.tasks.stop(child.name()).expect("registered");
    });
    calm().await;
    let statistics = world.tasks.statistics();
    assert_eq!((statistics.critical_tasks, statistics.active_runs), (200, 150));
    world.finish().await;
}

/// One that is being restarted is counted, and not active.
// Fails where a name is not forgotten.
#[tokio::test(start_paused = true)]
async fn count_restarting_children() {
    let mut world = World::new();
    let children = world.children(["c1", "c2", "c3"]);
    let members = children.each_ref().map(|child| {
        child.permanent().backoff(otel_tasks::Backoff::constant(secs(1))).max_restarts(1_000, 24 * HOUR)
    });
    world.supervise(OneForOne, 1_000, members).await;
    assert_eq!(world.counts(), [3, 3]);
    for child in &children[..2] {
        child.starts(Start::Ends(End::Err));
        child.end(End::Panic);
    }
    for _ in 0..50 {
        calm().await;
        assert_eq!(world.counts(), [3, 1]);
    }
    assert_eq!(world.states(["c1", "c2", "c3"]), [Backoff, Backoff, Running]);
    children.iter().for_each(|child| {
        child.starts(Start::Ready);
    });
    tokio::time::sleep(secs(2)).await;
    assert_eq!(world.counts(), [3, 3]);
    for (place, name) in ["c1", "c2", "c3"].into_iter().enumerate() {
        world.tasks.stop(name).expect("registered");
        calm().await;
        world.tasks.unregister(name).await.expect("registered");
        assert_eq!(world.counts(), [2 - place, 2 - place]);
    }
    each_run_ended_once(&world.told());
    assert!(world.restarts("c1", RestartReason::Failure) >= 4);
    world.finish().await;
}
