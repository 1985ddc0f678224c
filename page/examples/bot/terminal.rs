//! The screen: lines, the table of tasks, the final figures. Plain text, coloured only for a person.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use otel_tasks::{
    TaskHealth, TaskManager,
    health::HealthStatus,
    snapshot::{TaskSnapshot, TaskStatistics},
};

use crate::server::Counts;

/// How long a line of the table may get.
const WIDTH: usize = 130;

pub(crate) struct Terminal {
    started: Instant,
    last_table: Mutex<Option<Instant>>,
    colours: bool,
    quiet: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Paint {
    Plain,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Terminal {
    pub(crate) fn new(quiet: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            started: Instant::now(),
            last_table: Mutex::default(),
            colours: wanted && std::io::stdout().is_terminal(),
            quiet,
        }
    }

    /// A line that is printed even if the bot was asked to be quiet.
    pub(crate) fn say(&self, text: &str) {
        // Whoever reads may have gone away (`| head`): no reason to end.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    /// The line that a reader must not miss.
    pub(crate) fn banner(&self, text: &str) {
        let rule = "─".repeat(text.chars().count() + 4);
        self.say(&format!("{rule}\n  {}\n{rule}", self.painted(text, Paint::Good)));
    }

    /// What happened to a task.
    pub(crate) fn line(&self, task: &str, (word, paint): (&str, Paint), text: &str) {
        if !self.quiet {
            let at = self.started.elapsed().as_secs_f64();
            let word = self.painted(&format!("{word:<12}"), paint);
            self.say(format!("{at:6.2}s  {task:<17} {word} {text}").trim_end());
        }
    }

    /// The table of all tasks.
    pub(crate) fn table(&self, tasks: &TaskManager) {
        let last = self.last_table.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        // The last one may be due right after one that is as good.
        if !self.quiet && last.is_none_or(|last| last.elapsed() > Duration::from_millis(500)) {
            let at = self.started.elapsed().as_secs_f64();
            self.say(&format!("\n{}", self.painted(&format!("tasks after {at:.1} s"), Paint::Dim)));
            self.say(&self.tasks(tasks));
        }
    }

    fn tasks(&self, tasks: &TaskManager) -> String {
        const HEADER: [&str; 11] = [
            "TASK",
            "STATE",
            "HEALTH",
            "RUNS",
            "ERRORS",
            "RESTARTS",
            "P50",
            "P95",
            "MAX",
            "NEXT",
            "LAST ERROR",
        ];
        let mut rows = vec![HEADER.map(|title| (title.to_owned(), Paint::Dim))];
        let mut snapshots = tasks.snapshots();
        // Registered tasks first, then commands; by name in each.
        snapshots.sort_by_key(|task| task.state.is_none());
        for task in &snapshots {
            let health = tasks.task_health(&task.name);
            rows.push(row(task, health.as_ref()));
        }
        let mut widths = [0; HEADER.len()];
        for row in &rows {
            widths
                .iter_mut()
                .zip(row)
                .for_each(|(width, (cell, _))| *width = (*width).max(cell.chars().count()));
        }
        let others: usize = widths[..HEADER.len() - 1].iter().map(|width| width + 2).sum();
        widths[HEADER.len() - 1] = widths[HEADER.len() - 1].min(WIDTH.saturating_sub(others));
        let lines: Vec<String> = rows.iter().map(|row| self.aligned(row, &widths)).collect();
        lines.join("\n") + "\n"
    }

    fn aligned(&self, row: &[(String, Paint)], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).enumerate().map(|(column, ((cell, paint), width))| {
            let cell = shortened(cell, *width);
            // Figures end, words begin at the edge of their column.
            let cell =
                if (3..=9).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            self.painted(&cell, *paint)
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }

    fn painted(&self, text: &str, paint: Paint) -> String {
        let code = match paint {
            Paint::Dim => "2",
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "31",
            Paint::Plain => return text.to_owned(),
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn row(task: &TaskSnapshot, health: Option<&TaskHealth>) -> [(String, Paint); 11] {
    let state = match task.state {
        Some(state) => state.as_str(),
        None if task.active > 0 => "running",
        None => "-",
    };
    let figure = |figure: u64| (figure.to_string(), if figure == 0 { Paint::Dim } else { Paint::Plain });
    let time = |time: Option<Duration>| (time.map_or("-".into(), duration), Paint::Plain);
    let longest = (task.total_runs() > 0).then_some(task.longest_run);
    let next = task.next_run.map(|next| next.duration_since(SystemTime::now()).unwrap_or_default());
    let last_error = task.last_error.as_ref().map_or("", |error| error.message.as_str());
    [
        (task.name.to_string(), Paint::Plain),
        (state.to_owned(), if state == "failed" { Paint::Bad } else { Paint::Plain }),
        health.map_or_else(|| ("-".to_owned(), Paint::Plain), |health| health_cell(health, task.active)),
        figure(task.total_runs()),
        figure(task.total_errors()),
        figure(task.total_restarts()),
        time(task.quantile(0.5)),
        time(task.quantile(0.95)),
        time(longest),
        (next.map_or("-".into(), |next| format!("{:.1} s", next.as_secs_f64())), Paint::Plain),
        (without_location(last_error).replace('\n', " "), Paint::Dim),
    ]
}

/// The word for a task, and the next try or why it is not healthy.
fn health_cell(health: &TaskHealth, active: u64) -> (String, Paint) {
    let reasons: Vec<_> = health.reasons.iter().map(|reason| reason.as_str().replace('_', " ")).collect();
    let (word, paint) = (health.word(active), paint_of(health.status));
    let told = reasons.iter().any(|reason| !word.as_str().eq_ignore_ascii_case(reason));
    (if told { format!("{word} ({})", reasons.join(", ")) } else { word.to_string() }, paint)
}

pub(crate) fn paint_of(status: HealthStatus) -> Paint {
    match status {
        HealthStatus::Healthy => Paint::Good,
        HealthStatus::Degraded => Paint::Warning,
        _ => Paint::Bad,
    }
}

/// `panicked at src/commands.rs:7:1: why` with the file's name alone.
pub(crate) fn without_folder(error: &str) -> String {
    match error.strip_prefix("panicked at ").and_then(|rest| rest.split_once(": ")) {
        Some((at, why)) => format!("panicked at {}: {why}", at.rsplit('/').next().unwrap_or(at)),
        None => error.to_owned(),
    }
}

/// The same without any place, for the table.
fn without_location(error: &str) -> String {
    match error.strip_prefix("panicked at ").and_then(|rest| rest.split_once(": ")) {
        Some((_, why)) => format!("panicked: {why}"),
        None => error.to_owned(),
    }
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A duration for a person: three digits or so, and a unit.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        seconds if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// The manager in figures, for the end.
pub(crate) fn statistics(statistics: &TaskStatistics) -> String {
    let categories: Vec<String> = statistics
        .categories
        .iter()
        .filter(|(_, tasks)| **tasks > 0)
        .map(|(category, tasks)| format!("{tasks} {category}"))
        .collect();
    format!(
        "{} tasks ({}), {} of them critical: {} healthy, {} degraded, {} unhealthy\n{} runs, {} errors, {} restarts",
        statistics.total_tasks,
        categories.join(", "),
        statistics.critical_tasks,
        statistics.healthy_tasks,
        statistics.degraded_tasks,
        statistics.unhealthy_tasks,
        statistics.total_runs,
        statistics.total_errors,
        statistics.total_restarts,
    )
}

/// What the chat service has seen of the bot.
pub(crate) fn service(counts: &Counts) -> String {
    let mut text = format!(
        "{} commands: {} answers right, {} wrong, {} refused, {} lost with a connection\n{} reminders delivered ({} asked for), {} spam flagged, \
         {} status updates, {} digests; {} connections, {} dropped by the service",
        counts.commands,
        counts.right,
        counts.wrong.len(),
        counts.refused,
        counts.unanswered,
        counts.reminders_delivered,
        counts.reminders_asked,
        counts.flagged,
        counts.status_updates,
        counts.digests,
        counts.connections,
        counts.dropped,
    );
    counts.wrong.iter().for_each(|wrong| text += &format!("\n  wrong: {wrong}"));
    text
}
