use super::*;

const TICK: Duration = Duration::from_millis(100);
const ME: u64 = 7;

/// A scan with a clock that only the test moves.
struct Stepped {
    scan: Scan,
    now: Instant,
    every: Duration,
}

impl Stepped {
    fn new() -> Self {
        Self { scan: Scan::default(), now: Instant::now(), every: TICK }
    }

    /// A tick in its time, or later than that.
    fn tick(&mut self, late: Duration, polled: &[(MemberId, u64)]) -> Seen {
        let due = self.now + self.every;
        self.now = due + late;
        let polled = polled
            .iter()
            .map(|(id, poll)| Polled { id: *id, poll: *poll, thread: "worker".into() })
            .collect();
        self.scan.observe(Look { due, every: self.every, began: self.now, over: self.now, polled })
    }

    fn on_time(&mut self, polled: &[(MemberId, u64)]) -> Seen {
        self.tick(Duration::ZERO, polled)
    }
}

fn member(number: u64) -> MemberId {
    member_id(ME, number)
}

fn told(seen: &Seen) -> Vec<(MemberId, u64, Duration)> {
    seen.blocked_of(ME).iter().map(|blocked| (blocked.id, blocked.poll, blocked.since)).collect()
}

#[test]
fn a_poll_is_blocked_from_the_second_tick_that_sees_it() {
    let mut scan = Stepped::new();
    assert_eq!(told(&scan.on_time(&[(member(1), 11)])), []);
    assert_eq!(told(&scan.on_time(&[(member(1), 11)])), [(member(1), 11, TICK)]);
    let third = scan.on_time(&[(member(1), 11)]);
    assert_eq!(told(&third), [(member(1), 11, 2 * TICK)]);
    assert_eq!((&*third.blocked_of(ME)[0].thread, third.resumed_after), ("worker", None));
}

#[test]
fn blocked_time_starts_again_after_progress() {
    let mut scan = Stepped::new();
    scan.on_time(&[(member(1), 11)]);
    assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [], "another poll of the same member");
    assert_eq!(told(&scan.on_time(&[])), []);
    assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [], "not seen at the tick before");
    assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [(member(1), 13, TICK)]);
}

#[test]
fn nested_poll_is_visible_but_not_counted_as_progress() {
    let mut scan = Stepped::new();
    scan.on_time(&[(member(1), 11)]);
    assert_eq!(told(&scan.on_time(&[(member(2), 11)])), [(member(2), 11, TICK)]);
    assert_eq!(told(&scan.on_time(&[(member(1), 11)])), [(member(1), 11, 2 * TICK)]);
}

#[test]
fn each_manager_receives_its_own_blocked_polls() {
    let mut scan = Stepped::new();
    let last = member_id(ME, u64::MAX);
    let polled = [(member_id(ME + 1, 0), 3), (last, 5), (member_id(ME - 1, 9), 7), (member(0), 9)];
    scan.on_time(&polled);
    let seen = scan.on_time(&polled);
    assert_eq!(told(&seen), [(member(0), 9, TICK), (last, 5, TICK)]);
    let of = |manager| seen.blocked_of(manager).iter().map(|blocked| blocked.poll).collect::<Vec<_>>();
    assert_eq!((of(ME + 1), of(ME - 1), of(ME + 2), of(0)), (vec![3], vec![7], vec![], vec![]));
}

#[test]
fn blocked_times_start_again_after_a_suspended_process() {
    let mut scan = Stepped::new();
    let polled = [(member(1), 11)];
    scan.on_time(&polled);
    assert_eq!(told(&scan.on_time(&polled)), [(member(1), 11, TICK)]);
    let late = Duration::from_millis(1_001);
    let resumed = scan.tick(late, &polled);
    assert_eq!((resumed.resumed_after, told(&resumed)), (Some(late), vec![]));
    let next = scan.on_time(&polled);
    assert_eq!((next.resumed_after, told(&next)), (None, vec![(member(1), 11, TICK)]));
}

#[test]
fn a_tick_that_is_a_little_late_is_a_tick() {
    let mut scan = Stepped::new();
    let polled = [(member(1), 11)];
    scan.on_time(&polled);
    let late = scan.tick(STOOD_STILL, &polled);
    assert_eq!((late.resumed_after, told(&late)), (None, vec![(member(1), 11, TICK + STOOD_STILL)]));
    // Where ticks are far apart, so is what counts as late.
    scan.every = Duration::from_secs(3);
    assert_eq!(scan.tick(Duration::from_secs(30), &polled).resumed_after, None);
    assert!(scan.tick(Duration::from_millis(30_001), &polled).resumed_after.is_some());
    scan.every = Duration::MAX;
    assert_eq!(scan.scan.observe(look(scan.now, scan.every, Duration::ZERO)).resumed_after, None);
}

fn look(due: Instant, every: Duration, held_up: Duration) -> Look {
    let polled = vec![Polled { id: member(1), poll: 11, thread: "worker".into() }];
    Look { due, every, began: due, over: due + held_up, polled }
}

#[test]
fn the_watchdogs_own_delay_is_not_held_against_a_poll() {
    let mut scan = Scan::default();
    let first = Instant::now();
    let held_up = Duration::from_millis(900);
    scan.observe(look(first, TICK, held_up));
    // It was seen at some time in those 900 ms, so 1 s later it has gone on for 100 ms surely.
    let seen = scan.observe(look(first + Duration::from_secs(1), TICK, held_up));
    assert_eq!((seen.resumed_after, told(&seen)), (None, vec![(member(1), 11, TICK)]));
    // Where it is held up for longer, so was the process.
    let seen = scan.observe(look(first + Duration::from_secs(2), TICK, Duration::from_secs(5)));
    assert_eq!((seen.resumed_after, told(&seen)), (Some(Duration::from_secs(5)), vec![]));
}
