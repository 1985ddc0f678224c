//! Guesses of the token: one at a time for each address, so that many connections guess no faster than one.
//!
//! The next token of an address is checked only after the pause that follows a wrong one, even if its client no longer waits.
//! Clients at other addresses do not wait. The memory is fixed: addresses share turns at random.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Mutex, Semaphore};

/// The number of turns.
const TURNS: usize = 256;
/// The number of requests that wait for one turn. More are refused before their token is checked.
const WAITING: usize = 8;
/// The pause after a wrong token.
const PAUSE: Duration = Duration::from_secs(1);

/// The reason why a token is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotAccepted {
    Wrong,
    /// It was not checked: too many wait for the turn.
    TooMany,
}

#[derive(Debug)]
struct Turn {
    turn: Arc<Mutex<()>>,
    waiting: Semaphore,
}

/// The turns of all addresses.
#[derive(Debug)]
pub(crate) struct Guesses {
    hasher: RandomState,
    turns: Box<[Turn]>,
}

impl Default for Guesses {
    fn default() -> Self {
        let turn = || Turn { turn: Arc::default(), waiting: Semaphore::new(WAITING) };
        Self {
            // Otherwise somebody could choose addresses that share the turn of another.
            hasher: RandomState::new(),
            turns: std::iter::repeat_with(turn).take(TURNS).collect(),
        }
    }
}

impl Guesses {
    /// The turn of an address. Requests without one share theirs.
    fn turn(&self, from: Option<IpAddr>) -> &Turn {
        let hash = self.hasher.hash_one(from.map(client));
        &self.turns[hash as usize % TURNS]
    }

    /// Checks a token when it is its address's turn.
    pub(crate) async fn look(
        &self,
        from: Option<IpAddr>,
        is_right: impl FnOnce() -> bool,
    ) -> Result<(), NotAccepted> {
        let turn = self.turn(from);
        let _waiting = turn.waiting.try_acquire().map_err(|_| NotAccepted::TooMany)?;
        let own = turn.turn.clone().lock_owned().await;
        if is_right() {
            return Ok(());
        }
        // A task of its own: who leaves shortens nothing.
        let pause = tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            drop(own);
        });
        // Fails only when the runtime ends.
        let _ = pause.await;
        Err(NotAccepted::Wrong)
    }
}

/// The client behind an address: with IPv6, a network of 64 bits.
pub(crate) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Two addresses with turns of their own.
    fn strangers(guesses: &Guesses) -> [Option<IpAddr>; 2] {
        let at = |last| Some(IpAddr::from([10, 0, 0, last]));
        let other = (2..).map(at).find(|other| !std::ptr::eq(guesses.turn(*other), guesses.turn(at(1))));
        [at(1), other.expect("256 turns")]
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_at_once_from_one_address_take_a_second_each_and_others_wait_for_nothing() {
        let guesses = Guesses::default();
        let [one, other] = strangers(&guesses);
        let began = Instant::now();
        let wrong = join_all((0..=WAITING).map(|_| guesses.look(one, || false)));
        let right = async {
            tokio::task::yield_now().await;
            guesses.look(other, || true).await.expect("right");
            began.elapsed()
        };
        let (wrong, right) = tokio::join!(wrong, right);
        let (last, waited) = wrong.split_last().expect("all of them");
        assert!(waited.iter().all(|guess| *guess == Err(NotAccepted::Wrong)), "{waited:?}");
        assert_eq!(*last, Err(NotAccepted::TooMany), "refused though it might be right");
        assert_eq!((began.elapsed(), right), (PAUSE * WAITING as u32, Duration::ZERO));
        guesses.look(one, || true).await.expect("nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_token_among_wrong_ones_has_its_turn() {
        let guesses = Guesses::default();
        let [one, _] = strangers(&guesses);
        let (wrong, right) = tokio::join!(guesses.look(one, || false), guesses.look(one, || true));
        assert_eq!((wrong, right), (Err(NotAccepted::Wrong), Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn early_disconnect_does_not_shorten_the_guess_pause() {
        let guesses = Guesses::default();
        let [one, _] = strangers(&guesses);
        timeout(Duration::from_millis(1), guesses.look(one, || false)).await.expect_err("it leaves");
        let began = Instant::now();
        guesses.look(one, || true).await.expect("right");
        assert!(began.elapsed() > PAUSE * 9 / 10, "{:?}", began.elapsed());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let guesses = Guesses::default();
        let turn =
            |address: &str| std::ptr::from_ref(guesses.turn(Some(address.parse().expect("an address"))));
        assert_eq!(turn("2001:db8::1"), turn("2001:db8::2"));
        assert_eq!(turn("::ffff:10.0.0.1"), turn("10.0.0.1"));
    }
}
