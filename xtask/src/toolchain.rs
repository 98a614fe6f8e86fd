//! The toolchain that compiles guests to WebAssembly.
//!
//! There are two kinds. One has the target's standard library, as `rustup target add` installs it. The other has the
//! sources of the standard library and builds it too, as Debian's packages do. The toolchain is looked up each time,
//! which costs a few milliseconds.

use crate::process;
use crate::setup::May;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Target for which guests are compiled.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// Target for which a guest of the tests is compiled as well. Its standard library uses WASI.
pub(crate) const WASI_TARGET: &str = "wasm32-wasip2";
/// Longest time for rustup, because a blocked network must not hold up the build forever.
const RUSTUP_WAIT: Duration = Duration::from_secs(180);
/// Packages of Debian and its relatives: compiler, cargo, sources of the standard library, and a WebAssembly linker.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];
/// Environment variables that an outer cargo or rustup sets and that another toolchain must not inherit.
const FOREIGN_ENVIRONMENT: [&str; 9] = [
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "LD_LIBRARY_PATH",
];

/// A way to compile guests.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// The active toolchain has the target.
    Installed,
    /// The standard library is built too, from its sources.
    FromSource {
        /// The cargo beside `rustc`.
        cargo: PathBuf,
        /// The compiler, whose sysroot holds the sources.
        rustc: PathBuf,
        /// The linker for WebAssembly.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// Returns the way that this machine has now, if any.
    pub(crate) fn find() -> Option<Self> {
        if is_installed(TARGET) {
            return Some(Self::Installed);
        }
        let rustc = process::find("rustc").into_iter().chain([PathBuf::from("/usr/bin/rustc")]);
        rustc.filter_map(Self::from_source).next()
    }

    /// Installs the target with rustup. If that fails and the task may do it, it installs Debian's packages.
    pub(crate) fn install(may: May) -> Result<Self> {
        let by_rustup = rustup_target_add(TARGET);
        if let (Ok(()), Some(toolchain)) = (&by_rustup, Self::find()) {
            return Ok(toolchain);
        }
        let why =
            |result: Result<()>| result.err().map_or("it changed nothing".to_owned(), |error| format!("{error:#}"));
        let by_rustup = why(by_rustup);
        if may == May::AskRustup {
            bail!(
                "plugins need the Rust target {TARGET}, which rustup did not install ({by_rustup}): run `cargo xtask setup`"
            );
        }
        let by_apt = apt_install();
        if let (Ok(()), Some(toolchain)) = (&by_apt, Self::find()) {
            return Ok(toolchain);
        }
        bail!(
            "plugins need a Rust toolchain with the target {TARGET}: install it with `rustup target add {TARGET}` \
             (tried: {by_rustup}), or on Debian with `apt-get install {}` (tried: {})",
            DEBIAN_PACKAGES.join(" "),
            why(by_apt)
        )
    }

    /// Returns a `cargo build` for guests, with a profile, that lacks only the packages.
    pub(crate) fn cargo_build(&self, profile: &str) -> Command {
        self.cargo("build", profile)
    }

    /// Returns a `cargo rustc` for one guest that is also a library, with a profile, that lacks only the package. It makes the
    /// guest alone, because the compiler does no link-time optimisation if it makes a library too.
    pub(crate) fn cargo_rustc(&self, profile: &str) -> Command {
        let mut command = self.cargo("rustc", profile);
        command.args(["--lib", "--crate-type", "cdylib"]);
        command
    }

    /// Returns a `cargo build` for guests that use WASI, with a profile, that lacks only the packages. It needs the target that rustup
    /// installs; the error says why it could not.
    pub(crate) fn cargo_build_for_wasi(profile: &str) -> Result<Command> {
        if !is_installed(WASI_TARGET) {
            rustup_target_add(WASI_TARGET)?;
        }
        let mut command = process::cargo();
        command.args(["build", "--profile", profile, "--target", WASI_TARGET]);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        Ok(command)
    }

    fn cargo(&self, subcommand: &str, profile: &str) -> Command {
        let mut command = match self {
            Self::Installed => process::cargo(),
            Self::FromSource { cargo, .. } => Command::new(cargo),
        };
        command.args([subcommand, "--profile", profile, "--target", TARGET]);
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if let Self::FromSource { rustc, linker, .. } = self {
            FOREIGN_ENVIRONMENT.iter().for_each(|name| _ = command.env_remove(name));
            // Building the standard library is unstable. This variable allows it in a stable compiler.
            command.arg("-Zbuild-std=std,panic_abort").env("RUSTC_BOOTSTRAP", "1").env("RUSTC", rustc);
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command
    }

    fn from_source(rustc: PathBuf) -> Option<Self> {
        let cargo = rustc.with_file_name("cargo");
        let sysroot = PathBuf::from(process::ask(&rustc, &["--print", "sysroot"])?);
        let sources = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
        (sources.is_file() && cargo.is_file()).then_some(())?;
        Some(Self::FromSource { linker: wasm_linker(&sysroot)?, cargo, rustc })
    }
}

/// Returns the linker for WebAssembly. That of the Rust toolchain is as new as its compiler, so it comes before the
/// system's.
fn wasm_linker(sysroot: &Path) -> Option<PathBuf> {
    let active = process::ask("rustc", &["--print", "sysroot"]).map(PathBuf::from);
    let of_rust = [Some(sysroot.to_path_buf()), active].into_iter().flatten().find_map(|root| rust_lld(&root));
    of_rust.or_else(|| process::find("rust-lld")).or_else(|| process::find("wasm-ld"))
}

fn rust_lld(sysroot: &Path) -> Option<PathBuf> {
    let platforms = std::fs::read_dir(sysroot.join("lib/rustlib")).ok()?.flatten();
    platforms.map(|platform| platform.path().join("bin/rust-lld")).find(|file| file.is_file())
}

/// Returns whether the active toolchain has a target.
fn is_installed(target: &str) -> bool {
    let library = process::ask("rustc", &["--print", "target-libdir", "--target", target]);
    library.is_some_and(|library| Path::new(&library).is_dir())
}

fn rustup_target_add(target: &str) -> Result<()> {
    let rustup = process::find("rustup").context("there is no rustup")?;
    eprintln!("installing the Rust target {target} with rustup");
    process::run_within(Command::new(rustup).args(["target", "add", target]), RUSTUP_WAIT)
}

fn apt_install() -> Result<()> {
    process::find("apt-get").context("there is no apt-get")?;
    eprintln!("installing the Debian packages {} with apt-get", DEBIAN_PACKAGES.join(" "));
    process::run(apt_get()?.args(["update", "-qq"]))?;
    process::run(apt_get()?.args(["install", "-qq", "-y", "--no-install-recommends"]).args(DEBIAN_PACKAGES))
}

fn apt_get() -> Result<Command> {
    let mut command = match process::ask("id", &["-u"]).as_deref() {
        Some("0") => Command::new("apt-get"),
        _ => {
            let mut sudo = Command::new(process::find("sudo").context("it needs root or sudo")?);
            sudo.arg("apt-get");
            sudo
        }
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Simulates a machine with every program that could install something. Each only notes that it was run.
    #[test]
    fn only_setup_installs_packages_of_the_system() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["rustc", "rustup", "apt-get", "sudo", "cc", "perl", "make"] {
            let program = folder.path().join(name);
            fs::write(&program, format!("#!/bin/sh\necho {name} >> \"$RAN\"\nexit 1\n")).unwrap();
            fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let ran = |task: &str| {
            let notes = folder.path().join(task);
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "toolchain::tests::installs", "--nocapture"])
                .env("PATH", format!("{}:/bin:/usr/bin", folder.path().display()))
                .env("RAN", &notes)
                .env("INSTALL_AS", task)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            (fs::read_to_string(notes).unwrap_or_default(), said)
        };
        let (programs, said) = ran("demo");
        assert!(
            programs.contains("rustup") && !programs.contains("apt-get") && !programs.contains("sudo"),
            "{programs}"
        );
        assert!(said.contains("run `cargo xtask setup`"), "{said}");
        let (programs, said) = ran("setup");
        assert!(
            programs.contains("rustup") && (programs.contains("apt-get") || programs.contains("sudo")),
            "{programs}"
        );
        assert!(said.contains("apt-get install rustc-web"), "{said}");
    }

    /// Runs in a process of the test above, with its own environment. By itself it does nothing.
    #[test]
    fn installs() {
        let may = match std::env::var("INSTALL_AS").as_deref() {
            Ok("setup") => May::Install,
            Ok(_) => May::AskRustup,
            Err(_) => return,
        };
        println!("{:#}", Toolchain::install(may).unwrap_err());
    }
}
