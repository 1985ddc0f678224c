//! Who is restarted with whom, in which order, and how it is counted.

use otel_tasks::{
    policy::{
        Escalation, RestartReason,
        RestartStrategy::{OneForAll, OneForOne, RestForOne},
    },
    snapshot::TaskState::{Backoff, Failed, Finished, Running, Stopped, Waiting},
};
use tokio::time::sleep;

use crate::{
    probe::{End, HOUR, STRATEGIES, Start, Stop, World, calm, group},
    support::{millis, secs},
};

// Fails where `Escalation::Group` stops nobody.
#[tokio::test(start_paused = true)]
async fn one_for_one() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let members = [&c1, &c2].map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(OneForOne, 2, members).await;
    c1.end(End::Panic);
    calm().await;
    assert_eq!((c1.runs(), c2.runs(), world.counts()), (2, 1, [2, 2]));
    // The limit is the group's: it counts over different members.
    c2.end(End::Err);
    calm().await;
    assert_eq!((c1.runs(), c2.runs(), world.counts()), (2, 2, [2, 2]));
    c2.end(End::Err);
    calm().await;
    assert_eq!((c1.runs(), c2.runs(), world.counts()), (2, 2, [2, 0]));
    assert_eq!(world.states(["c1", "c2"]), [Stopped, Failed]);
    world.finish().await;
}

/// As `one_for_one`; the children are of one kind.
// Fails where `Escalation::Group` stops nobody.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one() {
    let world = World::new();
    let children: Vec<_> = ["i1x", "i2x"].map(|name| world.child(name)).into();
    let members = children.iter().map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(OneForOne, 2, members).await;
    for runs in [(2, 1), (2, 2)] {
        children[runs.1 - 1].end(End::Panic);
        calm().await;
        assert_eq!((children[0].runs(), children[1].runs(), world.counts()), (runs.0, runs.1, [2, 2]));
    }
    children[0].end(End::Panic);
    calm().await;
    assert_eq!((world.states(["i1x", "i2x"]), world.counts()), ([Failed, Stopped], [2, 0]));
    world.finish().await;
}

/// A member whose every start but the first fails is tried as often as the limit allows, then given up; how far that
/// reaches is said by its escalation. OTP's supervisor always ends.
async fn one_for_one_gives_up(names: [&str; 2]) {
    for escalation in [Escalation::None, Escalation::Group, Escalation::Shutdown] {
        let world = World::new();
        let [c1, c2] = world.children(names);
        world.supervise(OneForOne, 4, [c1.permanent().escalation(escalation), c2.permanent()]).await;
        c1.starts(Start::Ends(End::Err));
        c1.end(End::Panic);
        calm().await;
        assert_eq!(c1.runs(), 1 + 4, "{escalation:?}: four restarts, the fifth is refused");
        assert_eq!(world.state(c1.name()), Failed);
        assert_eq!(c2.runs(), 1);
        if escalation != Escalation::Shutdown {
            let expected = if escalation == Escalation::None { Running } else { Stopped };
            assert_eq!(world.state(c2.name()), expected, "{escalation:?}");
        }
        let report = world.finish().await;
        let cause = report.cause.as_ref().map(|cause| &*cause.task);
        assert_eq!(cause, (escalation == Escalation::Shutdown).then_some(c1.name()));
        assert_eq!(report.exit_code(), u8::from(escalation == Escalation::Shutdown), "{report}");
    }
}

// Fails where `Escalation::Shutdown` does nothing.
#[tokio::test(start_paused = true)]
async fn one_for_one_escalation() {
    one_for_one_gives_up(["c1", "c2"]).await;
}

// Fails where `Escalation::Shutdown` does nothing.
#[tokio::test(start_paused = true)]
async fn simple_one_for_one_escalation() {
    one_for_one_gives_up(["i1x", "i2x"]).await;
}

