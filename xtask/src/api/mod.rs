//! stub
use std::path::Path;
pub fn run(_: &Path, _: bool) -> anyhow::Result<Vec<String>> {
    Ok(vec![])
}
