//! What a task may return.

use std::{
    any::Any,
    fmt::Display,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// What a task may return: `()`, a [`Result`] whose error can be displayed, or nothing ever (`!`: a body that ends in an
/// endless `loop`).
///
/// Sealed, so that no output is silently taken for a success: for anything else say so with
/// [`discard`](DiscardExt::discard).
#[diagnostic::on_unimplemented(
    message = "a task returns `()` or `Result<T, E>` with a displayable error, not `{Self}`",
    note = "call `.discard()` on the future if its output does not tell success from failure"
)]
pub trait TaskOutput: sealed::Sealed {}

impl TaskOutput for () {}
impl<T, E: Display + 'static> TaskOutput for Result<T, E> {}
impl TaskOutput for Never {}

/// The type `!`, which stable Rust only lets be named as what a function returns. In edition 2024 it is the output of
/// `async { loop { .. } }`, the most usual body of a task.
type Never = <fn() -> ! as Returns>::Output;

#[doc(hidden)]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}

pub(crate) mod sealed {
    use super::{Any, Display};

    /// An error seen through what the policies ask of it.
    pub struct ErrorView<'a> {
        pub display: &'a dyn Display,
        pub any: &'a dyn Any,
        pub type_name: &'static str,
    }

    pub trait Sealed {
        /// The error, or `None` for a success.
        fn error(&self) -> Option<ErrorView<'_>>;
        /// The type of the error, where the output has one.
        fn error_type_id() -> Option<(std::any::TypeId, &'static str)>
        where
            Self: Sized;
    }

    impl Sealed for () {
        fn error(&self) -> Option<ErrorView<'_>> {
            None
        }

        fn error_type_id() -> Option<(std::any::TypeId, &'static str)> {
            None
        }
    }

    impl Sealed for super::Never {
        fn error(&self) -> Option<ErrorView<'_>> {
            None
        }

        fn error_type_id() -> Option<(std::any::TypeId, &'static str)> {
            None
        }
    }

    impl<T, E: Display + 'static> Sealed for Result<T, E> {
        fn error(&self) -> Option<ErrorView<'_>> {
            self.as_ref().err().map(|error| ErrorView {
                display: error,
                any: error,
                type_name: std::any::type_name::<E>(),
            })
        }

        fn error_type_id() -> Option<(std::any::TypeId, &'static str)> {
            Some((std::any::TypeId::of::<E>(), std::any::type_name::<E>()))
        }
    }
}

/// Turns a future with any output into one that always succeeds.
pub trait DiscardExt: Future + Sized {
    /// Drops the output: the task counts as a success whatever it returned.
    ///
    /// ```
    /// use otel_tasks::policy::DiscardExt as _;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let tasks = otel_tasks::TaskManager::new();
    /// tasks.spawn("answer", async { 42 }.discard());
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
