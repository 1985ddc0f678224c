use otel_tasks::{TaskCategory, instrumented_task};

#[instrumented_task(category = Gatway)]
async fn word() {}

#[instrumented_task(category = "sheduled")]
async fn string() {}

#[instrumented_task(category = TaskCategory::Batch)]
async fn path() {}

#[instrumented_task(category = 3)]
async fn number() {}

fn main() {
    let _ = (TaskCategory::Command, word(), string(), path(), number());
}
