//! The names of leases as names of objects, which are DNS-1123 subdomains: two leases never have the same object.

use std::fmt::Write as _;

use super::error::NameError;

/// The longest name of an object.
const LONGEST: usize = 253;
/// Before an escape at the beginning of a name, since a name begins with a letter or a digit. No other name has this escape: `0` is unchanged.
const BEGIN: &str = "0.30";

/// Lowercase letters and digits are unchanged, and hyphens between them. Any other byte becomes a dot and two hexadecimal digits.
pub(super) fn object_name(lease: &str) -> Result<String, NameError> {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = lease.as_bytes();
    let mut name = String::with_capacity(bytes.len());
    for (index, byte) in bytes.iter().enumerate() {
        // A part between dots must begin and end with a letter or a digit.
        let is_between = || {
            let next = bytes[index..].iter().find(|byte| **byte != b'-');
            !name.is_empty() && next.is_some_and(is_plain)
        };
        if is_plain(byte) || *byte == b'-' && is_between() {
            name.push(char::from(*byte));
            continue;
        }
        if name.is_empty() {
            name.push_str(BEGIN);
        }
        // Infallible on a `String`.
        let _ = write!(name, ".{byte:02x}");
    }
    match name.len() {
        0 => Err(NameError::Empty),
        1..=LONGEST => Ok(name),
        length => Err(NameError::Long { lease: lease.to_owned(), length }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{LONGEST, NameError, object_name};

    /// The rule of the API server: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, between dots.
    fn is_valid(name: &str) -> bool {
        let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        name.len() <= LONGEST
            && name.split('.').all(|label| {
                let bytes = label.as_bytes();
                is_edge(bytes.first())
                    && is_edge(bytes.last())
                    && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            })
    }

    #[test]
    fn plain_names_stay_as_they_are() {
        for name in ["outbox", "nightly-report", "a--b", "0", "2fa"] {
            assert_eq!(object_name(name).expect("valid"), name);
        }
        assert_eq!(object_name("Email queue").expect("valid"), "0.30.45mail.20queue");
        assert_eq!(object_name("a.b_c").expect("valid"), "a.2eb.5fc");
    }

    #[test]
    fn all_short_names_become_valid_and_distinct_names() {
        let letters = ["a", "0", "3", "-", ".", " ", "A", "ä"];
        let mut names = vec![String::new()];
        let mut seen = BTreeMap::new();
        for _ in 0..5 {
            names = names.iter().flat_map(|name| letters.map(|letter| format!("{name}{letter}"))).collect();
            for lease in &names {
                let name = object_name(lease).expect("short");
                assert!(is_valid(&name), "{lease:?} is {name:?}");
                if let Some(other) = seen.insert(name.clone(), lease.clone()) {
                    panic!("{lease:?} and {other:?} are both {name:?}");
                }
            }
        }
    }

    #[test]
    fn empty_and_long_names_are_refused() {
        assert!(matches!(object_name(""), Err(NameError::Empty)));
        assert!(object_name(&"a".repeat(LONGEST)).is_ok());
        assert!(matches!(object_name(&"a".repeat(LONGEST + 1)), Err(NameError::Long { length: 254, .. })));
        assert!(matches!(object_name(&"A".repeat(100)), Err(NameError::Long { .. })));
    }
}
