//! The rule that bounds the names under which tasks are metered.

use std::{borrow::Cow, fmt, sync::Arc};

use super::error_text::up_to;

/// Maps the name given to a short task to the name its figures are kept under.
///
/// Registered tasks keep their names: they are few and chosen by hand. Short tasks are often named after a
/// request, and one series per request overloads a metrics backend.
///
/// ```
/// use otel_tasks::policy::NameRule;
/// assert_eq!(NameRule::default().apply("command_ping_8841"), "command_ping");
/// assert_eq!(NameRule::keep().apply("command_ping_8841"), "command_ping_8841");
/// ```
#[derive(Clone, Default)]
pub struct NameRule(Kind);

type Rule = dyn Fn(&str) -> Cow<'_, str> + Send + Sync;

#[derive(Clone, Default)]
enum Kind {
    #[default]
    StripIds,
    Keep,
    Custom(Arc<Rule>),
}

impl fmt::Debug for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::StripIds => "NameRule::strip_ids",
            Kind::Keep => "NameRule::keep",
            Kind::Custom(_) => "NameRule::custom",
        })
    }
}

impl NameRule {
    /// The most bytes of a task's name. A spawned task with a longer one is metered under its beginning; a registration is refused.
    pub const MAX_NAME: usize = 256;

    /// Cuts trailing identifiers off. The default.
    ///
    /// An identifier is a UUID, or a segment after `_`, `-`, `:`, `#`, `/` or `.`. The segment consists of digits, or of eight or
    /// more hexadecimal digits with at least one decimal digit, or it is a ULID. A name that is nothing but identifiers becomes `_ID`.
    pub fn strip_ids() -> Self {
        Self(Kind::StripIds)
    }

    /// Keeps every name. The bound on names still holds.
    pub fn keep() -> Self {
        Self(Kind::Keep)
    }

    /// A rule of your own. It is called on every `spawn`; a panic in it counts as "keep".
    pub fn custom(rule: impl Fn(&str) -> Cow<'_, str> + Send + Sync + 'static) -> Self {
        Self(Kind::Custom(Arc::new(rule)))
    }

    /// The name that `given` is metered under, at most [`NameRule::MAX_NAME`] bytes.
    pub fn apply<'a>(&self, given: &'a str) -> Cow<'a, str> {
        let name = match &self.0 {
            Kind::StripIds => Cow::Borrowed(strip_ids(given)),
            Kind::Keep => Cow::Borrowed(given),
            Kind::Custom(rule) => std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rule(given)))
                .unwrap_or(Cow::Borrowed(given)),
        };
        if name.len() <= Self::MAX_NAME { name } else { cut(name) }
    }
}

#[cold]
fn cut(name: Cow<'_, str>) -> Cow<'_, str> {
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(up_to(name, NameRule::MAX_NAME)),
        Cow::Owned(name) => Cow::Owned(up_to(&name, NameRule::MAX_NAME).to_owned()),
    }
}

/// The name of tasks that were given nothing but an identifier.
const ONLY_ID: &str = "_ID";

const SEPARATORS: [char; 6] = ['_', '-', ':', '#', '/', '.'];

fn strip_ids(given: &str) -> &str {
    // Each kind of identifier has a digit: a UUID has at least its version. Most names have none.
    if !given.bytes().any(|byte| byte.is_ascii_digit()) {
        return given;
    }
    let mut name = given;
    loop {
        name = without_uuid(name);
        if is_uuid(name.trim_start_matches(SEPARATORS).as_bytes()) {
            return ONLY_ID;
        }
        match name.rfind(SEPARATORS) {
            Some(at) if at > 0 && is_id(&name[at + 1..]) => name = &name[..at],
            _ => break,
        }
    }
    if is_id(name.trim_start_matches(SEPARATORS)) { ONLY_ID } else { name }
}

/// Four of a UUID's five groups are too short to be distinguished from words one by one.
fn without_uuid(given: &str) -> &str {
    const LENGTH: usize = 36;
    let Some(start) = given.len().checked_sub(LENGTH + 1).filter(|start| given.is_char_boundary(*start))
    else {
        return given;
    };
    let tail = &given.as_bytes()[start..];
    let is_cut = !tail[0].is_ascii_alphanumeric() && is_uuid(&tail[1..]);
    if is_cut && start > 0 { &given[..start] } else { given }
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A ULID has 26 digits of Crockford's base 32. The first of them is at most 7, so no word is one.
fn is_ulid(text: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() && !b"ILOU".contains(&byte.to_ascii_uppercase());
    text.len() == 26 && (b'0'..=b'7').contains(&text[0]) && text.iter().all(is_digit)
}

fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    digits > 0
        && (digits == segment.len()
            || (segment.len() >= 8 && segment.bytes().all(|byte| byte.is_ascii_hexdigit()))
            || is_ulid(segment.as_bytes()))
}

/// Returns the name of a future or closure without a given name: the path of its type without generics, closures and crate-deep
/// prefixes. It has at most the last two segments.
pub(crate) fn type_path<T: ?Sized>() -> String {
    clean_type_path(std::any::type_name::<T>())
}

