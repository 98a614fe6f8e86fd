//! `wasmill new`: makes the crate of a plugin, and its entry in `wasmill.toml` of the working folder.

use super::default_manifest::FILE_NAME;
use super::failure::CommandFailure;
use super::output;
use crate::crates::{Kind, NewCrate, Sdk, manifest_entry};
use crate::manifest::{BUILD_FOLDER, Manifest};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The role of the plugin.
    kind: Kind,
    /// The name of the plugin and of its crate: 1 to 64 characters of a-z, 0-9 and `-`.
    name: String,
    /// The folder of the crate, instead of a folder with its name.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// The folder of the guest SDK, instead of the one that comes with this program and is unpacked to .wasmill.
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

/// The manifest of a new folder.
const EMPTY: &str = "data = \"data\"\n";

pub(super) fn new(args: &Args, json: bool) -> Result<(), CommandFailure> {
    let folder = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let new = NewCrate { kind: args.kind, name: &args.name, folder: &folder };
    let named =
        args.sdk.as_deref().map(|path| Sdk::at(path).map_err(|cause| format!("--sdk {} {cause}", path.display())));
    let named = named.transpose().map_err(CommandFailure::usage)?;
    let build_folder = Path::new(BUILD_FOLDER);
    new.check(named.is_none().then_some(build_folder)).map_err(CommandFailure::failed)?;
    let manifest = with_entry(Path::new(FILE_NAME), &args.name, &folder)?;
    let failed = |error: io::Error| CommandFailure::failed(error.to_string());
    let sdk = match named {
        Some(sdk) => sdk,
        None => Sdk::unpack(build_folder).map_err(failed)?.0,
    };
    new.make(&sdk).map_err(failed)?;
    write(Path::new(FILE_NAME), &manifest).map_err(|error| {
        CommandFailure::failed(format!(
            "{} is made, but {FILE_NAME} can't be written: {error}; add to it:\n{}",
            folder.display(),
            manifest_entry(&args.name, &folder).trim_end()
        ))
    })?;
    if json {
        let made =
            serde_json::json!({ "plugin": args.name, "folder": folder, "manifest": FILE_NAME, "sdk": sdk.guest });
        return output::line(&made.to_string());
    }
    let (name, place) = (&args.name, folder.display());
    output::text(&format!(
        "made {place}: code and a test in src/lib.rs, cases in cases/{name}.toml\n\
         {FILE_NAME} has [plugins.{name}] now\n\
         `wasmill dev` builds it and runs it, and does so again whenever it changes\n"
    ))
}

/// Returns the text of a manifest with an entry for a plugin. A manifest that is not there begins empty.
fn with_entry(path: &Path, name: &str, source: &Path) -> Result<String, CommandFailure> {
    let text = match crate::paths::require_file(path).and_then(|()| fs::read_to_string(path)) {
        Ok(text) => {
            if Manifest::parse(&text, path)?.plugins.contains_key(name) {
                return Err(CommandFailure::failed(format!(
                    "{} has a [plugins.{name}] already: choose another name",
                    path.display()
                )));
            }
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => EMPTY.to_owned(),
        Err(error) => return Err(CommandFailure::failed(format!("can't read {}: {error}", path.display()))),
    };
    let gap = if text.ends_with('\n') { "\n" } else { "\n\n" };
    let text = text + gap + &manifest_entry(name, source);
    Manifest::parse(&text, path).map_err(|error| {
        CommandFailure::failed(format!("{} can't have an entry at its end: {error}", path.display()))
    })?;
    Ok(text)
}

/// Writes a file in one step.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let copy = path.with_extension(format!("toml.{}", std::process::id()));
    fs::write(&copy, text).and_then(|()| fs::rename(&copy, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_added_at_the_end_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let new = with_entry(&path, "counter", Path::new("counter")).unwrap();
        assert_eq!(new, "data = \"data\"\n\n[plugins.counter]\nsource = \"counter\"\n");
        write(&path, &new).unwrap();
        let more = with_entry(&path, "totals", Path::new("../totals")).unwrap();
        assert_eq!(more, format!("{new}\n[plugins.totals]\nsource = \"../totals\"\n"));
        let refused = |name: &str| with_entry(&path, name, Path::new("x")).unwrap_err().text();
        assert!(refused("counter").ends_with("has a [plugins.counter] already: choose another name"));
        write(&path, "plugins = { a = { file = 'a.wasm' } }").unwrap();
        assert!(refused("b").contains("can't have an entry at its end"), "{}", refused("b"));
        write(&path, "plugins = 7").unwrap();
        assert!(refused("b").contains("`plugins` must be a section"), "{}", refused("b"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
