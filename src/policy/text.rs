//! Durations and instants in texts: configuration files, logs and the page write and read them alike.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A duration in one word, such as `90s`, `1m30s` or `250ms`.
pub(crate) struct DurationText(pub(crate) Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in humantime::format_duration(self.0).to_string().split_whitespace() {
            f.write_str(part)?;
        }
        Ok(())
    }
}

/// Reads a duration such as `90s`, `1m30s` or `250ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// An instant in one word: RFC 3339 in UTC, or `@` and unix seconds for years that RFC 3339 cannot write.
pub(crate) struct InstantText(pub(crate) SystemTime);

impl fmt::Display for InstantText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The first second of the year 10000.
        const UNWRITABLE: Duration = Duration::from_secs(253_402_300_800);
        match self.0.duration_since(UNIX_EPOCH) {
            Ok(since) if since < UNWRITABLE => humantime::format_rfc3339(self.0).fmt(f),
            Ok(since) => write!(f, "@{}.{:09}", since.as_secs(), since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                write!(f, "@-{}.{:09}", before.as_secs(), before.subsec_nanos())
            }
        }
    }
}

/// Reads an instant as [`InstantText`] writes it.
pub(crate) fn instant(text: &str) -> Option<SystemTime> {
    let Some(seconds) = text.strip_prefix('@') else { return humantime::parse_rfc3339(text).ok() };
    let (is_before, seconds) = seconds.strip_prefix('-').map_or((false, seconds), |seconds| (true, seconds));
    let (seconds, nanos) = seconds.split_once('.').unwrap_or((seconds, "0"));
    if nanos.is_empty() || nanos.len() > 9 || !nanos.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let nanos = nanos.parse::<u32>().ok()? * 10_u32.pow(9 - u32::try_from(nanos.len()).ok()?);
    let distance = Duration::new(seconds.parse().ok()?, nanos);
    if is_before { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for duration_given in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_millis(250),
            Duration::from_secs(90),
            Duration::from_secs(86_400 * 400),
            Duration::MAX,
        ] {
            let text = DurationText(duration_given).to_string();
            assert!(!text.contains(' '), "{text}");
            assert_eq!(duration(&text), Some(duration_given), "{text}");
        }
        assert_eq!(DurationText(Duration::from_secs(90)).to_string(), "1m30s");
    }

    #[test]
    fn instants_are_read_as_they_are_written() {
        for (given, written) in [
            (UNIX_EPOCH, "1970-01-01T00:00:00Z"),
            (UNIX_EPOCH + Duration::from_millis(1_500), "1970-01-01T00:00:01.500000000Z"),
            (UNIX_EPOCH - Duration::from_millis(1_500), "@-1.500000000"),
            (UNIX_EPOCH + Duration::from_secs(253_402_300_800), "@253402300800.000000000"),
        ] {
            let text = InstantText(given).to_string();
            assert_eq!(text, written);
            assert_eq!(instant(&text), Some(given), "{text}");
        }
        for text in ["", "@", "@-", "@1.", "@1.0000000000", "@x", "yesterday", "@18446744073709551616"] {
            assert_eq!(instant(text), None, "{text:?}");
        }
    }
}
