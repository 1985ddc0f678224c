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
const FIRST_EVENTS: u64 = 100;

/// What a page reads, and who looks.
pub(super) struct Hub {
    manager: WeakManager,
    ring: Option<Arc<SpanRing>>,
    pub(super) control: bool,
    streams: Arc<Semaphore>,
    events: Mutex<Log>,
    told: Mutex<Told>,
}

/// What was told of tasks. Read only when somebody looks; until then the bounded stream keeps the newest itself.
struct Log {
    stream: TaskEvents,
    /// The last events, the oldest first.
    kept: VecDeque<EventView>,
    /// How many events were ever taken from the stream.
    taken: u64,
}

impl Log {
    fn read(&mut self) {
        while let Some(event) = self.stream.try_recv() {
            if self.kept.len() == EVENTS {
                self.kept.pop_front();
            }
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

/// What the clients know.
struct Told {
    summary: Option<Summary>,
    rows: HashMap<Arc<str>, TaskRow>,
    /// How many events. Whoever asks for a task takes some from the stream that no client was told of.
    events: u64,
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
            events: Mutex::new(Log { stream: manager.subscribe(), kept: VecDeque::new(), taken: 0 }),
            told: Mutex::new(Told {
                summary: None,
                rows: HashMap::new(),
                events: 0,
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
        let of_task = {
            let log = self.log();
            log.kept.iter().filter(|event| event.task.as_deref() == Some(name)).cloned().collect()
        };
        Ok(view::detail(&manager, name, of_task, self.traces(name)))
    }

    fn traces(&self, name: &str) -> Option<Vec<TraceView>> {
        Some(self.ring.as_ref()?.traces_of(name))
    }

    /// What has been told of tasks and the manager, the oldest first, and how many events were missed.
    pub(super) fn all_events(&self) -> (Vec<EventView>, u64) {
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
        // Up to what the others were told: what comes after it, all are told.
        let from = told.events.saturating_sub(FIRST_EVENTS);
        let events = self.log().between(from, told.events).cloned().collect();
        let all = Everything { at: unix(SystemTime::now()), summary: told.summary.as_ref(), rows, events };
        let all = serde_json::to_string(&all).ok()?;
        Some((all.into(), told.clients.subscribe()))
    }

    /// Reads anew; answers what has changed, as text.
    fn update(&self, told: &mut Told) -> Result<Option<Arc<str>>, Gone> {
        let (summary, rows) = self.overview()?;
        let events: Vec<_> = {
            let log = self.log();
            let from = std::mem::replace(&mut told.events, log.taken);
            log.between(from, log.taken).cloned().collect()
        };
        // A name that was seen once is never gone.
        let mut changed = Vec::new();
        for row in rows {
            if told.rows.get(row.name()) != Some(&row) {
                changed.push(row.name().clone());
                told.rows.insert(row.name().clone(), row);
            }
        }
        let is_news = told.summary.as_ref() != Some(&summary);
        told.summary = Some(summary);
        if !is_news && changed.is_empty() && events.is_empty() {
            return Ok(None);
        }
        let delta = Delta {
            at: unix(SystemTime::now()),
            summary: told.summary.as_ref().filter(|_| is_news),
            rows: changed.iter().filter_map(|name| told.rows.get(name)).collect(),
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

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use futures_util::StreamExt;
    use serde_json::{Value, json};
    use tokio::time::Instant;

    use super::*;
    use crate::{CriticalTaskConfig, EVENT_CAPACITY, TaskEventKind};

    fn hub(tasks: &TaskManager) -> Arc<Hub> {
        Hub::new(tasks, None, false, 8)
    }

    async fn message(client: &mut Pin<&mut impl Stream<Item = Message>>) -> Option<Message> {
        tokio::time::timeout(9 * TICK, client.next()).await.expect("it is told in time")
    }

    async fn next(client: &mut Pin<&mut impl Stream<Item = Message>>) -> &'static str {
        match message(client).await {
            Some(Message::All(_)) => "all",
            Some(Message::Delta(_)) => "delta",
            None => "over",
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_once_nobody_looks() {
        let tasks = TaskManager::new();
        tasks.spawn("command", async {}).await.expect("it runs");
        let hub = hub(&tasks);
        assert!(!hub.told().is_ticking, "nobody has looked");
        {
            let mut client = pin!(hub.watch().expect("room"));
            assert_eq!(next(&mut client).await, "all");
            tokio::time::sleep(3 * TICK).await;
            let told = hub.told();
            assert!(told.is_ticking && told.rows.len() == 1);
        }
        tokio::time::sleep(2 * TICK).await;
        let told = hub.told();
        assert!(!told.is_ticking && told.rows.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_behind_is_given_everything_again() {
        let tasks = TaskManager::new();
        let hub = hub(&tasks);
        let mut client = pin!(hub.watch().expect("room"));
        assert_eq!(next(&mut client).await, "all");
        for _ in 0..BEHIND + 2 {
            tasks.spawn("command", async {}).await.expect("it runs");
            tokio::time::sleep(TICK).await;
        }
        assert_eq!(next(&mut client).await, "all");
        tasks.spawn("command", async {}).await.expect("it runs");
        assert_eq!(next(&mut client).await, "delta");
        drop(tasks);
        assert_eq!(next(&mut client).await, "over");
    }

    /// Whether it is told everything, and what it is told.
    async fn told(client: &mut Pin<&mut impl Stream<Item = Message>>) -> (bool, Value) {
        let (everything, text) = match message(client).await.expect("the manager is there") {
            Message::All(text) => (true, text),
            Message::Delta(text) => (false, text),
        };
        let mut told: Value = serde_json::from_str(&text).expect("JSON");
        told["at"].take();
        (everything, told)
    }

    /// As it is read back: of a number's last digit that may be another.
    fn read_back(value: Value) -> Value {
        serde_json::from_str(&value.to_string()).expect("JSON")
    }

    fn of<'a>(list: &'a Value, field: &str) -> Vec<&'a Value> {
        list.as_array().expect("a list").iter().map(|item| &item[field]).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_at_the_next_tick_and_alone() {
        let tasks = TaskManager::new();
        let hub = hub(&tasks);
        tasks.spawn("command", async {}).await.expect("it runs");
        tasks.start();
        let looks = Instant::now();
        let mut client = pin!(hub.watch().expect("room"));
        let (everything, all) = told(&mut client).await;
        let overview = |hub: &Hub| hub.overview().expect("the manager is there");
        let (summary, rows) = overview(&hub);
        assert_eq!(
            (everything, all),
            (true, read_back(json!({ "at": null, "summary": summary, "rows": rows, "events": [] })))
        );

        let waits = CriticalTaskConfig::new("gateway", |ctx| async move { ctx.cancelled().await });
        tasks.register(waits).expect("registered");
        let (everything, delta) = told(&mut client).await;
        assert_eq!(looks.elapsed(), TICK);
        let (summary, rows) = overview(&hub);
        let events = json!(hub.all_events().0);
        assert_eq!(of(&events, "kind"), ["registered", "started", "ready"]);
        let gateway = json!(rows[1]);
        assert_eq!(
            (everything, delta),
            (
                false,
                read_back(json!({ "at": null, "summary": summary, "rows": [gateway], "events": events }))
            )
        );

        // Ticks at which nothing has changed tell nothing, and what has not changed is not told.
        tokio::time::sleep(5 * TICK / 2).await;
        tasks.spawn("command", async {}).await.expect("it runs");
        let (_, delta) = told(&mut client).await;
        assert_eq!(looks.elapsed(), 4 * TICK);
        let command = json!(overview(&hub).1[0]);
        assert_eq!((&command["name"], &command["runs"]), (&json!("command"), &json!(2)));
        assert_eq!(delta, read_back(json!({ "at": null, "rows": [command] })));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_events_are_kept_and_each_is_told_once() {
        let tasks = TaskManager::new();
        let hub = hub(&tasks);
        let tell = |numbers: std::ops::Range<usize>| {
            for number in numbers {
                tasks.for_page().events.tell(None, number as u64, || TaskEventKind::ShutdownBegan);
            }
        };
        let numbers = |events: &Value| -> Vec<_> {
            of(events, "generation")
                .iter()
                .map(|number| number.as_u64().expect("a number") as usize)
                .collect()
        };
        let kept = |hub: &Hub| {
            let (events, missed) = hub.all_events();
            (numbers(&json!(events)), missed)
        };
        let mut client = pin!(hub.watch().expect("room"));
        assert_eq!(told(&mut client).await.1["events"], json!([]));
        tell(0..3);
        assert_eq!(kept(&hub), ((0..3).collect(), 0));
        let (_, delta) = told(&mut client).await;
        assert_eq!(numbers(&delta["events"]), [0, 1, 2], "although they were read already");
        tell(3..5);
        let (_, delta) = told(&mut client).await;
        assert_eq!(numbers(&delta["events"]), [3, 4]);

        let many = EVENTS + 10;
        tell(5..many);
        assert_eq!(kept(&hub), ((10..many).collect(), 0));
        let (_, delta) = told(&mut client).await;
        assert_eq!(numbers(&delta["events"]), (10..many).collect::<Vec<_>>(), "as many as there are");
        tell(many..many + 1);
        let mut newcomer = pin!(hub.watch().expect("room"));
        let (_, all) = told(&mut newcomer).await;
        let first = many - FIRST_EVENTS as usize;
        assert_eq!(numbers(&all["events"]), (first..many).collect::<Vec<_>>(), "what the others know");
        assert_eq!(numbers(&told(&mut newcomer).await.1["events"]), [many], "and then what they are told");

        let most = many + 1 + EVENT_CAPACITY + 7;
        tell(many + 1..most);
        assert_eq!(kept(&hub), ((most - EVENTS..most).collect(), 7));
    }
}
