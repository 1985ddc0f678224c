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
/// polled, and the future is `Send` whenever the function's own would be. A `Result` that is `Err` counts as a failed
/// run, with the error's text if it implements `Display`; whatever else the function returns counts as success.
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
/// A category or priority may also be a path that ends in the variant, such as `TaskCategory::Command`, or a string
/// in any case, such as `"command"`.
///
/// # Methods
///
/// The attribute works on methods and on trait methods that have a body, but it does not see the `impl` around them:
/// `Cache::refresh` and `Index::refresh` are both named `refresh` unless `name` says otherwise.
///
/// # Beside other attributes
///
/// Write it above any attribute that takes the `async` away, such as `#[tokio::main]` and `#[tokio::test]`, so that it
/// sees the function first. Inside an `#[async_trait]` block it always comes too late; there, put it on an inherent
/// method and call that.
///
/// # Arguments
///
/// The arguments that the body uses are dropped when the body ends, before those that it does not use. The body is a
/// future inside the function's future, so the arguments it uses take their room once more: box a large one.
///
/// # Errors
///
/// Refused at compile time, each at the token in question: an item that is not an async fn with a body, an unknown or
/// repeated option, a name that is empty or not a literal, an unknown category or priority.
#[proc_macro_attribute]
pub fn instrumented_task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::instrumented_task(options.into(), item.into()).into()
}

/// Makes a loop of an async fn: the function then returns the loop's `CriticalTaskConfig`, to be registered or handed over by
/// a component.
///
/// The body is one iteration. Where the first argument is a `TaskContext`, it is the iteration's; every other argument is
/// given once, when the function is called, and cloned for each iteration. What the body returns is what a task may return.
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
/// | `immediate = false`                 | whether the first iteration is due at once                                   |
/// | `count = 3`                         | how many iterations there are                                                |
/// | `jitter = "1s"`                     | by how much each is later at most, by chance                                 |
/// | `missed = Skip`                     | `Skip`, `RunOnce` or `CatchUp(n)`                                            |
/// | `overlap = Queue`                   | `Skip`, `Queue`, `CancelRunning` or `Allow(n)`                               |
/// | `retry = 3`                         | how often an iteration that failed is tried again                            |
/// | `backoff = "1s..60s"`               | the delays between: growing from the one to the other, or one that stays     |
/// | `timeout = "30s"`                   | how long an iteration may take                                               |
/// | `name`, `category`, `priority`, `component`, `crate` | as for [`macro@instrumented_task`]                          |
///
/// # Errors
///
/// Refused at compile time, each at the token in question: what is no duration, time of day or policy, a duration or number
/// of zero, a jitter longer than the interval, more than one schedule or none, `self`. What stands inside a cron expression
/// and whether there is such a zone is checked when the loop is registered.
#[proc_macro_attribute]
pub fn task_loop(options: TokenStream, item: TokenStream) -> TokenStream {
    loop_expand::task_loop(options.into(), item.into()).into()
}
