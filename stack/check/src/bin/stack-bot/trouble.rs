//! Everything that the instruments can tell of: each state, each result, each reason of a restart, each end at a shutdown.

use std::{
    error::Error,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, ShutdownReport, TaskCategory, TaskContext, TaskGroup,
    TaskLoop, TaskManager, TaskPriority,
    policy::{DependencyLoss, RestartStrategy},
};
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};
use tracing::{Instrument, info_span};

use crate::{figures, millis};

const FOR_EVER: Duration = Duration::from_secs(3_600);
/// Enough for what is registered and for the commands; what comes after them is metered together.
const NAMES: usize = 34;

/// Works until it is asked to stop.
async fn work(ctx: TaskContext) {
    while !ctx.is_cancelled() {
        ctx.heartbeat();
        tokio::select! {
            () = ctx.cancelled() => {}
            () = sleep(millis(100)) => {}
        }
    }
}

/// Restarted soon, and as often as it likes.
fn lively(config: CriticalTaskConfig) -> CriticalTaskConfig {
    config.backoff(Backoff::constant(millis(500))).max_restarts(100, Duration::from_secs(60))
}

/// A connection that is lost every two seconds; in each life a span of the user's own.
async fn fetcher(ctx: TaskContext) -> io::Result<()> {
    let page = i64::try_from(ctx.generation()).unwrap_or(0);
    sleep(millis(5)).instrument(info_span!("fetch_page", page)).await;
    sleep(millis(2_000)).await;
    Err(io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer"))
}

/// Ready after a moment; lost every six seconds, and with it those that rest on it.
async fn database(ctx: TaskContext) -> Result<(), &'static str> {
    sleep(millis(100)).await;
    ctx.ready();
    sleep(millis(6_000)).await;
    Err("the database went away")
}

/// Goes silent; after the third time it behaves.
async fn silent(ctx: TaskContext) {
    if ctx.generation() > 3 {
        return work(ctx).await;
    }
    pending().await
}

/// Blocks its thread for a second, every five.
async fn blocker(ctx: TaskContext) {
    while !ctx.is_cancelled() {
        thread::sleep(millis(1_000));
        tokio::select! {
            () = ctx.cancelled() => {}
            () = sleep(millis(5_000)) => {}
        }
    }
}

/// Each restart and each state that a registered task can have.
fn critical_tasks() -> Vec<CriticalTaskConfig> {
    vec![
        lively(CriticalTaskConfig::new("fetcher", fetcher))
            .error_type(|_: &io::Error| "connection_reset")
            .category(TaskCategory::Gateway)
            .priority(TaskPriority::Critical)
            .component("network"),
        // Given up for good.
        CriticalTaskConfig::new("legacy_sync", |_| async { Err::<(), _>("there is nobody there") })
            .backoff(Backoff::constant(millis(200)))
            .max_restarts(2, Duration::from_secs(60))
            .give_up(GiveUp::ForGood)
            .component("network"),
        // Tried again at an interval.
        CriticalTaskConfig::new("mirror", |_| async { Err::<(), _>("the other side is down") })
            .max_restarts(0, Duration::from_secs(60))
            .give_up(GiveUp::RetryEvery(millis(5_000)))
            .component("network"),
        lively(CriticalTaskConfig::new("parser", |ctx: TaskContext| async move {
            assert!(ctx.generation() > 2, "a page without an end");
            work(ctx).await;
        })),
        lively(CriticalTaskConfig::one_shot("import", |ctx: TaskContext| async move {
            if ctx.generation() < 3 { pending().await } else { Ok::<_, io::Error>(()) }
        }))
        .run_timeout(millis(300)),
        lively(CriticalTaskConfig::new("beacon", |_| sleep(millis(4_000))))
            .restart_policy(RestartPolicy::Always),
        lively(CriticalTaskConfig::new("silent", silent)).heartbeat_timeout(millis(1_000)),
        CriticalTaskConfig::new("blocker", blocker).category(TaskCategory::System),
        lively(CriticalTaskConfig::new("database", database))
            .start_timeout(millis(5_000))
            .component("storage"),
        CriticalTaskConfig::new("reader", work)
            .depends_on("database")
            .on_dependency_loss(DependencyLoss::Restart)
            .component("storage"),
        // Never ready, so that who rests on it waits.
        CriticalTaskConfig::new("hesitant", work).start_timeout(FOR_EVER),
        CriticalTaskConfig::new("waiter", work).depends_on("hesitant"),
        // Fails once, and is not begun again today.
        CriticalTaskConfig::new("patient", |_| async { Err::<(), _>("not now") })
            .backoff(Backoff::constant(FOR_EVER))
            .max_restarts(5, FOR_EVER * 24),
        CriticalTaskConfig::new("stopped", work),
        CriticalTaskConfig::new("paused", work),
        CriticalTaskConfig::new("requested", work),
        // Does not hear that it should stop.
        CriticalTaskConfig::new("stubborn", |_| pending::<()>()).shutdown_grace(FOR_EVER),
        // Ends by itself, after its stage.
        CriticalTaskConfig::new("late", |ctx: TaskContext| async move {
            ctx.cancelled().await;
            sleep(millis(1_500)).await;
        })
        .category(TaskCategory::System)
        .priority(TaskPriority::Low),
    ]
}

