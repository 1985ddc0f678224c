//! One iteration: its run, further tries, and the hooks after it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, TraceContextExt},
};
use tokio::time::{Instant, sleep};

use crate::{
    emit::{DelaySeries, ManagedSpan},
    engine::{
        GatedBody, Life, LifeEnd, TaskContext, TaskEventKind, Work,
        announce::Announcer,
        loops::{
            control::{Awaits, State},
            outcome::LoopOutcome,
            task_loop::{OnError, Parts},
        },
    },
    gate::{Claim, Pass},
    policy::{Exit, Failure},
    run::{Begin, Ended, Guarded, Rules, Run, SpanDetails, SpanMade},
    timetable::{Begins, OverlapPolicy, Trigger},
};

/// The time for an answer of the gate after a stop request. A claim that is given up may be won, and its due time is lost then.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The state that the iterations of one life share.
pub(super) struct Living {
    pub(super) parts: Arc<Parts>,
    pub(super) life: Life,
}

/// The reason why an iteration begins.
pub(super) enum Cause {
    Due(Begins),
    Asked(Awaits),
}

/// An iteration that has ended.
pub(super) struct Settled {
    pub(super) exit: Exit,
    pub(super) span_context: Option<SpanContext>,
    pub(super) began: Instant,
    /// The time from its begin to its end, hooks included.
    pub(super) took: Duration,
    /// The time that it was due at, unless it was asked for.
    pub(super) due: Option<SystemTime>,
    /// True if the handles of the loop already know its result.
    pub(super) noted: bool,
    /// True if the loop continues after it.
    pub(super) goes_on: bool,
    /// For who has asked for it: sent once another may be asked for.
    pub(super) reply: Option<Box<(Awaits, LoopOutcome)>>,
}

/// A part of an iteration, of any kind.
type Part<'a> = Pin<Box<dyn Future<Output = Settled> + Send + 'a>>;

/// An iteration that has begun, or asks its gate first.
pub(super) enum Iteration<'a> {
    Underway(Pin<Box<Underway<'a>>>),
    Claiming(Part<'a>),
}

impl Iteration<'_> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Settled> {
        match self {
            Self::Underway(underway) => underway.as_mut().poll(cx),
            Self::Claiming(claiming) => claiming.as_mut().poll(cx),
        }
    }
}

impl Living {
    /// Continues after the last iteration of the lease's last holder.
    pub(super) async fn take_over(&self, pass: &Pass) {
        let Some(gated) = self.life.supervised.body.gated() else { return };
        if let Some(last_run) = gated.last_run() {
            let mut state = self.parts.control.state();
            state.account.take_over(last_run);
            state.last_run = state.last_run.max(Some(last_run));
        } else {
            // What comes meanwhile is due.
            let now = self.life.supervised.wall_clock();
            self.parts.control.state().account.open(now);
            // The life itself waits.
            gated.iterations.all_wait(1);
            self.at_gate(gated, gated.gate().began(pass, now)).await;
        }
    }

