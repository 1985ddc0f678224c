//! What is measured: workloads, and in each a cell per system. How they are run and shown is not known here.

use std::{future::Future, pin::Pin};

/// The system that others are compared with: tokio alone.
pub const BARE: &str = "bare";
/// This crate.
pub const OURS: &str = "otel-tasks";
/// What a careful user writes today with tracing, tracing-opentelemetry and the OpenTelemetry API.
pub const BY_HAND: &str = "by-hand";
/// The same with the guarantees of this crate.
pub const BY_HAND_GUARDED: &str = "by-hand, guarded";

/// How much is asked of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Full,
    /// A tenth: enough to see that it runs, not enough for a figure.
    Quick,
}

impl Scale {
    /// `full` of something, or a tenth of it.
    pub fn of(self, full: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Quick => full / 10,
        }
    }
}

/// One measurement of a cell, in nanoseconds or in bytes per operation; each workload has one of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    Nanos(f64),
    Bytes(f64),
    /// Nanoseconds on several threads, and of processor time: on these threads and on one.
    Threads {
        nanos: f64,
        processor: f64,
        alone: f64,
    },
}

/// What all threads of this process have had of a processor, in nanoseconds.
pub fn processor_nanos() -> u64 {
    let threads = std::fs::read_dir("/proc/self/task").expect("a Linux").flatten();
    let spent = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok());
    spent.filter_map(|line| line.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len() - 1;
    f64::midpoint(figures[last / 2], figures[last.div_ceil(2)])
}

type Measuring = Pin<Box<dyn Future<Output = Measured> + Send>>;

pub struct Cell {
    pub system: &'static str,
    pub measure: Box<dyn Fn(Scale) -> Measuring>,
}

/// What a workload's median for this crate should be.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    AtMost(f64),
    /// At most so much of another system's, in the same run.
    OfSystem(f64, &'static str),
}

/// What a cell's process runs on.
#[derive(Debug, Clone, Copy)]
pub enum Runtime {
    Workers(usize),
    /// One thread in virtual time: whoever waits waits for nothing, so that work alone takes time.
    Virtual,
}

/// As many as the machine has that the figures in the documents are from.
pub const WORKERS: usize = 2;

pub struct Workload {
    pub name: &'static str,
    /// What it answers.
    pub question: &'static str,
    /// What its figures are of.
    pub unit: &'static str,
    pub cells: Vec<Cell>,
    pub goals: Vec<Limit>,
    pub runtime: Runtime,
    /// The figure of this crate, rounded, above which the run fails. Only for figures that do not vary.
    pub required: Option<f64>,
    /// How many rounds say all there is to say.
    pub at_most_rounds: usize,
}

impl Workload {
    pub fn new(name: &'static str, unit: &'static str, question: &'static str) -> Self {
        Self {
            name,
            question,
            unit,
            cells: Vec::new(),
            goals: Vec::new(),
            runtime: Runtime::Workers(WORKERS),
            required: None,
            at_most_rounds: usize::MAX,
        }
    }

    /// Adds a system. Its future runs on a worker of a runtime made for it alone.
    pub fn cell<F, Fut>(mut self, system: &'static str, measure: F) -> Self
    where
        F: Fn(Scale) -> Fut + 'static,
        Fut: Future<Output = Measured> + Send + 'static,
    {
        self.cells.push(Cell { system, measure: Box::new(move |scale| Box::pin(measure(scale))) });
        self
    }

    /// What is promised.
    pub fn goal(mut self, limit: Limit) -> Self {
        self.goals.push(limit);
        self
    }

    /// Fails the run if this crate's median is more.
    pub fn required(mut self, at_most: Option<f64>) -> Self {
        self.required = at_most;
        self
    }

    pub fn on(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// For what hardly varies, or takes long.
    pub fn at_most_rounds(mut self, rounds: usize) -> Self {
        self.at_most_rounds = rounds;
        self
    }
}
