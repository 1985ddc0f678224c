//! What is read as prose, and what breaks a rule.

use std::collections::BTreeMap;

use super::{check, rules::Rules};

const RULES: &str = r#"
read = ["src/"]
not_yet = ["src/old/"]
most_words = 8
openings = ["what"]
[[phrase]]
any = ["anew", "one that"]
plain = "again"
"#;

/// The findings of one file.
fn findings(file: &str, text: &str) -> Vec<String> {
    let rules = Rules::parse(RULES).unwrap();
    let texts = BTreeMap::from([
        (file.to_owned(), text.to_owned()),
        ("src/old/a.rs".to_owned(), "// anew".to_owned()),
    ]);
    check(&rules, &texts).1
}

#[test]
fn phrase_is_found_in_docs_comments_and_messages_with_its_line() {
    let text = "/// Begins Anew,\n/// and one\n/// that runs.\nfn f() {\n    // anew\n    log(\"a \\\"quote\\\" anew\");\n}\n";
    let expected = [
        "src/a.rs:1: `anew`: again",
        "src/a.rs:2: `one that`: again",
        "src/a.rs:5: `anew`: again",
        "src/a.rs:6: `anew`: again",
    ];
    assert_eq!(findings("src/a.rs", text), expected);
}

#[test]
fn code_is_no_prose() {
    let text = "/// A `one that`, and [text](anew).\n///\n/// [anew]: one that\n///\n/// ```\n/// let anew = 'a';\n/// ```\nfn anew<'a>(c: char) -> bool { c == '\"' || c == '\\'' }\n// one, that\nfn g() { print(\"{anew:?}\") }\n";
    assert_eq!(findings("src/a.rs", text), Vec::<String>::new());
    let links = "[first page]: a.md\n[second page]: b.md\n[third page]: c.md\n[fourth page]: d.md\n";
    assert_eq!(findings("a.md", links), Vec::<String>::new());
}

#[test]
fn raw_string_and_block_comment_are_read() {
    let text = "const A: &str = r#\"a \" anew\"#;\n/* one\nthat */\nconst B: char = 'b';\n";
    assert_eq!(findings("src/a.rs", text), ["src/a.rs:1: `anew`: again", "src/a.rs:2: `one that`: again"]);
}

#[test]
fn long_sentence_is_found_in_docs_alone() {
    let nine = "one two three four five six seven `eight` nine";
    assert_eq!(
        findings("src/a.rs", &format!("/// {nine}.\n")),
        ["src/a.rs:1: a sentence of 9 words: at most 8"]
    );
    assert_eq!(
        findings("a.md", &format!("A title\n\n- {nine}\n")),
        ["a.md:3: a sentence of 9 words: at most 8"]
    );
    assert_eq!(findings("src/a.rs", &format!("// {nine}\n")), Vec::<String>::new());
    let short = "/// one two three four. Five six seven\n/// eight: nine.\n///\n/// # Errors\n/// - ten eleven\n/// - twelve\n";
    assert_eq!(findings("src/a.rs", short), Vec::<String>::new());
}

#[test]
fn doc_comment_may_not_begin_with_a_clause() {
    let opening = ["src/a.rs:1: a doc that begins with `what`: begin with a noun or a verb"];
    assert_eq!(findings("src/a.rs", "/// What it is.\nfn f() {}\n"), opening);
    assert_eq!(findings("src/a.rs", "// What it is.\n/// That.\n"), Vec::<String>::new());
    assert_eq!(findings("a.md", "What it is.\n"), Vec::<String>::new());
}

#[test]
fn entry_of_not_yet_must_be_needed() {
    let rules = Rules::parse(RULES).unwrap();
    let texts = BTreeMap::from([("src/old/a.rs".to_owned(), "// again".to_owned())]);
    let (_, findings) = check(&rules, &texts);
    assert_eq!(findings, ["src/old/ is clean: remove it from `not_yet` in xtask/words.toml"]);
}

#[test]
fn counts_tell_clean_files_from_the_others() {
    let rules = Rules::parse(RULES).unwrap();
    let texts = BTreeMap::from([
        ("src/a.rs".to_owned(), "// anew".to_owned()),
        ("src/old/a.rs".to_owned(), "// anew anew".to_owned()),
    ]);
    let (counts, _) = check(&rules, &texts);
    assert_eq!(counts.of("anew"), [1, 2]);
    assert_eq!(counts.of("one that"), [0, 0]);
}
