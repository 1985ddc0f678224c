//! The code of the repository's guide, `docs/page.md`, is that of the README, which is compiled.

fn code(markdown: &str) -> &str {
    let (_, rest) = markdown.split_once("```rust").expect("code");
    rest.split_once("```").expect("the code's end").0
}

#[test]
fn the_guide_shows_the_readmes_code() {
    assert_eq!(code(include_str!("../../docs/page.md")), code(include_str!("../README.md")));
}
