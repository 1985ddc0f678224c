//! Every name that leaves the process: spans, log records, instruments and their attributes.
//!
//! No other file spells one. A change here is a change of the public contract: dashboards, alerts and
//! `docs/instruments.md` are generated from it or checked against it.

pub use crate::policy::{ERROR_TYPE_PANIC, ERROR_TYPE_STATE_HELD, ERROR_TYPE_TIMEOUT};

/// The instrumentation scope of everything this crate emits, and the `tracing` target of its spans and events.
pub const SCOPE: &str = "otel_tasks";

/// The name of the span around each run.
pub const SPAN_RUN: &str = "task.run";

/// Keys of attributes on spans, log records and metrics.
pub mod key {
    /// The task's name, bounded: the name the metrics are kept under.
    pub const NAME: &str = "task.name";
    /// The category of the task: `scheduled`, `gateway`, `system`, `command` or `unknown`.
    pub const CATEGORY: &str = "task.category";
    /// The priority of the task: `critical`, `high`, `normal` or `low`.
    pub const PRIORITY: &str = "task.priority";
    /// The part of the program that owns the task.
    pub const COMPONENT: &str = "task.component";
    /// The manager's instance name, where it was given one.
    pub const MANAGER: &str = "task.manager";
    /// The result of a run: `success`, `failure`, `panic`, `timeout` or `cancellation`.
    pub const RESULT: &str = "task.run.result";
    /// The run's generation: 1 for the first run of a supervised task, counted up by each later one.
    pub const GENERATION: &str = "task.run.generation";
    /// The unchanged name, if the bounded name differs from it; a member's `family:key`. Spans, and log records of members.
    pub const GIVEN_NAME: &str = "task.given_name";
    /// True if the destructor of a run's future panicked. Spans only.
    pub const DROP_PANICKED: &str = "task.run.drop_panicked";
    /// The iteration of a loop, counted from 1. Spans only.
    pub const ITERATION: &str = "task.iteration";
    /// The delay of an iteration of a loop after its due time, in seconds. Spans only.
    pub const SCHEDULE_DELAY: &str = "task.schedule.delay";
    /// The reason why a task was restarted.
    pub const RESTART_REASON: &str = "task.restart.reason";
    /// The decision about a task: `restart`, `give_up`, `finish`, `stop` or `stand_by`. Log records only, as the next eight.
    pub const DECISION: &str = "task.decision";
    /// The cause of a decision: `exit`, `stall`, `request`, `group`, `dependency`, `retry` or `gate`.
    pub const DECISION_CAUSE: &str = "task.decision.cause";
    /// The seconds before the restart, or before the next try.
    pub const DECISION_DELAY: &str = "task.decision.delay";
    /// The restarts within the window that count against the limit.
    pub const DECISION_RESTARTS: &str = "task.decision.restarts";
    /// The limit of restarts; absent without a limit.
    pub const DECISION_LIMIT: &str = "task.decision.limit";
    /// The window of the limit in seconds; absent without a limit.
    pub const DECISION_WINDOW: &str = "task.decision.window";
    /// The restarts in a row without a stable run.
    pub const DECISION_ATTEMPT: &str = "task.decision.attempt";
    /// The delay of the restart before, in seconds.
    pub const DECISION_PREVIOUS_DELAY: &str = "task.decision.previous_delay";
    /// The random number, 0 to 1, that the delay was drawn with.
    pub const DECISION_RANDOM: &str = "task.decision.random";
    /// The term of the lease that a task with a gate holds: it grows with each hand-over. Spans and log records only.
    pub const LEASE_TERM: &str = "task.lease.term";
    /// The name of a lease. On the instruments of [`lease`](super::lease) only.
    pub const LEASE_NAME: &str = "task.lease.name";
    /// The change of a lease: `acquired`, `lost` or `released`. On the instruments of [`lease`](super::lease) only.
    pub const LEASE_TRANSITION: &str = "task.lease.transition";
    /// The request to a store of leases: `acquire`, `renew`, `claim` or `release`. On the instruments of [`lease`](super::lease) only.
    pub const LEASE_OPERATION: &str = "task.lease.operation";
    /// The state of a supervised task.
    pub const STATE: &str = "task.state";
    /// The requested action: `restart`, `pause`, `resume`, `stop` or `run`.
    pub const CONTROL_ACTION: &str = "task.control.action";
    /// The outcome of a request to control a task: `accepted`, or the reason why nothing was done.
    pub const CONTROL_OUTCOME: &str = "task.control.outcome";
    /// The number of refused requests since the last record of one.
    pub const CONTROL_REFUSED: &str = "task.control.refused";
    /// The health of a task: `healthy`, `degraded` or `unhealthy`. Log records only.
    pub const HEALTH_STATUS: &str = "task.health.status";
    /// The outcome of a task at shutdown: `clean`, `late`, `aborted`, `leaked` or `not_running`.
    pub const SHUTDOWN_OUTCOME: &str = "task.shutdown.outcome";
    /// The reason why something was skipped or dropped.
    pub const REASON: &str = "reason";
    /// The telemetry signal: `traces`, `metrics` or `logs`.
    pub const SIGNAL: &str = "signal";
    /// The class of an error (OpenTelemetry semantic conventions).
    pub const ERROR_TYPE: &str = "error.type";
    /// A part of the SDK, unique in its process (OpenTelemetry semantic conventions). On the instruments of [`sdk`](super::sdk) only.
    pub const COMPONENT_NAME: &str = "otel.component.name";
    /// The type of a part of the SDK (OpenTelemetry semantic conventions). On the instruments of [`sdk`](super::sdk) only.
    pub const COMPONENT_TYPE: &str = "otel.component.type";
    /// The text of an error (OpenTelemetry semantic conventions). Log records only.
    pub const EXCEPTION_MESSAGE: &str = "exception.message";
    /// The class of an error (OpenTelemetry semantic conventions). Log records only.
    pub const EXCEPTION_TYPE: &str = "exception.type";
}

