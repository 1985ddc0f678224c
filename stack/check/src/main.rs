//! `stack generate` writes the dashboards; `stack generate --check` holds that they are those that were written. `stack test`
//! proves everything with the real programs; `stack up` leaves them running, with the example bot.

mod checks;
mod contract;
mod dashboards;
mod jaeger;
mod process;
mod prometheus;
mod proof;
mod stack;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use checks::Checks;
use stack::Places;

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
fn test(programs: &str, example_bot: &str) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("otel-tasks-stack-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let places = Places { root: root().canonicalize()?, programs: programs.into(), scratch: scratch.clone() };
    let checks = Checks::default();
    checks.step("the dashboards are what the contract says", generate(true));
    proof::all(&places, &PathBuf::from(example_bot), &checks);
    let (passed, failed) = checks.counts();
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("what the programs said is in {}", scratch.display());
    }
    Ok(std::fs::remove_dir_all(scratch)?)
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["generate"] => generate(false),
        ["generate", "--check"] => generate(true),
        ["test", programs, example_bot] => test(programs, example_bot),
        _ => bail!("stack generate [--check], test or up; not {arguments:?}"),
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