    /// Begins a due or requested iteration, in the box of an ended one if there is one. Behind a gate, a due iteration is claimed first.
    pub(super) fn begin<'a>(
        self: &'a Arc<Self>,
        iteration: u64,
        began: (Instant, SystemTime),
        cause: Cause,
        links: Vec<SpanContext>,
        delays: &mut DelaySeries,
        ended: &mut Option<Pin<Box<Underway<'a>>>>,
    ) -> Iteration<'a> {
        match (cause, self.life.context.pass()) {
            (Cause::Due(begins), Some(pass)) => {
                Iteration::Claiming(Box::pin(self.claim(iteration, begins, links, pass)))
            }
            (cause, _) => Iteration::Underway(self.run(iteration, began, cause, links, delays, ended)),
        }
    }

    /// Runs an iteration if its due time is this holder's.
    async fn claim(
        self: &Arc<Self>,
        iteration: u64,
        begins: Begins,
        links: Vec<SpanContext>,
        pass: &Pass,
    ) -> Settled {
        let skipped = || {
            let (began, took) = (Instant::now(), Duration::ZERO);
            let (due, noted) = (Some(begins.due), true);
            let exit = Exit::Success;
            Settled { exit, span_context: None, began, took, due, noted, goes_on: true, reply: None }
        };
        let Some(gated) = self.life.supervised.body.gated() else { return skipped() };
        match self.at_gate(gated, gated.gate().begin(pass, begins.due)).await {
            None | Some(Claim::Done) => skipped(),
            Some(Claim::Won) => {
                let (began, cause) = ((Instant::now(), SystemTime::now()), Cause::Due(begins));
                let delays = &mut DelaySeries::default();
                let settled = self.run(iteration, began, cause, links, delays, &mut None).await;
                self.at_gate(gated, gated.gate().end(pass, begins.due, settled.exit.kind())).await;
                Settled { took: settled.began.elapsed(), ..settled }
            }
            Some(Claim::Lost) => {
                pass.lose();
                // The driver drops it.
                std::future::pending().await
            }
        }
    }

    /// Waits for the gate's answer, without a sign of life. Returns `None` if the loop is requested to stop and no answer has come a moment later.
    async fn at_gate<T>(&self, gated: &GatedBody, answer: impl Future<Output = T>) -> Option<T> {
        let _at_gate = AtGate::begin(&self.life, gated);
        let stopped = async {
            tokio::select! {
                () = self.life.context.cancelled() => {}
                () = self.stopped() => {}
            }
            sleep(ANSWER_WITHIN).await;
        };
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = stopped => None,
        }
    }

    fn run<'a>(
        self: &'a Arc<Self>,
        iteration: u64,
        began: (Instant, SystemTime),
        cause: Cause,
        links: Vec<SpanContext>,
        delays: &mut DelaySeries,
        ended: &mut Option<Pin<Box<Underway<'a>>>>,
    ) -> Pin<Box<Underway<'a>>> {
        let (begins, awaits) = match cause {
            Cause::Due(begins) => (Some(begins), None),
            Cause::Asked(awaits) => (None, Some(awaits)),
        };
        let late = begins.map(|begins| begins.late);
        let Life { shared, supervised, context, .. } = &self.life;
        supervised.signals.heartbeat(context.generation(), || began.0);
        if let Some(late) = late {
            shared.recorder.iteration_delayed(delays, &supervised.task, late);
        }
        let mut details = SpanDetails {
            generation: Some(context.generation()),
            iteration: Some(iteration),
            late,
            term: context.pass().map(Pass::term),
            links,
            ..SpanDetails::default()
        };
        let begin = Begin {
            recorder: shared.recorder.here(),
            task: supervised.task.clone(),
            timeout: supervised.spec.run_timeout,
            error_rules: None,
            polls: shared.recorder.polls(),
            span: SpanMade::AtOnce(&mut details),
        };
        let context = context.of_iteration(iteration);
        let work = match &self.parts.retry {
            None => self.work(context),
            Some(_) => Box::pin(self.clone().tries(context)),
        };
        let work = self.life.until_ready(work);
        let mut underway = ended.take().unwrap_or_else(|| Box::pin(Underway::new(self, began.0)));
        let mut this = underway.as_mut().project();
        (*this.iteration, *this.began) = (iteration, began.0);
        (*this.begins, *this.awaits) = (begins, awaits);
        let exit_of: ExitOf = |exit, _| exit.clone();
        this.run.set(Some(Run::begun_at(began, begin, work, exit_of, ())));
        underway
    }

    fn work(&self, context: TaskContext) -> Work {
        self.parts.factory.clone().make(context, self.life.supervised.rules().cloned())
    }

    /// Works until it succeeds, or is not to be tried again.
    async fn tries(self: Arc<Self>, context: TaskContext) -> Exit {
        let mut delay = Duration::ZERO;
        let mut failures = 0;
        loop {
            let exit = self.work(context.clone()).await;
            let (Exit::Failure(failure), Some(retry)) = (&exit, &self.parts.retry) else { return exit };
            failures += 1;
            if context.is_cancelled() || self.is_stopped() || !retry.tries_again(failures, failure) {
                return exit;
            }
            let random = (self.life.shared.settings.random)();
            delay = retry.backoff.delay(failures - 1, delay, random);
            self.tell_retry(&context, failure, delay);
            self.life.supervised.signals.set_sleeping(true);
            tokio::select! {
                biased;
                () = context.cancelled() => return exit,
                () = self.stopped() => return exit,
                () = sleep(delay) => {}
            }
            self.life.supervised.signals.heartbeat(context.generation(), Instant::now);
            self.life.supervised.signals.set_sleeping(false);
        }
    }

    /// Returns true if the loop was requested to finish.
    fn is_stopped(&self) -> bool {
        self.parts.control.state().stop_requested().is_some()
    }

    /// Waits until the loop is requested to finish, which wakes its driver.
    async fn stopped(&self) {
        poll_fn(|_| if self.is_stopped() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// The life ends before its first iteration, with an error of the hook that began then.
    pub(super) async fn fail(&self, exit: Exit, began: Instant, links: Vec<SpanContext>) -> LifeEnd {
        let Life { shared, supervised, context, .. } = &self.life;
        let unheard = self.parts.control.state().refuse();
        drop(unheard);
        let generation = Some(context.generation());
        let mut details = SpanDetails { generation, links, ..SpanDetails::default() };
        let begin = Begin {
            recorder: shared.recorder.here(),
            task: supervised.task.clone(),
            timeout: None,
            error_rules: None,
            polls: shared.recorder.polls(),
            span: SpanMade::AtOnce(&mut details),
        };
        let work = std::future::ready(exit);
        let Ended { exit, span_context, took, .. } = Run::<_, _, _, ManagedSpan>::begun_at(
            (began, SystemTime::now()),
            begin,
            work,
            |exit: &Exit, _: Rules<'_>| exit.clone(),
            (),
        )
        .await;
        shared.tell(supervised, || TaskEventKind::Exited {
            exit: exit.clone(),
            duration: took,
            iteration: None,
        });
        let mut state = self.parts.control.state();
        state.failed = true;
        state.last_result = Some(exit.clone());
        LifeEnd { exit, finished: state.stop_requested().is_some(), span_context }
    }

    fn tell_retry(&self, context: &TaskContext, failure: &Failure, delay: Duration) {
        let Life { shared, supervised, .. } = &self.life;
        let iteration = context.iteration().unwrap_or_default();
        let announcer = shared.announcer(supervised, supervised.signals.generation());
        announcer.iteration_retried(iteration, failure, delay);
    }

    /// Records the end of an iteration. Returns true if the loop continues, unless a hook decides otherwise.
    fn settle(&self, exit: &Exit) -> bool {
        let Life { supervised, context, .. } = &self.life;
        let succeeded = *exit == Exit::Success;
        if succeeded && !supervised.signals.is_ready() {
            // A loop that has done its work once is ready, whether it says so or not.
            context.ready();
        }
        if succeeded {
            supervised.iteration_succeeded();
        }
        // The whole life is late, not this iteration alone.
        let is_late = exit.error_type().is_some() && self.life.is_late();
        !is_late && !exit.is_permanent()
    }

    /// Notes the result of an iteration for the handles of the loop, once.
    pub(super) fn note(&self, state: &mut State, settled: &mut Settled) {
        if std::mem::replace(&mut settled.noted, true) {
            return;
        }
        state.last_result = Some(settled.exit.clone());
        if let Some(due) = settled.due {
            // Of several at once the latest.
            let before = state.last_run.filter(|_| matches!(self.parts.overlap, OverlapPolicy::Allow(_)));
            state.last_run = Some(before.map_or(due, |before| before.max(due)));
        }
    }

    /// Returns true if a hook is to be called after an iteration.
    fn has_hook(&self, exit: &Exit) -> bool {
        self.parts.after_iteration.is_some() || self.parts.on_error.is_some() && exit.error_type().is_some()
    }

    /// Calls the hooks after an iteration.
    async fn after(&self, outcome: LoopOutcome, settled: Settled) -> Settled {
        let failed = outcome.exit.error_type().is_some();
        if let Some(hook) = &self.parts.after_iteration {
            self.hook("after_iteration", hook(outcome.clone())).await;
        }
        let decided = match &self.parts.on_error {
            Some(hook) if failed => self.hook("on_error", hook(outcome)).await,
            _ => None,
        };
        let goes_on = settled.goes_on && decided != Some(OnError::End);
        Settled { took: settled.began.elapsed(), goes_on, ..settled }
    }

    pub(super) async fn hook<T>(
        &self,
        name: &'static str,
        hook: Pin<Box<dyn Future<Output = T> + Send>>,
    ) -> Option<T> {
        match Guarded::new(self.life.shared.recorder.options.silence_panics, hook).await {
            Ok(value) => Some(value),
            Err(panic) => {
                let Life { shared, supervised, .. } = &self.life;
                shared.announcer(supervised, supervised.signals.generation()).hook_panicked(name, panic);
                None
            }
        }
    }
}

/// An iteration that waits for its gate. A loop of which all iterations wait for it is not silent.
struct AtGate<'a> {
    life: &'a Life,
    gated: &'a GatedBody,
}

