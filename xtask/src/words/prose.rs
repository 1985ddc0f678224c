//! The prose in a file: the comments and string literals of Rust, the paragraphs of Markdown. Code is left out.

/// Where a passage is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A doc comment, or Markdown.
    Doc,
    Comment,
    /// A string literal.
    Message,
}

/// Adjacent lines of one kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Passage {
    pub kind: Kind,
    /// Each line with its number, from 1.
    pub lines: Vec<(usize, String)>,
}

/// The words of a paragraph and what separates them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// In lower case.
    Word { line: usize, word: String },
    /// A piece of inline code. It counts as a word of its sentence.
    Code,
    /// Punctuation inside a sentence.
    Pause,
    /// The end of a sentence, list item, table cell or heading.
    End,
}

/// The passages of a file, by the end of its name.
pub fn passages(file: &str, text: &str) -> Vec<Passage> {
    if file.ends_with(".rs") { of_rust(text) } else { of_markdown(text) }
}

fn of_markdown(text: &str) -> Vec<Passage> {
    let lines = text.lines().zip(1..).map(|(line, number)| (number, line.to_owned())).collect();
    vec![Passage { kind: Kind::Doc, lines }]
}

fn of_rust(text: &str) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut add = |kind: Kind, line: usize, text: &str| {
        let follows = |passage: &Passage| {
            passage.kind == kind
                && kind != Kind::Message
                && passage.lines.last().is_some_and(|(last, _)| last + 1 == line)
        };
        match passages.last_mut().filter(|passage| follows(passage)) {
            Some(passage) => passage.lines.push((line, text.to_owned())),
            None => passages.push(Passage { kind, lines: vec![(line, text.to_owned())] }),
        }
    };
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            let taken = rest.find('\n').unwrap_or(rest.len());
            let comment = &rest[..taken];
            let is_doc =
                comment.starts_with("//!") || comment.starts_with("///") && !comment.starts_with("////");
            let kind = if is_doc { Kind::Doc } else { Kind::Comment };
            add(kind, line, comment.trim_start_matches(['/', '!']));
            taken
        } else if rest.starts_with("/*") {
            let taken = rest.find("*/").map_or(rest.len(), |end| end + 2);
            add(Kind::Comment, line, &rest[2..taken.saturating_sub(2).max(2)]);
            taken
        } else if let Some((content, taken)) = raw_string(rest) {
            add(Kind::Message, line, content);
            taken
        } else if first == '"' {
            let taken = string_end(rest);
            add(
                Kind::Message,
                line,
                &rest[1..taken.saturating_sub(1).max(1)].replace("\\n", " ").replace('\\', " "),
            );
            taken
        } else if first == '\'' {
            char_end(rest)
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    passages
}

/// The content of a raw string at the start of `text`, and the length of the literal.
fn raw_string(text: &str) -> Option<(&str, usize)> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let content = after[hashes..].strip_prefix('"')?;
    let begin = text.len() - content.len();
    let close = format!("\"{}", "#".repeat(hashes));
    let length = content.find(&close)?;
    Some((&content[..length], begin + length + close.len()))
}

/// The length of the string literal at the start of `text`.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal at the start of `text`; 1 for a lifetime.
fn char_end(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let after = at + escaped.len_utf8();
            text[after..].find('\'').map_or(1, |end| after + end + 1)
        }
        (_, Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// The tokens of a passage, without the code in it.
pub fn tokens(passage: &Passage) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut fenced = false;
    for (line, text) in &passage.lines {
        let text = text.trim();
        if passage.kind != Kind::Message && text.starts_with("```") {
            fenced = !fenced;
            tokens.push(Token::End);
            continue;
        }
        // Also without the definitions of links.
        if fenced || text.starts_with('[') && text.contains("]: ") {
            continue;
        }
        // The definition of a link.
        if text.starts_with('[') && text.contains("]: ") {
            tokens.push(Token::End);
            continue;
        }
        let begins_a_block = ["#", "- ", "* ", "|", ">"].iter().any(|mark| text.starts_with(mark))
            || text.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        if text.is_empty() || begins_a_block {
            tokens.push(Token::End);
        }
        line_tokens(*line, text, &mut tokens);
        if text.starts_with('#') {
            tokens.push(Token::End);
        }
    }
    tokens.push(Token::End);
    tokens
}

fn line_tokens(line: usize, text: &str, tokens: &mut Vec<Token>) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let taken = if first == '`' {
            tokens.push(Token::Code);
            rest[1..].find('`').map_or(rest.len(), |end| end + 2)
        } else if first == '{' {
            // A placeholder of a message.
            tokens.push(Token::Code);
            rest.find('}').map_or(rest.len(), |end| end + 1)
        } else if rest.starts_with("](") {
            // The target of a link.
            rest.find(')').map_or(rest.len(), |end| end + 1)
        } else if first.is_alphanumeric() {
            let taken = rest.find(|c: char| !c.is_alphanumeric() && c != '\'').unwrap_or(rest.len());
            tokens.push(Token::Word { line, word: rest[..taken].to_lowercase() });
            taken
        } else {
            let taken = first.len_utf8();
            let next = rest[taken..].chars().next();
            let ends = next.is_none_or(|next| next.is_whitespace() || matches!(next, ')' | '*' | '"'));
            match first {
                '.' | '!' | '?' if ends => tokens.push(Token::End),
                '|' => tokens.push(Token::End),
                '*' | '[' | ']' | '-' | '_' => {}
                _ if first.is_whitespace() => {}
                _ => tokens.push(Token::Pause),
            }
            taken
        };
        rest = &rest[taken..];
    }
}
