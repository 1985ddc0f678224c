//! The version by hand with the guarantees of otel-tasks, as a service could write it with tokio and its utilities. It does only what these
//! guarantees need, so it shows what they cost by themselves.
//!
//! The name of a run is found at its spawn. Runs are admitted until a shutdown begins. The shutdown finds each run and can abort it. A panic
//! is caught. The runs are in shards by thread, as in otel-tasks.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::task::{AbortHandle, JoinHandle};

use crate::telemetry::{ByHand, Figures};

const SHARDS: usize = 16;

/// What a future has returned, or the panic that ended it.
pub type Caught<T> = std::thread::Result<T>;

/// `future`, whose panic is caught.
pub async fn caught<F: Future>(future: F) -> Caught<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| caught_poll(|| future.as_mut().poll(cx))).await
}

fn caught_poll<T>(poll: impl FnOnce() -> Poll<T>) -> Poll<Caught<T>> {
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

/// Runs by name, which a shutdown finds.
pub struct Guarded {
    metrics: &'static ByHand,
    names: RwLock<HashMap<Box<str>, Arc<Figures>>>,
    shards: [Shard; SHARDS],
    /// The number of threads that have spawned.
    threads: AtomicUsize,
}

/// Apart from the next one, so that two threads change no cache line together.
#[repr(align(128))]
#[derive(Default)]
struct Shard {
    runs: Mutex<Runs>,
}

#[derive(Default)]
struct Runs {
    /// By place, with the number that a later run of the place does not have.
    places: Vec<Option<Run>>,
    free: Vec<usize>,
    next: u64,
    /// True once a shutdown has begun.
    closed: bool,
}

struct Run {
    number: u64,
    /// For the report of a shutdown.
    _figures: Arc<Figures>,
    /// Once tokio has returned it.
    abort: Option<AbortHandle>,
}

impl Guarded {
    /// For the rest of the process.
    pub fn leaked(metrics: &'static ByHand) -> &'static Self {
        Box::leak(Box::new(Self {
            metrics,
            names: RwLock::default(),
            shards: Default::default(),
            threads: AtomicUsize::new(0),
        }))
    }

    /// Spawns a run of this name; `None` once a shutdown has begun.
    pub fn spawn<F>(&'static self, name: &str, future: F) -> Option<JoinHandle<Caught<F::Output>>>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let figures = self.figures(name);
        let place = self.enter(&figures)?;
        let (shard, index, number) = (place.shard, place.index, place.number);
        let handle = tokio::spawn(GuardedRun { place: Some(place), figures, began: None, future });
        let mut runs = self.shards[shard].runs.lock().unwrap();
        match &mut runs.places[index] {
            Some(run) if run.number == number => run.abort = Some(handle.abort_handle()),
            _ => {}
        }
        // A shutdown may have come before the handle.
        if runs.closed {
            handle.abort();
        }
        drop(runs);
        Some(handle)
    }

    /// Admits no more runs, and aborts the others. Returns their number.
    pub fn shut_down(&self) -> usize {
        let mut aborted = 0;
        for Shard { runs } in &self.shards {
            let mut runs = runs.lock().unwrap();
            runs.closed = true;
            for run in runs.places.iter().flatten() {
                run.abort.iter().for_each(AbortHandle::abort);
                aborted += 1;
            }
        }
        aborted
    }

    fn figures(&self, name: &str) -> Arc<Figures> {
        if let Some(figures) = self.names.read().unwrap().get(name) {
            return figures.clone();
        }
        self.names.write().unwrap().entry(name.into()).or_insert_with(|| Figures::of(name)).clone()
    }

    fn enter(&'static self, figures: &Arc<Figures>) -> Option<Place> {
        let shard = self.shard();
        let mut runs = self.shards[shard].runs.lock().unwrap();
        if runs.closed {
            return None;
        }
        let number = runs.next;
        runs.next += 1;
        let run = Some(Run { number, _figures: figures.clone(), abort: None });
        let index = match runs.free.pop() {
            Some(index) => {
                runs.places[index] = run;
                index
            }
            None => {
                runs.places.push(run);
                runs.places.len() - 1
            }
        };
        Some(Place { guarded: self, shard, index, number })
    }

    fn shard(&self) -> usize {
        thread_local!(static SHARD: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) });
        SHARD.with(|shard| {
            shard.get().unwrap_or_else(|| {
                let new = self.threads.fetch_add(1, Relaxed) % SHARDS;
                shard.set(Some(new));
                new
            })
        })
    }
}

pin_project_lite::pin_project! {
    /// A run. Not an `async` block, which would keep room for its arguments.
    struct GuardedRun<F> {
        place: Option<Place>,
        figures: Arc<Figures>,
        began: Option<Instant>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for GuardedRun<F> {
    type Output = Caught<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let metrics = this.place.as_ref().expect("it has not ended").guarded.metrics;
        let began = *this.began.get_or_insert_with(|| metrics.begin(this.figures));
        let output = ready!(caught_poll(|| this.future.as_mut().poll(cx)));
        metrics.end(this.figures, began, output.is_ok());
        *this.place = None;
        Poll::Ready(output)
    }
}

/// The place of a run, which it leaves when it has ended or is dropped.
struct Place {
    guarded: &'static Guarded,
    shard: usize,
    index: usize,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut runs = self.guarded.shards[self.shard].runs.lock().unwrap();
        let left = runs.places[self.index].take();
        runs.free.push(self.index);
        drop(runs);
        drop(left);
    }
}
