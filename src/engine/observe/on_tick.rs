//! The work of the watchdog's thread for a manager at each tick. It detects silent tasks, polls that block a thread, a runtime
//! without progress, and runs whose permission is over. It also continues a shutdown that the runtime cannot. It works while every thread of
//! the runtime is blocked.
//!
//! The task's driver also detects silence, with a timer of the runtime: exact, and in virtual time. The thread comes after
//! it, if the driver is stuck. Both call [`Signals::tell`], so that a stall is reported once and handled once.
//!
//! [`Signals::tell`]: crate::engine::supervision::signs_of_life::Signals::tell

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant as StdInstant},
};

use tokio::time::Instant;

use super::watch::State;
use crate::{
    engine::{
        Order, Shared, Supervised, TaskEventKind,
        announce::{self, Announcer},
        observe::{runtime::RuntimeFigures, watch::Probe},
        shutdown::sequence::SHUTDOWN_TICK,
        supervision::signs_of_life::Stall,
    },
    policy::{OverrunAction, StallAction},
    read::BlockedTask,
    watchdog::{self, BlockedPoll, Tick, Watched},
};

/// The interval at which the watchdog checks a manager: 50 ms.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// The time that the thread leaves a silent task to its driver.
const DRIVERS_TURN: Duration = Duration::from_millis(40);
/// The time without a tick after which the whole process counts as stopped.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// The interval of the probes for progress of the runtime.
const PROBE_EVERY: Duration = Duration::from_secs(1);

impl Shared {
    pub(crate) fn begin_watching(self: &Arc<Self>) {
        let watched: Arc<dyn Watched> = self.clone();
        if let Err(error) = watchdog::watch(self.watch.number, TICK, Arc::downgrade(&watched)) {
            announce::unwatched(&error);
        }
    }

    /// Requests an early check: a shutdown has begun.
    pub(crate) fn watch_closely(&self) {
        watchdog::tick_at(self.watch.number, StdInstant::now() + SHUTDOWN_TICK);
    }

    /// A task has given no sign of life, or has been in one poll, for this time. Reported once, and handled as the task's settings say.
    pub(crate) fn stalled(&self, task: &Arc<Supervised>, stall: Stall, silent_for: Duration) {
        if watchdog::last_tick().is_some_and(|since| since > STOOD_STILL) {
            // The thread has not ticked either: the process was stopped, and the task with it.
            return task.signals.rearm(Instant::now());
        }
        let Some(generation) = task.signals.tell(stall) else { return };
        // A driver that is stuck with an earlier order does not receive this one. The stall is reported anyway.
        self.announcer(task, generation).stalled(silent_for, || match task.spec.on_stall {
            StallAction::Report => {}
            StallAction::Restart => {
                task.order(Order::Stalled { generation, give_up: false });
            }
            StallAction::Escalate => {
                task.order(Order::Stalled { generation, give_up: true });
            }
        });
    }

    fn look_for_silence(&self, now: Instant) {
        for task in self.watch.beating() {
            let Some(timeout) = task.spec.heartbeat_timeout.filter(|_| task.must_beat()) else { continue };
            let Some(last) = task.signals.last_beat() else { continue };
            let silent_for = now.saturating_duration_since(last);
            if silent_for > timeout.saturating_add(DRIVERS_TURN) {
                self.stalled(&task, Stall::Silence(last), silent_for);
            }
        }
    }

    fn look_for_blocked_polls(&self, blocked: &[BlockedPoll], told: &mut HashSet<u64>) {
        told.retain(|poll| blocked.iter().any(|blocked| blocked.poll == *poll));
        let slow = blocked.iter().filter(|blocked| blocked.since >= self.recorder.options.slow_poll);
        let slow: Vec<_> =
            slow.filter_map(|blocked| Some((blocked, self.tracker.member(blocked.id)?))).collect();
        // Before any report: its receiver may read it.
        *self.watch.blocked.lock().unwrap_or_else(PoisonError::into_inner) = slow
            .iter()
            .map(|(blocked, (task, _))| BlockedTask {
                task: task.identity.name.clone(),
                thread: blocked.thread.clone(),
                polling_for: blocked.since,
            })
            .collect();
        for (blocked, (task, supervised)) in slow {
            let news = told.insert(blocked.poll);
            if news {
                let generation = supervised.as_ref().map_or(0, |supervised| supervised.signals.generation());
                let announcer =
                    Announcer { events: &self.events, task: &task, changes: None, generation, trace: None };
                announcer.blocks(&blocked.thread, blocked.since);
            }
            if let Some(supervised) = supervised {
                if supervised.spec.poll_timeout.is_some_and(|timeout| blocked.since >= timeout) {
                    self.stalled(&supervised, Stall::Poll(blocked.poll), blocked.since);
                }
            }
        }
    }

