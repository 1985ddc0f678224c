//! Telemetry in one call: settings from variables, pipelines with bounded queues, and a balance of what was delivered.

mod batch;
mod builder;
mod check;
mod closing;
mod env;
mod error;
mod handle;
mod hurry;
mod ledger;
mod processors;
mod propagation;
mod report;
mod settings;
mod status;
mod terminal;
mod transport;
mod views;

pub use builder::{TelemetryBuilder, TelemetryPart};
pub use check::CollectorUnreachable;
pub use error::InstallError;
pub use handle::Telemetry;
pub use ledger::{Balance, BalanceSnapshot, Signal, SignalBalance};
pub use report::{SignalOutcome, SignalReport, TelemetryReport};
pub use settings::{Protocol, Warning, WarningKind};
