//! A registered task: what it is, and the slot in which its driver finds orders.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    ContextParts, Shared, TaskContext, TaskEventKind, TaskSpec,
    links::{Bond, Links},
    orders::{Order, OrderSlot},
    signals::Signals,
};
use crate::{
    cell::TaskState,
    policy::Exit,
    read::Live,
    run::{Ended, Task},
};

pub(crate) struct Supervised {
    pub(crate) task: Arc<Task>,
    pub(crate) spec: TaskSpec,
    pub(crate) links: Links,
    pub(crate) signals: Arc<Signals>,
    orders: OrderSlot,
    ordered: Notify,
    /// Whether the state of its name is this task's: not once it was detached or unregistered.
    stands: Mutex<bool>,
    /// Index in [`TaskState::ALL`]. Written by the driver alone.
    state: AtomicU8,
    /// What the present life rests on; `None` while there is none. Written by the driver alone.
    bond: Mutex<Option<Bond>>,
    /// Whether there is one. Written with it.
    up: AtomicBool,
    /// The epoch of its group that its last life knew. Written by the driver alone.
    pub(crate) known_epoch: AtomicU64,
    /// Written by the driver alone: when the last restart began.
    last_restart: Mutex<Option<Instant>>,
    /// Whether the driver unregisters it when it leaves.
    unregister: AtomicBool,
    /// Set by the driver as its last act.
    left: watch::Sender<bool>,
    /// When health was last checked, and what it said. Written by the monitor alone.
    pub(crate) checked: Mutex<Option<(Instant, bool)>>,
    /// Where it was registered.
    pub(crate) registered_in: Option<SpanContext>,
}

/// Why a driver woke.
pub(crate) enum Signal {
    Order(Order),
    /// Something it is linked to has changed.
    Look,
}

/// What lives: a closure's one run, or a loop's many.
pub(crate) trait Body: Send + Sync + 'static {
    /// One life. Runs no user code before it is polled.
    fn live(&self, life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>>;
    /// Whether it is a loop, which the shutdown asks to stop before anything else.
    fn is_loop(&self) -> bool {
        false
    }
    /// Holds the life under way, or lets it go on. Answers whether it can be held; one that cannot is stopped instead.
    fn hold(&self, _held: bool) -> bool {
        false
    }
    /// Called when the task is registered.
    fn registered(&self, _supervised: &Arc<Supervised>) {}
}

/// What a life is given.
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    pub(crate) supervised: Arc<Supervised>,
    pub(crate) generation: u64,
    pub(crate) token: CancellationToken,
    pub(crate) links: Vec<SpanContext>,
    /// When the life must be ready, and how long that is after its start.
    pub(crate) ready_by: Option<(Instant, Duration)>,
}

/// How a life ended.
pub(crate) struct LifeEnd {
    pub(crate) exit: Exit,
    /// A loop that reached its count or was stopped: never restarted, whatever the policy.
    pub(crate) finished: bool,
    pub(crate) span_context: Option<SpanContext>,
}

impl Life {
    pub(crate) fn context(&self, iteration: Option<u64>) -> TaskContext {
        TaskContext::new(ContextParts {
            task: self.supervised.task.clone(),
            generation: self.generation,
            iteration,
            token: self.token.clone(),
            signals: self.supervised.signals.clone(),
            supervised: Arc::downgrade(&self.supervised),
            manager: Arc::downgrade(&self.shared),
        })
    }

