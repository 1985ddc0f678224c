//! A registered task: what it is, and the slot in which its driver finds orders.
//!
//! There may be a hundred thousand of them, most idle: what few tasks need is behind a pointer, and made when it is needed.

use std::{
    any::Any,
    borrow::Borrow,
    future::Future,
    ops::Deref,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwapOption, Guard};
use opentelemetry::trace::SpanContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cell::{Possible, TaskSnapshot, TaskState},
    engine::{
        Links, Order, Registration, Shared, TaskContext, TaskSpec, Work,
        shutdown::tracker::DriverPlace,
        supervision::{
            courier::Errand,
            gated::GatedBody,
            links::{Bond, Membership},
            member::MemberBody,
            order_slot::{OrderSlot, Signal},
            seldom::Seldom,
            signs_of_life::Signals,
        },
    },
    policy::{DependencyLoss, ErrorRules, Exit, RestartPolicy, RestartStrategy, StallAction},
    read::{HealthStatus, Live},
    run::{Contained, Task},
    watchdog,
};

pub(crate) struct Supervised {
    pub(crate) task: Arc<Task>,
    pub(crate) spec: Arc<ManagedSpec>,
    pub(crate) body: Contained<Arc<dyn Body>>,
    pub(crate) signals: Signals,
    orders: OrderSlot,
    /// The tracker's entry of its driver.
    pub(crate) place: DriverPlace,
    pub(crate) seldom: Seldom<Given>,
    /// The last check of health: nanoseconds since the manager was made, plus one, times four, plus the number of
    /// the status. It is 0 before the first check. Written by the monitor alone.
    checked: AtomicU64,
    /// False once the task is detached or unregistered. The lock also guards the state that is published under its name.
    owns_name: Mutex<bool>,
    /// Index in [`TaskState::ALL`]. Written by the driver alone.
    state: AtomicU8,
    /// True if a life exists. Written by the driver alone.
    up: AtomicBool,
    /// True if it has its driver, which the first order brings.
    driven: AtomicBool,
    /// True if the driver unregisters it when it leaves.
    unregister: AtomicBool,
    /// True if its stage of the shutdown has come.
    called: AtomicBool,
    /// Set by the driver as its last act.
    left: AtomicBool,
    /// True if the runtime of its driver is gone.
    runtime_gone: AtomicBool,
    /// True if its driver was dropped with its runtime, alive, and before a shutdown, which reports it then.
    lost: AtomicBool,
}

/// The manager that a task keeps. It is read without a change of the number of its references.
pub(crate) struct KeptManager(Guard<Option<Arc<Shared>>>);

impl KeptManager {
    fn counted(shared: Arc<Shared>) -> Self {
        Self(Guard::from_inner(Some(shared)))
    }
}

impl Deref for KeptManager {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        self.0.as_ref().expect("it is made with a manager")
    }
}

/// The settings of tasks with equal settings, and their manager.
pub(crate) struct ManagedSpec {
    spec: TaskSpec,
    manager: Weak<Shared>,
}

impl ManagedSpec {
    pub(crate) fn new(spec: TaskSpec, manager: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { spec, manager: Arc::downgrade(manager) })
    }
}

impl Deref for ManagedSpec {
    type Target = TaskSpec;

    fn deref(&self) -> &TaskSpec {
        &self.spec
    }
}

/// The settings that few tasks are registered with, and the manager of a task that has links or spawns runs.
#[derive(Default)]
pub(crate) struct Given {
    links: Links,
    /// The rules that classify and name its errors. They are the user's functions, as its body is.
    rules: Option<Contained<Arc<ErrorRules>>>,
    /// The span in which it was registered.
    registered_in: Option<Arc<SpanContext>>,
    /// The manager, from its first use until the driver has left.
    manager: ArcSwapOption<Shared>,
}

