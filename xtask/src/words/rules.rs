//! The rules of `xtask/words.toml`, and the places where a text breaks them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::prose::{Kind, Passage, Token, passages, tokens};

/// The configuration of the command, `xtask/words.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// The files and folders to read.
    pub read: Vec<String>,
    /// The files and folders that are read and counted, and may still break the rules.
    pub not_yet: Vec<String>,
    /// The largest number of words in a sentence of a doc.
    pub most_words: usize,
    /// The words with which no doc comment may begin.
    pub openings: Vec<String>,
    #[serde(rename = "phrase")]
    phrases: Vec<Phrase>,
}

/// Phrases that are replaced by the same plain words.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Phrase {
    /// Each may come in any case, and across a line break.
    any: Vec<String>,
    /// What to write instead.
    plain: String,
}

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    /// The phrase, or the name of the rule: the key of the counts.
    pub rule: String,
    pub advice: String,
}

impl Rules {
    pub fn parse(text: &str) -> Result<Self> {
        let rules: Self = toml::from_str(text)?;
        for phrase in rules.phrases.iter().flat_map(|phrase| &phrase.any) {
            let is_plain = phrase.chars().all(|c| c.is_lowercase() || c == ' ' || c == '\'');
            ensure!(is_plain && !phrase.is_empty(), "`{phrase}` must be words in lower case");
        }
        Ok(rules)
    }

    /// Whether a file may still break the rules.
    pub fn is_not_yet(&self, file: &str) -> bool {
        self.not_yet.iter().any(|entry| covers(entry, file))
    }

    /// The name of every rule.
    pub fn names(&self) -> Vec<String> {
        let phrases = self.phrases.iter().flat_map(|phrase| phrase.any.iter().cloned());
        phrases.chain([self.long(), OPENING.to_owned()]).collect()
    }

    fn long(&self) -> String {
        format!("sentence of more than {} words", self.most_words)
    }

    /// The places of a file, by line.
    pub fn check(&self, file: &str, text: &str) -> Vec<Place> {
        let mut places = Vec::new();
        for passage in passages(file, text) {
            let tokens = tokens(&passage);
            self.find_phrases(&tokens, &mut places);
            if passage.kind == Kind::Doc {
                self.find_long(&tokens, &mut places);
                if file.ends_with(".rs") {
                    self.find_opening(&passage, &tokens, &mut places);
                }
            }
        }
        places.sort();
        places
    }

    fn find_phrases(&self, tokens: &[Token], places: &mut Vec<Place>) {
        for phrase in &self.phrases {
            for text in &phrase.any {
                let words: Vec<&str> = text.split(' ').collect();
                for window in tokens.windows(words.len()) {
                    let is_it = window
                        .iter()
                        .zip(&words)
                        .all(|(token, word)| matches!(token, Token::Word { word: said, .. } if said == word));
                    if let (true, Some(Token::Word { line, .. })) = (is_it, window.first()) {
                        let advice = format!("`{text}`: {}", phrase.plain);
                        places.push(Place { line: *line, rule: text.clone(), advice });
                    }
                }
            }
        }
    }

    fn find_long(&self, tokens: &[Token], places: &mut Vec<Place>) {
        for sentence in tokens.split(|token| *token == Token::End) {
            let words = sentence.iter().filter(|token| !matches!(token, Token::Pause)).count();
            let first = sentence.iter().find_map(|token| match token {
                Token::Word { line, .. } => Some(*line),
                _ => None,
            });
            if let (true, Some(line)) = (words > self.most_words, first) {
                let advice = format!("a sentence of {words} words: at most {}", self.most_words);
                places.push(Place { line, rule: self.long(), advice });
            }
        }
    }

    /// Whether a doc comment begins with a clause in place of a noun phrase or a verb.
    fn find_opening(&self, passage: &Passage, tokens: &[Token], places: &mut Vec<Place>) {
        let Some(Token::Word { line, word }) = tokens.iter().find(|token| **token != Token::End) else {
            return;
        };
        // The doc of a test or an item may follow a fence or a heading; only the first line is its first sentence.
        if passage.lines.first().is_some_and(|(first, _)| first == line) && self.openings.contains(word) {
            let advice = format!("a doc that begins with `{word}`: begin with a noun or a verb");
            places.push(Place { line: *line, rule: OPENING.to_owned(), advice });
        }
    }
}

const OPENING: &str = "doc that begins with a clause";

/// Whether an entry is a file, or a folder that holds it.
pub fn covers(entry: &str, file: &str) -> bool {
    if entry.ends_with('/') { file.starts_with(entry) } else { file == entry }
}

/// How often each rule is broken: in the files that must be clean, and in the others.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<String, [usize; 2]>);

impl Counts {
    pub fn add(&mut self, rule: &str, is_not_yet: bool) {
        self.0.entry(rule.to_owned()).or_default()[usize::from(is_not_yet)] += 1;
    }

    pub fn of(&self, rule: &str) -> [usize; 2] {
        self.0.get(rule).copied().unwrap_or_default()
    }
}
