use otel_tasks::instrumented_task;

#[instrumented_task]
struct Cache;

#[instrumented_task]
impl Cache {
    async fn refresh(&self) {}
}

/// Documented.
#[instrumented_task]
pub const NAME: &str = "refresh";

#[instrumented_task]
mod tasks {}

fn main() {
    let _ = (Cache.refresh(), NAME);
}
