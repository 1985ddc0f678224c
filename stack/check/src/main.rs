//! `stack generate` writes the dashboards; `stack generate --check` checks that they are current and fit Grafana's types.
//! `stack compose` checks docker-compose.yml as Compose reads it.
//! `stack test` proves everything with the real programs; `stack up` leaves them running, with the example bot.

#![forbid(unsafe_code)]

mod checks;
mod compose;
mod contract;
mod dashboards;
// Of the tests of leases, for their `cluster`: see `proof`.
#[path = "../../../lease/tests/shared/guarded.rs"]
mod guarded;
mod jaeger;
mod process;
mod prometheus;
mod proof;
mod schema;
mod stack;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use checks::Checks;
use stack::{Places, Ports, Stack};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Writes the dashboards, or holds that they are current.
fn generate(check: bool) -> Result<()> {
    for (file, dashboard) in dashboards::all() {
        let path = root().join("stack/grafana/dashboards").join(file);
        let fresh = serde_json::to_string_pretty(&dashboard)? + "\n";
        if !check {
            std::fs::write(&path, fresh)?;
        } else if std::fs::read_to_string(&path).context(file)? != fresh {
            bail!(
                "{file} is not what the contract says: cargo run --manifest-path stack/check/Cargo.toml -- generate"
            );
        }
    }
    Ok(())
}

/// Proves everything; `programs` is the folder that `stack/build` named.
fn test(programs: &str, example_bot: &str, scratch: &str, record: bool) -> Result<()> {
    let scratch = PathBuf::from(scratch);
    let _ = process::STARTED.set(scratch.join("started"));
    let places = Places { root: root().canonicalize()?, programs: programs.into(), scratch: scratch.clone() };
    let checks = Checks::default();
    checks.step("the dashboards are what the contract says", generate(true));
    checks.step("the dashboards fit Grafana's types", schema::check());
    proof::all(&places, Path::new(example_bot), record, &checks);
    let (passed, failed) = checks.counts();
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("what the programs said is in {}", scratch.display());
    }
    Ok(())
}

/// Leaves the stack running, on the ports that its files name, for as long as the example bot does.
fn up(programs: &str, example_bot: &str, scratch: &str) -> Result<()> {
    let scratch = PathBuf::from(scratch);
    let _ = process::STARTED.set(scratch.join("started"));
    let places = Places { root: root().canonicalize()?, programs: programs.into(), scratch };
    // Ctrl-C is the bot's, which ends in order; what it exports to ends after it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stack = Stack::start("up", &places, Ports::default_ones())?;
    println!("Jaeger      http://127.0.0.1:{}", stack.ports.jaeger_query);
    println!("Prometheus  http://127.0.0.1:{}", stack.ports.prometheus);
    println!("OTLP        {}\n", stack.endpoint());
    let mut bot = std::process::Command::new(example_bot)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", stack.endpoint())
        .env("OTEL_METRIC_EXPORT_INTERVAL", "5000")
        .spawn()?;
    runtime.block_on(async {
        let bot = tokio::task::spawn_blocking(move || bot.wait());
        tokio::pin!(bot);
        loop {
            tokio::select! {
                ended = &mut bot => break ended.map(|_| ()),
                _ = tokio::signal::ctrl_c() => {}
            }
        }
    })?;
    stack.stop()
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["generate"] => generate(false),
        ["generate", "--check"] => generate(true).and_then(|()| schema::check()),
        ["compose"] => compose::check(&std::io::read_to_string(std::io::stdin())?),
        ["test", programs, example_bot, scratch] => test(programs, example_bot, scratch, false),
        ["test", programs, example_bot, scratch, "--record"] => test(programs, example_bot, scratch, true),
        ["up", programs, example_bot, scratch] => up(programs, example_bot, scratch),
        _ => bail!(
            "stack generate [--check], compose, test or up, as stack/test and stack/up do; not {arguments:?}"
        ),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
