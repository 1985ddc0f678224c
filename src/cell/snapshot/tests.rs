use std::time::UNIX_EPOCH;

use super::{
    super::{
        EndedRun, RunError, TaskCell,
        task_cell::tests::{secs, taken},
    },
    *,
};
use crate::sync::atomic::AtomicUsize;

fn fail(cell: &TaskCell, error_type: &'static str, at: u64) {
    let error = RunError { error_type, message: &|| format!("{error_type} at {at}"), trace_id: None };
    let run = EndedRun {
        kind: ExitKind::Failure,
        started: UNIX_EPOCH + secs(at),
        duration: secs(2),
        error: Some(error),
    };
    cell.run_started(|| secs(at), run.started);
    cell.run_ended(&run, || secs(at), &AtomicUsize::new(8));
}

/// Figures that are different from each other, `times` over, `at` a time.
fn filled(times: u64, at: u64) -> TaskSnapshot {
    let cell = TaskCell::default();
    cell.run_started(|| secs(at), UNIX_EPOCH + secs(at));
    for _ in 0..times {
        fail(&cell, "io", at);
        fail(&cell, if at < 500 { "early" } else { "late" }, at);
        cell.restarted(RestartReason::Panic, secs(at), UNIX_EPOCH + secs(at));
        cell.polled(secs(at), Duration::ZERO);
        cell.polled(secs(at), Duration::ZERO);
        (0..3).for_each(|_| cell.polled(secs(1), Duration::ZERO));
        (0..6).for_each(|_| cell.stalled());
        (0..7).for_each(|_| cell.stale_signal());
    }
    cell.skipped(SkipReason::Missed, 8 * times);
    cell.skipped(SkipReason::Overlapped, 9 * times);
    (0..10 * times).for_each(|_| cell.retried());
    cell.limited();
    (0..11 * times).for_each(|_| cell.reservation_waits());
    cell.reservation_ended();
    taken(&cell)
}

#[test]
fn two_cells_of_one_name_add_up_and_the_latest_wins() {
    let (early, late) = (filled(2, 100), filled(3, 900));
    for (mut sum, other) in [(early.clone(), late.clone()), (late, early)] {
        sum.absorb(other);
        assert_eq!(sum.active, 2);
        assert_eq!((sum.total_runs(), sum.total_errors(), sum.total_restarts()), (10, 10, 5));
        assert_eq!(sum.runs[ExitKind::Failure as usize], 10);
        assert_eq!(sum.restarts[RestartReason::Panic as usize], 5);
        assert_eq!((sum.skipped, sum.retries), ([40, 45], 50));
        assert_eq!(sum.pending_reservations, Some(53));
        let mut errors = sum.errors.clone();
        errors.sort_by_key(|error| error.error_type);
        let errors: Vec<_> = errors.iter().map(|error| (error.error_type, error.count)).collect();
        assert_eq!(errors, [("early", 2), ("io", 5), ("late", 3)]);
        assert_eq!(sum.durations.iter().sum::<u64>(), 10);
        assert_eq!((sum.run_time, sum.longest_run, sum.longest_poll), (secs(20), secs(2), secs(900)));
        assert_eq!((sum.slow_polls, sum.stalls, sum.stale_signals), (25, 30, 35));
        assert_eq!((sum.errors_last_hour, sum.restarts_last_hour), (10, 5));
        assert_eq!(sum.last_error.as_ref().map(|error| &*error.message), Some("late at 900"));
        let at = |seconds| Some(UNIX_EPOCH + secs(seconds));
        assert_eq!((sum.first_start, sum.last_restart), (at(100), at(900)));
        assert_eq!((sum.last_error_time, sum.last_seen), (at(902), at(902)));
        assert_eq!((sum.uptime, sum.since_restart), (Some(secs(900)), Some(secs(100))));
    }
}

#[test]
fn of_two_errors_at_the_same_time_the_registered_tasks_own_is_kept() {
    let (mine, other) = (TaskCell::default(), TaskCell::default());
    fail(&mine, "mine", 5);
    fail(&other, "other", 5);
    let mut sum = taken(&mine);
    sum.absorb(taken(&other));
    assert_eq!(sum.last_error.map(|error| error.error_type), Some("mine"));
}

#[test]
fn snapshot_computes_quantiles_of_its_runs() {
    assert_eq!(taken(&TaskCell::default()).quantile(0.5), None);
    assert_eq!(filled(1, 1).quantile(1.0), Some(secs(2)));
}

#[test]
fn displayed_texts_equal_the_exported_values() {
    for state in TaskState::ALL {
        assert_eq!(state.to_string(), state.as_str());
        assert_eq!(format!("{state:?}").to_lowercase(), state.as_str());
    }
    for reason in SkipReason::ALL {
        assert_eq!(format!("{reason:?}").to_lowercase(), reason.as_str());
    }
}
