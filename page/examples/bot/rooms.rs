//! A digest for each room of the chat: a family of loops, one for each room that somebody has spoken in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use otel_tasks::{CriticalTaskConfig, FamilyHandle, TaskFamily, TaskLoop, TaskPriority, task::RegisterError};

use crate::Bot;

/// What was said in each room since its last digest.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    said: Mutex<HashMap<String, u64>>,
    digests: OnceLock<FamilyHandle<String>>,
}

/// Registers the family, which has no members yet.
pub(crate) fn register(bot: &Arc<Bot>) -> Result<(), RegisterError> {
    let of_bot = bot.clone();
    let digests = TaskFamily::of("digest", move |room: &String| {
        let state = (of_bot.clone(), room.clone());
        let digest = TaskLoop::with(Duration::from_secs(1), state, |_ctx, (bot, room)| async move {
            let said = bot.rooms.said().insert(room.clone(), 0).unwrap_or(0);
            bot.outbox.send(format!("DIGEST {room} {said}"))
        });
        CriticalTaskConfig::from_loop("digest", digest).priority(TaskPriority::Low)
    });
    // Set once: there is one bot.
    let _ = bot.rooms.digests.set(bot.tasks.register_family(digests)?);
    Ok(())
}

impl Rooms {
    /// Counts what was said in a room, and sees to it that the room has a digest.
    pub(crate) fn spoken_in(&self, room: &str) -> Result<(), RegisterError> {
        *self.said().entry(room.to_owned()).or_default() += 1;
        self.digests.get().map_or(Ok(()), |digests| digests.ensure(room.to_owned()).map(drop))
    }

    fn said(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