/// The living part of a task: one run of a closure, or the runs of a loop.
pub(crate) trait Body: Send + Sync + 'static {
    /// One life. Runs no user code before it is polled.
    fn live(self: Arc<Self>, life: NewLife<'_>) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>>;

    /// Returns true if it is a loop, which the shutdown requests to stop before anything else.
    fn is_loop(&self) -> bool {
        false
    }

    /// Holds the current life, or lets it continue. Returns true if it can be held; otherwise it is stopped instead.
    fn hold(&self, _held: bool) -> bool {
        false
    }

    /// Called when its task comes to rest until somebody restarts it.
    fn rests(&self, _supervised: &Arc<Supervised>, _shared: &Arc<Shared>) {}

    /// Called when its task is made, under the locks of the registration.
    fn registered(&self, _supervised: &Arc<Supervised>) {}

    /// Returns the family's entry of a member; `None` for any other task.
    fn member(&self) -> Option<&MemberBody> {
        None
    }

    /// Its gate, if it has one.
    fn gated(&self) -> Option<&GatedBody> {
        None
    }

    /// Returns the value for a downcast to a known kind.
    fn as_any(&self) -> &dyn Any;
}

/// The inputs of a life that is being made. The manager and the task are lent, because most lives need them only then. All threads that
/// start tasks share the number of references to the manager.
pub(crate) type NewLife<'a> = Life<&'a Arc<Shared>, &'a Arc<Supervised>>;

/// The inputs of a life.
pub(crate) struct Life<M = Arc<Shared>, S = Arc<Supervised>> {
    /// The manager.
    pub(crate) shared: M,
    pub(crate) supervised: S,
    pub(crate) context: TaskContext,
    /// Its start.
    pub(crate) began: Instant,
    pub(crate) links: Vec<SpanContext>,
    /// The time by which the life must be ready, and the time from its start to that.
    pub(crate) ready_by: Option<(Instant, Duration)>,
}

/// The end of a life.
pub(crate) struct LifeEnd {
    pub(crate) exit: Exit,
    /// A loop that reached its count or was stopped: never restarted, whatever the policy.
    pub(crate) finished: bool,
    pub(crate) span_context: Option<SpanContext>,
}

impl NewLife<'_> {
    /// Returns the same for a life that keeps its inputs.
    pub(crate) fn kept(self) -> Life {
        let Self { shared, supervised, context, began, links, ready_by } = self;
        Life { shared: shared.clone(), supervised: supervised.clone(), context, began, links, ready_by }
    }
}

impl<M, S: Borrow<Arc<Supervised>>> Life<M, S> {
    fn is_ready(&self) -> bool {
        self.supervised.borrow().signals.is_ready()
    }

    /// Returns true if the life should have been ready by now.
    pub(crate) fn is_late(&self) -> bool {
        self.ready_by.is_some_and(|(due, _)| due <= Instant::now()) && !self.is_ready()
    }

    /// Work that fails as timed out where the life is not ready in time.
    pub(crate) fn until_ready(&self, work: Work) -> Work {
        let Some((due, limit)) = self.ready_by.filter(|_| !self.is_ready()) else { return work };
        let supervised = self.supervised.borrow().clone();
        Box::pin(async move {
            let too_late = async {
                tokio::time::sleep_until(due).await;
                if supervised.signals.is_ready() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                exit = work => exit,
                () = too_late => Exit::Timeout(limit),
            }
        })
    }
}

/// Returns true if the caller is polled by this task, or by a run that it owns: the task waits for either.
pub(crate) fn is_current(shared: &Shared, task: &Supervised) -> bool {
    let is_its = |id| id == task.place.id() || shared.tracker.is_owned_by(id, task);
    watchdog::polled_here().is_some_and(is_its)
}

/// Waits until a task that was asked to leave is gone and forgotten. A task does not wait for itself.
pub(crate) async fn until_gone(shared: &Arc<Shared>, task: &Arc<Supervised>) {
    if !is_current(shared, task) {
        task.gone().await;
        // Its driver does so, unless it had left before.
        shared.remove(task);
    }
}

impl Supervised {
    pub(crate) fn new(
        task: Arc<Task>,
        Registration { spec, body, rules, links, .. }: Registration,
        registered_in: Option<Arc<SpanContext>>,
        place: DriverPlace,
    ) -> Arc<Self> {
        let has_limit = spec.heartbeat_timeout.is_some() || spec.poll_timeout.is_some();
        let signals = Signals::new(has_limit.then(Instant::now));
        let is_plain = links.is_empty() && rules.is_none() && registered_in.is_none();
        let given = || Given { links, rules: rules.map(Contained::new), registered_in, ..Given::default() };
        let given = (!is_plain).then(given);
        let supervised = Arc::new(Self {
            task,
            spec,
            body: Contained::new(body),
            signals,
            orders: OrderSlot::default(),
            place,
            seldom: Seldom::new(given),
            checked: AtomicU64::new(0),
            owns_name: Mutex::new(true),
            state: AtomicU8::new(TaskState::Waiting as u8),
            up: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            unregister: AtomicBool::new(false),
            called: AtomicBool::new(false),
            left: AtomicBool::new(false),
            runtime_gone: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        });
        supervised.body.registered(&supervised);
        supervised
    }

