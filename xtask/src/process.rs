//! Running other programs. Their output goes to standard error, so that only the task itself writes standard output.

use anyhow::{Context, Result, bail};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt as _;

/// Returns the cargo that runs this program, or the one on the path.
///
/// It gets none of the variables by which cargo tells a program about its package. Build scripts depend on them, so what a task has
/// built would be built again by a `cargo` of a shell.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(of_package))
        .for_each(|(name, _)| _ = cargo.env_remove(name));
    cargo
}

/// Runs a program to its end and fails if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::from(io::stderr())).status().with_context(|| could_not_start(command))?;
    check(command, status)
}

/// Runs a program to its end and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| could_not_start(command))?;
    check(command, output.status)?;
    Ok(output.stdout)
}

/// Returns what a program prints, or `None` if it is missing or fails.
pub(crate) fn ask(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Runs a program and kills it if it takes longer than `wait`.
pub(crate) fn run_within(command: &mut Command, wait: Duration) -> Result<()> {
    let mut child = command.stdout(Stdio::from(io::stderr())).spawn().with_context(|| could_not_start(command))?;
    match child.wait_timeout(wait)? {
        Some(status) => check(command, status),
        None => {
            child.kill()?;
            child.wait()?;
            bail!("`{}` did not end within {} s", line(command), wait.as_secs())
        }
    }
}

/// Returns the path of a program that is on the `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    match status.success() {
        true => Ok(()),
        false => bail!("`{}` failed: {status}", line(command)),
    }
}

fn could_not_start(command: &Command) -> String {
    format!("start `{}`", line(command))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
