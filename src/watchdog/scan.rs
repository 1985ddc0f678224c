//! The conclusions of the watchdog from tick to tick. Pure: its inputs are the time, and the polls that were seen.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::slot::{MemberId, Polled, member_id};

/// If a tick is this late, and at least [`STOOD_STILL_TICKS`] ticks, the whole process was stopped. On a busy machine
/// ticks are some hundred milliseconds late, and blocked polls must be found there too.
const STOOD_STILL: Duration = Duration::from_secs(1);
const STOOD_STILL_TICKS: u32 = 10;

/// A poll that takes longer than a tick.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BlockedPoll {
    /// The innermost polled member at the tick. It may be another one at each tick.
    pub(crate) id: MemberId,
    /// The number of this poll. It is the same at each tick, and no other poll has it.
    pub(crate) poll: u64,
    /// The shortest possible time of the poll: since it was first seen, or since the process was stopped.
    pub(crate) since: Duration,
    /// The thread that is blocked: its name and id.
    pub(crate) thread: Arc<str>,
}

/// One pass over all slots.
pub(super) struct Look {
    /// The time of the tick that the thread had requested.
    pub(super) due: Instant,
    /// The distance of ticks.
    pub(super) every: Duration,
    /// The times at which the pass began and ended. Each poll was seen between them. A thread that is
    /// delayed between its clock and its pass must not count that time as a poll's.
    pub(super) began: Instant,
    pub(super) over: Instant,
    pub(super) polled: Vec<Polled>,
}

/// The result of one tick.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) now: Instant,
    pub(super) resumed_after: Option<Duration>,
    /// Sorted by id, thus by manager.
    blocked: Vec<BlockedPoll>,
}

impl Seen {
    /// Returns the polls of this manager.
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
            // No thread could continue, so each poll gets its full time again.
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
mod tests;
