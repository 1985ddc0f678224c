//! One iteration: its run, further tries, and the hooks after it.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use opentelemetry::{
    Context as OtelContext,
    trace::{SpanContext, TraceContextExt},
};
use tokio::time::{Instant, sleep};

use crate::{
    emit::DelaySeries,
    engine::{
        GatedBody, Life, LifeEnd, TaskContext, TaskEventKind, Work,
        announce::Announcer,
        loops::{
            control::Awaits,
            outcome::LoopOutcome,
            task_loop::{OnError, Parts},
        },
        shared::Shared,
        supervision::supervised::Supervised,
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
    /// True if the loop continues after it.
    pub(super) goes_on: bool,
    /// For who has asked for it: sent once another may be asked for.
    pub(super) reply: Option<Box<(Awaits, LoopOutcome)>>,
}

pub(super) type Iteration = Pin<Box<dyn Future<Output = Settled> + Send>>;

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

    /// Begins a due or requested iteration. Behind a gate, a due iteration is claimed first.
    pub(super) fn begin(
        self: &Arc<Self>,
        iteration: u64,
        cause: Cause,
        links: Vec<SpanContext>,
        delays: &mut DelaySeries,
    ) -> Iteration {
        match (cause, self.life.context.pass()) {
            (Cause::Due(begins), Some(pass)) => {
                Box::pin(self.clone().claim(iteration, begins, links, pass.clone()))
            }
            (cause, _) => self.run(iteration, cause, links, delays),
        }
    }

    /// Runs an iteration if its due time is this holder's.
    async fn claim(
        self: Arc<Self>,
        iteration: u64,
        begins: Begins,
        links: Vec<SpanContext>,
        pass: Pass,
    ) -> Settled {
        let skipped = Settled { exit: Exit::Success, span_context: None, goes_on: true, reply: None };
        let Some(gated) = self.life.supervised.body.gated() else { return skipped };
        match self.at_gate(gated, gated.gate().begin(&pass, begins.due)).await {
            None | Some(Claim::Done) => skipped,
            Some(Claim::Won) => {
                let run = self.run(iteration, Cause::Due(begins), links, &mut DelaySeries::default());
                let settled = run.await;
                self.at_gate(gated, gated.gate().end(&pass, begins.due, settled.exit.kind())).await;
                settled
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

    fn run(
        self: &Arc<Self>,
        iteration: u64,
        cause: Cause,
        links: Vec<SpanContext>,
        delays: &mut DelaySeries,
    ) -> Iteration {
        let (begins, awaits) = match cause {
            Cause::Due(begins) => (Some(begins), None),
            Cause::Asked(awaits) => (None, Some(awaits)),
        };
        let late = begins.map(|begins| begins.late);
        let Life { shared, supervised, context, .. } = &self.life;
        let began = Instant::now();
        supervised.signals.heartbeat(context.generation(), || began);
        if let (Some(late), Some(exposition)) = (late, &*shared.recorder.exposition()) {
            exposition.instruments.schedule_delay.record(delays, &supervised.task, late.as_secs_f64());
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
        let run = Run::begun_at(
            began,
            begin,
            self.life.until_ready(work),
            |exit: &Exit, _: Rules<'_>| exit.clone(),
            (),
        );
        let untold = Untold::begin(&self.life, iteration, began);
        let living = self.clone();
        Box::pin(async move {
            let Ended { exit, span_context, at, .. } = run.await;
            untold.tell(&exit, at, span_context.as_ref());
            let duration = at.saturating_duration_since(began);
            let due = begins.map(|begins| begins.due);
            let trigger = begins.map_or(Trigger::Manual, |begins| begins.trigger);
            let outcome = LoopOutcome { iteration, due, trigger, exit, duration };
            let reply = awaits.map(|awaits| Box::new((awaits, outcome.clone())));
            let settled = living.settle(outcome, span_context).await;
            Settled { reply, ..settled }
        })
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

    async fn stopped(&self) {
        while !self.is_stopped() {
            self.parts.control.changed().await;
        }
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
        let Ended { exit, span_context, at, .. } =
            Run::begun_at(began, begin, work, |exit: &Exit, _: Rules<'_>| exit.clone(), ()).await;
        let duration = at.saturating_duration_since(began);
        shared.tell(supervised, || TaskEventKind::Exited { exit: exit.clone(), duration, iteration: None });
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

    async fn settle(&self, outcome: LoopOutcome, span_context: Option<SpanContext>) -> Settled {
        let Life { supervised, context, .. } = &self.life;
        if outcome.exit == Exit::Success && !supervised.signals.is_ready() {
            // A loop that has done its work once is ready, whether it says so or not.
            context.ready();
        }
        let exit = outcome.exit.clone();
        {
            let mut state = self.parts.control.state();
            state.last_result = Some(exit.clone());
            if let Some(due) = outcome.due {
                // Of several at once the latest.
                let before = state.last_run.filter(|_| matches!(self.parts.overlap, OverlapPolicy::Allow(_)));
                state.last_run = Some(before.map_or(due, |before| before.max(due)));
            }
        }
        let failed = exit.error_type().is_some();
        if exit == Exit::Success {
            supervised.iteration_succeeded();
        }
        // The whole life is late, not this iteration alone.
        let is_late = failed && self.life.is_late();
        if let Some(hook) = &self.parts.after_iteration {
            self.hook("after_iteration", hook(outcome.clone())).await;
        }
        let decided = match &self.parts.on_error {
            Some(hook) if failed => self.hook("on_error", hook(outcome)).await,
            _ => None,
        };
        let goes_on = !is_late && !exit.is_permanent() && decided != Some(OnError::End);
        Settled { exit, span_context, goes_on, reply: None }
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

/// An iteration that has begun, with an end that has not been reported. It is dropped with its run, so the end of each iteration is
/// reported, also of a run that is dropped before its first poll.
pub(crate) struct Untold {
    shared: Arc<Shared>,
    supervised: Arc<Supervised>,
    generation: u64,
    began: Instant,
    iteration: u64,
    ended: Option<(Exit, Instant)>,
}

impl Untold {
    pub(crate) fn begin(life: &Life, iteration: u64, began: Instant) -> Self {
        Self {
            shared: life.shared.clone(),
            supervised: life.supervised.clone(),
            generation: life.context.generation(),
            began,
            iteration,
            ended: None,
        }
    }

    /// Reports the end of the run.
    pub(crate) fn tell(mut self, exit: &Exit, at: Instant, run: Option<&SpanContext>) {
        if exit.error_type().is_some() {
            let trace = run.map(|run| OtelContext::new().with_remote_span_context(run.clone()));
            Announcer { trace, ..self.shared.announcer(&self.supervised, self.generation) }.run_ended(exit);
        }
        self.ended = Some((exit.clone(), at));
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        let ended = self.ended.take();
        self.shared.events.tell(Some(self.supervised.name()), self.generation, || {
            let (exit, at) = ended.unwrap_or_else(|| (Exit::Cancellation, Instant::now()));
            let duration = at.saturating_duration_since(self.began);
            TaskEventKind::Exited { exit, duration, iteration: Some(self.iteration) }
        });
    }
}
