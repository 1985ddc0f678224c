//! Which end leads where: {permanent, transient, temporary} x {normal, shutdown, abnormal}.
//!
//! OTP's exit reasons `shutdown` and `{shutdown, _}` of a child that ends by itself are our ending well.

use std::sync::Arc;

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy,
    policy::{
        ErrorClass, RestartReason,
        RestartStrategy::{OneForAll, OneForOne},
    },
    snapshot::{
        TaskState,
        TaskState::{Backoff, Failed, Finished, Running, Stopped},
    },
};
use tokio::time::sleep;

use crate::{
    probe::{End, HOUR, POLICIES, STRATEGIES, Start, World, calm, group},
    support::{millis, secs, shown},
};

// Fails where a permanent child that ends well is left finished.
#[tokio::test(start_paused = true)]
async fn permanent_normal() {
    for strategy in STRATEGIES {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(strategy, 1, [c1.permanent(), c2.permanent()]).await;
        c1.end(End::Ok);
        calm().await;
        assert_eq!((world.states(["c1", "c2"]), c1.runs()), ([Running, Running], 2), "{strategy:?}");
        assert_eq!(world.restarts("c1", RestartReason::Finished), 1);
        assert_eq!(
            c2.runs(),
            if strategy == OneForOne { 1 } else { 2 },
            "{strategy:?}: a restart like any other"
        );
        world.finish().await;
    }
}

// Fails where a transient child that ends well is restarted.
#[tokio::test(start_paused = true)]
async fn transient_normal() {
    for strategy in STRATEGIES {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(strategy, 0, [c1.transient(), c2.transient()]).await;
        c1.end(End::Ok);
        sleep(secs(60)).await;
        assert_eq!(world.states(["c1", "c2"]), [Finished, Running], "{strategy:?}");
        assert_eq!((world.counts(), c1.runs(), c2.runs()), ([2, 1], 1, 1), "{strategy:?}");
        world.finish().await;
    }
}

/// OTP forgets it; ours stays registered.
// Fails where a temporary child that ends well counts as failed.
#[tokio::test(start_paused = true)]
async fn temporary_normal() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.temporary()).await;
    child.end(End::Ok);
    sleep(secs(60)).await;
    assert_eq!((world.state("c1"), world.counts(), child.runs()), (Finished, [1, 0], 1));
    world.finish().await;
}

// Fails where a permanent child that ends well is left finished.
#[tokio::test(start_paused = true)]
async fn permanent_shutdown() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.permanent()).await;
    for runs in [2, 3] {
        child.end(End::Ok);
        calm().await;
        assert_eq!((world.state("c1"), world.counts(), child.runs()), (Running, [1, 1], runs));
    }
    world.finish().await;
}

// Fails where a transient child that ends well is restarted.
#[tokio::test(start_paused = true)]
async fn transient_shutdown() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.transient()).await;
    child.end(End::Ok);
    calm().await;
    assert_eq!((world.state("c1"), world.counts()), (Finished, [1, 0]));
    world.tasks.restart("c1").expect("registered");
    calm().await;
    assert_eq!((world.state("c1"), world.counts()), (Running, [1, 1]));
    child.end(End::Ok);
    sleep(secs(60)).await;
    assert_eq!(
        (world.state("c1"), child.runs()),
        (Finished, 2),
        "a restart by hand leaves the policy as it is"
    );
    world.finish().await;
}

/// Its name is free in OTP; ours is replaced, or restarted.
// Fails where a temporary child that ends well counts as failed.
#[tokio::test(start_paused = true)]
async fn temporary_shutdown() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.temporary()).await;
    child.end(End::Ok);
    calm().await;
    let again = world.tasks.register(child.temporary());
    assert_eq!(shown(&again), r#"Err(Duplicate { name: "c1" })"#);
    world.tasks.replace(child.temporary()).await.expect("a valid config");
    calm().await;
    assert_eq!((world.state("c1"), child.runs()), (Running, 2));
    child.end(End::Ok);
    calm().await;
    assert_eq!((world.state("c1"), child.runs()), (Finished, 2));
    world.tasks.shutdown().await;
}

