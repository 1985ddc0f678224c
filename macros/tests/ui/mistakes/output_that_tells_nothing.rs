//! A task that returns a list: are its members results?
fn main() {
    let tasks = otel_tasks::TaskManager::new();
    let _ = tasks.spawn("answer", async { vec![Ok::<(), String>(())] });
}
