//! The signals that ask a process to end.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use tokio::{runtime::Handle, sync::Notify};

use crate::{contract::SCOPE, run::catch};

/// Listens for SIGINT (Ctrl-C) and, on Unix, SIGTERM, from this call on: a signal that comes before the answer is awaited
/// is not lost. Completes on the first. A caller that waits for a shutdown already listens from this call on, too.
///
/// Where a handler cannot be installed the error is logged and that signal is not waited for.
///
/// # Panics
/// Outside a tokio runtime, and on one without I/O (`enable_io` or `enable_all`). The message says what is missing.
///
/// # Cancel safety
/// Cancel safe; but once tokio listens for a signal, its default action stays off for the rest of the process.
#[track_caller]
pub fn shutdown_signal() -> ShutdownSignal {
    let signal = ShutdownSignal::listen();
    if !is_listening() {
        let mut waiting = lock(&WAITING);
        // Before this returns, because a signal may come before a waiting caller is polled.
        for handed in waiting.drain(..).filter_map(|handed| handed.upgrade()) {
            *lock(&handed) = Some(Pair::listen());
        }
        LISTENS.store(true, SeqCst);
        drop(waiting);
        ASKED.notify_waiters();
    }
    signal
}

/// Wakes the waiters for [`LISTENS`].
static ASKED: Notify = Notify::const_new();

/// True if this process has asked for signals, and their default action is off. Set under the lock of [`WAITING`].
static LISTENS: AtomicBool = AtomicBool::new(false);

/// The callers that wait until this process asks for signals.
static WAITING: Mutex<Vec<Weak<Mutex<Option<Pair>>>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens for signals beside the caller's own listener, once the process has asked for signals.
pub(crate) fn further_signals() -> FurtherSignals {
    let mut signals = FurtherSignals { sigterms: SIGTERMS.load(SeqCst), ..FurtherSignals::default() };
    if !is_listening() {
        let mut waiting = lock(&WAITING);
        if !is_listening() {
            waiting.retain(|handed| handed.strong_count() > 0);
            waiting.push(Arc::downgrade(&signals.handed));
        }
    }
    signals.listen();
    signals
}

/// Returns true if this process has asked for signals.
pub(crate) fn is_listening() -> bool {
    LISTENS.load(SeqCst)
}

/// Returns what listens for signals; `None` if the process has not asked for any, so that their default action is on.
#[cfg(feature = "otlp-http")]
pub(crate) fn listened_signals() -> Option<fn() -> FurtherSignals> {
    LISTENS.load(SeqCst).then_some(further_signals as fn() -> FurtherSignals)
}

/// Listeners beside the caller's own. Without any until the process asks for signals.
#[derive(Default)]
pub(crate) struct FurtherSignals {
    /// Filled by the first call of [`shutdown_signal`], if that comes after this was made.
    handed: Arc<Mutex<Option<Pair>>>,
    /// Polled for the first time when the caller's wait is over: only then it certainly shows the cause of the end. If it were polled
    /// meanwhile, it might receive a signal a moment after the caller.
    signals: Option<ShutdownSignal>,
    /// Polled beside the caller's wait.
    beside: Option<ShutdownSignal>,
    /// [`SIGTERMS`] when the wait began.
    sigterms: usize,
    /// The signals that completed the last [`FurtherSignals::next`].
    last: Seen,
}

/// Both listeners of one [`FurtherSignals`].
struct Pair {
    signals: ShutdownSignal,
    beside: ShutdownSignal,
}

impl Pair {
    /// Listens inside a runtime; to nothing if that has no I/O. Nothing is logged: the call that asked for signals has done it.
    fn listen() -> Self {
        let listen = || {
            let heard = ShutdownSignal::try_listen().filter_map(|(_, signal)| signal?.ok());
            ShutdownSignal { signals: heard.collect() }
        };
        Self { signals: listen(), beside: listen() }
    }
}

/// The number of [`ShutdownSignal`]s that have completed with a SIGTERM, also before this listener began.
static SIGTERMS: AtomicUsize = AtomicUsize::new(0);

/// The signals that have come, each kind once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    interrupt: bool,
    terminate: bool,
}

/// The reason why a wait beside signals is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The wait itself has ended.
    Itself,
    /// A second signal came.
    BySignals,
}

impl Seen {
    /// Returns true if there was a SIGTERM, and no Ctrl-C beside it: that would be a second signal.
    pub(crate) fn is_sigterm_alone(self) -> bool {
        self.terminate && !self.interrupt
    }

    pub(crate) fn is_any(self) -> bool {
        self.terminate || self.interrupt
    }
}

impl FurtherSignals {
    fn listen(&mut self) {
        if self.signals.is_some() || !is_listening() {
            return;
        }
        let handed = lock(&self.handed).take();
        let pair = handed.or_else(|| Handle::try_current().is_ok().then(Pair::listen));
        if let Some(Pair { signals, beside }) = pair {
            (self.signals, self.beside) = (Some(signals), Some(beside));
        }
    }

