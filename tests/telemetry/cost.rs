//! What leaves the process per run: the figures of docs/telemetry.md.

use otel_tasks::{TaskManager, telemetry::Protocol};

use crate::{support::otlp::Receiver, under};

const RUNS: usize = 500;
const NAMES: usize = 100;

/// The bytes of the requests for `path`: all of them carry their length.
fn bytes(receiver: &Receiver) -> usize {
    let lengths = receiver.headers();
    lengths.iter().filter_map(|headers| headers.get("content-length")?.parse::<usize>().ok()).sum()
}

/// The bytes per run, or per name.
fn measured(signal: &'static str, gzip: bool, fails: bool) -> usize {
    let receiver = Receiver::start(Protocol::HttpProtobuf);
    let env = move |name: &str| match name {
        "OTEL_EXPORTER_OTLP_COMPRESSION" => gzip.then(|| "gzip".to_owned()),
        _ => (name.ends_with("S_EXPORTER") && name != signal).then(|| "none".to_owned()),
    };
    let telemetry = receiver.telemetry("bot").env(env).build().expect("telemetry");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let metrics = signal == "OTEL_METRICS_EXPORTER";
    let _tasks = under(&telemetry, || {
        runtime.block_on(async {
            let tasks = TaskManager::builder().meter(telemetry.meter()).build().expect("a manager");
            let runs = if metrics { 2 * NAMES } else { RUNS };
            for run in 0..runs {
                // By letters: a number would be taken for an id, and left out of the name.
                let letter = |n: usize| char::from(b'a' + u8::try_from(n).expect("a digit"));
                let name = match metrics {
                    true => format!("command_{}{}", letter(run / 10 % 10), letter(run % 10)),
                    false => "reminders".to_owned(),
                };
                let result = if fails { Err("connection reset by peer") } else { Ok(()) };
                let _ = tasks.spawn(&name, async move { result }).await;
            }
            tasks
        })
    });
    if metrics {
        let flushed = telemetry.meter_provider().force_flush();
        assert!(flushed.is_ok() || gzip);
        return bytes(&receiver) / NAMES;
    }
    let report = telemetry.shutdown_blocking();
    // The receiver of the tests unpacks nothing over HTTP; what came counts all the same.
    assert!(report.is_complete() || gzip, "{report}");
    bytes(&receiver) / RUNS
}

#[test]
fn the_bytes_of_a_run_are_those_of_the_documentation() {
    let page = include_str!("../../docs/telemetry.md");
    for (what, signal, fails) in [
        ("span of a run that succeeds", "OTEL_TRACES_EXPORTER", false),
        ("span of a run that fails", "OTEL_TRACES_EXPORTER", true),
        ("log records of a run that fails", "OTEL_LOGS_EXPORTER", true),
        ("metrics of a name, per collection", "OTEL_METRICS_EXPORTER", false),
    ] {
        let row = page.lines().find(|line| line.starts_with(&format!("| {what} |")));
        let row = row.unwrap_or_else(|| panic!("no row for {what:?}"));
        let written: Vec<usize> =
            row.split('|').filter_map(|cell| cell.trim().strip_suffix(" B")?.parse().ok()).collect();
        let found = [measured(signal, false, fails), measured(signal, true, fails)];
        let near = |found: usize, written: usize| found.abs_diff(written) * 100 <= written * 15 + 500;
        assert!(
            written.len() == 2 && near(found[0], written[0]) && near(found[1], written[1]),
            "{what}: {found:?} were measured, plain and gzip: {row}"
        );
    }
}