    /// Sends a task through the runtime now and then. If it does not come back and the runtime's own figures do not change either, the runtime
    /// makes no progress. Where many tasks are due, the task waits behind them.
    fn probe(&self, now: StdInstant, blocked: &[BlockedPoll], state: &mut State) {
        let Some(runtime) = self.existing_runtime() else { return };
        if runtime.is_told() {
            // Nothing runs there, and the tasks that did are not live.
            self.watch.stalled.store(false, SeqCst);
            state.probe = None;
            return;
        }
        let Some(probe) = &mut state.probe else {
            if state.probed.is_none_or(|probed| now.saturating_duration_since(probed) >= PROBE_EVERY) {
                let ran = Arc::new(AtomicBool::new(false));
                let answer = ran.clone();
                let task = runtime.spawn(async move { answer.store(true, SeqCst) });
                state.probed = Some(now);
                let figures = RuntimeFigures::of(&runtime.handle);
                state.probe = Some(Probe { ran, task, told: false, figures, progress_at: now });
            }
            return;
        };
        let finished = probe.task.is_finished();
        let ran = probe.ran.load(SeqCst);
        if ran || finished {
            self.watch.stalled.store(false, SeqCst);
            state.probe = None;
            // It was dropped without having run.
            if !ran && runtime.is_gone(None) {
                self.runtime_gone(&runtime);
            }
            return;
        }
        let figures = RuntimeFigures::of(&runtime.handle);
        if figures.shows_progress_since(&probe.figures) {
            self.watch.stalled.store(false, SeqCst);
            (probe.progress_at, probe.told) = (now, false);
        }
        probe.figures = figures;
        let stalled_for = now.saturating_duration_since(probe.progress_at);
        if stalled_for < self.settings.runtime_stall || std::mem::replace(&mut probe.told, true) {
            return;
        }
        // Before any report: its receiver may read it.
        self.watch.stalled.store(true, SeqCst);
        let mut polling: Vec<Arc<str>> = blocked
            .iter()
            .filter_map(|blocked| self.tracker.member(blocked.id))
            .map(|(task, _)| task.identity.name.clone())
            .collect();
        polling.sort_unstable();
        polling.dedup();
        announce::runtime_stalled(&self.events, stalled_for, polling);
    }

    /// Returns true if the runtime is known to make no progress.
    pub(crate) fn runtime_is_stalled(&self) -> bool {
        self.watch.stalled.load(SeqCst)
    }
}

impl Shared {
    /// Ends passes whose time is over, and reports polls that have not returned until then. The process is ended elsewhere: see
    /// [`overruns`](super::overruns).
    fn look_for_overruns(&self) {
        let mut next: Option<Duration> = None;
        for task in self.watch.gated() {
            let Some(gated) = task.body.gated() else { continue };
            let Some(pass) = gated.pass() else { continue };
            pass.end_if_over();
            if gated.on_overrun == OverrunAction::Report && pass.is_overrun() && pass.first_overrun() {
                self.announcer(&task, task.signals.generation()).overran(gated.name(), pass.term());
            }
            let due = pass.overrun_in();
            if !due.is_zero() {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        // Closer than the next tick.
        if let Some(due) = next.filter(|due| *due < TICK) {
            watchdog::tick_at(self.watch.number, StdInstant::now() + due);
        }
    }
}

impl Watched for Shared {
    fn tick(&self, tick: &Tick<'_>) {
        let Some(runtime) = self.existing_runtime() else { return };
        // The runtime's clock, which may be a test's.
        let _inside = runtime.handle.enter();
        // Before all that may take time.
        self.look_for_overruns();
        let now = Instant::now();
        if let Some(stood_still_for) = tick.resumed_after {
            self.watch.beating().iter().for_each(|task| task.signals.rearm(now));
            self.events.tell(None, 0, || TaskEventKind::ProcessResumed { stood_still_for });
        }
        // Not locked during reports, whose receivers may call the manager.
        let mut state = std::mem::take(&mut *self.watch.state.lock().unwrap_or_else(PoisonError::into_inner));
        if tick.resumed_after.is_some() {
            self.watch.stalled.store(false, SeqCst);
            state.probe = None;
        }
        self.look_for_blocked_polls(tick.blocked, &mut state.told);
        self.look_for_silence(now);
        if !self.tracker.is_closed() {
            self.probe(tick.now, tick.blocked, &mut state);
        }
        *self.watch.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        #[cfg(all(feature = "systemd", unix))]
        self.notify_service_manager(tick.now);
        self.drain.watch(now, tick.now);
        if let Some(sequence) = self.sequence.get().filter(|sequence| !sequence.is_over(self)) {
            sequence.watch(self, now, tick.now);
            self.watch_closely();
        }
    }
}
