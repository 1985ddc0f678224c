//! The settings of few services: traces that are kept for their end, and the instruments of the SDK.
//!
//! Apart from the builder, which uses the parts that do it.

use std::time::Duration;

use super::{builder::TelemetryBuilder, tail};

impl TelemetryBuilder {
    /// The largest number of held spans of one trace, for [`keep_failed_traces`](Self::keep_failed_traces) and
    /// [`keep_slow_traces`](Self::keep_slow_traces): 1,000. The spans that ended last are held.
    pub const HELD_SPANS_OF_TRACE: usize = tail::HELD_SPANS_OF_TRACE;

    /// The largest number of held spans of all traces: 32,768.
    pub const HELD_SPANS: usize = tail::HELD_SPANS;

    /// The largest estimated memory of held spans, in bytes: 32 MiB.
    pub const HELD_BYTES: usize = tail::HELD_BYTES;

    /// The longest time that a span is held: 5 minutes.
    pub const HELD_AGE: Duration = tail::HELD_AGE;

    /// Exports the whole trace of each run that fails, also if the sampler leaves it out. Off by default.
    ///
    /// A run fails if it returns an error, panics or passes its time limit; a cancelled run does not fail. A trace is also kept
    /// if its outermost span in this process ends with the status `Error`.
    ///
    /// Spans that the sampler leaves out are recorded and held until their trace is kept. If no span of a trace is open in this process
    /// any more, its held spans are dropped.
    ///
    /// The bounds are [`HELD_SPANS_OF_TRACE`](Self::HELD_SPANS_OF_TRACE),
    /// [`HELD_SPANS`](Self::HELD_SPANS), [`HELD_BYTES`](Self::HELD_BYTES) and [`HELD_AGE`](Self::HELD_AGE). The oldest spans are dropped
    /// first. If a kept trace lost spans to the bounds, they are `buffer_full` in the [`Balance`](crate::telemetry::Balance).
    ///
    /// - Spans that outlive the run are part of its trace, also spans that begin after it. After each reason to keep a trace, as
    ///   many further spans are exported as one trace may hold. Beyond that they are held again, for the next reason.
    /// - If the trace comes from another process which sampled it, it is exported as without this setting. If it was not sampled
    ///   there, it is kept whole in this process. Other services have seen "not sampled" in the headers, and kept nothing.
    /// - Each span costs what a sampled span costs, except for its export.
    ///
    /// ```no_run
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// // With OTEL_TRACES_SAMPLER=parentbased_traceidratio and OTEL_TRACES_SAMPLER_ARG=0.01: one trace in a hundred, and
    /// // each in which a run fails or takes two seconds.
    /// let telemetry = otel_tasks::Telemetry::builder()
    ///     .keep_failed_traces()
    ///     .keep_slow_traces(std::time::Duration::from_secs(2))
    ///     .install()?;
    /// # drop(telemetry);
    /// # Ok(()) }
    /// ```
    pub fn keep_failed_traces(mut self) -> Self {
        self.keep.get_or_insert_default().failed = true;
        self
    }

    /// Exports the whole trace of each run that takes `threshold` or longer, also if the sampler leaves it out. Off by default.
    ///
    /// A trace is also kept if its outermost span in this process takes that long. A run of a registered closure is as long as the
    /// task lives, so it is never slow; iterations of loops may be. All else is as with
    /// [`keep_failed_traces`](Self::keep_failed_traces), which this does not include.
    pub fn keep_slow_traces(mut self, threshold: Duration) -> Self {
        self.keep.get_or_insert_default().slow = Some(threshold);
        self
    }

    /// Adds the instruments `otel.sdk.processor.*` and `otel.sdk.exporter.*` for spans and log records, for dashboards that know
    /// them from other SDKs. Off by default.
    ///
    /// They show the figures of the [`Balance`](crate::telemetry::Balance), as `task.telemetry.dropped` does. The names and attributes are those of
    /// OpenTelemetry's semantic conventions 1.42, which may still change them. The batch that is being exported counts as queued.
    pub fn sdk_metrics(mut self) -> Self {
        self.sdk_metrics = true;
        self
    }
}
