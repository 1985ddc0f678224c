//! The listing of a small crate, as the rustdoc of this toolchain describes it.

use std::{env, fs, process::Command};

use rustdoc_types::Crate;

use super::{
    difference, examples,
    foreign::{self, Foreign},
    listing::{Line, list},
    rustdoc,
};

const FIXTURE: &str = r#"
mod inner {
    /// Text.
    #[non_exhaustive]
    #[derive(Clone, Debug)]
    pub enum Exit { Done, Failed(String), Stopped { by: u32 } }
    #[must_use]
    pub struct Handle<T> { pub id: u32, value: T }
    pub struct Local(pub *const u8);
    impl<T: Clone + Send> Handle<T> {
        pub const LIMIT: u32 = 3;
        pub async fn wait<'a, F>(&'a self, run: F) -> Option<&'a T> where F: Fn(&T) -> bool + Send { None }
        fn private(&self) {}
    }
    impl From<Exit> for String { fn from(_: Exit) -> String { String::new() } }
    impl Iterator for Local { type Item = u8; fn next(&mut self) -> Option<u8> { None } }
    impl Secret for Local {}
    pub trait Secret {}
    pub fn unreachable() {}
    pub const NAMES: [&str; 1] = ["a"];
}
pub use inner::{Exit, Handle as Renamed, Local};
pub mod deep { pub use crate::inner::*; }
pub trait Provider: Send { const KIND: u8 = 1; type Out; fn tasks(&self, with: &mut dyn FnMut(u8)) -> Self::Out; fn other() {} }
pub fn take(_: impl Into<String>, _: [u8; 2]) -> impl Iterator<Item = u8> { [].into_iter() }
#[doc(hidden)]
pub mod __private { pub fn hidden() {} }
#[macro_export]
macro_rules! shout { () => {} }
"#;

/// The listing of `source`.
fn listing(name: &str, source: &str) -> Vec<Line> {
    list(&krate(name, source), &[])
}

/// What rustdoc says of `source`.
fn krate(name: &str, source: &str) -> Crate {
    let folder = env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("lib.rs");
    fs::write(&file, source).unwrap();
    let status = Command::new("rustdoc")
        .args([
            "--crate-name",
            name,
            "--edition",
            "2024",
            "-Z",
            "unstable-options",
            "--output-format",
            "json",
        ])
        .args(["--cap-lints", "allow", "-o"])
        .arg(&folder)
        .arg(&file)
        .env("RUSTC_BOOTSTRAP", "1")
        .status()
        .unwrap();
    assert!(status.success());
    let json = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    rustdoc::parse(&json).unwrap()
}

#[test]
fn listing_shows_every_public_item_by_its_public_path() {
    let lines: Vec<String> = listing("fixture", FIXTURE).into_iter().map(|line| line.text).collect();
    let expected = r#"
impl core::convert::From<fixture::Exit> for alloc::string::String
pub mod fixture
#[non_exhaustive] pub enum fixture::Exit
fixture::Exit::Done
fixture::Exit::Failed(alloc::string::String)
fixture::Exit::Stopped {}
pub fixture::Exit::Stopped::by: u32
impl core::clone::Clone for fixture::Exit
impl core::fmt::Debug for fixture::Exit
pub struct fixture::Local
pub fixture::Local::0: *const u8
impl !core::marker::Send for fixture::Local
impl !core::marker::Sync for fixture::Local
impl core::iter::traits::iterator::Iterator for fixture::Local { type Item = u8 }
impl fixture::deep::Secret for fixture::Local
pub trait fixture::Provider: core::marker::Send (not dyn compatible)
pub const fixture::Provider::KIND: u8 = 1
pub required type fixture::Provider::Out
pub fn fixture::Provider::other()
pub required fn fixture::Provider::tasks(&self, with: &mut dyn core::ops::function::FnMut(u8)) -> Self::Out
#[must_use] pub struct fixture::Renamed<T> { private fields }
pub const fixture::Renamed::LIMIT: u32 = 3
pub fixture::Renamed::id: u32
pub async fn fixture::Renamed::wait<'a, F>(&'a self, run: F) -> core::option::Option<&'a T> where F: core::ops::function::Fn(&T) -> bool + core::marker::Send
impl<T> core::marker::Send for fixture::Renamed<T> where T: core::marker::Send
impl<T> core::marker::Sync for fixture::Renamed<T> where T: core::marker::Sync
impl<T> core::marker::Unpin for fixture::Renamed<T> where T: core::marker::Unpin
pub mod fixture::deep
pub use fixture::deep::Exit = fixture::Exit
pub use fixture::deep::Handle = fixture::Renamed
pub use fixture::deep::Local = fixture::Local
pub const fixture::deep::NAMES: [&str; 1]
pub trait fixture::deep::Secret
pub fn fixture::deep::unreachable()
pub macro fixture::shout!
pub fn fixture::take(_: impl core::convert::Into<alloc::string::String>, _: [u8; 2]) -> impl core::iter::traits::iterator::Iterator<Item = u8>
"#;
    assert_eq!(lines.join("\n"), expected.trim());
}

