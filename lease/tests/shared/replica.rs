//! A replica: a process that has a task with a lease, and says what the task does.
//!
//! Each line that begins with `@` is a word, a term, and the time on the clock of the machine, in nanoseconds.

use std::{
    io::{BufRead, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use otel_tasks::{
    CriticalTaskConfig, Schedule, TaskContext, TaskLoop, TaskManager,
    gate::{BootClock, BootInstant, BoxFuture, Gate, Grant},
    policy::OverrunAction,
    schedule::MissedPolicy,
    shutdown_signal,
};
use otel_tasks_lease::{Lease, Leases};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::open;

/// Set in a replica: the address of the server, the lease, the ttl in milliseconds and what it does, each on a line.
const REPLICA: &str = "OTEL_TASKS_LEASE_REPLICA";

/// The name of the watchdog's thread.
const WATCHDOG: &str = "otel-tasks-watchdog";

/// What the task of a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    /// It is polled each 5 ms, and ends when it is asked to.
    Polls,
    /// As `Polls`, and the watchdog comes late: after a stop it is the poll that notices.
    PollsWatchedLate,
    /// As `Polls`, and does not hear that it is asked to stop.
    Deaf,
    /// Each of its polls takes 50 ms.
    LongPolls,
    /// One poll blocks its thread for ever, once it has said so.
    Blocks,
    /// An iteration each half second.
    Loop,
    /// As `Loop`, with the process aborted in the first iteration.
    LoopCrashes,
    /// As `Loop`, claimed after its runs.
    LoopAfterRun,
    /// As `LoopCrashes`, claimed after its runs.
    LoopAfterRunCrashes,
}

impl Does {
    const ALL: [Self; 9] = [
        Self::Polls,
        Self::PollsWatchedLate,
        Self::Deaf,
        Self::LongPolls,
        Self::Blocks,
        Self::Loop,
        Self::LoopCrashes,
        Self::LoopAfterRun,
        Self::LoopAfterRunCrashes,
    ];

    fn is_loop(self) -> bool {
        matches!(self, Self::Loop | Self::LoopCrashes | Self::LoopAfterRun | Self::LoopAfterRunCrashes)
    }
}

fn say(word: &str, term: u64) {
    let now = BootInstant::now().saturating_duration_since(BootInstant::after_boot(Duration::ZERO));
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "@{word} {term} {}", now.as_nanos()).and_then(|()| stdout.flush());
}

/// Says when the run is dropped.
struct Said(u64);

impl Drop for Said {
    fn drop(&mut self) {
        say("dropped", self.0);
    }
}

/// A gate that is open, and whose clock takes the watchdog long to read. In steps: what is left of one is over after a stop.
struct DelaysWatchdog;

impl Gate for DelaysWatchdog {
    fn name(&self) -> &str {
        "delays"
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        let clock = BootClock::from_fn(|| {
            if std::thread::current().name() == Some(WATCHDOG) {
                (0..40).for_each(|_| std::thread::sleep(Duration::from_millis(5)));
            }
            BootInstant::now()
        });
        let until = BootInstant::now().saturating_add(Duration::from_secs(86_400));
        Box::pin(async move { Grant::on(clock, 1, until, Duration::from_secs(5)).0 })
    }
}

/// The process of a replica; nothing in any other.
#[test]
fn replica() {
    let Ok(told) = std::env::var(REPLICA) else { return };
    let told: Vec<&str> = told.lines().collect();
    let [address, name, ttl, does] = told[..] else { panic!("{told:?}") };
    let ttl = Duration::from_millis(ttl.parse().expect("a number"));
    let does = Does::ALL.into_iter().find(|known| format!("{known:?}") == does).expect("known");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("built").block_on(async {
        let leases = Leases::new(open(address));
        let lease = leases.lease(name).ttl(ttl);
        let tasks = TaskManager::builder().panic_hook(false).build().expect("valid");
        say("ready", SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs());
        // The test lets several begin at once.
        let begins = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new()));
        begins.await.expect("no panic").expect("a line");
        if does == Does::PollsWatchedLate {
            let waits =
                CriticalTaskConfig::new("first", |ctx: TaskContext| async move { ctx.cancelled().await });
            tasks.register(waits.gate(DelaysWatchdog)).expect("registered");
        }
        tasks.register(config(does, lease)).expect("registered");
        tasks.run_until(shutdown_signal()).await;
        say("over", 0);
    });
}

