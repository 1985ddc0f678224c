//! A future whose polls the watchdog sees.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    run::{Ended, Outcome},
    watchdog::{self, MemberId},
};

pin_project_lite::pin_project! {
    /// Shows in its thread's slot, while it is polled, as the work of a member.
    #[must_use = "futures do nothing unless polled or spawned"]
    pub(crate) struct Polled<F> {
        id: MemberId,
        #[pin]
        future: F,
    }
}

impl<F> Polled<F> {
    pub(crate) fn new(id: MemberId, future: F) -> Self {
        Self { id, future }
    }
}

impl<F: Future> Future for Polled<F> {
    type Output = F::Output;

    // Into the poll of the tokio task, its only caller.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _polling = watchdog::polling(*this.id);
        this.future.poll(cx)
    }
}

pin_project_lite::pin_project! {
    /// A run whose end is passed to a [`TaskHandle`](crate::TaskHandle).
    #[must_use = "futures do nothing unless polled or spawned"]
    pub(crate) struct Handled<R> {
        #[pin]
        pub(crate) run: R,
    }
}

impl<T, R: Future<Output = Ended<T>>> Future for Handled<R> {
    type Output = Outcome<T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().run.poll(cx).map(Outcome::from)
    }
}
