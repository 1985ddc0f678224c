//! What the watchdog concludes from tick to tick. Pure: it is handed the time, and what was seen.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::slot::{MemberId, Polled, member_id};

/// A tick this much too late, and at least [`STOOD_STILL_TICKS`] ticks, tells that the process stood still. On a busy machine
/// ticks are some hundred milliseconds late, and blocked polls must be found there too.
const STOOD_STILL: Duration = Duration::from_secs(1);
const STOOD_STILL_TICKS: u32 = 10;

/// A poll that goes on for longer than a tick.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BlockedPoll {
    /// The innermost member that was polled when the watchdog looked. It may be another one at each tick.
    pub(crate) id: MemberId,
    /// The same at each tick that tells of this poll, and never again for another.
    pub(crate) poll: u64,
    /// For how long at least: it was seen for the first time this long ago, or since the process stood still.
    pub(crate) since: Duration,
    /// The thread that is blocked: its name and id.
    pub(crate) thread: Arc<str>,
}

/// One look at all slots.
pub(super) struct Look {
    /// When the tick had to come: what the thread had asked to be woken at.
    pub(super) due: Instant,
    /// The distance of ticks.
    pub(super) every: Duration,
    /// When the look began, and when it was over. Whatever was seen was so at some moment between them; a thread that is
    /// held up between its clock and its look must not count that time as a poll's.
    pub(super) began: Instant,
    pub(super) over: Instant,
    pub(super) polled: Vec<Polled>,
}

/// What one tick tells.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) now: Instant,
    pub(super) resumed_after: Option<Duration>,
    /// Sorted by id, thus by manager.
    blocked: Vec<BlockedPoll>,
}

impl Seen {
    /// What of it belongs to this manager.
    pub(super) fn blocked_of(&self, manager: u64) -> &[BlockedPoll] {
        let first = member_id(manager, 0);
        let begin = self.blocked.partition_point(|blocked| blocked.id < first);
        let of_manager = &self.blocked[begin..];
        let end = of_manager.partition_point(|blocked| super::manager_of(blocked.id) == manager);
        &of_manager[..end]
    }
}

#[derive(Default)]
pub(super) struct Scan {
    /// The polls of the tick before, and since when each has surely gone on.
    before: HashMap<u64, Instant>,
}

impl Scan {
    pub(super) fn observe(&mut self, look: Look) -> Seen {
        let Look { due, every, began, over, polled } = look;
        let late = over.saturating_duration_since(due);
        let resumed_after = (late > STOOD_STILL.max(every.saturating_mul(STOOD_STILL_TICKS))).then_some(late);
        if resumed_after.is_some() {
            // Nobody could get on; each poll gets the time anew that it would have had.
            self.before.clear();
        }
        let mut now_seen = HashMap::with_capacity(polled.len());
        let mut blocked = Vec::new();
        for Polled { id, poll, thread } in polled {
            let first = self.before.get(&poll).copied();
            now_seen.insert(poll, first.unwrap_or(over));
            if let Some(first) = first {
                let since = began.saturating_duration_since(first);
                blocked.push(BlockedPoll { id, poll, since, thread });
            }
        }
        // Polls that ended are forgotten with the map.
        self.before = now_seen;
        blocked.sort_unstable_by_key(|blocked| blocked.id);
        Seen { now: over, resumed_after, blocked }
    }
}

#[cfg(test)]
mod tests {
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
    fn progress_begins_anew() {
        let mut scan = Stepped::new();
        scan.on_time(&[(member(1), 11)]);
        assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [], "another poll of the same member");
        assert_eq!(told(&scan.on_time(&[])), []);
        assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [], "not seen at the tick before");
        assert_eq!(told(&scan.on_time(&[(member(1), 13)])), [(member(1), 13, TICK)]);
    }

    #[test]
    fn what_is_polled_inside_shows_and_is_no_progress() {
        let mut scan = Stepped::new();
        scan.on_time(&[(member(1), 11)]);
        assert_eq!(told(&scan.on_time(&[(member(2), 11)])), [(member(2), 11, TICK)]);
        assert_eq!(told(&scan.on_time(&[(member(1), 11)])), [(member(1), 11, 2 * TICK)]);
    }

    #[test]
    fn each_manager_is_told_of_its_own() {
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
    fn after_the_process_stood_still_everything_begins_anew() {
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
}
