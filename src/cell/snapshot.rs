//! The figures of a cell at one moment: plain data.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{FEW_RUNS, Identity, Possible, RunMinutes, exact_quantile, quantile};
use crate::policy::{ExitKind, RestartReason, TaskCategory, TaskPriority, labels};

labels! {
    /// The state of a supervised task.
    pub enum TaskState {
        /// Registered, not yet begun; or it waits for a task it depends on, or for its group.
        Waiting = "waiting",
        /// Everything it waits for in this process is there, and its [gate](crate::CriticalTaskConfig::gate) is closed: it runs elsewhere.
        Standby = "standby",
        /// Alive; a loop is also alive between two iterations.
        Running = "running",
        /// Waiting for its delay before a restart.
        Backoff = "backoff",
        /// Asked to stop, and not yet ended.
        Stopping = "stopping",
        /// Ended by itself, well.
        Finished = "finished",
        /// Ended by a permanent error, or by more failures than its limit allows. It may be tried again: see
        /// [`next_retry`](TaskSnapshot::next_retry).
        Failed = "failed",
        /// Ended on request.
        Stopped = "stopped",
        /// Held until somebody resumes it.
        Paused = "paused",
    }
}

impl TaskState {
    /// True if a restart of this process cannot help the task: it waits for a person or for another process.
    pub(crate) const fn is_held(self) -> bool {
        matches!(self, Self::Paused | Self::Standby)
    }

    /// Returns the part that has the series of this state. A person can stop, pause and restart each task, and each can fail for good.
    const fn possible(self) -> Possible {
        match self {
            Self::Standby => Possible::STANDBY,
            Self::Finished => Possible::FINISHED,
            Self::Waiting
            | Self::Running
            | Self::Backoff
            | Self::Stopping
            | Self::Failed
            | Self::Stopped
            | Self::Paused => Possible::REGISTERED,
        }
    }
}

labels! {
    /// The reason why an iteration of a loop did not take place.
    pub enum SkipReason {
        /// Its time passed while nothing could begin: the process was suspended, the clock set forward, the runtime blocked.
        Missed = "missed",
        /// Its time came while one before it still ran.
        Overlapped = "overlapped",
    }
}

/// One ended run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RunRecord {
    /// The time at which it began.
    pub started: SystemTime,
    /// The duration of the run.
    pub duration: Duration,
    /// The way in which the run ended.
    pub result: ExitKind,
}

/// The last error of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LastError {
    /// Its class.
    pub error_type: &'static str,
    /// Its text.
    pub message: String,
    /// The time at which it happened.
    pub at: SystemTime,
    /// The trace of the run that failed, 32 hexadecimal digits, where there was one.
    pub trace_id: Option<String>,
}

/// The number of errors of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ErrorCount {
    /// The class.
    pub error_type: &'static str,
    /// The number of errors.
    pub count: u64,
}

/// The standing of a task's [gate](crate::CriticalTaskConfig::gate), as this process knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GateSnapshot {
    /// The name of what the gate guards, such as a lease.
    pub name: Arc<str>,
    /// The process that holds it, by the name that the gate's store knows it by; `None` while it is unknown.
    pub holder: Option<Arc<str>>,
    /// The term of this process's permission; `None` while it has none.
    pub term: Option<u64>,
    /// The time until this process's permission ends unless it is extended; `None` while it has none.
    pub remaining: Option<Duration>,
}

impl GateSnapshot {
    pub(crate) fn new(name: Arc<str>, holder: Option<Arc<str>>, permission: Option<(u64, Duration)>) -> Self {
        let (term, remaining) = permission.unzip();
        Self { name, holder, term, remaining }
    }

    /// Returns true if this process has the permission to run the task.
    pub fn is_held(&self) -> bool {
        self.term.is_some()
    }
}

