//! Checks of the repository that no cargo command makes: `imports`, `api`, `deps`, `links` and `words`.
//!
//! Each command prints its figures and its findings. The exit code is 0 without findings, 1 with findings or a failure,
//! and 2 for a command line that is not understood.

mod api;
mod deps;
mod imports;
mod links;
mod words;

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

const USAGE: &str = "\
usage: cargo run --manifest-path xtask/Cargo.toml -- [--root FOLDER] COMMAND

commands:
  imports        checks the imports of the crates against xtask/rooms.toml
  api            compares the public API with xtask/api/, and checks its foreign types and its examples against xtask/api.toml
  api --bless    writes the public API to xtask/api/
  deps           checks licences, sources, denied and duplicate crates against deny.toml
  links          checks the links of the Markdown files
  words          counts words, phrases and long sentences in docs, comments and messages against xtask/words.toml

  --root FOLDER  the checkout to read; default: the one that holds xtask/";

/// What the command line requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Imports,
    Api { bless: bool },
    Deps,
    Links,
    Words,
}

/// The checkout and the command, or `None` for a command line that is not understood.
fn parse(args: &[&str]) -> Option<(Option<PathBuf>, Command)> {
    let (root, rest) = match args {
        ["--root", root, rest @ ..] => (Some(PathBuf::from(root)), rest),
        rest => (None, rest),
    };
    let command = match rest {
        ["imports"] => Command::Imports,
        ["api"] => Command::Api { bless: false },
        ["api", "--bless"] => Command::Api { bless: true },
        ["deps"] => Command::Deps,
        ["links"] => Command::Links,
        ["words"] => Command::Words,
        _ => return None,
    };
    Some((root, command))
}

/// The checkout that holds this crate.
fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The cargo that runs this program, or else the one of the path.
fn cargo() -> process::Command {
    process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn main() -> ExitCode {
    if let Some(code) = api::run_as_rustdoc() {
        return code;
    }
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((root, command)) = parse(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let root = root.unwrap_or_else(checkout);
    let findings = match command {
        Command::Imports => imports::run(&root),
        Command::Api { bless } => api::run(&root, bless),
        Command::Deps => deps::run(&root),
        Command::Links => links::run(&root),
        Command::Words => words::run(&root),
    };
    match findings {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                eprintln!("error: {finding}");
            }
            eprintln!("{} error(s)", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_the_commands_of_the_usage_and_nothing_else() {
        assert_eq!(parse(&["imports"]), Some((None, Command::Imports)));
        assert_eq!(parse(&["api", "--bless"]), Some((None, Command::Api { bless: true })));
        assert_eq!(parse(&["--root", "x", "deps"]), Some((Some("x".into()), Command::Deps)));
        assert_eq!(parse(&["words"]), Some((None, Command::Words)));
        for wrong in [&[][..], &["import"], &["api", "--blest"], &["deps", "now"], &["--root", "x"]] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
