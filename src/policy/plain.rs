//! Texts of users on a terminal: names and errors may hold what moves the cursor, forges a line or turns the writing around.

use std::fmt::{self, Debug, Display, Write};

/// A text as a terminal may show it: control characters, separators of lines and marks of the writing direction are escaped, as `\n` or
/// `\u{1b}`.
pub(crate) struct Plain<T>(pub(crate) T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() && f.precision().is_none() {
            return write!(Escaping(f), "{}", self.0);
        }
        // Only a whole text can be padded.
        let mut text = String::new();
        write!(Escaping(&mut text), "{}", self.0)?;
        f.pad(&text)
    }
}

impl<T: Debug> Debug for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while let Some((at, bad)) = text.char_indices().find(|&(_, character)| is_unsafe(character)) {
            self.0.write_str(&text[..at])?;
            write!(self.0, "{}", bad.escape_default())?;
            text = &text[at + bad.len_utf8()..];
        }
        self.0.write_str(text)
    }
}

fn is_unsafe(character: char) -> bool {
    // C0, DEL and C1; then the marks of direction, and the separators that some terminals take for new lines.
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminal_control_characters_are_escaped() {
        for (text, shown) in [
            ("plain, with ünïcödé ☃ and \"quotes\" and \\", "plain, with ünïcödé ☃ and \"quotes\" and \\"),
            ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("one\ntwo\r\tthree\0", "one\\ntwo\\r\\tthree\\u{0}"),
            ("bell\x07 del\x7f c1\u{9b}2J", "bell\\u{7} del\\u{7f} c1\\u{9b}2J"),
            (
                "a\u{202e}b\u{2066}c\u{200f}d\u{61c}e\u{2028}f",
                "a\\u{202e}b\\u{2066}c\\u{200f}d\\u{61c}e\\u{2028}f",
            ),
            ("", ""),
        ] {
            assert_eq!(Plain(text).to_string(), shown);
            assert_eq!(format!("{:?}", Plain(format_args!("{text}"))), shown);
        }
        assert_eq!(format!("{:<8}|", Plain("a\nb")), "a\\nb    |");
        assert_eq!(format!("{:.3}", Plain("a\nb")), "a\\n");
    }
}