/// The figures of one task name at one moment.
///
/// The fields are read one after another while runs continue. So they may differ by runs that end meanwhile; at rest they agree.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskSnapshot {
    /// The name the figures are kept under.
    pub name: Arc<str>,
    /// The category of the task.
    pub category: TaskCategory,
    /// The priority of the task: a shutdown stops lower priorities first.
    pub priority: TaskPriority,
    /// The component that owns it.
    pub component: Option<Arc<str>>,
    /// The family, for a member of one ([`TaskFamily`](crate::TaskFamily)). What a member counts is counted by its family too.
    pub family: Option<Arc<str>>,
    /// The state of a registered task; `None` for any other name, and for a family.
    pub state: Option<TaskState>,
    /// The members in each state, for a family.
    #[cfg_attr(feature = "serde", serde(serialize_with = "by_state"))]
    pub(crate) members: Option<[u64; TaskState::ALL.len()]>,
    /// True if a task was registered under the name, or was a member of the family, and none is any more.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) retired: bool,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) possible: Possible,
    /// Runs under way.
    pub active: u64,
    #[cfg_attr(feature = "serde", serde(serialize_with = "by_exit"))]
    pub(crate) runs: [u64; ExitKind::ALL.len()],
    /// Errors by class; panics and timeouts included.
    pub errors: Vec<ErrorCount>,
    #[cfg_attr(feature = "serde", serde(serialize_with = "by_reason"))]
    pub(crate) restarts: [u64; RestartReason::ALL.len()],
    /// Time spent in ended runs.
    pub run_time: Duration,
    /// The longest ended run.
    pub longest_run: Duration,
    /// The shortest ended run.
    pub shortest_run: Duration,
    /// The durations of all ended runs, if they are few; empty otherwise.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) few: Vec<Duration>,
    /// Runs and errors by minute, once somebody has asked for them
    /// ([`record_minutes`](crate::TaskManager::record_minutes)).
    pub minutes: Option<RunMinutes>,
    /// The tasks that this one depends on, by name, for a registered task.
    pub depends_on: Vec<Arc<str>>,
    /// The tasks that this one waits for now, by name; empty if it does not wait.
    pub waits_for: Vec<Arc<str>>,
    /// The standing of the task's gate; `None` without a gate.
    pub gate: Option<Box<GateSnapshot>>,
    /// Ended runs per bucket of the exported histogram.
    pub durations: Vec<u64>,
    /// The longest single poll, as far as polls are timed
    /// ([`exact_poll_time`](crate::task::TaskManagerBuilder::exact_poll_time)).
    pub longest_poll: Duration,
    /// Polls longer than the threshold.
    pub slow_polls: u64,
    /// Times without a heartbeat for longer than promised.
    pub stalls: u64,
    /// Heartbeats and ready signs that came from a run that had ended: ignored.
    pub stale_signals: u64,
    #[cfg_attr(feature = "serde", serde(serialize_with = "by_skip"))]
    pub(crate) skipped: [u64; SkipReason::ALL.len()],
    /// The number of retries of failed iterations, for a loop.
    pub retries: u64,
    /// Reservations of a [limited](crate::task::LimitedTask) name that wait for room; `None` if the name has never had a limit.
    pub pending_reservations: Option<u64>,
    /// The time since the task first began to run.
    pub uptime: Option<Duration>,
    /// The time since the last restart.
    pub since_restart: Option<Duration>,
    /// The time at which the task first began to run.
    pub first_start: Option<SystemTime>,
    /// The time at which a run last succeeded.
    pub last_success: Option<SystemTime>,
    /// The time at which a run last failed.
    pub last_error_time: Option<SystemTime>,
    /// The time at which the task was last restarted.
    pub last_restart: Option<SystemTime>,
    /// The last heartbeat, run start or run end.
    pub last_seen: Option<SystemTime>,
    /// The interval, for a loop.
    pub interval: Option<Duration>,
    /// The time at which the next iteration is due, for a loop.
    pub next_run: Option<SystemTime>,
    /// The time at which a task that has failed is tried again; `None` if the task has not failed, or was given up for good.
    pub next_retry: Option<SystemTime>,
    /// The last error.
    pub last_error: Option<LastError>,
    /// Errors in the last hour, since the task last recovered.
    pub errors_last_hour: u64,
    /// Restarts in the last hour that nobody asked for, since the last restart by hand that forgave the earlier ones.
    pub restarts_last_hour: u64,
}

