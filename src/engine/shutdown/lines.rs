//! The lines of a shutdown report, gathered while members leave.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
    time::Duration,
};

use super::topology::Position;
use crate::{
    cell::Identity,
    engine::shutdown::report::{Counted, ShutdownEntry},
    policy::{ShutdownOutcome, TaskCategory, TaskPriority},
    run::Task,
};

/// The outcome of a driver. One line of the report, unless its name was registered twice.
#[derive(Clone)]
pub(in crate::engine) struct Note {
    pub(super) task: Arc<Task>,
    pub(super) position: Position,
    pub(super) outcome: ShutdownOutcome,
    pub(super) after: Duration,
}

/// The identity of a line of the report.
pub(in crate::engine) type LineKey =
    (Arc<str>, Option<Arc<str>>, TaskCategory, TaskPriority, ShutdownOutcome, Counted);

/// The outcomes of the runs that left during the shutdown.
pub(in crate::engine) type Lines = HashMap<LineKey, (Position, ShutdownEntry)>;

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

pub(in crate::engine) fn key_of(line: &ShutdownEntry) -> LineKey {
    (line.name.clone(), line.owner.clone(), line.category, line.priority, line.outcome, line.counted)
}

/// The line of a driver. The members of a family that ended well share one, under the family's name: there may be ten thousand.
fn line_of_driver(note: &Note) -> ShutdownEntry {
    let line = line_of(&note.task, note.outcome, note.after);
    match note.task.family().filter(|_| is_shared(note)) {
        Some(family) => {
            ShutdownEntry { name: family.identity.name.clone(), counted: Counted::Members, ..line }
        }
        None => line,
    }
}

fn is_shared(note: &Note) -> bool {
    let ended_well = matches!(note.outcome, ShutdownOutcome::Clean | ShutdownOutcome::NotRunning);
    ended_well && note.task.family().is_some()
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
            held.count += line.count;
            held.after = held.after.max(line.after);
        }
    }
}

/// The lines of the runs and those of the drivers. The latter are as many as there are tasks, and go by no map unless they
/// share a line with another.
pub(in crate::engine) fn all_lines(mut lines: Lines, mut notes: Vec<Note>) -> Vec<(Position, ShutdownEntry)> {
    notes.sort_unstable_by_key(|note| Arc::as_ptr(&note.task));
    let alone = |index: usize| {
        let task = &notes[index].task;
        let shared_with = |other: Option<&Note>| other.is_some_and(|other| Arc::ptr_eq(&other.task, task));
        !shared_with(index.checked_sub(1).map(|before| &notes[before])) && !shared_with(notes.get(index + 1))
    };
    let by_map = !lines.is_empty();
    let mut all = Vec::with_capacity(notes.len() + lines.len());
    for (index, note) in notes.iter().enumerate() {
        let line = line_of_driver(note);
        if by_map || is_shared(note) || !alone(index) {
            add(&mut lines, note.position, line);
        } else {
            all.push((note.position, line));
        }
    }
    all.extend(lines.into_values());
    all
}
