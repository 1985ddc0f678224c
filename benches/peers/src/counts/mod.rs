//! Counts what does not depend on who else uses the machine: instructions, by valgrind, and allocations.
//!
//! ```text
//! run ── per operation ── valgrind: count_here, few times ──┐
//!                      └─ valgrind: count_here, many times ─┴─ the difference, per operation ──► beside counts.txt
//! ```
//!
//! The difference of two processes takes whatever is done once out of the count, on the thread that works alone: callgrind
//! counts per thread. A harness was refused for what it brings: iai-callgrind and gungraun need a second program of the same
//! version installed, and compare with the last run on the same machine, not with a file that is reviewed.

mod operations;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use operations::{ALL, Operation};

use crate::{cell::Runtime, memory};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts.txt");
const UPDATE: &str = "cargo run --release --manifest-path benches/peers/Cargo.toml -- --counts --update";
/// What may be more without being told. A repetition is the same to the instruction but for the readers, where it differs by
/// a hundredth, since keys of hash maps differ from process to process; the rest is left to what else is in the program and
/// moves what is inlined.
const TOLERANCE: f64 = 0.02;
/// How often what exceeds is counted before it is told: keys may fall badly once.
const TRIES: usize = 3;
/// Allocations are counted exactly, and one per operation is never within this; what is part of one is a table that grows.
const ALLOCATIONS: f64 = 0.05;
/// Of what allocates by the hundred.
const OF_ALLOCATIONS: f64 = 0.01;
const HEAD: &str = "\
# Instructions and allocations per operation, on one thread. Written by
#   cargo run --release --manifest-path benches/peers/Cargo.toml -- --counts --update
# and compared with by the same command without --update, which .ci/run does.
";

/// What one operation costs.
#[derive(Debug, Clone, Copy)]
struct Count {
    instructions: f64,
    allocations: f64,
}