    pub(crate) fn links(&self) -> &Links {
        const NONE: &Links = &Links::NONE;
        self.seldom.given().map_or(NONE, |given| &given.links)
    }

    /// Returns the rules that classify and name its errors; `None` without rules.
    pub(crate) fn rules(&self) -> Option<&Arc<ErrorRules>> {
        self.seldom.given()?.rules.as_deref()
    }

    /// Returns the span in which it was registered, if there was one.
    pub(super) fn registered_in(&self) -> Option<&SpanContext> {
        self.seldom.given()?.registered_in.as_deref()
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.task.identity.name
    }

    /// Returns the series that can occur for it. What its settings do not exclude can.
    pub(crate) fn possible(&self) -> Possible {
        let (spec, links) = (&self.spec, self.links());
        let always = spec.policy == RestartPolicy::Always;
        let restarts = spec.policy != RestartPolicy::Never;
        let has_limit = spec.run_timeout.is_some() || spec.start_timeout.is_some();
        let stalls = spec.heartbeat_timeout.is_some() || spec.poll_timeout.is_some();
        let depends = !links.dependencies().is_empty() && links.loss() == DependencyLoss::Restart;
        // One for one, the others of the group are never restarted, and all that an escalation stops stay stopped.
        let taken_along = |membership: &Membership| membership.group.strategy != RestartStrategy::OneForOne;
        Possible::REGISTERED
            | Possible::STANDBY.only_if(self.body.gated().is_some())
            // Under each policy, a loop is finished by its schedule or its handle.
            | Possible::FINISHED.only_if(!always || self.body.is_loop())
            | Possible::RESTART_AFTER_ERROR.only_if(restarts)
            | Possible::RESTART_AFTER_TIMEOUT.only_if(restarts && has_limit)
            | Possible::RESTART_AFTER_FINISH.only_if(always)
            | Possible::STALLS.only_if(stalls)
            | Possible::RESTART_AFTER_STALL.only_if(restarts && stalls && spec.on_stall == StallAction::Restart)
            | Possible::RESTART_WITH_GROUP.only_if(restarts && links.membership().is_some_and(taken_along))
            | Possible::RESTART_WITH_DEPENDENCY.only_if(depends)
            | Possible::RETRY.only_if(spec.give_up.retry_after(spec.policy, false).is_some())
            | Possible::ITERATIONS.only_if(self.body.is_loop())
    }

    /// Returns true if the snapshot of its name lacks facts that its cell does not have.
    pub(crate) fn completes(&self) -> bool {
        !self.links().is_empty() || self.body.gated().is_some()
    }

    /// Adds the facts that its cell does not have: its dependencies, the tasks that it waits for, and its gate.
    pub(crate) fn complete(&self, snapshot: &mut TaskSnapshot) {
        snapshot.depends_on = self.links().dependencies().to_vec();
        snapshot.waits_for = self.waits_for();
        snapshot.gate = self.body.gated().map(|gated| Box::new(gated.snapshot()));
    }

    /// Leaves an order for the driver, and brings the driver with the first order. Returns true if the driver will see it.
    pub(crate) fn order(self: &Arc<Self>, order: Order) -> bool {
        self.order_and_bring(order, || {
            if let Some(shared) = self.manager() {
                shared.drive(self.clone());
            }
        })
    }

    /// The same with another way to bring the driver.
    pub(crate) fn order_and_bring(&self, order: Order, bring: impl FnOnce()) -> bool {
        let wins = self.orders.leave(order, Waker::wake);
        self.bring_driver(bring);
        self.show_stop();
        wins
    }

    /// An order of a person's, which overtakes what waits for the runtime.
    pub(crate) fn command(self: &Arc<Self>, order: Order) {
        self.orders.leave(order, |waker| match self.manager() {
            Some(shared) => shared.overtake(Errand::Wake(waker)),
            None => waker.wake(),
        });
        self.bring_driver(|| {
            if let Some(shared) = self.manager() {
                shared.overtake(Errand::Drive(self.clone()));
            }
        });
        self.show_stop();
    }

