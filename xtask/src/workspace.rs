//! What the workspace holds, as cargo tells it: where it is, its plugins and its benchmarks.

use crate::process;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The workspace that this program belongs to.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    target: PathBuf,
    packages: Vec<Value>,
}

impl Workspace {
    /// Asks cargo; needs no network.
    pub(crate) fn load() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask stands in no workspace")?;
        let mut cargo = process::cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
        let metadata: Value = serde_json::from_slice(&process::output(&mut cargo)?).context("read cargo's metadata")?;
        let target = metadata["target_directory"].as_str().context("cargo's metadata names no target folder")?.into();
        let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
        Ok(Self { root: root.to_path_buf(), target, packages })
    }

    /// Every package that makes a `cdylib` is a plugin, wherever in the workspace it stands.
    pub(crate) fn plugins(&self) -> Vec<String> {
        self.packages_with_target("cdylib").map(|(package, _)| package).collect()
    }

    /// The benchmark targets: package and name.
    pub(crate) fn benches(&self) -> Vec<(String, String)> {
        self.packages_with_target("bench").collect()
    }

    /// Where finished plugins are: what manifests and tests name.
    pub(crate) fn plugins_folder(&self) -> PathBuf {
        self.root.join("target/plugins")
    }

    /// Guests have a target folder of their own, since another toolchain may build them.
    pub(crate) fn guests_folder(&self) -> PathBuf {
        self.root.join("target/guests")
    }

    /// A native program of the workspace.
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
