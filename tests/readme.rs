//! Parts of the README and of the documentation are generated from the code or compared with it. `UPDATE_README=1 cargo test --test
//! readme` writes the generated parts.

mod support;

use std::fs;

use otel_tasks::{
    CriticalTaskConfig, GiveUp, TaskContext, TaskGroup, TaskManager,
    policy::{ErrorClass, RestartStrategy},
    telemetry::contract::{INSTRUMENTS, TASK_ATTRIBUTES, lease},
};
use support::{Events, secs};

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR")))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn instruments() -> String {
    let mut table = String::from("| instrument | kind | unit | more attributes | |\n|---|---|---|---|---|\n");
    for instrument in INSTRUMENTS {
        let attributes: Vec<_> = instrument.attributes.iter().map(|key| format!("`{key}`")).collect();
        table += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            instrument.name,
            instrument.kind.as_str(),
            instrument.unit,
            attributes.join(", "),
            instrument.description
        );
    }
    table
}

/// The answers of the real programs to the last `stack/test --record`.
fn stack() -> String {
    format!("```text\n{}\n```\n", include_str!("../docs/stack-output.txt").trim_end())
}

/// The text of `page` between the marks of `name`.
fn between<'a>(page: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (_, rest) = page.split_once(&open).unwrap_or_else(|| panic!("no {open}"));
    rest.split_once(&close).unwrap_or_else(|| panic!("no {close}")).0
}

/// The text blocks of a page: the lines of each.
fn text_blocks(page: &str) -> Vec<Vec<&str>> {
    let blocks = page.split("```text\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().lines().collect()).collect()
}

/// The guide's pages, by file name.
fn guide() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide");
    let files = fs::read_dir(folder).expect("the guide").map(|file| file.expect("a file").path());
    let pages: Vec<_> =
        files.map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a page"))).collect();
    assert!(pages.len() >= 9, "{}", pages.len());
    pages
}

/// The words of a page without its code and its link definitions.
fn words(page: &str) -> usize {
    let prose = page.split("```").step_by(2);
    let lines = prose.flat_map(str::lines).filter(|line| !(line.starts_with('[') && line.contains("]: ")));
    lines.flat_map(str::split_whitespace).count()
}

/// `text` with each number, unit of time and run of spaces as one character: they differ from run to run.
fn normalized(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        let is_time = word.starts_with(|first: char| first.is_ascii_digit());
        let trimmed = word.trim_end_matches(|last: char| last.is_ascii_punctuation());
        match is_time {
            true => out += &format!("#{} ", &word[trimmed.len()..]),
            false => out += &format!("{word} "),
        }
    }
    out.trim_end().to_owned()
}

