//! Faults 34 to 40: what is around the tasks. Intervals and clocks, a process that stands still, listeners and exporters
//! that do not keep up, names without end, and code of the user's that panics where the manager calls it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant, SystemTime},
};

use otel_tasks::{
    Backoff, CriticalTaskConfig, RestartPolicy, TaskContext, TaskLoop, TaskManager,
    events::{TaskEventKind, TaskEvents},
    policy::{ErrorClass, ExitKind, NameRule, RestartReason},
    schedule::{LoopControlError, ScheduleError},
    shutdown::{LastResort, ShutdownOutcome},
    snapshot::{SkipReason, TaskState},
    task::RegisterError,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing_subscriber::{Layer, layer::SubscriberExt as _, registry::LookupSpan};

use crate::{
    common::{Case, On, Told, on_each_runtime, rss},
    support::{
        Alive, Events, eventually,
        metrics::Metrics,
        millis,
        process::{child, is_child},
        secs, settle,
        tasks::{obedient, restarts, state},
    },
};

const SHORT: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3_600);
/// Ten times what "at once" means.
const AT_ONCE: Duration = Duration::from_secs(1);

/// In real time a scenario's short interval, in virtual time a long one.
fn scaled(on: On, virtual_time: Duration) -> Duration {
    if on == On::CurrentThread { virtual_time } else { SHORT }
}

// --------------------------------------------------------------------------------------------------------------- 34

/// There is one policy for an iteration that is not over when the next is due: that one is skipped and counted, and the
/// rhythm is kept.
async fn fault_34_iterations_that_fall_due_meanwhile_are_skipped_and_counted(on: On) {
    let interval = scaled(on, secs(10));
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (log, guards) = (begun.clone(), alive.clone());
    // The third is held up for very long; after it there is no burst.
    let slow = TaskLoop::every(interval, move |ctx: TaskContext| {
        log.lock().expect("no panic under it").push(Instant::now());
        let guard = guards.guard();
        async move {
            let _guard = guard;
            let intervals = if ctx.iteration() == Some(3) { 20 } else { 2 };
            sleep(intervals * interval + interval / 2).await;
        }
    });
    tasks.register(CriticalTaskConfig::from_loop("slow", slow.count(6))).expect("registered");
    // One that takes exactly its interval is never late, and skips nothing.
    let exact = TaskLoop::every(interval, move |_| sleep(interval)).count(4);
    if on == On::CurrentThread {
        tasks.register(CriticalTaskConfig::from_loop("exact", exact)).expect("registered");
    }
    // Before the first is planned.
    let began = Instant::now();
    tasks.start();
    while state(&tasks, "slow") != Some(TaskState::Finished) {
        assert!(began.elapsed() < 60 * interval + secs(20), "six iterations");
        sleep(interval / 2).await;
    }
    let begun = begun.lock().expect("no panic under it").clone();
    let snapshot = tasks.snapshot("slow").expect("registered");
    assert_eq!((begun.len(), snapshot.total_runs(), alive.most()), (6, 6, 1), "they never overlap");
    // After each of the first five, what fell due meanwhile.
    let at_least = 4 * 2 + 20;
    if on == On::CurrentThread {
        let at: Vec<_> = begun.iter().map(|at| at.duration_since(begun[0]).as_secs() / 10).collect();
        assert_eq!(at, [0, 3, 6, 27, 30, 33]);
        assert_eq!(snapshot.skipped(SkipReason::Overlapped), at_least, "all of them while another ran");
        let exact = tasks.snapshot("exact").expect("registered");
        assert_eq!((exact.total_runs(), exact.total_skipped()), (4, 0));
    } else {
        let intervals = (begun[5] - began).as_nanos() / interval.as_nanos();
        assert!(
            (u128::from(at_least)..=intervals - 5).contains(&u128::from(snapshot.total_skipped())),
            "{snapshot:?}"
        );
        for pair in begun.windows(2) {
            assert!(pair[1] - pair[0] >= 2 * interval, "a burst: {:?}", pair[1] - pair[0]);
        }
    }
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

on_each_runtime! { run:
    // Fails where nothing is skipped, or it is not counted.
    fault_34_iterations_that_fall_due_meanwhile_are_skipped_and_counted,
}

// --------------------------------------------------------------------------------------------------------------- 35

const STANDS_FOR: Duration = Duration::from_millis(3_500);
/// What the tasks promise: less than the process stands still.
const SIGN_OF_LIFE: Duration = Duration::from_millis(1_500);
const READY_TO_STAND: &str = "ready to stand still";
const BEATING: usize = 200;

/// The child's part: its process stands still in the midst of it.
async fn is_stopped_and_resumed(_: On) {
    let tasks = TaskManager::builder().max_names(BEATING + 10).build().unwrap();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    for number in 0..BEATING {
        let alive = alive.clone();
        let beats = CriticalTaskConfig::new(format!("beats {number}"), move |ctx: TaskContext| {
            alive.during(async move {
                while !ctx.is_cancelled() {
                    ctx.heartbeat();
                    tokio::select! { () = sleep(millis(50)) => {}, () = ctx.cancelled() => {} }
                }
            })
        });
        tasks.register(beats.heartbeat_timeout(SIGN_OF_LIFE)).expect("registered");
    }
    // It is most likely stopped in the midst of a poll.
    let polls = CriticalTaskConfig::new("polls", |ctx: TaskContext| async move {
        while !ctx.is_cancelled() {
            std::thread::sleep(millis(10));
            tokio::task::yield_now().await;
        }
    });
    tasks.register(polls.poll_timeout(SIGN_OF_LIFE)).expect("registered");
    let interval = millis(50);
    let ticks = TaskLoop::every(interval, |_| async {});
    let ticks = CriticalTaskConfig::from_loop("ticks", ticks).heartbeat_timeout(SIGN_OF_LIFE);
    tasks.register(ticks).expect("registered");
    // Its restart falls due while nobody is there.
    let fails = CriticalTaskConfig::new("fails", |ctx: TaskContext| async move {
        if ctx.generation() == 1 {
            sleep(secs(1)).await;
            return Err("down");
        }
        ctx.cancelled().await;
        Ok(())
    });
    tasks.register(fails.backoff(Backoff::constant(secs(2)))).expect("registered");
    let began = Instant::now();
    tasks.start();
    eventually("they run", || alive.now() == BEATING && state(&tasks, "fails") == Some(TaskState::Backoff))
        .await;
    // A line of its own, whatever the harness has written.
    println!("\n{READY_TO_STAND}");
    std::io::stdout().flush().expect("a reader");

    let resumed =
        told.until("it stood still", |event| matches!(event.kind, TaskEventKind::ProcessResumed { .. }));
    let TaskEventKind::ProcessResumed { stood_still_for, .. } = resumed.await.kind else { unreachable!() };
    assert!(stood_still_for > STANDS_FOR / 2, "{stood_still_for:?}");
    sleep(secs(1)).await;
    eventually("its restart", || state(&tasks, "fails") == Some(TaskState::Running)).await;

    let stalls: Vec<_> =
        told.all().iter().filter(|event| matches!(event.kind, TaskEventKind::Stalled { .. })).collect();
    assert!(stalls.is_empty(), "the process stood still, not the tasks: {stalls:#?}");
    for task in tasks.snapshots() {
        let expected = if &*task.name == "fails" { 1 } else { 0 };
        assert_eq!((task.total_restarts(), task.stalls), (expected, 0), "{}", task.name);
    }
    assert_eq!(alive.total(), BEATING, "none was restarted");
    assert!(tasks.health().is_live, "{:?}", tasks.health());
    // What was missed is skipped, once, and there is no burst: never more than one iteration per interval.
    let ticks = tasks.snapshot("ticks").expect("registered");
    let (ran, skipped) = (u128::from(ticks.total_runs()), u128::from(ticks.total_skipped()));
    let intervals = |time: Duration| time.as_nanos() / interval.as_nanos();
    let elapsed = began.elapsed();
    assert!(skipped >= intervals(STANDS_FOR / 2), "skipped {skipped}");
    assert!(ran + skipped <= intervals(elapsed) + 1, "{ran} ran and {skipped} skipped in {elapsed:?}");
    assert!(ran <= intervals(elapsed - STANDS_FOR / 2) + 1, "{ran} ran in {elapsed:?}");

    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

/// Runs the test again as a child, and stops that one as a whole for a while.
// Fails where signs of life are not renewed after it, or silence is not held against a watchdog that stood still too.
#[cfg(unix)]
fn fault_35_a_process_that_stood_still_holds_nothing_against_its_tasks(case: Case) {
    if is_child() {
        return case.run_in_real_time(is_stopped_and_resumed);
    }
    let mut child = child(case.test).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a child");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    while line.trim() != READY_TO_STAND {
        line.clear();
        if output.read_line(&mut line).expect("text") == 0 {
            let ended = child.wait_with_output().expect("a child that ends");
            panic!("the child ended early: {}", String::from_utf8_lossy(&ended.stderr));
        }
    }
    let pid = child.id().to_string();
    let signal = |name: &str| {
        let sent = Command::new("sh").args(["-c", "kill -$0 $1", name, &pid]).status();
        assert!(sent.expect("a shell").success(), "{name}");
    };
    signal("STOP");
    std::thread::sleep(STANDS_FOR);
    signal("CONT");
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).expect("text");
    let ended = child.wait_with_output().expect("a child that ends");
    assert!(ended.status.success(), "{rest}{}", String::from_utf8_lossy(&ended.stderr));
}

