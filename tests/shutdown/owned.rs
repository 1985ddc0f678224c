//! Work that a task owns, and intake tasks, which stop first.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, GiveUp, RestartPolicy, ShutdownReport, TaskCategory, TaskContext, TaskError,
    TaskGroup, TaskLoop, TaskManager, TaskPriority,
    policy::{Escalation, RestartStrategy},
    shutdown::ShutdownOutcome,
};
use tokio::time::{Instant, sleep};

use crate::{
    manager::{Log, asked, manager, outcome, whole},
    support::{
        Alive, millis, secs, settle,
        tasks::{obeys, state},
    },
};

/// A task that hands out its context, and then runs until it is asked to stop.
fn server(name: &str) -> (CriticalTaskConfig, Arc<Mutex<Option<TaskContext>>>) {
    let context = Arc::new(Mutex::new(None));
    let handed_out = context.clone();
    let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
        *handed_out.lock().unwrap() = Some(ctx.clone());
        async move { ctx.cancelled().await }
    });
    (config, context)
}

fn of(context: &Arc<Mutex<Option<TaskContext>>>) -> TaskContext {
    context.lock().unwrap().clone().expect("it has begun")
}

fn lines(report: &ShutdownReport) -> Vec<(&str, Option<&str>, ShutdownOutcome)> {
    report.tasks.iter().map(|line| (&*line.name, line.owner.as_deref(), line.outcome)).collect()
}

/// A queue that delivers what was refused again, as a broker does.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<u32>>,
    done: AtomicUsize,
    refused: AtomicUsize,
}

/// Seen to fail where owned work is refused once the shutdown has begun: messages were refused without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_intake_consumer_under_load_loses_no_message_and_none_is_refused() {
    const MESSAGES: u32 = 20_000;
    let queue = Arc::new(Queue { waiting: Mutex::new((0..MESSAGES).collect()), ..Queue::default() });
    let taken = Arc::new(AtomicUsize::new(0));
    let (held, counted) = (queue.clone(), taken.clone());
    let consumer = CriticalTaskConfig::new("consumer", move |ctx: TaskContext| {
        let (queue, taken) = (held.clone(), counted.clone());
        async move {
            while !ctx.is_cancelled() {
                let Some(message) = queue.waiting.lock().unwrap().pop_front() else { break };
                taken.fetch_add(1, SeqCst);
                // It is in hand, whatever has been asked meanwhile.
                tokio::task::yield_now().await;
                let handled = queue.clone();
                let run = ctx.spawn("handle", async move {
                    sleep(millis(5)).await;
                    handled.done.fetch_add(1, SeqCst);
                });
                if run.is_finished() && matches!(run.await, Err(TaskError::ShuttingDown)) {
                    queue.refused.fetch_add(1, SeqCst);
                    queue.waiting.lock().unwrap().push_back(message);
                }
            }
            ctx.cancelled().await;
        }
    });
    // It would be asked last.
    let tasks = manager([consumer.intake().category(TaskCategory::System), obeys("other")], 25);
    sleep(millis(30)).await;
    let report = tasks.shutdown().await;
    assert_eq!(queue.refused.load(SeqCst), 0);
    assert_eq!(queue.done.load(SeqCst), taken.load(SeqCst), "what was taken was handled");
    assert!(report.is_clean(), "{report}");
    let lines = lines(&report);
    assert_eq!(lines[0], ("consumer", None, ShutdownOutcome::Clean));
    assert_eq!(lines[1], ("handle", Some("consumer"), ShutdownOutcome::Clean));
    assert_eq!(lines[2].0, "other");
}

