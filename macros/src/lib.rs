//! The attribute macro of `otel-tasks`.
