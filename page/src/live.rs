//! The stream of a client: everything at first, then the changes once a second, while there is a client.
//!
//! ```text
//! first client ── begins ──► ticker: read the cells, compare with the last tick ──► one text for all clients
//! last client leaves ─────── ends
//! ```
//!
//! No one waits for a client: a client that is behind by more than [`BEHIND`] ticks receives everything again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::Stream;
use otel_tasks::{
    TaskManager,
    events::{TaskEventKind, TaskEvents},
    task::WeakTaskManager,
    telemetry::RunExemplar,
};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use crate::{
    Feed,
    answers::Room,
    format::unix,
    spans::{SpanRing, TraceView},
    view::{self, EventView, Shown, Summary, TaskDetail, TaskRow},
};

/// The interval of changes.
const TICK: Duration = Duration::from_secs(1);
/// The number of ticks that a client may be behind.
const BEHIND: usize = 8;
/// The number of kept events, of all tasks.
const EVENTS: usize = 2_048;
/// The number of events that a new client receives.
const FIRST_EVENTS: u64 = 100;

/// The data of a page, and its clients.
pub(crate) struct Hub {
    manager: WeakTaskManager,
    feed: Option<Feed>,
    shown: Shown,
    streams: Arc<Semaphore>,
    /// The room for the stream of a new client.
    room: Room,
    events: Mutex<Log>,
    told: Mutex<Told>,
}

/// The events of tasks. Read only while there is a client; until then the bounded stream keeps the newest itself.
struct Log {
    stream: TaskEvents,
    /// The last events, the oldest first.
    kept: VecDeque<EventView>,
    /// The number of events that were ever taken from the stream.
    taken: u64,
    /// True once the last event of the shutdown was taken.
    is_over: bool,
}

impl Log {
    fn read(&mut self) {
        while let Some(event) = self.stream.try_recv() {
            if self.kept.len() == EVENTS {
                self.kept.pop_front();
            }
            self.is_over |= matches!(event.kind, TaskEventKind::ShutdownEnded(_));
            self.kept.push_back(EventView::from(&event));
            self.taken += 1;
        }
    }

    /// Those from the `from`th to before the `until`th that are kept.
    fn between(&self, from: u64, until: u64) -> impl Iterator<Item = &EventView> {
        let first = self.taken - self.kept.len() as u64;
        let index = |number: u64| usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        self.kept.iter().take(index(until)).skip(index(from))
    }
}

/// The data that the clients have.
struct Told {
    summary: Option<Summary>,
    rows: HashMap<Arc<str>, TaskRow>,
    /// The number of events. A request for a task takes events from the stream that no client has received.
    events: u64,
    clients: broadcast::Sender<Bytes>,
    is_ticking: bool,
    /// The message for new clients until the next tick.
    all: Option<Bytes>,
}

/// The first message, also for a client that was too slow.
#[derive(Serialize)]
struct Everything<'a> {
    at: f64,
    summary: Option<&'a Summary>,
    rows: Vec<&'a TaskRow>,
    events: Vec<EventView>,
}

/// The changes.
#[derive(Serialize)]
struct Delta<'a> {
    at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Summary>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<&'a TaskRow>,
    /// The names that are no longer there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventView>,
}

/// A message of the stream, in its bytes.
pub(crate) fn frame(event: &str, data: &str) -> Vec<u8> {
    // JSON without indentation has no line break.
    format!("event: {event}\ndata: {data}\n\n").into_bytes()
}

/// The manager is gone: its last handle was dropped.
#[derive(Debug)]
pub(crate) struct Gone;

/// There are as many streams as are allowed.
#[derive(Debug)]
pub(crate) struct TooMany;

impl Hub {
    pub(crate) fn new(
        manager: WeakTaskManager,
        events: TaskEvents,
        feed: Option<Feed>,
        shown: Shown,
        most_streams: usize,
        room: Room,
    ) -> Arc<Self> {
        Arc::new(Self {
            manager,
            feed,
            shown,
            streams: Arc::new(Semaphore::new(most_streams.min(Semaphore::MAX_PERMITS))),
            room,
            events: Mutex::new(Log { stream: events, kept: VecDeque::new(), taken: 0, is_over: false }),
            told: Mutex::new(Told {
                summary: None,
                rows: HashMap::new(),
                events: 0,
                clients: broadcast::channel(BEHIND).0,
                is_ticking: false,
                all: None,
            }),
        })
    }

    pub(crate) fn manager(&self) -> Result<TaskManager, Gone> {
        self.manager.upgrade().ok_or(Gone)
    }

    /// Those of the manager's runs; none if it is gone.
    pub(crate) fn exemplars(&self) -> Vec<RunExemplar> {
        self.manager().map(|manager| manager.exemplars()).unwrap_or_default()
    }

    pub(crate) fn overview(&self) -> Result<(Summary, Vec<TaskRow>), Gone> {
        let ring = self.ring();
        let shown = Shown { traces: ring.is_some(), ..self.shown.clone() };
        let (summary, rows) = view::overview(&self.manager()?, &shown);
        let identity = ring.map(|ring| ring.identity()).unwrap_or_default();
        Ok((summary.of(identity), rows))
    }

    /// Everything about a task; `None` for a name that was never seen.
    pub(crate) fn detail(&self, name: &str) -> Result<Option<TaskDetail>, Gone> {
        let manager = self.manager()?;
        let of_task = {
            let log = self.log();
            log.kept.iter().filter(|event| event.task.as_deref() == Some(name)).cloned().collect()
        };
        let detail = view::detail(&manager, name, of_task, self.traces(name));
        Ok(detail.map(|detail| detail.explained(&manager, self.ring().as_deref())))
    }