impl<'a> AtGate<'a> {
    fn begin(life: &'a Life, gated: &'a GatedBody) -> Self {
        life.supervised.signals.heartbeat(life.context.generation(), Instant::now);
        life.supervised.signals.set_sleeping(gated.iterations.wait());
        Self { life, gated }
    }
}

impl Drop for AtGate<'_> {
    fn drop(&mut self) {
        self.gated.iterations.go_on();
        self.life.supervised.signals.heartbeat(self.life.context.generation(), Instant::now);
        self.life.supervised.signals.set_sleeping(false);
    }
}

/// Derives the exit of an iteration's run.
type ExitOf = fn(&Exit, Rules<'_>) -> Exit;

pin_project_lite::pin_project! {
    /// An iteration under way: its run, and then the hooks after it. Not an `async` block, which would move the run once more.
    pub(super) struct Underway<'a> {
        living: &'a Living,
        iteration: u64,
        began: Instant,
        begins: Option<Begins>,
        awaits: Option<Awaits>,
        // `None` once its end is reported.
        #[pin]
        run: Option<Run<Work, ExitOf, (), ManagedSpan>>,
        hooks: Option<Part<'a>>,
    }

    impl<'a> PinnedDrop for Underway<'a> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.run.is_some() {
                // The run ends first. The end of each iteration is reported, also of a run that is dropped before its first poll.
                this.run.set(None);
                this.living.tell_exited(*this.iteration, &Exit::Cancellation, this.began.elapsed());
            }
        }
    }
}

