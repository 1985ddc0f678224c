//! Tasks that end, and the tasks that depend on them.

use std::{sync::Arc, time::Duration};

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, TaskContext, TaskGroup, TaskManager,
    health::HealthReason,
    policy::{Backoff, Escalation, GiveUp, RestartStrategy},
    snapshot::TaskState,
};
use tokio::time::sleep;

use crate::support::secs;

fn server(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |ctx: TaskContext| async move { ctx.cancelled().await })
}

fn migrate(lasts: Duration) -> CriticalTaskConfig {
    CriticalTaskConfig::one_shot("migrate", move |_| async move { sleep(lasts).await })
}

fn state(tasks: &TaskManager, name: &str) -> Option<TaskState> {
    tasks.snapshot(name).and_then(|task| task.state)
}

/// Fails if a one-shot carries its dependents from its start on.
#[tokio::test(start_paused = true)]
async fn a_dependent_begins_when_the_one_shot_has_succeeded() {
    let tasks = TaskManager::new();
    tasks.register_all([server("http").depends_on("migrate"), migrate(secs(60))]).unwrap();
    let reasons = || tasks.task_health("http").unwrap().reasons;
    assert_eq!(reasons(), [HealthReason::NotStarted]);
    tasks.start();
    sleep(secs(59)).await;
    assert_eq!(
        (state(&tasks, "migrate"), state(&tasks, "http")),
        (Some(TaskState::Running), Some(TaskState::Waiting))
    );
    assert_eq!(tasks.snapshot("http").unwrap().waits_for, [Arc::from("migrate")]);
    let waits = tasks.task_health("http").unwrap();
    assert_eq!(waits.to_string(), "healthy: waits for migrate (running)");
    assert!(matches!(&waits.reasons[..], [HealthReason::WaitsFor { state: Some(TaskState::Running), .. }]));
    // The health of the one-shot itself does not wait for its end.
    assert!(tasks.task_health("migrate").unwrap().is_ready);
    sleep(secs(2)).await;
    assert_eq!(
        (state(&tasks, "migrate"), state(&tasks, "http")),
        (Some(TaskState::Finished), Some(TaskState::Running))
    );
    assert_eq!((reasons(), tasks.snapshot("http").unwrap().waits_for), (vec![], vec![]));
    // It runs once more, and its dependents continue.
    tasks.restart("migrate").unwrap();
    sleep(secs(1)).await;
    assert_eq!(
        (state(&tasks, "migrate"), state(&tasks, "http")),
        (Some(TaskState::Running), Some(TaskState::Running))
    );
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_that_fails_for_good_keeps_its_dependents_and_they_say_so() {
    let tasks = TaskManager::new();
    let fails = CriticalTaskConfig::one_shot("migrate", |ctx: TaskContext| async move {
        if ctx.generation() < 4 { Err("no table") } else { Ok(()) }
    });
    let fails = fails.backoff(Backoff::constant(secs(1))).max_restarts(2, secs(60)).give_up(GiveUp::ForGood);
    tasks.register_all([server("http").depends_on("migrate"), fails.escalation(Escalation::None)]).unwrap();
    tasks.start();
    sleep(secs(60)).await;
    assert_eq!(
        (state(&tasks, "migrate"), state(&tasks, "http")),
        (Some(TaskState::Failed), Some(TaskState::Waiting))
    );
    assert_eq!(tasks.task_health("http").unwrap().to_string(), "healthy: waits for migrate (failed)");
    // A person helps.
    tasks.restart("migrate").unwrap();
    sleep(secs(5)).await;
    assert_eq!(
        (state(&tasks, "migrate"), state(&tasks, "http")),
        (Some(TaskState::Finished), Some(TaskState::Running))
    );
    assert!(tasks.shutdown().await.is_clean());
}

/// A task that is not to end carries its dependents as soon as it runs, and a one-shot with a start timeout when it says so.
#[tokio::test(start_paused = true)]
async fn each_kind_of_task_carries_its_dependents_from_its_own_moment_on() {
    let says_so = CriticalTaskConfig::one_shot("says_so", |ctx: TaskContext| async move {
        sleep(secs(10)).await;
        ctx.ready();
        sleep(secs(100)).await;
    });
    let kinds = [
        (server("service"), 0),
        (server("may_end").restart_policy(RestartPolicy::OnFailure), 0),
        (migrate(secs(30)), 30),
        (says_so.start_timeout(secs(20)), 10),
    ];
    for (kind, after) in kinds {
        let name = kind.name().to_owned();
        let tasks = TaskManager::new();
        tasks.register_all([kind, server("dependent").depends_on(name.as_str())]).unwrap();
        tasks.start();
        if after > 0 {
            sleep(secs(after - 1)).await;
            assert_eq!(state(&tasks, "dependent"), Some(TaskState::Waiting), "{name}");
        }
        sleep(secs(2)).await;
        assert_eq!(state(&tasks, "dependent"), Some(TaskState::Running), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_members_of_a_group_wait_for_a_one_shot_before_them() {
    let tasks = TaskManager::new();
    let group =
        TaskGroup::new("api", RestartStrategy::RestForOne).task(migrate(secs(30))).task(server("http"));
    tasks.register_group(group).unwrap();
    tasks.start();
    sleep(secs(29)).await;
    assert_eq!(state(&tasks, "http"), Some(TaskState::Waiting));
    assert_eq!(tasks.task_health("http").unwrap().to_string(), "healthy: waits for migrate (running)");
    sleep(secs(2)).await;
    assert_eq!(state(&tasks, "http"), Some(TaskState::Running));
    assert!(tasks.shutdown().await.is_clean());
}
