//! The orders of a driver, and the slot in which it finds them.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::sync::{Mutex, lock};

/// An order for a driver. The last order wins, with two exceptions. Only [`Order::Kill`] overrides [`Order::Leave`], and some
/// orders override none ([`Order::yields`]). [`Order::Start`] adds nothing to an earlier order. The driver of a stalled task may be stuck
/// with a person's order, which must not be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Begin, if it has not yet begun.
    Start,
    /// Stop the life and begin another, after a while: a caller requested it.
    Restart { after: Duration },
    /// Stop, and wait for a restart.
    Stop { grace: Duration },
    /// Stop because this generation stalled; then begin again, or give up. It does not apply to a later generation.
    Stalled { generation: u64, give_up: bool },
    /// Begin no more until [`Order::Resume`].
    Pause,
    /// Continue after [`Order::Pause`].
    Resume,
    /// Stop and end the driver; with no grace given, until [`Order::Kill`].
    Leave { grace: Option<Duration> },
    /// Drop what runs and end the driver, now.
    Kill,
}

impl Order {
    /// Returns true if it gives way to any other order.
    pub(crate) fn yields(self) -> bool {
        matches!(self, Self::Start | Self::Stalled { .. })
    }
}

/// The reason of a driver's wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Order(Order),
    /// Something it is linked to has changed.
    Look,
}

/// Holds at most one order, and a mark that there is something to check. The sender of an order and the driver that takes it never
/// wait for each other.
#[derive(Default)]
pub(crate) struct OrderSlot(Mutex<Held>);

/// The fields of the order are beside each other and not an [`Order`]: every registered task has a slot.
#[derive(Default)]
struct Held {
    kind: Option<Kind>,
    look: bool,
    /// The generation of a stall; otherwise the nanoseconds of the order, up to 584 years.
    amount: u64,
    /// The driver's, while it waits.
    waker: Option<Waker>,
}

/// An [`Order`] without its amount.
#[derive(Clone, Copy)]
enum Kind {
    Start,
    Restart,
    Stop,
    Stalled { give_up: bool },
    Pause,
    Resume,
    Leave { has_grace: bool },
    Kill,
}

impl Held {
    fn order(&self) -> Option<Order> {
        let time = Duration::from_nanos(self.amount);
        Some(match self.kind? {
            Kind::Start => Order::Start,
            Kind::Restart => Order::Restart { after: time },
            Kind::Stop => Order::Stop { grace: time },
            Kind::Stalled { give_up } => Order::Stalled { generation: self.amount, give_up },
            Kind::Pause => Order::Pause,
            Kind::Resume => Order::Resume,
            Kind::Leave { has_grace } => Order::Leave { grace: has_grace.then_some(time) },
            Kind::Kill => Order::Kill,
        })
    }

    fn set(&mut self, order: Order) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (kind, amount) = match order {
            Order::Start => (Kind::Start, 0),
            Order::Restart { after } => (Kind::Restart, nanos(after)),
            Order::Stop { grace } => (Kind::Stop, nanos(grace)),
            Order::Stalled { generation, give_up } => (Kind::Stalled { give_up }, generation),
            Order::Pause => (Kind::Pause, 0),
            Order::Resume => (Kind::Resume, 0),
            Order::Leave { grace } => (Kind::Leave { has_grace: grace.is_some() }, grace.map_or(0, nanos)),
            Order::Kill => (Kind::Kill, 0),
        };
        (self.kind, self.amount) = (Some(kind), amount);
    }

    fn take(&mut self) -> Option<Order> {
        let order = self.order();
        self.kind = None;
        order
    }
}

impl OrderSlot {
    /// Leaves an order, unless the held order precedes it, and wakes a waiting driver. Returns true if the driver
    /// will see the order.
    pub(crate) fn leave(&self, order: Order, wake: impl FnOnce(Waker)) -> bool {
        // Under one lock with the check: an order left in between would be lost.
        let mut held = lock(&self.0);
        let wins = match held.order() {
            None => true,
            Some(Order::Leave { .. } | Order::Kill) => order == Order::Kill,
            // It takes back a pause, and nothing else that was asked for.
            Some(before) if order == Order::Resume => before == Order::Pause,
            Some(_) => !order.yields(),
        };
        if !wins {
            return false;
        }
        held.set(order);
        let waker = held.waker.take();
        // Not under the lock: a waker is the runtime's code.
        drop(held);
        waker.map(wake);
        true
    }

