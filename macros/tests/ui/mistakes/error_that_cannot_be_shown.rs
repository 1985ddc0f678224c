//! A task whose error is no `std::error::Error`.
struct Opaque;

fn main() {
    let tasks = otel_tasks::TaskManager::new();
    let _ = tasks.spawn("opaque", async { Err::<(), _>(Opaque) });
}
