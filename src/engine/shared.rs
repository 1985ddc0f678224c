//! What a manager's parts share: settings, cells, who is alive, what is registered.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use opentelemetry::{Context as OtelContext, trace::TraceContextExt};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{
    ContextParts, Order, ShutdownReport, Supervised, TaskContext, TaskSpec,
    driver::Driver,
    tracker::{Place, Tracker},
};
use crate::{
    cell::TaskState,
    error::RegisterError,
    policy::{Exit, TaskCategory, TaskOutput, TaskPriority, type_path},
    read::HealthThresholds,
    run::{Begin, Recorder, Run, Task, TaskHandle},
    telemetry::SpanParent,
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

/// What a caller may say about a spawned task.
pub(crate) struct SpawnOptions<'a> {
    pub(crate) name: &'a str,
    pub(crate) category: Option<TaskCategory>,
    pub(crate) priority: Option<TaskPriority>,
    pub(crate) component: Option<Arc<str>>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) grace: Option<Duration>,
    pub(crate) parent: SpanParent,
    pub(crate) with_context: bool,
}

impl<'a> SpawnOptions<'a> {
    pub(crate) fn new(name: &'a str) -> Self {
        Self {
            name,
            category: None,
            priority: None,
            component: None,
            timeout: None,
            grace: None,
            parent: SpanParent::Root,
            with_context: false,
        }
    }

    fn is_plain(&self) -> bool {
        self.category.is_none() && self.priority.is_none() && self.component.is_none()
    }
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

    /// Spawns a short task: the cheap path, which touches its cell and the tracker alone.
    #[track_caller]
    pub(crate) fn spawn<F>(
        self: &Arc<Self>,
        options: SpawnOptions<'_>,
        future: impl FnOnce(Option<TaskContext>) -> F,
    ) -> TaskHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send + 'static,
    {
        // Told before a cell is made for a name that never runs; the tracker decides in the end.
        if self.tracker.is_closed() {
            return TaskHandle::refused();
        }
        let type_name;
        let name = match options.name {
            "" => {
                type_name = type_path::<F>();
                &type_name
            }
            name => name,
        };
        let task = if options.is_plain() {
            self.recorder.task(name)
        } else {
            self.recorder.task_with(name, options.category, options.priority, options.component)
        };
        let token = options.with_context.then(CancellationToken::new);
        // A plain future cannot hear that it should stop: it has its grace, then it is dropped.
        let grace = options.grace.or((!options.with_context).then_some(self.settings.spawn_grace));
        let Some(place) = Tracker::enter_run(self, &task, token.clone(), grace) else {
            return TaskHandle::refused();
        };
        let context = token.map(|token| {
            TaskContext::new(ContextParts {
                task: task.clone(),
                generation: 1,
                iteration: None,
                token,
                heartbeat: Arc::new(tokio::sync::watch::Sender::new(tokio::time::Instant::now())),
                manager: Arc::downgrade(self),
            })
        });
        let spawner = OtelContext::map_current(|context| context.span().span_context().clone());
        let linked = matches!(options.parent, SpanParent::Root) && spawner.is_valid();
        let given_name = (*name != *task.identity.name).then(|| name.to_owned());
        let begin = Begin {
            given_name,
            parent: options.parent,
            links: if linked { vec![spawner] } else { Vec::new() },
            timeout: options.timeout,
            ..Begin::new(self.recorder.clone(), task)
        };
        let (key, id) = place.key();
        let runtime = self.runtime();
        let _inside = begin.timeout.map(|_| runtime.enter());
        let run = Run::begun(begin, future(context), exit_of::<F::Output>, place);
        let handle = runtime.spawn(run);
        Place::set_abort(&self.tracker, key, id, handle.abort_handle());
        TaskHandle::new(handle)
    }
}

fn exit_of<T: TaskOutput>(output: &T) -> Exit {
    super::ErrorRules::default().exit(output)
}