fn loops() -> Vec<CriticalTaskConfig> {
    let clock = TaskLoop::every(millis(500), |_| async { sleep(millis(2)).await });
    // Each other try fails.
    let tries = Arc::new(AtomicU64::new(0));
    let flaky = TaskLoop::every(millis(700), move |_| {
        let fails = tries.fetch_add(1, SeqCst) % 2 == 0;
        async move { if fails { Err("flaky") } else { Ok(()) } }
    })
    .retry(3, Backoff::constant(millis(20)));
    let overrun = TaskLoop::every(millis(200), |_| async { sleep(millis(500)).await });
    let hung = TaskLoop::every(millis(500), |ctx: TaskContext| async move {
        if ctx.iteration().is_some_and(|iteration| iteration > 3) {
            pending::<()>().await;
        }
    });
    vec![
        CriticalTaskConfig::from_loop("flaky", flaky),
        CriticalTaskConfig::from_loop("clock", clock).priority(TaskPriority::Normal),
        CriticalTaskConfig::from_loop("overrun", overrun).priority(TaskPriority::Low).component("reports"),
        CriticalTaskConfig::from_loop("hung", hung).shutdown_grace(millis(300)).component("reports"),
    ]
}

/// One fails every five seconds, and the other goes down with it.
fn group() -> TaskGroup {
    let session = CriticalTaskConfig::new("session", |_| async {
        sleep(millis(5_000)).await;
        Err::<(), _>("session closed by peer")
    });
    TaskGroup::new("voice", RestartStrategy::OneForAll)
        .max_restarts(100, Duration::from_secs(60))
        .task(lively(session))
        .task(CriticalTaskConfig::new("encoder", work).restart_policy(RestartPolicy::Always))
}

/// Commands until this is dropped: most are answered, some fail, panic, take too long or are taken back.
async fn commands(tasks: &TaskManager) {
    for number in 0_u64.. {
        let roll =
            tasks.task(&format!("command_roll_{number}")).category(TaskCategory::Command).spawn(async move {
                sleep(millis(3)).instrument(info_span!("shake_dice")).await;
                if number % 4 == 0 { Err(io::Error::other("no such dice")) } else { Ok(()) }
            });
        let _ = roll.await;
        if number % 10 == 0 {
            let command = |name: &'static str| tasks.task(name).category(TaskCategory::Command);
            let archive = command("command_archive").timeout(millis(20)).limit(1);
            let _ = archive.reserve().await.spawn(pending::<()>()).await;
            let _ = command("command_eval").spawn(async { panic!("divided by zero") }).await;
            let undone = command("command_undone").spawn(pending::<()>());
            undone.abort();
            let _ = undone.await;
        }
        if number == 10 {
            // More names than there is room for.
            for name in ["an", "arm", "art", "ask", "axe", "bad", "bag", "ban", "bar", "bat", "bed", "bee"] {
                let _ = tasks.spawn(name, async {}).await;
            }
        }
        sleep(millis(90)).await;
    }
}

pub(crate) async fn run(
    mut orders: mpsc::UnboundedReceiver<String>,
) -> Result<(TaskManager, Arc<ShutdownReport>), Box<dyn Error>> {
    let tasks = TaskManager::builder()
        .monitor_interval(millis(1_000))
        .slow_poll(millis(500))
        .shutdown_deadline(millis(4_000))
        .spawn_grace(millis(500))
        .max_names(NAMES)
        .build()
        .unwrap();
    tasks.register_all(critical_tasks())?;
    tasks.register_all(loops())?;
    tasks.register_group(group())?;
    tasks.start();
    drop(tasks.spawn_blocking("archiver", |_stop| thread::sleep(FOR_EVER)));
    sleep(millis(300)).await;
    tasks.stop("stopped")?;
    tasks.pause("paused")?;
    tasks.restart("requested")?;
    tasks.stop("stubborn")?;
    figures::say(&json!({ "began": "trouble" }));
    tokio::select! {
        () = commands(&tasks) => {}
        _ = orders.recv() => {}
    }
    let report = tasks.shutdown().await;
    Ok((tasks, report))
}
