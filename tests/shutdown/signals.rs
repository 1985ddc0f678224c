//! Signals of the operating system, in processes of their own: each further one goes one step on.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use otel_tasks::{
    CriticalTaskConfig, ShutdownReport, TaskContext, TaskManager, events::TaskEventKind, shutdown_signal,
    snapshot::TaskState,
};

use crate::support::{
    process::{child_as, role},
    secs,
};

/// How a caller waits for its signal.
const DIRECTLY: &str = "directly";
const INSIDE: &str = "inside a future of its own";
const PRE_STOP: &str = "while a hook drains";
/// A task takes the signals, and the caller waits for something else.
const ELSEWHERE: &str = "elsewhere";
/// The caller waits for its signal, and for the shutdown then.
const ALONE: &str = "alone";
const ALONE_WITH_DRAIN: &str = "alone, with a drain";
/// The listener is made when the caller waits already.
const LATER: &str = "later";
/// The listener is made when the shutdown has begun already.
const TOO_LATE: &str = "too late";
/// The same, and the signal comes before the caller is polled again.
const AT_ONCE: &str = "at once";

fn serve(role: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let tasks =
            TaskManager::builder().drain(secs(20)).shutdown_deadline(secs(60)).build().expect("valid");
        tasks
            .register(CriticalTaskConfig::new("deaf", |ctx: TaskContext| async move {
                ctx.cancelled().await;
                println!("asked");
                std::future::pending::<()>().await;
            }))
            .expect("valid");
        let mut events = tasks.subscribe();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if matches!(event.kind, TaskEventKind::Draining { .. }) {
                    println!("draining");
                }
            }
        });
        let report = match role {
            INSIDE => tasks.run_until(async { begun(shutdown_signal()).await }).await,
            PRE_STOP => {
                // Before anything is printed: the test sends its signal then.
                let signal = shutdown_signal();
                let hook = tasks.clone();
                // The hook begins when `run_until` listens: before that, its own listener acts on the signal.
                tasks
                    .run_until(async {
                        tokio::spawn(async move { hook.shutdown_after(secs(30)).await });
                        begun(signal).await;
                    })
                    .await
            }
            ELSEWHERE => {
                let taken = CriticalTaskConfig::new("taken", |ctx: TaskContext| async move {
                    while !ctx.is_cancelled() {
                        tokio::select! {
                            () = ctx.cancelled() => {}
                            () = begun(shutdown_signal()) => println!("taken"),
                        }
                    }
                });
                tasks.register(taken).expect("valid");
                tasks.run_until(std::future::pending::<()>()).await
            }
            ALONE => {
                tasks.start();
                begun(shutdown_signal()).await;
                tasks.shutdown().await
            }
            ALONE_WITH_DRAIN => {
                tasks.start();
                begun(shutdown_signal()).await;
                // Of two callers one acts on a signal.
                let (report, _) =
                    tokio::join!(tasks.shutdown_after(secs(30)), tasks.shutdown_after(secs(30)));
                report
            }
            LATER => {
                let (tells, told) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    begun(shutdown_signal()).await;
                    let _ = tells.send(());
                });
                tasks.run_until(told).await
            }
            TOO_LATE => {
                tasks.start();
                running(&tasks).await;
                tokio::spawn(async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    begun(shutdown_signal()).await;
                });
                tasks.shutdown().await
            }
            AT_ONCE => {
                tasks.start();
                running(&tasks).await;
                let (tells, told) = std::sync::mpsc::channel();
                let blocks = async {
                    // The shutdown beside it waits already.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    tokio::spawn(async move {
                        begun(shutdown_signal()).await;
                        let _ = tells.send(());
                    });
                    // In this thread, so that the shutdown is not polled until the signal was received.
                    told.recv().expect("the signal");
                };
                tokio::join!(tasks.shutdown(), blocks).0
            }
            _ => tasks.run_until(begun(shutdown_signal())).await,
        };
        tell(&report);
    });
    // The deaf task was dropped, so the runtime may be.
    std::process::exit(0);
}

