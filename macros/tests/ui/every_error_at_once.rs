use otel_tasks::instrumented_task;

#[instrumented_task(name = "", category = Batch, retries = 3, priority = "urgent")]
fn wrong_in_five_ways() {}

fn main() {
    wrong_in_five_ways();
}
