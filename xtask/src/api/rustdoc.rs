//! The JSON that rustdoc makes of a crate. A stable rustdoc makes it only with `RUSTC_BOOTSTRAP`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{MetadataCommand, TargetKind};
use rustdoc_types::{Crate, FORMAT_VERSION};

/// Set when cargo starts this program in place of rustdoc.
const AS_RUSTDOC: &str = "XTASK_AS_RUSTDOC";

/// Runs rustdoc with `RUSTC_BOOTSTRAP` if cargo started this program in its place.
///
/// Many build scripts ask for the variable. If cargo itself had it, cargo would build these dependencies again.
pub fn run_as_rustdoc() -> Option<ExitCode> {
    let rustdoc = env::var_os(AS_RUSTDOC)?;
    let status = Command::new(rustdoc).args(env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").status();
    Some(if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the JSON of `package` with all of its features, and returns its text.
pub fn build(root: &Path, package: &str) -> Result<String> {
    let (manifest, target) = find(root, package)?;
    let status = crate::cargo()
        .args(["rustdoc", "--quiet", "--lib", "--all-features", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .env("RUSTDOC", env::current_exe()?)
        .env(AS_RUSTDOC, env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into()))
        .env_remove("RUSTDOCFLAGS")
        .status()
        .context("failed to start cargo rustdoc")?;
    ensure!(status.success(), "cargo rustdoc of {package} failed");
    let file = target.join(format!("doc/{}.json", package.replace('-', "_")));
    fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
}

/// The manifest and the target folder of a package of the workspace, or of a crate in a folder of the checkout with a
/// workspace of its own.
fn find(root: &Path, package: &str) -> Result<(PathBuf, PathBuf)> {
    let mut manifests = vec![root.join("Cargo.toml")];
    for entry in fs::read_dir(root)? {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.is_file() {
            manifests.push(manifest);
        }
    }
    for manifest in manifests {
        let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec()?;
        let Some(found) = metadata.packages.iter().find(|found| found.name.as_str() == package) else {
            continue;
        };
        let library = |kind: &TargetKind| matches!(kind, TargetKind::Lib | TargetKind::ProcMacro);
        ensure!(
            found.targets.iter().any(|target| target.kind.iter().any(library)),
            "package {package} has no library"
        );
        let target = metadata.target_directory.clone().into_std_path_buf();
        return Ok((found.manifest_path.clone().into_std_path_buf(), target));
    }
    bail!("no package {package} in {}: correct xtask/api.toml", root.display())
}

/// Reads the JSON, if it is of the one format that this program knows.
pub fn parse(json: &str) -> Result<Crate> {
    #[derive(serde::Deserialize)]
    struct Version {
        format_version: u32,
    }
    let Version { format_version } =
        serde_json::from_str(json).context("rustdoc's JSON has no format_version")?;
    ensure!(
        format_version == FORMAT_VERSION,
        "rustdoc of this toolchain writes format {format_version}, and xtask reads format {FORMAT_VERSION}: use the \
         toolchain that CI uses, or set rustdoc-types in xtask/Cargo.toml to version 0.{format_version} and adapt \
         xtask/src/api"
    );
    serde_json::from_str(json).context("failed to read rustdoc's JSON")
}
