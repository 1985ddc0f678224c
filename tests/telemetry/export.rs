//! A manager's life over real OTLP bytes: what was run is what arrives, whatever the receiver does.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskCategory, TaskLoop, TaskManager,
    policy::RestartReason,
    snapshot::TaskState,
    telemetry::{Protocol, Telemetry},
};

use crate::{
    BOTH,
    support::{
        eventually,
        otlp::{ANY, Behaviour, Receiver, closed_port},
    },
    under,
};

/// Runs `main` on the current thread with the telemetry's layers as its subscriber; one test at a time, since each loads
/// the machine.
fn with_layers<F: Future>(telemetry: &Telemetry, main: F) -> F::Output {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    under(telemetry, || runtime.block_on(main))
}

fn manager(telemetry: &Telemetry) -> TaskManager {
    TaskManager::builder()
        .meter(telemetry.meter())
        .tracer(telemetry.tracer())
        .shutdown_deadline(Duration::from_secs(5))
        .spawn_grace(Duration::from_millis(200))
        .build()
        .unwrap()
}

/// Spawns `runs` tasks at `rate` a second (at once without one); a third of them are still under way when it returns.
/// Counts those that were accepted.
async fn spawn_many(tasks: &TaskManager, runs: u64, rate: Option<u64>, accepted: &AtomicU64) {
    let began = tokio::time::Instant::now();
    for run in 0..runs {
        if let Some(rate) = rate {
            tokio::time::sleep_until(began + Duration::from_nanos(run * 1_000_000_000 / rate)).await;
        } else if run % 64 == 0 {
            tokio::task::yield_now().await;
        }
        let handle = tasks.spawn("command_many", async move {
            match run % 3 {
                0 => std::future::pending::<()>().await,
                _ => tokio::task::yield_now().await,
            }
            if run % 10 == 1 { Err("unlucky") } else { Ok(()) }
        });
        accepted.fetch_add(u64::from(!handle.is_finished()), Relaxed);
    }
}

/// What was run, what was counted and what arrived are the same.
fn assert_nothing_lost(receiver: &Receiver, tasks: &TaskManager, accepted: u64) {
    let runs = receiver.spans_named("task.run");
    let distinct: HashSet<_> = runs.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(runs.len() as u64, accepted, "every run is a span");
    assert_eq!(distinct.len(), runs.len(), "none arrived twice");
    assert_eq!(tasks.statistics().total_runs, accepted);
    assert_eq!(receiver.sum("task.runs", &[("task.name", "command_many")]), Some(accepted as f64));
    for result in ["success", "failure", "cancellation"] {
        let spans = runs.iter().filter(|span| span.string("task.run.result") == Some(result)).count();
        let counted = receiver.sum("task.runs", &[("task.run.result", result)]);
        assert_eq!(counted, Some(spans as f64), "{result}");
        assert_eq!(
            receiver.count("task.run.duration", &[("task.run.result", result)]),
            Some(spans as u64),
            "{result}"
        );
    }
}

fn ten_thousand_runs(protocol: Protocol, rate: Option<u64>) {
    let receiver = Receiver::start(protocol);
    let telemetry = receiver.telemetry("many").build().expect("built");
    let tasks = manager(&telemetry);
    let accepted = with_layers(&telemetry, async {
        let accepted = Arc::new(AtomicU64::new(0));
        let spawner = tokio::spawn({
            let (tasks, accepted) = (tasks.clone(), accepted.clone());
            async move { spawn_many(&tasks, 12_000, rate, &accepted).await }
        });
        // The shutdown comes in the middle: what is spawned after it is refused.
        while accepted.load(Relaxed) < 10_000 {
            match rate {
                Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                None => tokio::task::yield_now().await,
            }
        }
        tasks.shutdown().await;
        spawner.await.expect("joined");
        accepted.load(Relaxed)
    });
    assert!((10_000..12_000).contains(&accepted), "some were accepted and some refused: {accepted}");
    let report = telemetry.shutdown_blocking();
    assert!(report.is_complete(), "{report}");
    assert_nothing_lost(&receiver, &tasks, accepted);
}

#[cfg(feature = "otlp-grpc")]
#[test]
fn ten_thousand_runs_at_two_thousand_a_second_arrive_over_grpc() {
    ten_thousand_runs(Protocol::Grpc, Some(2_000));
}

