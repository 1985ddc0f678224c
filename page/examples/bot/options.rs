//! The command line.

use std::{net::SocketAddr, time::Duration};

pub(crate) const USAGE: &str = "\
A small chat bot whose every task is named, metered, traced, restarted and stopped in order.

Usage: cargo run --example bot -- [OPTIONS]

Options:
      --for <TIME>   end by itself after so long, through the ordered shutdown, e.g. 10s or 1m
      --seed <N>     seed of what the chat service sends, and of when it drops connections [default: 1]
      --drop <TIME>  the chat service drops each connection after about so long [default: never]
      --table        print a table of all tasks every few seconds, too
  -q, --quiet        print the final reports alone
      --page <ADDR>  where the live page listens [default: 127.0.0.1:0, any free port]
      --page-token <TOKEN>  lets whoever knows it restart, pause, resume and stop tasks on the page
  -h, --help         print this

Ctrl-C and SIGTERM end it through the ordered shutdown, too. It exports traces, metrics and logs where
OTEL_EXPORTER_OTLP_ENDPOINT says; NO_COLOR switches colours off, RUST_LOG filters.";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) run_for: Option<Duration>,
    pub(crate) seed: u64,
    pub(crate) drop: Option<Duration>,
    pub(crate) table: bool,
    pub(crate) quiet: bool,
    pub(crate) page: SocketAddr,
    pub(crate) page_token: Option<String>,
}

pub(crate) enum Command {
    Run(Options),
    Help,
}

pub(crate) fn parse() -> Result<Command, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        run_for: None,
        seed: 1,
        drop: None,
        table: false,
        quiet: false,
        page: ([127, 0, 0, 1], 0).into(),
        page_token: None,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("for") => {
                let run_for = arguments.value()?.parse_with(humantime::parse_duration)?;
                if run_for.is_zero() {
                    return Err("--for needs a time longer than zero".into());
                }
                options.run_for = Some(run_for);
            }
            Long("seed") => options.seed = arguments.value()?.parse()?,
            Long("drop") => {
                options.drop = Some(arguments.value()?.parse_with(humantime::parse_duration)?);
            }
            Long("table") => options.table = true,
            Long("page") => options.page = arguments.value()?.parse()?,
            Long("page-token") => options.page_token = Some(arguments.value()?.parse()?),
            Short('q') | Long("quiet") => options.quiet = true,
            Short('h') | Long("help") => return Ok(Command::Help),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Command::Run(options))
}
