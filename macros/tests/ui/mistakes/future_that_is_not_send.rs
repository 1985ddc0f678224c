//! A task that holds an `Rc` across an await.
use otel_tasks::CriticalTaskConfig;

fn main() {
    let _ = CriticalTaskConfig::new("local", |_| async {
        let local = std::rc::Rc::new(1);
        tokio::task::yield_now().await;
        drop(local);
    });
}
