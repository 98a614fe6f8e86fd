//! Plugins: compiled to WebAssembly and put where manifests and tests find them.
//!
//! A running host watches these files, so a plugin appears there whole or not at all, and only when it changed.

use crate::process;
use crate::toolchain::{TARGET, Toolchain, WASI_TARGET};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

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
    let (libraries, plain): (Vec<&String>, Vec<&String>) =
        plugins.iter().partition(|plugin| workspace.is_library(plugin));
    if !plain.is_empty() {
        compile(workspace, toolchain.cargo_build("guest"), &plain)?;
    }
    // One by one: cargo takes crate types for one package only.
    libraries.iter().try_for_each(|plugin| compile(workspace, toolchain.cargo_rustc("guest"), &[plugin]))?;
    let built = workspace.guests_folder().join(TARGET).join("guest");
    for plugin in &plugins {
        let module = built.join(plugin.replace('-', "_")).with_extension("wasm");
        publish(&module, &workspace.plugins_folder(), plugin)
            .with_context(|| format!("put plugin {plugin} in place"))?;
    }
    if matches!(which, Which::All | Which::One("dice")) {
        build_on_wasi(workspace)?;
    }
    Ok(())
}

/// The plugin of the tests that is also built for WASI, and the name under which that is put in place.
const ON_WASI: (&str, &str) = ("dice", "dice-on-wasi");

/// Builds a plugin of the tests for WASI, or says in CI that it can't be, and elsewhere what is left out.
fn build_on_wasi(workspace: &Workspace) -> Result<()> {
    let (plugin, name) = ON_WASI;
    let command = match Toolchain::cargo_build_for_wasi("guest") {
        Ok(command) => command,
        Err(error) => {
            let reason =
                format!("left out: the test of plugins for {WASI_TARGET}, a target that is missing ({error:#})");
            if std::env::var("CI").as_deref() == Ok("true") {
                bail!(reason);
            }
            eprintln!("{reason}");
            return Ok(());
        }
    };
    compile(workspace, command, &[&plugin.to_owned()])?;
    let component = workspace.guests_folder().join(WASI_TARGET).join("guest").join(plugin).with_extension("wasm");
    publish(&component, &workspace.plugins_folder(), name).with_context(|| format!("put plugin {name} in place"))?;
    Ok(())
}

/// Compiles packages with a command of cargo that lacks only them.
fn compile(workspace: &Workspace, mut command: Command, packages: &[&String]) -> Result<()> {
    command.arg("--target-dir").arg(workspace.guests_folder()).current_dir(&workspace.root);
    packages.iter().for_each(|package| _ = command.args(["--package", package]));
    process::run(&mut command)
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
    fn tests_of_several_plugins_are_no_plugin_and_their_plugins_are_libraries() {
        let workspace = Workspace::load().unwrap();
        let plugins = workspace.plugins();
        assert!(!plugins.iter().any(|plugin| plugin == "bank-flows" || plugin == "bank-contract"), "{plugins:?}");
        assert!(workspace.is_library("accounts") && !workspace.is_library("orders"));
    }

    #[test]
    fn an_unknown_plugin_is_answered_with_the_known_ones() {
        let error = one(vec!["sales".into(), "orders".into()], "order").unwrap_err();
        assert_eq!(error.to_string(), "there is no plugin order in this workspace, only orders, sales");
    }
}
