//! Faults 13 to 20 and 24 to 30: stops that are ignored, threads that are blocked, signs of life that fail to come, and
//! shutdowns that come at a bad moment.

use std::{
    future::{Future, pending, poll_fn},
    io::{BufReader, Read as _},
    pin::pin,
    process::{Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, ShutdownReport, TaskCategory, TaskContext, TaskError,
    TaskGroup, TaskManager, TaskPriority,
    events::{TaskEvent, TaskEventKind},
    policy::{Escalation, ExitKind, RestartReason, RestartStrategy, StallAction},
    shutdown::{LastResort, ShutdownEntry, ShutdownOutcome},
    shutdown_signal,
    snapshot::TaskState,
    task::{RegisterError, RestartError},
};
use tokio::time::{Instant, sleep};

use crate::{
    common::{Case, On, Told, limited, on_each_runtime},
    support::{
        Alive, AliveGuard, eventually, millis,
        process::{child_as, role},
        secs, settle,
        tasks::{begun, deaf, obedient, restarts, state},
    },
};

/// What a scenario counts its time in: virtual on the current thread, short where it is real.
fn unit(on: On) -> Duration {
    if on == On::CurrentThread { secs(1) } else { millis(100) }
}

/// Blocks threads until it is let go; at most 30 s, so that a failing test ends too.
#[derive(Clone, Default)]
struct Held(Arc<(Mutex<bool>, Condvar)>);

impl Held {
    fn block(&self) {
        let (free, changed) = &*self.0;
        let held = |free: &mut bool| !*free;
        drop(changed.wait_timeout_while(free.lock().expect("not poisoned"), secs(30), held));
    }

    fn let_go(&self) {
        *self.0.0.lock().expect("not poisoned") = true;
        self.0.1.notify_all();
    }
}

/// A task that blocks its thread when it is asked to stop.
fn blocker(name: &str, alive: &Alive, held: &Held) -> CriticalTaskConfig {
    let (alive, held) = (alive.clone(), held.clone());
    CriticalTaskConfig::new(name, move |ctx| {
        let (guard, held) = (alive.guard(), held.clone());
        async move {
            let _guard = guard;
            ctx.cancelled().await;
            held.block();
        }
    })
}

/// A manager with that deadline, and what it tells.
fn with_deadline(deadline: Duration) -> (TaskManager, Told) {
    let tasks = TaskManager::builder().shutdown_deadline(deadline).build().unwrap();
    let told = Told::by(&tasks);
    (tasks, told)
}

/// The one line of that name.
#[track_caller]
fn line<'a>(report: &'a ShutdownReport, name: &str) -> &'a ShutdownEntry {
    let lines: Vec<_> = report.tasks.iter().filter(|task| &*task.name == name).collect();
    assert_eq!(lines.len(), 1, "lines of {name} in {report}");
    lines[0]
}

#[track_caller]
fn outcomes(report: &ShutdownReport) -> Vec<(String, ShutdownOutcome)> {
    report.tasks.iter().map(|task| (task.name.to_string(), task.outcome)).collect()
}

fn named<const N: usize>(outcomes: [(&str, ShutdownOutcome); N]) -> Vec<(String, ShutdownOutcome)> {
    outcomes.map(|(name, outcome)| (name.to_owned(), outcome)).into()
}

/// The ends of runs that were told, in order, by task.
fn ends(told: &mut Told) -> Vec<String> {
    told.stories().into_iter().filter(|story| story.contains(" exited ")).collect()
}

async fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

fn is_of(event: &TaskEvent, task: &str) -> bool {
    event.task.as_deref() == Some(task)
}

fn is_slow_poll(event: &TaskEvent) -> bool {
    matches!(event.kind, TaskEventKind::SlowPoll { .. })
}

fn is_stall(event: &TaskEvent) -> bool {
    matches!(event.kind, TaskEventKind::Stalled { .. })
}

/// How long is held after it was told: some ticks of the watchdog, at which it might be told again.
const TICKS: Duration = Duration::from_millis(200);

/// Lets go soon after something was told, from a thread of its own: where the only thread of the runtime is held, nobody
/// inside can. Answers what was told.
fn let_go_when(
    tasks: &TaskManager,
    held: &Held,
    is_it: impl Fn(&TaskEvent) -> bool + Send + 'static,
) -> std::thread::JoinHandle<TaskEvent> {
    let (mut events, held) = (tasks.subscribe(), held.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let told = tokio::time::timeout(secs(20), async {
                loop {
                    match events.recv().await {
                        Some(event) if is_it(&event) => break event,
                        Some(_) => {}
                        None => panic!("the manager is gone"),
                    }
                }
            });
            let told = told.await;
            sleep(TICKS).await;
            held.let_go();
            told.expect("it is told within 20 s")
        })
    })
}

// Fault 13: a task that ignores its stop, and awaits.
// Seen to fail without `Order::Kill` at the deadline, and with a share of all that is left for each stage.

async fn fault_13_deaf_tasks_are_dropped_at_their_deadline(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    let (tasks, mut told) = with_deadline(10 * unit);
    let configs = [
        deaf("deaf", &alive).category(TaskCategory::Command),
        deaf("graced", &alive).category(TaskCategory::Command).shutdown_grace(2 * unit),
        obedient("obedient", &alive).category(TaskCategory::Gateway),
    ];
    let tasks = begun(tasks, configs);
    let deaf = alive.during(pending::<()>());
    let run = tasks.task("command_deaf").spawn_with(|_| deaf);
    eventually("all run", || alive.now() == 4).await;
    let began = Instant::now();
    let report = tasks.shutdown().await;
    let took = began.elapsed();
    // A tenth of the deadline is kept for dropping.
    assert!(took >= 9 * unit, "{took:?}: {report}");
    assert!(took <= if on == On::CurrentThread { 10 } else { 100 } * unit, "{took:?}: {report}");
    use ShutdownOutcome::{Aborted, Clean};
    let expected =
        named([("command_deaf", Aborted), ("deaf", Aborted), ("graced", Aborted), ("obedient", Clean)]);
    let mut got = outcomes(&report);
    got.sort();
    assert_eq!(got, expected, "{report}");
    assert!((2 * unit..9 * unit).contains(&line(&report, "graced").after), "{report}");
    assert!(line(&report, "deaf").after >= 9 * unit, "{report}");
    assert_eq!((report.exit_code(), report.deadline, alive.now()), (1, 10 * unit, 0));
    assert_eq!(
        ends(&mut told),
        ["graced exited cancellation", "obedient exited success", "deaf exited cancellation"]
    );
    let stories = told.stories();
    assert_eq!(stories.iter().filter(|story| *story == "shutdown_began").count(), 1);
    assert_eq!(stories.last().map(String::as_str), Some("shutdown_ended"));
    assert_eq!(run.await, Err(TaskError::Cancelled));
    assert_eq!(
        (state(&tasks, "deaf"), state(&tasks, "obedient")),
        (Some(TaskState::Stopped), Some(TaskState::Stopped))
    );
    told.check_runs(&tasks);
}

on_each_runtime! { run:
    fault_13_deaf_tasks_are_dropped_at_their_deadline,
}

// Fault 14: a task that ignores its stop, and blocks a thread of the runtime.

/// Short, and long beside the watchdog's ticks.
const DEADLINE: Duration = Duration::from_millis(1_200);

/// Ten times what is promised: for machines that are busy.
#[track_caller]
fn assert_in_time(took: Duration, report: &ShutdownReport) {
    assert!(took < 10 * DEADLINE, "{took:?}: {report}");
    assert!(report.duration < 10 * DEADLINE, "{report}");
}

async fn fault_14_a_task_that_blocks_its_worker_is_leaked_and_the_deadline_holds(on: On) {
    use ShutdownOutcome::{Clean, Leaked};
    let (alive, stuck, held) = (Alive::default(), Alive::default(), Held::default());
    let (tasks, mut told) = with_deadline(DEADLINE);
    let mut configs = vec![
        obedient("unknown", &alive).category(TaskCategory::Unknown),
        obedient("command", &alive).category(TaskCategory::Command),
        blocker("blocker", &stuck, &held).category(TaskCategory::System),
    ];
    if on == On::FourWorkers {
        // With one worker nobody could run who is asked later.
        configs.push(obedient("scheduled", &alive));
        configs.push(obedient("gateway", &alive).category(TaskCategory::Gateway));
    }
    let others = configs.len() - 1;
    let tasks = begun(tasks, configs);
    eventually("all run", || (alive.now(), stuck.now()) == (others, 1)).await;
    let began = std::time::Instant::now();
    let report = tasks.shutdown().await;
    assert_in_time(began.elapsed(), &report);
    let mut expected = named([("unknown", Clean), ("command", Clean), ("blocker", Leaked)]);
    if on == On::FourWorkers {
        expected.extend(named([("scheduled", Clean), ("gateway", Clean)]));
    }
    assert_eq!(outcomes(&report), expected, "{report}");
    assert!(line(&report, "blocker").after >= DEADLINE.mul_f64(0.9), "{report}");
    assert_eq!((report.exit_code(), alive.now(), stuck.now()), (2, 0, 1));
    let mut ended: Vec<_> = expected.iter().map(|(name, _)| format!("{name} exited success")).collect();
    ended.retain(|end| !end.starts_with("blocker"));
    assert_eq!(ends(&mut told), ended, "in the order of the stages");
    let slow: Vec<_> = told.all().iter().filter(|event| is_slow_poll(event)).cloned().collect();
    assert!(slow.len() == 1 && is_of(&slow[0], "blocker"), "{slow:?}");
    held.let_go();
    eventually("the blocked run ends", || {
        tasks.snapshot("blocker").is_some_and(|task| task.total_runs() == 1)
    })
    .await;
    eventually("nothing is left", || stuck.now() == 0).await;
    assert!(Arc::ptr_eq(&report, &tasks.shutdown().await), "its late end changes no report");
}

async fn fault_14_a_task_that_blocks_a_worker_already_does_not_hold_up_the_report(on: On) {
    use ShutdownOutcome::{Clean, Leaked};
    let (alive, held) = (Alive::default(), Held::default());
    let (tasks, mut told) = with_deadline(DEADLINE);
    let configs = [
        obedient("unknown", &alive).category(TaskCategory::Unknown),
        obedient("scheduled", &alive),
        obedient("gateway", &alive).category(TaskCategory::Gateway),
    ];
    let tasks = begun(tasks, configs);
    eventually("the others run", || alive.now() == 3).await;
    let hold = held.clone();
    let stuck = CriticalTaskConfig::new("stuck", move |_| {
        let hold = hold.clone();
        async move { hold.block() }
    });
    tasks.register(stuck.category(TaskCategory::Command)).expect("a valid config");
    told.until("the task blocks", |event| is_of(event, "stuck") && is_slow_poll(event)).await;
    let began = std::time::Instant::now();
    let report = tasks.shutdown().await;
    assert_in_time(began.elapsed(), &report);
    let of_others = if on == On::FourWorkers { Clean } else { Leaked };
    let expected =
        [("unknown", of_others), ("stuck", Leaked), ("scheduled", of_others), ("gateway", of_others)];
    assert_eq!(outcomes(&report), named(expected), "{report}");
    assert_eq!(report.exit_code(), 2);
    let slow: Vec<_> = told.all().iter().filter(|event| is_slow_poll(event)).cloned().collect();
    assert!(slow.len() == 1 && is_of(&slow[0], "stuck"), "{slow:?}");
    held.let_go();
    eventually("nothing is left", || alive.now() == 0).await;
    eventually("each run has ended", || {
        tasks.snapshots().iter().all(|task| (task.active, task.total_runs()) == (0, 1))
    })
    .await;
}