// Fails where new lives do not wait for old ones.
#[tokio::test(start_paused = true)]
async fn one_for_all() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let members = [&c1, &c2].map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(OneForAll, 2, members).await;
    world.log.take();
    c2.stops(Stop::After(secs(3)));
    c1.end(End::Panic);
    sleep(secs(4)).await;
    // It is asked, has its grace, and only then does the first begin.
    let restart = ["stop c2", "end c2", "start c1", "ready c1", "start c2", "ready c2"];
    assert_eq!(world.log.take(), [&["end c1"], &restart[..]].concat());
    assert_eq!((c1.runs(), c2.runs(), world.counts()), (2, 2, [2, 2]));
    assert_eq!(
        (world.restarts("c1", RestartReason::Panic), world.restarts("c2", RestartReason::Group)),
        (1, 1)
    );
    c2.stops(Stop::AtOnce);
    // A restart of the group is one restart: this is the second, and the last that is allowed.
    c2.end(End::Panic);
    calm().await;
    let restart = ["stop c1", "end c1", "start c1", "ready c1", "start c2", "ready c2"];
    assert_eq!(world.log.take(), [&["end c2"], &restart[..]].concat());
    c2.end(End::Panic);
    calm().await;
    assert_eq!(world.log.take(), ["end c2", "stop c1", "end c1"]);
    assert_eq!(world.states(["c1", "c2"]), [Stopped, Failed]);
    world.finish().await;
}

// Fails where `Escalation::Group` stops nobody.
#[tokio::test(start_paused = true)]
async fn one_for_all_escalation() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let members = [&c1, &c2].map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(OneForAll, 4, members).await;
    world.log.take();
    c2.starts(Start::Ends(End::Err));
    c1.end(End::Panic);
    calm().await;
    let attempt = ["start c1", "ready c1", "start c2", "end c2", "stop c1", "end c1"];
    let attempts = attempt.repeat(4);
    assert_eq!(world.log.take(), [&["end c1", "stop c2", "end c2"], &attempts[..]].concat());
    assert_eq!(world.states(["c1", "c2"]), [Stopped, Failed], "nothing is left running");
    world.finish().await;
}

/// A start that fails in the midst of a group's restart: what had begun goes down before anything begins again, and it is
/// counted as one restart more.
// Fails where one that was given up takes nobody along.
#[tokio::test(start_paused = true)]
async fn one_for_all_other_child_fails_restart() {
    // Also where it ended well: before it is ready that is no start.
    for early in End::ALL {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(OneForAll, 2, [c1.permanent(), c2.permanent()]).await;
        world.log.take();
        c1.starts(Start::Gated);
        c2.starts(Start::Gated);
        c1.end(End::Panic);
        calm().await;
        assert_eq!(world.log.take(), ["end c1", "stop c2", "end c2", "start c1"], "c2 waits for c1");
        c1.go();
        calm().await;
        assert_eq!(world.log.take(), ["ready c1", "start c2"]);
        c2.end(early);
        calm().await;
        assert_eq!(world.log.take(), ["end c2", "stop c1", "end c1", "start c1"], "{early:?}");
        c1.go();
        calm().await;
        c2.go();
        calm().await;
        assert_eq!(world.log.take(), ["ready c1", "start c2", "ready c2"], "{early:?}");
        assert_eq!(world.counts(), [2, 2]);
        assert_eq!(world.tasks.snapshot("c1").expect("known").total_restarts(), 2, "panic, group");
        assert_eq!(world.restarts("c2", early.reason()), 1);
        // Two were counted, and two are allowed.
        c1.end(End::Panic);
        calm().await;
        assert_eq!(world.states(["c1", "c2"]), [Failed, Waiting], "{early:?}");
        world.finish().await;
    }
}

