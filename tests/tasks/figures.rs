//! What a snapshot has for people who look: quantiles that are possible, minutes, dependencies, the runtime.

use otel_tasks::{CriticalTaskConfig, TaskManager, snapshot::RunMinutes};
use tokio::time::sleep;

use crate::support::{
    millis, secs,
    tasks::{begun, obeys},
};

/// Runs that take so long, one after the other.
async fn run(tasks: &TaskManager, name: &str, seconds: impl IntoIterator<Item = u64>) {
    for seconds in seconds {
        tasks.spawn(name, sleep(secs(seconds))).await.expect("it ends");
    }
}

#[tokio::test(start_paused = true)]
async fn the_quantiles_of_one_run_are_that_run() {
    let tasks = TaskManager::new();
    run(&tasks, "slow", [288]).await;
    let slow = tasks.snapshot("slow").unwrap();
    assert_eq!([0.0, 0.5, 0.95, 1.0].map(|q| slow.quantile(q)), [Some(secs(288)); 4]);
}

#[tokio::test(start_paused = true)]
async fn the_quantiles_of_few_runs_are_those_of_the_runs() {
    let tasks = TaskManager::new();
    run(&tasks, "t", 1..=20).await;
    let snapshot = tasks.snapshot("t").unwrap();
    assert_eq!([0.5, 0.95].map(|q| snapshot.quantile(q)), [Some(secs(10)), Some(secs(19))]);
    assert_eq!((snapshot.shortest_run, snapshot.longest_run), (secs(1), secs(20)));
}

#[tokio::test(start_paused = true)]
async fn a_quantile_of_many_runs_is_never_beyond_the_shortest_and_the_longest() {
    let tasks = TaskManager::new();
    // All in the bucket of 60 s to 300 s.
    run(&tasks, "t", std::iter::repeat_n(200, 30)).await;
    let snapshot = tasks.snapshot("t").unwrap();
    for q in [0.0, 0.01, 0.5, 0.95, 1.0] {
        assert_eq!(snapshot.quantile(q), Some(secs(200)), "{q}");
    }
}

#[tokio::test(start_paused = true)]
async fn runs_are_counted_by_minute_once_somebody_wants_them() {
    let tasks = TaskManager::new();
    run(&tasks, "t", [1]).await;
    assert_eq!(tasks.snapshot("t").unwrap().minutes, None);
    tasks.record_minutes();
    run(&tasks, "t", [1, 1]).await;
    sleep(secs(60)).await;
    let failed = tasks.spawn("t", async { Err::<(), _>("refused") }).await;
    assert!(failed.is_ok());
    let RunMinutes { runs, errors, .. } = tasks.snapshot("t").unwrap().minutes.unwrap();
    assert_eq!((runs.len(), errors.len()), (RunMinutes::MINUTES, RunMinutes::MINUTES));
    assert_eq!((runs[58], runs[59], errors[58], errors[59]), (2, 1, 0, 1));
    sleep(secs(3_600)).await;
    let RunMinutes { runs, .. } = tasks.snapshot("t").unwrap().minutes.unwrap();
    assert_eq!(runs.iter().sum::<u32>(), 0);
}

#[tokio::test(start_paused = true)]
async fn snapshot_lists_the_dependencies_of_its_task() {
    let tasks = begun(TaskManager::new(), [obeys("db"), obeys("web").depends_on("db")]);
    let of = |name: &str| tasks.snapshot(name).unwrap().depends_on;
    assert_eq!((of("db"), of("web")), (vec![], vec!["db".into()]));
    let all = tasks.snapshots().into_iter().map(|task| (task.name, task.depends_on)).collect::<Vec<_>>();
    assert_eq!(all, [("db".into(), vec![]), ("web".into(), vec!["db".into()])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_the_runtime_are_those_of_tokio() {
    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::new("t", |ctx| async move { ctx.cancelled().await })).unwrap();
    tasks.start();
    sleep(millis(20)).await;
    let figures = tasks.runtime_figures().unwrap();
    assert_eq!(figures.workers, 2);
    assert!(figures.alive_tasks >= 1);
    assert!(figures.busy.is_none_or(|busy| !busy.is_zero()));
}
