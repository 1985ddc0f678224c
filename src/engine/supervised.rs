//! A registered task: what it is, and the slot in which its driver finds orders.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{ContextParts, Shared, TaskContext, TaskSpec};
use crate::{
    cell::TaskState,
    policy::{Exit, RestartReason},
    run::Task,
};

pub(crate) struct Supervised {
    pub(crate) task: Arc<Task>,
    pub(crate) spec: TaskSpec,
    orders: Mutex<Option<Order>>,
    ordered: Notify,
    /// Whether the state of its name is this task's: not once it was detached or unregistered.
    stands: Mutex<bool>,
    /// Written by the driver alone.
    pub(crate) generation: AtomicU64,
    /// Written by the driver alone: when the last restart began.
    last_restart: Mutex<Option<Instant>>,
    pub(crate) heartbeat: Arc<watch::Sender<Instant>>,
    /// Whether a loop waits for its next iteration. Written by the loop alone.
    pub(crate) sleeping: AtomicBool,
    /// Whether the driver unregisters it when it leaves.
    unregister: AtomicBool,
    /// Set by the driver as its last act.
    left: watch::Sender<bool>,
    /// When health was last checked. Written by the monitor alone.
    pub(crate) checked: Mutex<Option<Instant>>,
    /// Where it was registered.
    pub(crate) registered_in: Option<SpanContext>,
}

/// What a driver is told. The last order wins; but nothing except [`Order::Kill`] overrides [`Order::Leave`], and two
/// override none: [`Order::Start`], which says nothing new to a task that was told more, and the restart of a task that
/// stalled, whose driver may be stuck with what a person has told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Begin, if it has not yet begun.
    Start,
    /// Stop what runs and run anew, after a while.
    Restart { reason: RestartReason, after: Duration },
    /// Stop, and wait for a restart.
    Stop { grace: Duration },
    /// Stop and end the driver; with no grace given, until [`Order::Kill`].
    Leave { grace: Option<Duration> },
    /// Drop what runs and end the driver, now.
    Kill,
}

impl Order {
    /// Whether it gives way to any other.
    pub(crate) fn yields(self) -> bool {
        matches!(self, Self::Start | Self::Restart { reason: RestartReason::Stalled, .. })
    }
}

/// What lives: a closure's one run, or a loop's many.
pub(crate) trait Body: Send + Sync + 'static {
    /// One life. Runs no user code before it is polled.
    fn live(&self, life: Life) -> Pin<Box<dyn Future<Output = LifeEnd> + Send>>;
    /// Whether it is a loop, which the shutdown asks to stop before anything else.
    fn is_loop(&self) -> bool {
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
            heartbeat: self.supervised.heartbeat.clone(),
            manager: Arc::downgrade(&self.shared),
        })
    }
}

impl Supervised {
    pub(crate) fn new(task: Arc<Task>, spec: TaskSpec, registered_in: Option<SpanContext>) -> Arc<Self> {
        let supervised = Arc::new(Self {
            task,
            spec,
            orders: Mutex::default(),
            ordered: Notify::new(),
            stands: Mutex::new(true),
            generation: AtomicU64::new(0),
            last_restart: Mutex::default(),
            heartbeat: Arc::new(watch::Sender::new(Instant::now())),
            sleeping: AtomicBool::new(false),
            unregister: AtomicBool::new(false),
            left: watch::Sender::new(false),
            checked: Mutex::default(),
            registered_in,
        });
        supervised.spec.body.registered(&supervised);
        supervised
    }

    fn slot(&self) -> MutexGuard<'_, Option<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an order for the driver. Answers whether the driver will see it.
    pub(crate) fn order(&self, order: Order) -> bool {
        let mut slot = self.slot();
        let wins = match *slot {
            None => true,
            Some(Order::Leave { .. } | Order::Kill) => order == Order::Kill,
            Some(_) => !order.yields(),
        };
        if wins {
            *slot = Some(order);
        }
        drop(slot);
        self.ordered.notify_one();
        wins
    }

    /// Waits for the next order.
    ///
    /// # Cancel safety
    /// Cancel safe: an order is taken only when it is returned.
    pub(crate) async fn next_order(&self) -> Order {
        loop {
            let ordered = self.ordered.notified();
            if let Some(order) = self.slot().take() {
                return order;
            }
            ordered.await;
        }
    }

    /// Shows the state under its name, as long as the name is its own. Called by the driver alone.
    pub(crate) fn set_state(&self, state: TaskState) {
        let stands = self.stands.lock().unwrap_or_else(PoisonError::into_inner);
        if *stands {
            self.task.cell.set_state(Some(state));
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

    /// Whether it has gone without a sign of life for longer than it promised.
    pub(crate) fn is_stalled(&self) -> bool {
        self.task.cell.state() == Some(TaskState::Running)
            && !self.sleeping.load(Relaxed)
            && self.spec.heartbeat_timeout.is_some_and(|limit| self.heartbeat.borrow().elapsed() > limit)
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