    fn bring_driver(&self, bring: impl FnOnce()) {
        // Until the first order there is nothing to do: a task that waits for its start costs no poll.
        if !self.driven.load(SeqCst) && !self.driven.swap(true, SeqCst) {
            bring();
        }
    }

    /// Wakes the driver to check its links again.
    pub(crate) fn look(&self) {
        self.orders.look();
        self.show_stop();
    }

    /// Wakes the driver to poll its life.
    pub(crate) fn wake(&self) {
        self.orders.wake();
    }

    /// Returns true if the driver has not yet received an order, or a change of what is linked.
    pub(crate) fn has_signal(&self) -> bool {
        self.orders.has_signal()
    }

    /// Returns true if an order or a link ends this life, and no other task has to stop before it. Its driver requests it after the
    /// poll under way.
    pub(crate) fn is_to_stop(&self, generation: u64) -> bool {
        self.stop_to_come(generation, OrderSlot::peek_unordered).is_some()
    }

    /// Returns whether the stop that is to come also ends the work that the task owns; `None` if there is none.
    fn stop_to_come(&self, generation: u64, peek: fn(&OrderSlot) -> Option<Order>) -> Option<bool> {
        if !self.is_up() || generation != self.signals.generation() {
            return None;
        }
        let order = peek(&self.orders);
        // A task checks this often. All threads share the number of references to the manager. So it is read only if it can have requested
        // a stop, and a task with links keeps a reference.
        if order.is_none() && self.links().is_empty() && !self.is_called() {
            return None;
        }
        if order == Some(Order::Kill) {
            return Some(true);
        }
        let shared = if self.links().is_empty() {
            self.manager().map(KeptManager::counted)
        } else {
            self.kept_manager()
        }?;
        if shared.tracker.is_staged() {
            return self.is_called().then_some(true);
        }
        let (restarts, ends_owned) = match order {
            Some(Order::Stop { .. } | Order::Leave { .. }) => (false, true),
            Some(Order::Pause) if !self.body.is_loop() => (false, false),
            Some(Order::Restart { after }) if after.is_zero() => (true, false),
            Some(Order::Stalled { generation: of, .. }) if of == generation => (true, false),
            _ => {
                let because = shared.must_yield(self)?;
                return (!shared.is_held_up(self)).then_some(because.stays_down);
            }
        };
        (!shared.would_be_held_up(self, restarts)).then_some(ends_owned)
    }

    /// Notes the token of a life that somebody holds.
    pub(crate) fn lend_token(&self, generation: u64, token: CancellationToken) {
        let held = &self.seldom.get_or_make().token;
        let before = held.lock().unwrap_or_else(PoisonError::into_inner).replace((generation, token));
        drop(before);
        if self.body.is_loop() {
            // Its life waits for the token from now on.
            self.wake();
        }
        // After it: an order that came in between has not found the token.
        self.show_stop();
    }

    /// Passes a stop that is to come on to the token of the life and to the runs that the task owns. A poll may hold the driver.
    ///
    /// Not called under a lock, because wakers may be the user's code.
    pub(crate) fn show_stop(&self) {
        let generation = self.signals.generation();
        let token = self.seldom.get().and_then(|seldom| {
            let held = seldom.token.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_ref().filter(|(of, _)| *of == generation).map(|(_, token)| token.clone())
        });
        let owns = !self.place.owned.is_empty();
        if token.is_none() && !owns {
            return;
        }
        // Under the lock: either this sees the order, or the sender of the order sees the token.
        let Some(ends_owned) = self.stop_to_come(generation, OrderSlot::peek) else { return };
        if let Some(token) = token {
            token.cancel();
        }
        if owns && ends_owned && !self.place.owned.is_asked() {
            if let Some(asked) = self.manager().and_then(|shared| shared.tracker.ask_owned(self)) {
                asked.tokens.iter().for_each(CancellationToken::cancel);
            }
        }
    }

    /// The next order, or that something linked has changed. Called by the driver alone.
    pub(crate) fn poll_signal(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        self.orders.poll(cx)
    }

