//! What a manager's parts share: settings, cells, who is alive, what is registered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use opentelemetry::{Context as OtelContext, trace::TraceContextExt};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{Order, ShutdownReport, Supervised, TaskSpec, driver::Driver, tracker::Tracker};
use crate::{
    cell::TaskState,
    error::RegisterError,
    read::HealthThresholds,
    run::{Recorder, Task},
};

/// The first part of the names of the manager's own spans by default.
pub const DEFAULT_SPAN_PREFIX: &str = "bot";

pub(crate) struct Settings {
    pub(crate) span_prefix: Arc<str>,
    pub(crate) monitor_interval: Duration,
    pub(crate) shutdown_deadline: Duration,
    pub(crate) spawn_grace: Duration,
    pub(crate) thresholds: HealthThresholds,
}

pub(crate) struct Shared {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) settings: Settings,
    pub(crate) tracker: Tracker,
    /// The runtime everything runs on; set at build or by the first call inside one.
    runtime: std::sync::OnceLock<Handle>,
    started: AtomicBool,
    registered: Mutex<Registered>,
    pub(crate) monitor: Mutex<Option<AbortHandle>>,
    /// Names that were warned about, so that each is warned about once.
    pub(crate) warned: Mutex<std::collections::HashSet<Arc<str>>>,
    /// The shutdown, once it has begun: where its report will be.
    pub(crate) shutdown: Mutex<Option<watch::Receiver<Option<Arc<ShutdownReport>>>>>,
}

/// Written under one lock: what is registered is one fact.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) tasks: BTreeMap<Arc<str>, Arc<Supervised>>,
    /// Unregistered without being stopped.
    pub(crate) detached: Vec<Arc<Supervised>>,
}

impl Shared {
    pub(crate) fn new(recorder: Arc<Recorder>, settings: Settings) -> Arc<Self> {
        let shared = Arc::new(Self {
            recorder,
            settings,
            tracker: Tracker::default(),
            runtime: std::sync::OnceLock::new(),
            started: AtomicBool::new(false),
            registered: Mutex::default(),
            monitor: Mutex::default(),
            warned: Mutex::default(),
            shutdown: Mutex::default(),
        });
        if let Ok(handle) = Handle::try_current() {
            let _ = shared.runtime.set(handle);
        }
        shared
    }

    /// The runtime to spawn on.
    ///
    /// # Panics
    /// Where the manager was built outside a runtime and is used outside one too: tokio's own panic.
    #[track_caller]
    pub(crate) fn runtime(&self) -> &Handle {
        self.runtime.get_or_init(Handle::current)
    }

    pub(crate) fn existing_runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }

    pub(crate) fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn supervised(&self, name: &str) -> Option<Arc<Supervised>> {
        self.registered().tasks.get(name).cloned()
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started.load(SeqCst)
    }

    /// Begins every waiting task. Answers whether this was the first time.
    pub(crate) fn start_tasks(&self) -> bool {
        // Under the lock of the registrations: a task registered meanwhile sees one or the other.
        let registered = self.registered();
        let first = !self.started.swap(true, SeqCst);
        for task in registered.tasks.values() {
            task.order(Order::Start);
        }
        first
    }

    /// Registers a task and gives it a driver.
    #[track_caller]
    pub(crate) fn register(self: &Arc<Self>, task: Arc<Task>, spec: TaskSpec) -> Result<(), RegisterError> {
        let runtime = self.runtime().clone();
        let mut registered = self.registered();
        let name = task.identity.name.clone();
        if registered.tasks.contains_key(&name) {
            return Err(RegisterError::Duplicate { name: name.to_string() });
        }
        let place = Tracker::enter_driver(self, &task).ok_or(RegisterError::ShuttingDown)?;
        task.cell.set_state(Some(TaskState::Waiting));
        // What an earlier task of this name did does not count against this one.
        task.cell.forgive_restarts();
        let registered_in = OtelContext::map_current(|context| context.span().span_context().clone());
        let supervised = Supervised::new(task, spec, registered_in.is_valid().then_some(registered_in));
        registered.tasks.insert(name, supervised.clone());
        if self.is_started() {
            supervised.order(Order::Start);
        }
        drop(registered);
        runtime.spawn(Driver::new(supervised, self.clone(), place).drive());
        Ok(())
    }

    /// Unregisters a task, unless its name is another's by now.
    pub(crate) fn forget(&self, task: &Arc<Supervised>) {
        let name = &task.task.identity.name;
        let mut registered = self.registered();
        if registered.tasks.get(name).is_some_and(|held| Arc::ptr_eq(held, task)) {
            registered.tasks.remove(name);
            task.give_name_up();
        }
    }
}
