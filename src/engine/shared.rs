//! What a manager's parts share: settings, cells, who is alive, what is registered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use opentelemetry::{Context as OtelContext, trace::TraceContextExt};
use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{
    LastResort, Order, Supervised, TaskEventKind, TaskSpec,
    driver::Driver,
    events::EventBus,
    links::{Group, Links, Membership},
    monitor, order,
    polled::Polled,
    shutdown::{Drain, Positions},
    tracker::{MemberKind, Tracker, stage_of_task},
    watch::Watch,
};
use crate::{
    cell::{Identity, TaskState},
    error::RegisterError,
    read::HealthThresholds,
    run::Recorder,
    telemetry::{
        contract::{SCOPE, key, record},
        with_trace,
    },
    watchdog,
};

/// The first part of the names of the manager's own spans by default.
pub const DEFAULT_SPAN_PREFIX: &str = "bot";

pub(crate) struct Settings {
    pub(crate) span_prefix: Arc<str>,
    pub(crate) monitor_interval: Duration,
    pub(crate) shutdown_deadline: Duration,
    pub(crate) spawn_grace: Duration,
    pub(crate) thresholds: HealthThresholds,
    pub(crate) runtime_stall: Duration,
    pub(crate) last_resort: LastResort,
    /// Answers a number in `0.0..1.0`, for jitter.
    pub(crate) random: Arc<dyn Fn() -> f64 + Send + Sync>,
}

pub(crate) struct Shared {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) settings: Settings,
    pub(crate) tracker: Arc<Tracker>,
    pub(crate) events: EventBus,
    pub(crate) watch: Watch,
    /// The runtime everything runs on; set at build or by the first call inside one.
    runtime: OnceLock<Handle>,
    started: AtomicBool,
    registered: Mutex<Registered>,
    pub(crate) monitor: Mutex<Option<AbortHandle>>,
    /// Names that were warned about, so that each is warned about once.
    pub(crate) warned: Mutex<std::collections::HashSet<Arc<str>>>,
    /// The shutdown, once it has begun.
    pub(crate) drain: OnceLock<Arc<Drain>>,
    /// Whether the shutdown has begun, for those that wait for it.
    pub(crate) begun: watch::Sender<bool>,
    /// Callers that wait for a signal, and for the shutdown's report then.
    pub(crate) awaited: AtomicUsize,
}

/// Written under one lock: what is registered is one fact.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) tasks: BTreeMap<Arc<str>, Arc<Supervised>>,
    /// Who depends on a name, whether a task of that name is registered or not.
    dependents: BTreeMap<Arc<str>, Vec<Weak<Supervised>>>,
}

/// A task to be registered.
pub(crate) struct Registration {
    pub(crate) identity: Identity,
    pub(crate) spec: TaskSpec,
    pub(crate) links: Links,
}

