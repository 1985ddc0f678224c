use otel_tasks::instrumented_task;

const NAME: &str = "ping";

#[instrumented_task(name = NAME)]
async fn constant() {}

#[instrumented_task(name = concat!("gateway", ".", "ping"))]
async fn macro_call() {}

#[instrumented_task(name = 7, component = b"gateway")]
async fn other_literals() {}

fn main() {
    let _ = (NAME, constant(), macro_call(), other_literals());
}
