//! Panics of supervised futures: caught, named, and kept off the terminal.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::Future,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Once,
    task::{Context, Poll},
};

use tracing::level_filters::LevelFilter;

use crate::policy::Panic;

thread_local! {
    static SILENCED: Cell<bool> = const { Cell::new(false) };
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
    /// True if [`LOCATION`] holds one. Separate, because a thread-local without a destructor is read without a check,
    /// and almost no poll panics.
    static LOCATED: Cell<bool> = const { Cell::new(false) };
}

/// Chains a panic hook, once per process. It does not print a panic inside a supervised future: the panic becomes a log
/// record, a span's status and a figure, with its location.
///
/// The previous hook receives any other panic, a panic without a subscriber, and a panic before an earlier one was caught.
/// In the last case a destructor panics while unwinding, which ends the process before anything is reported.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !SILENCED.get() {
                return previous(info);
            }
            let before = swap_location(info.location().map(ToString::to_string));
            // The level alone: the subscriber is the user's code, and a panic in a hook ends the process.
            if before.is_some() || LevelFilter::current() == LevelFilter::OFF {
                previous(info);
            }
        }));
    });
}

/// Sets the location of the last panic of this thread, or clears it. Returns the location before.
#[cold]
fn swap_location(location: Option<String>) -> Option<String> {
    LOCATED.set(location.is_some());
    LOCATION.replace(location)
}

/// A caught panic: its text, and its payload for callers that must pass it on.
pub(crate) struct Caught {
    pub(crate) panic: Panic,
    pub(crate) payload: Payload,
}

/// The payload of a panic. It is the user's, and so is its destructor: a panic in the destructor is caught.
pub(crate) struct Payload(Option<Box<dyn Any + Send>>);

impl Drop for Payload {
    fn drop(&mut self) {
        let payload = self.0.take();
        if let Err(another) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
            // A payload that panics in its destructor may do so again.
            std::mem::forget(another);
        }
    }
}

/// A value of the user's. A panic in its destructor ends here, wherever the last reference to it is dropped: in a driver, in the shutdown, in an
/// `unregister`.
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only the destructor takes it")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let _ = catch_inline(false, move || drop(value));
    }
}

/// Runs `supervised`; a panic in it is caught, and not printed where `silence` says so and the hook is installed.
///
/// All callers share one copy of the work. [`catch_inline`] is for each poll.
pub(crate) fn catch<R>(silence: bool, supervised: impl FnOnce() -> R) -> Result<R, Caught> {
    #[inline(never)]
    fn shared(silence: bool, supervised: &mut dyn FnMut()) -> Result<(), Caught> {
        catch_inline(silence, supervised)
    }
    let (mut supervised, mut returned) = (Some(supervised), None);
    shared(silence, &mut || returned = supervised.take().map(|supervised| supervised()))?;
    Ok(returned.expect("it has run without a panic"))
}

/// [`catch`], compiled for each caller.
#[inline]
pub(crate) fn catch_inline<R>(silence: bool, supervised: impl FnOnce() -> R) -> Result<R, Caught> {
    let catching = Catching::begin(silence);
    match catch_unwind(AssertUnwindSafe(supervised)) {
        Ok(returned) => {
            catching.end();
            Ok(returned)
        }
        Err(payload) => Err(catching.caught(payload)),
    }
}

/// The part of [`catch_inline`] that does not depend on a type. So the copy for each future of a user is small.
struct Catching {
    was_silenced: bool,
    /// The location of a panic that the user caught, or that unwinds through a destructor that ends here.
    before: Option<String>,
}

impl Catching {
    #[inline]
    fn begin(silence: bool) -> Self {
        let was_silenced = SILENCED.replace(SILENCED.get() || silence);
        Self { was_silenced, before: if LOCATED.get() { swap_location(None) } else { None } }
    }

    #[inline]
    fn end(self) {
        SILENCED.set(self.was_silenced);
        if LOCATED.get() || self.before.is_some() {
            swap_location(self.before);
        }
    }

    #[cold]
    fn caught(self, payload: Box<dyn Any + Send>) -> Caught {
        SILENCED.set(self.was_silenced);
        let location = swap_location(self.before);
        let text = match payload.downcast_ref::<&str>() {
            Some(text) => *text,
            None => payload.downcast_ref::<String>().map_or("non-string payload", String::as_str),
        };
        Caught { panic: Panic::new(text, location), payload: Payload(Some(payload)) }
    }
}

/// Continues a caught panic with its location, for the next handler.
pub(crate) fn resume(panic: Panic, mut payload: Payload) -> ! {
    swap_location(panic.location);
    std::panic::resume_unwind(payload.0.take().unwrap_or_else(|| Box::new(panic.text)))
}

pin_project_lite::pin_project! {
    /// A future whose panics are caught, its destructor's included: for hooks, which are the user's code and none of the
    /// task's work.
    #[must_use = "futures do nothing unless polled"]
    pub(crate) struct Guarded<F> {
        #[pin]
        future: Option<F>,
        silence: bool,
    }

    impl<F> PinnedDrop for Guarded<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _ = catch(*this.silence, || this.future.set(None));
        }
    }
}

impl<F> Guarded<F> {
    pub(crate) fn new(silence: bool, future: F) -> Self {
        Self { future: Some(future), silence }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, Panic>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let polled = match this.future.as_mut().as_pin_mut() {
            Some(future) => catch(*this.silence, || future.poll(cx)),
            None => return Poll::Pending,
        };
        let output = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(caught) => Err(caught.panic),
        };
        let dropped = catch(*this.silence, || this.future.set(None));
        Poll::Ready(output.and_then(|output| dropped.map(|()| output).map_err(|caught| caught.panic)))
    }
}