    /// Waits for `end`, and listens as soon as anybody in the process does.
    ///
    /// The first signal is left to `end`, which may be about to act on it. A second one ends the wait: a process must not be deaf
    /// because something else took its signals.
    pub(crate) async fn beside(&mut self, end: impl Future) -> Ended {
        let mut end = pin!(end);
        let mut asked = pin!(ASKED.notified());
        // Enabled before the check, so that a request in between still wakes this future.
        asked.as_mut().enable();
        let mut seen = Seen::default();
        let ended = poll_fn(|cx| {
            let ended = end.as_mut().poll(cx).is_ready();
            let _ = asked.as_mut().poll(cx);
            self.listen();
            let mut again = false;
            // Until there is none: only then are we woken by the next.
            while let Some(new) =
                self.beside.as_mut().map(|signals| signals.poll_seen(cx)).filter(|new| new.is_any())
            {
                again |= seen.is_any() || new.interrupt && new.terminate;
                seen.interrupt |= new.interrupt;
                seen.terminate |= new.terminate;
            }
            match (ended, again) {
                (true, _) => Poll::Ready(Ended::Itself),
                (false, true) => Poll::Ready(Ended::BySignals),
                (false, false) => Poll::Pending,
            }
        })
        .await;
        self.beside = None;
        ended
    }

    /// Returns the signals that have come, and forgets them: the caller acts on them.
    pub(crate) fn take_seen(&mut self) -> Seen {
        let mut cx = Context::from_waker(Waker::noop());
        let seen = self.signals.as_mut().map_or_else(Seen::default, |signals| signals.poll_seen(&mut cx));
        let is_unseen = !seen.is_any() && SIGTERMS.load(SeqCst) != self.sigterms;
        if is_unseen { Seen { terminate: true, ..seen } } else { seen }
    }

    /// Waits for the next signal, and listens as soon as anybody in the process does.
    pub(crate) async fn next(&mut self) {
        let mut asked = pin!(ASKED.notified());
        // Enabled before the check, so that a request in between still wakes this future.
        asked.as_mut().enable();
        poll_fn(|cx| {
            let _ = asked.as_mut().poll(cx);
            self.listen();
            self.last = self.signals.as_mut().map_or_else(Seen::default, |signals| signals.poll_seen(cx));
            if self.last.is_any() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(crate) fn last_seen(&self) -> Seen {
        self.last
    }
}

/// A signal that asks the process to end.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Interrupt,
    #[cfg(unix)]
    Terminate,
}

/// The future of [`shutdown_signal`]. It may be awaited again, for the next signal.
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct ShutdownSignal {
    signals: Vec<(Kind, OsSignal)>,
}

#[cfg(unix)]
type OsSignal = tokio::signal::unix::Signal;
#[cfg(windows)]
type OsSignal = tokio::signal::windows::CtrlC;

impl ShutdownSignal {
    #[track_caller]
    fn listen() -> Self {
        check_runtime();
        let mut signals = Vec::new();
        for (name, signal) in Self::try_listen() {
            match signal {
                Some(Ok(signal)) => signals.push(signal),
                Some(Err(error)) => tracing::warn!(target: SCOPE, %error, "cannot listen for {name}"),
                None => panic!(
                    "the tokio runtime has no I/O, which `shutdown_signal` needs: call `enable_io()` or `enable_all()` \
                     on its `Builder`"
                ),
            }
        }
        Self { signals }
    }

    /// Each signal by its name, inside a runtime. `None` if the runtime has no I/O: there is no way to find out but to try.
    #[cfg(unix)]
    fn try_listen() -> impl Iterator<Item = (&'static str, Option<std::io::Result<(Kind, OsSignal)>>)> {
        use tokio::signal::unix::{SignalKind, signal};
        let wanted = [
            ("SIGINT", Kind::Interrupt, SignalKind::interrupt()),
            ("SIGTERM", Kind::Terminate, SignalKind::terminate()),
        ];
        wanted.into_iter().map(|(name, kind, number)| {
            (name, catch(true, || signal(number)).ok().map(|signal| signal.map(|signal| (kind, signal))))
        })
    }

    #[cfg(windows)]
    fn try_listen() -> impl Iterator<Item = (&'static str, Option<std::io::Result<(Kind, OsSignal)>>)> {
        let signal = catch(true, tokio::signal::windows::ctrl_c).ok();
        std::iter::once(("Ctrl-C", signal.map(|signal| signal.map(|signal| (Kind::Interrupt, signal)))))
    }
}

impl ShutdownSignal {
    fn poll_seen(&mut self, cx: &mut Context<'_>) -> Seen {
        let mut seen = Seen::default();
        // Each is polled, so that each wakes us.
        for (kind, signal) in &mut self.signals {
            if signal.poll_recv(cx).is_ready() {
                match kind {
                    Kind::Interrupt => seen.interrupt = true,
                    #[cfg(unix)]
                    Kind::Terminate => seen.terminate = true,
                }
            }
        }
        seen
    }
}

#[track_caller]
fn check_runtime() {
    assert!(
        Handle::try_current().is_ok(),
        "`shutdown_signal` needs a tokio runtime: call it inside `#[tokio::main]` or `Runtime::block_on`, or under \
         `Runtime::enter`"
    );
}

impl Future for ShutdownSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let seen = self.poll_seen(cx);
        if seen.is_sigterm_alone() {
            SIGTERMS.fetch_add(1, SeqCst);
        }
        if seen.is_any() { Poll::Ready(()) } else { Poll::Pending }
    }
}