// Fails where a permanent error is tried again.
#[tokio::test(start_paused = true)]
async fn permanent_abnormal() {
    restarted_after_a_failure(RestartPolicy::Always).await;
    // An error of which the user says that trying again cannot help ends even a permanent child; OTP has no such thing.
    let (world, [child]) = World::with(["c1"]);
    world.register(child.permanent().classify(|_: &&str| ErrorClass::Permanent)).await;
    child.end(End::Err);
    sleep(secs(60)).await;
    assert_eq!((world.state("c1"), child.runs()), (Failed, 1));
    world.finish().await;
}

// Fails where restarts are neither counted nor logged.
#[tokio::test(start_paused = true)]
async fn transient_abnormal() {
    restarted_after_a_failure(RestartPolicy::OnFailure).await;
}

async fn restarted_after_a_failure(policy: RestartPolicy) {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.config(policy).run_timeout(HOUR)).await;
    for (runs, end) in [(2, End::Err), (3, End::Panic)] {
        child.end(end);
        calm().await;
        assert_eq!((world.state("c1"), world.counts(), child.runs()), (Running, [1, 1], runs), "{end:?}");
        assert_eq!(world.restarts("c1", end.reason()), 1);
    }
    sleep(HOUR).await;
    assert_eq!((world.state("c1"), child.runs()), (Running, 4));
    assert_eq!(world.restarts("c1", RestartReason::Timeout), 1);
    world.finish().await;
}

// Fails where a temporary child that failed takes others along.
#[tokio::test(start_paused = true)]
async fn temporary_abnormal() {
    for strategy in STRATEGIES {
        for end in End::FAILURES {
            let (world, [c1, c2]) = World::with(["c1", "c2"]);
            // None is allowed, so one that was counted would be seen.
            world.supervise(strategy, 0, [c1.temporary(), c2.permanent()]).await;
            c1.end(end);
            sleep(secs(60)).await;
            assert_eq!(world.states(["c1", "c2"]), [Failed, Running], "{strategy:?} {end:?}");
            assert_eq!((c1.runs(), c2.runs()), (1, 1), "{strategy:?} {end:?}");
            world.finish().await;
        }
    }
}

