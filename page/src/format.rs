//! Times, durations and texts as the page writes them.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The bytes of an error's text in a row: its beginning and its end.
pub(crate) const SHORT_TEXT: usize = 300;

pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

pub(crate) fn unix(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// Returns the text, or its beginning in at most this number of bytes.
pub(crate) fn shortened(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// Returns the text, or its beginning and its end in at most this number of bytes. The root cause of an error comes last.
pub(crate) fn abridged(text: &str, bytes: usize) -> Cow<'_, str> {
    const BETWEEN: &str = " … ";
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let room = bytes.saturating_sub(BETWEEN.len());
    let from = (text.len() - room / 2..=text.len()).find(|from| text.is_char_boundary(*from));
    Cow::Owned([shortened(text, room - room / 2), BETWEEN, &text[from.unwrap_or(text.len())..]].concat())
}
