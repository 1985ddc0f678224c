use otel_tasks::instrumented_task;

#[instrumented_task(name = "")]
async fn name() {}

#[instrumented_task(name = "  ")]
async fn blank_name() {}

#[instrumented_task(component = "")]
async fn component() {}

fn main() {
    let _ = (name(), blank_name(), component());
}
