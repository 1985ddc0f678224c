//! The lines of a shutdown report, gathered while members leave.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

use super::topology::{Position, sort_by_name};
use crate::{
    cell::Identity,
    engine::shutdown::report::{Counted, ShutdownEntry},
    policy::{ShutdownOutcome, TaskCategory, TaskPriority},
    run::Task,
};

/// The outcome of a driver. One line of the report, unless its name was registered twice.
pub(in crate::engine) struct Note {
    pub(super) task: Arc<Task>,
    pub(super) position: Position,
    pub(super) outcome: ShutdownOutcome,
    pub(super) after: Duration,
}

/// The identity of a line of the report.
pub(in crate::engine) type LineKey =
    (Arc<str>, Option<Arc<str>>, TaskCategory, TaskPriority, ShutdownOutcome, Counted);

/// A line of the report, with its position.
pub(in crate::engine) type Line = (Position, ShutdownEntry);

/// The outcomes of the runs that left during the shutdown.
pub(in crate::engine) type Lines = HashMap<LineKey, Line>;

pub(in crate::engine) fn line_of(task: &Task, outcome: ShutdownOutcome, after: Duration) -> ShutdownEntry {
    let Identity { name, category, priority, .. } = &task.identity;
    ShutdownEntry {
        name: name.clone(),
        owner: None,
        category: *category,
        priority: *priority,
        outcome,
        count: 1,
        counted: Counted::Runs,
        after,
    }
}

impl ShutdownEntry {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.after = self.after.max(other.after);
    }
}

fn key_of(line: &ShutdownEntry) -> LineKey {
    (line.name.clone(), line.owner.clone(), line.category, line.priority, line.outcome, line.counted)
}

impl Note {
    pub(in crate::engine) fn line(&self) -> Line {
        line_of_driver(&self.task, self.position, self.outcome, self.after)
    }
}

/// The line of a driver. The members of a family that ended well share one, under the family's name: there may be ten thousand.
pub(in crate::engine) fn line_of_driver(
    task: &Task,
    position: Position,
    outcome: ShutdownOutcome,
    after: Duration,
) -> Line {
    let line = line_of(task, outcome, after);
    let ended_well = matches!(outcome, ShutdownOutcome::Clean | ShutdownOutcome::NotRunning);
    let line = match task.family().filter(|_| ended_well) {
        Some(family) => {
            ShutdownEntry { name: family.identity.name.clone(), counted: Counted::Members, ..line }
        }
        None => line,
    };
    (position, line)
}

/// Records a run, in the line of the runs with the same name and outcome.
pub(in crate::engine) fn note(
    lines: &mut Lines,
    task: &Task,
    owner: Option<Arc<str>>,
    position: Position,
    outcome: ShutdownOutcome,
    after: Duration,
) {
    add(lines, position, ShutdownEntry { owner, ..line_of(task, outcome, after) });
}

pub(in crate::engine) fn add(lines: &mut Lines, position: Position, line: ShutdownEntry) {
    match lines.entry(key_of(&line)) {
        hash_map::Entry::Vacant(place) => {
            place.insert((position, line));
        }
        hash_map::Entry::Occupied(mut held) => {
            let (first, held) = held.get_mut();
            *first = position.min(*first);
            held.add(&line);
        }
    }
}

/// Returns the order of a line among those of one name. It differs between any two lines that have another [`key_of`].
fn order_of(line: &ShutdownEntry) -> (bool, &str, ShutdownOutcome, u8, TaskPriority, Counted) {
    let ShutdownEntry { name, owner, category, priority, outcome, counted, .. } = line;
    (owner.is_some(), name, *outcome, *category as u8, *priority, *counted)
}

/// Returns the lines of the runs and those of the drivers, in the order of the report: by position, then by name. What a task owns follows it.
pub(in crate::engine) fn all_lines(of_runs: Lines, of_drivers: Vec<Line>) -> Vec<ShutdownEntry> {
    let mut all = of_drivers;
    all.extend(of_runs.into_values());
    let mut all = sort_by_name(
        all,
        |(_, line)| line.owner.as_ref().unwrap_or(&line.name),
        |(_, a), (_, b)| order_of(a).cmp(&order_of(b)),
        // A name was registered twice, or members share the line of their family.
        |(first, held), (position, line)| {
            if order_of(&line) != order_of(held) || line.owner != held.owner {
                return Some((position, line));
            }
            *first = position.min(*first);
            held.add(&line);
            None
        },
    );
    // Stable: the names stay in order.
    all.sort_by_key(|(position, _)| *position);
    all.into_iter().map(|(_, line)| line).collect()
}