#[test]
fn generated_parts_equal_the_code() {
    for (file, name, content) in
        [("docs/instruments.md", "instruments", instruments()), ("docs/stack.md", "stack-output", stack())]
    {
        let page = read(file);
        let start = between(&page, name).as_ptr() as usize - page.as_ptr() as usize;
        let mut fresh = page.clone();
        fresh.replace_range(start..start + between(&page, name).len(), &content);
        if std::env::var_os("UPDATE_README").is_some() {
            fs::write(format!("{}/{file}", env!("CARGO_MANIFEST_DIR")), &fresh).expect("written");
        } else {
            assert!(page == fresh, "{file}: run UPDATE_README=1 cargo test --test readme");
        }
    }
    let page = read("docs/instruments.md");
    for key in TASK_ATTRIBUTES {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn page_on_fleets_lists_the_instruments_of_leases() {
    let page = read("docs/fleet.md");
    for instrument in lease::INSTRUMENTS {
        let keys: Vec<_> = instrument.attributes.iter().map(|key| format!("`{key}`")).collect();
        let kind = instrument.kind.as_str();
        let keys = if keys.is_empty() { " ".to_owned() } else { format!(" {} ", keys.join(", ")) };
        let row = format!(
            "| `{}` | {kind} | {} |{keys}| {} |",
            instrument.name, instrument.unit, instrument.description
        );
        assert!(page.contains(&row), "not in docs/fleet.md:\n{row}");
    }
}

#[test]
fn guide_pages_are_short_and_end_with_the_faults() {
    for (file, page) in guide() {
        assert!(words(&page) <= 900, "{file} has {} words", words(&page));
        let last = page.lines().rfind(|line| line.starts_with("## "));
        assert_eq!(last, Some("## When it does not work"), "{file}");
    }
}

/// `tests/telemetry/instrumentation.rs` compares the lines of the reference with the check's.
#[test]
fn lines_of_the_page_on_jaeger_are_in_the_reference() {
    let (page, reference) = (read("docs/guide/see-nothing.md"), read("docs/telemetry.md"));
    let known: Vec<_> = text_blocks(between(&reference, "lines")).concat();
    let lines = text_blocks(&page).concat();
    assert!(lines.len() >= 12, "{}", lines.len());
    for line in lines {
        let is_known = known.contains(&line) || line.starts_with("level: ");
        assert!(is_known, "docs/telemetry.md does not have {line:?}");
    }
}

/// The tasks of the page on long-lived tasks: each fails as its lines show.
#[tokio::test(start_paused = true)]
async fn log_lines_of_the_page_on_long_lived_tasks_are_emitted() {
    fn ends(ctx: &TaskContext, error: &'static str) -> Result<(), &'static str> {
        if ctx.generation() == 1 { Err(error) } else { Ok(()) }
    }
    async fn waits(ctx: TaskContext) {
        ctx.cancelled().await;
    }
    let (events, _guard) = Events::record();
    let tasks = TaskManager::new();
    let consumer = CriticalTaskConfig::new("consumer", |ctx| async move {
        ends(&ctx, "connection reset")?;
        waits(ctx).await;
        Ok::<(), &str>(())
    });
    let mirror = CriticalTaskConfig::new("mirror", |_| async { Err::<(), _>("down") })
        .restarts("5 in 10m".parse().expect("a limit"), "30s..1m".parse().expect("a backoff"))
        .give_up(GiveUp::ForGood);
    let login = CriticalTaskConfig::new("login", |_| async { Err::<(), _>("denied") })
        .classify(|_: &&'static str| ErrorClass::Permanent);
    let queue = CriticalTaskConfig::new("queue", waits).heartbeat_timeout(secs(30));
    let session = CriticalTaskConfig::new("session", |ctx| async move {
        // Not at once: the other member of the group has to run.
        tokio::time::sleep(secs(1)).await;
        ends(&ctx, "closed by peer")?;
        waits(ctx).await;
        Ok::<(), &str>(())
    });
    let voice = TaskGroup::new("voice", RestartStrategy::OneForAll)
        .task(session)
        .task(CriticalTaskConfig::new("encoder", waits));
    tasks.register_all([consumer, mirror, login, queue]).expect("registered");
    tasks.register_group(voice).expect("registered");
    tasks.start();
    tokio::time::sleep(secs(600)).await;

    let emitted: Vec<_> =
        ["task.exception", "task.decision", "task.restarted", "task.gave_up", "task.stalled"]
            .iter()
            .flat_map(|name| events.named(name))
            .map(|event| normalized(&format!("{} {}", event.level, event.message())))
            .collect();
    let page = read("docs/guide/long-lived.md");
    let lines = text_blocks(&page).concat();
    assert!(lines.len() >= 11, "{}", lines.len());
    for line in lines {
        assert!(emitted.contains(&normalized(line)), "no task logs {line:?}: {emitted:#?}");
    }
}

/// `tests/telemetry/cost.rs` measures the sizes of the reference.
#[test]
fn sizes_of_the_page_on_cost_are_in_the_reference() {
    /// The sizes in a page's rows, such as `180 B | 38 B`.
    fn sizes(page: &str) -> Vec<String> {
        let rows = page.lines().filter(|line| line.ends_with(" B |"));
        let cells = rows.map(|row| row.rsplit('|').skip(1).take(2).map(|cell| cell.trim().replace(',', "")));
        cells.map(|cells| cells.collect::<Vec<_>>().join(", ")).collect()
    }
    let (page, reference) = (sizes(&read("docs/guide/cost.md")), sizes(&read("docs/telemetry.md")));
    assert_eq!((page.len(), &page), (4, &reference));
}

#[cfg(feature = "otlp-http")]
mod output {
    use std::time::Duration;

    use otel_tasks::{
        CriticalTaskConfig, TaskContext, TaskManager, events::TaskEventKind, telemetry::Protocol,
    };
    use tracing_subscriber::prelude::*;

    use super::{between, normalized, read, support, text_blocks};
    use crate::support::{Events, otlp::Receiver};

    /// The task of the README's program.
    async fn orders(ctx: TaskContext) -> Result<(), &'static str> {
        if ctx.generation() == 1 {
            return Err("connection refused");
        }
        ctx.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn first_program_prints_the_lines_of_the_readme() {
        support::listen();
        let receiver = Receiver::start(Protocol::HttpProtobuf);
        let telemetry = receiver.telemetry("shop").build().expect("telemetry");
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(telemetry.layer()).with(events.clone());
        let guard = tracing::subscriber::set_default(subscriber);
        let tasks = TaskManager::builder().meter(telemetry.meter()).build().expect("a manager");
        let mut happenings = tasks.subscribe();
        tasks.register(CriticalTaskConfig::new("orders", orders)).expect("registered");
        let report = tasks.run_until(async move {
            while let Some(event) = happenings.recv().await {
                if matches!(event.kind, TaskEventKind::Started { restart: Some(_), .. }) {
                    // The run has to be polled, to hear that it should stop.
                    return tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        let report = report.await;
        drop(guard);
        let logged: Vec<_> = ["task.started", "task.exception", "task.decision", "task.restarted"]
            .iter()
            .flat_map(|name| events.named(name))
            .map(|event| format!("{} {}", event.level, event.message()))
            .collect();
        let printed = format!("{}\n{report}\n{}", logged.join("\n"), telemetry.shutdown().await);
        let printed: Vec<_> = printed.lines().map(normalized).collect();

        let readme = read("README.md");
        let shown = text_blocks(between(&readme, "output")).concat();
        assert_eq!(shown.iter().copied().map(normalized).collect::<Vec<_>>(), printed, "README.md");

        // There, no signal is exported, and each line has its target.
        let page = read("docs/guide/first-task.md");
        let shown = text_blocks(&page).remove(0);
        let lines = shown.iter().take_while(|line| !line.starts_with("telemetry ended"));
        let lines: Vec<_> = lines.map(|line| normalized(&line.replace("otel_tasks: ", ""))).collect();
        assert_eq!(lines[..], printed[..lines.len()], "docs/guide/first-task.md");
        assert!(lines.len() >= 6, "{lines:#?}");
    }
}
