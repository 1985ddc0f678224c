//! One run: the future around the user's future.
//!
//! Invariants:
//! 1. A run that was begun ends exactly once: on completion, panic, timeout, or when it is dropped.
//! 2. The user's future is dropped before the run is counted as ended, so a caller that waits for the end may start the next.
//! 3. No panic of the user's future, its destructor included, leaves [`Run::poll`] or the run's own destructor.

use std::{
    borrow::BorrowMut,
    future::Future,
    mem::ManuallyDrop,
    num::NonZeroU64,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use opentelemetry::{Context as OtelContext, KeyValue, trace::SpanContext};
use tokio::time::{Instant, Sleep};

use super::{Payload, Recorder, Rules, Task, catch, catch_inline, current::Current};
use crate::{
    contract::{self, key, record},
    emit::{
        EnteredSpan, ManagedSpan, SpanParent, SpanStart, environment, installed, managed_span,
        nobody_listens, offer, subscriber_is_of_process, with_trace,
    },
    policy::{ErrorRules, Exit, ExitKind},
    run::recorder::PollTime,
    shards::LocalArc,
    watchdog,
};

/// The inputs of a run.
pub(crate) struct Begin<'a> {
    pub(crate) recorder: LocalArc<Recorder>,
    pub(crate) task: Arc<Task>,
    pub(crate) timeout: Option<Duration>,
    /// The rules for its error, if they are others than the manager's.
    pub(crate) error_rules: Option<Arc<ErrorRules>>,
    pub(crate) polls: PollTime,
    pub(crate) span: SpanMade<'a>,
}

/// The moment at which a run's span is made, and its details. The span begins with the run in any case.
pub(crate) enum SpanMade<'a> {
    /// With the run.
    AtOnce(&'a mut SpanDetails),
    /// At the first poll of the run, if that gives the same span. Then its memory is on the thread that needs it, and
    /// tasks that wait for their first poll hold none. `None` are the default details.
    WhenPolled(Option<Box<SpanDetails>>),
}

/// The details of a run's span, beside its task.
#[derive(Default)]
pub(crate) struct SpanDetails {
    /// The name as given, where it differs from the task's.
    pub(crate) given_name: Option<String>,
    pub(crate) generation: Option<u64>,
    pub(crate) iteration: Option<u64>,
    /// The delay of an iteration after its due time.
    pub(crate) late: Option<Duration>,
    /// The term of its pass, behind a gate.
    pub(crate) term: Option<u64>,
    pub(crate) parent: SpanParent,
    pub(crate) links: Vec<SpanContext>,
}

/// The room for the span of a run: the run itself, or a box.
pub(crate) trait SpanRoom: From<ManagedSpan> + BorrowMut<ManagedSpan> {}

impl<S: From<ManagedSpan> + BorrowMut<ManagedSpan>> SpanRoom for S {}

/// A run's span.
enum RunSpan<S> {
    Made(S),
    Unmade(Option<Box<SpanDetails>>),
    /// Nobody would see it.
    None,
}

impl<S: SpanRoom> RunSpan<S> {
    fn of(made: Option<ManagedSpan>) -> Self {
        made.map_or(Self::None, |span| Self::Made(span.into()))
    }

    /// Makes the span that waited for the first poll. A subscriber that panics costs the run its span.
    fn make(&mut self, current: &Option<Current>, began: SystemTime) {
        let unmade = std::mem::replace(self, Self::None);
        let (Self::Unmade(details), Some(Current { recorder, task })) = (unmade, current) else { return };
        let mut details = details.map_or_else(SpanDetails::default, |details| *details);
        let made = catch_inline(false, || make_span(recorder, task, &mut details, began));
        *self = Self::of(made.ok().flatten());
    }

    fn made(&self) -> Option<&ManagedSpan> {
        match self {
            Self::Made(span) => Some(span.borrow()),
            Self::Unmade(_) | Self::None => None,
        }
    }
}

/// A run that has begun.
struct Running<S> {
    current: Option<Current>,
    span: RunSpan<S>,
    started: Instant,
    started_wall: SystemTime,
    generation: Option<NonZeroU64>,
    rare: Option<Pin<Box<Rare>>>,
    polls: PollTime,
    /// True if a panic is not printed.
    silence: bool,
}

