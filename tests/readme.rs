//! The README's generated parts are what the code says. `UPDATE_README=1 cargo test --test readme` writes them anew.

use otel_tasks::telemetry::contract::{INSTRUMENTS, TASK_ATTRIBUTES, lease};

fn instruments() -> String {
    let mut table = String::from("| instrument | kind | unit | more attributes | |\n|---|---|---|---|---|\n");
    for instrument in INSTRUMENTS {
        let attributes: Vec<_> = instrument.attributes.iter().map(|key| format!("`{key}`")).collect();
        table += &format!(
            "| `{}` | {} | {} | {} | {} |\n",
            instrument.name,
            instrument.kind.as_str(),
            instrument.unit,
            attributes.join(", "),
            instrument.description
        );
    }
    table
}

/// The example's last recorded output.
fn output() -> String {
    format!("```text\n{}\n```\n", include_str!("../docs/bot-output.txt").trim_end())
}

/// What the real programs answered when `stack/test --record` asked them last.
fn stack() -> String {
    format!("```text\n{}\n```\n", include_str!("../docs/stack-output.txt").trim_end())
}

#[test]
fn the_page_on_fleets_lists_the_instruments_of_leases() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fleet.md");
    let page = std::fs::read_to_string(path).expect("the page");
    for instrument in lease::INSTRUMENTS {
        let keys: Vec<_> = instrument.attributes.iter().map(|key| format!("`{key}`")).collect();
        let kind = instrument.kind.as_str();
        let keys = if keys.is_empty() { " ".to_owned() } else { format!(" {} ", keys.join(", ")) };
        let row = format!(
            "| `{}` | {kind} | {} |{keys}| {} |",
            instrument.name, instrument.unit, instrument.description
        );
        assert!(page.contains(&row), "not in docs/fleet.md:\n{row}");
    }
}

#[test]
fn the_generated_parts_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("the README");
    let mut fresh = readme.clone();
    for (name, content) in
        [("instruments", instruments()), ("bot-output", output()), ("stack-output", stack())]
    {
        let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let start = fresh.find(&open).expect("the opening mark") + open.len();
        let end = fresh.find(&close).expect("the closing mark");
        fresh.replace_range(start..end, &content);
    }
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, &fresh).expect("written");
    } else {
        assert!(readme == fresh, "run UPDATE_README=1 cargo test --test readme");
    }
    for key in TASK_ATTRIBUTES {
        assert!(readme.contains(&format!("`{key}`")), "{key}");
    }
}
