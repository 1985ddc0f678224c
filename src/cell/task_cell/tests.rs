use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::{
    cell::failures::count_error,
    contract::{ERROR_TYPE_OTHER, ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT},
};

pub(in crate::cell) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(in crate::cell) fn taken(cell: &TaskCell) -> TaskSnapshot {
    cell.snapshot(&Identity::named("a"), secs(1_000))
}

fn end(cell: &TaskCell, kind: ExitKind, error_type: Option<&'static str>) {
    let message = || "broken".to_owned();
    let error = error_type.map(|error_type| RunError { error_type, message: &message, trace_id: None });
    let run = EndedRun { kind, started: UNIX_EPOCH + secs(10), duration: secs(2), error };
    cell.run_started(|| secs(10), run.started);
    cell.run_ended(&run, || secs(12), &AtomicUsize::new(TaskSnapshot::MAX_ERROR_TYPES));
}

#[test]
fn a_cell_is_not_reset_while_a_run_adds_its_figures() {
    let cell = TaskCell::default();
    (0..2).for_each(|_| end(&cell, ExitKind::Success, None));
    let figures = cell.figures.get().expect("they are made for the second run");
    std::thread::scope(|scope| {
        let adding = figures.rare();
        let reset = scope.spawn(|| cell.reset());
        // Seen to fail where the reset takes this lock for the history alone.
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reset.is_finished() && figures.ended_runs() == 2);
        drop(adding);
    });
    assert_eq!(taken(&cell).total_runs(), 0);
}

#[test]
fn a_second_run_that_ends_while_its_cell_is_reset_counts_once_or_not_at_all() {
    // Seen to fail where the reset clears the first end of a cell whose figures are being made.
    for round in 0..5_000 {
        let (cell, together) = (TaskCell::default(), AtomicUsize::new(0));
        end(&cell, ExitKind::Success, None);
        let meet = |delay| {
            together.fetch_add(1, SeqCst);
            while together.load(SeqCst) < 2 {}
            (0..delay).for_each(|_| std::hint::spin_loop());
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                meet(0);
                end(&cell, ExitKind::Success, None);
            });
            meet(round % 16);
            cell.reset();
        });
        let before = taken(&cell).total_runs();
        assert!(before <= 1, "{before}");
        (0..2).for_each(|_| end(&cell, ExitKind::Success, None));
        assert_eq!(taken(&cell).total_runs(), before + 2);
    }
}

#[test]
fn absorbing_into_an_idle_snapshot_loses_nothing() {
    let (idle, cell) = (TaskCell::default(), TaskCell::default());
    end(&cell, ExitKind::Success, None);
    let (mut sum, one) = (taken(&idle), taken(&cell));
    assert_eq!((sum.durations.len(), sum.durations.iter().sum::<u64>()), (one.durations.len(), 0));
    sum.absorb(one.clone());
    assert_eq!((&sum.durations, sum.total_runs()), (&one.durations, 1));
}

/// Fails if a figure is left out of `reset`.
#[test]
fn a_cell_that_is_reset_is_as_a_new_one() {
    let cell = TaskCell::default();
    let wall = UNIX_EPOCH + secs(30);
    end(&cell, ExitKind::Success, None);
    end(&cell, ExitKind::Failure, Some("io"));
    end(&cell, ExitKind::Failure, Some("io"));
    cell.polled(secs(2), secs(1));
    cell.heartbeat(wall);
    cell.restarted(RestartReason::Failure, secs(30), wall);
    cell.stalled();
    cell.stale_signal();
    cell.skipped(SkipReason::Missed, 3);
    cell.retried();
    cell.set_schedule(Some(secs(60)), Some(wall));
    cell.set_next_retry(Some(wall));
    cell.reset();
    assert_eq!(taken(&cell), taken(&TaskCell::default()));
    assert!(cell.history().is_empty() && cell.restarts_within(secs(31), secs(60)) == 0);
    assert_eq!(cell.error_types(), ["io"], "the histograms know it");
}