// Seen to fail without the watchdog's `drain.watch` (with one worker), with a slow poll told at each tick, and with a share
// of all that is left of the deadline for each stage.
on_each_runtime! { run_in_real_time on workers:
    fault_14_a_task_that_blocks_its_worker_is_leaked_and_the_deadline_holds,
    fault_14_a_task_that_blocks_a_worker_already_does_not_hold_up_the_report,
}

/// Tasks in four stages, which note when they are asked.
fn in_stages(alive: &Alive) -> [CriticalTaskConfig; 4] {
    [
        obedient("unknown", alive).category(TaskCategory::Unknown),
        obedient("command", alive).category(TaskCategory::Command),
        obedient("scheduled", alive),
        obedient("gateway", alive).category(TaskCategory::Gateway),
    ]
}

const ENDS_IN_STAGES: [&str; 4] = [
    "unknown exited success",
    "command exited success",
    "scheduled exited success",
    "gateway exited success",
];

// Both seen to fail without the watchdog's `drain.watch`.
#[test]
fn fault_14b_shutdown_task_is_stuck_behind_its_blocked_starter() {
    On::FourWorkers.run_in_real_time(|_| async {
        use ShutdownOutcome::{Clean, Leaked};
        let (alive, held) = (Alive::default(), Held::default());
        let (tasks, mut told) = with_deadline(DEADLINE);
        let tasks = begun(tasks, in_stages(&alive));
        eventually("all run", || alive.now() == 4).await;
        let (hand, handed) = tokio::sync::oneshot::channel::<TaskManager>();
        let hold = held.clone();
        // The last stage, so that all others are asked while it blocks.
        let run = tasks.task("blocker").category(TaskCategory::Gateway).priority(TaskPriority::Critical);
        let run = run.spawn(async move {
            // The last handle: the shutdown's task is spawned here, where this worker would run it next, and is no other's
            // to steal.
            drop(handed.await.expect("sent"));
            hold.block();
        });
        let began = std::time::Instant::now();
        assert!(hand.send(tasks).is_ok(), "the run waits");
        let report = reported(&mut told).await;
        assert_in_time(began.elapsed(), &report);
        let expected = [
            ("unknown", Clean),
            ("command", Clean),
            ("scheduled", Clean),
            ("gateway", Clean),
            ("blocker", Leaked),
        ];
        assert_eq!(outcomes(&report), named(expected), "{report}");
        assert_eq!((ends(&mut told), alive.now()), (ENDS_IN_STAGES.map(str::to_owned).into(), 0));
        held.let_go();
        assert_eq!(run.await, Ok(()));
    });
}

/// Blocks the thread on which it is dropped.
struct BlocksWhenDropped(Held);

impl Drop for BlocksWhenDropped {
    fn drop(&mut self) {
        self.0.block();
    }
}

#[test]
fn fault_14b_shutdown_task_is_stuck_behind_its_blocked_waker() {
    On::FourWorkers.run_in_real_time(|_| async {
        use ShutdownOutcome::Clean;
        let (alive, held) = (Alive::default(), Held::default());
        let (tasks, mut told) = with_deadline(DEADLINE);
        let tasks = begun(tasks, in_stages(&alive));
        eventually("all run", || alive.now() == 4).await;
        let output = BlocksWhenDropped(held.clone());
        // The first stage: after some more in a row tokio leaves what was woken to other workers.
        let run = tasks.task("blocker").category(TaskCategory::Unknown).priority(TaskPriority::Low);
        // Its end wakes the shutdown's task, here and to be run next; then nobody wants its output.
        drop(run.spawn_with(|ctx| async move {
            ctx.cancelled().await;
            Ok::<_, std::convert::Infallible>(output)
        }));
        let began = std::time::Instant::now();
        let report = tasks.shutdown().await;
        assert_in_time(began.elapsed(), &report);
        let expected = ["blocker", "unknown", "command", "scheduled", "gateway"].map(|name| (name, Clean));
        assert_eq!(outcomes(&report), named(expected), "{report}");
        assert_eq!((ends(&mut told), alive.now()), (ENDS_IN_STAGES.map(str::to_owned).into(), 0));
        told.check_runs(&tasks);
        held.let_go();
    });
}

// Seen to fail with a slow poll told at each tick.
#[test]
fn ten_sync_runs_of_one_name_one_stuck_that_run_is_named() {
    On::FourWorkers.run_in_real_time(|_| async {
        let (alive, held) = (Alive::default(), Held::default());
        let (tasks, mut told) = with_deadline(DEADLINE);
        let (finish, _) = tokio::sync::watch::channel(false);
        let runs: Vec<_> = (0..10)
            .map(|number| {
                let (guard, hold, mut finished) = (alive.guard(), held.clone(), finish.subscribe());
                tasks.spawn("sync", async move {
                    let _guard = guard;
                    if number == 4 {
                        hold.block();
                    } else {
                        let _ = finished.wait_for(|finished| *finished).await;
                    }
                })
            })
            .collect();
        let slow = told.until("a run blocks its thread", is_slow_poll).await;
        assert_eq!((slow.task.as_deref(), slow.generation), (Some("sync"), 0));
        let TaskEventKind::SlowPoll { polling_for, thread, .. } = slow.kind else {
            unreachable!("asked for")
        };
        assert!(polling_for >= millis(100) && !thread.is_empty(), "{polling_for:?} {thread}");
        let began = std::time::Instant::now();
        let mut shutdown = pin!(tasks.shutdown());
        assert!(poll_fn(|cx| Poll::Ready(shutdown.as_mut().poll(cx))).await.is_pending());
        finish.send_replace(true);
        let report = shutdown.await;
        assert_in_time(began.elapsed(), &report);
        let lines: Vec<_> = report.tasks.iter().map(|task| (&*task.name, task.outcome, task.count)).collect();
        assert_eq!(
            lines,
            [("sync", ShutdownOutcome::Clean, 9), ("sync", ShutdownOutcome::Leaked, 1)],
            "{report}"
        );
        assert_eq!(told.all().iter().filter(|event| is_slow_poll(event)).count(), 1);
        let snapshot = tasks.snapshot("sync").expect("spawned");
        assert_eq!((snapshot.active, snapshot.total_runs(), alive.now()), (1, 9, 1));
        held.let_go();
        for run in runs {
            assert_eq!(run.await, Ok(()));
        }
        assert_eq!(alive.now(), 0);
    });
}

// Fault 15: the same where the blocked thread is the only one.
// Seen to fail: all without `drain.watch`; whoever waits for a signal without `Shared::awaited`; where there is no last
// resort without `Drain::delivered`; the default without its print; the exit without `flush_before_exit`; the stalled
// runtime with a probe that never comes back; its health while the watchdog's state was taken out during a tick.

/// A last resort that keeps what it was called with and lets go.
fn noted(held: &Held) -> (LastResort, mpsc::Receiver<(ShutdownReport, Option<String>)>) {
    let (note, notes) = mpsc::channel();
    let held = held.clone();
    let call = move |report: &ShutdownReport| {
        let _ = note.send((report.clone(), std::thread::current().name().map(str::to_owned)));
        held.let_go();
    };
    (LastResort::Call(Arc::new(call)), notes)
}

#[test]
fn fault_15_the_watchdog_writes_the_report_and_turns_to_the_last_resort_current_thread() {
    On::CurrentThread.run_in_real_time(|_| async {
        let (alive, held) = (Alive::default(), Held::default());
        let (last_resort, notes) = noted(&held);
        let tasks =
            TaskManager::builder().shutdown_deadline(DEADLINE).last_resort(last_resort).build().unwrap();
        let mut told = Told::by(&tasks);
        let configs = [
            obedient("command", &alive).category(TaskCategory::Command),
            blocker("blocker", &alive, &held).category(TaskCategory::Gateway),
        ];
        let tasks = begun(tasks, configs);
        eventually("all run", || alive.now() == 2).await;
        let began = std::time::Instant::now();
        let report = tasks.shutdown().await;
        assert_in_time(began.elapsed(), &report);
        let expected = [("command", ShutdownOutcome::Clean), ("blocker", ShutdownOutcome::Leaked)];
        assert_eq!(outcomes(&report), named(expected), "{report}");
        let calls: Vec<_> = notes.try_iter().collect();
        assert_eq!(calls, [((*report).clone(), Some("otel-tasks-watchdog".to_owned()))], "called once");
        let slow: Vec<_> = told.all().iter().filter(|event| is_slow_poll(event)).cloned().collect();
        assert!(slow.len() == 1 && is_of(&slow[0], "blocker"), "{slow:?}");
        assert_eq!(
            ends(&mut told),
            ["command exited success"],
            "the report was there before the blocked one ended"
        );
        eventually("nothing is left", || alive.now() == 0).await;
        assert_eq!(notes.try_iter().count(), 0);
    });
}

/// The shutdown is the manager's own, and the one who waits is blocked before he knows of it.
#[test]
fn fault_15_a_caller_that_waits_for_a_signal_cannot_receive_the_report_either_current_thread() {
    On::CurrentThread.run_in_real_time(|_| async {
        let (alive, held) = (Alive::default(), Held::default());
        let (last_resort, notes) = noted(&held);
        let tasks =
            TaskManager::builder().shutdown_deadline(DEADLINE).last_resort(last_resort).build().unwrap();
        let hold = held.clone();
        let configs = [
            CriticalTaskConfig::new("bad", |_| async { Err::<(), _>("broken") })
                .depends_on("blocker")
                .restart_policy(RestartPolicy::Never)
                .escalation(Escalation::Shutdown),
            CriticalTaskConfig::new("blocker", move |ctx: TaskContext| {
                let hold = hold.clone();
                async move {
                    ctx.cancelled().await;
                    hold.block();
                }
            }),
        ];
        let tasks = begun(tasks, configs);
        let report = tasks.run_until(pending::<()>()).await;
        let calls: Vec<_> = notes.try_iter().map(|(report, _)| report).collect();
        assert_eq!(calls, [(*report).clone()]);
        assert_eq!(line(&report, "blocker").outcome, ShutdownOutcome::Leaked);
        assert_eq!(report.cause.as_ref().map(|cause| &*cause.task), Some("bad"), "{report}");
        assert_eq!(alive.now(), 0);
    });
}