    /// Work that fails as timed out where the life is not ready in time.
    pub(crate) fn until_ready(
        &self,
        work: Pin<Box<dyn Future<Output = Exit> + Send>>,
    ) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        let Some((due, limit)) = self.ready_by.filter(|_| !self.supervised.signals.is_ready()) else {
            return work;
        };
        let signals = self.supervised.signals.clone();
        Box::pin(async move {
            let too_late = async {
                tokio::time::sleep_until(due).await;
                if signals.is_ready() {
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

/// A run that has begun and whose end has not been told. Dropped with the run, so that the end of each is told, also of one that
/// is dropped before it was polled.
pub(crate) struct Untold {
    shared: Arc<Shared>,
    supervised: Arc<Supervised>,
    generation: u64,
    began: Instant,
    iteration: Option<u64>,
    exit: Exit,
}

impl Untold {
    pub(crate) fn begin(life: &Life, iteration: Option<u64>) -> Self {
        Self {
            shared: life.shared.clone(),
            supervised: life.supervised.clone(),
            generation: life.generation,
            began: Instant::now(),
            iteration,
            exit: Exit::Cancellation,
        }
    }

    /// Tells how the run ended.
    pub(crate) fn tell<T>(mut self, ended: &Ended<T>) {
        self.exit = ended.exit.clone();
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        let exit = std::mem::replace(&mut self.exit, Exit::Cancellation);
        self.shared.events.tell(Some(self.supervised.name()), self.generation, || TaskEventKind::Exited {
            exit,
            duration: self.began.elapsed(),
            iteration: self.iteration,
        });
    }
}

impl Supervised {
    pub(crate) fn new(
        task: Arc<Task>,
        spec: TaskSpec,
        links: Links,
        registered_in: Option<SpanContext>,
    ) -> Arc<Self> {
        let supervised = Arc::new(Self {
            task,
            spec,
            links,
            signals: Arc::new(Signals::new(0)),
            orders: OrderSlot::default(),
            ordered: Notify::new(),
            stands: Mutex::new(true),
            state: AtomicU8::new(TaskState::Waiting as u8),
            bond: Mutex::default(),
            up: AtomicBool::new(false),
            known_epoch: AtomicU64::new(0),
            last_restart: Mutex::default(),
            unregister: AtomicBool::new(false),
            left: watch::Sender::new(false),
            checked: Mutex::default(),
            registered_in,
        });
        supervised.spec.body.registered(&supervised);
        supervised
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.task.identity.name
    }

    /// Leaves an order for the driver. Answers whether the driver will see it.
    pub(crate) fn order(&self, order: Order) -> bool {
        let wins = self.orders.leave(order);
        self.ordered.notify_one();
        wins
    }

    /// Lets the driver look again at what it is linked to.
    pub(crate) fn look(&self) {
        self.ordered.notify_one();
    }

    /// Waits for the next order, or until something linked has changed.
    ///
    /// # Cancel safety
    /// Cancel safe: an order is taken only when it is returned.
    pub(crate) async fn next_signal(&self) -> Signal {
        if let Some(order) = self.orders.take() {
            return Signal::Order(order);
        }
        self.ordered.notified().await;
        self.orders.take().map_or(Signal::Look, Signal::Order)
    }

    /// Sets the state, and shows it under its name as long as the name is its own. Called by the driver alone.
    pub(crate) fn set_state(&self, state: TaskState) {
        self.state.store(state as u8, SeqCst);
        let stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
        if *stands {
            self.task.cell.set_state(Some(state));
        }
    }

    pub(crate) fn state(&self) -> TaskState {
        TaskState::ALL[usize::from(self.state.load(SeqCst))]
    }

    /// What the present life rests on. Called by the driver alone.
    pub(crate) fn set_bond(&self, bond: Option<Bond>) {
        self.up.store(bond.is_some(), SeqCst);
        *self.bond.lock().unwrap_or_else(PoisonError::into_inner) = bond;
    }

    pub(crate) fn bond(&self) -> Option<Bond> {
        self.bond.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether something of it lives.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(SeqCst)
    }

    /// Whether something of it lives that is older than its group wants.
    pub(crate) fn is_out_of_date(&self, epoch: u64) -> bool {
        self.is_up() && self.known_epoch.load(SeqCst) < epoch
    }

    /// Whether others may rest on it: it does its work, or has done it for good.
    pub(crate) fn is_ready(&self) -> bool {
        match self.state() {
            TaskState::Running => self.signals.is_ready(),
            TaskState::Finished => true,
            _ => false,
        }
    }

    /// Gives its name up: from now on the name has no state, or that of another task.
    pub(crate) fn give_name_up(&self) {
        let mut stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *stands, false) {
            self.task.cell.set_state(None);
        }
    }

    pub(crate) fn stands(&self) -> bool {
        *self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn restarted_at(&self, now: Instant) {
        *self.last_restart.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// How long a restart by hand has to wait, so that restarts stay apart.
    pub(crate) fn cooldown(&self) -> Duration {
        let last = *self.last_restart.lock().unwrap_or_else(PoisonError::into_inner);
        last.map_or(Duration::ZERO, |last| self.spec.backoff.initial().saturating_sub(last.elapsed()))
    }

    /// Whether signs of life are expected of it now.
    pub(crate) fn must_beat(&self) -> bool {
        self.state() == TaskState::Running && !self.signals.is_sleeping()
    }

    /// Whether it has gone without a sign of life for longer than it promised.
    pub(crate) fn is_stalled(&self) -> bool {
        self.must_beat()
            && self.spec.heartbeat_timeout.is_some_and(|limit| self.signals.last_beat().elapsed() >= limit)
    }

    /// What health asks beside the figures.
    pub(crate) fn live(&self) -> Live {
        Live {
            stalled: self.is_stalled(),
            ready: self.is_ready(),
            started: self.signals.has_been_ready() || self.is_ready(),
        }
    }

    /// Tells the task to leave and to be unregistered then, whoever waits for it.
    pub(crate) fn unregister(&self) {
        self.unregister.store(true, SeqCst);
        self.order(Order::Leave { grace: Some(self.spec.grace()) });
    }

    pub(crate) fn is_to_unregister(&self) -> bool {
        self.unregister.load(SeqCst)
    }

    pub(crate) fn driver_left(&self) {
        self.left.send_replace(true);
    }

    pub(crate) fn has_left(&self) -> bool {
        *self.left.borrow()
    }

    /// Waits until the driver has ended and everything of the task is dropped.
    pub(crate) async fn gone(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }
}
