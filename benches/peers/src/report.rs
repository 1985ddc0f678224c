//! What is printed: a table per workload, a JSON line per cell, and the line in which a cell's process answers.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    cell::{BARE, Limit, Measured, OURS, Scale, Workload},
    drive::{Plan, Series},
};

impl Measured {
    fn figure(self) -> f64 {
        match self {
            Self::Nanos(figure) | Self::Bytes(figure) | Self::Threads { nanos: figure, .. } => figure,
        }
    }
}

/// A cell's measurements in order of size.
struct Sorted(Vec<f64>);

impl Sorted {
    fn of(all: &[Series], system: &str) -> Option<Self> {
        let series = all.iter().find(|series| series.system == system)?;
        // A cell that failed once has no median: what is left of it would not be comparable.
        (series.failed.is_none() && !series.measured.is_empty()).then(|| {
            let mut figures: Vec<_> = series.measured.iter().map(|measured| measured.figure()).collect();
            figures.sort_unstable_by(f64::total_cmp);
            Self(figures)
        })
    }

    fn median(&self) -> f64 {
        crate::cell::median(&mut self.0.clone())
    }
}

fn median(all: &[Series], system: &str) -> Option<f64> {
    Sorted::of(all, system).map(|sorted| sorted.median())
}

/// The median of the rounds' ratios of one system to another. What makes a whole round slower is in both, and not in their ratio.
fn ratio(all: &[Series], system: &str, to: &str) -> Option<f64> {
    let of = |system: &str| all.iter().find(|series| series.system == system && series.failed.is_none());
    let (series, others) = (of(system)?, of(to)?);
    let rounds = series.measured.iter().zip(&others.measured);
    let mut ratios: Vec<_> = rounds.map(|(one, other)| one.figure() / other.figure()).collect();
    (!ratios.is_empty()).then(|| crate::cell::median(&mut ratios))
}

pub fn preamble(plan: &Plan) {
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let kind = if cfg!(debug_assertions) { "DEBUG BUILD, figures mean nothing" } else { "release build" };
    println!("{cores} cores, {} rounds at most, {kind}", plan.rounds);
    if plan.scale == Scale::Quick {
        println!("--quick: a tenth of everything, figures mean little");
    }
    let versions = [
        "opentelemetry_sdk",
        "ractor",
        "task-supervisor",
        "tokio",
        "tokio-metrics",
        "tokio-util",
        "tracing",
        "tracing-opentelemetry",
    ]
    .map(|name| format!("{name} {}", version(name)));
    println!("{}", versions.join(", "));
}

/// A dependency's version, as locked when this was built.
fn version(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let version = lock
        .split_once(&format!("name = \"{name}\"\nversion = \""))
        .and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("?", |(version, _)| version)
}

pub fn table(workload: &Workload, all: &[Series]) {
    println!("\n{}: {} ({})", workload.name, workload.question, workload.unit);
    println!(
        "{:<24} {:>12} {:>12} {:>12} {:>7} {:>10} {:>14}",
        "", "median", "from", "to", "rounds", "to bare", "otel-tasks/it"
    );
    let times = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio: f64| format!("{}x", short(ratio)));
    for series in all {
        let Some(sorted) = Sorted::of(all, series.system) else {
            println!("{:<24} failed: {}", series.system, series.failed.as_deref().unwrap_or("never ran"));
            continue;
        };
        let median = sorted.median();
        println!(
            "{:<24} {median:>12.0} {:>12.0} {:>12.0} {:>7} {:>10} {:>14}",
            series.system,
            sorted.0[0],
            sorted.0[sorted.0.len() - 1],
            sorted.0.len(),
            times(ratio(all, series.system, BARE)),
            times(ratio(all, OURS, series.system)),
        );
    }
    for series in all {
        if let Some((processor, alone)) = processor(series) {
            println!(
                "processor time of {}: {processor:.0} ns, on one thread {alone:.0} ns, contention {}x",
                series.system,
                short(processor / alone)
            );
        }
    }
    if let Some(limit) = workload.required {
        let verdict = if keeps_required(workload, all) { "kept" } else { "exceeded: this run fails" };
        println!("required of {OURS}, at most {limit} {}: {verdict}", workload.unit);
    }
    for goal in &workload.goals {
        let verdict = verdict(*goal, all, workload.unit);
        let is = verdict.is.map_or_else(String::new, |is| format!(", {}", short(is)));
        println!("goal for {OURS}, {}: {verdict}{is}", verdict.goal);
    }
}