pin_project_lite::pin_project! {
    /// The rare parts of a run, behind one pointer.
    struct Rare {
        error_rules: Option<Arc<ErrorRules>>,
        limit: Duration,
        // Ends after the limit, if there is one.
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Rare {
    #[inline]
    fn of(timeout: Option<Duration>, error_rules: Option<Arc<ErrorRules>>) -> Option<Pin<Box<Self>>> {
        if timeout.is_none() && error_rules.is_none() {
            return None;
        }
        let limit = timeout.unwrap_or_default();
        Some(Box::pin(Self { error_rules, limit, sleep: timeout.map(tokio::time::sleep) }))
    }
}

/// The guard that a run holds until it has ended.
pub(crate) trait Guard {
    /// Called before the guard is dropped with a run that was dropped.
    fn run_dropped(&self);
}

impl Guard for () {
    fn run_dropped(&self) {}
}

/// The end of a run.
pub(crate) struct Ended<T> {
    pub(crate) exit: Exit,
    /// The output; `Err` with the payload of a panic, `Err(None)` for a timeout.
    pub(crate) value: Result<T, Option<Payload>>,
    /// The run's span.
    pub(crate) span_context: Option<SpanContext>,
    /// The time from its begin to its end.
    pub(crate) took: Duration,
}

pin_project_lite::pin_project! {
    /// The future around the user's future. `C` derives the exit from the output, `G` is dropped after the run has ended. `S` is the room for
    /// the span: a box where the whole is moved into a task, and moved again with what it returns.
    #[must_use = "futures do nothing unless polled or spawned"]
    pub(crate) struct Run<F, C, G, S = Box<ManagedSpan>>
    where
        F: Future,
        C: FnOnce(&F::Output, Rules<'_>) -> Exit,
        G: Guard,
        S: SpanRoom,
    {
        #[pin]
        future: Option<F>,
        classify: Option<C>,
        running: Option<Running<S>>,
        guard: Option<G>,
    }

    impl<F, C, G, S> PinnedDrop for Run<F, C, G, S>
    where
        F: Future,
        C: FnOnce(&F::Output, Rules<'_>) -> Exit,
        G: Guard,
        S: SpanRoom,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(mut running) = this.running.take() {
                let drop_panic = running.drop_future(&mut this.future);
                this.guard.iter().for_each(Guard::run_dropped);
                running.end(&Exit::Cancellation, drop_panic);
            }
        }
    }
}

impl<F, C, G> Run<F, C, G>
where
    F: Future,
    C: FnOnce(&F::Output, Rules<'_>) -> Exit,
    G: Guard,
{
    /// A run that begins now.
    // Into the spawn, which moves it on.
    #[inline]
    pub(crate) fn begun(begin: Begin<'_>, future: F, classify: C, guard: G) -> Self {
        Self::begun_at((Instant::now(), SystemTime::now()), begin, future, classify, guard)
    }
}

impl<F, C, G, S> Run<F, C, G, S>
where
    F: Future,
    C: FnOnce(&F::Output, Rules<'_>) -> Exit,
    G: Guard,
    S: SpanRoom,
{
    /// A run that began a moment ago, on both clocks.
    #[inline]
    pub(crate) fn begun_at(
        began: (Instant, SystemTime),
        begin: Begin<'_>,
        future: F,
        classify: C,
        guard: G,
    ) -> Self {
        let running = Some(Running::start(begin, began));
        Self { future: Some(future), classify: Some(classify), running, guard: Some(guard) }
    }
}

impl<F, C, G, S> Future for Run<F, C, G, S>
where
    F: Future,
    C: FnOnce(&F::Output, Rules<'_>) -> Exit,
    G: Guard,
    S: SpanRoom,
{
    type Output = Ended<F::Output>;

    // Into the poll of the tokio task, its only caller.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(running) = this.running.as_mut() else {
            // Polled after it ended: always pending, like a fused future, rather than a panic in the user's runtime.
            return Poll::Pending;
        };
        let done = running.poll_future(&mut this.future, this.classify, cx);
        let (exit, value, drop_panicked) = match done {
            Some(done) => done,
            None => match running.poll_timeout(cx) {
                Poll::Ready(limit) => {
                    let drop_panicked = running.drop_future(&mut this.future);
                    (Exit::Timeout(limit), Err(None), drop_panicked)
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        let (span_context, took) = running.end(&exit, drop_panicked);
        *this.running = None;
        *this.guard = None;
        Poll::Ready(Ended { exit, value, span_context, took })
    }
}

/// The end of a future: the exit, the output, and true if its destructor panicked.
type Done<T> = (Exit, Result<T, Option<Payload>>, bool);

impl<S: SpanRoom> Running<S> {
    fn start(begin: Begin<'_>, (started, started_wall): (Instant, SystemTime)) -> Self {
        let Begin { recorder, task, timeout, error_rules, polls, span } = begin;
        let mut generation = None;
        let span = match span {
            SpanMade::AtOnce(details) => {
                // They are counted from 1.
                generation = details.generation.and_then(NonZeroU64::new);
                details.of_member(&task);
                RunSpan::of(make_span(&recorder, &task, details, started_wall))
            }
            SpanMade::WhenPolled(mut details) => {
                if task.member_name().is_some() {
                    details.get_or_insert_default().of_member(&task);
                }
                let is_root =
                    details.as_ref().is_none_or(|details| matches!(details.parent, SpanParent::Root));
                if details.is_none() && recorder.tracer().is_none() && nobody_listens() {
                    RunSpan::None
                // A span of a subscriber of this thread's own, or below a span that is current here, is made here.
                } else if recorder.spans_may_wait() && is_root && subscriber_is_of_process() {
                    RunSpan::Unmade(details)
                } else {
                    let mut details = details.map_or_else(SpanDetails::default, |details| *details);
                    RunSpan::of(make_span(&recorder, &task, &mut details, started_wall))
                }
            }
        };
        if task.run_started(|| recorder.at(started), started_wall) {
            recorder.registry().take_back(&task, recorder.now());
        }
        Self {
            silence: recorder.options.silence_panics,
            current: Some(Current { recorder, task }),
            span,
            started,
            started_wall,
            generation,
            rare: Rare::of(timeout, error_rules),
            polls,
        }
    }

    /// Enters a run that began at `began`: its span, and the run as the current one. Until [`Self::leave`], nothing may unwind.
    // This and `leave` are inlined, so that the guard stays in registers: each poll needs both. Not in a debug build, because each
    // future of a user would have a copy.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn enter<'a>(
        span: &'a mut RunSpan<S>,
        current: &mut Option<Current>,
        began: SystemTime,
    ) -> ManuallyDrop<Option<EnteredSpan<'a>>> {
        if matches!(span, RunSpan::Unmade(_)) {
            span.make(current, began);
        }
        let entered = span.made().map(ManagedSpan::enter);
        Current::swap(current);
        ManuallyDrop::new(entered)
    }

    /// Leaves the run. `last`: true if nothing more is called inside it.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn leave(entered: ManuallyDrop<Option<EnteredSpan<'_>>>, current: &mut Option<Current>, last: bool) {
        Current::swap(current);
        if let Some(entered) = ManuallyDrop::into_inner(entered) {
            entered.leave(last);
        }
    }

    /// Polls the user's future. When it is done, derives its exit and drops it, all inside the run.
    #[inline]
    fn poll_future<F: Future>(
        &mut self,
        future: &mut Pin<&mut Option<F>>,
        classify: &mut Option<impl FnOnce(&F::Output, Rules<'_>) -> Exit>,
        cx: &mut Context<'_>,
    ) -> Option<Done<F::Output>> {
        let before = (self.polls == PollTime::Exact).then(std::time::Instant::now);
        let Self { span, current, started_wall, rare, silence, .. } = self;
        let silence = *silence;
        let entered = Self::enter(span, current, *started_wall);
        let polled = catch_inline(silence, || match future.as_mut().as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        });
        let (exit, value) = match polled {
            Ok(Poll::Pending) => {
                Self::leave(entered, current, false);
                self.polled(before);
                return None;
            }
            Ok(Poll::Ready(output)) => {
                // The user's code may panic here, too: in `Display` of its error, or in a classification of its own.
                let exit = catch_inline(silence, || {
                    let own_rules = Rules(rare.as_ref().and_then(|rare| rare.error_rules.as_ref()));
                    classify.take().map_or(Exit::Success, |classify| classify(&output, own_rules))
                });
                (exit.unwrap_or_else(|caught| Exit::Panic(caught.panic)), Ok(output))
            }
            Err(caught) => (Exit::Panic(caught.panic), Err(Some(caught.payload))),
        };
        let drop_panicked = catch_inline(silence, || future.set(None)).is_err();
        Self::leave(entered, current, true);
        self.polled(before);
        Some((exit, value, drop_panicked))
    }

    /// Counts a poll that has ended, if its time is known. It began at `before` if each poll is timed.
    #[inline]
    fn polled(&self, before: Option<std::time::Instant>) {
        let took = match self.polls {
            PollTime::Seen => watchdog::seen_for(),
            PollTime::Exact => before.map(|before| before.elapsed()),
            PollTime::Untimed => None,
        };
        if let Some(took) = took {
            self.poll_took(took);
        }
    }

    #[inline(never)]
    fn poll_took(&self, took: Duration) {
        if let Some(current) = &self.current {
            current.task.polled(took, current.recorder.options.slow_poll);
        }
    }

    #[inline]
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(rare) = &mut self.rare else { return Poll::Pending };
        let rare = rare.as_mut().project();
        match rare.sleep.as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| *rare.limit),
            None => Poll::Pending,
        }
    }

    /// Drops the user's future inside the run. Returns true if its destructor panicked.
    fn drop_future<F>(&mut self, future: &mut Pin<&mut Option<F>>) -> bool {
        if future.is_none() {
            return false;
        }
        let entered = Self::enter(&mut self.span, &mut self.current, self.started_wall);
        let panicked = catch_inline(self.silence, || future.set(None)).is_err();
        Self::leave(entered, &mut self.current, true);
        panicked
    }

    /// Counts the run, ends its span, writes the log record of a failure.
    fn end(&mut self, exit: &Exit, drop_panicked: bool) -> (Option<SpanContext>, Duration) {
        let Self { current, span, started, started_wall, generation, .. } = self;
        let Some(current) = current.take() else { return (None, started.elapsed()) };
        let mut span = match std::mem::replace(span, RunSpan::None) {
            RunSpan::Made(span) => Some(span),
            RunSpan::Unmade(_) | RunSpan::None => None,
        };
        let span = span.as_mut().map(BorrowMut::borrow_mut);
        end(current, span, (*started, *started_wall), *generation, exit, drop_panicked)
    }
}