async fn fault_15_where_the_report_can_be_received_there_is_no_last_resort(on: On) {
    let (alive, held) = (Alive::default(), Held::default());
    let (last_resort, notes) = noted(&held);
    let tasks = TaskManager::builder().shutdown_deadline(DEADLINE).last_resort(last_resort).build().unwrap();
    let tasks = begun(tasks, [blocker("blocker", &alive, &held)]);
    eventually("it runs", || alive.now() == 1).await;
    let report = tasks.shutdown().await;
    assert_eq!(line(&report, "blocker").outcome, ShutdownOutcome::Leaked, "{on:?}: {report}");
    // Longer than the last resort waits. (Where its only worker is blocked, no timer of the runtime ever fires.)
    std::thread::sleep(millis(500));
    assert_eq!((notes.try_iter().count(), alive.now()), (0, 1));
    held.let_go();
    eventually("nothing is left", || alive.now() == 0).await;
}

on_each_runtime! { run_in_real_time on workers:
    fault_15_where_the_report_can_be_received_there_is_no_last_resort,
}

async fn fault_15_a_runtime_that_runs_nothing_is_reported_with_the_blocking_task(_: On) {
    let (alive, held) = (Alive::default(), Held::default());
    let tasks = TaskManager::builder().runtime_stall(millis(200)).build().unwrap();
    let mut told = Told::by(&tasks);
    let tasks = begun(tasks, [obedient("innocent", &alive)]);
    eventually("it runs", || alive.now() == 1).await;
    let is_it = |event: &TaskEvent| matches!(event.kind, TaskEventKind::RuntimeStalled { .. });
    let stalled = let_go_when(&tasks, &held, is_it);
    let guard = alive.guard();
    let run = tasks.spawn("stuck", async move {
        let _guard = guard;
        held.block();
    });
    assert_eq!(run.await, Ok(()));
    let event = stalled.join().expect("it is told");
    let TaskEventKind::RuntimeStalled { stalled_for, polling, .. } = event.kind else {
        unreachable!("asked for")
    };
    assert!(stalled_for >= millis(200), "{stalled_for:?}");
    assert_eq!(polling.iter().map(|name| &**name).collect::<Vec<_>>(), ["stuck"]);
    eventually("it is well again", || !tasks.health().runtime_stalled && tasks.health().is_ready).await;
    assert_eq!(told.all().iter().filter(|event| is_it(event)).count(), 1);
    assert_eq!(alive.total(), 2, "nobody was restarted");
    assert!(tasks.shutdown().await.is_clean());
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

async fn fault_15_health_agrees_with_a_runtime_that_stalls(_: On) {
    let held = Held::default();
    let tasks = TaskManager::builder().runtime_stall(millis(200)).build().unwrap();
    let (asked, seen) = (tasks.clone(), Arc::new(Mutex::new(Vec::new())));
    let health = seen.clone();
    let stalled = let_go_when(&tasks, &held, move |event| {
        let stalled = matches!(event.kind, TaskEventKind::RuntimeStalled { .. });
        // For as long as many ticks take, with no pause that could hide one.
        let until = std::time::Instant::now() + secs(1);
        while stalled && std::time::Instant::now() < until {
            health.lock().expect("not poisoned").push(asked.health());
        }
        stalled
    });
    let block = held.clone();
    assert_eq!(tasks.spawn("stuck", async move { block.block() }).await, Ok(()));
    stalled.join().expect("it is told");
    let seen = std::mem::take(&mut *seen.lock().expect("not poisoned"));
    let well = seen.iter().filter(|health| !health.runtime_stalled || health.is_live || health.is_ready);
    assert_eq!((well.count(), seen.is_empty()), (0, false), "of {} times that it was asked", seen.len());
}

on_each_runtime! { run_in_real_time on one_thread:
    fault_15_a_runtime_that_runs_nothing_is_reported_with_the_blocking_task,
}

on_each_runtime! { run_in_real_time on one_thread:
    fault_15_health_agrees_with_a_runtime_that_stalls,
}

// A process of its own, which is killed where the test ends before it.

struct Child {
    process: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
    began: std::time::Instant,
}

impl Child {
    /// Runs that test in a process of its own.
    fn of(test: &str, role: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = child_as(test, role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        configure(&mut command);
        let began = std::time::Instant::now();
        let mut process = command.spawn().expect("a child");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        Self { process, output, began }
    }

    fn wait_for(&mut self, said: &str) {
        read_until(&mut self.output, said);
    }

    fn kill(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(sent.expect("a shell").success());
    }

    /// Waits for its end. Answers its exit code, what it wrote to stderr, and how long it lived.
    fn end(mut self) -> (Option<i32>, String, Duration) {
        let mut errors = String::new();
        let mut stderr = self.process.stderr.take().expect("its stderr");
        let _ = stderr.read_to_string(&mut errors);
        let mut output = String::new();
        let _ = self.output.read_to_string(&mut output);
        let status = self.process.wait().expect("its end");
        (status.code(), errors + &output, self.began.elapsed())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads lines up to one that has this in it.
fn read_until(output: &mut impl std::io::BufRead, said: &str) -> String {
    let mut read = String::new();
    loop {
        let before = read.len();
        assert!(output.read_line(&mut read).expect("text") > 0, "ended without {said:?}: {read}");
        if read[before..].contains(said) {
            return read;
        }
    }
}

fn current_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn workers(workers: usize) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).enable_all().build().expect("a runtime")
}

/// A runtime in real time.
fn runtime(on: On) -> tokio::runtime::Runtime {
    match on {
        On::CurrentThread => current_thread(),
        On::OneWorker => workers(1),
        On::FourWorkers => workers(4),
    }
}

/// Blocks the only thread at shutdown; answers the report once it is let go.
fn shut_down_blocked(
    last_resort: LastResort,
    block: impl Fn() + Clone + Send + Sync + 'static,
) -> Arc<ShutdownReport> {
    current_thread().block_on(async {
        let alive = Alive::default();
        let tasks =
            TaskManager::builder().shutdown_deadline(millis(500)).last_resort(last_resort).build().unwrap();
        let blocker = CriticalTaskConfig::new("blocker", move |ctx: TaskContext| {
            let block = block.clone();
            async move {
                ctx.cancelled().await;
                block();
            }
        });
        let configs = [
            obedient("command", &alive).category(TaskCategory::Command),
            blocker.category(TaskCategory::Gateway),
        ];
        let tasks = begun(tasks, configs);
        eventually("it runs", || state(&tasks, "blocker") == Some(TaskState::Running)).await;
        settle().await;
        tasks.shutdown().await
    })
}

const CANNOT_RECEIVE: &str =
    "otel-tasks: nobody can receive the report, its thread is blocked; shutdown took";

#[test]
fn fault_15_by_default_the_report_goes_to_stderr_current_thread() {
    if role().is_some() {
        let report = shut_down_blocked(LastResort::default(), || {
            let mut line = String::new();
            let _ = std::io::stdin().read_line(&mut line);
        });
        report.exit();
    }
    limited(|| {
        let name = "stopping::fault_15_by_default_the_report_goes_to_stderr_current_thread";
        let mut child = Child::of(name, "blocked", |_| {});
        let mut errors = BufReader::new(child.process.stderr.as_mut().expect("piped"));
        let read = read_until(&mut errors, "leaked      blocker");
        assert_eq!(read.matches(CANNOT_RECEIVE).count(), 1, "{read}");
        assert!(read.contains("clean       command"), "{read}");
        // It lives, and goes on when it is let go.
        assert_eq!(child.process.try_wait().expect("its state"), None);
        drop(child.process.stdin.take());
        let (code, errors, _) = child.end();
        assert_eq!(code, Some(2), "{errors}");
        assert_eq!(errors.matches(CANNOT_RECEIVE).count(), 0, "once: {errors}");
    });
}

#[cfg(feature = "otlp-http")]
#[test]
fn fault_15_the_last_resort_exits_after_report_and_spans_have_left_current_thread() {
    use crate::support::otlp::{ANY, Behaviour, Receiver};

    if let Some(endpoint) = role() {
        let telemetry = otel_tasks::Telemetry::builder().env(|_| None).endpoint(endpoint).service("blocked");
        let _telemetry = telemetry.install().expect("telemetry");
        shut_down_blocked(LastResort::Exit, || {
            loop {
                std::thread::park();
            }
        });
        unreachable!("its only thread is blocked for ever");
    }
    limited(|| {
        let name = "stopping::fault_15_the_last_resort_exits_after_report_and_spans_have_left_current_thread";
        for hangs in [false, true] {
            let receiver = Receiver::start(ANY);
            if hangs {
                receiver.set_behaviour(Behaviour::Hang);
            }
            let (code, errors, took) = Child::of(name, &receiver.endpoint(), |_| {}).end();
            assert_eq!(code, Some(2), "{errors}");
            assert_eq!(errors.matches(CANNOT_RECEIVE).count(), 1, "{errors}");
            assert!(errors.contains("leaked      blocker"), "{errors}");
            // The deadline, the moment for whoever waits, and a second for the telemetry.
            assert!(took < 10 * millis(1_700), "{took:?}");
            if !hangs {
                let cleanup = receiver.span("bot.cleanup_tasks");
                assert_eq!(cleanup.status_code(), 2, "{cleanup:?}");
                assert!(receiver.span("bot.cancel_tasks").is_child_of(&cleanup));
                assert!(receiver.span("bot.stop_task_loops").is_child_of(&cleanup));
                let runs: Vec<_> = receiver.spans_named("task.run");
                let names: Vec<_> = runs.iter().filter_map(|run| run.string("task.name")).collect();
                assert_eq!(names, ["command"]);
                assert_eq!(receiver.log("task.not_stopped").string("task.name"), Some("blocker"));
                assert_eq!(receiver.sum("task.runs", &[("task.name", "command")]), Some(1.0));
            }
        }
    });
}

// Fault 16: blocking work that never returns.
// Seen to fail without a token for blocking work; the exit with an exit code of 1 for what leaked.

async fn fault_16_blocking_work_that_never_returns_is_leaked_and_named(_: On) {
    let (alive, held) = (Alive::default(), Held::default());
    let tasks = TaskManager::builder().shutdown_deadline(DEADLINE).build().unwrap();
    let (say, said) = mpsc::channel();
    let (guard, hold) = (alive.guard(), held.clone());
    let deaf = tasks.spawn_blocking("deaf_work", move |stop| {
        let _guard = guard;
        let _ = say.send(stop.is_stopped());
        // It hears, and goes on all the same.
        let _ = say.send(stop.wait_timeout(secs(30)) && stop.is_stopped());
        hold.block();
    });
    let guard = alive.guard();
    let hears = tasks.spawn_blocking("hearing_work", move |stop| {
        let _guard = guard;
        while !stop.wait_timeout(millis(1)) {}
    });
    let tasks = begun(tasks, [obedient("other", &alive)]);
    eventually("the work has begun", || said.try_recv() == Ok(false)).await;
    eventually("the other runs", || alive.now() == 3).await;
    let began = std::time::Instant::now();
    let report = tasks.shutdown().await;
    assert_in_time(began.elapsed(), &report);
    assert_eq!(said.try_recv(), Ok(true), "the token was set");
    assert_eq!(line(&report, "deaf_work").outcome, ShutdownOutcome::Leaked, "{report}");
    assert_eq!(line(&report, "hearing_work").outcome, ShutdownOutcome::Clean, "{report}");
    assert_eq!(line(&report, "other").outcome, ShutdownOutcome::Clean, "{report}");
    assert_eq!((report.exit_code(), alive.now(), hears.await), (2, 1, Ok(())));
    assert!(report.to_string().contains("leaked      deaf_work"), "{report}");
    held.let_go();
    assert_eq!(deaf.await, Ok(()));
    assert_eq!(alive.now(), 0);
    let snapshot = tasks.snapshot("deaf_work").expect("spawned");
    assert_eq!((snapshot.active, snapshot.total_runs()), (0, 1));
}

on_each_runtime! { run_in_real_time:
    fault_16_blocking_work_that_never_returns_is_leaked_and_named,
}

/// Both ways out that the documentation names; the role says which.
fn fault_16_a_process_with_blocking_work_that_never_returns_can_exit(case: Case) {
    if let Some(way) = role() {
        let runtime = runtime(case.on);
        let report = runtime.block_on(async {
            let tasks = TaskManager::builder().shutdown_deadline(millis(300)).build().unwrap();
            let (say, said) = tokio::sync::oneshot::channel();
            drop(tasks.spawn_blocking("work", move |_| {
                let _ = say.send(());
                loop {
                    std::thread::park();
                }
            }));
            said.await.expect("it begins");
            tasks.shutdown().await
        });
        eprintln!("{report}");
        if way == "exit" {
            report.exit();
        }
        return runtime.shutdown_background();
    }
    limited(move || {
        for (way, expected) in [("exit", 2), ("background", 0)] {
            let (code, errors, took) = Child::of(case.test, way, |_| {}).end();
            assert_eq!(code, Some(expected), "{way}: {errors}");
            assert!(errors.contains("leaked      work"), "{way}: {errors}");
            assert!(took < secs(10), "{way}: {took:?}");
        }
    });
}

on_each_runtime! { call:
    fault_16_a_process_with_blocking_work_that_never_returns_can_exit,
}

// Fault 17: a loop that is never idle, and yields.
// Seen to fail with a probe that never comes back, and with silence told whatever its length.

async fn fault_17_a_busy_loop_that_yields_is_stopped_and_no_alarm(_: On) {
    let alive = Alive::default();
    // One poll of it is short, on a busy machine as well.
    let tasks = TaskManager::builder()
        .shutdown_deadline(secs(10))
        .slow_poll(secs(1))
        .runtime_stall(secs(1))
        .build()
        .unwrap();
    let mut told = Told::by(&tasks);
    let busy = |name: &str, hears: bool| {
        let alive = alive.clone();
        CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            alive.during(async move {
                while !(hears && ctx.is_cancelled()) {
                    tokio::task::yield_now().await;
                    ctx.heartbeat();
                }
            })
        })
        .heartbeat_timeout(secs(1))
        .poll_timeout(secs(1))
        .shutdown_grace(millis(300))
    };
    let tasks = begun(tasks, [busy("hears", true), busy("deaf", false), obedient("other", &alive)]);
    // So long that a probe of the runtime comes and goes, and silence would have been told.
    sleep(millis(1_500)).await;
    assert_eq!(alive.now(), 3);
    let began = std::time::Instant::now();
    let report = tasks.shutdown().await;
    assert!(began.elapsed() < secs(3), "ten times the grace: {report}");
    use ShutdownOutcome::{Aborted, Clean};
    assert_eq!(outcomes(&report), named([("deaf", Aborted), ("hears", Clean), ("other", Clean)]), "{report}");
    assert_eq!(alive.now(), 0);
    let alarms = |event: &&TaskEvent| {
        is_slow_poll(event) || is_stall(event) || matches!(event.kind, TaskEventKind::RuntimeStalled { .. })
    };
    assert_eq!(told.all().iter().filter(alarms).count(), 0, "{:?}", told.stories());
    for name in ["hears", "deaf"] {
        let snapshot = tasks.snapshot(name).expect("registered");
        assert!(snapshot.stalls == 0 && snapshot.longest_poll > Duration::ZERO, "{snapshot:?}");
    }
    told.check_runs(&tasks);
}

