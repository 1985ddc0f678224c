//! The JSON of a receiver's answer, as far as its fields are read: texts, whole numbers and objects.
//!
//! A few fields of one small object are read, and only of receivers that answer in JSON though they were asked in protobuf.
//! serde_json and its crates are a twentieth of the build of plain HTTP export.

/// A value of JSON.
pub(super) enum Json {
    Null,
    Integer(i64),
    Text(String),
    Object(Vec<(String, Json)>),
    /// A boolean, an array, or a number that is no `i64`.
    Other,
}

/// The most values within each other: the receiver must not decide how much of the stack is used.
const MAX_DEPTH: usize = 128;

impl Json {
    /// Reads a whole text; `None` if it is not JSON.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut reader = Reader(std::str::from_utf8(text).ok()?);
        let value = reader.value(MAX_DEPTH)?;
        reader.skip_space();
        reader.0.is_empty().then_some(value)
    }

    /// Returns the last field of an object under one of these names; null if there is none.
    pub(super) fn field(&self, names: &[&str]) -> &Self {
        let Self::Object(fields) = self else { return &Self::Null };
        let found = fields.iter().rev().find(|(name, _)| names.contains(&name.as_str()));
        found.map_or(&Self::Null, |(_, value)| value)
    }
}

/// The text that is still to be read.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        self.skip_space();
        match self.0.bytes().next()? {
            b'"' => self.text().map(Json::Text),
            b'{' => {
                let mut fields = Vec::new();
                self.list("{", "}", |reader| {
                    reader.skip_space();
                    let name = reader.text()?;
                    reader.skip_space();
                    reader.take(":").then_some(())?;
                    fields.push((name, reader.value(depth)?));
                    Some(())
                })?;
                Some(Json::Object(fields))
            }
            b'[' => self.list("[", "]", |reader| reader.value(depth).map(drop)).map(|()| Json::Other),
            b'-' | b'0'..=b'9' => self.number(),
            _ if self.take("null") => Some(Json::Null),
            _ if self.take("true") || self.take("false") => Some(Json::Other),
            _ => None,
        }
    }

    fn list(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open).then_some(())?;
        self.skip_space();
        if self.take(close) {
            return Some(());
        }
        loop {
            item(self)?;
            self.skip_space();
            if self.take(close) {
                return Some(());
            }
            self.take(",").then_some(())?;
        }
    }

    fn number(&mut self) -> Option<Json> {
        let whole = self.0;
        self.take("-");
        if !self.take("0") {
            self.digits()?;
        }
        let integer = &whole[..whole.len() - self.0.len()];
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            let _ = self.take("+") || self.take("-");
            self.digits()?;
        }
        let number = &whole[..whole.len() - self.0.len()];
        match integer.parse() {
            Ok(value) if integer.len() == number.len() => Some(Json::Integer(value)),
            // A number that no `f64` can have is refused, as RFC 8259 permits.
            _ => number.parse::<f64>().ok()?.is_finite().then_some(Json::Other),
        }
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.0.trim_start_matches(|c: char| c.is_ascii_digit());
        let found = rest.len() < self.0.len();
        self.0 = rest;
        found.then_some(())
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"").then_some(())?;
        let mut text = String::new();
        loop {
            let plain = self.0.find(|c| matches!(c, '"' | '\\' | '\0'..' '))?;
            text.push_str(&self.0[..plain]);
            self.0 = &self.0[plain..];
            if self.take("\"") {
                return Some(text);
            }
            // Another character is a control character, which a text has as an escape only.
            self.take("\\").then_some(())?;
            text.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Option<char> {
        let (kind, rest) = self.0.split_at_checked(1)?;
        self.0 = rest;
        match kind {
            "\"" => Some('"'),
            "\\" => Some('\\'),
            "/" => Some('/'),
            "b" => Some('\u{8}'),
            "f" => Some('\u{c}'),
            "n" => Some('\n'),
            "r" => Some('\r'),
            "t" => Some('\t'),
            "u" => {
                let unit = self.code_unit()?;
                // The first half of a pair.
                let second = if matches!(unit, 0xd800..0xdc00) && self.take("\\u") {
                    Some(self.code_unit()?)
                } else {
                    None
                };
                char::decode_utf16([unit].into_iter().chain(second)).next()?.ok()
            }
            _ => None,
        }
    }

    fn code_unit(&mut self) -> Option<u16> {
        let (digits, rest) = self.0.split_at_checked(4)?;
        self.0 = rest;
        // `from_str_radix` takes a sign, too.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }
}

#[cfg(test)]
mod tests;
