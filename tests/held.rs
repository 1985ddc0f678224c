//! What is allocated, and what is held: by a loop that sleeps, and during a sweep of the monitor.
//!
//! A binary of its own, for its allocator.

use std::{
    alloc::System,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use otel_tasks::{CriticalTaskConfig, TaskLoop, TaskManager};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time allocates.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

/// Returns the bytes that a sleeping loop with this interval holds after some iterations.
fn held_by_a_loop(interval: Duration) -> usize {
    const LOOPS: usize = 500;
    let held = || {
        let stats = ALLOCATOR.stats();
        stats.bytes_allocated - stats.bytes_deallocated
    };
    in_virtual_time(async {
        let tasks = TaskManager::builder().max_names(2 * LOOPS).build().unwrap();
        tasks.start();
        let before = held();
        for number in 0..LOOPS {
            let tick = TaskLoop::every(interval, |_| async { tokio::task::yield_now().await });
            let name = format!("loop-{}", word(number));
            tasks.register(CriticalTaskConfig::from_loop(name, tick)).unwrap();
        }
        // From the second end on, the name has figures.
        tokio::time::sleep(5 * interval + Duration::from_millis(500)).await;
        let of_each = (held() - before) / LOOPS;
        assert_eq!(tasks.statistics().total_runs, 6 * LOOPS as u64);
        tasks.shutdown_now().await;
        of_each
    })
}

/// Returns the number in letters: names that differ in digits are one name.
fn word(mut number: usize) -> String {
    let mut word = String::new();
    for _ in 0..3 {
        word.push(char::from(b'a' + (number % 26) as u8));
        number /= 26;
    }
    word
}

#[test]
fn sleeping_loop_holds_the_box_of_an_iteration_up_to_an_interval_of_a_minute() {
    let _alone = alone();
    let [minute, longer] = [60, 61].map(|seconds| held_by_a_loop(Duration::from_secs(seconds)));
    assert!(
        minute >= longer + 150,
        "{minute} bytes a loop with an interval of a minute, {longer} of a longer one"
    );
}

/// Returns the bytes that a sweep allocates, with this number of names of running tasks.
fn allocated_by_a_sweep(running: usize, is_seen: bool) -> usize {
    const SWEEPS: usize = 5;
    let provider = SdkTracerProvider::builder().build();
    in_virtual_time(async {
        let mut tasks = TaskManager::builder();
        if is_seen {
            tasks = tasks.tracer(provider.tracer("test"));
        }
        let tasks = tasks.build().unwrap();
        for number in 0..running {
            drop(tasks.spawn(&word(number), std::future::pending::<()>()));
        }
        tasks.start();
        let mut least = usize::MAX;
        for _ in 0..SWEEPS {
            let before = ALLOCATOR.stats().bytes_allocated;
            tokio::time::sleep(Duration::from_secs(60)).await;
            // The watchdog may allocate at the same time.
            least = least.min(ALLOCATOR.stats().bytes_allocated - before);
        }
        tasks.shutdown_now().await;
        least
    })
}

#[test]
fn sweep_lists_the_names_for_a_span_that_is_seen() {
    let _alone = alone();
    let [few, many] = [1, 150].map(|running| allocated_by_a_sweep(running, false));
    assert!(many < few + 150, "{few} and {many} bytes, though nobody sees the span");
    let [few, many] = [1, 150].map(|running| allocated_by_a_sweep(running, true));
    assert!(many > few + 150 * size_of::<&str>(), "{few} and {many} bytes");
}