on_each_runtime! { run_in_real_time:
    fault_17_a_busy_loop_that_yields_is_stopped_and_no_alarm,
}

// Fault 18: one poll that takes long.
// Seen to fail with a slow poll, or a poll's stall, told at each tick.

/// A task whose first life blocks its thread in one poll, and then goes on; a later life is obedient.
fn blocks_once(name: &str, alive: &Alive, held: &Held) -> CriticalTaskConfig {
    let (alive, held) = (alive.clone(), held.clone());
    CriticalTaskConfig::new(name, move |ctx: TaskContext| {
        let (guard, held) = (alive.guard(), held.clone());
        async move {
            let _guard = guard;
            if ctx.generation() == 1 {
                held.block();
            }
            ctx.cancelled().await;
        }
    })
}

async fn fault_18_slow_poll_is_only_reported(_: On) {
    let (alive, held) = (Alive::default(), Held::default());
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let slow = let_go_when(&tasks, &held, is_slow_poll);
    let tasks = begun(tasks, [blocks_once("slow", &alive, &held)]);
    eventually("its poll is counted", || tasks.snapshot("slow").is_some_and(|task| task.slow_polls == 1))
        .await;
    let slow = slow.join().expect("it is told");
    assert_eq!((slow.task.as_deref(), slow.generation), (Some("slow"), 1));
    let TaskEventKind::SlowPoll { polling_for, thread, .. } = slow.kind else { unreachable!("asked for") };
    assert!((millis(100)..secs(5)).contains(&polling_for) && !thread.is_empty(), "{polling_for:?} {thread}");
    let snapshot = tasks.snapshot("slow").expect("registered");
    assert!(snapshot.longest_poll >= polling_for, "{snapshot:?}");
    assert_eq!(
        (snapshot.stalls, snapshot.total_restarts(), snapshot.state),
        (0, 0, Some(TaskState::Running))
    );
    assert!(tasks.shutdown().await.is_clean());
    let story = ["registered", "started", "ready", "exited success"];
    assert_eq!((told.story("slow"), alive.now(), alive.total()), (story.map(str::to_owned).into(), 0, 1));
    assert_eq!(told.count("slow", |kind| matches!(kind, TaskEventKind::SlowPoll { .. })), 1);
    told.check_runs(&tasks);
}

async fn fault_18_a_poll_that_takes_too_long_is_a_stall_and_its_policy_decides_once(_: On) {
    for action in [StallAction::Report, StallAction::Restart, StallAction::Escalate] {
        let (alive, held) = (Alive::default(), Held::default());
        let tasks = TaskManager::new();
        let mut told = Told::by(&tasks);
        let stalled = let_go_when(&tasks, &held, is_stall);
        let config = blocks_once("slow", &alive, &held).poll_timeout(millis(200)).on_stall(action);
        let tasks = begun(tasks, [config.backoff(Backoff::constant(Duration::ZERO))]);
        let expected: (_, u64, &[&str]) = match action {
            StallAction::Restart => {
                (TaskState::Running, 1, &["exited success", "restarted stalled", "ready", "exited success"])
            }
            StallAction::Escalate => (TaskState::Failed, 0, &["exited success", "gave_up"]),
            _ => (TaskState::Running, 0, &["exited success"]),
        };
        eventually("the policy has decided", || {
            tasks.snapshot("slow").is_some_and(|task| {
                (task.state, task.total_restarts(), task.slow_polls) == (Some(expected.0), expected.1, 1)
            })
        })
        .await;
        let stall = stalled.join().expect("it is told");
        let TaskEventKind::Stalled { silent_for, .. } = stall.kind else { unreachable!("asked for") };
        assert!((millis(200)..secs(5)).contains(&silent_for), "{silent_for:?}");
        settle().await;
        let report = tasks.shutdown().await;
        assert!(report.is_clean(), "{report}");
        let mut story: Vec<_> = ["registered", "started", "ready", "stalled"].into();
        story.extend(expected.2);
        assert_eq!(told.story("slow"), story, "{action:?}");
        let snapshot = tasks.snapshot("slow").expect("registered");
        assert_eq!((snapshot.stalls, snapshot.total_restarts()), (1, expected.1), "{action:?}");
        assert_eq!((alive.now(), alive.most()), (0, 1), "{action:?}");
        told.check_runs(&tasks);
    }
}

on_each_runtime! { run_in_real_time:
    fault_18_slow_poll_is_only_reported,
    fault_18_a_poll_that_takes_too_long_is_a_stall_and_its_policy_decides_once,
}

// Fault 19: no sign of life from a task that waits for a dead channel.
// Seen to fail with silence told at each look, and with silence told whatever its length.

/// A task whose first life beats twice and then waits for a channel on which nothing comes; later lives beat for ever.
fn falls_silent(name: &str, alive: &Alive, unit: Duration) -> CriticalTaskConfig {
    let alive = alive.clone();
    let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
        alive.during(async move {
            let (_sender, mut dead) = tokio::sync::mpsc::channel::<()>(1);
            let beats = if ctx.generation() == 1 { 2 } else { u32::MAX };
            for _ in 0..beats {
                tokio::select! {
                    () = ctx.cancelled() => return,
                    () = sleep(2 * unit) => ctx.heartbeat(),
                }
            }
            dead.recv().await;
        })
    });
    config.heartbeat_timeout(10 * unit).shutdown_grace(2 * unit).backoff(Backoff::constant(Duration::ZERO))
}