    /// The kept traces, if any: a feed may become a part of a telemetry later than of the page.
    fn ring(&self) -> Option<Arc<SpanRing>> {
        self.feed.as_ref()?.spans()
    }

    fn traces(&self, name: &str) -> Option<Vec<TraceView>> {
        Some(self.ring()?.traces_of(name))
    }

    /// The events of tasks and the manager, the oldest first, and the number of missed events.
    pub(crate) fn all_events(&self) -> (Vec<EventView>, u64) {
        let log = self.log();
        (log.kept.iter().cloned().collect(), log.stream.missed())
    }

    /// The events, read up to now.
    fn log(&self) -> MutexGuard<'_, Log> {
        let mut log = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        log.read();
        log
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the stream of a new client: everything, then the changes, until the client leaves or the manager is gone. Its last message is the
    /// end of the shutdown.
    pub(crate) fn watch(self: &Arc<Self>) -> Result<impl Stream<Item = Bytes> + Send + use<>, TooMany> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| TooMany)?;
        let client = Client { hub: self.clone(), updates: None, _permit: permit };
        Ok(futures_util::stream::unfold(client, |mut client| async move {
            let message = client.next().await?;
            Some((message, client))
        }))
    }

    /// Everything, and what comes after it. The first client begins the ticker. `None` where there is nobody, or no room, for it.
    fn join(self: &Arc<Self>) -> Option<(Bytes, broadcast::Receiver<Bytes>)> {
        let mut told = self.told();
        if !told.is_ticking {
            self.update(&mut told).ok()?;
            told.is_ticking = true;
            tokio::spawn(tick(Arc::downgrade(self)));
        }
        if let Some(all) = &told.all {
            return Some((all.clone(), told.clients.subscribe()));
        }
        let mut rows: Vec<_> = told.rows.values().collect();
        rows.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        // Up to the events that the others have: all clients receive the later ones.
        let from = told.events.saturating_sub(FIRST_EVENTS);
        let events = self.log().between(from, told.events).cloned().collect();
        let all = Everything { at: unix(SystemTime::now()), summary: told.summary.as_ref(), rows, events };
        let all = frame("all", &serde_json::to_string(&all).ok()?);
        let all = self.room.hold(all).ok()?;
        told.all = Some(all.clone());
        Some((all, told.clients.subscribe()))
    }

    /// Reads again, and returns the changes.
    fn update(&self, told: &mut Told) -> Result<Option<Bytes>, Gone> {
        told.all = None;
        let (summary, rows) = self.overview()?;
        let events: Vec<_> = {
            let log = self.log();
            let from = std::mem::replace(&mut told.events, log.taken);
            log.between(from, log.taken).cloned().collect()
        };
        let mut changed = Vec::new();
        let mut rows_now = HashMap::with_capacity(rows.len());
        for row in rows {
            if told.rows.get(row.name()) != Some(&row) {
                changed.push(row.name().clone());
            }
            rows_now.insert(row.name().clone(), row);
        }
        // Members of a family that were removed, and names that were let go.
        let gone: Vec<_> = told.rows.keys().filter(|name| !rows_now.contains_key(*name)).cloned().collect();
        told.rows = rows_now;
        let is_news = told.summary.as_ref() != Some(&summary);
        told.summary = Some(summary);
        if !is_news && changed.is_empty() && gone.is_empty() && events.is_empty() {
            return Ok(None);
        }
        let delta = Delta {
            at: unix(SystemTime::now()),
            summary: told.summary.as_ref().filter(|_| is_news),
            rows: changed.iter().filter_map(|name| told.rows.get(name)).collect(),
            gone,
            events,
        };
        Ok(serde_json::to_string(&delta).ok().map(|delta| frame("delta", &delta).into()))
    }
}

/// Sends the changes, while there is a client.
async fn tick(hub: std::sync::Weak<Hub>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(hub) = hub.upgrade() else { return };
        // Thousands of tasks take milliseconds: not on the thread of the probes.
        if !tokio::task::spawn_blocking(move || hub.tell()).await.unwrap_or(false) {
            return;
        }
    }
}

impl Hub {
    /// Sends the changes to the clients. Returns false if no client is left.
    fn tell(&self) -> bool {
        let mut told = self.told();
        let goes_on = told.clients.receiver_count() > 0
            && match self.update(&mut told) {
                // Fails only where the last client has just gone.
                Ok(delta) => {
                    delta.into_iter().for_each(|delta| drop(told.clients.send(delta)));
                    !self.log().is_over
                }
                Err(Gone) => false,
            };
        if !goes_on {
            told.is_ticking = false;
            // Without a client, no memory is held.
            (told.rows, told.all) = (HashMap::new(), None);
            // Ends the streams, after what they were sent.
            told.clients = broadcast::channel(BEHIND).0;
        }
        goes_on
    }
}

/// One client.
struct Client {
    hub: Arc<Hub>,
    /// `None` where it has to be given everything.
    updates: Option<broadcast::Receiver<Bytes>>,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(updates) = &mut self.updates {
            match updates.recv().await {
                Ok(delta) => return Some(delta),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => self.updates = None,
            }
        }
        let hub = self.hub.clone();
        // As in `tick`.
        let (all, updates) = tokio::task::spawn_blocking(move || hub.join()).await.ok()??;
        self.updates = Some(updates);
        Some(all)
    }
}

#[cfg(test)]
mod tests;