fn config(does: Does, lease: Lease) -> CriticalTaskConfig {
    if does.is_loop() {
        return scheduled(does, lease);
    }
    let task = CriticalTaskConfig::new("t", move |ctx: TaskContext| async move {
        let term = ctx.pass().expect("a lease").term();
        let _said = Said(term);
        say("began", term);
        loop {
            match does {
                Does::LongPolls => {
                    say("poll", term);
                    std::thread::sleep(Duration::from_millis(50));
                    say("polled", term);
                }
                Does::Blocks => {
                    say("blocks", term);
                    loop {
                        std::thread::park();
                    }
                }
                _ => say("poll", term),
            }
            let pause = tokio::time::sleep(Duration::from_millis(5));
            if does == Does::Deaf {
                pause.await;
            } else if ctx.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    });
    let on_overrun = if does == Does::Blocks { OverrunAction::Exit } else { OverrunAction::Report };
    task.gate(lease).on_overrun(on_overrun)
}

fn scheduled(does: Does, lease: Lease) -> CriticalTaskConfig {
    let crashes = matches!(does, Does::LoopCrashes | Does::LoopAfterRunCrashes);
    let lease = match does {
        Does::LoopAfterRun | Does::LoopAfterRunCrashes => lease.after_run(),
        _ => lease,
    };
    let schedule = Schedule::every(Duration::from_millis(500)).aligned("UTC");
    // The hook is a part of the iteration: before the claim of one that is claimed after its run.
    let task = TaskLoop::on(schedule, |_| async {}).after_iteration(move |done| async move {
        let due = done.due.expect("scheduled").duration_since(UNIX_EPOCH).expect("after 1970");
        say("due", u64::try_from(due.as_millis()).expect("this millennium"));
        if crashes {
            std::process::abort();
        }
    });
    CriticalTaskConfig::from_loop("t", task.missed(MissedPolicy::CatchUp(1_000))).gate(lease)
}

/// A line of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) word: String,
    /// For an iteration the due time, in milliseconds.
    pub(crate) term: u64,
    pub(crate) at: Duration,
}

/// Another process.
pub(crate) struct Replica {
    child: Child,
    lines: mpsc::Receiver<Line>,
    /// All that it said and that was waited for.
    pub(crate) said: Vec<Line>,
}

impl Replica {
    /// Starts a process, which has said that it is ready.
    pub(crate) fn prepare(address: &str, lease: &str, ttl: Duration, does: Does) -> Self {
        Self::prepare_with(&[], address, lease, ttl, does)
    }

    /// Starts a process with these variables, and lets it begin.
    pub(crate) fn start_with(
        variables: &[(&str, &str)],
        address: &str,
        lease: &str,
        ttl: Duration,
        does: Does,
    ) -> Self {
        let mut replica = Self::prepare_with(variables, address, lease, ttl, does);
        replica.begin();
        replica
    }

    fn prepare_with(
        variables: &[(&str, &str)],
        address: &str,
        lease: &str,
        ttl: Duration,
        does: Does,
    ) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "shared::replica::replica", "--nocapture"])
            .envs(variables.iter().copied())
            .env(REPLICA, format!("{address}\n{lease}\n{}\n{does:?}", ttl.as_millis()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The harness may begin the line.
                let Some((_, said)) = line.split_once('@') else { continue };
                let mut words = said.split(' ');
                let mut next = || words.next().expect("three words");
                let word = next().to_owned();
                let (term, at) = (next().parse().expect("a number"), next().parse().expect("a number"));
                let _ = sender.send(Line { word, term, at: Duration::from_nanos(at) });
            }
        });
        let mut replica = Self { child, lines, said: Vec::new() };
        replica.says("ready");
        replica
    }

    /// Starts a process, and lets it begin.
    pub(crate) fn start(address: &str, lease: &str, ttl: Duration, does: Does) -> Self {
        let mut replica = Self::prepare(address, lease, ttl, does);
        replica.begin();
        replica
    }

    pub(crate) fn begin(&mut self) {
        self.child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("it listens");
    }

    /// Waits for the next line with this word.
    pub(crate) fn says(&mut self, word: &str) -> Line {
        self.says_within(word, Duration::from_secs(60)).unwrap_or_else(|| panic!("it never said {word}"))
    }

    pub(crate) fn says_within(&mut self, word: &str, within: Duration) -> Option<Line> {
        let until = Instant::now() + within;
        loop {
            let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            self.said.push(line.clone());
            if line.word == word {
                return Some(line);
            }
        }
    }

    /// All lines until now, after so long.
    pub(crate) fn listen(&mut self, time: Duration) -> &[Line] {
        let _ = self.says_within("nothing of that kind", time);
        &self.said
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits until the process is gone. Returns whether it ended well.
    pub(crate) fn ended(&mut self) -> bool {
        let status = self.child.wait().expect("its own");
        self.listen(Duration::from_millis(200));
        status.success()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Panics if a poll of one term began after the first of a later one.
pub(crate) fn assert_no_overlap<'a>(said: impl IntoIterator<Item = &'a Line>) {
    let mut polls: Vec<_> = said.into_iter().filter(|line| line.word == "poll").collect();
    polls.sort_by_key(|line| line.at);
    for pair in polls.windows(2) {
        assert!(pair[0].term <= pair[1].term, "a poll of an older term: {pair:?}");
    }
}
