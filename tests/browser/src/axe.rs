//! The accessibility rules of axe-core (WCAG 2.2, A and AA) on the page as it is drawn.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{Checked, browser::Browser, check};

const PACKAGE: &str = include_str!("../axe/package.json");
/// Names the version and its checksum, which `npm ci` compares.
const LOCK: &str = include_str!("../axe/package-lock.json");

const RUN: &str = "const done = arguments[arguments.length - 1]; \
    axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }).then((found) => done({ \
        passes: found.passes.length, \
        violations: found.violations.map((rule) => `${rule.id}: ${rule.nodes.slice(0, 3).map((node) => `${node.html.slice(0, 120)} (${node.failureSummary})`).join('; ')}`), \
    }), (error) => done({ passes: 0, violations: [String(error)] }))";

pub struct Axe(String);

impl Axe {
    /// Installs axe-core beside the program, if it is not there from an earlier run.
    pub fn install() -> Checked<Self> {
        let folder = folder()?;
        let script = folder.join("node_modules/axe-core/axe.min.js");
        let is_locked =
            std::fs::read_to_string(folder.join("package-lock.json")).is_ok_and(|lock| lock == LOCK);
        if !is_locked || !script.exists() {
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("package.json"), PACKAGE)?;
            std::fs::write(folder.join("package-lock.json"), LOCK)?;
            let status = Command::new("npm")
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
                .current_dir(&folder)
                .stdin(Stdio::null())
                .status()
                .map_err(|error| format!("npm (apt-get install npm): {error}"))?;
            check!(status.success(), "npm ci: {status}");
        }
        Ok(Self(std::fs::read_to_string(script)?))
    }

    /// Fails with what is not accessible in the page as it is now.
    pub async fn check(&self, browser: &Browser, what: &str) -> Checked {
        browser.ask(&self.0).await?;
        let found: Value = browser.client.execute_async(RUN, Vec::new()).await?;
        let violations = found["violations"].as_array().ok_or("no list of violations")?;
        check!(violations.is_empty(), "{what}: {}", Value::from(violations.clone()));
        check!(found["passes"].as_u64() > Some(10), "{what}: axe checked nothing: {found}");
        let wide = browser.ask("return document.documentElement.scrollWidth > innerWidth").await?;
        check!(wide == false, "{what}: the page is wider than its window");
        Ok(())
    }
}

fn folder() -> Checked<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().ok_or("the program is in no folder")?.join("axe"))
}
