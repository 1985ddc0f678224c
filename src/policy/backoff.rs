//! The delay before a restart.

use std::{fmt, str::FromStr, time::Duration};

use super::{
    PolicyError, fraction,
    labels::{labels, serialize_as_text},
    text::{DurationText, duration},
};

labels! {
    /// The random part of a delay.
    #[derive(Default)]
    pub enum Jitter {
        /// The delay as computed.
        None = "none",
        /// Half of it fixed, half of it random: never immediate, still spread.
        #[default]
        Equal = "equal",
        /// Anything from nothing to all of it.
        Full = "full",
        /// Anything between the first delay and three times the delay before, up to the cap; the factor is not used. Spreads
        /// most, and still grows.
        Decorrelated = "decorrelated",
    }
}

/// Exponential backoff: `initial`, then times `factor`, never more than `cap`; after a run that lasted
/// [`stable_after`](Self::stable_after) it begins again.
///
/// The jitter kinds are those of [*Exponential Backoff And Jitter*](https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
///
/// ```
/// use otel_tasks::{Backoff, policy::Jitter};
/// use std::time::Duration;
/// let backoff = Backoff::new(Duration::from_secs(1), 2.0, Duration::from_secs(5))?.jitter(Jitter::None);
/// let delays: Vec<u64> = (0..4).map(|attempt| backoff.delay(attempt, Duration::ZERO, 0.5).as_secs()).collect();
/// assert_eq!(delays, [1, 2, 4, 5]);
/// # Ok::<(), otel_tasks::policy::PolicyError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    initial: Duration,
    factor: f64,
    cap: Duration,
    jitter: Jitter,
    stable_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Backoff::DEFAULT_INITIAL,
            factor: Backoff::DEFAULT_FACTOR,
            cap: Backoff::DEFAULT_CAP,
            jitter: Jitter::Equal,
            stable_after: Backoff::DEFAULT_STABLE_AFTER,
        }
    }
}

impl Backoff {
    /// The time that a run must last before the delays of [`Backoff::default`] begin again: 10 minutes.
    pub const DEFAULT_STABLE_AFTER: Duration = Duration::from_secs(600);

    /// The first delay of [`Backoff::default`].
    pub const DEFAULT_INITIAL: Duration = Duration::from_secs(1);

    /// The growth of [`Backoff::default`].
    pub const DEFAULT_FACTOR: f64 = 2.0;

    /// The longest delay of [`Backoff::default`].
    pub const DEFAULT_CAP: Duration = Duration::from_secs(60);

    /// Exponential backoff with [`Jitter::Equal`].
    ///
    /// # Errors
    /// [`PolicyError::Backoff`] where `factor` is below 1 or not finite, or `cap` is below `initial`.
    pub fn new(initial: Duration, factor: f64, cap: Duration) -> Result<Self, PolicyError> {
        if !factor.is_finite() || factor < 1.0 {
            return Err(PolicyError::Backoff { reason: "the factor must be a finite number of at least 1" });
        }
        if cap < initial {
            return Err(PolicyError::Backoff { reason: "the cap must not be below the first delay" });
        }
        Ok(Self { initial, factor, cap, ..Self::default() })
    }

    /// Exponential backoff with [`Jitter::Equal`] that doubles from `initial` to `cap`. A cap below the first delay is raised to it,
    /// so this cannot fail.
    pub fn growing(initial: Duration, cap: Duration) -> Self {
        Self { initial, factor: Self::DEFAULT_FACTOR, cap: cap.max(initial), ..Self::default() }
    }

    /// The same delay every time, without jitter. A delay of zero restarts at once: only for tests and for bodies that
    /// wait by themselves.
    pub fn constant(delay: Duration) -> Self {
        Self { initial: delay, factor: 1.0, cap: delay, jitter: Jitter::None, ..Self::default() }
    }

    /// Sets the random part of each delay.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets the time that a run must last before the delays begin again. Default: [`Backoff::DEFAULT_STABLE_AFTER`].
    #[must_use]
    pub fn stable_after(mut self, stable_after: Duration) -> Self {
        self.stable_after = stable_after;
        self
    }

    /// The first delay: also how soon after a restart the next one by hand may follow.
    pub fn initial(&self) -> Duration {
        self.initial
    }

    fn is_constant(&self) -> bool {
        self.factor == 1.0 && self.cap == self.initial
    }

    pub(crate) fn with_initial(mut self, initial: Duration) -> Self {
        self.initial = initial;
        self.cap = self.cap.max(initial);
        self
    }

    /// Returns the time that a run must last before the delays begin again.
    pub(crate) fn stable(&self) -> Duration {
        self.stable_after
    }

    pub(crate) fn resets_after(&self, run: Duration) -> bool {
        run >= self.stable_after
    }

    /// Returns the delay before attempt `attempt` (0 for the first restart), for a `random` in `0.0..1.0`. `previous` is the delay of the
    /// attempt before, from which [`Jitter::Decorrelated`] grows.
    pub fn delay(&self, attempt: u32, previous: Duration, random: f64) -> Duration {
        let full = self.longest(attempt);
        match self.jitter {
            Jitter::None => full,
            Jitter::Equal => (full / 2).saturating_add(fraction(full / 2, random)),
            Jitter::Full => fraction(full, random),
            Jitter::Decorrelated => {
                let most = previous.max(self.initial).saturating_mul(3).min(self.cap);
                self.initial.saturating_add(fraction(most.saturating_sub(self.initial), random))
            }
        }
    }

    /// The longest delay.
    pub fn cap(&self) -> Duration {
        self.cap
    }

