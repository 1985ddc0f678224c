//! The runs of loops in the next 24 hours.

use std::{sync::Arc, time::Duration};

use otel_tasks::{TaskManager, snapshot::TaskSnapshot};
use serde::Serialize;
use utoipa::ToSchema;

use crate::format::{seconds, unix};

const DAY: Duration = Duration::from_secs(86_400);
/// The maximum of times of one loop; more are a band.
const MOST: usize = 300;

/// The next runs of one loop.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lane {
    #[schema(value_type = String)]
    name: Arc<str>,
    /// As text, such as `every 5m`.
    schedule: String,
    interval_seconds: Option<f64>,
    next_run: Option<f64>,
    /// The runs of the next 24 hours, at most 300.
    upcoming: Vec<f64>,
}

/// The schedule of a loop as text; `None` for another task.
pub(crate) fn text(manager: &TaskManager, task: &TaskSnapshot) -> Option<String> {
    // Any other task has no next run and no interval: it is not asked for.
    task.state.filter(|_| task.next_run.is_some() || task.interval.is_some())?;
    Some(manager.loop_handle(&task.name).ok()?.schedule().to_string())
}

/// The runs of the next 24 hours; `None` if the task is no loop.
pub(crate) fn upcoming(manager: &TaskManager, task: &TaskSnapshot) -> Option<Vec<f64>> {
    let schedule = manager.loop_handle(&task.name).ok()?.schedule();
    let next = task.next_run;
    let times = std::iter::successors(next, |last| schedule.next_after(*last));
    let is_soon = |at: &std::time::SystemTime| {
        next.is_some_and(|next| at.duration_since(next).is_ok_and(|after| after < DAY))
    };
    Some(times.take_while(is_soon).take(MOST).map(unix).collect())
}

/// Every registered loop, the next one first.
pub(crate) fn lanes(manager: &TaskManager) -> Vec<Lane> {
    let lane = |task: TaskSnapshot| {
        task.state?;
        let schedule = manager.loop_handle(&task.name).ok()?.schedule().to_string();
        Some(Lane {
            schedule,
            interval_seconds: task.interval.map(seconds),
            next_run: task.next_run.map(unix),
            upcoming: upcoming(manager, &task).unwrap_or_default(),
            name: task.name,
        })
    };
    let mut lanes: Vec<_> = manager.snapshots().into_iter().filter_map(lane).collect();
    let time = |lane: &Lane| lane.next_run.unwrap_or(f64::INFINITY);
    // Stable, so by name where the times are equal.
    lanes.sort_by(|a, b| time(a).total_cmp(&time(b)));
    lanes
}