// Fails where rest-for-one takes all along.
#[tokio::test(start_paused = true)]
async fn rest_for_one() {
    let (world, children) = World::with(["c1", "c2", "c3"]);
    let [c1, c2, c3] = &children;
    let members = children.each_ref().map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(RestForOne, 2, members).await;
    let runs = || children.each_ref().map(|child| child.runs());
    world.log.take();
    c2.end(End::Panic);
    calm().await;
    let restart = ["end c2", "stop c3", "end c3", "start c2", "ready c2", "start c3", "ready c3"];
    assert_eq!(world.log.take(), restart);
    assert_eq!((runs(), world.counts()), ([1, 2, 2], [3, 3]));
    c3.end(End::Err);
    calm().await;
    assert_eq!((runs(), world.counts()), ([1, 2, 3], [3, 3]));
    c2.end(End::Err);
    calm().await;
    assert_eq!((runs(), world.counts()), ([1, 2, 3], [3, 0]));
    assert_eq!(world.states(["c1", "c2", "c3"]), [Stopped, Failed, Stopped]);
    let c1_failed = c1.alive() + c2.alive() + c3.alive();
    assert_eq!(c1_failed, 0);
    world.finish().await;
}

// Fails where rest-for-one takes all along.
#[tokio::test(start_paused = true)]
async fn rest_for_one_escalation() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let members = [&c1, &c2].map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(RestForOne, 4, members).await;
    world.log.take();
    c2.starts(Start::Ends(End::Err));
    c1.end(End::Panic);
    calm().await;
    // The first begins once and stays up while the second is tried.
    let begun = ["end c1", "stop c2", "end c2", "start c1", "ready c1"];
    let tried = ["start c2", "end c2"].repeat(4);
    assert_eq!(world.log.take(), [&begun[..], &tried[..], &["stop c1", "end c1"]].concat());
    assert_eq!(world.states(["c1", "c2"]), [Stopped, Failed]);
    world.finish().await;
}

// Fails where a permanent child that ends well is left finished.
#[tokio::test(start_paused = true)]
async fn rest_for_one_other_child_fails_restart() {
    for early in End::ALL {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(RestForOne, 2, [c1.permanent(), c2.permanent()]).await;
        world.log.take();
        c1.starts(Start::Gated);
        c2.starts(Start::Gated);
        c1.end(End::Panic);
        calm().await;
        c1.go();
        calm().await;
        let restart = ["end c1", "stop c2", "end c2", "start c1", "ready c1", "start c2"];
        assert_eq!(world.log.take(), restart);
        c2.end(early);
        calm().await;
        assert_eq!(world.log.take(), ["end c2", "start c2"], "{early:?}: c1 is left alone");
        c2.go();
        calm().await;
        assert_eq!((c1.runs(), c2.runs(), world.counts()), (2, 3, [2, 2]));
        c1.end(End::Panic);
        calm().await;
        assert_eq!(world.state("c1"), Failed, "{early:?}: two were counted");
        world.finish().await;
    }
}

/// The window slides: what left it no longer counts, for a task's limit as for a group's.
// Fails where a group's window does not slide.
#[tokio::test(start_paused = true)]
async fn multiple_restarts() {
    for of_group in [false, true] {
        let (world, [child]) = World::with(["c1"]);
        if of_group {
            world.supervise_as(group(OneForOne, [child.permanent()]).max_restarts(1, secs(1))).await;
        } else {
            world.register(child.permanent().max_restarts(1, secs(1))).await;
        }
        for runs in 2..=5 {
            child.end(End::Panic);
            calm().await;
            assert_eq!((world.state("c1"), child.runs()), (Running, runs), "of the group: {of_group}");
            sleep(secs(2)).await;
        }
        assert_eq!(world.tasks.snapshot("c1").expect("known").total_restarts(), 4);
        child.end(End::Panic);
        calm().await;
        child.end(End::Panic);
        calm().await;
        assert_eq!((world.state("c1"), child.runs()), (Failed, 6), "of the group: {of_group}");
        assert_eq!(world.tasks.unregister("c1").await, Ok(()));
        assert_eq!(world.counts(), [0, 0]);
        world.finish().await;
    }
}

