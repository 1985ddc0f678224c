//! The signals that ask a process to end.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::{Context, Poll, Waker},
};

use crate::contract::SCOPE;

/// Listens for SIGINT (Ctrl-C) and, on Unix, SIGTERM, from this call on: a signal that comes before the answer is awaited
/// is not lost. Completes on the first.
///
/// Where a handler cannot be installed the error is logged and that signal is not waited for.
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Cancel safety
/// Cancel safe; but once tokio listens for a signal, its default action stays off for the rest of the process.
#[track_caller]
pub fn shutdown_signal() -> ShutdownSignal {
    LISTENS.store(true, SeqCst);
    ShutdownSignal::listen()
}

/// Whether this process has asked for signals, and their default action is off.
static LISTENS: AtomicBool = AtomicBool::new(false);

/// Listens for signals beside the caller's own listener, if the process has asked for signals; otherwise it never completes.
pub(crate) fn further_signals() -> FurtherSignals {
    FurtherSignals(LISTENS.load(SeqCst).then(ShutdownSignal::listen))
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
        let wanted = [("SIGINT", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate())];
        let signals = wanted.into_iter().filter_map(|(name, kind)| heard(name, signal(kind))).collect();
        Self { signals }
    }

    #[cfg(windows)]
    #[track_caller]
    fn listen() -> Self {
        Self { signals: heard("Ctrl-C", tokio::signal::windows::ctrl_c()).into_iter().collect() }
    }
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