/// The medians of the processor time, on all threads and on one.
fn processor(series: &Series) -> Option<(f64, f64)> {
    let (mut processor, mut alone) = (Vec::new(), Vec::new());
    for measured in &series.measured {
        let Measured::Threads { processor: on_all, alone: on_one, .. } = measured else { return None };
        processor.push(*on_all);
        alone.push(*on_one);
    }
    (series.failed.is_none() && !alone.is_empty())
        .then(|| (crate::cell::median(&mut processor), crate::cell::median(&mut alone)))
}

/// Whether this crate's median is within what the workload requires. A cell that failed has no median.
pub fn keeps_required(workload: &Workload, all: &[Series]) -> bool {
    workload.required.is_none_or(|limit| median(all, OURS).is_some_and(|ours| ours.round() <= limit))
}

/// A goal beside what was measured.
struct Verdict {
    goal: String,
    is: Option<f64>,
    kept: Option<bool>,
}

fn verdict(goal: Limit, all: &[Series], unit: &str) -> Verdict {
    let ours = median(all, OURS);
    // What is compared with the limit, and in which unit.
    let (is, limit, unit) = match goal {
        Limit::AtMost(limit) => (ours, limit, format!(" {unit}")),
        Limit::OfSystem(limit, system) => (ratio(all, OURS, system), limit, format!("x of {system}")),
    };
    Verdict { goal: format!("at most {limit}{unit}"), is, kept: is.map(|is| is <= limit) }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kept {
            Some(true) => f.write_str("kept"),
            Some(false) => f.write_str("missed"),
            None => f.write_str("not measured"),
        }
    }
}

/// All goals in one table, as the documents show it.
pub fn goals(tables: &[(&Workload, Vec<Series>)]) {
    println!("\n| workload | goal | is | |\n|---|---|---|---|");
    for (workload, all) in tables {
        for goal in &workload.goals {
            let verdict = verdict(*goal, all, workload.unit);
            let is = verdict.is.map_or("-".to_owned(), short);
            println!("| `{}` | {} | {is} | {verdict} |", workload.name, verdict.goal);
        }
    }
}

/// Two decimals where they say something.
fn short(figure: f64) -> String {
    format!("{figure:.*}", if figure < 10.0 { 2 } else { 0 })
}

/// One line per cell; null where something does not apply.
pub fn json(workload: &Workload, all: &[Series], plan: &Plan) {
    for series in all {
        let median = median(all, series.system);
        let (ns, bytes) = match series.measured.first() {
            Some(Measured::Bytes(_)) => (None, median),
            _ => (median, None),
        };
        println!(
            "{}",
            json!({
                "workload": workload.name,
                "system": series.system,
                "ns": ns,
                "ratio_to_bare": ratio(all, series.system, BARE),
                "bytes": bytes,
                "processor_ns": processor(series).map(|(processor, _)| processor),
                "contention": processor(series).map(|(processor, alone)| processor / alone),
                "rounds": series.measured.len(),
                "quick": plan.scale == Scale::Quick,
            })
        );
    }
}

/// What a cell's process answers.
pub fn line(measured: Measured) -> Value {
    match measured {
        Measured::Nanos(nanos) => json!({ "ns": nanos }),
        Measured::Bytes(bytes) => json!({ "bytes": bytes }),
        Measured::Threads { nanos, processor, alone } => {
            json!({ "ns": nanos, "processor": processor, "alone": alone })
        }
    }
}

pub fn parse(answer: &str) -> Option<Measured> {
    let value: Value = serde_json::from_str(answer.lines().last()?).ok()?;
    let figure = |key: &str| value[key].as_f64();
    if let (Some(nanos), Some(processor), Some(alone)) = (figure("ns"), figure("processor"), figure("alone"))
    {
        return Some(Measured::Threads { nanos, processor, alone });
    }
    figure("ns").map(Measured::Nanos).or_else(|| figure("bytes").map(Measured::Bytes))
}