/// The `error.type` of what does not fit its bound (OpenTelemetry semantic conventions).
pub const ERROR_TYPE_OTHER: &str = "_OTHER";
/// The name under which tasks are metered once the bound on names is reached.
pub const OVERFLOW_NAME: &str = "_OTHER";

/// Attributes of the manager's own spans.
pub mod attribute {
    use crate::policy::{ShutdownOutcome, TaskCategory};

    /// The number of registered tasks, on `bot.monitor_tasks`.
    pub const MONITOR_TASKS: &str = "tasks.registered";
    /// The number of healthy registered tasks.
    pub const MONITOR_HEALTHY: &str = "tasks.healthy";
    /// The names of the degraded tasks.
    pub const MONITOR_DEGRADED: &str = "tasks.degraded";
    /// The names of the unhealthy tasks.
    pub const MONITOR_UNHEALTHY: &str = "tasks.unhealthy";
    /// The number of loops that were requested to stop, on `bot.stop_task_loops`.
    pub const LOOPS_STOPPED: &str = "tasks.loops";

    /// The names of the tasks of one category, on `bot.monitor_tasks` and `bot.cancel_tasks`.
    pub const fn names_of(category: TaskCategory) -> &'static str {
        match category {
            TaskCategory::Scheduled => "tasks.scheduled",
            TaskCategory::Gateway => "tasks.gateway",
            TaskCategory::System => "tasks.system",
            TaskCategory::Command => "tasks.command",
            TaskCategory::Unknown => "tasks.unknown",
        }
    }

    /// The names of the tasks that ended alike, on `bot.cleanup_tasks`.
    pub const fn shutdown_names(outcome: ShutdownOutcome) -> &'static str {
        match outcome {
            ShutdownOutcome::Clean => "tasks.clean",
            ShutdownOutcome::Late => "tasks.late",
            ShutdownOutcome::Aborted => "tasks.aborted",
            ShutdownOutcome::Leaked => "tasks.leaked",
            ShutdownOutcome::NotRunning => "tasks.not_running",
        }
    }
}

