//! The end of a process whose threads are blocked: a thread that receives its signals, and performs [`LastResort::Exit`].
//!
//! It calls no code of the user's: no subscriber, no destructor of a task, no waker. The watchdog's thread calls some of these, and each of them
//! may block forever.
//!
//! Its runtime receives signals for the process. tokio passes a signal on to all listeners, so a caller on a thread of its own receives it while
//! every worker is blocked. If the caller is blocked too, the thread begins the shutdown itself.
//!
//! [`LastResort::Exit`]: crate::shutdown::LastResort::Exit

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    runtime::Runtime,
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    engine::{
        Shared, later,
        shutdown::{
            os_signal::{further_signals, is_listening},
            report::{LastResort, cannot_receive, end_process},
            sequence,
        },
    },
    threads::start,
};

/// The interval of the checks during a shutdown.
const TICK: Duration = Duration::from_millis(50);
/// The time that a caller has to act on a signal. After it, its thread counts as blocked.
const CALLERS_TURN: Duration = Duration::from_secs(1);
/// The time after the deadline in which the watchdog may still write the report.
const WATCHDOGS_TURN: Duration = Duration::from_secs(2);
/// The time after which a process is aborted that another thread is ending.
const END_WITHIN: Duration = Duration::from_secs(6);

/// The guard of one waiting caller. Its thread ends when it is dropped.
pub(crate) struct Guard {
    caller: Arc<Caller>,
    _over: DropGuard,
}

/// The thread of the caller, as the guard sees it.
#[derive(Default)]
struct Caller {
    asked: Notify,
    answered: AtomicBool,
}

/// The reason why the thread continues.
enum Next {
    /// The ordered shutdown has begun.
    Begun,
    /// The process was asked to end, and the caller does not act; with true after a SIGTERM.
    Unheard(bool),
    Over,
}

struct Watch {
    shared: Weak<Shared>,
    begun: watch::Receiver<bool>,
    caller: Arc<Caller>,
    over: CancellationToken,
    exits: bool,
    /// The time since which the shutdown has been overdue, or its report has been undelivered.
    overdue_since: Option<StdInstant>,
    undelivered_since: Option<StdInstant>,
}

impl Guard {
    /// Begins to guard a caller. `None` if nothing is to be done: the process receives no signals, and shall not be ended.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Option<Self> {
        let exits = matches!(shared.settings.last_resort, LastResort::Exit);
        if !exits && !is_listening() {
            return None;
        }
        let (caller, over) = (Arc::<Caller>::default(), CancellationToken::new());
        let watch = Watch {
            shared: Arc::downgrade(shared),
            begun: shared.begun.subscribe(),
            caller: caller.clone(),
            over: over.clone(),
            exits,
            overdue_since: None,
            undelivered_since: None,
        };
        // Without a thread or a runtime the caller is on its own, as if its threads could not block.
        start("otel-tasks-guard", Box::new(move || watch.run())).ok()?;
        Some(Self { caller, _over: over.drop_guard() })
    }

    /// Waits for `future`, and shows meanwhile that this thread is not blocked.
    pub(crate) async fn answering<F: Future>(guard: Option<&Self>, future: F) -> F::Output {
        let Some(Self { caller, .. }) = guard else { return future.await };
        let mut future = pin!(future);
        loop {
            caller.answered.store(true, SeqCst);
            tokio::select! {
                biased;
                output = &mut future => return output,
                () = caller.asked.notified() => {}
            }
        }
    }
}

impl Caller {
    /// Returns true if the caller is polled within its time.
    async fn answers(&self) -> bool {
        self.answered.store(false, SeqCst);
        self.asked.notify_one();
        sleep(CALLERS_TURN).await;
        self.answered.load(SeqCst)
    }
}

impl Watch {
    fn run(mut self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        match runtime.block_on(self.next()) {
            Next::Over => return,
            Next::Begun => {}
            // Outside of this runtime, which is not the manager's.
            Next::Unheard(was_sigterm) => {
                if let Some(shared) = self.shared.upgrade() {
                    let drain = if was_sigterm { shared.settings.drain } else { Duration::ZERO };
                    sequence::begin_unheard(&shared, drain);
                }
            }
        }
        while self.waits(&runtime) {
            self.check();
        }
    }

    async fn next(&mut self) -> Next {
        let mut signals = further_signals();
        let (mut begun, over) = (self.begun.clone(), self.over.clone());
        let unheard = async {
            loop {
                signals.next().await;
                let seen = signals.last_seen();
                if !self.caller.answers().await && self.exits {
                    return seen.is_sigterm_alone();
                }
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => Next::Over,
            _ = begun.wait_for(|begun| *begun) => Next::Begun,
            was_sigterm = unheard => Next::Unheard(was_sigterm),
        }
    }

    /// Waits for the next check, on the runtime: further signals pass through it. Returns false if the caller has its report.
    fn waits(&self, runtime: &Runtime) -> bool {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.over.cancelled() => false,
                () = sleep(TICK) => true,
            }
        })
    }

    /// Ends the process if the report is overdue, or no caller can receive it.
    fn check(&mut self) {
        let Some(shared) = self.shared.upgrade().filter(|_| self.exits) else { return };
        let Some(sequence) = shared.sequence.get() else { return };
        if let Some(report) = sequence.report() {
            if sequence.is_over(&shared) {
                self.undelivered_since = None;
            } else if self.undelivered_since.get_or_insert_with(StdInstant::now).elapsed()
                >= sequence::LAST_RESORT_AFTER
            {
                end(&cannot_receive(&report), report.exit_code());
            }
            return;
        }
        let Some(runtime) = shared.existing_runtime() else { return };
        // The manager's clock, which may be a test's.
        let is_due = {
            let _inside = runtime.handle.enter();
            later(sequence.end(), WATCHDOGS_TURN) <= Instant::now()
        };
        if !is_due || !sequence.is_awaited(&shared) {
            self.overdue_since = None;
        } else if self.overdue_since.get_or_insert_with(StdInstant::now).elapsed() >= TICK {
            let report = sequence.make_report(&shared);
            end(&format!("otel-tasks: the shutdown does not end; {report}"), report.exit_code());
        }
    }
}

fn end(line: &str, code: u8) {
    end_process(line, code);
    // Another thread ends the process. It may be held by an exit handler of a library.
    std::thread::sleep(END_WITHIN);
    std::process::abort();
}
