//! The text of an error: bounded, with the texts of its causes. Each error text and panic message of a user's is made here.
//!
//! The texts of an error and its sources are joined as `a: b: c`. A source whose text the text before it already ends with is left
//! out, since many errors name their source themselves.

use std::{
    error::Error,
    fmt::{self, Display, Write as _},
};

/// The largest number of sources of an error that are read: `source` is the user's code, and may return to an earlier error.
pub(super) const MAX_SOURCES: usize = 64;
/// The largest length of the note on a cut text, in bytes.
const NOTE: usize = 48;
/// The length of the end of a longer text that is compared with its source, in bytes.
const END: usize = 1_024;

/// The most bytes of a text that is kept of an error.
pub(super) const MAX_BYTES: usize = 8 * 1024;

/// The text of an error and its sources.
pub(crate) fn of_error(error: &(dyn Error + '_)) -> String {
    let mut text = Text::of(error);
    for source in sources(error.source()) {
        let cause = Text::of(source);
        if !text.ends_with(&cause) {
            text.append(&cause);
        }
    }
    text.finish()
}

/// The text of what can be displayed and has no source.
pub(crate) fn of(shown: &(dyn Display + '_)) -> String {
    Text::of(shown).finish()
}

/// A text, cut as that of an error if it takes more than `most` bytes.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let kept = up_to(text, most.saturating_sub(NOTE));
    format!("{kept}{}", Cut(text.len() - kept.len()))
}

/// The note on a cut text.
struct Cut(usize);

impl Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "… ({} bytes cut)", Grouped(self.0))
    }
}

/// The sources from this one on.
pub(super) fn sources<'a>(
    first: Option<&'a (dyn Error + 'static)>,
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let next = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> { (*error).source() };
    std::iter::successors(first, next).take(MAX_SOURCES)
}

/// A text that is written piece by piece. It keeps its beginning, and counts the rest instead of storing it.
#[derive(Default)]
struct Text {
    beginning: String,
    /// The length of the whole text.
    length: usize,
    /// The last bytes of a text that is longer than what is kept.
    end: Vec<u8>,
}

impl fmt::Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.is_cut() {
            self.note_end(piece);
        } else {
            let room = MAX_BYTES - self.beginning.len();
            if piece.len() <= room {
                self.beginning.push_str(piece);
            } else {
                let end = self.beginning.len().saturating_sub(END);
                self.end.extend_from_slice(&self.beginning.as_bytes()[end..]);
                self.note_end(piece);
                self.beginning.push_str(up_to(piece, room));
            }
        }
        self.length = self.length.saturating_add(piece.len());
        Ok(())
    }
}

impl Text {
    fn of(shown: &(impl Display + ?Sized)) -> Self {
        let mut text = Self::default();
        // Fails only if the user's `Display` says so. What it wrote before is kept.
        let _ = write!(text, "{shown}");
        text
    }

    fn is_cut(&self) -> bool {
        self.length > self.beginning.len()
    }

    fn note_end(&mut self, piece: &str) {
        self.end.extend_from_slice(&piece.as_bytes()[piece.len().saturating_sub(END)..]);
        if self.end.len() > 4 * END {
            self.end.drain(..self.end.len() - END);
        }
    }

    fn end(&self) -> &[u8] {
        if self.is_cut() { &self.end } else { self.beginning.as_bytes() }
    }

    /// Returns true if its last part is that text. Of long texts the last [`END`] bytes are compared.
    fn ends_with(&self, other: &Self) -> bool {
        let (end, expected) = (self.end(), other.end());
        let compared = match self.is_cut() || other.is_cut() {
            true => end.len().min(expected.len()).min(END),
            false => expected.len(),
        };
        other.length <= self.length && end.ends_with(&expected[expected.len() - compared..])
    }

    fn append(&mut self, cause: &Self) {
        if self.length > 0 {
            let _ = self.write_str(": ");
        }
        let _ = self.write_str(&cause.beginning);
        if cause.is_cut() {
            self.length = self.length.saturating_add(cause.length - cause.beginning.len());
            self.end.clone_from(&cause.end);
        }
    }