#[test]
fn a_cell_is_alive_while_it_has_a_state_or_a_run() {
    let cell = TaskCell::default();
    assert!(!cell.is_alive());
    cell.run_started(|| secs(10), UNIX_EPOCH + secs(10));
    assert!(cell.is_alive());
    let registered = TaskCell::default();
    registered.set_state(Some(TaskState::Waiting), UNIX_EPOCH);
    assert!(registered.is_alive());
    registered.set_state(None, UNIX_EPOCH);
    end(&registered, ExitKind::Success, None);
    assert!(!registered.is_alive());
}

#[test]
fn a_success_and_a_failure_are_each_dated_at_their_end() {
    let at = Some(UNIX_EPOCH + secs(12));
    let cell = TaskCell::default();
    end(&cell, ExitKind::Success, None);
    let snapshot = taken(&cell);
    assert_eq!((snapshot.last_success, snapshot.last_error_time), (at, None));
    assert!(snapshot.last_error.is_none());

    let cell = TaskCell::default();
    end(&cell, ExitKind::Failure, Some("io"));
    let snapshot = taken(&cell);
    assert_eq!((snapshot.last_success, snapshot.last_error_time), (None, at));
    assert_eq!(snapshot.last_error.map(|error| error.at), at);
}

#[test]
fn vitals_equal_the_snapshot() {
    let cell = TaskCell::default();
    let agrees = || {
        let (vitals, snapshot) = (cell.vitals(secs(1_000)), taken(&cell));
        assert_eq!((vitals.state, vitals.active), (snapshot.state, snapshot.active));
        assert_eq!((vitals.runs, vitals.errors), (snapshot.total_runs(), snapshot.total_errors()));
        assert_eq!(vitals.restarts, snapshot.total_restarts());
        assert_eq!((vitals.uptime, vitals.since_restart), (snapshot.uptime, snapshot.since_restart));
        assert_eq!(vitals.last_seen, snapshot.last_seen);
        assert_eq!(vitals.errors_last_hour, snapshot.errors_last_hour);
        assert_eq!(vitals.restarts_last_hour, snapshot.restarts_last_hour);
        vitals
    };
    agrees();
    cell.set_state(Some(TaskState::Running), UNIX_EPOCH);
    cell.run_started(|| secs(1), UNIX_EPOCH + secs(1));
    agrees();
    end(&cell, ExitKind::Success, None);
    end(&cell, ExitKind::Failure, Some("io"));
    end(&cell, ExitKind::Panic, Some(ERROR_TYPE_PANIC));
    end(&cell, ExitKind::Timeout, Some(ERROR_TYPE_TIMEOUT));
    end(&cell, ExitKind::Cancellation, None);
    cell.restarted(RestartReason::Failure, secs(20), UNIX_EPOCH + secs(20));
    let vitals = agrees();
    assert_eq!((vitals.active, vitals.runs, vitals.errors, vitals.restarts), (1, 5, 3, 1));
}

/// A cell whose first end was counted in the figures must not differ.
#[test]
fn the_first_end_is_counted_as_any_other_without_figures() {
    let run = |cell: &TaskCell, kind, duration| {
        let run = EndedRun { kind, started: UNIX_EPOCH + secs(10), duration, error: None };
        cell.run_started(|| secs(10), run.started);
        cell.run_ended(&run, || secs(12), &AtomicUsize::new(0));
    };
    let no_room = Duration::from_nanos(1 << RESULT_SHIFT);
    let durations = [Duration::ZERO, secs(2), no_room - Duration::from_nanos(1), no_room];
    let both = [ExitKind::Success, ExitKind::Cancellation].map(|kind| durations.map(|took| (kind, took)));
    for (kind, took) in both.into_iter().flatten() {
        let known = || {
            let cell = TaskCell::default();
            cell.figures();
            run(&cell, kind, took);
            cell
        };
        let cell = TaskCell::default();
        run(&cell, kind, took);
        assert_eq!(cell.figures.get().is_none(), took < no_room);
        assert_eq!((cell.ended_runs(), cell.vitals(secs(20)).runs), (1, 1));
        assert_eq!(taken(&cell), taken(&known()));
        assert_eq!(cell.history(), known().history());
        assert_eq!((cell.ended_runs(), cell.vitals(secs(20)).runs), (1, 1), "once they are made");

        let (first, known) = (TaskCell::default(), known());
        run(&first, kind, took);
        for cell in [&first, &known] {
            run(cell, ExitKind::Success, secs(1));
            end(cell, ExitKind::Failure, Some("io"));
        }
        assert_eq!((taken(&first), first.history()), (taken(&known), known.history()));
        assert_eq!(first.ended_runs(), 3);

        let cell = TaskCell::default();
        run(&cell, kind, took);
        cell.reset();
        assert_eq!(taken(&cell), taken(&TaskCell::default()));
        run(&cell, kind, took);
        assert_eq!((cell.ended_runs(), cell.history().len()), (1, 1), "it begins again");
    }
}

