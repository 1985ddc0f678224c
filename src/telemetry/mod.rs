//! What leaves the process, and how.
pub mod contract;

#[cfg(feature = "otlp")]
mod balance;
#[cfg(feature = "otlp")]
mod batch;
#[cfg(feature = "otlp")]
mod env;
#[cfg(feature = "otlp")]
mod guard;
#[cfg(feature = "otlp")]
mod install;
#[cfg(feature = "otlp")]
mod transport;

#[cfg(feature = "otlp")]
pub use {
    balance::{Balance, BalanceSnapshot, Signal, SignalBalance},
    env::{DEFAULT_QUEUE, Protocol, Warning, WarningKind},
    guard::{CollectorUnreachable, DROP_TIMEOUT, Outcome, SignalReport, Telemetry, TelemetryReport},
    install::{DEFAULT_MAX_NAMES, DEFAULT_SHUTDOWN_TIMEOUT, InstallError, TelemetryBuilder, builder},
};