/// Counts all operations, or those whose names begin so; compares them with the file, or writes it.
pub fn run(only: Option<&str>, update: bool) -> ExitCode {
    let kept = match std::fs::read_to_string(FILE)
        .map_err(|error| error.to_string())
        .and_then(|text| parse(&text))
    {
        Ok(kept) => kept,
        Err(_) if update => Kept::default(),
        Err(error) => {
            eprintln!("{FILE}: {error}; to write it: {UPDATE}");
            return ExitCode::from(2);
        }
    };
    let rustc = rustc();
    println!(
        "{:<40} {:>12} {:>12} {:>12} {:>9} {:>9}",
        "per operation", "instructions", "kept", "limit", "allocs", "kept"
    );
    let mut fresh = kept.counts.clone();
    let mut exceeded = false;
    for operation in ALL.iter().filter(|operation| only.is_none_or(|only| operation.name.starts_with(only))) {
        let before = kept.counts.get(operation.name).copied();
        let count = match count_beside(operation, before) {
            Ok(count) => count,
            Err(error) => {
                eprintln!("{}: {error}", operation.name);
                return ExitCode::FAILURE;
            }
        };
        let verdict = match before {
            _ if !operation.ours => "",
            None if update => "new",
            None => "not in the file",
            Some(before) if count.exceeds(before) => "MORE",
            Some(before) if before.exceeds(count) => "less: update the file, so that it stays so",
            Some(_) => "",
        };
        exceeded |= matches!(verdict, "MORE" | "not in the file");
        let figure = |figure: Option<f64>, decimals: usize| {
            figure.map_or("-".to_owned(), |figure| format!("{figure:.decimals$}"))
        };
        println!(
            "{:<40} {:>12.0} {:>12} {:>12} {:>9.2} {:>9} {verdict}",
            operation.name,
            count.instructions,
            figure(before.map(|before| before.instructions), 0),
            figure(before.map(|before| before.instructions * (1.0 + TOLERANCE)), 0),
            count.allocations,
            figure(before.map(|before| before.allocations), 2),
        );
        if operation.ours {
            fresh.insert(operation.name.to_owned(), count);
        }
    }
    if update {
        return match std::fs::write(FILE, write(&fresh, &rustc)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{FILE}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if !exceeded {
        return ExitCode::SUCCESS;
    }
    if kept.rustc != rustc {
        println!("the file was written with {}, this is {rustc}", kept.rustc);
    }
    println!(
        "more than is kept in {FILE}; allowed are {}% of instructions and {}% of allocations (or {ALLOCATIONS}); \
         where it is meant: {UPDATE}",
        TOLERANCE * 100.0,
        OF_ALLOCATIONS * 100.0,
    );
    ExitCode::FAILURE
}

impl Count {
    fn exceeds(self, other: Self) -> bool {
        self.instructions > other.instructions * (1.0 + TOLERANCE)
            || self.allocations > other.allocations + (other.allocations * OF_ALLOCATIONS).max(ALLOCATIONS)
    }
}

/// Counted until it does not exceed what is kept, a few times at most.
fn count_beside(operation: &Operation, kept: Option<Count>) -> Result<Count, String> {
    let mut tries = 1..=TRIES;
    loop {
        let count = count(operation)?;
        if tries.next() == Some(TRIES) || !kept.is_some_and(|kept| count.exceeds(kept)) {
            return Ok(count);
        }
    }
}

fn count(operation: &Operation) -> Result<Count, String> {
    let (few, many) = operation.times;
    let (less, more) = (count_there(operation, few)?, count_there(operation, many)?);
    let each = |less: u64, more: u64| (more as f64 - less as f64) / (many - few) as f64;
    Ok(Count { instructions: each(less.0, more.0), allocations: each(less.1, more.1) })
}

/// The instructions and allocations of a process that does it so often, on its first thread.
fn count_there(operation: &Operation, times: usize) -> Result<(u64, u64), String> {
    let scratch = Scratch::new()?;
    let program = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", scratch.0.join("out").display()))
        .arg(program)
        .args(["--count", operation.name, &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind (apt-get install valgrind): {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    let allocations = String::from_utf8_lossy(&output.stdout).trim().parse();
    let profile = std::fs::read_to_string(scratch.0.join("out-01"))
        .map_err(|error| format!("valgrind's profile: {error}"))?;
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let instructions = totals.and_then(|totals| totals.trim().parse().ok());
    Ok((instructions.ok_or("valgrind's profile has no totals")?, allocations.map_err(|_| "said no figure")?))
}

/// A folder for valgrind's files, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("otel-tasks-counts-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One of the two processes.
pub fn count_here(operation: &str, times: usize) -> ExitCode {
    let Some(operation) = ALL.iter().find(|candidate| candidate.name == operation) else {
        eprintln!("no operation {operation}");
        return ExitCode::from(2);
    };
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(matches!(operation.runtime, Runtime::Virtual));
    let runtime = builder.build().expect("a runtime");
    memory::count_from_here();
    runtime.block_on((operation.run)(times));
    println!("{}", memory::allocations());
    std::process::exit(0);
}

/// The file.
#[derive(Default)]
struct Kept {
    rustc: String,
    counts: BTreeMap<String, Count>,
}

fn rustc() -> String {
    let told = Command::new("rustc").arg("--version").output().ok();
    told.map_or("an unknown rustc".to_owned(), |told| String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

fn parse(text: &str) -> Result<Kept, String> {
    let mut kept = Kept::default();
    for line in text.lines() {
        if let Some(rustc) = line.strip_prefix("# with ") {
            kept.rustc = rustc.to_owned();
        }
        if line.starts_with('#') {
            continue;
        }
        let mut columns = line.rsplitn(3, '\t');
        let mut figure = || columns.next()?.trim().parse().ok();
        let (allocations, instructions) = (figure(), figure());
        let (Some(allocations), Some(instructions), Some(name)) = (allocations, instructions, columns.next())
        else {
            return Err(format!("not a name and two figures: {line}"));
        };
        kept.counts.insert(name.trim().to_owned(), Count { instructions, allocations });
    }
    Ok(kept)
}

fn write(counts: &BTreeMap<String, Count>, rustc: &str) -> String {
    let mut text = format!("{HEAD}# with {rustc}\n");
    for Operation { name, .. } in ALL {
        if let Some(Count { instructions, allocations }) = counts.get(*name) {
            let _ = writeln!(text, "{name:<40}\t{instructions:.0}\t{allocations:.2}");
        }
    }
    text
}
