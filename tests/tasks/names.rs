//! Names come back: the name of a task that is registered no more gives its room to others, and its series end.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use opentelemetry_sdk::metrics::Temporality;
use otel_tasks::{
    CriticalTaskConfig, TaskContext, TaskManager, TaskPriority,
    policy::ExitKind,
    snapshot::TaskState,
    task::{RegisterError, TaskManagerBuilder},
};
use tokio::time::sleep;

use crate::support::{
    metrics::{Metrics, Point},
    secs, settle,
    tasks::{obeys, state},
};

/// The states of a task that has no gate and does not finish: all but two.
const STATES: usize = TaskState::ALL.len() - 2;

fn once(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::one_shot(name, |_| async {})
}

fn fails(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::new(name, |_| async { Err::<(), _>(io::Error::other("down")) })
        .restart_policy(otel_tasks::RestartPolicy::Never)
        .error_type(|_: &io::Error| "io")
}

async fn run_and_unregister(tasks: &TaskManager, config: CriticalTaskConfig) {
    let name = config.name().to_owned();
    tasks.register(config).unwrap_or_else(|error| panic!("{error}"));
    settle().await;
    tasks.unregister(&name).await.unwrap();
}

fn manager(metrics: &Metrics, max_names: usize) -> TaskManager {
    let tasks = TaskManager::builder().meter(metrics.meter()).max_names(max_names).build().unwrap();
    tasks.start();
    tasks
}

/// Seen to fail when names were never removed: the 201st was refused, with no task there.
#[tokio::test(start_paused = true)]
async fn any_number_of_names_may_be_registered_one_after_the_other() {
    let metrics = Metrics::new();
    let limit = TaskManagerBuilder::DEFAULT_MAX_NAMES;
    let tasks = manager(&metrics, limit);
    let mut exported = BTreeSet::new();
    for number in 0..10 * limit {
        let config = if number % 2 == 0 { once } else { fails };
        run_and_unregister(&tasks, config(&format!("job-{number}"))).await;
        if number % 50 == 0 {
            for point in metrics.collect().0 {
                assert!(!point.attributes.contains_key("otel.metric.overflow"), "{point:?}");
                exported.insert(point.instrument);
            }
        }
    }
    assert!(exported.contains("task.run.duration"), "{exported:?}");
    assert!(tasks.snapshots().len() <= limit + 1);
    let statistics = tasks.statistics();
    assert_eq!(statistics.total_runs, 10 * limit as u64, "what was counted stays in the totals");
    assert_eq!(statistics.total_errors, 5 * limit as u64);
    // In the histogram, which forgets no name, those that came later share one.
    let points = metrics.collect();
    assert_eq!(points.count("task.run.duration", &[]), 10 * limit as u64);
    let beyond = points.count("task.run.duration", &[("task.name", "_OTHER")]);
    assert_eq!(beyond, 9 * limit as u64);
    let beyond = points.of("task.run.duration", &[("task.name", "_OTHER"), ("task.run.result", "failure")]);
    assert_eq!(beyond.len(), 1, "{beyond:?}");
    assert_eq!(beyond[0].attributes["error.type"], "_OTHER");
    // A name whose runs are limited, too.
    drop(tasks.task("limited").limit(1).reserve().await);
    let points = metrics.collect();
    assert_eq!(points.count("task.reservation.wait_time", &[("task.name", "_OTHER")]), 1);
    assert_eq!(points.count("task.reservation.wait_time", &[("task.name", "limited")]), 0);
    // By their own names everywhere else.
    let last = format!("job-{}", 10 * limit - 1);
    assert_eq!(points.sum("task.run.errors", &[("task.name", &last), ("error.type", "io")]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_collector_sees_how_a_task_ended_and_then_nothing() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics, 10);
    tasks.register(CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await })).unwrap();
    settle().await;
    let of_t = [("task.name", "t")];
    assert_eq!(metrics.collect().sum("task.status", &of_t), 1.0);
    tasks.unregister("t").await.unwrap();
    for _ in 0..3 {
        let points = metrics.collect();
        assert_eq!(points.of("task.status", &of_t).len(), STATES, "it is in no state any more");
        assert_eq!(points.sum("task.status", &of_t), 0.0);
        assert_eq!((points.sum("task.runs", &of_t), points.sum("task.run.active", &of_t)), (1.0, 0.0));
        sleep(secs(60)).await;
    }
    sleep(secs(200)).await;
    let points = metrics.collect();
    let name = |point: &Point| point.attributes.get("task.name").cloned();
    let left: Vec<_> = points.0.iter().filter(|point| name(point).as_deref() == Some("t")).collect();
    assert!(left.iter().all(|point| point.kind == "histogram"), "{left:?}");
    assert!(tasks.snapshot("t").is_none());
}

