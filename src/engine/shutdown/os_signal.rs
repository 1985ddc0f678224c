//! The signals that ask a process to end.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::{Context, Poll, Waker},
};

use tokio::runtime::Handle;

use crate::contract::SCOPE;
#[cfg(unix)]
use crate::run::catch;

/// Listens for SIGINT (Ctrl-C) and, on Unix, SIGTERM, from this call on: a signal that comes before the answer is awaited
/// is not lost. Completes on the first.
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
    LISTENS.store(true, SeqCst);
    signal
}

/// Whether this process has asked for signals, and their default action is off.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Listens for signals beside the caller's own listener, if the process has asked for signals; otherwise it never completes.
pub(crate) fn further_signals() -> FurtherSignals {
    let listens = LISTENS.load(SeqCst) && Handle::try_current().is_ok();
    FurtherSignals(listens.then(ShutdownSignal::listen))
}

/// The future of [`further_signals`].
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct FurtherSignals(Option<ShutdownSignal>);

impl FurtherSignals {
    /// Forgets a signal that has come: the caller has acted on it.
    pub(crate) fn pass_over(&mut self) {
        if let Some(signals) = &mut self.0 {
            let _ = Pin::new(signals).poll(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Future for FurtherSignals {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Pending, |signals| Pin::new(signals).poll(cx))
    }
}

/// The future of [`shutdown_signal`]. It may be awaited again, for the next signal.
#[must_use = "futures do nothing unless awaited"]
#[derive(Debug)]
pub struct ShutdownSignal {
    #[cfg(unix)]
    signals: Vec<tokio::signal::unix::Signal>,
    #[cfg(windows)]
    signals: Vec<tokio::signal::windows::CtrlC>,
}

impl ShutdownSignal {
    #[cfg(unix)]
    #[track_caller]
    fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        check_runtime();
        let mut signals = Vec::new();
        for (name, kind) in [("SIGINT", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate())] {
            // There is no way to ask whether the runtime has I/O but to try.
            match catch(true, || signal(kind)) {
                Ok(signal) => signals.extend(heard(name, signal)),
                Err(_) => panic!(
                    "the tokio runtime has no I/O, which `shutdown_signal` needs: call `enable_io()` or `enable_all()` \
                     on its `Builder`"
                ),
            }
        }
        Self { signals }
    }

    #[cfg(windows)]
    #[track_caller]
    fn listen() -> Self {
        check_runtime();
        Self { signals: heard("Ctrl-C", tokio::signal::windows::ctrl_c()).into_iter().collect() }
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

fn heard<T>(name: &str, signal: std::io::Result<T>) -> Option<T> {
    signal.inspect_err(|error| tracing::warn!(target: SCOPE, %error, "cannot listen for {name}")).ok()
}

impl Future for ShutdownSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Each is polled, so that each wakes us.
        let polled: Vec<_> = self.signals.iter_mut().map(|signal| signal.poll_recv(cx).is_ready()).collect();
        if polled.contains(&true) { Poll::Ready(()) } else { Poll::Pending }
    }
}
