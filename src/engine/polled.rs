//! A future whose polls the watchdog sees.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::watchdog::{self, MemberId};

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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _polling = watchdog::polling(*this.id);
        this.future.poll(cx)
    }
}
