//! Each value is refused where it stands.

use otel_tasks::task_loop;

#[task_loop(every = "5")]
async fn no_unit() {}

#[task_loop(every = 5)]
async fn a_number() {}

#[task_loop(every = "0s")]
async fn zero() {}

#[task_loop(every = "-5s")]
async fn negative() {}

#[task_loop(every = "5 parsecs")]
async fn no_such_unit() {}

#[task_loop(daily = [])]
async fn no_times() {}

#[task_loop(daily = ["09:00", "24:00"])]
async fn no_such_time() {}

#[task_loop(cron = "0 9 *")]
async fn too_few_fields() {}

#[task_loop(every = "5s", count = 0)]
async fn no_iterations() {}

#[task_loop(every = "5s", immediate = "yes")]
async fn not_a_boolean() {}

#[task_loop(every = "5s", missed = Ignore)]
async fn no_such_policy() {}

#[task_loop(every = "5s", overlap = Allow)]
async fn a_limit_is_missing() {}

#[task_loop(every = "5s", overlap = Allow(0))]
async fn nothing_allowed() {}

#[task_loop(every = "5s", retry = 3, backoff = "9s..1s")]
async fn delays_that_shrink() {}

#[task_loop(every = "5s", timeout = "", category = Nightly)]
async fn two_at_once() {}

fn main() {}