    /// The delay before attempt `attempt` without the jitter's reduction.
    pub(crate) fn longest(&self, attempt: u32) -> Duration {
        if self.jitter == Jitter::Decorrelated {
            let grown = 3_u32.checked_pow(attempt.saturating_add(1)).unwrap_or(u32::MAX);
            return self.initial.saturating_mul(grown).min(self.cap);
        }
        let exponent = i32::try_from(attempt).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.cap, |delay| delay.min(self.cap))
    }
}

/// Writes the text that [`FromStr`] reads: `1s..1m`, or `5s` for a constant delay, and what differs from the default.
impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = if self.is_constant() {
            write!(f, "{}", DurationText(self.initial))?;
            Self::constant(self.initial)
        } else {
            write!(f, "{}..{}", DurationText(self.initial), DurationText(self.cap))?;
            Self::growing(self.initial, self.cap)
        };
        if self.factor != plain.factor {
            write!(f, " factor {}", self.factor)?;
        }
        if self.jitter != plain.jitter {
            write!(f, " jitter {}", self.jitter)?;
        }
        if self.stable_after != plain.stable_after {
            write!(f, " stable_after {}", DurationText(self.stable_after))?;
        }
        Ok(())
    }
}

impl FromStr for Backoff {
    type Err = PolicyError;

    /// Reads `1s..1m` or `5s`, followed by any of `factor 3`, `jitter full`, `stable_after 10m`.
    ///
    /// `1s..1m` doubles from the first to the second delay, and half of each delay is random. `5s` is a constant delay.
    ///
    /// ```
    /// use otel_tasks::Backoff;
    /// use std::time::Duration;
    /// let backoff: Backoff = "1s..1m".parse()?;
    /// assert_eq!(backoff, Backoff::growing(Duration::from_secs(1), Duration::from_secs(60)));
    /// assert_eq!(backoff.to_string(), "1s..1m");
    /// # Ok::<(), otel_tasks::policy::PolicyError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let refused = |reason| PolicyError::Backoff { reason };
        let mut words = text.split_whitespace();
        let delays = words.next().ok_or(refused("a delay such as 5s or 1s..1m is missing"))?;
        let read = |text| {
            duration(text).ok_or(refused("a delay must be a duration such as 5s, or two such as 1s..1m"))
        };
        let mut backoff = match delays.split_once("..") {
            None => Self::constant(read(delays)?),
            Some((initial, cap)) => Self::new(read(initial)?, Self::DEFAULT_FACTOR, read(cap)?)?,
        };
        while let Some(option) = words.next() {
            let value = words.next().ok_or(refused("an option needs a value"))?;
            match option {
                "factor" => {
                    let factor = value.parse().map_err(|_| refused("the factor must be a number"))?;
                    let checked = Self::new(backoff.initial, factor, backoff.cap)?;
                    backoff.factor = checked.factor;
                }
                "jitter" => {
                    backoff.jitter = value
                        .parse()
                        .map_err(|_| refused("the jitter must be none, equal, full or decorrelated"))?;
                }
                "stable_after" => {
                    backoff.stable_after =
                        duration(value).ok_or(refused("stable_after must be a duration"))?;
                }
                _ => return Err(refused("the options are factor, jitter and stable_after")),
            }
        }
        Ok(backoff)
    }
}

serialize_as_text!(Backoff);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_inside_their_jitter() {
        for attempt in [0, 1, 5, 64, u32::MAX] {
            let full = Backoff::default().longest(attempt);
            assert!(full <= Backoff::DEFAULT_CAP);
            for random in [0.0, 0.3, 0.999] {
                let equal = Backoff::default().delay(attempt, Duration::ZERO, random);
                assert!(equal >= full / 2 && equal <= full, "{attempt} {random}: {equal:?}");
                let anything = Backoff::default().jitter(Jitter::Full).delay(attempt, Duration::ZERO, random);
                assert!(anything <= full);
                let decorrelated = Backoff::default().jitter(Jitter::Decorrelated);
                let first = decorrelated.delay(attempt, Duration::ZERO, random);
                assert!(
                    first >= Backoff::DEFAULT_INITIAL && first <= decorrelated.longest(attempt),
                    "{first:?}"
                );
            }
        }
    }

    #[test]
    fn a_decorrelated_delay_grows_from_the_one_before() {
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, 2.0, 60 * second).expect("valid").jitter(Jitter::Decorrelated);
        let mut delay = Duration::ZERO;
        let delays: Vec<_> = (0..5)
            .map(|attempt| {
                delay = backoff.delay(attempt, delay, 1.0);
                delay.as_secs()
            })
            .collect();
        assert_eq!(delays, [3, 9, 27, 60, 60]);
        assert_eq!(backoff.delay(4, 30 * second, 0.0), second, "it may fall back to the first");
        assert_eq!(backoff.delay(0, Duration::ZERO, f64::NAN), second, "whatever the random source says");
    }

    #[test]
    fn nonsense_is_refused() {
        let second = Duration::from_secs(1);
        assert!(Backoff::new(second, 0.5, second).is_err());
        assert!(Backoff::new(second, f64::NAN, second).is_err());
        assert!(Backoff::new(second, 2.0, Duration::ZERO).is_err());
    }

    #[test]
    fn constant_backoff_does_not_grow() {
        let second = Duration::from_secs(1);
        let same = Backoff::new(second, 1.0, second).expect("valid").jitter(Jitter::None);
        assert_eq!(Backoff::constant(second), same);
        // A cap that is raised afterwards must not let it grow.
        let raised = Backoff::constant(second).with_initial(60 * second).with_initial(second);
        assert_eq!(raised.delay(3, Duration::ZERO, 0.5), second);
    }
}