#[cfg(feature = "serde")]
fn by_exit<S: serde::Serializer>(runs: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(ExitKind::ALL.iter().zip(runs))
}

#[cfg(feature = "serde")]
fn by_reason<S: serde::Serializer>(restarts: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(RestartReason::ALL.iter().zip(restarts))
}

#[cfg(feature = "serde")]
fn by_skip<S: serde::Serializer>(skipped: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(SkipReason::ALL.iter().zip(skipped))
}

#[cfg(feature = "serde")]
fn by_state<S: serde::Serializer>(
    members: &Option<[u64; TaskState::ALL.len()]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match members {
        Some(members) => serializer.collect_map(TaskState::ALL.iter().zip(members)),
        None => serializer.serialize_none(),
    }
}

/// The figures of one task name for health and the totals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vitals {
    pub(crate) state: Option<TaskState>,
    pub(crate) state_since: Option<SystemTime>,
    pub(crate) active: u64,
    /// Ended runs.
    pub(crate) runs: u64,
    pub(crate) errors: u64,
    pub(crate) restarts: u64,
    pub(crate) failures_in_a_row: u64,
    pub(crate) uptime: Option<Duration>,
    pub(crate) since_restart: Option<Duration>,
    pub(crate) last_seen: Option<SystemTime>,
    pub(crate) errors_last_hour: u64,
    pub(crate) restarts_last_hour: u64,
}

impl Vitals {
    /// Takes away what was added as the totals of another.
    pub(crate) fn subtract(&mut self, other: &Self) {
        self.runs = self.runs.saturating_sub(other.runs);
        self.errors = self.errors.saturating_sub(other.errors);
        self.restarts = self.restarts.saturating_sub(other.restarts);
    }

    /// Adds those of another cell of the same name.
    pub(crate) fn absorb(&mut self, other: &Self) {
        if self.state.is_none() {
            (self.state, self.state_since) = (other.state, other.state_since);
        }
        self.active += other.active;
        self.runs += other.runs;
        self.errors += other.errors;
        self.restarts += other.restarts;
        self.failures_in_a_row = self.failures_in_a_row.max(other.failures_in_a_row);
        self.uptime = self.uptime.max(other.uptime);
        self.since_restart = [self.since_restart, other.since_restart].into_iter().flatten().min();
        self.last_seen = self.last_seen.max(other.last_seen);
        self.errors_last_hour += other.errors_last_hour;
        self.restarts_last_hour += other.restarts_last_hour;
    }
}

impl TaskSnapshot {
    /// The most error types a name may show beside `panic`, `timeout` and `_OTHER`.
    pub const MAX_ERROR_TYPES: usize = 8;