#[test]
fn ten_thousand_runs_at_two_thousand_a_second_arrive_over_http() {
    ten_thousand_runs(Protocol::HttpProtobuf, Some(2_000));
}

#[test]
fn ten_thousand_runs_in_one_burst_arrive() {
    for protocol in BOTH {
        ten_thousand_runs(protocol, None);
        // And all of them, on four workers, through the manager's tracer alone.
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("burst").build().expect("built");
        let tasks = manager(&telemetry);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("one");
        runtime.block_on(async {
            spawn_many(&tasks, 10_000, None, &AtomicU64::new(0)).await;
            tasks.shutdown().await;
        });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");
        assert_nothing_lost(&receiver, &tasks, 10_000);
    }
}

#[test]
fn past_the_queues_bound_the_balance_is_exact() {
    let receiver = Receiver::start(ANY);
    receiver.set_behaviour(Behaviour::Hang);
    let telemetry = receiver
        .telemetry("bounded")
        .span_queue(1_000)
        .shutdown_timeout(Duration::from_millis(300))
        .build()
        .expect("built");
    let balance = telemetry.balance();
    let tasks = manager(&telemetry);
    with_layers(&telemetry, async {
        spawn_many(&tasks, 10_000, None, &AtomicU64::new(0)).await;
        tasks.shutdown().await;
    });
    let traces = balance.snapshot().traces;
    // The runs and the three spans of the shutdown.
    assert_eq!(traces.ended, 10_003);
    assert_eq!(traces.ended, traces.exported + traces.queue_full + traces.export_failed + traces.pending);
    assert!(traces.queue_full >= 8_000, "{traces:?}");
    let report = telemetry.shutdown_blocking();
    assert!(!report.is_complete());
    let spans = &report.traces;
    assert_eq!(
        spans.ended,
        spans.exported + spans.queue_full + spans.export_failed + spans.undelivered,
        "{report}"
    );
}

/// How late 500 tasks that sleep 20 ms end, at the worst, beside what they end like with a receiver that answers.
fn worst_lateness(telemetry: &Telemetry) -> Duration {
    let tasks = manager(telemetry);
    with_layers(telemetry, async {
        let mut worst = Duration::ZERO;
        for _ in 0..10 {
            let batch: Vec<_> = (0..50)
                .map(|_| {
                    tasks.spawn("sleeper", async {
                        let began = Instant::now();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok::<_, std::convert::Infallible>(
                            began.elapsed().saturating_sub(Duration::from_millis(20)),
                        )
                    })
                })
                .collect();
            for handle in batch {
                worst = worst.max(handle.await.expect("ran").expect("infallible"));
            }
        }
        tasks.shutdown().await;
        worst
    })
}

#[test]
fn a_receiver_that_is_down_slow_or_failing_changes_no_tasks_timing() {
    let limit = Duration::from_millis(300);
    for protocol in BOTH {
        let behaviours = [
            None,
            Some(Behaviour::Delay(Duration::from_secs(30))),
            Some(Behaviour::Unavailable),
            Some(Behaviour::Refuse),
        ];
        for behaviour in behaviours {
            let receiver = Receiver::start(protocol);
            let mut builder = receiver.telemetry("troubled").shutdown_timeout(limit);
            match behaviour {
                None => builder = builder.endpoint(format!("http://{}", closed_port())),
                Some(behaviour) => receiver.set_behaviour(behaviour),
            }
            let telemetry = builder.build().expect("built");
            let balance = telemetry.balance();
            let worst = worst_lateness(&telemetry);
            // The promise is that nothing waits for the receiver; the margin is the shared machine's.
            assert!(worst < Duration::from_millis(200), "{protocol:?} {behaviour:?}: {worst:?}");
            assert_eq!(balance.snapshot().traces.ended, 503, "{protocol:?} {behaviour:?}");
            let began = Instant::now();
            let report = telemetry.shutdown_blocking();
            let took = began.elapsed();
            assert!(took < limit + Duration::from_millis(700), "{protocol:?} {behaviour:?}: {took:?}");
            let spans = &report.traces;
            assert_eq!(spans.exported, 0, "{report}");
            assert_eq!(spans.ended, spans.queue_full + spans.export_failed + spans.undelivered, "{report}");
            assert!(report.to_string().contains("503"), "the loss is told: {report}");
        }
    }
}

