//! The runtime of the manager's own work: if it is gone, and if it has a timer.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{runtime::Handle, task::JoinHandle};

use crate::{error::RegisterError, run::catch};

/// The runtime of a manager.
#[derive(Default)]
pub(crate) struct Home {
    runtime: ArcSwapOption<Runtime>,
    /// True if the runtime has a timer and is not known to be gone. Spawns read it.
    usable: AtomicBool,
    moving: Mutex<()>,
}

/// A runtime, and what is known of it.
pub(crate) struct Runtime {
    pub(crate) handle: Handle,
    has_time: OnceLock<bool>,
    /// A task that never ends by itself. If it is finished, its runtime was shut down. Created when the check first needs it.
    sentinel: OnceLock<JoinHandle<()>>,
    /// True if it was reported to be gone.
    told: AtomicBool,
}

/// The reason why there is no runtime to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The manager was built outside a runtime, and the call is outside one too.
    Runtime,
    /// The runtime has no timer.
    Time,
    /// The manager's runtime is gone, and the call is outside a runtime.
    Gone,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runtime => {
                "there is no tokio runtime: the task manager was built outside one, and so is this call; call it inside \
                 `#[tokio::main]` or `Runtime::block_on`, or under `Runtime::enter`"
            }
            Self::Time => {
                "the tokio runtime has no timer, which the task manager needs: call `enable_time()` or `enable_all()` on its \
                 `Builder`"
            }
            Self::Gone => {
                "the tokio runtime of the task manager was shut down, and this call is outside a runtime: call it inside \
                 `Runtime::block_on`, or under `Runtime::enter`"
            }
        })
    }
}

impl From<Missing> for RegisterError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Runtime => Self::NoRuntime,
            Missing::Time => Self::NoTime,
            Missing::Gone => Self::RuntimeGone,
        }
    }
}

/// Returns true if a runtime has a timer. Tokio has no query for it, so this is a trial.
pub(super) fn has_time(handle: &Handle) -> bool {
    let _inside = handle.enter();
    catch(true, || drop(tokio::time::sleep(Duration::ZERO))).is_ok()
}

impl Runtime {
    pub(super) fn new(handle: Handle) -> Arc<Self> {
        Arc::new(Self {
            handle,
            has_time: OnceLock::new(),
            sentinel: OnceLock::new(),
            told: AtomicBool::new(false),
        })
    }

    /// Spawns work of the manager's own, which is rare. Boxed, so that tokio's part is compiled once for all.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
        self.handle.spawn(work)
    }

    pub(super) fn has_time(&self) -> bool {
        *self.has_time.get_or_init(|| has_time(&self.handle))
    }

    /// Returns true if the runtime was shut down. The runtime of the caller was not.
    pub(crate) fn is_gone(&self, here: Option<&Handle>) -> bool {
        match self.sentinel.get() {
            Some(sentinel) => sentinel.is_finished(),
            None if here.is_some_and(|here| here.id() == self.handle.id()) => false,
            // A runtime that was shut down drops it at once.
            None => self.sentinel.get_or_init(|| self.spawn(std::future::pending())).is_finished(),
        }
    }

    /// Returns true if the runtime was not shut down, and has a timer.
    pub(super) fn is_sound(&self, here: Option<&Handle>) -> bool {
        !self.is_gone(here) && self.has_time()
    }

    /// Returns true if the runtime was reported to be gone.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(SeqCst)
    }

    /// Returns whether it is news that the runtime is gone.
    pub(super) fn tell(&self) -> bool {
        !self.told.swap(true, SeqCst)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(sentinel) = self.sentinel.get() {
            sentinel.abort();
        }
    }
}

impl Home {
    /// The runtime of the caller, if there is one. It is tried when it is first needed.
    pub(crate) fn here() -> Self {
        let runtime = Handle::try_current().ok().map(Runtime::new);
        Self { runtime: ArcSwapOption::new(runtime), ..Self::default() }
    }

    pub(super) fn runtime(&self) -> Option<Arc<Runtime>> {
        self.runtime.load_full()
    }

    /// Returns true if the runtime is there and has a timer. Counts no reference to it, because all threads share that count.
    pub(super) fn is_sound(&self, here: Option<&Handle>) -> bool {
        self.runtime.load().as_ref().is_some_and(|runtime| runtime.is_sound(here))
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(SeqCst)
    }

    pub(super) fn set_usable(&self, usable: bool) {
        self.usable.store(usable, SeqCst);
    }

    /// Keeps two threads from moving the manager at once.
    pub(super) fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn move_to(&self, runtime: Arc<Runtime>) {
        self.runtime.store(Some(runtime));
        self.set_usable(true);
    }
}
