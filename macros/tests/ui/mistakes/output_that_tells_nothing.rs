//! A task that returns a number: is that a success?
fn main() {
    let tasks = otel_tasks::TaskManager::new();
    let _ = tasks.spawn("answer", async { 42 });
}
