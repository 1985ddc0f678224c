//! The report of a shutdown.

use std::{
    fmt,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    policy::{Panic, Plain, ShutdownOutcome, TaskCategory, TaskPriority},
    run::catch,
    watchdog::{aside, say_within},
};

/// One line of a [`ShutdownReport`]: a registered task, or the runs of a spawned task that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownEntry {
    /// The task's name.
    pub name: Arc<str>,
    /// The registered task that owns the runs: they were spawned through its context. `None` for every other line.
    pub owner: Option<Arc<str>>,
    /// The category of the task.
    pub category: TaskCategory,
    /// The priority of the task: lower priorities stop first.
    pub priority: TaskPriority,
    /// The outcome of the task.
    pub outcome: ShutdownOutcome,
    /// The number of runs in this line: 1 for a registered task. The members of a family that ended well share a line under the
    /// family's name; then it is the number of members.
    pub count: u64,
    /// The things that are counted.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) counted: Counted,
    /// The time from the signal or the call to the end of the last of them; the whole shutdown for a leaked run.
    pub after: Duration,
}

/// The things that a line of a [`ShutdownReport`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Counted {
    Runs,
    /// Of a family.
    Members,
}

/// The result of an ordered shutdown, task by task.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// The time from the signal or the call to the report: the drain and the ordered shutdown.
    pub duration: Duration,
    /// The time of the drain before the ordered shutdown; a part of `duration`. Zero without a drain.
    pub drained: Duration,
    /// The longest time that was allowed, from the signal or the call.
    pub deadline: Duration,
    /// The outcomes of the tasks that were alive when the ordered shutdown began, in the order of the stop requests. The
    /// runs that a task owns follow it.
    pub tasks: Vec<ShutdownEntry>,
    /// The tasks that requested the shutdown from inside and wait for this report. They are neither stopped nor waited for,
    /// and have no line.
    pub asked_by: Vec<Arc<str>>,
    /// The reason why the manager shut itself down; `None` if a caller requested it.
    pub cause: Option<ShutdownCause>,
}

/// The reason why a manager shut itself down: a task was given up whose [`Escalation`](crate::policy::Escalation) says so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShutdownCause {
    /// The task.
    pub task: Arc<str>,
    /// The reason why it was given up.
    pub reason: &'static str,
}

impl fmt::Display for ShutdownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} was given up: {}", Plain(&self.task), self.reason)
    }
}

impl std::error::Error for ShutdownCause {}

impl ShutdownReport {
    /// Returns the number of tasks and runs that ended with this outcome.
    pub fn count(&self, outcome: ShutdownOutcome) -> u64 {
        self.tasks.iter().filter(|task| task.outcome == outcome).map(|task| task.count).sum()
    }

    /// Returns true if a caller requested the shutdown and everything ended by itself.
    pub fn is_clean(&self) -> bool {
        self.cause.is_none() && !self.tasks.iter().any(|task| task.outcome.is_forced())
    }

    /// Returns an exit code for the process:
    ///
    /// - 0 if everything ended by itself.
    /// - 1 if something had to be dropped, or the manager shut itself down.
    /// - 2 if something could not even be dropped.
    pub fn exit_code(&self) -> u8 {
        if self.count(ShutdownOutcome::Leaked) > 0 { 2 } else { u8::from(!self.is_clean()) }
    }

