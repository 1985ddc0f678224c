//! What otel-tasks costs beside its neighbours, and beside what is written by hand.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml`: every workload for each system, a table for each
//! workload, then one JSON line per cell. A cell is a pair of workload and system. Each measurement of a cell has a process
//! of its own, and the systems take turns (A B C, A B C, ...): the machine may be shared, and what disturbs one disturbs
//! all. Medians of all rounds, their range, and ratios.
//!
//! `--quick` for a look that it still runs, `--only WORKLOAD` for one (or for those whose names begin so), `--rounds N`,
//! `--list`. Exits 1 if a cell failed, or if a figure that does not vary exceeds what is required of it. Goals that are
//! missed are printed and change nothing.
//!
//! `--counts` counts instructions and allocations instead, and exits 1 where there are more than `counts.txt` says;
//! `--counts --update` writes that file anew.

mod cell;
mod counts;
mod drive;
mod memory;
mod report;
mod telemetry;
mod workloads;

use std::process::ExitCode;

use cell::Scale;
use drive::Plan;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

const USAGE: &str = "usage: otel-tasks-peers [--quick] [--only WORKLOAD] [--rounds N] [--list]
       otel-tasks-peers --counts [--only OPERATION] [--update]";
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;

enum Asked {
    Plan(Plan),
    /// One measurement, in this process.
    Cell {
        workload: String,
        system: String,
        scale: Scale,
    },
    List,
    Counts {
        only: Option<String>,
        update: bool,
    },
    /// So many operations in this process, for the instructions to be counted.
    Count {
        operation: String,
        times: usize,
    },
}

fn asked() -> Result<Asked, lexopt::Error> {
    use lexopt::prelude::*;
    let (mut scale, mut only, mut rounds, mut cell, mut list) = (Scale::Full, None, None, None, false);
    let (mut counts, mut update, mut count) = (false, false, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("quick") => scale = Scale::Quick,
            Long("only") => only = Some(arguments.value()?.string()?),
            Long("rounds") => rounds = Some(arguments.value()?.parse::<usize>()?.max(1)),
            Long("list") => list = true,
            Long("cell") => cell = Some((arguments.value()?.string()?, arguments.value()?.string()?)),
            Long("counts") => counts = true,
            Long("update") => update = true,
            Long("count") => count = Some((arguments.value()?.string()?, arguments.value()?.parse()?)),
            other => return Err(other.unexpected()),
        }
    }
    let usual = if scale == Scale::Quick { QUICK_ROUNDS } else { ROUNDS };
    if let Some((operation, times)) = count {
        return Ok(Asked::Count { operation, times });
    }
    Ok(match cell {
        Some((workload, system)) => Asked::Cell { workload, system, scale },
        None if list => Asked::List,
        None if counts => Asked::Counts { only, update },
        None => Asked::Plan(Plan { scale, only, rounds: rounds.unwrap_or(usual) }),
    })
}

fn main() -> ExitCode {
    let workloads = workloads::all();
    match asked() {
        Ok(Asked::Plan(plan)) => drive::run(&workloads, &plan),
        Ok(Asked::Cell { workload, system, scale }) => {
            drive::measure_here(&workloads, &workload, &system, scale)
        }
        Ok(Asked::List) => {
            for workload in &workloads {
                println!("{:<28} {}", workload.name, workload.question);
            }
            ExitCode::SUCCESS
        }
        Ok(Asked::Counts { only, update }) => counts::run(only.as_deref(), update),
        Ok(Asked::Count { operation, times }) => counts::count_here(&operation, times),
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
