//! While intake tasks stop, everything else goes on: nothing is refused, and the others are supervised.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskContext, TaskGroup, TaskManager,
    policy::{RestartReason, RestartStrategy},
    shutdown::ShutdownOutcome,
};
use tokio::time::{Instant, sleep};

use crate::support::{
    millis, secs,
    tasks::{obeys, restarts},
};

/// When tasks were asked to stop, in seconds after the test began.
#[derive(Clone)]
struct Asked(Instant, Arc<Mutex<Vec<(&'static str, u64)>>>);

impl Asked {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    /// A task that notes when it is asked, and then takes so many seconds.
    fn task(&self, name: &'static str, seconds: u64) -> CriticalTaskConfig {
        let asked = self.clone();
        CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            let asked = asked.clone();
            async move {
                ctx.cancelled().await;
                asked.1.lock().unwrap().push((name, asked.0.elapsed().as_secs()));
                sleep(secs(seconds)).await;
            }
        })
    }

    fn lines(&self) -> Vec<(&'static str, u64)> {
        self.1.lock().unwrap().clone()
    }
}

/// Spawns a run that nobody owns every 200 ms until the manager has reported. Returns how many were refused within `until`.
async fn refused_within(tasks: &TaskManager, until: std::time::Duration) -> usize {
    let began = Instant::now();
    let mut refused = 0;
    while began.elapsed() < until {
        refused += usize::from(tasks.spawn("message", async {}).await.is_err());
        sleep(millis(200)).await;
    }
    refused
}

/// Fails if a task that depends on an intake task puts that off: then admission is closed while the intake goes on.
#[tokio::test(start_paused = true)]
async fn dependents_of_an_intake_task_stop_first_without_refusals() {
    for grouped in [false, true] {
        let (tasks, asked) = (TaskManager::new(), Asked::new());
        tasks.register(asked.task("other", 0)).unwrap();
        let (intake, worker) = (asked.task("intake", 3).intake(), asked.task("worker", 2));
        if grouped {
            let group = TaskGroup::new("group", RestartStrategy::OneForAll).task(intake).task(worker);
            tasks.register_group(group).unwrap();
        } else {
            tasks.register_all([intake, worker.depends_on("intake")]).unwrap();
        }
        tasks.start();
        sleep(millis(100)).await;
        let (report, refused) = tokio::join!(tasks.shutdown(), refused_within(&tasks, millis(4_500)));
        assert_eq!(refused, 0, "grouped: {grouped}");
        assert_eq!(asked.lines(), [("worker", 0), ("intake", 2), ("other", 5)], "grouped: {grouped}");
        assert!(report.is_clean(), "{report}");
    }
}

/// Fails if a run of an owner that has ended is refused while others are admitted.
#[tokio::test(start_paused = true)]
async fn owned_work_is_not_refused_before_other_work() {
    let tasks = TaskManager::new();
    let handed_over = Arc::new(AtomicUsize::new(0));
    let count = handed_over.clone();
    let http = CriticalTaskConfig::new("http", move |ctx: TaskContext| {
        let count = count.clone();
        async move {
            let (of_owner, audited) = (ctx.clone(), count.clone());
            drop(ctx.task("request").spawn_with(|request| async move {
                sleep(secs(3)).await;
                for context in [&request, &of_owner] {
                    let audit = context.spawn("audit", async {}).await;
                    audited.fetch_add(usize::from(audit.is_ok()), SeqCst);
                }
            }));
            ctx.cancelled().await;
        }
    });
    tasks.register_all([http.intake().shutdown_grace(secs(10)), obeys("other")]).unwrap();
    tasks.start();
    sleep(millis(100)).await;
    let report = tasks.shutdown().await;
    assert_eq!(handed_over.load(SeqCst), 2, "{report}");
    assert!(report.is_clean(), "{report}");
}

/// Fails if such a run has no grace: then it is waited for until the deadline.
#[tokio::test(start_paused = true)]
async fn work_whose_owner_has_ended_has_the_grace_of_work_without_an_owner() {
    let tasks = TaskManager::builder().spawn_grace(secs(2)).shutdown_deadline(secs(200)).build().unwrap();
    let http = CriticalTaskConfig::new("http", |ctx: TaskContext| async move {
        let of_owner = ctx.clone();
        drop(ctx.task("request").spawn_with(|_| async move {
            sleep(secs(3)).await;
            drop(of_owner.spawn("audit", std::future::pending::<()>()));
        }));
        ctx.cancelled().await;
    });
    tasks.register(http.intake().shutdown_grace(secs(10))).unwrap();
    tasks.start();
    sleep(millis(100)).await;
    let report = tasks.shutdown().await;
    let audit = report.tasks.iter().find(|line| &*line.name == "audit").map(|line| line.outcome);
    assert_eq!(audit, Some(ShutdownOutcome::Aborted), "{report}");
    assert!(report.duration < secs(10), "{report}");
}

/// Fails if nothing is restarted once the shutdown has begun: the intake would go on against what has died.
#[tokio::test(start_paused = true)]
async fn tasks_are_restarted_while_the_intake_stops_and_not_afterwards() {
    let (tasks, asked) = (TaskManager::new(), Asked::new());
    let lives = Arc::new(AtomicUsize::new(0));
    let count = lives.clone();
    let database = CriticalTaskConfig::new("database", move |ctx: TaskContext| {
        let first = count.fetch_add(1, SeqCst) == 0;
        async move {
            if first {
                sleep(secs(2)).await;
                return Err::<(), _>("connection lost");
            }
            ctx.cancelled().await;
            sleep(secs(1)).await;
            Err("while it stops")
        }
    });
    let database = database.backoff(Backoff::constant(millis(100)));
    tasks.register_all([asked.task("intake", 5).intake(), database]).unwrap();
    tasks.start();
    sleep(millis(100)).await;
    let report = tasks.shutdown().await;
    assert_eq!(lives.load(SeqCst), 2, "{report}");
    assert_eq!(restarts(&tasks, "database", RestartReason::Failure), 1);
    assert!(report.is_clean() && report.duration < secs(8), "{report}");
}