    /// The text, or its beginning and how much was cut.
    fn finish(mut self) -> String {
        if self.is_cut() {
            let kept = up_to(&self.beginning, MAX_BYTES - NOTE).len();
            self.beginning.truncate(kept);
            let cut = self.length - kept;
            // Writing to a `String` cannot fail.
            let _ = write!(self.beginning, "{}", Cut(cut));
        }
        self.beginning
    }
}

/// Returns the longest beginning of a text with at most this number of bytes.
pub(crate) fn up_to(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A number with a comma after each three digits.
struct Grouped(usize);

impl Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            0 => write!(f, "{}", self.0),
            thousands => write!(f, "{},{:03}", Self(thousands), self.0 % 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with these texts from the outermost to its root cause.
    #[derive(Debug)]
    struct Chain(Vec<String>, Option<Box<Chain>>);

    impl Chain {
        fn new(texts: &[&str]) -> Self {
            let [first, rest @ ..] = texts else { unreachable!("at least one text") };
            let source = (!rest.is_empty()).then(|| Box::new(Self::new(rest)));
            Self(vec![(*first).to_owned()], source)
        }
    }

    impl Display for Chain {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|piece| f.write_str(piece))
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn each_cause_is_named_once() {
        for (texts, expected) in [
            (&["a"][..], "a"),
            (&["a", "b", "c"], "a: b: c"),
            // Each names its source itself.
            (&["a: b: c", "b: c", "c"], "a: b: c"),
            (&["a: b", "b", "c"], "a: b: c"),
            (&["a", "a"], "a"),
            (&["", "b"], "b"),
            (&["a", "", "c"], "a: c"),
            (&["b", "a: b"], "b: a: b"),
        ] {
            assert_eq!(of_error(&Chain::new(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters_and_counts_lost_bytes() {
        let most = "x".repeat(MAX_BYTES);
        assert_eq!(of(&most), most, "it just fits");
        let text = of(&format!("{most}y"));
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert!(text.ends_with("x… (49 bytes cut)"), "{text}");
        // Each takes three bytes, and the boundary lies within one.
        let text = of(&"€".repeat(2_000_000));
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        let kept = text.chars().filter(|character| *character == '€').count();
        assert!(text.ends_with(&format!("€… ({} bytes cut)", Grouped(6_000_000 - 3 * kept))), "{text}");
    }

    #[test]
    fn pieces_after_the_cut_are_counted_and_not_stored() {
        struct Pieces;
        impl Display for Pieces {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let piece = "0123456789".repeat(1_000);
                f.write_str(&piece)?;
                f.write_str(&piece)?;
                f.write_str("end")
            }
        }
        let mut text = Text::default();
        let _ = write!(text, "{Pieces}");
        assert_eq!((text.length, text.beginning.len()), (20_003, MAX_BYTES));
        assert!(text.beginning.capacity() < 20_000 && text.end.capacity() < 20_000);
        assert!(text.end.ends_with(b"789end"));
        assert!(of(&Pieces).ends_with("(11,859 bytes cut)"), "{}", of(&Pieces));
    }

    #[test]
    fn a_long_text_that_names_its_source_is_counted_once() {
        let root = "cause ".repeat(100_000);
        let named = format!("failed: {root}");
        let text = of_error(&Chain::new(&[&named, &root]));
        assert!(text.starts_with("failed: cause"));
        assert!(text.ends_with("(591,864 bytes cut)"), "{}", &text[text.len() - 40..]);
        let text = of_error(&Chain::new(&["failed", &root, "root"]));
        assert!(text.ends_with("(591,870 bytes cut)"), "{}", &text[text.len() - 40..]);
        let short = of_error(&Chain::new(&[&format!("{root}root"), "root"]));
        assert!(short.ends_with("(591,860 bytes cut)"), "{}", &short[short.len() - 40..]);
    }

    #[test]
    fn a_chain_without_end_is_read_to_a_limit() {
        #[derive(Debug)]
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("again")
            }
        }
        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert_eq!(of_error(&Endless), "again");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (5_234_112, "5,234,112")] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