#[cfg(unix)]
on_each_runtime! { call:
    fault_35_a_process_that_stood_still_holds_nothing_against_its_tasks,
}

// --------------------------------------------------------------------------------------------------------------- 36

/// Tasks at a time of day come with a later release, and with them gaps, overlaps, leap days and time zones. What there is
/// goes by the monotonic clock. Here that one runs on while the wall clock stands: as the wall clock does that is set back.
// Fails where uptime goes by another clock.
#[tokio::test(start_paused = true)]
async fn fault_36_a_wall_clock_that_is_set_back_moves_neither_timers_nor_uptimes() {
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let hourly = Arc::new(Mutex::new(Vec::new()));
    let log = hourly.clone();
    let every_hour = TaskLoop::every(HOUR, move |_| {
        log.lock().expect("no panic under it").push(Instant::now());
        async {}
    });
    let handle = every_hour.handle();
    tasks.register(CriticalTaskConfig::from_loop("hourly", every_hour)).expect("registered");
    let fails = CriticalTaskConfig::new("fails", |ctx: TaskContext| async move {
        if ctx.generation() == 1 {
            return Err("down");
        }
        ctx.cancelled().await;
        Ok(())
    });
    let fails = fails.backoff(Backoff::constant(HOUR / 2)).max_restarts(1, HOUR);
    tasks.register(fails).expect("registered");
    let (began, wall_began) = (Instant::now(), SystemTime::now());
    tasks.start();
    settle().await;
    let mut uptimes = [Duration::ZERO; 2];
    for hour in 0..=24 {
        tokio::time::sleep_until(began + hour * HOUR + HOUR / 4).await;
        for (name, before) in ["hourly", "fails"].into_iter().zip(&mut uptimes) {
            let uptime = tasks.task_health(name).expect("registered").uptime;
            assert!(uptime > *before, "{name}: {uptime:?} after {before:?}");
            assert!(uptime <= began.elapsed(), "{name}: {uptime:?}");
            *before = uptime;
        }
        assert_eq!(hourly.lock().expect("no panic under it").len() as u32, hour + 1, "each hour once");
        // An hour after it was planned, whatever the wall clock said then.
        let next = handle.next_run().expect("it sleeps");
        let in_wall_time = next.duration_since(wall_began).expect("not in the past");
        let wall = wall_began.elapsed().expect("it stands");
        assert!(in_wall_time <= HOUR + wall, "{in_wall_time:?} after {wall:?}");
    }
    assert!(wall_began.elapsed().is_ok_and(|wall| wall < HOUR), "the wall clock stood");
    let fails = tasks.snapshot("fails").expect("registered");
    assert_eq!((fails.state, fails.total_restarts()), (Some(TaskState::Running), 1));
    assert_eq!((fails.errors_last_hour, fails.restarts_last_hour), (0, 0), "they left the window");
    let since = fails.since_restart.expect("restarted");
    assert!(since > 23 * HOUR && since < 24 * HOUR, "{since:?}");
    let begun = hourly.lock().expect("no panic under it").clone();
    assert!(begun.windows(2).all(|pair| pair[1] - pair[0] == HOUR), "strictly one after the other");
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(&tasks);
}

/// No wall clock is read for it, so there is none that could be ahead.
#[tokio::test(start_paused = true)]
async fn fault_36_a_task_that_never_ran_has_no_uptime() {
    let tasks = TaskManager::new();
    tasks.register(obedient("task", &Alive::default())).expect("registered");
    tokio::time::advance(24 * HOUR).await;
    assert_eq!(tasks.task_health("task").expect("registered").uptime, Duration::ZERO);
}