/// The values of a counter of one name, collection by collection, never go down as long as there is one.
#[tokio::test(start_paused = true)]
async fn no_counter_runs_backwards_when_a_name_comes_back() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let metrics = Metrics::with_temporality(temporality);
        let tasks = manager(&metrics, 2);
        let mut expected = 0.0;
        let mut exported = 0.0;
        for round in 0..20 {
            run_and_unregister(&tasks, once("t")).await;
            expected += 1.0;
            if round % 3 == 0 {
                // Its room is needed, so that it is let go at once.
                run_and_unregister(&tasks, once(&format!("a-{round}"))).await;
                run_and_unregister(&tasks, once(&format!("b-{round}"))).await;
                assert!(tasks.snapshot("t").is_none(), "{round}");
                run_and_unregister(&tasks, once("t")).await;
                expected += 1.0;
            }
            let now = metrics.collect().sum("task.runs", &[("task.name", "t")]);
            exported = if temporality == Temporality::Delta { exported + now } else { now };
            assert_eq!(exported, expected, "{temporality:?} in round {round}");
            assert_eq!(tasks.snapshot("t").unwrap().runs(ExitKind::Success) as f64, expected);
            sleep(secs(60)).await;
        }
        // Once it has been absent long enough it begins at zero.
        sleep(secs(400)).await;
        metrics.collect();
        sleep(secs(400)).await;
        metrics.collect();
        run_and_unregister(&tasks, once("t")).await;
        assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "t")]), 1.0, "{temporality:?}");
    }
}

/// Seen to fail: a reader that had seen the name absent counted all of its earlier runs once more.
#[tokio::test(start_paused = true)]
async fn sum_of_all_deltas_equals_the_count() {
    for minutes in [1, 4, 6, 8, 9, 11, 16] {
        let metrics = Metrics::with_temporality(Temporality::Delta);
        let tasks = manager(&metrics, 2);
        let mut exported = 0.0;
        for _ in 0..4 {
            for _ in 0..3 {
                run_and_unregister(&tasks, once("t")).await;
            }
            for _ in 0..2 * minutes {
                exported += metrics.collect().sum("task.runs", &[("task.name", "t")]);
                sleep(secs(30)).await;
            }
        }
        for _ in 0..12 {
            exported += metrics.collect().sum("task.runs", &[("task.name", "t")]);
            sleep(secs(60)).await;
        }
        assert_eq!(exported, 12.0, "registered again after {minutes} minutes");
        assert_eq!(tasks.statistics().total_runs, 12);
    }
}

/// Its room was needed, a collection missed it, and it came back: it is silent until each reader has missed it.
#[tokio::test(start_paused = true)]
async fn a_name_that_a_collection_has_missed_is_exported_again_after_five_minutes() {
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let metrics = Metrics::with_temporality(temporality);
        let tasks = manager(&metrics, 1);
        run_and_unregister(&tasks, once("t")).await;
        assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "t")]), 1.0);
        run_and_unregister(&tasks, once("other")).await;
        metrics.collect();
        tasks.register(CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await })).unwrap();
        settle().await;
        for _ in 0..9 {
            assert!(metrics.collect().of("task.status", &[("task.name", "t")]).is_empty(), "{temporality:?}");
            assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
            sleep(secs(30)).await;
        }
        // The monitor sees it, whose clock is the virtual one.
        sleep(secs(90)).await;
        assert_eq!(metrics.collect().sum("task.status", &[("task.name", "t")]), 1.0);
        tasks.unregister("t").await.unwrap();
        assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "t")]), 1.0, "{temporality:?}");
        assert_eq!(tasks.statistics().total_runs, 3);
    }
}

