use std::collections::BTreeSet;

use super::FILES;

/// The most bytes of all files together, without compression.
const MOST: usize = 120 * 1_000;

#[test]
fn files_are_small() {
    let size: usize = FILES.iter().map(|(.., text)| text.len()).sum();
    assert!(size <= MOST, "{size} bytes");
}

#[test]
fn every_import_is_served_and_every_file_is_used() {
    let html = include_str!("page.html");
    let mut named: BTreeSet<String> =
        quoted(html).filter_map(|text| text.strip_prefix("./assets/")).map(str::to_owned).collect();
    for (name, kind, text) in FILES {
        if kind.starts_with("text/javascript") && !name.starts_with("vendor/") {
            let imports = text.lines().filter(|line| line.starts_with("import "));
            named.extend(imports.flat_map(quoted).map(|import| {
                import.strip_prefix("./").expect("imports are relative to the file").to_owned()
            }));
        }
    }
    let served: BTreeSet<String> = FILES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(named, served);
}

#[test]
fn nothing_needs_more_than_the_policy_permits() {
    for (name, kind, text) in FILES {
        for forbidden in ["eval(", "new Function", "innerHTML", "dangerouslySetInnerHTML", "document.write"] {
            // The library can set markup when it is asked to; the page never asks.
            let is_library = name.starts_with("vendor/") && forbidden.ends_with("nnerHTML");
            assert!(is_library || !text.contains(forbidden), "{name}: {forbidden}");
        }
        let is_code = kind.starts_with("text/") && !name.starts_with("vendor/");
        assert!(!is_code || !text.contains("http://") && !text.contains("https://"), "{name} names a host");
    }
    let html = include_str!("page.html");
    assert!(!html.contains("<style") && !html.contains("style=") && !html.contains("<base"), "{html}");
    assert!(!quoted(html).any(|text| text.starts_with('/')), "an address is not relative");
}

/// Fails if a request is relative to the address of the page, which may lack the slash at its end.
#[test]
fn requests_are_relative_to_the_folder_of_the_page() {
    let own = FILES.iter().filter(|(name, ..)| !name.starts_with("vendor/"));
    let requests = own.flat_map(|(name, _, text)| {
        let after = ["fetch(", "EventSource("].into_iter().flat_map(|call| text.split(call).skip(1));
        after.map(move |argument| (name, argument.starts_with("from(")))
    });
    let requests: Vec<_> = requests.collect();
    assert!(requests.len() >= 3 && requests.iter().all(|(_, is_from)| *is_from), "{requests:?}");
}

/// The texts in double quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}