/// A life in which something fails, recovers and stops, and what must be seen of it on the other side.
#[test]
fn a_life_arrives_with_its_trees_links_statuses_figures_and_records() {
    for protocol in BOTH {
        let receiver = Receiver::start(protocol);
        let telemetry = receiver.telemetry("bot").build().expect("built");
        let tasks = manager(&telemetry);
        with_layers(&telemetry, async {
            let phoenix = CriticalTaskConfig::new("phoenix", |ctx| async move {
                assert!(ctx.generation() > 1, "burnt");
                tracing::info_span!("user_work", answer = 42).in_scope(|| tracing::info!("at work"));
                ctx.cancelled().await;
            });
            let phoenix = phoenix.component("fire").category(TaskCategory::Gateway);
            tasks
                .register(phoenix.backoff(Backoff::constant(Duration::from_millis(20))))
                .expect("registered");
            let ticks = TaskLoop::every(Duration::from_millis(10), |_| async {}).count(3);
            tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
            tasks.start();
            let _ = tasks.spawn("command_ping_1", async { Err::<(), _>(std::io::Error::other("no")) }).await;
            eventually("both have done their work", || {
                let [phoenix, ticks] =
                    ["phoenix", "ticks"].map(|name| tasks.snapshot(name).expect("registered"));
                let has_risen = phoenix.restarts(RestartReason::Panic) == 1 && phoenix.active == 1;
                has_risen && ticks.state == Some(TaskState::Finished)
            })
            .await;
            tasks.shutdown().await;
        });
        let report = telemetry.shutdown_blocking();
        assert!(report.is_complete(), "{report}");

        let of = |task: &str| -> Vec<_> {
            receiver
                .spans_named("task.run")
                .into_iter()
                .filter(|run| run.string("task.name") == Some(task))
                .collect()
        };
        let runs = of("phoenix");
        let burnt = runs.iter().find(|run| run.string("error.type") == Some("panic")).expect("the first run");
        let risen = runs.iter().find(|run| run.string("error.type").is_none()).expect("the second run");
        assert!(burnt.is_root() && risen.is_root() && burnt.trace_id != risen.trace_id);
        assert!(burnt.status_message().contains("burnt"), "{burnt:?}");
        assert_eq!(risen.links().len(), 1, "{risen:?}");
        assert_eq!(risen.int("task.run.generation"), Some(2), "an integer, not a string");
        assert_eq!(risen.string("task.component"), Some("fire"));
        assert_eq!(risen.resource.string("service.name"), Some("bot"));
        assert!(risen.resource.string("service.instance.id").is_some());
        let user = receiver.span("user_work");
        assert!(user.is_child_of(risen), "{user:?}");
        assert_eq!(of("ticks").len(), 3);
        let ping = &of("command_ping")[0];
        assert_eq!(ping.string("task.given_name"), Some("command_ping_1"));
        assert_eq!(ping.string("error.type"), Some("std::io::error::Error"));
        let cleanup = receiver.span("bot.cleanup_tasks");
        assert!(receiver.span("bot.stop_task_loops").is_child_of(&cleanup));
        assert!(receiver.span("bot.cancel_tasks").is_child_of(&cleanup));
        assert!(!receiver.spans_named("bot.monitor_tasks").is_empty());

        let exceptions = receiver.logs_named("task.exception");
        let burnt_log =
            exceptions.iter().find(|log| log.string("task.name") == Some("phoenix")).expect("logged");
        assert_eq!((&burnt_log.trace_id, &burnt_log.span_id), (&burnt.trace_id, &burnt.span_id));
        assert_eq!(receiver.log("task.restarted").string("task.restart.reason"), Some("panic"));

        let panics = [("task.name", "phoenix"), ("task.restart.reason", "panic")];
        assert_eq!(receiver.sum("task.restarts", &panics), Some(1.0));
        assert_eq!(
            receiver.sum("task.runs", &[("task.name", "ticks"), ("task.run.result", "success")]),
            Some(3.0)
        );
        assert_eq!(receiver.count("task.schedule.delay", &[("task.name", "ticks")]), Some(3));
        let runs = receiver.metric("task.runs").expect("exported");
        assert_eq!((runs.unit.as_str(), runs.scope.name.as_str()), ("{run}", "otel_tasks"));
    }
}
