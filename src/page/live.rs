//! What whoever looks is told: everything at first, then what has changed, once a second, as long as somebody looks.
//!
//! ```text
//! first client ── begins ──► ticker: read the cells, compare with the last tick ──► one text for all clients
//! last client leaves ─────── ends
//! ```
//!
//! Nobody waits for a client: one that is behind by more than [`BEHIND`] ticks is given everything again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::{
    spans::{SpanRing, TraceView},
    view::{self, EventView, Summary, TaskDetail, TaskRow, unix},
};
use crate::{TaskEvents, TaskManager, manager::WeakManager};

/// How often what has changed is told.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks a client may be behind.
const BEHIND: usize = 8;
/// How many events are kept, of all tasks.
const EVENTS: usize = 2_048;
/// How many of them a newcomer is told.
const FIRST_EVENTS: usize = 100;

/// What a page reads, and who looks.
pub(super) struct Hub {
    manager: WeakManager,
    ring: Option<Arc<SpanRing>>,
    pub(super) control: bool,
    streams: Arc<Semaphore>,
    /// Read only when somebody looks; until then the bounded stream keeps the newest itself.
    events: Mutex<(TaskEvents, VecDeque<EventView>)>,
    told: Mutex<Told>,
}

/// What the clients know.
struct Told {
    summary: Option<Summary>,
    rows: HashMap<Arc<str>, TaskRow>,
    clients: broadcast::Sender<Arc<str>>,
    is_ticking: bool,
}

/// What is told at first and to whoever was too slow.
#[derive(Serialize)]
struct Everything<'a> {
    at: f64,
    summary: Option<&'a Summary>,
    rows: Vec<&'a TaskRow>,
    events: Vec<EventView>,
}

/// What has changed.
#[derive(Serialize)]
struct Delta<'a> {
    at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Summary>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<&'a TaskRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventView>,
}

/// What one client is told next.
pub(super) enum Message {
    /// Everything.
    All(Arc<str>),
    /// What has changed since.
    Delta(Arc<str>),
}

/// The manager is gone: its last handle was dropped.
#[derive(Debug)]
pub(super) struct Gone;

/// There are as many streams as are allowed.
#[derive(Debug)]
pub(super) struct TooMany;

