//! `wasmill build`: builds the plugins of a manifest from their sources.

use super::default_manifest::ManifestOption;
use super::failure::CommandFailure;
use super::output;
use crate::crates::{self, Build, Profile};
use crate::manifest::{BUILD_FOLDER, Manifest};
use crate::paths;
use std::path::PathBuf;
use std::time::Instant;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The plugins' names in the manifest; by default all that have a `source`.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    manifest: ManifestOption,
}

pub(super) fn build(args: Args, json: bool) -> Result<(), CommandFailure> {
    let manifest = Manifest::load(args.manifest.path()?)?;
    let crates = named(of(&manifest)?, &args.names, &manifest)?;
    let mut failed = Vec::new();
    for one in &crates {
        let started = Instant::now();
        match built(one) {
            Ok(bytes) => {
                let (plugin, file, elapsed_ms) = (&one.plugin, &one.file, started.elapsed().as_millis());
                output::line(&if json {
                    serde_json::json!({ "plugin": plugin, "file": file, "bytes": bytes, "elapsed_ms": elapsed_ms as u64 })
                        .to_string()
                } else {
                    format!("{plugin}: built {} ({} KiB) in {elapsed_ms} ms", file.display(), bytes.div_ceil(1 << 10))
                })?;
            }
            Err(cause) => failed.push(format!("{} is not built: {cause}", one.plugin)),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(CommandFailure::all_failed(failed)) }
}

/// Builds a crate and puts it in place. Returns the size of the file.
fn built(one: &PluginCrate) -> Result<u64, String> {
    crates::check_toolchain(&one.build.folder).map_err(|error| error.to_string())?;
    let built = one.build.build(Profile::Fast, true).map_err(|error| error.to_string())?;
    crates::publish(&built.module, &one.file).map_err(|error| error.to_string())?;
    std::fs::metadata(&one.file).map(|found| found.len()).map_err(|error| error.to_string())
}

/// A plugin of a manifest that is built from its source.
pub(super) struct PluginCrate {
    /// The plugin's name in the manifest.
    pub(super) plugin: String,
    /// The file that the host reads.
    pub(super) file: PathBuf,
    pub(super) build: Build,
}

/// Returns the plugins of a manifest that have a source, in the order of their names.
pub(super) fn of(manifest: &Manifest) -> Result<Vec<PluginCrate>, CommandFailure> {
    let build_folder = manifest.folder().join(BUILD_FOLDER);
    let target = build_folder.join("target");
    let crates: Vec<PluginCrate> = manifest
        .plugins
        .iter()
        .filter_map(|(name, plugin)| {
            // Cargo runs in other folders too.
            let build = Build { folder: paths::absolute(plugin.source.as_ref()?), target: paths::absolute(&target) };
            Some(PluginCrate { plugin: name.clone(), file: plugin.file.clone(), build })
        })
        .collect();
    if crates.is_empty() {
        return Err(CommandFailure::usage(format!(
            "no plugin of {} has a source: add `source = \"FOLDER\"` of its crate to [plugins.NAME], or make a plugin with \
             `wasmill new`",
            manifest.path.display()
        )));
    }
    crates::make_build_folder(&build_folder).map_err(|error| CommandFailure::failed(error.to_string()))?;
    Ok(crates)
}

/// Returns the crates of these plugins, or all if none is named.
fn named(
    mut crates: Vec<PluginCrate>,
    names: &[String],
    manifest: &Manifest,
) -> Result<Vec<PluginCrate>, CommandFailure> {
    if let Some(name) = names.iter().find(|name| !crates.iter().any(|one| one.plugin == **name)) {
        let path = manifest.path.display();
        return Err(CommandFailure::usage(match manifest.plugins.contains_key(name) {
            true => format!(
                "plugin {name} has no source: add `source = \"FOLDER\"` of its crate to [plugins.{name}] in {path}"
            ),
            false => {
                let known: Vec<&str> = crates.iter().map(|one| one.plugin.as_str()).collect();
                format!("{path} has no plugin {name}; those with a source are {}", known.join(", "))
            }
        }));
    }
    crates.retain(|one| names.is_empty() || names.contains(&one.plugin));
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_without_a_source_are_told_apart_from_unknown_ones() {
        let folder = tempfile::tempdir().unwrap();
        let parsed = |text: &str| Manifest::parse(text, &folder.path().join("wasmill.toml")).unwrap();
        let manifest = parsed("[plugins.a]\nsource = 'a'\n[plugins.b]\nsource = 'b'\n[plugins.c]\nfile = 'c.wasm'");
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = named(of(&manifest)?, &names, &manifest)?;
            Ok::<Vec<String>, CommandFailure>(found.into_iter().map(|one| one.plugin).collect())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["b"]).unwrap(), ["b"]);
        assert!(names(&["c"]).unwrap_err().text().starts_with("plugin c has no source: add "));
        assert!(names(&["b", "d"]).unwrap_err().text().ends_with("has no plugin d; those with a source are a, b"));
        let said = of(&parsed("[plugins.c]\nfile = 'c.wasm'")).err().unwrap().text();
        assert!(said.contains("has a source: add"), "{said}");
    }
}
