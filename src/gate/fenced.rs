//! A future behind a permission to run.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::Pass;

/// A future behind a permission to run: none of its polls begins when that is over. Its destructor counts as active user code.
#[must_use = "futures do nothing unless polled or spawned"]
pub(crate) struct Fenced<F> {
    pass: Pass,
    inner: Option<F>,
}

impl<F> Fenced<F> {
    pub(crate) fn new(pass: Pass, inner: F) -> Self {
        Self { pass, inner: Some(inner) }
    }

    pub(crate) fn pass(&self) -> &Pass {
        &self.pass
    }
}

impl<F: Future + Unpin> Future for Fenced<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Pending };
        // The driver has been woken, and drops it.
        let Some(_busy) = this.pass.begin_poll() else { return Poll::Pending };
        Pin::new(inner).poll(cx)
    }
}

impl<F> Drop for Fenced<F> {
    fn drop(&mut self) {
        let _busy = self.pass.busy();
        self.inner = None;
    }
}