impl Hub {
    pub(super) fn new(
        manager: &TaskManager,
        ring: Option<Arc<SpanRing>>,
        control: bool,
        most_streams: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            manager: manager.downgrade(),
            ring,
            control,
            streams: Arc::new(Semaphore::new(most_streams)),
            events: Mutex::new((manager.subscribe(), VecDeque::new())),
            told: Mutex::new(Told {
                summary: None,
                rows: HashMap::new(),
                clients: broadcast::channel(BEHIND).0,
                is_ticking: false,
            }),
        })
    }

    pub(super) fn manager(&self) -> Result<TaskManager, Gone> {
        self.manager.upgrade().ok_or(Gone)
    }

    pub(super) fn overview(&self) -> Result<(Summary, Vec<TaskRow>), Gone> {
        Ok(view::overview(&self.manager()?, self.control, self.ring.is_some()))
    }

    /// Everything about a task; `None` for a name that was never seen.
    pub(super) fn detail(&self, name: &str) -> Result<Option<TaskDetail>, Gone> {
        let manager = self.manager()?;
        self.read_events();
        let events = self.events();
        let of_task = events.1.iter().filter(|event| event.task.as_deref() == Some(name)).cloned().collect();
        drop(events);
        Ok(view::detail(&manager, name, of_task, self.traces(name)))
    }

    fn traces(&self, name: &str) -> Option<Vec<TraceView>> {
        Some(self.ring.as_ref()?.traces_of(name))
    }

    /// What has been told of tasks and the manager, the oldest first, and how many events were missed.
    pub(super) fn all_events(&self) -> (Vec<EventView>, u64) {
        self.read_events();
        let events = self.events();
        (events.1.iter().cloned().collect(), events.0.missed())
    }

    fn events(&self) -> MutexGuard<'_, (TaskEvents, VecDeque<EventView>)> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was told since the last time; answers those.
    fn read_events(&self) -> Vec<EventView> {
        let mut events = self.events();
        let (stream, kept) = &mut *events;
        let mut new = Vec::new();
        while let Some(event) = stream.try_recv() {
            new.push(EventView::from(&event));
        }
        kept.extend(new.iter().cloned());
        kept.drain(..kept.len().saturating_sub(EVENTS));
        new
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new client: everything, then what changes, until it leaves or the manager does.
    pub(super) fn watch(self: &Arc<Self>) -> Result<impl Stream<Item = Message> + Send + use<>, TooMany> {
        let permit = self.streams.clone().try_acquire_owned().map_err(|_| TooMany)?;
        let client = Client { hub: self.clone(), updates: None, _permit: permit };
        Ok(futures_util::stream::unfold(client, |mut client| async move {
            let message = client.next().await?;
            Some((message, client))
        }))
    }

    /// Everything, and what comes after it. The first client begins the ticker.
    fn join(self: &Arc<Self>) -> Option<(Arc<str>, broadcast::Receiver<Arc<str>>)> {
        let mut told = self.told();
        if !told.is_ticking {
            self.update(&mut told).ok()?;
            told.is_ticking = true;
            tokio::spawn(tick(Arc::downgrade(self)));
        }
        let mut rows: Vec<_> = told.rows.values().collect();
        rows.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        let events = self.events();
        let events = events.1.iter().rev().take(FIRST_EVENTS).rev().cloned().collect();
        let all = Everything { at: unix(SystemTime::now()), summary: told.summary.as_ref(), rows, events };
        let all = serde_json::to_string(&all).ok()?;
        Some((all.into(), told.clients.subscribe()))
    }

    /// Reads anew; answers what has changed, as text.
    fn update(&self, told: &mut Told) -> Result<Option<Arc<str>>, Gone> {
        let (summary, rows) = self.overview()?;
        let events = self.read_events();
        let mut before = std::mem::take(&mut told.rows);
        let mut changed = Vec::new();
        told.rows.reserve(rows.len());
        for row in rows {
            let name = row.name().clone();
            if before.remove(&name).as_ref() != Some(&row) {
                changed.push(name.clone());
            }
            told.rows.insert(name, row);
        }
        let is_news = told.summary.as_ref() != Some(&summary);
        told.summary = Some(summary);
        let gone: Vec<_> = before.into_keys().collect();
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
        Ok(serde_json::to_string(&delta).ok().map(Arc::from))
    }
}

/// Tells what has changed, as long as somebody looks.
async fn tick(hub: std::sync::Weak<Hub>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(hub) = hub.upgrade() else { return };
        let mut told = hub.told();
        if told.clients.receiver_count() == 0 {
            told.is_ticking = false;
            // What nobody looks at holds no memory.
            told.rows = HashMap::new();
            return;
        }
        match hub.update(&mut told) {
            // Fails only where the last client has just gone.
            Ok(delta) => drop(delta.map(|delta| told.clients.send(delta))),
            Err(Gone) => {
                told.is_ticking = false;
                // Ends the streams.
                told.clients = broadcast::channel(BEHIND).0;
                return;
            }
        }
    }
}

/// One who looks.
struct Client {
    hub: Arc<Hub>,
    /// `None` where it has to be given everything.
    updates: Option<broadcast::Receiver<Arc<str>>>,
    _permit: OwnedSemaphorePermit,
}

impl Client {
    async fn next(&mut self) -> Option<Message> {
        if let Some(updates) = &mut self.updates {
            match updates.recv().await {
                Ok(delta) => return Some(Message::Delta(delta)),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => self.updates = None,
            }
        }
        let (all, updates) = self.hub.join()?;
        self.updates = Some(updates);
        Some(Message::All(all))
    }
}