async fn fault_19_silence_is_a_stall_and_its_policy_decides_once(on: On) {
    let unit = unit(on);
    for action in [StallAction::Report, StallAction::Restart, StallAction::Escalate] {
        let alive = Alive::default();
        let tasks = TaskManager::new();
        let mut told = Told::by(&tasks);
        let began = Instant::now();
        let tasks = begun(tasks, [falls_silent("silent", &alive, unit).on_stall(action)]);
        let stall = told.until("it stalls", is_stall).await;
        // Two beats, and then the silence.
        let after = began.elapsed();
        assert!(after >= 14 * unit && after < 140 * unit, "{action:?}: {after:?}");
        assert!(on != On::CurrentThread || after < 15 * unit, "{action:?}: {after:?}");
        let TaskEventKind::Stalled { silent_for, .. } = stall.kind else { unreachable!("asked for") };
        assert!((10 * unit..140 * unit).contains(&silent_for), "{silent_for:?}");
        assert_eq!(stall.generation, 1);
        // So long that the next silence would have been told.
        sleep(15 * unit).await;
        let (expected, generations, story): (_, usize, &[&str]) = match action {
            StallAction::Restart => {
                (TaskState::Running, 2, &["exited cancellation", "restarted stalled", "ready"])
            }
            StallAction::Escalate => (TaskState::Failed, 1, &["exited cancellation", "gave_up"]),
            _ => (TaskState::Running, 1, &[]),
        };
        assert_eq!(state(&tasks, "silent"), Some(expected), "{action:?}");
        let mut words: Vec<_> = ["registered", "started", "ready", "stalled"].into();
        words.extend(story);
        assert_eq!(told.story("silent"), words, "{action:?}");
        assert_eq!(
            (alive.total(), alive.most()),
            (generations, 1),
            "{action:?}: the old life ended before the new"
        );
        let snapshot = tasks.snapshot("silent").expect("registered");
        assert_eq!(
            (snapshot.stalls, restarts(&tasks, "silent", RestartReason::Stalled)),
            (1, generations as u64 - 1)
        );
        tasks.shutdown().await;
        assert_eq!(alive.now(), 0);
        told.check_runs(&tasks);
    }
}

async fn fault_19_a_stall_that_escalates_shuts_the_manager_down(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let silent = falls_silent("silent", &alive, unit).on_stall(StallAction::Escalate);
    let tasks = begun(tasks, [silent.escalation(Escalation::Shutdown), obedient("other", &alive)]);
    let report = tasks.run_until(pending::<()>()).await;
    let cause = report.cause.as_ref().expect("nobody asked for it");
    assert_eq!((&*cause.task, cause.reason, report.exit_code()), ("silent", "stalled", 1));
    use ShutdownOutcome::{Clean, NotRunning};
    assert_eq!(outcomes(&report), named([("other", Clean), ("silent", NotRunning)]), "{report}");
    assert_eq!(ends(&mut told), ["silent exited cancellation", "other exited success"]);
    assert_eq!(alive.now(), 0);
    told.check_runs(&tasks);
}

on_each_runtime! { run:
    fault_19_silence_is_a_stall_and_its_policy_decides_once,
    fault_19_a_stall_that_escalates_shuts_the_manager_down,
}

// Fault 20: the sign of life comes just when the watchdog takes its absence for a stall.
// Seen to fail: the moment of the timer with silence told whatever its length; the watchdog's with silence told by both;
// two promises with a poll's stall told at each tick; the next life while a stall's order carried no generation.

#[test]
fn fault_20_a_heartbeat_at_the_very_moment_of_the_timer_is_one_decision_current_thread() {
    On::CurrentThread.run(|_| async {
        for beats_at in [millis(9_999), millis(10_000), millis(10_001)] {
            let alive = Alive::default();
            let guards = alive.clone();
            let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
                guards.during(async move {
                    if ctx.generation() == 1 {
                        sleep(beats_at).await;
                        ctx.heartbeat();
                    }
                    loop {
                        tokio::select! {
                            () = ctx.cancelled() => break,
                            () = sleep(secs(1)) => ctx.heartbeat(),
                        }
                    }
                })
            });
            let tasks = TaskManager::new();
            let mut told = Told::by(&tasks);
            let config = config.heartbeat_timeout(secs(10)).backoff(Backoff::constant(Duration::ZERO));
            let tasks = begun(tasks, [config]);
            sleep(secs(100)).await;
            let stalls = told.count("t", |kind| matches!(kind, TaskEventKind::Stalled { .. })) as u64;
            match beats_at.as_millis() {
                9_999 => assert_eq!(stalls, 0, "in time"),
                10_001 => assert_eq!(stalls, 1, "too late"),
                _ => assert!(stalls <= 1, "either, and once"),
            }
            let snapshot = tasks.snapshot("t").expect("registered");
            assert_eq!(
                (snapshot.stalls, restarts(&tasks, "t", RestartReason::Stalled), snapshot.total_restarts()),
                (stalls, stalls, stalls),
                "{beats_at:?}"
            );
            assert_eq!((alive.total() as u64, alive.most()), (1 + stalls, 1), "{beats_at:?}");
            tasks.shutdown().await;
            told.check_runs(&tasks);
        }
    });
}

/// Tasks whose threads are blocked for about as long as the watchdog waits before it speaks in the driver's place, and
/// that beat at once when they are free.
async fn fault_20_a_heartbeat_that_comes_with_the_watchdog_is_one_decision(on: On) {
    const ROUNDS: usize = 25;
    let many = if on == On::FourWorkers { 4 } else { 1 };
    let (alive, over) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
    let tasks = TaskManager::builder().slow_poll(secs(60)).build().unwrap();
    let mut told = Told::by(&tasks);
    let configs = (0..many).map(|number| {
        let (alive, over, round) = (alive.clone(), over.clone(), Arc::new(AtomicUsize::new(0)));
        let config = CriticalTaskConfig::new(format!("t{number}"), move |ctx: TaskContext| {
            let (guard, over, round) = (alive.guard(), over.clone(), round.clone());
            async move {
                let _guard = guard;
                while !ctx.is_cancelled() {
                    ctx.heartbeat();
                    match round.fetch_add(1, SeqCst) {
                        // The watchdog speaks 130 ms after the last beat, or up to a tick of 50 ms later.
                        now if now < ROUNDS => {
                            std::thread::sleep(millis(120 + (29 * now as u64 + 17 * number) % 75));
                            ctx.heartbeat();
                        }
                        now if now == ROUNDS => {
                            over.fetch_add(1, SeqCst);
                        }
                        _ => {}
                    }
                    sleep(millis(2)).await;
                }
            }
        });
        // So that the rhythm of 2 ms after the rounds is no stall on a busy machine.
        config
            .heartbeat_timeout(millis(30))
            .max_restarts(1_000, secs(60))
            .backoff(Backoff::constant(Duration::ZERO))
    });
    let tasks = begun(tasks, configs);
    eventually("all rounds are over", || over.load(SeqCst) == many as usize).await;
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(alive.now(), 0);
    let mut stalls = 0;
    for number in 0..many {
        let name = format!("t{number}");
        let stalled: Vec<_> = told
            .all()
            .iter()
            .filter(|event| is_of(event, &name) && is_stall(event))
            .map(|event| event.generation)
            .collect();
        let snapshot = tasks.snapshot(&name).expect("registered");
        let (restarts, story) = (snapshot.total_restarts(), told.story(&name));
        // One stall in each life; that of the last may have been overtaken by the shutdown.
        let lives: Vec<_> = (1..=restarts + u64::from(stalled.len() as u64 > restarts)).collect();
        assert_eq!(stalled, lives, "{restarts} restarts: {story:?}");
        assert_eq!(snapshot.stalls, stalled.len() as u64, "{story:?}");
        stalls += restarts as usize;
    }
    assert_eq!(alive.total(), many as usize + stalls);
    told.check_runs(&tasks);
    assert!(stalls > 0, "the moments are met");
}

on_each_runtime! { run_in_real_time:
    fault_20_a_heartbeat_that_comes_with_the_watchdog_is_one_decision,
}

async fn fault_20_one_blocked_poll_that_breaks_two_promises_is_one_restart(_: On) {
    let (alive, held) = (Alive::default(), Held::default());
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let seen = AtomicUsize::new(0);
    let both = let_go_when(&tasks, &held, move |event| is_stall(event) && seen.fetch_add(1, SeqCst) == 1);
    let guards = alive.clone();
    let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
        let (guard, held) = (guards.guard(), held.clone());
        async move {
            let _guard = guard;
            if ctx.generation() == 1 {
                held.block();
            }
            while !ctx.is_cancelled() {
                ctx.heartbeat();
                sleep(millis(5)).await;
            }
        }
    });
    let config = config.heartbeat_timeout(millis(400)).poll_timeout(millis(300));
    let tasks = begun(tasks, [config.backoff(Backoff::constant(Duration::ZERO))]);
    eventually("it runs anew", || alive.total() == 2).await;
    both.join().expect("both are told");
    sleep(millis(300)).await;
    let snapshot = tasks.snapshot("t").expect("registered");
    assert_eq!((snapshot.stalls, snapshot.total_restarts()), (2, 1));
    assert_eq!((alive.total(), alive.most(), alive.now()), (2, 1, 1));
    assert!(tasks.shutdown().await.is_clean());
    told.check_runs(&tasks);
}

/// A life that is being restarted on request blocks its thread in its clean-up. What the watchdog says of it then is not
/// held against the next life.
async fn fault_20_a_stall_of_a_life_that_ends_is_not_held_against_the_next(_: On) {
    for action in [StallAction::Restart, StallAction::Escalate] {
        let (alive, held) = (Alive::default(), Held::default());
        let tasks = TaskManager::new();
        let mut told = Told::by(&tasks);
        let stalled = let_go_when(&tasks, &held, is_stall);
        let (live, lived) = tokio::sync::oneshot::channel();
        let (guards, live) = (alive.clone(), Arc::new(Mutex::new(Some(live))));
        let config = CriticalTaskConfig::new("t", move |ctx: TaskContext| {
            let (guard, held, live) = (guards.guard(), held.clone(), live.clone());
            async move {
                let _guard = guard;
                if ctx.generation() == 1 {
                    ctx.cancelled().await;
                    held.block();
                    return;
                }
                let undisturbed = tokio::time::timeout(millis(500), ctx.cancelled()).await.is_err();
                if let Some(live) = live.lock().expect("not poisoned").take() {
                    let _ = live.send(undisturbed);
                }
                ctx.cancelled().await;
            }
        });
        let config = config.poll_timeout(millis(200)).on_stall(action);
        let tasks = begun(tasks, [config.backoff(Backoff::constant(Duration::ZERO))]);
        eventually("it runs", || alive.now() == 1).await;
        tasks.restart("t").expect("it may be restarted");
        assert_eq!(lived.await, Ok(true), "{action:?}: {:?}", told.story("t"));
        stalled.join().expect("it is told");
        let snapshot = tasks.snapshot("t").expect("registered");
        assert_eq!((snapshot.state, snapshot.stalls), (Some(TaskState::Running), 1), "{action:?}");
        assert_eq!(
            (restarts(&tasks, "t", RestartReason::Requested), snapshot.total_restarts()),
            (1, 1),
            "{action:?}"
        );
        assert!(tasks.shutdown().await.is_clean());
        assert_eq!((alive.total(), alive.most(), alive.now()), (2, 1, 0), "{action:?}");
        told.check_runs(&tasks);
    }
}

