//! That it grows no faster than it must. Real time, with ten times what is promised: a machine under load is slow.

use std::time::{Duration, Instant};

use otel_tasks::{
    TaskManager,
    policy::RestartStrategy::{OneForAll, OneForOne},
};
use tokio::time::sleep;

use crate::probe::{Child, End, HOUR, World, group};

/// How many times longer ten times as much may take: 10, where it is linear and the machine is quiet.
const LINEAR: u32 = 60;
/// The same of a group, in which each looks at the others when it begins and when it ends: 100.
const QUADRATIC: u32 = 400;

fn many(number: usize) -> (World, Vec<Child>) {
    let world = World::of(TaskManager::builder().max_names(number));
    let children = (0..number).map(|number| world.child(&format!("c{number}x"))).collect();
    (world, children)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(120), "never came: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// The best of a few: what else the machine does only adds.
async fn best<F: Future<Output = Duration>>(of: usize, mut measure: impl FnMut() -> F) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..of {
        best = best.min(measure().await);
    }
    best
}

fn assert_linear(what: &str, small: Duration, large: Duration) {
    assert_grows(what, small, large, LINEAR);
}

fn assert_grows(what: &str, small: Duration, large: Duration, at_most: u32) {
    println!("{what}: {small:?}, and ten times as many: {large:?}");
    let floor = small.max(Duration::from_millis(1));
    assert!(large <= floor * at_most, "{what}: {small:?} became {large:?}");
}

#[tokio::test]
async fn scale_start_stop_many_children() {
    async fn start_stop(number: usize) -> Duration {
        let (world, children) = many(number);
        world.tasks.start();
        let began = Instant::now();
        for child in &children {
            world.tasks.register(child.permanent()).expect("a valid config");
        }
        until("all run", || world.alive.now() == number).await;
        for child in &children {
            world.tasks.stop(child.name()).expect("registered");
        }
        until("all stopped", || world.alive.now() == 0).await;
        for child in &children {
            world.tasks.unregister(child.name()).await.expect("registered");
        }
        let took = began.elapsed();
        assert_eq!(world.alive.total(), number);
        assert_eq!(world.counts(), [0, 0]);
        world.tasks.shutdown().await;
        took
    }
    let small = best(3, || start_stop(2_000)).await;
    assert_linear("2,000 children started and stopped", small, start_stop(20_000).await);
}

/// The same under one supervisor: a group of many is started, restarted, and shut down.
#[tokio::test]
async fn scale_start_stop_many_children_of_one_group() {
    async fn start_stop(number: usize) -> Duration {
        let (world, children) = many(number);
        let members = children.iter().map(Child::permanent);
        let began = Instant::now();
        world.tasks.register_group(group(OneForOne, members)).expect("a valid group");
        world.tasks.start();
        until("all run", || world.alive.now() == number).await;
        world.tasks.shutdown().await;
        let took = began.elapsed();
        assert_eq!((world.alive.total(), world.alive.now()), (number, 0));
        took
    }
    let small = best(3, || start_stop(30)).await;
    let large = best(3, || start_stop(300)).await;
    assert_grows("a group of 30 started and stopped", small, large, QUADRATIC);
}

#[tokio::test]
async fn scale_mass_exit_children() {
    async fn mass_exit(number: usize) -> Duration {
        let (world, children) = many(number);
        for child in &children {
            world.tasks.register(child.temporary()).expect("a valid config");
        }
        world.tasks.start();
        until("all run", || world.alive.now() == number).await;
        let began = Instant::now();
        children.iter().for_each(|child| child.end(End::Panic));
        until("all ended", || world.alive.now() == 0).await;
        let took = began.elapsed();
        let statistics = world.tasks.statistics();
        assert_eq!((statistics.total_errors, statistics.total_restarts), (number as u64, 0));
        world.tasks.shutdown().await;
        took
    }
    let small = best(3, || mass_exit(500)).await;
    assert_linear("500 children that die at once", small, mass_exit(5_000).await);

    // A group of which all fail at once is one restart, and counted once.
    let (world, children) = many(50);
    let members = children.iter().map(Child::permanent);
    world.tasks.register_group(group(OneForAll, members).max_restarts(1, HOUR)).expect("a valid group");
    world.tasks.start();
    until("all run", || world.alive.now() == 50).await;
    children.iter().for_each(|child| child.end(End::Panic));
    until("all run again", || world.alive.total() == 100 && world.alive.now() == 50).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!((world.alive.total(), world.counts()), (100, [50, 50]), "once, and nobody was given up");
    world.finish().await;
}

#[tokio::test]
async fn simple_one_for_one_scale_many_temporary_children() {
    async fn spawn_abort(number: usize) -> Duration {
        let world = World::new();
        let began = Instant::now();
        let handles: Vec<_> =
            (0..number).map(|_| world.tasks.spawn("worker", std::future::pending::<()>())).collect();
        for handle in &handles {
            handle.abort();
        }
        for handle in handles {
            assert!(handle.await.is_err());
        }
        let took = began.elapsed();
        assert_eq!(world.tasks.snapshot("worker").expect("spawned").active, 0);
        took
    }
    let small = best(3, || spawn_abort(1_000)).await;
    assert_linear("1,000 instances started and terminated", small, spawn_abort(10_000).await);
}
