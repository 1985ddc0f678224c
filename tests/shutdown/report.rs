//! What the report of a shutdown reads like, and in which order.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Instant,
};

use otel_tasks::{
    CriticalTaskConfig, RestartPolicy, ShutdownReport, TaskCategory, TaskFamily, TaskManager, TaskPriority,
    events::{TaskEvent, TaskEventKind},
    policy::Escalation,
    shutdown::{LastResort, ShutdownOutcome},
};
use tokio::time::{sleep, timeout};

use crate::support::{
    eventually, millis,
    process::{child, is_child},
    secs, settle,
    tasks::takes,
};

/// A process whose worker is blocked for a minute. It ends after its shutdown of a second.
#[test]
fn exit_does_not_wait_for_a_blocked_thread() {
    if is_child() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let tasks = TaskManager::builder().shutdown_deadline(secs(1)).build().unwrap();
            let blocks = CriticalTaskConfig::new("blocks", |_| async { std::thread::sleep(secs(60)) });
            tasks.register(blocks).unwrap();
            tasks.run_until(sleep(millis(200))).await.exit()
        })
    }
    let began = Instant::now();
    let ended = child("report::exit_does_not_wait_for_a_blocked_thread").status().expect("a child");
    // Seen to fail where the child returns the exit code instead: its runtime waits.
    assert_eq!(ended.code(), Some(2), "the task is leaked");
    assert!(began.elapsed() < secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_report_reads_line_by_line() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(10)).build().unwrap();
    let done = CriticalTaskConfig::one_shot("done", |_| async {});
    for config in [takes("slow", 2), done.category(TaskCategory::Gateway)] {
        tasks.register(config).expect("a valid config");
    }
    tasks.start();
    for _ in 0..2 {
        drop(tasks.task("command_ping").priority(TaskPriority::Low).spawn_with(|ctx| async move {
            ctx.cancelled().await;
        }));
    }
    settle().await;
    let report = tasks.shutdown().await;
    let text = report.to_string();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    // Seen to fail with a time for what did not run, or a number of runs for what ran once.
    assert_eq!(
        lines,
        [
            "shutdown took 2.0s of 10.0s: 3 clean, 0 late, 0 aborted, 0 leaked, 1 not running",
            "  clean       command_ping                 command    low       after 0.0ns (2 runs)",
            "  clean       slow                         scheduled  high      after 2.0s",
            "  not_running done                         gateway    high",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn report_names_its_cause_and_its_requester() {
    let tasks = TaskManager::new();
    let fatal = CriticalTaskConfig::new("fatal", |_| async { Err::<(), _>("gone") })
        .restart_policy(RestartPolicy::Never)
        .escalation(Escalation::Shutdown);
    tasks.register(fatal).expect("a valid config");
    tasks.start();
    settle().await;
    let report = tasks.shutdown().await;
    let cause = report.cause.clone().expect("a task was given up");
    assert_eq!(cause.to_string(), "task fatal was given up: not to be restarted after this");
    assert!(report.to_string().contains(&format!("\n  because {cause}\n")), "{report}");
    assert_eq!((report.is_clean(), report.exit_code()), (false, 1));
    assert!(!report.to_string().contains("asked for by"), "nobody did: {report}");

    let tasks = TaskManager::new();
    let inside = tasks.clone();
    let asking = tasks.spawn("ask", async move {
        let report = inside.shutdown().await;
        if report.to_string().contains("\n  asked for by ask, which continues") {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    assert_eq!(asking.await, Ok(Ok(())));
}

#[test]
fn an_outcome_is_shown_as_it_is_exported() {
    for &outcome in ShutdownOutcome::ALL {
        assert_eq!(outcome.to_string(), outcome.as_str());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_no_longer_waits_for_the_report_needs_no_last_resort() {
    let called = Arc::new(AtomicBool::new(false));
    let note = called.clone();
    let resort = LastResort::Call(Arc::new(move |_| note.store(true, SeqCst)));
    let tasks = TaskManager::builder().last_resort(resort).build().unwrap();
    let mut events = tasks.subscribe();
    tasks.register(takes("slow", 1)).expect("a valid config");
    tasks.start();
    eventually("it runs", || tasks.snapshot("slow").is_some_and(|task| task.active == 1)).await;
    let for_a_signal = tasks.run_until(std::future::pending::<()>());
    assert!(timeout(millis(20), for_a_signal).await.is_err());
    assert!(timeout(millis(200), tasks.shutdown()).await.is_err(), "it takes a second");
    while events.recv().await.is_some() {}
    // Seen to fail where a caller that was dropped is counted as waiting.
    sleep(secs(1)).await;
    assert!(!called.load(SeqCst));
}

#[tokio::test]
async fn a_caller_that_can_soon_receive_the_report_needs_no_last_resort() {
    let called = Arc::new(AtomicBool::new(false));
    let note = called.clone();
    let resort = LastResort::Call(Arc::new(move |_| note.store(true, SeqCst)));
    let tasks = TaskManager::builder().shutdown_deadline(millis(100)).last_resort(resort).build().unwrap();
    let events = Mutex::new(Some(tasks.subscribe()));
    // It blocks the only thread until the watchdog has written the report, and a moment longer.
    let config = CriticalTaskConfig::new("blocks", move |ctx| {
        let mut events = events.lock().unwrap().take();
        async move {
            ctx.cancelled().await;
            let end = std::time::Instant::now() + secs(20);
            while std::time::Instant::now() < end {
                let ended = |event: TaskEvent| matches!(event.kind, TaskEventKind::ShutdownEnded(_));
                if events.as_mut().and_then(|events| events.try_recv()).is_some_and(ended) {
                    break;
                }
                std::thread::sleep(millis(1));
            }
            std::thread::sleep(millis(50));
        }
    });
    tasks.register(config).expect("a valid config");
    tasks.start();
    eventually("it runs", || tasks.snapshot("blocks").is_some_and(|task| task.active == 1)).await;
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 1, "{report}");
    sleep(millis(300)).await;
    // Seen to fail where the last resort does not wait for the thread to come free.
    assert!(!called.load(SeqCst));
}

#[tokio::test(start_paused = true)]
async fn the_lines_are_in_the_order_in_which_tasks_were_asked() {
    let tasks = TaskManager::new();
    // By its category the cache would be asked first; since the gateway rests on it, it is put off until after it.
    let cache = takes("cache", 0).category(TaskCategory::Command);
    let gateway = takes("gateway", 1).category(TaskCategory::Gateway).depends_on("cache");
    tasks.register_all([cache, gateway]).expect("valid configs");
    tasks.start();
    settle().await;
    let report = tasks.shutdown().await;
    let lines: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.after.as_secs())).collect();
    assert_eq!(lines, [("gateway", 1), ("cache", 1)]);
}

#[tokio::test(start_paused = true)]
async fn runs_of_one_name_with_the_same_outcome_share_a_line() {
    // A registered task, with another that had its name before, and with a run that was spawned under it.
    for (detached, spawned, count) in [(false, false, 1), (true, false, 2), (false, true, 2), (true, true, 3)]
    {
        let tasks = TaskManager::new();
        tasks.register_all([takes("twin", 1), takes("other", 1)]).expect("valid configs");
        tasks.start();
        settle().await;
        if detached {
            tasks.detach("twin").expect("registered");
            tasks.register(takes("twin", 1)).expect("the name is free");
        }
        if spawned {
            drop(tasks.task("twin").spawn_with(|ctx| async move { ctx.cancelled().await }));
        }
        settle().await;
        let report = tasks.shutdown().await;
        let mut lines: Vec<_> =
            report.tasks.iter().map(|task| (&*task.name, task.count, task.after.as_secs())).collect();
        lines.sort_unstable();
        assert_eq!(lines, [("other", 1, 1), ("twin", count, 1)], "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn line_of_two_tasks_is_at_the_position_of_the_first() {
    // The intake stops before the command, and the other task of its name after the command. The tasks differ in nothing else.
    for intake_first in [true, false] {
        let tasks = TaskManager::new();
        let twin = |is_intake| if is_intake { takes("twin", 1).intake() } else { takes("twin", 1) };
        let command = takes("command", 1).category(TaskCategory::Command);
        tasks.register_all([twin(intake_first), command]).expect("valid configs");
        tasks.start();
        settle().await;
        tasks.detach("twin").expect("registered");
        tasks.register(twin(!intake_first)).expect("the name is free");
        settle().await;
        let report = tasks.shutdown().await;
        let lines: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.count)).collect();
        assert_eq!(lines, [("twin", 2), ("command", 1)], "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn line_of_two_runs_is_at_the_position_of_the_first() {
    // Both are metered under one name, because there is room for no other. The gateway is asked last, and may end before the command does.
    for gateway_ends_first in [true, false] {
        let tasks = TaskManager::builder().max_names(1).build().unwrap();
        tasks.register(takes("scheduled", 1)).expect("a valid config");
        tasks.start();
        let spawn = |name, category, end: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let task = tasks.task(name).category(category);
            drop(task.spawn_with(|ctx| async move {
                tokio::select! {
                    () = end => {}
                    () = ctx.cancelled() => sleep(secs(1)).await,
                }
            }));
        };
        let end = tasks.shutting_down();
        spawn("a", TaskCategory::Command, Box::pin(std::future::pending()));
        spawn(
            "b",
            TaskCategory::Gateway,
            if gateway_ends_first { Box::pin(end) } else { Box::pin(std::future::pending()) },
        );
        settle().await;
        let report = tasks.shutdown().await;
        let lines: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.count)).collect();
        assert_eq!(lines, [("_OTHER", 2), ("scheduled", 1)], "{report}");
    }
}

#[test]
fn a_blocked_runtime_keeps_the_deadline_also_where_the_last_stage_was_soon_over() {
    let (called, told) = std::sync::mpsc::channel();
    let called = Mutex::new(called);
    let resort = LastResort::Call(Arc::new(move |report: &ShutdownReport| {
        let _ = called.lock().unwrap().send(report.clone());
    }));
    let (free, blocked) = std::sync::mpsc::channel::<()>();
    let shutdown = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let tasks =
                TaskManager::builder().shutdown_deadline(millis(500)).last_resort(resort).build().unwrap();
            let blocked = Arc::new(Mutex::new(blocked));
            let config = CriticalTaskConfig::new("blocks", move |ctx| {
                let blocked = blocked.clone();
                async move {
                    ctx.cancelled().await;
                    let _ = blocked.lock().unwrap().recv();
                }
            });
            tasks.register(config.category(TaskCategory::Unknown)).expect("a valid config");
            tasks.start();
            // In a stage of its own, after that one; on a thread of its own, it ends when it is asked.
            let obeys = tasks.task("obeys").category(TaskCategory::Gateway);
            drop(obeys.spawn_blocking(|stop| while !stop.wait_timeout(secs(1)) {}));
            let runs = |name| tasks.snapshot(name).is_some_and(|task| task.active == 1);
            eventually("both run", || runs("blocks") && runs("obeys")).await;
            tasks.shutdown().await
        })
    });
    // Seen to fail where the watchdog leaves the last part of the deadline to the runtime, which runs nothing.
    let report = told.recv_timeout(secs(20)).expect("the watchdog has the last word");
    assert_eq!(report.count(ShutdownOutcome::Leaked), 1, "{report}");
    assert_eq!(report.count(ShutdownOutcome::Clean), 1, "{report}");
    drop(free);
    assert_eq!(shutdown.join().expect("no panic"), Arc::new(report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_tasks_that_are_ended_at_once_are_dropped_however_many_there_are() {
    let tasks = TaskManager::builder().shutdown_deadline(secs(60)).build().unwrap();
    let family = TaskFamily::new("idle", |_, _: u64| std::future::pending::<()>());
    let family = tasks.register_family(family).unwrap();
    tasks.start();
    family.set(0..10_000).await.unwrap();
    eventually("all run", || tasks.snapshot("idle").is_some_and(|task| task.active == 10_000)).await;
    let report = tasks.shutdown_now().await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_is_busy_for_a_while_receives_the_report_itself() {
    let called = Arc::new(AtomicBool::new(false));
    let calls = called.clone();
    let resort = LastResort::Call(Arc::new(move |_: &ShutdownReport| calls.store(true, SeqCst)));
    let tasks = TaskManager::builder().last_resort(resort).build().unwrap();
    tasks.register(takes("quick", 0)).expect("a valid config");
    tasks.start();
    eventually("it runs", || tasks.snapshot("quick").is_some_and(|task| task.active == 1)).await;
    let begun = tasks.shutting_down();
    let busy = async {
        begun.await;
        std::thread::sleep(millis(600));
    };
    let (report, ()) = tokio::join!(tasks.shutdown(), busy);
    sleep(millis(100)).await;
    assert_eq!(report.count(ShutdownOutcome::Clean), 1, "{report}");
    assert!(!called.load(SeqCst), "its thread is not blocked");
}
