//! The page in a real browser, and under load.
//!
//! ```sh
//! cargo run --release --manifest-path tests/browser/Cargo.toml                       # needs chromium, chromedriver and npm
//! cargo run --release --manifest-path tests/browser/Cargo.toml -- --only looks --screenshots docs/page
//! ```
//!
//! It runs a service with tasks that fail, are restarted, block, and bear hostile names; looks at its page as a person would;
//! and exits 1 where something is not as promised. `--only` runs one part: load, night, reading or looks.

mod axe;
mod browser;
mod contrast;
mod load;
mod looks;
mod night;
mod reading;
mod service;

use std::{path::PathBuf, process::ExitCode};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Checked<T = ()> = Result<T, Failure>;

/// Fails with a text where something is not so.
macro_rules! check {
    ($holds:expr, $($what:tt)+) => {
        let holds: bool = $holds;
        if !holds {
            return Err(format!($($what)+).into());
        }
    };
}
pub(crate) use check;

fn main() -> ExitCode {
    let (mut screenshots, mut only) = (None, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Ok(Some(argument)) = arguments.next() {
        match argument {
            lexopt::Arg::Long("only") => only = arguments.value().ok(),
            lexopt::Arg::Long("screenshots") => screenshots = arguments.value().ok().map(PathBuf::from),
            _ => {
                eprintln!("{}", argument.unexpected());
                return ExitCode::from(2);
            }
        }
    }
    // The service has two workers that a test blocks; the tests themselves run on a runtime of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = runtime.block_on(async {
        let runs = |part: &str| only.as_ref().is_none_or(|only| only == part);
        if runs("load") {
            load::run().await?;
        }
        if runs("night") {
            night::run().await?;
        }
        if runs("reading") {
            reading::run().await?;
        }
        if runs("looks") {
            looks::run(screenshots.as_deref()).await?;
        }
        Ok::<_, Failure>(())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}
