//! Plugins: compiled to WebAssembly and put where manifests and tests find them.
//!
//! A running host watches these files, so a plugin appears there whole or not at all, and only when it changed.

use crate::process;
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// The plugins to build.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// All plugins of the workspace.
    All,
    /// The plugins that the example runs.
    Example,
    /// The plugin with this name.
    One(&'a str),
}

/// Builds plugins into `target/plugins`.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain, which: Which<'_>) -> Result<()> {
    let plugins = chosen(workspace, which)?;
    let mut command = toolchain.cargo_build("guest");
    command.arg("--target-dir").arg(workspace.guests_folder()).current_dir(&workspace.root);
    plugins.iter().for_each(|plugin| _ = command.args(["--package", plugin]));
    process::run(&mut command)?;
    let built = workspace.guests_folder().join(TARGET).join("guest");
    for plugin in &plugins {
        let module = built.join(plugin.replace('-', "_")).with_extension("wasm");
        publish(&module, &workspace.plugins_folder(), plugin)
            .with_context(|| format!("put plugin {plugin} in place"))?;
    }
    Ok(())
}

fn chosen(workspace: &Workspace, which: Which<'_>) -> Result<Vec<String>> {
    match which {
        Which::All => Ok(workspace.plugins()),
        Which::Example => Ok(workspace.plugins_in("plugins")),
        Which::One(name) => one(workspace.plugins(), name),
    }
}

fn one(mut plugins: Vec<String>, name: &str) -> Result<Vec<String>> {
    plugins.sort();
    match plugins.iter().any(|plugin| plugin == name) {
        true => Ok(vec![name.to_owned()]),
        false => bail!("there is no plugin {name} in this workspace, only {}", plugins.join(", ")),
    }
}

/// Renames a finished copy over the old file, unless that has the same content. Returns whether the file changed.
fn publish(module: &Path, folder: &Path, plugin: &str) -> Result<bool> {
    let content = fs::read(module).with_context(|| format!("read {}", module.display()))?;
    let file = folder.join(plugin).with_extension("wasm");
    if fs::read(&file).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    fs::create_dir_all(folder)?;
    let copy = folder.join(format!(".{plugin}.{}", std::process::id()));
    fs::write(&copy, content)?;
    fs::rename(copy, file)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_put_in_place_only_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("orders.wasm");
        let plugins = folder.path().join("plugins");
        fs::write(&module, "one").unwrap();
        assert!(publish(&module, &plugins, "orders").unwrap());
        assert!(!publish(&module, &plugins, "orders").unwrap());
        fs::write(&module, "two").unwrap();
        assert!(publish(&module, &plugins, "orders").unwrap());
        assert_eq!(fs::read_to_string(plugins.join("orders.wasm")).unwrap(), "two");
        assert_eq!(fs::read_dir(plugins).unwrap().count(), 1);
    }

    #[test]
    fn the_plugins_of_the_example_are_those_that_its_manifest_names() {
        let workspace = Workspace::load().unwrap();
        let manifest = fs::read_to_string(workspace.root.join("examples/grocery/wasmill.toml")).unwrap();
        let plugins = chosen(&workspace, Which::Example).unwrap();
        for named in manifest.lines().filter_map(|line| line.strip_prefix("[plugins.")?.strip_suffix(']')) {
            assert!(plugins.iter().any(|plugin| plugin == named), "{named} is not among {plugins:?}");
        }
        assert!(plugins.len() < chosen(&workspace, Which::All).unwrap().len());
    }

    #[test]
    fn an_unknown_plugin_is_answered_with_the_known_ones() {
        let error = one(vec!["sales".into(), "orders".into()], "order").unwrap_err();
        assert_eq!(error.to_string(), "there is no plugin order in this workspace, only orders, sales");
    }
}
