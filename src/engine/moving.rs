//! The search of a manager for the runtime of its own work: of the drivers of registered tasks, the monitor and the shutdown.
//!
//! It is the runtime in which the manager was built or first used. If that runtime is gone, the next call inside another runtime
//! moves the manager there; a manager in a `static` may outlive a runtime. Registered tasks do not move: they
//! were dropped with their runtime. Short tasks run on the runtime of their caller.

use std::{
    panic::Location,
    sync::{Arc, PoisonError},
};

use tokio::runtime::Handle;

use crate::engine::{
    Shared, announce,
    home::{Missing, Runtime, has_time},
    start_monitor,
};
use crate::run::Refusal;

impl Shared {
    /// The runtime of the manager's own work, whatever became of it.
    pub(crate) fn existing_runtime(&self) -> Option<Arc<Runtime>> {
        self.home.runtime()
    }

    /// Does what [`settle`](Self::settle) does, for a call that does not need the runtime itself.
    pub(crate) fn check_runtime(self: &Arc<Self>) -> Result<(), Missing> {
        let is_settled = self.home.is_usable() && self.home.is_sound(Handle::try_current().ok().as_ref());
        if is_settled { Ok(()) } else { self.settle().map(drop) }
    }

    /// The runtime to use for the manager's own work: its own, or that of the caller if its own is gone or has no timer.
    pub(crate) fn settle(self: &Arc<Self>) -> Result<Arc<Runtime>, Missing> {
        let here = Handle::try_current().ok();
        let before = self.existing_runtime();
        let is_gone = |runtime: &Runtime| runtime.is_gone(here.as_ref());
        if let Some(runtime) = before.as_ref().filter(|runtime| runtime.is_sound(here.as_ref())) {
            self.home.set_usable(true);
            return Ok(runtime.clone());
        }
        let Some(here) = &here else {
            return Err(match before {
                None => Missing::Runtime,
                Some(runtime) if is_gone(&runtime) => Missing::Gone,
                Some(_) => Missing::Time,
            });
        };
        let runtime = Runtime::new(here.clone());
        if !runtime.has_time() {
            return Err(Missing::Time);
        }
        {
            let _moving = self.home.moving();
            // Another thread may have been faster.
            let held = self.existing_runtime().filter(|runtime| runtime.is_sound(Some(here)));
            if let Some(held) = held {
                return Ok(held);
            }
            self.home.move_to(runtime.clone());
        }
        if let Some(before) = before {
            self.moved_from(&before);
        }
        Ok(runtime)
    }

    /// Returns the runtime for the manager's own work. If only a runtime is left that is gone, it is returned: tasks that are spawned there
    /// are dropped at once.
    ///
    /// # Panics
    /// If there is no runtime at all.
    #[track_caller]
    pub(crate) fn runtime(self: &Arc<Self>) -> Arc<Runtime> {
        match self.settle() {
            Ok(runtime) => runtime,
            Err(missing) => match self.existing_runtime() {
                Some(runtime) => runtime,
                None => panic!("{missing}"),
            },
        }
    }

    /// The runtime for a short task: that of the caller, or else the manager's.
    ///
    /// # Errors
    /// [`Refusal::RuntimeGone`] if the manager's was shut down, and the caller is outside a runtime.
    ///
    /// # Panics
    /// If there is none, or the manager's has no timer.
    #[inline]
    #[track_caller]
    pub(crate) fn runtime_here(self: &Arc<Self>) -> Result<Handle, Refusal> {
        let here = Handle::try_current();
        // A caller outside a runtime does not know whether the manager's is still there.
        if !self.home.is_usable() || here.is_err() {
            match self.settle() {
                Ok(runtime) => return Ok(here.unwrap_or_else(|_| runtime.handle.clone())),
                Err(Missing::Gone) => return Err(Refusal::RuntimeGone),
                Err(missing) => panic!("{missing}"),
            }
        }
        here.map_err(|_| Refusal::RuntimeGone)
    }

    /// Checks that a task with a time limit can run on this runtime.
    ///
    /// # Panics
    /// If the runtime has no timer.
    #[track_caller]
    pub(crate) fn check_time(&self, here: &Handle) {
        let is_ours = self.existing_runtime().is_some_and(|runtime| runtime.handle.id() == here.id());
        if !is_ours && !has_time(here) {
            panic!("{}", Missing::Time);
        }
    }

    /// Checks that the manager can begin its work.
    ///
    /// # Panics
    /// If there is no runtime to use.
    #[track_caller]
    pub(crate) fn need_runtime(self: &Arc<Self>) {
        if let Err(missing) = self.check_runtime() {
            panic!("{missing}");
        }
    }

    /// As [`need_runtime`](Self::need_runtime), for a call whose future may be polled elsewhere.
    ///
    /// # Panics
    /// If there is a runtime and it has no timer.
    #[track_caller]
    pub(crate) fn will_need_runtime(self: &Arc<Self>) -> Call {
        if let Err(missing @ Missing::Time) = self.check_runtime() {
            panic!("{missing}");
        }
        Call { at: Location::caller() }
    }

    /// Cleans up after a move.
    fn moved_from(self: &Arc<Self>, before: &Runtime) {
        self.runtime_gone(before);
        self.watch.runtime_moved();
        let monitored = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if monitored {
            // It ended with its runtime.
            start_monitor(self);
        }
    }

    /// Reports once that a runtime is gone, with the tasks that were dropped with it.
    pub(crate) fn runtime_gone(&self, runtime: &Runtime) {
        if !runtime.tell() {
            return;
        }
        if self.existing_runtime().is_some_and(|current| std::ptr::eq(&*current, runtime)) {
            self.home.set_usable(false);
        }
        let mut names = Vec::new();
        for task in self.all_registered().iter() {
            // A driver that is stuck in a poll is not dropped yet.
            if task.is_driven() && !task.has_left() {
                task.runtime_gone();
            }
            if task.is_lost() {
                names.push(task.name().clone());
            }
        }
        if !names.is_empty() {
            announce::runtime_gone(&names);
        }
    }
}

/// The caller of a method that needs a runtime.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    at: &'static Location<'static>,
}

impl Call {
    /// Checks that the manager can begin its work now, where the future is polled.
    ///
    /// # Panics
    /// If it cannot; the message has the line of the call.
    pub(crate) fn check_start(self, shared: &Arc<Shared>) {
        if let Err(missing) = shared.check_runtime() {
            panic!("{missing} (called at {})", self.at);
        }
    }

    /// Checks that there is a runtime now, where the future is polled.
    ///
    /// # Panics
    /// If there is none; the message has the line of the call.
    pub(crate) fn check(self, shared: &Arc<Shared>) {
        match shared.check_runtime() {
            // The watchdog ends a shutdown without a runtime.
            Ok(()) | Err(Missing::Gone) => {}
            Err(missing) => panic!("{missing} (called at {})", self.at),
        }
    }
}
