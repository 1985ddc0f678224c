//! Telemetry in one call: settings from variables, pipelines with bounded queues, and a balance of what was delivered.

mod batch;
mod builder;
mod closing;
mod env;
mod error;
mod extras;
mod handle;
mod ledger;
mod processors;
mod propagation;
mod report;
mod sdk_metrics;
mod settings;
mod tail;
mod transport;
mod views;

pub use builder::{TelemetryBuilder, TelemetryPart};
pub use error::InstallError;
pub use handle::{CollectorUnreachable, Telemetry};
pub use ledger::{Balance, BalanceSnapshot, Signal, SignalBalance};
pub use report::{SignalOutcome, SignalReport, TelemetryReport};
pub use settings::{Protocol, Warning, WarningKind};
