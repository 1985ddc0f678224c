//! The runtime that connections live on.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::threads;

/// Starts a thread of which nothing is exported.
pub(super) fn start_suppressed(name: &str, run: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
    let run = move || {
        let _suppressed = opentelemetry::Context::enter_telemetry_suppressed_scope();
        run();
    };
    threads::start(name, Box::new(run))
}

/// One thread of its own, so that exporting works when the application's runtime is single-threaded, blocked or gone. It
/// ends when the last exporter and the [`Telemetry`](super::Telemetry) are gone.
#[derive(Debug)]
pub(super) struct ExportRuntime {
    handle: Handle,
    _running: oneshot::Sender<()>,
}

impl ExportRuntime {
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel::<()>();
        // HTTP and gRPC clients report of themselves while exporting, which must not be exported either.
        start_suppressed(
            "otel-tasks-export",
            Box::new(move || {
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            }),
        )?;
        Ok(Arc::new(Self { handle, _running: running }))
    }

    /// Makes this the current runtime of the thread.
    pub(super) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.handle.enter()
    }

    /// Runs `call` on the calling thread until it ends or `limit` has passed; `None` for the latter.
    pub(super) fn block_on<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Option<T> {
        self.handle.block_on(async {
            let mut call = pin!(call);
            let mut alarm = pin!(tokio::time::sleep(limit));
            poll_fn(|cx| match call.as_mut().poll(cx) {
                Poll::Ready(value) => Poll::Ready(Some(value)),
                Poll::Pending => alarm.as_mut().poll(cx).map(|()| None),
            })
            .await
        })
    }
}