#[tokio::test(start_paused = true)]
async fn intake_stops_before_all_others_while_admission_stays_open() {
    let log = Log::new();
    let http = asked("http", 3, &log).category(TaskCategory::System).priority(TaskPriority::Critical);
    let nightly = log.clone();
    let nightly = TaskLoop::every(secs(3_600), |_| async {}).after_loop(move |_| {
        nightly.push("loop");
        async {}
    });
    let tasks =
        manager([http.intake(), asked("db", 0, &log), CriticalTaskConfig::from_loop("nightly", nightly)], 25);
    settle().await;
    let during = async {
        sleep(secs(2)).await;
        let run = tasks.spawn("s", async { Ok::<_, String>(1) });
        assert_eq!(run.await, Ok(Ok(1)), "no task owns it, and the intake still stops");
        assert!(tasks.register(obeys("late")).is_err());
        assert!(tasks.is_shutting_down());
        sleep(secs(2)).await;
        assert_eq!(tasks.spawn("s", async {}).await, Err(TaskError::ShuttingDown));
    };
    let (report, ()) = tokio::join!(tasks.shutdown(), during);
    let mut lines = log.lines();
    lines[1..].sort();
    assert_eq!(lines, [("http", 0), ("db", 3), ("loop", 3)].map(|(name, at)| (name.to_owned(), at)));
    assert_eq!(&*report.tasks[0].name, "http");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(start_paused = true)]