on_each_runtime! { run_in_real_time:
    fault_20_one_blocked_poll_that_breaks_two_promises_is_one_restart,
    fault_20_a_stall_of_a_life_that_ends_is_not_held_against_the_next,
}

// Fault 24: an ordered shutdown with a slow stage.
// Seen to fail with stages that are not waited for, and with a share of all that is left for each stage.

/// Who was asked to stop, and when.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, Instant)>>>);

impl Asked {
    /// A task that notes when it is asked, and then takes so long; for ever where that is `None`.
    fn task(&self, name: &str, takes: Option<Duration>, alive: &Alive) -> CriticalTaskConfig {
        let (asked, alive, own) = (self.clone(), alive.clone(), name.to_owned());
        CriticalTaskConfig::new(name, move |ctx| {
            let (guard, asked, name) = (alive.guard(), asked.clone(), own.clone());
            async move {
                let _guard = guard;
                ctx.cancelled().await;
                asked.0.lock().expect("not poisoned").push((name, Instant::now()));
                match takes {
                    Some(takes) => sleep(takes).await,
                    None => pending().await,
                }
            }
        })
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").iter().map(|(name, _)| name.clone()).collect()
    }

    /// How long after the shutdown began each was asked.
    fn after(&self, began: Instant) -> Vec<Duration> {
        self.0.lock().expect("not poisoned").iter().map(|(_, at)| *at - began).collect()
    }
}

/// A way to say an order: its name, who was asked, and how it is registered.
type Way = (&'static str, Asked, Box<dyn FnOnce(&TaskManager)>);

/// Three ways to say the same order of three tasks, "first" to be stopped first; the middle one takes that long.
fn three_stages(takes: Option<Duration>, alive: &Alive) -> Vec<Way> {
    let task = {
        let alive = alive.clone();
        move |asked: &Asked, name: &str| {
            let takes = if name == "middle" { takes } else { Some(Duration::ZERO) };
            asked.task(name, takes, &alive)
        }
    };
    let (by_category, by_dependency, by_group) = (Asked::default(), Asked::default(), Asked::default());
    let categories = [
        task(&by_category, "first").category(TaskCategory::Unknown),
        task(&by_category, "middle").category(TaskCategory::System),
        task(&by_category, "last").category(TaskCategory::Gateway),
    ];
    let dependencies = [
        task(&by_dependency, "first").depends_on("middle"),
        task(&by_dependency, "middle").depends_on("last"),
        task(&by_dependency, "last"),
    ];
    let group = TaskGroup::new("group", RestartStrategy::OneForAll)
        .task(task(&by_group, "last"))
        .task(task(&by_group, "middle"))
        .task(task(&by_group, "first"));
    vec![
        ("categories", by_category, Box::new(|tasks| tasks.register_all(categories).expect("valid"))),
        ("dependencies", by_dependency, Box::new(|tasks| tasks.register_all(dependencies).expect("valid"))),
        ("group", by_group, Box::new(|tasks| tasks.register_group(group).expect("valid"))),
    ]
}

async fn fault_24_a_later_stage_is_asked_when_the_slow_one_has_ended(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    for (way, asked, register) in three_stages(Some(3 * unit), &alive) {
        let (tasks, mut told) = with_deadline(40 * unit);
        register(&tasks);
        tasks.start();
        eventually("all run", || alive.now() == 3).await;
        let began = Instant::now();
        let report = tasks.shutdown().await;
        assert_eq!(asked.names(), ["first", "middle", "last"], "{way}");
        let after = asked.after(began);
        assert!(after[2] >= 3 * unit, "{way}: {after:?}");
        assert!(on != On::CurrentThread || (after[1] < unit && after[2] < 4 * unit), "{way}: {after:?}");
        assert_eq!(report.count(ShutdownOutcome::Clean), 3, "{way}: {report}");
        assert_eq!(
            ends(&mut told),
            ["first exited success", "middle exited success", "last exited success"],
            "{way}"
        );
        assert_eq!(alive.now(), 0);
        told.check_runs(&tasks);
    }
}

async fn fault_24_a_later_stage_is_asked_when_the_share_of_the_slow_one_is_over(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    for (way, asked, register) in three_stages(None, &alive) {
        let (tasks, mut told) = with_deadline(10 * unit);
        register(&tasks);
        tasks.start();
        eventually("all run", || alive.now() == 3).await;
        let began = Instant::now();
        let report = tasks.shutdown().await;
        let took = began.elapsed();
        assert_eq!(asked.names(), ["first", "middle", "last"], "{way}");
        // The first ended at once, so the two others share what there is without the tenth for dropping. One that others rest on
        // stays until that tenth.
        let share = if way == "categories" { 4 } else { 9 };
        let after = asked.after(began);
        assert!(after[2] >= share * unit, "{way}: {after:?}");
        let soon = after[1] < unit && after[2] < (share + 1) * unit;
        assert!(on != On::CurrentThread || soon, "{way}: {after:?}");
        assert!(
            took >= 9 * unit && took < if on == On::CurrentThread { 10 } else { 100 } * unit,
            "{way}: {took:?}"
        );
        use ShutdownOutcome::{Aborted, Clean};
        let mut got = outcomes(&report);
        got.sort();
        assert_eq!(got, named([("first", Clean), ("last", Clean), ("middle", Aborted)]), "{way}: {report}");
        let mut ends = ends(&mut told);
        // That the one is dropped and the other is asked happens at one moment.
        ends[1..].sort();
        assert_eq!(
            ends,
            ["first exited success", "last exited success", "middle exited cancellation"],
            "{way}"
        );
        assert_eq!(alive.now(), 0);
        told.check_runs(&tasks);
    }
}

on_each_runtime! { run:
    fault_24_a_later_stage_is_asked_when_the_slow_one_has_ended,
    fault_24_a_later_stage_is_asked_when_the_share_of_the_slow_one_is_over,
}

// Fault 25: whoever comes during a shutdown.
// Seen to fail with admission that is never closed; so is fault 26.

/// Tries everything that would begin something.
async fn everything_is_refused(tasks: &TaskManager, alive: &Alive) {
    let refused = |answer: Result<(), RegisterError>| {
        assert!(matches!(answer, Err(RegisterError::ShuttingDown)), "{answer:?}")
    };
    let late = || obedient("late", alive);
    refused(tasks.register(late()));
    refused(tasks.register_all([late(), obedient("later", alive).depends_on("late")]));
    refused(tasks.register_group(TaskGroup::new("group", RestartStrategy::OneForAll).task(late())));
    refused(tasks.replace(obedient("slow", alive)).await);
    assert!(matches!(tasks.restart("slow"), Err(RestartError::ShuttingDown)));
    let alive_too = alive.clone();
    let discovery = tasks.register_component("component", move || vec![obedient("late", &alive_too)]);
    assert!(discovery.registered.is_empty() && discovery.refused.len() == 1, "{discovery:?}");
    assert!(matches!(discovery.refused[0].1, RegisterError::ShuttingDown), "{discovery:?}");
    tasks.start();
    let run = |guard: AliveGuard| async move { drop(guard) };
    assert_eq!(tasks.spawn("late", run(alive.guard())).await, Err(TaskError::ShuttingDown));
    let guard = alive.guard();
    assert_eq!(tasks.task("late").spawn_with(|_| run(guard)).await, Err(TaskError::ShuttingDown));
    let guard = alive.guard();
    assert_eq!(tasks.spawn_blocking("late", move |_| drop(guard)).await, Err(TaskError::ShuttingDown));
    assert_eq!(alive.now(), 0, "what was refused is dropped");
}

async fn fault_25_new_work_during_a_shutdown_is_refused(on: On) {
    let (alive, late) = (Alive::default(), Alive::default());
    let (go, _) = tokio::sync::watch::channel(false);
    let (tasks, mut told) = with_deadline(secs(20));
    let handed = Arc::new(Mutex::new(Some(tasks.clone())));
    let (guards, late_too, gone) = (alive.clone(), late.clone(), go.clone());
    let config = CriticalTaskConfig::new("slow", move |ctx: TaskContext| {
        let (guard, handed, late) = (guards.guard(), handed.clone(), late_too.clone());
        let mut go = gone.subscribe();
        async move {
            let _guard = guard;
            ctx.cancelled().await;
            let tasks = handed.lock().expect("not poisoned").take().expect("one life");
            everything_is_refused(&tasks, &late).await;
            assert_eq!(ctx.spawn("owned", async {}).await, Ok(()), "its task has not ended");
            drop(tasks);
            let _ = go.wait_for(|go| *go).await;
        }
    });
    let tasks = begun(tasks, [config]);
    eventually("it runs", || alive.now() == 1).await;
    let mut shutdown = pin!(tasks.shutdown());
    assert!(poll_fn(|cx| Poll::Ready(shutdown.as_mut().poll(cx))).await.is_pending());
    everything_is_refused(&tasks, &Alive::default()).await;
    go.send_replace(true);
    let report = shutdown.await;
    let expected = named([("slow", ShutdownOutcome::Clean), ("owned", ShutdownOutcome::Clean)]);
    assert_eq!(outcomes(&report), expected, "{on:?}: {report}");
    everything_is_refused(&tasks, &Alive::default()).await;
    assert_eq!((alive.now(), alive.total(), late.now()), (0, 1, 0));
    assert_eq!(tasks.task_names(), ["slow"]);
    assert!(
        tasks.snapshot("late").is_none() && tasks.snapshot("later").is_none(),
        "no figures of what never ran"
    );
    assert_eq!(told.story("slow"), ["registered", "started", "ready", "exited success"]);
    assert!(told.story("late").is_empty());
    // An assertion that fails inside the task is its panic.
    told.check_runs(&tasks);
    assert_eq!(tasks.snapshot("slow").map(|task| task.runs(ExitKind::Success)), Some(1));
}

// Fault 26: a thousand children at the moment of the shutdown.

async fn fault_26_of_a_thousand_children_at_the_moment_of_the_shutdown_none_is_left(_: On) {
    let (alive, children) = (Alive::default(), Alive::default());
    let spawned = Arc::new(AtomicUsize::new(0));
    let handles = Arc::new(Mutex::new(Vec::new()));
    let tasks = TaskManager::builder().shutdown_deadline(secs(10)).build().unwrap();
    let mut told = Told::by(&tasks);
    // One parent spawns when it is asked to stop, the other all the time. Their children are theirs, and none is refused.
    let parent = |name: &str, waits: bool| {
        let (alive, children, spawned, handles) =
            (alive.clone(), children.clone(), spawned.clone(), handles.clone());
        let config = CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            let (guard, children, spawned, handles) =
                (alive.guard(), children.clone(), spawned.clone(), handles.clone());
            async move {
                let _guard = guard;
                if waits {
                    ctx.cancelled().await;
                }
                for number in 0..1_000 {
                    if number == 500 {
                        // Half of them before the shutdown, which is asked for from now on.
                        spawned.fetch_add(1, SeqCst);
                    }
                    let guard = children.guard();
                    let child = ctx.spawn("child", async move {
                        let _guard = guard;
                        pending::<()>().await;
                    });
                    handles.lock().unwrap().push(child);
                    tokio::task::yield_now().await;
                }
                ctx.cancelled().await;
            }
        });
        config.shutdown_grace(secs(2))
    };
    let tasks = begun(tasks, [parent("waits", true), parent("spawns", false)]);
    eventually("it is in the midst of it", || spawned.load(SeqCst) == 1).await;
    let report = tasks.shutdown().await;
    assert_eq!((alive.now(), children.now(), children.total()), (0, 0, 2_000), "{report}");
    let handles = std::mem::take(&mut *handles.lock().unwrap());
    for child in handles {
        assert_eq!(child.await, Err(TaskError::Cancelled));
    }
    let dropped = report.tasks.iter().filter(|line| &*line.name == "child");
    let dropped: Vec<_> = dropped.map(|line| (line.owner.as_deref(), line.outcome, line.count)).collect();
    let expected = ["spawns", "waits"].map(|owner| (Some(owner), ShutdownOutcome::Aborted, 1_000));
    assert_eq!(dropped, expected, "{report}");
    assert_eq!(report.count(ShutdownOutcome::Clean), 2, "{report}");
    let snapshot = tasks.snapshot("child").expect("spawned");
    assert_eq!((snapshot.active, snapshot.total_runs()), (0, 2_000));
    told.check_runs(&tasks);
}

