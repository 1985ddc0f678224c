//! The suite that every store must pass, for the tests of a store.
//!
//! [`check`] is given two handles of one store, as two processes have them, and panics where the store does not keep its
//! [guarantees](crate::LeaseStore). It takes about 20 times the ttl, in the runtime's time.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! use otel_tasks_lease::{conformance, testing::Memory};
//! let store = Memory::new();
//! conformance::check(&store.clone(), &store, std::time::Duration::from_secs(3)).await;
//! # }
//! ```

use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, SystemTime},
};

use otel_tasks::gate::Claim;
use tokio::time::sleep;

use crate::store::{Answer, Ask, Held, LeaseStore, Renewed, StoreError};

/// The ttl of leases that do not end, in ttls of the suite.
const LASTING: u32 = 60;
/// The maximum by which a due time may be shown later than it was claimed.
const LATER: Duration = Duration::from_millis(1);

/// Checks a store through two of its handles.
///
/// The ttl should be long against the store's own delays: a second for one on the network.
///
/// # Panics
/// If the store fails, or does not keep a guarantee. The message names it.
pub async fn check<A: LeaseStore, B: LeaseStore>(first: &A, second: &B, ttl: Duration) {
    let suite = Suite { first, second, ttl, run: RandomState::new().build_hasher().finish() };
    suite.a_lease_has_one_holder().await;
    suite.a_renewed_lease_is_kept().await;
    suite.a_lease_that_is_over_is_lost().await;
    suite.a_released_lease_is_free().await;
    suite.a_request_whose_answer_was_lost_gets_it_again().await;
    suite.a_due_time_is_claimed_once().await;
    suite.many_are_renewed_together().await;
    suite.one_of_many_candidates_is_granted().await;
    suite.a_dropped_request_breaks_nothing().await;
    suite.terms_grow().await;
}

struct Suite<'a, A, B> {
    first: &'a A,
    second: &'a B,
    ttl: Duration,
    run: u64,
}

/// The grant of a request, or a panic.
async fn granted(store: &impl LeaseStore, ask: &Ask) -> (Held, Option<SystemTime>) {
    match asked(store, ask).await {
        Answer::Granted { term, last_run } => (Held { ask: ask.clone(), term }, last_run),
        held @ Answer::HeldBy { .. } => panic!("{ask:?} is to be granted: {held:?}"),
    }
}

/// The grant of a lease whose holder is gone. A candidate that did not know the holder may have to wait for its ttl once more.
async fn granted_in_time(store: &impl LeaseStore, ask: &Ask) -> (Held, Option<SystemTime>) {
    let mut waited = Duration::ZERO;
    loop {
        match asked(store, ask).await {
            Answer::Granted { term, last_run } => return (Held { ask: ask.clone(), term }, last_run),
            Answer::HeldBy { ask_again_in, .. } => {
                assert!(waited <= ask.ttl * 5 / 4, "still held after {waited:?} by a holder that is gone");
                // The answer may come a moment before the end.
                let pause = ask_again_in + ask.ttl / 20;
                sleep(pause).await;
                waited += pause;
            }
        }
    }
}

async fn asked(store: &impl LeaseStore, ask: &Ask) -> Answer {
    done(store.acquire(ask)).await
}

async fn renewed(store: &impl LeaseStore, held: &Held) -> Renewed {
    let answers = done(store.renew(std::slice::from_ref(held))).await;
    assert_eq!(answers.len(), 1, "one answer for each");
    answers[0]
}

async fn claimed(store: &impl LeaseStore, held: &Held, due: SystemTime) -> Claim {
    done(store.claim(held, due)).await
}

async fn done<T>(request: impl Future<Output = Result<T, StoreError>>) -> T {
    match request.await {
        Ok(answer) => answer,
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::HeldBy { .. })
}