// --------------------------------------------------------------------------------------------------------------- 37

/// A loop whose iterations wait for `go`, and when each began.
fn gated(interval: Duration, go: &Arc<Notify>) -> (TaskLoop, Arc<Mutex<Vec<Instant>>>) {
    let begun = Arc::new(Mutex::new(Vec::new()));
    let (log, go) = (begun.clone(), go.clone());
    let task_loop = TaskLoop::every(interval, move |_| {
        log.lock().expect("no panic under it").push(Instant::now());
        let go = go.clone();
        async move { go.notified().await }
    });
    (task_loop, begun)
}

async fn fault_37_a_count_is_exact_and_a_new_interval_takes_effect_as_documented(on: On) {
    let short = scaled(on, secs(5));
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let count = |begun: &Mutex<Vec<Instant>>| begun.lock().expect("no panic under it").len();
    let config = |name: &str, task_loop| {
        CriticalTaskConfig::from_loop(name, task_loop).restart_policy(RestartPolicy::Always)
    };

    let thrice = TaskLoop::every(short, |_| async {}).count(3);
    tasks.register(config("thrice", thrice)).expect("registered");

    let freely = Arc::new(Notify::new());
    let (asleep, while_asleep) = gated(HOUR, &freely);
    let asleep_handle = asleep.handle();
    tasks.register(config("asleep", asleep)).expect("registered");

    let gate = Arc::new(Notify::new());
    let (running, while_running) = gated(HOUR, &gate);
    let running_handle = running.handle();
    tasks.register(config("running", running)).expect("registered");

    let (early, before_the_first) = gated(short, &freely);
    let early_handle = early.handle();
    early_handle.change_interval(2 * HOUR).expect("not zero");
    tasks.register(config("early", early)).expect("registered");
    early_handle.change_interval(HOUR).expect("not zero");
    assert_eq!(tasks.snapshot("early").expect("registered").total_runs(), 0);

    let began = Instant::now();
    tasks.start();
    eventually("the first iterations", || {
        [&while_asleep, &while_running, &before_the_first].iter().all(|begun| count(begun) == 1)
    })
    .await;
    // Their first iterations are over, and they sleep for an hour.
    freely.notify_waiters();
    eventually("asleep", || asleep_handle.next_run().is_some() && early_handle.next_run().is_some()).await;

    for handle in [&asleep_handle, &running_handle, &early_handle] {
        assert_eq!(
            handle.change_interval(Duration::ZERO),
            Err(LoopControlError::Schedule(ScheduleError::ZeroInterval))
        );
        assert_eq!(handle.interval(), Some(HOUR), "the old one stays");
    }
    asleep_handle.change_interval(short).expect("not zero");
    running_handle.change_interval(short).expect("not zero");
    // One that runs is not touched; the change is seen when its iteration is over.
    eventually("the sleeper's second", || count(&while_asleep) == 2).await;
    assert_eq!(count(&while_running), 1);
    gate.notify_one();
    eventually("the runner's second", || count(&while_running) == 2).await;
    for begun in [&while_asleep, &while_running] {
        let begun = begun.lock().expect("no panic under it").clone();
        let distance = begun[1] - begun[0];
        // An iteration may begin a little after its time, and the next in its own.
        assert!(distance >= short / 2 && distance < 2 * short + AT_ONCE, "{distance:?}");
        if on == On::CurrentThread {
            // Timers are exact to the millisecond.
            assert!(distance.as_millis() % short.as_millis() < 10, "on the grid: {distance:?}");
        }
    }

    while state(&tasks, "thrice") != Some(TaskState::Finished) {
        assert!(began.elapsed() < 10 * short + secs(20));
        sleep(short).await;
    }
    sleep(5 * short).await;
    let thrice = tasks.snapshot("thrice").expect("registered");
    assert_eq!((thrice.total_runs(), thrice.total_restarts()), (3, 0), "whatever its policy");
    assert_eq!(count(&before_the_first), 1, "the hour that it was given before it began");

    let zero = TaskLoop::every(Duration::ZERO, |_| async {});
    let refused = tasks.register(config("zero", zero));
    assert!(matches!(&refused, Err(RegisterError::Loop { name, .. }) if name == "zero"), "{refused:?}");
    let none = TaskLoop::every(short, |_| async {}).count(0);
    let refused = tasks.register(config("none", none));
    assert!(matches!(&refused, Err(RegisterError::Loop { name, .. }) if name == "none"), "{refused:?}");
    assert!(
        tasks.snapshot("zero").is_none() && tasks.snapshot("none").is_none(),
        "they leave nothing behind"
    );

    freely.notify_waiters();
    gate.notify_waiters();
    let report = tasks.shutdown_now().await;
    assert_eq!(report.count(ShutdownOutcome::Leaked), 0, "{report}");
    told.check_runs(&tasks);
}

on_each_runtime! { run:
    // Fails where a count is one more, or a sleeper is not woken for its new interval.
    fault_37_a_count_is_exact_and_a_new_interval_takes_effect_as_documented,
}

// --------------------------------------------------------------------------------------------------------------- 38

async fn fault_38_a_slow_subscriber_holds_up_nothing_and_its_missed_events_are_counted(_: On) {
    const TASKS: u64 = 3;
    const LIVES: u64 = 1_001;
    let tasks = TaskManager::new();
    let mut slow = tasks.subscribe();
    let gone = tasks.subscribe();
    for number in 0..TASKS {
        let failing =
            CriticalTaskConfig::new(format!("failing {number}"), |_| async { Err::<(), _>("down") });
        let failing = failing.backoff(Backoff::constant(Duration::ZERO)).max_restarts(1_000, HOUR);
        tasks.register(failing).expect("registered");
    }
    drop(gone);
    tasks.start();
    for number in 0..TASKS {
        let name = format!("failing {number}");
        eventually("given up", || state(&tasks, &name) == Some(TaskState::Failed)).await;
    }
    let mut late = tasks.subscribe();
    let mut kept = Vec::new();
    while let Some(event) = slow.try_recv() {
        kept.push(event);
    }
    // Each life begins, is ready and ends; a restart is announced; it is registered and given up once.
    let told = TASKS * (LIVES * 3 + (LIVES - 1) + 2);
    let of_the_machine =
        |event: &&otel_tasks::events::TaskEvent| matches!(event.kind, TaskEventKind::SlowPoll { .. });
    let noise = kept.iter().filter(of_the_machine).count() as u64;
    assert_eq!(kept.len(), TaskEvents::CAPACITY, "bounded");
    let seen = kept.len() as u64 + slow.missed();
    assert!((told..=told + noise + 100).contains(&seen), "{seen} of {told}, and {noise} of a busy machine");
    let gave_up = |event: &otel_tasks::events::TaskEvent| matches!(event.kind, TaskEventKind::GaveUp { .. });
    assert!(kept.iter().any(gave_up), "the newest are kept, and the last of the tasks was given up last");
    assert!(late.try_recv().is_none(), "what was told before is not told again");

    // It has caught up, and misses nothing more.
    let missed = slow.missed();
    let report = tasks.shutdown().await;
    assert_eq!(report.count(ShutdownOutcome::NotRunning), TASKS, "{report}");
    for events in [&mut slow, &mut late] {
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        assert!(
            matches!(last.map(|event| event.kind), Some(TaskEventKind::ShutdownEnded(_))),
            "the last event"
        );
    }
    assert_eq!((slow.missed(), late.missed()), (missed, 0));
}

