//! stub
use std::path::Path;
pub fn run(_: &Path) -> anyhow::Result<Vec<String>> {
    Ok(vec![])
}
