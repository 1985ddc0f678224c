//! What only the compiler can tell points at the user's own tokens.

use otel_tasks::task_loop;

#[task_loop(every = 2 * 5)]
async fn not_a_duration() {}

#[task_loop(every = "5s")]
async fn what_a_loop_does_not_return() -> Vec<u32> {
    vec![5]
}

fn main() {}
