//! What the members of a group wait for, and what they do not.

use std::sync::{Arc, Mutex};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, TaskGroup, TaskManager,
    events::TaskEventKind,
    policy::{Escalation, RestartStrategy},
    snapshot::TaskState,
};
use tokio::time::{Instant, sleep};

use crate::support::{millis, secs, settle, tasks::state};

/// When which member began, in seconds.
#[derive(Clone)]
struct Begun {
    since: Instant,
    lines: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

/// What one life of a member does.
#[derive(Clone, Copy)]
enum Life {
    /// It runs until it is asked to stop.
    Obeys,
    /// It fails after so many seconds.
    Fails(u64),
    /// It finishes at once.
    Finishes,
}
use Life::{Fails, Finishes, Obeys};

impl Begun {
    fn new() -> Self {
        Self { since: Instant::now(), lines: Arc::default() }
    }

    /// A member of these lives, one after the other; further ones are like the last.
    fn member<const N: usize>(&self, name: &'static str, lives: [Life; N]) -> CriticalTaskConfig {
        let begun = self.clone();
        let config = CriticalTaskConfig::new(name, move |ctx| {
            let at = begun.since.elapsed().as_secs();
            begun.lines.lock().unwrap().push((name, at));
            let life = lives[(ctx.generation() as usize).min(N) - 1];
            async move {
                match life {
                    Obeys => ctx.cancelled().await,
                    Fails(after) => {
                        sleep(secs(after)).await;
                        return Err("down");
                    }
                    Finishes => {}
                }
                Ok(())
            }
        });
        config.backoff(Backoff::constant(secs(60))).max_restarts(5, secs(3_600))
    }

    fn lines(&self) -> Vec<(&'static str, u64)> {
        self.lines.lock().unwrap().clone()
    }
}

fn started(group: TaskGroup) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register_group(group).expect("a valid group");
    tasks.start();
    tasks
}

fn group(strategy: RestartStrategy) -> TaskGroup {
    TaskGroup::new("g", strategy)
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_hand_ends_the_delay_for_the_whole_group() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::OneForAll)
            .task(begun.member("a", [Obeys]))
            .task(begun.member("b", [Fails(1), Obeys]))
            .task(begun.member("c", [Obeys])),
    );
    sleep(secs(5)).await;
    assert_eq!(state(&tasks, "b"), Some(TaskState::Backoff));
    tasks.restart("b").expect("it waits for its delay");
    settle().await;
    // Seen to fail with `Group::at_once` left out: the others wait for the 61st second.
    assert_eq!(begun.lines(), [("a", 0), ("b", 0), ("c", 0), ("a", 5), ("b", 5), ("c", 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_not_taken_along_does_not_wait_for_the_delay_of_the_others() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::RestForOne)
            .task(begun.member("a", [Obeys]))
            .task(begun.member("b", [Fails(1), Obeys])),
    );
    sleep(secs(5)).await;
    tasks.stop("a").expect("registered");
    settle().await;
    tasks.restart("a").expect("it rests");
    settle().await;
    // Seen to fail where a member of the first epoch waits for the group's delay as well.
    assert_eq!(begun.lines(), [("a", 0), ("b", 0), ("a", 5)]);
    sleep(secs(60)).await;
    assert_eq!(begun.lines()[3..], [("b", 61)]);
}

#[tokio::test(start_paused = true)]
async fn a_group_does_not_wait_for_an_earlier_member_that_is_never_restarted() {
    for (life, rests) in [(Finishes, TaskState::Finished), (Fails(0), TaskState::Failed)] {
        for strategy in [RestartStrategy::RestForOne, RestartStrategy::OneForAll] {
            let begun = Begun::new();
            let tasks = started(
                group(strategy)
                    .task(begun.member("once", [life]).restart_policy(RestartPolicy::Never))
                    .task(begun.member("b", [Fails(1), Obeys])),
            );
            sleep(secs(70)).await;
            // Seen to fail where `is_settled` waits for one that failed, or finished, under `RestartPolicy::Never`.
            assert_eq!(begun.lines(), [("once", 0), ("b", 0), ("b", 61)], "{strategy:?}");
            assert_eq!(state(&tasks, "once"), Some(rests));
            tasks.shutdown().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_for_all_waits_for_a_later_member_that_was_given_up() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::OneForAll)
            .task(begun.member("a", [Obeys]))
            .task(begun.member("b", [Fails(1), Obeys]).max_restarts(0, secs(60)).give_up(GiveUp::ForGood)),
    );
    let mut events = tasks.subscribe();
    sleep(secs(600)).await;
    assert_eq!(begun.lines(), [("a", 0), ("b", 0)]);
    assert_eq!((state(&tasks, "a"), state(&tasks, "b")), (Some(TaskState::Waiting), Some(TaskState::Failed)));
    let waits = std::iter::from_fn(|| events.try_recv())
        .filter(|event| event.task.as_deref() == Some("a"))
        .find_map(|event| match event.kind {
            TaskEventKind::Waiting { waits_for, .. } => Some(waits_for),
            _ => None,
        });
    assert_eq!(waits, Some(vec!["b".into()]), "and it says for whom");
    tasks.restart("b").expect("it was given up");
    settle().await;
    assert_eq!(begun.lines()[2..], [("a", 600), ("b", 600)]);
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_does_not_wait_for_a_later_member_that_was_given_up() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::RestForOne)
            .task(begun.member("a", [Fails(100), Obeys]))
            .task(begun.member("b", [Fails(1)]).max_restarts(0, secs(60))),
    );
    sleep(secs(200)).await;
    assert_eq!(begun.lines()[..3], [("a", 0), ("b", 0), ("a", 160)]);
    assert_eq!(state(&tasks, "a"), Some(TaskState::Running));
}