/// [`Running::end`] without the room for the span. The span has ended after it.
#[inline]
fn end(
    Current { recorder, task }: Current,
    mut span: Option<&mut ManagedSpan>,
    started: (Instant, SystemTime),
    generation: Option<NonZeroU64>,
    exit: &Exit,
    drop_panicked: bool,
) -> (Option<SpanContext>, Duration) {
    // Asked for only where somebody wants it: a restart's link, or the trace of the last error.
    let failed = exit.error_type().is_some();
    let wanted = failed || generation.is_some();
    let span_context = span.as_ref().filter(|_| wanted).and_then(|span| span.span_context());
    let trace_id = span_context.as_ref().filter(|_| failed).map(|context| context.trace_id().to_string());
    // A registered task's run is not kept for how long it took.
    let may_be_slow = generation.is_none();
    let exemplar = |took| {
        let span = span.as_ref()?;
        // The tracer and its span are the user's.
        catch_inline(false, || span.identity_if_exported(failed, Some(took).filter(|_| may_be_slow))).ok()?
    };
    let took = recorder.run_ended(&task, exit, started, trace_id, exemplar);
    // The subscriber and the exporter are not ours: a panic in them is printed, and costs neither the figures nor the task.
    let ended = catch_inline(false, || {
        if let Some(span) = &span {
            span.record(key::RESULT, exit.kind().as_str());
            if drop_panicked {
                span.set_attribute(KeyValue::new(key::DROP_PANICKED, true));
            }
        }
        if exit.kind() != ExitKind::Success {
            let message = exit.message();
            if let Some(error_type) = exit.error_type() {
                span.iter().for_each(|span| span.record(key::ERROR_TYPE, error_type));
                let trace = span.as_ref().and_then(|span| span.otel_context());
                log_exception(&task, exit, error_type, &message, generation, trace);
            }
            span.iter().for_each(|span| span.fail(&message));
        }
        if let Some(span) = &mut span {
            span.take().end();
        }
    });
    if ended.is_err() {
        // The span is still in its room. Its subscriber may panic again.
        let _ = catch(false, || drop(span.map(ManagedSpan::take)));
    }
    (span_context, took)
}

