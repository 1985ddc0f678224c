//! What people who write services need most often, each in at most six lines of theirs. The lines between the marks are the user's.

#[path = "support/mod.rs"]
mod support;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use otel_tasks::{
    CriticalTaskConfig, HealthRole, TaskContext, TaskFamily, TaskManager, health::HealthStatus,
    policy::RestartReason, shutdown::ShutdownOutcome, snapshot::TaskState,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use support::{
    millis, secs, settle,
    tasks::{restarts, state},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn until_asked(ctx: TaskContext) -> io::Result<()> {
    ctx.cancelled().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_1_a_task_that_is_restarted_when_it_panics() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    async fn sweep(ctx: TaskContext) -> io::Result<()> {
        assert!(ctx.generation() > 1, "the first run panics");
        until_asked(ctx).await
    }
    // user
    tasks.register(CriticalTaskConfig::new("sweeper", sweep))?;
    // end
    sleep(secs(2)).await;
    assert_eq!(state(&tasks, "sweeper"), Some(TaskState::Running));
    assert_eq!(restarts(&tasks, "sweeper", RestartReason::Panic), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_2_a_connection_that_must_never_end_and_a_job_that_may() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    let connect_and_read =
        |ctx: TaskContext| async move { if ctx.generation() > 1 { until_asked(ctx).await } else { Ok(()) } };
    async fn migrate() {}
    // user
    tasks.register(CriticalTaskConfig::new("gateway", connect_and_read))?;
    tasks.register(CriticalTaskConfig::one_shot("migrate", |_| migrate()))?;
    // end
    sleep(secs(2)).await;
    assert_eq!(restarts(&tasks, "gateway", RestartReason::Finished), 1);
    assert_eq!(state(&tasks, "migrate"), Some(TaskState::Finished));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_3_an_outage_of_an_hour_heals() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    let begun = Instant::now();
    let mirror = move |ctx: TaskContext| async move {
        if begun.elapsed() < secs(3_600) {
            return Err(io::Error::other("the other side is down"));
        }
        until_asked(ctx).await
    };
    // user
    tasks.register(CriticalTaskConfig::new("mirror", mirror))?;
    tasks.register(CriticalTaskConfig::new("feed", mirror).unlimited_restarts())?;
    // end
    sleep(secs(4_000)).await;
    assert_eq!([state(&tasks, "mirror"), state(&tasks, "feed")], [Some(TaskState::Running); 2]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_4_everything_stops_in_order_with_a_report() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.register(CriticalTaskConfig::new("t", until_asked))?;
    let shutdown_signal = || sleep(secs(5));
    // user
    let report = tasks.run_until(shutdown_signal()).await;
    // end
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.tasks.len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_5_drain_gives_the_load_balancer_time_to_react() -> Result<(), Failure> {
    // user
    let tasks = TaskManager::builder().drain(Duration::from_secs(8)).build()?;
    // end
    tasks.register(CriticalTaskConfig::new("t", until_asked))?;
    tasks.start();
    settle().await;
    // As SIGTERM does: `tests/shutdown/signals.rs`.
    let (stopping, drain) = (tasks.clone(), tasks.settings().drain);
    let report = tokio::spawn(async move { stopping.shutdown_after(drain).await });
    sleep(secs(7)).await;
    assert!(!tasks.health().is_ready);
    assert_eq!(state(&tasks, "t"), Some(TaskState::Running));
    assert_eq!(report.await?.drained, secs(8));
    Ok(())
}

#[tokio::test]
async fn need_6_an_http_server_is_drained_before_all_others() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    let slow = || async {
        sleep(millis(300)).await;
        "done"
    };
    let app = Router::new().route("/", get(slow));
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    // user
    let http = CriticalTaskConfig::with("http", app, move |ctx, app| async move {
        let listener = TcpListener::bind(address).await?;
        axum::serve(listener, app).with_graceful_shutdown(ctx.cancelled_owned()).await
    });
    tasks.register(http.intake().shutdown_grace(Duration::from_secs(10)))?;
    // end
    tasks.register(CriticalTaskConfig::new("pool", until_asked))?;
    let mut client = eventually_connected(address).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    sleep(millis(100)).await;
    let mut response = String::new();
    let (report, read) = tokio::join!(tasks.shutdown(), client.read_to_string(&mut response));
    read?;
    assert!(response.ends_with("done"), "{response}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(&*report.tasks[0].name, "http");
    Ok(())
}

async fn eventually_connected(address: SocketAddr) -> TcpStream {
    let began = std::time::Instant::now();
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < secs(30), "{error}"),
        }
        sleep(millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn need_7_optional_task_does_not_make_the_service_unready() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    let recommend = |_: TaskContext| async { Err::<(), _>("the model is missing") };
    // user
    tasks
        .register(CriticalTaskConfig::new("recommendations", recommend).health_role(HealthRole::Degrades))?;
    // end
    sleep(secs(3_000)).await;
    let health = tasks.health();
    assert_eq!(
        (health.is_live, health.is_ready, health.status),
        (true, true, HealthStatus::Degraded),
        "{health}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_11_intake_is_limited_to_a_number_of_concurrent_runs() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((now, most));
    let index = |_document: u32| {
        let counts = counts.clone();
        async move {
            counts.1.fetch_max(counts.0.fetch_add(1, SeqCst) + 1, SeqCst);
            sleep(secs(1)).await;
            counts.0.fetch_sub(1, SeqCst);
        }
    };
    let (documents, began) = (0..20, Instant::now());
    // user
    let indexing = tasks.task("index").limit(8);
    for document in documents {
        indexing.reserve().await.spawn(index(document));
    }
    let is_full = indexing.try_reserve().is_none();
    // end
    assert_eq!((began.elapsed().as_secs(), is_full), (2, false));
    tasks.shutdown().await;
    assert_eq!((counts.0.load(SeqCst), counts.1.load(SeqCst)), (0, 8));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn need_12_a_task_for_each_tenant() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    tasks.start();
    let sync = |ctx: TaskContext, _tenant: u64| until_asked(ctx);
    // user
    let tenants = tasks.register_family(TaskFamily::new("tenant_sync", sync))?;
    tenants.ensure(7)?;
    tenants.remove(&7).await;
    tenants.set([1, 2, 3]).await?;
    // end
    settle().await;
    let names = tasks.task_names();
    assert_eq!(names, ["tenant_sync:1", "tenant_sync:2", "tenant_sync:3"]);
    assert!(names.iter().all(|name| state(&tasks, name) == Some(TaskState::Running)));
    Ok(())
}

#[tokio::test]
async fn need_14_short_tasks_in_a_trace_of_their_own_or_in_the_callers() -> Result<(), Failure> {
    let tasks = TaskManager::new();
    async fn send() {}
    async fn make() -> Result<(), String> {
        Ok(())
    }
    // user
    tasks.spawn("email", send());
    tasks.task("thumb").in_current_trace().spawn(make());
    let n: u32 = tasks.task("hash").in_current_trace().spawn_blocking(|_| 42).await?;
    // end
    assert_eq!(n, 42);
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
    Ok(())
}

/// The reports themselves: `tests/systemd.rs`.
#[cfg(all(feature = "systemd", unix))]
#[tokio::test]
async fn need_15_systemd_knows() -> Result<(), Failure> {
    // user
    let tasks = TaskManager::builder().systemd().build()?;
    // end
    assert!(tasks.shutdown().await.is_clean());
    Ok(())
}

#[test]
fn no_need_takes_more_than_six_lines() {
    let mut needs = 0;
    for need in include_str!("needs.rs").split("    // user\n").skip(1) {
        let lines = need.split("    // end\n").next().expect("one").lines().count();
        assert!((1..=6).contains(&lines), "{lines} lines: {need}");
        needs += 1;
    }
    assert_eq!(needs, 11);
}
