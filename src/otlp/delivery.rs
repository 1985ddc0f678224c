//! One request after another on its way to the receiver: kept while there is room, split where it is too large.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    batch::{Patience, Settled, Waiting},
    ledger::Signal,
    parcel::Parcel,
    transport::{Answer, Cause, Failure, Transport},
};
use crate::policy::Backoff;

/// Makes one attempt.
pub(super) trait Attempts: Send {
    fn attempt(&mut self, parcel: &Parcel) -> Answer;
}

impl Attempts for Arc<Transport> {
    fn attempt(&mut self, parcel: &Parcel) -> Answer {
        Transport::attempt(self, parcel)
    }
}

/// Delivers requests, and remembers between them how the receiver does.
pub(super) struct Delivery<A> {
    attempts: A,
    /// Failed attempts since the last success.
    failed: u32,
    /// Before this there is no attempt.
    pause: Option<Pause>,
    /// The last failure since the last success.
    last: Option<Failure>,
}

/// A time without attempts.
#[derive(Clone, Copy)]
struct Pause {
    until: Instant,
    /// True if the receiver asked for it.
    is_asked: bool,
}

/// The longest pause. A receiver that requests a longer one gets a request after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// If this number of single items of a batch are too large, and none was taken, the receiver takes nothing.
const TOO_LARGE_IN_A_ROW: u32 = 8;

impl<A: Attempts> Delivery<A> {
    pub(super) fn new(attempts: A) -> Self {
        Self { attempts, failed: 0, pause: None, last: None }
    }

    /// Delivers a request, or what the receiver takes of it.
    ///
    /// An attempt that may succeed later is repeated as long as `waiting` allows. The waits grow from 0.1 to 5 s, and half of
    /// each is random.
    pub(super) fn deliver(&mut self, parcel: Parcel, waiting: &dyn Waiting) -> Settled {
        let signal = parcel.signal;
        let mut settled = Settled::default();
        let mut parts = vec![parcel];
        let mut too_large_in_a_row = 0;
        while let Some(part) = parts.pop() {
            match self.persist(&part, waiting) {
                End::Taken { rejected, words } => {
                    too_large_in_a_row = 0;
                    if settled.take(&part, rejected, &words) {
                        waiting.delivered();
                    }
                }
                End::TooLarge(failure) => match part.split() {
                    // The first half last, so that it is the next.
                    Some([first, second]) if too_large_in_a_row < TOO_LARGE_IN_A_ROW => {
                        parts.extend([second, first])
                    }
                    Some(_) => settled.fail(&part, failure),
                    None => {
                        too_large_in_a_row += 1;
                        settled.drop_too_large(&part, failure);
                    }
                },
                End::Failed(failure) => settled.fail(&part, failure),
                // The rest stays pending, and of a collection of metrics there is no rest.
                End::Abandoned if signal == Signal::Metrics => return Settled::default(),
                End::Abandoned => return settled,
            }
        }
        settled
    }

    fn persist(&mut self, part: &Parcel, waiting: &dyn Waiting) -> End {
        let mut is_first = true;
        loop {
            if let Some(Pause { until, is_asked }) = self.pause {
                let left = until.saturating_duration_since(Instant::now());
                match waiting.wait(left, is_asked) {
                    Patience::Again => {}
                    // Each batch has an attempt, unless the receiver asked for none.
                    Patience::GiveUp if is_first && !is_asked => {}
                    Patience::GiveUp => {
                        return End::Failed(self.last.clone().unwrap_or_else(|| throttled(part)));
                    }
                    Patience::Abandoned => return End::Abandoned,
                }
            }
            if !waiting.begins() {
                return End::Abandoned;
            }
            is_first = false;
            self.pause = None;
            match self.attempts.attempt(part) {
                Answer::Taken { rejected, words } => {
                    (self.failed, self.last) = (0, None);
                    return End::Taken { rejected, words };
                }
                Answer::TooLarge(failure) => return End::TooLarge(failure),
                Answer::Refused(failure) => {
                    waiting.failed(&failure);
                    return End::Failed(failure);
                }
                Answer::Again(failure, wait) => {
                    waiting.failed(&failure);
                    let delay = Backoff::growing(Duration::from_millis(100), Duration::from_secs(5)).delay(
                        self.failed,
                        Duration::ZERO,
                        fastrand::f64(),
                    );
                    let asked = wait.unwrap_or_default().min(LONGEST_WAIT);
                    let until = Instant::now() + delay.max(asked);
                    self.pause = Some(Pause { until, is_asked: asked > delay });
                    self.failed = self.failed.saturating_add(1);
                    self.last = Some(failure);
                }
            }
        }
    }
}

fn throttled(part: &Parcel) -> Failure {
    let text = format!("the receiver of {} asked for a pause", part.signal.as_str());
    Failure::new(&"".into(), Cause::Other(text))
}

enum End {
    Taken { rejected: u64, words: String },
    TooLarge(Failure),
    Failed(Failure),
    Abandoned,
}

impl Settled {
    /// Counts what was taken and what was rejected; false if all was rejected.
    fn take(&mut self, part: &Parcel, rejected: u64, words: &str) -> bool {
        let (of, items) = match part.signal {
            // Counted where it matters alone: the request has to be read again for it.
            Signal::Metrics => (if rejected > 0 { part.points() } else { None }, "data points"),
            Signal::Traces => (Some(part.items), "spans"),
            Signal::Logs => (Some(part.items), "records"),
        };
        let count = rejected.min(of.unwrap_or(u64::MAX));
        let is_taken = count == 0 || of != Some(count);
        if part.signal == Signal::Metrics {
            self.rejected_points = self.rejected_points.saturating_add(count);
            if self.failed + self.too_large == 0 {
                // Of a collection that was split, every part must be taken; and something of it.
                let is_taken = is_taken || self.exported > 0;
                (self.exported, self.rejected) = (u64::from(is_taken), u64::from(!is_taken));
            }
        } else {
            self.rejected += count;
            self.exported += part.items - count;
        }
        if rejected > 0 {
            let failure = Failure::new(&"".into(), Cause::Rejected { count, of, items }).saying(words);
            self.error.get_or_insert(failure);
        }
        if !words.is_empty() {
            self.words = words.to_owned();
        }
        is_taken
    }

    fn fail(&mut self, part: &Parcel, failure: Failure) {
        self.lose(part, failure, |settled| &mut settled.failed);
    }

    fn drop_too_large(&mut self, part: &Parcel, failure: Failure) {
        let cause = Cause::TooLarge(part.body.len() as u64);
        let failure = Failure { cause, ..failure };
        self.lose(part, failure, |settled| &mut settled.too_large);
    }

    fn lose(&mut self, part: &Parcel, failure: Failure, count: impl FnOnce(&mut Self) -> &mut u64) {
        if part.signal == Signal::Metrics {
            // One item, however many of its parts are lost.
            (self.exported, self.failed, self.too_large, self.rejected) = (0, 0, 0, 0);
            *count(self) = 1;
        } else {
            *count(self) += part.items;
        }
        self.error = Some(failure);
    }
}

#[cfg(test)]
mod tests;