/// A temporary sibling goes down with the group and is not begun again.
// Fails where a temporary sibling is begun again.
#[tokio::test(start_paused = true)]
async fn temporary_bystander() {
    for strategy in [OneForAll, RestForOne] {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(strategy, 2, [c1.permanent(), c2.temporary()]).await;
        world.log.take();
        c1.end(End::Ok);
        sleep(secs(60)).await;
        assert_eq!(world.log.take(), ["end c1", "stop c2", "end c2", "start c1", "ready c1"], "{strategy:?}");
        assert_eq!(world.states(["c1", "c2"]), [Running, Stopped], "{strategy:?}");
        assert_eq!((c1.runs(), c2.runs()), (2, 1));
        let figures = world.tasks.snapshot("c2").expect("known");
        assert_eq!((figures.total_restarts(), figures.total_errors()), (0, 0));
        world.finish().await;
    }
}

/// Exactly those are restarted that the strategy says, and to be stopped for another's sake counts for nothing.
// Fails where restarts for others' sake count.
#[tokio::test(start_paused = true)]
async fn significant_bystander() {
    for (strategy, runs) in [(OneForOne, [1, 2, 1]), (OneForAll, [2, 2, 2]), (RestForOne, [1, 2, 2])] {
        for end in End::FAILURES {
            let (world, children) = World::with(["c1", "c2", "c3"]);
            let members = children
                .each_ref()
                .map(|child| child.transient().escalation(Escalation::Shutdown).max_restarts(1, HOUR));
            world.supervise(strategy, 1, members).await;
            children[1].end(end);
            calm().await;
            assert_eq!(children.each_ref().map(|child| child.runs()), runs, "{strategy:?}");
            assert_eq!(world.counts(), [3, 3], "{strategy:?}");
            for name in ["c1", "c3"] {
                let bystander = world.tasks.snapshot(name).expect("known");
                assert_eq!((bystander.total_errors(), bystander.restarts_last_hour), (0, 0), "{name}");
            }
            assert!(world.finish().await.cause.is_none());
        }
    }
}

/// How far it reaches that a member is given up.
// Fails where `Escalation::Shutdown` does nothing.
#[tokio::test(start_paused = true)]
async fn significant_escalation() {
    for escalation in [Escalation::None, Escalation::Group, Escalation::Shutdown] {
        let mut world = World::new();
        let [outside, c1, c2] = world.children(["outside", "c1", "c2"]);
        world.register(outside.permanent()).await;
        world.supervise(OneForOne, 0, [c1.permanent(), c2.permanent().escalation(escalation)]).await;
        world.log.take();
        c2.end(End::Panic);
        calm().await;
        let down = match escalation {
            Escalation::None => vec!["end c2"],
            Escalation::Group => vec!["end c2", "stop c1", "end c1"],
            _ => vec!["end c2", "stop c1", "end c1", "stop outside", "end outside"],
        };
        let log = world.log.take();
        assert_eq!(log.iter().filter(|line| down.contains(&line.as_str())).count(), down.len(), "{log:?}");
        assert_eq!(log.len(), down.len(), "{escalation:?}: {log:?}");
        let shut_down = world.told().iter().any(|event| event.task.is_none());
        assert_eq!(shut_down, escalation == Escalation::Shutdown);
        let report = world.tasks.shutdown().await;
        assert_eq!(report.cause.is_some(), shut_down);
    }
}

/// A temporary child that is not to be missed takes nobody along, however it ends.
// Fails where a temporary child that failed takes others along.
#[tokio::test(start_paused = true)]
async fn nonsignificant_temporary() {
    for strategy in STRATEGIES {
        for end in [None, Some(End::Ok), Some(End::Err), Some(End::Panic)] {
            let (world, children) = World::with(["c1", "c2", "c3"]);
            let [c1, c2, c3] = &children;
            world.supervise(strategy, 0, [c1.permanent(), c2.temporary(), c3.permanent()]).await;
            match end {
                Some(end) => c2.end(end),
                None => world.tasks.stop("c2").expect("registered"),
            }
            sleep(secs(60)).await;
            let expected = match end {
                None => Stopped,
                Some(End::Ok) => Finished,
                Some(_) => Failed,
            };
            assert_eq!(
                world.states(["c1", "c2", "c3"]),
                [Running, expected, Running],
                "{strategy:?} {end:?}"
            );
            assert_eq!([c1, c2, c3].map(|child| child.runs()), [1, 1, 1], "{strategy:?} {end:?}");
            world.finish().await;
        }
    }
}

