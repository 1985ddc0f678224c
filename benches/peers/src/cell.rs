//! What is measured: workloads, and in each a cell per system. How they are run and shown is not known here.

use std::{future::Future, pin::Pin};

/// The system that others are compared with: what is written by hand.
pub const BARE: &str = "bare";
/// This crate.
pub const OURS: &str = "otel-tasks";

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

/// One measurement of a cell, in nanoseconds or in bytes per operation; each workload has the one or the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    Nanos(f64),
    Bytes(f64),
}

type Measuring = Pin<Box<dyn Future<Output = Measured> + Send>>;

pub struct Cell {
    pub system: &'static str,
    pub measure: Box<dyn Fn(Scale) -> Measuring>,
}

/// What a workload's median for this crate should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    /// At most so much of another system's, in the same run.
    OfSystem(f64, &'static str),
}

pub struct Workload {
    pub name: &'static str,
    /// What it answers.
    pub question: &'static str,
    /// What its figures are of.
    pub unit: &'static str,
    pub cells: Vec<Cell>,
    pub goal: Option<Goal>,
}

impl Workload {
    pub fn new(name: &'static str, unit: &'static str, question: &'static str) -> Self {
        Self { name, question, unit, cells: Vec::new(), goal: None }
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

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }
}
