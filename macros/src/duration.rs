//! Durations as people write them: `"5s"`, `"1m 30s"`, `"250ms"`.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

/// A length of time, longer than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(u128);

const UNITS: &[(&str, u128)] = &[
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

const EXPECTED: &str = "a duration is written as numbers with units, such as \"5s\", \"250ms\" or \"1h 30m\"";

/// Reads a duration, or returns its problem.
pub(crate) fn nanos(text: &str) -> Result<Nanos, String> {
    let mut rest = text.trim();
    if rest.starts_with('-') {
        return Err("a duration must be longer than zero".to_owned());
    }
    if rest.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        let number: u128 = rest[..digits].parse().map_err(|_| EXPECTED.to_owned())?;
        let letters = &rest[digits..];
        let end = letters.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(letters.len());
        let (unit, after) = letters.split_at(end);
        let (_, length) = UNITS.iter().find(|(known, _)| *known == unit).ok_or_else(|| match unit {
            "" => format!("{number} needs a unit: `ns`, `us`, `ms`, `s`, `m`, `h` or `d`"),
            unit => format!("unknown unit `{unit}`, expected `ns`, `us`, `ms`, `s`, `m`, `h` or `d`"),
        })?;
        total = number.checked_mul(*length).and_then(|length| total.checked_add(length)).unwrap_or(u128::MAX);
        rest = after.trim_start();
    }
    match total {
        0 => Err("a duration must be longer than zero".to_owned()),
        total if total / 1_000_000_000 > u128::from(u64::MAX) => Err("the duration is too long".to_owned()),
        total => Ok(Nanos(total)),
    }
}

/// Reads `"1s..60s"`.
pub(crate) fn range(text: &str) -> Result<(Nanos, Nanos), String> {
    let (from, to) = text.split_once("..").ok_or_else(|| EXPECTED.to_owned())?;
    let (from, to) = (nanos(from)?, nanos(to)?);
    if to < from { Err("the delays must grow: `\"1s..60s\"`".to_owned()) } else { Ok((from, to)) }
}

impl Nanos {
    pub(crate) fn tokens(self) -> TokenStream {
        let seconds = u64::try_from(self.0 / 1_000_000_000).unwrap_or(u64::MAX);
        let nanos = u32::try_from(self.0 % 1_000_000_000).unwrap_or_default();
        quote_spanned!(Span::mixed_site()=> ::core::time::Duration::new(#seconds, #nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, expected) in [
            ("5s", 5_000_000_000),
            ("250ms", 250_000_000),
            ("1m30s", 90_000_000_000),
            (" 1h 30m ", 5_400_000_000_000),
            ("2d", 172_800_000_000_000),
            ("7us 3ns", 7_003),
        ] {
            assert_eq!(nanos(text), Ok(Nanos(expected)), "{text}");
        }
        assert_eq!(range("1s..1m"), Ok((Nanos(1_000_000_000), Nanos(60_000_000_000))));
    }

    #[test]
    fn invalid_durations_and_ranges_are_errors() {
        for text in ["", "s", "5", "5 s s", "5x", "-5s", "0s", "0s 0ms", "1.5s", "99999999999999999999999d"] {
            assert!(nanos(text).is_err(), "{text}");
        }
        assert!(range("2s..1s").is_err() && range("..1s").is_err() && range("1s..").is_err());
    }
}