impl<'a> Underway<'a> {
    /// The room for an iteration.
    fn new(living: &'a Living, began: Instant) -> Self {
        Self { living, iteration: 0, began, begins: None, awaits: None, run: None, hooks: None }
    }
}

impl Future for Underway<'_> {
    type Output = Settled;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Settled> {
        let mut this = self.project();
        if this.hooks.is_some() {
            return poll_hooks(this.hooks, cx);
        }
        let Some(run) = this.run.as_mut().as_pin_mut() else { return Poll::Pending };
        let Ended { exit, span_context, took, .. } = ready!(run.poll(cx));
        this.run.set(None);
        let (living, iteration, began) = (*this.living, *this.iteration, *this.began);
        living.tell_failed(&exit, span_context.as_ref());
        living.tell_exited(iteration, &exit, took);
        let due = this.begins.map(|begins| begins.due);
        let goes_on = living.settle(&exit);
        let noted = false;
        let mut settled = Settled { exit, span_context, began, took, due, noted, goes_on, reply: None };
        let outcome = |exit: &Exit| LoopOutcome {
            iteration,
            due,
            trigger: this.begins.map_or(Trigger::Manual, |begins| begins.trigger),
            exit: exit.clone(),
            duration: took,
        };
        settled.reply = this.awaits.take().map(|awaits| Box::new((awaits, outcome(&settled.exit))));
        let has_hook = living.has_hook(&settled.exit);
        // A hook may read the result, and a gate may take its time. Otherwise the life notes it at once.
        if has_hook || living.life.context.pass().is_some() {
            living.note(&mut living.parts.control.state(), &mut settled);
        }
        if !has_hook {
            return Poll::Ready(settled);
        }
        let outcome = outcome(&settled.exit);
        *this.hooks = Some(Box::pin(living.after(outcome, settled)));
        poll_hooks(this.hooks, cx)
    }
}

/// Polls the hooks after an iteration, and drops them when they have ended.
fn poll_hooks(hooks: &mut Option<Part<'_>>, cx: &mut Context<'_>) -> Poll<Settled> {
    let Some(polled) = hooks else { return Poll::Pending };
    let settled = ready!(polled.as_mut().poll(cx));
    *hooks = None;
    Poll::Ready(settled)
}

impl Living {
    /// Writes the log record of a run that has failed.
    fn tell_failed(&self, exit: &Exit, run: Option<&SpanContext>) {
        if exit.error_type().is_some() {
            let Life { shared, supervised, context, .. } = &self.life;
            let trace = run.map(|run| OtelContext::new().with_remote_span_context(run.clone()));
            let announcer = shared.announcer(supervised, context.generation());
            Announcer { trace, ..announcer }.run_ended(exit);
        }
    }

    /// Reports the end of an iteration.
    fn tell_exited(&self, iteration: u64, exit: &Exit, duration: Duration) {
        let Life { shared, supervised, context, .. } = &self.life;
        shared.events.tell(Some(supervised.name()), context.generation(), || TaskEventKind::Exited {
            exit: exit.clone(),
            duration,
            iteration: Some(iteration),
        });
    }
}
