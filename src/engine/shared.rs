//! The state that the parts of a manager share: settings, cells, living members, registered tasks.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::SystemTime,
};

use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, TraceContextExt},
};
use tokio::{sync::watch, task::AbortHandle};

use crate::{
    cell::{self, TaskState, Vitals},
    engine::{
        Group, Membership, Order, Supervised, TaskEventKind, TaskSpec,
        announce::{self, Announcer},
        home::{Home, Runtime},
        observe::{changes::Changes, events::EventBus, manager_span::ManagerSpans, watch::Watch},
        roster::{Registered, Registration, Roster, each_name},
        settings::Settings,
        shutdown::{
            drain::Drain,
            sequence::{Positions, Sequence},
            topology,
            tracker::{Admission, INTAKE_STAGE, Kind, Tracker, category_place, stage_of_task},
        },
        spawn::polled::Polled,
        supervision::{
            courier::{Errand, Errands},
            driver::Driver,
            member::MemberBody,
            supervised::ManagedSpec,
        },
    },
    error::RegisterError,
    read::{self, ManagerHealth, TaskHealth},
    run::{Recorder, Task},
    shards::LocalArcs,
    watchdog,
};

// The number of its references changes with each driver that comes or goes. It is in another cache line than the fields, which all threads read.
#[repr(align(64))]
pub(crate) struct Shared {
    /// Itself, for the contexts of spawned runs.
    pub(super) own: LocalArcs<Weak<Self>>,
    pub(crate) recorder: LocalArcs<Recorder>,
    pub(crate) settings: Settings,
    pub(crate) tracker: LocalArcs<Tracker>,
    pub(crate) events: EventBus,
    pub(crate) watch: Watch,
    pub(super) errands: Errands<Errand>,
    pub(super) home: Home,
    /// The time at which the manager was made.
    pub(crate) made: SystemTime,
    started: AtomicBool,
    registered: Mutex<Registered>,
    /// The spec of the last task: the next task most likely has the same spec, and then they share it.
    last_spec: Mutex<Option<Arc<ManagedSpec>>>,
    /// The number of names on which other tasks depend. Written under the lock of `registered`.
    depended_on: AtomicUsize,
    pub(crate) monitor: Mutex<Option<AbortHandle>>,
    /// Names that were warned about, so that each is warned about once.
    pub(crate) warned: Mutex<HashSet<Arc<str>>>,
    pub(crate) drain: Drain,
    /// The shutdown, once it has begun.
    pub(crate) sequence: OnceLock<Arc<Sequence>>,
    /// True if the shutdown has begun, for waiters.
    pub(crate) begun: watch::Sender<bool>,
    /// Callers that wait for a signal, and for the shutdown's report then.
    pub(crate) awaited: AtomicUsize,
    /// The number of registered tasks that are paused or in standby.
    pub(crate) held: AtomicUsize,
    /// Callers that signals are left to.
    pub(crate) leading: AtomicUsize,
    /// The number of signals that were acted upon.
    pub(crate) steps: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(recorder: Arc<Recorder>, settings: Settings) -> Arc<Self> {
        let number = watchdog::next_number();
        let shared = Arc::new_cyclic(|own| Self {
            own: LocalArcs::new(Arc::new(own.clone())),
            recorder: LocalArcs::new(recorder),
            tracker: LocalArcs::new(Tracker::new(number, settings.spawn_grace)),
            settings,
            events: EventBus::default(),
            errands: Errands::default(),
            watch: Watch::new(number),
            home: Home::here(),
            made: SystemTime::now(),
            started: AtomicBool::new(false),
            registered: Mutex::default(),
            last_spec: Mutex::default(),
            depended_on: AtomicUsize::new(0),
            monitor: Mutex::default(),
            warned: Mutex::default(),
            drain: Drain::default(),
            sequence: OnceLock::new(),
            begun: watch::Sender::new(false),
            awaited: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            leading: AtomicUsize::new(0),
            steps: AtomicUsize::new(0),
        });
        shared.begin_watching();
        shared
    }

