//! The workspace as cargo describes it: its place, its plugins and its benchmarks.

use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Returns the root of the workspace that this run belongs to.
///
/// A checkout can be moved or copied together with its target folder, and cargo then does not build its programs again.
/// So the run decides: first the package that cargo runs, then the place of the program, then the working folder. The
/// path that was compiled in comes last.
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let candidates = [package, std::env::current_exe().ok(), std::env::current_dir().ok()];
    root_among(candidates).unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in a workspace").to_path_buf()
    })
}

/// Returns the workspace above the first of the paths that is in one.
fn root_among<const N: usize>(candidates: [Option<PathBuf>; N]) -> Option<PathBuf> {
    candidates.iter().flatten().find_map(|path| {
        let is_root = |folder: &&Path| folder.join("xtask/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file();
        path.ancestors().find(is_root).map(Path::to_path_buf)
    })
}

/// The workspace that this program belongs to.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    packages: Vec<Value>,
}

impl Workspace {
    /// Asks cargo, which needs no network.
    pub(crate) fn load() -> Result<Self> {
        let root = root();
        let mut cargo = process::cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&root);
        let metadata: Value = serde_json::from_slice(&process::output(&mut cargo)?).context("read cargo's metadata")?;
        let target = metadata["target_directory"].as_str().context("cargo's metadata names no target folder")?.into();
        let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
        Ok(Self { root, target, packages })
    }

    /// Returns all plugins. Every package with a `cdylib` is one, wherever it is in the workspace.
    pub(crate) fn plugins(&self) -> Vec<String> {
        self.packages_with_target("cdylib").map(|(package, _)| package).collect()
    }

    /// Whether a plugin is a library as well, which native tests depend on.
    pub(crate) fn is_library(&self, plugin: &str) -> bool {
        let is_library = |kind| self.packages_with_target(kind).any(|(package, _)| package == plugin);
        is_library("rlib") || is_library("lib")
    }

    /// Returns the plugins in a folder of the workspace.
    pub(crate) fn plugins_in(&self, folder: &str) -> Vec<String> {
        let folder = self.root.join(folder);
        let is_there = |name: &String| {
            let package = self.packages.iter().find(|package| package["name"] == name.as_str());
            let manifest = package.and_then(|package| package["manifest_path"].as_str());
            manifest.is_some_and(|manifest| Path::new(manifest).starts_with(&folder))
        };
        self.plugins().into_iter().filter(is_there).collect()
    }

    /// Returns package and name of each benchmark target.
    pub(crate) fn benches(&self) -> Vec<(String, String)> {
        self.packages_with_target("bench").collect()
    }

    /// Returns the folder of finished plugins, which manifests and tests name.
    pub(crate) fn plugins_folder(&self) -> PathBuf {
        self.root.join("target/plugins")
    }

    /// Returns the target folder of guests. They have their own, because another toolchain may build them.
    pub(crate) fn guests_folder(&self) -> PathBuf {
        self.root.join("target/guests")
    }

    /// Returns the folder of tools that a task builds for itself.
    pub(crate) fn tools_folder(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// Returns the path of a native program of the workspace.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    fn packages_with_target(&self, kind: &str) -> impl Iterator<Item = (String, String)> {
        self.packages.iter().flat_map(move |package| {
            let targets = package["targets"].as_array().into_iter().flatten();
            let found = targets.filter(move |target| kinds(target).any(|found| found == kind));
            found.filter_map(|target| Some((package["name"].as_str()?.into(), target["name"].as_str()?.into())))
        })
    }
}

fn kinds(target: &Value) -> impl Iterator<Item = &str> {
    target["kind"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_run_decides_which_checkout_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        for checkout in [&first, &second] {
            for package in ["xtask", "examples/grocery", "target/release"] {
                fs::create_dir_all(checkout.join(package)).unwrap();
            }
            fs::write(checkout.join("xtask/Cargo.toml"), "").unwrap();
            fs::write(checkout.join("Cargo.lock"), "").unwrap();
        }
        let package = Some(second.join("examples/grocery"));
        let program = Some(first.join("target/release/xtask"));
        assert_eq!(root_among([package, program.clone()]), Some(second));
        assert_eq!(root_among([None, program.clone()]), Some(first.clone()));
        assert_eq!(
            root_among([Some(folder.path().join("elsewhere")), program]),
            Some(first),
            "another project's package"
        );
        assert_eq!(root_among([None, Some(folder.path().to_path_buf())]), None);
    }

    #[test]
    fn this_run_is_in_this_checkout() {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        assert_eq!(Path::new(&package).parent(), Some(root().as_path()));
    }
}