#[test]
fn foreign_crate_needs_an_entry_and_an_entry_needs_a_use() {
    let line = Line {
        text: "pub fn a::meter() -> otel::Meter".to_owned(),
        foreign: ["otel::Meter", "core::option::Option", "own::Task", "pin::__private::Of"]
            .map(String::from)
            .into(),
    };
    let own = ["own".to_owned()];
    let allow = |name: &str| Foreign { name: name.to_owned(), reason: "the user's meter".to_owned() };
    let lines = [line];
    assert_eq!(foreign::check("a", &lines, &own, &[allow("otel")]), Vec::<String>::new());
    let missing = foreign::check("a", &lines, &own, &[]);
    assert!(missing.len() == 1 && missing[0].contains("`pub fn a::meter() -> otel::Meter`"), "{missing:?}");
    let unused = foreign::check("a", &lines, &own, &[allow("otel"), allow("axum")]);
    assert!(unused.len() == 1 && unused[0].contains("names nothing of axum"), "{unused:?}");
}

#[test]
fn json_of_another_format_is_refused_plainly() {
    let error = rustdoc::parse(r#"{"format_version": 99, "root": 0}"#).unwrap_err().to_string();
    assert!(error.contains("writes format 99") && error.contains("version 0.99"), "{error}");
}

#[test]
fn difference_has_the_removed_and_the_added_lines() {
    assert_eq!(difference("a\nb\nc\n", "a\nd\nc\n"), "-b\n+d\n");
}

#[test]
fn method_of_a_listed_type_needs_a_compiled_example_that_names_it() {
    let krate = krate(
        "examples",
        r#"
mod inner {
    pub struct Task<T>(T);
    impl Task<u8> {
        /// Text.
        ///
        /// ```no_run
        /// # use examples::Task;
        /// Task::shown();
        /// ```
        pub fn shown() {}
        /// ```
        /// Task::shown();
        /// ```
        pub fn other() {}
        /// Call `none`.
        pub fn none(&self) {}
        fn private(&self) {}
    }
    impl<T> Task<T> {
        /// ```text
        /// ignored()
        /// ```
        pub fn ignored(&self) {}
        pub const LIMIT: u8 = 1;
    }
    impl<T> Clone for Task<T> { fn clone(&self) -> Self { loop {} } }
}
pub use inner::Task;
pub struct Other;
impl Other { pub fn none(&self) {} }
"#,
    );
    let findings = examples::check(&krate, &["examples::Task".to_owned(), "examples::Tusk".to_owned()]);
    let starts = [
        "examples::Task::ignored has no example",
        "examples::Task::none has no example",
        "examples::Task::other has no example",
        "examples::Tusk has no public methods",
    ];
    assert_eq!(findings.len(), starts.len(), "{findings:#?}");
    for (finding, start) in findings.iter().zip(starts) {
        assert!(finding.starts_with(start), "{finding}");
    }
}
