use otel_tasks::{TaskPriority, instrumented_task};

#[instrumented_task(priority = Urgent)]
async fn word() {}

#[instrumented_task(priority = "urgent")]
async fn string() {}

#[instrumented_task(priority = TaskPriority::Medium)]
async fn path() {}

#[instrumented_task(priority = high)]
async fn lowercase_word() {}

fn main() {
    let _ = (TaskPriority::High, word(), string(), path(), lowercase_word());
}
