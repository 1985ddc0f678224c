use otel_tasks::instrumented_task;

#[instrumented_task]
fn free() {}

#[instrumented_task]
pub const unsafe extern "C" fn qualified() {}

struct Cache;

impl Cache {
    #[instrumented_task(name = "refresh")]
    pub(crate) fn refresh(&self) {}
}

trait Source {
    #[instrumented_task]
    fn next(&self) {}
}

fn main() {
    free();
    Cache.refresh();
}