on_each_runtime! { run:
    // Fails where what was missed is not counted.
    fault_38_a_slow_subscriber_holds_up_nothing_and_its_missed_events_are_counted,
}

#[cfg(feature = "otlp-http")]
mod exporters {

    use super::*;
    use crate::support::otlp::{ANY, Behaviour, Receiver, closed_port};

    async fn life_without_a_collector(behaviour: Option<Behaviour>) {
        // How long the flush may take; the tasks' deadline is another. Once it is long, so that it would show in theirs.
        let flush = if behaviour == Some(Behaviour::Hang) { secs(3) } else { millis(500) };
        let receiver = Receiver::start(ANY);
        let mut builder = receiver.telemetry("faults").shutdown_timeout(flush).span_queue(500);
        match behaviour {
            Some(behaviour) => receiver.set_behaviour(behaviour),
            None => builder = builder.endpoint(format!("http://{}", closed_port())),
        }
        let telemetry = builder.build().expect("built");
        let tasks = TaskManager::builder()
            .meter(telemetry.meter())
            .tracer(telemetry.tracer())
            .shutdown_deadline(secs(20))
            .build()
            .unwrap();
        let mut told = Told::by(&tasks);
        let alive = Alive::default();
        let of_task = alive.clone();
        // It needs a while to end, during which the telemetry ends too.
        let slow = CriticalTaskConfig::new("slow to end", move |ctx: TaskContext| {
            of_task.during(async move {
                ctx.cancelled().await;
                sleep(millis(300)).await;
            })
        });
        tasks.register(slow).expect("registered");
        let failing = CriticalTaskConfig::new("failing", |_| async { Err::<(), _>("down") });
        let failing = failing.backoff(Backoff::constant(millis(1))).max_restarts(20, HOUR);
        tasks.register(failing).expect("registered");
        tasks.start();
        let began = Instant::now();
        for _ in 0..2_000 {
            tasks.spawn("command_short", async {}).await.expect("it runs");
        }
        eventually("given up", || state(&tasks, "failing") == Some(TaskState::Failed)).await;
        assert!(began.elapsed() < secs(10), "supervision waits for the exporter: {:?}", began.elapsed());

        let began = Instant::now();
        let balance = telemetry.balance();
        let shutdown = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.shutdown().await }
        });
        told.until("it has begun", |event| matches!(event.kind, TaskEventKind::ShutdownBegan)).await;
        let (report, flushed) = tokio::join!(shutdown, telemetry.shutdown());
        let report = report.expect("no panic");
        assert!(report.is_clean(), "{behaviour:?}: {report}");
        assert!(report.duration >= millis(300) && report.duration < secs(2), "{behaviour:?}: {report}");
        // Ten times what is promised.
        assert!(began.elapsed() < 10 * flush, "{behaviour:?}: {:?}", began.elapsed());
        assert!(!flushed.is_complete(), "{behaviour:?}: {flushed}");
        let spans = &flushed.traces;
        assert_eq!(spans.exported, 0, "{behaviour:?}: {flushed}");
        assert_eq!(spans.ended, spans.queue_full + spans.export_failed + spans.undelivered, "{flushed}");
        assert!(spans.queue_full > 0, "the queue is bounded: {flushed}");
        // What ends after the flush has begun is counted too.
        assert!(balance.snapshot().traces.ended >= 2_000 + 21, "{flushed}");
        told.check_runs(&tasks);
        assert_eq!(alive.now(), 0);
    }

    async fn fault_38_an_exporter_that_hangs_or_is_away_holds_up_nothing(_: On) {
        // Not on the test's own thread, which a runtime with workers has beside them.
        for behaviour in
            [Some(Behaviour::Hang), Some(Behaviour::Delay(secs(30))), Some(Behaviour::Unavailable), None]
        {
            tokio::spawn(life_without_a_collector(behaviour)).await.expect("no panic");
        }
    }

    on_each_runtime! { run_in_real_time:
        // Fails where the flush runs where it is asked for.
        fault_38_an_exporter_that_hangs_or_is_away_holds_up_nothing,
    }
}

/// A span processor that panics, as often as it is told to.
#[derive(Debug, Clone)]
struct PanickingProcessor {
    at_start: bool,
    /// The name of the spans it panics at; all without one.
    only: Option<&'static str>,
    hits: Arc<AtomicUsize>,
}

impl PanickingProcessor {
    fn hit(&self, name: &str) {
        if self.only.is_none_or(|only| only == name) {
            self.hits.fetch_add(1, SeqCst);
            panic!("an exporter");
        }
    }
}