impl<A: LeaseStore, B: LeaseStore> Suite<'_, A, B> {
    /// A lease that is over soon. The store may keep leases of earlier suites.
    fn ask_short(&self, lease: &str, holder: &str) -> Ask {
        let lease = format!("{lease}-{:016x}", self.run);
        Ask { lease: lease.into(), holder: Arc::from(holder), ttl: self.ttl }
    }

    /// A lease that lasts as long as the suite, also if the store is slow.
    fn ask(&self, lease: &str, holder: &str) -> Ask {
        Ask { ttl: self.ttl * LASTING, ..self.ask_short(lease, holder) }
    }

    async fn a_lease_has_one_holder(&self) {
        let (a, b) = (self.ask("one", "a"), self.ask("one", "b"));
        let (held, last_run) = granted(self.first, &a).await;
        assert!(held.term >= 1, "a term is at least 1");
        assert_eq!(last_run, None, "nothing was claimed yet");
        match asked(self.second, &b).await {
            Answer::Granted { term, .. } => panic!("granted twice: terms {} and {term}", held.term),
            Answer::HeldBy { holder, ask_again_in } => {
                assert!(holder.is_none_or(|holder| holder == "a"), "the holder is another");
                assert!(ask_again_in <= b.ttl, "asked again after {ask_again_in:?}");
            }
        }
        granted(self.second, &self.ask("another", "b")).await;
    }

    async fn a_renewed_lease_is_kept(&self) {
        let (a, b) = (self.ask_short("renewed", "a"), self.ask_short("renewed", "b"));
        let (held, _) = granted(self.first, &a).await;
        for _ in 0..3 {
            sleep(self.ttl * 2 / 3).await;
            assert_eq!(renewed(self.first, &held).await, Renewed::Kept);
            assert!(is_refused(&asked(self.second, &b).await), "granted though it is renewed");
        }
    }

    async fn a_lease_that_is_over_is_lost(&self) {
        let (a, b) = (self.ask_short("over", "a"), self.ask_short("over", "b"));
        let (old, _) = granted(self.first, &a).await;
        let due = SystemTime::now();
        sleep(self.ttl * 4 / 3).await;
        assert_eq!(renewed(self.first, &old).await, Renewed::Lost, "a lease that is over is not renewed");
        assert_eq!(claimed(self.first, &old, due).await, Claim::Lost);
        let (new, _) = granted_in_time(self.second, &b).await;
        assert!(new.term > old.term, "terms grow");
        assert_eq!(renewed(self.first, &old).await, Renewed::Lost);
        assert_eq!(claimed(self.first, &old, due).await, Claim::Lost);
        done(self.first.release(&a)).await;
        assert_eq!(renewed(self.second, &new).await, Renewed::Kept, "an old holder releases nothing");
        assert!(is_refused(&asked(self.first, &a).await));
    }

    async fn a_released_lease_is_free(&self) {
        let (a, b) = (self.ask("released", "a"), self.ask("released", "b"));
        let (old, _) = granted(self.first, &a).await;
        done(self.first.release(&a)).await;
        done(self.first.release(&a)).await;
        assert_eq!(renewed(self.first, &old).await, Renewed::Lost);
        let (new, _) = granted(self.second, &b).await;
        assert!(new.term > old.term, "terms grow");
        done(self.first.release(&self.ask("never held", "a"))).await;
    }

    async fn a_request_whose_answer_was_lost_gets_it_again(&self) {
        let a = self.ask("again", "a");
        let (old, _) = granted(self.first, &a).await;
        let (new, _) = granted(self.first, &a).await;
        assert!(new.term > old.term, "terms grow");
        assert_eq!(renewed(self.first, &old).await, Renewed::Lost, "the term is another");
        assert_eq!(renewed(self.first, &new).await, Renewed::Kept);
    }

    async fn a_due_time_is_claimed_once(&self) {
        let (a, b) = (self.ask("claimed", "a"), self.ask("claimed", "b"));
        // Not a whole number of anything.
        let due = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
        let (held, _) = granted(self.first, &a).await;
        assert_eq!(claimed(self.first, &held, due).await, Claim::Won);
        assert_eq!(claimed(self.first, &held, due).await, Claim::Won, "the answer may have been lost");
        assert_eq!(claimed(self.first, &held, due - LATER * 2).await, Claim::Done, "it was before");
        done(self.first.release(&a)).await;
        let (held, last_run) = granted(self.second, &b).await;
        let last_run = last_run.expect("claimed before");
        assert!(last_run >= due && last_run <= due + LATER, "{last_run:?} is shown for {due:?}");
        assert_eq!(claimed(self.second, &held, due).await, Claim::Done, "claimed under another term");
        assert_eq!(claimed(self.second, &held, due + LATER * 2).await, Claim::Won);
        assert_eq!(claimed(self.second, &held, due).await, Claim::Done);
    }

    async fn many_are_renewed_together(&self) {
        let mut all = Vec::new();
        for number in 0..100 {
            all.push(granted(self.first, &self.ask(&format!("many {number}"), "a")).await.0);
        }
        done(self.first.release(&all[37].ask)).await;
        all[58].term += 1;
        let mut answers = done(self.first.renew(&all)).await;
        assert_eq!(answers.len(), all.len(), "one answer for each");
        for (held, answer) in all.iter().zip(&mut answers) {
            if matches!(answer, Renewed::Failed(_)) {
                *answer = renewed(self.first, held).await;
            }
        }
        for (index, answer) in answers.into_iter().enumerate() {
            let expected = if [37, 58].contains(&index) { Renewed::Lost } else { Renewed::Kept };
            assert_eq!(answer, expected, "each response is at the place of its request: {index}");
        }
        assert!(done(self.first.renew(&[])).await.is_empty());
        for held in &all {
            done(self.first.release(&held.ask)).await;
        }
    }

    async fn one_of_many_candidates_is_granted(&self) {
        for round in 0..10 {
            let lease = format!("race {round}");
            let asks: [_; 8] = std::array::from_fn(|number| self.ask(&lease, &number.to_string()));
            let [a, b, c, d, e, f, g, h] = &asks;
            let answers = tokio::join!(
                asked(self.first, a),
                asked(self.second, b),
                asked(self.first, c),
                asked(self.second, d),
                asked(self.first, e),
                asked(self.second, f),
                asked(self.first, g),
                asked(self.second, h),
            );
            let answers: [Answer; 8] = answers.into();
            let granted = answers.iter().filter(|answer| !is_refused(answer)).count();
            assert_eq!(granted, 1, "one of all candidates gets a grant");
        }
    }

    /// Its request may have taken effect. The same candidate gets its grant anyway, and another one after the ttl.
    async fn a_dropped_request_breaks_nothing(&self) {
        for polls in 0..8 {
            let (a, b) =
                (self.ask(&format!("dropped {polls}"), "a"), self.ask(&format!("dropped {polls}"), "b"));
            {
                let mut request = pin!(self.first.acquire(&a));
                for _ in 0..polls {
                    let is_ready = request.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
                    if is_ready {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            granted(self.first, &a).await;
            done(self.first.release(&a)).await;
            granted(self.second, &b).await;
        }
    }

    async fn terms_grow(&self) {
        let (a, b) = (self.ask("terms", "a"), self.ask("terms", "b"));
        let mut last = 0;
        for _ in 0..25 {
            let (held, _) = granted(self.first, &a).await;
            assert!(held.term > last, "terms grow: {} after {last}", held.term);
            done(self.first.release(&a)).await;
            let (next, _) = granted(self.second, &b).await;
            assert!(next.term > held.term, "terms grow: {} after {}", next.term, held.term);
            done(self.second.release(&b)).await;
            last = next.term;
        }
    }
}
