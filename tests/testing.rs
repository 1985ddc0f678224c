//! The helpers for the tests of others (feature `testing`).

mod support;

use std::time::Duration;

use otel_tasks::{
    Backoff, CriticalTaskConfig, TaskLoop, TaskManager,
    events::TaskEventKind,
    policy::{ExitKind, RestartReason},
    snapshot::TaskState,
    testing::{Clock, EventLog, Fault, Faults},
};
use support::{millis, secs};

fn gateway(faults: &Faults) -> CriticalTaskConfig {
    CriticalTaskConfig::one_shot("gateway", |ctx| async move { ctx.cancelled().await })
        .backoff(Backoff::constant(secs(30)))
        .shutdown_grace(secs(1))
        .faults(faults)
}

fn started(config: CriticalTaskConfig) -> (TaskManager, EventLog, Clock) {
    let tasks = TaskManager::new();
    let log = EventLog::of(&tasks);
    tasks.register(config).expect("registered");
    tasks.start();
    (tasks, log, Clock::paused())
}

#[tokio::test]
async fn pausing_a_paused_clock_leaves_it_paused() {
    let clock = Clock::paused();
    let again = Clock::paused();
    let began = (tokio::time::Instant::now(), std::time::Instant::now());
    clock.advance(secs(86_400)).await;
    again.settle().await;
    // Timers round up to whole milliseconds.
    let passed = began.0.elapsed();
    assert!(passed > secs(86_400) && passed <= secs(86_400) + millis(5), "{passed:?}");
    assert!(began.1.elapsed() < secs(60));
}

#[tokio::test(start_paused = true)]
async fn each_injected_fault_has_its_effect() {
    let faults = Faults::new();
    let (tasks, mut log, clock) = started(gateway(&faults));
    clock.settle().await;
    faults.inject(Fault::Fail("reset"));
    clock.advance(secs(31)).await;
    faults.inject(Fault::Panic("boom"));
    clock.advance(secs(31)).await;
    faults.inject(Fault::Hang);
    clock.settle().await;
    // Deaf now, so a restart has to drop it after its grace.
    tasks.restart("gateway").unwrap();
    clock.advance(secs(40)).await;
    let snapshot = tasks.snapshot("gateway").unwrap();
    let restarts = |reason: RestartReason| snapshot.restarts(reason);
    assert_eq!(
        (
            restarts(RestartReason::Failure),
            restarts(RestartReason::Panic),
            restarts(RestartReason::Requested)
        ),
        (1, 1, 1)
    );
    assert_eq!(
        otel_tasks::policy::ExitKind::ALL.iter().map(|&kind| snapshot.runs(kind)).collect::<Vec<_>>(),
        [0, 1, 1, 0, 1],
        "a failure, a panic, and a cancellation"
    );
    faults.inject(Fault::Finish);
    clock.settle().await;
    log.assert_order("gateway", &["exited", "finished"]);
    tasks.restart("gateway").unwrap();
    clock.settle().await;
    faults.inject(Fault::FailForGood("no such host"));
    clock.settle().await;
    assert_eq!(tasks.snapshot("gateway").unwrap().state, Some(TaskState::Failed));
    let gave_up = log.wait_for("gateway", "gave_up").await;
    assert!(matches!(gave_up.kind, TaskEventKind::GaveUp { .. }));
    assert_eq!(faults.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fault_waits_for_the_next_run_and_blocking_blocks_the_thread() {
    let faults = Faults::new();
    faults.inject(Fault::Block(millis(30)));
    faults.inject(Fault::Fail("later"));
    assert_eq!(faults.pending(), 2);
    let began = std::time::Instant::now();
    let (tasks, _, clock) = started(gateway(&faults));
    clock.settle().await;
    assert!(began.elapsed() >= millis(30));
    assert_eq!((faults.pending(), tasks.snapshot("gateway").unwrap().total_errors()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_loops_iteration_can_be_made_to_fail() {
    let faults = Faults::new();
    let ticker = TaskLoop::every(secs(10), |_| async {});
    let handle = ticker.handle();
    let (_tasks, _, clock) = started(CriticalTaskConfig::from_loop("ticker", ticker).faults(&faults));
    clock.advance(secs(11)).await;
    faults.inject(Fault::Fail("third"));
    clock.advance(secs(10)).await;
    assert_eq!(handle.last_result().map(|exit| exit.kind()), Some(ExitKind::Failure));
    assert_eq!(handle.current_iteration(), 3);
}

#[tokio::test(start_paused = true)]
async fn failed_log_assertion_shows_the_recorded_events() {
    let (_tasks, mut log, clock) = started(gateway(&Faults::new()));
    clock.settle().await;
    assert_eq!(log.names("gateway"), ["registered", "started", "ready"]);
    log.assert_none("gateway", "exited");
    let mut fails = |check: &mut dyn FnMut(&mut EventLog)| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut log)));
        *caught.expect_err("it must fail").downcast::<String>().expect("a text")
    };
    let order = fails(&mut |log| log.assert_order("gateway", &["ready", "started"]));
    assert!(order.contains(r#""started" does not follow in ["registered", "started", "ready"]"#), "{order}");
    let none = fails(&mut |log| log.assert_none("gateway", "ready"));
    assert!(none.contains("had \"ready\""), "{none}");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no event \"exited\" of task \"gateway\" came")]
async fn wait_for_a_missing_event_panics() {
    let (_tasks, mut log, _) = started(gateway(&Faults::new()));
    let _ = tokio::time::timeout(Duration::from_secs(100_000), log.wait_for("gateway", "exited")).await;
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_goes_with_the_runtimes_and_can_be_set() {
    let clock = otel_tasks::testing::WallClock::starting(std::time::UNIX_EPOCH + Duration::from_secs(1_000));
    let read = clock.reader();
    let seconds = || read().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(seconds(), 1_000);
    Clock::paused().advance(Duration::from_secs(10)).await;
    assert_eq!(seconds(), 1_010);
    clock.set_forward(Duration::from_secs(100));
    clock.clone().set_back(Duration::from_secs(500));
    assert_eq!(seconds(), 610);
}