fn clean_type_path(full: &str) -> String {
    let mut depth = 0_u32;
    let mut flat = String::with_capacity(full.len());
    for character in full.chars() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => flat.push(character),
            _ => {}
        }
    }
    let segments: Vec<&str> =
        flat.split("::").filter(|segment| !segment.is_empty() && !segment.starts_with("{{")).collect();
    segments[segments.len().saturating_sub(2)..].join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_at_the_end_are_cut_and_words_are_kept() {
        for (given, name) in [
            ("command_ping_8841", "command_ping"),
            ("command_ping", "command_ping"),
            ("fetch-7f3a9c21d04e", "fetch"),
            ("sync:42:7", "sync"),
            ("job_550e8400-e29b-41d4-a716-446655440000", "job"),
            ("job_550e8400-e29b-41d4-a716-446655440000:7", "job"),
            ("ünïcode_550e8400-e29b-41d4-a716-446655440000", "ünïcode"),
            ("decade", "decade"),
            ("say_deadbeef", "say_deadbeef"),
            // A hexadecimal word of fewer than eight digits is a word, and so is a long one with other letters.
            ("beta_a1", "beta_a1"),
            ("run_version10", "run_version10"),
            ("job_550e8400-e29b-41d4-a716-446655440000:7", "job"),
            ("import-01ARZ3NDEKTSV4RRFFQ69G5FAV", "import"),
            ("import-01arz3ndektsv4rrffq69g5fav:3", "import"),
            // Of the letters of a ULID, or too long for one.
            ("import-91ARZ3NDEKTSV4RRFFQ69G5FAV", "import-91ARZ3NDEKTSV4RRFFQ69G5FAV"),
            ("import-01ARZ3NDEKTSV4RRFFQ69G5FAVX", "import-01ARZ3NDEKTSV4RRFFQ69G5FAVX"),
            ("", ""),
            ("_", "_"),
        ] {
            assert_eq!(strip_ids(given), name, "{given:?}");
        }
    }

    #[test]
    fn a_name_that_is_only_an_identifier_is_folded() {
        for given in [
            "550e8400-e29b-41d4-a716-446655440000",
            "_550e8400-e29b-41d4-a716-446655440000",
            "550E8400E29B41D4A716446655440000",
            "550e8400-e29b-41d4-a716-446655440000:7",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "12",
            "_12",
            "42:7",
        ] {
            assert_eq!(NameRule::default().apply(given), "_ID", "{given:?}");
        }
    }

    #[test]
    fn a_panicking_rule_keeps_the_name() {
        assert_eq!(NameRule::custom(|_| panic!("mine")).apply("a_1"), "a_1");
    }

    #[test]
    fn type_paths_read_like_names() {
        assert_eq!(clean_type_path("bot::commands::ping::{{closure}}"), "commands::ping");
        assert_eq!(clean_type_path("core::pin::Pin<alloc::boxed::Box<dyn Future>>"), "pin::Pin");
        assert_eq!(
            clean_type_path("bot::Queue<Vec<Job>>::drain"),
            "Queue::drain",
            "it continues after the generics"
        );
        assert_eq!(clean_type_path("ping"), "ping");
    }

    #[test]
    fn a_uuid_is_cut_only_after_a_separator_and_never_the_whole_name() {
        for (given, name) in [
            ("job_550e8400-e29b-41d4-a716-446655440000", "job"),
            // Without a separator it belongs to the word; with one, 36 other characters are no UUID.
            ("job550e8400-e29b-41d4-a716-446655440000", "job550e8400-e29b-41d4-a716-446655440000"),
            ("job_550e8400-e29b-41d4-a716-44665544000x", "job_550e8400-e29b-41d4-a716-44665544000x"),
            ("job_550e8400+e29b-41d4-a716-446655440000", "job_550e8400+e29b-41d4-a716-446655440000"),
            // These are for `strip_ids`.
            ("_550e8400-e29b-41d4-a716-446655440000", "_550e8400-e29b-41d4-a716-446655440000"),
        ] {
            assert_eq!(without_uuid(given), name, "{given:?}");
        }
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let long = "ä".repeat(5_000);
        assert_eq!(NameRule::keep().apply(&long), "ä".repeat(128));
        let most = format!("a{}", "b".repeat(255));
        assert_eq!(NameRule::keep().apply(&most), most, "it just fits");
        let custom = NameRule::custom(|given| format!("x{given}").into());
        assert_eq!(custom.apply(&long), format!("x{}", "ä".repeat(127)));
    }

    #[test]
    fn each_rule_has_its_effect_and_debug_text() {
        for (rule, applied, shown) in [
            (NameRule::strip_ids(), "a", "NameRule::strip_ids"),
            (NameRule::keep(), "a_1", "NameRule::keep"),
            (NameRule::custom(|_| "mine".into()), "mine", "NameRule::custom"),
        ] {
            assert_eq!(rule.apply("a_1"), applied);
            assert_eq!(format!("{rule:?}"), shown);
        }
    }
}
