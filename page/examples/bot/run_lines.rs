//! A small `tracing` layer of the example: one readable line for each change of a task and for each of the bot's own log records. Runs
//! that succeed have none, and neither has what users of commands get wrong.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::Debug,
    sync::{
        Arc,
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

thread_local! {
    /// The text of the error that the run now ending on this thread has just reported.
    static LAST_EXCEPTION: RefCell<Option<String>> = const { RefCell::new(None) };
}

pub(crate) struct RunLines {
    terminal: Arc<Terminal>,
    /// Whether spans of runs get here: not where `RUST_LOG` leaves them out.
    sees_runs: AtomicBool,
}

/// What is noted of a run while it is under way.
struct RunNote {
    fields: Fields,
    began: Option<Instant>,
    lasted: Duration,
    trace_id: TraceId,
}

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
        Self { terminal, sees_runs: AtomicBool::new(false) }
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for RunLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
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
        let Some(note) = span.extensions_mut().remove::<RunNote>() else { return };
        let error = LAST_EXCEPTION.take();
        let (name, result) = (note.fields.get("task.name"), note.fields.get("task.run.result"));
        if matches!(result, "success" | "cancellation") || note.fields.get("task.category") == "command" {
            return;
        }
        let word = if result == "failure" { "Failed" } else { result };
        let mut text = format!("after {}", duration(note.lasted));
        if let Some(error) = error {
            text += &format!(": {}", without_folder(&error));
        }
        text += &format!(" (trace {:.8})", note.trace_id.to_string());
        self.terminal.line(name, (word, Paint::Bad), &text);
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let name = event.metadata().name();
        let (paint, word) = match name {
            // Part of the line of its run, which ends next on this thread.
            "task.exception" if self.sees_runs.load(Relaxed) => {
                LAST_EXCEPTION.set(Some(fields.get("exception.message").to_owned()));
                return;
            }
            // The first start is no change, and the decision to restart has a line.
            "task.started" | "task.restarted" => return,
            "task.decision" if fields.get("task.decision") != "restart" => return,
            "task.decision" => (Paint::Warning, "Restarting"),
            "task.gave_up" => (Paint::Bad, "Gave up"),
            "task.recovered" => (Paint::Good, "Recovered"),
            "task.stopped" => (Paint::Dim, "Stopped"),
            "task.health.changed" => match fields.get("task.health.status") {
                "healthy" => (Paint::Good, "Healthy"),
                "degraded" => (Paint::Warning, "Degraded"),
                _ => (Paint::Bad, "Unhealthy"),
            },
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
        let message = fields.get("message");
        let text = match name {
            "task.decision" => {
                let delay = fields.get("task.decision.delay").parse().unwrap_or_default();
                format!("in {}, after a {}", duration(Duration::from_secs_f64(delay)), fields.get("reason"))
            }
            "task.gave_up" => message.split_once("given up: ").map_or("", |(_, why)| why).to_owned(),
            "task.recovered" | "task.stopped" => String::new(),
            "task.health.changed" => message.split_once(": ").map_or("", |(_, why)| why).to_owned(),
            _ => message.to_owned(),
        };
        self.terminal.line(&task, (word, paint), &text);
    }
}