/// Names of log records.
pub mod record {
    /// The last handle of a manager was dropped while tasks were alive: an ordered shutdown begins.
    pub const MANAGER_DROPPED: &str = "task.manager.dropped";
    /// A manager drains before its ordered shutdown: it is not ready any more.
    pub const DRAINING: &str = "task.manager.draining";
    /// A supervised task began its first run, or began again by hand.
    pub const STARTED: &str = "task.started";
    /// A run failed, panicked or passed its time limit.
    pub const EXCEPTION: &str = "task.exception";
    /// It was decided that a supervised task begins again, is given up or stays down: with everything that decided it.
    pub const DECISION: &str = "task.decision";
    /// A supervised task runs again.
    pub const RESTARTED: &str = "task.restarted";
    /// A supervised task failed more often than its restart limit allows, or with a permanent error.
    pub const GAVE_UP: &str = "task.gave_up";
    /// A supervised task that had failed is well again.
    pub const RECOVERED: &str = "task.recovered";
    /// A supervised task ended by itself though it is to run as long as the service does.
    pub const ENDED: &str = "task.ended";
    /// A supervised task finished or was stopped.
    pub const STOPPED: &str = "task.stopped";
    /// A task did not end by itself at shutdown.
    pub const NOT_STOPPED: &str = "task.not_stopped";
    /// A task with a gate was let through: it holds its lease.
    pub const LEASE_ACQUIRED: &str = "task.lease.acquired";
    /// A task with a gate is stopped because its lease ends.
    pub const LEASE_LOST: &str = "task.lease.lost";
    /// A task with a gate has ended, and gives its lease back.
    pub const LEASE_RELEASED: &str = "task.lease.released";
    /// A task with a gate blocks its thread until its lease is about to end.
    pub const LEASE_OVERRUN: &str = "task.lease.overrun";
    /// A request to a store of leases failed, and the request before it did not.
    pub const LEASE_STORE_FAILED: &str = "task.lease.store.failed";
    /// A request to a store of leases succeeded, and the request before it did not.
    pub const LEASE_STORE_BACK: &str = "task.lease.store.back";
    /// A supervised task gave no sign of life in time, or one poll of it took too long.
    pub const STALLED: &str = "task.stalled";
    /// One poll blocks its thread for longer than the slow-poll threshold.
    pub const POLL_SLOW: &str = "task.poll.slow";
    /// The runtime runs nothing: all its threads are blocked.
    pub const RUNTIME_STALLED: &str = "task.runtime.stalled";
    /// The runtime of registered tasks was shut down, and they were dropped with it.
    pub const RUNTIME_GONE: &str = "task.runtime.gone";
    /// A health check says otherwise than the one before.
    pub const HEALTH_CHANGED: &str = "task.health.changed";
    /// A task is stopped later than its category and priority ask, because others depend on it.
    pub const ORDER_INVERTED: &str = "task.order.inverted";
    /// An iteration of a loop failed and is tried again.
    pub const ITERATION_RETRIED: &str = "task.iteration.retried";
    /// A hook of a loop panicked; it is ignored.
    pub const HOOK_PANICKED: &str = "task.hook.panicked";
    /// A function that the manager was given panicked: a random source, a clock, a schedule's exception, a gate, the last resort. Its fallback is used.
    pub const CALLBACK_PANICKED: &str = "task.callback.panicked";
    /// The schedule of a loop leaves out 200,000 times in a row, so that nothing is due for a long while.
    pub const SCHEDULE_EMPTY: &str = "task.schedule.empty";
    /// A step of a monitor sweep, or a component's provider, failed; the other ones continued.
    pub const MONITOR_FAILED: &str = "task.monitor.failed";
    /// The service manager (systemd) cannot be notified, or a variable that it set is not used.
    pub const SYSTEMD_FAILED: &str = "task.systemd.failed";
    /// The installed telemetry was dropped without its shutdown: nothing is exported any more.
    pub const TELEMETRY_ENDED: &str = "task.telemetry.ended";
    /// `TRACEPARENT` in the environment is no trace context, so runs are not linked to it; said once per process.
    pub const TRACEPARENT_IGNORED: &str = "task.traceparent.ignored";
    /// A task runs that no rule of the manager's prefix table is for; once per name, and only if there is a table.
    pub const CATEGORY_UNKNOWN: &str = "task.category.unknown";
}

/// The kind of an instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Goes up only; read at collection.
    ObservableCounter,
    /// Goes up only; recorded as it happens.
    Counter,
    /// Goes up and down; read at collection.
    ObservableUpDownCounter,
    /// The latest value; read at collection.
    ObservableGauge,
    /// A distribution; recorded as it happens.
    Histogram,
}

impl Kind {
    /// The kind as `docs/instruments.md` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ObservableCounter | Self::Counter => "counter",
            Self::ObservableUpDownCounter => "up-down counter",
            Self::ObservableGauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One instrument of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instrument {
    /// Its name.
    pub name: &'static str,
    /// The kind of the instrument.
    pub kind: Kind,
    /// Its unit (UCUM).
    pub unit: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// The attributes it carries beside those of [`TASK_ATTRIBUTES`].
    pub attributes: &'static [&'static str],
}

