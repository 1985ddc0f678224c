//! The attribute macros of `otel-tasks`; use them as `otel_tasks::instrumented_task` and `otel_tasks::task_loop`.
//!
//! ```text
//! tokens ──> args   what the attribute says
//!        ──> valid  whether the item can be a task
//!                     └──> expand   the function, its body handed to `otel_tasks::__private::instrument`
//!
//! tokens ──> loop_args, valid ──> loop_expand   the function that makes the loop's `CriticalTaskConfig`
//! ```

#![forbid(unsafe_code)]

mod args;
mod duration;
mod expand;
mod loop_args;
mod loop_expand;
mod valid;

use proc_macro::TokenStream;

/// Makes each call of an async fn a run of a task: a span, the task's instruments, and its failure if it returns an
/// error.
///
/// The function keeps its signature, attributes and documentation. Nothing happens until the returned future is
/// polled. The future is `Send` if the future of the function is. An `Err` is a failed run, with the error's text if the error
/// implements `Display`. Any other output is a success.
///
/// # Options
///
/// All are optional, in any order, each at most once.
///
/// | Option               | Value                                                       | Without it               |
/// | -------------------- | ----------------------------------------------------------- | ------------------------ |
/// | `name = "..."`       | the task's name, a string literal that is not empty         | the function's own name  |
/// | `category = Command` | `Scheduled`, `Gateway`, `System`, `Command` or `Unknown`    | what the runtime chooses |
/// | `priority = High`    | `Critical`, `High`, `Normal` or `Low`                       | what the runtime chooses |
/// | `component = "..."`  | the part of the program, a string literal that is not empty | none                     |
/// | `crate = path`       | where `otel_tasks` is, if it is re-exported                 | `::otel_tasks`           |
///
/// A category or priority may also be a path to the variant, such as `TaskCategory::Command`. It may also be a string
/// in any case, such as `"command"`.
///
/// # Methods
///
/// The attribute works on methods, and on trait methods with a body. It does not see the `impl` around them, so
/// `Cache::refresh` and `Index::refresh` are both named `refresh`. Set `name` to distinguish them.
///
/// # Beside other attributes
///
/// Write it above any attribute that takes the `async` away, such as `#[tokio::main]` and `#[tokio::test]`, so that it
/// sees the function first. Inside an `#[async_trait]` block it always comes too late; there, put it on an inherent
/// method and call that.
///
/// # Arguments
///
/// When the body ends, the arguments that it uses are dropped, and then the other arguments. The body is a
/// future inside the function's future, so the arguments that it uses take their space twice: box a large one.
///
/// # Errors
///
/// The compiler reports these errors at the token in question:
///
/// - an item that is not an async fn with a body
/// - an unknown or repeated option
/// - a name that is empty or not a literal
/// - an unknown category or priority
#[proc_macro_attribute]
pub fn instrumented_task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::instrumented_task(options.into(), item.into()).into()
}

/// Makes a loop of an async fn: the function then returns the `CriticalTaskConfig` of the loop, for a registration or a
/// component.
///
/// The body is one iteration. If the first argument is a `TaskContext`, it is the context of the iteration. Every other argument is
/// passed once, when the function is called, and cloned for each iteration. The body may return any output of a task.
///
/// # Options
///
/// In any order, each at most once; of the first four exactly one.
///
/// | Option                              | Value                                                                        |
/// | ----------------------------------- | ---------------------------------------------------------------------------- |
/// | `every = "5s"`                      | the interval: `ns`, `us`, `ms`, `s`, `m`, `h`, `d`; or an expression of type `Duration` |
/// | `delay = "5s"`                      | the time between the end of an iteration and the next                        |
/// | `daily = "09:00"`                   | a time of day, or several in brackets                                        |
/// | `cron = "0 9 * * MON-FRI"`          | a cron expression                                                            |
/// | `zone = "Europe/Berlin"`            | the time zone of `daily` and `cron`; without it UTC                          |
/// | `immediate = false`                 | true if the first iteration is due at once                                   |
/// | `count = 3`                         | the number of iterations                                                     |
/// | `jitter = "1s"`                     | the largest random delay of an iteration                                     |
/// | `missed = Skip`                     | `Skip`, `RunOnce` or `CatchUp(n)`                                            |
/// | `overlap = Queue`                   | `Skip`, `Queue`, `CancelRunning` or `Allow(n)`                               |
/// | `retry = 3`                         | the number of retries of a failed iteration                                  |
/// | `backoff = "1s..60s"`               | the delays between retries: growing from the first to the second, or constant |
/// | `timeout = "30s"`                   | the longest time of an iteration                                             |
/// | `name`, `category`, `priority`, `component`, `crate` | as for [`macro@instrumented_task`]                          |
///
/// # Errors
///
/// The compiler reports these errors at the token in question:
///
/// - an invalid duration, time of day or policy
/// - a duration or number of zero
/// - a jitter longer than the interval
/// - no schedule, or more than one
/// - `self`
///
/// The fields of a cron expression and the name of the zone are checked when the loop is registered.
#[proc_macro_attribute]
pub fn task_loop(options: TokenStream, item: TokenStream) -> TokenStream {
    loop_expand::task_loop(options.into(), item.into()).into()
}
