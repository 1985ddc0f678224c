//! Managers that share the global meter, which is why this is a process of its own.

mod support;

use std::sync::LazyLock;

use otel_tasks::{CriticalTaskConfig, TaskManager};
use support::{metrics::Metrics, secs, settle};
use tokio::{sync::Mutex, time::sleep};

/// The exports of the global meter. A test holds them to its end.
static METRICS: LazyLock<Mutex<Metrics>> = LazyLock::new(|| {
    let metrics = Metrics::new();
    opentelemetry::global::set_meter_provider(metrics.provider.clone());
    Mutex::new(metrics)
});

fn once(name: &str) -> CriticalTaskConfig {
    CriticalTaskConfig::one_shot(name, |_| async {})
}

async fn run_and_unregister(tasks: &TaskManager, name: &str) {
    tasks.register(once(name)).unwrap();
    settle().await;
    tasks.unregister(name).await.unwrap();
}

/// The sum of two managers on one meter does not go down when one of them lets the name go.
#[tokio::test(start_paused = true)]
async fn dropped_name_stays_in_the_shared_sum_while_reported() {
    let metrics = METRICS.lock().await;
    let (one, other) = (TaskManager::new(), TaskManager::new());
    one.start();
    other.start();
    let name = "let-go-by-one";
    let runs = || metrics.collect().sum("task.runs", &[("task.name", name)]);
    for _ in 0..3 {
        run_and_unregister(&one, name).await;
    }
    other.register(once(name)).unwrap();
    settle().await;
    assert_eq!(runs(), 4.0);
    for minute in 0..20 {
        sleep(secs(60)).await;
        assert_eq!(runs(), 4.0, "after {minute} minutes");
    }
    assert!(one.snapshot(name).is_none());
    other.unregister(name).await.unwrap();
    for _ in 0..12 {
        sleep(secs(60)).await;
        runs();
    }
    assert_eq!(runs(), 0.0, "nobody reports it any more");
}

#[tokio::test(start_paused = true)]
async fn series_is_exported_if_it_can_occur_in_either_manager() {
    let metrics = METRICS.lock().await;
    let (one, other) = (TaskManager::new(), TaskManager::new());
    one.register(once("either").run_timeout(secs(9))).unwrap();
    other.register(once("either").heartbeat_timeout(secs(30))).unwrap();
    let points = metrics.collect();
    let restarts = points.0.iter().filter(|point| {
        point.instrument == "task.restarts"
            && point.attributes.get("task.name").is_some_and(|name| name == "either")
    });
    let mut reasons: Vec<_> = restarts.map(|point| &*point.attributes["task.restart.reason"]).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["failure", "panic", "requested", "retry", "stalled", "timeout"]);
}
