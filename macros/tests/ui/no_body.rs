use otel_tasks::instrumented_task;

trait Source {
    #[instrumented_task]
    async fn next(&mut self) -> u32;
}

impl Source for u32 {
    async fn next(&mut self) -> u32 {
        *self
    }
}

fn main() {
    let _ = 1.next();
}
