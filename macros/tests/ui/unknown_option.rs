use otel_tasks::instrumented_task;

#[instrumented_task(nmae = "ping")]
async fn misspelled() {}

#[instrumented_task(name = "ping", retries = 3)]
async fn another_crates() {}

#[instrumented_task(skip(self))]
async fn with_parentheses() {}

fn main() {
    let _ = (misspelled(), another_crates(), with_parentheses());
}