// Fails where a transient child that ends well is restarted.
#[tokio::test(start_paused = true)]
async fn nonsignificant_transient() {
    for strategy in STRATEGIES {
        let (world, [c1, c2]) = World::with(["c1", "c2"]);
        world.supervise(strategy, 2, [c1.permanent(), c2.transient()]).await;
        world.tasks.stop("c2").expect("registered");
        calm().await;
        assert_eq!((world.state("c2"), c1.runs()), (Stopped, 1), "{strategy:?}");
        world.tasks.restart("c2").expect("registered");
        calm().await;
        assert_eq!((c2.runs(), c1.runs()), (2, 1), "{strategy:?}: one that was down begins alone");
        for (runs, end) in [(3, End::Panic), (4, End::Err)] {
            c2.end(end);
            calm().await;
            assert_eq!((world.state("c2"), c2.runs()), (Running, runs), "{strategy:?} {end:?}");
        }
        c2.end(End::Ok);
        calm().await;
        assert_eq!((world.states(["c1", "c2"]), c2.runs()), ([Running, Finished], 4), "{strategy:?}");
        let c1_runs = if strategy == OneForAll { 3 } else { 1 };
        assert_eq!(c1.runs(), c1_runs, "{strategy:?}");
        world.finish().await;
    }
}

/// Groups are apart, a failure stays where it belongs; and who was stopped by hand stays so (in OTP the restart of the group
/// starts it again).
// Fails where `Escalation::Group` stops nobody.
#[tokio::test(start_paused = true)]
async fn tree() {
    let (world, [a1, a2, b1, b2, b3]) = World::with(["a1", "a2", "b1", "b2", "b3"]);
    world.supervise(OneForAll, 4, [a1.permanent(), a2.permanent()]).await;
    let members = [&b1, &b2, &b3].map(|child| child.permanent().escalation(Escalation::Group));
    world.supervise(OneForAll, 1, members).await;
    world.tasks.stop("b3").expect("registered");
    calm().await;
    assert_eq!([&b1, &b2, &b3].map(|child| child.runs()), [1, 1, 1], "a stop by hand is of one alone");
    b1.end(End::Panic);
    calm().await;
    assert_eq!([&a1, &a2, &b1, &b2, &b3].map(|child| child.runs()), [1, 1, 2, 2, 1]);
    assert_eq!(world.state("b3"), Stopped);
    world.tasks.restart("b3").expect("registered");
    calm().await;
    assert_eq!([&b1, &b2, &b3].map(|child| child.runs()), [2, 2, 2], "and so is its restart");
    // Its limit reached, the group goes down, and takes nobody of another along.
    b2.end(End::Panic);
    calm().await;
    assert_eq!(world.states(["b1", "b2", "b3"]), [Stopped, Failed, Stopped]);
    assert_eq!((world.states(["a1", "a2"]), a1.runs() + a2.runs()), ([Running, Running], 2));
    world.finish().await;
}

// Fails where a permanent child that ends well is left finished.
#[tokio::test(start_paused = true)]
async fn simple_global_supervisor() {
    let (world, [child]) = World::with(["server"]);
    world.supervise(OneForAll, 3, [child.permanent()]).await;
    for (runs, end) in [(2, End::Panic), (3, End::Err), (4, End::Ok)] {
        child.end(end);
        calm().await;
        assert_eq!((world.state("server"), child.runs()), (Running, runs), "{end:?}");
    }
    world.tasks.stop("server").expect("registered");
    calm().await;
    world.tasks.restart("server").expect("registered");
    calm().await;
    assert_eq!((world.state("server"), child.runs()), (Running, 5));
    world.finish().await;
    assert_eq!(child.alive(), 0);
}