/// In the end every child stands where its policy says, its name is taken, and a restart by hand works.
// Fails where a temporary child is restarted.
#[tokio::test(start_paused = true)]
async fn do_not_save_child_specs_for_temporary_children() {
    for strategy in STRATEGIES {
        for policy in POLICIES {
            for end in [None, Some(End::Ok), Some(End::Err), Some(End::Panic)] {
                let case = format!("{strategy:?} {policy:?} {end:?}");
                let (world, [child]) = World::with(["c1"]);
                world.supervise(strategy, 1, [child.config(policy)]).await;
                match end {
                    Some(end) => child.end(end),
                    None => world.tasks.stop("c1").expect("registered"),
                }
                sleep(secs(60)).await;
                let expected = match (policy, end) {
                    (_, None) => (Stopped, 1),
                    (RestartPolicy::Always, Some(_)) => (Running, 2),
                    (_, Some(End::Ok)) => (Finished, 1),
                    (RestartPolicy::OnFailure, Some(_)) => (Running, 2),
                    _ => (Failed, 1),
                };
                assert_eq!((world.state("c1"), child.runs()), expected, "{case}");
                let again = world.tasks.register(child.config(policy));
                assert_eq!(shown(&again), r#"Err(Duplicate { name: "c1" })"#, "{case}");
                if expected.0 != Running {
                    world.tasks.restart("c1").expect("registered");
                    calm().await;
                    assert_eq!((world.state("c1"), child.runs()), (Running, 2), "{case}");
                }
                world.finish().await;
            }
        }
    }
}

/// What a temporary child had is let go of when it has ended; what others are begun with again is kept until they are
/// unregistered. (The closure itself, which makes the future, stays until then for all: a restart by hand calls it.)
// Fails where a name is not forgotten.
#[tokio::test(start_paused = true)]
async fn do_not_save_start_parameters_for_temporary_children() {
    for strategy in STRATEGIES {
        for policy in POLICIES {
            let world = World::new();
            let (closures, run) = (Arc::new(()), Arc::new(()));
            let (of_closure, of_run) = (closures.clone(), Arc::downgrade(&run));
            let config = CriticalTaskConfig::new("c1", move |_| {
                let (_closures, run) = (of_closure.clone(), of_run.upgrade());
                async move {
                    sleep(secs(1)).await;
                    drop(run);
                }
            });
            let config = config.restart_policy(policy).backoff(otel_tasks::Backoff::constant(secs(60)));
            world.supervise_as(group(strategy, [config])).await;
            assert_eq!(Arc::strong_count(&run), 2, "{policy:?}: a run has it");
            sleep(secs(2)).await;
            assert_eq!(Arc::strong_count(&run), 1, "{policy:?}: what a run had is gone with it");
            assert_eq!(Arc::strong_count(&closures), 2, "{policy:?}: kept for a restart");
            world.tasks.unregister("c1").await.expect("registered");
            calm().await;
            assert_eq!(Arc::strong_count(&closures), 1, "{strategy:?} {policy:?}: nothing is kept");
            world.tasks.shutdown().await;
        }
    }
}

/// Arguments of instances are not kept, also after one before has failed.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_corruption() {
    let world = World::new();
    let argument = Arc::new(vec![0_u8; 50_000]);
    for _ in 0..3 {
        let argument = argument.clone();
        let handle = world.tasks.spawn("worker", async move { Err::<(), _>(argument.len().to_string()) });
        assert_eq!(handle.await, Ok(Err("50000".to_owned())));
    }
    assert_eq!(Arc::strong_count(&argument), 1);
    world.finish().await;
}

/// A restart that is declined: finished, not tried again, not a failure.
// Fails where a transient child that ends well is restarted.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_restart_ignore() {
    let (world, [child]) = World::with(["c1"]);
    world.register(child.transient()).await;
    child.end(End::Panic);
    calm().await;
    assert_eq!((world.state("c1"), child.runs()), (Running, 2));
    child.starts(Start::Ends(End::Ok));
    child.end(End::Panic);
    sleep(secs(60)).await;
    assert_eq!((world.state("c1"), child.runs()), (Finished, 3));
    assert_eq!(world.tasks.snapshot("c1").expect("known").total_errors(), 2);
    assert!(world.finish().await.is_clean());
}

/// A child in a loop of failing starts, as it looks from outside, and every way out of it.
async fn restart_loop(policy: RestartPolicy) {
    let (world, [child]) = World::with(["c1"]);
    let config = || {
        child.config(policy).backoff(otel_tasks::Backoff::constant(millis(500))).max_restarts(1_000, 3 * HOUR)
    };
    world.register(config()).await;
    let in_loop = |state: TaskState| state == Backoff || (state == Running && !world.is_ready("c1"));
    child.starts(Start::EndsAfter(secs(2), End::Err));
    child.end(End::Panic);
    for _ in 0..30 {
        calm().await;
        assert!(in_loop(world.state("c1")), "{:?}", world.state("c1"));
        assert_eq!(world.counts(), [1, 0], "registered, not active");
    }
    let again = world.tasks.register(config());
    assert_eq!(shown(&again), r#"Err(Duplicate { name: "c1" })"#);
    // A stop ends the loop, in the delay as in the start.
    for wanted in [Backoff, Running] {
        while world.state("c1") != wanted {
            calm().await;
        }
        world.tasks.stop("c1").expect("registered");
        calm().await;
        let runs = child.runs();
        sleep(secs(60)).await;
        assert_eq!((world.state("c1"), child.runs()), (Stopped, runs), "stopped in {wanted:?}");
        world.tasks.restart("c1").expect("registered");
        calm().await;
    }
    // A start that works ends it as well.
    child.starts(Start::Ready);
    sleep(secs(5)).await;
    assert_eq!(world.counts(), [1, 1]);
    child.starts(Start::EndsAfter(secs(2), End::Err));
    child.end(End::Panic);
    while world.state("c1") != Backoff {
        calm().await;
    }
    // OTP refuses to delete a child that is restarting; ours is stopped and forgotten.
    world.tasks.unregister("c1").await.expect("registered");
    assert_eq!(world.counts(), [0, 0]);
    world.tasks.shutdown().await;
    // And the shutdown, in both.
    for wanted in [Backoff, Running] {
        let (world, [child]) = World::with(["c1"]);
        child.starts(Start::EndsAfter(secs(2), End::Err));
        let slow = otel_tasks::Backoff::constant(secs(600));
        world.register(child.config(policy).backoff(slow).max_restarts(5, HOUR)).await;
        while world.state("c1") != wanted {
            calm().await;
        }
        let report = world.finish().await;
        assert!(report.duration < secs(1) && report.is_clean(), "{wanted:?}: {report}");
        assert_eq!(child.runs(), 1);
    }
}

// Fails where a stop is not heard while a start is to come.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop() {
    restart_loop(RestartPolicy::OnFailure).await;
}

