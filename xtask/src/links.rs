//! The command `links`: the links of the Markdown files of the repository.
//!
//! A relative link has to lead to a file, and its fragment to a heading of that file. A page that rustdoc includes is read at two
//! addresses, so its relative links are definitions, and `src/guide.rs` has each of them with the address on docs.rs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// The module that includes pages in rustdoc.
const GUIDE: &str = "src/guide.rs";

/// Prints the number of links and returns those that lead nowhere.
pub fn run(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git").arg("-C").arg(root).args(["ls-files", "*.md"]).output()?;
    ensure!(output.status.success(), "git ls-files failed in {}", root.display());
    let files: Vec<_> = String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect();
    let read = |file: &Path| {
        let path = root.join(file);
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let guide = read(Path::new(GUIDE))?;
    let (included, defined) = (included(&guide), defined(&guide));
    ensure!(!included.is_empty() && !defined.is_empty(), "{GUIDE} includes no page");

    let (mut count, mut findings) = (0, Vec::new());
    for file in &files {
        let text = read(file)?;
        let is_included = included.contains(file.as_path());
        for link in links(&text).into_iter().filter(|link| link.is_relative()) {
            count += 1;
            let mut report =
                |fault: &str| findings.push(format!("{}: {}: {fault}", file.display(), link.target));
            match (is_included, &link.label) {
                (true, None) => report("rustdoc includes the page: make the link a definition at its end"),
                (true, Some(label)) if !defined.contains(label.as_str()) => {
                    report(&format!("{GUIDE} does not define [{label}]"));
                }
                _ => {}
            }
            let (path, fragment) = link.target.split_once('#').unwrap_or((&link.target, ""));
            let path = path.split('?').next().unwrap_or(path);
            let to = match path {
                "" => file.clone(),
                path => normal(&file.parent().unwrap_or(Path::new("")).join(path)),
            };
            if !root.join(&to).exists() {
                report("no such file");
            } else if !fragment.is_empty() && to.extension().is_some_and(|is| is == "md") {
                let headings = headings(&read(&to)?);
                if !headings.contains(fragment) {
                    report("no such heading");
                }
            }
        }
    }
    println!("{count} relative links in {} files", files.len());
    Ok(findings)
}

/// A link of a page.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    /// The label of a definition; `None` for a link in the text.
    label: Option<String>,
    target: String,
}

impl Link {
    fn is_relative(&self) -> bool {
        !["http://", "https://", "mailto:"].iter().any(|scheme| self.target.starts_with(scheme))
    }
}

/// The links of a page in text and definitions, without those in code.
fn links(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for line in prose(text) {
        let line = without_code(line);
        let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
        if let Some((label, target)) = definition {
            links.push(Link { label: Some(label.into()), target: target.trim().into() });
            continue;
        }
        let mut rest = line.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let target = after.split(')').next().unwrap_or_default();
            links.push(Link { label: None, target: target.into() });
            rest = after;
        }
    }
    links
}

/// The lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// The line without its code spans.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The fragments of a page's headings, as code hosts make them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles =
        prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let fragment = |title: &str| {
        let kept = title.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    titles.map(fragment).collect()
}

/// The pages that the module includes, from the root of the repository.
fn included(guide: &str) -> BTreeSet<PathBuf> {
    quoted(guide)
        .filter(|text| text.ends_with(".md") && !text.contains(':'))
        .map(|page| Path::new("docs").join(page))
        .collect()
}

/// The labels that the module defines.
fn defined(guide: &str) -> BTreeSet<&str> {
    quoted(guide).filter_map(|text| Some(text.strip_prefix('[')?.split_once("]: ")?.0)).collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// The path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_text_and_definitions_are_found_and_those_in_code_are_not() {
        let text = "[a](b.md) and ![c](d.png) `[e](f.md)`\n```text\n[g](h.md)\n```\n[i]: ../j.md#k\n[l]: https://m\n";
        let found: Vec<_> = links(text).into_iter().filter(Link::is_relative).collect();
        let link =
            |label: Option<&str>, target: &str| Link { label: label.map(Into::into), target: target.into() };
        assert_eq!(found, [link(None, "b.md"), link(None, "d.png"), link(Some("i"), "../j.md#k")]);
    }

    #[test]
    fn fragments_are_those_of_code_hosts() {
        let text = "# Why not `JoinSet`?\n## What an outage costs\n```sh\n# no heading\n```\n";
        assert_eq!(headings(text), ["why-not-joinset", "what-an-outage-costs"].map(String::from).into());
    }

    #[test]
    fn pages_and_labels_of_the_module_are_read() {
        let guide = "#[doc = \"[loops]: crate::guide::loops\"]\npage!(cost, \"guide/cost.md\");";
        assert_eq!(included(guide), [PathBuf::from("docs/guide/cost.md")].into());
        assert_eq!(defined(guide), ["loops"].into());
    }

    /// Each fault is found in a repository that has it.
    #[test]
    fn faults_are_reported() {
        let root = std::env::temp_dir().join(format!("xtask-links-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        write(GUIDE, "\"[known]: x\" \"guide/a.md\"");
        write("docs/guide/a.md", "[x](b.md)\n\n[known]: ../b.md#there\n[unknown]: ../b.md\n");
        write("docs/b.md", "# There\n[y](c.md) [z](#nowhere) [w](guide/a.md)\n");
        let git = |args: &[&str]| Command::new("git").arg("-C").arg(&root).args(args).output().expect("git");
        git(&["init", "-q"]);
        git(&["add", "."]);
        let mut findings = run(&root).expect("findings");
        findings.sort();
        fs::remove_dir_all(&root).expect("removed");
        assert_eq!(
            findings,
            [
                "docs/b.md: #nowhere: no such heading",
                "docs/b.md: c.md: no such file",
                "docs/guide/a.md: ../b.md: src/guide.rs does not define [unknown]",
                "docs/guide/a.md: b.md: no such file",
                "docs/guide/a.md: b.md: rustdoc includes the page: make the link a definition at its end",
            ]
        );
    }
}
