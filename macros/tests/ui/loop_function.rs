//! What cannot be a loop.

use otel_tasks::task_loop;

struct Cache;

impl Cache {
    #[task_loop(every = "5s")]
    async fn sweep(&self) {}
}

#[task_loop(every = "5s")]
fn not_async() {}

#[task_loop(every = "5s")]
async fn no_name((a, _b): (u32, u32)) {
    let _ = a;
}

#[task_loop(every = "5s")]
struct NoFunction;

fn main() {}