    /// Sets the state, and shows it under its name as long as the name is its own. Called by the driver alone.
    pub(crate) fn set_state(&self, state: TaskState, shared: &Shared) {
        let before = self.state.swap(state as u8, SeqCst);
        let is_held = state.is_held();
        if is_held != TaskState::ALL[usize::from(before)].is_held() {
            if is_held {
                shared.held.fetch_add(1, SeqCst)
            } else {
                shared.held.fetch_sub(1, SeqCst)
            };
        }
        // Before the lock is taken: the clock may be the user's.
        let now = shared.settings.wall_clock.now();
        let owns_name = self.owns_name.lock().unwrap_or_else(PoisonError::into_inner);
        if *owns_name {
            self.task.cell.set_state(Some(state), now);
        }
    }

    /// Returns the manager, unless it is gone. All threads share the number of its references, so this is not called in each poll or run.
    pub(crate) fn manager(&self) -> Option<Arc<Shared>> {
        #[cfg(all(test, not(otel_tasks_loom)))]
        tests::MANAGER_CALLS.with(|calls| calls.set(calls.get() + 1));
        self.spec.manager.upgrade()
    }

    /// Returns the manager for what a task does often, unless it is gone. Only the first call counts a reference to it. The task keeps this
    /// reference until its driver has left, which has one of its own.
    pub(crate) fn kept_manager(&self) -> Option<KeptManager> {
        let kept = &self.seldom.given_or_make().manager;
        let held = kept.load();
        if held.is_some() {
            return Some(KeptManager(held));
        }
        let shared = self.manager()?;
        if !self.has_left() {
            kept.store(Some(shared.clone()));
            // Pairs with the fence in `driver_left`: either this call finds that the driver has left, or the driver finds what is kept.
            fence(SeqCst);
            if self.has_left() {
                kept.store(None);
            }
        }
        Some(KeptManager::counted(shared))
    }

