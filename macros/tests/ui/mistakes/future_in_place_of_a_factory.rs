//! A future where a factory is wanted.
use otel_tasks::CriticalTaskConfig;

fn main() {
    let _ = CriticalTaskConfig::new("future", async {});
}
