//! Once in the fleet: a critical task or a loop of [otel-tasks](otel_tasks) that runs on one of several processes.
//!
//! A [`Lease`] is the [gate](otel_tasks::gate) of a task. The process that holds the lease runs the task; the others are in standby, ready. The
//! manager refuses to poll the task shortly before the lease ends. A process that was stopped or cut off does not run beside the next one.
//!
//! ```no_run
//! use otel_tasks::{CriticalTaskConfig, TaskContext, TaskManager, shutdown_signal};
//! use otel_tasks_lease::{Leases, LeaseStore};
//! # async fn publish(ctx: TaskContext) {}
//! # async fn example(store: impl LeaseStore) -> Result<(), otel_tasks::task::RegisterError> {
//! let leases = Leases::new(store);
//! let tasks = TaskManager::new();
//! tasks.register(CriticalTaskConfig::new("outbox", publish).gate(leases.lease("outbox")))?;
//! tasks.run_until(shutdown_signal()).await;
//! # Ok(()) }
//! ```
//!
//! - **At most one process polls the task.** A lease counts from before its request was sent, on a clock that counts suspension. The task is asked
//!   to stop a third of the ttl before the end, dropped before it, and polled no more.
//! - **A request on the wire is the receiver's business.** Send the [term](otel_tasks::gate::Pass::term) along, and refuse a lower one.
//! - **Without the store no process runs the task.** Holders stop by the end of their leases, and no candidate takes over. Each process stays
//!   live and ready.
//! - **A stop, a pause or a shutdown frees the lease at once**, when the task's future is gone.
//! - **Each due time of a loop is run once.** It is claimed before its iteration: at most once; with [`after_run`](Lease::after_run) at least once.
//!
//! Stores: `Postgres` (feature `postgres`), `Kubernetes` (feature `kubernetes`), or your own [`LeaseStore`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(any(feature = "kubernetes", feature = "postgres"))]
mod connection;
mod figures;
#[cfg(any(feature = "kubernetes", feature = "postgres"))]
mod freed;
mod holds;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod leases;
#[cfg(feature = "testing")]
mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
mod store;

#[cfg(feature = "kubernetes")]
pub use kubernetes::Kubernetes;
pub use leases::{Lease, Leases};
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use store::{Answer, Ask, Held, LeaseStore, Renewed, StoreError};

/// A store in memory, for tests.
#[cfg(feature = "testing")]
pub mod testing {
    pub use crate::memory::Memory;
}