/// The cell knows the start of the other run.
#[test]
fn a_later_run_that_ends_first_has_its_own_start() {
    let cell = TaskCell::default();
    cell.run_started(|| secs(1), UNIX_EPOCH + secs(1));
    end(&cell, ExitKind::Success, None);
    assert_eq!(cell.history()[0].started, UNIX_EPOCH + secs(10));
}

#[test]
fn a_poll_as_long_as_the_threshold_is_not_yet_slow() {
    let cell = TaskCell::default();
    cell.polled(secs(1), secs(1));
    assert_eq!(taken(&cell).slow_polls, 0);
    cell.polled(secs(1) + Duration::from_nanos(1), secs(1));
    let snapshot = taken(&cell);
    assert_eq!((snapshot.slow_polls, snapshot.longest_poll), (1, secs(1) + Duration::from_nanos(1)));
}

#[test]
fn events_at_time_zero_have_an_age() {
    let cell = TaskCell::default();
    cell.run_started(|| Duration::ZERO, UNIX_EPOCH + secs(1));
    cell.restarted(RestartReason::Requested, Duration::ZERO, UNIX_EPOCH + secs(1));
    let snapshot = taken(&cell);
    assert_eq!((snapshot.uptime, snapshot.since_restart), (Some(secs(1_000)), Some(secs(1_000))));
}

#[test]
fn a_restart_as_old_as_the_window_has_left_it() {
    let cell = TaskCell::default();
    for (reason, at) in [
        (RestartReason::Failure, 10),
        (RestartReason::Stalled, 11),
        (RestartReason::Requested, 12),
        (RestartReason::Group, 12),
        (RestartReason::Dependency, 12),
    ] {
        cell.restarted(reason, secs(at), UNIX_EPOCH);
    }
    let within = |seconds| cell.restarts_within(secs(12), secs(seconds));
    assert_eq!(within(100), 2, "those on request and along with others are free");
    assert_eq!(within(3), 2);
    assert_eq!(within(2), 1);
    assert_eq!(within(1), 0);
    cell.restarted(RestartReason::Failure, secs(9), UNIX_EPOCH);
    assert_eq!(within(2), 2, "a clock that was read early counts as the last");
    assert_eq!(cell.vitals(secs(12)).restarts_last_hour, 3);
    assert_eq!(cell.vitals(secs(3_610)).restarts_last_hour, 2);
    cell.forgive_restarts();
    assert_eq!(within(100), 0);
}

#[test]
fn error_types_beyond_the_limit_are_counted_as_other() {
    const TYPES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let counted = |budget| {
        let (mut errors, budget) = (Vec::new(), AtomicUsize::new(budget));
        let under: Vec<_> = [ERROR_TYPE_PANIC, ERROR_TYPE_TIMEOUT]
            .iter()
            .chain(&TYPES)
            .chain(&TYPES)
            .map(|error_type| count_error(&mut errors, error_type, &budget))
            .collect();
        assert_eq!(errors.iter().map(|error| error.count).sum::<u64>(), 22, "each is counted once");
        under.into_iter().filter(|under| *under == ERROR_TYPE_OTHER).count()
    };
    assert_eq!(counted(usize::MAX), 2 * (TYPES.len() - TaskSnapshot::MAX_ERROR_TYPES));
    assert_eq!(counted(3), 2 * (TYPES.len() - 3), "or fewer, where the registry has no more to give");
}
