//! The example service, run as a newcomer runs it: its screen, its ends, its exit codes.
#![cfg(all(unix, feature = "otlp"))]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// `cargo run --example bot -- <arguments>`, with nothing of this process's telemetry settings. On Unix, cargo becomes the
/// program it runs, so a signal to it reaches the bot.
fn bot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--quiet", "--example", "bot", "--"])
        .args(arguments)
        // The workspace: with the features of this build, so that nothing is built anew.
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        // What cargo tells this test of its package would make ring, and all that rests on it, be built anew.
        let unwanted = ["OTEL_", "RUST_LOG", "CARGO_PKG_", "CARGO_MANIFEST_"];
        if unwanted.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> (Output, String, String) {
    let output = bot(arguments).output().expect("cargo can be run");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stdout, stderr)
}

/// The cells of a task's row in the last table.
fn last_row<'a>(stdout: &'a str, task: &str) -> Vec<&'a str> {
    let (_, table) = stdout.rsplit_once("TASK ").expect("a table is printed");
    let row =
        table.lines().find(|line| line.starts_with(task)).unwrap_or_else(|| panic!("no {task}:\n{stdout}"));
    // Cells are two spaces apart at least, and have single spaces inside.
    row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn a_run_shows_changes_alone_and_ends_in_order() {
    let (output, stdout, stderr) = run(&["--for", "8s", "--seed", "1"]);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    assert!(!stderr.contains("panicked at"), "{stderr}");
    assert!(stdout.starts_with("telemetry is exported nowhere"), "{stdout}");
    assert!(stdout.contains("\n  the page is at http://127.0.0.1:"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "colours are for terminals");
    assert!(!stdout.contains("TASK "), "tables are for --table: {stdout}");
    let count = |needle: &str| stdout.matches(needle).count();
    assert_eq!(count("legacy_sync       Gave up"), 1, "{stdout}");
    assert_eq!(count("legacy_sync       Restarting"), 2, "{stdout}");
    assert_eq!(count("cache_warmer      panic"), 1, "{stdout}");
    assert_eq!(count("cache_warmer      Restarting"), 1, "{stdout}");
    assert_eq!(count("component moderation loaded: moderation_sweep"), 1, "{stdout}");
    assert_eq!(count("component moderation unloaded: moderation_sweep"), 1, "{stdout}");
    assert!(stdout.contains(" 0 wrong,"), "the service got a wrong answer:\n{stdout}");
    assert!(stdout.contains("shutdown took ") && stdout.contains(" 0 aborted, 0 leaked"), "{stdout}");
    assert!(stdout.contains("telemetry ended after "), "{stdout}");
    // Ten minutes have less than 200 lines: the beginning and the end have less than 60, and a second has one of five.
    let lines = |from: f64, until: f64| {
        let at = |line: &&str| line.trim_start().split_once('s').and_then(|(at, _)| at.parse::<f64>().ok());
        stdout.lines().filter_map(|line| at(&line)).filter(|at| (from..until).contains(at)).count()
    };
    assert!(stdout.lines().count() < 60, "{stdout}");
    assert!(lines(4.0, 7.0) <= 1, "it is well, and says so by silence: {stdout}");
}

#[test]
fn the_table_has_each_task_with_its_word() {
    let (output, stdout, stderr) = run(&["--for", "3s", "--table"]);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    let gateway = last_row(&stdout, "gateway");
    // Task, state, health, runs, errors, restarts.
    assert_eq!(gateway[1..3], ["running", "Healthy"], "{gateway:?}");
    let given_up = last_row(&stdout, "legacy_sync");
    assert_eq!(&given_up[1..6], ["failed", "Failed", "3", "3", "2"], "{given_up:?}");
    let restarted = last_row(&stdout, "cache_warmer");
    assert_eq!((restarted[1], restarted[5]), ("running", "1"), "{restarted:?}");
    assert_eq!(last_row(&stdout, "digest:lobby")[1], "running", "a member of a family: {stdout}");
}

#[test]
fn a_dropped_connection_is_restarted() {
    let (output, stdout, stderr) = run(&["--for", "3s", "--drop", "1s"]);
    assert_eq!(output.status.code(), Some(0), "{stdout}\n{stderr}");
    assert!(
        stdout.contains("gateway           Failed") && stdout.contains("gateway           Restarting"),
        "{stdout}"
    );
}

#[test]
fn sigterm_ends_it_in_order_and_within_the_deadline() {
    let mut child = bot(&["--quiet"]).spawn().expect("cargo can be run");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("it says where telemetry goes");
    // The line comes before the tasks, which are to be under way.
    std::thread::sleep(Duration::from_millis(500));
    let asked = Instant::now();
    let kill =
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill can be run");
    assert!(kill.success());
    let status = wait(&mut child, Duration::from_secs(10));
    assert!(asked.elapsed() < Duration::from_secs(6), "longer than the deadline: {:?}", asked.elapsed());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("it is text");
    assert_eq!(status.code(), Some(0), "{first}{rest}");
    assert!(rest.contains("shutdown took "), "{rest}");
    assert!(!rest.contains("TASK "), "--quiet prints no table:\n{rest}");
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status;
        }
        if begun.elapsed() > limit {
            child.kill().expect("it can be killed");
            panic!("it did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_bad_flag_is_named_and_exits_with_2() {
    for (arguments, named) in [
        (&["--fro", "3s"][..], "--fro"),
        (&["--for", "soon"], "soon"),
        (&["--for", "0s"], "--for"),
        (&["--seed"], "--seed"),
    ] {
        let (output, stdout, stderr) = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(named) && stdout.is_empty(), "{arguments:?}: {stdout}{stderr}");
    }
    let (output, stdout, _) = run(&["--help"]);
    assert!(output.status.success() && stdout.contains("--for <TIME>"), "{stdout}");
}
