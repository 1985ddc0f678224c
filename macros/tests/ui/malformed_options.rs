use otel_tasks::instrumented_task;

#[instrumented_task("ping")]
async fn bare_string() {}

#[instrumented_task(name)]
async fn no_value() {}

#[instrumented_task(name = )]
async fn half_typed() {}

#[instrumented_task(name = "ping" priority = High)]
async fn no_comma() {}

#[instrumented_task(crate = "otel_tasks")]
async fn crate_as_string() {}

fn main() {
    let _ = (bare_string(), no_value(), half_typed(), no_comma(), crate_as_string());
}
