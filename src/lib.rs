//! An OpenTelemetry-native task manager for tokio.
pub mod telemetry;
