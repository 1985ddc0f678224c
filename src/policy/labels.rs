//! Closed sets of words: the values of attributes, JSON and configuration files.

use std::fmt;

/// Serializes types as `Display` writes them, and deserializes what `FromStr` reads.
macro_rules! serialize_as_text {
    ($($name:ty),+) => {
        $(
            #[cfg(feature = "serde")]
            impl serde::Serialize for $name {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            #[cfg(feature = "serde")]
            impl<'de> serde::Deserialize<'de> for $name {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    $crate::policy::deserialize_text(deserializer)
                }
            }
        )+
    };
}
pub(crate) use serialize_as_text;

/// Defines an enum whose variants have one text each, which is written and read everywhere.
macro_rules! labels {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $label:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text of this value in attributes, JSON and configuration files.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::policy::ParseError;

            /// Reads the text of a value, in any case.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let known = Self::ALL.iter().find(|value| value.as_str().eq_ignore_ascii_case(text));
                known.copied().ok_or_else(|| {
                    $crate::policy::ParseError::new(stringify!($name), text, &[$($label),+])
                })
            }
        }

        $crate::policy::serialize_as_text!($name);
    };
}
pub(crate) use labels;

/// The error of a text that is not a word of an enum. Its `Display` lists the words.
///
/// ```
/// use otel_tasks::{RestartPolicy, TaskCategory};
/// assert_eq!("gateway".parse(), Ok(TaskCategory::Gateway));
/// let error = "sometimes".parse::<RestartPolicy>().unwrap_err();
/// assert_eq!(error.to_string(), "unknown RestartPolicy \"sometimes\": expected always, on_failure or never");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    of: &'static str,
    text: String,
    expected: &'static [&'static str],
}

impl ParseError {
    pub(crate) fn new(of: &'static str, text: &str, expected: &'static [&'static str]) -> Self {
        Self { of, text: text.to_owned(), expected }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown {} {:?}: expected ", self.of, self.text)?;
        for (index, word) in self.expected.iter().enumerate() {
            match index {
                0 => {}
                _ if index + 1 == self.expected.len() => f.write_str(" or ")?,
                _ => f.write_str(", ")?,
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}

/// Reads what `FromStr` reads.
#[cfg(feature = "serde")]
pub(crate) fn deserialize_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: fmt::Display>,
{
    struct Text<T>(std::marker::PhantomData<T>);

    impl<T: std::str::FromStr<Err: fmt::Display>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(std::marker::PhantomData))
}
