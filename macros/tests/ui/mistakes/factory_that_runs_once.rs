//! A critical task that can be run only once: it gives its state away.
use otel_tasks::CriticalTaskConfig;

fn main() {
    let state = vec![1, 2, 3];
    let _ = CriticalTaskConfig::new("once", move |_| async move {
        drop(state);
    });
}
