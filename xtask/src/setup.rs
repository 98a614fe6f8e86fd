//! Checks of what a build needs from the machine, before each task. Each missing thing gets a sentence.

use crate::process;
use crate::toolchain::{TARGET, Toolchain};
use anyhow::{Result, bail};

/// What a task may do about a wasm target that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// It may add the target with rustup, which changes only the user's own toolchain.
    AskRustup,
    /// It may also install system packages, as root or with sudo, because the task was started for that.
    Install,
}

/// Checks the tools, and finds or installs the wasm target.
pub(crate) fn ensure(may: May) -> Result<Toolchain> {
    check_tools()?;
    Toolchain::find().map_or_else(|| Toolchain::install(may), Ok)
}

/// Prints what was found.
pub(crate) fn report(toolchain: &Toolchain) -> Result<()> {
    match toolchain {
        Toolchain::Installed => println!("ready: the Rust toolchain has the target {TARGET}"),
        Toolchain::FromSource { cargo, linker, .. } => println!(
            "ready: {} builds plugins with their standard library from source, linked by {}",
            cargo.display(),
            linker.display()
        ),
    }
    Ok(())
}

fn check_tools() -> Result<()> {
    let missing: Vec<_> =
        [compiler(), tool("perl", "OpenSSL"), tool("make", "OpenSSL and librdkafka")].into_iter().flatten().collect();
    match missing.is_empty() {
        true => Ok(()),
        false => bail!("{}", missing.join("\n")),
    }
}

fn compiler() -> Option<String> {
    if std::env::var_os("CC").is_some() || process::find("cc").is_some() {
        return None;
    }
    Some("There is no C compiler (cc), which SQLite, OpenSSL and librdkafka are built with: install gcc or clang, or set CC.".into())
}

fn tool(name: &str, needed_by: &str) -> Option<String> {
    process::find(name)
        .is_none()
        .then(|| format!("There is no {name}, which the build of {needed_by} needs: install {name}."))
}