/// A run that goes on after its task was forgotten keeps the name.
#[tokio::test(start_paused = true)]
async fn name_is_kept_while_a_run_is_active() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics, 2);
    let ended = Arc::new(AtomicU64::new(0));
    let ends = ended.clone();
    let long = CriticalTaskConfig::one_shot("long", move |_| {
        let ends = ends.clone();
        async move {
            sleep(secs(3_600)).await;
            ends.fetch_add(1, SeqCst);
        }
    });
    tasks.register(long).unwrap();
    settle().await;
    tasks.detach("long").unwrap();
    tasks.register(once("other")).unwrap();
    let refused = tasks.register(once("beyond")).unwrap_err();
    assert!(matches!(refused, RegisterError::NameLimit { max_names: 2, .. }), "{refused}");
    for _ in 0..20 {
        sleep(secs(120)).await;
        assert_eq!(metrics.collect().sum("task.run.active", &[("task.name", "long")]), 1.0);
    }
    sleep(secs(2_000)).await;
    assert_eq!(ended.load(SeqCst), 1);
    assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "long")]), 1.0);
    run_and_unregister(&tasks, once("beyond")).await;
}

/// Seen to fail: after ten minutes without a run, what the task did was counted nowhere.
#[tokio::test(start_paused = true)]
async fn a_detached_task_keeps_its_name_until_it_has_ended() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics, 1);
    let detached = CriticalTaskConfig::new("detached", |ctx: TaskContext| async move {
        if ctx.generation() == 3 { Ok(()) } else { Err("again") }
    })
    .backoff(otel_tasks::Backoff::constant(secs(2_000)))
    .restart_policy(otel_tasks::RestartPolicy::OnFailure)
    .unlimited_restarts();
    tasks.register(detached).unwrap();
    settle().await;
    tasks.detach("detached").unwrap();
    for _ in 0..65 {
        sleep(secs(60)).await;
        let refused = tasks.register(once("other")).unwrap_err();
        assert!(matches!(refused, RegisterError::NameLimit { .. }), "{refused}");
        metrics.collect();
    }
    assert_eq!(tasks.snapshot("detached").unwrap().total_runs(), 2);
    sleep(secs(200)).await;
    assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "detached")]), 3.0);
    run_and_unregister(&tasks, once("other")).await;
    assert_eq!(tasks.statistics().total_runs, 4);
}

#[tokio::test(start_paused = true)]
async fn names_that_come_together_make_room_together_or_not_at_all() {
    let tasks = TaskManager::builder().max_names(4).build().unwrap();
    tasks.start();
    for name in ["a", "b", "c"] {
        run_and_unregister(&tasks, once(name)).await;
    }
    let three = |first: &str| [first, "d", "e"].map(once);
    tasks.register_all(three("a")).unwrap();
    assert_eq!(tasks.task_names(), ["a", "d", "e"]);
    assert_eq!(tasks.snapshot("a").unwrap().total_runs(), 1, "one that is there needs no room");
    let refused = tasks.register_all(["f", "g"].map(once)).unwrap_err();
    assert!(matches!(&refused, RegisterError::NameLimit { name, .. } if name == "g"), "{refused}");
    tasks.register(once("f")).unwrap();
    assert_eq!(state(&tasks, "f"), Some(TaskState::Waiting));
}

#[tokio::test(start_paused = true)]
async fn names_of_short_tasks_stay_and_share_one_beyond_the_bound() {
    let tasks = TaskManager::builder().max_names(2).build().unwrap();
    for name in ["a", "b", "c", "d"] {
        tasks.spawn(name, async {}).await.unwrap();
    }
    let names: Vec<_> = tasks.snapshots().iter().map(|task| task.name.to_string()).collect();
    assert_eq!(names, ["_OTHER", "a", "b"]);
}