// Fails where the shutdown does not know of a group's order.
#[tokio::test(start_paused = true)]
async fn order_of_children() {
    let world = World::new();
    // Not in the order of their names.
    let names = ["c7", "c3", "c10", "c2", "c5"];
    let children = world.children(names);
    for child in &children {
        child.starts(Start::Gated).stops(Stop::After(millis(10)));
    }
    world.supervise(RestForOne, 5, children.each_ref().map(|child| child.permanent())).await;
    let begun = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| [format!("start {name}"), format!("ready {name}")]).collect()
    };
    let ended = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|name| [format!("stop {name}"), format!("end {name}")]).collect()
    };
    for (place, child) in children.iter().enumerate() {
        calm().await;
        let runs = children.each_ref().map(|child| child.runs());
        assert_eq!(
            runs.iter().sum::<usize>(),
            place + 1,
            "each begins when the one before is ready: {runs:?}"
        );
        child.go();
    }
    calm().await;
    assert_eq!(world.log.take(), begun(&names));
    for child in &children {
        child.starts(Start::Ready);
    }
    children[2].end(End::Panic);
    calm().await;
    let restart = [vec!["end c10".to_owned()], ended(&["c5", "c2"]), begun(&["c10", "c2", "c5"])].concat();
    assert_eq!(world.log.take(), restart, "those before are not touched");
    // A member that is registered anew is no longer of the group; the others keep their places.
    let log = world.log.clone();
    world.finish().await;
    assert_eq!(log.take(), ended(&["c5", "c2", "c10", "c3", "c7"]), "the shutdown goes backwards");
}

// What the suite does not say and the source does.

/// A sibling that finished well begins anew with its group; in a rest-for-one only after the culprit.
// Fails where one that finished does not begin anew with its group.
#[tokio::test(start_paused = true)]
async fn finished_sibling_restarts_with_its_group() {
    for (strategy, runs) in [(OneForOne, [1, 2, 1]), (OneForAll, [2, 2, 2]), (RestForOne, [1, 2, 2])] {
        let (world, children) = World::with(["c1", "c2", "c3"]);
        world.supervise(strategy, 1, children.each_ref().map(|child| child.transient())).await;
        children[0].end(End::Ok);
        children[2].end(End::Ok);
        calm().await;
        assert_eq!(world.states(["c1", "c2", "c3"]), [Finished, Running, Finished], "{strategy:?}");
        children[1].end(End::Panic);
        calm().await;
        assert_eq!(children.each_ref().map(|child| child.runs()), runs, "{strategy:?}");
        world.finish().await;
    }
}

/// Siblings that fail at the same moment: one restart of the group, counted once.
// Fails where rest-for-one takes all along.
#[tokio::test(start_paused = true)]
async fn siblings_that_fail_at_once_are_one_restart_of_the_group() {
    for (first, second) in [(0, 1), (1, 0)] {
        let (world, children) = World::with(["c1", "c2"]);
        world.supervise(OneForAll, 1, children.each_ref().map(|child| child.permanent())).await;
        children[first].end(End::Panic);
        children[second].end(End::Panic);
        calm().await;
        assert_eq!(children.each_ref().map(|child| child.runs()), [2, 2]);
        assert_eq!(world.counts(), [2, 2], "the one restart that is allowed");
        assert_eq!(world.tasks.statistics().total_restarts, 2, "each began again once");
        world.finish().await;
    }
    // In a rest-for-one the earlier one takes the later along, and is a trigger of its own where the later was first.
    for (first, second, counted) in [(0, 1, 1), (1, 0, 2)] {
        let (world, children) = World::with(["c1", "c2"]);
        world.supervise(RestForOne, counted, children.each_ref().map(|child| child.permanent())).await;
        children[first].end(End::Panic);
        children[second].end(End::Panic);
        calm().await;
        assert_eq!(world.counts(), [2, 2], "{first} before {second}: {counted} counted");
        children[0].end(End::Panic);
        calm().await;
        assert_eq!(
            world.state("c1"),
            Failed,
            "{first} before {second}: {counted} counted, all that are allowed"
        );
        world.finish().await;
    }
}