    /// Ends the process with the [exit code](Self::exit_code), also if a thread is blocked.
    ///
    /// A return from `main` drops the runtime, which waits for work that blocks its thread. This call does not wait, and runs no destructor.
    /// Close pools and await [`Telemetry::shutdown`](crate::Telemetry::shutdown) before it.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let tasks = otel_tasks::TaskManager::new();
    /// let report = tasks.run_until(otel_tasks::shutdown_signal()).await;
    /// println!("{report}");
    /// report.exit()
    /// # }
    /// ```
    pub fn exit(&self) -> ! {
        std::process::exit(self.exit_code().into())
    }
}

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutdown took {:.1?} of {:.1?}", self.duration, self.deadline)?;
        if !self.drained.is_zero() {
            write!(f, ", drained for {:.1?}", self.drained)?;
        }
        f.write_str(":")?;
        for &outcome in ShutdownOutcome::ALL {
            let separator = if outcome == ShutdownOutcome::Clean { "" } else { "," };
            write!(f, "{separator} {} {}", self.count(outcome), outcome.as_str().replace('_', " "))?;
        }
        if let Some(cause) = &self.cause {
            write!(f, "\n  because {cause}")?;
        }
        if !self.asked_by.is_empty() {
            write!(f, "\n  asked for by {}, which continues", Plain(self.asked_by.join(", ")))?;
        }
        for task in &self.tasks {
            write!(
                f,
                "\n  {:<11} {:<28} {:<10} {:<9}",
                task.outcome.as_str(),
                Plain(&task.name),
                task.category.as_str(),
                task.priority.as_str(),
            )?;
            if task.outcome != ShutdownOutcome::NotRunning {
                write!(f, " after {:.1?}", task.after)?;
            }
            if task.count > 1 {
                let counted = match task.counted {
                    Counted::Runs => "runs",
                    Counted::Members => "members",
                };
                write!(f, " ({} {counted})", task.count)?;
            }
            if let Some(owner) = &task.owner {
                write!(f, " of {}", Plain(owner))?;
            }
        }
        Ok(())
    }
}

/// The longest time that the report may take to write.
const PRINT_WITHIN: Duration = Duration::from_secs(1);
/// The longest time that the telemetry may take to flush: its own limit, and a little more.
const FLUSH_WITHIN: Duration = Duration::from_millis(1_200);
/// The longest time that the buffer of stdout may take to write.
const STDOUT_WITHIN: Duration = Duration::from_millis(300);

/// The use of a report that no caller can receive, because the thread that waits for it is blocked. For example, a task that never
/// returns blocks a current-thread runtime.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum LastResort {
    /// The report is written to stderr. The default.
    #[default]
    Print,
    /// The report is written to stderr, telemetry gets one second to flush, and the process ends with
    /// [`ShutdownReport::exit_code`].
    ///
    /// A thread of its own does this, which calls no code of yours. So the process also ends if its stderr or a subscriber blocks forever.
    /// If the thread of a caller of [`run_until`](crate::TaskManager::run_until) does not act on a signal within a second, that
    /// thread begins the shutdown.
    Exit,
    /// The function is called with the report, on the watchdog's thread. If it panics, the report is written to stderr.
    Call(Arc<dyn Fn(&ShutdownReport) + Send + Sync>),
}

impl fmt::Debug for LastResort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Print => "Print",
            Self::Exit => "Exit",
            Self::Call(_) => "Call(..)",
        })
    }
}

impl LastResort {
    /// Performs it. Returns the panic of the user's function.
    pub(crate) fn run(&self, report: &ShutdownReport) -> Option<Panic> {
        let print = || say_within(PRINT_WITHIN, cannot_receive(report));
        match self {
            Self::Print => print(),
            Self::Exit => end_process(&cannot_receive(report), report.exit_code()),
            Self::Call(call) => {
                let caught = catch(true, || call(report)).err()?;
                print();
                return Some(caught.panic.clone());
            }
        }
        None
    }
}

/// The line about a report that no caller can receive.
pub(crate) fn cannot_receive(report: &ShutdownReport) -> String {
    format!("otel-tasks: nobody can receive the report, its thread is blocked; {report}")
}

/// Writes a line to stderr, flushes the telemetry, and ends the process: within three seconds, whatever is blocked. Returns only if
/// another thread ends the process already.
pub(crate) fn end_process(line: &str, code: u8) {
    static ENDS: AtomicBool = AtomicBool::new(false);
    if ENDS.swap(true, SeqCst) {
        return;
    }
    // The blocked thread may hold the lock of stderr, and no process may read the pipe behind it.
    say_within(PRINT_WITHIN, line.to_owned());
    aside(FLUSH_WITHIN, Box::new(crate::emit::flush_before_exit));
    // The exit of a process flushes stdout, unless it is locked. It is flushed here, within its time, and stays locked.
    let flush = || {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.flush();
        std::mem::forget(stdout);
    };
    aside(STDOUT_WITHIN, Box::new(flush));
    std::process::exit(code.into());
}
