use std::{sync::mpsc, thread};

use super::*;
use crate::watchdog::next_number;

/// Returns the seen polls of one manager.
fn seen(manager: u64) -> Vec<Polled> {
    polled().into_iter().filter(|polled| manager_of(polled.id) == manager).collect()
}

#[test]
fn an_id_is_manager_and_member() {
    let id = member_id(MANAGERS - 1, (1 << 40) + 7);
    assert_eq!((manager_of(id), id & 0xff_ffff_ffff), (MANAGERS - 1, 7));
}

#[test]
fn the_innermost_poll_shows_and_is_the_same_poll() {
    let manager = next_number();
    let (outer, inner) = (member_id(manager, 1), member_id(manager, 2));
    assert_eq!(polled_here(), None);
    let outer_poll = polling(outer);
    let before = seen(manager);
    assert_eq!((before.len(), before[0].id, polled_here()), (1, outer, Some(outer)));
    {
        let _inner_poll = polling(inner);
        let within = seen(manager);
        assert_eq!((within[0].id, polled_here()), (inner, Some(inner)));
        assert_eq!(within[0].poll, before[0].poll);
    }
    assert_eq!((seen(manager), polled_here()), (before.clone(), Some(outer)));
    drop(outer_poll);
    assert_eq!((seen(manager), polled_here()), (vec![], None));
    let _next = polling(outer);
    assert_ne!(seen(manager)[0].poll, before[0].poll);
}

#[test]
fn a_poll_is_of_its_slot() {
    assert_eq!(poll_of(0, 7), 7);
    assert_ne!(poll_of(1, 7), poll_of(0, 7));
    assert_ne!(poll_of(1, 7), poll_of(1, 9));
    assert_eq!(poll_of(1, (1 << SEQUENCE_BITS) + 7), poll_of(1, 7), "it wraps, and stays of its slot");
}

#[test]
fn a_poll_that_panics_is_over() {
    let manager = next_number();
    let panicked = std::panic::catch_unwind(|| {
        let _outer = polling(member_id(manager, 1));
        let _inner = polling(member_id(manager, 2));
        std::panic::resume_unwind(Box::new("a panic that is not printed"));
    });
    assert!(panicked.is_err());
    assert_eq!((seen(manager), polled_here()), (vec![], None));
}

#[test]
fn the_slot_of_an_ended_thread_disappears_and_serves_the_next() {
    let manager = next_number();
    let (say, hear) = mpsc::channel();
    let poll_once = move || {
        let poll = polling(member_id(manager, 1));
        say.send(seen(manager)).expect("the test waits");
        std::mem::forget(poll);
    };
    let named = thread::Builder::new().name("named".into());
    named.spawn(poll_once.clone()).expect("a thread").join().expect("no panic");
    let first = hear.recv().expect("sent");
    assert_eq!(first.len(), 1);
    assert!(first[0].thread.starts_with("named ThreadId("), "{first:?}");
    assert_eq!(seen(manager), vec![], "the thread has ended");

    // Other tests take slots as well, and may keep one. So it need not be the very next thread, nor the first slot.
    let slot_of = |polled: &Polled| polled.poll >> SEQUENCE_BITS;
    let mut before = first;
    let reused = (0..100).any(|_| {
        thread::spawn(poll_once.clone()).join().expect("no panic");
        let next = hear.recv().expect("sent");
        assert_ne!(next[0].poll, before[0].poll, "each poll has an identity of its own");
        let is_same = slot_of(&next[0]) == slot_of(&before[0]);
        before = next;
        is_same
    });
    assert!(reused);
}

#[test]
fn a_poll_in_a_thread_locals_destructor_does_no_harm() {
    struct PollsWhenDropped(MemberId, mpsc::Sender<Option<MemberId>>);
    impl Drop for PollsWhenDropped {
        fn drop(&mut self) {
            let _poll = polling(self.0);
            let _ = self.1.send(polled_here());
        }
    }
    thread_local! {
        static BEFORE: Cell<Option<PollsWhenDropped>> = const { Cell::new(None) };
        static AFTER: Cell<Option<PollsWhenDropped>> = const { Cell::new(None) };
    }
    let id = member_id(next_number(), 1);
    let (say, hear) = mpsc::channel();
    let thread = thread::spawn(move || {
        // Destructors run in the order of first use or against it: one of these two runs after the slot is given back.
        BEFORE.set(Some(PollsWhenDropped(id, say.clone())));
        drop(polling(id));
        AFTER.set(Some(PollsWhenDropped(id, say)));
    });
    thread.join().expect("no panic");
    let mut seen_there: Vec<_> = hear.iter().collect();
    seen_there.sort_unstable();
    assert_eq!((seen_there, seen(manager_of(id))), (vec![None, Some(id)], vec![]));
}

#[test]
fn a_poll_is_never_read_with_the_id_of_another() {
    const POLLS: u64 = if cfg!(miri) { 300 } else { 1_000_000 };
    const INNER: u64 = 1 << 63;
    let slot = Slot::new();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..POLLS {
                let outer = slot.enter(number);
                let inner = slot.enter(number | INNER);
                slot.leave(inner);
                slot.leave(outer);
            }
        });
        while !writer.is_finished() {
            if let Some((sequence, id)) = slot.read() {
                assert_eq!((sequence - 1) / 2, id & !INNER);
            }
        }
    });
}

#[test]
fn only_a_poll_that_was_seen_has_a_time() {
    let slot = Slot::new();
    assert_eq!(slot.seen_since(), None, "no poll");
    let outer = slot.enter(1);
    assert_eq!(slot.seen_since(), None, "not seen");
    let (sequence, _) = slot.read().expect("it is being polled");
    slot.see(sequence, 7);
    slot.see(sequence, 8);
    assert_eq!(slot.seen_since(), Some(7));
    slot.leave(outer);
    assert_eq!(slot.seen_since(), None, "over");
    let outer = slot.enter(1);
    assert_eq!(slot.seen_since(), None, "the next is not seen");
    slot.leave(outer);
}

/// `cargo test --release --lib poll_cost_in_nanoseconds -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn poll_cost_in_nanoseconds() {
    const POLLS: u32 = 20_000_000;
    let time = |what: &str, poll: &dyn Fn(u64)| {
        let took = (0..5).map(|_| {
            let began = std::time::Instant::now();
            (0..u64::from(POLLS)).for_each(|number| poll(std::hint::black_box(number)));
            began.elapsed()
        });
        let best = took.min().unwrap_or_default();
        println!("{what}: {:.2} ns", best.as_secs_f64() * 1e9 / f64::from(POLLS));
    };
    time("nothing", &|number| {
        std::hint::black_box(number);
    });
    time("a poll", &|number| {
        std::hint::black_box(&polling(number));
    });
    time("a poll, unobserved guard", &|number| drop(polling(number)));
    let _outer = polling(1);
    time("a poll inside another", &|number| {
        std::hint::black_box(&polling(number));
    });
}