/// The attributes that every `task.*` instrument about one task carries. A set has no order of its own: it is handed over sorted.
pub const TASK_ATTRIBUTES: &[&str] = &[key::NAME, key::CATEGORY, key::PRIORITY, key::COMPONENT];

/// The bucket boundaries of every duration histogram, in seconds.
///
/// They follow the HTTP boundaries of the semantic conventions. They continue up to an hour, because tasks run longer than requests,
/// and down to 100 us, because many are shorter.
pub const DURATION_BOUNDARIES: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0,
];

macro_rules! instruments {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $kind:ident, $unit:literal, $description:literal, [$($key:expr),*];)*) => {
        $(
            #[doc = $description]
            pub const $id: Instrument = Instrument {
                name: $name, kind: Kind::$kind, unit: $unit, description: $description, attributes: &[$($key),*],
            };
        )*
        /// The whole contract, in the order of the documentation.
        pub const INSTRUMENTS: &[Instrument] = &[$($id),*];
    };
}

instruments! {
    RUN_DURATION = "task.run.duration", Histogram, "s", "How long runs took.", [key::RESULT, key::ERROR_TYPE];
    RUN_ACTIVE = "task.run.active", ObservableUpDownCounter, "{run}", "Runs under way.", [];
    RUNS = "task.runs", ObservableCounter, "{run}", "Runs ended, by result.", [key::RESULT];
    RUN_ERRORS = "task.run.errors", ObservableCounter, "{error}", "Runs that failed, panicked or timed out.", [key::ERROR_TYPE];
    RUN_TIME = "task.run.time", ObservableCounter, "s", "Time spent in ended runs.", [];
    RUN_DURATION_MAX = "task.run.duration.max", ObservableGauge, "s", "The longest ended run so far.", [];
    RESTARTS = "task.restarts", ObservableCounter, "{restart}", "Restarts of a supervised task, counted when the new run has begun.", [key::RESTART_REASON];
    STATUS = "task.status", ObservableUpDownCounter, "{task}", "1 for the state a supervised task is in, 0 for each other state; for a family, the members in each.", [key::STATE];
    LAST_SUCCESS_TIME = "task.last_success.time", ObservableGauge, "s", "When a run last succeeded, unix time.", [];
    LAST_ERROR_TIME = "task.last_error.time", ObservableGauge, "s", "When a run last failed, unix time.", [];
    LAST_RESTART_TIME = "task.last_restart.time", ObservableGauge, "s", "When the task was last restarted, unix time.", [];
    HEARTBEAT_TIME = "task.heartbeat.time", ObservableGauge, "s", "The last heartbeat, run start or run end, unix time.", [];
    SCHEDULE_DELAY = "task.schedule.delay", Histogram, "s", "How much later than due an iteration began.", [];
    POLL_DURATION_MAX = "task.poll.duration.max", ObservableGauge, "s", "The longest single poll so far.", [];
    POLLS_SLOW = "task.polls.slow", ObservableCounter, "{poll}", "Polls longer than the slow-poll threshold.", [];
    SHUTDOWN_DURATION = "task.shutdown.duration", Histogram, "s", "How long an ordered shutdown took.", [];
    SHUTDOWN_TASKS = "task.shutdown.tasks", ObservableCounter, "{task}", "What became of the tasks at shutdown.", [key::SHUTDOWN_OUTCOME];
    MONITOR_DURATION = "task.monitor.duration", Histogram, "s", "How long a monitor sweep took.", [];
    ITERATIONS_SKIPPED = "task.iterations.skipped", ObservableCounter, "{iteration}", "Iterations of a loop that did not take place.", [key::REASON];
    ITERATIONS_RETRIED = "task.iterations.retried", ObservableCounter, "{iteration}", "Times an iteration of a loop was tried again after it had failed.", [];
    INTERVAL = "task.interval", ObservableGauge, "s", "The interval of a loop; of a calendar, how far the next iteration and the one after it lie apart.", [];
    NEXT_RUN_TIME = "task.next_run.time", ObservableGauge, "s", "When a loop's next iteration is due, unix time.", [];
    NEXT_RETRY_TIME = "task.next_retry.time", ObservableGauge, "s", "When a failed task is tried again, unix time; absent if it was given up for good.", [];
    RESERVATION_PENDING = "task.reservation.pending", ObservableUpDownCounter, "{reservation}", "Reservations that wait for room under the limit of a name.", [];
    RESERVATION_WAIT_TIME = "task.reservation.wait_time", Histogram, "s", "How long reservations waited for room under the limit of a name.", [];
    STALLS = "task.stalls", ObservableCounter, "{stall}", "Times a task gave no sign of life for longer than it promised.", [];
    TELEMETRY_DROPPED = "task.telemetry.dropped", ObservableCounter, "{item}", "Spans, log records and metric batches that were not delivered.", [key::SIGNAL, key::REASON];
}

