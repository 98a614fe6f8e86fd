//! Lists the sources of the guest SDK, which the program has in it and `wasmill new` unpacks.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The folders of the SDK's crates and of the contract, and the files that hold for all of them.
const PARTS: [&str; 7] = ["guest-sdk", "names", "cases", "read-model", "wit", "Cargo.toml", "Cargo.lock"];

/// What a plugin does not need: the SDK's own tests.
const LEFT_OUT: [&str; 3] = ["tests", "target", "proptest-regressions"];

fn main() -> Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo names the package's folder")?);
    let root = package.parent().context("the package is in a workspace")?;
    let mut list = String::from("[\n");
    for part in PARTS {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
        collect(root, Path::new(part), &mut list)?;
    }
    list.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo names the folder for what is generated")?);
    fs::write(out.join("sdk.rs"), list).context("write the list of the SDK's files")
}

/// Appends a file, or the files of a folder in the order of their names.
fn collect(root: &Path, part: &Path, list: &mut String) -> Result<()> {
    let path = root.join(part);
    if path.is_file() {
        writeln!(list, "({part:?}, include_str!({path:?})),")?;
        return Ok(());
    }
    let entries = fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        if !LEFT_OUT.iter().any(|left_out| name == *left_out) {
            collect(root, &part.join(name), list)?;
        }
    }
    Ok(())
}