impl opentelemetry_sdk::trace::SpanProcessor for PanickingProcessor {
    fn on_start(&self, span: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {
        if self.at_start {
            let name = span.exported_data().map(|data| data.name.to_string()).unwrap_or_default();
            self.hit(&name);
        }
    }

    fn on_end(&self, span: opentelemetry_sdk::trace::SpanData) {
        if !self.at_start {
            self.hit(&span.name);
        }
    }

    fn force_flush(&self) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> opentelemetry_sdk::error::OTelSdkResult {
        Ok(())
    }
}

async fn life_with_a_panicking_exporter(at_start: bool, only: Option<&'static str>) {
    use opentelemetry::trace::TracerProvider as _;
    let processor = PanickingProcessor { at_start, only, hits: Arc::default() };
    let hits = processor.hits.clone();
    let provider =
        opentelemetry_sdk::trace::SdkTracerProvider::builder().with_span_processor(processor).build();
    let tasks = TaskManager::builder().tracer(provider.tracer("faults")).build().unwrap();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    let victim = fails_once("victim", &alive);
    tasks.register(victim).expect("registered");
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    let what = format!("at the {} of {only:?}", if at_start { "start" } else { "end" });
    eventually(&what, || restarts(&tasks, "victim", RestartReason::Failure) == 1 && alive.now() == 2).await;
    tasks.spawn("command_short", async {}).await.expect("it runs");
    let report = tokio::time::timeout(secs(20), tasks.shutdown()).await;
    let report = report.unwrap_or_else(|_| panic!("the shutdown never ends: {what}"));
    assert!(report.is_clean(), "{what}: {report}");
    assert!(hits.load(SeqCst) > 0, "{what}: it was not even tried");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

async fn fault_38_an_exporter_that_panics_at_a_runs_span_costs_nothing(_: On) {
    for at_start in [false, true] {
        life_with_a_panicking_exporter(at_start, Some("task.run")).await;
    }
}

async fn fault_38_an_exporter_that_panics_at_the_managers_spans_holds_up_no_shutdown(_: On) {
    for name in ["bot.monitor_tasks", "bot.cleanup_tasks", "bot.stop_task_loops", "bot.cancel_tasks"] {
        for at_start in [false, true] {
            life_with_a_panicking_exporter(at_start, Some(name)).await;
        }
    }
}

on_each_runtime! { run:
    // Fails where the end of a run's span is not contained.
    fault_38_an_exporter_that_panics_at_a_runs_span_costs_nothing,
    // Fails where the spans of a shutdown are not contained: it never ended.
    fault_38_an_exporter_that_panics_at_the_managers_spans_holds_up_no_shutdown,
}

// --------------------------------------------------------------------------------------------------------------- 39

// Fails where each task leaks 64 bytes, or names have no bound.
async fn fault_39_a_hundred_thousand_tasks_leave_nothing_behind(_: On) {
    const NAMES: usize = 50;
    let metrics = Metrics::new();
    let tasks = TaskManager::builder()
        .meter(metrics.meter())
        .names(NameRule::keep())
        .max_names(NAMES)
        .build()
        .unwrap();
    tasks.start();
    let alive = Alive::default();
    let mut spawned = 0_u64;
    let mut wave = async |runs: u64| {
        for _ in 0..runs / 100 {
            let handles: Vec<_> = (0..100)
                .map(|_| {
                    spawned += 1;
                    let guard = alive.guard();
                    // Half of the names come once only, the others again and again.
                    let name = spawned * (spawned % 2);
                    tasks.spawn(&format!("command_{name}"), async move {
                        let _guard = guard;
                        tokio::task::yield_now().await;
                    })
                })
                .collect();
            for handle in handles {
                handle.await.expect("it runs");
            }
        }
    };
    let register = async |times: u32| {
        for _ in 0..times {
            tasks.register(obedient("again", &Alive::default())).expect("the name is free");
            tasks.unregister("again").await.expect("registered");
        }
    };
    register(100).await;
    wave(20_000).await;
    let before = rss();
    wave(80_000).await;
    register(2_000).await;
    let grown = rss().saturating_sub(before);
    assert!(grown < 2 * 1_024, "80,000 tasks more, and {grown} KiB more");
    assert_eq!((alive.total(), alive.now()), (100_000, 0));

    let began = StdInstant::now();
    let snapshots = tasks.snapshots();
    // Ten times and more what fifty names take.
    assert!(began.elapsed() < millis(500), "{:?}", began.elapsed());
    assert!(snapshots.len() <= NAMES + 1, "{} names", snapshots.len());
    assert!(snapshots.iter().any(|task| &*task.name == "_OTHER"));
    let runs = |name: &str| tasks.snapshot(name).map_or(0, |task| task.total_runs());
    assert_eq!(snapshots.iter().map(|task| task.total_runs()).sum::<u64>(), 100_000 + runs("again"));
    assert!(snapshots.iter().all(|task| task.active == 0));
    let mut points = std::collections::BTreeMap::<_, usize>::new();
    for point in metrics.collect().0 {
        *points.entry(point.instrument).or_default() += 1;
    }
    // By name, and by result or state beside it.
    assert!(points.values().all(|points| *points <= (NAMES + 1) * TaskState::ALL.len()), "{points:?}");
    assert_eq!(tasks.task_names(), Vec::<String>::new());
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
}

on_each_runtime! { run_alone:
    fault_39_a_hundred_thousand_tasks_leave_nothing_behind,
}

async fn fault_39_a_task_that_was_unregistered_is_in_no_report(_: On) {
    for _ in 0..300 {
        let tasks = TaskManager::new();
        let alive = Alive::default();
        tasks.start();
        tasks.register(obedient("gone", &alive)).expect("registered");
        tasks.unregister("gone").await.expect("registered");
        let report = tasks.shutdown().await;
        assert_eq!((report.tasks.len(), alive.now()), (0, 0), "{report}");
    }
}

on_each_runtime! { run:
    // Fails where the answer comes before the driver has left its place: as it was.
    fault_39_a_task_that_was_unregistered_is_in_no_report,
}

// --------------------------------------------------------------------------------------------------------------- 40

/// A task whose first life fails at its second poll, and whose second ends when it is asked to.
fn fails_once(name: &str, alive: &Alive) -> CriticalTaskConfig {
    let alive = alive.clone();
    CriticalTaskConfig::new(name, move |ctx: TaskContext| {
        alive.during(async move {
            if ctx.generation() == 1 {
                sleep(millis(1)).await;
                return Err("down");
            }
            ctx.cancelled().await;
            Ok(())
        })
    })
    .backoff(Backoff::constant(SHORT))
}

/// A value whose destructor panics.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb");
    }
}

