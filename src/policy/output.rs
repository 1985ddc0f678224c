//! The outputs that a task may return.
//!
//! The compiler infers `Via`, the implementation by which a type is read; users never write it. A trait without such a
//! parameter would have conflicting implementations (E0119): for `std::error::Error`, and for `String`, `anyhow::Error` or
//! `Box<dyn Error>`. With the bound `Display`, the cause of an error would be out of reach.

use std::{
    borrow::Cow,
    error::Error,
    future::Future,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::error_view::{ErrorView, Link, ReturnedError, find_error};

/// An output that a task may return: a [`Result`], nothing, or a value without success or failure.
///
/// | output | the run |
/// |---|---|
/// | `Result<T, E>` with an [`OutputError`] | succeeded, or failed with the error and its causes |
/// | `()` | succeeded |
/// | `!`: a body that ends in an endless `loop` | never ends by itself |
/// | a number, `bool`, `char`, `String`, `&'static str`, `Cow<'static, str>`, [`PathBuf`], [`Duration`] | succeeded |
/// | any other type `T`, as [`Value<T>`](Value) | succeeded |
///
/// Sealed, so that no output is silently taken for a success: a `Vec` of results, for example. If the output is not needed, call
/// [`discard`](DiscardExt::discard) on the future.
///
/// `Via` is inferred. A function that is generic over a future declares it: `fn run<F, Via>(future: F) where F::Output:
/// TaskOutput<Via>`.
///
/// ```
/// use otel_tasks::{TaskManager, Value};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::TaskError> {
/// let tasks = TaskManager::new();
/// tasks.spawn("import", async { std::fs::read("/var/import")?; Ok::<(), std::io::Error>(()) });
/// let answer = tasks.spawn_blocking("answer", |_| 42).await?;
/// let Value(rows) = tasks.spawn("rows", async { Value(vec![1, 2]) }).await?;
/// # assert_eq!((answer, rows), (42, vec![1, 2]));
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "a task returns `()`, `!`, a `Result` or a plain value, not `{Self}`",
    label = "this is not the output of a task",
    note = "return a value of another type as `otel_tasks::Value(..)`",
    note = "if the output is not needed, call `.discard()` on the future (`use otel_tasks::policy::DiscardExt as _`)"
)]
pub trait TaskOutput<Via>: sealed::Output<Via> {}

/// An error that a task may return.
///
/// - Any type that implements [`std::error::Error`].
/// - `anyhow::Error`, `eyre::Report`, and `Box<dyn Error>`, also with `Send` and `Sync`.
/// - The texts `String`, `&'static str` and `Cow<'static, str>`.
///
/// Its text is that of the error and its [sources](std::error::Error::source), as `a: b: c`. A source whose text the text before it
/// already ends with is left out. The text is at most [`Failure::MAX_MESSAGE`](crate::policy::Failure::MAX_MESSAGE) bytes long; of a
/// longer one the beginning is kept, with the number of bytes that were cut.
///
/// `Via` is inferred. `Arc<dyn Error + Send + Sync>` is an error in two ways and needs a type of your own around it.
///
/// ```
/// # use otel_tasks::TaskManager;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let tasks = TaskManager::new();
/// let failing = tasks.spawn("load", async {
///     let refused = std::io::Error::other("connection refused");
///     Err::<(), _>(anyhow::Error::from(refused).context("load the settings"))
/// });
/// let _ = failing.await;
/// let error = tasks.snapshot("load").unwrap().last_error.unwrap();
/// assert_eq!(error.message, "load the settings: connection refused");
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an error that a task can return",
    label = "not an error of a task",
    note = "the error of a `Result` must be a `std::error::Error`, an `anyhow::Error`, an `eyre::Report` or a text",
    note = "implement `std::error::Error` for it, or turn it into a text: `.map_err(|error| error.to_string())`"
)]
pub trait OutputError<Via>: sealed::AnError<Via> {}

/// A value that says nothing of success or failure: the run succeeded.
///
/// Makes an output of any value. The value is not inspected: `Value(Err(..))` is a success, too.
///
/// ```
/// use otel_tasks::{TaskManager, Value};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), otel_tasks::TaskError> {
/// let tasks = TaskManager::new();
/// let Value((width, height)) = tasks.spawn_blocking("measure", |_| Value((640, 480))).await?;
/// # assert_eq!((width, height), (640, 480));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Value<T>(pub T);

/// By which implementation a type is read.
#[doc(hidden)]
pub mod via {
    #[derive(Debug)]
    pub struct Unit;
    #[derive(Debug)]
    pub struct Never;
    #[derive(Debug)]
    pub struct Plain;
    #[derive(Debug)]
    pub struct Value;
    #[derive(Debug)]
    pub struct Error;
    #[derive(Debug)]
    pub struct Report;
    #[derive(Debug)]
    pub struct LocalReport;
    #[derive(Debug)]
    pub struct Text;
}

/// The type `!`. Stable Rust has a name for it only as the return type of a function. In edition 2024 it is the output of
/// `async { loop { .. } }`, the most common body of a task.
type Never = <fn() -> ! as Returns>::Output;

#[doc(hidden)]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}

