//! The page in a real browser, and under load.
//!
//! ```sh
//! cargo run --release --manifest-path tests/browser/Cargo.toml                       # needs chromium and chromedriver
//! cargo run --release --manifest-path tests/browser/Cargo.toml -- --screenshots docs/page
//! ```
//!
//! It runs a service with tasks that fail, are restarted, block, and bear hostile names; looks at its page as a person would;
//! and exits 1 where something is not as promised.

mod browser;
mod load;
mod looks;
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
    let mut screenshots = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Ok(Some(argument)) = arguments.next() {
        match argument {
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
        load::run().await?;
        looks::run(screenshots.as_deref()).await
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}
