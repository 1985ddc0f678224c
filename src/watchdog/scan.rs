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
    /// The time at which the tick had to come: what the thread had asked to be woken at.
    pub(super) due: Instant,
    /// The distance of ticks.
    pub(super) every: Duration,
    /// The time at which the look began, and when it was over. Whatever was seen was so at some moment between them; a thread that is
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
mod tests;
