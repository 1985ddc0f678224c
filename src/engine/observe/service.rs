//! Reports to the service manager of the system, which is systemd: readiness, the shutdown, a status, and pings while the manager
//! is live.
//!
//! All of it is sent by the watchdog's thread, at its ticks, and the beginning of a shutdown also by its caller. Nobody waits: a
//! datagram that finds the queue full is sent at the next tick.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant as StdInstant},
};

use crate::{
    read::ManagerHealth,
    systemd::{Notifier, one_line},
};

/// The interval of the checks before the service is ready.
const CHECK_UNTIL_READY: Duration = Duration::from_millis(100);
/// The interval of the checks for the status.
const CHECK_STATUS: Duration = Duration::from_secs(1);
/// The part of the watchdog's thread that the checks may take, as a divisor: health of many tasks takes long.
const CHECK_SHARE: u32 = 20;
/// The pings in one interval of the service manager's watchdog: two may be late.
const PINGS: u32 = 3;
/// The interval at which an extension of the timeout is sent again.
const EXTEND_EVERY: Duration = Duration::from_secs(1);
/// The time that the service manager is asked for beyond the deadline: the report, and what the program does after it.
const EXTEND_BEYOND: Duration = Duration::from_secs(2);
/// The time after which a failed datagram is sent again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The reports of one manager.
pub(crate) struct Service {
    notifier: Notifier,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: Report,
    stopping: Report,
    /// True if a ping is to be sent.
    ping: bool,
    /// The status that was sent last.
    status: String,
    /// The status to be sent.
    new_status: Option<String>,
    /// The time at which the shutdown or its drain began.
    stopping_since: Option<StdInstant>,
    extended_at: Option<StdInstant>,
    /// True if the shutdown is over.
    over: bool,
    checked_at: Option<StdInstant>,
    /// The least time until the next check for anything but a ping.
    rest: Duration,
    pinged_at: Option<StdInstant>,
    failed_at: Option<StdInstant>,
    warned: bool,
}

/// A report that is sent once.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Report {
    #[default]
    NotDue,
    Due,
    Sent,
}

impl Report {
    fn due(&mut self) {
        if *self == Self::NotDue {
            *self = Self::Due;
        }
    }

    fn sent(&mut self) {
        if *self == Self::Due {
            *self = Self::Sent;
        }
    }
}

fn has_passed(since: Option<StdInstant>, time: Duration, now: StdInstant) -> bool {
    since.is_none_or(|since| now.saturating_duration_since(since) >= time)
}

impl State {
    fn set_status(&mut self, status: &str) {
        let status = one_line(status);
        self.new_status = (status != self.status).then_some(status);
    }

    /// The time that the shutdown may still take, and a little more.
    fn extension(&self, deadline: Duration, now: StdInstant) -> Option<Duration> {
        let gone_on = now.saturating_duration_since(self.stopping_since.filter(|_| !self.over)?);
        let end = deadline.saturating_add(EXTEND_BEYOND);
        let is_due = has_passed(self.extended_at, EXTEND_EVERY, now);
        end.checked_sub(gone_on).filter(|left| is_due && !left.is_zero())
    }
}

impl Service {
    pub(crate) fn new(notifier: Notifier) -> Self {
        Self { notifier, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ping_every(&self) -> Option<Duration> {
        self.notifier.watchdog().map(|interval| interval / PINGS)
    }

    /// Returns true if health is to be checked: for a ping, or for the status.
    pub(super) fn check_is_due(&self, now: StdInstant) -> bool {
        let state = self.state();
        let every = if state.ready == Report::NotDue { CHECK_UNTIL_READY } else { CHECK_STATUS };
        has_passed(state.checked_at, every.max(state.rest), now) || self.ping_is_due(&state, now)
    }

    /// The drain or the shutdown has begun. Returns whether that is news.
    pub(super) fn begin_stopping(&self, now: StdInstant) -> bool {
        let mut state = self.state();
        let is_news = state.stopping_since.is_none();
        if is_news {
            state.stopping_since = Some(now);
            state.stopping.due();
        }
        is_news
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state().stopping_since.is_some()
    }

    /// The shutdown has come so far: `alive` are left, or it is over and took that long.
    pub(super) fn progress(&self, alive: usize, over: Option<Duration>) {
        let mut state = self.state();
        match over {
            Some(took) => {
                state.over = true;
                state.set_status(&format!("shut down in {took:.1?}"));
            }
            None => state.set_status(&format!("shutting down: {alive} tasks and runs left")),
        }
    }

    fn ping_is_due(&self, state: &State, now: StdInstant) -> bool {
        self.ping_every().is_some_and(|every| has_passed(state.pinged_at, every, now))
    }

    pub(super) fn checked(&self, health: &ManagerHealth, is_started: bool, now: StdInstant, took: Duration) {
        let mut state = self.state();
        (state.checked_at, state.rest) = (Some(now), took.saturating_mul(CHECK_SHARE));
        // A ping that has not been sent is not sent any more if the manager is no longer live.
        state.ping &= health.is_live;
        if self.ping_is_due(&state, now) {
            (state.ping, state.pinged_at) = (health.is_live, Some(now));
        }
        if is_started && health.is_ready && health.has_started {
            state.ready.due();
        }
        if state.stopping_since.is_none() {
            state.set_status(&status(health));
        }
    }

    /// Sends what is to be sent. Returns the first failure.
    pub(super) fn send(&self, deadline: Duration, now: StdInstant) -> Option<io::Error> {
        let mut state = self.state();
        if !has_passed(state.failed_at, AFTER_FAILURE, now) {
            return None;
        }
        let mut lines = Vec::new();
        if state.ready == Report::Due {
            lines.push("READY=1".to_owned());
        }
        if state.stopping == Report::Due {
            lines.push("STOPPING=1".to_owned());
        }
        let extension = state.extension(deadline, now);
        if let Some(extension) = extension {
            let micros = u64::try_from(extension.as_micros()).unwrap_or(u64::MAX);
            lines.push(format!("EXTEND_TIMEOUT_USEC={micros}"));
        }
        if let Some(status) = &state.new_status {
            lines.push(format!("STATUS={status}"));
        }
        if state.ping {
            lines.push("WATCHDOG=1".to_owned());
        }
        if lines.is_empty() {
            return None;
        }
        match self.notifier.send(&lines.join("\n")) {
            Ok(()) => {
                state.ready.sent();
                state.stopping.sent();
                if extension.is_some() {
                    state.extended_at = Some(now);
                }
                if let Some(status) = state.new_status.take() {
                    state.status = status;
                }
                (state.ping, state.failed_at) = (false, None);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                state.failed_at = Some(now);
                (!std::mem::replace(&mut state.warned, true)).then_some(error)
            }
        }
    }
}

fn status(health: &ManagerHealth) -> String {
    let unhealthy: Vec<_> =
        health.tasks.iter().filter(|(_, task)| !task.is_healthy()).map(|(name, _)| &**name).collect();
    let healthy = health.tasks.len() - unhealthy.len();
    let mut status = format!("{healthy} of {} tasks healthy", health.tasks.len());
    if health.runtime_stalled {
        status.push_str("; the runtime has stalled");
    }
    if !unhealthy.is_empty() {
        // More would be cut off.
        const NAMES: usize = 20;
        let names = unhealthy[..unhealthy.len().min(NAMES)].join(", ");
        status.push_str(&format!("; {} unhealthy: {names}", unhealthy.len()));
    }
    status
}