pub(crate) mod sealed {
    use super::{ErrorView, Link, ReturnedError};

    pub trait Output<Via> {
        /// The error, or `None` for a success.
        fn error(&self) -> Option<ErrorView<'_>> {
            None
        }

        /// The type of the error, if the output has one.
        fn returned_error() -> Option<ReturnedError>
        where
            Self: Sized,
        {
            None
        }
    }

    pub trait AnError<Via>: Sized + 'static {
        /// True if an error of this type may be the source of another.
        const IS_ERROR: bool;

        /// True if it holds an error of any type.
        const IS_REPORT: bool;

        fn view(&self) -> ErrorView<'_>;

        /// The error of this type, if the link is one.
        fn find(link: Link<'_>) -> Option<&Self>;
    }
}

/// The type of the error that such an output may hold.
pub(crate) fn returned_error_of<T: TaskOutput<Via>, Via>() -> Option<ReturnedError> {
    T::returned_error()
}

macro_rules! infallible {
    ($via:ident: $($type:ty),*) => {$(
        impl sealed::Output<via::$via> for $type {}
        impl TaskOutput<via::$via> for $type {}
    )*};
}

infallible!(Unit: ());
infallible!(Never: Never);
infallible!(Plain: bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64);
infallible!(Plain: String, &'static str, Cow<'static, str>, PathBuf, Duration);

impl<T> sealed::Output<via::Value> for Value<T> {}
impl<T> TaskOutput<via::Value> for Value<T> {}

impl<T, E: OutputError<Via>, Via> sealed::Output<Via> for Result<T, E> {
    fn error(&self) -> Option<ErrorView<'_>> {
        self.as_ref().err().map(E::view)
    }

    fn returned_error() -> Option<ReturnedError> {
        Some(ReturnedError::of::<E>(E::IS_REPORT))
    }
}

impl<T, E: OutputError<Via>, Via> TaskOutput<Via> for Result<T, E> {}

impl<E: Error + 'static> sealed::AnError<via::Error> for E {
    const IS_ERROR: bool = true;
    const IS_REPORT: bool = false;

    fn view(&self) -> ErrorView<'_> {
        ErrorView::of_error(self)
    }

    fn find(link: Link<'_>) -> Option<&Self> {
        find_error(link)
    }
}

impl<E: Error + 'static> OutputError<via::Error> for E {}

/// `anyhow::Error`, `eyre::Report` and `Box<dyn Error + Send + Sync>`, without a dependency on any of them.
impl<E: AsRef<dyn Error + Send + Sync + 'static> + 'static> sealed::AnError<via::Report> for E {
    const IS_ERROR: bool = false;
    const IS_REPORT: bool = true;

    fn view(&self) -> ErrorView<'_> {
        ErrorView::of_report(self, self.as_ref())
    }

    fn find(link: Link<'_>) -> Option<&Self> {
        find_returned(link)
    }
}

impl<E: AsRef<dyn Error + Send + Sync + 'static> + 'static> OutputError<via::Report> for E {}

fn find_returned<E: 'static>(link: Link<'_>) -> Option<&E> {
    match link {
        Link::Returned(error) => error.downcast_ref(),
        Link::Cause(_) => None,
    }
}

macro_rules! not_an_error {
    ($via:ident, $is_report:literal, |$this:ident| $view:expr; $($type:ty),*) => {$(
        impl sealed::AnError<via::$via> for $type {
            const IS_ERROR: bool = false;
            const IS_REPORT: bool = $is_report;

            fn view(&self) -> ErrorView<'_> {
                let $this = self;
                $view
            }

            fn find(link: Link<'_>) -> Option<&Self> {
                find_returned(link)
            }
        }

        impl OutputError<via::$via> for $type {}
    )*};
}

not_an_error!(LocalReport, true, |error| ErrorView::of_report(error, &**error); Box<dyn Error>, Box<dyn Error + Send>);
not_an_error!(Text, false, |text| ErrorView::of_text(text); String, &'static str, Cow<'static, str>);

/// Turns a future with any output into a future that always succeeds.
pub trait DiscardExt: Future + Sized {
    /// Drops the output: the task counts as a success whatever it returned.
    ///
    /// ```
    /// use otel_tasks::policy::DiscardExt as _;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let tasks = otel_tasks::TaskManager::new();
    /// tasks.spawn("rows", async { vec![1, 2] }.discard());
    /// # }
    /// ```
    fn discard(self) -> Discard<Self> {
        Discard { future: self }
    }
}

impl<F: Future> DiscardExt for F {}

pin_project_lite::pin_project! {
    /// The future of [`DiscardExt::discard`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled or spawned"]
    pub struct Discard<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Discard<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().future.poll(cx).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discarded_future_is_still_run_to_its_end() {
        let mut left = 2;
        let answer = std::future::poll_fn(|_| {
            left -= 1;
            if left > 0 { Poll::Pending } else { Poll::Ready(42) }
        });
        let mut discarded = std::pin::pin!(answer.discard());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(discarded.as_mut().poll(&mut cx), Poll::Pending);
        assert_eq!(discarded.as_mut().poll(&mut cx), Poll::Ready(()));
    }
}
