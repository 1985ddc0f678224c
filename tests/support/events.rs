//! The log records and spans of this thread.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
    time::{Duration, Instant},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

/// Collects the log records of this thread for as long as the guard lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    recorded: Arc<Mutex<Vec<Recorded>>>,
    spans: Arc<Mutex<Vec<&'static str>>>,
}

/// One log record.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Recorded {
    pub(crate) fn field(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    pub(crate) fn message(&self) -> &str {
        self.field("message")
    }
}

/// Makes every thread of the process interested in every callsite, once.
///
/// While there is but one subscriber, of one thread, a callsite that another thread meets first is switched off for all
/// of them: `tracing` asks that thread's subscriber alone, and it has none.
pub(crate) fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry())
            .expect("no test sets the global subscriber");
    });
}

impl Events {
    #[must_use = "recording ends when the guard is dropped"]
    pub(crate) fn record() -> (Self, tracing::subscriber::DefaultGuard) {
        listen();
        let events = Self::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        (events, tracing::subscriber::set_default(subscriber))
    }

    /// The records of this name, in order.
    pub(crate) fn named(&self, name: &str) -> Vec<Recorded> {
        self.recorded
            .lock()
            .expect("not poisoned")
            .iter()
            .filter(|event| event.name == name)
            .cloned()
            .collect()
    }

    /// Waits until at least this number of records has the name, and returns them. A record that is made aside may come later than its cause: on
    /// a busy machine the manager does not wait for it. The wait is in real time, and at most 20 s.
    pub(crate) fn arrived(&self, name: &str, at_least: usize) -> Vec<Recorded> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.named(name).len() < at_least && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.named(name)
    }

    /// How many spans of this name were made.
    pub(crate) fn spans(&self, name: &str) -> usize {
        self.spans.lock().expect("not poisoned").iter().filter(|span| **span == name).count()
    }

    /// How many records of this name speak of this task.
    pub(crate) fn count(&self, name: &str, task: &str) -> usize {
        self.named(name).iter().filter(|event| event.field("task.name") == task).count()
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.spans.lock().expect("not poisoned").push(attributes.metadata().name());
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Fields(BTreeMap<&'static str, String>);
        impl Visit for Fields {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name(), value.to_owned());
            }
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
        }
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        let recorded = Recorded { name: metadata.name(), level: *metadata.level(), fields: fields.0 };
        self.recorded.lock().expect("not poisoned").push(recorded);
    }
}