// Fails where a stop is not heard while a start is to come.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_simple() {
    restart_loop(RestartPolicy::Always).await;
}

// Fails where a member that was stopped holds up those after it.
#[tokio::test(start_paused = true)]
async fn hanging_restart_loop_rest_for_one() {
    let (world, [c1, c2, c3]) = World::with(["c1", "c2", "c3"]);
    let slow = c2.permanent().backoff(otel_tasks::Backoff::constant(secs(1))).max_restarts(1_000, HOUR);
    let members = [c1.permanent(), slow, c3.permanent()];
    world.supervise(otel_tasks::policy::RestartStrategy::RestForOne, 1_000, members).await;
    c2.starts(Start::EndsAfter(secs(2), End::Err));
    c2.end(End::Panic);
    for _ in 0..40 {
        sleep(millis(350)).await;
        assert_eq!((c1.runs(), c3.runs(), world.counts()), (1, 1, [3, 1]));
        assert_eq!((world.state("c1"), world.state("c3")), (Running, TaskState::Waiting));
        assert!(!world.is_ready("c2"));
    }
    // The loop ended by hand: OTP leaves c3 down as well. Ours waits for nobody who was stopped by decision.
    world.tasks.stop("c2").expect("registered");
    sleep(secs(60)).await;
    assert_eq!(world.states(["c1", "c2", "c3"]), [Running, Stopped, Running]);
    assert_eq!((c1.runs(), c3.runs()), (1, 2));
    c2.starts(Start::Ready);
    world.tasks.restart("c2").expect("registered");
    calm().await;
    assert_eq!((world.counts(), c1.runs(), c3.runs()), ([3, 3], 1, 2), "one that was down begins alone");
    c2.starts(Start::EndsAfter(secs(2), End::Err));
    c2.end(End::Panic);
    sleep(secs(5)).await;
    let report = world.finish().await;
    assert!(report.duration < secs(1) && report.is_clean(), "{report}");
}

/// A group that fails together over and over stays a group: the same in a one-for-all, where the loop takes c1 along.
// Fails where a group does not wait for its delay.
#[tokio::test(start_paused = true)]
async fn a_restart_loop_of_a_group_begins_from_the_first_each_time() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let slow = c2.permanent().backoff(otel_tasks::Backoff::constant(secs(10))).max_restarts(9, HOUR);
    world.supervise(OneForAll, 9, [c1.permanent(), slow]).await;
    world.log.take();
    c2.starts(Start::Ends(End::Err));
    c2.end(End::Panic);
    sleep(secs(35)).await;
    // Both wait for the delay; there is no restart without it.
    assert_eq!((c1.runs(), c2.runs()), (4, 4));
    world.finish().await;
}
