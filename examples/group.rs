//! Tasks that start, stop and are restarted together: `cargo run --example group`; takes about 2 seconds.

use std::time::Duration;

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskContext, TaskGroup, TaskManager,
    policy::{DependencyLoss, RestartStrategy},
};

async fn work(ctx: TaskContext) {
    println!("{:<8} starts, run {}", ctx.name(), ctx.generation());
    ctx.cancelled().await;
    println!("{:<8} stops", ctx.name());
}

/// Closes in its first run after a second.
async fn session(ctx: TaskContext) -> Result<(), &'static str> {
    if ctx.generation() == 1 {
        println!("session  starts, run 1");
        tokio::time::sleep(Duration::from_secs(1)).await;
        println!("session  fails");
        return Err("session closed by peer");
    }
    work(ctx).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tasks = TaskManager::new();
    let always = |config: CriticalTaskConfig| config.restart_policy(RestartPolicy::Always);

    // A failure of one member restarts all: they stop in reverse order and start in order.
    let voice = TaskGroup::new("voice", RestartStrategy::OneForAll)
        .task(
            CriticalTaskConfig::new("session", session)
                .backoff(Backoff::constant(Duration::from_millis(200))),
        )
        .task(always(CriticalTaskConfig::new("encoder", work)))
        .task(always(CriticalTaskConfig::new("sender", work)));
    tasks.register_group(voice)?;

    // Starts when `sender` is ready. While `sender` is down, `mixer` is stopped too.
    let mixer = CriticalTaskConfig::new("mixer", work)
        .depends_on("sender")
        .on_dependency_loss(DependencyLoss::Restart);
    tasks.register(mixer)?;

    let report = tasks.run_until(tokio::time::sleep(Duration::from_secs(2))).await;
    println!("{report}");
    Ok(())
}