async fn fault_40_a_hook_that_panics_is_logged_and_ignored(on: On) {
    let interval = scaled(on, secs(1));
    // Records are seen where everything is on this thread.
    let recorded = Events::record();
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    let of_loop = alive.clone();
    let ticks = TaskLoop::every(interval, move |ctx: TaskContext| {
        of_loop.during(async move { if ctx.iteration() == Some(2) { Err("down") } else { Ok(()) } })
    })
    .count(4)
    .before_loop(|_| async { panic!("before_loop") })
    .after_loop(|_| async { panic!("after_loop") })
    .after_iteration(|_| async { panic!("after_iteration") })
    .on_error(|_| async { panic!("on_error") });
    tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    // A panic of `on_error` decides nothing: the loop goes on after the second iteration.
    eventually("finished", || state(&tasks, "ticks") == Some(TaskState::Finished)).await;
    let iterations = ["exited success", "exited failure", "exited success", "exited success"];
    let story = [&["registered", "started", "ready"], &iterations[..], &["finished"]];
    assert_eq!(told.story("ticks"), story.concat());
    assert_eq!(
        tasks.snapshot("ticks").expect("registered").total_errors(),
        1,
        "hooks are not counted as errors"
    );
    assert_eq!(state(&tasks, "sibling"), Some(TaskState::Running));
    if on == On::CurrentThread {
        let said: Vec<_> =
            recorded.0.named("task.hook.panicked").iter().map(|record| record.message().to_owned()).collect();
        for (hook, times) in [("before_loop", 1), ("after_loop", 1), ("after_iteration", 4), ("on_error", 1)]
        {
            assert_eq!(
                said.iter().filter(|line| line.contains(&format!("hook {hook} "))).count(),
                times,
                "{said:?}"
            );
        }
    }
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

/// A hook that is waiting is dropped when the task is asked to stop.
async fn fault_40_a_hook_whose_destructor_panics_holds_up_nothing(_: On) {
    let tasks = TaskManager::new();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    for name in ["stopped", "left"] {
        let waiting = alive.clone();
        let ticks = TaskLoop::every(HOUR, |_| async {}).before_loop(move |_| {
            let (guard, bomb) = (waiting.guard(), Bomb);
            async move {
                let _guard = guard;
                let _bomb = bomb;
                std::future::pending::<()>().await;
            }
        });
        tasks.register(CriticalTaskConfig::from_loop(name, ticks)).expect("registered");
    }
    tasks.start();
    eventually("they wait", || alive.now() == 2).await;
    tasks.stop("stopped").expect("registered");
    eventually("stopped", || told.story("stopped").last().is_some_and(|last| last == "stopped")).await;
    tasks.restart("stopped").expect("registered");
    eventually("it begins again", || alive.total() == 3).await;
    let report = tasks.shutdown().await;
    assert_eq!((report.tasks.len(), report.count(ShutdownOutcome::Clean)), (2, 2), "{report}");
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

/// A hook's panic has a payload, which is the user's value.
async fn fault_40_a_hooks_payload_whose_destructor_panics_ends_no_loop(on: On) {
    let tasks = TaskManager::new();
    let alive = Alive::default();
    let of_loop = alive.clone();
    let ticks = TaskLoop::every(scaled(on, secs(1)), move |_| {
        drop(of_loop.guard());
        async {}
    })
    .after_iteration(|_| async { std::panic::panic_any(Bomb) });
    tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
    tasks.start();
    eventually("it goes on", || alive.total() >= 3).await;
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
}

/// What else the manager asks of the user: each panics, and each is an end of that run, or is as if it had not been asked.
async fn fault_40_a_callback_that_panics_is_a_failed_run_or_ignored(_: On) {
    let tasks = TaskManager::builder()
        .names(NameRule::custom(|_| panic!("a name rule")))
        .last_resort(LastResort::Call(Arc::new(|_| panic!("a last resort"))))
        .build()
        .unwrap();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    #[derive(Debug)]
    struct Unspeakable;
    impl std::error::Error for Unspeakable {}
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("a display")
        }
    }
    let classes = fails_once("classes", &alive).classify(|_: &&str| -> ErrorClass { panic!("a class") });
    let types = fails_once("types", &alive).error_type(|_: &&str| panic!("a type"));
    let speaks = CriticalTaskConfig::new("speaks", |ctx: TaskContext| async move {
        if ctx.generation() == 1 {
            return Err(Unspeakable);
        }
        ctx.cancelled().await;
        Ok(())
    });
    tasks.register_all([classes, types, speaks.backoff(Backoff::constant(SHORT))]).expect("registered");
    tasks.start();
    let discovery = tasks.register_component("bad", || -> Vec<CriticalTaskConfig> { panic!("a provider") });
    assert_eq!(discovery.panicked, [("bad".to_owned(), "a provider".to_owned())]);
    tasks.spawn("command_short_17", async {}).await.expect("it runs");
    assert!(tasks.snapshot("command_short_17").is_some(), "a rule that panics keeps the name");
    for name in ["classes", "types", "speaks"] {
        eventually(name, || restarts(&tasks, name, RestartReason::Panic) == 1).await;
        eventually(name, || state(&tasks, name) == Some(TaskState::Running)).await;
    }
    let report = tasks.shutdown().await;
    assert!(report.is_clean(), "{report}");
    told.check_runs(&tasks);
    for name in ["classes", "types", "speaks"] {
        let exits: Vec<_> = told.exits(name).iter().map(otel_tasks::policy::Exit::kind).collect();
        assert_eq!(exits, [ExitKind::Panic, ExitKind::Success], "{name}");
    }
    assert_eq!(alive.now(), 0);
}

/// The closure that makes the futures is dropped when nobody needs it any more, and what it holds is the user's.
async fn fault_40_a_tasks_closure_whose_destructor_panics_leaves_no_name_behind(_: On) {
    let tasks = TaskManager::new();
    let alive = Alive::default();
    let config = |name: &str| {
        let (alive, bomb) = (alive.clone(), Arc::new(Bomb));
        CriticalTaskConfig::new(name, move |ctx: TaskContext| {
            let (guard, _bomb) = (alive.guard(), &bomb);
            async move {
                let _guard = guard;
                ctx.cancelled().await;
            }
        })
    };
    tasks.register(config("removed")).expect("registered");
    tasks.register(config("left")).expect("registered");
    tasks.start();
    eventually("both run", || alive.now() == 2).await;
    // Whoever drops it last has the panic; it may be the caller, who has asked for it.
    let remover = tasks.clone();
    let removed = tokio::spawn(async move { remover.unregister("removed").await.is_ok() });
    let removed = tokio::time::timeout(secs(20), removed).await.expect("it answers");
    assert!(removed.is_err_and(|error| error.is_panic()) || tasks.task_names() == ["left"]);
    eventually("the name is free", || tasks.task_names() == ["left"]).await;
    tasks.register(obedient("removed", &alive)).expect("free");
    eventually("both run", || alive.now() == 2).await;
    let report = tasks.shutdown().await;
    assert_eq!((report.tasks.len(), report.is_clean()), (2, true), "{report}");
    assert_eq!(alive.now(), 0);
    // The manager holds the last of the other one, and whoever drops it has that panic.
    let _ = tokio::spawn(async move { drop(tasks) }).await;
}