/// Fails if it counts as ended.
#[tokio::test(start_paused = true)]
async fn a_detached_task_that_is_tried_again_keeps_its_name() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics, 1);
    let detached = CriticalTaskConfig::new("detached", |ctx: TaskContext| async move {
        if ctx.generation() == 2 { Ok(()) } else { Err("once more") }
    })
    .restart_policy(otel_tasks::RestartPolicy::OnFailure)
    .max_restarts(0, secs(60))
    .give_up(otel_tasks::GiveUp::RetryEvery(secs(2_000)));
    tasks.register(detached).unwrap();
    settle().await;
    assert_eq!(state(&tasks, "detached"), Some(TaskState::Failed));
    tasks.detach("detached").unwrap();
    for _ in 0..33 {
        let refused = tasks.register(once("other")).unwrap_err();
        assert!(matches!(refused, RegisterError::NameLimit { .. }), "{refused}");
        metrics.collect();
        sleep(secs(60)).await;
    }
    sleep(secs(60)).await;
    assert_eq!(metrics.collect().sum("task.runs", &[("task.name", "detached")]), 2.0);
    run_and_unregister(&tasks, once("other")).await;
}

/// Fails if another task of the name counts as its own.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_detached_task_retires_although_another_identity_of_it_is_registered() {
    let metrics = Metrics::new();
    let tasks = manager(&metrics, 2);
    let ends = CriticalTaskConfig::one_shot("t", |_| sleep(secs(60)));
    tasks.register(ends).unwrap();
    settle().await;
    tasks.detach("t").unwrap();
    tasks.register(obeys("t").priority(TaskPriority::Low)).unwrap();
    let refused = tasks.register(once("beyond")).unwrap_err();
    assert!(matches!(refused, RegisterError::NameLimit { .. }), "{refused}");
    sleep(secs(61)).await;
    tasks.register(once("beyond")).expect("the first identity has ended");
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
}

/// Fails if the name retires with the detached task: another name would take its room.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_registered_task_stays_when_a_detached_task_of_it_ends() {
    let tasks = manager(&Metrics::new(), 1);
    tasks.register(CriticalTaskConfig::one_shot("t", |_| sleep(secs(60)))).unwrap();
    settle().await;
    tasks.detach("t").unwrap();
    tasks.register(once("t")).unwrap();
    sleep(secs(61)).await;
    let refused = tasks.register(once("beyond")).unwrap_err();
    assert!(matches!(refused, RegisterError::NameLimit { .. }), "{refused}");
    assert_eq!(state(&tasks, "t"), Some(TaskState::Finished));
}

/// Fails if the name waits for the end of the task, which has ended already.
#[tokio::test(start_paused = true)]
async fn the_name_of_a_task_that_is_detached_at_rest_retires_at_once() {
    let tasks = manager(&Metrics::new(), 1);
    tasks.register(obeys("t")).unwrap();
    settle().await;
    tasks.stop("t").unwrap();
    settle().await;
    tasks.detach("t").unwrap();
    tasks.register(once("beyond")).expect("the room of a task that is stopped");
}

/// Fails if only the first identity of a name is looked at.
#[tokio::test(start_paused = true)]
async fn a_task_is_found_by_a_name_that_a_short_task_had_before() {
    let tasks = manager(&Metrics::new(), 10);
    tasks.spawn("t", async {}).await.unwrap();
    // Its priority is another.
    tasks.register(obeys("t")).unwrap();
    let refused = tasks.register(obeys("t")).unwrap_err();
    assert!(matches!(refused, RegisterError::Duplicate { .. }), "{refused}");
    settle().await;
    tasks.stop("t").expect("it is registered");
    tasks.unregister("t").await.expect("it is registered");
    assert!(tasks.task_names().is_empty());
}