async fn intake_that_does_not_stop_takes_its_share_and_no_more() {
    let (log, alive) = (Log::new(), Alive::default());
    let held = alive.clone();
    let deaf = CriticalTaskConfig::new("deaf", move |_| held.during(std::future::pending::<()>()));
    let tasks = manager([deaf.intake(), asked("db", 0, &log)], 10);
    drop(tasks.spawn("run", std::future::pending::<()>()));
    settle().await;
    let report = tasks.shutdown().await;
    assert!(log.lines()[0].1 < 9, "{:?}", log.lines());
    assert_eq!(outcome(&report, "deaf"), ShutdownOutcome::Aborted);
    assert_eq!(alive.now(), 0);
    // Its own grace is shorter.
    let log = Log::new();
    let deaf = CriticalTaskConfig::new("deaf", |_| std::future::pending::<()>()).shutdown_grace(secs(2));
    let tasks = manager([deaf.intake(), asked("db", 0, &log)], 20);
    settle().await;
    tasks.shutdown().await;
    assert_eq!(log.lines(), [("db".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn owned_work_is_admitted_until_its_owner_has_ended_and_waited_for_after_it() {
    let handles = Arc::new(Mutex::new(Vec::new()));
    let held = handles.clone();
    let parent = CriticalTaskConfig::new("parent", move |ctx: TaskContext| {
        let held = held.clone();
        async move {
            ctx.cancelled().await;
            let late = ctx.clone();
            let run = ctx.task("child").spawn_with(|child| async move {
                // It is to stop from the beginning, as its owner is.
                child.cancelled().await;
                sleep(secs(2)).await;
                // Its owner has ended.
                let refused = late.spawn("grandchild", async {}).await;
                sleep(secs(1)).await;
                refused
            });
            held.lock().unwrap().push(run);
            let in_a_thread = ctx.task("thread").spawn_blocking(|stop| assert!(stop.is_stopped()));
            drop(in_a_thread);
            sleep(secs(1)).await;
        }
    });
    let tasks = manager([parent], 25);
    settle().await;
    let report = tasks.shutdown().await;
    let child = handles.lock().unwrap().pop().expect("it was spawned");
    assert_eq!(child.await, Ok(Err(TaskError::ShuttingDown)));
    assert_eq!(
        lines(&report),
        [
            ("parent", None, ShutdownOutcome::Clean),
            ("child", Some("parent"), ShutdownOutcome::Clean),
            ("thread", Some("parent"), ShutdownOutcome::Clean),
        ],
    );
    assert_eq!(whole(report.duration), 3);
    assert!(report.to_string().contains(" of parent"), "{report}");
}

/// Seen to fail where owned work is asked only when its owner has ended.
#[tokio::test(start_paused = true)]
async fn an_owner_may_wait_for_work_that_ends_when_it_is_asked() {
    let parent = CriticalTaskConfig::new("parent", |ctx: TaskContext| async move {
        let hears = |name| ctx.task(name).spawn_with(|child| async move { child.cancelled().await });
        let early = hears("early");
        ctx.cancelled().await;
        let late = hears("late");
        let ended = (early.await, late.await);
        assert_eq!(ended, (Ok(()), Ok(())));
    });
    let tasks = manager([parent], 25);
    settle().await;
    let report = tasks.shutdown().await;
    assert!(report.is_clean() && report.duration < secs(1), "{report}");
}

#[tokio::test(start_paused = true)]
async fn nested_spawns_have_the_same_owner() {
    let spawned = Alive::default();
    let held = spawned.clone();
    let body = TaskLoop::every(secs(60), move |ctx: TaskContext| {
        let alive = held.clone();
        async move {
            drop(ctx.task("child").spawn_with(|child| async move {
                child.cancelled().await;
            }));
            drop(ctx.task("parent").spawn_with(move |parent| async move {
                drop(parent.spawn("grandchild", alive.during(sleep(secs(3)))));
            }));
        }
    });
    let tasks = manager([CriticalTaskConfig::from_loop("l", body)], 25);
    settle().await;
    assert_eq!(spawned.now(), 1);
    let report = tasks.shutdown().await;
    let owners: Vec<_> = lines(&report)
        .into_iter()
        .map(|(name, owner, _)| (name.to_owned(), owner.map(str::to_owned)))
        .collect();
    let of_loop = |name: &str| (name.to_owned(), Some("l".to_owned()));
    assert_eq!(owners, [("l".to_owned(), None), of_loop("child"), of_loop("grandchild")]);
    assert!(report.is_clean() && whole(report.duration) == 3, "{report}");
}

#[tokio::test(start_paused = true)]
async fn owned_work_has_its_owners_grace_and_is_dropped_then() {
    let alive = Alive::default();
    let (config, context) = server("http");
    let tasks = manager([config.shutdown_grace(secs(7)), obeys("other")], 25);
    settle().await;
    let context = of(&context);
    drop(context.spawn("for ever", alive.during(std::future::pending::<()>())));
    drop(context.task("short").shutdown_grace(secs(2)).spawn(alive.during(std::future::pending::<()>())));
    let began = Instant::now();
    let shorter = alive.clone();
    tokio::spawn(async move {
        sleep(secs(3)).await;
        assert_eq!(shorter.now(), 1, "one has a grace of its own");
    });
    let report = tasks.shutdown().await;
    assert_eq!(began.elapsed(), secs(7));
    assert_eq!(alive.now(), 0);
    assert_eq!(outcome(&report, "http"), ShutdownOutcome::Clean);
    assert_eq!(outcome(&report, "for ever"), ShutdownOutcome::Aborted);
    assert_eq!(outcome(&report, "short"), ShutdownOutcome::Aborted);
}

#[tokio::test(start_paused = true)]
async fn owned_work_of_a_task_that_is_dropped_at_the_end_of_its_grace_goes_with_it() {
    let alive = Alive::default();
    for shutdown_grace in [Some(secs(3)), None] {
        let deaf = CriticalTaskConfig::new("deaf", {
            let alive = alive.clone();
            move |ctx: TaskContext| {
                drop(ctx.spawn("owned", alive.during(std::future::pending::<()>())));
                std::future::pending::<()>()
            }
        });
        let deaf = match shutdown_grace {
            Some(grace) => deaf.shutdown_grace(grace),
            None => deaf,
        };
        let tasks = manager([deaf], 10);
        settle().await;
        let report = tasks.shutdown().await;
        assert_eq!(report.duration.as_secs(), shutdown_grace.map_or(9, |grace| grace.as_secs()));
        assert_eq!((report.count(ShutdownOutcome::Aborted), alive.now()), (2, 0), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_leaves_owned_work_alone() {
    let alive = Alive::default();
    let (config, context) = server("http");
    let tasks = manager([config.restart_delay(millis(1))], 25);
    settle().await;
    let before = of(&context);
    let run = before.spawn("owned", alive.during(sleep(secs(10))));
    tasks.restart("http").expect("registered");
    sleep(secs(1)).await;
    assert_eq!((of(&context).generation(), alive.now()), (2, 1));
    assert!(!run.is_finished());
    // Owned by the task, not by the run.
    let again = before.spawn("owned", async { Ok::<_, String>(7) });
    assert_eq!(again.await, Ok(Ok(7)));
    let report = tasks.shutdown().await;
    assert_eq!(run.await, Ok(()));
    assert!(report.is_clean(), "{report}");
}

/// Fails if a pause asks the work to stop, as a stop does.
#[tokio::test(start_paused = true)]
async fn a_pause_leaves_owned_work_alone() {
    let (config, context) = server("http");
    let tasks = manager([config], 25);
    settle().await;
    let run = of(&context).task("owned").spawn_with(|ctx: TaskContext| async move { ctx.cancelled().await });
    tasks.pause("http").expect("registered");
    sleep(secs(60)).await;
    assert_eq!(state(&tasks, "http").map(|state| state.as_str()), Some("paused"));
    assert!(!run.is_finished());
    assert!(tasks.shutdown().await.is_clean());
    assert_eq!(run.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_owned_work_and_the_next_life_admits_it_again() {
    let alive = Alive::default();
    let (config, context) = server("http");
    let tasks = manager([config], 25);
    settle().await;
    let first = of(&context);
    drop(first.spawn("owned", alive.during(sleep(secs(4)))));
    tasks.stop("http").expect("registered");
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "http").map(|state| state.as_str()), Some("stopping"));
    assert_eq!(first.spawn("owned", async {}).await, Err(TaskError::ShuttingDown), "it has ended");
    sleep(secs(4)).await;
    assert_eq!(state(&tasks, "http").map(|state| state.as_str()), Some("stopped"));
    assert_eq!(alive.now(), 0);
    tasks.restart("http").expect("registered");
    settle().await;
    assert_eq!(of(&context).spawn("owned", async {}).await, Ok(()));
    // Within the grace, then it is dropped.
    drop(of(&context).spawn("owned", alive.during(std::future::pending::<()>())));
    tasks.stop("http").expect("registered");
    sleep(secs(11)).await;
    assert_eq!(state(&tasks, "http").map(|state| state.as_str()), Some("stopped"));
    assert_eq!(alive.now(), 0);
    assert!(tasks.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn unregister_and_replace_wait_for_owned_work_within_the_grace() {
    for (takes, waited) in [(4, 4), (600, 6)] {
        let alive = Alive::default();
        let (config, context) = server("http");
        let tasks = manager([config.shutdown_grace(secs(6))], 25);
        settle().await;
        drop(of(&context).spawn("owned", alive.during(sleep(secs(takes)))));
        let began = Instant::now();
        let (next, _) = server("http");
        let next = next.shutdown_grace(secs(6));
        tasks.replace(next).await.expect("replaced");
        assert_eq!((began.elapsed(), alive.now()), (secs(waited), 0));
        let old = of(&context);
        assert_eq!(old.spawn("owned", async {}).await, Err(TaskError::ShuttingDown));
        let (config, context) = server("other");
        tasks.register(config.shutdown_grace(secs(6))).expect("valid");
        settle().await;
        drop(of(&context).spawn("owned", alive.during(sleep(secs(takes)))));
        let began = Instant::now();
        tasks.unregister("other").await.expect("registered");
        assert_eq!((began.elapsed(), alive.now()), (secs(waited), 0));
        assert!(tasks.shutdown().await.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn owned_work_that_unregisters_its_owner_does_not_wait_for_itself() {
    let (config, context) = server("http");
    let tasks = manager([config], 25);
    settle().await;
    let inside = tasks.clone();
    let began = Instant::now();
    let run = of(&context).spawn("owned", async move { inside.unregister("http").await });
    assert_eq!(run.await, Ok(Ok(())));
    settle().await;
    assert!(began.elapsed() < secs(1) && tasks.task_names().is_empty(), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn owned_work_that_asks_for_the_shutdown_is_not_waited_for() {
    let (config, context) = server("http");
    let tasks = manager([config], 25);
    settle().await;
    let inside = tasks.clone();
    let run = of(&context).spawn("admin", async move {
        assert!(inside.shutdown().await.duration < secs(1));
    });
    assert_eq!(run.await, Ok(()));
    let report = tasks.report().expect("it is over");
    assert_eq!(report.asked_by.iter().map(|name| &**name).collect::<Vec<_>>(), ["admin"]);
}

#[tokio::test(start_paused = true)]
async fn owned_work_stops_while_its_owner_awaits_the_shutdown() {
    let alive = Alive::default();
    let held = alive.clone();
    let took = Arc::new(Mutex::new(None));
    let told = took.clone();
    let tasks = manager([], 25);
    let weak = tasks.downgrade();
    tasks
        .register(CriticalTaskConfig::new("asks", move |ctx: TaskContext| {
            let (weak, alive, told) = (weak.clone(), held.clone(), told.clone());
            async move {
                drop(
                    ctx.task("hears")
                        .spawn_with(|child| alive.during(async move { child.cancelled().await })),
                );
                tokio::task::yield_now().await;
                let tasks = weak.upgrade().expect("alive");
                let report = tasks.shutdown().await;
                *told.lock().unwrap() = Some((report.duration, lines(&report).len(), report.is_clean()));
            }
        }))
        .expect("valid");
    tasks.shutting_down().await;
    let report = tasks.shutdown().await;
    settle().await;
    assert_eq!(*took.lock().unwrap(), Some((Duration::ZERO, 1, true)), "{report}");
    assert_eq!(alive.now(), 0);
    assert_eq!(lines(&report), [("hears", Some("asks"), ShutdownOutcome::Clean)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_finished_still_owns_its_work_and_the_shutdown_waits_for_it() {
    let alive = Alive::default();
    let held = alive.clone();
    let once = CriticalTaskConfig::new("once", move |ctx: TaskContext| {
        let alive = held.clone();
        async move { drop(ctx.spawn("owned", alive.during(sleep(secs(5))))) }
    });
    let tasks = manager([once.restart_policy(RestartPolicy::OnFailure)], 25);
    settle().await;
    let report = tasks.shutdown().await;
    assert_eq!((whole(report.duration), alive.now()), (5, 0));
    assert_eq!(outcome(&report, "once"), ShutdownOutcome::NotRunning);
    assert_eq!(outcome(&report, "owned"), ShutdownOutcome::Clean);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn owned_work_spawned_while_its_owner_ends_is_refused_or_waited_for() {
    for _ in 0..30 {
        let alive = Alive::default();
        let (config, context) = server("http");
        let tasks = manager([config.intake()], 25);
        while context.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let spawners: Vec<_> = (0..3)
            .map(|_| {
                let (context, alive) = (of(&context), alive.clone());
                tokio::task::spawn_blocking(move || {
                    let mut handles = Vec::new();
                    for _ in 0..300 {
                        handles.push(context.spawn("owned", alive.during(tokio::task::yield_now())));
                    }
                    handles
                })
            })
            .collect();
        let report = tasks.shutdown().await;
        let (mut ran, mut refused) = (0, 0);
        for spawner in spawners {
            for handle in spawner.await.unwrap() {
                match handle.await {
                    Ok(()) => ran += 1,
                    Err(TaskError::ShuttingDown) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((ran + refused, alive.now()), (900, 0));
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn work_of_a_run_that_no_task_owns_has_no_owner() {
    let tasks: TaskManager = manager([], 25);
    let run = tasks.task("short").spawn_with(|ctx| async move {
        ctx.cancelled().await;
        ctx.spawn("late", async {}).await
    });
    settle().await;
    tasks.shutdown().await;
    assert_eq!(run.await, Ok(Err(TaskError::ShuttingDown)));
}

/// Seen to fail where the shutdown counts no owned run, whether its owner is there or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owned_work_that_outlived_its_owner_is_waited_for() {
    let (config, context) = server("http");
    let tasks = manager([config.shutdown_grace(millis(50))], 25);
    settle().await;
    while context.lock().unwrap().is_none() {
        sleep(millis(1)).await;
    }
    let (end, ended) = std::sync::mpsc::channel::<()>();
    drop(of(&context).task("owned").spawn_blocking(move |_| {
        let _ = ended.recv();
    }));
    tasks.unregister("http").await.expect("registered");
    let shutdown = tokio::spawn(async move { tasks.shutdown().await });
    sleep(millis(100)).await;
    assert!(!shutdown.is_finished(), "the run goes on");
    drop(end);
    let report = shutdown.await.expect("no panic");
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
}

/// Seen to fail where a run that waits for the shutdown no longer is left to an owner that has gone meanwhile.
#[tokio::test(start_paused = true)]
async fn owned_work_that_gives_up_its_wait_for_the_shutdown_is_stopped_without_its_owner() {
    let (config, context) = server("http");
    let tasks = manager([config], 25);
    settle().await;
    let inside = tasks.downgrade();
    let run = of(&context).task("admin").spawn_with(move |ctx| async move {
        let tasks = inside.upgrade().expect("alive");
        let drained = tokio::time::timeout(secs(2), tasks.shutdown_after(secs(8))).await;
        drop(tasks);
        assert!(drained.is_err(), "it has waited for two seconds");
        ctx.cancelled().await;
        sleep(secs(7)).await;
    });
    sleep(secs(1)).await;
    tasks.unregister("http").await.expect("registered");
    let report = tasks.shutdown_after(secs(8)).await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
    assert_eq!(run.await, Ok(()));
    assert_eq!(report.duration, secs(9), "{report}");
}

/// Seen to fail where a stop of a failed task leaves alone what it owns.
#[tokio::test(start_paused = true)]
async fn a_stop_of_a_task_that_waits_for_its_next_try_waits_for_owned_work() {
    let alive = Alive::default();
    let context = Arc::new(Mutex::new(None));
    let handed_out = context.clone();
    let fails = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        *handed_out.lock().unwrap() = Some(ctx);
        async { Err::<(), _>("down") }
    });
    let tasks = manager([fails.max_restarts(0, secs(60))], 25);
    settle().await;
    assert_eq!(state(&tasks, "t").map(|state| state.as_str()), Some("failed"));
    drop(of(&context).spawn("owned", alive.during(sleep(secs(4)))));
    tasks.stop("t").expect("registered");
    sleep(secs(1)).await;
    assert_eq!(state(&tasks, "t").map(|state| state.as_str()), Some("stopping"));
    assert_eq!(of(&context).spawn("owned", async {}).await, Err(TaskError::ShuttingDown));
    sleep(secs(4)).await;
    assert_eq!(state(&tasks, "t").map(|state| state.as_str()), Some("stopped"));
    assert_eq!(alive.now(), 0);
    assert_eq!(tasks.snapshot("t").expect("known").next_retry, None);
    assert!(tasks.shutdown().await.is_clean());
}

/// Fails if a stop of a task whose life is over leaves alone what it owns.
#[tokio::test(start_paused = true)]
async fn a_stop_of_a_task_at_rest_stops_owned_work_and_leaves_the_state() {
    let context = Arc::new(Mutex::new(None));
    let handed_out = context.clone();
    let finishes = CriticalTaskConfig::one_shot("t", move |ctx: TaskContext| {
        *handed_out.lock().unwrap() = Some(ctx);
        async {}
    });
    let tasks = manager([finishes, obeys("u").depends_on("t")], 25);
    settle().await;
    let owned = |seconds| {
        of(&context).task("owned").spawn_with(move |ctx| async move {
            ctx.cancelled().await;
            sleep(secs(seconds)).await;
        })
    };
    for restarted in [false, true] {
        let (heard, deaf) = (owned(2), owned(60));
        sleep(secs(3)).await;
        tasks.stop("t").expect("registered");
        sleep(secs(1)).await;
        assert_eq!(state(&tasks, "t").map(|state| state.as_str()), Some("finished"));
        assert_eq!(of(&context).spawn("owned", async {}).await, Err(TaskError::ShuttingDown));
        if restarted {
            tasks.restart("t").expect("registered");
            settle().await;
            assert_eq!(of(&context).spawn("owned", async {}).await, Ok(()), "it lives again");
        }
        assert_eq!(heard.await, Ok(()));
        let began = Instant::now();
        if restarted {
            deaf.abort();
        }
        assert_eq!(deaf.await, Err(TaskError::Cancelled), "dropped at the end of its owner's grace");
        assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
        tasks.restart("t").expect("registered");
        settle().await;
    }
    assert_eq!(state(&tasks, "u").map(|state| state.as_str()), Some("running"), "it was not disturbed");
    assert!(tasks.shutdown().await.is_clean());
}

/// Fails if a restart meanwhile is not forgiven: the first failure then gives the task up again.
#[tokio::test(start_paused = true)]
async fn a_restart_while_a_stopped_task_waits_for_owned_work_is_forgiven() {
    let context = Arc::new(Mutex::new(None));
    let handed_out = context.clone();
    let fails = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        *handed_out.lock().unwrap() = Some(ctx);
        async { Err::<(), _>("down") }
    });
    let tasks =
        manager([fails.max_restarts(1, secs(3_600)).give_up(GiveUp::ForGood).restart_delay(secs(1))], 25);
    sleep(secs(10)).await;
    let state_of = || state(&tasks, "t").map(|state| state.as_str());
    assert_eq!(state_of(), Some("failed"));
    drop(of(&context).spawn("owned", sleep(secs(5))));
    tasks.stop("t").expect("registered");
    sleep(millis(100)).await;
    tasks.restart("t").expect("registered");
    sleep(millis(100)).await;
    assert_eq!(state_of(), Some("backoff"), "one restart by itself is allowed again");
    tasks.shutdown().await;
}

/// Fails if a member that its group stops leaves alone what it owns.
#[tokio::test(start_paused = true)]
async fn stopped_group_stops_the_owned_work_of_its_members() {
    let fails_after = |name: &str, seconds, context: &Arc<Mutex<Option<TaskContext>>>| {
        let handed_out = context.clone();
        CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            *handed_out.lock().unwrap() = Some(ctx);
            async move {
                sleep(secs(seconds)).await;
                Err::<(), _>("down")
            }
        })
    };
    let (runs, context) = server("runs");
    let waiting = Arc::default();
    let waits =
        fails_after("waits", 1, &waiting).backoff(Backoff::constant(secs(600))).max_restarts(5, secs(36_000));
    let last =
        fails_after("last", 5, &Arc::default()).max_restarts(0, secs(60)).escalation(Escalation::Group);
    let group = TaskGroup::new("g", RestartStrategy::OneForOne).task(runs).task(waits).task(last);
    let tasks = TaskManager::new();
    tasks.register_group(group).expect("valid");
    tasks.start();
    settle().await;
    let owned: Vec<_> = [&context, &waiting]
        .map(|context| of(context).task("owned").spawn_with(|ctx| async move { ctx.cancelled().await }))
        .into();
    sleep(secs(6)).await;
    for (name, context) in [("runs", &context), ("waits", &waiting)] {
        assert_eq!(state(&tasks, name).map(|state| state.as_str()), Some("stopped"));
        assert_eq!(of(context).spawn("owned", async {}).await, Err(TaskError::ShuttingDown), "{name}");
    }
    assert!(owned.iter().all(otel_tasks::TaskHandle::is_finished));
    assert!(tasks.shutdown().await.is_clean());
}

/// Fails if a run that waited for a drain meanwhile is not asked with the others.
#[tokio::test(start_paused = true)]
async fn owned_work_stops_with_its_owner_after_abandoning_a_drain() {
    let (config, context) = server("http");
    let tasks = manager([config], 60);
    settle().await;
    let inside = tasks.downgrade();
    let run = of(&context).task("admin").spawn_with(move |ctx| async move {
        let tasks = inside.upgrade().expect("alive");
        let drained = tokio::time::timeout(secs(3), tasks.shutdown_after(secs(40))).await;
        assert!(drained.is_err(), "it has waited for three seconds");
        ctx.cancelled().await;
    });
    let began = Instant::now();
    sleep(secs(1)).await;
    tasks.stop("http").expect("registered");
    assert_eq!(run.await, Ok(()));
    assert_eq!(whole(began.elapsed()), 3);
    tasks.shutdown().await;
}

/// Seen to fail: the owner was reported as leaked too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owned_work_that_leaks_is_reported_without_its_owner() {
    let (config, context) = server("http");
    let tasks = TaskManager::builder().shutdown_deadline(millis(500)).build().expect("valid");
    tasks.register(config).expect("valid");
    tasks.start();
    while context.lock().unwrap().is_none() {
        sleep(millis(1)).await;
    }
    let (end, ended) = std::sync::mpsc::channel::<()>();
    drop(of(&context).task("owned").spawn_blocking(move |_| ended.recv()));
    let report = tasks.shutdown().await;
    drop(end);
    let expected = [("http", None, ShutdownOutcome::Late), ("owned", Some("http"), ShutdownOutcome::Leaked)];
    assert_eq!(lines(&report), expected, "{report}");
}
