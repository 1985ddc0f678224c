//! Telemetry in one call: settings from variables, pipelines with bounded queues, and a balance of what was delivered.

mod batch;
mod builder;
mod check;
mod closing;
mod console;
mod delivery;
mod env;
mod error;
mod extras;
mod filter;
mod handle;
mod hurry;
mod ledger;
mod parcel;
mod processors;
mod propagation;
mod report;
mod runtime;
mod sdk_metrics;
mod settings;
mod sinks;
mod status;
mod tail;
mod terminal;
mod transport;
mod views;
mod weight;

pub use builder::{TelemetryBuilder, TelemetryPart};
pub use check::CollectorUnreachable;
pub use error::InstallError;
pub use handle::Telemetry;
pub use ledger::{Balance, BalanceSnapshot, Signal, SignalBalance};
pub use report::{SignalOutcome, SignalReport, TelemetryReport};
pub use settings::{Protocol, Warning, WarningKind};