    /// Reads the manager's wall clock, or the system's if the manager is gone.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        self.manager().map_or_else(SystemTime::now, |shared| shared.settings.wall_clock.now())
    }

    pub(crate) fn state(&self) -> TaskState {
        TaskState::ALL[usize::from(self.state.load(SeqCst))]
    }

    /// Sets the bond of the current life; `None` without a life. Called by the driver alone.
    pub(crate) fn set_bond(&self, bond: Option<Bond>) {
        self.up.store(bond.is_some(), SeqCst);
        self.links().set_bond(bond);
    }

    /// Returns true if a life exists.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(SeqCst)
    }

    /// Returns true if a life exists that is older than the group's epoch.
    pub(crate) fn is_out_of_date(&self, epoch: u64) -> bool {
        self.is_up() && self.links().known_epoch() < epoch
    }

    /// Returns true if it does its work, or has finished it.
    pub(crate) fn is_ready(&self) -> bool {
        match self.state() {
            TaskState::Running => self.signals.is_ready(),
            TaskState::Finished => true,
            _ => false,
        }
    }

    /// Returns true if tasks that depend on it may begin: it is ready, or has succeeded if it is to end.
    pub(crate) fn carries(&self) -> bool {
        // With a start timeout it says itself when it is ready.
        let is_awaited = self.spec.ends && self.spec.start_timeout.is_none();
        self.is_ready() && (!is_awaited || self.state() == TaskState::Finished)
    }

    /// Returns the names of the tasks that it waits for.
    fn waits_for(&self) -> Vec<Arc<str>> {
        if self.state() != TaskState::Waiting || self.links().is_empty() || !self.is_driven() {
            return Vec::new();
        }
        self.manager().map(|shared| shared.waits_for(self)).unwrap_or_default()
    }

    /// Returns one of the tasks that it waits for, and its state. A failed task precedes the others.
    fn held_by(&self) -> Option<(Arc<str>, Option<TaskState>)> {
        let waits_for = self.waits_for();
        // A sweep reads this of all tasks, and few wait.
        let shared = (!waits_for.is_empty()).then(|| self.manager())??;
        let state = |name: Arc<str>| {
            let state = shared.supervised(&name).map(|task| task.state());
            (name, state)
        };
        let waits_for = waits_for.into_iter().map(state);
        waits_for.min_by_key(|(_, state)| *state != Some(TaskState::Failed))
    }

    /// Returns true if it has ended; a failed task may have a next try.
    pub(crate) fn rests(&self) -> bool {
        matches!(self.state(), TaskState::Finished | TaskState::Stopped | TaskState::Failed)
    }

    /// Gives its name up: from now on the name has no state, or that of another task. Returns true if it rests, and is not tried again.
    pub(crate) fn give_name_up(&self) -> bool {
        let mut owns_name = self.owns_name.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock under which the driver checks the name after it has come to rest: the caller or the driver retires the name.
        let is_at_rest = self.rests() && self.task.cell.next_retry().is_none();
        if std::mem::replace(&mut *owns_name, false) {
            self.task.cell.set_state(None, SystemTime::UNIX_EPOCH);
            self.task.cell.set_next_retry(None);
        }
        is_at_rest
    }

    pub(crate) fn owns_name(&self) -> bool {
        *self.owns_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn restarted_at(&self, now: Instant) {
        *self.seldom.get_or_make().last_restart.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Shows when a task that has failed is tried again, as long as the name is its own. Called by the driver alone.
    pub(crate) fn set_next_retry(&self, next_retry: Option<SystemTime>) {
        let owns_name = self.owns_name.lock().unwrap_or_else(PoisonError::into_inner);
        if *owns_name {
            self.task.cell.set_next_retry(next_retry);
        }
    }

    /// The task has failed: the next iteration that succeeds shows that it has recovered. Called by the driver alone.
    pub(crate) fn await_success(&self) {
        let seldom = self.seldom.get_or_make();
        // A success that came with the end of a life came before the failure.
        seldom.succeeded.store(false, SeqCst);
        seldom.awaits_success.store(true, SeqCst);
    }

    /// An iteration of a loop has succeeded. Costs a load unless the task had failed.
    pub(crate) fn iteration_succeeded(&self) {
        let Some(seldom) = self.seldom.get() else { return };
        if seldom.awaits_success.load(SeqCst) && seldom.awaits_success.swap(false, SeqCst) {
            seldom.succeeded.store(true, SeqCst);
            self.look();
        }
    }

    /// Returns true if an iteration has succeeded since the task failed. Called by the driver alone.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.seldom.get().is_some_and(|seldom| seldom.succeeded.swap(false, SeqCst))
    }

    /// Returns the time that a restart by hand has to wait, so that restarts stay apart.
    pub(crate) fn cooldown(&self) -> Duration {
        let last = self
            .seldom
            .get()
            .and_then(|seldom| *seldom.last_restart.lock().unwrap_or_else(PoisonError::into_inner));
        last.map_or(Duration::ZERO, |last| self.spec.backoff.initial().saturating_sub(last.elapsed()))
    }

    /// Returns true if signs of life are expected of it now.
    pub(crate) fn must_beat(&self) -> bool {
        self.state() == TaskState::Running && !self.signals.is_sleeping()
    }

    /// The time that it has gone without a sign of life, if that is longer than it promised, and what it promised. Also while it is stopped
    /// for that.
    fn stalled_for(&self) -> Option<(Duration, Duration)> {
        let limit = self.spec.heartbeat_timeout?;
        let last = self.signals.last_beat()?;
        let is_stopped_for_it = || self.state() == TaskState::Stopping && self.signals.is_told(last);
        let silent_for = last.elapsed();
        let is_stalled = silent_for >= limit && (self.must_beat() || is_stopped_for_it());
        is_stalled.then_some((silent_for, limit))
    }

    /// Returns true if the startup probe need not wait for it. A paused task waits for a person, and a task in standby for another process.
    /// A task that waits for either of them waits too. A restart of the process would help none of them.
    fn has_started(&self) -> bool {
        let waits_for_a_held_task =
            || self.manager().is_some_and(|shared| shared.waits_for_a_held_task(self));
        self.signals.has_been_ready()
            || self.is_ready()
            || match self.state() {
                TaskState::Waiting => !self.links().is_empty() && waits_for_a_held_task(),
                state => state.is_held(),
            }
    }

    pub(crate) fn is_driven(&self) -> bool {
        self.driven.load(SeqCst)
    }

    /// The runtime of its driver is gone.
    pub(crate) fn runtime_gone(&self) {
        self.runtime_gone.store(true, SeqCst);
    }

    /// Returns true if the runtime of its driver is gone: no driver receives an order any more.
    pub(crate) fn is_runtime_gone(&self) -> bool {
        self.runtime_gone.load(SeqCst)
    }

    pub(crate) fn set_lost(&self) {
        self.lost.store(true, SeqCst);
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(SeqCst)
    }

    /// Returns the facts for health beside the figures.
    pub(crate) fn live(&self) -> Live {
        Live {
            // What has finished needs no runtime.
            runtime_gone: self.is_runtime_gone() && self.state() != TaskState::Finished,
            role: self.spec.health_role,
            stalled: self.stalled_for(),
            ready: self.is_ready(),
            started: self.has_started(),
            waits_for: self.held_by(),
            next_retry: self.task.cell.next_retry(),
            one_run: !self.body.is_loop(),
        }
    }

    /// Notes whether it is unhealthy, from `noticed` on if that is news. Returns since when it is.
    pub(crate) fn note_status(
        &self,
        status: HealthStatus,
        noticed: impl FnOnce() -> SystemTime,
    ) -> Option<SystemTime> {
        let is_unhealthy = status == HealthStatus::Unhealthy;
        let seldom = if is_unhealthy { self.seldom.get_or_make() } else { self.seldom.get()? };
        let noticed = is_unhealthy.then(noticed);
        let mut since = seldom.unhealthy_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = noticed.map(|noticed| since.unwrap_or(noticed));
        *since
    }

    /// Requests the task to leave and to be unregistered then, with or without a waiter.
    pub(crate) fn unregister(self: &Arc<Self>) {
        self.unregister.store(true, SeqCst);
        self.command(Order::Leave { grace: Some(self.spec.grace()) });
    }

    /// Its stage of the shutdown has come.
    pub(crate) fn call(self: &Arc<Self>) {
        // Before the order: a task that waits to leave already finds it there.
        self.called.store(true, SeqCst);
        self.order(Order::Leave { grace: self.spec.shutdown_grace });
    }

    pub(crate) fn is_called(&self) -> bool {
        self.called.load(SeqCst)
    }

    pub(crate) fn is_to_unregister(&self) -> bool {
        self.unregister.load(SeqCst)
    }

    pub(crate) fn driver_left(&self) {
        self.orders.close();
        self.left.store(true, SeqCst);
        // Pairs with the fence in `gone`: either we find who waits, or it finds that the driver has left. `kept_manager` has one too.
        fence(SeqCst);
        if let Some(given) = self.seldom.given() {
            given.manager.store(None);
        }
        if let Some(seldom) = self.seldom.get() {
            seldom.gone.notify_waiters();
        }
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(SeqCst)
    }

    /// Waits until the driver has ended and everything of the task is dropped.
    pub(crate) async fn gone(&self) {
        let mut gone = pin!(self.seldom.get_or_make().gone.notified());
        gone.as_mut().enable();
        fence(SeqCst);
        if !self.has_left() {
            gone.await;
        }
    }

    /// Records the status of a health check, if `interval` has passed since the last. Returns true if the status is new. Called
    /// by the monitor alone.
    pub(crate) fn checked(&self, now: Duration, interval: Duration, status: HealthStatus) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX >> 3);
        let note = |status| (nanos(now) + 1) << 2 | status as u64;
        let before = self.checked.load(Relaxed);
        // The first check waits for the first interval. A failure, a death or a stall was reported when it happened.
        let held = if before == 0 { note(HealthStatus::Healthy) } else { before };
        let due = nanos(now).saturating_sub((held >> 2) - 1) >= nanos(interval);
        let noted = if due { note(status) } else { held };
        if noted != before {
            self.checked.store(noted, Relaxed);
        }
        due && status as u64 != held & 3
    }
}