/// A retry that is due is dropped where its group's restart has begun the task meanwhile.
#[tokio::test(start_paused = true)]
async fn a_retry_is_no_second_run_where_the_group_began_it_meanwhile() {
    let (world, [c1, c2]) = World::with(["c1", "c2"]);
    let slow = c2.permanent().backoff(otel_tasks::Backoff::constant(secs(10))).max_restarts(9, HOUR);
    world.supervise(RestForOne, 9, [c1.permanent(), slow]).await;
    c2.end(End::Panic);
    calm().await;
    assert_eq!(world.state("c2"), Backoff);
    c1.end(End::Panic);
    sleep(secs(60)).await;
    assert_eq!((c1.runs(), c2.runs(), c2.alive()), (2, 2, 1));
    world.finish().await;
}

/// Who was given up holds down those that it takes along, until somebody begins it again.
// Fails where one-for-all begins without one that was given up.
#[tokio::test(start_paused = true)]
async fn given_up_member_keeps_its_group_stopped() {
    let cases = [
        (OneForOne, [Running, Failed, Running]),
        (OneForAll, [Waiting, Failed, Waiting]),
        (RestForOne, [Running, Failed, Waiting]),
    ];
    for (strategy, states) in cases {
        let (world, [c1, c2, c3]) = World::with(["c1", "c2", "c3"]);
        let members = [c1.permanent(), c2.permanent().max_restarts(0, HOUR), c3.permanent()];
        world.supervise(strategy, 9, members).await;
        c2.end(End::Panic);
        sleep(secs(60)).await;
        assert_eq!(world.states(["c1", "c2", "c3"]), states, "{strategy:?}");
        world.tasks.restart("c2").expect("registered");
        calm().await;
        assert_eq!((world.counts(), c2.runs()), ([3, 3], 2), "{strategy:?}");
        world.finish().await;
    }
}

/// A group that was stopped because one of it was given up: also who waited for its restart just then stays down. (In a
/// one-for-all the one that waits has taken the others along, so that none is left that could be given up.)
// Fails where a restart by hand does not catch up with the group.
#[tokio::test(start_paused = true)]
async fn given_up_group_stops_members_waiting_for_a_restart() {
    for strategy in [OneForOne, RestForOne] {
        let (world, [c1, c2, c3]) = World::with(["c1", "c2", "c3"]);
        let delay = otel_tasks::Backoff::constant(secs(10));
        let members = [
            c1.permanent().max_restarts(0, HOUR).escalation(Escalation::Group),
            c2.permanent().backoff(delay).max_restarts(9, HOUR),
            c3.permanent(),
        ];
        world.supervise_as(group(strategy, members)).await;
        c2.end(End::Panic);
        calm().await;
        assert_eq!(world.state("c2"), Backoff, "{strategy:?}");
        c1.end(End::Panic);
        sleep(secs(60)).await;
        assert_eq!(world.states(["c1", "c2", "c3"]), [Failed, Stopped, Stopped], "{strategy:?}");
        assert_eq!((c2.runs(), c2.alive(), c3.alive()), (1, 0, 0), "{strategy:?}");
        for name in ["c1", "c2", "c3"] {
            world.tasks.restart(name).expect("registered");
        }
        calm().await;
        assert_eq!(world.counts(), [3, 3], "{strategy:?}: by hand it begins again");
        world.finish().await;
    }
}