impl Shared {
    pub(crate) fn new(recorder: Arc<Recorder>, settings: Settings) -> Arc<Self> {
        let number = watchdog::next_number();
        let shared = Arc::new(Self {
            recorder,
            settings,
            tracker: Tracker::new(number),
            events: EventBus::default(),
            watch: Watch::new(number),
            runtime: OnceLock::new(),
            started: AtomicBool::new(false),
            registered: Mutex::default(),
            monitor: Mutex::default(),
            warned: Mutex::default(),
            drain: OnceLock::new(),
            begun: watch::Sender::new(false),
            awaited: AtomicUsize::new(0),
        });
        if let Ok(handle) = Handle::try_current() {
            let _ = shared.runtime.set(handle);
        }
        shared.begin_watching();
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

    /// Every registered task.
    pub(crate) fn all_registered(&self) -> Vec<Arc<Supervised>> {
        self.registered().tasks.values().cloned().collect()
    }

    /// The registered tasks that depend on a name.
    pub(crate) fn dependents(&self, name: &str) -> Vec<Arc<Supervised>> {
        let registered = self.registered();
        if registered.dependents.is_empty() {
            return Vec::new();
        }
        registered.dependents.get(name).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Whether others depend on a task or come after it in its group.
    pub(crate) fn is_rested_on(&self, task: &Supervised) -> bool {
        let followed = task
            .links
            .membership
            .as_ref()
            .is_some_and(|Membership { group, index }| group.size() > index + 1);
        followed || !self.dependents(task.name()).is_empty()
    }

    /// Closes admission, and ends quietly where nothing is alive. Answers whether nothing is.
    pub(crate) fn close_if_idle(&self) -> bool {
        // Closed before the look: what comes in between would find no shutdown.
        self.tracker.close();
        let idle = self.tracker.is_idle();
        if idle {
            monitor::stop(self);
        }
        idle
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started.load(SeqCst)
    }

    /// Begins every waiting task.
    pub(crate) fn start_tasks(&self) {
        // Under the lock of the registrations: a task registered meanwhile sees one or the other.
        let registered = self.registered();
        self.started.store(true, SeqCst);
        for task in registered.tasks.values() {
            task.order(Order::Start);
        }
    }

    /// Tells what happened to a registered task.
    pub(crate) fn tell(&self, task: &Supervised, kind: impl FnOnce() -> TaskEventKind) {
        self.events.tell(Some(task.name()), task.signals.generation(), kind);
    }

    /// Registers tasks and gives each a driver: all, or none where one is refused.
    #[track_caller]
    pub(crate) fn register(
        self: &Arc<Self>,
        registrations: Vec<Registration>,
        group: Option<&Arc<Group>>,
    ) -> Result<(), RegisterError> {
        let runtime = self.runtime().clone();
        let registered_in = OtelContext::map_current(|context| context.span().span_context().clone());
        let registered_in = registered_in.is_valid().then_some(registered_in);
        let mut registered = self.registered();
        registered.check(&registrations)?;
        // Only now are cells made: a refused registration leaves nothing behind.
        let identities = registrations.iter().map(|registration| &registration.identity);
        let tasks = self.recorder.registry().entries_of(identities).map_err(|name| {
            RegisterError::NameLimit { name: name.to_string(), max_names: self.recorder.options.max_names }
        })?;
        let mut drivers = Vec::with_capacity(registrations.len());
        let mut members = Vec::with_capacity(registrations.len());
        for (task, Registration { spec, links, .. }) in tasks.into_iter().zip(registrations) {
            let supervised = Supervised::new(task, spec, links, registered_in.clone());
            members.push(Arc::downgrade(&supervised));
            let kind = MemberKind::Driver(supervised.clone());
            match self.tracker.enter(&supervised.task, stage_of_task(&supervised.task), kind) {
                Ok(place) => drivers.push((supervised, place)),
                Err(refused) => {
                    // What was admitted before leaves again, and what it holds is the user's: not under the lock.
                    drop(registered);
                    drop((drivers, refused));
                    return Err(RegisterError::ShuttingDown);
                }
            }
        }
        if let Some(group) = group {
            group.set_members(members);
        }
        for (supervised, _) in &drivers {
            let task = &supervised.task;
            task.cell.set_state(Some(TaskState::Waiting));
            // What an earlier task of this name did does not count against this one.
            task.cell.forgive_restarts();
            for dependency in &supervised.links.dependencies {
                let dependents = registered.dependents.entry(dependency.clone()).or_default();
                dependents.retain(|dependent| dependent.strong_count() > 0);
                dependents.push(Arc::downgrade(supervised));
            }
            registered.tasks.insert(supervised.name().clone(), supervised.clone());
        }
        let started = self.is_started();
        drop(registered);
        self.warn_of_inversions(drivers.iter().map(|(supervised, _)| supervised));
        for (supervised, place) in drivers {
            self.watch.add(&supervised);
            self.tell(&supervised, || TaskEventKind::Registered);
            if started {
                supervised.order(Order::Start);
            }
            // Those that have waited for the name.
            self.changed(&supervised);
            let id = place.id();
            runtime.spawn(Polled::new(id, Driver::new(supervised, self.clone(), place).drive()));
        }
        Ok(())
    }

    /// Unregisters a task, unless its name is another's by now.
    pub(crate) fn forget(&self, task: &Arc<Supervised>) {
        let name = task.name();
        let mut registered = self.registered();
        let own = registered.tasks.get(name).is_some_and(|held| Arc::ptr_eq(held, task));
        if own {
            registered.remove(task);
            task.give_name_up();
        }
        drop(registered);
        if own {
            self.tell(task, || TaskEventKind::Unregistered);
        }
    }

    /// Where the drivers stand at shutdown: none before what rests on it.
    pub(crate) fn positions(&self) -> Positions {
        let tasks = self.tracker.drivers();
        let stages: Vec<_> = tasks.iter().map(|task| stage_of_task(&task.task)).collect();
        let put_off = order::positions(&stages, &self.dependencies(&tasks));
        let put_off = tasks.iter().map(Arc::as_ptr).zip(put_off).collect();
        Positions { put_off }
    }

    /// For each task the indices of those it rests on: dependencies, and the member before it in its group.
    fn dependencies(&self, tasks: &[Arc<Supervised>]) -> Vec<Vec<usize>> {
        let index: std::collections::HashMap<_, _> =
            tasks.iter().enumerate().map(|(index, task)| (Arc::as_ptr(task), index)).collect();
        let of = |task: &Arc<Supervised>| {
            let named = task.links.dependencies.iter().filter_map(|name| self.supervised(name));
            let before = task.links.membership.iter().flat_map(Membership::before);
            named.chain(before).filter_map(|other| index.get(&Arc::as_ptr(&other)).copied()).collect()
        };
        if tasks.iter().all(|task| task.links.is_empty()) {
            return vec![Vec::new(); tasks.len()];
        }
        tasks.iter().map(of).collect()
    }

    /// Says where a dependency is stopped later than its category and priority ask.
    fn warn_of_inversions<'a>(&self, new: impl Iterator<Item = &'a Arc<Supervised>>) {
        for task in new {
            for name in &task.links.dependencies {
                let Some(dependency) = self.supervised(name) else { continue };
                if stage_of_task(&dependency.task) < stage_of_task(&task.task) {
                    with_trace(None, || {
                        tracing::event!(
                            name: record::ORDER_INVERTED, target: SCOPE, parent: None, tracing::Level::WARN,
                            { key::NAME } = &*dependency.task.identity.name,
                            "task {name} is stopped after {}, which depends on it, though its category and priority come first",
                            task.name(),
                        );
                    });
                }
            }
        }
    }
}

impl Registered {
    /// Removes a task and what is said of it.
    pub(crate) fn remove(&mut self, task: &Supervised) -> Option<Arc<Supervised>> {
        for dependency in &task.links.dependencies {
            if let Some(dependents) = self.dependents.get_mut(dependency) {
                dependents.retain(|held| held.strong_count() > 0 && !std::ptr::eq(held.as_ptr(), task));
                if dependents.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
        self.tasks.remove(task.name())
    }

    /// Whether these can be registered together, beside what is.
    fn check(&self, new: &[Registration]) -> Result<(), RegisterError> {
        let mut names: Vec<&Arc<str>> = Vec::with_capacity(new.len());
        let mut index = std::collections::HashMap::new();
        for registration in new {
            let name = &registration.identity.name;
            if self.tasks.contains_key(name) || index.insert(name.clone(), names.len()).is_some() {
                return Err(RegisterError::Duplicate { name: name.to_string() });
            }
            names.push(name);
        }
        if self.dependents.is_empty() && new.iter().all(|registration| registration.links.is_empty()) {
            return Ok(());
        }
        for registration in new {
            let unknown = |name: &&Arc<str>| !index.contains_key(*name) && !self.tasks.contains_key(*name);
            if let Some(unknown) = registration.links.dependencies.iter().find(unknown) {
                let path = vec![registration.identity.name.to_string(), unknown.to_string()];
                return Err(RegisterError::UnknownDependency { path });
            }
        }
        let old: Vec<_> = self.tasks.values().collect();
        for task in &old {
            index.insert(task.name().clone(), names.len());
            names.push(task.name());
        }
        let named = |links: &Links| -> Vec<usize> {
            links.dependencies.iter().filter_map(|name| index.get(name).copied()).collect()
        };
        let mut dependencies: Vec<_> = new.iter().map(|registration| named(&registration.links)).collect();
        for (member, registration) in new.iter().enumerate() {
            if registration.links.membership.as_ref().is_some_and(|membership| membership.index > 0) {
                // The members of a group are registered together, in their order.
                dependencies[member].push(member - 1);
            }
        }
        for task in &old {
            let mut of_task = named(&task.links);
            let before = task.links.membership.iter().flat_map(Membership::before);
            of_task.extend(before.filter_map(|before| index.get(before.name()).copied()));
            dependencies.push(of_task);
        }
        order::cycle(&dependencies).map_or(Ok(()), |path| {
            let path = path.into_iter().map(|task| names[task].to_string()).collect();
            Err(RegisterError::DependencyCycle { path })
        })
    }
}