/// Waits until the deaf task runs: before that, it would end at once.
async fn running(tasks: &TaskManager) {
    while tasks.snapshot("deaf").and_then(|deaf| deaf.state) != Some(TaskState::Running) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn begun(signal: impl Future<Output = ()>) {
    println!("serving");
    signal.await;
}

fn tell(report: &ShutdownReport) {
    println!("drained {} of {} us", report.drained.as_micros(), report.duration.as_micros());
}

struct Child {
    process: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Child {
    fn of(test: &str, role: &str) -> Self {
        let mut process =
            child_as(test, role).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("a child");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        Self { process, output }
    }

    fn wait_for(&mut self, said: &str) {
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains(said) {
            line.clear();
            let read = self.output.read_line(&mut line).expect("text");
            assert!(read > 0, "ended without {said:?}, {:?}: {all}", self.process.wait());
            all += &line;
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid]).status();
        assert!(sent.expect("a shell").success());
    }

    /// The durations of the drain, and of the drain and the shutdown together.
    fn report(mut self) -> (Duration, Duration) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("text");
        let line = rest.lines().find(|line| line.starts_with("drained")).unwrap_or_else(|| panic!("{rest}"));
        let mut numbers = line.split(' ').filter_map(|word| word.parse().ok().map(Duration::from_micros));
        (numbers.next().expect("drained"), numbers.next().expect("in all"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Seen to fail where the signal that ended the wait counts as the next one, and without `FurtherSignals::beside`.
#[test]
fn each_signal_advances_the_shutdown_one_step() {
    if let Some(role) = role() {
        return serve(&role);
    }
    let began = Instant::now();
    for role in [DIRECTLY, INSIDE] {
        for (first, others) in [("TERM", "TERM"), ("TERM", "INT")] {
            let mut child = Child::of("signals::each_signal_advances_the_shutdown_one_step", role);
            child.wait_for("serving");
            child.signal(first);
            child.wait_for("draining");
            child.signal(others);
            child.wait_for("asked");
            child.signal(others);
            let (drained, took) = child.report();
            assert!(
                !drained.is_zero() && took < secs(15),
                "{role}, {first}, {others}: {drained:?} of {took:?}"
            );
        }
    }
    // Ctrl-C drains nothing.
    for second in ["INT", "TERM"] {
        let mut child = Child::of("signals::each_signal_advances_the_shutdown_one_step", DIRECTLY);
        child.wait_for("serving");
        child.signal("INT");
        child.wait_for("asked");
        child.signal(second);
        let (drained, took) = child.report();
        assert!(drained.is_zero() && took < secs(15), "{second}: {drained:?} of {took:?}");
    }
    // A hook drains already: the signal makes it shorter, and the next one ends it.
    let mut child = Child::of("signals::each_signal_advances_the_shutdown_one_step", PRE_STOP);
    child.wait_for("draining");
    child.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    child.signal("TERM");
    child.wait_for("asked");
    child.signal("TERM");
    let (drained, took) = child.report();
    assert!(drained >= Duration::from_millis(200) && took < secs(15), "{drained:?} of {took:?}");
    assert!(began.elapsed() < secs(100), "{:?}", began.elapsed());
}

/// Fails if a caller that waits with `shutdown` or `shutdown_after` hears no further signal, or two callers take two steps at one.
#[test]
fn further_signals_reach_a_shutdown_that_was_begun_by_hand() {
    if let Some(role) = role() {
        return serve(&role);
    }
    let test = "signals::further_signals_reach_a_shutdown_that_was_begun_by_hand";
    for (role, steps) in [(ALONE, &["asked"][..]), (ALONE_WITH_DRAIN, &["draining", "asked"])] {
        for signal in ["TERM", "INT"] {
            let mut child = Child::of(test, role);
            child.wait_for("serving");
            for said in steps {
                child.signal(signal);
                child.wait_for(said);
                // The next step waits for the next signal.
                std::thread::sleep(Duration::from_millis(300));
            }
            child.signal(signal);
            let (drained, took) = child.report();
            assert_eq!(
                drained >= Duration::from_millis(300),
                role == ALONE_WITH_DRAIN,
                "{role}, {signal}: {drained:?} of {took:?}"
            );
            assert!(
                (Duration::from_millis(300)..secs(15)).contains(&(took - drained)),
                "{role}, {signal}: {drained:?} of {took:?}"
            );
        }
    }
}

/// Fails if `run_until` looks for a listener only when it begins.
#[test]
fn a_listener_that_is_made_later_leads_to_the_drain_too() {
    if let Some(role) = role() {
        return serve(&role);
    }
    let mut child = Child::of("signals::a_listener_that_is_made_later_leads_to_the_drain_too", LATER);
    child.wait_for("serving");
    std::thread::sleep(Duration::from_millis(200));
    for said in ["draining", "asked"] {
        child.signal("TERM");
        child.wait_for(said);
    }
    child.signal("TERM");
    let (drained, took) = child.report();
    assert!(!drained.is_zero() && took < secs(15), "{drained:?} of {took:?}");
}

/// Seen to fail: a shutdown that began before anybody listened heard no signal, and lasted as long as its deadline. The second role fails
/// if the shutdown begins to listen only when it is polled.
#[test]
fn a_listener_that_is_made_after_the_shutdown_began_leads_to_its_end() {
    if let Some(role) = role() {
        return serve(&role);
    }
    for role in [TOO_LATE, AT_ONCE] {
        let test = "signals::a_listener_that_is_made_after_the_shutdown_began_leads_to_its_end";
        let mut child = Child::of(test, role);
        child.wait_for("serving");
        child.signal("TERM");
        let (drained, took) = child.report();
        assert!(drained.is_zero() && took < secs(15), "{role}: {drained:?} of {took:?}");
    }
}

/// Fails if signals that something else takes do nothing, however often they come.
#[test]
fn second_signal_shuts_down_if_first_is_taken_elsewhere() {
    if let Some(role) = role() {
        return serve(&role);
    }
    let test = "signals::second_signal_shuts_down_if_first_is_taken_elsewhere";
    let mut child = Child::of(test, ELSEWHERE);
    child.wait_for("serving");
    std::thread::sleep(Duration::from_millis(200));
    child.signal("TERM");
    child.wait_for("taken");
    // Two signals that come before `run_until` has seen the first are one to tokio.
    std::thread::sleep(Duration::from_millis(500));
    child.signal("TERM");
    child.wait_for("asked");
    child.signal("TERM");
    let (drained, took) = child.report();
    assert!(drained.is_zero() && took < secs(15), "{drained:?} of {took:?}");
}
