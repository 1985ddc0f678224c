//! The orders of a driver, and the slot in which it finds them.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::sync::{
    Mutex,
    atomic::{
        AtomicU8,
        Ordering::{Acquire, Relaxed, Release},
    },
    lock,
};

/// An order for a driver. The last order wins, with three exceptions:
///
/// - Only [`Order::Kill`] overrides [`Order::Leave`].
/// - [`Order::Resume`] overrides [`Order::Pause`] alone.
/// - Some orders override none ([`Order::yields`]). [`Order::Start`] adds nothing to an earlier order. The driver of a stalled task may be
///   stuck with a person's order, which must not be lost.
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
pub(crate) struct OrderSlot {
    /// The number of the order's [`Kind`], [`LOOK`] and [`ARMED`]. It is written under the lock, and the task reads it without.
    word: AtomicU8,
    held: Mutex<Held>,
}

/// The fields of the order are beside each other and not an [`Order`]: every registered task has a slot.
#[derive(Default)]
struct Held {
    /// The generation of a stall; otherwise the nanoseconds of the order, up to 584 years.
    amount: u64,
    /// The driver's, while it waits.
    waker: Option<Waker>,
}

/// The bits of [`OrderSlot::word`] for the kind of the order.
const KIND: u8 = 0b1111;
/// Set if there is something to check.
const LOOK: u8 = 0b1_0000;
/// Set while the slot has the driver's waker. There is no order then, and nothing to check.
const ARMED: u8 = 0b10_0000;

/// An [`Order`] without its amount.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    None,
    Start,
    Restart,
    Stop,
    Stalled,
    StalledForGood,
    Pause,
    Resume,
    Leave,
    LeaveWithGrace,
    Kill,
}

impl Kind {
    /// All of them, at the index of their number.
    const ALL: [Self; 11] = [
        Self::None,
        Self::Start,
        Self::Restart,
        Self::Stop,
        Self::Stalled,
        Self::StalledForGood,
        Self::Pause,
        Self::Resume,
        Self::Leave,
        Self::LeaveWithGrace,
        Self::Kill,
    ];

    fn of(word: u8) -> Self {
        Self::ALL.get(usize::from(word & KIND)).copied().unwrap_or(Self::None)
    }

    fn order(self, amount: u64) -> Option<Order> {
        let time = Duration::from_nanos(amount);
        Some(match self {
            Self::None => return None,
            Self::Start => Order::Start,
            Self::Restart => Order::Restart { after: time },
            Self::Stop => Order::Stop { grace: time },
            Self::Stalled => Order::Stalled { generation: amount, give_up: false },
            Self::StalledForGood => Order::Stalled { generation: amount, give_up: true },
            Self::Pause => Order::Pause,
            Self::Resume => Order::Resume,
            Self::Leave => Order::Leave { grace: None },
            Self::LeaveWithGrace => Order::Leave { grace: Some(time) },
            Self::Kill => Order::Kill,
        })
    }

    /// Returns an order's kind and amount.
    fn split(order: Order) -> (Self, u64) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match order {
            Order::Start => (Self::Start, 0),
            Order::Restart { after } => (Self::Restart, nanos(after)),
            Order::Stop { grace } => (Self::Stop, nanos(grace)),
            Order::Stalled { generation, give_up: false } => (Self::Stalled, generation),
            Order::Stalled { generation, give_up: true } => (Self::StalledForGood, generation),
            Order::Pause => (Self::Pause, 0),
            Order::Resume => (Self::Resume, 0),
            Order::Leave { grace: None } => (Self::Leave, 0),
            Order::Leave { grace: Some(grace) } => (Self::LeaveWithGrace, nanos(grace)),
            Order::Kill => (Self::Kill, 0),
        }
    }
}

impl OrderSlot {
    /// Reads the word under the lock, which all its writers hold.
    fn word(&self, _held: &Held) -> u8 {
        self.word.load(Relaxed)
    }

    /// Writes the word under the lock. Release: pairs with [`Self::seen`].
    fn set_word(&self, _held: &Held, word: u8) {
        self.word.store(word, Release);
    }

    /// Reads the word without the lock.
    fn seen(&self) -> u8 {
        self.word.load(Acquire)
    }

    /// Takes the driver's waker, which is to be woken or dropped when the lock is released: it is the runtime's code.
    fn disarm(&self, held: &mut Held) -> Option<Waker> {
        self.set_word(held, self.word(held) & !ARMED);
        held.waker.take()
    }

    /// Leaves an order, unless the held order precedes it, and wakes a waiting driver. Returns true if the driver
    /// will see the order.
    pub(crate) fn leave(&self, order: Order, wake: impl FnOnce(Waker)) -> bool {
        // Under one lock with the check: an order left in between would be lost.
        let mut held = lock(&self.held);
        let word = self.word(&held);
        let wins = match Kind::of(word).order(held.amount) {
            None => true,
            Some(Order::Leave { .. } | Order::Kill) => order == Order::Kill,
            // It takes back a pause, and nothing else that was asked for.
            Some(before) if order == Order::Resume => before == Order::Pause,
            Some(_) => !order.yields(),
        };
        if !wins {
            return false;
        }
        let (kind, amount) = Kind::split(order);
        held.amount = amount;
        self.set_word(&held, word & !KIND | kind as u8);
        let waker = self.disarm(&mut held);
        drop(held);
        waker.map(wake);
        true
    }

