//! Plugins: compiled to WebAssembly and put where manifests and tests find them.
//!
//! A running host watches these files, so a plugin appears there whole or not at all, and only when it changed.

use crate::process;
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// Builds all plugins of the workspace, or one, into `target/plugins`.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain, only: Option<&str>) -> Result<()> {
    let plugins = chosen(workspace.plugins(), only)?;
    let mut command = toolchain.cargo_build();
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

fn chosen(mut plugins: Vec<String>, only: Option<&str>) -> Result<Vec<String>> {
    plugins.sort();
    match only {
        None => Ok(plugins),
        Some(name) if plugins.iter().any(|plugin| plugin == name) => Ok(vec![name.to_owned()]),
        Some(name) => bail!("there is no plugin {name} in this workspace, only {}", plugins.join(", ")),
    }
}

/// Renames a finished copy over the old file; leaves a file with the same content alone.
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
    fn an_unknown_plugin_is_answered_with_the_known_ones() {
        let error = chosen(vec!["sales".into(), "orders".into()], Some("order")).unwrap_err();
        assert_eq!(error.to_string(), "there is no plugin order in this workspace, only orders, sales");
    }
}