    /// Of a name of which nothing is known.
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            name: identity.name.clone(),
            category: identity.category,
            priority: identity.priority,
            component: identity.component.clone(),
            family: None,
            state: None,
            members: None,
            retired: false,
            possible: Possible::default(),
            active: 0,
            runs: [0; ExitKind::ALL.len()],
            errors: Vec::new(),
            restarts: [0; RestartReason::ALL.len()],
            run_time: Duration::ZERO,
            longest_run: Duration::ZERO,
            shortest_run: Duration::ZERO,
            few: Vec::new(),
            minutes: None,
            depends_on: Vec::new(),
            waits_for: Vec::new(),
            gate: None,
            durations: Vec::new(),
            longest_poll: Duration::ZERO,
            slow_polls: 0,
            stalls: 0,
            stale_signals: 0,
            skipped: [0; SkipReason::ALL.len()],
            retries: 0,
            pending_reservations: None,
            uptime: None,
            since_restart: None,
            first_start: None,
            last_success: None,
            last_error_time: None,
            last_restart: None,
            last_seen: None,
            interval: None,
            next_run: None,
            next_retry: None,
            last_error: None,
            errors_last_hour: 0,
            restarts_last_hour: 0,
        }
    }

    /// Returns the number of runs that ended in this way.
    pub fn runs(&self, kind: ExitKind) -> u64 {
        self.runs[kind as usize]
    }

    /// Returns the number of restarts for this reason.
    pub fn restarts(&self, reason: RestartReason) -> u64 {
        self.restarts[reason as usize]
    }

    /// Returns each reason for which a task of the name can be restarted, or was, with the number of restarts.
    ///
    /// They are the series of the exported counter `task.restarts`.
    ///
    /// A reason that a task had once stays, also after the task was replaced or unregistered.
    pub fn restarts_by_reason(&self) -> impl Iterator<Item = (RestartReason, u64)> + '_ {
        let all = RestartReason::ALL.iter().map(|&reason| (reason, self.restarts(reason)));
        all.filter(|(reason, count)| *count > 0 || self.possible.has_restart(*reason))
    }

    /// Returns each state that a task of the name can be in, with the number of tasks in it.
    pub(crate) fn tasks_by_state(&self) -> impl Iterator<Item = (TaskState, u64)> + '_ {
        let tasks = |state| self.members(state) + u64::from(self.state == Some(state));
        let all = TaskState::ALL.iter().map(move |&state| (state, tasks(state)));
        all.filter(|(state, count)| *count > 0 || self.possible.has(state.possible()))
    }

    /// Returns each reason for which iterations were left out, with their number. A name without a loop has none.
    pub(crate) fn skipped_by_reason(&self) -> impl Iterator<Item = (SkipReason, u64)> + '_ {
        let all = SkipReason::ALL.iter().map(|&reason| (reason, self.skipped(reason)));
        all.filter(|(_, count)| *count > 0 || self.possible.has(Possible::ITERATIONS))
    }

    /// Returns the number of retries of iterations; `None` for a name without a loop.
    pub(crate) fn counted_retries(&self) -> Option<u64> {
        (self.retries > 0 || self.possible.has(Possible::ITERATIONS)).then_some(self.retries)
    }

    /// Returns the number of stalls; `None` for a name whose tasks have no time limit to stall at.
    pub(crate) fn counted_stalls(&self) -> Option<u64> {
        (self.stalls > 0 || self.possible.has(Possible::STALLS)).then_some(self.stalls)
    }

    /// Returns the number of iterations that did not take place for this reason.
    pub fn skipped(&self, reason: SkipReason) -> u64 {
        self.skipped[reason as usize]
    }

    /// Returns the number of members in this state, for a family; 0 for any other name.
    pub fn members(&self, state: TaskState) -> u64 {
        self.members.map_or(0, |members| members[state as usize])
    }

    /// The members of a family; `None` for any other name.
    pub fn total_members(&self) -> Option<u64> {
        self.members.map(|members| members.iter().sum())
    }

    /// Returns true if a task of the name is registered, or a member of the family that has the name.
    pub(crate) fn is_registered(&self) -> bool {
        self.state.is_some() || self.members.is_some() && !self.retired
    }

    /// Adds a member to the figures of its family: its state, and its times if they are more urgent.
    pub(crate) fn include(&mut self, member: &Self) {
        let members = self.members.get_or_insert_default();
        let Some(state) = member.state else { return };
        if state == TaskState::Running {
            // The member that has been silent for longest.
            let so_far = self.last_seen.filter(|_| members[state as usize] > 0);
            self.last_seen = [so_far, member.last_seen].into_iter().flatten().min();
        }
        members[state as usize] += 1;
        let earliest = |mine: Option<SystemTime>, theirs| [mine, theirs].into_iter().flatten().min();
        self.next_run = earliest(self.next_run, member.next_run);
        self.next_retry = earliest(self.next_retry, member.next_retry);
        self.interval = self.interval.max(member.interval);
    }

    /// Ended runs, however they ended.
    pub fn total_runs(&self) -> u64 {
        self.runs.iter().sum()
    }

    /// Errors of every class.
    pub fn total_errors(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }

    /// Returns the number of iterations that did not take place.
    pub fn total_skipped(&self) -> u64 {
        self.skipped.iter().sum()
    }

    /// Restarts for every reason.
    pub fn total_restarts(&self) -> u64 {
        self.restarts.iter().sum()
    }

    /// The mean duration of the ended runs; zero where there were none.
    pub fn average_run(&self) -> Duration {
        let runs = self.total_runs();
        if runs == 0 { Duration::ZERO } else { self.run_time.div_f64(runs as f64) }
    }

    /// Returns the duration below which the fraction `q` (0 to 1) of the ended runs lies.
    ///
    /// Up to 20 runs it is the duration of one of them. Of more it is estimated from the buckets, and never outside of the shortest and the
    /// longest run.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.few.len() as u64 == self.total_runs() {
            return exact_quantile(&self.few, q);
        }
        let estimated = quantile(&self.durations, self.longest_run, q)?;
        Some(estimated.max(self.shortest_run).min(self.longest_run))
    }

    /// Adds what another cell of the same name counted: counters add up, extremes and latest times win.
    pub(crate) fn absorb(&mut self, other: Self) {
        fn add<const N: usize>(mine: &mut [u64; N], theirs: [u64; N]) {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        }
        match (self.total_runs(), other.total_runs()) {
            (_, 0) => {}
            (0, _) => (self.few, self.shortest_run) = (other.few, other.shortest_run),
            (mine, theirs) => {
                self.shortest_run = self.shortest_run.min(other.shortest_run);
                if mine + theirs > FEW_RUNS as u64 { self.few.clear() } else { self.few.extend(other.few) }
            }
        }
        match (&mut self.minutes, other.minutes) {
            (Some(mine), Some(theirs)) => mine.absorb(&theirs),
            (mine @ None, theirs) => *mine = theirs,
            _ => {}
        }
        add(&mut self.runs, other.runs);
        add(&mut self.restarts, other.restarts);
        add(&mut self.skipped, other.skipped);
        self.durations.iter_mut().zip(other.durations).for_each(|(mine, theirs)| *mine += theirs);
        for error in other.errors {
            match self.errors.iter_mut().find(|mine| mine.error_type == error.error_type) {
                Some(mine) => mine.count += error.count,
                None => self.errors.push(error),
            }
        }
        self.active += other.active;
        self.retries += other.retries;
        self.pending_reservations = match (self.pending_reservations, other.pending_reservations) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
        self.run_time += other.run_time;
        self.longest_run = self.longest_run.max(other.longest_run);
        self.longest_poll = self.longest_poll.max(other.longest_poll);
        self.slow_polls += other.slow_polls;
        self.stalls += other.stalls;
        self.stale_signals += other.stale_signals;
        self.errors_last_hour += other.errors_last_hour;
        self.restarts_last_hour += other.restarts_last_hour;
        if self.last_error_time < other.last_error_time {
            self.last_error = other.last_error;
        }
        self.uptime = self.uptime.max(other.uptime);
        self.since_restart = [self.since_restart, other.since_restart].into_iter().flatten().min();
        self.first_start = [self.first_start, other.first_start].into_iter().flatten().min();
        self.last_success = self.last_success.max(other.last_success);
        self.last_error_time = self.last_error_time.max(other.last_error_time);
        self.last_restart = self.last_restart.max(other.last_restart);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.state = self.state.or(other.state);
        if let Some(members) = other.members {
            add(self.members.get_or_insert_default(), members);
        }
        self.retired &= other.retired;
        self.possible = self.possible | other.possible;
        self.interval = self.interval.or(other.interval);
        self.next_run = self.next_run.or(other.next_run);
        self.next_retry = self.next_retry.or(other.next_retry);
    }
}

#[cfg(test)]
mod tests;
