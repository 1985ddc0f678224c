//! A loop has one schedule.

use otel_tasks::task_loop;

#[task_loop()]
async fn none() {}

#[task_loop(every = "5s", cron = "0 9 * * *")]
async fn two() {}

#[task_loop(every = "5s", zone = "Europe/Berlin")]
async fn a_zone_without_a_calendar() {}

#[task_loop(every = "5s", jitter = "6s")]
async fn more_jitter_than_interval() {}

#[task_loop(every = "5s", backoff = "1s")]
async fn delays_without_tries() {}

#[task_loop(each = "5s")]
async fn no_such_option() {}

fn main() {}