on_each_runtime! { run:
    // Fails where hooks are not guarded.
    fault_40_a_hook_that_panics_is_logged_and_ignored,
    // Fails where a hook that is dropped while it waits is not contained.
    fault_40_a_hook_whose_destructor_panics_holds_up_nothing,
    // Fails where a payload is dropped uncontained.
    fault_40_a_hooks_payload_whose_destructor_panics_ends_no_loop,
    // Fails where the rule for names is called bare.
    fault_40_a_callback_that_panics_is_a_failed_run_or_ignored,
    // Fails where the driver does not say that it has left.
    fault_40_a_tasks_closure_whose_destructor_panics_leaves_no_name_behind,
}

/// The last resort is called on the watchdog's thread, which goes on.
// Fails where the watchdog contains nothing.
#[test]
fn fault_40_a_last_resort_that_panics_leaves_the_watchdog_alive() {
    use std::sync::mpsc;
    let (called, calls) = mpsc::channel();
    let shut_down_blocked = |called: mpsc::Sender<()>| {
        let calls = Mutex::new(Some(called));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let tasks = TaskManager::builder()
                .shutdown_deadline(millis(100))
                .last_resort(LastResort::Call(Arc::new(move |_| {
                    let called = calls.lock().expect("no panic under it").take();
                    called.expect("once").send(()).expect("the test waits");
                    panic!("a last resort");
                })))
                .build()
                .unwrap();
            tasks.start();
            let blocked = Arc::new(AtomicBool::new(true));
            let release = blocked.clone();
            drop(tasks.spawn("command_blocks", async move {
                while blocked.load(SeqCst) {
                    std::thread::sleep(millis(5));
                }
            }));
            let releaser = std::thread::spawn(move || {
                std::thread::sleep(secs(5));
                release.store(false, SeqCst);
            });
            tasks.shutdown().await;
            releaser.join().expect("no panic");
        });
    };
    for _ in 0..2 {
        shut_down_blocked(called.clone());
        calls.try_recv().expect("it is called, also after one that panicked");
    }
}

/// Where a subscriber panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Record,
    NewSpan,
    Enter,
    Exit,
    Close,
}

/// A subscriber that panics once, at the nth record or span of that name.
#[derive(Debug, Clone)]
struct Panics {
    at: At,
    name: &'static str,
    until: Arc<AtomicU64>,
}

impl Panics {
    fn at(at: At, name: &'static str, nth: u64) -> Self {
        Self { at, name, until: Arc::new(AtomicU64::new(nth)) }
    }

    fn subscriber(&self) -> tracing::Dispatch {
        tracing::Dispatch::new(tracing_subscriber::registry().with(self.clone()))
    }

    fn has_panicked(&self) -> bool {
        self.until.load(SeqCst) == 0
    }

    fn come_by(&self, at: At, name: &str) {
        if at != self.at || name != self.name {
            return;
        }
        let come = self.until.fetch_update(SeqCst, SeqCst, |until| until.checked_sub(1));
        if come == Ok(1) {
            panic!("a subscriber at {at:?} of {name}");
        }
    }
}

impl<S> Layer<S> for Panics
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.come_by(At::Record, event.metadata().name());
    }

    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        self.come_by(At::NewSpan, attributes.metadata().name());
    }

    fn on_enter(&self, id: &tracing::Id, context: tracing_subscriber::layer::Context<'_, S>) {
        self.come_by(At::Enter, context.metadata(id).map_or("", tracing::Metadata::name));
    }

    fn on_exit(&self, id: &tracing::Id, context: tracing_subscriber::layer::Context<'_, S>) {
        self.come_by(At::Exit, context.metadata(id).map_or("", tracing::Metadata::name));
    }

    fn on_close(&self, id: tracing::Id, context: tracing_subscriber::layer::Context<'_, S>) {
        self.come_by(At::Close, context.metadata(&id).map_or("", tracing::Metadata::name));
    }
}

/// A task that fails once, one that is given up, a loop whose hook panics, and one to which nothing happens.
fn lively(alive: &Alive) -> TaskManager {
    let tasks = TaskManager::new();
    tasks.register(fails_once("victim", alive)).expect("registered");
    let gives_up = CriticalTaskConfig::new("gives up", |_| async { Err::<(), _>("down") });
    tasks.register(gives_up.max_restarts(0, HOUR)).expect("registered");
    let ticks = TaskLoop::every(millis(5), |_| async {}).after_iteration(|_| async { panic!("a hook") });
    tasks.register(CriticalTaskConfig::from_loop("ticks", ticks)).expect("registered");
    tasks.register(obedient("sibling", alive)).expect("registered");
    tasks
}

/// A manager's life in which a subscriber panics once: measurement costs the tasks nothing, whatever becomes of it.
async fn life_under(panics: Panics) {
    let what = format!("{panics:?}");
    let alive = Alive::default();
    let tasks = lively(&alive);
    let mut told = Told::by(&tasks);
    tasks.start();
    eventually(&format!("the victim's second life, {what}"), || {
        restarts(&tasks, "victim", RestartReason::Failure) == 1
            && state(&tasks, "victim") == Some(TaskState::Running)
            && alive.now() == 2
    })
    .await;
    eventually("given up", || state(&tasks, "gives up") == Some(TaskState::Failed)).await;
    let ticked = tasks.snapshot("ticks").expect("registered").total_runs();
    eventually(&format!("ticks, {what}"), || {
        tasks.snapshot("ticks").is_some_and(|task| task.total_runs() > ticked + 2)
    })
    .await;
    tasks.stop("sibling").expect("registered");
    eventually("stopped", || state(&tasks, "sibling") == Some(TaskState::Stopped)).await;
    tasks.restart("sibling").expect("registered");
    eventually("again", || alive.now() == 2).await;
    assert_shut_down(panics, &tasks, &mut told, &alive).await;
}

