//! A signal that asks the process to end while its telemetry does: it is not waited for as long any more.
//!
//! Only in a process that has listened for signals before: there their default action is off, and nobody else may be left who
//! listens. Elsewhere the default action stays.

use std::time::Duration;

use tokio::{runtime::Runtime, sync::oneshot};

use crate::engine::{FurtherSignals, listened_signals};

/// Listens on a runtime of its own: the program's may be blocked, or gone.
pub(super) struct Hurry {
    signals: FurtherSignals,
    runtime: Background,
}

/// A runtime that may be dropped anywhere.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Hurry {
    /// Listens from this call on; `None` if the process never listened for signals, or if there is no runtime to listen on.
    pub(super) fn listen() -> Option<Self> {
        let listen = listened_signals()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let signals = {
            let _entered = runtime.enter();
            listen()
        };
        Some(Self { signals, runtime: Background(Some(runtime)) })
    }

    /// Waits for a signal and then for `wait` more; false as soon as `ended` is.
    pub(super) fn was_cut(mut self, ended: oneshot::Receiver<()>, wait: Duration) -> bool {
        let Some(runtime) = &self.runtime.0 else { return false };
        let signals = &mut self.signals;
        runtime.block_on(async move {
            let cut = async {
                signals.next().await;
                tokio::time::sleep(wait).await;
            };
            tokio::select! {
                biased;
                _ = ended => false,
                () = cut => true,
            }
        })
    }
}