    pub(crate) fn registered(&self) -> Roster<'_> {
        let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        Roster { registered, registry: self.recorder.registry() }
    }

    pub(crate) fn supervised(&self, name: &str) -> Option<Arc<Supervised>> {
        self.registered().get(name).cloned()
    }

    /// Every registered task, in no order. Costs less than [`all_registered`](Self::all_registered).
    pub(crate) fn registered_tasks(&self) -> Arc<Vec<Arc<Supervised>>> {
        self.registered().tasks().clone()
    }

    /// Every registered task, in the order of the names.
    pub(crate) fn all_registered(&self) -> Arc<[Arc<Supervised>]> {
        self.registered().all()
    }

    /// That way of keeping a task, shared where it is that of the task before.
    pub(crate) fn spec(self: &Arc<Self>, spec: TaskSpec) -> Arc<ManagedSpec> {
        let mut last = self.last_spec.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some(last) if ***last == spec => last.clone(),
            _ => last.insert(ManagedSpec::new(spec, self)).clone(),
        }
    }

    /// Returns true if any task depends on another. Read without the lock: a task that begins to depend checks again afterwards.
    pub(crate) fn has_dependents(&self) -> bool {
        self.depended_on.load(SeqCst) > 0
    }

    /// The registered tasks that depend on a name.
    pub(crate) fn dependents(&self, name: &str) -> Vec<Arc<Supervised>> {
        if !self.has_dependents() {
            return Vec::new();
        }
        let registered = self.registered();
        registered.dependents.get(name).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Returns true if others depend on a task or come after it in its group.
    pub(crate) fn is_rested_on(&self, task: &Supervised) -> bool {
        let followed =
            task.links().membership().is_some_and(|Membership { group, index }| group.size() > index + 1);
        followed || !self.dependents(task.name()).is_empty()
    }

    /// Begins to close admission: at once, or while the tasks that are marked as intake stop, after them.
    pub(crate) fn begin_to_close(&self) {
        // First for tasks, so that none comes after the check.
        self.close(Admission::Runs);
        if self.tracker.drivers_of(Kind::Intake).is_empty() {
            self.tracker.close(Admission::OwnedRuns);
        }
    }

    /// Closes admission under the lock of the registrations: what is registered together comes before it, or is refused.
    fn close(&self, to: Admission) {
        self.tracker.close_under(self.registered(), to);
    }

    /// Closes admission, and ends quietly if nothing is alive. Returns true if nothing is.
    pub(crate) fn close_if_idle(&self) -> bool {
        // Closed before the check: a task that comes in between would find no shutdown.
        self.close(Admission::OwnedRuns);
        let idle = self.tracker.is_idle();
        if idle {
            self.stop_monitor();
        }
        idle
    }

    /// Returns the source of the manager's own spans.
    pub(super) fn manager_spans(&self) -> ManagerSpans {
        ManagerSpans::new(Arc::clone(&self.recorder), self.settings.span_prefix.clone())
    }

    /// The health of the service and of each registered task.
    pub(crate) fn health(&self) -> ManagerHealth {
        let registered = self.all_registered();
        let (now, closed) = (self.recorder.now(), self.tracker.is_closed());
        let draining = self.is_draining();
        let mut tasks = Vec::with_capacity(registered.len());
        each_name(&self.recorder.registry().listing(), &registered, |of_name, task| {
            if let Some(task) = task {
                let health = self.health_of(Some(task), &cell::vitals(of_name, now));
                tasks.push((task.name().clone(), health));
            }
        });
        let blocked = self.watch.blocked();
        read::manager_health(tasks, self.runtime_is_stalled(), blocked, closed || draining)
    }

    /// Stops the monitor loop; without effect where it does not run.
    pub(crate) fn stop_monitor(&self) {
        if let Some(running) = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).take() {
            running.abort();
        }
    }

    pub(crate) fn is_started(&self) -> bool {
        self.started.load(SeqCst)
    }

    /// Begins every waiting task.
    pub(crate) fn start_tasks(self: &Arc<Self>) {
        // Under the lock of the registrations: a task registered meanwhile sees one or the other.
        let tasks = {
            let registered = self.registered();
            self.started.store(true, SeqCst);
            registered.tasks().clone()
        };
        let mut runtime = None;
        for task in tasks.iter() {
            task.order_and_bring(Order::Start, || {
                let runtime = runtime.get_or_insert_with(|| self.runtime());
                self.drive_on(runtime, task.clone());
            });
        }
    }

    /// Brings a task's driver, which finds the order that it is brought for.
    pub(crate) fn drive(self: &Arc<Self>, task: Arc<Supervised>) {
        self.drive_on(&self.runtime(), task);
    }

    fn drive_on(self: &Arc<Self>, runtime: &Runtime, task: Arc<Supervised>) {
        let id = task.place.id();
        runtime.handle.spawn(Polled::new(id, Driver::new(task, self.clone())));
    }

    /// Announces what happens to a registered task, without a trace.
    pub(super) fn announcer<'a>(&'a self, task: &'a Supervised, generation: u64) -> Announcer<'a> {
        let changes: &dyn Changes = &task.seldom;
        Announcer { events: &self.events, task: &task.task, changes: Some(changes), generation, trace: None }
    }

    /// Sends an event of a registered task.
    pub(crate) fn tell(&self, task: &Supervised, kind: impl FnOnce() -> TaskEventKind) {
        self.events.tell(Some(task.name()), task.signals.generation(), kind);
    }

    /// Returns true if the manager drains, and its ordered shutdown has not begun.
    pub(crate) fn is_draining(&self) -> bool {
        !self.tracker.is_closed() && self.drain.is_under_way()
    }

    /// The health of a task with these figures, as of now.
    pub(crate) fn health_of(&self, task: Option<&Supervised>, vitals: &Vitals) -> TaskHealth {
        let live = task.map_or_else(read::Live::default, Supervised::live);
        let health = read::health(vitals, live, &self.settings.thresholds, self.tracker.is_closed())
            .of_draining(self.is_draining());
        let unhealthy_since =
            task.and_then(|task| task.note_status(health.status, || health.noticed(task.wall_clock())));
        TaskHealth { unhealthy_since, ..health }
    }

    /// Registers tasks and gives each a driver: all, or none where one is refused.
    #[track_caller]
    pub(crate) fn register(
        self: &Arc<Self>,
        registrations: Vec<Registration>,
        group: Option<&Arc<Group>>,
    ) -> Result<(), RegisterError> {
        self.register_as(registrations, group, None)
    }

    #[track_caller]
    fn register_as(
        self: &Arc<Self>,
        registrations: Vec<Registration>,
        group: Option<&Arc<Group>>,
        reserved: Option<&str>,
    ) -> Result<(), RegisterError> {
        // Here rather than where the first order is given, which may be outside of a runtime.
        self.check_runtime()?;
        let registered_in = Self::registered_in();
        let now = self.settings.wall_clock.now();
        let mut registered = self.registered();
        registered.check(&registrations, reserved)?;
        let new = self.admit_tasks(registrations, registered_in);
        let new = match new {
            Ok(new) => new,
            Err(refused) => {
                // What it holds is the user's: it is not dropped under the lock.
                drop(registered);
                return Err(refused.error);
            }
        };
        if let Some(group) = group {
            group.set_members(new.iter().map(Arc::downgrade).collect());
        }
        self.enter(&mut registered, &new, now);
        let started = self.is_started();
        drop(registered);
        self.entered(new, started);
        Ok(())
    }

    /// The span that is current here.
    pub(super) fn registered_in() -> Option<Arc<SpanContext>> {
        let here = OtelContext::map_current(|context| context.span().span_context().clone());
        here.is_valid().then(|| Arc::new(here))
    }

    /// Gives each task its cell and its place: all, or none if one is refused. Under the lock of what is registered.
    pub(super) fn admit_tasks(
        self: &Arc<Self>,
        registrations: Vec<Registration>,
        registered_in: Option<Arc<SpanContext>>,
    ) -> Result<Vec<Arc<Supervised>>, Box<Refused>> {
        let refused = |error, registrations| Box::new(Refused { error, _registrations: registrations });
        // It stays open until all are entered: it is closed under the same lock.
        if self.tracker.is_closed() {
            return Err(refused(RegisterError::ShuttingDown, registrations));
        }
        // Only now are cells made: a refused registration leaves nothing behind.
        let tasks = match self.cells_of(&registrations) {
            Ok(tasks) => tasks,
            Err(error) => return Err(refused(error, registrations)),
        };
        let new = tasks.into_iter().zip(registrations).map(|(task, registration)| {
            let made = |place| Supervised::new(task, registration, registered_in.clone(), place);
            self.tracker.enter_driver(made)
        });
        Ok(new.collect())
    }

    /// The cells of new tasks. Those of members are beside the registry's bound, and report to their family's.
    fn cells_of(&self, registrations: &[Registration]) -> Result<Vec<Arc<Task>>, RegisterError> {
        let (registry, now) = (self.recorder.registry(), || self.recorder.now());
        let beyond = |name: Arc<str>| RegisterError::NameLimit {
            name: name.to_string(),
            max_names: self.recorder.options.max_names,
        };
        if registrations.iter().all(|registration| registration.body.member().is_none()) {
            let identities = registrations.iter().map(|registration| &registration.identity);
            return registry.entries_of(identities, now).map_err(beyond);
        }
        // Only the members of a family are registered together with members.
        let members = registrations.iter().map(|member| (member.metered(), member.identity.clone()));
        registry.members(members.collect(), now).map_err(beyond)
    }

    /// The name's task is gone from what is registered.
    fn retire(&self, task: &Arc<Task>) {
        self.recorder.registry().retire(task, self.recorder.now());
    }

    /// A detached task has come to rest: its name retires, unless another task is registered under the same identity.
    pub(crate) fn retire_detached(&self, task: &Supervised) {
        let registered = self.registered();
        if registered.of(&task.task).is_none() {
            self.retire(&task.task);
        }
    }

    /// Enters new tasks into what is registered.
    pub(super) fn enter(&self, registered: &mut Roster<'_>, new: &[Arc<Supervised>], now: SystemTime) {
        for supervised in new {
            let task = &supervised.task;
            task.allow(supervised.possible());
            task.cell.set_state(Some(TaskState::Waiting), now);
            // What an earlier task of this name did does not count against this one.
            task.cell.forgive_restarts();
            for dependency in supervised.links().dependencies() {
                let dependents = registered.dependents.entry(dependency.clone()).or_default();
                if dependents.len() == dependents.capacity() {
                    dependents.retain(|dependent| dependent.strong_count() > 0);
                }
                dependents.push(Arc::downgrade(supervised));
            }
            registered.insert(supervised);
            if let Some(member) = supervised.body.member() {
                member.stays();
            }
        }
        registered.listing = None;
        self.count_dependents(registered);
    }

    /// Publishes the number of names that others depend on. Written only if it has changed: the store would wait for all stores of a
    /// registration before it.
    fn count_dependents(&self, registered: &Registered) {
        let dependents = registered.dependents.len();
        if self.depended_on.load(Relaxed) != dependents {
            self.depended_on.store(dependents, SeqCst);
        }
    }

    /// Reports the tasks that were entered, and begins them if the manager has started. Not under the lock.
    pub(super) fn entered(self: &Arc<Self>, new: Vec<Arc<Supervised>>, started: bool) {
        self.warn_of_inversions(new.iter());
        for supervised in new {
            self.watch.add(&supervised);
            self.tell(&supervised, || TaskEventKind::Registered);
            if started {
                supervised.command(Order::Start);
            }
            // The tasks that have waited for the name.
            self.changed(&supervised);
        }
    }

    /// Unregisters a task, unless another task has its name by now. Returns true if it was there. It is
    /// dropped without a lock, because the last reference to a task drops the values of its closure, which is the user's code.
    ///
    /// A member that another was to follow is followed by it in the same moment.
    pub(crate) fn remove(self: &Arc<Self>, task: &Arc<Supervised>) -> bool {
        self.remove_and(task, true)
    }

    /// Unregisters a task, which continues. If it is a member, no other member follows it.
    ///
    /// Under one lock: a caller that finds a member leaving waits for it.
    pub(crate) fn detach(self: &Arc<Self>, task: &Arc<Supervised>) -> bool {
        self.remove_and(task, false)
    }

    fn remove_and(self: &Arc<Self>, task: &Arc<Supervised>, is_followed: bool) -> bool {
        // Before the lock: the clock may be the user's.
        let now = task.wall_clock();
        let mut registered = self.registered();
        if !registered.has(task) {
            return false;
        }
        let removed = (registered.remove(task), registered.listing.take());
        self.count_dependents(&registered);
        // A detached task that is not at rest continues, and its name stays.
        let is_at_rest = task.give_name_up();
        if task.is_to_unregister() || task.has_left() || is_at_rest {
            self.retire(&task.task);
        } else if task.task.family().is_some() {
            self.recorder.registry().unlist(&task.task);
        }
        let next = task.body.member().and_then(|member| member.leaves().1);
        let (next, called_off) = if is_followed { (next, None) } else { (None, next) };
        let followed = next.map(|next| self.follow(&mut registered, *next, now));
        let started = self.is_started();
        drop(registered);
        drop((removed, called_off));
        self.tell(task, || TaskEventKind::Unregistered);
        match followed {
            Some(Ok(new)) => self.entered(new, started),
            Some(Err(refused)) if refused.error != RegisterError::ShuttingDown => {
                announce::replacement_failed(task.name(), &refused.error);
            }
            _ => {}
        }
        true
    }

    fn follow(
        self: &Arc<Self>,
        registered: &mut Roster<'_>,
        next: Registration,
        now: SystemTime,
    ) -> Result<Vec<Arc<Supervised>>, Box<Refused>> {
        if let Err(error) = registered.check(std::slice::from_ref(&next), None) {
            return Err(Box::new(Refused { error, _registrations: vec![next] }));
        }
        let new = self.admit_tasks(vec![next], None)?;
        self.enter(registered, &new, now);
        Ok(new)
    }

    /// Finds a task that is to leave. From then on nobody is to follow it.
    pub(crate) fn find_leaving(&self, name: &str) -> Option<Arc<Supervised>> {
        let registered = self.registered();
        let task = registered.get(name)?.clone();
        let called_off = task.body.member().map(MemberBody::leaves);
        drop(registered);
        drop(called_off);
        Some(task)
    }

    /// Nobody is to follow a task that is to leave.
    pub(crate) fn call_off(&self, task: &Supervised) {
        let registered = self.registered();
        let called_off = task.body.member().map(MemberBody::leaves);
        drop(registered);
        drop(called_off);
    }

    /// Asks a task to stop and to be forgotten then. One whose driver has left already is forgotten at once.
    pub(crate) fn leave(self: &Arc<Self>, task: &Arc<Supervised>) {
        task.unregister();
        if task.has_left() {
            self.remove(task);
        }
    }

    /// Reserves the name of a task for its replacement, if that can be registered.
    ///
    /// # Errors
    /// As [`register`](Self::register), and [`RegisterError::BeingReplaced`].
    pub(crate) fn reserve(self: &Arc<Self>, new: Registration) -> Result<Reserved, RegisterError> {
        let name = &new.identity.name;
        let mut registered = self.registered();
        if registered.is_reserved(name) {
            return Err(RegisterError::BeingReplaced { name: name.to_string() });
        }
        registered.check(std::slice::from_ref(&new), Some(name))?;
        registered.reserved.push(name.clone());
        drop(registered);
        Ok(Reserved { shared: self.clone(), name: name.clone(), new: Some(new) })
    }

    /// The registered tasks that were dropped with their runtime before a shutdown.
    pub(crate) fn lost_tasks(&self) -> Vec<Arc<Supervised>> {
        let registered = self.registered_tasks();
        registered.iter().filter(|task| task.is_lost()).cloned().collect()
    }

    /// Returns the positions of the drivers at shutdown: none stops before the tasks that depend on it.
    pub(crate) fn positions(&self) -> Positions {
        let mut tasks = self.tracker.drivers_of(Kind::Linked);
        if tasks.is_empty() {
            return Positions::default();
        }
        // Tasks without links of their own may have dependents.
        tasks.extend(self.tracker.drivers(|task| task.links().is_empty()));
        let mut stages: Vec<_> = tasks.iter().map(|task| stage_of_task(task)).collect();
        let dependencies = self.dependencies(&tasks);
        topology::pull_forward(&mut stages, &dependencies, INTAKE_STAGE);
        let put_off = topology::positions(&stages, &dependencies);
        let put_off = tasks.iter().map(Arc::as_ptr).zip(put_off).collect();
        let mut dependents: HashMap<_, Vec<_>> = HashMap::new();
        for (dependent, of_task) in tasks.iter().zip(dependencies) {
            for dependency in of_task {
                dependents.entry(tasks[dependency].place.id()).or_default().push(dependent.clone());
            }
        }
        Positions { put_off, dependents }
    }

    /// Returns for each task the indices of its dependencies, and of the member before it in its group.
    fn dependencies(&self, tasks: &[Arc<Supervised>]) -> Vec<Vec<usize>> {
        let index: HashMap<_, _> =
            tasks.iter().enumerate().map(|(index, task)| (Arc::as_ptr(task), index)).collect();
        let of = |task: &Arc<Supervised>| {
            let named = task.links().dependencies().iter().filter_map(|name| self.supervised(name));
            let before = task.links().membership().into_iter().flat_map(Membership::before);
            named.chain(before).filter_map(|other| index.get(&Arc::as_ptr(&other)).copied()).collect()
        };
        tasks.iter().map(of).collect()
    }

    /// Warns of a dependency that is stopped later than its category asks. Priorities inside one category are defaults more often
    /// than wishes, so they are no reason to warn.
    fn warn_of_inversions<'a>(&self, new: impl Iterator<Item = &'a Arc<Supervised>>) {
        for task in new {
            for name in task.links().dependencies() {
                let Some(dependency) = self.supervised(name) else { continue };
                if category_place(&dependency) < category_place(task) {
                    self.announcer(&dependency, dependency.signals.generation()).order_inverted(task.name());
                }
            }
        }
    }
}

/// The reason why tasks were not registered, and what is left of them, which is the user's: to be dropped without a lock.
pub(super) struct Refused {
    pub(super) error: RegisterError,
    _registrations: Vec<Registration>,
}

/// A task that is to be registered under a name that is reserved for it. Dropping it gives the name back.
pub(crate) struct Reserved {
    shared: Arc<Shared>,
    name: Arc<str>,
    new: Option<Registration>,
}

impl Reserved {
    /// Registers the task.
    pub(crate) fn register(mut self) -> Result<(), RegisterError> {
        let new = self.new.take().into_iter().collect();
        self.shared.register_as(new, None, Some(&self.name))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shared.registered().reserved.retain(|reserved| *reserved != self.name);
    }
}
