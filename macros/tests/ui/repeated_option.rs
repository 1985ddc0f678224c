use otel_tasks::instrumented_task;

#[instrumented_task(name = "ping", category = Gateway, name = "pong")]
async fn name() {}

#[instrumented_task(crate = otel_tasks, priority = High, priority = Low, crate = ::otel_tasks)]
async fn others() {}

fn main() {
    let _ = (name(), others());
}