/// The same where it panics inside the driver, in the span of a run: that life is over, which is told, and nobody's but its
/// own. It can be restarted by hand.
async fn life_that_is_given_up(panics: Panics) {
    const WHY: &str = "its driver panicked";
    let what = format!("{panics:?}");
    let alive = Alive::default();
    let tasks = lively(&alive);
    let mut told = Told::by(&tasks);
    tasks.start();
    let mut revived = Vec::new();
    let names = ["victim", "ticks", "sibling"];
    eventually(&format!("all run, {what}"), || {
        for name in names {
            if state(&tasks, name) == Some(TaskState::Failed) && !revived.contains(&name) {
                let of_driver =
                    |kind: &TaskEventKind| matches!(kind, TaskEventKind::GaveUp { reason, .. } if *reason == WHY);
                assert_eq!(told.count(name, of_driver), 1, "{name}, {what}: {:?}", told.story(name));
                assert_eq!(tasks.restart(name), Ok(Duration::ZERO));
                revived.push(name);
            }
        }
        panics.has_panicked()
            && names.iter().all(|name| state(&tasks, name) == Some(TaskState::Running))
            && state(&tasks, "gives up") == Some(TaskState::Failed)
            && alive.now() == 2
            // Its first life is over, one way or the other.
            && tasks.snapshot("victim").is_some_and(|task| task.total_restarts() >= 1)
    })
    .await;
    assert!(revived.len() <= 1, "{revived:?}, {what}");
    assert_eq!(alive.most(), 2, "nothing is orphaned, {what}");
    assert_shut_down(panics, &tasks, &mut told, &alive).await;
}

async fn assert_shut_down(panics: Panics, tasks: &TaskManager, told: &mut Told, alive: &Alive) {
    let what = format!("{panics:?}");
    let report = tokio::time::timeout(secs(20), tasks.shutdown()).await;
    let report = report.unwrap_or_else(|_| panic!("the shutdown never ends, {what}"));
    assert!(report.duration < AT_ONCE, "{what}: {report}");
    assert_eq!((report.tasks.len(), report.is_clean()), (4, true), "{what}: {report}");
    assert!(panics.has_panicked(), "it was not even tried: {what}");
    told.check_runs(tasks);
    assert_eq!(alive.now(), 0, "{what}");
}

/// Runs a life for each, and names those that did not go as they must.
fn lives_under<F: Future<Output = ()> + 'static>(on: On, panics: Vec<Panics>, life: fn(Panics) -> F) {
    let fails = |panics: &Panics| {
        let subscriber = panics.subscriber();
        let panics = panics.clone();
        catch_unwind(AssertUnwindSafe(|| on.run_under(&subscriber, move |_| life(panics)))).is_err()
    };
    let failed: Vec<_> = panics.into_iter().filter(fails).collect();
    assert!(failed.is_empty(), "a life did not go as it must: {failed:#?}");
}

fn at_records() -> Vec<Panics> {
    let names = [
        "task.started",
        "task.exception",
        "task.restarted",
        "task.stopped",
        "task.gave_up",
        "task.hook.panicked",
    ];
    names.map(|name| Panics::at(At::Record, name, 1)).into()
}

/// At the first, when a life begins, and at a later one, when there are lives that could be orphaned.
fn at_runs() -> Vec<Panics> {
    let places = [At::NewSpan, At::Enter, At::Exit, At::Close];
    places.into_iter().flat_map(|at| [1, 5].map(|nth| Panics::at(at, "task.run", nth))).collect()
}

fn at_the_managers_spans() -> Vec<Panics> {
    let names = ["bot.monitor_tasks", "bot.cleanup_tasks", "bot.stop_task_loops", "bot.cancel_tasks"];
    let places = [At::NewSpan, At::Close];
    let all = names.into_iter().flat_map(|name| places.map(|at| Panics::at(at, name, 1)));
    let entered = ["bot.monitor_tasks", "bot.cleanup_tasks"];
    let entered =
        entered.into_iter().flat_map(|name| [At::Enter, At::Exit].map(|at| Panics::at(at, name, 1)));
    all.chain(entered).collect()
}

// Fails where the record of a hook's panic is not contained, or none is.
fn fault_40_a_subscriber_that_panics_at_a_record_costs_nothing(case: Case) {
    lives_under(case.on, at_records(), life_under);
}

// Fails where the driver is not guarded.
fn fault_40_a_subscriber_that_panics_at_a_runs_span_costs_that_life_alone(case: Case) {
    lives_under(case.on, at_runs(), life_that_is_given_up);
}

// Fails where the spans of a shutdown are not contained: it never ended.
fn fault_40_a_subscriber_that_panics_at_the_managers_spans_costs_nothing(case: Case) {
    lives_under(case.on, at_the_managers_spans(), life_under);
}

on_each_runtime! { call:
    fault_40_a_subscriber_that_panics_at_a_record_costs_nothing,
    fault_40_a_subscriber_that_panics_at_a_runs_span_costs_that_life_alone,
    fault_40_a_subscriber_that_panics_at_the_managers_spans_costs_nothing,
}

/// The supervisor's own loop panics: the draw of a jitter is the user's code, and the only one it calls by itself. The task
/// must not look as if somebody had stopped it, and whoever listens must hear of it.
async fn fault_40_panic_in_the_supervisors_loop_is_reported(_: On) {
    let drawn = Arc::new(AtomicU64::new(0));
    let draws = drawn.clone();
    let tasks = TaskManager::builder()
        .random(move || {
            if draws.fetch_add(1, SeqCst) == 0 {
                panic!("a draw");
            }
            0.5
        })
        .build()
        .unwrap();
    let mut told = Told::by(&tasks);
    let alive = Alive::default();
    tasks.register(fails_once("victim", &alive)).expect("registered");
    tasks.register(obedient("sibling", &alive)).expect("registered");
    tasks.start();
    let gave_up = |kind: &TaskEventKind| matches!(kind, TaskEventKind::GaveUp { .. });
    eventually("restarted, or given up and told", || {
        restarts(&tasks, "victim", RestartReason::Failure) == 1
            || (state(&tasks, "victim") == Some(TaskState::Failed) && told.count("victim", gave_up) == 1)
    })
    .await;
    eventually("alive or dead", || (1..=2).contains(&alive.now())).await;
    assert_eq!(state(&tasks, "sibling"), Some(TaskState::Running));
    let report = tasks.shutdown().await;
    assert_eq!((report.tasks.len(), report.is_clean()), (2, true), "{report}");
    assert!(report.duration < AT_ONCE, "{report}");
    assert!(drawn.load(SeqCst) > 0);
    told.check_runs(&tasks);
    assert_eq!(alive.now(), 0);
}

on_each_runtime! { run:
    // Fails where the driver is not guarded.
    fault_40_panic_in_the_supervisors_loop_is_reported,
}