    /// Wakes the driver to check its links again.
    pub(crate) fn look(&self) {
        let mut held = lock(&self.held);
        self.set_word(&held, self.word(&held) | LOOK);
        let waker = self.disarm(&mut held);
        drop(held);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Wakes the driver, which has nothing to check itself: its life has.
    pub(crate) fn wake(&self) {
        let waker = self.disarm(&mut lock(&self.held));
        waker.into_iter().for_each(Waker::wake);
    }

    /// Returns true if there is an order, or something to check.
    pub(crate) fn has_signal(&self) -> bool {
        self.seen() & (KIND | LOOK) != 0
    }

    /// Returns the held order, and leaves it to the driver.
    pub(crate) fn peek(&self) -> Option<Order> {
        let held = lock(&self.held);
        Kind::of(self.word(&held)).order(held.amount)
    }

    /// The same, without the lock if there is no order. It returns each order that was left before the call. An order that is left at the same
    /// time may be missed.
    pub(crate) fn peek_unordered(&self) -> Option<Order> {
        if self.seen() & KIND == 0 { None } else { self.peek() }
    }

    /// Takes the held order, or the mark that there is something to check. Called by the driver alone, which is the whole future of its tokio task:
    /// so its waker is always the same.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Signal> {
        if self.seen() == ARMED {
            return Poll::Pending;
        }
        let mut held = lock(&self.held);
        let word = self.word(&held);
        if let Some(order) = Kind::of(word).order(held.amount) {
            self.set_word(&held, word & !KIND);
            return Poll::Ready(Signal::Order(order));
        }
        if word & LOOK != 0 {
            self.set_word(&held, word & !LOOK);
            return Poll::Ready(Signal::Look);
        }
        held.waker = Some(cx.waker().clone());
        self.set_word(&held, ARMED);
        Poll::Pending
    }

    /// Wakes nobody any more: the driver has gone, and its waker would hold what it ran in.
    pub(crate) fn close(&self) {
        let waker = self.disarm(&mut lock(&self.held));
        drop(waker);
    }

    /// Takes the order that is held.
    #[cfg(all(test, otel_tasks_loom))]
    fn take(&self) -> Option<Order> {
        let mut held = lock(&self.held);
        let word = self.word(&held);
        self.set_word(&held, word & !KIND);
        Kind::of(word).order(held.amount)
    }
}

/// Seen to fail if `leave` reads and writes under two locks, one after the other.
#[cfg(all(test, otel_tasks_loom))]
mod loom {
    use std::sync::{Arc, atomic::Ordering::SeqCst};

    use ::loom::thread;

    use super::*;
    use crate::sync::{atomic::AtomicBool, model};

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
            self.0.store(true, SeqCst);
        }
    }

    /// Polls as the driver does. Returns true if it falls asleep.
    fn sleeps(slot: &OrderSlot, woken: &Arc<Woken>) -> bool {
        slot.poll(&mut Context::from_waker(&Waker::from(woken.clone()))).is_pending()
    }

    /// Leaves an order, or with `None` a mark, on a thread of its own.
    fn leaves(slot: &Arc<OrderSlot>, order: Option<Order>) -> thread::JoinHandle<()> {
        let slot = slot.clone();
        thread::spawn(move || match order {
            Some(order) => assert!(slot.leave(order, Waker::wake)),
            None => slot.look(),
        })
    }

    /// Seen to fail with `peek_unordered` in place of `peek`.
    #[test]
    fn order_and_token_that_come_at_the_same_time_do_not_miss_each_other() {
        model(3, || {
            let (slot, token) = (Arc::new(OrderSlot::default()), Arc::new(AtomicBool::new(false)));
            let sender = {
                let (slot, token) = (slot.clone(), token.clone());
                thread::spawn(move || {
                    assert!(slot.leave(STOP, Waker::wake));
                    token.load(Acquire)
                })
            };
            token.store(true, Release);
            let is_seen = slot.peek().is_some();
            assert!(sender.join().expect("no panic") || is_seen);
        });
    }

    /// Seen to fail if `poll` reads and leaves its waker under two locks, one after the other.
    #[test]
    fn order_left_while_the_driver_falls_asleep_wakes_it() {
        for order in [None, Some(STOP)] {
            model(3, move || {
                let (slot, woken) = (Arc::new(OrderSlot::default()), Arc::new(Woken::default()));
                let leaves = leaves(&slot, order);
                let asleep = sleeps(&slot, &woken);
                leaves.join().expect("no panic");
                assert_eq!(asleep, woken.0.load(SeqCst));
                assert_eq!(asleep, !sleeps(&slot, &woken));
            });
        }
    }

    /// Seen to fail if `poll` stays asleep after its waker was taken, or with an order in the slot.
    #[test]
    fn order_left_while_the_driver_is_polled_again_wakes_it() {
        for order in [None, Some(STOP)] {
            model(3, move || {
                let (slot, woken) = (Arc::new(OrderSlot::default()), Arc::new(Woken::default()));
                assert!(sleeps(&slot, &woken));
                let leaves = leaves(&slot, order);
                let asleep = sleeps(&slot, &woken);
                leaves.join().expect("no panic");
                assert!(woken.0.load(SeqCst));
                assert_eq!(asleep, !sleeps(&slot, &woken));
            });
        }
    }

    /// Seen to fail if `wake` takes the waker and leaves the mark.
    #[test]
    fn driver_that_was_woken_for_its_life_can_be_woken_again() {
        model(1, || {
            let (slot, woken) = (OrderSlot::default(), Arc::new(Woken::default()));
            for wake in [OrderSlot::wake, OrderSlot::wake, OrderSlot::look] {
                assert!(sleeps(&slot, &woken));
                wake(&slot);
                assert!(woken.0.swap(false, SeqCst));
            }
            assert!(!sleeps(&slot, &woken));
        });
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