/// The instrument of the live page, the crate `otel-tasks-page`.
pub mod page {
    use super::{Instrument, Kind, key};

    instruments! {
        CONTROL_REFUSALS = "task.control.refusals", Counter, "{request}", "Requests to control a task that were refused before the task was read.", [key::CONTROL_OUTCOME];
    }
}

/// The instruments of leases, by the crate otel-tasks-lease.
pub mod lease {
    use super::{Instrument, Kind, key};

    instruments! {
        HELD = "task.lease.held", ObservableUpDownCounter, "{lease}", "1 while this process holds the lease, 0 while it does not.", [key::LEASE_NAME];
        TRANSITIONS = "task.lease.transitions", ObservableCounter, "{transition}", "Times this process acquired, lost or released the lease.", [key::LEASE_NAME, key::LEASE_TRANSITION];
        ERRORS = "task.lease.errors", ObservableCounter, "{error}", "Requests to the store that failed or passed their time limit.", [key::LEASE_OPERATION, key::ERROR_TYPE];
        RENEW_DURATION = "task.lease.renew.duration", Histogram, "s", "How long renewals took; one renews all leases that are due.", [];
        REMAINING = "task.lease.remaining", ObservableGauge, "s", "The time until the lease ends unless it is renewed; absent while it is not held.", [key::LEASE_NAME];
    }
}

/// Instruments of OpenTelemetry's semantic conventions about the SDK itself, which
/// [`sdk_metrics`](crate::telemetry::TelemetryBuilder::sdk_metrics) turns on. The conventions have them in development.
pub mod sdk {
    use super::{Instrument, Kind, key};

    instruments! {
        SPANS_PROCESSED = "otel.sdk.processor.span.processed", ObservableCounter, "{span}", "The number of spans for which the processing has finished, either successful or failed.", [key::COMPONENT_NAME, key::COMPONENT_TYPE, key::ERROR_TYPE];
        SPAN_QUEUE_SIZE = "otel.sdk.processor.span.queue.size", ObservableUpDownCounter, "{span}", "The number of spans in the queue of a given instance of an SDK span processor.", [key::COMPONENT_NAME, key::COMPONENT_TYPE];
        SPAN_QUEUE_CAPACITY = "otel.sdk.processor.span.queue.capacity", ObservableUpDownCounter, "{span}", "The maximum number of spans the queue of a given instance of an SDK span processor can hold.", [key::COMPONENT_NAME, key::COMPONENT_TYPE];
        SPANS_EXPORTED = "otel.sdk.exporter.span.exported", ObservableCounter, "{span}", "The number of spans for which the export has finished, either successful or failed.", [key::COMPONENT_NAME, key::COMPONENT_TYPE, key::ERROR_TYPE];
        LOGS_PROCESSED = "otel.sdk.processor.log.processed", ObservableCounter, "{log_record}", "The number of log records for which the processing has finished, either successful or failed.", [key::COMPONENT_NAME, key::COMPONENT_TYPE, key::ERROR_TYPE];
        LOG_QUEUE_SIZE = "otel.sdk.processor.log.queue.size", ObservableUpDownCounter, "{log_record}", "The number of log records in the queue of a given instance of an SDK log processor.", [key::COMPONENT_NAME, key::COMPONENT_TYPE];
        LOG_QUEUE_CAPACITY = "otel.sdk.processor.log.queue.capacity", ObservableUpDownCounter, "{log_record}", "The maximum number of log records the queue of a given instance of an SDK log processor can hold.", [key::COMPONENT_NAME, key::COMPONENT_TYPE];
        LOGS_EXPORTED = "otel.sdk.exporter.log.exported", ObservableCounter, "{log_record}", "The number of log records for which the export has finished, either successful or failed.", [key::COMPONENT_NAME, key::COMPONENT_TYPE, key::ERROR_TYPE];
    }
}
