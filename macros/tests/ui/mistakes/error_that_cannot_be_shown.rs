//! A task whose error has no `Display`.
struct Opaque;

fn main() {
    let tasks = otel_tasks::TaskManager::new();
    let _ = tasks.spawn("opaque", async { Err::<(), _>(Opaque) });
}
