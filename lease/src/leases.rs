//! The leases of one store, and one of them as the gate of a task.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{global, metrics::Meter};
use otel_tasks::{
    gate::{BootClock, BoxFuture, Claim, Gate, Grant, Pass},
    policy::ExitKind,
    telemetry::contract::SCOPE,
};
use tokio::time::sleep;

use crate::{
    holds::{Claiming, Holds},
    store::{Ask, LeaseStore},
};

/// The longest ttl of a lease: a year, so that no instant overflows.
const LONGEST_TTL: Duration = Duration::from_secs(365 * 86_400);
/// The part of the ttl that is the shortest grace. A part of the grace is for the destructors of the task.
const SHORTEST_GRACE_PART: u32 = 10;

/// The leases of one store: their renewals go to it together, on its one connection. Clones are the same leases.
///
/// ```no_run
/// use otel_tasks::{CriticalTaskConfig, TaskManager};
/// use otel_tasks_lease::{LeaseStore, Leases};
/// # fn example(store: impl LeaseStore) -> Result<(), otel_tasks::task::RegisterError> {
/// let leases = Leases::new(store);
/// let tasks = TaskManager::new();
/// tasks.register(
///     CriticalTaskConfig::new("outbox", |ctx| async move { ctx.cancelled().await }).gate(leases.lease("outbox")),
/// )?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Leases {
    holds: Arc<Holds>,
    holder: Arc<str>,
    meter: Option<Meter>,
}

impl Leases {
    /// Creates the leases of a store. No request is sent before a task needs a lease.
    pub fn new(store: impl LeaseStore) -> Self {
        Self::on(store, BootClock::system())
    }

    /// Creates the leases of a store, with the clock that their time is counted on; for tests in virtual time.
    pub fn on(store: impl LeaseStore, clock: BootClock) -> Self {
        Self { holds: Arc::new(Holds::new(store, clock)), holder: own_identity().into(), meter: None }
    }

    /// Sets the name that the store knows this process by. Default: the host's name, the process id and a random number.
    ///
    /// Two processes may have the same one: each hold gets a number of its own, and a random one, after a slash.
    pub fn holder(mut self, identity: impl Into<Arc<str>>) -> Self {
        self.holder = identity.into();
        self
    }

    /// Sets the meter of the instruments `task.lease.*`. Default: the global one when the first lease is made.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Returns the lease of this name, to be the gate of one task.
    ///
    /// Tasks with leases of the same name exclude each other, in one process too.
    pub fn lease(&self, name: impl Into<Arc<str>>) -> Lease {
        let meter = self.meter.clone().unwrap_or_else(|| global::meter(SCOPE));
        self.holds.figures.expose(&meter);
        Lease {
            used: Arc::new(Used::new(self.holds.clone(), name.into())),
            holder: self.holder.clone(),
            ttl: Lease::DEFAULT_TTL,
            grace: None,
            after_run: false,
        }
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// The use of a lease. Its figures are gone with the last.
struct Used {
    holds: Arc<Holds>,
    name: Arc<str>,
}

impl Used {
    fn new(holds: Arc<Holds>, name: Arc<str>) -> Self {
        holds.figures.used(&name);
        Self { holds, name }
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        if self.holds.figures.unused(&self.name) {
            self.holds.unused(&self.name);
        }
    }
}

/// One lease: the gate of a task that runs on one of several processes.
#[derive(Clone)]
pub struct Lease {
    used: Arc<Used>,
    holder: Arc<str>,
    ttl: Duration,
    grace: Option<Duration>,
    after_run: bool,
}

impl Lease {
    /// The default time that a lease lasts unless it is renewed.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(15);
    /// The shortest time that a lease may last.
    pub const SHORTEST_TTL: Duration = Duration::from_millis(300);

    /// Sets how long the lease lasts unless it is renewed. Default 15 s, at least 300 ms and at most a year: another one is changed to
    /// that.
    ///
    /// It is renewed each third of this time, and a request may take a sixth of the shortest ttl that its [`Leases`] ask for. After a crash another process takes over when it has passed.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.clamp(Self::SHORTEST_TTL, LONGEST_TTL);
        self
    }

    /// Sets how long before the end of the lease the task is asked to stop. Default a third of the ttl, at least a tenth and
    /// at most half of it.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Claims a due time of a loop when its iteration has succeeded, and not before it.
    ///
    /// Each due time is then run at least once in the fleet. The next holder runs it again if it failed, or if the process crashed in it.
    /// Otherwise each is run at most once.
    pub fn after_run(mut self) -> Self {
        self.after_run = true;
        self
    }

    fn grace_of_ttl(&self) -> Duration {
        self.grace.unwrap_or(self.ttl / 3).clamp(self.ttl / SHORTEST_GRACE_PART, self.ttl / 2)
    }

    /// One identity per hold, which distinguishes requests of an earlier hold.
    fn ask(&self) -> Ask {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Relaxed);
        let holder = format!("{}/{number}-{:08x}", self.holder, random());
        Ask { lease: self.used.name.clone(), holder: holder.into(), ttl: self.ttl }
    }
}

impl Gate for Lease {
    fn name(&self) -> &str {
        &self.used.name
    }

    fn enter(&self) -> BoxFuture<'_, Grant> {
        Box::pin(async {
            loop {
                if let Some(grant) = self.used.holds.enter(self.ask(), self.grace_of_ttl()).await {
                    return grant;
                }
                // The candidate was dropped, with its runtime.
                sleep(self.ttl / 3).await;
            }
        })
    }

    fn begin(&self, pass: &Pass, due: SystemTime) -> BoxFuture<'_, Claim> {
        let term = pass.term();
        Box::pin(async move {
            match self.used.holds.begin_claim(&self.used.name, term, due) {
                Claiming::Known(claim) => claim,
                Claiming::Ask(_) if self.after_run => Claim::Won,
                Claiming::Ask(held) => self.used.holds.claim(&held, due).await,
            }
        })
    }

    fn began(&self, pass: &Pass, at: SystemTime) -> BoxFuture<'_, ()> {
        let term = pass.term();
        Box::pin(self.used.holds.record(&self.used.name, term, at))
    }

    fn end(&self, pass: &Pass, due: SystemTime, result: ExitKind) -> BoxFuture<'_, ()> {
        let term = pass.term();
        Box::pin(async move {
            if !self.after_run || result != ExitKind::Success {
                return;
            }
            if let Claiming::Ask(held) = self.used.holds.begin_claim(&self.used.name, term, due) {
                self.used.holds.claim(&held, due).await;
            }
        })
    }

    fn holder(&self) -> Option<Arc<str>> {
        self.used.holds.holder(&self.used.name)
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.used.holds.settled(&self.used.name))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.used.name)
            .field("holder", &self.holder)
            .field("ttl", &self.ttl)
            .field("grace", &self.grace_of_ttl())
            .field("after_run", &self.after_run)
            .finish_non_exhaustive()
    }
}

fn random() -> u32 {
    (RandomState::new().build_hasher().finish() >> 32) as u32
}

/// The host, the process, and a random number: containers have the same process ids.
fn own_identity() -> String {
    format!("{}:{}:{:08x}", host(), std::process::id(), random())
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "host".to_owned())
}
