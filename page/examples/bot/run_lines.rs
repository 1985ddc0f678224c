//! A small `tracing` layer of the example: one readable line for each run that ends, and for each log record.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::trace::{TraceContextExt, TraceId};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::terminal::{Paint, Terminal, duration, without_folder};

/// Of the runs of one task that end alike, at most one is shown in this time; the others are counted.
const QUIET: Duration = Duration::from_secs(2);

thread_local! {
    /// The text of the error that the run now ending on this thread has just reported.
    static LAST_EXCEPTION: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) struct RunLines {
    terminal: Arc<Terminal>,
    /// Whether spans of runs get here: not where `RUST_LOG` leaves them out.
    sees_runs: AtomicBool,
    shown: Mutex<HashMap<(String, String), Shown>>,
}

/// When a kind of line was last shown, and how many were not shown since.
struct Shown {
    at: Instant,
    held_back: u64,
}

/// What is noted of a run while it is under way.
struct RunNote {
    fields: Fields,
    began: Option<Instant>,
    lasted: Duration,
    trace_id: TraceId,
}

/// When a monitor sweep began.
struct Sweep(Instant);

#[derive(Default)]
struct Fields(HashMap<&'static str, String>);

impl Fields {
    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl RunLines {
    pub(crate) fn new(terminal: Arc<Terminal>) -> Self {
        Self { terminal, sees_runs: AtomicBool::new(false), shown: Mutex::default() }
    }

    /// Whether to show a line of this kind now, and how many were held back since the last one.
    fn admit(&self, kind: (String, String)) -> Option<u64> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match shown.get_mut(&kind) {
            Some(last) if last.at.elapsed() < QUIET => {
                last.held_back += 1;
                None
            }
            last => {
                let held_back = last.map_or(0, |last| last.held_back);
                shown.insert(kind, Shown { at: Instant::now(), held_back: 0 });
                Some(held_back)
            }
        }
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for RunLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if span.name() == "bot.monitor_tasks" {
            span.extensions_mut().insert(Sweep(Instant::now()));
        }
        if span.name() != "task.run" {
            return;
        }
        self.sees_runs.store(true, Relaxed);
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let note = RunNote { fields, began: None, lasted: Duration::ZERO, trace_id: TraceId::INVALID };
        span.extensions_mut().insert(note);
    }

    fn on_enter(&self, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(note) = span.extensions_mut().get_mut::<RunNote>() {
            note.began.get_or_insert_with(Instant::now);
            note.trace_id = opentelemetry::Context::current().span().span_context().trace_id();
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(note) = span.extensions_mut().get_mut::<RunNote>() {
            // The result is recorded when the run has ended; what follows is not its time.
            note.lasted = note.began.map(|began| began.elapsed()).unwrap_or_default();
            values.record(&mut note.fields);
        }
    }

    fn on_close(&self, id: Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(&id) else { return };
        let sweep = span.extensions_mut().remove::<Sweep>();
        if let Some(Sweep(began)) = sweep {
            if self.admit((span.name().to_owned(), String::new())).is_some() {
                self.terminal.line(span.name(), ("swept", Paint::Dim), &duration(began.elapsed()));
            }
        }
        let Some(note) = span.extensions_mut().remove::<RunNote>() else { return };
        let error = LAST_EXCEPTION.take();
        let (name, result) = (note.fields.get("task.name"), note.fields.get("task.run.result"));
        // What goes wrong in a task is rare and always shown, unlike what users of commands get wrong.
        let always = result != "success" && note.fields.get("task.category") != "command";
        let admitted = if always { Some(0) } else { self.admit((name.to_owned(), result.to_owned())) };
        let Some(held_back) = admitted else { return };
        let paint = match result {
            "success" => Paint::Good,
            "cancellation" => Paint::Warning,
            _ => Paint::Bad,
        };
        let mut text = format!("{:<9} trace {:.8}", duration(note.lasted), note.trace_id.to_string());
        if let Some(error) = error {
            text += &format!("  {}", without_folder(&error));
        }
        if held_back > 0 {
            text += &format!("  (+{held_back} more)");
        }
        self.terminal.line(name, (result, paint), &text);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (paint, word) = match event.metadata().name() {
            // Part of the line of its run, which ends next on this thread.
            "task.exception" if self.sees_runs.load(Relaxed) => {
                LAST_EXCEPTION.set(Some(fields.get("exception.message").to_owned()));
                return;
            }
            "task.started" => (Paint::Dim, "started"),
            "task.restarted" => (Paint::Warning, "restarted"),
            "task.gave_up" => (Paint::Bad, "given up"),
            "task.stopped" => (Paint::Dim, "stopped"),
            _ => match *event.metadata().level() {
                Level::ERROR => (Paint::Bad, "error"),
                Level::WARN => (Paint::Warning, "warning"),
                _ => (Paint::Dim, "info"),
            },
        };
        let of_record = fields.get("task.name").to_owned();
        let of_run = ctx.event_scope(event).and_then(|mut scope| {
            scope.find_map(|span| {
                span.extensions().get::<RunNote>().map(|note| note.fields.get("task.name").to_owned())
            })
        });
        let task = of_run.unwrap_or(of_record);
        let text = match word {
            "restarted" => format!("after a {}", fields.get("task.restart.reason")),
            "given up" => {
                fields.get("message").split_once("given up: ").map_or("", |(_, why)| why).to_owned()
            }
            "started" | "stopped" => String::new(),
            _ => fields.get("message").to_owned(),
        };
        self.terminal.line(&task, (word, paint), &text);
    }
}