#[tokio::test(start_paused = true)]
async fn one_for_all_does_not_wait_for_a_later_member_that_is_never_restarted() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::OneForAll)
            .task(begun.member("a", [Fails(10), Obeys]))
            .task(begun.member("once", [Fails(1)]).restart_policy(RestartPolicy::Never)),
    );
    sleep(secs(100)).await;
    assert_eq!(begun.lines(), [("a", 0), ("once", 0), ("a", 70)]);
    assert_eq!(state(&tasks, "once"), Some(TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_restart_as_old_as_the_groups_window_has_left_it() {
    let begun = Begun::new();
    let member = |name| {
        begun.member(name, [Fails(10)]).backoff(Backoff::constant(millis(0))).max_restarts(100, secs(3_600))
    };
    // One restart every ten seconds, and one is allowed within ten.
    let tasks = started(group(RestartStrategy::OneForOne).task(member("a")).max_restarts(1, secs(10)));
    sleep(secs(95)).await;
    assert_eq!(state(&tasks, "a"), Some(TaskState::Running));
    assert_eq!(begun.lines().len(), 10);
    let tasks = started(group(RestartStrategy::OneForOne).task(member("b")).max_restarts(1, millis(10_100)));
    sleep(secs(25)).await;
    assert_eq!(state(&tasks, "b"), Some(TaskState::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_stopped_takes_those_down_that_wait_for_their_delay() {
    let begun = Begun::new();
    let tasks = started(
        group(RestartStrategy::OneForOne)
            .task(begun.member("a", [Fails(1)]))
            .task(begun.member("b", [Obeys]))
            .task(begun.member("c", [Fails(5)]).max_restarts(0, secs(60)).escalation(Escalation::Group)),
    );
    sleep(secs(3)).await;
    assert_eq!(state(&tasks, "a"), Some(TaskState::Backoff));
    sleep(secs(3)).await;
    let states = ["a", "b", "c"].map(|name| state(&tasks, name));
    assert_eq!(states, [TaskState::Stopped, TaskState::Stopped, TaskState::Failed].map(Some));
    sleep(secs(600)).await;
    assert_eq!(begun.lines().len(), 3, "and nobody begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_stall_counts_against_the_limit_of_the_group() {
    let silent = CriticalTaskConfig::new("silent", |ctx| async move { ctx.cancelled().await })
        .heartbeat_timeout(secs(10))
        .backoff(Backoff::constant(secs(1)))
        .max_restarts(100, secs(3_600));
    let tasks = started(group(RestartStrategy::OneForOne).task(silent).max_restarts(1, secs(3_600)));
    let mut events = tasks.subscribe();
    sleep(secs(15)).await;
    assert_eq!(state(&tasks, "silent"), Some(TaskState::Running), "it was restarted once");
    sleep(secs(10)).await;
    assert_eq!(state(&tasks, "silent"), Some(TaskState::Failed));
    let why = std::iter::from_fn(|| events.try_recv()).find_map(|event| match event.kind {
        TaskEventKind::GaveUp { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(why, Some("its group was restarted too often"));
}

#[tokio::test(start_paused = true)]
async fn a_group_asks_the_next_running_member_at_once_past_stopped_ones() {
    let begun = Begun::new();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let slow = |name: &'static str, takes: u64| {
        let (asked, begun) = (asked.clone(), begun.clone());
        CriticalTaskConfig::new(name, move |ctx| {
            let (asked, begun) = (asked.clone(), begun.clone());
            async move {
                ctx.cancelled().await;
                asked.lock().unwrap().push((name, begun.since.elapsed().as_secs()));
                sleep(secs(takes)).await;
            }
        })
    };
    let tasks = started(
        group(RestartStrategy::OneForAll)
            .task(slow("a", 0))
            .task(begun.member("b", [Obeys]))
            .task(slow("c", 5))
            .task(begun.member("d", [Fails(10), Obeys])),
    );
    sleep(secs(2)).await;
    tasks.stop("b").expect("registered");
    sleep(secs(20)).await;
    // Seen to fail where the next below is told, also where it is down: the one above it learns of it when half a minute is
    // over.
    assert_eq!(*asked.lock().unwrap(), [("c", 10), ("a", 15)]);
}

#[test]
fn group_returns_its_name() {
    assert_eq!(TaskGroup::new("database", RestartStrategy::OneForAll).name(), "database");
}
