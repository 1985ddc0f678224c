//! Runs cells, each measurement in a process of its own: this program again, with `--cell WORKLOAD SYSTEM`.
//!
//! ```text
//! run ── per workload ── per round ── per system ── child: measure_here ── one JSON line ──► Series
//! ```

use std::{
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cell::{Measured, Runtime, Scale, Workload},
    report,
};

/// How long one measurement may take: far more than the slowest that was seen, and little enough that one which hangs
/// is a failed cell rather than a bench that never ends.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// A cell whose measurements have taken so long together is measured no further: more rounds would say again that it is
/// slow, at the cost of minutes.
const PATIENCE: Duration = Duration::from_secs(30);
/// A workload whose rounds are short has more of them, until they have taken so long together: the shorter a measurement
/// is, the more it varies.
const ENOUGH: Duration = Duration::from_secs(8);
/// At most so many times the rounds that were asked for.
const MORE: usize = 5;

/// What to run.
pub struct Plan {
    pub scale: Scale,
    /// Workloads of this name, or whose names begin with it and a hyphen.
    pub only: Option<String>,
    pub rounds: usize,
}

impl Plan {
    fn includes(&self, workload: &Workload) -> bool {
        self.only.as_ref().is_none_or(|only| {
            workload
                .name
                .strip_prefix(only.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }
}

/// The measurements of one cell.
#[derive(Default)]
pub struct Series {
    pub system: &'static str,
    pub measured: Vec<Measured>,
    took: Duration,
    /// Why there are no more.
    pub failed: Option<String>,
}

pub fn run(workloads: &[Workload], plan: &Plan) -> ExitCode {
    let chosen: Vec<_> = workloads.iter().filter(|workload| plan.includes(workload)).collect();
    if chosen.is_empty() {
        eprintln!("no workload of that name; --list shows them");
        return ExitCode::from(2);
    }
    report::preamble(plan);
    let mut tables = Vec::new();
    for workload in chosen {
        let mut all: Vec<_> =
            workload.cells.iter().map(|cell| Series { system: cell.system, ..Series::default() }).collect();
        let (began, rounds) = (Instant::now(), plan.rounds.min(workload.at_most_rounds));
        let most =
            if plan.scale == Scale::Quick { rounds } else { workload.at_most_rounds.min(rounds * MORE) };
        for round in 0..most {
            if round >= rounds && began.elapsed() >= ENOUGH {
                break;
            }
            for series in all.iter_mut().filter(|series| series.failed.is_none() && series.took < PATIENCE) {
                let began = Instant::now();
                match measure_there(workload.name, series.system, plan.scale) {
                    Ok(measured) => series.measured.push(measured),
                    Err(why) => series.failed = Some(why),
                }
                series.took += began.elapsed();
            }
        }
        report::table(workload, &all);
        tables.push((workload, all));
    }
    report::goals(&tables);
    println!();
    for (workload, all) in &tables {
        report::json(workload, all, plan);
    }
    let whole = tables.iter().flat_map(|(_, all)| all).all(|series| series.failed.is_none());
    let kept = tables.iter().all(|(workload, all)| report::keeps_required(workload, all));
    if whole && kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One measurement in a process of its own.
fn measure_there(workload: &str, system: &str, scale: Scale) -> Result<Measured, String> {
    let program = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let mut command = Command::new(program);
    command.args(["--cell", workload, system]);
    if scale == Scale::Quick {
        command.arg("--quick");
    }
    // A line on stdout and the last words on stderr: less than a pipe holds, so that nothing has to read meanwhile.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("not begun: {error}"))?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if began.elapsed() < TIME_LIMIT => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("passed its time limit of {TIME_LIMIT:?}"));
            }
            Err(error) => return Err(format!("lost: {error}")),
        }
    }
    let output = child.wait_with_output().map_err(|error| format!("lost: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, words.trim().replace('\n', " | ")));
    }
    report::parse(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| "said no figure".to_owned())
}

/// One measurement in this process, which ends with it: no shutdown of the runtime is measured.
pub fn measure_here(workloads: &[Workload], workload: &str, system: &str, scale: Scale) -> ExitCode {
    let found = workloads
        .iter()
        .find(|candidate| candidate.name == workload)
        .and_then(|found| Some((found.runtime, found.cells.iter().find(|cell| cell.system == system)?)));
    let Some((runtime, cell)) = found else {
        eprintln!("no cell {workload} {system}");
        return ExitCode::from(2);
    };
    let runtime = match runtime {
        Runtime::Workers(workers) => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
        }
        Runtime::Virtual => {
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()
        }
    }
    .expect("a runtime");
    // On a worker, where most of a service's tasks are spawned; the thread in `block_on` is none.
    let measuring = runtime.spawn((cell.measure)(scale));
    let measured = runtime.block_on(measuring).expect("the measurement ends without a panic");
    println!("{}", report::line(measured));
    std::process::exit(0);
}
