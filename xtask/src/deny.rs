//! `cargo deny`, which checks the dependencies against `deny.toml`.
//!
//! It is built once from crates.io into `target/tools`, at the version that is named here, so that nothing must be
//! installed by hand. If something can't be checked, that is an error; a check is never skipped.

use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of cargo-deny.
const VERSION: &str = "0.20.2";
/// Checks that need only the registry.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];
/// Check that needs the database of advisories: a Git repository on GitHub, which is fetched each time.
const ADVISORIES: [&str; 1] = ["advisories"];

/// Checks licences, duplicate versions and sources, or whether there are advisories.
pub(crate) fn check(workspace: &Workspace, advisories: bool) -> Result<()> {
    let program = found_or_built(&workspace.tools_folder())?;
    let checks: &[&str] = if advisories { &ADVISORIES } else { &CHECKS };
    let mut deny = Command::new(program);
    process::run(deny.args(["--locked", "check", "--deny", "warnings"]).args(checks).current_dir(&workspace.root))
}

fn found_or_built(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("bin/cargo-deny");
    if process::ask(&program, &["--version"]).is_some_and(|version| version == format!("cargo-deny {VERSION}")) {
        return Ok(program);
    }
    eprintln!("building cargo-deny {VERSION} into {}", folder.display());
    let build = folder.join("build");
    process::run(&mut install(folder, &build))?;
    // The build folder is twenty times as large as the program and of no further use.
    fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    Ok(program)
}

/// Returns the command that installs cargo-deny. It builds without optimisation, because an optimised build would take
/// longer than the program will ever run.
fn install(folder: &Path, build: &Path) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["install", "cargo-deny", "--locked", "--force", "--version", VERSION, "--profile", "dev", "--root"]);
    cargo.arg(folder).arg("--target-dir").arg(build);
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_INCREMENTAL", "false");
    cargo
}
