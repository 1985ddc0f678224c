//! What many loops cost: to hold while they sleep, to let sleep, and to run once a second.
//!
//! Processor time is that of all threads of the process, from the kernel's own count: tokio-cron-scheduler reads the
//! system's clock, so that it cannot be measured in virtual time. The monitor's sweep is `million-sweep`'s, and left out
//! here. No system has a subscriber or a meter, and bodies do
//! nothing but count.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use otel_tasks::{CriticalTaskConfig, Schedule, TaskLoop, TaskManager};
use tokio::time::{Instant, sleep};
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::{
    cell::{BARE, Limit, Measured, OURS, Runtime, Scale, Workload, processor_nanos},
    memory,
};

const SLEEPING: usize = 100_000;
const TICKING: usize = 1_000;
const SECOND: Duration = Duration::from_secs(1);
/// Longer than anything that is measured.
const HOUR: Duration = Duration::from_secs(3_600);
/// How long processor time is counted.
const COUNTED: Duration = Duration::from_secs(4);

pub fn workloads() -> Vec<Workload> {
    let memory = |workload: Workload| workload.at_most_rounds(1);
    vec![
        memory(
            cells(
                "sleeping-memory-100000",
                "bytes per loop",
                "what does a sleeping loop hold",
                |all, scale| held(all, scale.of(SLEEPING)),
            )
            .goal(Limit::AtMost(2_500.0)),
        ),
        cells(
            "sleeping-idle-100000",
            "ns of processor per loop and second",
            "what does it cost to let a loop sleep",
            |all, scale| idle(all, scale.of(SLEEPING)),
        )
        .at_most_rounds(2),
        Workload::new(
            "sleeping-wake-100000",
            "ns per iteration",
            "what does an iteration cost among so many timers",
        )
        .on(Runtime::Virtual)
        .cell(BARE, |scale: Scale| wake(System::Bare, scale.of(SLEEPING)))
        .cell(OURS, |scale: Scale| wake(System::Ours, scale.of(SLEEPING)))
        .at_most_rounds(3),
        cells(
            "ticking-1000",
            "ns of processor per iteration",
            "what does an iteration of one of a thousand loops cost, in real time",
            |all, scale| ticking(all, scale.of(TICKING)),
        )
        .at_most_rounds(2)
        .goal(Limit::OfSystem(1.0, "tokio-cron-scheduler")),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Bare,
    Ours,
    OursByCron,
    CronScheduler,
}

fn cells<Fut: Future<Output = Measured> + Send + 'static>(
    name: &'static str,
    unit: &'static str,
    question: &'static str,
    measure: fn(System, Scale) -> Fut,
) -> Workload {
    Workload::new(name, unit, question)
        .cell(BARE, move |scale| measure(System::Bare, scale))
        .cell(OURS, move |scale| measure(System::Ours, scale))
        .cell("otel-tasks, by cron", move |scale| measure(System::OursByCron, scale))
        .cell("tokio-cron-scheduler", move |scale| measure(System::CronScheduler, scale))
}

/// What keeps the loops alive.
enum Kept {
    Nothing,
    Manager(TaskManager),
    Scheduler(JobScheduler),
}

/// Begins so many loops, whose first iteration is due after the interval.
async fn begin(system: System, loops: usize, interval: Duration, counted: &Arc<AtomicUsize>) -> Kept {
    match system {
        System::Bare => {
            for _ in 0..loops {
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
                    loop {
                        ticks.tick().await;
                        counted.fetch_add(1, Relaxed);
                    }
                });
            }
            Kept::Nothing
        }
        System::Ours | System::OursByCron => {
            let tasks = TaskManager::builder().max_names(loops).monitor_interval(24 * HOUR).build().unwrap();
            tasks.start();
            let schedule = match (system, interval) {
                (System::Ours, _) => Schedule::every(interval).immediate(false),
                (_, SECOND) => Schedule::cron("* * * * * *", "UTC"),
                _ => Schedule::cron("0 0 1 1 *", "UTC"),
            };
            for number in 0..loops {
                let counted = counted.clone();
                let body = TaskLoop::on(schedule.clone(), move |_| {
                    counted.fetch_add(1, Relaxed);
                    async {}
                });
                let config = CriticalTaskConfig::from_loop(format!("loop-{number:06}"), body);
                tasks.register(config).expect("a sound config");
            }
            Kept::Manager(tasks)
        }
        System::CronScheduler => {
            let scheduler =
                JobScheduler::new_with_channel_size(2 * loops + 1_000).await.expect("a scheduler");
            for _ in 0..loops {
                let counted = counted.clone();
                let job = Job::new_repeated_async(interval, move |_, _| {
                    counted.fetch_add(1, Relaxed);
                    Box::pin(async {})
                });
                scheduler.add(job.expect("a sound job")).await.expect("added");
            }
            scheduler.start().await.expect("started");
            Kept::Scheduler(scheduler)
        }
    }
}

impl Kept {
    /// Dropped, a manager would begin a shutdown that nobody measures; the process ends here.
    fn forget(self) {
        match self {
            Self::Nothing => {}
            Self::Manager(tasks) => std::mem::forget(tasks),
            Self::Scheduler(scheduler) => std::mem::forget(scheduler),
        }
    }
}

async fn held(system: System, loops: usize) -> Measured {
    memory::count_from_here();
    let kept = begin(system, loops, HOUR, &Arc::default()).await;
    sleep(2 * SECOND).await;
    kept.forget();
    Measured::Bytes(memory::held() as f64 / loops as f64)
}

async fn idle(system: System, loops: usize) -> Measured {
    let kept = begin(system, loops, HOUR, &Arc::default()).await;
    // What the start has left under way is over by then, most likely.
    sleep(2 * SECOND).await;
    let before = processor_nanos();
    sleep(COUNTED).await;
    let spent = processor_nanos() - before;
    kept.forget();
    Measured::Nanos(spent as f64 / loops as f64 / COUNTED.as_secs_f64())
}

async fn ticking(system: System, loops: usize) -> Measured {
    let counted = Arc::new(AtomicUsize::new(0));
    let kept = begin(system, loops, SECOND, &counted).await;
    sleep(2 * SECOND).await;
    let (before, first) = (processor_nanos(), counted.load(Relaxed));
    sleep(COUNTED).await;
    let (spent, ran) = (processor_nanos() - before, counted.load(Relaxed) - first);
    kept.forget();
    assert!(ran >= 2 * loops, "it ran {ran} times for {loops} loops in four seconds");
    Measured::Nanos(spent as f64 / ran as f64)
}

/// One round of all loops in virtual time.
async fn wake(system: System, loops: usize) -> Measured {
    let counted = Arc::new(AtomicUsize::new(0));
    let kept = begin(system, loops, HOUR, &counted).await;
    sleep(HOUR + SECOND).await;
    assert_eq!(counted.load(Relaxed), loops, "the first round, which sets up what is made once");
    let began = std::time::Instant::now();
    sleep(HOUR).await;
    let took = began.elapsed();
    kept.forget();
    assert_eq!(counted.load(Relaxed), 2 * loops);
    Measured::Nanos(took.as_nanos() as f64 / loops as f64)
}