#[cfg(all(test, not(otel_tasks_loom)))]
mod tests {
    use std::cell::Cell;

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::{CriticalTaskConfig, TaskManager};

    thread_local! {
        pub(super) static MANAGER_CALLS: Cell<usize> = const { Cell::new(0) };
    }

    /// Returns how often a task with these dependencies reads the manager in twenty checks for a stop.
    async fn manager_calls_of_checks(dependencies: &[&str]) -> usize {
        let tasks = TaskManager::new();
        let idle = CriticalTaskConfig::new("idle", |ctx| async move { ctx.cancelled().await });
        tasks.register(idle).expect("a sound config");
        let (done, calls) = oneshot::channel();
        let done = Mutex::new(Some(done));
        let config = CriticalTaskConfig::new("import", move |ctx| {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let before = MANAGER_CALLS.get();
                for _ in 0..10 {
                    assert!(!ctx.is_cancelled());
                    let mut wait = pin!(ctx.cancelled());
                    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                }
                let calls = MANAGER_CALLS.get() - before;
                done.into_iter().for_each(|done| _ = done.send(calls));
                ctx.cancelled().await;
            }
        });
        let config = dependencies.iter().fold(config, |config, name| config.depends_on(*name));
        tasks.register(config).expect("a sound config");
        tasks.start();
        calls.await.expect("it begins")
    }

    #[tokio::test]
    async fn a_check_for_a_stop_counts_no_reference_to_the_manager_which_all_tasks_would_share() {
        assert_eq!(manager_calls_of_checks(&[]).await, 0);
    }

    #[tokio::test]
    async fn the_checks_of_a_task_with_links_count_one_reference_to_the_manager() {
        assert_eq!(manager_calls_of_checks(&["idle"]).await, 1);
    }

    #[tokio::test]
    async fn the_runs_of_a_task_count_one_reference_to_the_manager_until_its_driver_has_left() {
        let tasks = TaskManager::new();
        let (begun, mut contexts) = mpsc::unbounded_channel();
        let config = CriticalTaskConfig::new("import", move |ctx| {
            let begun = begun.clone();
            async move {
                let limited = ctx.task("limited").limit(1);
                let before = MANAGER_CALLS.get();
                for _ in 0..10 {
                    ctx.task("row").spawn(async {}).await.expect("it runs");
                    limited.reserve().await.spawn(async {}).await.expect("it runs");
                }
                begun.send((MANAGER_CALLS.get() - before, ctx.clone())).expect("it is received");
                ctx.cancelled().await;
            }
        });
        tasks.register(config).expect("a sound config");
        tasks.start();
        let (calls, context) = contexts.recv().await.expect("it begins");
        assert_eq!(calls, 0, "the builder of the limited task was the first");
        let manager = Arc::downgrade(tasks.shared());
        tasks.shutdown().await;
        drop(tasks);
        let is_released = async {
            while manager.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), is_released).await.expect("nothing keeps the manager");
        assert!(context.task("late").spawn(async {}).await.is_err(), "a context keeps no manager");
    }

    /// Fails if a task keeps the manager for a call that comes after its driver has left: each would hold the other.
    #[tokio::test]
    async fn a_context_of_a_task_that_has_left_lets_the_manager_go() {
        let tasks = TaskManager::new();
        let (begun, mut contexts) = mpsc::unbounded_channel();
        let config = CriticalTaskConfig::new("import", move |ctx| {
            begun.send(ctx.clone()).expect("it is received");
            async move { ctx.cancelled().await }
        });
        tasks.register(config).expect("a sound config");
        tasks.start();
        let context = contexts.recv().await.expect("it begins");
        let manager = Arc::downgrade(tasks.shared());
        tasks.shutdown().await;
        assert!(context.task("late").spawn(async {}).await.is_err(), "its task has left");
        drop(tasks);
        let is_released = async {
            while manager.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), is_released).await.expect("nothing keeps the manager");
    }

    /// Such an order is there until the driver drops it, which a poll may hold up.
    #[tokio::test]
    async fn a_stall_of_an_earlier_life_requests_no_stop() {
        let tasks = TaskManager::new();
        let (told, mut stops) = mpsc::unbounded_channel();
        let manager = tasks.downgrade();
        let config = CriticalTaskConfig::new("import", move |ctx| {
            let (told, tasks) = (told.clone(), manager.upgrade().expect("the manager lives"));
            async move {
                let task = tasks.shared().supervised("import").expect("it is registered");
                let generation = task.signals.generation();
                let is_to_stop = |generation| {
                    task.order(Order::Stalled { generation, give_up: false });
                    ctx.is_cancelled()
                };
                let earlier = is_to_stop(generation - 1);
                tokio::task::yield_now().await;
                told.send((earlier, is_to_stop(generation))).expect("it is received");
                ctx.cancelled().await;
            }
        });
        tasks.register(config).expect("a sound config");
        tasks.start();
        assert_eq!(stops.recv().await, Some((false, true)));
    }
}