/// Stopped as a whole and begun again by hand, member by member, a group is a group as before.
#[tokio::test(start_paused = true)]
async fn a_stopped_group_that_is_begun_again_by_hand_is_a_group_as_before() {
    let (world, [c1, c2, c3]) = World::with(["c1", "c2", "c3"]);
    let members = [
        c1.permanent().max_restarts(0, HOUR).escalation(Escalation::Group),
        c2.permanent(),
        c3.permanent().max_restarts(0, HOUR),
    ];
    world.supervise_as(group(OneForAll, members)).await;
    let begin_again = || async {
        for name in ["c1", "c2", "c3"] {
            world.tasks.restart(name).expect("registered");
            calm().await;
        }
        assert_eq!(world.counts(), [3, 3]);
    };
    c1.end(End::Panic);
    calm().await;
    assert_eq!(world.states(["c1", "c2", "c3"]), [Failed, Stopped, Stopped]);
    begin_again().await;
    // One is given up that does not stop the group: those that it takes along wait for it, as ever.
    c3.end(End::Panic);
    calm().await;
    assert_eq!(world.states(["c1", "c2", "c3"]), [Waiting, Waiting, Failed]);
    world.tasks.restart("c3").expect("registered");
    calm().await;
    assert_eq!(world.counts(), [3, 3]);
    c2.end(End::Panic);
    calm().await;
    assert_eq!(world.counts(), [3, 3]);
    assert_eq!([&c1, &c2, &c3].map(|child| child.runs()), [4, 4, 4]);
    world.finish().await;
}

/// One that waits for a task outside does not keep a later one from seeing that what it waits for is over.
#[tokio::test(start_paused = true)]
async fn a_member_that_waits_for_another_task_hides_nothing_from_those_after_it() {
    let (world, [db, c1, c2, c3, c4]) = World::with(["db", "c1", "c2", "c3", "c4"]);
    world.register(db.permanent()).await;
    let members = [
        c2.permanent(),
        c1.permanent().depends_on("db"),
        c3.permanent(),
        c4.permanent().max_restarts(0, HOUR).escalation(Escalation::Group),
    ];
    world.supervise_as(group(OneForOne, members)).await;
    c2.stops(Stop::After(secs(5)));
    world.tasks.stop("db").expect("registered");
    c4.end(End::Panic);
    calm().await;
    assert_eq!(
        world.states(["c1", "c2", "c3", "c4"]).map(|state| state == Failed),
        [false, false, false, true]
    );
    // The last of the old ones still stops; c1 waits for it, and for db.
    world.tasks.restart("c1").expect("registered");
    world.tasks.restart("c3").expect("registered");
    calm().await;
    assert_eq!(world.states(["c1", "c3"]), [Waiting, Waiting]);
    sleep(secs(60)).await;
    assert_eq!(world.states(["c1", "c2", "c3"]), [Waiting, Stopped, Running]);
    world.tasks.restart("db").expect("registered");
    calm().await;
    assert_eq!(world.state("c1"), Running);
    world.finish().await;
}

/// The restart by hand of a member that runs takes along the others as the strategy says; OTP has no such operation. It is
/// not counted.
// Fails where a restart by hand is not told to the group.
#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_of_a_running_member_is_one_of_the_group() {
    for (strategy, runs) in [(OneForOne, [1, 2, 1]), (OneForAll, [2, 2, 2]), (RestForOne, [1, 2, 2])] {
        let (world, children) = World::with(["c1", "c2", "c3"]);
        world.supervise(strategy, 0, children.each_ref().map(|child| child.permanent())).await;
        world.log.take();
        world.tasks.restart("c2").expect("registered");
        calm().await;
        assert_eq!(children.each_ref().map(|child| child.runs()), runs, "{strategy:?}");
        assert_eq!(world.counts(), [3, 3], "{strategy:?}");
        let log = world.log.take();
        let down = log.iter().rposition(|line| line.starts_with("end"));
        let up = log.iter().position(|line| line.starts_with("start"));
        assert!(down < up, "all go down before the first begins: {log:?}");
        assert_eq!(world.restarts("c2", RestartReason::Requested), 1);
        world.finish().await;
    }
}