    /// Wakes the driver to check its links again.
    pub(crate) fn look(&self) {
        let mut held = lock(&self.0);
        held.look = true;
        let waker = held.waker.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes the driver, which has nothing to check itself: its life has.
    pub(crate) fn wake(&self) {
        let waker = lock(&self.0).waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Returns true if there is an order, or something to check.
    pub(crate) fn has_signal(&self) -> bool {
        let held = lock(&self.0);
        held.kind.is_some() || held.look
    }

    /// Returns the held order, and leaves it to the driver.
    pub(crate) fn peek(&self) -> Option<Order> {
        lock(&self.0).order()
    }

    /// Takes the held order, or the mark that there is something to check. Called by the driver alone.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        let mut held = lock(&self.0);
        if let Some(order) = held.take() {
            return Poll::Ready(Signal::Order(order));
        }
        if std::mem::take(&mut held.look) {
            return Poll::Ready(Signal::Look);
        }
        if !held.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            held.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes nobody any more: the driver has gone, and its waker would hold what it ran in.
    pub(crate) fn close(&self) {
        let waker = lock(&self.0).waker.take();
        drop(waker);
    }

    /// Takes the order that is held.
    #[cfg(all(test, otel_tasks_loom))]
    fn take(&self) -> Option<Order> {
        lock(&self.0).take()
    }
}

/// Seen to fail if `leave` reads and writes under two locks, one after the other.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::sync::Arc;

    use ::loom::thread;

    use super::*;
    use crate::sync::model;

    const STOP: Order = Order::Stop { grace: Duration::ZERO };
    const RESTART: Order = Order::Restart { after: Duration::ZERO };
    const LEAVE: Order = Order::Leave { grace: None };
    const STALLED: Order = Order::Stalled { generation: 1, give_up: false };

    /// Returns the orders that a driver receives when these are left at once, and true for each accepted one.
    fn heard(orders: [Order; 2]) -> (Vec<Order>, [bool; 2]) {
        let slot = Arc::new(OrderSlot::default());
        let threads = orders.map(|order| {
            let slot = slot.clone();
            thread::spawn(move || slot.leave(order, Waker::wake))
        });
        let mut heard: Vec<_> = slot.take().into_iter().collect();
        let accepted = threads.map(|thread| thread.join().expect("no panic"));
        heard.extend(slot.take());
        assert_eq!(slot.take(), None);
        (heard, accepted)
    }

    #[test]
    fn simultaneous_stop_and_restart_are_received_or_overridden() {
        model(3, || {
            let (heard, accepted) = heard([STOP, RESTART]);
            assert_eq!(accepted, [true, true]);
            assert!(matches!(heard[..], [STOP | RESTART] | [STOP, RESTART] | [RESTART, STOP]), "{heard:?}");
        });
    }

    #[test]
    fn nothing_takes_back_that_a_task_leaves() {
        model(3, || {
            let (heard, accepted) = heard([LEAVE, RESTART]);
            assert!(accepted[0] && heard.contains(&LEAVE), "{heard:?}");
            assert!(heard.contains(&RESTART) <= accepted[1], "{heard:?}");
        });
    }

    /// Records that it was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Seen to fail if `poll` reads and leaves its waker under two locks, one after the other.
    #[test]
    fn order_left_while_the_driver_falls_asleep_wakes_it() {
        for order in [None, Some(STOP)] {
            model(3, move || {
                let (slot, woken) = (Arc::new(OrderSlot::default()), Arc::new(Woken::default()));
                let leaves = {
                    let slot = slot.clone();
                    thread::spawn(move || match order {
                        Some(order) => assert!(slot.leave(order, Waker::wake)),
                        None => slot.look(),
                    })
                };
                let waker = Waker::from(woken.clone());
                let asleep = slot.poll(&mut Context::from_waker(&waker)).is_pending();
                leaves.join().expect("no panic");
                assert_eq!(asleep, woken.0.load(std::sync::atomic::Ordering::SeqCst));
                assert_eq!(asleep, slot.poll(&mut Context::from_waker(&waker)).is_ready());
            });
        }
    }

    #[test]
    fn a_stall_and_a_resume_override_no_stop() {
        for yielding in [STALLED, Order::Resume, Order::Start] {
            model(3, move || {
                let (heard, _) = heard([STOP, yielding]);
                assert!(heard.contains(&STOP), "{yielding:?}: {heard:?}");
            });
        }
    }
}