impl SpanDetails {
    /// The name as given is the member's, unless the caller gave another.
    #[inline]
    fn of_member(&mut self, task: &Task) {
        if self.given_name.is_none() {
            self.given_name = task.member_name().map(str::to_owned);
        }
    }
}

/// Makes the span of a run that began at `began`. Returns `None` if no subscriber and no tracer takes it.
fn make_span(
    recorder: &Recorder,
    task: &Task,
    details: &mut SpanDetails,
    began: SystemTime,
) -> Option<ManagedSpan> {
    let SpanDetails { given_name, generation, iteration, late, term, parent, links } = details;
    let number = |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    let (generation, iteration, term) = (number(*generation), number(*iteration), number(*term));
    let late = late.map(|late| late.as_secs_f64());
    let identity = &task.metered().identity;
    let (span, taken) = offer(recorder.options.span_path, || {
        managed_span!(parent, contract::SPAN_RUN, {
            // First, because they are searched by name when the run ends.
            { key::RESULT } = tracing::field::Empty,
            { key::ERROR_TYPE } = tracing::field::Empty,
            { key::NAME } = &*identity.name,
            { key::CATEGORY } = identity.category.as_str(),
            { key::PRIORITY } = identity.priority.as_str(),
            { key::COMPONENT } = identity.component.as_deref(),
            { key::GIVEN_NAME } = given_name.as_deref(),
            { key::GENERATION } = generation,
            { key::ITERATION } = iteration,
            { key::SCHEDULE_DELAY } = late,
            { key::LEASE_TERM } = term,
        })
    });
    recorder.let_spans_wait(taken);
    if span.is_none() && recorder.tracer().is_none() && installed().is_none() && parent.is_root() {
        return None;
    }
    if let Some(link) = environment().filter(|_| parent.is_root()) {
        links.push(link.clone());
    }
    let attributes = || {
        let numbers = [generation, iteration, term];
        let said = numbers.iter().flatten().count();
        let said = said + usize::from(given_name.is_some()) + usize::from(late.is_some());
        // With room for the result and the error's type.
        let mut attributes = task.new_attributes(said + 2);
        if let Some(name) = given_name {
            attributes.push(KeyValue::new(key::GIVEN_NAME, name.clone()));
        }
        if let Some(number) = generation {
            attributes.push(KeyValue::new(key::GENERATION, number));
        }
        if let Some(number) = iteration {
            attributes.push(KeyValue::new(key::ITERATION, number));
        }
        if let Some(late) = late {
            attributes.push(KeyValue::new(key::SCHEDULE_DELAY, late));
        }
        if let Some(number) = term {
            attributes.push(KeyValue::new(key::LEASE_TERM, number));
        }
        attributes
    };
    let start = SpanStart {
        parent,
        links: std::mem::take(links),
        own_tracer: recorder.tracer(),
        name: contract::SPAN_RUN.into(),
        began: Some(began),
        attributes,
    };
    Some(start.start_offered((span, taken), recorder.options.span_path))
}

fn log_exception(
    task: &Task,
    exit: &Exit,
    error_type: &'static str,
    message: &str,
    generation: Option<NonZeroU64>,
    trace: Option<OtelContext>,
) {
    let generation = generation.map(|number| i64::try_from(number.get()).unwrap_or(i64::MAX));
    with_trace(trace, || {
        tracing::event!(
            name: record::EXCEPTION,
            target: contract::SCOPE,
            parent: None,
            tracing::Level::ERROR,
            { key::NAME } = &*task.metered().identity.name,
            { key::GIVEN_NAME } = task.member_name(),
            { key::COMPONENT } = task.identity.component.as_deref(),
            { key::RESULT } = exit.kind().as_str(),
            { key::GENERATION } = generation,
            { key::EXCEPTION_TYPE } = error_type,
            { key::EXCEPTION_MESSAGE } = message,
            "run of task {} failed: {message}", task.identity.name,
        );
    });
}