// Fault 27: the shutdown is asked for by many.
// Seen to fail with askers that are waited for.

/// Asks for the shutdown while it is dropped, and cannot wait there.
struct AsksWhenDropped(TaskManager);

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        let asked = pin!(self.0.shutdown()).poll(&mut Context::from_waker(Waker::noop()));
        assert!(asked.is_pending());
    }
}

async fn fault_27_all_callers_of_shutdown_get_the_same_report(_: On) {
    const THREADS: usize = 4;
    let (alive, asked) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
    let (tasks, mut told) = with_deadline(secs(15));
    let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
    // Ends when all have asked.
    let (guards, all) = (alive.clone(), asked.clone());
    let slow = CriticalTaskConfig::new("slow", move |ctx: TaskContext| {
        let (guard, all) = (guards.guard(), all.clone());
        async move {
            let _guard = guard;
            ctx.cancelled().await;
            eventually("all have asked", || all.load(SeqCst) == 2 * THREADS + 1).await;
        }
    });
    let handed = Arc::new(Mutex::new(Some(tasks.clone())));
    let (ask, asks) = tokio::sync::watch::channel(false);
    let (guards, count, report) = (alive.clone(), asked.clone(), say.clone());
    let asker = CriticalTaskConfig::new("asker", move |_| {
        let (guard, handed, count, report) = (guards.guard(), handed.clone(), count.clone(), report.clone());
        let mut asks = asks.clone();
        async move {
            let _guard = guard;
            let _ = asks.wait_for(|ask| *ask).await;
            let tasks = handed.lock().expect("not poisoned").take().expect("one life");
            // Counted when it has asked.
            let counted = async { count.fetch_add(1, SeqCst) };
            let (got, _) = tokio::join!(tasks.shutdown(), counted);
            let _ = report.send(got);
        }
    });
    // Asked to stop after all others, so that it asks before.
    let tasks = begun(tasks, [slow, asker.category(TaskCategory::Gateway).priority(TaskPriority::Critical)]);
    eventually("all run", || alive.now() == 2).await;
    let guard = AsksWhenDropped(tasks.clone());
    let dropped = tasks.spawn("drops", async move { drop(guard) });
    assert_eq!(dropped.await, Ok(()));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (tasks, asked, report) = (tasks.clone(), asked.clone(), say.clone());
            std::thread::spawn(move || {
                let counted = async { asked.fetch_add(1, SeqCst) };
                let (got, _) = current_thread().block_on(async { tokio::join!(tasks.shutdown(), counted) });
                let _ = report.send(got);
            })
        })
        .collect();
    for _ in 0..THREADS {
        let (tasks, asked, report) = (tasks.clone(), asked.clone(), say.clone());
        drop(tokio::spawn(async move {
            let counted = async { asked.fetch_add(1, SeqCst) };
            let (got, _) = tokio::join!(tasks.shutdown(), counted);
            let _ = report.send(got);
        }));
    }
    ask.send_replace(true);
    let report = tasks.shutdown().await;
    for _ in 0..2 * THREADS + 1 {
        let other = said.recv().await.expect("a sender is here");
        assert!(Arc::ptr_eq(&other, &report), "{other}\n{report}");
    }
    assert!(Arc::ptr_eq(&tasks.shutdown().await, &report), "and whoever asks later");
    assert!(Arc::ptr_eq(&tasks.shutdown_now().await, &report));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(report.asked_by.iter().map(|name| &**name).collect::<Vec<_>>(), ["asker"]);
    assert_eq!(line(&report, "slow").outcome, ShutdownOutcome::Clean, "{report}");
    assert!(report.is_clean() && report.duration < secs(10), "nobody waited for himself: {report}");
    for what in ["shutdown_began", "shutdown_ended"] {
        assert_eq!(told.stories().iter().filter(|story| *story == what).count(), 1, "{what}");
    }
    let ended = || tasks.snapshot("asker").is_some_and(|task| task.runs(ExitKind::Success) == 1);
    eventually("the asker ends by itself", || alive.now() == 0 && ended()).await;
    assert_eq!(told.story("slow"), ["registered", "started", "ready", "exited success"]);
}

on_each_runtime! { run:
    fault_25_new_work_during_a_shutdown_is_refused,
    fault_26_of_a_thousand_children_at_the_moment_of_the_shutdown_none_is_left,
}

on_each_runtime! { run_in_real_time:
    fault_27_all_callers_of_shutdown_get_the_same_report,
}

// Fault 28: the last handle is dropped, and nobody asked for a shutdown.
// Seen to fail without `LastHandle::drop`, the blocked one without `drain.watch`, nothing without `close_if_idle`.

/// The report that was told.
async fn reported(told: &mut Told) -> Arc<ShutdownReport> {
    let ended =
        told.until("the shutdown ended", |event| matches!(event.kind, TaskEventKind::ShutdownEnded(_))).await;
    match ended.kind {
        TaskEventKind::ShutdownEnded(report) => report,
        other => unreachable!("{other:?}"),
    }
}

async fn fault_28_the_last_handle_dropped_is_an_ordered_shutdown(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    let (tasks, mut told) = with_deadline(20 * unit);
    let asked = Asked::default();
    let configs = [
        asked.task("first", Some(2 * unit), &alive).category(TaskCategory::Command),
        asked.task("last", Some(unit), &alive).category(TaskCategory::Gateway),
    ];
    let tasks = begun(tasks, configs);
    let guard = alive.guard();
    drop(tasks.task("command_run").spawn_with(|ctx| async move {
        let _guard = guard;
        ctx.cancelled().await;
    }));
    eventually("all run", || alive.now() == 3).await;
    let other = tasks.clone();
    drop(tasks);
    sleep(unit).await;
    assert_eq!(alive.now(), 3, "a clone is the same manager");
    drop(other);
    let report = reported(&mut told).await;
    assert_eq!((report.deadline, report.cause.is_none(), report.asked_by.len()), (20 * unit, true, 0));
    assert!(report.is_clean() && report.tasks.len() == 3, "{report}");
    assert_eq!((asked.names(), alive.now()), (["first", "last"].map(str::to_owned).into(), 0));
    assert_eq!(ends(&mut told), ["first exited success", "last exited success"]);
}

async fn fault_28_last_handle_dropped_over_a_blocked_task_is_harmless(_: On) {
    let (alive, stuck, held) = (Alive::default(), Alive::default(), Held::default());
    let (last_resort, notes) = noted(&held);
    let tasks = TaskManager::builder().shutdown_deadline(DEADLINE).last_resort(last_resort).build().unwrap();
    let mut told = Told::by(&tasks);
    let configs = [
        obedient("command", &alive).category(TaskCategory::Command),
        blocker("blocker", &stuck, &held).category(TaskCategory::Gateway),
    ];
    let tasks = begun(tasks, configs);
    eventually("all run", || (alive.now(), stuck.now()) == (1, 1)).await;
    let began = std::time::Instant::now();
    drop(tasks);
    let report = reported(&mut told).await;
    assert_in_time(began.elapsed(), &report);
    let expected = [("command", ShutdownOutcome::Clean), ("blocker", ShutdownOutcome::Leaked)];
    assert_eq!(outcomes(&report), named(expected), "{report}");
    // Longer than the last resort would wait.
    std::thread::sleep(millis(500));
    assert_eq!(
        (notes.try_iter().count(), alive.now(), stuck.now()),
        (0, 0, 1),
        "nobody waits for the report"
    );
    held.let_go();
    eventually("nothing is left", || stuck.now() == 0).await;
}

on_each_runtime! { run_in_real_time on workers:
    fault_28_last_handle_dropped_over_a_blocked_task_is_harmless,
}

/// It cannot wait for itself to let the manager go.
async fn fault_28_the_last_handle_may_be_a_tasks_own(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    for panics in [false, true] {
        let (tasks, mut told) = with_deadline(20 * unit);
        let handed = Arc::new(Mutex::new(None));
        let (guards, own) = (alive.clone(), handed.clone());
        let config = CriticalTaskConfig::new("owner", move |ctx: TaskContext| {
            let (guard, own) = (guards.guard(), own.clone());
            async move {
                let _guard = guard;
                let tasks: TaskManager = loop {
                    sleep(unit / 10).await;
                    if let Some(tasks) = own.lock().expect("not poisoned").take() {
                        break tasks;
                    }
                };
                assert!(!panics, "dropped while it unwinds");
                drop(tasks);
                ctx.cancelled().await;
            }
        });
        let tasks = begun(tasks, [config.restart_policy(RestartPolicy::Never), obedient("other", &alive)]);
        eventually("all run", || alive.now() == 2).await;
        *handed.lock().expect("not poisoned") = Some(tasks);
        let report = reported(&mut told).await;
        assert!(report.is_clean() && report.tasks.len() == 2, "{panics}: {report}");
        assert_eq!(alive.now(), 0);
        let mut ended = ends(&mut told);
        ended.sort();
        let of_owner = if panics { "owner exited panic" } else { "owner exited success" };
        assert_eq!(ended, ["other exited success", of_owner]);
    }
}

async fn fault_28_dropping_the_last_handle_without_tasks_emits_nothing(on: On) {
    let (unit, alive) = (unit(on), Alive::default());
    let tasks = TaskManager::new();
    let mut events = tasks.subscribe();
    tasks.start();
    let guard = alive.guard();
    assert_eq!(tasks.spawn("short", async move { drop(guard) }).await, Ok(()));
    drop(tasks);
    let told = tokio::time::timeout(100 * unit, events.recv()).await.expect("the manager is gone");
    assert!(told.is_none(), "{told:?}");
    assert_eq!(alive.now(), 0);
}

