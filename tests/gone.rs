//! What managers that share the global meter counted stays counted when one of them is gone. The global meter provider is
//! set here, so this is a binary of its own.

mod support;

use opentelemetry_sdk::metrics::Temporality;
use otel_tasks::TaskManager;
use support::metrics::Metrics;

#[tokio::test]
async fn under_delta_temporality_no_sum_runs_backwards() {
    let metrics = Metrics::with_temporality(Temporality::Delta);
    opentelemetry::global::set_meter_provider(metrics.provider.clone());
    let runs = || metrics.collect().sum("task.runs", &[("task.name", "outlived")]);
    let lasting = TaskManager::new();
    lasting.spawn("outlived", async {}).await.expect("run");
    assert_eq!(runs(), 1.0);
    for _ in 0..2 {
        let gone = TaskManager::new();
        for _ in 0..3 {
            gone.spawn("outlived", async {}).await.expect("run");
        }
        assert_eq!(runs(), 3.0);
        gone.shutdown().await;
        drop(gone);
        lasting.spawn("outlived", async {}).await.expect("run");
        assert_eq!(runs(), 1.0);
    }
}