on_each_runtime! { run:
    fault_28_the_last_handle_dropped_is_an_ordered_shutdown,
    fault_28_the_last_handle_may_be_a_tasks_own,
    fault_28_dropping_the_last_handle_without_tasks_emits_nothing,
}

// Fault 29: real signals, early and a second time.
// Seen to fail with a second signal that only waits, and with dependencies that need not be ready.

fn fault_29_a_second_signal_ends_the_shutdown_at_once(case: Case) {
    if role().is_some() {
        let report = runtime(case.on).block_on(async {
            let signal = shutdown_signal();
            let tasks = TaskManager::builder().shutdown_deadline(secs(60)).build().unwrap();
            let alive = Alive::default();
            let guards = alive.clone();
            let deaf = CriticalTaskConfig::new("deaf", move |ctx: TaskContext| {
                guards.during(async move {
                    println!("deaf runs");
                    ctx.cancelled().await;
                    println!("deaf was asked");
                    pending::<()>().await;
                })
            });
            // Not yet asked when the second signal comes.
            let tasks = begun(tasks, [deaf, obedient("gateway", &alive).category(TaskCategory::Gateway)]);
            let report = tasks.run_until(signal).await;
            assert_eq!(alive.now(), 0);
            report
        });
        assert_eq!(line(&report, "deaf").outcome, ShutdownOutcome::Aborted);
        assert_eq!(report.tasks.len(), 2, "{report}");
        eprintln!("{report}");
        report.exit();
    }
    limited(move || {
        for (first, second) in [("INT", "INT"), ("TERM", "TERM"), ("INT", "TERM")] {
            let mut child = Child::of(case.test, "signalled", |_| {});
            child.wait_for("deaf runs");
            child.kill(first);
            child.wait_for("deaf was asked");
            let second_at = std::time::Instant::now();
            child.kill(second);
            let (code, errors, _) = child.end();
            assert_eq!(code, Some(1), "{first}, {second}: {errors}");
            assert!(second_at.elapsed() < secs(10), "{first}, {second}: {:?}", second_at.elapsed());
        }
    });
}

on_each_runtime! { call:
    fault_29_a_second_signal_ends_the_shutdown_at_once,
}

/// A signal before `start`, or while a task is awaited on which another depends: the role says which.
fn fault_29_an_early_signal_stops_cleanly(case: Case) {
    if let Some(early) = role() {
        runtime(case.on).block_on(async {
            let signal = shutdown_signal();
            let (alive, late) = (Alive::default(), Alive::default());
            let tasks = TaskManager::builder().shutdown_deadline(secs(60)).build().unwrap();
            let guards = alive.clone();
            let first = CriticalTaskConfig::new("first", move |ctx: TaskContext| {
                guards.during(async move {
                    println!("first begins");
                    ctx.cancelled().await;
                })
            });
            // It never says that it is ready.
            let configs = [first.start_timeout(secs(600)), obedient("second", &late).depends_on("first")];
            tasks.register_all(configs).expect("valid");
            if early == "before start" {
                println!("not started");
                let _ = std::io::stdin().read_line(&mut String::new());
            }
            tasks.start();
            let report = tasks.run_until(signal).await;
            assert!(report.is_clean() && report.tasks.len() == 2, "{report}");
            assert_eq!(line(&report, "second").outcome, ShutdownOutcome::NotRunning, "{report}");
            tasks.start();
            sleep(millis(100)).await;
            assert_eq!((alive.now(), late.total()), (0, 0), "nothing begins after it");
            assert!(alive.total() <= 1 && !tasks.is_monitoring());
        });
        return;
    }
    limited(move || {
        for (signal, early, said) in [
            ("TERM", "before start", "not started"),
            ("INT", "before start", "not started"),
            ("TERM", "while starting", "first begins"),
            ("INT", "while starting", "first begins"),
        ] {
            let mut child = Child::of(case.test, early, |_| {});
            child.wait_for(said);
            child.kill(signal);
            drop(child.process.stdin.take());
            let (code, errors, took) = child.end();
            assert_eq!(code, Some(0), "{signal} {early}: {errors}");
            assert!(took < secs(10), "{signal} {early}: {took:?}");
        }
    });
}

on_each_runtime! { call:
    fault_29_an_early_signal_stops_cleanly,
}

// Fault 30: the runtime is dropped under the manager.
// Seen to fail without `drain.watch`, without `Driver::drop`'s note, and while a dropped run had ended by itself.

/// A manager with a minute for its shutdown, begun in that runtime, and what it tells.
fn begun_in(runtime: &tokio::runtime::Runtime, configs: [CriticalTaskConfig; 2]) -> (TaskManager, Told) {
    runtime.block_on(async {
        let (tasks, told) = with_deadline(secs(60));
        (begun(tasks, configs), told)
    })
}

fn fault_30_a_runtime_dropped_under_the_manager_hangs_nobody(case: Case) {
    let runtime = runtime(case.on);
    limited(move || {
        let alive = Alive::default();
        let configs = [deaf("deaf", &alive), deaf("other", &alive).category(TaskCategory::Gateway)];
        let (tasks, mut told) = begun_in(&runtime, configs);
        let guard = alive.guard();
        let run = tasks.spawn("run", async move {
            let _guard = guard;
            pending::<()>().await;
        });
        runtime.block_on(eventually("all run", || alive.now() == 3));
        // Somebody waits elsewhere for a shutdown that takes long.
        let elsewhere = tasks.clone();
        let waiting = std::thread::spawn(move || current_thread().block_on(elsewhere.shutdown()));
        let began = |event: &TaskEvent| matches!(event.kind, TaskEventKind::ShutdownBegan);
        runtime.block_on(told.until("the shutdown began", began));
        let dropped = std::time::Instant::now();
        drop(runtime);
        assert_eq!(alive.now(), 0);
        let report = waiting.join().expect("no panic");
        assert!(dropped.elapsed() < secs(10), "not the deadline of a minute: {:?}", dropped.elapsed());
        assert_eq!(line(&report, "deaf").outcome, ShutdownOutcome::Aborted, "{report}");
        assert_eq!(line(&report, "other").outcome, ShutdownOutcome::Aborted, "{report}");
        assert_eq!(line(&report, "run").outcome, ShutdownOutcome::Aborted, "{report}");
        assert_eq!((report.tasks.len(), report.exit_code()), (3, 1), "{report}");
        let other = current_thread();
        assert_eq!(other.block_on(run), Err(TaskError::Cancelled));
        assert!(Arc::ptr_eq(&report, &other.block_on(tasks.shutdown())));
        let mut ended = ends(&mut told);
        ended.sort();
        assert_eq!(ended, ["deaf exited cancellation", "other exited cancellation"]);
        assert_eq!(told.stories().last().map(String::as_str), Some("shutdown_ended"));
        told.check_runs(&tasks);
        assert_eq!(tasks.statistics().active_runs, 0);
        assert_eq!(state(&tasks, "deaf"), Some(TaskState::Stopped));
    });
}

fn fault_30_a_spawned_run_dropped_with_its_runtime_is_aborted(case: Case) {
    let runtime = runtime(case.on);
    limited(move || {
        let alive = Alive::default();
        let tasks =
            runtime.block_on(async { TaskManager::builder().shutdown_deadline(secs(60)).build().unwrap() });
        let guard = alive.guard();
        let run = tasks.task("run").spawn_with(|_| async move {
            let _guard = guard;
            pending::<()>().await;
        });
        runtime.block_on(async { assert!(poll_once(tasks.shutdown()).await.is_pending()) });
        drop(runtime);
        assert_eq!(alive.now(), 0);
        let other = current_thread();
        let report = other.block_on(tasks.shutdown());
        assert_eq!(other.block_on(run), Err(TaskError::Cancelled));
        assert_eq!(line(&report, "run").outcome, ShutdownOutcome::Aborted, "{report}");
        assert_eq!(report.exit_code(), 1, "{report}");
    });
}

on_each_runtime! { call:
    fault_30_a_spawned_run_dropped_with_its_runtime_is_aborted,
    fault_30_a_runtime_dropped_under_the_manager_hangs_nobody,
}

/// The shutdown begins when the runtime is gone already.
fn fault_30_a_manager_whose_runtime_is_gone_can_be_shut_down(case: Case) {
    let runtime = runtime(case.on);
    limited(move || {
        let alive = Alive::default();
        let configs = [deaf("deaf", &alive), obedient("obedient", &alive)];
        let (tasks, mut told) = begun_in(&runtime, configs);
        runtime.block_on(eventually("all run", || alive.now() == 2));
        drop(runtime);
        assert_eq!(alive.now(), 0);
        let guard = alive.guard();
        let refused = tasks.spawn("late", async move { drop(guard) });
        assert_eq!(alive.now(), 0);
        let began = std::time::Instant::now();
        let other = current_thread();
        assert_eq!(other.block_on(refused), Err(TaskError::RuntimeGone));
        let report = other.block_on(tasks.shutdown());
        assert!(began.elapsed() < secs(10), "{:?}: {report}", began.elapsed());
        // They were dropped before the shutdown, and did not end by themselves.
        for name in ["deaf", "obedient"] {
            assert_eq!(line(&report, name).outcome, ShutdownOutcome::Aborted, "{report}");
        }
        assert_eq!((report.tasks.len(), report.exit_code()), (2, 1), "{report}");
        told.check_runs(&tasks);
        drop(tasks);
    });
}

on_each_runtime! { call:
    fault_30_a_manager_whose_runtime_is_gone_can_be_shut_down,
}

/// A worker that is blocked when its runtime is given up.
#[test]
fn fault_30_a_blocked_worker_of_a_runtime_that_is_given_up_is_leaked_four_workers() {
    limited(|| {
        let (alive, held) = (Alive::default(), Held::default());
        let runtime = workers(4);
        let tasks = runtime.block_on(async {
            let tasks = TaskManager::builder().shutdown_deadline(DEADLINE).build().unwrap();
            begun(tasks, [blocks_once("blocked", &alive, &held), obedient("obedient", &alive)])
        });
        runtime.block_on(eventually("all run", || alive.now() == 2));
        runtime.shutdown_background();
        let began = std::time::Instant::now();
        let report = current_thread().block_on(tasks.shutdown());
        assert_in_time(began.elapsed(), &report);
        assert_eq!(line(&report, "blocked").outcome, ShutdownOutcome::Leaked, "{report}");
        held.let_go();
        let until = std::time::Instant::now() + secs(20);
        while alive.now() > 0 {
            assert!(std::time::Instant::now() < until, "its life ends with its runtime");
            std::thread::sleep(millis(1));
        }
        assert!(Arc::ptr_eq(&report, &current_thread().block_on(tasks.shutdown())));
    });
}
